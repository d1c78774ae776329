"""What a recording is once it is in memory: named signals, each with its own time stamps."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd


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
        The samples. NaN marks a sample that was not taken.
    unit : str
        Physical unit, empty where the file names none.
    source : str
        The message, group or topic that the signal comes from, empty where a file has no such parts.
    """

    name: str
    time_s: np.ndarray
    values: np.ndarray
    unit: str = ""
    source: str = ""

    def __repr__(self) -> str:
        unit = f" in {self.unit}" if self.unit else ""
        return f"<Signal {self.name}{unit}: {len(self.values):,} samples{_span(self.time_s)}>"


@dataclass(frozen=True, eq=False)
class Log:
    """A recording: its signals, and when it began.

    Attributes
    ----------
    recording : str
        Name of the recording.
    start : pandas.Timestamp or None
        Moment (UTC) at which ``time_s`` is zero; None where the file does not tell.
    signals : dict of str to Signal
        The signals by name. The signals of one table share a single ``time_s`` array.
    left_out : dict of str to str
        Columns that could not become signals, with the reason: text, dates, nested values.
    """

    recording: str
    start: pd.Timestamp | None
    signals: dict[str, Signal]
    left_out: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Every signal on a line of its own.

        Examples
        --------
        >>> Log("drive", None, {"x": Signal("x", np.arange(3.0), np.zeros(3), "m/s")})
        <Log drive: 1 signals
          <Signal x in m/s: 3 samples, 0 to 2 s>>
        """
        lines = [f"<Log {self.recording}: {len(self.signals)} signals", *map(repr, self.signals.values())]
        return "\n  ".join(lines) + ">"

    def __getitem__(self, name: str) -> Signal:
        """Return a signal by name; the error for an unknown one names the nearest."""
        if name in self.signals:
            return self.signals[name]
        if name in self.left_out:
            raise ValueError(
                f"Got signal {name!r} of recording {self.recording!r}, which holds {self.left_out[name]}, "
                f"expected numbers. Convert the column, or leave the signal out."
            )
        raise ValueError(
            f"Got signal {name!r}, expected one of the {len(self.signals)} signals of recording "
            f"{self.recording!r}. {nearest(name, self.signals)}"
        )


def _span(time_s: np.ndarray) -> str:
    return f", {time_s[0]:g} to {time_s[-1]:g} s" if len(time_s) else ""


def joined(pieces: Iterable[Log], recording: str) -> Log:
    """Join the pieces of a recording, which follow each other in time, into one log.

    Signals that share their stamps in every piece share them in the whole.
    """
    start: pd.Timestamp | None = None
    parts: dict[str, list[Signal]] = {}
    left_out: dict[str, str] = {}
    for piece in pieces:
        start = piece.start
        left_out.update(piece.left_out)
        for name, signal in piece.signals.items():
            parts.setdefault(name, []).append(signal)
    clocks: dict[tuple[int, ...], np.ndarray] = {}
    signals = {}
    for name, found in parts.items():
        key = tuple(id(part.time_s) for part in found if len(part.time_s))
        if key not in clocks:
            clocks[key] = np.concatenate([part.time_s for part in found])
        values = np.concatenate([part.values for part in found])
        signals[name] = replace(found[0], time_s=clocks[key], values=values)
    return Log(recording, start, signals, left_out)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the sentence that helps after an unknown name.

    Examples
    --------
    >>> nearest("sped_mps", ["speed_mps", "acc_x_g"])
    "Did you mean 'speed_mps'?"
    >>> nearest("torque", ["speed_mps", "acc_x_g"])
    "Use one of 'speed_mps', 'acc_x_g'."
    """
    names = list(known)
    by_folded = {candidate.casefold(): candidate for candidate in reversed(names)}
    close = difflib.get_close_matches(name.casefold(), list(by_folded), n=1)
    if close:
        return f"Did you mean {by_folded[close[0]]!r}?"
    if not names:
        return "There is none."
    shown = ", ".join(repr(candidate) for candidate in names[:12])
    return f"Use one of {shown}{', …' if len(names) > 12 else ''}."
