"""A fitted detector as an ONNX graph, built from the network's own tensors.

PyTorch's tracer does not work here: it records one branch of the network's choices (such as rows with and without
missing cells), and needs layers in double that runtimes lack. This module uses only operators that onnxruntime has in
double. Rows, their scaling and the scores are always double; the network in between may be single, twice as fast.
"""

from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from anomalyvae.export.likelihoods import feature_nll
from anomalyvae.export.network import SCORES, decode, encode
from anomalyvae.export.nodes import Graph, Value, cast, double
from anomalyvae.export.scaling import standardise

if TYPE_CHECKING:
    from anomalyvae.detector import VAEOutlierDetector

OPSET = {"": 20, "ai.onnx.ml": 3}
OUTPUTS = ("anomaly_score", "p_value", "is_outlier", "feature_scores")
_IR_VERSION = 9  # of that opset
FINE, COARSE = 1e-9, 3e-5  # relative: scores this close may differ by rounding alone, in double and in single
_BRANCHES = 4096  # of the tree that looks up p-values; a larger table is searched by bisection around it
Floats = NDArray[np.float64]


def model_proto(
    model: "VAEOutlierDetector",
    add_inputs: Callable[[Graph], tuple[list["onnx.ValueInfoProto"], Value]],
    feature_scores: bool,
    single: bool,
    rounding: float,
) -> "onnx.ModelProto":
    """The whole model, checked by ONNX's own checker; ``add_inputs`` adds the inputs and returns the rows.

    ``rounding`` is relative: scores so close to a calibration score or to the threshold are equal to it.
    """
    graph = Graph(single)
    inputs, x = add_inputs(graph)
    outputs = detector_outputs(x, model, feature_scores, rounding)
    for name, value in outputs.items():
        graph.nodes.append(helper.make_node("Identity", [value.name], [name], name=name))
    infos = [
        helper.make_tensor_value_info(
            name,
            TensorProto.BOOL if name == "is_outlier" else TensorProto.DOUBLE,
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
    return onnx.shape_inference.infer_shapes(proto)  # tools that convert a graph look types up


def detector_outputs(x: Value, model: "VAEOutlierDetector", feature_scores: bool, rounding: float) -> dict[str, Value]:
    """Add a detector to a graph; returns the outputs by name.

    ``x`` are rows ``(n, d)`` in double. A category is the number of its level, -1 for an unknown one; a missing cell is
    NaN.
    """
    network = model.network_
    precise = network.described is not None or network.unbends
    s = standardise(network.scaling, x, precise=precise, unbent=network.unbends)
    anomaly_score = double(SCORES[network.criterion](network, s).op("Squeeze", [1]))
    decision = anomaly_score.op("Neg") - model.offset_
    at_threshold = rounding * max(abs(model.offset_), typical(model))  # closer is equal, which is normal
    limits = ties_up_to(model, model.calibration_.scores, rounding)
    outputs = {
        "anomaly_score": anomaly_score,
        "p_value": _p_value(anomaly_score, model.calibration_, limits),
        "is_outlier": decision.op("Less", -at_threshold),
    }
    if feature_scores:
        outputs["feature_scores"] = double(feature_nll(network.likelihood, s, decode(network, encode(network, s))))
    return outputs


def typical(model: "VAEOutlierDetector") -> float:
    """The typical size of the model's scores."""
    return float(np.median(np.abs(model.calibration_.scores)))


def ties_up_to(model: "VAEOutlierDetector", scores: Floats, rounding: float) -> Floats:
    """For calibration scores, which are rounded up, the largest score of the graph that ties with each."""
    return scores + rounding * np.maximum(np.abs(scores), typical(model))


def _p_value(anomaly_score: Value, calibration: Any, limits: Floats) -> Value:
    """`Calibration.p_values`: a tree counts the calibration scores below each score, and a table has the p-values.

    A score up to ``limits[i]`` ties with the i-th calibration score.
    """
    graph, m = anomaly_score.graph, len(limits)
    halvings = max(0, (m // _BRANCHES).bit_length())
    stride = 2**halvings
    table = np.full((m // stride + 1) * stride, np.inf)  # table[i] is the i-th score, from 1
    table[1 : m + 1] = limits
    below = cast(_branch(anomaly_score, table[stride::stride]), TensorProto.INT64) * stride
    for step in (2**i for i in reversed(range(halvings))):
        passes = graph.value(table).op("Gather", below + step).op("Less", anomaly_score)
        below = cast(passes, TensorProto.INT64) * step + below
    reached = np.append(np.cumsum(calibration.weight[::-1])[::-1], 0.0)
    p = (1 + reached) / (1 + reached[0])
    return graph.value(np.maximum(p, np.finfo(np.float64).tiny)).op("Gather", below)


def _branch(value: Value, limits: Floats) -> Value:
    """How many of the sorted limits lie below each value ``(n,)``, as float: a balanced tree, in one operator."""
    nodes: list[tuple[int, int, int]] = []  # limit (-1 at a leaf), next node if value <= limit, next node otherwise
    counts: list[int] = []

    def grow(first: int, last: int) -> int:
        node = len(nodes)
        nodes.append((-1, 0, 0))
        counts.append(first)
        if first < last:
            middle = (first + last) // 2
            nodes[node] = (middle, grow(first, middle), grow(middle + 1, last))
        return node

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
