"""Why a recording has no window: what it holds of the signals that a recipe needs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from anomalyvae.recordings.bus.frames import digits_of
from anomalyvae.recordings.bus.identifier_names import MOST_FREQUENT
from anomalyvae.recordings.log import Log, Signal
from anomalyvae.recordings.windows import WindowRecipe
from anomalyvae.untrusted import listed

_ENOUGH, _ENOUGH_WHERE = 0.5, 0.1  # of the seconds of a recording; a condition leaves some out on purpose


class Coverage:
    """Counts the samples of a recording's needed signals while its pieces pass through `watch`."""

    def __init__(self, recipe: WindowRecipe) -> None:
        self._recipe = recipe
        self._samples = dict.fromkeys(recipe.needed, 0)
        self._infinite = dict.fromkeys(recipe.needed, 0)  # samples, which count as missing
        self._steps = dict.fromkeys(recipe.needed, 0.0)  # the usual time from one sample to the next in the first piece
        self._newest_s = dict.fromkeys(recipe.needed, np.nan)
        self._first_s, self._last_s, self._clock = np.inf, -np.inf, ""
        self._covered_s, self._end_s = 0.0, -np.inf  # by windows, which come in order of time

    def watch(self, pieces: Iterable[Log]) -> Iterator[Log]:
        """Yield the pieces of a recording as they are."""
        for log in pieces:
            self.count(log.signals, log.clock)
            yield log

    def count(self, signals: Mapping[str, Signal], clock: str = "") -> None:
        """Take the next samples."""
        self._clock = clock or self._clock
        for name in self._recipe.needed:
            if name in signals:
                self._count(name, signals[name])

    def _count(self, name: str, signal: Signal) -> None:
        time_s = signal.time_s[np.isfinite(signal.values)]
        self._infinite[name] += int(np.isinf(signal.values).sum())
        if not len(time_s):
            return
        self._samples[name] += len(time_s)
        self._first_s, self._last_s = min(self._first_s, time_s[0]), max(self._last_s, time_s[-1])
        steps_s = np.diff(time_s, prepend=[] if np.isnan(self._newest_s[name]) else self._newest_s[name])
        if len(steps_s) and not self._steps[name]:
            self._steps[name] = float(np.median(steps_s))
        self._newest_s[name] = time_s[-1]

    def cover(self, start_s: np.ndarray, end_s: np.ndarray) -> None:
        """Take the next windows, in order of time."""
        if len(start_s):
            end_s = np.maximum(end_s, start_s + self._recipe.stride_s)  # a longer stride leaves some out on purpose
            before_s = np.concatenate(([self._end_s], end_s[:-1]))
            self._covered_s += float((end_s - np.maximum(start_s, before_s)).sum())
            self._end_s = float(end_s[-1])

    def infinite(self) -> str | None:
        """Which signals had infinite samples, as the end of a sentence; None if none had."""
        found = [f"{name} ({count:,})" for name, count in self._infinite.items() if count]
        return f"has samples that are infinite, which count as missing: {listed(found)}" if found else None

    def warn_of_infinite(self, recording: str) -> None:
        """Warn of infinite samples, which are faults of the source, not measurements."""
        if said := self.infinite():
            warnings.warn(f"Recording {recording!r} {said}. Check the source.", stacklevel=4)

    def sparse(self) -> str | None:
        """Why windows cover few of the seconds of a recording, as a sentence; None if they cover enough."""
        recipe, length_s = self._recipe, self._last_s - self._first_s
        enough = _ENOUGH_WHERE if recipe.where else _ENOUGH
        if not self._covered_s or self._covered_s >= enough * length_s:
            return None
        step_s = max(self._steps.values())
        slow = max(self._steps, key=lambda name: self._steps[name])
        few = min(self._samples, key=lambda name: self._samples[name] * self._steps[name])
        covered_s = self._samples[few] * self._steps[few]
        why = f"Gaps are longer than max_gap_s = {recipe.max_gap_s:g} s; "
        why += f"samples of {slow!r} are usually {step_s:g} s apart"
        if covered_s < enough * length_s:
            why += f", and {few!r} has values for about {covered_s:g} s"
        if recipe.where:
            why = f"Elsewhere, where = {recipe.where!r} does not hold, or a signal is missing. {why}"
        return f"Its windows cover {self._covered_s:g} s of its {length_s:g} s. {why}."

    def reason(self) -> str:
        """Why there is no window, as a sentence."""
        recipe = self._recipe
        absent = [name for name, samples in self._samples.items() if not samples]
        clock = f" ({self._clock})" if self._clock else ""
        if absent and (len(absent) == len(self._samples) or recipe.missing == 0 or absent == [*recipe.signals]):
            return f"It has no window: it has no value of {', '.join(map(repr, absent))}."
        length_s = self._last_s - self._first_s
        slow = max(self._steps, key=lambda name: self._steps[name])
        step_s = self._steps[slow]
        if step_s > recipe.max_gap_s:
            return (
                f"It has no window: samples of {slow!r} are usually {step_s:g} s apart{clock}, more than max_gap_s = "
                f"{recipe.max_gap_s:g} s, so each is followed by a gap. Check the unit of the time stamps, or raise "
                "max_gap_s (--max-gap-s)."
            )
        if length_s + step_s < recipe.length_s:
            needed_s = f"a window takes {recipe.length_s:g} s"
            return f"It has no window: its values reach over {length_s:g} s{clock}, and {needed_s}."
        why = f"where = {recipe.where!r} holds for none" if recipe.where else "each has a gap of a signal"
        return (
            f"It has no window: of the windows of {recipe.length_s:g} s in its {length_s:g} s{clock}, {why}. Gaps are "
            f"longer than max_gap_s = {recipe.max_gap_s:g} s; samples of {slow!r} are usually {step_s:g} s apart."
        )


def without_in_words(without: Mapping[str, str]) -> str:
    """Recordings without a window, and why they have none."""
    return listed(f"{name} ({why.removesuffix('.')})" for name, why in without.items())


def sparse_in_words(sparse: Mapping[str, str]) -> str:
    """How many recordings have windows for few of their seconds, and why the first has."""
    first, why = next(iter(sparse.items()))
    count = "1 recording is" if len(sparse) == 1 else f"{len(sparse):,} recordings are"
    return f"{count} mostly without windows, such as {first}: {why}"


class Unknown:
    """Collects the unknown identifiers of a vehicle bus, while the pieces of a recording pass through `watch`."""

    def __init__(self) -> None:
        self._time_s, self._keys = np.empty(0), np.empty(0, dtype=np.int64)

    def watch(self, pieces: Iterable[Log]) -> Iterator[Log]:
        """Yield the pieces of a recording as they are."""
        for log in pieces:
            if MOST_FREQUENT in log.signals:
                signal = log.signals[MOST_FREQUENT]
                there = ~np.isnan(signal.values)
                self._time_s = np.concatenate((self._time_s, signal.time_s[there]))
                self._keys = np.concatenate((self._keys, signal.values[there].astype(np.int64)))
            yield log

    def of(self, start_s: np.ndarray, end_s: np.ndarray) -> list[str]:
        """Return the identifiers in each window, the most frequent first; windows are in order of time."""
        if len(start_s):
            later = self._time_s >= start_s[0] - 1e-6
            self._time_s, self._keys = self._time_s[later], self._keys[later]
        edges = (np.searchsorted(self._time_s, edge_s - 1e-6) for edge_s in (start_s, end_s))
        return [self._named(self._keys[begin:end]) for begin, end in zip(*edges, strict=True)]

    @staticmethod
    def _named(keys: np.ndarray) -> str:
        distinct, count = np.unique(keys, return_counts=True)
        return " ".join(digits_of(int(key)) for key in distinct[np.argsort(-count, kind="stable")])
