"""Parquet files, whose footer says some things twice: names and rows must agree, and pages fit their checksums."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq


def parquet_file(path: Path, **options: Any) -> pq.ParquetFile:
    """Open a Parquet file to read its pages with their checksums, if it has any.

    pyarrow.ArrowInvalid is raised if the row groups have other rows or names of columns than the file says.
    """
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path, page_checksum_verification=True, **options)
    said = file.metadata
    groups = [said.row_group(number) for number in range(said.num_row_groups)]
    columns = [file.schema.column(number).path for number in range(said.num_columns if groups else 0)]
    wrong = ""
    rows = sum(group.num_rows for group in groups)
    if rows != said.num_rows:
        wrong = f"it says that it has {said.num_rows:,} rows, and its row groups have {rows:,}"
    elif not _names_each(_footer(path), columns, len(groups)):
        for number, name in enumerate(columns):
            other = {group.column(number).path_in_schema for group in groups} - {name}
            if other:
                wrong = f"its column {name!r} is {min(other)!r} in a row group"
    if wrong:
        file.close()
        raise pa.ArrowInvalid(wrong)
    return file


def parquet_table(path: Path, columns: list[str], where: pc.Expression | None = None) -> pa.Table:
    """Read columns of a Parquet file, and of them the rows ``where`` an expression is true.

    PyArrow's own filter, of `pyarrow.dataset` and of ``filters=``, waits for ever on some damaged footers: it compares
    the figures that they have of each row group. So rows are left out after they are read.
    """
    with parquet_file(path) as file:
        parts = [file.schema_arrow.empty_table().select(columns)]
        for batch in file.iter_batches(columns=columns):
            part = pa.Table.from_batches([batch]).select(columns)
            parts.append(part if where is None else part.filter(where))
    return pa.concat_tables(parts)


def _footer(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-8, os.SEEK_END)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, os.SEEK_END)
        return file.read(length)


def _names_each(footer: bytes, columns: list[str], groups: int) -> bool:
    """Whether the bytes of a footer have the name of each column in each row group.

    PyArrow knows for sure, but where a footer is damaged elsewhere, `RowGroupMetaData.column` ends the process. So it
    is asked only if this is false, as it also is for nested columns and names of more than 127 bytes.
    """
    fields = {name: b"\x19\x18%c%b" % (len(name.encode()) & 127, name.encode()) for name in columns}  # a list of one
    return all(footer.count(fields[name]) >= count * groups for name, count in Counter(columns).items())
