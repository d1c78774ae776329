"""Options of reading: what decides where a file does not show it. All callers pass them on as keyword arguments."""

from collections.abc import Iterable, Mapping
from os import PathLike
from os.path import abspath
from typing import Any, TypedDict

Files = str | PathLike[str] | Iterable[str | PathLike[str]]
Databases = Files | Mapping[str, Files] | Iterable[tuple[str, str]] | None

BUS_OPTIONS = ("databases",)  # for MF4 and CAN logs
SUFFIXES = {
    ".csv": "csv",
    ".csv.gz": "csv",
    ".parquet": "parquet",
    ".vbo": "csv",
    **dict.fromkeys((".mf4", ".mdf", ".dat"), "mdf"),
    **dict.fromkeys((".blf", ".asc", ".trc", ".log"), "can"),
    **dict.fromkeys((".mcap", ".bag", ".db3"), "topics"),
}
"""The suffixes of files that can be read, and the reader of each."""
LIMITS = ("timeout_s", "memory_gib")  # of third-party readers; they decide no value


class TableOptions(TypedDict, total=False):
    """How tables are read, CSV and Parquet.

    Parameters
    ----------
    time : str, optional
        The time column of a table, if its name does not show it, or with its unit: ``"ticks [ms]"``.
    sep, decimal, encoding : str, optional
        How CSV files are written, where their first lines leave that open: the separator of cells, the mark before
        decimals (``"."`` or ``","``), and a codec such as ``"cp1252"``.
    exclude : str or iterable of str, optional
        Columns of tables to leave out.
    na : str or iterable of str, optional
        Cells of CSV files that say that a value is missing, beside an empty cell, ``-``, ``NaN``, ``None``, ``NODATA``,
        ``error`` and others that always do.
    """

    time: str | None
    sep: str | None
    decimal: str | None
    encoding: str | None
    exclude: str | Iterable[str] | None
    na: str | Iterable[str] | None


TABLE_OPTIONS = tuple(TableOptions.__annotations__)


class ReadOptions(TableOptions, total=False):
    """How files are read. Every function that reads files takes these keyword arguments, and those of `TableOptions`.

    Parameters
    ----------
    databases : path-like, iterable of path-like, or dict, optional
        DBC, ARXML, KCD or SYM files that describe the messages of a vehicle bus. For MF4 and CAN logs. A dict names the
        files of each bus, ``{"can0": "engine.dbc", "can1": "body.dbc"}``, and only these buses are read; a bus without
        a name has its number in the file, ``"1"``.
    timeout_s, memory_gib : float, optional
        Limits on reading a file that is neither CSV nor Parquet. The reader is ended if it gives nothing for so many
        seconds (by default 300), or needs so much memory (by default 4 GiB, or half of the machine's memory if that is
        less; on Linux). See :mod:`anomalyvae.recordings.guard`.
    """

    databases: Databases
    timeout_s: float | None
    memory_gib: float | None


def given(options: ReadOptions, names: Iterable[str] = ReadOptions.__annotations__) -> dict[str, Any]:
    """The options with these names that have a value, in a form that can be hashed and sent to other processes.

    Databases are pairs of a bus ("" for any) and an absolute path; other options of several values are tuples.
    Raises TypeError for an option that does not exist.
    """
    unknown = sorted(options.keys() - ReadOptions.__annotations__.keys())
    if unknown:
        known = ", ".join(ReadOptions.__annotations__)
        raise TypeError(f"Got the unknown option {unknown[0]!r}, expected one of {known}. Correct its name.")
    found: dict[str, Any] = {name: options.get(name) for name in names if options.get(name) is not None}
    for name in found.keys() & {"exclude", "na"}:
        found[name] = (found[name],) if isinstance(found[name], str) else tuple(found[name])
    if "databases" in found:
        found["databases"] = database_files(found["databases"])
        if not found["databases"]:
            del found["databases"]
    return found


def database_files(databases: Databases) -> tuple[tuple[str, str], ...]:
    """Pairs of a bus ("" for any bus) and the absolute path of a database for it."""
    if databases is None:
        return ()
    if isinstance(databases, Mapping):
        return tuple((str(bus), path) for bus, files in databases.items() for _, path in database_files(files))
    if isinstance(databases, str | PathLike):
        return (("", abspath(databases)),)
    return tuple(item if isinstance(item, tuple) else ("", abspath(item)) for item in databases)
