"""The Mahalanobis distance, also of rows with missing cells, and the covariances that it needs."""

import math

import torch
from torch import Tensor
from torch.nn import functional

MOST_COLUMNS = 1024  # its matrix has as many rows and columns
PAD = 16
LEAST_VARIANCE = 1e-8
SHRINKAGE = [10 ** (power / 2) for power in range(-12, 1)]  # up to a sphere
_ROUNDS = 4  # of filling the missing cells of the rows that are learned
_ENOUGH = 2  # complete rows per column, from which the first round can start
_LEARNING_STEPS = 64  # of filling them, each time
STEPS = 512  # of filling those of a row; fewer leave it to rounding what relations that are nearly exact say
_ROUNDING = 1e-13  # of the square of a distance: changes of this size are rounding errors


def ellipsoid(u: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
    """The Mahalanobis distance of rows ``(n, k)``, shape ``(n,)``.

    Of a row with missing cells, it is that of the others, plus what they lack: the distance of a Gaussian row of k
    cells is Gaussian around ``sqrt(k)``, with a spread that does not depend on k (Fisher 1922, On the interpretation
    of chi-square from contingency tables). So rows with many and few cells can be compared.
    """
    return (nearest_to_mean(u, mean, whitening) @ whitening).square().sum(1).sqrt() + _lacking(u)


def complete_ellipsoid(u: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
    """`ellipsoid` of rows without missing cells: the same bits in a third of the passes over wide rows."""
    return ((u - mean) @ whitening).square().sum(1).sqrt()


def ellipsoid_parts(u: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
    """How much each cell accounts for the distance, at least 0, and 0 for a missing one, ``(n, k)``.

    The symmetric matrix that whitens gives each column an axis, the one that is most like it. The squares along these
    axes add up to that of the distance (Garthwaite & Koch 2016, Evaluating the contributions of individual variables to
    a quadratic form). So all columns of a broken relation have a part, also those that are close to their means. Each
    part is divided by 1 + the squared distance without its cell: the cell that breaks the relation counts most.
    """
    size, direction = torch.linalg.eigh(whitening.T @ whitening)
    inverse = torch.where(size > _ROUNDING * size.amax(), size.rsqrt(), 0.0) if len(size) else size
    symmetric = whitening @ (direction * inverse) @ direction.T @ whitening.T
    centered = nearest_to_mean(u, mean, whitening)
    squared = (centered @ symmetric).square()
    precision = whitening.square().sum(1).clamp(min=torch.finfo(u.dtype).tiny)
    left = squared.sum(1, keepdim=True) - (centered @ whitening @ whitening.T).square() / precision
    return (squared / (1 + left.clamp(min=0))).masked_fill(u.isnan(), 0.0)


def nearest_to_mean(u: Tensor, mean: Tensor, whitening: Tensor, steps: int = STEPS) -> Tensor:
    """Differences from the mean ``(n, k)``, with missing cells filled so that the Mahalanobis distance is the least.

    It is that of the observed cells alone, then. Conjugate gradients (Hestenes & Stiefel 1952) stop at the least,
    after about as many steps as it has missing cells, or a few times as many where relations are nearly exact.
    """
    missing = u.isnan()
    filled = (u - mean).masked_fill(missing, 0.0)
    if not missing.any():
        return filled
    precision, least = precision_of(whitening), least_gradient(whitening)
    direction, before = torch.zeros_like(filled), u.new_tensor(torch.inf)
    for _ in range(steps):
        product = (filled @ precision)[:, : u.shape[1]]
        gradient = product * missing
        squared = gradient.square().sum(1, keepdim=True)
        moves = squared > least * (1 + (filled * product).sum(1, keepdim=True))
        if not moves.any():
            break
        direction = squared / before * direction - gradient
        curvature = (direction * (direction @ precision)[:, : u.shape[1]]).sum(1, keepdim=True)
        filled = filled + torch.where(moves, squared / curvature, 0.0) * direction
        before = torch.where(moves, squared, torch.inf)
    return filled


def precision_of(whitening: Tensor) -> Tensor:
    """The inverse of the covariance, `padded`."""
    return padded(whitening @ whitening.T)


def least_gradient(whitening: Tensor) -> float:
    """The squared gradient, per 1 + squared distance, below which a step would change no more than rounding does."""
    inverse = whitening.square().sum(0)  # of the variances of the axes; 0 for columns that pad it
    return _ROUNDING * float(inverse.masked_fill(inverse == 0, torch.inf).amin()) if len(inverse) else 0.0


def ellipsoid_of(u: Tensor, importance: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of rows ``(n, k)``, the matrix that whitens differences from it, and their distances from the others.

    The covariance is ``(1 - a) S + a m I`` with the covariance S of the rows and its mean variance m. Of a = 1e-6 to 1,
    the likeliest is taken: the rows are Gaussian, each with the mean and the covariance of the others (Hoffbeck &
    Landgrebe 1996, Covariance matrix estimation and classification with limited training data, section 2.2; without the
    row by Sherman & Morrison 1950). So a relation between columns that holds for all rows, and no other, is exact.

    Missing cells are filled with the likeliest values, and what these lack of variance is added, in turns (Buck 1960, A
    method of estimation of missing values in multivariate data; repeated as by Dempster, Laird & Rubin 1977).

    With ``importance``, shape ``(n,)``, rows weigh in proportion.

    The matrix has no columns if there are too many.
    """
    (n, width), missing = u.shape, u.isnan()
    complete, filled = ~missing.any(1), torch.where(missing, u.nanmean(0).nan_to_num(), u)
    if width > MOST_COLUMNS or n < 3:  # two rows show no spread but along the line between them
        return filled.mean(0), u.new_zeros(width, 0), u.new_zeros(n)
    if importance is None or bool((importance == importance[0]).all()):
        importance = u.new_ones(n)
    weight = (importance / importance.mean()).to(u)
    start = complete if complete.sum() >= _ENOUGH * width else slice(None)
    mean, whitening, distance = _likeliest(filled[start], weight[start], u.new_zeros(width))
    for _ in range(_ROUNDS if missing.any() else 0):
        filled = torch.where(missing, mean + nearest_to_mean(u, mean, whitening, _LEARNING_STEPS), u)
        lacking = (weight[:, None] * missing).mean(0) / whitening.square().sum(1)
        mean, whitening, distance = _likeliest(filled, weight, lacking)
    return mean, whitening, distance + _lacking(u)


def _likeliest(u: Tensor, weight: Tensor, lacking: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `ellipsoid_of`, for rows without missing cells, to whose variances those that are ``lacking`` are added."""
    weight = (weight / weight.mean())[:, None]
    n, others, shrinkage = len(u), len(u) / (len(u) - 1), u.new_tensor(SHRINKAGE)
    mean = (weight * u).mean(0)
    centered = u - mean
    covariance = (weight * centered).T @ centered / n + lacking.diag()
    constant = covariance.diagonal() < LEAST_VARIANCE  # such columns get the variance of their unit, 1
    size, direction = torch.linalg.eigh(covariance + constant.to(u).diag())
    variance = ((1 - shrinkage) * others * size[:, None] + shrinkage * size.mean()).clamp(min=LEAST_VARIANCE)
    squared = (centered @ direction).square() @ (1 / variance)  # (n, shrinkages)
    left = (1 - (1 - shrinkage) * others / (n - 1) * weight * squared).clamp(min=LEAST_VARIANCE)
    squared = others**2 * squared / left
    best = ((weight * (squared + left.log())).mean(0) + variance.log().sum(0)).argmin()
    return mean, padded(direction / variance[:, best].sqrt()), squared[:, best].sqrt()


def _lacking(u: Tensor) -> Tensor:
    """By how much the distances of rows ``(n, k)`` are smaller for their missing cells, shape ``(n,)``."""
    observed = (~u.isnan()).sum(1).to(u)
    return math.sqrt(u.shape[1]) - observed.sqrt()


def shrunk(covariance: Tensor, fourth: Tensor, n: float) -> tuple[Tensor, float]:
    """``(1 - a) S + a m I``, and a: with the covariance S of n rows, its mean variance m, and the best a.

    a estimates the variance of S, as a share of the distance of S from m I (Ledoit & Wolf 2004, A well-conditioned
    estimator for large-dimensional covariance matrices, lemmas 3.2 to 3.4). ``fourth`` is the mean fourth power of the
    distance of a row from the mean.
    """
    k = len(covariance)
    size, squared = covariance.trace() / k, covariance.square().sum()
    distance = squared - k * size.square()
    share = (((fourth - squared) / n).clamp(min=0) / distance).clamp(max=1) if distance > 0 else torch.ones_like(size)
    covariance = (1 - share) * covariance
    covariance.diagonal().add_(share * size)
    return covariance, float(share)


def padded(matrix: Tensor) -> Tensor:
    """With columns of zeros up to a multiple of 16, for which kernels give each row the same arithmetic."""
    return functional.pad(matrix, (0, -matrix.shape[1] % PAD)).contiguous()
