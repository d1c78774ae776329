"""Likelihoods of a row given the decoder's output: log densities, residuals, means and samples of its cells.

``s`` is a standardised row, NaN where a cell is missing; ``decoded`` is the decoder's output for its code. A missing
cell adds nothing to the likelihood, and its residual is that of the expected value. A category is a block of one-hot
cells; the decoder gives its logits.

A likelihood of numbers is ``(cells) -> nn.Module`` with the methods of `Gaussian`; `LIKELIHOODS` names them.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

LOG_2PI = math.log(2 * math.pi)
NOISE_FLOOR = 0.01  # standard deviation of a cell, in standardised units: no feature needs more precision
SURPRISE_FLOOR = 1e-3  # probability shared by all levels, which bounds the loss of an unexpected one
_SERIES = 0.02  # below it, closed forms lose their digits by cancellation; a series does not
_VARIANCE_RATE = 30.0  # learning rate of the variances, relative to the weights


class Gaussian(nn.Module):
    """One learned variance per cell around a decoded mean, shared by all rows.

    A cell that is hard to reconstruct then counts less (Kingma & Welling 2013, appendix C.2). One variance per row is
    sharper on tables, but forgives a window its energy, which is what makes it anomalous.
    """

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(cells))

    def variance(self) -> Tensor:
        """Variance of each cell around its mean, shape ``(d,)``, or ``(networks, d)`` of a stack in training."""
        return (_VARIANCE_RATE * self.log_variance).exp() + NOISE_FLOOR**2

    def set_variance(self, variance: Tensor) -> None:
        """Replace the learned variances; those below the noise floor are raised to it."""
        learned = (variance - NOISE_FLOOR**2).clamp(min=torch.finfo(variance.dtype).tiny)
        self.log_variance = nn.Parameter(learned.log() / _VARIANCE_RATE)

    def feature_nll(self, s: Tensor, decoded: Tensor) -> Tensor:
        """``-log p(s_j | z)`` of each cell, shape ``(n, d)``."""
        variance = self.variance()
        nll = 0.5 * ((s - decoded).square() / variance + variance.log() + LOG_2PI)
        return nll.masked_fill(s.isnan(), 0.0)

    def row_nll(self, s: Tensor, decoded: Tensor) -> Tensor:
        """The sum of `feature_nll` over cells, shape ``(n,)``, in fewer steps, as training spends its time here."""
        variance = self.variance()
        error, constant = s - decoded, 0.5 * (variance.log() + LOG_2PI)
        missing = s.isnan()
        if not missing.any():
            total = constant.sum(-1)
            total = total.repeat_interleave(len(s) // len(total)) if total.dim() else total
            return _row_sums(error.square(), 0.5 / variance) + total
        error = error.masked_fill(missing, 0.0)
        return _row_sums(error.square(), 0.5 / variance) + _row_sums((~missing).to(s.dtype), constant)

    def residual(self, s: Tensor, decoded: Tensor) -> Tensor:
        """How many standard deviations each cell lies from its mean, shape ``(n, d)``."""
        return ((s - decoded) / self.variance().sqrt()).masked_fill(s.isnan(), 0.0)

    def means(self, decoded: Tensor) -> Tensor:
        """Mean of each cell, in standardised units ``(n, d)``."""
        return decoded

    def expected(self, decoded: Tensor) -> Tensor:
        """The value used for a missing cell, in standardised units ``(n, d)``: the mean."""
        return self.means(decoded)

    def sample(self, decoded: Tensor, noise: Tensor) -> Tensor:
        """Sample a row, from standard normal ``noise`` of shape ``(n, d)``."""
        return decoded + self.variance().sqrt() * noise


def _row_sums(cells: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums over the cells ``(n, d)`` of rows, by ``weight`` of shape ``(d,)`` or ``(networks, d)``."""
    if weight.dim() == 1:
        return torch.mv(cells, weight)
    return torch.bmm(cells.view(len(weight), len(cells) // len(weight), cells.shape[1]), weight[:, :, None]).flatten()


class Isotropic(Gaussian):
    """One learned variance for all cells, for cells in one unit such as pixels (Tipping & Bishop 1999).

    A pixel that is dark in every training row then counts as much as the others.
    """

    def __init__(self, cells: int) -> None:
        super().__init__(1)
        self.cells = cells

    def variance(self) -> Tensor:
        """Variance of each cell around its mean, shape ``(d,)``: the same for all."""
        variance = super().variance()
        return variance.expand(*variance.shape[:-1], self.cells)


class Bernoulli(nn.Module):
    """Cells that are 0 or 1; the decoder gives the logit of a 1.

    ``p = (1 - eps) sigmoid(decoded) + eps / 2`` with eps = 0.001, the floor of `Categorical`: a cell costs at most 7.6
    nats. A cell outside [0, 1] costs as much as the nearer end, and 100 nats per unit beyond it.
    """

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.cells = cells

    def feature_nll(self, s: Tensor, decoded: Tensor) -> Tensor:
        """``-log p(s_j | z)`` of each cell, shape ``(n, d)``."""
        observed = s.nan_to_num()
        inside = observed.clamp(0, 1)
        nll = self._nll(inside, decoded) + (observed - inside).abs() / NOISE_FLOOR
        return nll.masked_fill(s.isnan(), 0.0)

    def row_nll(self, s: Tensor, decoded: Tensor) -> Tensor:
        """The sum of `feature_nll` over cells, shape ``(n,)``."""
        return self.feature_nll(s, decoded).sum(1)

    def residual(self, s: Tensor, decoded: Tensor) -> Tensor:
        """How many standard deviations each cell lies from its mean, shape ``(n, d)``."""
        return ((s - self.means(decoded)) / self.variance(decoded).sqrt()).masked_fill(s.isnan(), 0.0)

    def means(self, decoded: Tensor) -> Tensor:
        """Mean of each cell, shape ``(n, d)``: the probability of a 1."""
        return SURPRISE_FLOOR / 2 + (1 - SURPRISE_FLOOR) * decoded.sigmoid()

    def variance(self, decoded: Tensor) -> Tensor:
        """Variance of each cell around its mean, shape ``(n, d)``."""
        p = self.means(decoded)
        return p * (1 - p)

    def expected(self, decoded: Tensor) -> Tensor:
        """The value used for a missing cell, shape ``(n, d)``: the mean."""
        return self.means(decoded)

    def sample(self, decoded: Tensor, noise: Tensor) -> Tensor:
        """Sample a row, from standard normal ``noise`` of shape ``(n, d)``."""
        return (torch.special.ndtr(noise) < self.means(decoded)).to(decoded.dtype)

    def _nll(self, s: Tensor, decoded: Tensor) -> Tensor:
        p = self.means(decoded)
        return -(s * p.log() + (1 - s) * (1 - p).log())


class ContinuousBernoulli(Bernoulli):
    """Intensities between 0 and 1, with the density ``p(s) = exp(t s) / C(t)`` (Loaiza-Ganem & Cunningham 2019).

    It is the likelihood of `Bernoulli` divided by its integral (arXiv:1907.06845, equations 4-7, where t is the logit
    of lambda), which makes it a density of intensities. The decoder gives t, bounded by ``t / (1 + |t| / 100)``: at
    100, mean and standard deviation are 0.01 from either end, the noise floor of `Gaussian`.
    """

    def means(self, decoded: Tensor) -> Tensor:
        """Mean of each cell, shape ``(n, d)``: 1/2 + sign(t) (coth h - 1/h) / 2 with h = |t| / 2."""
        t, (h, e, near) = _natural(decoded), _halved(decoded)
        return 0.5 + torch.where(near, t / 12 - t**3 / 720, 0.5 * t.sign() * ((1 + e) / (1 - e) - 1 / h))

    def variance(self, decoded: Tensor) -> Tensor:
        """Variance of each cell around its mean, shape ``(n, d)``: (1/h^2 - 1/sinh^2 h) / 4."""
        t, (h, e, near) = _natural(decoded), _halved(decoded)
        return torch.where(near, 1 / 12 - t**2 / 240 + t**4 / 6048, 0.25 * (1 / h.square() - 4 * e / (1 - e).square()))

    def sample(self, decoded: Tensor, noise: Tensor) -> Tensor:
        """Sample a row, from standard normal ``noise``, by the inverse of the distribution function."""
        t, u = _natural(decoded), torch.special.ndtr(noise)
        steep = torch.where(t.abs() < 1e-6, 1e-6, t)
        return ((u * steep.expm1()).log1p() / steep).clamp(0, 1)

    def _nll(self, s: Tensor, decoded: Tensor) -> Tensor:
        """``log C(t) - t s``, with ``log C = t / 2 + log(sinh h / h)``."""
        t, (h, e, near) = _natural(decoded), _halved(decoded)
        return torch.where(near, t**2 / 24 - t**4 / 2880, h + ((1 - e) / (2 * h)).log()) - t * (s - 0.5)


def _natural(decoded: Tensor) -> Tensor:
    """The decoder's output, bounded by the inverse of the noise floor."""
    return decoded / (1 + NOISE_FLOOR * decoded.abs())


def _halved(decoded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """H = |t| / 2, at least `_SERIES`; exp(-2 h); and where h was below it."""
    h = 0.5 * _natural(decoded).abs()
    kept = h.clamp(min=_SERIES)
    return kept, (-2 * kept).exp(), h < _SERIES


class Categorical(nn.Module):
    """The level of each category: a known one, or any other; the decoder gives logits.

    ``p(level) = (1 - eps) softmax(decoded) + eps / levels`` with eps = 0.001. A level that was not in training costs
    ``-log(eps / levels)``: 8 nats with two known levels and 9 with ten, as much as a number about four standard
    deviations off. That stands out, but one cell does not dominate a row.

    ``sizes`` are the cells of each category's one-hot block, the last for levels other than the known ones.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = list(sizes)

    def feature_nll(self, s: Tensor, decoded: Tensor) -> Tensor:
        """``-log p(level | z)`` of each category, shape ``(n, categories)``."""
        nll = -s.nan_to_num() * self.probabilities(decoded).log()
        return torch.cat([block.sum(1, keepdim=True) for block in nll.split(self.sizes, dim=1)], dim=1)

    def row_nll(self, s: Tensor, decoded: Tensor) -> Tensor:
        """The sum of `feature_nll` over categories, shape ``(n,)``."""
        return -(s.nan_to_num() * self.probabilities(decoded).log()).sum(1)

    def residual(self, s: Tensor, decoded: Tensor) -> Tensor:
        """Root of Pearson's chi-square of the level of each category, shape ``(n, categories)``.

        The statistic of one observation is ``1 / p(level) - 1``. Its mean is the number of known levels minus one;
        divided by that, a category counts as much as one standardised number, however many levels it has.
        """
        freedom = torch.tensor([max(1, size - 2) for size in self.sizes]).to(s)
        whole = torch.where(s.isnan(), self.expected(decoded), s)
        return (self.feature_nll(whole, decoded).clamp(min=0).expm1() / freedom).sqrt()

    def probabilities(self, decoded: Tensor) -> Tensor:
        """The probability of each level, shape ``(n, cells)``."""
        blocks = decoded.split(self.sizes, dim=1)
        floor = SURPRISE_FLOOR
        return torch.cat([(1 - floor) * block.softmax(1) + floor / block.shape[1] for block in blocks], dim=1)

    def expected(self, decoded: Tensor) -> Tensor:
        """The likeliest level, one-hot, shape ``(n, cells)``."""
        return torch.cat([_one_hot(block, block.shape[1]) for block in decoded.split(self.sizes, dim=1)], dim=1)

    def sample(self, decoded: Tensor, noise: Tensor) -> Tensor:
        """Sample a known level of each category, one-hot, from standard normal ``noise`` of shape ``(n, cells)``.

        By the maximum of logits plus Gumbel noise (Maddison et al. 2014, A* Sampling, section 2).
        """
        gumbel = -(-torch.special.ndtr(noise).log()).log()
        blocks = (decoded + gumbel).split(self.sizes, dim=1)
        return torch.cat([_one_hot(block[:, : max(1, block.shape[1] - 1)], block.shape[1]) for block in blocks], dim=1)


def _one_hot(block: Tensor, cells: int) -> Tensor:
    """1 at each row's largest cell, 0 elsewhere, shape ``(n, cells)``."""
    return (block.argmax(1, keepdim=True) == torch.arange(cells, device=block.device)).to(block.dtype)


class Mixture(nn.Module):
    """Numbers and categories side by side, independent given the code: `Gaussian` cells, then `Categorical` ones.

    ``numbers`` and ``categories`` are their columns in the user's row; in ``s`` numbers come first, then categories, of
    which each has as many cells as ``sizes`` says.
    """

    def __init__(self, numbers: Sequence[int], categories: Sequence[int], sizes: Sequence[int]) -> None:
        super().__init__()
        self.split = [len(numbers), sum(sizes)]
        given = [*numbers, *categories]
        self.order = [given.index(column) for column in range(len(given))]
        self.gaussian = Gaussian(len(numbers))
        self.categorical = Categorical(sizes)

    def feature_nll(self, s: Tensor, decoded: Tensor) -> Tensor:
        """``-log p`` of each number and category, shape ``(n, d)``, in the user's order."""
        return torch.cat(self._both("feature_nll", s, decoded), dim=1)[:, self.order]

    def row_nll(self, s: Tensor, decoded: Tensor) -> Tensor:
        """The sum of `feature_nll`, shape ``(n,)``."""
        numbers, categories = self._both("row_nll", s, decoded)
        return numbers + categories

    def residual(self, s: Tensor, decoded: Tensor) -> Tensor:
        """Standardised residual of each number and category, shape ``(n, d)``, in the user's order."""
        return torch.cat(self._both("residual", s, decoded), dim=1)[:, self.order]

    def means(self, decoded: Tensor) -> Tensor:
        """Mean of each number, logits of each category, shape ``(n, cells)``."""
        return decoded

    def expected(self, decoded: Tensor) -> Tensor:
        """Mean of each number, likeliest level of each category, shape ``(n, cells)``."""
        return torch.cat(self._both("expected", decoded), dim=1)

    def sample(self, decoded: Tensor, noise: Tensor) -> Tensor:
        """Sample a row, from standard normal ``noise``, both of shape ``(n, cells)``."""
        return torch.cat(self._both("sample", decoded, noise), dim=1)

    def _both(self, method: str, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        parts = [argument.split(self.split, dim=1) for argument in arguments]
        numbers, categories = zip(*parts, strict=True)
        return getattr(self.gaussian, method)(*numbers), getattr(self.categorical, method)(*categories)


Likelihood = Gaussian | Bernoulli | Mixture


def gaussian_of(likelihood: Likelihood) -> Gaussian | None:
    """The part of a likelihood that has learned variances, if any."""
    numbers = likelihood.gaussian if isinstance(likelihood, Mixture) else likelihood
    return numbers if isinstance(numbers, Gaussian) else None


LIKELIHOODS: dict[str, Callable[[int], Gaussian | Bernoulli]] = {
    "gaussian": Gaussian,
    "isotropic": Isotropic,
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
}
