"""The memory: training rows that new rows are compared with."""

import math
from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

NEIGHBOURS = 5  # whose mean distance is the score, after the nearest
_SPACING_FLOOR = 0.1  # of the median spacing: near copies must not make the rows around them anomalous
_MOST_COPIED = 256  # rows; more would make scoring slow
_SUSPECTS, _LEFT_OUT = 3.0, 2.0  # times the expected outliers: suspected at first, and left out at last
_CLUMP = 1.5  # times the expected outliers: so many similar ones are found
_STEPS = 3
_NEVER_LEARNED, _SAMPLE = 0.5, 2048  # times the expected outliers; rows whose cleanest ones tell which
_TINY = 1e-9  # spacing of rows that are all equal


class Marks(NamedTuple):
    """Weights, flags and starts of the rows to store, each of shape ``(m,)``."""

    counts: Tensor  # how many rows each counts as
    copies: Tensor  # how often each was given: new rows are near a row of large weight, but do not equal it
    recurring: Tensor  # a mask: rows that new rows will equal
    selected: Tensor  # a mask: normal rows that are more unusual than new normal rows are
    start: Tensor  # when each window begins, in samples; 0 for rows that are not windows

    @classmethod
    def none(cls, m: int) -> "Marks":
        """Those of ``m`` rows that are all alike: each counts once."""
        once, no = torch.ones(m, dtype=torch.float64), torch.zeros(m, dtype=torch.bool)
        return cls(once, once, no, no, no.long())

    def take(self, indices: Tensor) -> "Marks":
        """The marks of some rows."""
        return Marks(*(mark[indices] for mark in self))

    def to(self, device: torch.device) -> "Marks":
        """The marks on a device."""
        return Marks(*(mark.to(device) for mark in self))


class Memory(nn.Module):
    """Mean distance to the second to sixth nearest stored row, each scaled by the local density.

    The nearest is skipped: it may be the row itself, and a single learned outlier must not hide similar ones. So
    training rows and new rows score alike.

    With r_j the mean distance of stored row m_j from its five nearest others, the distance of a row u from it is
    ``|u - m_j| / sqrt(r_j + 0.1 median(r))``: in dense regions a small distance is as anomalous as a large one in
    sparse regions (after the local scaling of Zelnik-Manor & Perona 2004, Self-Tuning Spectral Clustering; it lies
    between kNN, Ramaswamy et al. 2000, and LOF, Breunig et al. 2000).

    Parameters
    ----------
    keys : Tensor of shape (k + 2, m)
        For each of m stored rows of width k: with w_j the inverse of r_j plus the floor, ``-2 w_j m_j``, then
        ``w_j``, then ``w_j |m_j|^2``; so the squared distances of rows u are one product, ``[u, |u|^2, 1] @ keys``.
    """

    keys: Tensor

    def __init__(self, keys: Tensor) -> None:
        super().__init__()
        self.register_buffer("keys", keys)

    @classmethod
    def of(cls, u: Tensor, count: Tensor | None = None, recurring: Tensor | None = None) -> Self:
        """Store rows ``(m, k)``, each of which counts as ``count`` rows, shape ``(m,)``.

        With c times as many rows, distances and spacing shrink by the factor ``c ** (-1 / dimension)``, and the score
        by its square root. The copies of a ``recurring`` row, a mask of shape ``(m,)``, do not fill space like this:
        all its neighbours are equal to it. It is stored six times, so that a row equal to it scores 0.
        """
        count = torch.ones(len(u), device=u.device) if count is None else count
        again = torch.zeros_like(count, dtype=torch.bool) if recurring is None else most_copied(count, recurring)
        weight = local_weight(squared_distances(u, u), count, again)
        keys = keys_of(u, weight)
        return cls(keys.repeat_interleave(1 + NEIGHBOURS * again.long(), dim=1))

    @classmethod
    def restored(cls, width: int, state: Mapping[str, Tensor]) -> Self:
        """Construct it from the tensors of a network; raises RuntimeError for missing or misshapen ones."""
        keys = state.get("memorised.keys", torch.empty(0))
        if keys.shape[:-1] != (width + 2,) or not keys.shape[-1]:
            raise RuntimeError(
                f"Got a memory of shape {tuple(keys.shape)}, expected ({width + 2}, rows). Save the model again."
            )
        return cls(keys)

    @property
    def rounding_error(self) -> float:
        """How far rounding may move a score that should be 0: the root of a rounded difference of large sums."""
        return float((8 * torch.finfo(torch.float64).eps * self.keys[-1].median()).sqrt())

    @property
    def rows(self) -> Tensor:
        """The stored rows, shape ``(m, k)``."""
        return (self.keys[:-2] / (-2 * self.keys[-2])).T

    def forward(self, u: Tensor) -> Tensor:
        """Rows ``(n, k)`` -> the distance of each from the stored rows, shape ``(n,)``."""
        return _mean_distance(weighted_distances(u, self.keys))


def keys_of(rows: Tensor, weight: Tensor) -> Tensor:
    """The matrix ``(k + 2, m)`` by which `weighted_distances` multiplies, for rows ``(m, k)`` and their weights."""
    return torch.cat([-2 * weight * rows.T, weight[None], (weight * rows.square().sum(1))[None]])


def weighted_distances(u: Tensor, keys: Tensor) -> Tensor:
    """``weight_j |u_i - row_j|^2`` for the rows of `keys_of`, ``(n, m)``: one product, ``[u, |u|^2, 1] @ keys``."""
    return torch.cat([u, u.square().sum(1, keepdim=True), torch.ones_like(u[:, :1])], dim=1) @ keys


def local_weight(squared: Tensor, count: Tensor, recurring: Tensor, least: float = _TINY) -> Tensor:
    """Weights ``(m,)`` of squared distances from rows: the inverse of the spacing around each; see `Memory`.

    Takes the squared distances ``(m, m)`` between the rows, and how many rows each counts as. ``least`` is the smallest
    spacing.
    """
    spacing = _mean_distance(squared)
    weight = 1 / (spacing + _SPACING_FLOOR * spacing.median() + least)
    if recurring.any():
        count = torch.where(recurring, count[~recurring].mean() if not recurring.all() else count.mean(), count)
    if bool((count != count[0]).any()):
        weight = weight * (count / count.mean()).to(squared) ** (-1 / dimension(squared))
    return weight


def most_copied(count: Tensor, recurring: Tensor) -> Tensor:
    """The recurring rows that are stored several times, as a mask of shape ``(m,)``: at most 256, by ``count``."""
    copied = torch.zeros_like(recurring)
    often = count.where(recurring, -1.0).argsort(descending=True, stable=True)  # of rows that count alike, the first
    copied[often[:_MOST_COPIED]] = True
    return copied & recurring


def sample_by_weight(weight: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sample at most ``count`` rows by weight without replacement.

    By exponential waiting times (Efraimidis & Spirakis 2006, Weighted random sampling with a reservoir). A row so
    heavy that it is always sampled represents its weight; the others are sampled roughly in proportion to their
    weights and represent equally many rows each (after Horvitz & Thompson 1952). Returns the indices of the sampled
    rows, and how many rows each represents.
    """
    order = torch.randperm(len(weight), generator=generator)
    if len(weight) <= count or bool((weight == weight[0]).all()):
        chosen = order[:count]
        return chosen, weight[chosen]
    waits = -torch.rand(len(weight), generator=generator, dtype=torch.float64).log() / weight
    chosen = waits.argsort(stable=True)[:count]
    falling = weight.sort(descending=True).values
    rest = falling.sum() - falling.cumsum(0) + falling  # weight from each row on
    each = rest / (count - torch.arange(len(falling)).clamp(max=count - 1))  # if all heavier rows are sampled
    always = int((falling[:count] >= each[:count]).long().cumprod(0).sum())
    return chosen, weight[chosen].clamp(min=float(each[min(always, count - 1)]))


def dimension(squared: Tensor) -> float:
    """Intrinsic dimension of rows, from their squared distances ``(m, m)``.

    ``1 / mean(log(d_k / d_j))`` over rows and neighbours j < k (Levina & Bickel 2004, Maximum Likelihood Estimation of
    Intrinsic Dimension, averaged as MacKay & Ghahramani 2005 do); the nearest is the row itself.
    """
    near = squared.topk(min(NEIGHBOURS + 2, squared.shape[1]), largest=False).values[:, 1:].clamp(min=_TINY)
    spread = 0.5 * (near[:, -1:] / near[:, :-1]).log()
    return max(1.0, 1 / max(float(spread.mean()), _TINY)) if spread.numel() else 1.0


def cleanest(u: Tensor, contamination: float) -> Tensor:
    """Indices of the rows that remain if the farthest rows are left out, twice the expected share of outliers.

    At first, the densest rows remain. Then, three times, those nearest to the rows that remained (concentration steps:
    Rousseeuw & Van Driessen 1999, A fast algorithm for the minimum covariance determinant estimator, section 2). So
    rows come back that have few neighbours and lie beside others, as those at the ends of an arc; outliers do not.
    """
    count = max(1, round(share_of_cleanest(contamination) * len(u)))
    kept = _densest(u, 1 - min(0.5, _SUSPECTS * contamination), math.ceil(_CLUMP * contamination * len(u)))
    for _ in range(_STEPS):
        distance = Memory.of(u[kept])(u)
        kept = distance.topk(count, largest=False).indices.sort().values
    return kept


def share_of_cleanest(contamination: float) -> float:
    """The share of rows that `cleanest` keeps: all without outliers, at least half."""
    return 1 - min(0.5, _LEFT_OUT * contamination)


def _densest(u: Tensor, share: float, neighbour: int) -> Tensor:
    """Indices of the share of rows with the smallest distance to the neighbour of this number (Ramaswamy et al. 2000).

    Similar outliers are close to each other, so the number should be larger than theirs.
    """
    near = squared_distances(u, u).topk(min(neighbour + 1, len(u)), largest=False).values
    return near[:, -1].topk(max(1, round(share * len(u))), largest=False).indices


def worth_learning(
    s: Tensor, weight: Tensor, recurring: Tensor, contamination: float, generator: torch.Generator
) -> Tensor:
    """Indices of the rows that a network should learn: not the farthest, half as many as outliers are expected.

    They are far from the `cleanest` of a sample of rows. Training leaves out rows with large losses, too, but not
    before it has learned outliers for a while. Missing cells, NaN, count as 0; recurring rows are learned.
    """
    filled = s.nan_to_num(0.0)
    sample = filled[sample_by_weight(weight, _SAMPLE, generator)[0].to(s.device)]
    memory = Memory.of(sample[cleanest(sample, contamination)])
    distance = torch.cat([memory(block) for block in filled.split(_SAMPLE)])
    distance[recurring] = 0.0
    return distance.topk(round((1 - _NEVER_LEARNED * contamination) * len(s)), largest=False).indices.sort().values


def unlike_outliers(u: Tensor, outliers: Tensor) -> Tensor:
    """Rows that are closer to other rows than to any known outlier, as a mask of shape ``(n,)``.

    The distance to other rows is the mean over five neighbours (after the edited nearest neighbours of Wilson 1972,
    for a memory of one class).
    """
    nearest = torch.stack([squared_distances(u, part).amin(1) for part in outliers.split(_SAMPLE)]).amin(0)
    return nearest.sqrt() > _mean_distance(squared_distances(u, u))


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """``|a_i - b_j|^2``, shape ``(len(a), len(b))``."""
    center = b.mean(0)  # far from 0, large squares would lose the digits of their differences
    a, b = a - center, b - center
    square = torch.addmm(b.square().sum(1), a, b.T, alpha=-2)
    return (square + a.square().sum(1, keepdim=True)).clamp(min=0)


def _mean_distance(squared: Tensor) -> Tensor:
    """Mean distance to the second to sixth nearest, or to the only one, shape ``(n,)``."""
    near = squared.topk(min(NEIGHBOURS + 1, squared.shape[1]), largest=False).values  # sorted
    return near[:, min(1, near.shape[1] - 1) :].clamp(min=0).sqrt().mean(1)
