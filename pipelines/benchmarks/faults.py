"""Sensor faults and unusual driving to inject into a recording.

A fault changes one signal during an interval. Its unit is the spread of that signal in the whole recording: the
distance from its 1st to its 99th percentile. Unusual driving changes all signals together, so that they still agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from anomalyvae.recordings.log import Log, Signal

FAULTS = ("stuck", "dropout", "offset", "noise", "spikes")
MANOEUVRES = ("harsh", "swerve", "hurried")

_RISE = 0.2  # of an offset: the share of its time in which it grows
_SPIKE_S, _SPIKES_EVERY_S = 0.1, 5.0
_PACE = 0.9  # hurried: from a tenth to nineteen tenths of the pace


@dataclass(frozen=True)
class Fault:
    """A change to a recording.

    Parameters
    ----------
    kind : str
        One signal: ``stuck`` (keeps its value), ``dropout`` (no sample), ``offset`` (grows to ``size`` spreads and
        stays), ``noise`` (white, of ``size`` spreads), ``spikes`` (every five seconds, for a tenth of a second,
        ``size`` spreads above its 99th percentile). All signals: ``harsh`` (deviations from the mean times
        ``1 + 4 size``), ``swerve`` (plus one period of a sine of ``size`` spreads), ``hurried`` (time runs slower at
        first and faster later; the ends stay in place).
    start_s, end_s : float
        The interval, in seconds from the recording's start.
    signals : tuple of str
        Those that change.
    size : float
    """

    kind: str
    start_s: float
    end_s: float
    signals: tuple[str, ...]
    size: float = 1.0


def inject(log: Log, faults: Iterable[Fault], seed: int = 0) -> Log:
    """Inject faults into a recording; samples outside of their intervals keep their bits.

    Parameters
    ----------
    log : Log
    faults : iterable of Fault
        Applied in this order.
    seed : int
        Of the noise.

    Raises
    ------
    ValueError
        For an unknown kind, or a signal that the recording does not have.
    """
    rng = np.random.default_rng(seed)
    signals = dict(log.signals)
    for fault in faults:
        if fault.kind not in (*FAULTS, *MANOEUVRES):
            raise ValueError(
                f"Got the fault {fault.kind!r}, expected one of {', '.join((*FAULTS, *MANOEUVRES))}. Correct it."
            )
        for name in fault.signals:
            signals[name] = _changed(log[name] if name not in signals else signals[name], fault, rng)
    return replace(log, signals=signals)


def _changed(signal: Signal, fault: Fault, rng: np.random.Generator) -> Signal:
    """The signal with one fault in it."""
    time_s, values = signal.time_s, signal.values.copy()
    inside = (time_s >= fault.start_s) & (time_s < fault.end_s)
    if not inside.any():
        return signal
    own, since = values[inside], (time_s[inside] - fault.start_s) / (fault.end_s - fault.start_s)
    spread = fault.size * max(float(np.diff(np.nanquantile(values, [0.01, 0.99]))[0]), 1e-9)
    if fault.kind == "stuck":
        values[inside] = own[0]
    elif fault.kind == "dropout":
        values[inside] = np.nan
    elif fault.kind == "offset":
        values[inside] = own + spread * np.minimum(since / _RISE, 1)
    elif fault.kind == "noise":
        values[inside] = own + spread * rng.normal(size=len(own))
    elif fault.kind == "spikes":
        since_spike = (time_s[inside] - fault.start_s) % _SPIKES_EVERY_S
        short = max(_SPIKE_S, float(np.median(np.diff(time_s))))  # one sample at least
        values[inside] = np.where(since_spike < short, np.nanquantile(values, 0.99) + spread, own)
    elif fault.kind == "harsh":
        fading = np.sin(np.pi * since)
        values[inside] = own + 4 * fault.size * fading * (own - np.nanmean(own))
    elif fault.kind == "swerve":
        values[inside] = own + spread * np.sin(2 * np.pi * since)
    else:
        warped = since - _PACE * np.sin(2 * np.pi * since) / (2 * np.pi)
        values[inside] = np.interp(warped, since, own)
    return replace(signal, values=values)
