"""scikit-learn's transformers of numbers as operators of an ONNX graph in double precision.

Each function takes a fitted transformer and rows ``(n, d)``, and gives the rows that it makes. NaN stays NaN.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from anomalyvae.export.nodes import Value, cast, concat

Floats = NDArray[np.float64]


def as_double(array: Any) -> Floats:
    """A fitted attribute in double, also where the transformer was fitted to single."""
    return np.asarray(array, dtype=np.float64)


def _clip(x: Value, low: float, high: float) -> Value:
    return x.op("Max", float(low)).op("Min", float(high))  # NaN stays, as in numpy.clip


def standard(t: Any, x: Value) -> Value:
    """`StandardScaler`."""
    x = x - as_double(t.mean_) if t.with_mean else x
    return x / as_double(t.scale_) if t.with_std else x


def min_max(t: Any, x: Value) -> Value:
    """`MinMaxScaler`."""
    x = x * as_double(t.scale_) + as_double(t.min_)
    return _clip(x, *t.feature_range) if t.clip else x


def max_abs(t: Any, x: Value) -> Value:
    """`MaxAbsScaler`."""
    x = x / as_double(t.scale_)
    return _clip(x, -1.0, 1.0) if t.clip else x


def robust(t: Any, x: Value) -> Value:
    """`RobustScaler`."""
    x = x - as_double(t.center_) if t.with_centering else x
    return x / as_double(t.scale_) if t.with_scaling else x


def power(t: Any, x: Value) -> Value:
    """`PowerTransformer`: I. Yeo, R. A. Johnson (2000), A new family of power transformations, Biometrika 87."""
    powers = as_double(t.lambdas_)
    up = _power_of(x.op("Max", 0.0), powers)
    down = _power_of(x.op("Neg").op("Max", 0.0), 2.0 - powers).op("Neg")
    y = x.op("GreaterOrEqual", 0.0).op("Where", up, down)
    return standard(t._scaler, y) if t.standardize else y


def _power_of(x: Value, powers: Floats) -> Value:
    """``((x + 1) ** power - 1) / power``, and its limit at power 0, for x >= 0."""
    log, flat = log1p(x), np.abs(powers) < np.finfo(np.float64).eps
    safe = np.where(flat, 1.0, powers)
    return x.graph.value(flat).op("Where", log, expm1(log * safe) / safe)


def log1p(x: Value) -> Value:
    """log(1 + x), exact also for small x: Kahan's ``log(u) x / (u - 1)`` with ``u = 1 + x``, rounded."""
    u = x + 1.0
    rounded = (u - 1.0).op("Equal", 0.0)
    return rounded.op("Where", x, u.op("Log") * (x / rounded.op("Where", 1.0, u - 1.0)))


def expm1(x: Value) -> Value:
    """exp(x) - 1 likewise: Kahan's ``(u - 1) x / log(u)`` with ``u = exp(x)``, for ``|x| < 1``."""
    small = x.op("Abs").op("Less", 1.0)
    inside = small.op("Where", x, 0.0)
    u = inside.op("Exp")
    rounded = (u - 1.0).op("Equal", 0.0)
    near = rounded.op("Where", inside, (u - 1.0) * (inside / rounded.op("Where", 1.0, u.op("Log"))))
    return small.op("Where", near, x.op("Exp") - 1.0)


def bins(t: Any, x: Value) -> Value:
    """`KBinsDiscretizer`."""
    knots = [as_double(edges)[1:-1] for edges in t.bin_edges_]
    table = np.full((len(knots), max(1, *map(len, knots))), np.inf)
    for row, knot in zip(table, knots, strict=True):
        # A training row may lie on an edge; a cell computed here may differ from it by rounding.
        gap = np.diff(np.unique(knot)).min(initial=np.inf)
        rounding = 0.0 if x.exact else min(1e-3 * gap, 1e-12 * np.abs(knot).max(initial=0.0))
        row[: len(knot)] = knot - rounding
    if not x.exact:
        x.graph.undecided.add("KBinsDiscretizer")
    passed = x.op("Unsqueeze", [2]).op("GreaterOrEqual", table)  # (n, d, edges)
    bin_ = cast(passed, TensorProto.INT64).op("ReduceSum", [2], keepdims=0)
    if t.encode == "ordinal":
        return cast(bin_)
    source = np.repeat(np.arange(len(t.n_bins_)), t.n_bins_)
    numbers = np.concatenate([np.arange(count) for count in t.n_bins_])
    return cast(bin_.op("Gather", source, axis=1).op("Equal", numbers))


def polynomial(t: Any, x: Value) -> Value:
    """`PolynomialFeatures`."""
    factors = [np.repeat(np.arange(len(row)), row) for row in t.powers_]
    degree, one = max(1, *map(len, factors)), t.powers_.shape[1]  # ``one``: the index of a column of ones
    indices = np.array([[*factor, *[one] * (degree - len(factor))] for factor in factors])
    cells = concat([x, x.op("Gather", [0], axis=1).op("IsNaN").op("Where", 1.0, 1.0)])
    product = cells.op("Gather", indices[:, 0], axis=1)
    for index in indices.T[1:]:
        product = product * cells.op("Gather", index, axis=1)
    return Value(product.graph, product.name, exact=product.exact and degree < 3)  # more factors have an order


def pca(t: Any, x: Value) -> Value:
    """`PCA` and `IncrementalPCA`."""
    axes = as_double(t.components_).T
    y = x @ axes - as_double(t.mean_) @ axes
    scale = np.sqrt(as_double(t.explained_variance_))
    return y / np.maximum(scale, np.finfo(np.asarray(t.explained_variance_).dtype).eps) if t.whiten else y


FUNCTIONS: dict[Any, Callable[[Value], Value]] = {
    np.absolute: lambda x: x.op("Abs"),
    np.cos: lambda x: x.op("Cos"),
    np.exp: lambda x: x.op("Exp"),
    np.expm1: expm1,
    np.log: lambda x: x.op("Log"),
    np.log10: lambda x: x.op("Log") / np.log(10.0),
    np.log1p: log1p,
    np.log2: lambda x: x.op("Log") / np.log(2.0),
    np.negative: lambda x: x.op("Neg"),
    np.reciprocal: lambda x: x.op("Reciprocal"),
    np.sign: lambda x: x.op("Sign"),
    np.sin: lambda x: x.op("Sin"),
    np.sqrt: lambda x: x.op("Sqrt"),
    np.square: lambda x: x * x,
    np.tanh: lambda x: x.op("Tanh"),
}
"""The functions of a `FunctionTransformer` that can be exported."""
