"""The autoencoder, from which every objective is made: what it learns, remembers and says about a row."""

import math
from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn

from anomalyvae.nets.bodies import Body
from anomalyvae.nets.distributed import gathered, own, smallest
from anomalyvae.nets.likelihoods import LIKELIHOODS, Bernoulli, Gaussian, Mixture
from anomalyvae.nets.memory import Memory, apart, dense, drawn
from anomalyvae.nets.scaling import Mixed, Scaling, asinh

REACH = 10.0  # standardised units beyond which the encoder sees no further: a far row must not steer the decoder
_EXPOSED = 0.25  # known outliers shown in a step, as a share of its rows
_ALARM = 0.95  # share of a batch whose losses are below the line that known outliers are pushed over
_MARGIN = 1.0  # nats per cell by which they are
_PUSH = 0.1  # weight of the push: at 1, outliers that cannot be told from normal rows cost more than they teach
_SUSPECT_MARGIN = 3.0  # times the expected share of outliers is kept out of the memory: one row in it shields its like


class Reconstruction(nn.Module):
    """An autoencoder that states how precisely it knows each feature, and learns to do without some of them.

    In training, half of the rows hide a random share of their cells from the encoder, and all have to be
    reconstructed whole (masked autoencoding; for VAEs Ivanov et al. 2019, arXiv:1806.02382). A cell can so be told
    from the others, and a missing cell is nothing new.

    Parameters
    ----------
    body : Body
    input_shape : tuple of int
    latent_dim : int
    scaling : Scaling
    masking : float
        Largest share of a row's cells that are hidden.
    trimming : float
        Share of each batch, the rows with the largest losses, that is taken for outliers and not learned.
    likelihood : str
        Of numbers: a name in `LIKELIHOODS`. Beside categories they are Gaussian.
    """

    scores: tuple[str, ...] = ("reconstruction", "memory")
    generative = False  # whether codes follow a prior, N(0, I), from which new rows can be drawn
    body: Any  # a module with encode and decode
    scaling: Scaling
    memorised: Memory | None
    outliers: Tensor | None  # standardised rows that are known to be strange, while training lasts
    _codes = 1  # latent vectors that the encoder gives per row

    def __init__(
        self,
        body: Body,
        input_shape: tuple[int, ...],
        latent_dim: int,
        scaling: Scaling,
        masking: float,
        trimming: float,
        likelihood: str = "gaussian",
    ) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.latent_dim = latent_dim
        self.masking = masking
        self.trimming = trimming
        self.criterion = self.scores[-1]
        self.scaling = scaling
        self.body = body(input_shape, latent_dim)
        with torch.no_grad():
            features = self.body.encode(torch.zeros(2, *input_shape))
        self.to_code = nn.Linear(features.shape[1], self._codes * latent_dim)
        self.likelihood: Gaussian | Bernoulli | Mixture
        if isinstance(scaling, Mixed):
            self.likelihood = Mixture(scaling.numbers, scaling.categories, scaling.sizes)
            self.columns = len(scaling.cells)  # of the user; a category is many cells of s
        else:
            self.likelihood = LIKELIHOODS[likelihood](math.prod(input_shape))
            self.columns = math.prod(input_shape)
        self.missing = nn.Parameter(torch.zeros(math.prod(input_shape)))  # what the encoder sees in place of a cell
        self.memorised = None
        self.outliers = None

    def in_precision(self, dtype: torch.dtype) -> Self:
        """Convert everything but the scaling, whose raw units need all the digits there are."""
        scaling = self.scaling
        del self.scaling
        self.to(dtype)
        self.scaling = scaling
        return self

    # What training sees: standardised rows, NaN where a cell is missing

    def players(self) -> dict[str, list[nn.Parameter]]:
        """Whose parameters are optimised: one optimiser per name."""
        return {"model": list(self.parameters())}

    def turns(
        self, s: Tensor, weight: Tensor, warmth: float, generator: torch.Generator
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield the losses of one step; ``warmth`` rises from 0 to 1 over the first epochs."""
        loss = self._losses(s, self._hide(s, generator), warmth, generator)
        mean = self._mean(loss, weight, warmth)
        yield "model", mean if self.outliers is None else mean + self._exposure(loss, len(s), warmth, generator)

    def held_out_terms(self, s: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The terms of the loss for rows that are not learned, each of shape ``(n,)``; they add up to the loss."""
        s = own(s)
        return {"reconstruction": self.row_nll(s, self.encode(s))}

    def encode(self, s: Tensor) -> Tensor:
        """Standardised rows ``(n, d)`` -> codes ``(n, latent_dim)``."""
        return self._codes_of(s)

    def decode(self, z: Tensor) -> Tensor:
        """Codes ``(n, latent_dim)`` -> what the likelihood takes for means or logits of rows ``(n, d)``."""
        return self.body.decode(z).flatten(1)

    def row_nll(self, s: Tensor, z: Tensor) -> Tensor:
        """``-log p(s | z)`` over the observed cells, shape ``(n,)``."""
        return self.likelihood.row_nll(s, self.decode(z))

    def joint(self, s: Tensor) -> Tensor:
        """Row, code and residual side by side, shape ``(n, k)``: the space in which rows are remembered.

        Missing cells are first filled in by what the decoder expects, so that a row is coded as a whole one, as the
        remembered rows are; their residual is zero. Residuals count in standard deviations, large ones by
        their logarithm (``asinh``): one badly reconstructed cell must not drown all else.
        """
        whole, missing = s, s.isnan()
        if missing.any():
            whole = torch.where(missing, self.likelihood.expected(self.decode(self.encode(s))), s)
        z = self.encode(whole)
        return torch.cat([whole, z, asinh(self.likelihood.residual(s, self.decode(z)))], dim=1)

    @torch.no_grad()
    def remember(
        self,
        s: Tensor,
        size: int,
        generator: torch.Generator,
        outliers: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> None:
        """Keep at most ``size`` of these standardised rows as the memory, the densest where outliers are among them.

        Where there are more, they are drawn by ``weight``; each stands for as many rows as its weight says. Rows like
        known ``outliers`` are left out.
        """
        kept = 1 - min(0.5, _SUSPECT_MARGIN * self.trimming)
        weight = torch.ones(len(s)) if weight is None else weight
        chosen, count = (part.to(s.device) for part in drawn(weight, round(size / kept), generator))
        u = self.joint(s[chosen])
        if outliers is not None:
            unlike = apart(u, self.joint(outliers))
            u, count = (u[unlike], count[unlike]) if unlike.sum() > 1 else (u, count)
        if self.trimming:
            crowd = math.ceil(2 * self.trimming * len(u))  # twice the outliers that are expected
            kept_rows = dense(u, kept, crowd)
            u, count = u[kept_rows], count[kept_rows]
        self.memorised = Memory.of(u, count)

    def _hide(self, s: Tensor, generator: torch.Generator) -> Tensor:
        if not self.masking:
            return s
        draw = torch.rand(len(s), self.columns + 1, generator=generator, device=s.device, dtype=s.dtype)
        share = self.masking * (2 * draw[:, :1] - 1)  # of each row's cells; below zero for half of the rows
        hidden = draw[:, 1:] < share
        if isinstance(self.scaling, Mixed):
            hidden = hidden[:, self.scaling.source]  # a category is hidden as a whole
        return s.masked_fill(hidden, torch.nan)

    def _losses(self, s: Tensor, seen: Tensor, warmth: float, generator: torch.Generator) -> Tensor:
        """The loss of each of this process's rows of a batch, of which the encoder sees ``seen``."""
        return self.row_nll(own(s), self.encode(own(seen)))

    def _exposure(self, loss: Tensor, count: int, warmth: float, generator: torch.Generator) -> Tensor:
        """How far known outliers stay below the alarm and a margin, on average, given the losses of a batch.

        Outlier exposure (Hendrycks et al. 2019, arXiv:1812.04606), whose margin for densities, one nat per dimension
        (section 4.4), is kept; it is measured from what all but a few rows of the batch stay below, not from a single
        row each. Beyond the margin nothing pushes any more: what is strange has no one place to go to.
        """
        assert self.outliers is not None  # noqa: S101
        draw = torch.randint(
            len(self.outliers), (math.ceil(_EXPOSED * count),), generator=generator, device=self.outliers.device
        )
        shown = self.outliers[draw]
        line = gathered(loss, count).quantile(_ALARM) + _MARGIN * self.columns
        return _PUSH * (line - self._losses(shown, shown, warmth, generator)).relu().sum() / len(shown)

    def _mean(self, loss: Tensor, weight: Tensor, warmth: float) -> Tensor:
        """Mean loss of a batch, of those rows that are learned."""
        kept, count = self._learned(loss, weight, warmth)
        return (own(weight)[kept] * loss[kept]).sum() / count

    def _learned(self, loss: Tensor, weight: Tensor, warmth: float) -> tuple[Tensor | slice, int]:
        """Which of this process's rows of a batch are learned, and how many of the whole batch are.

        All; but once the network can tell, without the rows that it finds hardest.
        """
        if not self.trimming or warmth < 1:
            return slice(None), len(weight)
        count = math.ceil((1 - self.trimming) * len(weight))
        return smallest(loss, count, len(weight)), count

    def _codes_of(self, s: Tensor) -> Tensor:
        seen = torch.where(s.isnan(), self.missing, s.clamp(-REACH, REACH))
        return self.to_code(self.body.encode(seen.view(-1, *self.input_shape)))

    # What a user asks: rows in their own units

    def forward(self, x: Tensor) -> Tensor:
        """Anomaly score of each row, shape ``(n,)``: the term that ``score`` names."""
        return getattr(self, self.criterion)(x)

    def reconstruction(self, x: Tensor) -> Tensor:
        """``-log p(x | z)`` at the code of each row, shape ``(n,)``."""
        s = self.scaling(x)
        return self.row_nll(s, self.encode(s))

    def memory(self, x: Tensor) -> Tensor:
        """How far each row lies from the remembered training rows, shape ``(n,)``."""
        assert self.memorised is not None, "remember rows first"  # noqa: S101
        return self.memorised(self.joint(self.scaling(x)))

    def feature_scores(self, x: Tensor) -> Tensor:
        """The part of each feature in ``reconstruction``, shape ``(n, d)``."""
        s = self.scaling(x)
        return self.likelihood.feature_nll(s, self.decode(self.encode(s)))

    def embed(self, x: Tensor) -> Tensor:
        """Codes ``(n, latent_dim)`` of rows."""
        return self.encode(self.scaling(x))

    def decode_units(self, z: Tensor) -> Tensor:
        """Rows ``(n, d)`` that codes stand for."""
        return self.scaling.inverse(self.likelihood.means(self.decode(z)))  # of categories the largest logit
