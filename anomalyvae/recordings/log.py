"""A recording in memory: named signals, each with its own time stamps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from anomalyvae.tables.names import nearest

UNIT_KEY = b"unit"  # metadata of a column of an Arrow table
_LAST_YEAR = 9999  # that a date in text can have


@dataclass(frozen=True, eq=False)
class Signal:
    """One measured quantity over time.

    Attributes
    ----------
    name : str
        Name of the signal.
    time_s : numpy.ndarray of float64, shape (n,)
        Time of each sample in seconds, counted from the recording's start; strictly increasing.
    values : numpy.ndarray of float64, shape (n,)
        The samples. NaN marks a missing sample.
    unit : str
        Physical unit; empty if the file gives none.
    source : str
        The message, group or topic of the signal; empty if the file has no such parts.
    """

    name: str
    time_s: np.ndarray
    values: np.ndarray
    unit: str = ""
    source: str = ""

    def __repr__(self) -> str:
        unit = f" in {self.unit}" if self.unit else ""
        span = f", {self.time_s[0]:g} to {self.time_s[-1]:g} s" if len(self.time_s) else ""
        return f"<Signal {self.name}{unit}: {len(self.values):,} samples{span}>"


@dataclass(frozen=True, eq=False)
class Log:
    """A recording: its signals and its start.

    Attributes
    ----------
    recording : str
        Name of the recording.
    start : pandas.Timestamp or None
        The moment (UTC) at which ``time_s`` is zero; None if the file does not give it.
    signals : dict of str to Signal
        The signals by name. The signals of one table share one ``time_s`` array.
    left_out : dict of str to str
        Columns that are not signals, with what they hold: text, dates, nested values.
    clock : str
        How the stamps of a table were read: "column 'time' in milliseconds". Empty for other formats.
    """

    recording: str
    start: pd.Timestamp | None
    signals: dict[str, Signal]
    left_out: dict[str, str] = field(default_factory=dict)
    clock: str = ""

    def __repr__(self) -> str:
        """One line per signal.

        Examples
        --------
        >>> Log("drive", None, {"x": Signal("x", np.arange(3.0), np.zeros(3), "m/s")})
        <Log drive: 1 signals
          <Signal x in m/s: 3 samples, 0 to 2 s>>
        """
        lines = [f"<Log {self.recording}: {len(self.signals)} signals", *map(repr, self.signals.values())]
        return "\n  ".join(lines) + ">"

    def __getitem__(self, name: str) -> Signal:
        """Return a signal by name; the error for an unknown one suggests the nearest name."""
        if name in self.signals:
            return self.signals[name]
        if name in self.left_out:
            raise not_numbers(name, self.recording, self.left_out[name])
        raise ValueError(
            f"Recording {self.recording!r} has no signal {name!r} among its {len(self.signals)}. "
            f"{nearest(name, self.signals)}"
        )


def joined(pieces: Iterable[Log], recording: str) -> Log:
    """Join consecutive pieces of a recording into one log.

    Signals that share their stamps in every piece share them in the result. A column that any piece leaves out is
    left out.
    """
    start: pd.Timestamp | None = None
    parts: dict[str, list[Signal]] = {}
    left_out: dict[str, str] = {}
    clock = ""
    for piece in pieces:
        start, clock = piece.start, piece.clock
        left_out.update(piece.left_out)
        for name, signal in piece.signals.items():
            parts.setdefault(name, []).append(signal)
    clocks: dict[tuple[int, ...], np.ndarray] = {}
    signals = {}
    for name, found in parts.items():
        if name in left_out:
            continue
        some = [part for part in found if len(part.time_s)] or found[:1]
        key = tuple(id(part.time_s) for part in some)
        if key not in clocks:
            clocks[key] = np.concatenate([part.time_s for part in some])
        values = np.concatenate([part.values for part in some])
        signals[name] = replace(found[0], time_s=clocks[key], values=values)
    return Log(recording, start, signals, left_out, clock)


def moment(unix: float, unit: str = "s") -> pd.Timestamp | None:
    """Return a unix time as a point in time (UTC); None if no date can name it: the clock was never set.

    Examples
    --------
    >>> moment(1.7e9), moment(9e12)
    (Timestamp('2023-11-14 22:13:20+0000', tz='UTC'), None)
    """
    try:
        found = pd.Timestamp(unix, unit=unit, tz="UTC").round("us")
    except (ValueError, OverflowError):
        return None
    return None if found is pd.NaT or found.year > _LAST_YEAR else found


def not_numbers(name: str, recording: str, reason: str) -> ValueError:
    """Return the error for a signal that does not hold numbers."""
    return ValueError(
        f"Signal {name!r} of recording {recording!r} holds {reason}; a signal needs numbers. Convert the column, or "
        f"leave the signal out."
    )
