"""Verdicts that are probably wrong: new normals that look like faults of the hold-out.

The hold-out takes the place of a second reviewer. Its faults and the normal events that the champion flags there are
known, and so is how often such a normal event looks like a fault. If the new normals look like faults more often than
by chance, some of them are faults.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalyvae.events import merge_alarms
from anomalyvae.review.picking import peaks_of
from anomalyvae.review.verdicts import VerdictScores

_CHANCE = 0.01  # error level: a second look at verdicts is asked for rarely without need
_DRAWS = 2000
_FEWEST = 5  # faults, and normal events, that can be compared with
_MOST = 300  # of each of them
_FOLDS = 8

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Doubts:
    """How much new normals look like faults.

    ``like_fault`` is positive for those that look more like a fault, shape ``(n,)``, and ``of_normal`` the same of the
    known normal events; ``p_value`` is of the test that the former are higher by chance.
    """

    like_fault: Floats
    of_normal: Floats
    p_value: float

    @property
    def refused(self) -> bool:
        """Whether the new normals look like faults by more than chance."""
        return self.p_value <= _CHANCE

    def doubtful(self) -> NDArray[np.intp]:
        """The indices of the new normals that look more like a fault, the clearest first."""
        order = np.argsort(-self.like_fault, kind="stable")
        return order[self.like_fault[order] > 0]

    def __str__(self) -> str:
        new, known = int((self.like_fault > 0).sum()), int((self.of_normal > 0).sum())
        return (
            f"new normals that look like held-out faults: {new} of {len(self.like_fault)}, and {known} of "
            f"{len(self.of_normal)} normal events of the hold-out (p = {self.p_value:.2g})"
        )


def doubts_about(new: Floats, known: Floats, fault: Mask, part: NDArray[np.str_], seed: int = 0) -> Doubts | None:
    """Test whether new normals look like known faults more than known normal events do.

    Each event gets the score of `VerdictScores` after the verdicts that are known; a known normal event, after those
    on other parts of the hold-out. A permutation test (Good 2005, Permutation, Parametric and Bootstrap Tests, section
    3.2) compares the sums of the positive scores. First scores do not count: reviewers saw the most anomalous events.

    Parameters
    ----------
    new, known : ndarray of shape (n, k), (m, k)
        What the events are compared by.
    fault : ndarray of bool, shape (m,)
        Which known events are faults.
    part : ndarray of str, shape (m,)
        The part of the hold-out in which each known event is.
    seed : int, default=0

    Returns
    -------
    Doubts or None
        None without new normals, or with fewer than five known faults or fewer than five known normal events.
    """
    rng = np.random.default_rng(seed)
    kept = np.sort(np.concatenate([rng.permutation(np.flatnonzero(fault == kind))[:_MOST] for kind in (True, False)]))
    known, fault, part = known[kept], fault[kept], part[kept]
    if not len(new) or min(fault.sum(), (~fault).sum()) < _FEWEST:
        return None
    scores = VerdictScores(np.zeros(len(known) + len(new)), np.vstack([known, new]), random_state=seed)
    fold = pd.factorize(part)[0] % _FOLDS
    left_out = np.zeros(len(known))
    for number in np.unique(fold):
        others = np.flatnonzero(fold != number)
        if len(others):
            left_out[fold == number] = scores(others, fault[others])[: len(known)][fold == number]
    like_fault = scores(np.arange(len(known)), fault)[len(known) :]
    of_normal = left_out[~fault]
    both = np.maximum(np.concatenate([like_fault, of_normal]), 0.0)
    observed = both[: len(new)].sum()
    permuted = np.array([rng.permutation(both)[: len(new)].sum() for _ in range(_DRAWS)])
    p_value = (1 + (permuted >= observed - 1e-9).sum()) / (1 + _DRAWS)
    return Doubts(like_fault, of_normal, float(p_value))


def peaks_in(spans: pd.DataFrame, scores: Floats, intervals: pd.DataFrame) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The most anomalous window that overlaps each interval, and the indices of the intervals that have one."""
    windows, indices = [], []
    own = {name: np.asarray(rows) for name, rows in spans.groupby("recording").indices.items()}
    starts, ends = spans["start_s"].to_numpy(), spans["end_s"].to_numpy()
    for index, (name, start, end) in enumerate(intervals[["recording", "start_s", "end_s"]].itertuples(index=False)):
        rows = own.get(name, np.empty(0, dtype=np.intp))
        rows = rows[(starts[rows] < end) & (ends[rows] > start)]
        if len(rows):
            windows.append(rows[np.argmax(scores[rows])])
            indices.append(index)
    return np.array(windows, dtype=np.intp), np.array(indices, dtype=np.intp)


def flagged_peaks(spans: pd.DataFrame, scores: Floats, flagged: Mask, length_s: float) -> NDArray[np.intp]:
    """The most anomalous window of each flagged stretch; stretches longer than ``length_s`` are cut into such."""
    alarms = merge_alarms(spans, flagged)
    starts, pieces = spans["start_s"].to_numpy(), []
    for members, begin in zip(alarms["members"], alarms["start_s"], strict=True):
        number = (starts[members] - begin) // length_s
        pieces += [members[number == each] for each in np.unique(number)]
    return peaks_of(pieces, scores)
