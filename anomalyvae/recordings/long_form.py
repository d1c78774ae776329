"""Tables with one value per row: time, name of a signal, value, unit."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from anomalyvae.recordings.log import UNIT_KEY
from anomalyvae.tables.files import CsvFile

_LONG = ({"pid", "signal", "parameter", "sensor", "name", "channel"}, {"value"}, {"units", "unit"})
Explain = Callable[[str], str]  # from a column's name in the table to a sentence about its cells


def long_places(names: tuple[str, ...]) -> list[int] | None:
    """Return the places of the signals' names, values and units in rows of one value each; None for other tables."""
    folded = [name.strip().casefold() for name in names]
    found = [next((i for i, name in enumerate(folded) if name in known), None) for known in _LONG]
    if len(names) != 4 or None in found:
        return None
    return [place for place in found if place is not None]


def long_form(file: CsvFile, places: list[int]) -> tuple[pa.Schema, Callable[[list[str]], Iterator[pa.Table]], Explain]:
    """Return the columns of a table in long form, and functions that read them: a first pass finds the signals."""
    time = next(place for place in range(4) if place not in places)
    units: dict[str, str] = {}
    for table in file.tables([places[0], places[2]]):
        for name, unit in dict.fromkeys(zip(table[0].to_pylist(), table[1].to_pylist(), strict=True)):
            if name and units.setdefault(name, unit or "") != (unit or ""):
                raise ValueError(
                    f"{file.path} gives {name!r} in {units[name]!r} and in {unit!r}; a signal has one unit. Convert "
                    f"it, or leave it out by exclude= (--exclude)."
                )
    raw = file.dialect.names[time]
    fields = [pa.field(name, pa.string(), metadata={UNIT_KEY: unit}) for name, unit in units.items()]

    def tables(wanted: list[str]) -> Iterator[pa.Table]:
        for table in file.tables([time, places[0], places[1]]):
            cells = [pc.if_else(pc.equal(table[1], name), table[2], None) for name in wanted[1:]]
            yield pa.table([table[0], *cells], wanted)

    def explain(_: str) -> str:
        return str(file.count(places[1]))

    return pa.schema([pa.field(raw, pa.string()), *fields]), tables, explain
