"""Baselines that a detector should beat, each a few lines of NumPy or scikit-learn.

``BASELINES[name](train_rows, test_rows)`` takes rows of shape ``(n_train, d)`` and ``(n_test, d)``, standardises both
by the training rows, and returns one score per test row, shape ``(n_test,)``, high = anomalous. Missing cells are
imputed by the training mean.

``ONE_LINERS[name](train_windows, test_windows)`` takes windows of samples, ``(n, signals, samples)``. They compare a
window with nothing but the usual spread of each signal, and skip missing cells. With `row_norm`, they say whether the
events of a data set need a model at all ("When Foundation Models are One-Liners", ICLR 2026).

None of them is random.
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


def moving_variance(train_windows: ArrayLike, test_windows: ArrayLike) -> NDArray[np.float64]:
    """Variance of each signal over the window, in variances of the training samples; the sum over signals."""
    test = _scaled(train_windows, test_windows)
    return _mean((test - _mean(test)[:, :, None]) ** 2).sum(axis=1)


def squared_difference(train_windows: ArrayLike, test_windows: ArrayLike) -> NDArray[np.float64]:
    """Mean squared difference of successive samples, in variances of the training samples; the sum over signals."""
    return _mean(np.diff(_scaled(train_windows, test_windows)) ** 2).sum(axis=1)


Baseline = Callable[[ArrayLike, ArrayLike], NDArray[np.float64]]
BASELINES: dict[str, Baseline] = {"row_norm": row_norm, "pca": pca, "knn": knn, "mahalanobis": mahalanobis}
ONE_LINERS: dict[str, Baseline] = {"moving_variance": moving_variance, "squared_difference": squared_difference}


def _standardised(train_rows: ArrayLike, test_rows: ArrayLike) -> tuple[NDArray, NDArray]:
    train, test = np.asarray(train_rows, dtype=float), np.asarray(test_rows, dtype=float)
    scaler = StandardScaler().fit(train)
    return np.nan_to_num(scaler.transform(train)), np.nan_to_num(scaler.transform(test))  # missing: the training mean


def _scaled(train_windows: ArrayLike, test_windows: ArrayLike) -> NDArray[np.float64]:
    """The test windows in standard deviations of the training samples of each signal."""
    train, test = np.asarray(train_windows, dtype=float), np.asarray(test_windows, dtype=float)
    scaler = StandardScaler().fit(train.transpose(0, 2, 1).reshape(-1, train.shape[1]))
    return (test - scaler.mean_[:, None]) / scaler.scale_[:, None]


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis of the values that are present; 0 without any."""
    present = np.isfinite(values)
    return np.where(present, values, 0.0).sum(axis=-1) / present.sum(axis=-1).clip(min=1)
