"""PyOD, both ways: our detector inside PyOD (`as_pyod`), and PyOD's detectors as ours (`pyod_detector`).

PyOD is installed with the extra ``compare``, and imported only when it is used.
"""

import functools
import importlib
import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Real
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from anomalyvae.detector import VAEOutlierDetector
from anomalyvae.lazy import not_installed

if TYPE_CHECKING:
    from pyod.models.base import BaseDetector

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]

OURS = "anomalyvae"
PYOD_DETECTORS = {  # name: class in pyod.models
    "knn": "knn.KNN",
    "lof": "lof.LOF",
    "lunar": "lunar.LUNAR",
    "iforest": "iforest.IForest",
    "ecod": "ecod.ECOD",
    "pca": "pca.PCA",
    "gmm": "gmm.GMM",
    "ocsvm": "ocsvm.OCSVM",
    "autoencoder": "auto_encoder.AutoEncoder",
    "vae": "vae.VAE",
}


# --- our detector inside PyOD ---------------------------------------------------------------------------


def as_pyod(
    detector: VAEOutlierDetector, rows: ArrayLike | None = None, *, contamination: Any = None
) -> "BaseDetector":
    """Wrap a detector by PyOD's conventions: labels 0 and 1, and a high score for an outlier.

    Parameters
    ----------
    detector : VAEOutlierDetector
        Fitted or not; the result's ``fit`` fits a clone of it. Its own threshold is not used, so that
        ``validation_fraction=0`` saves the networks that would set it.
    rows : array-like or DataFrame of shape (n_samples, n_features), optional
        The training rows of a *fitted* detector, which does not keep them: PyOD's threshold, labels, probabilities and
        confidences are computed from their scores. Without them, it has ``decision_function`` only until ``fit``.
    contamination : float in (0, 0.5], optional
        Share of the training rows above PyOD's ``threshold_``, or a PyThresh object. By default the detector's own if
        it is a number, otherwise PyOD's 0.1. PyOD's training rows have outliers: ``fit`` gives a number to a detector
        whose own contamination is ``"auto"``, so that it does not learn these. A number of its own stays.

    Returns
    -------
    PyODDetector
        A ``pyod.models.base.BaseDetector`` that can be cloned, copied and pickled. ``decision_function`` is
        `VAEOutlierDetector.anomaly_score`; ``decision_scores_``, ``threshold_``, ``labels_``, ``predict``,
        ``predict_proba`` and ``predict_confidence`` are PyOD's; ``detector_`` is the fitted detector.

    Raises
    ------
    TypeError
        If ``detector`` is something else.
    ValueError
        If ``contamination`` is outside (0, 0.5].
    sklearn.exceptions.NotFittedError
        If ``rows`` are given with an unfitted detector.
    ImportError
        If PyOD is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from anomalyvae import VAEOutlierDetector, as_pyod
    >>> rows = np.random.default_rng(0).normal(size=(200, 3))
    >>> detector = as_pyod(VAEOutlierDetector(random_state=0, max_epochs=5), contamination=0.05).fit(rows)
    >>> int(detector.labels_.sum())
    10
    """
    if not isinstance(detector, VAEOutlierDetector):
        raise TypeError(f"Got a {type(detector).__name__}, expected a VAEOutlierDetector. Pass the detector itself.")
    if contamination is None:
        contamination = 0.1 if isinstance(detector.contamination, str) else detector.contamination
    adapter = _pyod_class()(detector, contamination)
    if rows is not None:
        adapter._set_fitted(detector, rows)
    elif hasattr(detector, "offset_"):
        adapter.detector_ = detector
    return adapter


@functools.cache
def _pyod_class() -> Any:
    """The class `PyODDetector`, defined when PyOD is first used; pickle finds it in this module."""

    class PyODDetector(_import_pyod("base", "BaseDetector")):  # type: ignore[misc]
        """A `VAEOutlierDetector` with PyOD's conventions; see `as_pyod`.

        Parameters
        ----------
        detector : VAEOutlierDetector
        contamination : float in (0, 0.5], default=0.1
        """

        def __init__(self, detector: VAEOutlierDetector, contamination: Any = 0.1) -> None:
            super().__init__(contamination=contamination)
            self.detector = detector

        def fit(self, X: ArrayLike, y: Any = None) -> Self:
            """Fit a clone of ``detector``, told of the contamination, and set PyOD's threshold."""
            detector = clone(self.detector)
            if detector.contamination == "auto" and isinstance(self.contamination, Real):
                detector.set_params(contamination=float(self.contamination))
            return self._set_fitted(detector.fit(X), X, y)

        def decision_function(self, X: ArrayLike) -> Floats:
            """Anomaly scores, high = outlier, shape ``(n,)``."""
            check_is_fitted(self, "detector_")
            return self.detector_.anomaly_score(X)

        def _set_fitted(self, fitted: VAEOutlierDetector, X: ArrayLike, y: Any = None) -> Self:
            self._set_n_classes(y)
            self.decision_scores_ = fitted.anomaly_score(X)
            self.detector_ = fitted
            return self._process_decision_scores()

    PyODDetector.__qualname__ = "PyODDetector"
    return PyODDetector


def __getattr__(name: str) -> Any:
    if name == "PyODDetector":
        return _pyod_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _import_pyod(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(f"pyod.models.{module}"), name)
    except ModuleNotFoundError as error:
        raise not_installed(error, "a detector of PyOD", "anomalyvae[compare]") from error


# --- PyOD's detectors -----------------------------------------------------------------------------------


def pyod_detector(name: str, seed: int = 0) -> "SeededPyOD":
    """A detector of PyOD with its default settings; ValueError for a name that is none of `PYOD_DETECTORS`.

    All of its random numbers come from ``seed``, also if its constructor takes no seed.
    """
    if name not in PYOD_DETECTORS:
        raise ValueError(f"{name!r} is not one of PyOD's detectors here. Choose from {', '.join(PYOD_DETECTORS)}.")
    constructor = _import_pyod(*PYOD_DETECTORS[name].split("."))
    wanted = {"random_state": seed, "verbose": 0}  # its networks show progress bars by default
    settings = {key: wanted[key] for key in wanted.keys() & inspect.signature(constructor).parameters.keys()}
    return SeededPyOD(functools.partial(constructor, **settings), seed)


class SeededPyOD:
    """A detector of PyOD with its own random generators; `fit` makes it, as ``detector_``.

    PyOD's networks seed the global generators of Python, numpy and torch, and use them to learn and, the VAE, to score.
    Here these have the detector's own states while it works, and are restored afterwards. So the same seed gives the
    same scores, and neither other detectors nor the caller are affected.
    """

    detector_: Any

    def __init__(self, construct: Callable[[], Any], seed: int) -> None:
        self._construct, self._seed = construct, seed
        self._states: tuple[Any, ...] | None = None

    def fit(self, rows: Floats) -> Self:
        """Fit to rows of shape ``(n, d)``."""
        self._states = None
        with self._own_generators():
            self.detector_ = self._construct()
            self.detector_.fit(rows)
        return self

    def anomaly_score(self, rows: Floats) -> Floats:
        """PyOD's ``decision_function``, high = outlier, shape ``(n,)``."""
        with self._own_generators():
            return np.asarray(self.detector_.decision_function(rows), dtype=np.float64)

    @contextmanager
    def _own_generators(self) -> Iterator[None]:
        before = _generator_states()
        try:
            if self._states is None:
                random.seed(self._seed)
                np.random.seed(self._seed)  # noqa: NPY002
                torch.manual_seed(self._seed)
            else:
                _set_generators(self._states)
            yield
            self._states = _generator_states()
        finally:
            _set_generators(before)


def _generator_states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), torch.cuda.get_rng_state_all()  # noqa: NPY002


def _set_generators(states: tuple[Any, ...]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])
    torch.cuda.set_rng_state_all(states[3])
