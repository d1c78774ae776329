"""What scikit-learn's scalers do to each column, as operators of an ONNX graph in double precision.

Each takes the fitted transformer and the rows ``(n, d)``, and gives rows of the same shape. NaN stays NaN.
"""

from typing import Any

import numpy as np

from anomalyvae.export.columns import Floats, reached
from anomalyvae.export.nodes import Value, cast


def double(array: Any) -> Floats:
    """A fitted attribute in double, also of a transformer that was fitted to single."""
    return np.asarray(array, dtype=np.float64)


def _clip(x: Value, low: float, high: float) -> Value:
    return x.op("Max", float(low)).op("Min", float(high))  # NaN stays, as in numpy.clip


def standard(t: Any, x: Value) -> Value:
    """`StandardScaler`."""
    x = x - double(t.mean_) if t.with_mean else x
    return x / double(t.scale_) if t.with_std else x


def min_max(t: Any, x: Value) -> Value:
    """`MinMaxScaler`."""
    x = x * double(t.scale_) + double(t.min_)
    return _clip(x, *t.feature_range) if t.clip else x


def max_abs(t: Any, x: Value) -> Value:
    """`MaxAbsScaler`."""
    x = x / double(t.scale_)
    return _clip(x, -1.0, 1.0) if t.clip else x


def robust(t: Any, x: Value) -> Value:
    """`RobustScaler`."""
    x = x - double(t.center_) if t.with_centering else x
    return x / double(t.scale_) if t.with_scaling else x


def normalizer(t: Any, x: Value) -> Value:
    """`Normalizer`: each row by its norm."""
    size = x.op("Abs")
    norm = {
        "l1": lambda: size.sum(),
        "l2": lambda: (x * x).sum().op("Sqrt"),
        "max": lambda: size.op("ReduceMax", [1], keepdims=1),
    }[t.norm]()
    return x / norm.op("Equal", 0.0).op("Where", 1.0, norm)


def binarizer(t: Any, x: Value) -> Value:
    """`Binarizer`."""
    return cast(x.op("Greater", float(t.threshold)))


def power(t: Any, x: Value) -> Value:
    """`PowerTransformer`: I. Yeo, R. A. Johnson (2000), A new family of power transformations, Biometrika 87."""
    powers = double(t.lambdas_)
    up = _power_of(x.op("Max", 0.0), powers)
    down = _power_of(x.op("Neg").op("Max", 0.0), 2.0 - powers).op("Neg")
    y = x.op("GreaterOrEqual", 0.0).op("Where", up, down)
    return standard(t._scaler, y) if t.standardize else y


def _power_of(x: Value, powers: Floats) -> Value:
    """``((x + 1) ** power - 1) / power``, and its limit at 0, for x that are not negative."""
    log, flat = log1p(x), np.abs(powers) < np.finfo(np.float64).eps
    safe = np.where(flat, 1.0, powers)
    return x.graph.value(flat).op("Where", log, expm1(log * safe) / safe)


def log1p(x: Value) -> Value:
    """log(1 + x) to the last digits also of small x: Kahan's ``log(u) x / (u - 1)`` with ``u = 1 + x``, rounded."""
    u = x + 1.0
    rounded = (u - 1.0).op("Equal", 0.0)
    return rounded.op("Where", x, u.op("Log") * (x / rounded.op("Where", 1.0, u - 1.0)))


def expm1(x: Value) -> Value:
    """exp(x) - 1 likewise: Kahan's ``(u - 1) x / log(u)`` with ``u = exp(x)``; large x need no mending."""
    small = x.op("Abs").op("Less", 1.0)
    inside = small.op("Where", x, 0.0)
    u = inside.op("Exp")
    rounded = (u - 1.0).op("Equal", 0.0)
    near = rounded.op("Where", inside, (u - 1.0) * (inside / rounded.op("Where", 1.0, u.op("Log"))))
    return small.op("Where", near, x.op("Exp") - 1.0)


def quantile(t: Any, x: Value) -> Value:
    """`QuantileTransformer`: between the quantiles a line, at a value that many quantiles share their middle."""
    quantiles, references = double(t.quantiles_), double(t.references_)
    knots, start, middle, slope = [], [], [], []  # of each column, after as many knots as its place says
    for column in quantiles.T:
        knot, first, count = np.unique(column, return_index=True, return_counts=True)
        left, right = references[first], references[first + count - 1]
        ends = np.append((left + right)[:-1] / 2, 1.0)
        ends[0] = 0.0  # below all others is 0, also where all are one
        knots.append(knot)
        start.append(np.concatenate([[0.0], right[:-1], [1.0]]))
        middle.append(np.append(0.0, ends))
        slope.append(np.concatenate([[0.0], (left[1:] - right[:-1]) / np.diff(knot), [0.0]]))
    slack = rounding(knots)
    place = reached(x, [knot - room for knot, room in zip(knots, slack, strict=True)])
    last = _looked_up(place, [np.append(knot[0], knot) for knot in knots])
    line = _looked_up(place, start) + (x - last) * _looked_up(place, slope)
    on_it = (x - last).op("Abs").op("LessOrEqual", slack).op("And", place.op("Greater", 0))
    y = on_it.op("Where", _looked_up(place, middle), line)
    if t.output_distribution == "uniform":
        return y
    near = 1e-7  # BOUNDS_THRESHOLD of scikit-learn
    y = (x + near).op("Greater", quantiles[-1]).op("Where", 1.0, y)
    y = (x - near).op("Less", quantiles[0]).op("Where", 0.0, y)
    bound = near - np.spacing(1)
    return _normal_quantile(_clip(y, bound, 1 - bound))


def rounding(knots: list[Floats]) -> Floats:
    """How far from its column's knots a cell may lie to be on one of them, shape ``(d,)``.

    A row of training, of which knots are made, lies on them. Its cells may be computed, as by a power or a projection,
    and differ here by their rounding; then it should not fall to the other side.
    """
    gaps = [np.diff(np.unique(knot[np.isfinite(knot)])).min(initial=np.inf) for knot in knots]
    sizes = [np.abs(knot[np.isfinite(knot)]).max(initial=0.0) for knot in knots]
    return np.minimum(1e-3 * np.array(gaps), 1e-12 * np.array(sizes))


def _looked_up(place: Value, tables: list[Floats]) -> Value:
    """In each column the entry of its own table at the place that each cell gives."""
    begin = np.cumsum([0, *(len(table) for table in tables[:-1])])
    return place.graph.value(np.concatenate(tables)).op("Gather", place + begin)


_CENTRE = (
    (2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4, 4.5921953931549871457e4,
     1.3731693765509461125e4, 1.9715909503065514427e3, 1.3314166789178437745e2, 3.3871328727963666080),
    (5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4, 2.1213794301586595867e4,
     5.3941960214247511077e3, 6.8718700749205790830e2, 4.2313330701600911252e1, 1.0),
)  # fmt: skip
_TAIL = (
    (7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258,
     3.64784832476320460504, 5.76949722146069140550, 4.63033784615654529590, 1.42343711074968357734),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
     6.89767334985100004550e-1, 1.67638483018380384940, 2.05319162663775882187, 1.0),
)  # fmt: skip


def _normal_quantile(p: Value) -> Value:
    """The normal quantile, to 1e-16 for p from 1e-11 to 1 - 1e-11: M. J. Wichura (1988), Algorithm AS 241."""
    q = p - 0.5
    inner = p.graph.value(0.180625) - q * q
    tail = (p.op("Min", p.graph.value(1.0) - p)).op("Log").op("Neg").op("Sqrt") - 1.6
    beyond = q.op("Sign") * _ratio(tail, _TAIL)
    return q.op("Abs").op("LessOrEqual", 0.425).op("Where", q * _ratio(inner, _CENTRE), beyond)


def _ratio(x: Value, polynomials: tuple[tuple[float, ...], tuple[float, ...]]) -> Value:
    above, below = (x.graph.value(coefficients[0]) for coefficients in polynomials)
    for a, b in zip(polynomials[0][1:], polynomials[1][1:], strict=True):
        above, below = above * x + a, below * x + b
    return above / below
