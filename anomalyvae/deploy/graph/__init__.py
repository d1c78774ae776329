"""A fitted detector written out as an ONNX graph, from the network's own tensors.

A tracer would have to be led around the network's choices (rows with and without missing cells), would need an
operator of each layer in double, which runtimes do not have, and would record whatever it saw. Here each operator is
one that onnxruntime has in double. Rows, their scaling and the scores are double in any case; what lies between may be
single, which is twice as fast.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from anomalyvae.nets.bodies import MLP
from anomalyvae.nets.likelihoods import LOG_2PI, SURPRISE_FLOOR, Categorical, Gaussian, Mixture
from anomalyvae.nets.memory import NEIGHBOURS
from anomalyvae.nets.objectives import REACH, Elbo, Reconstruction
from anomalyvae.nets.scaling import LIMIT, Affine, Asinh, Mixed, Quantile

try:
    import onnx
    from onnx import TensorProto, helper, numpy_helper
except ModuleNotFoundError as error:
    raise ImportError(f"Got no {error.name}, expected onnx. Run: pip install onnx.") from error

if TYPE_CHECKING:
    from anomalyvae.detector import VAEOutlierDetector

OPSET = {"": 20, "ai.onnx.ml": 3}
_IR_VERSION = 9  # of that opset
_ROUNDING = (1e-9, 2e-6)  # relative, double and single: two scores that close are one score, added up in two ways
_BRANCHES = 4096  # of the tree that looks up p-values; beyond, halving takes over
_CANDIDATES = 2 * (NEIGHBOURS + 1)  # remembered rows whose distance single precision measures once more, exactly
Floats = NDArray[np.float64]


class Graph:
    """The nodes and constants of a graph in the making.

    Parameters
    ----------
    single : bool, default=False
        Whether the network computes in single precision.
    """

    def __init__(self, single: bool = False) -> None:
        self.single = single
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[tuple[Any, ...], onnx.TensorProto] = {}
        self._made: dict[str, list[Value]] = {}

    def add(
        self, operator: str, inputs: list[Any], count: int = 1, domain: str = "", **attributes: Any
    ) -> list["Value"]:
        """Add a node, unless the same is there already; inputs that are no values are constants."""
        single = any(isinstance(value, Value) and value.single for value in inputs)
        given = [self.value(value, single).name for value in inputs]
        key = repr((operator, given, sorted(attributes.items())))
        if key not in self._made:
            names = [f"~{len(self.nodes)}.{i}" for i in range(count)]
            self.nodes.append(helper.make_node(operator, given, names, domain=domain, **attributes))
            self._made[key] = [Value(self, name, single) for name in names]
        return self._made[key]

    def value(self, constant: Any, single: bool = False) -> "Value":
        """A constant as a value (a value stays what it is). Integers are int64; equal ones are one."""
        if isinstance(constant, Value):
            return constant
        if isinstance(constant, torch.Tensor):
            constant = constant.detach().cpu().numpy()
        array = np.ascontiguousarray(constant) if np.ndim(constant) else np.asarray(constant)
        if single and array.dtype == np.float64:
            array = array.astype(np.float32)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(array, f"~c{len(self.constants)}")
        return Value(self, self.constants[key].name, single)


class Value:
    """What an operator gives, with the arithmetic of tensors; where it is single, so are the floats that it meets."""

    def __init__(self, graph: Graph, name: str, single: bool = False) -> None:
        self.graph = graph
        self.name = name
        self.single = single

    def op(self, operator: str, *others: Any, **attributes: Any) -> "Value":
        """The operator applied to this value, then the others."""
        return self.graph.add(operator, [self, *others], **attributes)[0]

    def split(self, sizes: list[int]) -> list["Value"]:
        """Blocks of columns."""
        return self.graph.add("Split", [self, sizes], count=len(sizes), axis=1)

    def sum(self) -> "Value":
        """Over the columns, shape ``(n, 1)``."""
        return self.op("ReduceSum", [1], keepdims=1)

    def __add__(self, other: Any) -> "Value":
        return self.op("Add", other)

    def __sub__(self, other: Any) -> "Value":
        return self.op("Sub", other)

    def __mul__(self, other: Any) -> "Value":
        return self.op("Mul", other)

    def __truediv__(self, other: Any) -> "Value":
        return self.op("Div", other)

    def __matmul__(self, other: Any) -> "Value":
        return self.op("MatMul", other)


def concat(values: list[Value]) -> Value:
    """Blocks of columns, side by side."""
    return values[0].op("Concat", *values[1:], axis=1)


def cast(value: Value, to: int = TensorProto.DOUBLE) -> Value:
    """As another type of number."""
    return Value(value.graph, value.op("Cast", to=to).name, to == TensorProto.FLOAT)


def _working(value: Value) -> Value:
    """As a float of the precision that the network computes in."""
    return cast(value, TensorProto.FLOAT if value.graph.single else TensorProto.DOUBLE)


def _double(value: Value) -> Value:
    return cast(value) if value.single else value


def model_proto(
    model: "VAEOutlierDetector",
    enter: Callable[[Graph], tuple[list["onnx.ValueInfoProto"], Value]],
    feature_scores: bool,
    single: bool = False,
) -> "onnx.ModelProto":
    """The whole model, checked by ONNX's own checker; ``enter`` adds its inputs and gives the rows that they make."""
    graph = Graph(single)
    inputs, x = enter(graph)
    outputs = detector_outputs(x, model, feature_scores)
    for name, value in outputs.items():
        graph.nodes.append(helper.make_node("Identity", [value.name], [name]))
    infos = [
        helper.make_tensor_value_info(
            name,
            TensorProto.INT64 if name == "label" else TensorProto.DOUBLE,
            ["n", model.n_features_in_] if name == "feature_scores" else ["n"],
        )
        for name in outputs
    ]
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "anomalyvae", inputs, infos, list(graph.constants.values())),
        opset_imports=[helper.make_opsetid(domain, number) for domain, number in OPSET.items()],
        ir_version=_IR_VERSION,
        producer_name="anomalyvae",
        producer_version=version("anomalyvae"),
    )
    onnx.checker.check_model(proto, full_check=True)
    return proto


# The detector, in the order in which a row passes through it. A missing cell is 0 in x and s, and true in ``missing``:
# what is no number never enters the arithmetic. Every function mirrors the one of its name in anomalyvae.nets.

OUTPUTS = ("label", "scores", "anomaly_score", "p_value", "feature_scores")


def detector_outputs(x: Value, model: "VAEOutlierDetector", feature_scores: bool = False) -> dict[str, Value]:
    """Add a detector to a graph.

    Parameters
    ----------
    x : Value of shape (n, d), double
        Rows; of a category the number of its level, -1 where it is another; NaN where a cell is missing.
    model : VAEOutlierDetector
    feature_scores : bool

    Returns
    -------
    dict of Value
        The outputs by name.
    """
    network = model.network_
    s = _standardise(network.scaling, x)
    rounding = _ROUNDING[x.graph.single]
    slack = _slack(model, rounding)
    anomaly_score = _double(_SCORES[network.score](network, s).op("Squeeze", [1]))
    scores = anomaly_score.op("Neg") - model.offset_
    on_the_line = scores.op("Abs").op("LessOrEqual", max(rounding * abs(model.offset_), slack))
    scores = on_the_line.op("Where", 0.0, scores)  # as are, for the detector, rows that resemble those that drew it
    outputs = {
        "label": scores.op("Less", 0.0).op("Where", -1, 1),
        "scores": scores,
        "anomaly_score": anomaly_score,
        "p_value": _p_value(anomaly_score, model.calibration_, rounding, slack),
    }
    if feature_scores:
        outputs["feature_scores"] = _double(_feature_nll(network.likelihood, s, _decode(network, _encode(network, s))))
    return outputs


@dataclass(frozen=True)
class Cells:
    """Standardised cells ``(n, d)``, and which are missing; None where a row is known to be whole."""

    s: Value
    missing: Value | None

    def split(self, sizes: list[int]) -> list["Cells"]:
        """Blocks of columns."""
        missing = [None] * len(sizes) if self.missing is None else self.missing.split(sizes)
        return [Cells(*pair) for pair in zip(self.s.split(sizes), missing, strict=True)]

    def filled(self, filling: Any) -> Value:
        """The cells, with something else in place of those that are missing."""
        return self.s if self.missing is None else self.missing.op("Where", filling, self.s)


def _standardise(scaling: Any, x: Value) -> Cells:
    if not isinstance(scaling, Mixed):
        missing = x.op("IsNaN")
        return Cells(_scale(scaling, missing.op("Where", 0.0, x)), missing)
    cells = x.op("Gather", scaling.source, axis=1)
    missing = cells.op("IsNaN")
    sizes = [len(scaling.numbers), sum(scaling.sizes)]
    numbers, codes = missing.op("Where", 0.0, cells).split(sizes)
    known = missing.split(sizes)[1].op("Not")
    one_hot = _working(codes.op("Equal", scaling.code).op("And", known))
    return Cells(concat([_scale(scaling.numeric, numbers), one_hot]), missing)


def _scale(scaling: Any, x: Value) -> Value:
    if isinstance(scaling, Quantile):
        knots, values = scaling.x, scaling.y
        slopes = torch.cat([scaling.slope[None], values.diff(dim=0) / knots.diff(dim=0), scaling.slope[None]])
        y = (x - knots[0]) * scaling.slope + values[0]
        for knot, bend in zip(knots, slopes.diff(dim=0), strict=True):
            y = y + (x - knot).op("Relu") * bend
        return _working(y.op("Clip", -LIMIT, LIMIT))
    if not isinstance(scaling, Affine | Asinh):
        raise _no_form(scaling)
    u = _working(((x - scaling.center) / scaling.scale).op("Clip", -LIMIT, LIMIT))
    if isinstance(scaling, Affine):
        return u
    inside = u.op("Max", scaling.low).op("Min", scaling.high)
    return _asinh(inside / scaling.gain) + (u - inside)


def _asinh(x: Value) -> Value:
    return x.op("Sign") * (x.op("Abs") + (x * x + 1.0).op("Sqrt")).op("Log")


def _layers(layers: nn.Module, x: Value) -> Value:
    sixfold = False  # a hard swish in double leaves its division by 6 to the weights that follow
    for layer in layers.children():
        if isinstance(layer, nn.Linear):
            x, sixfold = _linear(x, layer.weight / 6 if sixfold else layer.weight, layer.bias), False
        elif isinstance(layer, nn.Hardswish) and x.single:
            x = x * x.op("HardSigmoid", alpha=1 / 6, beta=0.5)
        elif isinstance(layer, nn.Hardswish):
            x, sixfold = x * (x + 3.0).op("Clip", 0.0, 6.0), True
        elif not isinstance(layer, nn.Flatten | nn.Unflatten):  # rows stay flat here
            raise _no_form(layer)
    return x / 6.0 if sixfold else x


def _linear(x: Value, weight: torch.Tensor, bias: torch.Tensor) -> Value:
    return x.op("Gemm", weight, bias, transB=1)


def _no_form(part: Any) -> TypeError:
    return TypeError(
        f"Got a network with {type(part).__name__}, which has no form in ONNX here, expected the layers of "
        f"body='mlp' and the scalings of the package. Score with the detector itself, or fit one with these."
    )


def _codes(network: Reconstruction, cells: Cells, part: int = 0) -> Value:
    """Posterior means, or the codes of an autoencoder (part 0), or log variances (part 1), ``(n, latent_dim)``."""
    if not isinstance(network.body, MLP):
        raise _no_form(network.body)
    whole = Cells(cells.s.op("Clip", -REACH, REACH), cells.missing)
    features = _layers(network.body.encoder, whole.filled(network.missing))
    rows = slice(part * network.latent_dim, (part + 1) * network.latent_dim)
    return _linear(features, network.to_code.weight[rows], network.to_code.bias[rows])


def _encode(network: Reconstruction, cells: Cells) -> Value:
    return _codes(network, cells)


def _posterior(network: Reconstruction, cells: Cells) -> tuple[Value, Value]:
    return _codes(network, cells), _codes(network, cells, 1).op("Clip", -12.0, 12.0)


def _decode(network: Reconstruction, z: Value) -> Value:
    return _layers(network.body.decoder, z)


# What the decoder's output says about a row


def _row_nll(likelihood: Any, cells: Cells, decoded: Value) -> Value:
    """``-log p(s | z)`` over the observed cells, shape ``(n, 1)``."""
    if isinstance(likelihood, Gaussian):
        variance = likelihood.variance()
        constant = 0.5 * (variance.log() + LOG_2PI)
        error = _error(cells, decoded)
        squares = (error * error) @ (0.5 / variance)[:, None]
        if cells.missing is None:
            return squares + constant.sum()[None, None]
        return squares + _working(cells.missing.op("Not")) @ constant[:, None]
    return _feature_nll(likelihood, cells, decoded).sum()


def _feature_nll(likelihood: Any, cells: Cells, decoded: Value) -> Value:
    """``-log p(s_j | z)`` of each feature, shape ``(n, d)``, in the user's order."""
    if isinstance(likelihood, Gaussian):
        variance = likelihood.variance()
        error = _error(cells, decoded)
        nll = error * error * (0.5 / variance) + 0.5 * (variance.log() + LOG_2PI)
        return nll if cells.missing is None else cells.missing.op("Where", 0.0, nll)
    if isinstance(likelihood, Categorical):
        log_p = _probabilities(likelihood, decoded).op("Log")
        return (cells.s * log_p).op("Neg") @ _members(likelihood)  # a missing category is 0 in all of its cells
    return _both(_feature_nll, likelihood, cells, decoded)


def _residual(likelihood: Any, cells: Cells, decoded: Value) -> Value:
    """How far each feature lies from what is expected, in standard deviations, shape ``(n, d)``."""
    if isinstance(likelihood, Gaussian):
        return _error(cells, decoded) / likelihood.variance().sqrt()
    if isinstance(likelihood, Categorical):
        freedom = torch.tensor([max(1, size - 2) for size in likelihood.sizes], dtype=torch.float64)
        whole = Cells(cells.filled(_expected(likelihood, decoded)), None)
        surprise = _feature_nll(likelihood, whole, decoded).op("Max", 0.0)
        return ((surprise.op("Exp") - 1.0) / freedom).op("Sqrt")
    return _both(_residual, likelihood, cells, decoded)


def _expected(likelihood: Any, decoded: Value) -> Value:
    """Mean of each number, likeliest level of each category, shape ``(n, cells)``."""
    if isinstance(likelihood, Gaussian):
        return decoded
    if isinstance(likelihood, Categorical):
        blocks = [
            _working(block.op("ArgMax", axis=1, keepdims=1).op("Equal", np.arange(size)))
            for block, size in zip(decoded.split(likelihood.sizes), likelihood.sizes, strict=True)
        ]
        return concat(blocks)
    numbers, categories = decoded.split(likelihood.split)
    return concat([_expected(likelihood.gaussian, numbers), _expected(likelihood.categorical, categories)])


def _both(function: Any, likelihood: Any, cells: Cells, decoded: Value) -> Value:
    """A function of numbers and categories side by side, in the user's order."""
    if not isinstance(likelihood, Mixture):
        raise _no_form(likelihood)
    parts = zip(
        (likelihood.gaussian, likelihood.categorical),
        cells.split(likelihood.split),
        decoded.split(likelihood.split),
        strict=True,
    )
    return concat([function(*part) for part in parts]).op("Gather", likelihood.order, axis=1)


def _error(cells: Cells, decoded: Value) -> Value:
    error = cells.s - decoded
    return error if cells.missing is None else cells.missing.op("Where", 0.0, error)


def _probabilities(likelihood: Categorical, decoded: Value) -> Value:
    floor = SURPRISE_FLOOR
    sizes = torch.tensor([size for size in likelihood.sizes for _ in range(size)], dtype=torch.float64)
    blocks = [block.op("Softmax", axis=1) for block in decoded.split(likelihood.sizes)]
    return concat(blocks) * (1 - floor) + floor / sizes


def _members(likelihood: Categorical) -> torch.Tensor:
    """Which cells belong to which category, ``(cells, categories)``."""
    return torch.block_diag(*[torch.ones(size, 1, dtype=torch.float64) for size in likelihood.sizes])


# The scores, each of shape (n, 1)


def _reconstruction(network: Reconstruction, cells: Cells) -> Value:
    return _row_nll(network.likelihood, cells, _decode(network, _encode(network, cells)))


def _kl(network: Elbo, cells: Cells) -> Value:
    mean, log_var = _posterior(network, cells)
    return ((log_var.op("Exp") + mean * mean - log_var).sum() - float(network.latent_dim)) * 0.5


def _elbo(network: Elbo, cells: Cells) -> Value:
    return _reconstruction(network, cells) + _kl(network, cells)


def _log_likelihood(network: Elbo, cells: Cells) -> Value:
    mean, log_var = _posterior(network, cells)
    std = (log_var * 0.5).op("Exp")
    log_weights = []
    for noise in network.noise:
        z = mean + std * noise
        log_ratio = ((log_var - z * z + noise.square()) * 0.5).sum()
        log_weights.append(log_ratio - _row_nll(network.likelihood, cells, _decode(network, z)))
    stacked = concat(log_weights)
    highest = stacked.op("ReduceMax", [1], keepdims=1)
    total = (stacked - highest).op("Exp").sum().op("Log") + highest
    return total.op("Neg") + math.log(len(log_weights))


def _memory(network: Reconstruction, cells: Cells) -> Value:
    whole = Cells(cells.filled(_expected(network.likelihood, _decode(network, _encode(network, cells)))), None)
    z = _encode(network, whole)
    u = concat([whole.s, z, _asinh(_residual(network.likelihood, cells, _decode(network, z)))])
    assert network.memorised is not None  # noqa: S101 - fit has seen to it
    keys = network.memorised.keys
    weight, count = keys[-2], keys.shape[1]
    nearest = min(NEIGHBOURS + 1, count)
    squared = concat([u, (u * u).sum()]).op("Gemm", keys[:-1], keys[-1])
    if u.single:  # a difference of large squares: good enough to find the nearest, not to measure them
        _, near = _smallest(squared, min(_CANDIDATES, count))
        apart = u.op("Unsqueeze", [1]) - u.graph.value(network.memorised.rows, True).op("Gather", near)
        square = (apart * apart).op("ReduceSum", [2], keepdims=0)
        squared = square * u.graph.value(weight, True).op("Gather", near)
    distances = _smallest(squared, nearest)[0].op("Max", 0.0).op("Sqrt")
    passed = min(1, nearest - 1)
    return distances.split([passed, nearest - passed])[-1].op("ReduceMean", [1], keepdims=1)


def _smallest(values: Value, number: int) -> tuple[Value, Value]:
    """The smallest values of each row, in order, and their columns, each ``(n, number)``."""
    smallest, columns = values.graph.add("TopK", [values, [number]], count=2, axis=1, largest=0, sorted=1)
    return smallest, columns


_SCORES: dict[str, Callable[[Any, Cells], Value]] = {
    "reconstruction": _reconstruction,
    "kl": _kl,
    "elbo": _elbo,
    "log_likelihood": _log_likelihood,
    "memory": _memory,
}


def typical(model: "VAEOutlierDetector") -> float:
    """The size that scores of this model have."""
    return float(np.median(np.abs(model.calibration_.scores)))


def _slack(model: "VAEOutlierDetector", rounding: float) -> float:
    """How far two roundings of one score may lie apart."""
    size = typical(model)
    if model.network_.score == "memory" and model.network_.memorised is not None:
        summand = model.network_.memorised.keys[-1].median()  # a distance is the root of a difference of such
        noise = float((8 * torch.finfo(torch.float64).eps * summand).sqrt())
        if noise >= size:  # of rows that are all the same
            return noise
    return rounding * size


def _p_value(anomaly_score: Value, calibration: Any, rounding: float, slack: float) -> Value:
    """`Calibration.p_values`: a tree finds the number of calibration scores below each score, and a table the rest.

    A score equal to one of them but for rounding is tied with it, as it is for the detector.
    """
    graph, m = anomaly_score.graph, len(calibration.scores)
    scores = calibration.scores + np.maximum(rounding * np.abs(calibration.scores), slack)
    halvings = max(0, (m // _BRANCHES).bit_length())
    stride = 2**halvings
    table = np.full((m // stride + 1) * stride, np.inf)  # table[i] is the i-th score, from 1
    table[1 : m + 1] = scores
    below = cast(_branch(anomaly_score, table[stride::stride]), TensorProto.INT64) * stride
    for step in (2**i for i in reversed(range(halvings))):
        passes = graph.value(table).op("Gather", below + step).op("Less", anomaly_score)
        below = cast(passes, TensorProto.INT64) * step + below
    reached = np.append(np.cumsum(calibration.weight[::-1])[::-1], 0.0)
    p = (1 + reached) / (1 + reached[0])
    return graph.value(np.maximum(p, np.finfo(np.float64).tiny)).op("Gather", below)


def _branch(value: Value, limits: Floats) -> Value:
    """How many of some sorted limits lie below each value ``(n,)``, as float: a balanced tree, in one operator."""
    nodes: list[tuple[int, int, int]] = []  # the limit that is asked for (-1 at a leaf), next if value <= limit, if not
    counts: list[int] = []

    def grow(first: int, last: int) -> int:
        place = len(nodes)
        nodes.append((-1, 0, 0))
        counts.append(first)
        if first < last:
            middle = (first + last) // 2
            nodes[place] = (middle, grow(first, middle), grow(middle + 1, last))
        return place

    grow(0, len(limits))
    leaves = [i for i, (limit, _, _) in enumerate(nodes) if limit < 0]
    asked = np.append(limits, 0.0)[[limit for limit, _, _ in nodes]]
    return value.op("Unsqueeze", [1]).op(
        "TreeEnsembleRegressor", domain="ai.onnx.ml", n_targets=1, aggregate_function="SUM", post_transform="NONE",
        nodes_treeids=[0] * len(nodes), nodes_nodeids=list(range(len(nodes))), nodes_featureids=[0] * len(nodes),
        nodes_modes=["LEAF" if limit < 0 else "BRANCH_LEQ" for limit, _, _ in nodes],
        nodes_values_as_tensor=numpy_helper.from_array(asked, "limits"),
        nodes_truenodeids=[yes for _, yes, _ in nodes], nodes_falsenodeids=[no for _, _, no in nodes],
        target_treeids=[0] * len(leaves), target_nodeids=leaves, target_ids=[0] * len(leaves),
        target_weights_as_tensor=numpy_helper.from_array(np.array([float(counts[i]) for i in leaves]), "counts"),
    ).op("Squeeze", [1])  # fmt: skip
