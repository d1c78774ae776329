"""Windows of a recording that is larger than memory.

A file passes piece by piece through what :func:`~anomalyvae.logs.read_log`, :func:`~anomalyvae.logs.resample` and
:class:`~anomalyvae.logs.WindowRecipe` do with the whole. Between two pieces each step holds only what later rows can
change: the samples of a second, of two gaps, and of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from os import PathLike
from pathlib import Path

import numpy as np
import pyarrow as pa

from anomalyvae.logs.clock import resample, resample_pieces
from anomalyvae.logs.stamps import FIRST_ROWS, Timeline, first_stamps
from anomalyvae.logs.tabular import Tables, csv_tables, parquet_tables, time_column, unsorted_log
from anomalyvae.logs.windows import WindowRecipe, Windows

# Formats that are read in pieces; called as open(path, signals, rows).
TABLES: dict[str, Callable[[Path, list[str], int], Tables]] = {".csv": csv_tables, ".parquet": parquet_tables}


def stream_windows(
    path: str | PathLike[str], recipe: WindowRecipe, *, recording: str | None = None, rows: int = 65536
) -> Iterator[Windows]:
    """Cut a recording into windows without holding the whole of it.

    Joined, the slabs are bit for bit ``recipe.windows(read_log(path, signals=recipe.needed))``. Memory does not grow
    with the file: a slab takes 8 MB at most, and of the file ``rows`` rows are held, and those of a few seconds.
    Files other than CSV and Parquet are read whole, but their windows are made slab by slab.

    Parameters
    ----------
    path : path-like
        A file that :func:`~anomalyvae.logs.read_log` can read.
    recipe : WindowRecipe
        How the recording becomes rows.
    recording : str, optional
        Name of the recording; by default the file's name without suffix.
    rows : int
        Read at most so many rows of the file, and give out at most so many windows, at once.

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
    open_tables = TABLES.get(path.suffix.lower())
    if open_tables is None or not path.is_file():
        from anomalyvae.logs import read_log

        log = read_log(path, signals=recipe.needed, recording=recording)
        units = {name: log[name].unit for name in recipe.needed if log[name].unit}
        ticks = resample(log, recipe.rate_hz, recipe.max_gap_s, recipe.needed)
        yield from recipe.slabs([ticks], log.recording, units, rows)
        return
    name = recording or path.stem
    tables = open_tables(path, recipe.needed, rows)
    units = {column.name: column.unit for column in tables.columns if column.unit and column.name in recipe.needed}
    samples = _samples(tables, recipe.needed, name, str(path))
    pieces = resample_pieces(samples, recipe.needed, recipe.rate_hz, recipe.max_gap_s, rows)
    yield from recipe.slabs(pieces, name, units, rows)


def _samples(
    tables: Tables, signals: list[str], recording: str, source: str
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Yield samples in order of time: their stamps, and the values of each signal."""
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
        yield timeline.add(piece[stamp.raw], [log[name].values for name in signals], last=piece is end)
