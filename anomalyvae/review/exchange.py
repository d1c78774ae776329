"""The queue's events as Parquet and CSV files, exact both ways."""

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from anomalyvae.folders import replacing_file
from anomalyvae.review.database import RENAMED

_TEXT, _NUMBER, _NAMES, _NUMBERS = pa.string(), pa.float64(), pa.list_(pa.string()), pa.list_(pa.float64())
_ENTRY = pa.struct(
    [(name, _TEXT) for name in ("entry_id", "event_id", "verdict", "note", "reviewer", "at", "takes_back")]
)
_SCHEMA = pa.schema(
    {
        **dict.fromkeys(("event_id", "model_id", "source", "file", "recording"), _TEXT),
        **dict.fromkeys(("start_s", "end_s", "peak_start_s", "peak_end_s", "peak_score", "p_value"), _NUMBER),
        "windows": pa.int64(),
        "signals": _NAMES,
        "shares": _NUMBERS,
        "outside": pa.map_(_TEXT, _NUMBER),
        "nearest": _TEXT,
        "nearest_distance": _NUMBER,
        "latent": _NUMBERS,
        "added_at": _TEXT,
        **dict.fromkeys(("verdict", "note", "reviewer", "reviewed_at"), _TEXT),
        "history": pa.list_(_ENTRY),
    }
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")  # what a spreadsheet would run, and the mark against it


def write_events(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write events, one row each, with their histories.

    Parameters
    ----------
    path : Path
        Its suffix is ``.parquet`` or ``.csv``.
    rows : list of dict
        As `Queue.export` makes them.

    Raises
    ------
    ValueError
        For another suffix.
    """
    with replacing_file(_known(path)) as fresh:
        if path.suffix.lower() == ".parquet":
            plain = [{**row, "outside": list(row["outside"].items())} for row in rows]
            pq.write_table(pa.Table.from_pylist(plain, schema=_SCHEMA), fresh)
            return
        with fresh.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL)
            writer.writerow(_SCHEMA.names)
            writer.writerows([_cell(field, row[field.name]) for field in _SCHEMA] for row in rows)


def read_events(path: Path) -> list[dict[str, Any]]:
    """Read what `write_events` has written.

    Raises
    ------
    ValueError
        If the file is something else.
    """
    try:
        if _known(path).suffix.lower() == ".parquet":
            rows = pq.read_table(path, schema=_SCHEMA).to_pylist()
            return [_renamed({**row, "outside": dict(row["outside"])}) for row in rows]
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        return [
            _renamed({field.name: _value(field, row[field.name]) for field in _SCHEMA})
            for row in frame.to_dict("records")
        ]
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"Got {path}, which cannot be read ({error}), expected an exported queue.") from error


def _renamed(row: dict[str, Any]) -> dict[str, Any]:
    for said in (row, *row["history"]):
        said["verdict"] = RENAMED.get(said["verdict"], said["verdict"])
    return row


def _known(path: Path) -> Path:
    if path.suffix.lower() not in (".parquet", ".csv"):
        raise ValueError(f"Got {path.name!r}, expected a name that ends in .parquet or .csv. Give it one.")
    return path


def _cell(field: pa.Field, value: Any) -> str:
    if value is None or value != value:
        return ""
    if field.type == _TEXT:
        return f"'{value}" if value.startswith(_FORMULA) else value
    return repr(value) if pa.types.is_primitive(field.type) else json.dumps(value)


def _value(field: pa.Field, cell: str) -> Any:
    if pa.types.is_nested(field.type):
        return json.loads(cell)
    if not cell:
        return None
    if field.type == _TEXT:
        return cell.removeprefix("'")
    return int(cell) if pa.types.is_integer(field.type) else float(cell)
