"""The tables of a review queue, and how SQLite is opened so that many processes can write to them."""

import time
from pathlib import Path
from typing import Any

try:
    import sqlalchemy as sa
except ImportError as error:
    raise ImportError(f"Got no {error.name}, expected SQLAlchemy. Run: pip install 'anomalyvae[review]'.") from error

_PATIENCE_S = 30.0  # to wait for another process that is writing

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


def open_engine(url: str, create: bool) -> sa.Engine:
    """An engine for a URL, or for a file of SQLite.

    A connection with the execution option ``writing=True`` is one that will write.

    Raises
    ------
    FileNotFoundError
        If there is no such file and ``create`` is false.
    """
    where = sa.make_url(url) if "://" in url else sa.URL.create("sqlite", database=url)
    if where.get_backend_name() != "sqlite":
        return sa.create_engine(where)
    file = Path(where.database or "")
    if not create and not file.is_file():
        raise FileNotFoundError(
            f"Got {file}, which does not exist, expected a review queue. Check the path, or make one with "
            "'anomalyvae flag'."
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    return _sqlite(where)


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
