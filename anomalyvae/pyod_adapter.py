"""PyOD, both ways: ours inside PyOD (`as_pyod`), and PyOD's detectors beside ours on the same rows (`compare`).

PyOD comes with the extra ``compare``. Nothing of it is imported before it is needed.
"""

import functools
import importlib
import inspect
import math
import random
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from anomalyvae.detector import VAEOutlierDetector
from anomalyvae.metrics import auroc, average_precision

if TYPE_CHECKING:
    from pyod.models.base import BaseDetector

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]

OURS = "anomalyvae"
PEERS = {  # name: class, below pyod.models
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
_TOP = 0.05  # share of the rows that are flagged where agreement is measured


# --- ours inside PyOD -----------------------------------------------------------------------------------


def as_pyod(
    detector: VAEOutlierDetector, rows: ArrayLike | None = None, *, contamination: Any = None
) -> "BaseDetector":
    """Give a detector PyOD's conventions: labels 0 and 1, and a high score for an outlier.

    Parameters
    ----------
    detector : VAEOutlierDetector
        Fitted or not. ``fit`` of what is returned learns with a clone of it, so its own state is never touched. Its
        own threshold plays no part here: ``validation_fraction=0`` saves the networks that would set it.
    rows : array-like or DataFrame of shape (n_samples, n_features), optional
        The rows that a *fitted* detector was trained on, to go on with it as it is: PyOD's threshold, labels,
        probabilities and confidences are statements on the scores of those rows, and a fitted detector does not keep
        them. Without them a fitted detector gives its ``decision_function`` at once, and all else once it has been
        fitted again.
    contamination : float in (0, 0.5], optional
        Share of the training rows that lie above PyOD's ``threshold_``, or an object of PyThresh. By default the
        detector's own where that is a number, else PyOD's 0.1. How the detector learns is not changed by it.

    Returns
    -------
    PyODDetector
        A ``pyod.models.base.BaseDetector`` that can be cloned, copied and pickled. ``decision_function`` is
        `VAEOutlierDetector.anomaly_score`; ``decision_scores_``, ``threshold_``, ``labels_``, ``predict``,
        ``predict_proba`` and ``predict_confidence`` are PyOD's; the detector that was fitted is ``detector_``.

    Raises
    ------
    TypeError
        If ``detector`` is something else.
    ValueError
        If ``contamination`` lies outside (0, 0.5].
    sklearn.exceptions.NotFittedError
        If ``rows`` are given with a detector that is not fitted.
    ImportError
        Without PyOD.

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
        adapter._take_over(detector, rows)
    elif hasattr(detector, "offset_"):
        adapter.detector_ = detector
    return adapter


@functools.cache
def _pyod_class() -> Any:
    """The class that `as_pyod` returns: made when PyOD is first needed, found by pickle as ``peers.PyODDetector``."""

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
            """Learn from the rows with a clone of ``detector``, and set PyOD's threshold by their scores."""
            return self._take_over(clone(self.detector).fit(X), X, y)

        def decision_function(self, X: ArrayLike) -> Floats:
            """How strange each row is, high = outlier, shape ``(n,)``."""
            check_is_fitted(self, "detector_")
            return self.detector_.anomaly_score(X)

        def _take_over(self, fitted: VAEOutlierDetector, X: ArrayLike, y: Any = None) -> Self:
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
        raise ImportError(f"Got no {error.name}, expected PyOD. Run: pip install 'anomalyvae[compare]'.") from error


# --- PyOD's beside ours ---------------------------------------------------------------------------------


def peer(name: str, seed: int = 0) -> "Peer":
    """A detector of PyOD's with its defaults.

    Parameters
    ----------
    name : str
        One of `PEERS`.
    seed : int
        What it draws from, also where its constructor takes no seed.

    Returns
    -------
    Peer

    Raises
    ------
    ValueError
        For a name that is not in `PEERS`.
    ImportError
        Without PyOD.
    """
    if name not in PEERS:
        raise ValueError(f"Got {name!r}, expected one of PyOD's detectors: {', '.join(PEERS)}. Choose among those.")
    constructor = _import_pyod(*PEERS[name].split("."))
    wanted = {"random_state": seed, "verbose": 0}  # its networks show progress bars unless told not to
    settings = {key: wanted[key] for key in wanted.keys() & inspect.signature(constructor).parameters.keys()}
    return Peer(functools.partial(constructor, **settings), seed)


class Peer:
    """A detector of PyOD's that draws from random generators of its own.

    PyOD's networks seed the global generators of Python, numpy and torch, and draw from them as they learn and, the
    VAE, as it scores. While a peer works its own states are in their place; then they are given back as they were.
    So peers neither disturb each other nor their caller, and the same seed gives the same scores.

    Parameters
    ----------
    construct : callable
        Makes the PyOD detector.
    seed : int

    Attributes
    ----------
    detector_ : pyod.models.base.BaseDetector
        After `fit`.
    """

    detector_: Any

    def __init__(self, construct: Callable[[], Any], seed: int) -> None:
        self._construct, self._seed = construct, seed

    def fit(self, rows: Floats) -> Self:
        """Learn anew from rows of shape ``(n, d)``."""
        with _generators_kept():
            random.seed(self._seed)
            np.random.seed(self._seed)  # noqa: NPY002
            torch.manual_seed(self._seed)
            self.detector_ = self._construct()
            self.detector_.fit(rows)
            self._states = _generator_states()
        return self

    def anomaly_score(self, rows: Floats) -> Floats:
        """PyOD's ``decision_function``, high = strange, shape ``(n,)``."""
        with _generators_kept():
            _set_generators(self._states)
            scores = np.asarray(self.detector_.decision_function(rows), dtype=np.float64)
            self._states = _generator_states()
        return scores


def _generator_states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), torch.cuda.get_rng_state_all()  # noqa: NPY002


def _set_generators(states: tuple[Any, ...]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])
    torch.cuda.set_rng_state_all(states[3])


@contextmanager
def _generators_kept() -> Iterator[None]:
    before = _generator_states()
    try:
        yield
    finally:
        _set_generators(before)


def compare(
    rows: pd.DataFrame | ArrayLike,
    label: str | ArrayLike | None = None,
    against: Sequence[str] = ("knn", "iforest", "lunar"),
    *,
    positive: Any = None,
    detector: VAEOutlierDetector | None = None,
    seeds: int = 3,
    random_state: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> pd.DataFrame:
    """Ours and PyOD's detectors on the same rows.

    With a label, by the benchmark's protocol ``normal``: half of the normal rows, drawn anew for each seed, are
    learned; the other half and all outliers are scored. No detector sees a label. Without one there is no truth to
    measure: every row is learned and scored, and what is left to tell is how far the rankings agree, and the speed.
    PyOD's detectors get the rows standardised by those that are learned; ours gets them as they are.

    Parameters
    ----------
    rows : DataFrame or array-like of shape (n, d)
        All of them are used: for a first look at a large table, pass a sample.
    label : str or array-like of shape (n,), optional
        A column of ``rows``, which is then no feature, or one value per row: 1 or True for an outlier.
    against : sequence of str
        Names in `PEERS`.
    positive : object, optional
        The value that means outlier, for a label with two other values than 0 and 1.
    detector : VAEOutlierDetector, optional
        Ours, with its settings; by default the defaults.
    seeds : int
        How many times; figures are means.
    random_state : int
        The first seed; the others follow it.
    progress : callable, optional
        Called as ``progress(number, steps, what)`` before each fit.

    Returns
    -------
    DataFrame
        A row per detector, best first, or by agreement with ours. With a label ``auroc`` and ``average_precision``;
        without, ``rank_correlation`` (Spearman's, with our scores) and ``top_shared`` (the share of our strangest 5 %
        of the rows that are among its strangest 5 %). Then ``fit_s`` and ``score_s``, the seconds to learn (ours
        includes its threshold) and to score, and ``failure``: empty, or why a detector of PyOD's has no figures, such
        as missing or text cells. ``attrs["protocol"]`` says in words what was done.

    Raises
    ------
    ValueError
        For a label that does not tell outliers from normal rows, for unknown names, and for rows that our own
        detector cannot use.
    ImportError
        Without PyOD.
    KeyboardInterrupt
        When interrupted, also in the middle of our own training, which would otherwise keep what it has.

    Examples
    --------
    >>> import numpy as np
    >>> from anomalyvae import VAEOutlierDetector
    >>> from anomalyvae.pyod_adapter import compare
    >>> rng = np.random.default_rng(0)
    >>> rows = np.vstack([rng.normal(size=(100, 3)), 9 + rng.normal(size=(5, 3))])
    >>> ours = VAEOutlierDetector(max_epochs=5)
    >>> table = compare(rows, np.repeat([0, 1], [100, 5]), ["knn"], detector=ours, seeds=1)
    >>> table["auroc"].tolist()
    [1.0, 1.0]
    """
    if seeds < 1:
        raise ValueError(f"Got seeds={seeds}, expected 1 or more. Give a number of repetitions.")
    table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(np.asarray(rows))
    table, outlier = _without_label(table, label, positive)
    names = [OURS, *dict.fromkeys(against)]
    for name in names[1:]:
        peer(name)  # what cannot be had is told before anything takes time
    why_not = _unfit_for_peers(table)

    results: list[dict[str, Any]] = []
    failures = {name: why_not for name in names[1:] if why_not}
    steps = [(seed, name) for seed in range(random_state, random_state + seeds) for name in names]
    ours = np.empty(0)
    for number, (seed, name) in enumerate(steps, start=1):
        if name in failures:
            continue
        if progress is not None:
            progress(number, len(steps), f"{name}, seed {seed}")
        learned, scored = _split(len(table), outlier, seed)
        try:
            if name == OURS:
                chosen = clone(VAEOutlierDetector() if detector is None else detector).set_params(random_state=seed)
                ours, seconds = _interruptible(_timed, chosen, table.iloc[learned], table.iloc[scored])
                scores = ours
            else:
                scores, seconds = _quiet(_timed, peer(name, seed), *_standardised(table, learned, scored))
            figures = _agreement(ours, scores) if outlier is None else _quality(outlier[scored], scores)
        except Exception as error:  # whatever goes wrong inside a peer is a line of the table
            if name == OURS:
                raise
            failures[name] = " ".join(f"{type(error).__name__}: {error}".split())
        else:
            results.append({"detector": name} | figures | seconds)

    means = pd.DataFrame(results).groupby("detector").mean().drop(list(failures), errors="ignore").reindex(names)
    means.index.name = "detector"
    means["failure"] = [failures.get(name, "") for name in names]
    means = means.sort_values(means.columns[0], ascending=False, kind="stable", na_position="last")
    means.attrs["protocol"] = _protocol(len(table), outlier, range(random_state, random_state + seeds))
    return means


def _split(n: int, outlier: Labels | None, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to learn and rows to score."""
    if outlier is None:
        return np.arange(n), np.arange(n)
    normal = np.random.RandomState(seed).permutation(np.flatnonzero(~outlier))  # drawn as the benchmark draws
    half = len(normal) // 2
    return normal[:half], np.concatenate([normal[half:], np.flatnonzero(outlier)])


def _standardised(table: pd.DataFrame, learned: NDArray[Any], scored: NDArray[Any]) -> tuple[Floats, Floats]:
    x = table.to_numpy(dtype=np.float64)
    center, scale = x[learned].mean(axis=0), x[learned].std(axis=0)
    x = (x - center) / np.where(scale > 0, scale, 1)
    return x[learned], x[scored]


def _timed(detector: Any, learned: Any, scored: Any) -> tuple[Floats, dict[str, float]]:
    """Scores, and the seconds that they took."""
    began = time.perf_counter()
    detector.fit(learned)
    fitted = time.perf_counter()
    scores = detector.anomaly_score(scored)
    return scores, {"fit_s": fitted - began, "score_s": time.perf_counter() - fitted}


def _quiet(function: Callable[..., Any], *args: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyOD's insides, which are not the caller's to mend
        return function(*args)


def _interruptible(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function of ours, which takes an interrupt for the wish to keep what was learned so far."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".* was interrupted", category=UserWarning)
        try:
            return function(*args)
        except UserWarning as told:
            raise KeyboardInterrupt from told


def _quality(outlier: Labels, scores: Floats) -> dict[str, float]:
    scores = np.clip(scores, np.finfo(float).min, np.finfo(float).max)  # an infinite score still has its rank
    return {"auroc": auroc(outlier, scores), "average_precision": average_precision(outlier, scores)}


def _agreement(ours: Floats, theirs: Floats) -> dict[str, float]:
    if np.isnan(theirs).any():
        raise ValueError(f"Got NaN in {np.isnan(theirs).sum()} of {len(theirs)} scores, expected numbers.")
    k = math.ceil(_TOP * len(ours))
    tops = [set(np.argsort(-scores, kind="stable")[:k]) for scores in (ours, theirs)]
    return {
        "rank_correlation": float(spearmanr(ours, theirs).statistic),
        "top_shared": len(tops[0] & tops[1]) / k,
    }


def _protocol(n: int, outlier: Labels | None, seeds: range) -> str:
    times = f"Seed {seeds[0]}" if len(seeds) == 1 else f"Mean of seeds {seeds[0]} to {seeds[-1]}"
    if outlier is None:
        return (
            f"{times}: all {n} rows learned, unlabelled, and scored. Without a label there is no best: rankings are "
            f"compared with {OURS}'s."
        )
    normal, strange = int((~outlier).sum()), int(outlier.sum())
    return (
        f"{times}: {normal // 2} of {normal} normal rows learned; the other {normal - normal // 2} and {strange} "
        "outliers scored."
    )


# --- what comes in --------------------------------------------------------------------------------------


def _without_label(table: pd.DataFrame, label: Any, positive: Any) -> tuple[pd.DataFrame, Labels | None]:
    """The features, and which rows are outliers."""
    if label is None:
        if positive is not None:
            raise ValueError(f"Got positive={positive!r} without a label, expected both. Name the label too.")
        return table, None
    if isinstance(label, str):
        if label not in table:
            raise ValueError(f"Got label={label!r}, expected a column: {_listed(table.columns)}. Choose one of those.")
        column, table = table[label], table.drop(columns=label)
    else:
        column = pd.Series(np.asarray(label))
        if len(column) != len(table):
            raise ValueError(f"Got {len(column)} labels for {len(table)} rows, expected one each.")
    if column.isna().any():
        raise ValueError(f"Got {column.isna().sum()} rows without a label, expected none. Label or drop them.")
    found = sorted(column.unique().tolist(), key=str)
    if positive is None and set(found) <= {0, 1}:
        positive = 1
    elif positive is None:
        raise ValueError(
            f"Got a label with the values {_listed(found)}, expected 0 and 1. Name the one that means outlier: "
            "positive=, or --positive."
        )
    named = [value for value in found if value == positive or str(value) == str(positive)]
    if len(found) > 2 or (len(found) == 2 and not named):
        raise ValueError(
            f"Got positive={positive!r} and a label with the values {_listed(found)}, expected two values, one of them "
            "positive. Choose another label or value."
        )
    outlier = column.isin(named).to_numpy(dtype=bool)
    if outlier.sum() < 1 or (~outlier).sum() < 4:
        raise ValueError(
            f"Got {outlier.sum()} outliers and {(~outlier).sum()} normal rows, expected at least 1 and 4. Leave the "
            "label out to compare without one."
        )
    return table, outlier


def _unfit_for_peers(table: pd.DataFrame) -> str:
    """Why PyOD's detectors cannot take these rows; empty if they can."""
    text = [name for name, kind in table.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]
    if text:
        return f"Got columns that are no numbers: {_listed(text)}. Expected numbers alone. Encode or drop them."
    broken = table.columns[~np.isfinite(table.to_numpy(dtype=np.float64, na_value=np.nan)).all(axis=0)]
    if len(broken):
        return f"Got missing or infinite cells in {_listed(broken)}. Expected finite numbers. Impute them or drop rows."
    return ""


def _listed(names: Any) -> str:
    shown = ", ".join(map(str, names[:5]))
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
