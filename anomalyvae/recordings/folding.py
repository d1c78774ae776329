"""Scores of overlapping windows, folded back onto the clock: a score per tick, so that an event has a start and an end.

There are two modes, and they have these names everywhere:

- ``offline``: a tick has the mean of the scores of all windows that cover it. It knows up to a window's length of what
  came after the tick, and an event is seen where it is.
- ``causal``: a tick has the score of the window that ends there, so it knows the past alone and is what a watcher could
  have said at that moment; an event is seen up to a window's length late. Where windows begin every few ticks, a score
  holds until the next window is due, and no longer.

A tick that no window covers (in a gap, or where the recipe's condition fails) has no score in either mode.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from anomalyvae.recordings.windows import WindowRecipe

MODES = ("offline", "causal")


def fold(
    scores: ArrayLike, starts: ArrayLike, samples: int, ticks: int, *, mode: str = "offline", stride: float = 1.0
) -> np.ndarray:
    """Fold what windows say onto the ticks that they cover.

    Parameters
    ----------
    scores : array-like of float, shape (n,) or (n, k)
        What each window says: a score, or several figures.
    starts : array-like of int, shape (n,)
        The tick at which each window begins, ascending.
    samples : int
        Ticks in a window.
    ticks : int
        Ticks of the clock, of which the first is number 0.
    mode : {"offline", "causal"}, default="offline"
        The mean over the windows that cover a tick, or the last window that has ended by then.
    stride : float, default=1
        Ticks from one window to the next: so long a causal score holds.

    Returns
    -------
    ndarray of float, shape (ticks,) or (ticks, k)
        NaN where no window covers the tick and, in causal mode, where none that has ended by then still holds.

    Notes
    -----
    A mean adds up its own windows and nothing else. Differences of cumulative sums would need fewer additions, but
    after one score of 1e12 they are wrong in the fourth decimal for the rest of the recording.

    Examples
    --------
    >>> fold([1.0, 2.0, 6.0], starts=[0, 1, 2], samples=2, ticks=5)
    array([1. , 1.5, 4. , 6. , nan])
    >>> fold([1.0, 2.0, 6.0], starts=[0, 1, 2], samples=2, ticks=5, mode="causal")
    array([nan,  1.,  2.,  6., nan])
    """
    _check_mode(mode)
    values, starts = np.asarray(scores, dtype=np.float64), np.asarray(starts, dtype=np.int64)
    if len(values) != len(starts):
        raise ValueError(f"Got {len(values)} scores for {len(starts)} windows, expected one each. Pass matching rows.")
    if len(starts) and (starts[0] < 0 or starts[-1] + samples > ticks or (np.diff(starts) < 0).any()):
        raise ValueError(
            f"Got windows of {samples} ticks that begin from {starts.min()} to {starts.max()}, expected them in order "
            f"and within {ticks} ticks. Sort them, or pass more ticks."
        )
    folded = np.full((ticks, *values.shape[1:]), np.nan)
    first, behind = _covering(starts, samples, ticks)
    covered = np.flatnonzero(behind > first)
    if not len(covered):
        return folded
    if mode == "offline":
        ranges = np.column_stack((first[covered], behind[covered])).ravel()
        padded = np.concatenate((values, np.zeros((1, *values.shape[1:]))))  # a range may end behind the last
        sums = np.add.reduceat(padded, ranges, axis=0)[::2]
        folded[covered] = (sums.T / (behind - first)[covered]).T
        return folded
    ended = np.cumsum(np.bincount(starts + samples - 1, minlength=ticks))[covered]
    age = covered - (starts[ended - 1] + samples - 1)  # since the last window ended; the first may not have
    holds = (ended > 0) & (age < stride)
    folded[covered[holds]] = values[ended[holds] - 1]
    return folded


def _covering(starts: np.ndarray, samples: int, ticks: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for each tick the first window that covers it and the one behind the last; the same if none does."""
    begun = np.cumsum(np.bincount(starts, minlength=ticks))
    over = np.cumsum(np.bincount(starts + samples, minlength=ticks))[:ticks]
    return over, begun


class Folding:
    """Folds the windows of one recording that come piece by piece, in order of time.

    Joined, what it gives is the same to the last bit in however many pieces the windows come; of what came it remembers
    the windows that a later tick can need.

    Parameters
    ----------
    recipe : WindowRecipe
        How the windows were cut.
    mode : {"offline", "causal"}, default="offline"
        As for `fold`.
    """

    def __init__(self, recipe: WindowRecipe, mode: str = "offline") -> None:
        _check_mode(mode)
        self._recipe, self._mode = recipe, mode
        self._origin_s: float | None = None  # start of the first window: tick 0
        self._next = 0  # the tick from which on none was given out
        self._starts = np.empty(0, dtype=np.int64)
        self._values: np.ndarray | None = None

    def add(self, start_s: ArrayLike, scores: ArrayLike, *, last: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Take the next windows, and give the ticks that no later window can cover.

        Parameters
        ----------
        start_s : array-like of float, shape (n,)
            When each window begins, in seconds, ascending.
        scores : array-like of float, shape (n,) or (n, k)
            What each says.
        last : bool, default=False
            Whether these are the last.

        Returns
        -------
        time_s : ndarray of float, shape (ticks,)
            The ticks that windows cover.
        folded : ndarray of float, shape (ticks,) or (ticks, k)
            In causal mode NaN where no window has ended yet.
        """
        begins, values = np.asarray(start_s, dtype=np.float64), np.asarray(scores, dtype=np.float64)
        samples, rate_hz = self._recipe.samples, self._recipe.rate_hz
        if self._origin_s is None and len(begins):
            self._origin_s = float(begins[0])
        starts = np.rint((begins - (self._origin_s or 0.0)) * rate_hz).astype(np.int64)
        starts = np.concatenate((self._starts, starts))
        values = values if self._values is None else np.concatenate((self._values, values))
        if not len(starts):
            return np.empty(0), np.empty((0, *values.shape[1:]))
        stop = int(starts[-1]) + samples if last else int(starts[-1])
        number, folded = self._settled(starts, values, stop)
        kept = int(np.searchsorted(starts, stop - samples - self._stride))
        self._starts, self._values, self._next = starts[kept:], values[kept:], max(stop, self._next)
        return (self._origin_s or 0.0) + number / rate_hz, folded

    @property
    def _stride(self) -> float:
        return self._recipe.stride_s * self._recipe.rate_hz

    def _settled(self, starts: np.ndarray, values: np.ndarray, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the covered ticks up to ``stop`` that were not given out yet, by number, and what they have.

        The recording may pause for a week between two windows, so pauses are squeezed out first.
        """
        samples, most = self._recipe.samples, self._recipe.samples + int(np.ceil(self._stride))
        step = np.diff(starts, prepend=starts[0])
        squeezed = np.cumsum(np.minimum(step, most))  # windows further apart than that have nothing in common
        ticks = int(squeezed[-1]) + samples
        folded = fold(values, squeezed, samples, ticks, mode=self._mode, stride=self._stride)
        first, behind = _covering(squeezed, samples, ticks)
        place = np.flatnonzero(behind > first)
        number = place + (starts - squeezed)[np.searchsorted(squeezed, place, side="right") - 1]
        given = (number >= self._next) & (number < stop)
        return number[given], folded[place[given]]


def fold_windows(
    spans: pd.DataFrame, scores: ArrayLike, recipe: WindowRecipe, *, mode: str = "offline"
) -> pd.DataFrame:
    """Turn scores of windows into a table of ticks: the score per time step of each recording.

    Parameters
    ----------
    spans : DataFrame, n rows
        Windows as the recipe cut them: ``recording`` and ``start_s``, in order of time within a recording.
    scores : array-like of float, shape (n,)
        The anomaly score of each window, high = strange.
    recipe : WindowRecipe
        How they were cut.
    mode : {"offline", "causal"}, default="offline"
        As for `fold`.

    Returns
    -------
    DataFrame
        One row per tick that a window covers: ``recording``, ``start_s`` (when the tick is), ``end_s`` (when the next
        one is due) and ``anomaly_score``. A tick is a window of one sample, so whatever takes windows takes ticks.

    Raises
    ------
    ValueError
        If there is not a score for each window, or the mode has no such name.

    Examples
    --------
    >>> recipe = WindowRecipe(("x",), rate_hz=2, length_s=1, stride_s=0.5, max_gap_s=1)
    >>> spans = pd.DataFrame({"recording": "drive", "start_s": [0.0, 0.5, 9.0]})
    >>> fold_windows(spans, [1.0, 2.0, 6.0], recipe)
      recording  start_s  end_s  anomaly_score
    0     drive      0.0    0.5            1.0
    1     drive      0.5    1.0            1.5
    2     drive      1.0    1.5            2.0
    3     drive      9.0    9.5            6.0
    4     drive      9.5   10.0            6.0
    """
    values = np.asarray(scores, dtype=np.float64).ravel()
    if len(values) != len(spans):
        raise ValueError(f"Got {len(values)} scores for {len(spans)} windows, expected one each. Pass matching rows.")
    _check_mode(mode)
    parts = []
    recordings, starts = spans["recording"].to_numpy(), spans["start_s"].to_numpy(dtype=np.float64)
    for name in pd.unique(spans["recording"]):
        inside = recordings == name
        time_s, folded = Folding(recipe, mode).add(starts[inside], values[inside], last=True)
        parts.append(pd.DataFrame({"recording": name, "start_s": time_s, "anomaly_score": folded}))
    nothing = pd.DataFrame({"recording": pd.Series(dtype="str"), "start_s": [], "anomaly_score": []})
    ticks = pd.concat(parts, ignore_index=True) if parts else nothing
    ticks.insert(2, "end_s", ticks["start_s"] + 1 / recipe.rate_hz)
    return ticks


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise ValueError(f"Got mode={mode!r}, expected {' or '.join(map(repr, MODES))}. Pass one of them.")
