"""A queue as a file, exact in both directions; and the verdicts that people changed in such a file."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from anomalyvae.folders import replacing_file
from anomalyvae.review.database import (
    DOUBLES,
    EVENT_COLUMNS,
    LOG_COLUMNS,
    RENAMED,
    VERDICT_COLUMNS,
    VERDICTS,
    current_verdicts,
    entry_id_of,
    event_id_of,
    in_utc,
    known_verdict,
    record_of,
    storable,
    utc_text,
)
from anomalyvae.tables.dialect import encoding_of
from anomalyvae.tables.names import refuse_repeated
from anomalyvae.tables.parquet import parquet_file
from anomalyvae.untrusted import from_spreadsheet, spreadsheet_text

if TYPE_CHECKING:
    from anomalyvae.review.queue import Queue

_TIME = pa.timestamp("us", "UTC")
_LOG_TYPES = [(name, _TIME if name == "at" else pa.string()) for name in LOG_COLUMNS]
_TYPES = dict.fromkeys(DOUBLES, pa.float64()) | {
    "windows": pa.int64(),
    "signals": pa.list_(pa.string()),
    "shares": pa.list_(pa.float64()),
    "outside": pa.map_(pa.string(), pa.float64()),
    "latent": pa.list_(pa.float64()),
    "added_at": _TIME,
    "reviewed_at": _TIME,
    "history": pa.list_(pa.struct(_LOG_TYPES)),
}
_COLUMNS = (*EVENT_COLUMNS, *VERDICT_COLUMNS, "history")
_SCHEMA = pa.schema([(name, _TYPES.get(name, pa.string())) for name in _COLUMNS])
_TEXTS = [name for name in _COLUMNS if name not in _TYPES]
_TIMES = ("added_at", "reviewed_at")
_LISTS = [name for name in _COLUMNS if pa.types.is_nested(_SCHEMA.field(name).type)]
_OF_LABEL_STUDIO = {"annotation_id", "lead_time"}  # columns of its own CSV files
_SAME_S = 60.0  # spreadsheets cut times to minutes

Row = dict[str, Any]


@dataclass(frozen=True)
class Loaded:
    """What was loaded.

    Attributes
    ----------
    new, known : int
        Verdicts that the queue did not have, and those that it had.
    left_out : dict of str to list of str
        The events with something that is no verdict, by reason.
    events : int
        New events.
    renamed : int
        Known verdicts whose reviewer has another name now.
    unmatched : tuple of str
        Names of users that were given and that no verdict has.
    users : tuple of str
        The users that the verdicts have.
    """

    new: int
    known: int
    left_out: dict[str, list[str]]
    events: int = 0
    renamed: int = 0
    unmatched: tuple[str, ...] = ()
    users: tuple[str, ...] = ()


# --- writing --------------------------------------------------------------------------------------------


def write_events(path: Path, rows: list[Row]) -> None:
    """Write events, one row each, to a ``.parquet`` or ``.csv`` file; `Queue.export` makes the rows."""
    with replacing_file(_named_as_export(path)) as fresh:
        if path.suffix.lower() == ".parquet":
            plain = [{**_timed(row, _TIMES), "outside": list(row["outside"].items())} for row in rows]
            for row in plain:
                row["history"] = [_timed(entry, ("at",)) for entry in row["history"]]
            pq.write_table(pa.Table.from_pylist(plain, schema=_SCHEMA), fresh)
            return
        table = pd.DataFrame(rows, columns=list(_COLUMNS), dtype=object)
        table[_LISTS] = table[_LISTS].map(json.dumps)
        table[_TEXTS] = table[_TEXTS].map(spreadsheet_text)
        table.to_csv(fresh, index=False, quoting=csv.QUOTE_ALL, lineterminator="\r\n")


def _timed(row: Row, names: tuple[str, ...]) -> Row:
    return row | {name: None if row[name] is None else _utc(row[name]) for name in names}


def _utc(text: str) -> datetime:
    return in_utc(datetime.fromisoformat(text))


def _as_text(time: Any) -> Any:
    """A time as the queue writes it; other cells as they are."""
    return utc_text(time) if isinstance(time, datetime) else time


# --- reading --------------------------------------------------------------------------------------------


def load_export(path: Path, queue: "Queue") -> Loaded:
    """Add the events and verdicts of an exported queue, and the verdicts that people changed in the file.

    The column ``history`` is the log of the queue that wrote the file. Where the columns ``verdict``, ``note``,
    ``reviewer`` and ``reviewed_at`` say something else, somebody has changed them: that is a new verdict, at the time
    in ``reviewed_at`` or, if that was not changed, when the file was saved. The latest verdict counts. Of events that
    the queue has, columns other than these and ``event_id`` may be missing.

    Raises
    ------
    ValueError
        If it is not an exported queue; then nothing is added.
    """
    parquet = _named_as_export(path).suffix.lower() == ".parquet"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist or is not a file. Pass an exported queue.")
    try:
        rows = _parquet_rows(path) if parquet else _csv_rows(path)
        ids = set(queue.events()["event_id"])
        whole = all(name in row for row in rows for name in _COLUMNS)
        if not whole:
            _refuse_partial(rows, ids)
        events = [_event_of(row, parquet) for row in rows] if whole else rows
    except (pa.ArrowException, AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"Got {path}, which cannot be read ({error}), expected an exported queue.") from error
    for row in events if whole else ():  # a spreadsheet may take an id for a number
        event_id = event_id_of(row["model_id"], row["recording"], row["start_s"], row["end_s"])
        row["event_id"] = event_id if event_id in ids and row["event_id"] not in ids else row["event_id"]
    entries = [{**entry, "event_id": row["event_id"]} for row in events for entry in row.get("history", [])]
    for entry in entries:
        known_verdict(entry["verdict"])
    added = queue.add(pd.DataFrame(events, dtype=object)) if whole and events else 0
    new = queue.append(entries)
    saved = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    changed, repeated, left_out = _changed(rows, events, queue, saved)
    taken = queue.append(changed)
    return Loaded(new + taken, len(entries) + repeated + len(changed) - new - taken, left_out, events=added)


def _parquet_rows(path: Path) -> list[Row]:
    with parquet_file(path) as file:
        table = file.read()
    _refuse_other(path, table.column_names)
    rows = table.select([name for name in _COLUMNS if name in table.column_names]).to_pylist()
    return [{name: _as_text(cell) for name, cell in row.items()} for row in rows]


def _csv_rows(path: Path) -> list[Row]:
    """The rows of a CSV file as text, whichever separator and encoding a spreadsheet has saved it with."""
    content = path.read_bytes()
    codec, mark = encoding_of(content, None, path.name)
    try:
        text = content[mark:].decode(codec)
    except UnicodeDecodeError:
        text = content.decode("cp1252")
    header = text.splitlines()[0] if text.strip() else ""
    split = {sep: next(csv.reader([header], delimiter=sep), []) for sep in ",;\t"}
    sep = next((sep for sep, names in split.items() if "event_id" in names), ",")
    _refuse_other(path, split[sep])  # pandas would rename the second of two columns
    table = pd.read_csv(io.StringIO(text, newline=""), sep=sep, dtype=str, keep_default_na=False)
    table = table[[name for name in _COLUMNS if name in table]].astype(object)
    if "event_id" not in table:
        raise ValueError("it has no column event_id")
    table = table[(table != "").any(axis=1)]  # a spreadsheet may write empty rows
    present = [name for name in _TEXTS if name in table]
    table[present] = table[present].map(from_spreadsheet)
    if sep == ";":  # where this is the separator, the comma is the decimal mark
        numbers = [name for name in DOUBLES if name in table]
        table[numbers] = table[numbers].map(lambda cell: cell.replace(",", "."))
    return [{str(name): cell for name, cell in row.items()} for row in table.to_dict("records")]


def _refuse_other(path: Path, columns: list[str]) -> None:
    """Refuse a table of Label Studio, and one with two columns of one name."""
    refuse_repeated([name for name in columns if name in _COLUMNS], path.name)
    if {*columns} >= _OF_LABEL_STUDIO:
        raise ValueError(
            f"{path.name} is a table of Label Studio, which lacks the authors and times of labels: export the project "
            "in the format JSON, and load that file"
        )


def _refuse_partial(rows: list[Row], ids: set[str]) -> None:
    """Refuse events that are not in the queue and are described in part."""
    unknown = [row["event_id"] for row in rows if row["event_id"] not in ids]
    if unknown:
        missing = [name for name in _COLUMNS if name not in rows[0]]
        raise ValueError(f"it lacks the columns {', '.join(missing)} of {unknown[0]!r}, which this queue does not have")


def _event_of(row: Row, parquet: bool) -> Row:
    """An event with its history, checked."""
    found = dict(row)
    if not parquet:
        found["nearest"] = row["nearest"] or None
        found |= {name: json.loads(row[name]) for name in _LISTS}
        found |= {name: float(row[name]) if row[name] else None for name in DOUBLES}
    found |= record_of(found)
    found["history"] = [_entry_of(entry) for entry in found["history"]]
    return found


def _entry_of(entry: Mapping[str, Any]) -> Row:
    """An entry of an exported log, checked."""
    found = {name: _as_text(entry[name]) for name in LOG_COLUMNS}
    for name, value in found.items():
        if not (isinstance(value, str) or (value is None and name in ("verdict", "takes_back"))):
            raise TypeError(f"{name} of an entry is {value!r}")
    if datetime.fromisoformat(found["at"]).utcoffset() != timedelta(0):
        raise ValueError(f"the time {found['at']!r} of an entry is not UTC")
    return found | {"verdict": RENAMED.get(found["verdict"], found["verdict"])}


def _named_as_export(path: Path) -> Path:
    if path.suffix.lower() not in (".parquet", ".csv"):
        raise ValueError(f"Got {path.name!r}, expected a name that ends in .parquet or .csv. Rename it.")
    return path


# --- what people changed --------------------------------------------------------------------------------


def _changed(
    rows: list[Row], events: list[Row], queue: "Queue", saved: datetime
) -> tuple[list[Row], int, dict[str, list[str]]]:
    """Entries of the log for verdicts that differ from the history in their row, repeated ones, and what is none."""
    entries: list[Row] = []
    repeated = 0
    left_out: dict[str, list[str]] = {}
    current: dict[str, Row] = {str(row["event_id"]): {**row} for row in queue.events().to_dict("records")}  # type: ignore[dict-item]
    for row, event in zip(rows, events, strict=True):
        event_id = event["event_id"]
        try:
            entry, is_known = _verdict_in(row, event, current[event_id], saved)
        except ValueError as error:
            left_out.setdefault(str(error), []).append(event_id)
            continue
        repeated += is_known
        if entry is not None and not is_known:
            entry_id = entry_id_of(event_id, entry["reviewer"], entry["at"], entry["verdict"], entry["note"])
            entries.append({"entry_id": entry_id, "event_id": event_id, "takes_back": None, **entry})
    at_one_time: dict[tuple[str, str], set[str]] = {}  # verdicts on an event: if several, none is the latest
    for entry in entries:
        at_one_time.setdefault((entry["event_id"], entry["at"]), set()).add(entry["verdict"])
    for (event_id, _), verdicts in at_one_time.items():
        if len(verdicts) > 1:
            left_out.setdefault("several rows with different verdicts at one time", []).append(event_id)
    return [e for e in entries if len(at_one_time[e["event_id"], e["at"]]) == 1], repeated, left_out


def _verdict_in(row: Row, event: Row, current: Row, saved: datetime) -> tuple[Row | None, bool]:
    """The verdict that somebody wrote into a row, None if it is as before; and whether the queue has it already.

    ``current`` is the event in the queue. ValueError says why what was written is no verdict.
    """
    before = _before(event, current)
    cells = {name: _cell(row.get(name)) for name in VERDICT_COLUMNS}
    cells["verdict"] = cells["verdict"].lower().replace(" ", "_")
    cells["verdict"] = RENAMED.get(cells["verdict"], cells["verdict"])
    # Without its history, a row may be of an earlier verdict than the current one, with which it is compared.
    exact = "history" not in event and not _says_the_same(cells, before)
    stays = _time_stays(cells, before, 0 if exact else _SAME_S)
    # A change counts as no earlier than the verdict that it replaces: the date of a file may be wrong.
    written = max(saved, _utc(before["reviewed_at"])) if event.get("history") and before["reviewed_at"] else saved
    entry = _written_verdict(cells, before, stays, written)
    now = {name: _cell(current[name]) for name in VERDICT_COLUMNS}
    # It may have been loaded before, from a file that was saved at another time.
    return entry, entry is not None and stays and _says_the_same(entry, now)


def _cell(value: Any) -> str:
    return "" if value is None or value != value else str(value).replace("\r\n", "\n").strip()


def _before(event: Row, current: Row) -> dict[str, str]:
    """The verdict that the columns of a row had when it was written."""
    if "history" not in event:
        return {name: _cell(current[name]) for name in VERDICT_COLUMNS}
    entry = current_verdicts(event["history"]).get(event["event_id"], ({}, []))[0]
    return {name: _cell(entry.get("at" if name == "reviewed_at" else name)) for name in VERDICT_COLUMNS}


def _says_the_same(cells: Row, before: Mapping[str, str]) -> bool:
    return all(cells[name] == before[name] for name in ("verdict", "note", "reviewer"))


def _time_stays(cells: dict[str, str], before: dict[str, str], within_s: float) -> bool:
    """Whether a row has the time that it was written with, which a spreadsheet may write in another way."""
    written, first = cells["reviewed_at"], before["reviewed_at"]
    if written in ("", first):
        return True
    try:
        return bool(first) and abs(_utc(written) - _utc(first)).total_seconds() < within_s
    except ValueError:
        return False


def _written_verdict(cells: dict[str, str], before: dict[str, str], stays: bool, saved: datetime) -> Row | None:
    """The verdict that somebody wrote into a row; None if it is as before, ValueError if it is none."""
    same = _says_the_same(cells, before)
    if not cells["verdict"]:
        if before["verdict"]:
            raise ValueError("its verdict was removed, which takes none back: undo it on the review page")
        if cells["note"] or cells["reviewer"]:
            raise ValueError("a note or a reviewer without a verdict")
        return None
    if cells["verdict"] not in VERDICTS:
        raise ValueError(f"the verdict {cells['verdict']!r}, expected one of {', '.join(VERDICTS)}")
    if stays and same:
        return None
    at = saved
    if not stays:
        try:
            at = _utc(cells["reviewed_at"])
        except ValueError:
            if same:
                return None
            wanted = "expected one such as 2026-03-01T14:30+00:00"
            raise ValueError(f"the time {cells['reviewed_at']!r}, {wanted}") from None
    if not cells["reviewer"]:
        raise ValueError("a verdict without a reviewer: fill in that column, too")
    return {
        "verdict": cells["verdict"],
        "note": storable(cells["note"]),
        "reviewer": storable(cells["reviewer"]),
        "at": utc_text(at),
    }
