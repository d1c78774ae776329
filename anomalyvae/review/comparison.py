"""Compares two models by shares, and tests whether a difference is more than chance.

Chance has three sources. The hold-out could have other recordings: its parts are resampled (bootstrap). Each fault
could be found by the other model: the models are exchanged, fault by fault (permutation). And another random seed gives
another model: the champion is fitted again, and the challenger must be better than these fits predict. With few faults,
any one of the three tests alone would let a lucky challenger pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

PROMISED = 0.05  # target share of normal windows that a model's own threshold flags
_LOST = 0.02  # largest loss of held-out faults; learning faults as new normals may cost less than 0.05 of them
_DRAWS = 2000
_LEVEL = 0.9  # of the bootstrap intervals
_CHANCE = 0.05  # error level of the permutation test and of the prediction interval
RECALL = "recall of held-out faults around the alarm rate"
CALIBRATION = "normal held-out windows flagged by its own threshold"
FIGURES = {  # name: numerator, denominator, and whether more is better
    RECALL: ("held_found", "held_faults", True),
    "recall of held-out faults at its own threshold": ("held_found_at_work", "held_faults", True),
    "recall of past verdicts' faults at the alarm rate": ("verdict_found", "verdict_faults", True),
    "alarms on new normals at the alarm rate": ("new_flagged", "new", False),
    CALIBRATION: ("normal_flagged", "normal", False),
}
EARNING = (RECALL, CALIBRATION)  # a challenger is promoted for these only; the others can refuse it


@dataclass(frozen=True)
class Counts:
    """The counts of one model.

    ``table`` has a row per part of the hold-out (a recording or, with few recordings, a block of one) and a column per
    count; ``found`` has, for each held-out fault, the share of the alarm rates at which it was found.
    """

    table: pd.DataFrame
    found: NDArray[np.float64]

    def share(self, name: str) -> float:
        """One of the `FIGURES`; NaN without anything to count."""
        part, whole, _ = FIGURES[name]
        return float(self.table[part].sum() / self.table[whole].sum()) if self.table[whole].any() else np.nan


@dataclass(frozen=True)
class Figure:
    """One figure of both models, as shares; None without anything to count.

    ``interval`` is the 90 % bootstrap interval of the difference, challenger minus champion. ``count`` says how many
    were counted, in how many ``parts`` (recordings or blocks). ``passed``: not worse by more than the tolerance.
    ``better``: by more than chance. ``refits``: the figure of the champion fitted again with other seeds, if needed.
    """

    name: str
    champion: float | None
    challenger: float | None
    interval: tuple[float, float] | None
    count: int
    parts: int
    passed: bool
    better: bool
    refits: tuple[float, ...] = ()

    def __str__(self) -> str:
        if self.champion is None or self.challenger is None or self.interval is None:
            return f"{self.name}: nothing to compare"
        low, high = self.interval
        outcome = "worse" if not self.passed else "better" if self.better else "no worse"
        again = ""
        if self.refits:
            again = f"; the champion fitted again has {min(self.refits):.3f} to {max(self.refits):.3f}"
        return (
            f"{self.name}: {outcome}, {self.champion:.3f} -> {self.challenger:.3f} "
            f"(difference {low:+.3f} to {high:+.3f}, {self.count} in {self.parts} parts{again})"
        )


def compare_share(name: str, champion: Counts, challenger: Counts, tolerance: float, seed: int) -> Figure:
    """Compare one share of both models, on the same resampled parts and the same faults."""
    part, whole, more_is_better = FIGURES[name]
    tables = (champion.table, challenger.table)
    parts = tables[0].index.union(tables[1].index)
    old, new = (table.reindex(parts, fill_value=0.0)[[part, whole]].to_numpy() for table in tables)
    there = (old[:, 1] > 0) | (new[:, 1] > 0)
    old, new, n = old[there], new[there], int(there.sum())
    if not n or not old[:, 1].any() or not new[:, 1].any():
        return Figure(name, None, None, None, 0, 0, True, False)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=_DRAWS).astype(np.float64)
    low, high = np.nanquantile(_gain(weights @ old, weights @ new), [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    was, now = champion.share(name), challenger.share(name)
    worse_by = was - now if more_is_better else now - was
    better = n > 1 and bool(low > 0 if more_is_better else high < 0)  # one part shows no spread
    if name == RECALL:
        better = better and _by_exchange(challenger.found - champion.found, rng) <= _CHANCE
    if name == CALIBRATION:  # flagging less than the target is not better
        worse_by = max(now - PROMISED, 0.0) - max(was - PROMISED, 0.0)
        better = better and was > PROMISED
    passed = bool(worse_by <= (min(tolerance, _LOST) if whole == "held_faults" else tolerance))
    return Figure(name, was, now, (float(low), float(high)), int(new[:, 1].sum()), n, passed, better)


def beyond_refits(figure: Figure, refits: Sequence[Counts]) -> Figure:
    """Call a figure better only if it exceeds what another fit of the champion is expected to reach.

    The limit is the upper end of a one-sided 95 % prediction interval for one more fit, mean + t s sqrt(1 + 1/n), from
    the champion and its refits.
    """
    from scipy.stats import t

    again = tuple(counts.share(figure.name) for counts in refits)
    if figure.champion is None or figure.challenger is None or not again:
        return figure
    sign = 1 if FIGURES[figure.name][2] else -1
    known = sign * np.array([figure.champion, *again])
    spread = known.std(ddof=1) * np.sqrt(1 + 1 / len(known))
    limit = known.mean() + t.ppf(1 - _CHANCE, len(known) - 1) * spread
    return replace(figure, refits=again, better=figure.better and bool(sign * figure.challenger > limit))


def _by_exchange(gain: NDArray[np.float64], rng: np.random.Generator) -> float:
    """The p-value of the sum of gains if the sign of each gain were random.

    A permutation test of pairs (Good 2005, Permutation, Parametric and Bootstrap Tests, section 3.2), one-sided.
    """
    signs = rng.choice([-1.0, 1.0], size=(_DRAWS, len(gain)))
    return float((1 + (signs @ gain >= gain.sum() - 1e-9).sum()) / (_DRAWS + 1))


def _gain(old: NDArray[np.float64], new: NDArray[np.float64]) -> NDArray[np.float64]:
    """Difference of two shares in each resample; NaN if one has nothing to count."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(new[:, 0] / new[:, 1] - old[:, 0] / old[:, 1])
