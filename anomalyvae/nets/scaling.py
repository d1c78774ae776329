"""The first layer of every network: the user's units -> standardised units, and back.

It is a layer, not a preprocessing step, so that a stored or exported network contains its units.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

SCALINGS = ("asinh", "standard", "robust", "quantile")  # that can be chosen; see `fit_scaling`
LIMIT = 1e6  # standardised units are clipped to this: squares and exponentials of larger ones would overflow
_ROUNDING = 1e-13  # a smaller spread, as a share of |mean|, is the rounding error of sums in double
_CONSTANT_UNIT = 1e-2  # the scale of such a column, as a share of |mean|
_FAR = 1e150  # numbers whose squares are not exact any more
_LEAST_UNIT = torch.finfo(torch.float64).tiny
_NORMAL_RANGE = 6.0  # standard deviations that a normal column of a thousand rows spans
_KNOTS = 33


class Affine(nn.Module):
    """``(x - center) / scale``, column by column; ``center`` and ``scale`` have shape ``(d,)``."""

    center: Tensor
    scale: Tensor

    def __init__(self, center: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("center", center)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """Units of the user ``(n, d)`` -> standardised units."""
        return ((x - self.center) / self.scale).clamp(-LIMIT, LIMIT)

    def inverse(self, y: Tensor) -> Tensor:
        """Standardised units ``(n, d)`` -> units of the user."""
        return y * self.scale + self.center

    def unbent(self, y: Tensor) -> Tensor:
        """Standardised units ``(n, d)`` -> a linear function of the user's, column by column: the same."""
        return y


class Asinh(nn.Module):
    """Standardise, then compress each column's tails: ``asinh(clip(u) / gain) + (u - clip(u))``.

    Within the training range heavy tails are compressed, so that a few large values do not dominate. Outside it the
    slope is one, so that a value far outside stays far.

    Parameters
    ----------
    center, scale : Tensor of shape (d,)
        Of the standardisation, ``u = (x - center) / scale``.
    low, high : Tensor of shape (d,)
        Training range of u.
    gain : Tensor of shape (d,)
        Where compression begins. It grows with the range, so that the bulk of a heavy-tailed column keeps its spread.
    """

    center: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    gain: Tensor

    def __init__(self, center: Tensor, scale: Tensor, low: Tensor, high: Tensor, gain: Tensor) -> None:
        super().__init__()
        for name, value in (("center", center), ("scale", scale), ("low", low), ("high", high), ("gain", gain)):
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        """Units of the user ``(n, d)`` -> standardised units."""
        u = ((x - self.center) / self.scale).clamp(-LIMIT, LIMIT)
        inside = u.maximum(self.low).minimum(self.high)
        return asinh(inside / self.gain) + (u - inside)

    def inverse(self, y: Tensor) -> Tensor:
        """Standardised units ``(n, d)`` -> units of the user."""
        return self.unbent(y) * self.scale + self.center

    def unbent(self, y: Tensor) -> Tensor:
        """Standardised units ``(n, d)`` -> those without compressed tails, linear in the user's."""
        inside = y.maximum(asinh(self.low / self.gain)).minimum(asinh(self.high / self.gain))
        return self.gain * inside.sinh() + (y - inside)


def asinh(x: Tensor) -> Tensor:
    """The inverse hyperbolic sine, written out: not every ONNX runtime has it in double precision."""
    return x.sign() * (x.abs() + (x.square() + 1).sqrt()).log()


class Quantile(nn.Module):
    """A monotone, piecewise linear map of each column onto the normal quantiles of its training values.

    Outside the training range the slope is one standardised unit per standard deviation, so that a value far outside
    stays far. It is written as a sum of hinges, ``y = y_0 + sum_k slope_k relu(x - x_k)``, which every runtime has.

    ``x`` and ``y``, of shape (knots, d), are increasing values and their normal scores; ``slope`` (d) is that outside
    the knots.
    """

    x: Tensor
    y: Tensor
    slope: Tensor

    def __init__(self, x: Tensor, y: Tensor, slope: Tensor) -> None:
        super().__init__()
        for name, value in (("x", x), ("y", y), ("slope", slope)):
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        """Units of the user ``(n, d)`` -> standardised units."""
        low, high = self.reach
        return _hinges(x.maximum(low).minimum(high), self.x, self.y, self.slope).clamp(-LIMIT, LIMIT)

    @property
    def reach(self) -> tuple[Tensor, Tensor]:
        """Values beyond which all are clipped: the hinges of huge ones would be infinite, and their sum no number."""
        beyond = 2 * LIMIT / self.slope
        return self.x[0] - beyond, self.x[-1] + beyond

    def inverse(self, y: Tensor) -> Tensor:
        """Standardised units ``(n, d)`` -> units of the user."""
        return _hinges(y, self.y, self.x, 1 / self.slope)

    def unbent(self, y: Tensor) -> Tensor:
        """Standardised units ``(n, d)`` as they are: a user who chooses quantiles does not ask for linear relations."""
        return y


class Mixed(nn.Module):
    """Scaled numbers, then one-hot cells of each category: one per known level, the last for any other level.

    A missing category is NaN in all of its cells. ``numeric`` scales the numeric columns. ``cells`` (d) are the one-hot
    cells of each column: its known levels and one more; 0 for a numeric column. In a row, a category is the number of
    its level, -1 for any other level.
    """

    cells: Tensor
    source: Tensor
    code: Tensor

    def __init__(self, numeric: "Affine | Asinh | Quantile", cells: Tensor) -> None:
        super().__init__()
        self.numeric = numeric
        self.register_buffer("cells", cells)
        sizes = [int(size) for size in cells.tolist()]
        self.numbers = [column for column, size in enumerate(sizes) if not size]
        self.categories = [column for column, size in enumerate(sizes) if size]
        self.sizes = [size for size in sizes if size]
        source = self.numbers + [column for column in self.categories for _ in range(sizes[column])]
        code = [code for size in self.sizes for code in (*range(size - 1), -1)]
        self.register_buffer("source", torch.tensor(source, dtype=torch.long), persistent=False)  # of each cell
        self.register_buffer("code", torch.tensor(code, dtype=cells.dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Rows ``(n, d)`` -> standardised numbers, then one-hot cells."""
        cells = x[:, self.source]
        numbers, codes = cells[:, : len(self.numbers)], cells[:, len(self.numbers) :]
        one_hot = torch.where(codes.isnan(), codes, (codes == self.code).to(x.dtype))
        return torch.cat([self.numeric(numbers), one_hot], dim=1)

    def inverse(self, y: Tensor) -> Tensor:
        """Standardised numbers, and one-hot cells or logits -> rows ``(n, d)``, with the largest known level."""
        numbers = self.numeric.inverse(y[:, : len(self.numbers)])
        columns = [numbers[:, [i]] for i in range(len(self.numbers))]  # split would make one column of none
        for block in y[:, len(self.numbers) :].split(self.sizes, dim=1):
            known = block[:, :-1]
            level = known.argmax(dim=1, keepdim=True) if known.shape[1] else torch.full_like(block, -1)
            columns.append(level.to(y.dtype))
        given = self.numbers + self.categories
        return torch.cat([columns[given.index(column)] for column in range(len(given))], dim=1)

    def unbent(self, y: Tensor) -> Tensor:
        """Standardised numbers without compressed tails, and one-hot cells."""
        numbers = len(self.numbers)
        return torch.cat([self.numeric.unbent(y[:, :numbers]), y[:, numbers:]], dim=1)


def fit_scaling(kind: str | None, x: Tensor, weight: Tensor, cells: Sequence[int] = ()) -> "Scaling":
    """Learn a scaling from training rows.

    Parameters
    ----------
    kind : {"asinh", "standard", "robust", "quantile", "isotropic", None}
        ``"standard"``: mean and standard deviation; ``"asinh"``: the same with compressed tails; ``"robust"``: median
        and interquartile range; ``"quantile"``: normal quantiles; ``"isotropic"``: mean, and one standard deviation
        for all columns, by the mean of their variances; or none.
    x : Tensor of shape (n, d), float64
        NaN where a cell is missing; a column is scaled by its observed cells.
    weight : Tensor of shape (n,)
        How often each row counts.
    cells : sequence of int, optional
        One-hot cells of each column, as `Mixed` takes them; by default all columns are numeric.

    Notes
    -----
    A column counts as constant if its standard deviation is rounding error: below 1e-13 of |mean|, or below 1.2e-7 of
    it if all values are fractions in single precision, as loggers store them. It is scaled by 1 % of |mean| (by 1 if
    the mean is 0), so that rounding errors are no outliers, and a change by a tenth is.
    """
    if any(cells):
        numbers = [column for column, size in enumerate(cells) if not size]
        numeric = fit_scaling(kind, x[:, numbers], weight)
        assert not isinstance(numeric, Mixed)  # noqa: S101
        return Mixed(numeric, torch.tensor(cells, dtype=x.dtype))
    missing = x.isnan()
    share, mean, raw = _moments(x, weight)
    resolution = _resolution(x, missing, mean)
    std = _informative(raw, mean, resolution)
    if kind is None:
        return Affine(torch.zeros_like(mean), torch.ones_like(mean))
    if kind == "isotropic":
        spread = _root_mean_square(raw, raw.new_tensor(1 / len(raw)))
        return Affine(mean, _informative(spread, mean.abs().mean(), resolution.mean()).expand_as(mean).clone())
    if kind == "standard":
        return Affine(mean, std)
    if kind == "asinh":
        u = (x - mean) / std
        low = u.masked_fill(missing, torch.inf).amin(dim=0).clamp(max=0)  # 0 for a column without a value
        high = u.masked_fill(missing, -torch.inf).amax(dim=0).clamp(min=0)
        width = torch.where(raw > resolution, high - low, torch.ones_like(low))
        return Asinh(mean, std, low, high, (width / _NORMAL_RANGE).sqrt())
    if kind == "robust":
        low, median, high = _quantiles(x, share, torch.tensor([0.25, 0.5, 0.75], dtype=x.dtype))
        spread = (high - low) / 1.3489795  # the interquartile range of N(0, 1)
        usable = spread > resolution
        return Affine(median, torch.where(usable, spread, std))
    return _fit_quantile(x, share, std, mean)


def jittering(x: Tensor) -> Tensor:
    """Columns of rows ``(n, d)`` that vary by rounding error alone, and so count as constant; bool, shape ``(d,)``."""
    missing = x.isnan()
    _, mean, std = _moments(x, torch.ones_like(x[:, 0]))
    low, high = x.masked_fill(missing, torch.inf).amin(0), x.masked_fill(missing, -torch.inf).amax(0)
    return (low < high) & (std <= _resolution(x, missing, mean))


def _moments(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The share of each observed cell in its column ``(n, d)``, and the mean and standard deviation of the columns."""
    missing = x.isnan()
    share = weight[:, None].masked_fill(missing, 0.0)
    share = share / share.sum(0).clamp(min=torch.finfo(x.dtype).tiny)
    mean = (share * x.masked_fill(missing, 0.0)).sum(0)
    return share, mean, _root_mean_square((x - mean).masked_fill(missing, 0.0), share)


def _root_mean_square(x: Tensor, share: Tensor) -> Tensor:
    """The root of the mean square of each column; squares of huge numbers would overflow, those of tiny ones vanish."""
    x = x.clamp(-torch.finfo(x.dtype).max, torch.finfo(x.dtype).max)
    largest = x.abs().amax(0)
    unit = torch.where((largest > _FAR) | ((largest > 0) & (largest < 1 / _FAR)), largest, 1.0)
    return (share * (x / unit).square()).sum(0).sqrt() * unit


def _resolution(x: Tensor, missing: Tensor, mean: Tensor) -> Tensor:
    """The largest standard deviation of each column that may be rounding error, shape ``(d,)``."""
    single = ((x.float().double() == x) | missing).all(0) & ((x != x.round()) & ~missing).any(0)
    return (torch.where(single, torch.finfo(torch.float32).eps, _ROUNDING) * mean.abs()).clamp(min=_LEAST_UNIT)


def _informative(std: Tensor, mean: Tensor, resolution: Tensor) -> Tensor:
    """The spread of each column; of (nearly) constant columns 1 % of their mean."""
    unit = _CONSTANT_UNIT * mean.abs()
    unit = torch.where(unit > _LEAST_UNIT, unit, torch.ones_like(unit))
    return torch.where(std > resolution, std, unit)


def _fit_quantile(x: Tensor, share: Tensor, std: Tensor, mean: Tensor) -> Quantile:
    probability = torch.linspace(0, 1, _KNOTS, dtype=x.dtype).clamp(0.5 / len(x), 1 - 0.5 / len(x))
    knots = _quantiles(x, share, probability)
    # A value that spans several knots gets the mean of their normal quantiles. Almost equal values count as one: a line
    # between two such knots would be so steep that the values beyond it lose their last digits.
    tied = ((knots[:, None] - knots[None]).abs() <= 1e-7 * std).to(x.dtype)  # (knots, knots, d)
    normal_score = torch.einsum("jkd,k->jd", tied, torch.special.ndtri(probability)) / tied.sum(1)
    # Tiny steps keep both sides strictly increasing, so that the map has an inverse.
    step = 1e-9 * torch.arange(_KNOTS, dtype=x.dtype)[:, None]
    least = 4e9 * torch.finfo(x.dtype).eps * mean.abs()  # a step must be several spacings of float64 at this level
    return Quantile(knots + step * std.maximum(least), normal_score + step, 1 / std)


def _hinges(x: Tensor, knots: Tensor, values: Tensor, outside: Tensor) -> Tensor:
    inner = values.diff(dim=0) / knots.diff(dim=0)  # (knots - 1, d)
    slopes = torch.cat([outside[None], inner, outside[None]])
    y = values[0] + outside * (x - knots[0])
    for knot, bend in zip(knots, slopes.diff(dim=0), strict=True):
        y = y + bend * (x - knot).clamp(min=0)
    return y


def _quantiles(x: Tensor, share: Tensor, probability: Tensor) -> Tensor:
    """Weighted quantiles of each column, shape (len(probability), d): the value at which the weight is reached."""
    value, order = x.sort(dim=0)  # missing cells come last
    reached = share.gather(0, order).cumsum(0).T.contiguous()  # (d, n)
    wanted = probability.expand(x.shape[1], -1).contiguous()
    observed = (~x.isnan()).sum(0)[:, None]
    index = torch.searchsorted(reached, wanted - 1e-12).minimum(observed - 1).clamp(min=0)
    return value.gather(0, index.T).nan_to_num()


Scaling = Affine | Asinh | Quantile | Mixed
_BY_TENSORS = {
    frozenset(("center", "scale")): Affine,
    frozenset(("center", "scale", "low", "high", "gain")): Asinh,
    frozenset(("x", "y", "slope")): Quantile,
}


def restore_scaling(state: Mapping[str, Tensor]) -> Scaling:
    """Construct a scaling from the tensors of its ``state_dict``; raises KeyError if they belong to none."""
    numeric = {name.removeprefix("numeric."): tensor for name, tensor in state.items() if name != "cells"}
    scaling = _BY_TENSORS[frozenset(numeric)](**numeric)
    return Mixed(scaling, state["cells"]) if "cells" in state else scaling
