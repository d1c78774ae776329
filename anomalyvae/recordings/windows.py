"""One clock becomes rows, and a row keeps the way back to (recording, start, end).

A window is ``length_s`` of some signals on one clock, laid out as one row, signal by signal:
``acc_x_g@0 … acc_x_g@9, acc_y_g@0 …``, so that what is said of a column can be told of a signal at a time. Or it is
laid out by its shape, ``acc_x_g~0 acc_x_g~1 acc_x_g~2 acc_y_g~0 …``: a few numbers for what moves slowly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from anomalyvae.recordings.clock import check_rate, resample
from anomalyvae.recordings.cutting import Cutter
from anomalyvae.recordings.dct import coefficients_at, cosines
from anomalyvae.recordings.log import Log, nearest
from anomalyvae.recordings.sampling import Clock
from anomalyvae.recordings.where import parse_where

Ticks = Mapping[str, np.ndarray]  # the columns that resample gives, time_s among them
_SLAB_CELLS = 1 << 20  # 8 MB


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of one or more recordings.

    Attributes
    ----------
    rows : pandas.DataFrame of float64, shape (n, signals * samples) or (n, signals * coefficients)
        One window per row; the columns are the recipe's.
    spans : pandas.DataFrame, shape (n, 3)
        Where each row comes from: ``recording``, ``start_s`` (its first sample) and ``end_s`` (``start_s``
        and the window's length), in seconds from the recording's start. Same index as ``rows``.
    units : dict of str to str
        Units of the signals that the recipe needs, as far as the recordings tell them.
    """

    rows: pd.DataFrame
    spans: pd.DataFrame
    units: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class WindowRecipe:
    """How recordings become rows.

    Windows begin at the first sample of each stretch in which every signal is present, and then every
    ``stride_s`` (at the clock's tick before, where the stride is no whole number of ticks). No window crosses
    a gap, and none joins two recordings. If cells may be ``missing``, one signal that is present makes a stretch,
    and a window crosses a gap of one signal, but never a pause of all.

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
    states, counts : tuple of str
        Signals, of the window or of ``where``, that are states or are to be counted; the others are continuous. The
        rules stand in :mod:`anomalyvae.recordings.clock`.
    antialias : bool
        Whether continuous signals that are clearly faster than the clock are averaged, by the rule there.
    missing : float
        The share of a window's cells, in [0, 1), that may be missing; they are NaN in its row. By default a window
        is complete.
    coefficients : int, optional
        Describe each signal of a window by so many numbers, from 1 to its samples, in place of the samples: its lowest
        cosine coefficients (:mod:`anomalyvae.recordings.dct`), of which the first three are level, slope and bend. What
        is faster is left out. A signal with a missing cell in the window has no coefficients: they are NaN.

    Examples
    --------
    >>> from anomalyvae.recordings.reading import log_from_frame
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
    states: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    antialias: bool = True
    missing: float = 0.0
    coefficients: int | None = None

    def __post_init__(self) -> None:
        for option in ("signals", "states", "counts"):
            names = getattr(self, option)
            if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and name for name in names):
                raise ValueError(f"Got {option}={names!r}, expected a list of names. Write ['acc_x_g', …].")
            object.__setattr__(self, option, tuple(names))
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
        self._check_kinds()

    def _check_kinds(self) -> None:
        for option in ("states", "counts"):
            for name in getattr(self, option):
                if name not in self.needed:
                    raise ValueError(
                        f"Got {option}={getattr(self, option)!r}, expected signals of the window or of where. "
                        f"{nearest(name, self.needed)}"
                    )
        both = [name for name in self.states if name in self.counts]
        if both:
            raise ValueError(f"Got {both[0]!r} in states and in counts, expected it in one of them. Choose.")
        if not isinstance(self.antialias, bool):
            raise ValueError(f"Got antialias={self.antialias!r}, expected true or false. Correct it.")
        share = self.missing
        if isinstance(share, bool) or not isinstance(share, (int, float, np.number)) or not 0 <= share < 1:
            raise ValueError(f"Got missing={share!r}, expected a share from 0 to below 1. Correct it.")
        object.__setattr__(self, "missing", float(share))
        kept = self.coefficients
        if kept is not None and (
            isinstance(kept, bool) or not isinstance(kept, (int, np.integer)) or not 1 <= kept <= self.samples
        ):
            raise ValueError(
                f"Got coefficients={kept!r}, expected a whole number from 1 to {self.samples}, the samples of a "
                "window, or nothing. Correct it."
            )
        object.__setattr__(self, "coefficients", None if kept is None else int(kept))

    @property
    def clock(self) -> Clock:
        """The clock, and how signals come onto it."""
        return Clock(self.rate_hz, self.max_gap_s, self.states, self.counts, self.antialias)

    @property
    def samples(self) -> int:
        """Samples per signal in a window."""
        return round(self.length_s * self.rate_hz)

    @property
    def input_shape(self) -> tuple[int, int]:
        """The (signals, samples) or (signals, coefficients) into which a row folds: ``rows.reshape(n, *input_shape)``.

        Neighbouring samples are near in time; coefficients are no sequence, so they are for ``body="mlp"``.
        """
        return len(self.signals), self.samples if self.coefficients is None else self.coefficients

    @property
    def columns(self) -> list[str]:
        """Names of a row's columns, signal by signal: ``signal@sample``, or ``signal~coefficient``."""
        mark, (_, width) = "@" if self.coefficients is None else "~", self.input_shape
        return [f"{signal}{mark}{place}" for signal in self.signals for place in range(width)]

    @property
    def needed(self) -> list[str]:
        """Every signal that a recording must have: those of the window and those of ``where``."""
        return list(dict.fromkeys([*self.signals, *(comparison.signal for comparison in parse_where(self.where))]))

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain values, ready for JSON or TOML."""
        values = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WindowRecipe:
        """Build a recipe from plain values; an unknown key is refused with the nearest right one.

        Without the key ``antialias`` nothing is averaged: so it was when recipes did not have that key yet, and a
        model goes on to see what it learned from.
        """
        fields = dataclasses.fields(cls)
        known = [field.name for field in fields]
        for key in values:
            if key not in known:
                raise ValueError(f"Got key {key!r}, expected those of a window recipe. {nearest(key, known)}")
        missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in values]
        if missing:
            raise ValueError(f"Got a window recipe without {', '.join(missing)}, expected them. Add them.")
        return cls(**{"antialias": False, **values})

    def over_time(self, rows: np.ndarray) -> np.ndarray:
        """Unfold rows to signals over time, in the signals' own units.

        Parameters
        ----------
        rows : ndarray of shape (n, d)
            With the recipe's columns: windows, or what a model made of them.

        Returns
        -------
        ndarray of shape (n, signals, samples)
            Of coefficients, the smooth curve that has them: a window without what is faster.
        """
        folded = rows.reshape(len(rows), *self.input_shape)
        return folded if self.coefficients is None else folded @ cosines(self.samples, self.coefficients)

    def coefficients_of(self, samples: np.ndarray) -> np.ndarray:
        """Cosine coefficients of windows that are given as samples, with the same bits as those cut from a recording.

        Parameters
        ----------
        samples : ndarray of shape (n, signals, samples)

        Returns
        -------
        ndarray of shape (n, signals, coefficients)
        """
        basis = cosines(self.samples, self.coefficients or self.samples)
        found = np.zeros((*samples.shape[:2], len(basis)))
        for sample, weights in enumerate(basis.T):  # sample by sample: a matrix product may round otherwise
            found += samples[:, :, sample, None] * weights
        return found

    def ticks(self, log: Log) -> pd.DataFrame:
        """Put the needed signals of a recording on the clock, as :func:`~anomalyvae.recordings.resample` does."""
        return resample(log, signals=self.needed, **self.clock._asdict())

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
        ticks, starts = Cutter(self).add(self.ticks(log))
        units = {name: log[name].unit for name in self.needed if log[name].unit}
        return self._cut(ticks, starts, log.recording, units)

    def slabs(
        self,
        pieces: Iterable[Ticks | pd.DataFrame],
        recording: str,
        units: dict[str, str],
        most: int,
        cutter: Cutter | None = None,
    ) -> Iterator[Windows]:
        """Cut a clock that comes piece by piece into windows, a slab of them at a time.

        Windows that overlap hold a recording many times over, so memory is bounded by making few at once.

        Parameters
        ----------
        pieces : iterable of DataFrame or dict of str to numpy.ndarray
            One after the other, the rows of what :meth:`ticks` gives.
        recording : str
            Name of the recording.
        units : dict of str to str
            Units of its signals.
        most : int
            Windows in a slab: so many at most, and fewer where they are wide, so that 8 MB are not exceeded.
        cutter : Cutter, optional
            What took the pieces before these, where these are not the first.

        Yields
        ------
        Windows
            In order, together those of the whole recording. If there are none, one slab without rows.
        """
        cutter = cutter or Cutter(self)
        most = max(min(most, _SLAB_CELLS // len(self.columns)), 1)
        empty = True
        for piece in pieces:
            ticks, starts = cutter.add(piece)
            for begin in range(0, len(starts), most):
                empty = False
                yield self._cut(ticks, starts[begin : begin + most], recording, units)
        if empty:
            yield self._cut({}, np.empty(0, dtype=np.int64), recording, units)

    def no_windows(self) -> Windows:
        """Windows of this recipe without a row."""
        return self._cut({}, np.empty(0, dtype=np.int64), "", {})

    def _cut(self, ticks: Ticks, starts: np.ndarray, recording: str, units: dict[str, str]) -> Windows:
        start_s, rows = np.empty(0), np.empty((0, *self.input_shape))
        if len(starts):
            start_s, rows = ticks["time_s"][starts], self._rows(ticks, starts)
        spans = pd.DataFrame(
            {
                "recording": pd.Series(recording, index=range(len(starts)), dtype="str"),
                "start_s": start_s,
                "end_s": start_s + self.length_s,
            }
        )
        return Windows(self._table(rows.reshape(len(starts), len(self.columns))), spans, units)

    def _rows(self, ticks: Ticks, starts: np.ndarray) -> np.ndarray:
        """Windows that begin at these ticks, in order, shape ``(n, *input_shape)``."""
        if self.coefficients is None:
            rows = np.empty((len(starts), *self.input_shape))
            for channel, name in enumerate(self.signals):
                rows[:, channel] = np.lib.stride_tricks.sliding_window_view(ticks[name], self.samples)[starts]
            return rows
        first, last = starts[0], starts[-1] + self.samples
        values = np.column_stack([ticks[name][first:last] for name in self.signals])
        return coefficients_at(values, starts - first, cosines(self.samples, self.coefficients))

    def _table(self, rows: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(rows, columns=self.columns, copy=False)
