"""Alarm rate and detection quality by group, on held-out rows."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, KFold

from anomalyvae.detector import VAEOutlierDetector
from anomalyvae.metrics import auroc, average_precision

FOLDS = 3
_Z = 1.959963985  # for 95 % confidence intervals
_RESAMPLES = 200  # of the bootstrap

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def held_out_excess(
    X: Any,
    detector: VAEOutlierDetector,
    *,
    outlier: Flags | None = None,
    recording: pd.Series | None = None,
    weight: Floats | None = None,
    seed: int = 0,
) -> Floats:
    """How far above the threshold each row scores, by a detector that was fitted without it.

    Parameters
    ----------
    X : array-like or DataFrame of shape (n, d)
    detector : VAEOutlierDetector
        Clones of it are fitted to two thirds of the rows each, and score the other third.
    outlier : ndarray of bool, shape (n,), optional
        Known outliers: they are not learned.
    recording : Series of shape (n,), optional
        The recording of each row; whole recordings are held out.
    weight : ndarray of shape (n,), optional
        As ``sample_weight``.
    seed : int

    Returns
    -------
    ndarray of shape (n,)
        Above zero for an alarm.

    Raises
    ------
    ValueError
        For fewer than three rows or recordings.
    """
    n = len(X)
    parts = n if recording is None else recording.nunique()
    if parts < FOLDS:
        what = "rows" if recording is None else "recordings"
        raise ValueError(
            f"Got {parts} {what}; comparing groups holds out one third of them, and needs at least {FOLDS}. "
            "Leave group out, or pass more."
        )
    kind = KFold if recording is None else GroupKFold
    folds = kind(FOLDS, shuffle=True, random_state=seed)
    excess = np.empty(n)
    for learned, held_out in folds.split(np.arange(n), groups=None if recording is None else recording.to_numpy()):
        if outlier is not None:
            learned = learned[~outlier[learned]]
        model = clone(detector).fit(
            _take(X, learned),
            sample_weight=None if weight is None else weight[learned],
            groups=None if recording is None else recording.to_numpy()[learned],
        )
        excess[held_out] = -model.decision_function(_take(X, held_out))
    return excess


def group_figures(
    excess: Floats,
    group: pd.Series,
    *,
    outlier: Flags | None = None,
    recording: pd.Series | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Alarm rate and, with labels, detection quality of each group, and their difference from all other rows.

    Parameters
    ----------
    excess : ndarray of shape (n,)
        Above zero for an alarm; see `held_out_excess`.
    group : Series of shape (n,)
    outlier : ndarray of bool, shape (n,), optional
        The labels, if known.
    recording : Series of shape (n,), optional
        Intervals then take into account that rows of a recording are alike.
    seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        A row per group and figure: ``rows``, ``value``, ``low``, ``high``; ``difference`` from all other rows together,
        ``difference_low``, ``difference_high``. Figures are ``alarm rate`` or, with labels, ``false alarm rate``,
        ``recall``, ``auroc`` and ``average precision``. Intervals are 95 % confidence intervals; NaN if undefined.

    Notes
    -----
    Rates have Wilson's (1927) interval, their difference Newcombe's (1998, method 10). With recordings, the number of
    rows is divided by the design effect (Kish 1965); if no row alarms, or all do, the number of recordings is used
    instead. AUROC and average precision have percentile intervals of 200 bootstrap samples of rows or of recordings.
    Average precision rises with the share of outliers, which may differ between groups: compare AUROC.
    """
    normal = np.ones(len(excess), dtype=bool) if outlier is None else ~outlier
    alarm = excess > 0
    rates = {"alarm rate" if outlier is None else "false alarm rate": normal}
    if outlier is not None:
        rates["recall"] = outlier
    found = []
    for name in sorted(group.unique()):
        inside = (group == name).to_numpy()
        for figure, counted in rates.items():
            here, others = inside & counted, ~inside & counted
            found.append(
                {"group": name, "figure": figure, "rows": int(here.sum()), **_rates(alarm, here, others, recording)}
            )
        if outlier is not None:
            for figure, measure in (("auroc", auroc), ("average precision", average_precision)):
                units = pd.Series(np.arange(len(excess))) if recording is None else recording
                values = _bootstrap(measure, outlier, excess, inside, units.to_numpy(), seed)
                found.append({"group": name, "figure": figure, "rows": int(inside.sum()), **values})
    return pd.DataFrame(found)


def wilson(rate: float, n: float) -> tuple[float, float]:
    """95 % confidence interval of a rate observed in n independent rows (Wilson 1927).

    Examples
    --------
    >>> low, high = wilson(0.0, 10)
    >>> round(low, 3), round(high, 3)
    (0.0, 0.278)
    """
    if not n > 0:
        return float("nan"), float("nan")
    middle = (rate + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * np.sqrt(rate * (1 - rate) / n + _Z**2 / (4 * n**2))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def _rates(alarm: Flags, here: Flags, others: Flags, recording: pd.Series | None) -> dict[str, float]:
    """Alarm rate of some rows with its interval, and its difference from that of others."""
    (rate, low, high), (rest, rest_low, rest_high) = (_rate(alarm, rows, recording) for rows in (here, others))
    difference = rate - rest
    return {
        "value": rate,
        "low": low,
        "high": high,
        "difference": difference,
        "difference_low": difference - float(np.hypot(rate - low, rest_high - rest)),
        "difference_high": difference + float(np.hypot(high - rate, rest - rest_low)),
    }


def _rate(alarm: Flags, rows: Flags, recording: pd.Series | None) -> tuple[float, float, float]:
    n = int(rows.sum())
    if n == 0:
        return (float("nan"),) * 3
    rate = float(alarm[rows].mean())
    return rate, *wilson(rate, n if recording is None else _independent(alarm[rows], recording[rows]))


def _independent(alarm: Flags, recording: pd.Series) -> float:
    """Number of independent rows that would estimate a rate as precisely as the rows of these recordings."""
    n, rate = len(alarm), alarm.mean()
    by = pd.DataFrame({"excess": alarm - rate, "recording": recording.to_numpy()}).groupby("recording")["excess"].sum()
    count = len(by)
    if count == 1 or rate in (0, 1):
        return float(count)
    variance = count / (count - 1) * float(np.square(by).sum()) / n**2
    return float(np.clip(rate * (1 - rate) / max(variance, 1e-12), 1, n))


def _bootstrap(
    measure: Callable[[Any, Any], float],
    outlier: Flags,
    excess: Floats,
    inside: Flags,
    unit: NDArray[Any],
    seed: int,
) -> dict[str, float]:
    """A measure inside a group and its difference from the outside, with bootstrap intervals."""

    def both(rows: NDArray[np.int64]) -> tuple[float, float]:
        value, other = (measure(outlier[part], excess[part]) for part in (rows[inside[rows]], rows[~inside[rows]]))
        return value, value - other

    resampled = np.array([both(rows) for rows in _resamples(unit, seed)])  # (resamples, 2)
    record: dict[str, float] = {}
    for name, value, column in zip(("value", "difference"), both(np.arange(len(excess))), resampled.T, strict=True):
        known = column[~np.isnan(column)]
        low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
        prefix = "" if name == "value" else "difference_"
        record |= {name: value, f"{prefix}low": float(low), f"{prefix}high": float(high)}
    return record


def _resamples(unit: NDArray[Any], seed: int) -> Iterator[NDArray[np.int64]]:
    """Rows of bootstrap samples of units."""
    rng = np.random.default_rng(seed)
    number = pd.factorize(unit)[0]
    order = np.argsort(number, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(number))[:-1])
    for _ in range(_RESAMPLES):
        yield np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])


def _take(X: Any, rows: NDArray[np.int64]) -> Any:
    return X.iloc[rows] if isinstance(X, pd.DataFrame) else X[rows]
