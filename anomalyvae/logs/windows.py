"""One clock becomes rows, and a row keeps the way back to (recording, start, end).

A window is ``length_s`` of some signals on one clock, laid out as one row, signal by signal:
``acc_x_g@0 … acc_x_g@9, acc_y_g@0 …``, so that what is said of a column can be told of a signal at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd

from anomalyvae.logs.clock import check_rate, resample
from anomalyvae.logs.log import Log, nearest
from anomalyvae.logs.where import Comparison, parse_where


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of one or more recordings.

    Attributes
    ----------
    rows : pandas.DataFrame of float64, shape (n, signals * samples)
        One window per row; the columns are the recipe's.
    spans : pandas.DataFrame, shape (n, 3)
        Where each row comes from: ``recording``, ``start_s`` (its first sample) and ``end_s`` (``start_s``
        and the window's length), in seconds from the recording's start. Same index as ``rows``.
    """

    rows: pd.DataFrame
    spans: pd.DataFrame

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class WindowRecipe:
    """How recordings become rows.

    Windows begin at the first sample of each stretch in which every signal is present, and then every
    ``stride_s`` (at the clock's tick before, where the stride is no whole number of ticks). No window crosses
    a gap, and none joins two recordings.

    Parameters
    ----------
    signals : tuple of str
        The signals of a window, in the order of the columns.
    rate_hz : float
        Samples per second on the common clock.
    length_s : float
        Length of a window: a whole number of samples.
    stride_s : float
        From the start of one window to the start of the next; at least one sample.
    max_gap_s : float
        Two samples of a signal further apart than this are a gap; nothing is interpolated in it.
    where : str, optional
        Keep only the windows in which this holds at every sample: comparisons of a signal with a number,
        joined by ``and``, as in ``"speed_mps > 2"``. The signal need not be one of ``signals``; where it is
        missing, the condition does not hold.

    Examples
    --------
    >>> from anomalyvae.logs import log_from_frame
    >>> frame = pd.DataFrame({"time_s": np.arange(5.0), "x": [0.0, 1, 2, 3, 4], "y": [9.0, 8, 7, 6, 5]})
    >>> recipe = WindowRecipe(("x", "y"), rate_hz=1, length_s=2, stride_s=2, max_gap_s=1, where="x < 3")
    >>> windows = recipe.windows(log_from_frame(frame, "drive"))
    >>> windows.rows
       x@0  x@1  y@0  y@1
    0  0.0  1.0  9.0  8.0
    >>> windows.spans
      recording  start_s  end_s
    0     drive      0.0    2.0
    """

    signals: tuple[str, ...]
    rate_hz: float
    length_s: float
    stride_s: float
    max_gap_s: float
    where: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.signals, (list, tuple)) or not all(
            isinstance(name, str) and name for name in self.signals
        ):
            raise ValueError(f"Got signals={self.signals!r}, expected a list of names. Write ['acc_x_g', …].")
        object.__setattr__(self, "signals", tuple(self.signals))
        if not self.signals or len(set(self.signals)) < len(self.signals):
            raise ValueError(f"Got signals={self.signals!r}, expected one or more distinct names. Correct the list.")
        for name in ("rate_hz", "length_s", "stride_s", "max_gap_s"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 < value < np.inf:
                raise ValueError(f"Got {name}={value!r}, expected a positive number. Correct it.")
            object.__setattr__(self, name, float(value))
        check_rate(self.rate_hz, self.max_gap_s)
        ticks = self.length_s * self.rate_hz
        if round(ticks) < 1 or abs(ticks - round(ticks)) > 1e-6:
            fitting = max(round(ticks), 1) / self.rate_hz
            raise ValueError(
                f"Got length_s={self.length_s:g}, which is {ticks:g} samples at rate_hz={self.rate_hz:g}, "
                f"expected a whole number of samples. Use length_s={fitting:g}."
            )
        if self.stride_s * self.rate_hz < 1 - 1e-6:
            raise ValueError(
                f"Got stride_s={self.stride_s:g} at rate_hz={self.rate_hz:g}, expected at least one sample. "
                f"Use stride_s={1 / self.rate_hz:g} or more."
            )
        if self.where is not None and not isinstance(self.where, str):
            raise ValueError(f"Got where={self.where!r}, expected text such as 'speed_mps > 2', or nothing.")
        parse_where(self.where)

    @property
    def samples(self) -> int:
        """Samples per signal in a window."""
        return round(self.length_s * self.rate_hz)

    @property
    def input_shape(self) -> tuple[int, int]:
        """The (channels, samples) into which a row folds: ``rows.reshape(n, channels, samples)``."""
        return len(self.signals), self.samples

    @property
    def columns(self) -> list[str]:
        """Names of a row's columns: ``signal@sample``, signal by signal."""
        return [f"{signal}@{sample}" for signal in self.signals for sample in range(self.samples)]

    @property
    def needed(self) -> list[str]:
        """Every signal that a recording must have: those of the window and those of ``where``."""
        return list(dict.fromkeys([*self.signals, *(comparison.signal for comparison in parse_where(self.where))]))

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain values, ready for JSON or TOML."""
        return {**dataclasses.asdict(self), "signals": list(self.signals)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WindowRecipe:
        """Build a recipe from plain values; an unknown key is refused with the nearest right one."""
        fields = dataclasses.fields(cls)
        known = [field.name for field in fields]
        for key in values:
            if key not in known:
                raise ValueError(f"Got key {key!r}, expected those of a window recipe. {nearest(key, known)}")
        missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in values]
        if missing:
            raise ValueError(f"Got a window recipe without {', '.join(missing)}, expected them. Add them.")
        return cls(**values)

    def windows(self, log: Log) -> Windows:
        """Cut a recording into windows.

        Parameters
        ----------
        log : Log
            The recording.

        Returns
        -------
        Windows
            No row where the recording is too short or the condition never holds; the columns are there.

        Raises
        ------
        ValueError
            The recording lacks a signal; the nearest name is given.
        """
        ticks = resample(log, self.rate_hz, self.max_gap_s, self.needed)
        starts = self._starts(ticks)
        channels, samples = self.input_shape
        rows = np.empty((len(starts), channels, samples))
        if len(starts):
            for channel, name in enumerate(self.signals):
                every = np.lib.stride_tricks.sliding_window_view(ticks[name].to_numpy(), samples)
                rows[:, channel] = every[starts]
        return self._windows([rows], [(log.recording, ticks["time_s"].to_numpy()[starts])])

    def windows_of(self, recordings: Log | str | PathLike[str] | Iterable[Log | str | PathLike[str]]) -> Windows:
        """Cut several recordings, given as logs or as files, and stack their windows.

        Files are read one after the other, and of each only the needed signals.

        Raises
        ------
        ValueError
            A recording lacks a signal, or two recordings have the same name, so that the way back from a
            row would be lost.
        """
        from anomalyvae.logs import read_log

        if isinstance(recordings, (Log, str, PathLike)):
            recordings = [recordings]
        rows: list[np.ndarray] = []
        starts: dict[str, np.ndarray] = {}
        for item in recordings:
            log = item if isinstance(item, Log) else read_log(item, signals=self.needed)
            if log.recording in starts:
                raise ValueError(
                    f"Got two recordings named {log.recording!r}, expected distinct names. Name one of them: "
                    f"read_log(path, recording=...)."
                )
            windows = self.windows(log)
            rows.append(windows.rows.to_numpy())
            starts[log.recording] = windows.spans["start_s"].to_numpy()
        return self._windows(rows, list(starts.items()))

    def _windows(self, rows: list[np.ndarray], starts: list[tuple[str, np.ndarray]]) -> Windows:
        width = len(self.signals) * self.samples
        flat = [block.reshape(len(block), width) for block in rows]
        table = flat[0] if len(flat) == 1 else np.concatenate([np.empty((0, width)), *flat])
        names = [pd.Series(name, index=range(len(start)), dtype="str") for name, start in starts]
        start_s = np.concatenate([np.empty(0), *(start for _, start in starts)])
        spans = {
            "recording": pd.concat(names, ignore_index=True) if names else pd.Series(dtype="str"),
            "start_s": start_s,
            "end_s": start_s + self.length_s,
        }
        return Windows(pd.DataFrame(table, columns=self.columns, copy=False), pd.DataFrame(spans))

    def _starts(self, ticks: pd.DataFrame) -> np.ndarray:
        """Return the row of ``ticks`` at which each window begins."""
        time_s = ticks["time_s"].to_numpy()
        if not len(time_s):
            return np.empty(0, dtype=np.int64)
        present = np.ones(len(time_s), dtype=bool)
        for name in self.signals:
            present &= np.isfinite(ticks[name].to_numpy())
        even = np.diff(time_s) * self.rate_hz < 1.5  # the next row is the next tick
        begins = present & np.concatenate(([True], ~(present[:-1] & even)))
        ends = present & np.concatenate((~(present[1:] & even), [True]))
        first, last = np.flatnonzero(begins), np.flatnonzero(ends)

        room = last - first + 1 - self.samples  # how far a stretch's last window may begin from its first
        stride = self.stride_s * self.rate_hz
        count = np.where(room >= 0, np.ceil((room + 1 - 1e-6) / stride), 0).astype(np.int64)
        number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        starts = np.repeat(first, count) + np.floor(number * stride + 1e-6).astype(np.int64)
        return starts[self._holds(ticks, starts)]

    def _holds(self, ticks: pd.DataFrame, starts: np.ndarray) -> np.ndarray:
        comparisons: tuple[Comparison, ...] = parse_where(self.where)
        fails = np.zeros(len(ticks), dtype=bool)
        for comparison in comparisons:
            fails |= ~comparison.holds(ticks[comparison.signal].to_numpy())
        before = np.concatenate(([0], np.cumsum(fails)))
        return before[starts + self.samples] == before[starts]
