"""The review queue: no verdict is lost when several people write at once, and text stays text."""

import shutil
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from anomalyvae.review import Queue, database
from anomalyvae.review import queue as queue_module
from anomalyvae.review.database import EVENT_COLUMNS, VERDICTS
from anomalyvae.review.queue import event_id_of

OLD = Path(__file__).parent
HOSTILE = [
    '=HYPERLINK("http://evil")',
    "'; DROP TABLE events; --",
    "<script>alert(1)</script>",
    'two\r\nlines, "quoted"; and\ttabs\r',
    "'quoted at once",
    "NaN",
    "",
    "null",
    "-1+2",
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe 北京 🚗",
    " spaces ",
    "\\N",
]


def event(i, **changes):
    return {
        "model_id": "m1",
        "source": "/drives",
        "file": "a.csv",
        "recording": "a",
        "start_s": 10.0 * i,
        "end_s": 10.0 * i + 4,
        "peak_start_s": 10.0 * i + 1,
        "peak_end_s": 10.0 * i + 3,
        "peak_score": float(i),
        "p_value": 1 / (3 + i),
        "windows": 2,
        "signals": ["speed", "yaw"],
        "shares": [2 / 3, 1 / 3],
        "outside": {"speed": 0.1 + i},
        "nearest": None,
        "nearest_distance": None,
        "latent": [0.1 * i, 1 / 3],
    } | changes


def events(n, **changes):
    return pd.DataFrame([event(i, **changes) for i in range(n)])


@pytest.fixture
def queue(tmp_path):
    with Queue(tmp_path / "queue.db") as queue:
        yield queue


def ids(queue, **filters):
    return set(queue.events(**filters)["event_id"])


def said(queue, event_id):
    """What people said of an event, in order of time."""
    return queue.history(event_id)[["verdict", "note", "reviewer", "at"]].to_numpy().tolist()


def counts(loaded):
    return loaded.new, loaded.known, loaded.left_out


# --- events and verdicts --------------------------------------------------------------------------------


def test_events_are_returned_as_added_most_anomalous_first(queue):
    assert queue.add(events(3)) == 3
    found = queue.events()
    assert list(found["peak_score"]) == [2.0, 1.0, 0.0]
    assert list(found.columns) == [*EVENT_COLUMNS, "verdict", "note", "reviewer", "reviewed_at"]
    for i, row in zip((2, 1, 0), found.to_dict("records"), strict=True):
        told = {name: row[name] for name in event(i)}
        assert told | {"nearest_distance": None} == event(i)
        assert row["event_id"] == event_id_of("m1", "a", 10.0 * i, 10.0 * i + 4)
        assert row["verdict"] is row["note"] is row["reviewer"] is row["reviewed_at"] is None


def test_events_of_two_models_are_ordered_by_p_value(queue):
    queue.add(pd.DataFrame([event(1, p_value=0.2, peak_score=900.0), event(2, model_id="m2", p_value=0.01)]))
    assert list(queue.events()["model_id"]) == ["m2", "m1"]


def test_adding_an_event_again_keeps_it_and_its_verdict(queue):
    queue.add(events(2))
    queue.give(queue.events()["event_id"][0], "fault", "ann")
    assert queue.add(events(4, peak_score=99.0)) == 2
    assert queue.add(pd.concat([events(5), events(5)])) == 1
    assert sorted(queue.events()["peak_score"]) == [0.0, 1.0, 4.0, 99.0, 99.0]
    assert len(ids(queue, verdict="fault")) == 1


def test_the_latest_verdict_counts_and_undo_restores_the_one_before(queue):
    queue.add(events(1))
    [name] = ids(queue)
    queue.give(name, "new_normal", "ann", "new road")
    queue.give(name, "fault", "bob")
    assert queue.event(name)["verdict"] == "fault"
    queue.undo(name, "cid")
    said = queue.event(name)
    assert (said["verdict"], said["reviewer"], said["note"]) == ("new_normal", "ann", "new road")
    queue.give(name, "noise", "ann")
    queue.undo(name, "ann")
    queue.undo(name, "ann")
    assert queue.event(name)["verdict"] is None
    with pytest.raises(ValueError, match="has no verdict, so there is nothing to undo"):
        queue.undo(name, "ann")

    log = queue.history(name)
    assert list(log["verdict"]) == ["new_normal", "fault", None, "noise", None, None]
    assert list(log["reviewer"]) == ["ann", "bob", "cid", "ann", "ann", "ann"]
    entries = list(log["entry_id"])
    assert list(log["takes_back"]) == [None, None, entries[1], None, entries[3], entries[0]]


def test_an_event_is_confirmed_by_the_latest_verdicts_of_two_reviewers(queue):
    queue.add(events(1))
    [name] = ids(queue)
    for verdict, reviewer, confirmed in (
        ("new_normal", "ann", False),
        ("new_normal", "ann", False),  # the same person twice
        ("new_normal", "bob", True),
        ("fault", "ann", False),
        ("new_normal", "cid", True),
        ("fault", "bob", False),
    ):
        queue.give(name, verdict, reviewer)
        assert queue.confirmed("new_normal") == ({name} if confirmed else set())
    assert queue.confirmed("fault") == {name}
    queue.undo(name, "bob")
    assert queue.confirmed("new_normal") == {name}
    with pytest.raises(ValueError, match="Got verdict 'new'"):
        queue.confirmed("new")


@pytest.mark.parametrize("again", ["josé", "José ", "Jose\N{COMBINING ACUTE ACCENT}", "JOSÉ"])
def test_nobody_confirms_an_own_verdict_by_another_spelling_of_the_name(queue, again):
    queue.add(events(1))
    [name] = ids(queue)
    queue.give(name, "new_normal", "José")
    queue.give(name, "new_normal", again)
    assert queue.confirmed("new_normal") == set()
    queue.give(name, "new_normal", "ann")
    assert queue.confirmed("new_normal") == {name}


def test_a_wrong_clock_does_not_restore_an_old_verdict(queue, monkeypatch):
    queue.add(events(1))
    [name] = ids(queue)
    queue.give(name, "new_normal", "ann")
    monkeypatch.setattr(queue_module, "_now", lambda: "1999-01-01T00:00:00.000000+00:00")
    queue.give(name, "fault", "bob")
    assert queue.event(name)["verdict"] == "fault"


def test_filters_select_open_and_reviewed_events(queue):
    queue.add(pd.concat([events(2), events(1, recording="b")]))
    names = list(queue.events()["event_id"])
    queue.give(names[0], "fault", "ann")
    queue.give(names[1], "new_normal", "ann")
    queue.undo(names[1], "ann")
    assert ids(queue, status="reviewed") == ids(queue, verdict="fault") == {names[0]}
    assert ids(queue, status="open") == set(names[1:])
    assert len(ids(queue, recording="b")) == 1
    assert ids(queue, verdict="new_normal") == set()


def test_new_normals_of_only_one_reviewer_are_unconfirmed(queue):
    queue.add(events(5))
    alone, twice, taken_back, fault, still_open = sorted(ids(queue))
    for name, verdict, reviewer in (
        (alone, "new_normal", "ann"),
        (alone, "new_normal", "ann"),
        (twice, "new_normal", "ann"),
        (twice, "new_normal", "bob"),
        (taken_back, "new_normal", "bob"),
        (taken_back, "new_normal", "ann"),
        (fault, "new_normal", "ann"),
        (fault, "fault", "bob"),
    ):
        queue.give(name, verdict, reviewer)
    queue.undo(taken_back, "ann")
    assert ids(queue, status="unconfirmed") == {alone, taken_back}
    assert ids(queue, status="unconfirmed", recording="b") == set()
    agreeing = {name: told["agreeing"] for name, told in queue.current().items()}
    assert agreeing == {alone: ["ann"], twice: ["ann", "bob"], taken_back: ["bob"], fault: ["bob"]}
    assert still_open in ids(queue, status="open")


def test_entries_of_another_log_are_added_once_in_order_of_time(queue):
    queue.add(events(1))
    [name] = ids(queue)
    queue.give(name, "fault", "ann")
    own = queue.history(name).to_dict("records")[0]
    before = own | {
        "entry_id": "b",
        "verdict": "new_normal",
        "reviewer": "bob",
        "at": "2020-01-01T00:00:00.000000+00:00",
    }
    after = before | {"entry_id": "a", "verdict": "noise", "at": "2999-01-01T00:00:00.000000+00:00"}
    assert queue.append([before, own]) == 1
    assert queue.event(name)["verdict"] == "fault"
    assert queue.append([after, before]) == 1
    assert list(queue.history(name)["verdict"]) == ["new_normal", "fault", "noise"]
    assert queue.append([]) == 0
    for wrong, said in (({"event_id": "x"}, "Got event 'x'"), ({"verdict": "new"}, "Got verdict 'new'")):
        with pytest.raises(ValueError, match=said):
            queue.append([after | {"entry_id": "c"}, after | {"entry_id": "d"} | wrong])
    assert len(queue.history(name)) == 3


def test_unknown_events_and_verdicts_are_refused(queue):
    queue.add(events(1))
    [name] = ids(queue)
    with pytest.raises(
        ValueError, match="Got verdict 'maybe', expected one of 'new_normal', 'fault', 'noise', 'unsure'"
    ):
        queue.give(name, "maybe", "ann")
    with pytest.raises(ValueError, match="Got an empty reviewer, expected who gives this verdict"):
        queue.give(name, "new_normal", " ")
    for call in (
        lambda: queue.give("x", "new_normal", "ann"),
        lambda: queue.undo("x", "ann"),
        lambda: queue.history("x"),
    ):
        with pytest.raises(ValueError, match="Got event 'x', expected one of the queue"):
            call()
    with pytest.raises(ValueError, match="Got status='done', expected one of 'all', 'open', 'reviewed', 'unconf"):
        queue.events("done")
    with pytest.raises(ValueError, match="Got events without 'latent', expected"):
        queue.add(events(1).drop(columns="latent"))
    assert len(queue.history(name)) == 0


def test_a_missing_queue_and_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"typo.db does not exist\. Check the path, or make"):
        Queue(tmp_path / "typo.db", create=False)
    assert not (tmp_path / "typo.db").exists()
    (tmp_path / "notes.db").write_text("these are notes, " * 100)
    with pytest.raises(ValueError, match=r"notes.db, which is not a database, expected a review queue"):
        Queue(tmp_path / "notes.db")


def spoilt(file, statement):
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(statement)
    return file


def test_a_queue_of_a_newer_version_and_another_database_are_refused(tmp_path):
    for name in "abc":
        Queue(tmp_path / f"{name}.db").close()
    with pytest.raises(ValueError, match=r"a\.db is a review queue of version 7, expected 1\. Update anomalyvae"):
        Queue(spoilt(tmp_path / "a.db", "PRAGMA user_version = 7"))
    with pytest.raises(ValueError, match=r"b\.db, whose table 'events' is another one, expected a review queue"):
        Queue(spoilt(tmp_path / "b.db", "ALTER TABLE events RENAME COLUMN latent TO code"))
    with pytest.raises(ValueError, match=r"c2\.db, a database of another program, expected a review queue"):
        Queue(spoilt(tmp_path / "c2.db", "CREATE TABLE places (url)"), create=False)


def test_a_damaged_queue_is_reported_by_name(tmp_path):
    file = tmp_path / "queue.db"
    with Queue(file) as queue:
        queue.add(events(50))
    whole = file.read_bytes()
    for part in range(0, len(whole), 997):
        file.write_bytes(whole[:part] + b"\xff" * 997 + whole[part + 997 :])
        for left in tmp_path.glob("queue.db-*"):
            left.unlink()
        assert str(file) in opened(file)


def opened(file):
    """The message of the error at reading a queue; its name if it can be read."""
    try:
        with Queue(file, create=False) as queue:
            queue.events()
    except (ValueError, OSError) as error:
        return str(error)
    return str(file)


def test_a_read_only_queue_and_a_full_disk_are_named(tmp_path, monkeypatch):
    file = tmp_path / "queue.db"
    with Queue(file) as queue:
        queue.add(events(1))
        with queue._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1")
            connection.commit()
        with pytest.raises(OSError, match=r"The disk of the review queue .*queue\.db is full\. Nothing was saved"):
            queue.add(events(2000, recording="new"))
        assert len(queue.events()) == 1
    with Queue(file) as queue:
        with queue._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA query_only = 1")
        with pytest.raises(PermissionError, match=r"queue\.db is read-only\. Allow writing to it, .*queue\.db-shm"):
            queue.add(events(1, recording="new"))


def test_names_that_no_text_has_stay_apart(queue):
    """Names of files that are not UTF-8, and NUL, which no file has but a signal may."""
    for name in ("caf\udce9", "caf\udce8", "a\0b"):
        queue.add(events(1).assign(recording=pd.Series([name], dtype=object)))
    assert sorted(queue.events()["recording"]) == ["a\\x00b", "caf\\udce8", "caf\\udce9"]


def test_an_event_without_a_score_is_refused(queue):
    with pytest.raises(ValueError, match=r"Got an event of '.*' without peak_score"):
        queue.add(events(1).assign(peak_score=float("nan")))


def test_an_empty_source_stays_empty(queue, tmp_path):
    queue.add(events(1).assign(source=""))
    for suffix in (".csv", ".parquet"):
        queue.export(tmp_path / f"out{suffix}")
        with Queue(tmp_path / f"{suffix}.db") as other:
            other.load(tmp_path / f"out{suffix}")
            assert list(other.events()["source"]) == [""]


def test_other_databases_and_a_missing_driver_are_refused(monkeypatch):
    for kind in ("postgres://{}/drives", "postgresql://{}:port/drives", "mysql://{}/drives", "://"):
        with pytest.raises(ValueError, match=r"Got a queue at \w*://…, expected a file, or a URL such as") as refused:
            Queue(kind.format("ann:hidden@host"))
        assert "hidden" not in str(refused.value)
    for kept_nowhere in ("", "sqlite://", ":memory:", "sqlite:///:memory:"):
        with pytest.raises(ValueError, match=r"which is no file: it would be lost at once\. Name a file \(--queue\)"):
            Queue(kept_nowhere)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ImportError, match=r"psycopg is not installed.* pip install 'psycopg\[binary\]'"):
        Queue("postgresql://host/drives")


def test_a_queue_of_an_earlier_version_opens_with_its_verdicts_renamed(tmp_path):
    """It called new normals "novel"; the database and its export were written by that version."""
    shutil.copy(OLD / "queue-1.db", tmp_path / "queue.db")
    with Queue(tmp_path / "queue.db", create=False) as old, Queue(tmp_path / "loaded.db") as loaded:
        loaded.load(OLD / "queue-1.csv")
        assert loaded.load(OLD / "queue-1.csv") == 0
        for mine, theirs in zip(state(old), state(loaded), strict=True):
            pd.testing.assert_frame_equal(mine, theirs)
        table, log = state(old)
        assert table.sort_values("peak_score")["verdict"].tolist() == [None, "fault", "new_normal"]
        assert log.sort_values("at")["verdict"].tolist() == ["new_normal"] * 2 + ["fault", "new_normal", None]
        assert log["note"].tolist().count("new road") == 1
        [confirmed] = old.confirmed("new_normal")
        assert old.current()[confirmed]["agreeing"] == ["ann", "bob"]
    with Queue(tmp_path / "queue.db") as again:
        for before, after in zip((table, log), state(again), strict=True):
            pd.testing.assert_frame_equal(before, after)


# --- several at once ------------------------------------------------------------------------------------

REVIEWER = """
import sys, pandas as pd
sys.path.insert(0, {tests!r})
from test_queue import events
from anomalyvae.review import Queue
print("ready", flush=True)
sys.stdin.readline()
with Queue({path!r}) as queue:
    print(queue.add(events(3)))
    for i in range({rounds}):
        for name in sorted(queue.events()["event_id"]):
            queue.give(name, ["new_normal", "fault"][i % 2], sys.argv[1], str(i))
            if i % 5 == 4:
                queue.undo(name, sys.argv[1])
"""


def at_once(*scripts):
    """Run scripts, with their arguments, from the moment at which all are ready; the number that each prints."""
    running = [
        subprocess.Popen([sys.executable, "-c", *script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for script in scripts
    ]
    assert [process.stdout.readline() for process in running] == ["ready\n"] * len(running)
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = [int(process.communicate(timeout=100)[0]) for process in running]
    assert [process.returncode for process in running] == [0] * len(running)
    return printed


def review_at_once(url, rounds=15):
    """Three processes create one queue, add to it and review it at once; all their verdicts must be there."""
    people = ["ann", "bob", "cid"]
    script = REVIEWER.format(tests=__file__.rsplit("/", 1)[0], path=url, rounds=rounds)
    assert sum(at_once(*([script, who] for who in people))) == 3  # all make the file

    with Queue(url) as queue:
        for name in ids(queue):
            log = queue.history(name)
            given = log[log["verdict"].notna()]
            for who in people:
                assert list(given.loc[given["reviewer"] == who, "note"]) == [str(i) for i in range(rounds)]
            back = log["takes_back"].dropna()
            assert len(back) == back.nunique() == rounds // 5 * len(people)
            standing = given[~given["entry_id"].isin(back)]
            assert queue.event(name)["note"] == standing["note"].iloc[-1]


def test_processes_that_review_at_once_lose_nothing(tmp_path):
    review_at_once(str(tmp_path / "queue.db"))


WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
connection.execute("CREATE TABLE other (number)")
print("writing", flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
"""


@pytest.fixture
def writer(tmp_path):
    """Another process that is writing to a file without write-ahead logging."""
    command = [sys.executable, "-c", WRITER, str(tmp_path / "queue.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        yield process
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_opening_waits_for_another_process_that_writes(writer, tmp_path, monkeypatch):
    waited = []

    def sleep(seconds):
        if not waited:
            writer.stdin.write("go\n")
            writer.stdin.flush()
            assert writer.wait(30) == 0
        waited.append(seconds)

    monkeypatch.setattr(database, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    with Queue(tmp_path / "queue.db") as queue:
        assert queue.add(events(2)) == 2
        with closing(sqlite3.connect(tmp_path / "queue.db")) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert len(waited) == 1


def test_a_file_that_stays_locked_gives_an_error(writer, tmp_path, monkeypatch):
    monkeypatch.setattr(database, "_TIMEOUT_S", 0.05)
    with pytest.raises(BlockingIOError, match=r"keeps the review queue .*queue\.db locked .*Try again"):
        Queue(tmp_path / "queue.db")


def test_threads_may_share_a_queue(queue):
    queue.add(events(1))
    [name] = ids(queue)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: queue.give(name, "new_normal", "ann", str(i)), range(40)))
    assert set(queue.history(name)["note"]) == {str(i) for i in range(40)}


def test_postgresql_can_create_the_tables():
    for table in (database.EVENTS, database.LOG):
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=postgresql.dialect()))


# --- files ----------------------------------------------------------------------------------------------


def filled(queue):
    """A queue with an event per hostile text, in every place where text can be, and some history."""
    rows = [
        event(i, recording=text or "x", file=f"{text}.csv", signals=[text, "b"], outside={text: 1e-300 * i})
        for i, text in enumerate(HOSTILE)
    ]
    rows[0] |= {"outside": {}, "p_value": None, "nearest": "0123456789abcdef", "nearest_distance": 0.1 + 0.2}
    queue.add(pd.DataFrame(rows))
    for i, (name, text) in enumerate(zip(queue.events()["event_id"], HOSTILE, strict=True)):
        queue.give(name, VERDICTS[i % 4], text.strip() or "ann", text)
        queue.give(name, VERDICTS[i % 3], "bob", text[::-1])
        if i % 3 == 0:
            queue.undo(name, text.strip() or "ann")
    queue.add(events(2, recording="still open"))
    return queue


def state(queue):
    table = queue.events().sort_values("event_id", ignore_index=True)
    return table, pd.concat([queue.history(name) for name in table["event_id"]], ignore_index=True)


def test_hostile_text_stays_text(queue):
    filled(queue)
    notes = {note for name in ids(queue) for note in queue.history(name)["note"]}
    assert set(HOSTILE) <= notes
    assert {signals[0] for signals in queue.events()["signals"]} >= set(HOSTILE)


def test_characters_that_databases_reject_are_removed_from_notes(queue):
    queue.add(events(1))
    [name] = ids(queue)
    queue.give(name, "noise", "ann", "a\0b\ud800c")
    assert queue.event(name)["note"] == "ab?c"


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_an_export_loads_to_the_same_queue_and_loading_it_again_changes_nothing(queue, tmp_path, suffix):
    file = tmp_path / f"out{suffix}"
    filled(queue).export(file)
    with Queue(tmp_path / "other.db") as other:
        assert other.load(file) > 0
        for mine, theirs in zip(state(queue), state(other), strict=True):
            pd.testing.assert_frame_equal(mine, theirs)
        assert other.load(file) == 0
        other.export(tmp_path / f"again{suffix}")
    assert queue.load(tmp_path / f"again{suffix}") == 0


def test_an_empty_queue_exports_and_loads(queue, tmp_path):
    for suffix in (".parquet", ".csv"):
        queue.export(tmp_path / f"out{suffix}")
        assert queue.load(tmp_path / f"out{suffix}") == 0


def test_an_exported_csv_contains_no_formulas(queue, tmp_path):
    filled(queue).export(tmp_path / "out.csv")
    table = pd.read_csv(tmp_path / "out.csv", dtype=str, keep_default_na=False)
    for name in ("recording", "file", "note", "reviewer", "signals"):
        assert not table[name].str.match(r"[=+\-@\t\r]").any()


def test_two_queues_can_be_merged(queue, tmp_path):
    queue.add(events(2))
    first, second = sorted(ids(queue))
    queue.export(tmp_path / "start.csv")
    with Queue(tmp_path / "other.db") as other:
        other.load(tmp_path / "start.csv")
        queue.give(first, "new_normal", "ann")
        other.give(first, "fault", "bob")
        other.give(second, "noise", "bob")
        queue.give(second, "fault", "ann")
        other.export(tmp_path / "back.parquet")
    assert queue.load(tmp_path / "back.parquet") == 2
    assert (queue.event(first)["verdict"], queue.event(second)["verdict"]) == ("fault", "fault")
    assert len(queue.history(first)) == len(queue.history(second)) == 2


def test_other_files_are_refused_and_leave_the_queue_unchanged(queue, tmp_path):
    queue.add(events(1))
    with pytest.raises(ValueError, match=r"Got 'out.xlsx', expected a name that ends in .parquet or .csv"):
        queue.export(tmp_path / "out.xlsx")
    pd.DataFrame({"a": [1]}).to_csv(tmp_path / "table.csv")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "table.parquet")
    for name in ("table.csv", "table.parquet"):
        with pytest.raises(ValueError, match=f"{name}, which cannot be read .*, expected an exported queue"):
            queue.load(tmp_path / name)
    queue.give(*ids(queue), "new_normal", "ann")
    queue.export(tmp_path / "out.csv")
    text = (tmp_path / "out.csv").read_text().replace("new_normal", "lovely")
    (tmp_path / "forged.csv").write_text(text)
    with pytest.raises(ValueError, match="Got verdict 'lovely'"), Queue(tmp_path / "fresh.db") as fresh:
        fresh.load(tmp_path / "forged.csv")
    with Queue(tmp_path / "fresh.db") as fresh:
        assert fresh.events().empty
