"""Exported queues: events with their history as Parquet and CSV files, exact in both directions."""

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from anomalyvae.folders import replacing_file
from anomalyvae.review.database import EVENT_COLUMNS, LOG_COLUMNS, RENAMED

_NUMBERS = ("start_s", "end_s", "peak_start_s", "peak_end_s", "peak_score", "p_value", "nearest_distance")
_TYPES = dict.fromkeys(_NUMBERS, pa.float64()) | {
    "windows": pa.int64(),
    "signals": pa.list_(pa.string()),
    "shares": pa.list_(pa.float64()),
    "outside": pa.map_(pa.string(), pa.float64()),
    "latent": pa.list_(pa.float64()),
    "history": pa.list_(pa.struct([(name, pa.string()) for name in LOG_COLUMNS])),
}
_COLUMNS = (*EVENT_COLUMNS, "verdict", "note", "reviewer", "reviewed_at", "history")
_SCHEMA = pa.schema([(name, _TYPES.get(name, pa.string())) for name in _COLUMNS])
_TEXTS = [name for name in _COLUMNS if name not in _TYPES]
_LISTS = [name for name in _COLUMNS if pa.types.is_nested(_SCHEMA.field(name).type)]
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")  # text that begins like this gets an apostrophe in front


def write_events(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write events, one row each, to a ``.parquet`` or ``.csv`` file; `Queue.export` makes the rows."""
    with replacing_file(_known(path)) as fresh:
        if path.suffix.lower() == ".parquet":
            plain = [{**row, "outside": list(row["outside"].items())} for row in rows]
            pq.write_table(pa.Table.from_pylist(plain, schema=_SCHEMA), fresh)
            return
        table = pd.DataFrame(rows, columns=list(_COLUMNS), dtype=object)
        table[_LISTS] = table[_LISTS].map(json.dumps)
        table[_TEXTS] = table[_TEXTS].map(lambda text: f"'{text}" if str(text).startswith(_FORMULA) else text)
        table.to_csv(fresh, index=False, quoting=csv.QUOTE_ALL, lineterminator="\r\n")


def read_events(path: Path) -> list[dict[str, Any]]:
    """Read a file that `write_events` wrote, in this version or an earlier one.

    Raises
    ------
    ValueError
        If the file is something else.
    """
    try:
        if _known(path).suffix.lower() == ".parquet":
            rows = pq.read_table(path, schema=_SCHEMA).to_pylist()
        else:
            table = pd.read_csv(path, dtype=str, keep_default_na=False)[list(_COLUMNS)].astype(object)
            table[_TEXTS] = table[_TEXTS].map(lambda text: text.removeprefix("'") or None)
            table[_LISTS] = table[_LISTS].map(json.loads)
            table[[*_NUMBERS]] = table[[*_NUMBERS]].map(lambda text: float(text) if text else None)
            rows = table.to_dict("records")
        for row in rows:
            row["outside"] = dict(row["outside"])
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"Got {path}, which cannot be read ({error}), expected an exported queue.") from error
    for row in rows:
        for entry in row["history"]:
            entry["verdict"] = RENAMED.get(entry["verdict"], entry["verdict"])
    return rows


def _known(path: Path) -> Path:
    if path.suffix.lower() not in (".parquet", ".csv"):
        raise ValueError(f"Got {path.name!r}, expected a name that ends in .parquet or .csv. Rename it.")
    return path
