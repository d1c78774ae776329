"""Tables with one value per row: time, name of a signal, value and, in some, its unit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from anomalyvae.recordings.log import UNIT_KEY
from anomalyvae.tables.cells import is_number, is_text, numbers_in_text
from anomalyvae.tables.names import index_of_time, split_unit

_NUMBERED = {"pid", "channel"}  # they may have a number in place of a name
_NAMES = _NUMBERED | {"signal", "parameter", "sensor", "name", "variable", "metric", "tag", "signal name"}
_LONG = (_NAMES, {"value"}, {"units", "unit"})
Explain = Callable[[str], str]  # from a column's name in the table to a sentence about its cells
Tables = Callable[[list[str]], Iterator[pa.Table]]  # columns by name, piece by piece


def long_columns(schema: pa.Schema, time: str | None, exclude: Iterable[str]) -> list[int] | None:
    """Return the columns of time, names, values and, if there are any, units; None if rows have several values."""
    indices, others = _split_columns(schema, time, exclude)
    return None if others else indices


def _split_columns(schema: pa.Schema, time: str | None, exclude: Iterable[str]) -> tuple[list[int] | None, list[int]]:
    """Return `long_columns`, and the other columns, by index."""
    folded = [name.strip().casefold().replace("_", " ") for name in schema.names]
    kept = [index for index, name in enumerate(schema.names) if not {name, name.strip()} & set(exclude)]
    found = [next((index for index in kept if folded[index] in known), None) for known in _LONG]
    others = [index for index in kept if index not in found]
    clock = next((index for index in others if _is_clock(schema.field(index), time)), None)
    if None in found[:2] or clock is None:
        return None, []
    others.remove(clock)
    return [clock, *(index for index in found if index is not None)], others


def _is_clock(field: pa.Field, time: str | None) -> bool:
    name = split_unit(field.name)[0]
    if time is not None:
        return bool({time.strip(), split_unit(time)[0]} & {field.name.strip(), name})
    return index_of_time([name]) is not None or pa.types.is_timestamp(field.type)


class Table(NamedTuple):
    """A table with one column per signal, and how its columns are read."""

    schema: pa.Schema
    tables: Tables
    time: str | None
    value: str | None = None  # the column with the values of all signals, if rows have one value each


def one_column_per_signal(
    source: str, schema: pa.Schema, tables: Tables, time: str | None = None, exclude: Iterable[str] = ()
) -> Table:
    """Return a table with a column per signal: as it is, if its rows have several values.

    In long form, a first pass finds the signals. A table in long form with other columns of text is refused: they may
    tell recordings apart.
    """
    indices, others = _split_columns(schema, time, exclude)
    if indices is not None and others:
        _refuse_long([schema.names[index] for index in (*indices[1:3], *others)], tables, source)
    if indices is None or others:
        return Table(schema, tables, time)
    stamp, name, value, *unit = (schema.names[index] for index in indices)
    units: dict[str, str] = {}
    nameless = 0
    for table in tables([name, *unit]):
        texts = [_text(cells) for cells in table.columns]
        if texts[0] is None or (not units and not unit and _are_numbers(texts[0], name)):
            return Table(schema, tables, time)
        nameless += texts[0].null_count
        given = texts[1].to_pylist() if unit and texts[1] is not None else [None] * len(table)
        pairs = dict.fromkeys(zip(texts[0].to_pylist(), given, strict=True))
        _add(units, [pair for pair in pairs if pair[0] not in exclude], source)
    if nameless:
        warnings.warn(
            f"{source} names no signal in {name!r} in {nameless:,} rows, which are left out.",
            stacklevel=4,
        )

    def spread(wanted: list[str]) -> Iterator[pa.Table]:
        for table in tables([stamp, name, value]):
            names = _text(table[1])
            cells = [pc.if_else(pc.equal(names, signal), table[2], None) for signal in wanted[1:]]
            yield pa.table([table[0], *cells], wanted)

    kind = schema.field(value).type
    fields = [pa.field(signal, kind, metadata={UNIT_KEY: unit}) for signal, unit in units.items()]
    return Table(pa.schema([schema.field(stamp), *fields]), spread, time or stamp, value)


def _add(units: dict[str, str], pairs: Iterable[tuple[str | None, str | None]], source: str) -> None:
    """Add signals and their units; refuse a signal that has two."""
    for name, unit in pairs:
        if not name:
            continue
        known = units.get(name, "")
        if unit and known and unit != known:
            raise ValueError(
                f"{source} gives {name!r} in {known!r} and in {unit!r}; a signal has one unit. Convert it, or leave "
                "it out by exclude= (--exclude)."
            )
        units[name] = known or unit or ""


def _refuse_long(columns: list[str], tables: Tables, source: str) -> None:
    """Refuse a table with one value per row if its other columns hold text, after columns of names and values."""
    name, value, *others = columns
    first = next(tables([name, *others]), None)
    texts = [_text(cells) for cells in first.columns] if first is not None else []
    if not texts or any(text is None or not is_text(numbers_in_text(text).type) for text in texts):
        return  # numbers beside others
    if texts[0] is not None and len(texts[0].drop_null().unique()) > 1:
        raise ValueError(
            f"{source} has one value per row, of the signal in {name!r}, and also {', '.join(map(repr, others))}. "
            "Split it, if they tell recordings apart, and leave them out by exclude= (--exclude); leave out "
            f"{name!r} to read {value!r} as one signal."
        )


def _text(cells: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Return text, that of categories too; None if a column holds something else."""
    kind = cells.type.value_type if pa.types.is_dictionary(cells.type) else cells.type
    return cells.cast(pa.string()) if is_text(kind) or pa.types.is_null(kind) else None


def _are_numbers(names: pa.ChunkedArray, header: str) -> bool:
    """Return whether the column that should name signals is one itself."""
    some = names.drop_null().unique().to_pylist()[:20]
    return header.strip().casefold() not in _NUMBERED and bool(some) and all(map(is_number, some))
