"""Means, paired differences and bars of the benchmark of tables (tabular.py).

A difference is ours minus the peer's, on the same table and the same splits. Its interval is the 95 % percentile
interval of a bootstrap over tables. In `tep` the tables are faults that share their training rows, so there the
interval is about faults, not about plants.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from anomalyvae.pyod_adapter import OURS

FIGURES = ("auroc", "average_precision")
HALVES = ("chosen", "unseen", "whole")
TOLD = f"{OURS}, contamination=0.1"
AMONG = f"{OURS}, outliers_among"
KEYS = ["collection", "protocol"]
# collection, protocol, method, peers it is compared with (none: the mean itself), least AUROC and average precision
BARS: list[tuple[str, str, str, tuple[str, ...] | str | None, float, float]] = [
    ("adbench", "normal", OURS, None, 0.905, 0.780),
    ("oddbench", "normal", OURS, "best", 0.015, 0.020),
    ("tep", "normal", OURS, ("mahalanobis", "pca", "knn", "kcm"), 0.0, 0.0),
    ("adbench", "contaminated", OURS, None, 0.80, 0.44),
    ("oddbench", "contaminated", OURS, "best", 0.0, 0.0),
    ("adbench", "contaminated", AMONG, None, 0.80, 0.44),
    ("oddbench", "contaminated", AMONG, "best", 0.0, 0.0),
    ("adbench", "contaminated", TOLD, None, 0.81, 0.49),
]


def half_of(collection: str, table: str) -> str:
    """Whether choices may be made on a table: "chosen" or "unseen".

    Only the names decide, by the first byte of their SHA-256: a table stays in its half when others come or go.
    """
    return ("chosen", "unseen")[hashlib.sha256(f"{collection}/{table}".encode()).digest()[0] % 2]


def interval(
    values: ArrayLike,
    draws: int = 10_000,
    of: Callable[[NDArray[np.float64]], NDArray[np.float64]] = lambda drawn: drawn.mean(axis=1),
) -> tuple[float, float]:
    """The 95 % bootstrap interval over tables of a mean, or ``of`` draws ``(draws, n, ...)``. The seed is fixed."""
    values = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(0).integers(len(values), size=(draws, len(values)))
    low, high = np.quantile(of(values[drawn]), [0.025, 0.975])
    return float(low), float(high)


def is_ours(method: str) -> bool:
    return method.startswith(OURS)


def means(results: pd.DataFrame) -> pd.DataFrame:
    """A row per method: means over tables (each over its seeds) in the halves and the whole, rank, seconds."""
    rows = []
    for keys, part in results.groupby([*KEYS, "method"]):
        row = dict(zip([*KEYS, "method"], keys, strict=True))
        for half in HALVES:
            tables = _half(part, half).groupby("table")[list(FIGURES)].mean()
            row |= {f"{figure} {half}": tables[figure].mean() for figure in FIGURES}
        row |= {"tables": part["table"].nunique(), "failed": part.loc[part["failure"] != "", "table"].nunique()}
        rows.append(row | part[["fit_s", "score_s"]].mean().to_dict())
    table = pd.DataFrame(rows)
    main = results[~results["method"].str.contains(": ")]
    each = main.groupby([*KEYS, "table", "method"])["auroc"].mean()
    ranks = each.groupby([*KEYS, "table"]).rank(ascending=False).groupby([*KEYS, "method"]).mean()
    table = table.merge(ranks.rename("rank").reset_index(), how="left", on=[*KEYS, "method"])
    return table.sort_values([*KEYS, "auroc whole"], ascending=[True, True, False], ignore_index=True)


def pairs(results: pd.DataFrame, ours: str, peer: str) -> pd.DataFrame:
    """The differences of two methods, a row per table, on the splits that both have."""
    both = [
        results.loc[results["method"] == method].set_index(["table", "half", "seed"])[list(FIGURES)]
        for method in (ours, peer)
    ]
    return (both[0] - both[1]).dropna().groupby(["table", "half"]).mean().reset_index()


def differences(results: pd.DataFrame, ours: str = OURS) -> pd.DataFrame:
    """A row per peer and figure: the mean difference in each half and the whole, intervals, and a warning.

    The warning names the half if the mean difference is above zero on that half alone.
    """
    rows = []
    for keys, part in results.groupby(KEYS):
        for peer in (m for m in part["method"].unique() if not is_ours(m)):
            paired = pairs(part, ours, peer)
            for figure in FIGURES if not paired.empty else ():
                rows.append(
                    dict(zip(KEYS, keys, strict=True)) | {"peer": peer, "figure": figure} | _by_half(paired, figure)
                )
    columns = [*KEYS, "peer", "figure", "tables", *HALVES, "low", "high", "warning"]
    order = [*KEYS, "figure", "whole"]
    return pd.DataFrame(rows, columns=columns).sort_values(order, ignore_index=True)


def best_peers(results: pd.DataFrame, ours: str = OURS, among: tuple[str, ...] | str = "best") -> pd.DataFrame:
    """The peer with the highest mean of each figure over all tables, and our difference from it."""
    peers = results[~results["method"].map(is_ours)]
    peers = peers if isinstance(among, str) else peers[peers["method"].isin(among)]
    rows = []
    compared = differences(results, ours)
    for (collection, protocol), part in peers.groupby(KEYS):
        each = part.groupby(["method", "table"])[list(FIGURES)].mean().groupby("method")
        level, tables = each.mean(), each.size()
        level = level[tables == tables.max()]
        for figure in FIGURES:
            best = level[figure].idxmax()
            found = compared[
                (compared["collection"] == collection) & (compared["protocol"] == protocol)
                & (compared["peer"] == best) & (compared["figure"] == figure)
            ]  # fmt: skip
            rows += [{"best": level[figure].max()} | row for row in found.to_dict("records")]
    columns = [*KEYS, "figure", "peer", "best", "tables", *HALVES, "low", "high", "warning"]
    return pd.DataFrame(rows, columns=columns)


def bars(results: pd.DataFrame) -> pd.DataFrame:
    """A row per bar and figure: the figure on all tables (and each half), the bar, and whether it is met."""
    rows = []
    for collection, protocol, method, against, *least in _all_bars(results):
        part = results[(results["collection"] == collection) & (results["protocol"] == protocol)]
        if method not in set(part["method"]):
            continue
        for figure, bar in zip(FIGURES, least, strict=True):
            if against is None:
                tables = part[part["method"] == method].groupby(["table", "half"])[figure].mean().reset_index()
                found = _by_half(tables, figure)
                what = "mean"
            else:
                best = best_peers(part, method, against)
                best = best[best["figure"] == figure]
                if best.empty:
                    continue
                found, what = {str(k): v for k, v in best.iloc[0].items()}, f"minus {best['peer'].iloc[0]}"
            figures = {half: found[half] for half in HALVES}
            met = "met" if found["whole"] >= bar else "not met"
            head = {"collection": collection, "protocol": protocol, "method": method, "figure": figure, "what": what}
            rows.append(head | figures | {"tables": found["tables"], "bar": bar, "met": met})
    columns = [*KEYS, "method", "figure", "what", *HALVES, "tables", "bar", "met"]
    return pd.DataFrame(rows, columns=columns)


def _all_bars(results: pd.DataFrame) -> Iterator[tuple[str, str, str, tuple[str, ...] | str | None, float, float]]:
    yield from BARS
    for collection in sorted(set(results["collection"]) - {bar[0] for bar in BARS}):
        yield collection, "normal", OURS, "best", 0.01, 0.01


def _half(table: pd.DataFrame, half: str) -> pd.DataFrame:
    return table if half == "whole" else table[table["half"] == half]


def _by_half(paired: pd.DataFrame, figure: str) -> dict[str, Any]:
    """The mean of one value per table in each half, the interval of the whole, and a lead on one half alone."""
    mean = {half: float(_half(paired, half)[figure].mean()) for half in HALVES}
    low, high = interval(paired[figure])
    return {"tables": len(paired), **mean, "low": low, "high": high, "warning": one_sided(mean)}


def one_sided(mean: Mapping[str, float]) -> str:
    """A warning, if a mean difference is above zero on one half alone."""
    leads = [half for half in HALVES[:2] if mean[half] > 0]
    both = not any(np.isnan(mean[half]) for half in HALVES[:2])
    return f"leads on the {leads[0]} half alone" if both and len(leads) == 1 else ""
