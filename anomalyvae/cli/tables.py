"""Tables that are named on the command line."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def read_tables(files: Sequence[str], columns: Sequence[str] | None) -> "pd.DataFrame":
    """Read tables one below the other. Without `columns`, the first table says which columns all must have."""
    import pandas as pd

    tables: list[pd.DataFrame] = []
    for file in files:
        tables.append(read_table(file, columns))
        columns = columns or list(tables[0].columns)
    return pd.concat(tables, ignore_index=True)


def read_table(file: str, columns: Sequence[str] | None) -> "pd.DataFrame":
    import pandas as pd

    from anomalyvae.recordings.log import nearest

    readers: dict[str, Callable[..., Any]] = {".parquet": pd.read_parquet, ".csv": pd.read_csv}
    suffix = Path(file).suffix.lower()
    if suffix not in readers:
        raise ValueError(f"{file} is not a {' or '.join(readers)} file. Convert it.")
    try:
        table = readers[suffix](file)
    except ValueError as error:  # the messages of pandas and pyarrow do not name the file
        raise ValueError(f"{file} cannot be read as a table: {error}") from error
    if columns is not None:
        missing = [name for name in columns if name not in table.columns]
        if missing:
            hint = nearest(missing[0], map(str, table.columns))
            raise ValueError(f"{file} has no column {', '.join(missing)}. {hint}")
        table = table[list(columns)]
    return table


WRITERS: "dict[str, Callable[[pd.DataFrame, Path], None]]" = {
    ".parquet": lambda table, path: table.to_parquet(path, index=False),
    ".csv": lambda table, path: table.to_csv(path, index=False),
}


def writer(out: str) -> "Callable[[pd.DataFrame], None]":
    """Check the file name before any work. The function that comes back writes a table atomically."""
    path = Path(out)
    if path.suffix not in WRITERS:
        raise ValueError(f"{path} is not a {' or '.join(WRITERS)} file. Rename it.")

    def write(table: "pd.DataFrame") -> None:
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            WRITERS[path.suffix](table, fresh)
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)

    return write
