"""Tables and recordings that are named on the command line, read and written."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from anomalyvae.recordings import WindowRecipe


def read_rows(
    files: Sequence[str],
    recipe: "WindowRecipe | None",
    columns: Sequence[str] | None,
    databases: Sequence[str] | None = None,
) -> "tuple[pd.DataFrame, pd.DataFrame, dict[str, str]]":
    """Read files into rows for a model; say of each row where it came from, and of signals in which unit they are."""
    import pandas as pd

    if recipe is not None:
        from anomalyvae.recordings import read_windows

        windows = read_windows(files, recipe, databases=databases)
        return windows.rows, windows.spans, windows.units
    tables = {}
    for file in files:
        tables[file] = read_table(Path(file), columns)
        columns = columns or list(tables[file].columns)  # the first file says what the others must have
    rows = pd.concat(list(tables.values()), ignore_index=True)
    where = [pd.DataFrame({"file": file, "row": range(len(table))}) for file, table in tables.items()]
    return rows, where[0][["row"]] if len(where) == 1 else pd.concat(where, ignore_index=True), {}


def read_table(path: Path, columns: Sequence[str] | None) -> "pd.DataFrame":
    """Read a table."""
    import pandas as pd

    from anomalyvae.recordings.log import nearest

    readers: dict[str, Callable[..., Any]] = {".parquet": pd.read_parquet, ".csv": pd.read_csv}
    if path.suffix.lower() not in readers:
        raise ValueError(f"Got {path}, expected a table: {' or '.join(readers)}. Convert it.")
    try:
        table = readers[path.suffix.lower()](path)
    except ValueError as error:  # pandas' and pyarrow's own messages name no file
        raise ValueError(f"Got {path}, which cannot be read as a table: {error}") from error
    if columns is not None:
        missing = [name for name in columns if name not in table.columns]
        if missing:
            hint = nearest(missing[0], map(str, table.columns))
            raise ValueError(f"Got {path} without {', '.join(missing)}, expected these columns. {hint}")
        table = table[list(columns)]
    return table


WRITERS: "dict[str, Callable[[pd.DataFrame, Path], None]]" = {
    ".parquet": lambda table, path: table.to_parquet(path, index=False),
    ".csv": lambda table, path: table.to_csv(path, index=False),
}


def writer(out: str) -> "Callable[[pd.DataFrame], None]":
    """Check the name now, so that nothing is computed in vain; what comes back writes a table whole or not at all."""
    path = Path(out)
    if path.suffix not in WRITERS:
        raise ValueError(f"Got {path}, expected a name that ends in .parquet or .csv. Rename it.")

    def write(table: "pd.DataFrame") -> None:
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            WRITERS[path.suffix](table, fresh)
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)

    return write
