"""Windows of a recording that is larger than memory.

A file passes piece by piece through what :func:`~anomalyvae.recordings.read_log`,
:func:`~anomalyvae.recordings.resample` and :class:`~anomalyvae.recordings.WindowRecipe` do with the whole. Between two
pieces each step holds only what later rows can change: the samples of a second, of two gaps, and of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from anomalyvae.recordings.bus.messages import Databases
from anomalyvae.recordings.clock import resample_pieces
from anomalyvae.recordings.log import Log, Signal
from anomalyvae.recordings.reading import PIECES, kind_of, name_of, read_log
from anomalyvae.recordings.stamps import FIRST_ROWS, first_stamps
from anomalyvae.recordings.tabular import Tables, csv_tables, parquet_tables, time_column, unsorted_log
from anomalyvae.recordings.timeline import Timeline
from anomalyvae.recordings.windows import WindowRecipe, Windows

# Formats that are read in pieces; called as open(path, signals, rows).
TABLES: dict[str, Callable[[Path, list[str], int], Tables]] = {".csv": csv_tables, ".parquet": parquet_tables}


def read_windows(
    recordings: Log | str | PathLike[str] | Iterable[Log | str | PathLike[str]],
    recipe: WindowRecipe,
    *,
    databases: Databases = None,
) -> Windows:
    """Cut several recordings into windows and stack them.

    Files are read one after the other, and of each only the signals that the recipe needs.

    Parameters
    ----------
    recordings : Log, path-like, or iterable of them
    recipe : WindowRecipe
        How a recording becomes rows.
    databases : path-like, or iterable of path-like, optional
        As for ``read_log``.

    Returns
    -------
    Windows

    Raises
    ------
    ValueError
        A recording lacks a signal, two recordings disagree on a signal's unit, or two have the same name.
    """
    if isinstance(recordings, (Log, str, PathLike)):
        recordings = [recordings]
    parts: dict[str, Windows] = {}
    units: dict[str, tuple[str, str]] = {}  # unit, and the recording that gave it
    for item in recordings:
        log = item if isinstance(item, Log) else read_log(item, signals=recipe.needed, databases=databases)
        if log.recording in parts:
            raise ValueError(
                f"Got two recordings named {log.recording!r}, expected distinct names. Name one of them: "
                f"read_log(path, recording=...)."
            )
        parts[log.recording] = windows = recipe.windows(log)
        for signal, unit in windows.units.items():
            known, first = units.setdefault(signal, (unit, log.recording))
            if unit != known:
                raise ValueError(
                    f"Got signal {signal!r} in {unit} in recording {log.recording!r}, expected {known} as in "
                    f"recording {first!r}. Convert it."
                )
    if len(parts) == 1:
        return windows
    stacked = [recipe.no_windows(), *parts.values()]
    rows = pd.DataFrame(np.concatenate([part.rows.to_numpy() for part in stacked]), columns=recipe.columns)
    spans = pd.concat([part.spans for part in stacked], ignore_index=True)
    return Windows(rows, spans, {signal: unit for signal, (unit, _) in units.items()})


def stream_windows(
    path: str | PathLike[str],
    recipe: WindowRecipe,
    *,
    recording: str | None = None,
    databases: Databases = None,
    rows: int = 65536,
) -> Iterator[Windows]:
    """Cut a recording into windows without holding the whole of it.

    Joined, the slabs are bit for bit ``recipe.windows(read_log(path, signals=recipe.needed))``. Memory does not grow
    with the file: a slab takes 8 MB at most, and of the file ``rows`` rows are held, and those of a few seconds. A
    format that cannot be read in pieces (it is not in ``PIECES``) is read whole, but its windows are made slab by
    slab.

    Parameters
    ----------
    path : path-like
        A file that :func:`~anomalyvae.recordings.read_log` can read.
    recipe : WindowRecipe
        How the recording becomes rows.
    recording : str, optional
        Name of the recording; by default the file's name without suffix.
    databases : path-like, or iterable of path-like, optional
        As for ``read_log``.
    rows : int
        Read at most so many rows of a table, and give out at most so many windows, at once.

    Yields
    ------
    Windows
        A slab of windows, in order of time; its index begins at 0. If the recording has no window, one slab without
        rows.

    Raises
    ------
    FileNotFoundError, ValueError
        As ``read_log`` and ``recipe.windows`` do, but only when the broken place is reached.
    """
    if rows < 1:
        raise ValueError(f"Got rows={rows!r}, expected 1 or more. Leave it out for a good default.")
    path = Path(path)
    kind, name = kind_of(path), recording or name_of(path)
    if kind in TABLES and path.is_file() and databases is None:
        tables = TABLES[kind](path, recipe.needed, rows)
        units = {column.name: column.unit for column in tables.columns if column.unit and column.name in recipe.needed}
        pieces = _samples(tables, recipe.needed, name, str(path))
    elif kind in PIECES and path.exists():
        logs = PIECES[kind](path, recipe.needed, databases=databases)
        head = list(islice(logs, 1))
        units = {signal.name: signal.unit for log in head for signal in log.signals.values() if signal.unit}
        pieces = (log.signals for log in chain(head, logs))
    else:
        log = read_log(path, signals=recipe.needed, recording=name, databases=databases)
        units = {signal: log[signal].unit for signal in recipe.needed if log[signal].unit}
        yield from recipe.slabs([recipe.ticks(log)], name, units, rows)
        return
    yield from recipe.slabs(resample_pieces(pieces, recipe.needed, recipe.clock, rows), name, units, rows)


def _samples(tables: Tables, signals: list[str], recording: str, source: str) -> Iterator[dict[str, Signal]]:
    """Yield samples in order of time; the signals share their stamps."""
    stamp, columns, pieces = tables
    nothing = pa.schema([(column.raw, column.type) for column in columns]).empty_table()
    head: list[pa.Table] = []
    chunks: list[pa.Array] = []
    count = 0
    while count < FIRST_ROWS and (piece := next(pieces, None)) is not None:
        stamps = first_stamps(piece[stamp.raw])
        if len(stamps) or not head:  # rows without a stamp may fill a file
            head.append(piece)
        chunks += stamps.chunks
        count += len(stamps)
    head = head or [nothing]
    first = pa.chunked_array(chunks, type=head[0][stamp.raw].type)[:FIRST_ROWS]
    timeline = Timeline(first, stamp, time_column(stamp, source))
    end = head[0][:0]
    for piece in chain(head, pieces, [end]):
        log = unsorted_log(piece, recording, stamp, columns)
        time_s, samples = timeline.add(piece[stamp.raw], [log[name].values for name in signals], last=piece is end)
        yield {name: Signal(name, time_s, values) for name, values in zip(signals, samples, strict=True)}
