"""Sensor health: grades each signal of each window good, suspect or bad, with the reason; it needs no model.

A profile describes normal windows. It is learned without labels and has three levels per check and signal: the usual
value, and the values from which a signal is suspect and bad.

==============  =====================================================================================================
check           measure of a signal in a window; higher is worse
==============  =====================================================================================================
``missing``     share of missing cells
``above``       largest value
``below``       minus the smallest value
``stuck``       seconds without a change, across windows, elsewhere than where it rests
``resting``     seconds without a change where it rests: at zero, for the speed of a car, and at an end of its range
``quiet``       minus log10 of the noise that no window within 10 s exceeds
``noisy``       log10 of the noise that every window within 10 s exceeds
``high``        how far it lies above its reconstruction by a model, median over 30 s
``low``         how far it lies below
``often above`` the value that the largest values of a third of the windows within 30 s reach
``often below`` the same of minus the smallest values
==============  =====================================================================================================

The usual level is the median (zero, for shares and seconds). The margin is what 1 in 1,000 windows exceeds over the
median of the *other* recordings; each is left out in turn (split conformal prediction, Vovk et al. 2005). With many
checks and thousands of windows a drive, one margin is not enough. A signal is suspect or bad above
``usual + 2 margin``, for drift above ``usual + 2.5 margin``; for noise, which lasts for 10 s, it is suspect above
``usual + 1.5 margin``. A signal outside its learned range is suspect, never bad: new driving may explain it. A signal
outside a range that the user has set is bad.
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
from anomalyvae.recordings.windows import Windows
from anomalyvae.tables.names import nearest

Floats = NDArray[np.float64]
Ranges = Mapping[str, Sequence[float]]

REASONS = {  # of each check; of equally bad checks, the first gives the reason
    "missing": "dropout",
    "above": "out of range",
    "below": "out of range",
    "stuck": "stuck",
    "resting": "stuck",
    "quiet": "noise gone",
    "noisy": "noisy",
    "high": "drifted",
    "low": "drifted",
    "often above": "out of range",
    "often below": "out of range",
}
SUSPECT_RATE = 1e-3

_FOLDS = 8
_SILENT = 1e-4  # of a signal's range; less noise counts as none
_NOISE_STEP = 0.3  # decades, the smallest margin of noise
_FROM_ZERO = ("missing", "stuck", "resting")
_SUSPECT, _BAD = 2.0, 2.0  # margins
# Margins to the suspect and the bad level, where they are others. The margin of drift is of models of half of the data.
_MARGINS = {
    "missing": (1.0, _BAD),
    **dict.fromkeys(("quiet", "noisy"), (1.5, _BAD)),
    **dict.fromkeys(("high", "low"), (2.5, 2.5)),
}
_OFTEN_BEYOND = 0.35  # margins of one window that repeated values must exceed too: their own are narrow
_BAD_MISSING = 0.5


@dataclass(frozen=True)
class Profile:
    """Describes the signals of normal windows.

    Attributes
    ----------
    signals : tuple of str
    levels : dict of str to ndarray of shape (len(signals), 3)
        For each check the usual, suspect and bad level, in the unit of the measure; infinite where a check does not
        apply to a signal.
    rest : ndarray of shape (len(signals), places, 2)
        Where each signal rests, as intervals (see `anomalyvae.health.measures.rest_of`); NaN if it never does.
    suspect_rate : float
        Share of normal windows beyond one margin.
    windows : int
        Number of windows it was learned from.
    """

    signals: tuple[str, ...]
    levels: dict[str, Floats]
    rest: Floats
    suspect_rate: float = SUSPECT_RATE
    windows: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; checks that do not apply to a signal are left out."""
        checks = {
            signal: {
                check: [float(f"{level:.6g}") if np.isfinite(level) else None for level in levels[i]]
                for check, levels in self.levels.items()
                if np.isfinite(levels[i][:2]).all()
            }
            for i, signal in enumerate(self.signals)
        }
        rests = {
            name: [[float(end) for end in ends] for ends in places if np.isfinite(ends).all()]
            for name, places in zip(self.signals, self.rest, strict=True)
        }
        rests = {name: places for name, places in rests.items() if places}
        rest = {name: sum(places[0]) / 2 for name, places in rests.items()}  # all that earlier versions read
        head = {"suspect_rate": self.suspect_rate, "windows": self.windows}
        return head | {"levels": checks, "rest": rest, "rests": rests}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Profile:
        """Build a profile from the result of `to_dict`; raises ValueError for anything else."""
        try:
            signals = tuple(values["levels"])
            levels = {check: np.full((len(signals), 3), np.inf) for check in REASONS}
            for i, checks in enumerate(values["levels"].values()):
                for check, three in checks.items():
                    levels[check][i] = [np.inf if level is None else level for level in three]
            rests = values.get("rests") or {name: [[value, value]] for name, value in values["rest"].items()}
            rest = np.full((len(signals), max([1, *map(len, rests.values())]), 2), np.nan)
            for i, signal in enumerate(signals):
                for index, ends in enumerate(rests.get(signal, ())):
                    rest[i, index] = np.array(ends, dtype=np.float64).reshape(2)
            return cls(signals, levels, rest, float(values["suspect_rate"]), int(values["windows"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"Got a health profile that cannot be read ({error}). Learn it again.") from error

    def with_ranges(self, ranges: Ranges) -> Profile:
        """The same profile with set ranges ``{signal: (low, high)}`` in place of learned ones.

        Raises
        ------
        ValueError
            If a range is invalid, or its signal is not in the profile.
        """
        _refuse_ranges(self.signals, ranges)
        levels = {check: values.copy() for check, values in self.levels.items()}
        for signal, (low, high) in ranges.items():
            index = self.signals.index(signal)
            for check, limit in (("above", high), ("below", -low)):
                own = levels[check][index]
                own[:] = min(own[0], limit), limit, limit
                levels[f"often {check}"][index] = np.inf
        return replace(self, levels=levels)


def learn_profile(
    windows: Windows,
    *,
    states: Iterable[str] = (),
    ranges: Ranges | None = None,
    residuals: Floats | None = None,
    suspect_rate: float = SUSPECT_RATE,
) -> Profile:
    """Learn a profile from normal windows.

    Parameters
    ----------
    windows : Windows
        Of one or more recordings, each in order of time.
    states : iterable of str
        Signals that keep their value until it changes: they are never stuck, and have no noise.
    ranges : mapping of str to (low, high), optional
        Ranges of signals, in their unit, in place of learned ones. Values outside are bad.
    residuals : ndarray of shape (n, signals), optional
        Each signal minus its reconstruction, mean over the window, by models that did not learn the window. If
        None, drift is not checked.
    suspect_rate : float, default=0.001
        Share of normal windows that exceed one margin, per check and signal; fewer are suspect. With fewer than
        1 / rate windows, none exceeds it.

    Returns
    -------
    Profile
        A signal that is constant throughout a recording has no check for being stuck; one without noise for 10 s has
        no check for missing noise.

    Raises
    ------
    ValueError
        If there are fewer than two windows, a range is invalid, or its signal is not in the windows.
    """
    signals = signals_of(windows)
    if len(windows) < 2:
        raise ValueError(f"Got {len(windows)} windows, expected at least two to learn from. Add recordings.")
    if not 0 < suspect_rate < 1:
        raise ValueError(f"Got suspect_rate={suspect_rate!r}, expected a share between 0 and 1, such as 0.001.")
    _refuse_ranges(signals, ranges or {})
    missing = np.isnan(cells_of(windows)).mean(axis=2)  # before cells outside set ranges are missing, too
    windows = within(windows, ranges)
    rest = rest_of(windows)
    measures = measure(windows, rest, residuals) | {"missing": missing}
    low, high = -measures["below"].max(axis=0), measures["above"].max(axis=0)
    spread = np.where(high > low, high - low, np.maximum(np.abs(high), 1.0))
    silent = np.log10(_SILENT * spread)
    for check, least in (("noisy", silent), ("quiet", -np.inf)):
        measures[check] = np.where(np.isfinite(measures[check]), np.maximum(measures[check], least), -np.inf)
    folds = _folds(windows.spans)
    levels = {check: _levels(check, values, folds, suspect_rate) for check, values in measures.items()}
    _widen_often(levels)

    length_s = length_of(windows)
    is_state = [signal in set(states) for signal in signals]
    for check in ("noisy", "quiet"):
        steps = levels[check][:, :1] + np.multiply(_MARGINS[check], _NOISE_STEP)
        levels[check][:, 1:] = np.maximum(levels[check][:, 1:], steps)
        levels[check][is_state] = np.inf
    levels["quiet"][measures["quiet"].max(axis=0) >= -silent] = np.inf
    for check in ("above", "below", "often above", "often below"):
        levels[check][:, 2] = np.inf
    levels["missing"][:, 2] = np.maximum(levels["missing"][:, 2], _BAD_MISSING)
    constant = _constant(windows, np.maximum(measures["stuck"], measures["resting"]))
    for check in ("stuck", "resting"):
        levels[check][:, 1:] = np.maximum(levels[check][:, 1:], [length_s, _BAD * length_s])
        levels[check][constant | is_state] = np.inf
    return Profile(signals, levels, rest, suspect_rate, len(windows)).with_ranges(ranges or {})


def within(windows: Windows, ranges: Ranges | None) -> Windows:
    """The same windows, with cells outside set ranges ``{signal: (low, high)}`` missing."""
    if not ranges:
        return windows
    cells = cells_of(windows).copy()
    for signal, (low, high) in ranges.items():
        own = cells[:, signals_of(windows).index(signal)]
        own[(own < low) | (own > high)] = np.nan
    rows = pd.DataFrame(cells.reshape(len(windows), -1), columns=windows.rows.columns, index=windows.rows.index)
    return replace(windows, rows=rows)


def _levels(check: str, values: Floats, folds: NDArray[np.intp], rate: float) -> Floats:
    """Usual, suspect and bad level of each signal, shape ``(signals, 3)``; infinite without measurements."""
    from_zero, (suspect, bad) = check in _FROM_ZERO, _MARGINS.get(check, (_SUSPECT, _BAD))
    known = np.isfinite(values)
    levels = np.full((values.shape[1], 3), np.inf)
    for i in range(values.shape[1]):
        own, fold = values[known[:, i], i], folds[known[:, i]]
        if len(own) < 2:
            continue
        usual = 0.0 if from_zero else float(np.median(own))
        names = np.unique(fold)
        beyond = [own - usual]
        if len(names) > 1:
            beyond = [own[fold == f] - (0.0 if from_zero else np.median(own[fold != f])) for f in names]
        margin = max(_conformal(np.concatenate(beyond), rate), 0.0)
        levels[i] = usual, usual + suspect * margin, usual + bad * margin
    return levels


def _widen_often(levels: dict[str, Floats]) -> None:
    """Values that are repeated are suspect only if they are unusual for one window, too."""
    for check in ("above", "below"):
        usual, suspect = levels[check][:, 0], levels[check][:, 1]
        with np.errstate(invalid="ignore"):
            unusual = usual + _OFTEN_BEYOND / _SUSPECT * (suspect - usual)
        own = levels[f"often {check}"]
        own[:, 1] = np.fmax(own[:, 1], unusual)


def _conformal(values: Floats, rate: float) -> float:
    """The value that a new one exceeds with probability ``rate``; the largest of too few values."""
    rank = math.ceil((len(values) + 1) * (1 - rate) * (1 - 1e-12))
    return float(np.sort(values)[min(rank, len(values)) - 1])


def _folds(spans: pd.DataFrame) -> NDArray[np.intp]:
    """The number of each window's fold: recordings, or parts of recordings if there are fewer than three."""
    number, names = pd.factorize(spans["recording"])
    if len(names) > 2:
        return np.asarray(number % _FOLDS)
    share = spans.groupby("recording").cumcount().to_numpy() / np.bincount(number)[number]
    return np.asarray(number * _FOLDS + (share * _FOLDS // 1).astype(np.intp))


def _constant(windows: Windows, stuck_s: Floats) -> NDArray[np.bool_]:
    """Which signals stay unchanged throughout a recording, or a part of it between gaps."""
    run = runs_of(windows.spans)
    covered = windows.spans.groupby(run)["end_s"].max() - windows.spans.groupby(run)["start_s"].min()
    long = covered.to_numpy() > 2 * length_of(windows)
    whole = pd.DataFrame(stuck_s).groupby(run).max().to_numpy() >= 0.9 * covered.to_numpy()[:, None]
    return np.asarray(whole[long].any(axis=0))


def _refuse_ranges(signals: tuple[str, ...], ranges: Ranges) -> None:
    for signal, limits in ranges.items():
        if signal not in signals:
            raise ValueError(f"Got a range of {signal!r}, expected a signal of the windows. {nearest(signal, signals)}")
        if len(limits) != 2 or not limits[0] < limits[1]:
            raise ValueError(f"Got the range {list(limits)} of {signal!r}, expected [low, high]. Correct it.")
