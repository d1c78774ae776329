"""Room 1: a recording becomes rows.

``read_log`` turns a file into signals, ``resample`` puts them on one clock, and a ``WindowRecipe`` cuts
that clock into windows, one row each, and keeps the way back from a row to (recording, start, end).
``stream_windows`` does the same with a file larger than memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path

from anomalyvae.logs.clock import resample
from anomalyvae.logs.log import Log, Signal, nearest
from anomalyvae.logs.stream import stream_windows
from anomalyvae.logs.tabular import log_from_frame, read_csv, read_parquet
from anomalyvae.logs.windows import WindowRecipe, Windows

__all__ = [
    "READERS",
    "Log",
    "Signal",
    "WindowRecipe",
    "Windows",
    "log_from_frame",
    "read_log",
    "resample",
    "stream_windows",
]

# A reader is called as reader(path, recording=..., time=..., signals=...) and returns a Log.
READERS: dict[str, Callable[..., Log]] = {".csv": read_csv, ".parquet": read_parquet}


def read_log(
    path: str | PathLike[str],
    *,
    time: str | None = None,
    signals: Iterable[str] | None = None,
    recording: str | None = None,
) -> Log:
    """Read a recording from a file; the suffix chooses the reader.

    The rules by which a table's rows become samples stand in :mod:`anomalyvae.logs.tabular`.

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
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if path.is_dir():
        raise IsADirectoryError(f"Got the folder {path}, expected one recording. Pass the files in it one by one.")
    if reader is None:
        raise ValueError(
            f"Got {path.name!r}, expected a file with suffix {' or '.join(READERS)}. "
            f"{nearest(path.suffix.lower(), READERS)}"
        )
    if not path.exists():
        raise FileNotFoundError(f"Got {path}, which does not exist, expected a recording. Check the path.")
    return reader(path, recording=recording or path.stem, time=time, signals=signals)
