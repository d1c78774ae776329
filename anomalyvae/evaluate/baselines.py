"""Baselines that a detector should beat, each a few lines of scikit-learn.

``BASELINES[name](train_rows, test_rows)`` standardises both by the training rows and returns one score per test row,
high = anomalous. Missing cells are imputed by the training mean. No baseline is random.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler


def row_norm(train_rows: ArrayLike, test_rows: ArrayLike) -> NDArray[np.float64]:
    """Distance from the training mean, in standard deviations.

    Parameters
    ----------
    train_rows : array-like of float, shape (n_train, d)
    test_rows : array-like of float, shape (n_test, d)

    Returns
    -------
    ndarray of float, shape (n_test,)
        High = anomalous.
    """
    _, test = _standardised(train_rows, test_rows)
    return np.linalg.norm(test, axis=1)


def pca(train_rows: ArrayLike, test_rows: ArrayLike, explained: float = 0.9) -> NDArray[np.float64]:
    """Distance of a row from its projection on the principal components of the training rows.

    Parameters
    ----------
    train_rows : array-like of float, shape (n_train, d)
    test_rows : array-like of float, shape (n_test, d)
    explained : float
        Share of the training variance that the components explain.

    Returns
    -------
    ndarray of float, shape (n_test,)
        High = anomalous.
    """
    train, test = _standardised(train_rows, test_rows)
    plane = PCA(n_components=explained, svd_solver="full").fit(train)
    return np.linalg.norm(test - plane.inverse_transform(plane.transform(test)), axis=1)


def knn(train_rows: ArrayLike, test_rows: ArrayLike, k: int = 5) -> NDArray[np.float64]:
    """Mean distance to the `k` nearest training rows.

    Parameters
    ----------
    train_rows : array-like of float, shape (n_train, d)
    test_rows : array-like of float, shape (n_test, d)
        Not among the training rows: a row would be its own nearest neighbour.
    k : int
        Number of neighbours, at most all training rows.

    Returns
    -------
    ndarray of float, shape (n_test,)
        High = anomalous.
    """
    train, test = _standardised(train_rows, test_rows)
    distances, _ = NearestNeighbors(n_neighbors=min(k, len(train))).fit(train).kneighbors(test)
    return distances.mean(axis=1)


def mahalanobis(train_rows: ArrayLike, test_rows: ArrayLike) -> NDArray[np.float64]:
    """Mahalanobis distance with the shrunk covariance of Ledoit and Wolf (2004).

    Parameters
    ----------
    train_rows : array-like of float, shape (n_train, d)
    test_rows : array-like of float, shape (n_test, d)

    Returns
    -------
    ndarray of float, shape (n_test,)
        High = anomalous.
    """
    train, test = _standardised(train_rows, test_rows)
    return np.sqrt(LedoitWolf().fit(train).mahalanobis(test))


Baseline = Callable[[ArrayLike, ArrayLike], NDArray[np.float64]]
BASELINES: dict[str, Baseline] = {"row_norm": row_norm, "pca": pca, "knn": knn, "mahalanobis": mahalanobis}


def _standardised(train_rows: ArrayLike, test_rows: ArrayLike) -> tuple[NDArray, NDArray]:
    train, test = np.asarray(train_rows, dtype=float), np.asarray(test_rows, dtype=float)
    scaler = StandardScaler().fit(train)
    return np.nan_to_num(scaler.transform(train)), np.nan_to_num(scaler.transform(test))  # missing: the training mean
