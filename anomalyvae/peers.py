"""PyOD's detectors compared with ours on a table of the user's."""

import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr
from sklearn.base import clone

from anomalyvae.detector import VAEOutlierDetector
from anomalyvae.detector.categories import as_pandas, common_levels, encode_categories, find_categories, read_as
from anomalyvae.metrics import auroc, average_precision
from anomalyvae.pyod_adapter import OURS, pyod_detector
from anomalyvae.tables.arrays import one_per_row
from anomalyvae.untrusted import listed

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]

_LEARN = 5000  # rows; LUNAR takes a minute for so many, and the time of others grows with their square
_TOP = 0.05  # share of the rows that are compared as most anomalous


def compare(
    rows: pd.DataFrame | ArrayLike,
    label: str | ArrayLike | None = None,
    against: Sequence[str] = ("knn", "iforest", "lunar"),
    *,
    positive: Any = None,
    detector: VAEOutlierDetector | None = None,
    seeds: int = 3,
    random_state: int = 0,
    learn: int = _LEARN,
    progress: Callable[[int, int, str], None] | None = None,
) -> pd.DataFrame:
    """Compare our detector with PyOD's on the same rows.

    With a label: half of the normal rows, chosen anew for each seed, are learned; the other half and all outliers are
    scored. No detector sees a label. Without a label, all rows are learned and scored, and the result shows how far the
    rankings agree. PyOD's detectors get the rows standardised by the learned ones, and text and booleans one-hot: a
    column per level of the learned rows that our detector knows, none of them set for another level or a missing cell.

    Parameters
    ----------
    rows : DataFrame or array-like of shape (n, d)
    label : str or array-like of shape (n,), optional
        A column of ``rows``, which is then no feature, or one value per row: 1 or True for an outlier.
    against : sequence of str
        Names in `anomalyvae.pyod_adapter.PYOD_DETECTORS`.
    positive : object, optional
        The value that marks outliers, if the label has other values than 0 and 1.
    detector : VAEOutlierDetector, optional
        Our detector with its settings; by default the default settings.
    seeds : int
        Repetitions; figures are means.
    random_state : int
        The first seed; the others follow it.
    learn : int
        At most so many rows are learned, by all detectors the same: of more rows a sample, chosen anew for each seed.
    progress : callable, optional
        Called as ``progress(number, steps, what)`` before each fit; from the second seed on, ``what`` also says how
        many seconds are left.

    Returns
    -------
    DataFrame
        A row per detector, best first. With a label ``auroc`` and ``average_precision``; without, ``rank_correlation``
        (Spearman, with our scores) and ``top_shared`` (the share of our 5 % most anomalous rows that are also among its
        5 %). Then ``fit_s`` and ``score_s``, the seconds to learn (ours includes its threshold) and to score, and
        ``failure``: empty, or why a detector of PyOD has no figures. ``attrs["protocol"]`` describes the procedure.

    Raises
    ------
    ValueError
        For a label without outliers or normal rows, for unknown names, and for rows that our detector cannot use.
    ImportError
        If PyOD is not installed.
    KeyboardInterrupt
        Also during our own training, which on its own would keep what it has learned.

    Examples
    --------
    >>> import numpy as np
    >>> from anomalyvae import VAEOutlierDetector
    >>> from anomalyvae.peers import compare
    >>> rng = np.random.default_rng(0)
    >>> rows = np.vstack([rng.normal(size=(100, 3)), 9 + rng.normal(size=(5, 3))])
    >>> ours = VAEOutlierDetector(max_epochs=5)
    >>> table = compare(rows, np.repeat([0, 1], [100, 5]), ["knn"], detector=ours, seeds=1)
    >>> table["auroc"].tolist()
    [1.0, 1.0]
    """
    if seeds < 1:
        raise ValueError(f"seeds={seeds} is below 1. Pass the number of repetitions.")
    if learn < 2:
        raise ValueError(f"learn={learn} is below 2. Pass the number of rows that detectors may learn (--learn).")
    if not isinstance(detector, VAEOutlierDetector | None):
        raise ValueError(f"Got a {type(detector).__name__}, expected a VAEOutlierDetector. Pass one, or leave it out.")
    table = as_pandas(rows)
    table = table if isinstance(table, pd.DataFrame) else as_pandas(pd.DataFrame(np.asarray(table)))
    table, outlier = _split_off_label(table, label, positive)
    names = [OURS, *dict.fromkeys(against)]
    for name in names[1:]:
        pyod_detector(name)  # fail early on unknown names
    problem = _problem_for_pyod(table)

    results: list[dict[str, Any]] = []
    failures = {name: problem for name in names[1:] if problem}
    steps = [(seed, name) for seed in range(random_state, random_state + seeds) for name in names]
    ours = np.empty(0)
    for number, (seed, name) in enumerate(steps, start=1):
        if name in failures:
            continue
        if progress is not None:
            left = [other for _, other in steps[number - 1 :] if other not in failures]
            progress(number, len(steps), f"{name}, seed {seed}{_time_left(results, left)}")
        train, test = _train_test(len(table), outlier, seed, learn)
        try:
            scores, seconds = _scored(name, detector, table, train, test, seed)
            ours = scores if name == OURS else ours
            figures = _agreement(ours, scores) if outlier is None else _quality(outlier[test], scores)
        except Exception as error:  # an error of PyOD is a row of the table
            if name == OURS:
                raise
            failures[name] = " ".join(f"{type(error).__name__}: {error}".split())
        else:
            results.append({"detector": name} | figures | seconds)

    means = _means(results, names, failures)
    means.attrs["protocol"] = _protocol(len(table), outlier, range(random_state, random_state + seeds), learn)
    return means


def _time_left(results: list[dict[str, Any]], left: list[str]) -> str:
    """How long the detectors that are ``left`` take, as text; empty if one of them has no result yet."""
    seconds = {one["detector"]: one["fit_s"] + one["score_s"] for one in results}
    return f", {sum(seconds[name] for name in left):,.0f} s left" if seconds.keys() >= {*left} else ""


def _scored(
    name: str,
    detector: VAEOutlierDetector | None,
    table: pd.DataFrame,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    seed: int,
) -> tuple[Floats, dict[str, float]]:
    """The scores of test rows by one detector, ours or PyOD's of a name, and the seconds to fit and to score."""
    if name == OURS:
        model = clone(VAEOutlierDetector() if detector is None else detector).set_params(random_state=seed)
        return _interruptible(_timed, model, table.iloc[train], table.iloc[test])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyOD's inside
        return _timed(pyod_detector(name, seed), *_standardised(table, train, test))


def _means(results: list[dict[str, Any]], names: list[str], failures: dict[str, str]) -> pd.DataFrame:
    """The mean figures of each detector, best first; a detector that failed has none."""
    means = pd.DataFrame(results).groupby("detector").mean().drop(list(failures), errors="ignore").reindex(names)
    means.index.name = "detector"
    means["failure"] = [failures.get(name, "") for name in names]
    return means.sort_values(means.columns[0], ascending=False, kind="stable", na_position="last")


def _train_test(n: int, outlier: Labels | None, seed: int, learn: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The indices of rows that are learned, at most so many, and of those that are scored."""
    random = np.random.RandomState(seed)
    if outlier is None:
        return np.sort(random.permutation(n)[:learn]), np.arange(n)
    normal = random.permutation(np.flatnonzero(~outlier))  # as in pipelines/benchmarks/tabular.py
    half = len(normal) // 2
    return normal[: min(half, learn)], np.concatenate([normal[half:], np.flatnonzero(outlier)])


def _standardised(table: pd.DataFrame, train: NDArray[Any], test: NDArray[Any]) -> tuple[Floats, Floats]:
    x = _encoded(table, train)
    x = x / np.maximum(
        np.abs(x[train]).max(axis=0), np.finfo(np.float64).tiny
    )  # squares of huge numbers would overflow
    center, scale = x[train].mean(axis=0), x[train].std(axis=0)
    x = (x - center) / np.where(scale > 0, scale, 1)
    return x[train], x[test]


def _encoded(table: pd.DataFrame, train: NDArray[Any]) -> Floats:
    """Rows as numbers: categories one-hot, by the levels that our detector would know from the learned rows."""
    learned = table.iloc[train]
    levels, _ = find_categories(learned)
    codes = encode_categories(learned, levels).to_numpy(dtype=np.float64)
    _, known = common_levels(codes, np.ones(len(codes)), table.columns, levels)
    codes = encode_categories(table, known).to_numpy(dtype=np.float64)
    blocks = [
        codes[:, [i]] if name not in known else (codes[:, [i]] == np.arange(len(known[name]))).astype(np.float64)
        for i, name in enumerate(table.columns)
    ]
    return np.concatenate(blocks, axis=1)


def _timed(detector: Any, train: Any, test: Any) -> tuple[Floats, dict[str, float]]:
    """Scores, and the seconds to fit and to score."""
    start = time.perf_counter()
    detector.fit(train)
    fitted = time.perf_counter()
    scores = detector.anomaly_score(test)
    return scores, {"fit_s": fitted - start, "score_s": time.perf_counter() - fitted}


def _interruptible(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function, and turn the warning of our interrupted training back into KeyboardInterrupt."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".* was interrupted", category=UserWarning)
        try:
            return function(*args)
        except UserWarning as warning:
            raise KeyboardInterrupt from warning


def _quality(outlier: Labels, scores: Floats) -> dict[str, float]:
    scores = np.clip(scores, np.finfo(float).min, np.finfo(float).max)  # an infinite score can be ranked
    return {"auroc": auroc(outlier, scores), "average_precision": average_precision(outlier, scores)}


def _agreement(ours: Floats, theirs: Floats) -> dict[str, float]:
    if np.isnan(theirs).any():
        raise ValueError(f"{np.isnan(theirs).sum()} of {len(theirs)} scores are NaN.")
    k = math.ceil(_TOP * len(ours))
    tops = [set(np.argsort(-scores, kind="stable")[:k]) for scores in (ours, theirs)]
    return {
        "rank_correlation": float(spearmanr(ours, theirs).statistic),
        "top_shared": len(tops[0] & tops[1]) / k,
    }


def _protocol(n: int, outlier: Labels | None, seeds: range, learn: int) -> str:
    """A sentence that says which rows were learned and scored."""
    times = f"Seed {seeds[0]}" if len(seeds) == 1 else f"Mean of seeds {seeds[0]} to {seeds[-1]}"
    normal = n if outlier is None else int((~outlier).sum())
    half = n if outlier is None else normal // 2
    learned, more = f"{half} of {normal} normal rows are learned", ""
    if half > learn:
        kind, more = "rows" if outlier is None else "normal rows", " To learn more rows, pass learn (--learn)."
        learned = f"a sample of {learn} of {normal} {kind} is learned"
    if outlier is not None:
        return f"{times}: {learned}; {normal - half} others and {outlier.sum()} outliers are scored.{more}"
    learned = f"{learned}, and all are" if more else f"all {n} rows are learned and"
    return f"{times}: {learned} scored. Without a label, rankings are compared with {OURS}'s.{more}"


def _split_off_label(table: pd.DataFrame, label: Any, positive: Any) -> tuple[pd.DataFrame, Labels | None]:
    """The features, and which rows are outliers."""
    if label is None:
        if positive is not None:
            raise ValueError(f"positive={positive!r} is a value of the label, and no label was given. Pass label, too.")
        return table, None
    if isinstance(label, str):
        if label not in [*table.columns]:
            raise ValueError(f"label={label!r} is not one of the columns {listed(table.columns)}. Correct the name.")
        column, table = table[label], table.drop(columns=label)
    else:
        column = pd.Series(one_per_row(label, len(table), "a label"))
    values = sorted(column.unique().tolist(), key=str)
    positive = 1 if positive is None else positive
    matching = [value for value in values if value == positive or str(positive) in read_as({str(value): None})]
    if len(values) != 2 or len(matching) != 1 or column.isna().any():
        raise ValueError(
            f"The label has the values {listed(values)}; it needs two, one of them {positive!r} for outliers. Name "
            "that value by positive= (--positive), drop rows without a label, or choose another label."
        )
    outlier = column.isin(matching).to_numpy(dtype=bool)
    if (~outlier).sum() < 4:
        raise ValueError(f"Got {(~outlier).sum()} normal rows, expected at least 4. Pass more, or leave the label out.")
    return table, outlier


def _problem_for_pyod(table: pd.DataFrame) -> str:
    """Why PyOD's detectors cannot use these rows; empty if they can."""
    categories, _ = find_categories(table)  # refuses dates and other columns that are neither
    numbers = table.drop(columns=list(categories))
    broken = numbers.columns[~np.isfinite(numbers.to_numpy(dtype=np.float64, na_value=np.nan)).all(axis=0)]
    if len(broken):
        return f"PyOD's detectors need finite numbers; cells are missing or infinite in {listed(broken)}. Impute them."
    return ""
