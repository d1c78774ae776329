"""What learning means, and the scores that a trained network gives.

An objective owns the network and says three things:

- ``players()``: whose parameters are optimised, one optimiser each;
- ``turns(x, weight, warmth, generator)``: a generator of ``(player, loss)``; the loop steps after each, so that a
  second player's loss is computed with the first player's new parameters;
- ``forward(x)``: the anomaly score of each row, high = strange. Nothing else is exported.

Rows come in two dresses: ``x`` in the user's units enters the scores; ``s`` is standardised, and is what training
sees. Scores are in nats per standardised row.

Where several processes train together, each draws the random numbers of the whole batch, computes the losses of its
own rows, and yields its part of the batch's mean; see `anomalyvae.nets.distributed`.
"""

import math
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from anomalyvae.nets.bodies import BODIES, Body
from anomalyvae.nets.distributed import gathered, own, smallest
from anomalyvae.nets.likelihoods import Gaussian, Mixture
from anomalyvae.nets.memory import Memory, apart, dense
from anomalyvae.nets.scaling import Mixed, Scaling, asinh, restore_scaling

IMPORTANCE_SAMPLES = 64  # of the importance-weighted bound
_SEEDING = threading.Lock()  # layers draw their weights from torch's one global generator
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
    """

    scores: tuple[str, ...] = ("reconstruction", "memory")
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
    ) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.latent_dim = latent_dim
        self.masking = masking
        self.trimming = trimming
        self.score = self.scores[-1]
        self.scaling = scaling
        self.body = body(input_shape, latent_dim)
        with torch.no_grad():
            features = self.body.encode(torch.zeros(2, *input_shape))
        self.to_code = nn.Linear(features.shape[1], self._codes * latent_dim)
        self.likelihood: Gaussian | Mixture
        if isinstance(scaling, Mixed):
            self.likelihood = Mixture(scaling.numbers, scaling.categories, scaling.sizes)
            self.columns = len(scaling.cells)  # of the user; a category is many cells of s
        else:
            self.likelihood = Gaussian(math.prod(input_shape))
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
        """Codes ``(n, latent_dim)`` -> means of standardised rows ``(n, d)``."""
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
    def remember(self, s: Tensor, size: int, generator: torch.Generator, outliers: Tensor | None = None) -> None:
        """Keep at most ``size`` of these standardised rows as the memory, the densest where outliers are among them.

        Rows like known ``outliers`` are left out.
        """
        kept = 1 - min(0.5, _SUSPECT_MARGIN * self.trimming)
        chosen = torch.randperm(len(s), generator=generator)[: round(size / kept)].to(s.device)
        u = self.joint(s[chosen])
        if outliers is not None:
            unlike = apart(u, self.joint(outliers))
            u = u[unlike] if unlike.sum() > 1 else u
        crowd = math.ceil(2 * self.trimming * len(u))  # twice the outliers that are expected
        self.memorised = Memory.of(u[dense(u, kept, crowd)] if self.trimming else u)

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
        """Mean loss of a batch; once the network can tell, without the rows that it finds hardest."""
        count, weight = len(weight), own(weight)
        if self.trimming and warmth >= 1:
            learned = math.ceil((1 - self.trimming) * count)
            loss, kept = smallest(loss, learned, count)
            count, weight = learned, weight[kept]
        return (weight * loss).sum() / count

    def _codes_of(self, s: Tensor) -> Tensor:
        seen = torch.where(s.isnan(), self.missing, s.clamp(-REACH, REACH))
        return self.to_code(self.body.encode(seen.view(-1, *self.input_shape)))

    # What a user asks: rows in their own units

    def forward(self, x: Tensor) -> Tensor:
        """Anomaly score of each row, shape ``(n,)``: the term that ``score`` names."""
        return getattr(self, self.score)(x)

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
        return self.scaling.inverse(self.decode(z))  # means of numbers, and the largest logit is the likeliest level


class Elbo(Reconstruction):
    """A variational autoencoder (Kingma & Welling 2013): diagonal Gaussian posterior, prior N(0, I).

    Parameters
    ----------
    beta : float
        Weight of the KL term (Higgins et al. 2017). 1 is the evidence lower bound; it enters training only, the
        scores always have the two terms at par.
    """

    scores = ("reconstruction", "kl", "log_likelihood", "elbo", "memory")
    noise: Tensor
    _codes = 2

    def __init__(
        self,
        body: Body,
        input_shape: tuple[int, ...],
        latent_dim: int,
        scaling: Scaling,
        masking: float,
        trimming: float,
        beta: float,
    ) -> None:
        super().__init__(body, input_shape, latent_dim, scaling, masking, trimming)
        self.beta = beta
        self.register_buffer("noise", _noise_table(latent_dim))

    def _losses(self, s: Tensor, seen: Tensor, warmth: float, generator: torch.Generator) -> Tensor:
        """The negative ELBO with one draw of z per row; the KL term grows with ``warmth``."""
        noise = own(self._noise(s, generator))
        mean, log_var = self.posterior(own(seen))
        z = reparameterise(mean, log_var, noise)
        return self.row_nll(own(s), z) + warmth * self.beta * kl_to_standard_normal(mean, log_var)

    def held_out_terms(self, s: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The two terms at full weight, with one draw of z per row."""
        s, noise = own(s), own(self._noise(s, generator))
        mean, log_var = self.posterior(s)
        z = reparameterise(mean, log_var, noise)
        return {
            "reconstruction": self.row_nll(s, z),
            "kl": self.beta * kl_to_standard_normal(mean, log_var),
        }

    def _noise(self, s: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(len(s), self.latent_dim, generator=generator, device=s.device, dtype=s.dtype)

    def posterior(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z | s), each ``(n, latent_dim)``."""
        mean, log_var = self._codes_of(s).chunk(2, dim=1)
        return mean, log_var.clamp(-12, 12)

    def encode(self, s: Tensor) -> Tensor:
        """Posterior means ``(n, latent_dim)`` of standardised rows."""
        return self.posterior(s)[0]

    def elbo(self, x: Tensor) -> Tensor:
        """The negative ELBO with its expectation taken at the posterior mean: reconstruction + KL, shape ``(n,)``."""
        s = self.scaling(x)
        mean, log_var = self.posterior(s)
        return self.row_nll(s, mean) + kl_to_standard_normal(mean, log_var)

    def kl(self, x: Tensor) -> Tensor:
        """KL(q(z | x) || N(0, I)) of each row, shape ``(n,)``."""
        return kl_to_standard_normal(*self.posterior(self.scaling(x)))

    def log_likelihood(self, x: Tensor) -> Tensor:
        """The negative importance-weighted bound, shape ``(n,)`` (Burda et al. 2016, equation 8)."""
        s = self.scaling(x)
        mean, log_var = self.posterior(s)
        std = (0.5 * log_var).exp()
        log_weights = []
        for noise in self.noise:
            z = mean + std * noise
            log_ratio = 0.5 * (noise.square() - z.square() + log_var).sum(1)  # log p(z) - log q(z | x)
            log_weights.append(log_ratio - self.row_nll(s, z))
        return math.log(len(log_weights)) - torch.stack(log_weights).logsumexp(0)


def _noise_table(latent_dim: int) -> Tensor:
    """Fixed normal points ``(IMPORTANCE_SAMPLES, latent_dim)``: importance sampling that repeats and exports."""
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(IMPORTANCE_SAMPLES // 2, latent_dim, generator=generator, device="cpu")
    return torch.cat([half, -half])  # antithetic: the mean is exactly zero


def reparameterise(mean: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
    """Draw ``z = mean + std * noise``, so that gradients flow through both (Kingma & Welling 2013, section 2.4)."""
    return torch.addcmul(mean, (0.5 * log_var).exp(), noise)


def kl_to_standard_normal(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, diag exp log_var) || N(0, I)) per row (Kingma & Welling 2013, appendix B), shape ``(n,)``."""
    return 0.5 * ((log_var.exp() + mean.square() - log_var).sum(1) - mean.shape[1])


OBJECTIVES: dict[str, type[Reconstruction]] = {"elbo": Elbo, "reconstruction": Reconstruction}


def build(architecture: dict[str, Any], scaling: Scaling, seed: int = 0) -> Reconstruction:
    """Construct a network from plain values, and give torch's global generator back as it was.

    Parameters
    ----------
    architecture : dict
        ``objective``, ``body`` (a name or a callable), ``hidden``, ``input_shape``, ``latent_dim``, ``beta``,
        ``masking``, ``trimming`` and ``score``.
    scaling : Scaling
    seed : int
        Of the initial weights.
    """
    body = architecture["body"]
    if isinstance(body, str):
        body = partial(BODIES[body], hidden=tuple(architecture["hidden"]))
    shape = tuple(architecture["input_shape"])
    options = {name: architecture[name] for name in ("masking", "trimming")}
    if architecture["objective"] == "elbo":
        options["beta"] = architecture["beta"]
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = OBJECTIVES[architecture["objective"]](body, shape, architecture["latent_dim"], scaling, **options)
    network.score = architecture["score"]
    return network


def restore(architecture: dict[str, Any], state: dict[str, Tensor]) -> Reconstruction:
    """Construct a trained network from plain values and its tensors, as ``state_dict`` gave them out.

    Raises
    ------
    RuntimeError
        If the tensors are not those that the architecture has. Nothing of their size is allocated before.
    """
    parts = {name.removeprefix("scaling."): t for name, t in state.items() if name.startswith("scaling.")}
    scaling = restore_scaling(parts)
    with torch.device("meta"):
        network = build(architecture, scaling).in_precision(torch.float64)
    if network.score == "memory":
        keys = state.get("memorised.keys", torch.empty(0))
        width = len(network.missing) + network.latent_dim + network.columns  # row, code and residual
        if keys.shape[:-1] != (width + 2,) or not keys.shape[-1]:
            raise RuntimeError(f"Got a memory of shape {tuple(keys.shape)}, expected ({width + 2}, rows).")
        network.memorised = Memory(keys)
    network.load_state_dict(state, assign=True)
    return network.eval()
