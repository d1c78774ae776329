"""Densities of rows and estimates of their missing cells, by importance sampling from a trained network.

Codes are sampled where the encoder puts them, and weighed by the prior and the decoder. Rows are standardised, NaN
where a cell is missing.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from anomalyvae.nets.elbo import Elbo
from anomalyvae.nets.likelihoods import Likelihood
from anomalyvae.nets.scaling import Mixed

_WIDTHS = (1.0, 2.0, 4.0)  # standard deviations of the proposals, in those of the posterior
IMPUTATION_CODES = 255  # codes weighed to impute a row: 85 of each width


def sobol_points(codes: int, latent_dim: int, seed: int = 0) -> Tensor:
    """Fixed standard normal points ``(k, latent_dim)``, from which `weighed_codes` makes at least so many codes.

    A scrambled Sobol sequence fills space more evenly than random points, so that fewer are enough. All rows share the
    points, and so the error that they leave.
    """
    sobol = torch.quasirandom.SobolEngine(latent_dim, scramble=True, seed=seed)
    return torch.special.ndtri(sobol.draw(-(-codes // len(_WIDTHS)), dtype=torch.float64).clamp(1e-12, 1 - 1e-12))


def weighed_codes(network: Elbo, s: Tensor, points: Tensor, likelihood: Likelihood) -> Iterator[tuple[Tensor, Tensor]]:
    """Codes for each row, with the log of ``p(s, z) / q(z)``, whose mean over codes estimates ``p(s)``.

    q is the equal mixture of the posterior and of the posterior widened twice and four times (multiple importance
    sampling with the balance heuristic: Veach & Guibas 1995). The encoder is as sure about a row with missing cells as
    about a complete one; the wider proposals reach the codes that such a row allows.

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
def log_density(network: Elbo, x: Tensor, points: Tensor) -> Tensor:
    """The importance-weighted bound on ``log p(x)`` in nats, in the units of ``x``, shape ``(n,)``.

    Parameters
    ----------
    network : Elbo
    x : Tensor of shape (n, d)
        In the units of the user.
    points : Tensor of shape (k, latent_dim)
        Standard normal; the same for all rows.
    """
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
