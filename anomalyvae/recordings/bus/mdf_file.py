"""An open measurement file (MDF 3 and 4), by asammdf, whose errors, prints and temporary files stay inside."""

from __future__ import annotations

import gc
import io
import logging
import mmap
import re
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anomalyvae.lazy import not_installed
from anomalyvae.recordings.bus.blocks import check_blocks
from anomalyvae.recordings.stamps import UNIX_FROM_S
from anomalyvae.tables.names import PER_SECOND, time_unit

VARYING = {1, 7}  # types of channels with values of varying length
_BUS_EVENT = 2  # flag of a group of events on a bus
# What asammdf does not read, by its bytes, and what to do.
_VIRTUAL = re.compile(rb"CN.\x00.{20}\x01\x00.{162}\x00\x00", re.DOTALL)  # of MDF 3: a channel of times without bits
_UNREAD = {
    "3": (
        _VIRTUAL,
        "has a virtual time channel, whose times are not stored",
        "Save it as MDF 4.11 with stored times, by the logger's software.",
    ),
    "4": (
        re.compile(b"##LD"),
        "stores its data in columns, as MDF 4.20 can",
        "Save it as MDF 4.11, in rows, by the logger's software.",
    ),
}
_ROWS, _BYTES = 1 << 16, 1 << 23  # read at once


class _UnreadableError(ValueError):
    """asammdf cannot read a file."""


class MdfFile:
    """An open measurement file; each error of asammdf becomes one that names the file."""

    def __init__(self, path: Path, mdf: Any) -> None:
        self.path, self.mdf, self.groups = path, mdf, mdf.groups
        self.is_4 = mdf.version >= "4.00"

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function that uses asammdf."""
        return _call(self.path, function, *args)

    @property
    def start(self) -> pd.Timestamp | None:
        """The start of the recording (UTC if it has no zone); None if its clock was never set."""
        start = pd.Timestamp(self.mdf.header.start_time)
        start = start.tz_localize("UTC") if start.tzinfo is None else start.tz_convert("UTC")
        return start.round("us") if start.timestamp() >= UNIX_FROM_S else None

    def unit(self, number: int, index: int | None) -> str:
        """Return the unit of a channel. It goes before that of the conversion, which channels may share."""
        channel = None if index is None else self.groups[number].channels[index]
        unit = getattr(channel, "unit", "") or getattr(getattr(channel, "conversion", None), "unit", "") or ""
        in_xml = re.search(r"<TX[^>]*>([^<]*)", unit)
        return in_xml[1].strip() if in_xml else str(unit)

    def unit_of_stamps(self, number: int) -> str:
        """Return the unit of the stamps of a group, in one of the spellings in ``PER_SECOND`` if it is one of time."""
        return time_unit(self.unit(number, self.mdf.masters_db.get(number)).strip("[] ").casefold()) or "s"

    def seconds(self, number: int, stamps: np.ndarray) -> np.ndarray:
        """Return stamps of a group in seconds, in which asammdf takes them to be."""
        return stamps / PER_SECOND[self.unit_of_stamps(number)]

    def select(
        self, number: int, indices: list[int], first: int, count: int, *, raw: bool = False, in_numbers: bool = True
    ) -> list[Any]:
        """Return rows of channels of a group, as signals of asammdf; ``in_numbers``, no conversion gives text."""
        asked = [(None, number, index) for index in indices]
        found = self.call(self.mdf.select, asked, first, raw, False, in_numbers, count)
        return list(found)

    def stamp_s(self, number: int, row: int) -> float:
        """Return the stamp of a row of a group."""
        found = self.call(self.mdf.get_master, number, None, row, 1)
        if not len(found):
            raise ValueError(
                f"Group {number} of {self.path} ends before row {row:,} of the "
                f"{self.groups[number].channel_group.cycles_nr:,} in its header. Copy the file again."
            )
        return float(self.seconds(number, found)[0])

    def steps(self, number: int) -> Iterator[tuple[int, int]]:
        """Yield the first row and the number of rows of a group to read at once."""
        group = self.groups[number].channel_group
        step = max(1, min(_ROWS, _BYTES // max(group.samples_byte_nr, 1)))
        for first in range(0, group.cycles_nr, step):
            yield first, min(step, group.cycles_nr - first)

    def has_bus_events(self, number: int) -> bool:
        """Whether a group says that it holds events on a bus."""
        flags = getattr(self.groups[number].channel_group, "flags", 0)
        return bool(flags & _BUS_EVENT) and self.mdf.version >= "4.10"


@contextmanager
def open_mdf(path: Path) -> Iterator[MdfFile]:
    """Open a measurement file; close it and remove temporary files afterwards."""
    try:
        from asammdf import MDF
    except ImportError as error:
        raise not_installed(error, "reading measurement files", "anomalyvae[logs]") from error
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty, not a measurement file. Record it again.")
    check_blocks(path)
    with tempfile.TemporaryDirectory(prefix="anomalyvae-") as folder:
        source, mode = path, "rb"
        with path.open("rb") as file:
            if file.read(8) == b"UnFinMF ":  # asammdf completes it in place, so in a copy
                source, mode = Path(shutil.copyfile(path, Path(folder) / path.name)), "r+b"
        with source.open(mode) as file:
            mdf = _call(path, MDF, file, temporary_folder=folder, process_bus_logging=False, use_display_names=False)
            try:
                yield MdfFile(path, mdf)
            finally:
                _call(path, mdf.close)


def _call(path: Path, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call asammdf without what it prints; turn any of its errors into one that names the file."""
    logger = logging.getLogger("asammdf")
    disabled, logger.disabled = logger.disabled, True
    try:
        with redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
            return function(*args, **kwargs)
    except _UnreadableError:
        raise
    except Exception as error:  # asammdf raises errors of any type
        traceback.clear_frames(error.__traceback__)  # they hold files, as do cycles of asammdf's objects,
        gc.collect()  # and the folder of these files is about to be removed
        repair = "Repair the file with the logger's software, or copy it again."
        what, remedy = _unread(path) or ("cannot be read as MDF", repair)
        said = f"{path} {what} ({type(error).__name__}: {str(error)[:200]}). {remedy}"
        raise _UnreadableError(said) from error
    finally:
        logger.disabled = disabled


def _unread(path: Path) -> tuple[str, str] | None:
    """What in this file asammdf does not support, and the remedy; None if nothing such is found: it is damaged."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        pattern, what, remedy = _UNREAD["4" if content[8:9] == b"4" else "3"]
        return (f"{what}; asammdf does not read this", remedy) if pattern.search(content) else None
