"""Latent codes in two dimensions, where new rows can be put beside those that the map was made of."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from anomalyvae.detector import VAEOutlierDetector

Floats = NDArray[np.float64]


class LatentMap:
    """A 2-D map of the latent space; `LatentSpace.map` makes one.

    Parameters
    ----------
    detector : VAEOutlierDetector
    codes : DataFrame of shape (n_samples, latent_dim)
        What the map is made of.
    method : {"pca", "latent", "umap"}
    random_state : int
        Of UMAP.

    Attributes
    ----------
    coordinates : DataFrame of shape (n_samples, 2)
        ``x`` and ``y`` of those codes.
    explained : float or None
        Share of the codes' variance that the map shows; None for UMAP, whose distances mean nothing.
    """

    def __init__(
        self, detector: VAEOutlierDetector, codes: pd.DataFrame, method: str = "pca", random_state: int = 0
    ) -> None:
        if method not in _METHODS:
            raise ValueError(f"Got method={method!r}, expected one of {', '.join(map(repr, _METHODS))}. Pass one.")
        self.method = method
        self._detector = detector
        self._place, own, self.explained = _METHODS[method](codes.to_numpy(), random_state)
        self.coordinates = _table(own, codes.index)

    def transform(self, X: ArrayLike) -> pd.DataFrame:
        """Where rows lie on the map, ``x`` and ``y``, by the index of ``X``.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Any rows as the detector takes them. The same row always lies at the same place (for UMAP, in the same
            call).
        """
        return _table(self._place(self._detector.transform(X)), getattr(X, "index", None))


Layout = tuple[Callable[[Floats], Floats], Floats, float | None]  # how codes are placed, own coordinates, share


def _pca(codes: Floats, random_state: int) -> Layout:
    if codes.shape[1] < 2:
        raise ValueError("Got latent_dim=1, expected at least 2 for a map. Draw the codes over another column.")
    centre = codes.mean(axis=0)
    _, spread, axes = np.linalg.svd(codes - centre, full_matrices=False)
    plane = axes[:2].T * np.sign(axes[:2].sum(axis=1) + 1e-300)  # the sign of an axis is arbitrary: keep it the same
    total = np.square(spread).sum()

    def place(new: Floats) -> Floats:
        return (new - centre) @ plane

    return place, place(codes), float(np.square(spread[:2]).sum() / total) if total else 1.0


def _latent(codes: Floats, random_state: int) -> Layout:
    if codes.shape[1] != 2:
        raise ValueError(
            f"Got method='latent' with latent_dim={codes.shape[1]}, expected 2. Pass method='pca', or fit with "
            "latent_dim=2."
        )
    return lambda new: new, codes, 1.0


def _umap(codes: Floats, random_state: int) -> Layout:
    try:
        from umap import UMAP
    except ImportError as error:
        raise ImportError(f"Got no {error.name}, expected umap-learn. Run: pip install 'anomalyvae[umap]'.") from error
    if len(codes) < 4:
        raise ValueError(f"Got {len(codes)} rows, expected at least 4 for UMAP. Pass method='pca'.")
    # One job, since several do not repeat.
    layout: Any = UMAP(n_neighbors=min(15, len(codes) - 1), random_state=random_state, n_jobs=1)
    own = np.asarray(layout.fit_transform(codes), dtype=np.float64)
    return lambda new: np.asarray(layout.transform(new), dtype=np.float64), own, None


_METHODS: dict[str, Callable[[Floats, int], Layout]] = {"pca": _pca, "latent": _latent, "umap": _umap}


def _table(coordinates: Floats, index: Any) -> pd.DataFrame:
    return pd.DataFrame(coordinates, index=index, columns=["x", "y"])
