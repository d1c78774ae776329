"""The views: three ways in which a row can be unlike the training rows, in one unit."""

import math
from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from anomalyvae.nets.ellipsoid import PAD, ellipsoid, ellipsoid_of, ellipsoid_parts
from anomalyvae.nets.memory import (
    Marks,
    keys_of,
    local_weight,
    most_copied,
    squared_distances,
    weighted_distances,
)

VIEWS = ("near", "crowd", "linear")
VIEW_SCORES = (*VIEWS, "novelty")
COMPARING = (*VIEW_SCORES, "memory")  # the scores that compare with stored rows

# The view near
NEIGHBOURS = 12  # of which a row should be a weighted mean
BANDWIDTH = 0.5  # of the kernel: times the mean squared distance to the neighbours
COUNTED = 6  # nearest rows whose distances count
NEARER = 0.1  # of their mean distance, added to each: one very near row does not make the geometric mean 0
_MOST_ROWS = 4096  # stored, with copies
_USUAL = 0.1  # quantile of the counts: a row that counts so much is stored once
_UNEVEN = 1e-6  # of a weight: rows at one distance still have an order, so that rounding never chooses among them
_GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, without their whole parts, are spread evenly over 0 to 1

# The view crowd
_CROWD_ROWS = 256
_DENSEST = 0.8  # share of the stored rows from which the crowd is taken
_AROUND = 0.1  # share of the other rows whose mean distance says how dense a row's surroundings are
_CROWD_SHARE = 0.05  # of the crowd that a row should have near: at most 12 rows, which TopK finds fastest
_EQUAL = 1e-9  # of a row's square: by far more than rounding makes the squared distance of equal rows

# From distances to nats
TAIL = 0.1  # share of the stored rows, the farthest, that set the unit of a view
LEAST_UNIT = 0.05  # of the distance at which the tail begins
LEAST = 1e-4  # of distances, in standard deviations of a column
SURER = math.log(3)  # nats by which the crowd alone must be surer
OFF = -1e6  # nats of a view that is switched off
_EARLIER_OFFSETS = (0.0, math.log(3), math.log(10))  # within the lines of earlier versions

BLOCK = 256  # rows that are compared at a time


class Views(nn.Module):
    """How unlike the stored rows a row is, in three ways, each in nats; `forward` is what they say together.

    - **near**: the row is far from its nearest neighbours, or not a mean of them. It is the geometric mean of two
      distances: the geometric mean distance to the six nearest, and the distance to a weighted mean of the twelve
      nearest (a kernel smoother, Nadaraya 1964). Both are scaled by the local density as in `Memory`.
    - **crowd**: the distance to the nearest twentieth of 256 rows from dense regions. Outliers among the training
      rows lie in small clumps, which hide each other from a few nearest neighbours, but not from a crowd.
    - **linear**: the Mahalanobis distance, up to 1,024 columns. It sees relations between columns that are linear, such
      as a total of others. The covariance is shrunk as little as the number of rows allows; see `ellipsoid_of`.

    A distance d becomes nats by ``log(10) + (d - q) / m``, an estimate of ``-log P(a normal row is as far)`` with an
    exponential tail. Here q is the 90 % quantile of the distances of the stored rows, each compared with the others,
    and m is their mean excess above q; it is larger in the linear view if the tail is heavier.

    The score is the largest of near, (near + linear) / 2, (near + crowd + linear) / 3 and crowd - log(3): the crowd
    alone must be three times as sure (a weighted Bonferroni test: Genovese, Roeder & Wasserman 2006).

    Parameters
    ----------
    rows : Tensor of shape (m, k)
    weight : Tensor of shape (m,)
        Of squared distances from each row: the inverse of the spacing around it.
    crowd : Tensor of shape (c, k)
    mean : Tensor of shape (j,)
        Of the columns of the linear view.
    whitening : Tensor of shape (j, l)
        Differences from the mean times this matrix have the identity as covariance; columns of zeros pad it to a
        multiple of 16, for which matrix kernels give each row the same arithmetic. ``l = 0``: no linear view.
    lines : Tensor of shape (3, 2)
        Slope and value at 0 of each view's nats as a function of its distance; a slope of 0 switches a view off.
    """

    names: ClassVar[tuple[str, ...]] = VIEWS
    words: ClassVar[tuple[str, ...]] = ("far from its neighbours", "far from the crowd", "breaks a linear relation")
    same: ClassVar[float] = 1e-3  # of `usual`: rows nearer than this are equal up to rounding
    rows: Tensor
    weight: Tensor
    crowd: Tensor
    mean: Tensor
    whitening: Tensor
    lines: Tensor
    center: Tensor  # squares of differences from it are small, so little is lost when large squares are subtracted
    keys: Tensor
    crowd_center: Tensor
    crowd_keys: Tensor

    def __init__(
        self, rows: Tensor, weight: Tensor, crowd: Tensor, mean: Tensor, whitening: Tensor, lines: Tensor
    ) -> None:
        super().__init__()
        parts = {"rows": rows, "weight": weight, "crowd": crowd, "mean": mean, "whitening": whitening, "lines": lines}
        for name, part in parts.items():
            self.register_buffer(name, part)
        near, dense = rows.mean(0), crowd.mean(0)
        derived = {
            "center": near,
            "keys": keys_of(rows - near, weight),
            "crowd_center": dense,
            "crowd_keys": keys_of(crowd - dense, torch.ones_like(crowd[:, 0])),
        }
        for name, part in derived.items():
            self.register_buffer(name, part, persistent=False)
        self.usual_unselected = torch.zeros_like(lines[:, 0])  # set by `of`: as `usual`, without selected rows

    @classmethod
    def of(cls, u: Tensor, unbent: Tensor, marks: Marks, generator: torch.Generator) -> Self:
        """Compare with rows ``(m, k)``, of which the marks are known.

        The linear view compares the same rows without compressed tails, ``unbent``, shape ``(m, j)``.

        A row is stored up to twelve times, as often as it counts, and as it has copies. A recurring row is stored
        twelve times, so that rows equal to it have nothing but its copies near.
        """
        marks = marks._replace(recurring=most_copied(marks.counts, marks.recurring))
        rows, weight, tested, origin = stored_rows(u, marks)
        crowd = crowd_of(u, marks, generator)
        # A row that is repeated shows no other relation between columns than it does once.
        importance = torch.where(marks.copies.isinf(), 1.0, marks.counts / marks.copies)
        mean, whitening, linear = ellipsoid_of(unbent, importance)
        views = cls(rows, weight, crowd, mean, whitening, u.new_zeros(len(VIEWS), 2))
        among = views._among_others(tested) if len(rows) > 1 else u.new_zeros(2, 1)
        for i, distances in enumerate((*among, linear[origin[tested]])):
            views.lines[i] = _line(distances, heavy_tail=VIEWS[i] == "linear")
            views.usual_unselected[i] = usual_distance(distances, marks.selected[origin[tested]])
        if not whitening.shape[1]:
            views.lines[2] = u.new_tensor([0.0, OFF])
        return views

    @classmethod
    def restored(cls, width: int, cells: int, state: Mapping[str, Tensor]) -> Self:
        """Construct it from the tensors of a network; raises RuntimeError for missing or misshapen ones.

        The linear view compares ``cells`` numbers; in models of earlier versions, all ``width`` columns.
        """
        names = ("rows", "weight", "crowd", "mean", "whitening", "lines")
        parts = [state.get(f"memorised.{name}", torch.empty(0)) for name in names]
        shapes = [tuple(part.shape) for part in parts]
        stored, crowd = len(parts[0]), len(parts[2])
        linear = parts[4].shape[-1] if parts[4].dim() else 0
        columns = width if shapes[3] == (width,) else cells
        expected = [(stored, width), (stored,), (crowd, width), (columns,), (columns, linear), (len(VIEWS), 2)]
        if shapes != expected or not stored or not crowd or linear not in (0, columns + -columns % PAD):
            raise RuntimeError(f"Got stored rows of shapes {shapes}, expected {expected}. Save the model again.")
        return cls(*parts)

    def forward(self, u: Tensor) -> Tensor:
        """The score of rows ``(n, k + j)``: what their views say together, shape ``(n,)``."""
        return self.together(self.nats(u))

    def nats(self, u: Tensor) -> Tensor:
        """The views of rows ``(n, k + j)``, shape ``(n, 3)``."""
        return self.in_nats(self.distances(u))

    def distances(self, u: Tensor) -> Tensor:
        """The distance of rows in each view, ``(n, 3)``.

        Rows have the k columns that are compared with ``rows``, then the j columns of the linear view, ``(n, k + j)``;
        or ``(n, k)``, if these are the same.
        """
        u, unbent = self._split(u)
        each = self.near_distance(u), self.crowd_distance(u), ellipsoid(unbent, self.mean, self.whitening)
        return torch.stack(each, dim=1)

    def in_nats(self, distances: Tensor) -> Tensor:
        """Distances in each view ``(n, v)`` -> nats, of the same shape."""
        return torch.maximum(distances, self.least) * self.lines[:, 0] + self.lines[:, 1]

    def together(self, nats: Tensor) -> Tensor:
        """What the views ``(n, 3)`` say together, shape ``(n,)``."""
        return self._combined(nats).amax(1)

    def _combined(self, nats: Tensor) -> Tensor:
        """The sums of views ``(n, 3)`` of which the largest is the score: near, the crowd, and linear with others."""
        if self.is_earlier:
            return nats
        near, crowd, linear = nats.unbind(1)
        with_near = torch.maximum((near + linear) / 2, (near + crowd + linear) / 3)
        return torch.stack([near, crowd - SURER, with_near], dim=1)

    def strongest(self, u: Tensor) -> Tensor:
        """The number of the view that is the surest, shape ``(n,)``."""
        return self._combined(self.nats(u)).argmax(1)

    @property
    def is_earlier(self) -> bool:
        """Whether an earlier version stored the rows: its linear view compares all columns, and each counts alone."""
        return type(self) is Views and len(self.mean) == self.rows.shape[1]

    @property
    def switched_on(self) -> list[int]:
        """The numbers of the views that count."""
        return [number for number, (slope, _) in enumerate(self.lines.tolist()) if slope]

    @property
    def least(self) -> Tensor:
        """The least distance of each view, shape ``(v,)``; rows nearer than this are equal up to rounding."""
        return self.same * self.usual

    @property
    def usual(self) -> Tensor:
        """The distance of each view that a tenth of the stored rows exceeds, ``(v,)``; 0 if it is switched off."""
        slope, start = self.lines.T
        offsets = torch.tensor(_EARLIER_OFFSETS).to(self.lines) if self.is_earlier else 0.0
        return torch.where(slope > 0, (math.log(1 / TAIL) - offsets - start) / slope, 0.0)

    @property
    def neighbours(self) -> int:
        """How many nearest rows count."""
        return min(NEIGHBOURS, len(self.rows))

    def near_distance(self, u: Tensor, left_out: Tensor | None = None) -> Tensor:
        """The distance of rows ``(n, k)`` from the nearest stored rows but those ``left_out``, a mask ``(n, m)``."""
        squared, most = self._squared(u), len(self.rows)
        if left_out is not None:
            squared = squared.masked_fill(left_out, torch.inf)
            most -= int(left_out.sum(1).amax())
        return self._distance_from(u, squared.topk(min(self.neighbours, most), largest=False).indices)

    def _distance_from(self, u: Tensor, nearest: Tensor) -> Tensor:
        """The distance of the view near, given the indices ``(n, neighbours)`` of the nearest rows, ``(n,)``."""
        mean, scale, squared = self._smoothed(u, nearest)
        from_mean = (u - mean).square().sum(1).sqrt() * scale
        distance = squared.sort(1).values[:, :COUNTED].sqrt()
        nearer = distance + NEARER * distance.mean(1, keepdim=True)
        return (from_mean * nearer.log().mean(1).exp()).sqrt()

    def _smoothed(self, u: Tensor, nearest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The kernel smoother: the weighted mean of the nearest rows, ``(n, k)``.

        Also returns the scale of distances there, ``(n,)``, and the scaled squared distances from the nearest rows.
        """
        weight = self.weight[nearest]
        squared = weight * torch.stack([(u - self.rows[index]).square().sum(1) for index in nearest.T], dim=1)
        kernel = (-squared / (BANDWIDTH * squared.mean(1, keepdim=True) + LEAST**2)).exp()
        kernel = kernel - kernel.amin(1, keepdim=True) + LEAST  # the last, which may tie with others, does not count
        kernel = kernel / kernel.sum(1, keepdim=True)
        each = zip(kernel.T, nearest.T, strict=True)
        mean = torch.stack([share[:, None] * self.rows[index] for share, index in each]).sum(0)
        return mean, (kernel * weight.sqrt()).sum(1), squared

    @property
    def near_crowd(self) -> int:
        """How many rows of the crowd a row should have near."""
        return min(max(2, int(_CROWD_SHARE * len(self.crowd))), len(self.crowd))

    def crowd_distance(self, u: Tensor, others: bool = False) -> Tensor:
        """The distance of rows ``(n, k)`` from the crowd; with ``others``, from its rows that are not equal to them."""
        squared = self._squared_in_crowd(u)
        if others:
            row, other = (squared <= _EQUAL * (u - self.crowd_center).square().sum(1, keepdim=True)).nonzero().T
            equal = (u[row] == self.crowd[other]).all(1)
            squared[row[equal], other[equal]] = torch.inf
        nearest = squared.topk(max(1, min(self.near_crowd, len(self.crowd) - others)), largest=False)
        away = (u - self.crowd[nearest.indices[:, -1]]).square().sum(1).sqrt()  # exact, unlike a difference of squares
        return torch.where(nearest.values[:, -1].isinf(), torch.inf, away)

    def _squared(self, u: Tensor) -> Tensor:
        return weighted_distances(u - self.center, self.keys)

    def _squared_in_crowd(self, u: Tensor) -> Tensor:
        return weighted_distances(u - self.crowd_center, self.crowd_keys)

    def _split(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The columns that are compared with ``rows``, and those of the linear view."""
        return u[:, : self.rows.shape[1]], u[:, -len(self.mean) :]

    def _among_others(self, tested: Tensor) -> Tensor:
        """The first two distances of the ``tested`` stored rows, each compared with all others, ``(2, n)``."""
        near, crowd = [], []
        for indices in tested.split(BLOCK):
            rows, itself = self.rows[indices], indices[:, None] == torch.arange(len(self.rows), device=indices.device)
            near.append(self.near_distance(rows, itself))
            crowd.append(self.crowd_distance(rows, others=True))
        return torch.stack([torch.cat(near), torch.cat(crowd)])

    def parts(self, u: Tensor) -> Tensor:
        """The part of each of the k columns in the square of each distance, at least 0, shape ``(n, 3, k)``."""
        u, unbent = self._split(u)
        linear = ellipsoid_parts(unbent, self.mean, self.whitening)
        linear = functional.pad(linear, (0, u.shape[1] - unbent.shape[1]))  # the cells come first
        return torch.stack([self.near_parts(u), self.crowd_parts(u), linear], dim=1)

    def near_parts(self, u: Tensor) -> Tensor:
        """The part of each cell in the distance from the mean of neighbours, ``(n, k)``."""
        nearest = self._squared(u).topk(self.neighbours, largest=False).indices
        return (u - self._smoothed(u, nearest)[0]).square()

    def crowd_parts(self, u: Tensor) -> Tensor:
        """The part of each cell in the distance to the crowd, ``(n, k)``."""
        last = self._squared_in_crowd(u).topk(self.near_crowd, largest=False).indices[:, -1]
        return (u - self.crowd[last]).square()

    def near_otherwise(self, u: Tensor, rounding: float) -> Tensor:
        """`near_distance` with other neighbours, where some are equally near up to rounding, shape ``(n,)``.

        ``rounding`` is that of the numbers of a row and of their differences, relative to them.
        """
        squared, nearest = self._squared(u).topk(min(2 * self.neighbours, len(self.rows)), largest=False)
        last = squared[:, self.neighbours - 1, None]
        size = last + (last * self.weight[nearest] * (u - self.center).square().sum(1, keepdim=True)).sqrt()
        ties = (squared - last).abs() <= rounding * size
        rank = torch.arange(nearest.shape[1], device=u.device).expand_as(nearest)
        after, count = (rank >= self.neighbours).long(), nearest.shape[1]
        order = torch.where(ties, count - rank, 2 * count * after).argsort(dim=1, stable=True)  # ties last to first
        return self._distance_from(u, nearest.gather(1, order[:, : self.neighbours]))

    def crowd_otherwise(self, u: Tensor, rounding: float) -> Tensor:
        """`crowd_distance` to another row, which rounding may choose, shape ``(n,)``; see `near_otherwise`."""
        return (self.crowd_distance(u).square() + rounding * (u - self.crowd_center).square().sum(1)).sqrt()


def stored_rows(u: Tensor, marks: Marks) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Store each of the rows ``(m, k)`` as often as it counts, and no more often than it has copies.

    Returns the stored rows, the weights of distances from them, the indices of the tested rows among them, and of the
    given row that each is a copy of. Tested rows are compared with the others to set the unit of a view. Recurring rows
    are not tested, unless all are.
    """
    count, recurring, copies = marks.counts, marks.recurring, _copies(marks)
    origin = torch.arange(len(u), device=u.device).repeat_interleave(copies)
    left = torch.where(recurring, torch.nan, count / copies)  # rows that each copy still counts as
    left = left.nan_to_num(float(left.nanmean()) if not recurring.all() else 1.0)
    rows = u[origin]
    weight = local_weight(squared_distances(rows, rows), left[origin], torch.zeros_like(recurring)[origin], LEAST)
    weight = weight * (1 + _UNEVEN * (torch.arange(len(rows)).to(rows) * _GOLDEN).frac())
    tested = (~recurring[origin]).nonzero()[:, 0]
    return rows, weight, tested if len(tested) else torch.arange(len(rows), device=u.device), origin


def crowd_of(u: Tensor, marks: Marks, generator: torch.Generator) -> Tensor:
    """The rows of the crowd, from the densest of rows ``(m, k)`` and the recurring ones, in proportion to counts."""
    near = squared_distances(u, u).topk(min(len(u), max(3, round(_AROUND * len(u))) + 1), largest=False).values
    dense = near.clamp(min=0).sqrt().mean(1).topk(max(1, round(_DENSEST * len(u))), largest=False).indices
    chosen = marks.recurring.clone()
    chosen[dense] = True
    indices = chosen.nonzero()[:, 0]
    indices = indices[torch.randperm(len(indices), generator=generator).to(indices.device)]
    share = marks.counts[indices].to(u).cumsum(0)
    size = min(_CROWD_ROWS, len(indices))
    return u[indices[torch.searchsorted(share, (torch.arange(size).to(share) + 0.5) / size * share[-1])]]


def _copies(marks: Marks) -> Tensor:
    """How often each row is stored, shape ``(m,)``: fewer times if all together are too many."""
    count = marks.counts
    unit = count.quantile(_USUAL).clamp(min=torch.finfo(count.dtype).tiny)
    wanted = (count / unit).round().minimum(marks.copies).clamp(1, NEIGHBOURS).long()
    most = next((most for most in range(NEIGHBOURS, 1, -1) if wanted.clamp(max=most).sum() <= _MOST_ROWS), 1)
    return torch.where(marks.recurring, NEIGHBOURS, wanted.clamp(max=most))


def finite(distances: Tensor) -> Tensor:
    """The finite distances of stored rows; zeros where there are none."""
    there = distances < torch.inf
    return distances[there] if bool(there.any()) else torch.zeros_like(distances)


def usual_distance(distances: Tensor, selected: Tensor) -> Tensor:
    """The distance that a tenth of the stored rows exceeds, but for those ``selected``, unless all are."""
    return finite(distances if selected.all() else distances[~selected]).quantile(1 - TAIL).clamp(min=LEAST)


def _line(distances: Tensor, heavy_tail: bool) -> Tensor:
    """Slope and value at 0 of a view's nats, from the distances of the stored rows, shape ``(2,)``.

    With a ``heavy_tail``, the largest of n excesses counts as no rarer than one in n. In an exponential tail, it is
    expected at ``1 + 1/2 + ... + 1/n`` times the mean.
    """
    distances = finite(distances)
    begin = distances.quantile(1 - TAIL).clamp(min=LEAST)
    excess = distances[distances >= begin] - begin
    unit = torch.maximum(excess.mean() if len(excess) else begin, LEAST_UNIT * begin)
    if heavy_tail and len(excess):
        unit = torch.maximum(unit, excess.amax() / (1 / torch.arange(1, len(excess) + 1)).sum())
    return torch.stack([1 / unit, math.log(1 / TAIL) - begin / unit])
