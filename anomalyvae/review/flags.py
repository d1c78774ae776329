"""Flagged windows as a person wants to meet them: merged to events, strangest first, with reasons."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from anomalyvae.metrics import merge_alarms
from anomalyvae.recordings import WindowRecipe, Windows

_AROUND_S = 4.0  # seconds drawn before and after a window


@dataclass(frozen=True)
class WindowView:
    """All that a picture of one window needs.

    Parameters
    ----------
    recording : str
    start_s, end_s, score : float
        The window, and how strange it is.
    near_event : bool
        Whether something known to have happened explains it.
    signals : tuple of str, length c
    shares : ndarray of shape (c,)
        Part of each signal in what is strange, adding up to 1 (or all zero).
    time_s : ndarray of shape (t,)
    reconstruction : ndarray of shape (c, t)
        What the model took the window for, in the signals' own units.
    around_time_s : ndarray of shape (m,)
    around : ndarray of shape (c, m)
        The signals in the window, before and after it, as far as there are windows; of windows that are laid out by
        their shape, what of the signals that tells.
    """

    recording: str
    start_s: float
    end_s: float
    score: float
    near_event: bool
    signals: tuple[str, ...]
    shares: NDArray[np.float64]
    time_s: NDArray[np.float64]
    reconstruction: NDArray[np.float64]
    around_time_s: NDArray[np.float64]
    around: NDArray[np.float64]


def signal_scores(model: Any, rows: pd.DataFrame, recipe: WindowRecipe) -> NDArray[np.float64]:
    """Part of each signal in each window's reconstruction score: the sum of its columns' feature scores.

    Returns
    -------
    ndarray of shape (n, n_signals)
    """
    return np.asarray(model.feature_scores(rows)).reshape(len(rows), *recipe.input_shape).sum(axis=2)


def explained_flags(
    spans: pd.DataFrame,
    scores: NDArray[np.float64],
    flagged: ArrayLike,
    excess: NDArray[np.float64],
    signals: tuple[str, ...],
) -> pd.DataFrame:
    """Merge flagged windows to events and name the signals behind each.

    Parameters
    ----------
    spans : DataFrame, n rows
        ``recording``, ``start_s``, ``end_s``.
    scores : ndarray of shape (n,)
        High = strange.
    flagged : array-like of bool, shape (n,)
    excess : ndarray of shape (n, len(signals))
        Score of each signal less its usual level. An event takes the shares of its strangest window; signals
        quieter than usual take none.
    signals : tuple of str

    Returns
    -------
    DataFrame
        Strangest first: ``recording``, ``start_s``, ``end_s``, ``peak_score``, ``windows``, ``signals`` and
        ``shares`` (lists, greatest share first), and ``peak``, the strangest window's position in `spans`.
    """
    flags = merge_alarms(spans, flagged)
    peaks = np.array([members[np.argmax(scores[members])] for members in flags.pop("members")], dtype=int)
    shares = excess_shares(excess[peaks])
    order = np.argsort(-shares, axis=1, kind="stable")
    flags["peak_score"] = scores[peaks]
    flags["signals"] = pd.Series([[signals[i] for i in row] for row in order], dtype=object)
    flags["shares"] = pd.Series(np.take_along_axis(shares, order, axis=1).tolist(), dtype=object)
    flags["peak"] = peaks
    return flags.sort_values("peak_score", ascending=False, kind="stable", ignore_index=True)


def excess_shares(excess: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn excess scores (n, c) into shares: each row adds up to 1, or is zero where nothing exceeds."""
    above = np.clip(excess, 0.0, None)
    total = above.sum(axis=1, keepdims=True)
    return np.divide(above, total, out=np.zeros_like(above), where=total > 0)


def window_view(
    model: Any,
    recipe: WindowRecipe,
    windows: Windows,
    position: int,
    score: float,
    near_event: bool,
    shares: NDArray[np.float64],
) -> WindowView:
    """Gather a window, its surroundings and its reconstruction.

    Parameters
    ----------
    model : fitted detector
    recipe : WindowRecipe
    windows : Windows
        Rows and spans of the window's recording.
    position : int
        The window, among those.
    score : float
    near_event : bool
    shares : ndarray of shape (n_signals,)

    Returns
    -------
    WindowView
    """
    starts, ends = windows.spans["start_s"].to_numpy(), windows.spans["end_s"].to_numpy()
    start_s, end_s = float(starts[position]), float(ends[position])
    n_signals = len(recipe.signals)
    time_s = np.arange(recipe.samples) / recipe.rate_hz

    near = np.flatnonzero((starts >= start_s - _AROUND_S) & (starts <= end_s + _AROUND_S))
    values = recipe.over_time(windows.rows.iloc[near].to_numpy())
    ticks = np.rint((starts[near, None] + time_s) * recipe.rate_hz).astype(int).ravel()
    _, first = np.unique(ticks, return_index=True)  # neighbouring windows share samples
    around_time_s = (starts[near, None] + time_s).ravel()[first]
    kept = (around_time_s >= start_s - _AROUND_S) & (around_time_s <= end_s + _AROUND_S)
    around = values.transpose(1, 0, 2).reshape(n_signals, -1)[:, first]

    rebuilt = recipe.over_time(np.asarray(model.reconstruct(windows.rows.iloc[[position]])))[0]
    return WindowView(
        recording=str(windows.spans.loc[position, "recording"]),
        start_s=start_s,
        end_s=end_s,
        score=score,
        near_event=near_event,
        signals=tuple(recipe.signals),
        shares=shares,
        time_s=start_s + time_s,
        reconstruction=rebuilt,
        around_time_s=around_time_s[kept],
        around=around[:, kept],
    )
