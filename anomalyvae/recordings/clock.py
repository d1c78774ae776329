"""Signals with stamps of their own are sampled on one even clock.

The rules depend on the kind of a signal:

- **Continuous**, the default. Values between two samples are interpolated linearly, but only if the samples are at most
  ``max_gap_s`` apart.
- **States** (a gear, a door). The last value holds until the next sample. A state may be sent only when it changes, so
  a pause of its own does not end it; a pause of all signals does.
- **Counts** (messages, faults). The number of samples since the tick before, which may be zero.

Averaging. A continuous signal that is sampled more than 1.5 times as fast as the clock is averaged rather than picked
out, so that movements too fast for the clock do not appear as slow ones. Samples within one tick are weighted by their
distance (a triangle). Such a filter needs no memory and waits for one tick. It leaves 81 % of a tone at a quarter of
the clock's rate, 5 % at 0.8 of it (a plain mean over one tick: 23 %), and nothing at the rate itself. The rate of a
signal is measured over its first 16 ticks without a gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd

from anomalyvae.recordings.log import Log, Signal
from anomalyvae.recordings.sampling import SAME_S, Clock, Sampled, Ticks, at_ticks, averaging_begins, runs


def resample(
    log: Log,
    rate_hz: float,
    max_gap_s: float,
    signals: Iterable[str] | None = None,
    *,
    states: Iterable[str] = (),
    counts: Iterable[str] = (),
    antialias: bool = True,
) -> pd.DataFrame:
    """Put signals on one even clock.

    The clock begins at the first sample of these signals and ticks ``rate_hz`` times a second. A sample that is not
    finite is missing. Pauses longer than ``max_gap_s`` in which none of the signals has a sample have no ticks, so two
    drives a week apart cost no more than the drives; between such pauses, the steps of ``time_s`` are even.

    Parameters
    ----------
    log : Log
        The recording.
    rate_hz : float
        Ticks per second.
    max_gap_s : float
        Nothing is interpolated between two samples further apart than this; at least one tick.
    signals : iterable of str, optional
        Signals to put on the clock; by default all.
    states, counts : iterable of str
        Signals that are states, and signals whose samples are counted; the others are continuous.
    antialias : bool
        Whether continuous signals that are clearly faster than the clock are averaged. Otherwise they are interpolated
        like the others.

    Returns
    -------
    pandas.DataFrame, shape (ticks, 1 + signals)
        Column ``time_s``, seconds from the recording's start, and one float64 column per signal, NaN if the signal has
        no sample near enough.

    Raises
    ------
    ValueError
        An unknown signal (the message suggests the nearest), or numbers out of range.

    Examples
    --------
    >>> from anomalyvae.recordings import log_from_frame
    >>> frame = pd.DataFrame({"time_s": [0.0, 0.5, 1.0, 4.0], "x": [0.0, 1.0, 3.0, 9.0]})
    >>> log = log_from_frame(frame, "drive")
    >>> resample(log, rate_hz=4, max_gap_s=1.0)
       time_s    x
    0    0.00  0.0
    1    0.25  0.5
    2    0.50  1.0
    3    0.75  2.0
    4    1.00  3.0
    5    4.00  9.0
    >>> resample(log, rate_hz=4, max_gap_s=1.0, states=["x"])["x"].tolist()
    [0.0, 0.0, 1.0, 1.0, 3.0, 9.0]
    """
    check_rate(rate_hz, max_gap_s)
    clock = Clock(rate_hz, max_gap_s, tuple(states), tuple(counts), antialias)
    chosen = {name: log[name] for name in (log.signals if signals is None else signals)}
    pieces = list(resample_pieces([chosen], list(chosen), clock))
    columns = {name: np.concatenate([np.empty(0), *(piece[name] for piece in pieces)]) for name in ("time_s", *chosen)}
    return pd.DataFrame(columns, copy=False)


def resample_pieces(
    pieces: Iterable[Mapping[str, Signal]], signals: list[str], clock: Clock, most: int | None = None
) -> Iterator[Sampled]:
    """Put signals on one even clock; their samples come piece by piece.

    Yields the columns of :func:`resample`, at most ``most`` ticks at once; joined, they have the same bits in whatever
    pieces the samples come. A piece may leave out a signal without samples in it. No sample is older than one of an
    earlier piece, of whichever signal.
    """
    resampler = Resampler(signals, clock, most)
    for piece in pieces:
        yield from resampler.add(piece)
    yield from resampler.add({}, last=True)


class Resampler:
    """Puts signals on one even clock; their samples come piece by piece.

    A tick is returned once no later sample can change it: after the next sample of each signal, or ``max_gap_s``. If
    signals are averaged, the next tick must also have passed. If a signal has just begun, so must the ticks by which
    its rate is measured. The last piece is held, and the samples of about twice ``max_gap_s`` before it.

    ``prompt`` says that later samples are clearly newer than earlier ones; then a tick at the newest sample does not
    wait for the next sample.
    """

    def __init__(self, signals: list[str], clock: Clock, most: int | None = None, *, prompt: bool = False) -> None:
        nothing = np.empty(0)
        self._clock, self._most = clock, most
        self._reach_s = SAME_S if prompt else -2 * SAME_S  # how far past the settled time a tick may lie
        self._held = {name: Signal(name, nothing, nothing) for name in signals}
        self._averaged_from: dict[str, float] = {}
        self._newest: list[np.ndarray] = []  # the last stamp so far of all signals
        self._origin = self._began_s = 0.0
        self._following: int | None = None  # the number of the next tick in the stretch that may go on

    def add(self, piece: Mapping[str, Signal], *, last: bool = False) -> Iterator[Sampled]:
        """Take the next samples, and yield the ticks that are settled."""
        clock, held = self._clock, self._held
        new = [piece[name].time_s for name in held if name in piece]
        stretches = _stretches([*self._newest, *new], clock.max_gap_s)
        if not len(stretches):
            return
        held = _followed_by(held, piece)
        if self._following is None:
            self._origin = self._began_s = stretches[0, 0]
        origin, stretches[0, 0] = self._origin, self._began_s
        first, count = _tick_ranges(stretches, origin, clock.rate_hz, self._following)
        self._began_s, newest_s = stretches[-1]
        self._newest = [stretches[-1, 1:]]
        settled_s = newest_s if last else _settled(held.values(), newest_s, clock, self._averaged_from)
        if not last:
            count[-1] = max(int((settled_s - origin + self._reach_s) * clock.rate_hz // 1) + 1 - first[-1], 0)
        self._following = int(first[-1] + count[-1])
        self._held = _since(held, settled_s - 2 * (clock.max_gap_s + SAME_S), clock)
        total = int(count.sum())
        most = self._most or max(total, 1)
        for begin in range(0, total, most):
            ticks = _numbered(stretches, first, count, origin, clock.rate_hz, begin, begin + most)
            yield at_ticks(held.values(), ticks, clock, self._averaged_from)


def check_rate(rate_hz: float, max_gap_s: float) -> None:
    """Refuse a clock on which a gap could hide between two ticks."""
    if not (np.isfinite(rate_hz) and rate_hz > 0):
        raise ValueError(f"rate_hz={rate_hz!r} must be a positive number of samples per second. Correct it.")
    if not (np.isfinite(max_gap_s) and max_gap_s * rate_hz >= 1 - 1e-9):
        raise ValueError(
            f"max_gap_s={max_gap_s!r} at rate_hz={rate_hz!r} is less than {1 / rate_hz:g} s, the time from one sample "
            f"to the next. Raise max_gap_s or rate_hz."
        )


# --- samples held between pieces ------------------------------------------------------------------------


def _followed_by(held: dict[str, Signal], piece: Mapping[str, Signal]) -> dict[str, Signal]:
    """Return the samples held and the new ones; signals that share their stamps still do."""
    clocks: dict[tuple[int, int], np.ndarray] = {}
    longer = dict(held)
    for name in held.keys() & piece.keys():
        old, new = held[name], piece[name]
        if not len(old.time_s):
            longer[name] = new
            continue
        key = id(old.time_s), id(new.time_s)
        if key not in clocks:
            clocks[key] = np.concatenate((old.time_s, new.time_s))
        longer[name] = Signal(name, clocks[key], np.concatenate((old.values, new.values)))
    return longer


def _since(held: dict[str, Signal], time_s: float, clock: Clock) -> dict[str, Signal]:
    """Return the samples from a time on, and for a state the one before as well."""
    clocks: dict[tuple[int, int], np.ndarray] = {}
    shorter = {}
    for name, signal in held.items():
        begin = int(np.searchsorted(signal.time_s, time_s))
        if name in clock.states:
            valid = np.flatnonzero(np.isfinite(signal.values[:begin]))
            begin = int(valid[-1]) if len(valid) else begin
        kept = clocks.setdefault((id(signal.time_s), begin), signal.time_s[begin:])
        shorter[name] = Signal(name, kept, signal.values[begin:])
    return shorter


def _settled(held: Iterable[Signal], newest_s: float, clock: Clock, averaged_from: dict[str, float]) -> float:
    """Return the time before which no later sample changes a tick; note in ``averaged_from`` what is known by then."""
    settled_s = newest_s
    for signal in held:
        if signal.name in clock.states or signal.name in clock.counts:
            continue
        valid = signal.time_s[np.isfinite(signal.values)]
        if signal.name not in averaged_from:
            begin_s = averaging_begins(valid, clock)
            if begin_s is not None:
                averaged_from[signal.name] = begin_s
        if not len(valid) or newest_s - valid[-1] > clock.max_gap_s + SAME_S:
            continue  # a gap follows
        if signal.name not in averaged_from:
            run_s = float(valid[runs(valid, clock.max_gap_s)[0][-1]])
            settled_s = min(settled_s, run_s - 3 * SAME_S)  # not even the tick there: it may be averaged, too
        elif averaged_from[signal.name] < np.inf:
            settled_s = min(settled_s, float(valid[-1]), newest_s - 1 / clock.rate_hz)
        else:
            settled_s = min(settled_s, float(valid[-1]))
    return settled_s


# --- ticks ----------------------------------------------------------------------------------------------


def _stretches(clocks: list[np.ndarray], max_gap_s: float) -> np.ndarray:
    """Return the spans (start, end) between pauses of all signals, in order."""
    distinct = list({id(clock): clock for clock in clocks if len(clock)}.values())
    if not distinct:
        return np.empty((0, 2))
    spans = []
    for clock in distinct:
        begins, ends = runs(clock, max_gap_s)
        spans.append(np.column_stack((clock[begins], clock[ends])))
    if len(spans) == 1:
        return spans[0]
    every = np.concatenate(spans)
    every = every[np.argsort(every[:, 0], kind="stable")]
    reach = np.maximum.accumulate(every[:, 1])
    first = np.flatnonzero(np.concatenate(([True], every[1:, 0] - reach[:-1] > max_gap_s + SAME_S)))
    return np.column_stack((every[first, 0], reach[np.concatenate((first[1:] - 1, [len(every) - 1]))]))


def _tick_ranges(
    stretches: np.ndarray, origin: float, rate_hz: float, following: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each stretch's first tick, and how many ticks it has; ``following`` continues the first."""
    first = np.ceil((stretches[:, 0] - origin - SAME_S) * rate_hz).astype(np.int64)
    last = np.floor((stretches[:, 1] - origin + SAME_S) * rate_hz).astype(np.int64)
    if following is not None:
        first[0] = following
    return first, np.maximum(last - first + 1, 0)


def _numbered(
    stretches: np.ndarray, first: np.ndarray, count: np.ndarray, origin: float, rate_hz: float, begin: int, end: int
) -> Ticks:
    """Return ticks ``begin`` to ``end`` of all stretches, counted through."""
    before = np.cumsum(count) - count
    skipped = np.clip(begin - before, 0, count)
    taken = np.clip(end - before, 0, count) - skipped
    number = np.arange(taken.sum()) + np.repeat(first + skipped - (np.cumsum(taken) - taken), taken)
    return Ticks(number, np.repeat(stretches[:, 0], taken), origin, rate_hz)
