"""The tables of a review queue, and how a database is opened so that many processes can write to them."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

try:
    import sqlalchemy as sa
except ImportError as error:
    raise ImportError(f"Got no {error.name}, expected SQLAlchemy. Run: pip install 'anomalyvae[review]'.") from error

_PATIENCE_S = 30.0  # to wait for another process that is writing
_WRITERS = 0x616E6F6D616C7976  # of all of a server's advisory locks, the one that writers to a queue take

RENAMED = {"novel": "new_normal"}  # verdicts of queues and exports that an earlier version wrote

SCHEMA = sa.MetaData()
EVENTS = sa.Table(
    "events",
    SCHEMA,
    sa.Column("event_id", sa.String(16), primary_key=True),
    sa.Column("model_id", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("file", sa.Text, nullable=False),
    sa.Column("recording", sa.Text, nullable=False),
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
    sa.Column("verdict", sa.String(16)),  # NULL where an entry takes another back
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("reviewer", sa.Text, nullable=False),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("takes_back", sa.String(32)),
    sqlite_autoincrement=True,
)

_DTYPES: dict[str, Any] = {
    **{column.name: "float64" for column in EVENTS.columns if isinstance(column.type, sa.Double)},
    # As objects: pandas would turn a None among text into NaN, which is a number.
    **dict.fromkeys(("nearest", "verdict", "note", "reviewer", "reviewed_at", "takes_back"), object),
}


def open_engine(url: str, create: bool) -> sa.Engine:
    """An engine for a URL, or for a file of SQLite.

    A connection with the execution option ``writing=True`` is one that will write.

    Raises
    ------
    FileNotFoundError
        If there is no such file and ``create`` is false.
    ImportError
        If the URL's database needs a package that is not installed.
    ValueError
        If the URL names no database that is known here.
    """
    try:
        where = sa.make_url(url) if "://" in url else sa.URL.create("sqlite", database=url)
        backend = where.get_backend_name()
        if backend != "sqlite":
            # Reviewers take breaks, and servers restart meanwhile.
            engine = sa.create_engine(where, pool_pre_ping=True)
            return _queueing(engine) if backend == "postgresql" else engine
    except (sa.exc.ArgumentError, ValueError):  # without the rest of the URL, which may hold a password
        raise ValueError(
            f"Got a queue at {url.partition('://')[0]}://…, which is no URL of a database here, expected a file, or "
            "one as in 'postgresql://host/drives'. Pass it."
        ) from None
    except ModuleNotFoundError as error:
        what = "Run: pip install 'psycopg[binary]'" if error.name == "psycopg" else "Install it"
        raise ImportError(f"Got no {error.name}, expected the driver of {backend}. {what}.") from error
    file = Path(where.database or "")
    if not create and not file.is_file():
        raise FileNotFoundError(
            f"Got {file}, which does not exist, expected a review queue. Check the path, or make one with "
            "'anomalyvae flag'."
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    return _sqlite(where)


def _queueing(engine: sa.Engine) -> sa.Engine:
    """An engine of PostgreSQL whose writers queue up from their first statement, as SQLite's do.

    Without, two processes that make the tables at once collide, and two that add the same events wait for each other.
    """

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("writing", False):
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {1000 * _PATIENCE_S:.0f}")  # milliseconds
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITERS})")

    return engine


def _sqlite(where: sa.URL) -> sa.Engine:
    """An engine whose writers queue up from their first statement, and whose readers wait for nobody."""
    engine = sa.create_engine(where, connect_args={"timeout": _PATIENCE_S})

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say, below
        until = time.monotonic() + _PATIENCE_S
        while True:  # SQLite waits for no lock when it turns to write-ahead logging
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                return
            except connection.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.01)

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        writing = connection.get_execution_options().get("writing", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def standing() -> sa.Subquery:
    """The entry that stands, of each event that has one."""
    back = sa.select(LOG.c.takes_back).where(LOG.c.takes_back.is_not(None))
    latest = sa.func.row_number().over(partition_by=LOG.c.event_id, order_by=(LOG.c.at.desc(), LOG.c.number.desc()))
    kept = (
        sa.select(LOG, latest.label("rank")).where(LOG.c.verdict.is_not(None), LOG.c.entry_id.not_in(back)).subquery()
    )
    return sa.select(kept).where(kept.c.rank == 1).subquery()


def agreed(entries: list[dict[str, Any]]) -> dict[str, tuple[str, list[str]]]:
    """Of each event that has one the verdict that stands, and the reviewers whose last word it is; entries in order."""
    back = {entry["takes_back"] for entry in entries}
    last_words: dict[str, dict[str, str]] = {}
    for entry in entries:
        if entry["verdict"] is not None and entry["entry_id"] not in back:
            said = last_words.setdefault(entry["event_id"], {})
            said.pop(entry["reviewer"], None)  # so that the last of them is what stands
            said[entry["reviewer"]] = entry["verdict"]
    stands = {event_id: list(said.values())[-1] for event_id, said in last_words.items()}
    return {
        event_id: (stands[event_id], [who for who, verdict in said.items() if verdict == stands[event_id]])
        for event_id, said in last_words.items()
    }


def told() -> sa.Select:
    """Events, strangest first, with what stands of them."""
    said = standing().alias("said")
    columns = (said.c.verdict, said.c.note, said.c.reviewer, said.c.at.label("reviewed_at"))
    return (
        sa.select(EVENTS, *columns)
        .outerjoin(said, said.c.event_id == EVENTS.c.event_id)
        .order_by(
            sa.case((EVENTS.c.p_value.is_(None), 1), else_=0),
            EVENTS.c.p_value,
            EVENTS.c.peak_score.desc(),
            EVENTS.c.event_id,
        )
    )


def table_of(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> pd.DataFrame:
    """Rows that a query gave, as a table."""
    return pd.DataFrame({name: pd.Series([row[name] for row in rows], dtype=_DTYPES.get(name)) for name in columns})


def record_of(event: Mapping[Any, Any]) -> dict[str, Any]:
    """What was found of an event, as plain Python values; what is missing is None."""
    record: dict[str, Any] = {name: str(event[name]) for name in ("model_id", "source", "file", "recording")}
    for name in ("start_s", "end_s", "peak_start_s", "peak_end_s", "peak_score", "p_value", "nearest_distance"):
        record[name] = None if pd.isna(event[name]) else float(event[name])
    record["windows"] = int(event["windows"])
    record["signals"] = [str(name) for name in event["signals"]]
    record["shares"] = [float(share) for share in event["shares"]]
    record["outside"] = {str(name): float(widths) for name, widths in dict(event["outside"]).items()}
    record["latent"] = [float(value) for value in event["latent"]]
    record["nearest"] = None if pd.isna(event["nearest"]) else str(event["nearest"])
    return record


def storable(text: str) -> str:
    """Text without what databases refuse: NUL, and halves of a character pair."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()
