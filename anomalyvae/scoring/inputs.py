"""Files to score: finding them, and reading their rows in batches, so that memory is bounded for any length."""

import io
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from glob import glob, has_magic
from pathlib import Path
from typing import Any, NamedTuple, Unpack
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anomalyvae.options import TABLE_OPTIONS, ReadOptions, given
from anomalyvae.scoring.columns import quoted
from anomalyvae.tables.files import CsvFile
from anomalyvae.tables.names import OR_EXCLUDE, nearest, refuse_repeated
from anomalyvae.tables.packed import open_csv, suffix_of
from anomalyvae.tables.parquet import parquet_file
from anomalyvae.tables.rows import AS_WRITTEN, TABLES, column_names, typed_tables
from anomalyvae.untrusted import listed

_CELLS, _LEAST = 2**20, 1024  # of a batch: 8 MB of doubles, but at least so many rows
_BUFFER = 2**20  # bytes of a column at a time; by default pyarrow reads a whole row group, however large
UNKNOWN = "unknown"  # column of scores: the identifiers of a vehicle bus in a window that were not there in training
_EMPTY = "It has no rows. Leave it out."
_NO_CELL = "__HIVE_DEFAULT_PARTITION__"  # as Hive, Spark and Arrow write a missing cell in a path

_PACKED = (".gz", ".zst", ".zstd", ".bz2", ".xz", ".lz4", ".zip", ".7z", ".rar")
# Kinds of files that often lie beside data and hold none.
_BESIDE = {".json", ".toml", ".yaml", ".yml", ".md", ".rst", ".html", ".pdf", ".png", ".jpg", ".jpeg", ".svg", ".py",
           ".ipynb", ".sh", ".ini", ".dbc", ".arxml", ".kcd", ".sym", ".onnx"}  # fmt: skip
_NOTES = ("readme", "license", "licence", "changelog", "thumbs.db")  # their names, or beginnings of them

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class Batch(NamedTuple):
    """Consecutive rows of a file."""

    where: dict[str, Any]  # of each row: "row" and columns to keep, or recording, start_s, end_s and, of a bus, UNKNOWN
    rows: Any  # a RecordBatch, or an array of shape (n, d)
    start: datetime | None = None  # the moment (UTC) from which the times of a recording count, if its file gives it
    sparse: str | None = None  # of the last windows of a recording: why they cover few of its seconds, if so


class Inputs(NamedTuple):
    """Files to read."""

    # The folder that names are relative to: the source folder, the part of a pattern before its first wildcard, or the
    # common folder of several sources.
    root: Path
    names: list[str]  # files with a known suffix, sorted, without those that are hidden or begin with an underscore
    passed_over: int  # how many files have another suffix
    unread: dict[str, str]  # names that cannot be read, and why: links, locked folders, pipes


def find_inputs(source: Source, recordings: bool, target: Path) -> Inputs:
    """Find the files to read; ``target`` is where results go.

    Raises FileNotFoundError if there is none, and ValueError if ``target`` lies inside a folder of ``source``: the next
    run would score its scores.
    """
    suffixes = set(TABLES)
    if recordings:
        from anomalyvae.recordings import READERS

        suffixes |= set(READERS)
    roots, found = [], []
    faults: dict[Path, str] = {}
    sources = [source] if isinstance(source, str | os.PathLike) else [*source]
    for item in sources:
        root, files = _find(os.fspath(item), faults)
        if target.is_relative_to(root.resolve()) and (os.path.isdir(item) or target == root.resolve()):
            raise ValueError(f"The target {target} lies inside the source {item}. Choose a folder elsewhere.")
        roots.append(root.resolve())
        found += [root.resolve() / file.relative_to(root) for file in files if not _hidden(file.relative_to(root))]
    top = Path(os.path.commonpath(roots))
    names = sorted({file.relative_to(top).as_posix() for file in found})
    known = [name for name in names if suffix_of(Path(name)) in suffixes]
    faults |= {top / name: why for name in known if (why := _why_unreadable(top, name))}
    unread = {path.relative_to(top).as_posix(): why for path, why in faults.items() if path.is_relative_to(top)}
    read = [name for name in known if name not in unread]
    kinds = _kinds(sorted({*names} - {*known}))
    if not read:
        reasons = "".join(f" {name}: {why}" for name, why in unread.items())
        where = " and ".join(map(str, sources))
        remedy = "Unpack or convert them, or check the path." if kinds else "Check the path."
        raise FileNotFoundError(
            f"{where} has {len(names)} files{kinds and f' ({kinds})'}, but none to read that ends in "
            f"{', '.join(sorted(suffixes))}.{reasons} {remedy}"
        )
    if kinds:
        warnings.warn(
            f"Files of other kinds in {' and '.join(map(str, sources))} are not read: {kinds}. Unpack or convert them "
            "to CSV or Parquet if they hold data.",
            stacklevel=3,
        )
    return Inputs(top, read, len(names) - len(known), unread)


def _why_unreadable(folder: Path, name: str) -> str:
    """Why a file cannot be read, without opening it; empty if nothing is wrong with it."""
    path = folder / name
    if name.encode(errors="ignore").decode() != name:
        return "Its name is not UTF-8. Rename it."
    if not path.exists():
        return "It is a link to a file that does not exist. Remove or repair the link."
    return "" if path.is_file() or path.is_dir() else "It is a pipe or a device, not a file. Move it elsewhere."


def _kinds(names: Iterable[str]) -> str:
    """How many of some files are of each kind, by suffix; those that never hold data are left out."""
    counts: Counter[str] = Counter()
    for name in map(str.lower, names):
        path = Path(name)
        packed = "".join(path.suffixes[-2:]) if path.suffix in _PACKED else path.suffix
        if path.suffix not in _BESIDE and not path.name.startswith(_NOTES):
            counts[packed or "without a suffix"] += 1
    return listed(f"{count:,} {kind}" for kind, count in counts.most_common())


def recording_of(name: str) -> str:
    """The name of the recording in a file."""
    return Path(name).with_suffix("").as_posix()


def of_one_name(names: list[str]) -> dict[str, str]:
    """Files whose recordings have the name of another before them, and what is said of each."""
    first: dict[str, str] = {}
    return {
        name: f"It is recording {recording_of(name)!r}, as is {first[recording_of(name)]}. Rename it, or leave it out."
        for name in names
        if first.setdefault(recording_of(name), name) != name
    }


def _find(pattern: str, faults: dict[Path, str]) -> tuple[Path, list[Path]]:
    path = Path(pattern)
    if path.is_dir():
        return path, _below(path, faults)
    if path.is_file():
        return path.parent, [path]
    if not has_magic(pattern):
        raise FileNotFoundError(f"{pattern} does not exist. Pass a folder, a file or a pattern.")
    fixed = next(i for i, part in enumerate(path.parts) if has_magic(part))
    hits = [Path(hit) for hit in glob(pattern, recursive=True)]
    return Path(*path.parts[:fixed]), [
        file for hit in hits for file in (_below(hit, faults) if hit.is_dir() else [hit])
    ]


def _below(folder: Path, faults: dict[Path, str]) -> list[Path]:
    """The files in a folder and those below it; folders that cannot be entered are added to ``faults``."""

    def note(error: OSError) -> None:
        faults[Path(error.filename).resolve()] = f"The folder cannot be read ({error.strerror}). Check its permissions."

    found = []
    for parent, folders, files in os.walk(folder, onerror=note):
        found += [Path(parent, name) for name in files]
        for name in folders:
            inner = Path(parent, name)
            if inner.is_symlink() and not _hidden(inner.relative_to(folder)):
                faults[inner.parent.resolve() / name] = (
                    "It is a link to a folder, which is not followed. Pass that folder as another source."
                )
    return found


def _hidden(relative: Path) -> bool:
    return any(part.startswith((".", "_")) for part in relative.parts)


def batches_of(
    root: Path, name: str, metadata: dict[str, Any], keep: Sequence[str] = (), **options: Unpack[ReadOptions]
) -> Iterator[Batch]:
    """The rows of a table, or the windows of a recording, as a model takes them.

    The file ``name`` lies below the folder ``root``; ``metadata`` is that of the scorer. Columns of a table to ``keep``
    are given back in `Batch.where`, beside ``row``.

    Raises ValueError if the file cannot be read, lacks a column or signal, has one in another unit, or has no row.
    """
    path = root / name
    if metadata["windowing"] is not None:
        return _windows(path, name, metadata, options)
    return _rows(path, metadata, keep, given(options, TABLE_OPTIONS))


# Tables


def _rows(path: Path, metadata: dict[str, Any], keep: Sequence[str], options: dict[str, Any]) -> Iterator[Batch]:
    first, kinds, partition = 0, metadata["kinds"], _partition(path)
    read = _parquet_batches if path.suffix.lower() == ".parquet" else _csv_batches
    try:
        for table in read(path, metadata, keep, options):
            learned = metadata["columns"] or ()
            for column in dict.fromkeys([*learned, *keep]):
                if column in partition and column not in table.schema.names:
                    text = kinds.get(column) is not None or column not in learned
                    value = pa.scalar(partition[column], pa.string())
                    table = table.append_column(column, pa.repeat(value if text else value.cast("double"), len(table)))
            where = {"row": np.arange(first, first + len(table)), **{name: table[name] for name in keep}}
            yield Batch(where, table.drop_columns([name for name in keep if name not in learned]))
            first += len(table)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # pyarrow's own have no number
            raise
        raise ValueError(f"It cannot be read: {error}") from error
    if not first:
        raise ValueError(_EMPTY)


def _partition(path: Path) -> dict[str, str | None]:
    """The columns that a path defines, as in ``vehicle=7/part.parquet``; None is a missing cell."""
    pairs = (part.partition("=") for part in path.parts[:-1])
    return {key: None if value == _NO_CELL else unquote(value) for key, equals, value in pairs if equals}


def _parquet_batches(
    path: Path, metadata: dict[str, Any], keep: Sequence[str], options: dict[str, Any]
) -> Iterator[pa.RecordBatch]:
    with parquet_file(path, pre_buffer=False, buffer_size=_BUFFER) as file:
        names, excluded = file.schema_arrow.names, options.get("exclude", ())
        present = [name for name in names if name not in excluded]
        refuse_repeated(present, path, OR_EXCLUDE)
        columns = _present(metadata, present, path, keep)
        columns += _kept_by(names, keep, path, columns)
        rows = max(_LEAST, _CELLS // max(len(columns), 1))
        yield from file.iter_batches(rows, columns=columns, use_threads=False)


def _csv_batches(
    path: Path, metadata: dict[str, Any], keep: Sequence[str], options: dict[str, Any]
) -> Iterator[pa.RecordBatch]:
    file = CsvFile(path, **{name: value for name, value in options.items() if name not in ("time", "exclude")})
    columns = _present(metadata, column_names(file, options.get("exclude", ())), path, keep)
    kept = _kept_by(column_names(file), keep, path, columns)
    kinds = metadata["kinds"] | dict.fromkeys(kept, AS_WRITTEN)
    for table in typed_tables(file, [*columns, *kept], kinds):
        yield from table.combine_chunks().to_batches()


def _kept_by(names: list[str], keep: Sequence[str], path: Path, columns: list[str]) -> list[str]:
    """The columns to keep that are not of the model; an error if neither the file nor its path has one of them."""
    missing = [name for name in keep if name not in names and name not in _partition(path)]
    if missing:
        raise ValueError(
            f"It has no column {', '.join(map(repr, missing))} to keep. {nearest(missing[0], names)} Correct keep= "
            "(--keep)."
        )
    return [name for name in keep if name in names and name not in columns]


def _present(metadata: dict[str, Any], names: list[str], path: Path, keep: Sequence[str]) -> list[str]:
    """The model's columns that a file has; an error if neither the file nor its path has one of them."""
    if metadata["columns"] is None:
        return [name for name in names if name not in keep]
    partition = _partition(path)
    missing = [name for name in metadata["columns"] if name not in names and name not in partition]
    if missing:
        hints = " ".join(f"{name}: {nearest(name, names)}" for name in missing[:5])
        raise ValueError(f"It lacks the columns {quoted(missing)} of the model. Rename or add them. {hints}")
    return [name for name in metadata["columns"] if name in names]


# Recordings


def _windows(path: Path, name: str, metadata: dict[str, Any], options: ReadOptions) -> Iterator[Batch]:
    from anomalyvae.recordings import WindowRecipe, stream_windows

    recipe = WindowRecipe.from_dict(metadata["windowing"])
    recording = recording_of(name)
    _refuse_empty(path)
    for windows in stream_windows(path, recipe, recording=recording, **options):
        refuse_units(windows.units, metadata)
        if not len(windows):
            raise ValueError(windows.without[recording])
        start = windows.starts.get(recording)
        where: dict[str, Any] = {str(name): span for name, span in windows.spans.items()}
        if windows.unknown is not None:
            where[UNKNOWN] = windows.unknown
        yield Batch(where, windows.rows.to_numpy(), start, windows.sparse.get(recording))


def refuse_units(units: dict[str, str], metadata: dict[str, Any]) -> None:
    """Refuse signals in another unit than in training."""
    for signal, unit in units.items():
        learned = metadata["units"].get(signal, unit)
        if learned != unit:
            raise ValueError(f"Signal {signal!r} is in {unit}, expected {learned}, as in training. Convert it.")


def _refuse_empty(path: Path) -> None:
    """Refuse a recording without samples."""
    if suffix_of(path) in (".csv", ".csv.gz"):
        with io.TextIOWrapper(open_csv(path), encoding="latin-1") as file:  # lines may end with CR alone
            empty = not file.readline().strip() or not any(line.strip() for line in file)
    else:
        try:
            empty = path.suffix.lower() == ".parquet" and not pq.read_metadata(path).num_rows
        except pa.ArrowException as error:
            raise ValueError(f"It cannot be read: {error}") from error
    if empty:
        raise ValueError(_EMPTY)
