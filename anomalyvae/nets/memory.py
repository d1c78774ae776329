"""The latent memory: training rows that a new row is measured against."""

from typing import Self

import torch
from torch import Tensor, nn

NEIGHBOURS = 5  # whose mean distance counts, after the nearest
_SPACING_FLOOR = 0.1  # of the median spacing: a crowd of near copies must not make its own surroundings strange
_TINY = 1e-9  # spacing of rows that are all the same


class Memory(nn.Module):
    """Mean distance to the second to sixth nearest of the remembered rows, each in the unit of its own surroundings.

    The nearest is passed over: it may be the row itself, and one strange row that was learned must not shield its
    like. So a training row scores much as a new one does.

    With r_j the mean distance of remembered row m_j from its nearest 5 others, the distance of a row u from it is
    ``|u - m_j| / sqrt(r_j + 0.1 median(r))``: where training rows lie close together, a small step away is as strange
    as a large one where they lie apart (after the local scaling of Zelnik-Manor & Perona 2004, Self-Tuning Spectral
    Clustering; the outlier scores of Breunig et al. 2000, LOF, and Ramaswamy et al. 2000, kNN, are its ends).

    Parameters
    ----------
    keys : Tensor of shape (k + 2, m)
        For each of m remembered rows of width k: with w_j the inverse of r_j plus the floor, ``-2 w_j m_j``, then
        ``w_j``, then ``w_j |m_j|^2``; so the squared distances of rows u are one product, ``[u, |u|^2, 1] @ keys``.
    """

    keys: Tensor

    def __init__(self, keys: Tensor) -> None:
        super().__init__()
        self.register_buffer("keys", keys)

    @classmethod
    def of(cls, u: Tensor, count: Tensor | None = None) -> Self:
        """Remember rows ``(m, k)``, each as if it stood for ``count`` rows, shape ``(m,)``.

        Where there are c times as many rows, distances are shorter by the factor ``c ** (-1 / dimension)``, those of a
        new row and the spacing in whose unit they count, so that the score is by the root of it.
        """
        squared = squared_distances(u, u)
        spacing = _beyond_the_nearest(squared)
        weight = 1 / (spacing + _SPACING_FLOOR * spacing.median() + _TINY)
        if count is not None and bool((count != count[0]).any()):
            weight = weight * (count / count.mean()).to(u) ** (-1 / dimension(squared))
        return cls(torch.cat([-2 * weight * u.T, weight[None], (weight * u.square().sum(1))[None]]))

    @property
    def rows(self) -> Tensor:
        """What is remembered, shape ``(m, k)``."""
        return (self.keys[:-2] / (-2 * self.keys[-2])).T

    def forward(self, u: Tensor) -> Tensor:
        """Rows ``(n, k)`` -> how far each lies from what is remembered, shape ``(n,)``."""
        squared = torch.cat([u, u.square().sum(1, keepdim=True), torch.ones_like(u[:, :1])], dim=1) @ self.keys
        return _beyond_the_nearest(squared)


def drawn(weight: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """At most ``count`` rows, drawn by their weights, none twice: their indices, and how many rows each stands for.

    Rows come at the rate of their weights, and the first are taken (Efraimidis & Spirakis 2006, Weighted random
    sampling with a reservoir). A row that is sure to be drawn stands for its weight; the others are drawn about in
    proportion to theirs, and stand for as many rows each (after Horvitz & Thompson 1952).
    """
    order = torch.randperm(len(weight), generator=generator)
    if len(weight) <= count or bool((weight == weight[0]).all()):
        chosen = order[:count]
        return chosen, weight[chosen]
    waits = -torch.rand(len(weight), generator=generator, dtype=torch.float64).log() / weight
    chosen = waits.argsort(stable=True)[:count]
    falling = weight.sort(descending=True).values
    rest = falling.sum() - falling.cumsum(0) + falling  # from each on
    each = rest / (count - torch.arange(len(falling)).clamp(max=count - 1))  # if all heavier ones are sure
    sure = int((falling[:count] >= each[:count]).long().cumprod(0).sum())
    return chosen, weight[chosen].clamp(min=float(each[min(sure, count - 1)]))


def dimension(squared: Tensor) -> float:
    """The number of dimensions that rows really fill, of their squared distances ``(m, m)``.

    ``1 / mean(log(d_k / d_j))`` over rows and neighbours j < k (Levina & Bickel 2004, Maximum Likelihood Estimation of
    Intrinsic Dimension, averaged as MacKay & Ghahramani 2005 do); the nearest is the row itself.
    """
    near = squared.topk(min(NEIGHBOURS + 2, squared.shape[1]), largest=False).values[:, 1:].clamp(min=_TINY)
    spread = 0.5 * (near[:, -1:] / near[:, :-1]).log()
    return max(1.0, 1 / max(float(spread.mean()), _TINY)) if spread.numel() else 1.0


def dense(u: Tensor, share: float, crowd: int) -> Tensor:
    """The share of rows in the densest surroundings, by mean distance to a crowd of neighbours, as indices.

    Strange rows that resemble each other are near to one another; a crowd larger than all of them is not fooled.
    """
    near = squared_distances(u, u).topk(min(crowd + 1, len(u)), largest=False).values
    return near.sqrt().mean(1).topk(max(1, round(share * len(u))), largest=False).indices.sort().values


def apart(u: Tensor, strange: Tensor) -> Tensor:
    """Which rows are not like strange ones, shape ``(n,)``: no strange row lies within their own surroundings.

    The surroundings of a row reach as far as its five nearest neighbours do on average (after the edited nearest
    neighbours of Wilson 1972, for a memory of one class).
    """
    return squared_distances(u, strange).amin(1).sqrt() > _beyond_the_nearest(squared_distances(u, u))


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """``|a_i - b_j|^2``, shape ``(len(a), len(b))``."""
    square = torch.addmm(b.square().sum(1), a, b.T, alpha=-2)
    return (square + a.square().sum(1, keepdim=True)).clamp(min=0)


def _beyond_the_nearest(squared: Tensor) -> Tensor:
    """Mean distance to the second to sixth nearest, or to the only one, shape ``(n,)``."""
    near = squared.topk(min(NEIGHBOURS + 1, squared.shape[1]), largest=False).values  # sorted
    return near[:, min(1, near.shape[1] - 1) :].clamp(min=0).sqrt().mean(1)
