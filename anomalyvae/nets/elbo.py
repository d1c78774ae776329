"""The variational autoencoder: its scores, the codes that it samples new rows from, and densities of rows.

Densities and missing cells are estimated by importance sampling: codes are sampled where the encoder puts them, and
weighed by the prior and the decoder.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from anomalyvae.nets.likelihoods import Likelihood, gaussian_of
from anomalyvae.nets.memory import sample_by_weight
from anomalyvae.nets.reconstruction import Reconstruction
from anomalyvae.nets.scaling import Mixed, Scaling
from anomalyvae.nets.views import COMPARING

IMPORTANCE_SAMPLES = 64  # of the importance-weighted bound
_KEPT_CODES = 2048  # training rows whose codes the aggregate posterior keeps
_WIDTHS = (1.0, 2.0, 4.0)  # standard deviations of the proposals, in those of the posterior
IMPUTATION_CODES = 255  # codes weighed to impute a row: 85 of each width


class Elbo(Reconstruction):
    """A variational autoencoder (Kingma & Welling 2013): diagonal Gaussian posterior, prior N(0, I).

    ``beta`` weighs the KL term in training (Higgins et al. 2017); 1 is the evidence lower bound. The scores weigh both
    terms equally, whatever ``beta``.
    """

    scores = ("reconstruction", "kl", "log_likelihood", "elbo", *COMPARING)
    generative = True
    noise: Tensor
    aggregate: "AggregatePosterior | None"  # set after training; `sample` takes codes from it
    _codes = 2

    def __init__(self, architecture: Mapping[str, Any], scaling: Scaling) -> None:
        super().__init__(architecture, scaling)
        self.register_buffer("noise", _noise_table(self.latent_dim))
        self.aggregate = None

    def _losses(self, s: Tensor, seen: Tensor, warmth: float, generator: torch.Generator) -> Tensor:
        """The negative ELBO with one sample of z per row; ``warmth`` scales the KL term."""
        nll, kl = self._sampled_terms(s, seen, generator)
        return nll + warmth * self.beta * kl

    def held_out_terms(self, s: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The two terms at full weight, with one sample of z per row."""
        nll, kl = self._sampled_terms(s, s, generator)
        return {"reconstruction": nll, "kl": self.beta * kl}

    def _sampled_terms(self, s: Tensor, seen: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``-log p(s | z)`` at one sample of z per row, with gradients to mean and variance, and the KL term."""
        noise = torch.randn(len(s), self.latent_dim, generator=generator, device=s.device, dtype=s.dtype)
        mean, log_var = self.posterior(seen)
        z = torch.addcmul(mean, (0.5 * log_var).exp(), noise)  # Kingma & Welling 2013, section 2.4
        return self.row_nll(s, z), kl_to_standard_normal(mean, log_var)

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

    def sampling_likelihood(self) -> Likelihood:
        """The likelihood that new rows are sampled from, with the variances of the aggregate posterior, if any."""
        if self.aggregate is None or not len(self.aggregate.variance):
            return self.likelihood
        likelihood = copy.deepcopy(self.likelihood)
        gaussian = gaussian_of(likelihood)
        assert gaussian is not None  # noqa: S101
        gaussian.set_variance(self.aggregate.variance)
        return likelihood


def _noise_table(latent_dim: int) -> Tensor:
    """Fixed normal points ``(IMPORTANCE_SAMPLES, latent_dim)``: importance sampling that repeats and exports."""
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(IMPORTANCE_SAMPLES // 2, latent_dim, generator=generator, device="cpu")
    return torch.cat([half, -half])  # antithetic: the mean is exactly zero


def kl_to_standard_normal(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, diag exp log_var) || N(0, I)) per row (Kingma & Welling 2013, appendix B), shape ``(n,)``."""
    return 0.5 * ((log_var.exp() + mean.square() - log_var).sum(1) - mean.shape[1])


class AggregatePosterior(nn.Module):
    """The mixture of the posteriors of training rows, and the decoder's variances at codes sampled from it.

    Training pulls codes towards N(0, I), but they do not fill it. Codes from this mixture decode to rows closer to the
    real ones (Tomczak & Welling 2018, arXiv:1705.07120, section 3, call it the optimal prior; Ghosh et al. 2020,
    arXiv:1903.12436, section 4, fit it after training). Sampled rows are no copies: they have the width of a posterior
    and the noise of the decoder.

    The decoder's own variances are too large here: in training, half of the rows hide cells from the encoder.

    Parameters
    ----------
    mean, std : Tensor of shape (m, latent_dim)
        Of the posterior of each kept row.
    share : Tensor of shape (m,)
        Probability of each row in the mixture; they add up to 1.
    variance : Tensor of shape (v,)
        Replaces the decoder's learned variances; empty for a likelihood without any.
    """

    mean: Tensor
    std: Tensor
    share: Tensor
    variance: Tensor

    def __init__(self, mean: Tensor, std: Tensor, share: Tensor, variance: Tensor) -> None:
        super().__init__()
        for name, value in (("mean", mean), ("std", std), ("share", share), ("variance", variance)):
            self.register_buffer(name, value)

    @classmethod
    @torch.no_grad()
    def of(cls, network: Elbo, s: Tensor, weight: Tensor, generator: torch.Generator) -> Self:
        """Keep the codes of at most 2,048 standardised rows ``(n, d)``, sampled by ``weight``.

        The share ``trimming`` of them, the least likely rows, is left out.
        """
        chosen, share = sample_by_weight(weight, _KEPT_CODES, generator)
        s, share = s[chosen.to(s.device)], share.to(s)
        mean, log_var = network.posterior(s)
        if network.trimming:
            surprise = network.row_nll(s, mean) + 0.5 * (mean.square() - log_var + log_var.exp()).sum(1)
            kept = surprise.topk(math.ceil((1 - network.trimming) * len(s)), largest=False).indices.sort().values
            s, share, mean, log_var = s[kept], share[kept], mean[kept], log_var[kept]
        std = (0.5 * log_var).exp()
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype).to(mean.device)
        return cls(mean, std, share / share.sum(), _variance(network, s, mean + std * noise, share))

    @classmethod
    def restored(cls, network: Elbo, state: Mapping[str, Tensor]) -> Self:
        """Construct it from the tensors of a network; raises RuntimeError for missing or misshapen ones."""
        parts = [state.get(f"aggregate.{name}", torch.empty(0)) for name in ("mean", "std", "share", "variance")]
        gaussian = gaussian_of(network.likelihood)
        variances = 0 if gaussian is None else len(gaussian.log_variance)
        shapes, rows = [tuple(tensor.shape) for tensor in parts], len(parts[2])
        expected = [(rows, network.latent_dim), (rows, network.latent_dim), (rows,), (variances,)]
        if shapes != expected or not rows:
            raise RuntimeError(
                f"Got an aggregate posterior of shapes {shapes}, expected {expected} with at least one row. Save the "
                "model again."
            )
        return cls(*parts)

    def codes(self, uniform: Tensor, noise: Tensor) -> Tensor:
        """Codes ``(n, latent_dim)`` from ``uniform`` numbers, shape ``(n,)``, and standard normal ``noise``."""
        row = torch.searchsorted(self.share.cumsum(0), uniform).clamp(max=len(self.share) - 1)
        return self.mean[row] + self.std[row] * noise


def _variance(network: Elbo, s: Tensor, z: Tensor, share: Tensor) -> Tensor:
    """Mean squared error of each number at the codes ``z``; one for all numbers where they share a variance."""
    gaussian = gaussian_of(network.likelihood)
    if gaussian is None:
        return s.new_empty(0)
    numbers = slice(len(gaussian.variance()))  # categories come after them
    observed = share[:, None] * (~s[:, numbers].isnan()).to(s.dtype)
    squared = (s - network.decode(z))[:, numbers].nan_to_num().square()
    total, seen = (observed * squared).sum(0), observed.sum(0)
    if len(gaussian.log_variance) == 1:
        total, seen = total.sum()[None], seen.sum()[None]
    return torch.where(seen > 0, total / seen.clamp(min=torch.finfo(s.dtype).tiny), 1.0)


def sobol_points(codes: int, latent_dim: int, seed: int = 0) -> Tensor:
    """Fixed standard normal points ``(k, latent_dim)``, from which `weighed_codes` makes at least so many codes.

    A scrambled Sobol sequence fills space more evenly than random points, so that fewer are enough. All rows share the
    points, and so the error that they leave.
    """
    sobol = torch.quasirandom.SobolEngine(latent_dim, scramble=True, seed=seed)
    return torch.special.ndtri(sobol.draw(-(-codes // len(_WIDTHS)), dtype=torch.float64).clamp(1e-12, 1 - 1e-12))


def weighed_codes(network: Elbo, s: Tensor, points: Tensor, likelihood: Likelihood) -> Iterator[tuple[Tensor, Tensor]]:
    """Codes ``(n, latent_dim)`` and logs ``(n,)`` of ``p(s, z) / q(z)``, whose mean over codes estimates ``p(s)``.

    Each of the standard normal ``points``, shape ``(k, latent_dim)``, makes a code of each width. q is the equal
    mixture of the posterior and of the posterior widened twice and four times (multiple importance sampling with the
    balance heuristic: Veach & Guibas 1995). The encoder is as sure about a row with missing cells as about a complete
    one; the wider proposals reach the codes that such a row allows.
    """
    mean, log_var = network.posterior(s)
    std, log_scale = (0.5 * log_var).exp(), 0.5 * log_var.sum(1)
    widths = torch.tensor(_WIDTHS, dtype=s.dtype, device=s.device)
    log_share = -math.log(len(_WIDTHS)) - network.latent_dim * widths.log()
    for width in widths:
        for step in width * points:
            z = mean + std * step
            log_q = (log_share - 0.5 * step.square().sum() / widths.square()).logsumexp(0) - log_scale
            log_p = -0.5 * z.square().sum(1) - likelihood.row_nll(s, network.decode(z))
            yield z, log_p - log_q


@torch.no_grad()
def log_density(network: Elbo, x: Tensor, points: Tensor) -> Tensor:
    """The importance-weighted bound on ``log p(x)`` in nats, in the units of ``x``, shape ``(n,)``."""
    s = network.scaling(x)
    weights = torch.stack([weight for _, weight in weighed_codes(network, s, points, network.likelihood)])
    return weights.logsumexp(0) - math.log(len(weights)) + _log_slope(network, x)


def _log_slope(network: Elbo, x: Tensor) -> Tensor:
    """Sum over the observed numbers of ``log ds/dx``, shape ``(n,)``: the change of units of a density."""
    with torch.enable_grad():
        given = x.detach().requires_grad_()
        s = network.scaling(given)
        (slope,) = torch.autograd.grad(s.nansum(), given)
    if isinstance(network.scaling, Mixed):
        slope[:, network.scaling.categories] = 1  # a level has a probability, not a density
    return slope.masked_fill(x.isnan(), 1).clamp(min=torch.finfo(x.dtype).tiny).log().sum(1)


@torch.no_grad()
def expected_rows(network: Elbo, s: Tensor, points: Tensor) -> Tensor:
    """The expected row given its observed cells, in the units of the user ``(n, d)``.

    Numbers are means over weighed codes (self-normalised importance sampling: Mattei & Frellsen 2019,
    arXiv:1812.02633, equation 13); a category is the level that is the likeliest at most of the weight.
    """
    likelihood = network.sampling_likelihood()
    codes, log_weights = zip(*weighed_codes(network, s, points, likelihood), strict=True)
    units = cells = torch.zeros((), dtype=s.dtype, device=s.device)
    for z, weight in zip(codes, torch.stack(log_weights).softmax(0)[:, :, None], strict=True):
        expected = likelihood.expected(network.decode(z))
        units = weight * network.scaling.inverse(expected) + units
        cells = weight * expected + cells
    if isinstance(network.scaling, Mixed):
        columns = network.scaling.categories
        units[:, columns] = network.scaling.inverse(cells)[:, columns]
    return units
