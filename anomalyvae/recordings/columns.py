"""The columns of a table of a recording: which ones are read, and their cells as numbers.

The rules are in :mod:`anomalyvae.recordings.tabular`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from anomalyvae.recordings.log import UNIT_KEY
from anomalyvae.recordings.stamps import FIRST_ROWS, Column, find_time_column, first_text
from anomalyvae.tables.cells import is_text, marked_missing, numbers_in_text
from anomalyvae.tables.names import OR_EXCLUDE, nearest, refuse_repeated, split_unit

_SHARED = 3  # samples of a signal at one stamp, usually: then its stamps are too coarse


class Columns(NamedTuple):
    """The columns to read from a table."""

    source: str  # how errors name the table
    stamp: Column
    signals: list[Column]

    @property
    def raw(self) -> list[str]:
        """Their names in the table."""
        return [self.stamp.raw, *(column.raw for column in self.signals)]

    @property
    def time(self) -> str:
        """How errors name the time column."""
        return f"column {self.stamp.raw!r} of {self.source}"


def choose_columns(
    schema: pa.Schema,
    source: str,
    time: str | None,
    wanted: list[str] | None,
    exclude: Iterable[str] = (),
    decimal: str = "",
    missing: tuple[str, ...] = (),
) -> Columns:
    """Return the time column and the columns of the wanted signals, by default of all.

    A wanted signal may have its name with or without the unit. ``decimal`` and ``missing`` are those of text.
    """
    columns, excluded = [], set(exclude)
    split = [split_unit(field.name) for field in schema]
    for field, (name, unit) in zip(schema, split, strict=True):
        if "(" in field.name and [other for other, _ in split].count(name) > 1:
            name, unit = field.name.strip(), ""  # Speed (km/h) beside Speed (mph)
        unit = (field.metadata or {}).get(UNIT_KEY, b"").decode("utf-8", "replace") or unit
        if not excluded & {name, field.name.strip()}:
            name = field.name.strip() if field.name.strip() in (wanted or ()) else name
            columns.append(Column(field.name, name, unit, field.type, decimal, missing))
    known = [column.name for column in columns if column.name]
    refuse_repeated(known, source, OR_EXCLUDE)
    stamp = find_time_column(columns, time, source)
    names = known if wanted is None else wanted
    for name in wanted or ():
        if name not in known:
            raise ValueError(f"{source} has no column for signal {name!r}. {nearest(name, known)}")
        if name == stamp.name:
            raise ValueError(f"{name!r} is the time column of {source}, not a signal. Leave it out of the signals.")
    return Columns(source, stamp, [c for c in columns if c.name in names and c.raw != stamp.raw])


def with_numbers(table: pa.Table, columns: Columns) -> pa.Table:
    """Turn text into numbers, column by column, if all cells of the column are numbers, truth values or missing."""
    by_raw = {column.raw: column for column in (columns.stamp, *columns.signals)}
    for index, name in enumerate(table.column_names):
        cells, column = table[name], by_raw[name]
        if not is_text(cells.type):
            continue
        if name == columns.stamp.raw:
            cells = marked_missing(cells, column.missing)
        else:
            cells = numbers_in_text(cells, decimal=column.decimal, missing=column.missing, words=True)
        table = table.set_column(index, name, cells)
    return table


def read_numbers(table: pa.Table, columns: list[Column], left_out: dict[str, str]) -> list[np.ndarray]:
    """Return the numbers of columns as float64, NaN for an empty cell.

    A column without numbers is all NaN; its name and what it holds are added to ``left_out``.
    """
    found = []
    for column in columns:
        cells = table[column.raw]
        if left_out.get(column.name, "text") == "text":  # "text" alone: no cell was filled so far
            reason = _why_not_numbers(cells, column.decimal)
            if reason:
                left_out[column.name] = reason
        found.append(np.full(len(cells), np.nan) if column.name in left_out else _numbers(cells))
    return found


def _why_not_numbers(cells: pa.ChunkedArray, decimal: str) -> str:
    """Return what a column holds in place of numbers; empty if it holds numbers."""
    kind = cells.type.value_type if pa.types.is_dictionary(cells.type) else cells.type
    if is_text(kind):
        sample = first_text(cells.cast(kind), decimal)
        return f"text such as {sample[:40]!r}" if sample else "text"
    numeric = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        pa.types.is_decimal,
        pa.types.is_null,
    )
    return "" if any(is_kind(kind) for is_kind in numeric) else f"values of type {kind}"


def _numbers(cells: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_boolean(cells.type):
        cells = cells.cast(pa.uint8())
    return cells.cast(pa.float64(), safe=False).to_numpy()


def refuse_coarse(head: list[pa.Table], columns: Columns) -> None:
    """Refuse stamps that several samples of a signal usually share: their order in time is not known."""
    stamps = pa.concat_tables([table.select([columns.stamp.raw]) for table in head])[0][:FIRST_ROWS]
    codes = pd.factorize(stamps.to_pandas())[0]
    if not len(codes) or codes.max() + 1 > 0.7 * len(codes):
        return
    shared = 0.0
    for column in columns.signals:
        filled = np.concatenate([table[column.raw].is_valid().to_numpy() for table in head])[: len(codes)]
        filled &= codes >= 0
        counts = np.bincount(codes[filled], minlength=codes.max() + 1)
        inner = counts[1:-1] if len(counts) > 2 else counts
        shared = max(shared, float(np.median(inner[inner > 0])) if (inner > 0).any() else 0.0)
    if shared >= _SHARED and len(codes) >= 2 * _SHARED:
        raise ValueError(
            f"{columns.time} has the same stamp, such as {str(stamps.drop_null()[0])!r}, "
            f"in usually {shared:g} rows; when each of them was measured is not known. Export stamps with more digits, "
            f"or name another column by time= (--time)."
        )
