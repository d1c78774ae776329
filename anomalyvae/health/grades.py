"""Grades: each signal of each window is good, suspect or bad by a `Profile`, with the reason."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalyvae.events import SLACK_S
from anomalyvae.health.measures import cells_of, measure, signals_of
from anomalyvae.health.profile import REASONS, Profile
from anomalyvae.recordings.windows import Windows

Floats = NDArray[np.float64]

GRADES = ("good", "suspect", "bad")
FLAT = "flat-lined"  # stuck at zero, or at an end of its range
_MOST = 99.0  # the largest severity
_APART_S = 30.0  # between two intervals that are one


def grade(windows: Windows, profile: Profile, residuals: Floats | None = None) -> pd.DataFrame:
    """Grade each signal of each window.

    Parameters
    ----------
    windows : Windows
        Of one or more recordings, each in order of time; cells may be missing.
    profile : Profile
        Of the same signals.
    residuals : ndarray of shape (n, signals), optional
        As in `learn_profile`. Without residuals, drift is not checked.

    Returns
    -------
    DataFrame, n * signals rows, window by window
        ``recording``, ``start_s``, ``end_s``, ``signal``, ``grade`` (of `GRADES`), ``reason`` (of `REASONS`, or
        ``flat-lined``; empty if good), ``value`` (the measure, NaN if good) and ``severity``: the distance from the
        usual level in margins, about. It is 1 or more if suspect, and 2 or more if bad.

    Raises
    ------
    ValueError
        If the windows and the profile have different signals.
    """
    signals = signals_of(windows)
    if signals != profile.signals:
        raise ValueError(
            f"Got windows of {', '.join(signals)}, expected the signals of the profile: {', '.join(profile.signals)}. "
            "Cut them by the recipe that the profile was learned with."
        )
    measures = measure(windows, profile.rest, residuals)
    shape = (len(REASONS), len(windows), len(signals))
    steps, severity = np.zeros(shape, dtype=np.int8), np.zeros(shape)
    for number, check in enumerate(REASONS):
        value, (usual, suspect, bad) = measures[check], profile.levels[check].T
        steps[number] = (value > suspect).astype(np.int8) + (value > bad)
        with np.errstate(invalid="ignore"):  # 1 at the suspect level or, where there is one, 2 at the bad level
            unit = np.where(np.isfinite(bad), (bad - usual) / 2, suspect - usual)
            beyond = (value - usual) / np.maximum(unit, 1e-9 * np.abs(usual) + 1e-9)
        severity[number] = np.where(steps[number] > 0, np.clip(beyond, steps[number], _MOST), 0.0)
    worst = (steps * (len(REASONS) + 1) - np.arange(len(REASONS))[:, None, None]).argmax(axis=0)
    step, value, severest = (
        np.take_along_axis(of_checks, worst[None], axis=0)[0].ravel()
        for of_checks in (steps, np.stack([measures[check] for check in REASONS]), severity)
    )
    reason = np.array(list(REASONS.values()), dtype=object)[worst]
    reason[(reason == "stuck") & _flat(windows, profile)] = FLAT
    table = windows.spans.loc[windows.spans.index.repeat(len(signals))].reset_index(drop=True)
    return table.assign(
        signal=np.tile(np.array(signals, dtype=object), len(windows)),
        grade=np.array(GRADES, dtype=object)[step],
        reason=np.where(step > 0, reason.ravel(), ""),
        value=np.where(step > 0, value, np.nan),
        severity=severest,
    )


def graded(grades: pd.DataFrame, signals: Sequence[str], wanted: str) -> NDArray[np.bool_]:
    """Which signals of each window have this grade, shape ``(n, signals)``, from the result of `grade`."""
    return (grades["grade"] == wanted).to_numpy().reshape(-1, len(signals))


def stretches(grades: pd.DataFrame) -> pd.DataFrame:
    """Merge windows in which a signal is not good, for the same reason, to intervals.

    Windows that touch are merged. So are windows at most 30 s apart, except for dropouts: some measures use the 30 s
    around a window.

    Parameters
    ----------
    grades : DataFrame
        The result of `grade`.

    Returns
    -------
    DataFrame
        By recording, time and signal: ``recording``, ``signal``, ``grade``, ``reason``, ``start_s``, ``end_s`` and
        ``severity``. Grade and severity are those of the worst window.
    """
    found = grades[grades["grade"] != "good"]
    found = found.sort_values(["recording", "signal", "reason", "start_s"], kind="stable", ignore_index=True)
    same = (found[["recording", "signal", "reason"]] == found[["recording", "signal", "reason"]].shift()).all(axis=1)
    apart_s = np.where(found["reason"] == REASONS["missing"], 0.0, _APART_S) + SLACK_S
    begins = ~(same & (found["start_s"] <= found["end_s"].shift() + apart_s))
    merged = found.groupby(begins.cumsum()).agg(
        recording=("recording", "first"),
        signal=("signal", "first"),
        grade=("grade", "min"),  # "bad" comes before "suspect"
        reason=("reason", "first"),
        start_s=("start_s", "first"),
        end_s=("end_s", "max"),
        severity=("severity", "max"),
    )
    return merged.sort_values(["recording", "start_s", "signal"], kind="stable", ignore_index=True)


def _flat(windows: Windows, profile: Profile) -> NDArray[np.bool_]:
    """Which signals are zero, or at or beyond an end of their range, throughout a window."""
    cells = cells_of(windows)
    low, high = -profile.levels["below"][:, 1], profile.levels["above"][:, 1]
    ends = (cells == 0) | (cells <= low[:, None]) | (cells >= high[:, None])
    return np.asarray(ends.all(axis=2))
