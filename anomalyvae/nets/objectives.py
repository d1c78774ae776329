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
from functools import partial
from typing import Any

import torch
from torch import Tensor

from anomalyvae.nets.adversarial import Adversarial
from anomalyvae.nets.bodies import BODIES, Body
from anomalyvae.nets.distributed import own
from anomalyvae.nets.generation import AggregatePosterior
from anomalyvae.nets.memory import Memory
from anomalyvae.nets.reconstruction import REACH, Reconstruction
from anomalyvae.nets.scaling import Scaling, restore_scaling

__all__ = ["IMPORTANCE_SAMPLES", "OBJECTIVES", "REACH", "Elbo", "Reconstruction", "build", "restore"]

IMPORTANCE_SAMPLES = 64  # of the importance-weighted bound
_SEEDING = threading.Lock()  # layers draw their weights from torch's one global generator


class Elbo(Reconstruction):
    """A variational autoencoder (Kingma & Welling 2013): diagonal Gaussian posterior, prior N(0, I).

    Parameters
    ----------
    beta : float
        Weight of the KL term (Higgins et al. 2017). 1 is the evidence lower bound; it enters training only, the
        scores always have the two terms at par.
    """

    scores = ("reconstruction", "kl", "log_likelihood", "elbo", "memory")
    generative = True
    noise: Tensor
    aggregate: AggregatePosterior | None  # where `sample` draws codes from, once trained
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
        likelihood: str = "gaussian",
    ) -> None:
        super().__init__(body, input_shape, latent_dim, scaling, masking, trimming, likelihood)
        self.beta = beta
        self.register_buffer("noise", _noise_table(latent_dim))
        self.aggregate = None

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


OBJECTIVES: dict[str, type[Reconstruction]] = {
    "elbo": Elbo,
    "reconstruction": Reconstruction,
    "adversarial": Adversarial,
}


def build(architecture: dict[str, Any], scaling: Scaling, seed: int = 0) -> Reconstruction:
    """Construct a network from plain values, and give torch's global generator back as it was.

    Parameters
    ----------
    architecture : dict
        ``objective``, ``body`` (a name or a callable), ``hidden``, ``input_shape``, ``latent_dim``, ``beta``,
        ``masking``, ``trimming``, ``likelihood`` and ``score``.
    scaling : Scaling
    seed : int
        Of the initial weights.
    """
    body = architecture["body"]
    if isinstance(body, str):
        body = partial(BODIES[body], hidden=tuple(architecture["hidden"]))
    shape = tuple(architecture["input_shape"])
    options = {name: architecture[name] for name in ("masking", "trimming")}
    options["likelihood"] = architecture.get("likelihood", "gaussian")  # older models had no other
    if architecture["objective"] != "reconstruction":
        options["beta"] = architecture["beta"]
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = OBJECTIVES[architecture["objective"]](body, shape, architecture["latent_dim"], scaling, **options)
    network.criterion = architecture["criterion"]
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
    if network.criterion == "memory":
        keys = state.get("memorised.keys", torch.empty(0))
        width = len(network.missing) + network.latent_dim + network.columns  # row, code and residual
        if keys.shape[:-1] != (width + 2,) or not keys.shape[-1]:
            raise RuntimeError(f"Got a memory of shape {tuple(keys.shape)}, expected ({width + 2}, rows).")
        network.memorised = Memory(keys)
    if isinstance(network, Elbo) and "aggregate.mean" in state:  # older models have none
        network.aggregate = AggregatePosterior.restored(network, state)
    network.load_state_dict(state, assign=True)
    return network.eval()
