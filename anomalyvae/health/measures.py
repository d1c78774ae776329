"""The measures that sensor health checks: one number per signal, window and check; higher is worse.

The noise of a window is the standard deviation s of white noise with the same mean absolute second difference, which is
s sqrt(6) sqrt(2 / pi); a straight line has none (J. von Neumann et al. 1941, The mean square successive difference, use
the first difference). The smallest noise within 10 s counts, so that a pothole is not taken for noise of the sensor.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalyvae.events import SLACK_S
from anomalyvae.recordings.windows import Windows

Floats = NDArray[np.float64]

_FLOOR_S, _DRIFT_S = 10.0, 30.0  # how long noise and drift must last
_OFTEN_S, _OFTEN = 30.0, 1 / 3  # values are repeated if a third of the windows within 30 s reach them
_NEAR = 1 / 40  # of a signal's range: as near to where it rests as this counts as there
_SAME = 1e-9  # of the largest value; means of equal numbers differ in the last bits
_DIGITS = 9


def signals_of(windows: Windows) -> tuple[str, ...]:
    """The signals of windows, in the order of their columns."""
    return tuple(dict.fromkeys(str(column).rpartition("@")[0] for column in windows.rows.columns))


def cells_of(windows: Windows) -> Floats:
    """The cells of windows, shape ``(n, signals, samples)``."""
    return windows.rows.to_numpy(dtype=np.float64).reshape(len(windows), len(signals_of(windows)), -1)


def measure(windows: Windows, rest: Floats, residuals: Floats | None = None) -> dict[str, Floats]:
    """The measure of each check, shape ``(n, signals)``; minus infinity without data.

    ``rest`` is as `rest_of` gives it; ``residuals``, shape ``(n, signals)``, as `learn_profile` takes them.
    """
    cells, run = cells_of(windows), runs_of(windows.spans)
    stuck_s, held = _held(windows, cells, run)
    slack = _SAME * np.maximum(np.abs(rest), 1.0)
    with np.errstate(invalid="ignore"):
        near = (held[:, :, None] >= rest[..., 0] - slack[..., 0]) & (held[:, :, None] <= rest[..., 1] + slack[..., 1])
    resting = near.any(axis=2)
    missing = np.isnan(cells)
    noise = np.log10(np.maximum(_noise(cells), 1e-300))
    residual = np.full(noise.shape, np.nan) if residuals is None else residuals
    starts = windows.spans["start_s"].to_numpy()
    largest = np.stack([np.where(missing, -np.inf, sign * cells).max(axis=2) for sign in (1, -1)])
    lasting, drift = np.full((2, *noise.shape), -np.inf), np.full(noise.shape, np.nan)
    often = np.full((2, *noise.shape), np.nan)
    for begin, end in pairwise([*np.flatnonzero(np.diff(run, prepend=-1)), len(run)]):
        own = slice(begin, end)
        step = float(np.median(np.diff(starts[own]))) if end - begin > 1 else 1.0
        lasting[:, own] = [_sustained(sign * noise[own], round(_FLOOR_S / step)) for sign in (1, -1)]
        drift[own] = _rolling(residual[own], round(_DRIFT_S / step), 0.5)
        peaks = np.where(np.isneginf(largest[:, own]), np.nan, largest[:, own])
        often[:, own] = [_rolling(peak, round(_OFTEN_S / step), 1 - _OFTEN) for peak in peaks]
    often = np.where(np.isnan(often), -np.inf, often)
    return {
        "missing": missing.mean(axis=2),
        "above": largest[0],
        "below": largest[1],
        "often above": often[0],
        "often below": often[1],
        "stuck": np.where(resting, -np.inf, stuck_s),
        "resting": np.where(resting, stuck_s, -np.inf),
        "quiet": lasting[1],
        "noisy": lasting[0],
        "high": np.where(np.isnan(drift), -np.inf, drift),
        "low": np.where(np.isnan(drift), -np.inf, -drift),
    }


def rest_of(windows: Windows) -> Floats:
    """Where each signal rests: intervals, shape ``(signals, 3, 2)``; NaN where it does not.

    The first is around the value that it most often has throughout a window, the others are the ends of its range, if
    it had them throughout a window. All are a fortieth of the range wide, to one side: a signal of a few hundred steps
    rests one step beside its usual place, too. The speed of a healthy car is zero for minutes when it stands, and its
    pedal is up or down for long, but it is never at 50 km/h for minutes. So unchanged signals are measured separately
    where they rest and elsewhere.
    """
    cells = cells_of(windows)
    held = _held(windows, cells, runs_of(windows.spans))[1]
    usual = pd.DataFrame(held).round(_DIGITS).mode().reindex([0]).to_numpy(dtype=np.float64)[0]
    known = np.where(np.isnan(cells), np.inf, cells)
    low, high = known.min(axis=(0, 2)), np.where(np.isnan(cells), -np.inf, cells).max(axis=(0, 2))
    wide = np.where(low < high, _NEAR * (high - low), 0.0)
    rests = np.array([[usual - wide, usual + wide], [low, low + wide], [high - wide, high]])
    with np.errstate(invalid="ignore"):
        there = np.asarray(((held >= rests[:, None, 0]) & (held <= rests[:, None, 1])).any(axis=1))
    return np.where(there[:, None], rests, np.nan).transpose(2, 0, 1)


def runs_of(spans: pd.DataFrame) -> NDArray[np.intp]:
    """Number the runs of windows that touch each other in time, within a recording."""
    recording, starts, ends = (spans[name].to_numpy() for name in ("recording", "start_s", "end_s"))
    begins = np.ones(len(spans), dtype=bool)
    begins[1:] = (recording[1:] != recording[:-1]) | (starts[1:] > ends[:-1] + SLACK_S) | (starts[1:] < starts[:-1])
    return np.cumsum(begins) - 1


def _noise(cells: Floats) -> Floats:
    """Standard deviation of the white noise of each signal in each window; NaN with too few cells."""
    bends = np.abs(np.diff(cells, n=2, axis=2))
    known = ~np.isnan(bends)
    count = known.sum(axis=2)
    mean = np.where(known, bends, 0.0).sum(axis=2) / np.maximum(count, 1)
    return np.where(count >= 1, mean * math.sqrt(math.pi / 2 / 6), np.nan)


def _sustained(values: Floats, windows: int) -> Floats:
    """The largest value that so many windows in a row, with this one, all reach; minus infinity in shorter runs."""
    width = max(windows, 1)
    if len(values) < width:
        return np.full(values.shape, -np.inf)
    known = np.where(np.isnan(values), -np.inf, values)
    least = np.lib.stride_tricks.sliding_window_view(known, width, axis=0).min(axis=-1)
    padded = np.pad(least, ((width - 1, width - 1), (0, 0)), constant_values=-np.inf)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, width, axis=0).max(axis=-1))


def _rolling(values: Floats, windows: int, quantile: float) -> Floats:
    """A quantile over so many windows around each; NaN in shorter runs, and where more than half are missing.

    It is one of the values, so that this share reaches it; the median is between the two middle ones, as usual.
    """
    width = max(windows, 1)
    if len(values) < width or np.isnan(values).all():
        return np.full(values.shape, np.nan)
    around = pd.DataFrame(values).rolling(width, min_periods=-(-width // 2))
    found = around.median() if quantile == 0.5 else around.quantile(quantile, interpolation="lower")
    middle = found.to_numpy()[width - 1 :]
    first = np.clip(np.arange(len(values)) - width // 2, 0, len(values) - width)
    return np.asarray(middle[first])


def _held(windows: Windows, cells: Floats, run: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """How long each signal stays unchanged in seconds, and its value throughout a window, both ``(n, signals)``.

    Windows in a row throughout which it is unchanged count together; in others, its longest interval counts. The value
    is NaN in windows in which it changes.
    """
    samples, length_s = cells.shape[2], length_of(windows)
    with np.errstate(invalid="ignore"):
        size = np.where(np.isnan(cells), 0.0, np.abs(cells)).max(axis=2, keepdims=True)
        same = np.abs(np.diff(cells, axis=2)) <= _SAME * size
    longest = now = np.zeros(cells.shape[:2])
    for sample in range(samples - 1):
        now = np.where(same[:, :, sample], now + 1, 0)
        longest = np.maximum(longest, now)
    stuck_s = longest * length_s / samples
    constant = longest == samples - 1 if samples > 1 else ~np.isnan(cells[:, :, 0])
    starts, ends = windows.spans["start_s"].to_numpy(), windows.spans["end_s"].to_numpy()
    for i in range(cells.shape[1]):
        held = np.flatnonzero(constant[:, i])
        if not len(held):
            continue
        value = cells[held, i, 0]
        goes_on = (np.diff(held) == 1) & (run[held[1:]] == run[held[:-1]])
        goes_on &= np.abs(np.diff(value)) <= _SAME * np.abs(value[1:])
        chain = np.concatenate(([0], np.cumsum(~goes_on)))
        first = np.concatenate(([True], ~goes_on))
        last = np.concatenate((~goes_on, [True]))
        stuck_s[held, i] = (ends[held[last]] - starts[held[first]])[chain]
    return stuck_s, np.where(constant, cells[:, :, 0], np.nan)


def length_of(windows: Windows) -> float:
    """The length of a window in seconds."""
    first = windows.spans.iloc[0]
    return float(first["end_s"] - first["start_s"])
