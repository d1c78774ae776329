"""What a bus shows without a database: how often each identifier comes, and how its bytes change.

Rules:

- **Names.** ``0x18FEDF00.period`` is a signal of the frames with that identifier; one of 29 bits has eight digits, one
  of 11 bits three. If a recording has several buses, the name of the bus comes first: ``can1.0x123.period``. A name
  without a bus means the only bus that has this identifier.
- **Samples** come every tenth of a second, and say what comes in the tenth that begins there. Without a frame in it,
  the sample before holds. The tenths in which a recording begins and ends are left out.
- ``period`` is the mean time between frames or, if it is longer, the time since the last one, rounded to 1 % or
  better. So an identifier that goes silent has a growing period, and from 5 s on so has one that never comes.
- ``jitter`` is the largest change of that time from one frame to the next, in whole percents of the period.
- ``frames`` is the number of frames a second, ``length`` the smallest number of bytes.
- ``changes`` is the largest number of bytes that differ from those of the frame before.
- ``byte3`` is the mean of the fourth byte; ``byte3.change`` is its largest change from one frame to the next, counted
  modulo 256 the short way, so that a counter changes by one, also from 255 to 0.
- ``gap_outside(0.014-0.028)`` is 100 % if a time between frames, or since the last one, is outside these limits in
  seconds, and 0 % otherwise.
- ``unlike(8A??287D)`` is the largest share of the bits given there that differ in a frame, in percent; ``??`` is any
  byte, and ``+`` at the end any further ones. A frame with another number of bytes is 100 % unlike.
- ``byte3_outside(80-120)`` is how far the fourth byte is outside these limits at most, in percent of 255, and
  ``byte3.change_above(9)`` how much more it changes. :mod:`anomalyvae.recordings.bus_recipe` learns all these limits.
- ``unknown.identifiers`` tells of identifiers without a wanted signal, such as those that were not there in training:
  50 % for each frame of the most frequent one, 100 % at most. (A single frame may be a rare message; many are not.) A
  warning names them, and ``unknown.most_frequent`` is the number of that identifier.
- **Pauses.** After 10 s without any frame, everything begins anew, as in a new recording.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from anomalyvae.recordings.bus.frames import by_identifier, digits_of
from anomalyvae.recordings.bus.identifier_names import MOST_FREQUENT, UNKNOWN, SignalName, parse_name, unit_of
from anomalyvae.recordings.log import Log, Signal, joined
from anomalyvae.recordings.shared_stamps import group_means
from anomalyvae.untrusted import listed

PER_S = 10  # samples a second
_EACH_UNKNOWN = 50.0  # percent
_PAUSE_S = 10.0
_PATIENCE_S = 5.0  # for the first frames of an identifier
_LISTED = 10  # identifiers in a warning


class IdentifierSignals:
    """Turns the frames of a recording into the wanted signals of identifiers, piece by piece.

    Parameters
    ----------
    wanted : list of str or None
        Names of signals, or all of them.
    source : str
        The recording, in errors and warnings.
    skipped : callable
        Whether an identifier (with EXTENDED) has no signals, where all are wanted.
    learning : bool
        Give also what limits are learned from: the ``shortest`` and the ``longest`` time between frames, the
        ``longest_length``, and of each byte the bits that are in all frames, ``all3``, or in any, ``any3``, and the
        ``least3`` and the ``largest3`` value.

    Attributes
    ----------
    bus_names : sequence of str, optional
        By number; by default a bus is named by its number.
    several : bool
        Whether names begin with the bus, where all are wanted.
    sampled : bool
        Whether there was a sample.
    """

    def __init__(
        self, wanted: list[str] | None, source: str, skipped: Callable[[int], bool], *, learning: bool = False
    ) -> None:
        self._source, self._skipped, self._all, self._learning = source, skipped, wanted is None, learning
        self.bus_names: Sequence[str] | None = None
        self.several = self.sampled = False
        self._wanted: dict[tuple[str, int], list[SignalName]] = {}
        for name in map(parse_name, wanted or ()):
            if name is not None:
                self._wanted.setdefault((name.bus, name.key), []).append(name)
        self._counts_unknown = not {UNKNOWN, MOST_FREQUENT}.isdisjoint(wanted or ())
        self._bus_of: dict[int, int] = {}  # the bus of identifiers that are wanted without a bus
        self._unseen = set(self._wanted)
        self._unknown: dict[tuple[int, int], list[float]] = {}  # by bus and identifier: frames, first and last stamp
        self._newest_s = -np.inf
        self._begin_anew(np.empty(0))

    def _begin_anew(self, time_s: np.ndarray) -> None:
        self._begin_s = float(time_s[0]) if len(time_s) else 0.0
        self._next = int(_tenths(self._begin_s)) + 1  # the number of the next sample: how many tenths have passed
        self._begins = True  # the first tenth may have begun before
        self._waiting: list[np.ndarray] = []  # frames after the last sample
        self._known = {
            identifier: _Identifier(self._begin_s, wanted, self._learning)
            for identifier, wanted in self._wanted.items()
        }

    def empty(self, name: str) -> Signal:
        """A signal without samples."""
        return _signal(name, np.empty(0), np.empty(0))

    def add(self, frames: np.ndarray) -> dict[str, Signal]:
        """Return the samples that frames complete. They are sorted by time, and two calls never share a stamp."""
        if not len(frames) or not (self._all or self._wanted or self._counts_unknown):
            return {}
        pauses = np.flatnonzero(np.diff(frames["time_s"], prepend=self._newest_s) > _PAUSE_S)
        found = []
        for part in np.split(frames, pauses[pauses > 0]):
            if part["time_s"][0] - self._newest_s > _PAUSE_S:
                if np.isfinite(self._newest_s):
                    found.append(self._samples(self._newest_s + _PAUSE_S))
                self._begin_anew(part["time_s"])
            self._newest_s = float(part["time_s"][-1])
            self._waiting.append(part)
            found.append(self._samples(self._newest_s))
        found = [part for part in found if part]
        self.sampled = self.sampled or bool(found)
        if len(found) < 2:
            return found[0] if found else {}
        return joined((Log("", None, part) for part in found), "").signals

    def _samples(self, until_s: float) -> dict[str, Signal]:
        """The next samples, up to a moment."""
        numbers = np.arange(self._next, int(_tenths(until_s)) + 1)
        if not len(numbers):
            return {}
        self._next = int(numbers[-1]) + 1
        frames = np.concatenate(self._waiting)
        tenths = _tenths(frames["time_s"]) + 1  # the number of the sample, at whose end so many have passed
        count = int(np.searchsorted(tenths, numbers[-1], side="right"))
        self._waiting, frames, tenths = [frames[count:]], frames[:count], tenths[:count]
        found: dict[str, np.ndarray] = {}
        most, named = np.zeros(len(numbers)), np.full(len(numbers), np.nan)  # of unknown identifiers
        met = set()
        for bus, key, rows in by_identifier(frames):
            identifier = self._identifier(bus, key, frames["time_s"][rows])
            if identifier is None:
                came = np.bincount(tenths[rows] - numbers[0], minlength=len(numbers))
                most, named = np.maximum(most, came), np.where(came > most, key, named)
            else:
                met.add(identifier)
                found |= self._known[identifier].samples(identifier, frames[rows], tenths[rows], numbers)
        for identifier in self._known.keys() - met:
            found |= self._known[identifier].samples(identifier, frames[:0], tenths[:0], numbers)
        if self._counts_unknown:
            found |= {UNKNOWN: np.minimum(_EACH_UNKNOWN * most, 100.0), MOST_FREQUENT: named}
        stamps, begin = (numbers - 1) / PER_S, int(self._begins)
        self._begins = False
        if len(stamps) == begin:
            return {}
        return {name: _signal(name, stamps[begin:], values[begin:]) for name, values in found.items()}

    def _identifier(self, bus: int, key: int, time_s: np.ndarray) -> tuple[str, int] | None:
        """The name of the bus ("" for the only one) and identifier by which frames are known; None if they are not."""
        name = self.name_of(bus)
        if self._all:
            identifier = (name if self.several else "", key)
            if self._skipped(key):
                return None
            if identifier not in self._known:
                self._wanted[identifier] = []
                self._known[identifier] = _Identifier(self._begin_s, [], self._learning)
            return identifier
        identifier = (name, key) if (name, key) in self._wanted else ("", key)
        if identifier not in self._wanted:
            seen = self._unknown.setdefault((bus, key), [0, float(time_s[0]), 0.0])
            seen[0], seen[2] = seen[0] + len(time_s), float(time_s[-1])
            return None
        self._unseen.discard(identifier)
        if not identifier[0] and self._bus_of.setdefault(key, bus) != bus:
            other = self.name_of(self._bus_of[key])
            example = str(SignalName(other, key, "period"))
            raise ValueError(
                f"The identifier {digits_of(key)} of {self._source} is on 2 buses, {other} and {name}; their frames "
                f"are never joined. Name the bus in its signals, as in {example!r}."
            )
        return identifier

    def name_of(self, bus: int) -> str:
        """The name of a bus by its number."""
        return str(bus) if self.bus_names is None else self.bus_names[bus]

    def finish(self) -> None:
        """End the recording: warn of identifiers that are not known, and of known ones that never came."""
        if self._unknown and self._counts_unknown:
            most = sorted(self._unknown.items(), key=lambda item: -item[1][0])
            each = [f"{digits_of(k)} ({n:,.0f}, {first:.1f} to {last:.1f} s)" for (_, k), (n, first, last) in most]
            warnings.warn(
                f"{self._source} has frames of {len(each)} identifiers that are not known: "
                f"{listed(each, _LISTED)}. They raise "
                f"{UNKNOWN!r}. If they are normal, fit a model to recordings that have them.",
                stacklevel=3,
            )
        if self._unseen and not self._all and self.sampled:
            absent = listed([digits_of(key) for _, key in sorted(self._unseen)], _LISTED)
            warnings.warn(
                f"{self._source} has no frame of {len(self._unseen)} of the {len(self._wanted)} known identifiers: "
                f"{absent}. Their signals of time say so; their bytes are missing. Check that this is the same bus.",
                stacklevel=3,
            )


class _Identifier:
    """An identifier on a bus: what it sent last, and its samples. All of its signals are wanted if none is named."""

    def __init__(self, begin_s: float, wanted: list[SignalName], learning: bool) -> None:
        self._begin_s, self._wanted, self._learning = begin_s, wanted, learning
        self._limited = [name for name in wanted if name.kind.endswith(")")]
        self._bytes = sorted({name.byte for name in wanted if name.byte is not None})
        self._last_s = self._gap_s = np.nan
        self._data, self._length = np.zeros(64, dtype=np.uint8), 0
        self._held: dict[str, float] = {}  # the last sample of each kind

    def samples(
        self, identifier: tuple[str, int], frames: np.ndarray, tenths: np.ndarray, numbers: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The samples with these numbers, by name, from frames that belong to the samples ``tenths``."""
        first = np.flatnonzero(np.diff(tenths, prepend=-1))  # the first frame of each tenth that has frames
        which = np.searchsorted(tenths[first], numbers, side="right")  # how many of them are not later
        found = {}
        for kind, values in self._kinds(frames, first):
            held = np.concatenate(([self._held.get(kind, np.nan)], values))[which]
            self._held[kind] = float(held[-1])
            found[kind] = held
        ends_s = np.append(self._last_s, frames["time_s"][np.append(first[1:], len(frames))[: len(first)] - 1])
        since_s = numbers / PER_S - np.where(np.isnan(ends_s), self._begin_s, ends_s)[which]
        early = np.isnan(found["period"]) & (since_s < _PATIENCE_S)
        found["period"] = np.where(early, np.nan, _rounded(np.fmax(found["period"], since_s)))
        found["frames"] = np.bincount(tenths - numbers[0], minlength=len(numbers)) * float(PER_S)
        for name in self._limited:
            late = name.kind.startswith("gap_outside") and since_s > name.limits[1]
            found[name.kind] = np.where(late, 100.0, np.nan_to_num(found[name.kind]))
        if len(frames):
            self._gap_s = float(np.diff(frames["time_s"], prepend=self._last_s)[-1])
            self._last_s, self._length = float(frames["time_s"][-1]), int(frames["length"][-1])
            self._data = frames["data"][-1].copy()
        every = self._wanted or [SignalName(*identifier, kind) for kind in found]
        return {str(name): found[name.kind] for name in every}

    def _kinds(self, frames: np.ndarray, first: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Yield each kind of signal, and a value for each tenth that has frames."""
        length, data = frames["length"].astype(np.float64), frames["data"]
        before = np.concatenate((self._data[None], data[:-1]))[: len(frames)]
        both = np.minimum(length, np.append(self._length, length[:-1])[: len(length)])  # as long as the frame before
        most = int(max(length.max(initial=0), self._length))
        yield from self._of_gaps(np.diff(frames["time_s"], prepend=self._last_s), first)
        yield "length", -_largest(-length, first)
        differ = ((data != before)[:, :most] & (np.arange(most) < both[:, None])).sum(axis=1)
        yield "changes", _largest(np.where(both > 0, differ, np.nan), first)
        if self._learning:
            yield "longest_length", _largest(length, first)
        for name in self._limited:
            if name.kind.startswith("unlike"):
                expected, given, fits = name.pattern
                bits = np.bitwise_count(data[:, : len(expected)] ^ expected)[:, given].sum(axis=1)
                other = bits / max(8 * int(given.sum()), 1)
                yield name.kind, 100 * _largest(np.where(fits[frames["length"]], other, 1.0), first)
        if not self._wanted:
            self._bytes = list(range(max(most, len(self._bytes))))
        for byte in self._bytes:
            step = data[:, byte] - before[:, byte]  # modulo 256
            change = np.where(both > byte, np.minimum(step, -step), np.nan)
            yield from self._of_byte(byte, np.where(length > byte, data[:, byte], np.nan), change, first)

    def _of_gaps(self, gap_s: np.ndarray, first: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Yield what the times between frames show."""
        yield "period", group_means(gap_s, first)
        before_s = np.append(self._gap_s, gap_s[:-1])[: len(gap_s)]
        with np.errstate(divide="ignore", invalid="ignore"):
            shift = np.abs(gap_s - before_s) / np.maximum(gap_s, before_s)
        yield "jitter", np.round(100 * _largest(shift, first))
        if self._learning:
            yield "shortest", -_largest(-gap_s, first)
            yield "longest", _largest(gap_s, first)
        for name in self._limited:
            if name.kind.startswith("gap_outside"):
                low, high = name.limits
                yield name.kind, 100 * _largest(((gap_s < low) | (gap_s > high)) * 1.0, first)

    def _of_byte(
        self, byte: int, sent: np.ndarray, change: np.ndarray, first: np.ndarray
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield what a byte shows, from its value in each frame and its change; both are NaN where it is missing."""
        yield f"byte{byte}", group_means(sent, first)
        yield f"byte{byte}.change", _largest(change, first)
        if self._learning and len(first):
            missing = np.isnan(sent)
            yield f"all{byte}", np.bitwise_and.reduceat(np.where(missing, 255, sent).astype(np.uint8), first)
            yield f"any{byte}", np.bitwise_or.reduceat(np.where(missing, 0, sent).astype(np.uint8), first)
            yield f"least{byte}", -_largest(-sent, first)
            yield f"largest{byte}", _largest(sent, first)
        for name in self._limited:
            if name.byte == byte:
                low, high = name.limits
                values = change if ".change" in name.kind else sent
                beyond = np.maximum(np.maximum(low - values, values - high), 0)
                yield name.kind, 100 / 255 * _largest(beyond, first)


def _signal(name: str, time_s: np.ndarray, values: np.ndarray) -> Signal:
    parsed = parse_name(name)
    source = "" if parsed is None else name.removesuffix(f".{parsed.kind}")
    return Signal(name, time_s, values, unit_of(name if parsed is None else parsed.kind), source)


def _tenths(time_s: np.ndarray | float) -> np.ndarray:
    """How many tenths have passed at each moment; stamps are good to a microsecond."""
    return np.floor(np.asarray(time_s) * PER_S + 1e-5).astype(np.int64)


def _rounded(values: np.ndarray) -> np.ndarray:
    """Round positive numbers to 1 % or better, in decimal steps.

    Examples
    --------
    >>> _rounded(np.array([0.0199934, 0.9984, 1.25, 0.0]))
    array([0.02, 1.  , 1.25, 0.  ])
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        per_unit = 10.0 ** (2 - np.floor(np.log10(values)))  # steps of a unit
        first = values * per_unit / 100  # from 1 to 10
        per_unit = per_unit / np.where(first < 2, 1, np.where(first < 5, 2, 5))
        return np.where(values > 0, np.round(values * per_unit) / per_unit, values)


def _largest(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The largest of each group of values, which begin at the indices ``first``; NaN where all are NaN."""
    return np.fmax.reduceat(values, first)
