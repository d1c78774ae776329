"""Summaries and paired differences of the benchmark of recordings (sequences.py).

A figure of several cases is the sum of its numerators over the sum of its denominators: a mean over cases or, for
counts of rows, the F1 or the rate of all rows together. The interval of a difference is the 95 % percentile interval of
a bootstrap over cases. With three to six cases it is rough, and rather too narrow.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tabular_report import HALVES, half_of, interval, one_sided

from anomalyvae.pyod_adapter import OURS

VOLUMES = ("vus_pr", "causal_vus_pr")
RANKS = ("auroc", "ap", "event_recall")
# the figures that are told by half and compared; the first orders the table
FIGURES: dict[str, tuple[str, ...]] = {
    "skab": ("all_f1", "all_false", "f1"),
    "smap": VOLUMES,
    "smd": VOLUMES,
    "asd": VOLUMES,
    "jair_jr": RANKS,
    "potholes": RANKS,
    "series": RANKS[:2],
}
COUNTED = ("", "causal_", "all_", "all_causal_")  # of skab
HEAD, SECONDS = ["set", "case", "asked", "seed", "version", "method"], ["fit_s", "score_s"]


def of_set(results: pd.DataFrame, name: str, half: str = "whole") -> pd.DataFrame:
    """The results of a set, or of one half of its cases."""
    mine = results[results["set"] == name].dropna(axis=1, how="all")
    return mine[[half in ("whole", half_of(name, case)) for case in mine["case"]]]


def summary(results: pd.DataFrame, name: str) -> pd.DataFrame:
    """A row per method: figures over all cases, the main ones also on each half, seconds, and the number of cases."""
    parts = {half: _figures(of_set(results, name, half)) for half in HALVES}
    columns = {}
    for figure, values in parts["whole"].items():
        columns[figure] = values
        for half in HALVES[:2] if figure in FIGURES[name] else ():
            columns[f"{figure} {half}"] = parts[half][figure]
    columns["cases"] = of_set(results, name).groupby("method")["case"].nunique()
    return pd.DataFrame(columns).sort_values(FIGURES[name][0], ascending=False)


def differences(results: pd.DataFrame, name: str) -> pd.DataFrame:
    """A row per method of ours and figure: ours minus the best other method, over all cases and on each half.

    The best is that with the highest figure over all cases, of the methods that have all of them: the reader's choice
    with hindsight, which favours it.
    """
    mine = of_set(results, name)
    cases = mine.groupby("method")["case"].nunique()
    complete = mine[mine["method"].map(cases) == cases.max()]
    own = complete["method"].str.startswith(OURS)
    rows = []
    for figure in FIGURES[name] if own.any() and not own.all() else ():
        if figure == "all_false":  # few false alarms are no merit without F1
            continue
        best = _figures(complete[~own])[figure]
        for method in _figures(complete[own])[figure].sort_values(ascending=False).index:
            found = _difference(complete, name, figure, method, str(best.idxmax()))
            rows.append({"method": method, "figure": figure, "other": best.idxmax(), "best": best.max()} | found)
    columns = ["method", "figure", "other", "best", "cases", *HALVES, "low", "high", "warning"]
    return pd.DataFrame(rows, columns=columns).set_index("method")


def _difference(results: pd.DataFrame, name: str, figure: str, ours: str, other: str) -> dict[str, object]:
    above, below = _fractions(results)
    parts = [part[figure].groupby([results["method"], results["case"]]).sum() for part in (above, below)]
    paired = pd.concat([part[method] for method in (ours, other) for part in parts], axis=1)
    paired = paired[(paired.iloc[:, 1::2] > 0).any(axis=1)]  # where the figure is defined
    halves = np.array([half_of(name, str(case)) for case in paired.index])
    values = paired.to_numpy()
    mean = {half: float(_minus(values[(halves == half) | (half == "whole")])) for half in HALVES}
    low, high = interval(values, of=_minus) if len(values) > 1 else (np.nan, np.nan)
    return {"cases": len(values), **mean, "low": low, "high": high, "warning": one_sided(mean)}


def _minus(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The difference of two figures from their numerators and denominators, shape ``(..., cases, 4)``."""
    above, below, other, under = np.moveaxis(values.sum(axis=-2), -1, 0)
    with np.errstate(invalid="ignore"):  # no case in a half
        return np.asarray(above / below - other / under)


def _figures(results: pd.DataFrame) -> pd.DataFrame:
    above, below = (part.groupby(results["method"]).sum() for part in _fractions(results))
    return above / below


def _fractions(results: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Numerators and denominators of the figures of each result."""
    values = results.drop(columns=[*HEAD, *SECONDS])
    above, below = values.fillna(0.0), values.notna().astype(float)
    if "tp" in values:
        above, below = pd.DataFrame(), pd.DataFrame()
        for part in COUNTED:
            tp, fp, fn, tn = (values[f"{part}{count}"] for count in ("tp", "fp", "fn", "tn"))
            above[f"{part}f1"], below[f"{part}f1"] = tp, tp + (fp + fn) / 2
            above[f"{part}false"], below[f"{part}false"] = fp, fp + tn
            above[f"{part}missed"], below[f"{part}missed"] = fn, fn + tp
    return above.join(results[SECONDS]), below.join(results[SECONDS].notna().astype(float))
