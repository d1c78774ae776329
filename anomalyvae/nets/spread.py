"""How segments of windows spread: their covariance, of all and without those of a fold."""

import torch
from torch import Tensor

from anomalyvae.nets.described import cosines
from anomalyvae.nets.ellipsoid import MOST_COLUMNS, PAD, padded, shrunk
from anomalyvae.nets.likelihoods import NOISE_FLOOR

_RELATIONS = 0.2  # weight of covariances between signals: relations change from one drive to the next
_FOLDS = 5


class Spread:
    """The mean and the covariance of the segments of windows, and how far each window is from those in other folds.

    Covariances between signals weigh a fifth. Of many signals, only the slower movements have a part, so that there are
    at most 1,024 numbers: the lowest coefficients of the cosine transform. A covariance without a fold comes from sums
    over the folds: products of rows take the longest, and each row is multiplied once.

    Parameters
    ----------
    x : Tensor of shape (n, segments, signals, samples)
    weight : Tensor of shape (n,)
        How often each of the n windows counts.
    """

    def __init__(self, x: Tensor, weight: Tensor) -> None:
        n, segments, self.signals, samples = x.shape
        self.weight = weight[:, None].expand(n, segments)
        self.mean = ((weight / weight.sum())[:, None, None] * x.mean(1)).sum(0).flatten()
        self.waves = cosines(samples)[:, : _kept(self.signals, samples)].to(x)
        numbers = (x @ self.waves).flatten(2)
        self.numbers = numbers - numbers.mean((0, 1))  # sums of products of small numbers keep their digits
        self.fold = torch.arange(n, device=x.device) % min(_FOLDS, n)
        self.sums = [self._sums(self.fold == i) for i in range(int(self.fold.max()) + 1)]
        signal = torch.arange(self.signals, device=x.device).repeat_interleave(self.waves.shape[1])
        self.relations = torch.where(signal[:, None] == signal, 1.0, _RELATIONS).to(x)

    def whitening(self) -> tuple[Tensor, Tensor]:
        """The mean of segments, and the matrix that whitens differences from it, for flat ones."""
        if not self.waves.shape[1]:
            return self.mean, self.mean.new_zeros(len(self.mean), 0)
        _, lower = self._without(None)
        white = torch.linalg.solve_triangular(lower, torch.eye(len(lower)).to(lower), upper=False).T
        return self.mean, padded((self.waves @ white.view(self.signals, self.waves.shape[1], -1)).flatten(0, 1))

    def from_others(self) -> Tensor:
        """The Mahalanobis distance of the farthest segment of each window from those in other folds, shape ``(n,)``."""
        farthest = self.mean.new_zeros(len(self.fold))
        for fold in range(len(self.sums)) if self.waves.shape[1] else ():
            mean, lower = self._without(fold)
            own = self.numbers[self.fold == fold]
            away = torch.linalg.solve_triangular(lower, (own - mean).flatten(0, 1).T, upper=False)
            farthest[self.fold == fold] = away.square().sum(0).sqrt().view(own.shape[:2]).amax(1)
        return farthest

    def _sums(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The total weight of some windows, and the weighted sums of their numbers and of the products of these."""
        numbers, weight = self.numbers[chosen].flatten(0, 1), self.weight[chosen].flatten()[:, None]
        weighted = numbers * weight
        return weight.sum(), weighted.sum(0), weighted.T @ numbers

    def _without(self, fold: int | None) -> tuple[Tensor, Tensor]:
        """The mean of the numbers outside a fold, and the lower triangular root of their covariance."""
        rest = [sums for number, sums in enumerate(self.sums) if number != fold]
        count, total, product = (sum(parts[1:], start=parts[0]) for parts in zip(*rest, strict=True))
        mean = total / count
        away = (self.numbers - mean).square().sum(2)
        if fold is not None:
            away[self.fold == fold] = 0.0
        fourth = (self.weight * away.square()).sum() / count
        covariance, _ = shrunk((product / count).addr_(mean, mean, alpha=-1), fourth, count)
        covariance.mul_(self.relations).diagonal().add_(NOISE_FLOOR**2)
        return mean, torch.linalg.cholesky(covariance)


def whitening_shapes(signals: int, samples: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of what `Spread.whitening` returns."""
    numbers = signals * _kept(signals, samples)
    return (signals * samples,), (signals * samples, numbers + -numbers % PAD)


def _kept(signals: int, samples: int) -> int:
    """How many coefficients of each signal have a part."""
    return min(samples, MOST_COLUMNS // signals)
