"""Files of recordings become windows: all at once, or piece by piece in memory that does not grow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Unpack

import numpy as np
import pandas as pd

from anomalyvae.options import ReadOptions
from anomalyvae.recordings.bus.identifier_names import MOST_FREQUENT, UNKNOWN
from anomalyvae.recordings.clock import resample_pieces
from anomalyvae.recordings.coverage import Coverage, Unknown
from anomalyvae.recordings.log import Log, Signal
from anomalyvae.recordings.reading import name_of, read_pieces
from anomalyvae.recordings.tabular import ROWS
from anomalyvae.recordings.windows import WindowRecipe, Windows


def read_windows(
    recordings: Log | str | PathLike[str] | Iterable[Log | str | PathLike[str]],
    recipe: WindowRecipe,
    **options: Unpack[ReadOptions],
) -> Windows:
    """Cut several recordings into windows and stack them.

    Files are read one after the other, and only the signals that the recipe needs.

    Parameters
    ----------
    recordings : Log, path-like, or iterable of them
    recipe : WindowRecipe
        How a recording becomes rows.
    **options
        How files are read: see `ReadOptions`.

    Returns
    -------
    Windows

    Raises
    ------
    ValueError
        A recording lacks a signal, two recordings give a signal different units, or two have the same name. The message
        names all recordings that cannot be used.
    """
    if isinstance(recordings, (Log, str, PathLike)):
        recordings = [recordings]
    parts: dict[str, Windows] = {}
    units: dict[str, tuple[str, str]] = {}  # unit, and the first recording with it
    faults: list[Exception] = []
    for item in recordings:
        name = item.recording if isinstance(item, Log) else name_of(Path(item))
        try:
            if name in parts:
                raise ValueError(
                    f"Two recordings are named {name!r}; names must be distinct. Rename one of the files, or name the "
                    f"recording in Python: read_log(path, recording=...)."
                )
            batches = _of_log(item, recipe) if isinstance(item, Log) else stream_windows(item, recipe, **options)
            found = stacked(batches, recipe)
            _refuse_other_units(found.units, name, units)
            parts[name] = found
        except (ValueError, OSError) as error:
            faults.append(error)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        listed = " ".join(f"({number}) {fault}" for number, fault in enumerate(faults, start=1))
        raise ValueError(f"{len(faults)} recordings cannot be used: {listed}")
    return stacked(parts.values(), recipe)


def windows_of(log: Log, recipe: WindowRecipe) -> Windows:
    """Cut a recording in memory into windows; ``without`` says why, if it has none."""
    return stacked(_of_log(log, recipe), recipe)


def stacked(parts: Iterable[Windows], recipe: WindowRecipe) -> Windows:
    """Put windows below each other: the batches of a recording, or several recordings."""
    every = [recipe.no_windows(), *parts]
    rows = pd.DataFrame(np.concatenate([part.rows.to_numpy() for part in every]), columns=recipe.columns)
    spans = pd.concat([part.spans for part in every], ignore_index=True)
    units, without, starts, sparse = (
        {key: value for part in every for key, value in getattr(part, name).items()}
        for name in ("units", "without", "starts", "sparse")
    )
    return Windows(rows, spans, units, without, starts, sparse=sparse)


def _refuse_other_units(found: dict[str, str], recording: str, units: dict[str, tuple[str, str]]) -> None:
    """Refuse signals in another unit than in the recordings before; note the units of new ones."""
    others = []
    for signal, unit in found.items():
        known, first = units.setdefault(signal, (unit, recording))
        if unit != known:
            others.append(
                f"Signal {signal!r} is in {unit} in recording {recording!r}, but in {known} in recording {first!r}."
            )
    if others:
        raise ValueError(f"{' '.join(others)} Convert {'it' if len(others) == 1 else 'them'}.")


def stream_windows(
    path: str | PathLike[str],
    recipe: WindowRecipe,
    *,
    recording: str | None = None,
    rows: int = ROWS,
    **options: Unpack[ReadOptions],
) -> Iterator[Windows]:
    """Cut a recording into windows without holding all of it.

    Joined, the batches are bit for bit ``recipe.windows(read_log(path, signals=recipe.needed))``. Memory does not grow
    with the file: each step holds a piece of the file and what later rows can still change, which is a second of
    samples, those of two gaps, and a window. A batch takes 8 MB at most.

    Parameters
    ----------
    path : path-like
        A file that :func:`read_log` can read.
    recipe : WindowRecipe
        How the recording becomes rows.
    recording : str, optional
        Name of the recording; by default the file's name without suffix.
    **options
        How files are read: see `ReadOptions`.
    rows : int
        The most rows of a table to read, and the most windows to return, at once.

    Yields
    ------
    Windows
        A batch of windows, in order of time; its index begins at 0. If the recording has no window, one batch without
        rows, whose ``without`` says why.

    Raises
    ------
    FileNotFoundError, ValueError
        As for :func:`read_log` and ``recipe.windows``, but only when the broken place is reached.
    """
    if rows < 1:
        raise ValueError(f"rows={rows!r} must be 1 or more. Leave it out for a good default.")
    needed = [*recipe.needed, *([MOST_FREQUENT] if UNKNOWN in recipe.needed else [])]
    pieces = read_pieces(path, needed, rows=rows, **options)
    yield from _batches(pieces, recipe, recording or name_of(Path(path)), rows)


def _of_log(log: Log, recipe: WindowRecipe) -> Iterator[Windows]:
    needed = replace(log, signals={name: log[name] for name in recipe.needed})
    return _batches([needed], recipe, log.recording)


def _batches(pieces: Iterable[Log], recipe: WindowRecipe, name: str, rows: int = ROWS) -> Iterator[Windows]:
    """Cut the pieces of a recording into windows; see `stream_windows`."""
    coverage, unknown = Coverage(recipe), Unknown()
    logs = unknown.watch(coverage.watch(pieces))
    units: dict[str, str] = {}
    starts: dict[str, pd.Timestamp] = {}

    def samples() -> Iterator[Mapping[str, Signal]]:
        for log in logs:  # a signal may begin in a later piece, and so may the samples of all
            units.update({signal.name: signal.unit for signal in log.signals.values() if signal.unit})
            starts.update({} if log.start is None else {name: log.start})
            yield log.signals

    ticks = resample_pieces(samples(), recipe.needed, recipe.clock, rows)
    last: Windows | None = None
    for windows in recipe.batches(ticks, name, {}, rows):
        if last is not None:
            yield last
        without = {} if len(windows) else {name: coverage.reason()}
        start_s, end_s = (windows.spans[edge].to_numpy() for edge in ("start_s", "end_s"))
        named = unknown.of(start_s, end_s) if UNKNOWN in recipe.needed else None
        coverage.cover(start_s, end_s)
        last = replace(windows, units=dict(units), without=without, starts=dict(starts), unknown=named)
    coverage.warn_of_infinite(name)
    if last is not None:
        why = coverage.sparse()
        yield last if why is None else replace(last, sparse={name: why})
