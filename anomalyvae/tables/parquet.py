"""Parquet files, whose footer says some things twice: names and rows must agree, and pages fit their checksums."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import pyarrow.parquet as pq


def parquet_file(path: Path, **options: Any) -> pq.ParquetFile:
    """Open a Parquet file to read its pages with their checksums, if it has any.

    Raises
    ------
    pyarrow.ArrowInvalid
        The row groups have other rows or names of columns than the file says.
    """
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path, page_checksum_verification=True, **options)
    said = file.metadata
    groups = [said.row_group(number) for number in range(said.num_row_groups)]
    wrong = ""
    rows = sum(group.num_rows for group in groups)
    if rows != said.num_rows:
        wrong = f"it says that it has {said.num_rows:,} rows, and its row groups have {rows:,}"
    for number in range(said.num_columns if groups else 0):
        name = file.schema.column(number).path
        other = {group.column(number).path_in_schema for group in groups} - {name}
        if other:
            wrong = f"its column {name!r} is {min(other)!r} in a row group"
    if wrong:
        file.close()
        raise pa.ArrowInvalid(wrong)
    return file
