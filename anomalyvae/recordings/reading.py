"""A recording file becomes signals: one table from suffix to reader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd

from anomalyvae.recordings.bus.canbus import can_pieces
from anomalyvae.recordings.bus.mdf import mdf_counts, mdf_pieces
from anomalyvae.recordings.bus.messages import Databases
from anomalyvae.recordings.log import Log, Signal, joined, nearest
from anomalyvae.recordings.tabular import read_csv, read_parquet
from anomalyvae.recordings.topics import read_topics, topic_pieces

# Formats other than tables that can be read in pieces, called as pieces(path, signals, databases=...). They yield logs
# of one recording, each with the next samples of these signals and their units: no sample of a later log is older than
# one of an earlier log, of whichever signal.
PIECES: dict[str, Callable[..., Iterator[Log]]] = {
    **dict.fromkeys((".mf4", ".mdf", ".dat"), mdf_pieces),
    **dict.fromkeys((".blf", ".asc", ".trc", ".log"), can_pieces),
    **dict.fromkeys((".mcap", ".bag", ".db3"), topic_pieces),
}


def _read_joined(
    pieces: Callable[..., Iterator[Log]],
    path: Path,
    *,
    recording: str,
    time: str | None = None,
    signals: Iterable[str] | None = None,
    databases: Databases = None,
) -> Log:
    """Read a file that has stamps of its own by joining its pieces."""
    if time is not None:
        raise ValueError(f"Got time={time!r} for {path}, which has stamps of its own, expected none. Leave it out.")
    return joined(pieces(path, signals, databases=databases), recording)


# A reader is called as reader(path, recording=..., time=..., signals=...), and with databases=... if there are any, and
# returns a Log.
READERS: dict[str, Callable[..., Log]] = {
    ".csv": read_csv,
    ".parquet": read_parquet,
    **{suffix: partial(_read_joined, pieces) for suffix, pieces in PIECES.items()},
    **dict.fromkeys((".mcap", ".bag", ".db3"), read_topics),
}
_WITHOUT_DATABASES = {".csv", ".parquet"}
_PACKED = {".zstd", ".zst", ".gz", ".bz2", ".xz", ".lz4", ".zip"}


def read_log(
    path: str | PathLike[str],
    *,
    time: str | None = None,
    signals: Iterable[str] | None = None,
    recording: str | None = None,
    databases: Databases = None,
) -> Log:
    """Read a recording from a file; the suffix chooses the reader.

    The rules by which a file becomes samples stand in :mod:`anomalyvae.recordings.tabular` (CSV, Parquet),
    :mod:`anomalyvae.recordings.bus.mdf` (MF4), :mod:`anomalyvae.recordings.bus.canbus`,
    :mod:`anomalyvae.recordings.bus.decode` and :mod:`anomalyvae.recordings.bus.transport` (CAN logs), and
    :mod:`anomalyvae.recordings.topics` (MCAP, ROS bags; the folder of a ROS 2 bag counts as one file with suffix
    ``.db3``).

    Parameters
    ----------
    path : path-like
        A file with one of the suffixes in ``READERS``.
    time : str, optional
        The time column, where its name does not tell or its unit must be said: ``"ticks [ms]"``.
    signals : iterable of str, optional
        Read these signals only. By default all numeric columns are read.
    recording : str, optional
        Name of the recording; by default the file's name without suffix.
    databases : path-like, or iterable of path-like, optional
        What the messages of a vehicle bus mean: DBC, ARXML, KCD or SYM files. For MF4 and CAN logs.

    Returns
    -------
    Log
        The signals, sorted by time, with their units.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The suffix is unknown, the file is damaged or empty, it has no usable time column, its clock jumps
        back, or a requested signal is missing. The message names the file and the column.
    ImportError
        The format needs the extra ``logs``.

    Warns
    -----
    UserWarning
        Some frames of a vehicle bus are in no database, packets of longer messages are missing, a message has several
        senders, or a recording has no end.
    """
    path = Path(path)
    reader = _reader_of(path)
    if databases is None:
        return reader(path, recording=recording or name_of(path), time=time, signals=signals)
    if kind_of(path) in _WITHOUT_DATABASES:
        raise ValueError(f"Got databases for {path}, a table whose columns have names, expected none. Leave them out.")
    return reader(path, recording=recording or name_of(path), time=time, signals=signals, databases=databases)


def list_signals(path: str | PathLike[str], *, databases: Databases = None) -> pd.DataFrame:
    """Tell which signals a file holds, in memory that does not grow with it.

    Of the measured channels of MF4 files the headers tell; other files are read through.

    Parameters
    ----------
    path : path-like
        A file with one of the suffixes in ``READERS``.
    databases : path-like, or iterable of path-like, optional
        As for :func:`read_log`.

    Returns
    -------
    pandas.DataFrame, shape (signals, 5)
        Columns ``signal``, ``unit``, ``samples``, ``rate_hz`` (the mean number of samples per second from the first to
        the last, NaN with fewer than two) and ``source`` (the message or group).

    Raises
    ------
    FileNotFoundError, ValueError, ImportError
        As :func:`read_log` does.
    """
    path = Path(path)
    _reader_of(path)
    found: dict[str, tuple[Signal, int, float, float]] = {}
    for signal, more, begin_s, last_s in _counts(path, databases):
        _, samples, first_s, _ = found.get(signal.name, (signal, 0, begin_s, last_s))
        found[signal.name] = (signal, samples + more, first_s, last_s)
    rows = [
        (name, signal.unit, samples, (samples - 1) / (last_s - first_s) if last_s > first_s else np.nan, signal.source)
        for name, (signal, samples, first_s, last_s) in found.items()
    ]
    return pd.DataFrame(rows, columns=["signal", "unit", "samples", "rate_hz", "source"])


def _counts(path: Path, databases: Databases) -> Iterator[tuple[Signal, int, float, float]]:
    """Yield signals, how many more samples each has, and when the first and the last of these are, in seconds."""
    pieces = PIECES.get(kind_of(path))
    if pieces is mdf_pieces:
        yield from mdf_counts(path, databases=databases)
        return
    for log in [read_log(path, databases=databases)] if pieces is None else pieces(path, None, databases=databases):
        for signal in log.signals.values():
            if len(signal.time_s):
                yield signal, len(signal.time_s), signal.time_s[0], signal.time_s[-1]


def kind_of(path: Path) -> str:
    """Return the suffix that tells the format; the folder of a ROS 2 bag has that of the files in it."""
    return ".db3" if (path / "metadata.yaml").is_file() else path.suffix.lower()


def name_of(path: Path) -> str:
    """Return the name of a recording: the file's without suffix, the folder's as it is."""
    return path.name if path.is_dir() else path.stem


def _reader_of(path: Path) -> Callable[..., Log]:
    reader = READERS.get(kind_of(path))
    if path.is_dir() and kind_of(path) != ".db3":
        raise IsADirectoryError(f"Got the folder {path}, expected one recording. Pass the files in it one by one.")
    if reader is None and path.suffix.lower() in _PACKED:
        raise ValueError(
            f"Got {path.name!r}, a compressed file, expected one that is not. Unpack it, or pass the folder of the ROS "
            f"bag that it is a part of."
        )
    if reader is None:
        raise ValueError(
            f"Got {path.name!r}, expected a file with suffix {' or '.join(READERS)}. "
            f"{nearest(path.suffix.lower(), READERS)}"
        )
    if not path.exists():
        raise FileNotFoundError(f"Got {path}, which does not exist, expected a recording. Check the path.")
    return reader
