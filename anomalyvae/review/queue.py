"""The review queue: a database of events that wait for a verdict, and of all verdicts.

The verdicts are a log, and entries are only appended. A second opinion is a new entry; an undo is an entry that takes
an earlier one back. So no verdict is lost when several people write at the same time.
"""

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pandas as pd

from anomalyvae.review import database
from anomalyvae.review.database import (
    EVENT_COLUMNS,
    EVENTS,
    LOG,
    LOG_COLUMNS,
    VERDICT_COLUMNS,
    current_verdicts,
    entries_of,
    event_id_of,
    known_verdict,
    sa,
)
from anomalyvae.review.exports import load_export, write_events

Row = dict[str, Any]

_STATUSES: dict[str, Callable[[Row], bool]] = {  # and which events have them
    "all": lambda event: True,
    "open": lambda event: event["verdict"] is None,
    "reviewed": lambda event: event["verdict"] is not None,
    "unconfirmed": lambda event: event["verdict"] == "new_normal" and len(event["agreeing"]) == 1,
}


class Queue:
    """Events to review and the verdicts on them. Several processes may use a queue at once.

    Parameters
    ----------
    url : str or path
        A file of SQLite, such as ``"queue.db"``, or a PostgreSQL database, such as ``"postgresql://host/drives"``.
    create : bool, default=True
        Whether to create a file that does not exist. Tables are created in any case.

    Raises
    ------
    FileNotFoundError
        If the file does not exist and ``create`` is false.
    ValueError
        If the file is not a database, damaged, of another program, or of a newer version.
    ConnectionError
        If the database server does not answer.
    OSError
        If the file is locked by another process or read-only, or the disk is full; also from every later call.
    ImportError
        If the driver of PostgreSQL is not installed.

    Examples
    --------
    >>> import tempfile
    >>> queue = Queue(Path(tempfile.mkdtemp()) / "queue.db")
    >>> len(queue.events())
    0
    >>> queue.close()
    """

    def __init__(self, url: str | os.PathLike[str], *, create: bool = True) -> None:
        self._engine = database.open_engine(os.fspath(url), create)
        self.url = self._engine.url.render_as_string(hide_password=True)
        try:
            with self._writing() as connection:
                database.create_tables(connection, create)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the database."""
        self._engine.dispose()

    # Events

    def add(self, events: pd.DataFrame) -> int:
        """Add the events that the queue does not contain yet.

        Parameters
        ----------
        events : DataFrame
            The columns `EVENT_COLUMNS`; ``event_id`` and ``added_at`` are optional.

        Returns
        -------
        int
            How many were new. Events that the queue contains, and their verdicts, stay as they are.

        Raises
        ------
        ValueError
            If a column is missing.
        """
        missing = [name for name in EVENT_COLUMNS if name not in events and name not in ("event_id", "added_at")]
        if missing:
            raise ValueError(
                f"Got events without {', '.join(map(repr, missing))}, expected {', '.join(EVENT_COLUMNS)}. Add them."
            )
        return self._insert(EVENTS, "event_id", [_event_record(row) for row in events.to_dict("records")])

    def events(self, status: str = "all", verdict: str | None = None, recording: str | None = None) -> pd.DataFrame:
        """Events with their current verdict: the latest that was not taken back.

        Parameters
        ----------
        status : {"all", "open", "reviewed", "unconfirmed"}, default="all"
            ``"unconfirmed"``: new normals that only one reviewer has called so; see `confirmed`.
        verdict : str, optional
            Only events with this current verdict.
        recording : str, optional

        Returns
        -------
        DataFrame
            One row per event: `EVENT_COLUMNS`, and ``verdict``, ``note``, ``reviewer`` and ``reviewed_at``, which are
            None in open events. The most anomalous come first: the smallest p-value, then the highest score (p-values
            of different models can be compared, scores cannot).
        """
        if status not in _STATUSES:
            raise ValueError(f"Got status={status!r}, expected one of {', '.join(map(repr, _STATUSES))}. Pass one.")
        where = () if recording is None else (EVENTS.c.recording == recording,)
        rows = [row for row in self._events(*where) if _STATUSES[status](row)]
        if verdict is not None:
            rows = [row for row in rows if row["verdict"] == known_verdict(verdict)]
        return database.table_of(rows, (*EVENT_COLUMNS, *VERDICT_COLUMNS))

    def sources(self) -> list[str]:
        """The folders of the recordings."""
        with self._engine.connect() as connection:
            return sorted(connection.scalars(sa.select(EVENTS.c.source).distinct()))

    def event(self, event_id: str) -> Row:
        """One event, as a row of `events`; ValueError if the queue does not contain it."""
        rows = self._events(EVENTS.c.event_id == event_id)
        if not rows:
            raise _unknown(event_id)
        return {name: rows[0][name] for name in (*EVENT_COLUMNS, *VERDICT_COLUMNS)}

    def _events(self, *where: sa.ColumnElement[bool]) -> list[Row]:
        """Events with their current verdict, and with the reviewers who agree on it."""
        query = sa.select(EVENTS).where(*where)
        query = query.order_by(
            EVENTS.c.p_value.is_(None), EVENTS.c.p_value, EVENTS.c.peak_score.desc(), EVENTS.c.event_id
        )
        with self._engine.connect() as connection:
            rows = [row._asdict() for row in connection.execute(query)]
            some = (LOG.c.event_id == rows[0]["event_id"],) if len(rows) == 1 else ()
            current = current_verdicts(entries_of(connection, *some))
        for row in rows:
            entry, agreeing = current.get(row["event_id"], (dict.fromkeys(LOG_COLUMNS), []))
            row |= _verdict_of(entry, agreeing)
        return rows

    # Verdicts

    def give(self, event_id: str, verdict: str, reviewer: str, note: str = "") -> Row | None:
        """Give a verdict on an event. The latest verdict counts.

        Parameters
        ----------
        event_id : str
        verdict : {"new_normal", "fault", "noise", "unsure"}
            Normal, but new (it is learned); a fault (never learned as normal); of no interest; not known.
        reviewer : str
            Who gives it.
        note : str, default=""

        Returns
        -------
        dict or None
            ``verdict``, ``reviewer`` and ``reviewed_at`` of the verdict until now; None if the event was open.

        Raises
        ------
        ValueError
            For an unknown event or verdict, and for an empty reviewer.
        """
        known_verdict(verdict)
        if not reviewer.strip():
            raise ValueError("Got an empty reviewer, expected who gives this verdict. Pass a name.")
        with self._writing() as connection:
            before = _current(connection, event_id)
            _append(connection, event_id, verdict, reviewer, note)
        return before and {"verdict": before["verdict"], "reviewer": before["reviewer"], "reviewed_at": before["at"]}

    def undo(self, event_id: str, reviewer: str) -> None:
        """Take the current verdict back: the one before counts again, or the event is open.

        ValueError for an unknown event, and for an event without a verdict.
        """
        with self._writing() as connection:
            entry = _current(connection, event_id)
            if entry is None:
                raise ValueError(f"Event {event_id!r} has no verdict, so there is nothing to undo.")
            _append(connection, event_id, None, reviewer, "", takes_back=entry["entry_id"])

    def history(self, event_id: str) -> pd.DataFrame:
        """All entries of the log on an event, in order of time; ValueError for an unknown event.

        Returns
        -------
        DataFrame
            ``entry_id``, ``event_id``, ``verdict``, ``note``, ``reviewer``, ``at`` (UTC) and ``takes_back``: the entry
            that this one takes back, in which case it has no verdict.
        """
        with self._engine.connect() as connection:
            _refuse_unknown(connection, event_id)
            return database.table_of(entries_of(connection, LOG.c.event_id == event_id), LOG_COLUMNS)

    def confirmed(self, verdict: str) -> set[str]:
        """The ids of events with this current verdict on which two or more reviewers agree."""
        known_verdict(verdict)
        with self._engine.connect() as connection:
            current = current_verdicts(entries_of(connection))
        return {name for name, (entry, who) in current.items() if entry["verdict"] == verdict and len(who) > 1}

    def current(self) -> dict[str, Row]:
        """Of each reviewed event the current ``verdict``, ``note``, ``reviewer``, ``reviewed_at`` and ``agreeing``.

        The last are the reviewers whose latest verdict is the current one, in order of time.
        """
        with self._engine.connect() as connection:
            current = current_verdicts(entries_of(connection))
        return {event_id: _verdict_of(entry, who) for event_id, (entry, who) in current.items()}

    def state(self) -> tuple[int, tuple[Any, ...]]:
        """How many events there are, and a value that changes whenever the log does. It is quick to read."""
        with self._engine.connect() as connection:
            events = connection.scalar(sa.select(sa.func.count()).select_from(EVENTS))
            by_reviewer = sa.select(LOG.c.reviewer, sa.func.count(), sa.func.max(LOG.c.number)).group_by(LOG.c.reviewer)
            log = sorted(tuple(row) for row in connection.execute(by_reviewer))
        return int(events or 0), tuple(log)

    def append(self, entries: list[Row]) -> int:
        """Add entries of another log, with their reviewers and times. The latest verdict on each event counts.

        Parameters
        ----------
        entries : list of dict
            As `history` gives them; ``at`` is UTC, as ISO 8601 with microseconds and ``+00:00``.

        Returns
        -------
        int
            How many were new, by ``entry_id``.

        Raises
        ------
        ValueError
            For an unknown event or verdict; then nothing is added.
        """
        with self._engine.connect() as connection:
            events = set(connection.scalars(sa.select(EVENTS.c.event_id)))
        for entry in entries:
            known_verdict(entry["verdict"])
            if entry["event_id"] not in events:
                raise _unknown(entry["event_id"])
        return self._insert(LOG, "entry_id", sorted(entries, key=lambda entry: entry["at"]))

    def rename(self, reviewers: Mapping[str, str]) -> int:
        """Give the reviewers of entries other names, by ``entry_id``; returns how many changed. Verdicts stay."""
        changed = 0
        with self._writing() as connection:
            for entry_id, name in reviewers.items():
                other = LOG.update().where(LOG.c.entry_id == entry_id, LOG.c.reviewer != database.storable(name))
                changed += connection.execute(other.values(reviewer=database.storable(name))).rowcount
        return changed

    # Files

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write all events and verdicts to a ``.parquet`` or ``.csv`` file.

        One row per event, as `events` gives them; the column ``history`` has all entries of its log. Times are in UTC;
        in Parquet they are timestamps. In CSV, lists are JSON, and an apostrophe precedes text that a spreadsheet would
        run as a formula.
        """
        rows = {row["event_id"]: row | {"history": []} for row in self._events()}
        with self._engine.connect() as connection:
            for entry in entries_of(connection):
                if entry["event_id"] in rows:  # and not an event that was added in between
                    rows[entry["event_id"]]["history"].append(entry)
        write_events(Path(path), list(rows.values()))

    def load(self, path: str | os.PathLike[str]) -> int:
        """Add the events and verdicts of an exported queue.

        `anomalyvae.review.exports.load_export` describes which verdicts are taken from a file that was edited. Where
        two queues have verdicts on the same event, the later one counts. Loading a file again changes nothing.
        ValueError if it is not an exported queue. Returns how many events and entries of the log were new.
        """
        loaded = load_export(Path(path), self)
        return loaded.events + loaded.new

    # The database

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._engine.execution_options(writing=True).begin() as connection:
            yield connection

    def _insert(self, table: sa.Table, key: str, records: list[Row]) -> int:
        """Insert the first record of each key that the table does not contain."""
        distinct = {record[key]: record for record in reversed(records)}
        with self._writing() as connection:
            there = set(connection.scalars(sa.select(table.c[key])))
            new = [record for record in records if record is distinct[record[key]] and record[key] not in there]
            if new:
                connection.execute(table.insert(), new)
        return len(new)


def _verdict_of(entry: Row, agreeing: list[str]) -> Row:
    verdict = {name: entry["at" if name == "reviewed_at" else name] for name in VERDICT_COLUMNS}
    return verdict | {"agreeing": agreeing}


def _current(connection: sa.Connection, event_id: str) -> Row | None:
    """The entry with the current verdict on an event."""
    _refuse_unknown(connection, event_id)
    current = current_verdicts(entries_of(connection, LOG.c.event_id == event_id)).get(event_id)
    return current and current[0]


def _append(
    connection: sa.Connection, event_id: str, verdict: str | None, reviewer: str, note: str, takes_back: str = ""
) -> None:
    # Where the clocks of two machines differ, the entry that arrives later still counts as later.
    last = connection.scalar(sa.select(sa.func.max(LOG.c.at)).where(LOG.c.event_id == event_id))
    entry = {
        "entry_id": uuid.uuid4().hex,
        "event_id": event_id,
        "verdict": verdict,
        "note": database.storable(note),
        "reviewer": database.storable(reviewer),
        "at": max(_now(), last or ""),
        "takes_back": takes_back or None,
    }
    connection.execute(LOG.insert(), entry)


def _event_record(row: Mapping[Any, Any]) -> Row:
    record = database.record_of(row)
    event_id = event_id_of(record["model_id"], record["recording"], record["start_s"], record["end_s"])
    return record | {"event_id": row.get("event_id") or event_id, "added_at": row.get("added_at") or _now()}


def _refuse_unknown(connection: sa.Connection, event_id: str) -> None:
    if connection.scalar(sa.select(EVENTS.c.event_id).where(EVENTS.c.event_id == event_id)) is None:
        raise _unknown(event_id)


def _unknown(event_id: str) -> ValueError:
    return ValueError(f"Got event {event_id!r}, expected one of the queue. Check the id.")


def _now() -> str:
    return database.utc_text(datetime.now(UTC))
