"""How densely rows lie in a latent space, and the weights that even it out."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_random_state

REFERENCE_ROWS = 10_000  # among which neighbours are sought: a draw shows where rows are thin as well as all of them
_WITHIN = 0.99  # share of rows whose weights the bound does not cut off
_CLOSEST = 1e-3  # of the median spacing: what lies nearer says no more about how thin its surroundings are

Floats = NDArray[np.float64]


def neighbour_density(
    points: ArrayLike, *, neighbours: int = 10, random_state: int | np.random.RandomState | None = 0
) -> Floats:
    """How densely rows lie around each row, relative to the median row.

    Parameters
    ----------
    points : array-like of shape (n, k)
        Finite numbers in one unit, such as latent codes.
    neighbours : int, default=10
        Equal rows count as one point of that mass. Fewer neighbours see smaller groups, and more noise.
    random_state : int, RandomState instance or None, default=0
        Where there are more than 10,000 distinct points, draws as many among which neighbours are sought.

    Returns
    -------
    ndarray of shape (n,)
        Above zero; 1 is the median row's.

    Notes
    -----
    The density at a row is ``mass / r^m`` (Loftsgaarden & Quesenberry 1965), with r the distance to the k-th
    neighbour, mass the rows up to there, and m the dimension that the points really fill, of which the estimate is
    ``1 / mean(log(r_k / r_j))`` over rows and j < k (Levina & Bickel 2004, averaged as MacKay & Ghahramani 2005 do).
    As in the detector's memory, the nearest point is passed over: it may be the row itself.

    A row is then given the median of its neighbours' densities, not its own. A group that is thin has neighbours that
    are thin; an outlier has neighbours in a crowd, and must not be taken for a starved group of one.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> crowd, few = rng.normal(size=(900, 2)), rng.normal(size=(30, 2)) + 20
    >>> density = neighbour_density(np.concatenate([crowd, few]))
    >>> bool(np.median(density[900:]) < 0.1)
    True
    """
    x = np.asarray(points, dtype=np.float64)
    distinct, place, count = np.unique(x, axis=0, return_inverse=True, return_counts=True)
    if len(distinct) < 3:
        return np.ones(len(x))
    chosen = check_random_state(random_state).permutation(len(distinct))[:REFERENCE_ROWS]
    near = min(neighbours, len(chosen) - 1)
    search = NearestNeighbors(n_neighbors=near + 1).fit(distinct[chosen])
    distance, index = (found[:, 1:] for found in search.kneighbors(distinct))
    distance = np.maximum(distance, _CLOSEST * np.median(distance[:, -1]))
    spread = np.log(distance[:, -1:] / distance[:, :-1])
    dimension = 1 / max(float(spread.mean()), 1 / x.shape[1]) if spread.size else 1.0
    logs = np.log(count[chosen][index].sum(axis=1)) - dimension * np.log(distance[:, -1])
    smooth = np.median(logs[chosen][index], axis=1)[place.ravel()]
    return np.exp(np.clip(smooth - np.median(smooth), -700, 700))


def histogram_density(codes: ArrayLike, *, bins: int = 10, alpha: float = 0.01) -> Floats:
    """The density of the debiasing variational autoencoder, relative to the median row: one histogram per latent unit.

    Parameters
    ----------
    codes : array-like of shape (n, latent_dim)
    bins : int, default=10
    alpha : float, default=0.01
        Added to each density: the larger, the nearer to 1 is the result.

    Returns
    -------
    ndarray of shape (n,)
        ``prod_i (Q_i(z_i) + alpha)``, with Q_i the histogram of latent unit i (Amini et al. 2019, Uncovering and
        Mitigating Algorithmic Bias through Learned Latent Structure, doi 10.1145/3306618.3314243, equation 5).

    Notes
    -----
    The product takes the units to be independent: a group that is rare by a combination of ordinary values does not
    show; and with many units it has a range of many powers of ten, so that a handful of rows gets all the weight.
    `neighbour_density` has neither fault.
    """
    logs = np.zeros(len(np.asarray(codes)))
    for unit in np.asarray(codes, dtype=np.float64).T:
        height, edges = np.histogram(unit, bins=bins, density=True)
        logs += np.log(height[np.clip(np.searchsorted(edges, unit, side="right") - 1, 0, bins - 1)] + alpha)
    return np.exp(np.clip(logs - np.median(logs), -700, 700))


def evening_weights(density: ArrayLike, *, bound: float = 20.0) -> Floats:
    """Weights under which thin and crowded surroundings count alike.

    Parameters
    ----------
    density : array-like of shape (n,)
        Above zero, relative to the median row.
    bound : float, default=20.0
        The median row's weight is multiplied or divided by at most so much. 1 leaves all rows alike.

    Returns
    -------
    ndarray of shape (n,)
        The inverse of the density, to the power of 1 or of the largest number that keeps all but one row in a hundred
        within the bound; of mean 1.

    Raises
    ------
    ValueError
        For a bound below 1.

    Notes
    -----
    Where rows fill many dimensions, densities differ by many powers of ten. Cut off at the bound, half of the rows
    would have the same, largest weight; a smaller power keeps the thin and the thinner apart.

    Examples
    --------
    >>> evening_weights([1.0, 1.0, 0.5, 0.25], bound=4.0)
    array([0.5, 0.5, 1. , 2. ])
    """
    if not bound >= 1:
        raise ValueError(f"Got bound={bound}, expected 1 or more. Pass 20 to count a row up to 20 times.")
    thinness = -np.log(np.asarray(density, dtype=np.float64))
    most = float(np.quantile(thinness, _WITHIN))
    power = min(1.0, np.log(bound) / most) if most > 0 else 1.0
    weight = np.clip(np.exp(power * thinness), 1 / bound, bound)
    return weight / weight.mean()


def effective_rows(weight: Any) -> float:
    """How many rows of equal weight tell as much, ``(sum w)^2 / sum w^2`` (Kish 1965, Survey Sampling)."""
    w = np.asarray(weight, dtype=np.float64)
    return float(w.sum() ** 2 / np.square(w).sum())
