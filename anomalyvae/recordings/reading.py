"""Files of recordings: one table from suffix to reader, and all files are read piece by piece."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd

from anomalyvae.folders import refuse_irregular
from anomalyvae.options import BUS_OPTIONS, LIMITS, SUFFIXES, TABLE_OPTIONS, ReadOptions, given
from anomalyvae.recordings.bus.canbus import can_pieces
from anomalyvae.recordings.bus.mdf import mdf_counts, mdf_pieces
from anomalyvae.recordings.bus.messages import load_messages
from anomalyvae.recordings.guard import guarded
from anomalyvae.recordings.log import Log, Signal, joined
from anomalyvae.recordings.tabular import ROWS, csv_pieces, parquet_pieces
from anomalyvae.recordings.topics import topic_pieces
from anomalyvae.tables.names import nearest
from anomalyvae.tables.packed import suffix_of

# A reader is called as reader(path, signals), where signals is a list of names or None for all. It yields logs with the
# next samples of these signals: no sample is older than one of an earlier log, of whichever signal. A reader of tables
# also takes TABLE_OPTIONS and rows=..., a reader of vehicle buses BUS_OPTIONS.
_READER: dict[str, Callable[..., Iterator[Log]]] = {
    "csv": csv_pieces, "parquet": parquet_pieces, "mdf": mdf_pieces, "can": can_pieces, "topics": topic_pieces,
}  # fmt: skip
READERS = {suffix: _READER[kind] for suffix, kind in SUFFIXES.items()}
_TABLES = {csv_pieces, parquet_pieces}
_BUSES = {mdf_pieces, can_pieces}
_PACKED = {".zstd", ".zst", ".gz", ".bz2", ".xz", ".lz4", ".zip"}


def read_log(
    path: str | PathLike[str],
    *,
    signals: Iterable[str] | None = None,
    recording: str | None = None,
    **options: Unpack[ReadOptions],
) -> Log:
    """Read a recording from a file; the suffix chooses the reader.

    The rules by which a file becomes samples are in :mod:`anomalyvae.recordings.tabular` (CSV, Parquet),
    :mod:`anomalyvae.recordings.bus.mdf` (MF4), :mod:`anomalyvae.recordings.bus.canbus`,
    :mod:`anomalyvae.recordings.bus.decode` and :mod:`anomalyvae.recordings.bus.transport` (CAN logs), and
    :mod:`anomalyvae.recordings.topics` (MCAP, ROS bags; the folder of a ROS 2 bag counts as one file with suffix
    ``.db3``).

    Parameters
    ----------
    path : path-like
        A file with one of the suffixes in ``READERS``.
    signals : iterable of str, optional
        Read only these signals. By default all numeric columns are read.
    recording : str, optional
        Name of the recording; by default the file's name without suffix.
    **options
        How the file is read, such as ``time="ticks [ms]"`` or ``databases="car.dbc"``: see `ReadOptions`.

    Returns
    -------
    Log
        The signals, sorted by time, with their units.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        The suffix is unknown, the file is damaged or empty, it has no usable time column, its clock jumps back, or a
        requested signal is missing. The message names the file and the column.
    ImportError
        The format needs the extra ``logs``.

    Warns
    -----
    UserWarning
        Some frames of a vehicle bus are in no database, packets of longer messages are missing, a message has several
        senders, or a recording has no end.
    """
    pieces = read_pieces(path, signals, **options)
    return joined(pieces, recording or name_of(Path(path)))


def list_signals(path: str | PathLike[str], **options: Unpack[ReadOptions]) -> pd.DataFrame:
    """List the signals of a file, in memory that does not grow with it.

    The measured channels of an MF4 file are listed from its headers; other files are read through.

    Parameters
    ----------
    path : path-like
        A file with one of the suffixes in ``READERS``.
    **options
        How files are read: see `ReadOptions`.

    Returns
    -------
    pandas.DataFrame, shape (signals, 5)
        Columns ``signal``, ``unit``, ``samples``, ``rate_hz`` (the mean number of samples per second from the first to
        the last, NaN with fewer than two) and ``source`` (the message or group).

    Raises
    ------
    FileNotFoundError, ValueError, ImportError
        As for :func:`read_log`.
    """
    found: dict[str, tuple[Signal, int, float, float]] = {}
    left_out: set[str] = set()
    if _reader_of(Path(path)) is mdf_pieces:
        check_databases(options)
        counts = guarded(mdf_counts, Path(path), **given(options, (*BUS_OPTIONS, *LIMITS)))
    else:
        counts = _counts(read_pieces(path, **options), left_out)
    for signal, more, begin_s, last_s in counts:
        _, samples, first_s, end_s = found.get(signal.name, (signal, 0, begin_s, last_s))
        found[signal.name] = (signal, samples + more, min(first_s, begin_s), max(end_s, last_s))
    rows = [
        (name, signal.unit, samples, (samples - 1) / (last_s - first_s) if last_s > first_s else np.nan, signal.source)
        for name, (signal, samples, first_s, last_s) in found.items()
        if name not in left_out
    ]
    return pd.DataFrame(rows, columns=["signal", "unit", "samples", "rate_hz", "source"])


def _counts(pieces: Iterable[Log], left_out: set[str]) -> Iterator[tuple[Signal, int, float, float]]:
    """Yield each signal, how many samples a piece has of it, and the first and last of their stamps in seconds."""
    for log in pieces:
        left_out.update(log.left_out)
        for signal in log.signals.values():
            if len(signal.time_s):
                filled = signal.time_s[~np.isnan(signal.values)]
                ends = (filled[0], filled[-1]) if len(filled) else (np.inf, -np.inf)
                yield signal, len(filled), *ends


def read_pieces(
    path: str | PathLike[str],
    signals: Iterable[str] | None = None,
    *,
    rows: int = ROWS,
    **options: Unpack[ReadOptions],
) -> Iterator[Log]:
    """Read a recording piece by piece; joined, the pieces are what :func:`read_log` returns.

    No sample of a piece is older than one of an earlier piece. A piece of a table has at most ``rows`` rows. Errors are
    those of :func:`read_log`, raised when the broken place is reached.
    """
    path = Path(path)
    reader = _reader_of(path)
    wanted = None if signals is None else list(signals)
    for_table, for_bus = given(options, TABLE_OPTIONS), given(options, BUS_OPTIONS)
    if for_bus and reader not in _BUSES:
        what = "is a table" if reader in _TABLES else "describes its messages"
        raise ValueError(f"{path} {what}; databases are for vehicle buses. Leave them out.")
    if "time" in for_table and reader not in _TABLES:  # options of CSV files are passed over, beside such files
        raise ValueError(f"{path} has time stamps of its own; time={for_table['time']!r} is for tables. Leave it out.")
    if reader in _TABLES:
        return reader(path, wanted, rows=rows, **for_table)
    check_databases(options)
    return guarded(reader, path, wanted, **for_bus, **given(options, LIMITS))


def check_databases(options: ReadOptions) -> None:
    """Read the databases once, within the limits: one that cannot be read must not stop every file anew.

    Raises TimeoutError or ValueError for one that is damaged, or takes too long or too much memory.
    """
    databases, limits = given(options, BUS_OPTIONS).get("databases", ()), given(options, LIMITS)
    with _checking:
        for _, file in databases:
            path = Path(file)
            if not path.is_file():  # refused with the recording
                continue
            state = path.stat()
            key = (file, state.st_mtime_ns, state.st_size, *limits.items())
            if key not in _checked:
                _checked[key] = None
                try:
                    list(guarded(_database_read, path, **limits))
                except (TimeoutError, ValueError) as error:
                    _checked[key] = error
                except BaseException:
                    del _checked[key]
                    raise
            refusal = _checked[key]
            if refusal is not None:
                raise type(refusal)(str(refusal))


_checked: dict[tuple[Any, ...], Exception | None] = {}  # databases, and why they cannot be read
_checking = threading.Lock()


def _database_read(path: Path, wanted: None = None) -> Iterator[Log]:
    """Read a database; its warnings come with the recording."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load_messages(str(path))
    yield from ()


def bus_reader(path: Path) -> Callable[..., Iterator[Log]]:
    """Return the reader of a recording of a vehicle bus; refuse another file."""
    reader = _reader_of(path)
    if not is_bus(path):
        raise ValueError(f"{path} is not a recording of a vehicle bus. Name its signals (--signals).")
    return reader


def is_bus(path: Path) -> bool:
    """Whether a file is a recording of a vehicle bus, by its suffix."""
    return READERS.get(kind_of(path)) in _BUSES


def is_table(path: Path) -> bool:
    """Whether a file is a table, by its suffix."""
    return READERS.get(kind_of(path)) in _TABLES


def kind_of(path: Path) -> str:
    """Return the suffix that shows the format; the folder of a ROS 2 bag has that of the files in it."""
    return ".db3" if (path / "metadata.yaml").is_file() else suffix_of(path)


def name_of(path: Path) -> str:
    """Return the name of a recording: the file's without suffix, or the folder's."""
    return path.name if path.is_dir() else path.stem


def _reader_of(path: Path) -> Callable[..., Iterator[Log]]:
    """Return the reader of a file; refuse a path that is not a recording."""
    reader = READERS.get(kind_of(path))
    if path.is_dir() and kind_of(path) != ".db3":
        raise IsADirectoryError(f"{path} is a folder; a recording is one file. Pass the files in it one by one.")
    if reader is None and path.suffix.lower() in _PACKED:
        raise ValueError(
            f"{path.name!r} is a compressed file, which cannot be read. Unpack it, or pass the folder of the ROS bag "
            f"that it belongs to."
        )
    if reader is None:
        raise ValueError(
            f"{path.name!r} has no suffix of a recording ({', '.join(READERS)}). "
            f"{nearest(path.suffix.lower(), READERS)}"
        )
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist. Check the path of the recording.")
    if not path.is_dir():
        refuse_irregular(path)
    return reader
