"""Windows without settings: signals, rate and length chosen from the recordings themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Unpack

import numpy as np

from anomalyvae.options import ReadOptions
from anomalyvae.recordings.log import Signal
from anomalyvae.recordings.reading import read_pieces
from anomalyvae.recordings.windows import WindowRecipe

_FASTEST_HZ, _LENGTH_S, _SAMPLES = 25.0, 2.0, 20  # a window is so long, or has so many samples if they come slowly
_OVERLAP = 2  # windows that cover a moment
_GAP = 3.0  # times the usual step of the slowest signal
_LEAST_GAP_S = 1.0
_STATES = 10  # distinct whole numbers that a state has at most
_LOOKED_AT = 12  # recordings, evenly spread over the list
_REGULAR, _HEAD = 0.9, 1000  # share of the steps between the first rows that are not gaps
_POSITION = re.compile(r"(.*[ _.])?(lat|lon|lng|latitude|longitude)([ _.(\[].*)?", re.IGNORECASE)


def choose_recipe(
    files: Iterable[str | PathLike[str]],
    signals: Iterable[str] | None = None,
    rate_hz: float | None = None,
    length_s: float | None = None,
    **options: Unpack[ReadOptions],
) -> tuple[WindowRecipe, dict[str, str]]:
    """Choose a window recipe for recordings from their signals.

    - Signals: those that every recording has, but for constants, positions (people's whereabouts) and what runs one way
      only, such as counters and clocks. Whole numbers of ten or fewer values are states.
    - Rate: that of the fastest signal, up to 25 Hz.
    - Length: two seconds, or twenty samples where they come at less than 10 Hz. A window begins every half of that.
    - Gaps: more than three usual steps of the slowest signal, and at least a second.

    Parameters
    ----------
    files : iterable of path-like
        Recordings of normal operation. Twelve of them, evenly spread, are read through.
    signals : iterable of str, optional
    rate_hz, length_s : float, optional
        Values to use instead of chosen ones.
    **options
        How files are read: see `ReadOptions`.

    Returns
    -------
    recipe : WindowRecipe
    left_out : dict of str to str
        Signals that the recordings have and the recipe leaves out, and why.

    Raises
    ------
    FileNotFoundError, ValueError, ImportError
        As for :func:`read_log`, and if no signal is left.
    """
    paths = [Path(file) for file in files]
    wanted = None if signals is None else list(signals)
    looked_at = paths[:: -(-len(paths) // _LOOKED_AT)]
    seen: dict[str, _Seen] = {}
    for number, path in enumerate(looked_at):
        for log in read_pieces(path, wanted, **options):
            for name, signal in log.signals.items():
                seen.setdefault(name, _Seen()).add(signal, number)
    reasons = {name: one.reason(name, len(looked_at)) for name, one in seen.items()}
    left_out = {name: reason for name, reason in reasons.items() if reason and wanted is None}
    kept = {name: seen[name] for name in wanted or seen if name in seen and name not in left_out}
    if not any(one.has_steps for one in kept.values()):
        listed = ", ".join(f"{name} ({reason})" for name, reason in left_out.items()) or "none"
        raise ValueError(f"No signal of {_named(paths)} can be learned without being named: {listed}. Name signals.")
    steps_s = [one.step_s for one in kept.values() if one.has_steps]
    rate_hz = rate_hz or min(_FASTEST_HZ, _rounded(1 / min(steps_s)))
    length_s = length_s or max(_SAMPLES, round(_LENGTH_S * rate_hz)) / rate_hz
    recipe = WindowRecipe(
        signals=tuple(wanted or kept),
        rate_hz=rate_hz,
        length_s=length_s,
        stride_s=max(1, round(length_s * rate_hz) // _OVERLAP) / rate_hz,
        max_gap_s=_rounded(_GAP * max(*steps_s, 1 / rate_hz, _LEAST_GAP_S / _GAP)),
        states=tuple(name for name, one in kept.items() if one.is_state),
    )
    return recipe, left_out


def are_recordings(files: Sequence[str | PathLike[str]], **options: Unpack[ReadOptions]) -> bool:
    """Whether each table has a time column with regular steps: 90 % of the first thousand are no gaps."""
    return all(_is_regular(Path(file), options) for file in files)


def _is_regular(path: Path, options: ReadOptions) -> bool:
    try:
        head = next(iter(read_pieces(path, rows=_HEAD, **options)))
    except (ValueError, StopIteration):
        return False
    stamps = max((signal.time_s for signal in head.signals.values()), key=len, default=np.empty(0))
    steps = np.diff(stamps)
    return len(steps) > _SAMPLES and bool((steps <= _GAP * np.median(steps)).mean() >= _REGULAR)


class _Seen:
    """What the samples of a signal are like."""

    def __init__(self) -> None:
        self._recordings: set[int] = set()
        self._steps_s: list[float] = []
        self._distinct: set[float] = set()
        self._falls = self._rises = False
        self._last: tuple[int, float] | None = None

    def add(self, signal: Signal, recording: int) -> None:
        """Take the next samples, those of a recording."""
        there = ~np.isnan(signal.values)
        values, time_s = signal.values[there], signal.time_s[there]
        if not len(values):
            return
        self._recordings.add(recording)
        if len(values) > 1:
            self._steps_s.append(float(np.median(np.diff(time_s))))
        if len(self._distinct) <= _STATES:
            self._distinct.update(np.unique(values)[: _STATES + 1].tolist())
        before = [self._last[1]] if self._last is not None and self._last[0] == recording else []
        steps = np.diff(np.concatenate([before, values]))
        self._falls, self._rises = self._falls or bool((steps < 0).any()), self._rises or bool((steps > 0).any())
        self._last = recording, float(values[-1])

    @property
    def has_steps(self) -> bool:
        """Whether there are two samples of it in a piece."""
        return bool(self._steps_s)

    @property
    def step_s(self) -> float:
        """The usual time between samples."""
        return float(np.median(self._steps_s))

    @property
    def is_state(self) -> bool:
        """Whether it takes few values, all of them whole numbers."""
        return len(self._distinct) <= _STATES and all(value == round(value) for value in self._distinct)

    def reason(self, name: str, recordings: int) -> str:
        """Why it is left out; empty if it is not."""
        if len(self._recordings) < recordings:
            return "not in every recording"
        if not self.has_steps:
            return "a single sample"
        if len(self._distinct) == 1:
            return "constant"
        if _POSITION.fullmatch(name):
            return "a position"
        return "it runs one way only" if self._falls != self._rises and not self.is_state else ""


def _rounded(number: float) -> float:
    """To a whole number from 10 on, else to two digits."""
    return float(round(number)) if number >= 10 else float(f"{number:.2g}")


def _named(paths: Sequence[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{len(paths)} files"
