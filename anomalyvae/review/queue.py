"""The review queue: events that wait for a person's verdict, and every verdict ever given, in a database.

Verdicts are a log that is only ever appended to: a second opinion is a new entry, and to undo is one more entry, which
takes an earlier one back. So nothing that a person said is lost, whoever else writes at the same time.
"""

import hashlib
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pandas as pd

from anomalyvae.review import database
from anomalyvae.review.database import EVENTS, LOG, SCHEMA, agreed, sa, standing, told

VERDICTS = ("new_normal", "fault", "noise", "unsure")
_STATUSES = ("all", "open", "reviewed", "unconfirmed")

EVENT_COLUMNS = tuple(column.name for column in EVENTS.columns)
LOG_COLUMNS = tuple(column.name for column in LOG.columns if column.name != "number")

_TOLD = ("verdict", "note", "reviewer", "reviewed_at")


def event_id_of(model_id: str, recording: str, start_s: float, end_s: float) -> str:
    """Name of an event: the same model that flags the same stretch of a recording again gives the same name."""
    text = "\n".join((model_id, recording, repr(float(start_s)), repr(float(end_s))))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Queue:
    """Events to review and what people said of them; any number of processes may use it at once.

    Parameters
    ----------
    url : str or path
        A file for SQLite, as in ``"queue.db"``, or any SQLAlchemy URL, as in ``"postgresql://host/drives"``.
    create : bool, default=True
        Whether to make the file where there is none; its tables are made on first use in any case.

    Raises
    ------
    FileNotFoundError
        If there is no such file and ``create`` is false.
    ValueError
        If the file is something other than a database.
    ConnectionError
        If the database's server does not answer.
    ImportError
        If the driver of the URL's database is not installed.

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
                SCHEMA.create_all(connection)
                for old, new in database.RENAMED.items():
                    connection.execute(LOG.update().where(LOG.c.verdict == old).values(verdict=new))
        except sa.exc.DatabaseError as error:
            self.close()
            if "not a database" in str(error):
                raise ValueError(
                    f"Got {os.fspath(url)}, which is no database, expected a review queue. Check the path."
                ) from None
            if isinstance(error, sa.exc.OperationalError) and self._engine.name != "sqlite":
                why = " ".join(str(error.orig).split())
                raise ConnectionError(
                    f"Got {self.url}, which cannot be used ({why}), expected a database that answers. Check the "
                    "address, and that its server runs."
                ) from None
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back; further use opens new ones."""
        self._engine.dispose()

    # Events

    def add(self, events: pd.DataFrame) -> int:
        """Add events that are not yet in the queue.

        Parameters
        ----------
        events : DataFrame
            The columns `EVENT_COLUMNS`; ``event_id`` and ``added_at`` are made where they are not given.

        Returns
        -------
        int
            How many were new. Events that are there, and the verdicts on them, stay as they are.

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
        records = [_event_record(row) for row in events.to_dict("records")]
        return self._insert(EVENTS, "event_id", records)

    def events(self, status: str = "all", verdict: str | None = None, recording: str | None = None) -> pd.DataFrame:
        """Events with the verdict that stands: the latest that was not taken back.

        Parameters
        ----------
        status : {"all", "open", "reviewed", "unconfirmed"}, default="all"
            ``"unconfirmed"``: new normals that only one reviewer has called so; see `confirmed`.
        verdict : str, optional
            Only events of which this is the standing verdict.
        recording : str, optional

        Returns
        -------
        DataFrame
            One row per event, strangest first (smallest p-value, then highest score: scores of different models
            cannot be compared, p-values can): `EVENT_COLUMNS`, and ``verdict``, ``note``, ``reviewer`` and
            ``reviewed_at``, which are None where it is open.
        """
        if status not in _STATUSES:
            raise ValueError(f"Got status={status!r}, expected one of {', '.join(map(repr, _STATUSES))}. Pass one.")
        query = told()
        if status != "all":
            stands = query.selected_columns.verdict
            query = query.where(stands.is_(None) if status == "open" else stands.is_not(None))
        if status == "unconfirmed":
            query = query.where(query.selected_columns.verdict == "new_normal")
        if verdict is not None:
            query = query.where(query.selected_columns.verdict == _known(verdict))
        if recording is not None:
            query = query.where(EVENTS.c.recording == recording)
        with self._engine.connect() as connection:
            rows = [row._asdict() for row in connection.execute(query)]
        if status == "unconfirmed":
            confirmed = self.confirmed("new_normal")
            rows = [row for row in rows if row["event_id"] not in confirmed]
        return database.table_of(rows, (*EVENT_COLUMNS, *_TOLD))

    def event(self, event_id: str) -> dict[str, Any]:
        """One event, as a row of `events`.

        Raises
        ------
        ValueError
            If there is none of this name.
        """
        with self._engine.connect() as connection:
            row = connection.execute(told().where(EVENTS.c.event_id == event_id)).first()
        if row is None:
            raise _unknown(event_id)
        return row._asdict()

    # Verdicts

    def give(self, event_id: str, verdict: str, reviewer: str, note: str = "") -> dict[str, Any] | None:
        """Say what an event is; the latest verdict stands.

        Parameters
        ----------
        event_id : str
        verdict : {"new_normal", "fault", "noise", "unsure"}
            Normal, but new (it is learned); a fault (never learned as normal); of no interest; not known.
        reviewer : str
            Who says so.
        note : str, default=""

        Returns
        -------
        dict or None
            ``verdict``, ``reviewer`` and ``reviewed_at`` of what stood until now; None if the event was open.

        Raises
        ------
        ValueError
            For an unknown event or verdict, and for an empty reviewer.
        """
        _known(verdict)
        if not reviewer.strip():
            raise ValueError("Got an empty reviewer, expected who gives this verdict. Pass a name.")
        with self._writing() as connection:
            self._lock(connection, event_id)
            stood = connection.execute(told().where(EVENTS.c.event_id == event_id)).one()._asdict()
            _append(connection, event_id, verdict, reviewer, note)
        if stood["verdict"] is None:
            return None
        return {name: stood[name] for name in ("verdict", "reviewer", "reviewed_at")}

    def undo(self, event_id: str, reviewer: str) -> None:
        """Take back the verdict that stands, so that the one before it stands again, or the event is open.

        Raises
        ------
        ValueError
            For an unknown event, and where no verdict stands.
        """
        with self._writing() as connection:
            self._lock(connection, event_id)
            stands = standing()
            entry = connection.scalar(sa.select(stands.c.entry_id).where(stands.c.event_id == event_id))
            if entry is None:
                raise ValueError(f"Got event {event_id!r}, on which no verdict stands, expected one. Nothing to undo.")
            _append(connection, event_id, None, reviewer, "", takes_back=entry)

    def history(self, event_id: str) -> pd.DataFrame:
        """All that was said of an event, in order.

        Returns
        -------
        DataFrame
            ``entry_id``, ``event_id``, ``verdict``, ``note``, ``reviewer``, ``at`` (UTC) and ``takes_back``: the entry
            that this one takes back, in which case it has no verdict.

        Raises
        ------
        ValueError
            For an unknown event.
        """
        self.event(event_id)
        return database.table_of(self._entries(LOG.c.event_id == event_id), LOG_COLUMNS)

    def confirmed(self, verdict: str) -> set[str]:
        """Events, by id, of which this verdict stands, and is the last word of two reviewers or more."""
        told = agreed(self._entries())
        return {name for name, (stands, who) in told.items() if stands == _known(verdict) and len(who) > 1}

    def agreeing(self) -> dict[str, list[str]]:
        """The reviewers whose last word is the verdict that stands, of each event that has one; the last one last."""
        return {event_id: who for event_id, (_, who) in agreed(self._entries()).items()}

    def append(self, entries: list[dict[str, Any]]) -> int:
        """Add what was said elsewhere, with who and when; of each event, the latest verdict stands.

        Parameters
        ----------
        entries : list of dict
            As `history` gives them; ``at`` is UTC, as ISO 8601 with microseconds and ``+00:00``.

        Returns
        -------
        int
            How many were new: what goes by the same ``entry_id`` is the same.

        Raises
        ------
        ValueError
            For an unknown event or verdict; nothing is added.
        """
        with self._engine.connect() as connection:
            there = set(connection.scalars(sa.select(EVENTS.c.event_id)))
        for entry in entries:
            if entry["verdict"] is not None:
                _known(entry["verdict"])
            if entry["event_id"] not in there:
                raise _unknown(entry["event_id"])
        return self._insert(LOG, "entry_id", sorted(entries, key=lambda entry: entry["at"]))

    # Files

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write all events and verdicts to a Parquet or CSV file, by suffix.

        One row per event, as `events` gives them, and in the column ``history`` all that was said of it. In CSV,
        lists are JSON; text that a spreadsheet would take for a formula has an apostrophe before it.
        """
        from anomalyvae.review.exchange import write_events

        histories: dict[str, list[dict[str, Any]]] = {}
        for entry in self._entries():
            histories.setdefault(entry["event_id"], []).append(entry)
        rows: list[dict[Any, Any]] = self.events().to_dict("records")
        write_events(Path(path), [{**row, "history": histories.get(row["event_id"], [])} for row in rows])

    def load(self, path: str | os.PathLike[str]) -> int:
        """Add the events and verdicts that another queue has exported.

        What counts is the column ``history``; the standing verdict follows from it. Of two queues that were reviewed
        apart, the later verdict on an event stands. Loading a file again changes nothing.

        Returns
        -------
        int
            How many events and entries of their histories were new.

        Raises
        ------
        ValueError
            If the file is no export of a queue.
        """
        from anomalyvae.review.exchange import read_events

        rows = read_events(Path(path))
        entries = [{**entry, "event_id": row["event_id"]} for row in rows for entry in row["history"]]
        for entry in entries:
            if entry["verdict"] is not None:
                _known(entry["verdict"])
        new = self.add(pd.DataFrame(rows, dtype=object)) if rows else 0
        return new + self.append(entries)

    # The database

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._engine.execution_options(writing=True).begin() as connection:
            yield connection

    def _lock(self, connection: sa.Connection, event_id: str) -> None:
        """Let no other process append to this event's log until the transaction ends."""
        found = sa.select(EVENTS.c.event_id).where(EVENTS.c.event_id == event_id).with_for_update()
        if connection.scalar(found) is None:
            raise _unknown(event_id)

    def _insert(self, table: sa.Table, key: str, records: list[dict[str, Any]]) -> int:
        """Insert those whose key is not there; where another process adds the same at once, look again."""
        distinct = {record[key]: record for record in reversed(records)}
        for attempt in range(10):
            try:
                with self._writing() as connection:
                    there = set(connection.scalars(sa.select(table.c[key])))
                    new = [record for record in records if record is distinct[record[key]] and record[key] not in there]
                    if new:
                        connection.execute(table.insert(), new)
                return len(new)
            except sa.exc.IntegrityError:
                if attempt == 9:
                    raise
        raise AssertionError("unreachable")

    def _entries(self, *where: sa.ColumnElement[bool]) -> list[dict[str, Any]]:
        query = sa.select(*(LOG.c[name] for name in LOG_COLUMNS)).where(*where).order_by(LOG.c.at, LOG.c.number)
        with self._engine.connect() as connection:
            return [row._asdict() for row in connection.execute(query)]


def _append(
    connection: sa.Connection,
    event_id: str,
    verdict: str | None,
    reviewer: str,
    note: str,
    takes_back: str | None = None,
) -> None:
    # Where the clocks of two reviewers' machines differ, the later entry still counts as later.
    last = connection.scalar(sa.select(sa.func.max(LOG.c.at)).where(LOG.c.event_id == event_id))
    entry = {
        "entry_id": uuid.uuid4().hex,
        "event_id": event_id,
        "verdict": verdict,
        "note": database.storable(note),
        "reviewer": database.storable(reviewer),
        "at": max(_now(), last or ""),
        "takes_back": takes_back,
    }
    connection.execute(LOG.insert(), entry)


def _event_record(row: Mapping[Any, Any]) -> dict[str, Any]:
    record = database.record_of(row)
    named = event_id_of(record["model_id"], record["recording"], record["start_s"], record["end_s"])
    return record | {"event_id": row.get("event_id") or named, "added_at": row.get("added_at") or _now()}


def _known(verdict: str) -> str:
    if verdict not in VERDICTS:
        raise ValueError(f"Got verdict {verdict!r}, expected one of {', '.join(map(repr, VERDICTS))}. Pass one.")
    return verdict


def _unknown(event_id: str) -> ValueError:
    return ValueError(f"Got event {event_id!r}, expected one that is in the queue. Check the name.")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
