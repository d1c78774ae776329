"""Files to score: which ones there are, and their rows in slabs, so that memory stays bounded, however long a file."""

import csv
import os
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

_CELLS, _LEAST = 2**20, 1024  # of a slab: 8 MB of doubles, but some rows however wide
_CSV_BLOCK = 2**23  # bytes
_BUFFER = 2**20  # bytes of a column at a time: by default pyarrow holds a whole row group, however large
TABLES = (".parquet", ".csv")
# What pandas takes for missing when it reads a CSV, as most training tables were read.
_MISSING = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip


class Slab(NamedTuple):
    """Some rows of a file, in order.

    Attributes
    ----------
    where : dict of str to array
        Where each row comes from: ``row``, or ``recording``, ``start_s`` and ``end_s``.
    rows : RecordBatch, or ndarray of shape (n, d)
        What the scorer takes.
    read : int
        About how many bytes of the file were read to get here.
    """

    where: dict[str, Any]
    rows: Any
    read: int


Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def inputs_of(source: Source, recordings: bool, target: Path) -> tuple[Path, list[str], int]:
    """Find what there is to score.

    Returns
    -------
    root : Path
        The folder that names are relative to: the source's own, what stands before the first wildcard of a pattern,
        or, of several sources, the folder that holds them all.
    names : list of str
        Files with a known suffix, sorted; hidden ones, and those that begin with an underscore, are left out.
    passed_over : int
        How many files have another suffix.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If ``target`` lies inside of a folder of ``source``: its scores would be scored the next time.
    """
    suffixes = set(TABLES)
    if recordings:
        from anomalyvae.recordings import READERS

        suffixes |= set(READERS)
    roots, found = [], []
    for item in [source] if isinstance(source, str | os.PathLike) else source:
        root, files = _find(os.fspath(item))
        if target.is_relative_to(root.resolve()) and (os.path.isdir(item) or target == root.resolve()):
            raise ValueError(f"Got the target {target} inside of the source {item}, expected it elsewhere. Move it.")
        roots.append(root.resolve())
        found += [root.resolve() / file.relative_to(root) for file in files if not _hidden(file.relative_to(root))]
    top = Path(os.path.commonpath(roots))
    names = sorted({file.relative_to(top).as_posix() for file in found})
    known = [name for name in names if Path(name).suffix.lower() in suffixes]
    if not known:
        raise FileNotFoundError(
            f"Got {source} with {len(names)} files, expected some that end in {', '.join(sorted(suffixes))}. Check "
            "the path."
        )
    return top, known, len(names) - len(known)


def _find(pattern: str) -> tuple[Path, list[Path]]:
    path = Path(pattern)
    if path.is_dir():
        return path, _below(path)
    if path.is_file():
        return path.parent, [path]
    if not has_magic(pattern):
        raise FileNotFoundError(f"Got {pattern}, expected a folder, a file or a pattern. Check the path.")
    fixed = next(i for i, part in enumerate(path.parts) if has_magic(part))
    hits = [Path(hit) for hit in glob(pattern, recursive=True)]
    return Path(*path.parts[:fixed]), [file for hit in hits for file in (_below(hit) if hit.is_dir() else [hit])]


def _below(folder: Path) -> list[Path]:
    return [Path(place, name) for place, _, files in os.walk(folder) for name in files]


def _hidden(relative: Path) -> bool:
    return any(part.startswith((".", "_")) for part in relative.parts)


def slabs_of(root: Path, name: str, metadata: dict[str, Any], databases: Sequence[str] | None = None) -> Iterator[Slab]:
    """The rows of a file, or the windows of a recording, as a model takes them.

    Parameters
    ----------
    root, name
        Folder, and path of the file below it.
    metadata : dict
        Of the scorer.
    databases : sequence of str, optional
        Files that say what the messages of a vehicle bus mean.

    Raises
    ------
    ValueError
        If the file cannot be read, lacks a column or signal, has one in another unit, or has no row.
    """
    path = root / name
    if metadata["windowing"] is not None:
        return _windows(path, name, metadata, databases)
    batches = _csv_batches(path, metadata) if path.suffix.lower() == ".csv" else _parquet_batches(path, metadata)
    return _rows(path, batches, metadata, _partition(name))


def _rows(
    path: Path, batches: Iterator[tuple[pa.RecordBatch, int]], metadata: dict[str, Any], partition: dict[str, str]
) -> Iterator[Slab]:
    first, kinds = 0, metadata["kinds"]
    try:
        for batch, read in batches:
            for column in metadata["columns"] or ():
                if column in partition and column not in batch.schema.names:
                    text = kinds.get(column) is not None
                    value = partition[column] if text else float(partition[column])
                    batch = batch.append_column(column, pa.repeat(value, len(batch)))
            yield Slab({"row": np.arange(first, first + len(batch))}, batch, read)
            first += len(batch)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # pyarrow's own have no number
            raise
        raise ValueError(f"It cannot be read: {error}") from error
    if not first:
        raise ValueError("Got no row, expected some.")


def _partition(name: str) -> dict[str, str]:
    """What a path says of its rows, as in ``vehicle=7/part.parquet``."""
    pairs = (part.partition("=") for part in Path(name).parts[:-1])
    return {key: unquote(value) for key, equals, value in pairs if equals}


def _parquet_batches(path: Path, metadata: dict[str, Any]) -> Iterator[tuple[pa.RecordBatch, int]]:
    size = path.stat().st_size
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER) as file:
        names = file.schema_arrow.names
        columns = _present(metadata, names, _partition(path.as_posix()))
        whole, done = max(file.metadata.num_rows, 1), 0
        for batch in file.iter_batches(max(_LEAST, _CELLS // max(len(columns), 1)), columns=columns, use_threads=False):
            done += len(batch)
            yield batch, size * done // whole


def _csv_batches(path: Path, metadata: dict[str, Any]) -> Iterator[tuple[pa.RecordBatch, int]]:
    with path.open("rb") as file:
        header = file.readline(1 << 20).decode("utf-8-sig")
        if not header.strip():
            raise ValueError("Got no header line, expected the columns' names. Add them.")
        names = next(csv.reader([header.rstrip("\r\n")]))
        columns = _present(metadata, names, _partition(path.as_posix()))
        file.seek(0)
        types = {"number": pa.float64(), "text": pa.string(), "bool": pa.bool_()}
        kinds = {name: types[metadata["kinds"].get(name, "number")] for name in columns}
        options = pacsv.ConvertOptions(
            column_types=kinds, include_columns=columns, null_values=_MISSING, strings_can_be_null=True
        )
        try:
            reader = pacsv.open_csv(file, pacsv.ReadOptions(block_size=_CSV_BLOCK), convert_options=options)
        except pa.ArrowInvalid as error:
            if "Empty CSV file" in str(error):
                return
            raise
        for batch in reader:
            yield batch, file.tell()


def _present(metadata: dict[str, Any], names: list[str], partition: dict[str, str]) -> list[str]:
    """The columns that the model takes of a file that has these; an error if some are nowhere."""
    if metadata["columns"] is None:
        return names
    missing = [name for name in metadata["columns"] if name not in names and name not in partition]
    if missing:
        raise ValueError(f"Got no {', '.join(map(repr, missing))}, expected these columns. It has {', '.join(names)}.")
    return [name for name in metadata["columns"] if name in names]


def _windows(path: Path, name: str, metadata: dict[str, Any], databases: Sequence[str] | None) -> Iterator[Slab]:
    from anomalyvae.recordings import WindowRecipe, stream_windows

    recipe = WindowRecipe.from_dict(metadata["windowing"])
    size = path.stat().st_size
    recording = Path(name).with_suffix("").as_posix()
    _refuse_empty(path)
    for windows in stream_windows(path, recipe, recording=recording, databases=databases):
        refuse_units(windows.units, metadata)
        if len(windows):
            yield Slab({str(name): span for name, span in windows.spans.items()}, windows.rows.to_numpy(), size)


def refuse_units(units: dict[str, str], metadata: dict[str, Any]) -> None:
    """Refuse signals that a recording has in another unit than the model has learned."""
    for signal, unit in units.items():
        learned = metadata["units"].get(signal, unit)
        if learned != unit:
            raise ValueError(f"Got signal {signal!r} in {unit}, expected {learned}, as in training. Convert it.")


def _refuse_empty(path: Path) -> None:
    """Tell a recording without a sample from one that is too short for a window."""
    if path.suffix.lower() == ".csv":
        with path.open("rb") as file:
            empty = not file.readline().strip() or not any(line.strip() for line in file)
    else:
        try:
            empty = path.suffix.lower() == ".parquet" and not pq.read_metadata(path).num_rows
        except pa.ArrowException as error:
            raise ValueError(f"It cannot be read: {error}") from error
    if empty:
        raise ValueError("Got no row, expected some.")
