"""The tables of a review queue, and database engines whose writers wait for each other."""

import hashlib
import time
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from anomalyvae.lazy import not_installed

try:
    import sqlalchemy as sa
except ImportError as error:
    raise not_installed(error, "a review queue", "anomalyvae[review]") from error

_TIMEOUT_S = 30.0  # for another process that is writing
_WRITE_LOCK = 0x616E6F6D616C7976  # the advisory lock of PostgreSQL that writers take

VERDICTS = ("new_normal", "fault", "noise", "unsure")
RENAMED = {"novel": "new_normal"}  # verdicts that an earlier version wrote to queues and exports

Verdict = TypeVar("Verdict", str, str | None)

SCHEMA = sa.MetaData()
EVENTS = sa.Table(
    "events",
    SCHEMA,
    sa.Column("event_id", sa.String(16), primary_key=True),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("model_id", "source", "file", "recording")),
    *(sa.Column(name, sa.Double, nullable=False) for name in ("start_s", "end_s", "peak_start_s", "peak_end_s")),
    sa.Column("peak_score", sa.Double, nullable=False),
    sa.Column("p_value", sa.Double),
    sa.Column("windows", sa.Integer, nullable=False),
    *(sa.Column(name, sa.JSON, nullable=False) for name in ("signals", "shares", "outside")),
    sa.Column("nearest", sa.String(16)),
    sa.Column("nearest_distance", sa.Double),
    sa.Column("latent", sa.JSON, nullable=False),
    sa.Column("added_at", sa.String(40), nullable=False),
)
LOG = sa.Table(
    "verdicts",
    SCHEMA,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("entry_id", sa.String(32), nullable=False, unique=True),
    sa.Column("event_id", sa.String(16), sa.ForeignKey("events.event_id"), nullable=False, index=True),
    sa.Column("verdict", sa.String(16)),  # NULL in an entry that takes another back
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("reviewer", sa.Text, nullable=False),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("takes_back", sa.String(32)),
    sqlite_autoincrement=True,
)
_NAMES = ("model_id", "source", "file", "recording")
EVENT_COLUMNS = tuple(column.name for column in EVENTS.columns)
LOG_COLUMNS = tuple(column.name for column in LOG.columns if column.name != "number")
VERDICT_COLUMNS = ("verdict", "note", "reviewer", "reviewed_at")  # the current verdict on an event

DOUBLES = [column.name for column in EVENTS.columns if isinstance(column.type, sa.Double)]
_NUMBERS = dict.fromkeys(DOUBLES, "float64") | {"windows": "int64"}

_VERSION = 1  # of the tables; it rises when an earlier version of the package can no longer use them


def open_engine(url: str, create: bool) -> sa.Engine:
    """Open a file of SQLite, or the PostgreSQL database of a URL.

    A connection with the execution option ``writing=True`` waits, from its first statement, for others that write.
    FileNotFoundError if there is no such file and ``create`` is false.
    """
    try:
        where = sa.make_url(url) if "://" in url else sa.URL.create("sqlite", database=url)
        backend = where.get_backend_name()
        if backend == "postgresql":
            engine = sa.create_engine(where, pool_pre_ping=True)  # the server may have restarted since the last call
            sa.event.listen(engine, "begin", _begin_postgresql)
            sa.event.listen(engine, "handle_error", _say_postgresql)
            return engine
        if backend != "sqlite":
            raise ValueError(backend)
    except (sa.exc.ArgumentError, ValueError):  # the message leaves out the rest of the URL: it may hold a password
        raise ValueError(
            f"Got a queue at {url.partition('://')[0]}://…, expected a file, or a URL such as "
            "'postgresql://host/drives'. Correct the URL."
        ) from None
    except ModuleNotFoundError as error:
        raise not_installed(error, "a queue in PostgreSQL", "psycopg[binary]") from error
    if where.database in (None, "", ":memory:"):
        raise ValueError(f"Got a queue at {url!r}, which is no file: it would be lost at once. Name a file (--queue).")
    file = Path(where.database)
    if not create and not file.is_file():
        raise FileNotFoundError(
            f"The review queue {file} does not exist. Check the path, or make a queue with 'anomalyvae flag'."
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(where, connect_args={"timeout": _TIMEOUT_S})
    sa.event.listen(engine, "connect", _connect_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    sa.event.listen(engine, "handle_error", _say_sqlite)
    return engine


def _say_postgresql(context: sa.engine.ExceptionContext) -> None:
    """Say an error of a database server in our words."""
    if context.is_pre_ping:  # a connection that is lost is opened again
        return
    error = context.original_exception
    where = context.engine.url.render_as_string(hide_password=True) if context.engine is not None else "the database"
    if "lock timeout" in str(error):
        raise BlockingIOError(
            f"Another process keeps the review queue {where} locked ({' '.join(str(error).split())}). Try again."
        ) from None
    if isinstance(context.sqlalchemy_exception, sa.exc.OperationalError):
        raise ConnectionError(
            f"The database {where} does not answer ({' '.join(str(error).split())}). Check the address, and that the "
            "server runs."
        ) from None


def _say_sqlite(context: sa.engine.ExceptionContext) -> None:
    """Say an error of SQLite in our words."""
    text = str(context.original_exception)
    file = context.engine.url.database if context.engine is not None else "the review queue"
    for part, kind, what in _SQLITE:
        if part in text:
            raise kind(what.format(file=file)) from None
    if isinstance(context.sqlalchemy_exception, sa.exc.DatabaseError):
        raise OSError(
            f"The review queue {file} cannot be used ({text}). Check that its folder can be written to, "
            "and that its disk has room."
        ) from None


_SQLITE: tuple[tuple[str, type[Exception], str], ...] = (
    ("not a database", ValueError, "Got {file}, which is not a database, expected a review queue. Check the path."),
    (
        "malformed",
        ValueError,
        "The review queue {file} is damaged. Restore a copy, or load an export into a new queue.",
    ),
    ("no such column", ValueError, "Got {file}, whose tables are other ones, expected a review queue. Check the path."),
    (
        "locked",
        BlockingIOError,
        "Another process keeps the review queue {file} locked (database is locked). Try again.",
    ),
    (
        "readonly",
        PermissionError,
        "The review queue {file} is read-only. Allow writing to it, to its folder, and to {file}-shm and {file}-wal if "
        "they are there.",
    ),
    ("is full", OSError, "The disk of the review queue {file} is full. Nothing was saved. Make room, and try again."),
)


def _begin_postgresql(connection: sa.Connection) -> None:
    """Let one process write at a time; without this, two that create the tables or add the same events collide."""
    if connection.get_execution_options().get("writing", False):
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {1000 * _TIMEOUT_S:.0f}")  # milliseconds
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITE_LOCK})")


def _begin_sqlite(connection: sa.Connection) -> None:
    writing = connection.get_execution_options().get("writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def _connect_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy begins the transactions, see above
    until = time.monotonic() + _TIMEOUT_S
    while True:  # SQLite's own timeout does not cover the change to write-ahead logging
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except connection.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)


def create_tables(connection: sa.Connection, create: bool) -> None:
    """Create the tables that do not exist, and bring the verdicts of an earlier version up to date.

    Raises
    ------
    ValueError
        For a queue of a newer version, and for a database of another program.
    """
    where = connection.engine.url.database
    there = sa.inspect(connection)
    tables = set(there.get_table_names())
    if connection.engine.name == "sqlite":
        number = connection.exec_driver_sql("PRAGMA user_version").scalar()
        if number not in (0, _VERSION):
            raise ValueError(f"{where} is a review queue of version {number}, expected {_VERSION}. Update anomalyvae.")
        if tables and not create and not tables >= SCHEMA.tables.keys():
            raise ValueError(f"Got {where}, a database of another program, expected a review queue. Check the path.")
        connection.exec_driver_sql(f"PRAGMA user_version = {_VERSION}")
    for name, table in SCHEMA.tables.items():
        found = {column["name"] for column in there.get_columns(name)} if name in tables else set(table.columns.keys())
        if not found >= set(table.columns.keys()):
            raise ValueError(
                f"Got {where}, whose table {name!r} is another one, expected a review queue. Check the path."
            )
    SCHEMA.create_all(connection)
    for old, new in RENAMED.items():
        connection.execute(LOG.update().where(LOG.c.verdict == old).values(verdict=new))


def current_verdicts(entries: list[dict[str, Any]]) -> dict[str, tuple[dict[str, Any], list[str]]]:
    """Of each reviewed event, the entry with its current verdict, and who agrees; from entries in order of time."""
    taken_back = {entry["takes_back"] for entry in entries}
    latest: dict[str, dict[str, dict[str, Any]]] = {}  # per event and reviewer
    for entry in entries:
        if entry["verdict"] is not None and entry["entry_id"] not in taken_back:
            of_event = latest.setdefault(entry["event_id"], {})
            person = person_of(entry["reviewer"])
            of_event.pop(person, None)  # so that the dictionary stays in order of time
            of_event[person] = entry
    current = {}
    for event_id, of_event in latest.items():
        *_, last = of_event.values()
        agreeing = [entry["reviewer"] for entry in of_event.values() if entry["verdict"] == last["verdict"]]
        current[event_id] = last, agreeing
    return current


def person_of(reviewer: str) -> str:
    """A name without what differs by keyboard: nobody confirms an own verdict by writing the name in another way."""
    return " ".join(unicodedata.normalize("NFKC", reviewer).casefold().split())


def entries_of(connection: sa.Connection, *where: sa.ColumnElement[bool]) -> list[dict[str, Any]]:
    """Entries of the log, in order of time."""
    query = sa.select(*(LOG.c[name] for name in LOG_COLUMNS)).where(*where).order_by(LOG.c.at, LOG.c.number)
    return [row._asdict() for row in connection.execute(query)]


def table_of(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> pd.DataFrame:
    """Rows of a query as a DataFrame; missing text stays None."""
    table = pd.DataFrame(rows, columns=list(columns), dtype=object)
    return table.astype({name: dtype for name, dtype in _NUMBERS.items() if name in columns})


def record_of(event: Mapping[Any, Any]) -> dict[str, Any]:
    """An event, without its id, as plain Python values; missing values become None."""
    record: dict[str, Any] = {name: _storable_name(str(event[name])) for name in _NAMES}
    for name, dtype in _NUMBERS.items():
        record[name] = None if pd.isna(event[name]) else int(event[name]) if dtype == "int64" else float(event[name])
        if record[name] is None and not EVENTS.c[name].nullable:
            raise ValueError(
                f"Got an event of {record['recording']!r} without {name}, expected a number. Score it again."
            )
    record["signals"] = [_storable_name(str(name)) for name in event["signals"]]
    record["shares"] = [float(share) for share in event["shares"]]
    record["outside"] = {_storable_name(str(name)): float(widths) for name, widths in dict(event["outside"]).items()}
    record["latent"] = [float(value) for value in event["latent"]]
    record["nearest"] = None if pd.isna(event["nearest"]) else str(event["nearest"])
    return record


def _storable_name(text: str) -> str:
    """A name as databases accept it; names that differ stay different."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def event_id_of(model_id: str, recording: str, start_s: float, end_s: float) -> str:
    """The id of an event; a model that flags the same interval of a recording again gives the same id."""
    text = "\n".join((model_id, recording, repr(float(start_s)), repr(float(end_s))))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def entry_id_of(*content: str) -> str:
    """The id of an entry that comes from a file: the same for the same content, so that it is added once."""
    return hashlib.sha256("\n".join(content).encode()).hexdigest()[:32]


def in_utc(time: datetime) -> datetime:
    """A time in UTC; without a zone, it is UTC already."""
    return time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC)


def utc_text(time: datetime) -> str:
    """A time as the queue writes it."""
    return in_utc(time).isoformat(timespec="microseconds")


def known_verdict(verdict: Verdict) -> Verdict:
    """A verdict, or None in an entry that takes another back; ValueError for other text."""
    if verdict is not None and verdict not in VERDICTS:
        raise ValueError(f"Got verdict {verdict!r}, expected one of {', '.join(map(repr, VERDICTS))}. Pass one.")
    return verdict


def storable(text: str) -> str:
    """Remove from a text what databases reject: NUL, and halves of a surrogate pair."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()
