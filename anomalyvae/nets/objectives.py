"""The adversarial autoencoder, the table of objectives, and networks built from plain values.

An objective owns the network and defines three things:

- ``players()``: the parameters that are optimised, one optimiser each;
- ``turns(s, weight, warmth, generator)``: a generator of ``(player, loss)``. The loop takes a step after each, so the
  second player's loss is computed with the first player's new parameters;
- ``forward(x)``: the anomaly score of each row, high = anomalous. Only this is exported.

``x`` is a row in the user's units, which scores take; ``s`` is a standardised row, which training takes. Scores are in
nats per standardised row.
"""

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from anomalyvae.nets.bodies import Linear
from anomalyvae.nets.described import Described
from anomalyvae.nets.elbo import AggregatePosterior, Elbo
from anomalyvae.nets.likelihoods import LOG_2PI
from anomalyvae.nets.memory import Memory
from anomalyvae.nets.reconstruction import Reconstruction
from anomalyvae.nets.scaling import Scaling, restore_scaling
from anomalyvae.nets.views import COMPARING, Views
from anomalyvae.nets.window_views import WindowViews

_SEEDING = threading.Lock()  # layers draw their weights from torch's one global generator
_CRITIC = (64, 64)  # widths of the critic's layers
_SMOOTHNESS = 0.1  # weight of the gradient penalty, which makes the two players converge


class Adversarial(Reconstruction):
    """An autoencoder whose codes a critic pulls towards N(0, I) (Makhzani et al. 2015, arXiv:1511.05644).

    The critic D classifies samples of the prior against codes of rows, by logistic regression; the encoder learns to
    be classified as the prior, by the non-saturating loss of Goodfellow et al. (2014, section 3). The optimal critic
    is ``D(z) = log p(z) - log q(z)``, with q the density of the codes of training rows (there, proposition 1). So
    ``log p(z) - D(z)`` estimates ``log q(z)`` after training. ``beta`` weighs the encoder's part, in nats as the KL
    term of `Elbo`.
    """

    scores = ("reconstruction", "critic", "energy", *COMPARING)
    generative = True

    def __init__(self, architecture: Mapping[str, Any], scaling: Scaling) -> None:
        super().__init__(architecture, scaling)
        widths = (self.latent_dim, *_CRITIC)
        layers = [layer for i, width in enumerate(_CRITIC) for layer in (Linear(widths[i], width), nn.Hardswish())]
        self.discriminator = nn.Sequential(*layers, Linear(_CRITIC[-1], 1))

    def players(self) -> dict[str, list[nn.Parameter]]:
        """The critic, and all other parameters."""
        critic = list(self.discriminator.parameters())
        return {"critic": critic, "model": [p for p in self.parameters() if all(p is not one for one in critic)]}

    def turns(
        self, s: Tensor, weight: Tensor, warmth: float, generator: torch.Generator
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield the critic's loss, then the model's loss under the updated critic."""
        yield "critic", self._critic_loss(s, weight, warmth, generator)
        yield from super().turns(s, weight, warmth, generator)

    def logit(self, z: Tensor) -> Tensor:
        """Log odds that a code is a sample of the prior and not of a row, in nats, shape ``(n,)``."""
        return self.discriminator(z)[:, 0]

    def critic(self, x: Tensor) -> Tensor:
        """``-log q(z)`` of each row: how rare its code is among those of training rows, shape ``(n,)``."""
        return self._rarity(self.encode(self.scaling(x)))

    def energy(self, x: Tensor) -> Tensor:
        """``-log p(x | z) q(z)`` at the code of each row, shape ``(n,)``: reconstruction and critic together."""
        s = self.scaling(x)
        z = self.encode(s)
        return self.row_nll(s, z) + self._rarity(z)

    def _rarity(self, z: Tensor) -> Tensor:
        """``-log q(z) = D(z) - log p(z)``."""
        return self.logit(z) + 0.5 * (z.square().sum(1) + self.latent_dim * LOG_2PI)

    def _critic_loss(self, s: Tensor, weight: Tensor, warmth: float, generator: torch.Generator) -> Tensor:
        """Logistic loss of prior samples against codes, with a zero-centred gradient penalty at the samples.

        The penalty is R1 of Mescheder et al. (2018, arXiv:1801.04406, equation 9). Trimmed rows are left out here too.
        """
        noise = torch.randn(len(s), self.latent_dim, generator=generator, device=s.device, dtype=s.dtype)
        prior = noise.requires_grad_()
        with torch.no_grad():
            z = self.encode(self._hide(s, generator))
            kept = self._learned(self.row_nll(s, z), warmth)
        taken = weight[kept] * functional.softplus(self.logit(z[kept]))
        logit = self.logit(prior)
        (slope,) = torch.autograd.grad(logit.sum(), prior, create_graph=True)
        given = functional.softplus(-logit) + 0.5 * _SMOOTHNESS * slope.square().sum(1)
        return taken.mean() + given.mean()

    def _losses(self, s: Tensor, seen: Tensor, warmth: float, generator: torch.Generator) -> Tensor:
        """Reconstruction, and the critic's confidence that a code is no prior sample; ``warmth`` scales the latter."""
        z = self.encode(seen)
        return self.row_nll(s, z) + warmth * self.beta * functional.softplus(-self.logit(z))


OBJECTIVES: dict[str, type[Reconstruction]] = {
    "elbo": Elbo,
    "reconstruction": Reconstruction,
    "adversarial": Adversarial,
}


def build(architecture: dict[str, Any], scaling: Scaling, seed: int = 0) -> Reconstruction:
    """Construct a network from ``objective`` and what `Reconstruction` takes, with initial weights from ``seed``.

    Torch's global generator keeps its state.
    """
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return OBJECTIVES[architecture["objective"]](architecture, scaling)


def restore(architecture: dict[str, Any], state: dict[str, Tensor]) -> Reconstruction:
    """Construct a trained network from plain values and the tensors of its ``state_dict``.

    Tensors that do not fit raise RuntimeError, before memory of their size is allocated.
    """
    scaling = restore_scaling(
        {name.removeprefix("scaling."): t for name, t in state.items() if name.startswith("scaling.")}
    )
    with torch.device("meta"):
        network = build(architecture, scaling).in_precision(torch.float64)
    width = network.cells + network.latent_dim + network.columns  # row, code and residual
    if network.criterion == "memory":
        network.memorised = Memory.restored(width, state)
    elif network.has_views and "described.center" in state:  # windows; older models have no description
        network.described = Described.restored(network.input_shape, state)
        network.memorised = WindowViews.restored_windows(network.described.columns(network.latent_dim), state)
    elif network.has_views:
        network.memorised = Views.restored(width, network.cells, state)
    if isinstance(network, Elbo) and "aggregate.mean" in state:  # older models have none
        network.aggregate = AggregatePosterior.restored(network, state)
    network.load_state_dict(state, assign=True)
    return network.eval()
