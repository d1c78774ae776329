"""Whether a detector treats groups alike: alarms and detection quality by group, on rows that were not learned."""

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
_Z = 1.959963985  # of a 95 % interval
_DRAWS = 200  # of the bootstrap

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def held_out_excess(
    X: Any,
    detector: VAEOutlierDetector,
    *,
    strange: Flags | None = None,
    recording: pd.Series | None = None,
    weight: Floats | None = None,
    seed: int = 0,
) -> Floats:
    """How far above the threshold each row scores, by a detector that has not learned it.

    Parameters
    ----------
    X : array-like or DataFrame of shape (n, d)
    detector : VAEOutlierDetector
        Clones of it learn all but a third of the rows each (cross-fitting), and set the threshold by those.
    strange : ndarray of bool, shape (n,), optional
        Rows that are known to be strange: they are not learned.
    recording : Series of shape (n,), optional
        The recording of each row; whole recordings are left out.
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
            f"Got {parts} {what}, expected at least {FOLDS}, so that each can be judged by what the others taught. "
            "Leave group out, or bring more."
        )
    kind = KFold if recording is None else GroupKFold
    folds = kind(FOLDS, shuffle=True, random_state=seed)
    excess = np.empty(n)
    for learned, left in folds.split(np.arange(n), groups=None if recording is None else recording.to_numpy()):
        if strange is not None:
            learned = learned[~strange[learned]]
        model = clone(detector).fit(
            _take(X, learned),
            sample_weight=None if weight is None else weight[learned],
            groups=None if recording is None else recording.to_numpy()[learned],
        )
        excess[left] = -model.decision_function(_take(X, left))
    return excess


def group_figures(
    excess: Floats,
    group: pd.Series,
    *,
    strange: Flags | None = None,
    recording: pd.Series | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Alarm rate and, with labels, quality of detection of each group, and how far they are from all other rows'.

    Parameters
    ----------
    excess : ndarray of shape (n,)
        Above zero for an alarm, as `held_out_excess` gives it.
    group : Series of shape (n,)
    strange : ndarray of bool, shape (n,), optional
        The truth, where it is known.
    recording : Series of shape (n,), optional
        Rows of one recording are alike: intervals are then as wide as so many recordings allow.
    seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        A row per group and figure: ``rows``, ``value``, ``low``, ``high``; ``difference`` from all other rows together,
        ``difference_low``, ``difference_high``. Figures are ``alarm rate`` or, with labels, ``false alarm rate``,
        ``recall``, ``auroc`` and ``average precision``. Intervals are meant to hold the truth 95 times in 100; NaN
        where there is nothing to tell.

    Notes
    -----
    Rates have Wilson's (1927) interval, their difference Newcombe's (1998, method 10). With recordings, the number of
    rows is divided by how much more than independent rows the recordings vary (Kish 1965); where no row alarms, or
    every row, the number of recordings takes its place. AUROC and average precision have percentiles of 200 draws, with
    replacement, of rows or of recordings. Average precision rises with the share of strange rows, which groups may
    differ in: compare AUROC.
    """
    normal = np.ones(len(excess), dtype=bool) if strange is None else ~strange
    alarm = excess > 0
    rates = {"alarm rate" if strange is None else "false alarm rate": normal}
    if strange is not None:
        rates["recall"] = strange
    found = []
    for name in sorted(group.unique()):
        inside = (group == name).to_numpy()
        for figure, counted in rates.items():
            here, others = inside & counted, ~inside & counted
            found.append(
                {"group": name, "figure": figure, "rows": int(here.sum()), **_rates(alarm, here, others, recording)}
            )
        if strange is not None:
            for figure, measure in (("auroc", auroc), ("average precision", average_precision)):
                units = pd.Series(np.arange(len(excess))) if recording is None else recording
                values = _bootstrap(measure, strange, excess, inside, units.to_numpy(), seed)
                found.append({"group": name, "figure": figure, "rows": int(inside.sum()), **values})
    return pd.DataFrame(found)


def wilson(rate: float, n: float) -> tuple[float, float]:
    """The 95 % interval of a rate that was seen in n independent rows (Wilson 1927).

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
    """The rate of alarms in some rows with its interval, and how far it is from that of others."""
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
    """How many independent rows would tell as much about a rate as the rows of these recordings."""
    n, rate = len(alarm), alarm.mean()
    by = pd.DataFrame({"excess": alarm - rate, "recording": recording.to_numpy()}).groupby("recording")["excess"].sum()
    parts = len(by)
    variance = parts / (parts - 1) * float(np.square(by).sum()) / n**2 if parts > 1 else 0.0
    if parts == 1 or rate in (0, 1):
        return float(parts)
    return float(np.clip(rate * (1 - rate) / max(variance, 1e-12), 1, n))


def _bootstrap(
    measure: Callable[[Any, Any], float],
    strange: Flags,
    excess: Floats,
    inside: Flags,
    unit: NDArray[Any],
    seed: int,
) -> dict[str, float]:
    def both(rows: NDArray[np.int64]) -> tuple[float, float]:
        here = rows[inside[rows]]
        rest = rows[~inside[rows]]
        value, other = (measure(strange[part], excess[part]) for part in (here, rest))
        return value, value - other

    draws = np.array([both(rows) for rows in _redrawn(unit, seed)])  # (draws, 2)
    value, difference = both(np.arange(len(excess)))
    spans = [
        np.percentile(known, [2.5, 97.5]) if len(known := column[~np.isnan(column)]) else (np.nan, np.nan)
        for column in draws.T
    ]
    return {
        "value": value,
        "low": float(spans[0][0]),
        "high": float(spans[0][1]),
        "difference": difference,
        "difference_low": float(spans[1][0]),
        "difference_high": float(spans[1][1]),
    }


def _redrawn(unit: NDArray[Any], seed: int) -> Iterator[NDArray[np.int64]]:
    """Rows of units that are drawn with replacement."""
    rng = np.random.default_rng(seed)
    place = pd.factorize(unit)[0]
    order = np.argsort(place, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(place))[:-1])
    for _ in range(_DRAWS):
        yield np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])


def _take(X: Any, rows: NDArray[np.int64]) -> Any:
    return X.iloc[rows] if isinstance(X, pd.DataFrame) else X[rows]
