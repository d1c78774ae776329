"""Windows without settings: signals, rate and length chosen from the recordings themselves."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Unpack

import numpy as np

from anomalyvae.options import ReadOptions
from anomalyvae.recordings.log import Signal
from anomalyvae.recordings.reading import read_pieces
from anomalyvae.recordings.stamps import NoTimeColumnError
from anomalyvae.recordings.timeline import JumpBackError
from anomalyvae.recordings.windows import WindowRecipe

_FASTEST_HZ, _LENGTH_S, _SAMPLES = 25.0, 2.0, 20  # a window is so long, or has so many samples if they come slowly
_OVERLAP = 2  # windows that cover a moment
_GAP = 3.0  # times the usual step of the slowest signal
_LEAST_GAP_S = 1.0
_STATES = 10  # distinct whole numbers that a state has at most
_LOOKED_AT = 12  # recordings, evenly spread over the list
_REGULAR, _HEAD = 0.9, 1000  # share of the steps between the first rows that are not gaps
_POSITION = re.compile(r".*(latitude|longitude).*|(.*[ _.])?(lat|lon|lng)([ _.(\[].*)?", re.IGNORECASE)


def choose_recipe(
    files: Iterable[str | PathLike[str]],
    signals: Iterable[str] | None = None,
    rate_hz: float | None = None,
    length_s: float | None = None,
    **options: Unpack[ReadOptions],
) -> tuple[WindowRecipe, dict[str, str]]:
    """Choose a window recipe for recordings from their signals.

    - Signals: those that every recording has, without constants, positions (people's whereabouts) and signals that run
      one way only, such as counters and clocks. Whole numbers of ten or fewer values are states.
    - Rate: that of the fastest signal, up to 25 Hz.
    - Length: two seconds, or twenty samples where they come at less than 10 Hz. A window begins every half of that.
    - Gaps: more than three usual steps of the slowest signal, and at least a second.

    Parameters
    ----------
    files : iterable of path-like
        Recordings of normal operation. Twelve of them, evenly spread, are read through. One that cannot be read does
        not count: `read_windows` refuses it, together with all others.
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
        As for :func:`read_log` if none can be read, and if no signal is left.
    """
    paths = [Path(file) for file in files]
    wanted = None if signals is None else list(signals)
    seen, no_numbers, read = _looked_at(paths, wanted, options)
    reasons = {name: one.reason(name, read) for name, one in seen.items()} | no_numbers
    left_out = {name: reason for name, reason in reasons.items() if reason and wanted is None}
    kept = {name: seen[name] for name in wanted or seen if name in seen and name not in left_out}
    if not any(one.has_steps for one in kept.values()):
        if wanted is not None:
            raise ValueError(f"{_named(paths)}: {', '.join(wanted)} never have two samples. Name other signals.")
        listed = ", ".join(f"{name} ({reason})" for name, reason in left_out.items()) or "it has none"
        raise ValueError(
            f"No signal of {_named(paths)} can be learned without being named: {listed}. Name signals (--signals)."
        )
    steps_s = [one.step_s for one in kept.values() if one.has_steps]
    fastest_s = min(steps_s)
    usual_hz = _rounded(1 / fastest_s) if fastest_s <= 1 else 1 / _rounded(fastest_s)  # a minute stays a minute
    rate_hz = rate_hz or min(_FASTEST_HZ, usual_hz)
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


def _looked_at(
    paths: list[Path], wanted: list[str] | None, options: ReadOptions
) -> tuple[dict[str, _Seen], dict[str, str], int]:
    """Return what signals are like, what columns without numbers hold, and how many recordings have samples."""
    seen: dict[str, _Seen] = {}
    no_numbers: dict[str, str] = {}
    faults: list[Exception] = []
    read = 0
    for path in paths[:: -(-len(paths) // _LOOKED_AT)]:
        try:
            samples = 0
            for log in read_pieces(path, wanted, **options):
                no_numbers.update(log.left_out)
                for name, signal in log.signals.items():
                    seen.setdefault(name, _Seen()).add(signal, read)
                    samples += len(signal.time_s)
            read += samples > 0
        except (ValueError, OSError) as error:
            faults.append(error)
    if faults and not read:
        raise faults[0]
    return seen, no_numbers, read


def are_recordings(files: Sequence[str | PathLike[str]], **options: Unpack[ReadOptions]) -> bool:
    """Whether tables have a time column with regular steps: at most 10 % of the first thousand steps are gaps.

    A table with fewer than twenty rows is like the others.

    Raises ValueError if some are recordings and others are not, and if those that have stamps cannot be read.
    """
    faults: list[ValueError] = []
    regular = {Path(file): _is_regular(Path(file), options, faults) for file in files}
    recordings = [path for path, found in regular.items() if found]
    others = [path for path, found in regular.items() if found is False]
    if faults and not recordings:
        raise type(faults[0])(f"{faults[0]} Or pass --as rows, if each row is learned by itself.") from faults[0]
    if recordings and others:
        raise ValueError(
            f"{recordings[0]} has a time column with regular steps, as a recording has, but {others[0]} has none "
            f"({len(others)} of {len(regular)} files). Leave out those of one kind, or say what they are: --as "
            f"recordings, or --as rows."
        )
    return bool(recordings)


def _is_regular(path: Path, options: ReadOptions, faults: list[ValueError]) -> bool | None:
    """None if there are too few rows to tell, or if the file cannot be read, which is added to ``faults``."""
    stamps = np.empty(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they come again when all of it is read
            for log in read_pieces(path, rows=_HEAD, **options):  # a piece waits for rows that are late
                stamps = np.append(stamps, max((one.time_s for one in log.signals.values()), key=len, default=()))
                if len(stamps) >= _HEAD:
                    break
    except NoTimeColumnError:
        return False
    except JumpBackError:  # of a recording, refused where all of it is read; rows in no order of time begin with it
        if not len(stamps):
            return False
    except ValueError as error:  # of a recording beside others, refused together with them
        faults.append(error)
        return None
    steps = np.diff(stamps)
    return None if len(steps) < _SAMPLES else bool((steps <= _GAP * np.median(steps)).mean() >= _REGULAR)


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
        there = np.isfinite(signal.values)
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
            return "not in every recording" if self._recordings else "without a value"
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
