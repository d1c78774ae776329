"""What a decoder's output says about a row: how likely each cell is, and how far it lies from what was expected.

``s`` is a standardised row, NaN where a cell is missing; ``decoded`` is what the decoder made of the row's code. A
missing cell is no evidence: it adds nothing to a likelihood, and its residual is zero.
"""

import math

import torch
from torch import Tensor, nn

LOG_2PI = math.log(2 * math.pi)
NOISE_FLOOR = 0.01  # of a cell, in standardised units: a precision that no feature needs
_VARIANCE_RATE = 30.0  # how much faster the variances learn than the weights: they have far to go


class Gaussian(nn.Module):
    """One learned variance per cell around a decoded mean, shared by all rows.

    A cell that is hard to reconstruct then counts less (Kingma & Welling 2013, appendix C.2). A variance of each row's
    own is sharper on tables, but forgives a window its energy, which is what makes it strange.

    Parameters
    ----------
    cells : int
    noise_floor : float
        Smallest standard deviation, in standardised units.
    """

    def __init__(self, cells: int, noise_floor: float = NOISE_FLOOR) -> None:
        super().__init__()
        self.noise_floor = noise_floor
        self.log_variance = nn.Parameter(torch.zeros(cells))

    def variance(self) -> Tensor:
        """Variance of each cell around its mean, shape ``(d,)``."""
        return (_VARIANCE_RATE * self.log_variance).exp() + self.noise_floor**2

    def feature_nll(self, s: Tensor, decoded: Tensor) -> Tensor:
        """``-log p(s_j | z)`` of each cell, shape ``(n, d)``."""
        variance = self.variance()
        nll = 0.5 * ((s - decoded).square() / variance + variance.log() + LOG_2PI)
        return nll.masked_fill(s.isnan(), 0.0)

    def row_nll(self, s: Tensor, decoded: Tensor) -> Tensor:
        """The sum of `feature_nll` over cells, shape ``(n,)``, in fewer steps: training spends its time here."""
        variance = self.variance()
        error, constant = s - decoded, 0.5 * (variance.log() + LOG_2PI)
        missing = s.isnan()
        if not missing.any():
            return torch.mv(error.square(), 0.5 / variance) + constant.sum()
        error = error.masked_fill(missing, 0.0)
        return torch.mv(error.square(), 0.5 / variance) + torch.mv((~missing).to(s.dtype), constant)

    def residual(self, s: Tensor, decoded: Tensor) -> Tensor:
        """How many standard deviations each cell lies from its mean, shape ``(n, d)``."""
        return ((s - decoded) / self.variance().sqrt()).masked_fill(s.isnan(), 0.0)

    def expected(self, decoded: Tensor) -> Tensor:
        """The row that is expected, in standardised units ``(n, d)``."""
        return decoded

    def draw(self, decoded: Tensor, noise: Tensor) -> Tensor:
        """A row as the decoder would draw it, from standard normal ``noise`` of shape ``(n, d)``."""
        return decoded + self.variance().sqrt() * noise
