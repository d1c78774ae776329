"""Faults of sensors and unusual driving, put into a recording on purpose, to see whether they are found.

A fault befalls one signal between two moments; its measure is the spread of that signal in the whole recording, the
distance between its 1st and 99th percentile. What the driver does befalls all signals of a window together, so that
they go on agreeing with each other.
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
    """Something to put into a recording.

    Parameters
    ----------
    kind : str
        Of one signal: ``stuck`` (it stays as it was), ``dropout`` (no sample), ``offset`` (it grows to ``size`` spreads
        and stays there), ``noise`` (white, of ``size`` spreads), ``spikes`` (for a tenth of each fifth second it reads
        ``size`` spreads more than its 99th percentile). Of all: ``harsh`` (deviations from their mean are
        ``1 + 4 size`` times as large), ``swerve`` (one period of a sine of ``size`` spreads comes on top), ``hurried``
        (what happens is first slowed down and then hurried up; the ends stay where they were).
    start_s, end_s : float
        When, in seconds from the recording's start.
    signals : tuple of str
        What it befalls.
    size : float
    """

    kind: str
    start_s: float
    end_s: float
    signals: tuple[str, ...]
    size: float = 1.0


def inject(log: Log, faults: Iterable[Fault], seed: int = 0) -> Log:
    """Put faults into a recording; what lies outside of their times stays as it was, bit for bit.

    Parameters
    ----------
    log : Log
    faults : iterable of Fault
        One after the other.
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
            raise ValueError(f"Got the fault {fault.kind!r}, expected one of {', '.join((*FAULTS, *MANOEUVRES))}.")
        for name in fault.signals:
            signals[name] = _befallen(log[name] if name not in signals else signals[name], fault, rng)
    return replace(log, signals=signals)


def _befallen(signal: Signal, fault: Fault, rng: np.random.Generator) -> Signal:
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
