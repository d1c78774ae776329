"""Options of reading: what decides where a file does not show it. All callers pass them on as keyword arguments."""

from collections.abc import Iterable
from os import PathLike
from os.path import abspath
from typing import Any, TypedDict

Databases = str | PathLike[str] | Iterable[str | PathLike[str]] | None

TABLE_OPTIONS = ("time",)  # for CSV and Parquet
BUS_OPTIONS = ("databases",)  # for MF4 and CAN logs


class ReadOptions(TypedDict, total=False):
    """How files are read. Every function that reads files takes these keyword arguments.

    Parameters
    ----------
    time : str, optional
        The time column of a table, if its name does not show it, or with its unit: ``"ticks [ms]"``.
    databases : path-like, or iterable of path-like, optional
        DBC, ARXML, KCD or SYM files that describe the messages of a vehicle bus. For MF4 and CAN logs.
    """

    time: str | None
    databases: Databases


def given(options: ReadOptions, names: Iterable[str] = ReadOptions.__annotations__) -> dict[str, Any]:
    """The options with these names that have a value, in a form that can be hashed and sent to other processes.

    Databases are a tuple of absolute paths.

    Raises
    ------
    TypeError
        For an option that does not exist.
    """
    unknown = sorted(options.keys() - ReadOptions.__annotations__.keys())
    if unknown:
        known = ", ".join(ReadOptions.__annotations__)
        raise TypeError(f"Got the unknown option {unknown[0]!r}, expected one of {known}. Correct its name.")
    found: dict[str, Any] = {name: options.get(name) for name in names if options.get(name) is not None}
    if "databases" in found:
        files = found["databases"]
        found["databases"] = tuple(map(abspath, [files] if isinstance(files, str | PathLike) else files))
        if not found["databases"]:
            del found["databases"]
    return found
