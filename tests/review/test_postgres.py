"""The review queue on a PostgreSQL server keeps the promises of SQLite.

It runs if ANOMALYVAE_POSTGRES_URL names a database whose user may make schemas (each test takes one of its own and
drops it), as in postgresql://postgres@127.0.0.1/postgres, and psycopg is installed.
"""

import os
import socket
import uuid

import pytest
import sqlalchemy as sa
from test_queue import (  # noqa: F401 - tests of a queue, with the queue below
    at_once,
    events,
    ids,
    review_at_once,
    test_a_wrong_clock_does_not_restore_an_old_verdict,
    test_adding_an_event_again_keeps_it_and_its_verdict,
    test_an_event_is_confirmed_by_the_latest_verdicts_of_two_reviewers,
    test_an_export_loads_to_the_same_queue_and_loading_it_again_changes_nothing,
    test_characters_that_databases_reject_are_removed_from_notes,
    test_events_are_returned_as_added_most_anomalous_first,
    test_filters_select_open_and_reviewed_events,
    test_hostile_text_stays_text,
    test_the_latest_verdict_counts_and_undo_restores_the_one_before,
    test_threads_may_share_a_queue,
    test_two_queues_can_be_merged,
    test_unknown_events_and_verdicts_are_refused,
)

from anomalyvae.review import Queue, database

URL = os.environ.get("ANOMALYVAE_POSTGRES_URL")
if URL is None:
    pytest.skip("ANOMALYVAE_POSTGRES_URL names no PostgreSQL server", allow_module_level=True)


@pytest.fixture
def url():
    """A schema of its own, as a URL."""
    schema = f"review_{uuid.uuid4().hex}"
    engine = sa.create_engine(URL)
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(schema))
    own = sa.make_url(URL).update_query_dict({"options": f"-csearch_path={schema}", "application_name": schema})
    yield own.render_as_string(hide_password=False)
    with engine.begin() as connection:
        connection.execute(sa.schema.DropSchema(schema, cascade=True))
    engine.dispose()


@pytest.fixture
def queue(url):
    with Queue(url) as queue:
        yield queue


def test_a_queue_of_an_earlier_version_opens_with_its_verdicts_renamed(queue, url):
    queue.add(events(1))
    [name] = ids(queue)
    queue.give(name, "new_normal", "ann")
    with queue._writing() as connection:
        connection.execute(database.LOG.update().values(verdict="novel"))
    with Queue(url) as again:
        assert again.event(name)["verdict"] == "new_normal"


def test_processes_that_review_at_once_lose_nothing_on_a_server(url):
    review_at_once(url, rounds=5)


ADDER = """
import sys
sys.path.insert(0, {tests!r})
from test_queue import event, events
from anomalyvae.review import Queue
with Queue({url!r}) as queue:
    print("ready", flush=True)
    sys.stdin.readline()
    print(sum(queue.add(events(60)[::{step}].assign(recording=str(i))) for i in range(8)))
"""


def test_processes_that_add_the_same_events_do_not_deadlock(queue, url):
    scripts = ([ADDER.format(tests=os.path.dirname(__file__), url=url, step=step)] for step in (1, -1))
    assert sum(at_once(*scripts)) == len(ids(queue)) == 480


def test_a_writer_that_does_not_end_gives_an_error(queue, monkeypatch):
    queue.add(events(1))
    monkeypatch.setattr(database, "_TIMEOUT_S", 0.05)
    with queue._writing(), pytest.raises(BlockingIOError, match=r"keeps the review queue .* locked"):
        queue.give(*ids(queue), "new_normal", "ann")
    queue.give(*ids(queue), "fault", "ann")


def test_a_lost_connection_is_opened_again(queue, url):
    queue.add(events(2))
    hang_up = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = :name")
    engine = sa.create_engine(URL)
    with engine.begin() as connection:
        name = sa.make_url(url).query["application_name"]
        assert connection.execute(hang_up, {"name": name}).rowcount >= 1
    engine.dispose()
    queue.give(sorted(ids(queue))[0], "new_normal", "ann")
    assert len(ids(queue, status="reviewed")) == 1


def test_the_error_of_a_silent_server_hides_the_password():
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        port = unheard.getsockname()[1]
        with pytest.raises(ConnectionError, match=r"does not answer \(.*\)\. Check the address") as no:
            Queue(f"postgresql://ann:hidden@127.0.0.1:{port}/drives")
    assert "hidden" not in str(no.value)
