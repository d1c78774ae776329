"""Scores of overlapping windows become a score per tick of the clock, so that an event has a start and an end.

There are two modes:

- ``offline``: a tick has the mean score of all windows that cover it. The mean uses up to a window's length of the
  future; an event appears where it is.
- ``causal``: a tick has the score of the window that ends there. The score uses the past alone and could be known at
  that moment; an event appears up to a window's length late. If windows begin every few ticks, a score holds until the
  next window is due.

A tick that no window covers (in a gap, or if the recipe's condition fails) has no score in either mode.
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
    """Turn scores of windows into scores of the ticks that they cover.

    Parameters
    ----------
    scores : array-like of float, shape (n,) or (n, k)
        The score of each window, or several figures.
    starts : array-like of int, shape (n,)
        The tick at which each window begins, ascending.
    samples : int
        Ticks in a window.
    ticks : int
        Ticks of the clock; the first is number 0.
    mode : {"offline", "causal"}, default="offline"
        The mean over the windows that cover a tick, or the last window that has ended by then.
    stride : float, default=1
        Ticks from one window to the next, for which a causal score holds.

    Returns
    -------
    ndarray of float, shape (ticks,) or (ticks, k)
        NaN if no window covers the tick or, in causal mode, if no score holds.

    Notes
    -----
    A mean adds up its own windows only. Differences of cumulative sums would need fewer additions, but after one score
    of 1e12 they are wrong in the fourth decimal for the rest of the recording.

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
        raise _mismatch(len(values), len(starts))
    if len(starts) and (starts[0] < 0 or starts[-1] + samples > ticks or (np.diff(starts) < 0).any()):
        raise ValueError(
            f"Windows of {samples} ticks begin from {starts.min()} to {starts.max()}; they must be in order and within "
            f"{ticks} ticks. Sort them, or pass more ticks."
        )
    folded = np.full((ticks, *values.shape[1:]), np.nan)
    first, end = _covering(starts, samples, ticks)
    covered = np.flatnonzero(end > first)
    if not len(covered):
        return folded
    if mode == "offline":
        ranges = np.column_stack((first[covered], end[covered])).ravel()
        padded = np.concatenate((values, np.zeros((1, *values.shape[1:]))))  # a range may end after the last
        sums = np.add.reduceat(padded, ranges, axis=0)[::2]
        folded[covered] = (sums.T / (end - first)[covered]).T
        return folded
    ended = np.cumsum(np.bincount(starts + samples - 1, minlength=ticks))[covered]
    age = covered - (starts[ended - 1] + samples - 1)  # since the last window ended; the first may not have ended
    holds = (ended > 0) & (age < stride)
    folded[covered[holds]] = values[ended[holds] - 1]
    return folded


def _covering(starts: np.ndarray, samples: int, ticks: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for each tick the first window that covers it and the one after the last; equal if none does."""
    end = np.cumsum(np.bincount(starts, minlength=ticks))
    first = np.cumsum(np.bincount(starts + samples, minlength=ticks))[:ticks]
    return first, end


class Folding:
    """Turns scores of one recording's windows, which come piece by piece in order of time, into scores of ticks.

    Joined, the results have the same bits in however many pieces the windows come. Windows that a later tick may need
    are kept.

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
        self._next = 0  # the first tick that was not returned yet
        self._starts = np.empty(0, dtype=np.int64)
        self._values: np.ndarray | None = None

    def add(self, start_s: ArrayLike, scores: ArrayLike, *, last: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Take the next windows, and return the ticks that no later window can cover.

        Parameters
        ----------
        start_s : array-like of float, shape (n,)
            When each window begins, in seconds, ascending.
        scores : array-like of float, shape (n,) or (n, k)
            The score of each, or several figures.
        last : bool, default=False
            Whether these are the last.

        Returns
        -------
        time_s : ndarray of float, shape (ticks,)
            The ticks that windows cover.
        folded : ndarray of float, shape (ticks,) or (ticks, k)
            In causal mode NaN until the first window has ended.
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
        """Return the covered ticks up to ``stop`` that were not returned yet, by number, and their scores.

        The recording may pause for a week between two windows, so pauses are shortened first.
        """
        samples, most = self._recipe.samples, self._recipe.samples + int(np.ceil(self._stride))
        step = np.diff(starts, prepend=starts[0])
        squeezed = np.cumsum(np.minimum(step, most))  # windows further apart share no tick
        ticks = int(squeezed[-1]) + samples
        folded = fold(values, squeezed, samples, ticks, mode=self._mode, stride=self._stride)
        first, end = _covering(squeezed, samples, ticks)
        index = np.flatnonzero(end > first)
        number = index + (starts - squeezed)[np.searchsorted(squeezed, index, side="right") - 1]
        new = (number >= self._next) & (number < stop)
        return number[new], folded[index[new]]


def fold_windows(
    spans: pd.DataFrame, scores: ArrayLike, recipe: WindowRecipe, *, mode: str = "offline"
) -> pd.DataFrame:
    """Turn scores of windows into a table of ticks: a score per time step of each recording.

    Parameters
    ----------
    spans : DataFrame, n rows
        Windows as the recipe cut them: ``recording`` and ``start_s``, in order of time within a recording.
    scores : array-like of float, shape (n,)
        The anomaly score of each window; high = anomalous.
    recipe : WindowRecipe
        How the windows were cut.
    mode : {"offline", "causal"}, default="offline"
        As for `fold`.

    Returns
    -------
    DataFrame
        One row per tick that a window covers: ``recording``, ``start_s`` (the tick), ``end_s`` (the next tick) and
        ``anomaly_score``. A tick is a window of one sample, so functions of windows also take ticks.

    Raises
    ------
    ValueError
        If there is not one score for each window, or the mode is unknown.

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
        raise _mismatch(len(values), len(spans))
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
        raise ValueError(f"mode={mode!r} must be {' or '.join(map(repr, MODES))}. Pass one of them.")


def _mismatch(scores: int, windows: int) -> ValueError:
    return ValueError(f"There are {scores} scores for {windows} windows; each window needs one. Pass matching rows.")
