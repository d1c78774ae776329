"""Baselines that a detector should beat, each a few lines of scikit-learn.

``BASELINES[name](train_rows, test_rows)`` takes rows of shape ``(n_train, d)`` and ``(n_test, d)``, standardises both
by the training rows, and returns one score per test row, shape ``(n_test,)``, high = anomalous. Missing cells are
imputed by the training mean. No baseline is random.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler


def row_norm(train_rows: ArrayLike, test_rows: ArrayLike) -> NDArray[np.float64]:
    """Distance from the training mean, in standard deviations."""
    _, test = _standardised(train_rows, test_rows)
    return np.linalg.norm(test, axis=1)


def pca(train_rows: ArrayLike, test_rows: ArrayLike, explained: float = 0.9) -> NDArray[np.float64]:
    """Distance from the projection on the principal components that explain this share of the training variance."""
    train, test = _standardised(train_rows, test_rows)
    plane = PCA(n_components=explained, svd_solver="full").fit(train)
    return np.linalg.norm(test - plane.inverse_transform(plane.transform(test)), axis=1)


def knn(train_rows: ArrayLike, test_rows: ArrayLike, k: int = 5) -> NDArray[np.float64]:
    """Mean distance to the `k` nearest training rows, or to all of fewer; a test row must not be one of them."""
    train, test = _standardised(train_rows, test_rows)
    distances, _ = NearestNeighbors(n_neighbors=min(k, len(train))).fit(train).kneighbors(test)
    return distances.mean(axis=1)


def mahalanobis(train_rows: ArrayLike, test_rows: ArrayLike) -> NDArray[np.float64]:
    """Mahalanobis distance with the shrunk covariance of Ledoit and Wolf (2004)."""
    train, test = _standardised(train_rows, test_rows)
    return np.sqrt(LedoitWolf().fit(train).mahalanobis(test))


Baseline = Callable[[ArrayLike, ArrayLike], NDArray[np.float64]]
BASELINES: dict[str, Baseline] = {"row_norm": row_norm, "pca": pca, "knn": knn, "mahalanobis": mahalanobis}


def _standardised(train_rows: ArrayLike, test_rows: ArrayLike) -> tuple[NDArray, NDArray]:
    train, test = np.asarray(train_rows, dtype=float), np.asarray(test_rows, dtype=float)
    scaler = StandardScaler().fit(train)
    return np.nan_to_num(scaler.transform(train)), np.nan_to_num(scaler.transform(test))  # missing: the training mean
