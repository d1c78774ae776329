"""The adversarial autoencoder: codes that a critic cannot tell from draws of the prior."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from anomalyvae.nets.bodies import Body
from anomalyvae.nets.distributed import own
from anomalyvae.nets.likelihoods import LOG_2PI
from anomalyvae.nets.reconstruction import Reconstruction
from anomalyvae.nets.scaling import Scaling

_CRITIC = (64, 64)  # widths of the critic's layers
_SMOOTHNESS = 0.1  # weight of the gradient penalty, which makes the game converge


class Adversarial(Reconstruction):
    """An autoencoder whose codes are drawn to N(0, I) by a critic (Makhzani et al. 2015, arXiv:1511.05644).

    The critic D learns to tell draws of the prior from codes of rows, by logistic regression; the encoder learns to
    be taken for the prior, by the non-saturating loss of Goodfellow et al. (2014, section 3). At its best
    ``D(z) = log p(z) - log q(z)``, with q the density of the codes of training rows (there, proposition 1). So what it
    has learned does not end with the game: ``log p(z) - D(z)`` estimates ``log q(z)``, how common a code is.

    Parameters
    ----------
    beta : float
        Weight of the encoder's part in the game, in nats as the KL term of `Elbo`.
    """

    scores = ("reconstruction", "critic", "energy", "memory")
    generative = True

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
        widths = (latent_dim, *_CRITIC)
        layers = [layer for i, width in enumerate(_CRITIC) for layer in (nn.Linear(widths[i], width), nn.Hardswish())]
        self.discriminator = nn.Sequential(*layers, nn.Linear(_CRITIC[-1], 1))

    def players(self) -> dict[str, list[nn.Parameter]]:
        """The critic, and all the rest."""
        critic = list(self.discriminator.parameters())
        return {"critic": critic, "model": [p for p in self.parameters() if all(p is not one for one in critic)]}

    def turns(
        self, s: Tensor, weight: Tensor, warmth: float, generator: torch.Generator
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield the critic's loss, then that of the model under the critic so taught."""
        yield "critic", self._critic_loss(s, weight, warmth, generator)
        yield from super().turns(s, weight, warmth, generator)

    def logit(self, z: Tensor) -> Tensor:
        """How much rather codes are draws of the prior than of rows, in nats, shape ``(n,)``."""
        return self.discriminator(z)[:, 0]

    def critic(self, x: Tensor) -> Tensor:
        """How rare the code of each row is among those of training rows, ``-log q(z)``, shape ``(n,)``."""
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
        """Logistic loss of prior draws against codes, with a zero-centred penalty of the gradient at the draws.

        The penalty is R1 of Mescheder et al. (2018, arXiv:1801.04406, equation 9). Rows that are not learned have no
        codes to learn from either.
        """
        noise = torch.randn(len(s), self.latent_dim, generator=generator, device=s.device, dtype=s.dtype)
        drawn = own(noise).requires_grad_()
        with torch.no_grad():
            z = self.encode(own(self._hide(s, generator)))
            kept, count = self._learned(self.row_nll(own(s), z), weight, warmth)
        taken = own(weight)[kept] * functional.softplus(self.logit(z[kept]))
        logit = self.logit(drawn)
        (slope,) = torch.autograd.grad(logit.sum(), drawn, create_graph=True)
        given = functional.softplus(-logit) + 0.5 * _SMOOTHNESS * slope.square().sum(1)
        return taken.sum() / count + given.sum() / len(s)

    def _losses(self, s: Tensor, seen: Tensor, warmth: float, generator: torch.Generator) -> Tensor:
        """Reconstruction, and how surely the critic tells the code from a prior draw; that grows with ``warmth``."""
        z = self.encode(own(seen))
        return self.row_nll(own(s), z) + warmth * self.beta * functional.softplus(-self.logit(z))
