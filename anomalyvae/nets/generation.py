"""What a trained network draws, and how likely it finds a row: new rows, the missing cells of given ones, densities.

Everything is by importance: codes are drawn where the encoder puts them, and weighted by what the prior and the
decoder say about them. Rows are standardised, NaN where a cell is missing.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from anomalyvae.nets.likelihoods import Bernoulli, Gaussian, Mixture
from anomalyvae.nets.memory import drawn
from anomalyvae.nets.scaling import Mixed

if TYPE_CHECKING:
    from anomalyvae.nets.objectives import Elbo

Likelihood = Gaussian | Bernoulli | Mixture

_KEPT = 2048  # training rows whose codes are kept
_WIDTHS = (1.0, 2.0, 4.0)  # of the posterior, times which codes are drawn
CANDIDATES = 255  # codes that are weighed to fill in a row: 85 of each width
_STEPS = 5  # of Metropolis-within-Gibbs after that
_BLOCK = 1024  # rows at a time


class AggregatePosterior(nn.Module):
    """Where the codes of training rows lie, and how precisely the decoder knows a cell at codes drawn from there.

    N(0, I) is where training pulls the codes to, not where they end. Drawn from the mixture of the posteriors of
    training rows, each row an equal share, codes decode to rows more like the real ones (Tomczak & Welling 2018,
    arXiv:1705.07120, section 3, whose best prior of all it is; that it need not be learned along is what Ghosh et al.
    2020, arXiv:1903.12436, section 4, found). Draws still have the width of a posterior and the noise of the decoder:
    they are no copies.

    The decoder's own variances are those of training, in which half of the rows hide cells; at the codes of whole
    rows it knows cells better.

    Parameters
    ----------
    mean, std : Tensor of shape (m, latent_dim)
        Of the posterior of each kept row.
    share : Tensor of shape (m,)
        How often each is drawn; they add up to 1.
    variance : Tensor of shape (v,)
        In place of the decoder's learned variances; empty for a likelihood that has none.
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
    def of(cls, network: "Elbo", s: Tensor, weight: Tensor, generator: torch.Generator) -> Self:
        """Keep the codes of at most 2,048 standardised rows ``(n, d)``, drawn by ``weight``.

        Where training took some rows for outliers (``trimming``), the same share is left out, the least likely first.
        """
        chosen, share = drawn(weight, _KEPT, generator)
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
    def restored(cls, network: "Elbo", state: Mapping[str, Tensor]) -> Self:
        """Construct it from the tensors of a network.

        Raises
        ------
        RuntimeError
            If some are not there, or not of the shapes that belong together.
        """
        mean, std, share, variance = (
            state.get(f"aggregate.{name}", torch.empty(0)) for name in ("mean", "std", "share", "variance")
        )
        gaussian = _gaussian_of(network.likelihood)
        variances = 0 if gaussian is None else len(gaussian.log_variance)
        shapes = [tuple(tensor.shape) for tensor in (mean, std, share, variance)]
        rows = len(share)
        expected = [(rows, network.latent_dim), (rows, network.latent_dim), (rows,), (variances,)]
        if shapes != expected or not rows:
            raise RuntimeError(f"Got an aggregate posterior of shapes {shapes}, expected {expected} and a row.")
        return cls(mean, std, share, variance)

    def codes(self, place: Tensor, noise: Tensor) -> Tensor:
        """Codes ``(n, latent_dim)`` from uniform ``place``, shape ``(n,)``, and standard normal ``noise``."""
        row = torch.searchsorted(self.share.cumsum(0), place).clamp(max=len(self.share) - 1)
        return self.mean[row] + self.std[row] * noise


def _variance(network: "Elbo", s: Tensor, z: Tensor, share: Tensor) -> Tensor:
    """Mean squared error of each number at the codes ``z``; of all together, where they share one variance."""
    gaussian = _gaussian_of(network.likelihood)
    if gaussian is None:
        return s.new_empty(0)
    numbers = slice(len(gaussian.variance()))  # categories come after them
    observed = share[:, None] * (~s[:, numbers].isnan()).to(s.dtype)
    squared = (s - network.decode(z))[:, numbers].nan_to_num().square()
    total, seen = (observed * squared).sum(0), observed.sum(0)
    if len(gaussian.log_variance) == 1:
        total, seen = total.sum()[None], seen.sum()[None]
    return torch.where(seen > 0, total / seen.clamp(min=torch.finfo(s.dtype).tiny), 1.0)


def _gaussian_of(likelihood: Likelihood) -> Gaussian | None:
    numbers = likelihood.gaussian if isinstance(likelihood, Mixture) else likelihood
    return numbers if isinstance(numbers, Gaussian) else None


def drawing_likelihood(network: "Elbo") -> Likelihood:
    """The likelihood from which rows are drawn: the network's, with the variances of its aggregate posterior."""
    if network.aggregate is None or not len(network.aggregate.variance):
        return network.likelihood
    likelihood = copy.deepcopy(network.likelihood)
    gaussian = _gaussian_of(likelihood)
    assert gaussian is not None  # noqa: S101
    gaussian.set_variance(network.aggregate.variance)
    return likelihood


def even_points(codes: int, latent_dim: int, seed: int = 0) -> Tensor:
    """Standard normal points ``(k, latent_dim)``, the same for a seed, from which `weighed_codes` makes so many codes.

    A scrambled Sobol sequence: it fills space more evenly than random points, so that fewer will do. All rows share
    it, and with it its error, which random points would give to all of them alike.
    """
    sobol = torch.quasirandom.SobolEngine(latent_dim, scramble=True, seed=seed)
    return torch.special.ndtri(sobol.draw(-(-codes // len(_WIDTHS)), dtype=torch.float64).clamp(1e-12, 1 - 1e-12))


def weighed_codes(
    network: "Elbo", s: Tensor, points: Tensor, likelihood: Likelihood
) -> Iterator[tuple[Tensor, Tensor]]:
    """Codes for each row, with the log of ``p(s, z) / q(z)``, whose mean over codes estimates ``p(s)``.

    Codes are drawn from the posterior, and from it widened twice and four times, and weighed by the density of all
    three together (multiple importance sampling: Veach & Guibas 1995, the balance heuristic). A row with missing cells
    is coded as sharply as a whole one, which alone would not reach all that its missing cells may be.

    Parameters
    ----------
    network : Elbo
    s : Tensor of shape (n, d)
    points : Tensor of shape (k, latent_dim)
        Standard normal; each makes a code of each width.
    likelihood : Gaussian, Bernoulli or Mixture
        Of rows, given a code.

    Yields
    ------
    z : Tensor of shape (n, latent_dim)
    log_weight : Tensor of shape (n,)
        In nats.
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
def log_density(network: "Elbo", x: Tensor, points: Tensor) -> Tensor:
    """The importance-weighted bound on ``log p(x)`` in nats, in the units of ``x``, shape ``(n,)``.

    Parameters
    ----------
    network : Elbo
    x : Tensor of shape (n, d)
        Units of the user.
    points : Tensor of shape (k, latent_dim)
        Standard normal; the same for all rows.
    """
    s = network.scaling(x)
    weights = torch.stack([weight for _, weight in weighed_codes(network, s, points, network.likelihood)])
    return weights.logsumexp(0) - math.log(len(weights)) + _log_slope(network, x)


def _log_slope(network: "Elbo", x: Tensor) -> Tensor:
    """Sum over the observed numbers of ``log ds/dx``, shape ``(n,)``: what a density gains when units change."""
    with torch.enable_grad():
        given = x.detach().requires_grad_()
        s = network.scaling(given)
        (slope,) = torch.autograd.grad(s.nansum(), given)
    if isinstance(network.scaling, Mixed):
        slope[:, network.scaling.categories] = 1  # a level has a probability, no density
    return slope.masked_fill(x.isnan(), 1).clamp(min=torch.finfo(x.dtype).tiny).log().sum(1)


@torch.no_grad()
def expected_rows(network: "Elbo", s: Tensor, points: Tensor) -> Tensor:
    """What rows are expected to be, given their observed cells, in the units of the user ``(n, d)``.

    Of numbers the mean over weighed codes (self-normalised importance sampling: Mattei & Frellsen 2019,
    arXiv:1812.02633, equation 13), of categories the level that is the likeliest at most of them.
    """
    likelihood = drawing_likelihood(network)
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


@torch.no_grad()
def drawn_rows(network: "Elbo", s: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """Rows with their missing cells drawn from ``p(missing | observed)``, in the units of the user ``(draws, n, d)``.

    Codes are weighed and resampled (sampling importance resampling: Rubin 1987), then moved together with the missing
    cells by a few steps of Metropolis-within-Gibbs (Mattei & Frellsen 2018, arXiv:1802.04826, algorithm 1), which
    leave the model's conditional distribution as it is and mend what too few codes have missed.

    Parameters
    ----------
    network : Elbo
    s : Tensor of shape (n, d)
    draws : int
    generator : torch.Generator
        On the CPU.
    """
    likelihood = drawing_likelihood(network)
    blocks = [_drawn_block(network, likelihood, block, draws, generator) for block in s.split(_BLOCK) if len(block)]
    return torch.cat(blocks, dim=1) if blocks else s.expand(draws, -1, -1)


def _drawn_block(network: "Elbo", likelihood: Likelihood, s: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    points = _normal(torch.empty(CANDIDATES // len(_WIDTHS), network.latent_dim).to(s), generator)
    codes, log_weights = zip(*weighed_codes(network, s, points, likelihood), strict=True)
    share = torch.stack(log_weights, dim=1).softmax(1).cpu()
    chosen = torch.multinomial(share, draws, replacement=True, generator=generator).to(s.device)
    started = torch.stack(codes)[chosen.T, torch.arange(len(s), device=s.device)]  # (draws, n, latent_dim)
    return torch.stack([network.scaling.inverse(_moved(network, likelihood, s, z, generator)) for z in started])


def _moved(network: "Elbo", likelihood: Likelihood, s: Tensor, z: Tensor, generator: torch.Generator) -> Tensor:
    """Draw the missing cells at codes, and move both by Metropolis-within-Gibbs."""
    missing = s.isnan()

    def completed(z: Tensor) -> Tensor:
        decoded = network.decode(z)
        return torch.where(missing, likelihood.draw(decoded, _normal(decoded, generator)), s)

    whole = completed(z)
    for _ in range(_STEPS):
        mean, log_var = network.posterior(whole)
        proposed = mean + (0.5 * log_var).exp() * _normal(mean, generator)
        log_ratio = [
            0.5 * (((code - mean).square() / log_var.exp()).sum(1) - code.square().sum(1))
            - likelihood.row_nll(whole, network.decode(code))
            for code in (proposed, z)
        ]  # log p(whole, code) - log q(code | whole), but for what both have
        luck = torch.rand(len(s), generator=generator, dtype=s.dtype).to(s.device)
        z = torch.where((luck.log() < log_ratio[0] - log_ratio[1])[:, None], proposed, z)
        whole = completed(z)
    return whole


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)
