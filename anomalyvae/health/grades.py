"""Sensor health: each signal of each window graded good, suspect or bad, with the reason, and without a model.

A profile says what a signal's windows look like as a rule. It is learned from normal windows without any label, and
holds three levels per check and signal: what is usual, from where a signal is suspect, and from where it is bad.

==============  =====================================================================================================
check           what is measured of a signal in a window, always so that high is worse
==============  =====================================================================================================
``missing``     share of its cells that are missing
``above``       its largest value
``below``       its smallest value, with the sign turned
``stuck``       seconds for which it is the same, across windows, but for the value at which it rests
``resting``     seconds for which it has the value that it most often rests at: zero, for the speed of a car that stands
``quiet``       its noise, that no window of a stretch of 10 s exceeds: minus log10
``noisy``       its noise, that no window of a stretch of 10 s falls below: log10
``high``        how far it lies over its reconstruction by a model of all signals, median over 30 s
``low``         the same with the sign turned
==============  =====================================================================================================

Levels. ``usual`` is the median of a measure (zero, of shares and seconds). A signal is suspect beyond ``usual +
margin`` and bad beyond ``usual + 2 margin``, where the margin is what 1 in 1,000 windows exceeds over the median of the
*other* recordings: each is left out in turn (split conformal prediction, Vovk et al. 2005). What leaves a learned range
is suspect at most, however far: no window has shown it, which may as well be a manoeuvre that none has shown. Bad is
what leaves a range that somebody has stated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalyvae.health.measures import cells_of, length_of, measure, rest_of, runs_of, signals_of
from anomalyvae.recordings.log import nearest
from anomalyvae.recordings.windows import Windows

Floats = NDArray[np.float64]
Ranges = Mapping[str, Sequence[float]]

GRADES = ("good", "suspect", "bad")
REASONS = {  # in the order in which one is named where several are as bad; what they mean: the table above
    "missing": "dropout",
    "above": "out of range",
    "below": "out of range",
    "stuck": "stuck",
    "resting": "stuck",
    "quiet": "noise gone",
    "noisy": "noisy",
    "high": "drifted",
    "low": "drifted",
}
FLAT = "flat-lined"  # stuck at zero, or at an end of its range
SUSPECT_RATE = 1e-3

_FOLDS = 8
_SILENT = 1e-4  # of a signal's spread: less noise counts as none
_NOISE_STEP = 0.3  # decades: noise that is less than doubled or halved is nothing to report
_FROM_ZERO = ("missing", "stuck", "resting")
_BAD = 2.0  # margins
_BAD_MISSING = 0.5
_MOST = 99.0  # of a severity
_SLACK_S = 1e-6


@dataclass(frozen=True)
class Profile:
    """What the signals of normal windows look like.

    Attributes
    ----------
    signals : tuple of str
    levels : dict of str to ndarray of shape (len(signals), 3)
        For each check what is usual, from where a signal is suspect, and from where it is bad, in the unit of the
        measure; infinite where a check says nothing of a signal.
    rest : ndarray of shape (len(signals),)
        The value at which each signal most often stays the same, NaN where it always moves.
    suspect_rate : float
        Share of normal windows that one check may call suspect.
    windows : int
        How many it was learned from.
    """

    signals: tuple[str, ...]
    levels: dict[str, Floats]
    rest: Floats
    suspect_rate: float = SUSPECT_RATE
    windows: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON: where a check says nothing of a signal, it is not there."""
        checks = {
            signal: {
                check: [float(f"{level:.6g}") if np.isfinite(level) else None for level in levels[i]]
                for check, levels in self.levels.items()
                if np.isfinite(levels[i][:2]).all()
            }
            for i, signal in enumerate(self.signals)
        }
        rest = {name: float(value) for name, value in zip(self.signals, self.rest, strict=True) if np.isfinite(value)}
        return {"suspect_rate": self.suspect_rate, "windows": self.windows, "levels": checks, "rest": rest}

    def stating(self, ranges: Ranges) -> Profile:
        """The same profile, with physical ranges stated for some signals in place of learned ones.

        Raises
        ------
        ValueError
            If a range is none, or is that of no signal of the profile.
        """
        _refuse_ranges(self.signals, ranges)
        levels = {check: values.copy() for check, values in self.levels.items()}
        for signal, (low, high) in ranges.items():
            for check, limit in (("above", high), ("below", -low)):
                own = levels[check][self.signals.index(signal)]
                own[:] = min(own[0], limit), limit, limit
        return replace(self, levels=levels)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Profile:
        """Build a profile from what `to_dict` gave.

        Raises
        ------
        ValueError
            If it is nothing that `to_dict` gave.
        """
        try:
            signals = tuple(values["levels"])
            levels = {check: np.full((len(signals), 3), np.inf) for check in REASONS}
            for i, checks in enumerate(values["levels"].values()):
                for check, three in checks.items():
                    levels[check][i] = [np.inf if level is None else level for level in three]
            rest = np.array([float(values["rest"].get(signal, np.nan)) for signal in signals])
            return cls(signals, levels, rest, float(values["suspect_rate"]), int(values["windows"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"Got a health profile that cannot be read ({error}). Learn it again.") from error


# --- learning -------------------------------------------------------------------------------------------


def learn_profile(
    windows: Windows,
    *,
    states: Iterable[str] = (),
    ranges: Ranges | None = None,
    gaps: Floats | None = None,
    suspect_rate: float = SUSPECT_RATE,
) -> Profile:
    """Learn from normal windows what is usual.

    Parameters
    ----------
    windows : Windows
        Of one or more recordings, each in order of time.
    states : iterable of str
        Signals that hold their value until it changes: they are never stuck, and have no noise.
    ranges : mapping of str to (low, high), optional
        Physical ranges of signals, in their unit, in place of learned ones. What lies outside is bad.
    gaps : ndarray of shape (n, signals), optional
        How far each signal lies over its reconstruction, mean over the window, by models that did not learn the
        window. Without, nothing is said of drift.
    suspect_rate : float, default=0.001
        Share of normal windows that may be suspect, per check and signal. With fewer than 1 / rate windows, it is
        that of the largest.

    Returns
    -------
    Profile
        A signal that is constant throughout a recording has no check of being stuck; one that is without noise for
        10 s has no check of noise that is gone.

    Raises
    ------
    ValueError
        If there are fewer than two windows, a range is none, or is that of no signal of the windows.
    """
    signals = signals_of(windows)
    if len(windows) < 2:
        raise ValueError(f"Got {len(windows)} windows, expected at least two to learn from. Add recordings.")
    if not 0 < suspect_rate < 1:
        raise ValueError(f"Got suspect_rate={suspect_rate!r}, expected a share between 0 and 1. Pass 0.001, say.")
    _refuse_ranges(signals, ranges or {})
    missing = np.isnan(cells_of(windows)).mean(axis=2)  # before what lies outside of a stated range is, too
    windows = within(windows, ranges)
    rest = rest_of(windows)
    measures = measure(windows, rest, gaps) | {"missing": missing}
    folds = _folds(windows.spans)
    low, high = -_most(measures["below"]), _most(measures["above"])
    spread = np.where(high > low, high - low, np.maximum(np.abs(high), 1.0))
    silent = np.log10(_SILENT * spread)
    for check, least in (("noisy", silent), ("quiet", -np.inf)):
        measures[check] = np.where(np.isfinite(measures[check]), np.maximum(measures[check], least), -np.inf)
    levels = {check: _levels(values, folds, suspect_rate, check in _FROM_ZERO) for check, values in measures.items()}

    length_s = length_of(windows)
    held = [signal in set(states) for signal in signals]
    for check in ("noisy", "quiet"):
        levels[check][:, 1:] = np.maximum(
            levels[check][:, 1:], levels[check][:, :1] + [_NOISE_STEP, _BAD * _NOISE_STEP]
        )
    levels["above"][:, 2] = levels["below"][:, 2] = np.inf
    levels["missing"][:, 2] = np.maximum(levels["missing"][:, 2], _BAD_MISSING)
    constant = _constant(windows, np.maximum(measures["stuck"], measures["resting"]))
    for check in ("stuck", "resting"):
        levels[check][:, 1:] = np.maximum(levels[check][:, 1:], [length_s, _BAD * length_s])
        levels[check][constant | held] = np.inf
    levels["noisy"][held], levels["quiet"][held] = np.inf, np.inf
    levels["quiet"][_most(measures["quiet"]) >= -silent] = np.inf
    return Profile(signals, levels, rest, suspect_rate, len(windows)).stating(ranges or {})


def _levels(values: Floats, folds: NDArray[np.intp], rate: float, from_zero: bool) -> Floats:
    """Usual, suspect and bad of each signal, shape ``(signals, 3)``; infinite where nothing was measured."""
    known = np.isfinite(values)
    levels = np.full((values.shape[1], 3), np.inf)
    for i in range(values.shape[1]):
        own, fold = values[known[:, i], i], folds[known[:, i]]
        if len(own) < 2:
            continue
        usual = 0.0 if from_zero else float(np.median(own))
        beyond = [own[fold == f] - (0.0 if from_zero else np.median(own[fold != f])) for f in _left_out(fold)]
        margin = max(_conformal(np.concatenate(beyond) if beyond else own - usual, rate), 0.0)
        levels[i] = usual, usual + margin, usual + _BAD * margin
    return levels


def _left_out(folds: NDArray[np.intp]) -> NDArray[np.intp]:
    """The folds that have others beside them."""
    names = np.unique(folds)
    return names if len(names) > 1 else names[:0]


def _conformal(values: Floats, rate: float) -> float:
    """The value that a new one exceeds with probability ``rate``; with too few of them, the largest."""
    rank = math.ceil((len(values) + 1) * (1 - rate) * (1 - 1e-12))
    return float(np.sort(values)[min(rank, len(values)) - 1])


def _folds(spans: pd.DataFrame) -> NDArray[np.intp]:
    """Recordings, or parts of them where there are fewer than three, as numbers of what is left out together."""
    number, names = pd.factorize(spans["recording"])
    if len(names) > 2:
        return np.asarray(number % _FOLDS)
    place = spans.groupby("recording").cumcount().to_numpy() / np.bincount(number)[number]
    return np.asarray(number * _FOLDS + (place * _FOLDS // 1).astype(np.intp))


def _constant(windows: Windows, stuck_s: Floats) -> NDArray[np.bool_]:
    """Which signals stay the same throughout a recording, or a part of it that has windows."""
    run = runs_of(windows.spans)
    covered = windows.spans.groupby(run)["end_s"].max() - windows.spans.groupby(run)["start_s"].min()
    long = covered.to_numpy() > 2 * length_of(windows)
    whole = pd.DataFrame(stuck_s).groupby(run).max().to_numpy() >= 0.9 * covered.to_numpy()[:, None]
    return np.asarray(whole[long].any(axis=0))


def _most(values: Floats) -> Floats:
    return np.asarray(values.max(axis=0))


def _refuse_ranges(signals: tuple[str, ...], ranges: Ranges) -> None:
    for signal, limits in ranges.items():
        if signal not in signals:
            raise ValueError(f"Got a range of {signal!r}, expected a signal of the windows. {nearest(signal, signals)}")
        if len(limits) != 2 or not limits[0] < limits[1]:
            raise ValueError(f"Got the range {list(limits)} of {signal!r}, expected [low, high]. Correct it.")


# --- grading --------------------------------------------------------------------------------------------


def grade(windows: Windows, profile: Profile, gaps: Floats | None = None) -> pd.DataFrame:
    """Grade each signal of each window.

    Parameters
    ----------
    windows : Windows
        Of one or more recordings, each in order of time; cells may be missing.
    profile : Profile
        Of the same signals.
    gaps : ndarray of shape (n, signals), optional
        As in `learn_profile`. Without, drift is not looked for.

    Returns
    -------
    DataFrame, n * signals rows, window by window
        ``recording``, ``start_s``, ``end_s``, ``signal``, ``grade`` (of `GRADES`), ``reason`` (of `REASONS`, or
        ``flat-lined``; empty where good), ``value`` (what the check measured, NaN where good) and ``severity``: how
        far it lies beyond the usual, where suspect begins at 1 and bad at 2 (or later, where a floor says so).

    Raises
    ------
    ValueError
        If the windows are of other signals than the profile.
    """
    signals = signals_of(windows)
    if signals != profile.signals:
        raise ValueError(
            f"Got windows of {', '.join(signals)}, expected the signals of the profile: {', '.join(profile.signals)}. "
            "Cut them by the recipe that it was learned with."
        )
    measures = measure(windows, profile.rest, gaps)
    shape = (len(REASONS), len(windows), len(signals))
    steps, severity = np.zeros(shape, dtype=np.int8), np.zeros(shape)
    for number, check in enumerate(REASONS):
        value, (usual, suspect, bad) = measures[check], profile.levels[check].T
        steps[number] = (value > suspect).astype(np.int8) + (value > bad)
        with np.errstate(invalid="ignore"):
            beyond = (value - usual) / np.maximum(suspect - usual, 1e-9 * np.abs(usual) + 1e-9)
        severity[number] = np.where(steps[number] > 0, np.clip(beyond, steps[number], _MOST), 0.0)
    worst = (steps * (len(REASONS) + 1) - np.arange(len(REASONS))[:, None, None]).argmax(axis=0)
    step = np.take_along_axis(steps, worst[None], axis=0)[0].ravel()
    value = np.take_along_axis(np.stack(list(measures.values())), worst[None], axis=0)[0]
    reason = np.array(list(REASONS.values()), dtype=object)[worst]
    reason[(reason == "stuck") & _flat(windows, profile)] = FLAT
    table = windows.spans.loc[windows.spans.index.repeat(len(signals))].reset_index(drop=True)
    return table.assign(
        signal=np.tile(np.array(signals, dtype=object), len(windows)),
        grade=np.array(GRADES, dtype=object)[step],
        reason=np.where(step > 0, reason.ravel(), ""),
        value=np.where(step > 0, value.ravel(), np.nan),
        severity=np.take_along_axis(severity, worst[None], axis=0)[0].ravel(),
    )


def graded(grades: pd.DataFrame, signals: Sequence[str], *wanted: str) -> NDArray[np.bool_]:
    """Which signals of each window have one of these grades, shape ``(n, signals)``, from what `grade` gave."""
    return grades["grade"].isin(wanted).to_numpy().reshape(-1, len(signals))


def stretches(grades: pd.DataFrame) -> pd.DataFrame:
    """Merge the windows in which a signal is not good to stretches.

    Windows that touch and have the same reason make one stretch, which is as bad as its worst window.

    Parameters
    ----------
    grades : DataFrame
        What `grade` gave.

    Returns
    -------
    DataFrame
        A row per stretch, by recording, time and signal: ``recording``, ``signal``, ``grade``, ``reason``,
        ``start_s``, ``end_s``, and ``severity``, that of the worst window.
    """
    found = grades[grades["grade"] != "good"]
    found = found.sort_values(["recording", "signal", "reason", "start_s"], kind="stable", ignore_index=True)
    same = (found[["recording", "signal", "reason"]] == found[["recording", "signal", "reason"]].shift()).all(axis=1)
    begins = ~(same & (found["start_s"] <= found["end_s"].shift() + _SLACK_S))
    merged = found.groupby(begins.cumsum()).agg(
        recording=("recording", "first"),
        signal=("signal", "first"),
        grade=("grade", "min"),  # bad comes before suspect
        reason=("reason", "first"),
        start_s=("start_s", "first"),
        end_s=("end_s", "max"),
        severity=("severity", "max"),
    )
    return merged.sort_values(["recording", "start_s", "signal"], kind="stable", ignore_index=True)


def within(windows: Windows, ranges: Ranges | None) -> Windows:
    """The same windows, in which cells outside of stated physical ranges are missing.

    Parameters
    ----------
    windows : Windows
    ranges : mapping of str to (low, high), optional
    """
    if not ranges:
        return windows
    cells = cells_of(windows).copy()
    for signal, (low, high) in ranges.items():
        own = cells[:, signals_of(windows).index(signal)]
        own[(own < low) | (own > high)] = np.nan
    rows = pd.DataFrame(cells.reshape(len(windows), -1), columns=windows.rows.columns, index=windows.rows.index)
    return Windows(rows, windows.spans, windows.units)


def _flat(windows: Windows, profile: Profile) -> NDArray[np.bool_]:
    """Which signals lie at zero, or at or beyond an end of their range, in all of a window."""
    cells = cells_of(windows)
    low, high = -profile.levels["below"][:, 1], profile.levels["above"][:, 1]
    ends = (cells == 0) | (cells <= low[:, None]) | (cells >= high[:, None])
    return np.asarray(ends.all(axis=2))
