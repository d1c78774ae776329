"""An exported queue that people edited, with a spreadsheet or a script, brings their verdicts back."""

import os
from datetime import UTC, datetime

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_queue import HOSTILE, counts, events, said

from anomalyvae.cli import main
from anomalyvae.review import Queue
from anomalyvae.review.exports import load_export

SAVED = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = "2999-01-01T00:00:00.000000+00:00"


@pytest.fixture
def queue(tmp_path):
    """Four events; ann has called the first one a fault."""
    with Queue(tmp_path / "queue.db") as queue:
        queue.add(events(4))
        queue.give(ids(queue)[0], "fault", "ann", "loose")
        yield queue


def ids(queue):
    return sorted(queue.events()["event_id"])


@pytest.fixture
def edited(queue, tmp_path):
    """Call it with cells per event; it gives the file of an export in which they have been changed."""

    def write(changes, suffix=".csv", **how):
        file = tmp_path / f"edited{suffix}"
        queue.export(file)
        if suffix == ".parquet":
            table = pq.read_table(file)
            rows = [row | changes.get(row["event_id"], {}) for row in table.to_pylist()]
            pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)
        else:
            rows = pd.read_csv(file, dtype=str, keep_default_na=False).to_dict("records")
            changed = pd.DataFrame([row | changes.get(row["event_id"], {}) for row in rows])
            changed.to_csv(file, index=False, **how)
        os.utime(file, (SAVED.timestamp(), SAVED.timestamp()))
        return file

    return write


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_verdicts_reviewers_and_times_are_taken(queue, edited, suffix):
    first, second, third, fourth = ids(queue)
    when = "2026-02-03T04:05:06+01:00" if suffix == ".csv" else pd.Timestamp("2026-02-03T03:05:06Z")
    file = edited(
        {
            second: {"verdict": "new_normal", "reviewer": "bob", "note": "new road"},
            third: {"verdict": "noise", "reviewer": "cem", "reviewed_at": when},
        },
        suffix,
    )
    loaded = load_export(file, queue)
    assert counts(loaded) == (2, 1, {})
    assert said(queue, second) == [["new_normal", "new road", "bob", "2026-03-01T12:00:00.000000+00:00"]]
    assert said(queue, third) == [["noise", "", "cem", "2026-02-03T03:05:06.000000+00:00"]]
    assert len(said(queue, first)) == 1
    assert said(queue, fourth) == []
    assert counts(load_export(file, queue)) == (0, 3, {})
    os.utime(file)  # saved again, unchanged
    assert counts(load_export(file, queue)) == (0, 3, {})
    assert [len(said(queue, event_id)) for event_id in (second, third)] == [1, 1]


def test_a_changed_verdict_is_a_new_one_and_the_latest_counts(queue, edited):
    first = ids(queue)[0]
    [[_, _, _, at]] = said(queue, first)
    file = edited({first: {"verdict": "Noise ", "reviewed_at": LATER, "reviewer": "bob"}})
    assert counts(load_export(file, queue)) == (1, 1, {})
    assert said(queue, first) == [["fault", "loose", "ann", at], ["noise", "loose", "bob", LATER]]
    assert queue.event(first)["verdict"] == "noise"


def test_what_is_no_verdict_is_said(queue, edited):
    first, second, third, fourth = ids(queue)
    file = edited({
        first: {"verdict": ""},
        second: {"verdict": "lovely", "reviewer": "bob"},
        third: {"verdict": "fault"},
        fourth: {"verdict": "fault", "reviewer": "bob", "reviewed_at": "yesterday"},
    })  # fmt: skip
    assert counts(load_export(file, queue)) == (
        0, 1, {
            "its verdict was removed, which takes none back: undo it on the review page": [first],
            "the verdict 'lovely', expected one of new_normal, fault, noise, unsure": [second],
            "a verdict without a reviewer: fill in that column, too": [third],
            "the time 'yesterday', expected one such as 2026-03-01T14:30+00:00": [fourth],
        },
    )  # fmt: skip
    assert load_export(edited({second: {"note": "look"}}), queue).left_out == {
        "a note or a reviewer without a verdict": [second]
    }
    assert len(queue.history(first)) == 1


@pytest.mark.parametrize(
    "how", [{"sep": ";", "decimal": ",", "encoding": "cp1252"}, {"sep": "\t", "encoding": "utf-8-sig"}]
)
def test_however_a_spreadsheet_saves_it(queue, edited, how):
    second = ids(queue)[1]
    file = edited(
        {second: {"verdict": "new normal", "reviewer": "Jürgen", "p_value": "0,25" if how["sep"] == ";" else "0.25"}},
        **how,
    )
    assert counts(load_export(file, queue)) == (1, 1, {})
    assert queue.event(second)["reviewer"] == "Jürgen"


def test_empty_rows_and_unicode_text_of_a_spreadsheet(queue, edited):
    second = ids(queue)[1]
    file = edited({second: {"verdict": "fault", "reviewer": "bob"}})
    text = file.read_bytes().decode()
    file.write_bytes((text.replace("\n", "\n" + "," * text.split("\n")[0].count(",") + "\n")).encode("utf-16"))
    assert counts(load_export(file, queue)) == (1, 1, {})
    file.write_text("event,verdict\n1,fault\n")
    with pytest.raises(ValueError, match=r"cannot be read \(it has no column event_id\), expected an exported queue"):
        load_export(file, queue)


def test_rows_of_an_event_that_contradict_each_other_are_left_out(queue, edited):
    """Which of them is the latest cannot be told."""
    _, second, third, _ = ids(queue)
    file = edited({i: {"verdict": "fault", "reviewer": "ann"} for i in (second, third)})
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    again = table[table["event_id"] == second].assign(verdict="new_normal", reviewer="bob")
    pd.concat([table, again, table[table["event_id"] == third]]).to_csv(file, index=False)
    loaded = load_export(file, queue)
    assert loaded.left_out == {"several rows with different verdicts at one time": [second]}
    assert said(queue, second) == []
    assert [verdict for verdict, *_ in said(queue, third)] == ["fault"]


def test_times_that_were_cut_to_minutes_and_ids_that_became_numbers_change_nothing(queue, edited):
    first, second, *_ = ids(queue)
    cut = queue.event(first)["reviewed_at"][:16].replace("T", " ")
    file = edited({first: {"reviewed_at": cut}, second: {"event_id": "1.23457E+15"}})
    loaded = load_export(file, queue)
    assert (*counts(loaded), loaded.events) == (0, 1, {}, 0)
    assert len(ids(queue)) == 4


@pytest.mark.parametrize("cell", [lambda at: at[:16].replace("T", " "), lambda at: at[:19], lambda at: at])
def test_a_change_is_no_earlier_than_the_verdict_it_changes(queue, edited, cell):
    """A spreadsheet cuts times, and a copy of a file can be dated before the verdicts in it."""
    first = ids(queue)[0]
    at = queue.event(first)["reviewed_at"]
    file = edited({first: {"verdict": "noise", "reviewed_at": cell(at)}})
    assert counts(load_export(file, queue)) == (1, 1, {})
    assert queue.event(first)["verdict"] == "noise"
    assert counts(load_export(file, queue))[0] == 0
    os.utime(file, (SAVED.timestamp() + 60, SAVED.timestamp() + 60))
    assert counts(load_export(file, queue)) == (0, 2, {})


def test_five_columns_are_enough_for_events_that_the_queue_has(queue, edited, tmp_path):
    first, second, *_ = ids(queue)
    columns = ["event_id", "verdict", "note", "reviewer", "reviewed_at"]
    file = edited({second: {"verdict": "noise", "reviewer": "bob"}}, columns=columns)
    assert counts(load_export(file, queue)) == (1, 0, {})
    assert len(said(queue, first)) == 1
    assert queue.event(second)["verdict"] == "noise"
    with (
        Queue(tmp_path / "other.db") as other,
        pytest.raises(ValueError, match=r"lacks the columns model_id, .*expected an"),
    ):
        load_export(file, other)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_hostile_texts_that_nobody_changed_are_no_verdicts(queue, tmp_path, suffix):
    for text in HOSTILE:
        queue.give(ids(queue)[0], "fault", "ann" + text, text)
        queue.export(tmp_path / f"out{suffix}")
        assert load_export(tmp_path / f"out{suffix}", queue).new == 0


def test_times_are_times_in_parquet(queue, tmp_path):
    queue.export(tmp_path / "out.parquet")
    schema = pq.read_schema(tmp_path / "out.parquet")
    assert schema.field("added_at").type == schema.field("reviewed_at").type == pa.timestamp("us", "UTC")
    table = pd.read_parquet(tmp_path / "out.parquet").set_index("event_id")
    first = ids(queue)[0]
    assert table.loc[first, "reviewed_at"] == pd.Timestamp(queue.event(first)["reviewed_at"])
    assert table.loc[first, "history"][0]["at"] == pd.Timestamp(queue.event(first)["reviewed_at"])
    assert pd.to_datetime(pd.read_csv(csv_of(queue, tmp_path))["reviewed_at"]).max() == table["reviewed_at"].max()


def csv_of(queue, folder):
    queue.export(folder / "out.csv")
    return folder / "out.csv"


def test_a_parquet_export_of_an_earlier_version_is_read(queue, tmp_path):
    queue.export(tmp_path / "new.parquet")
    table = pq.read_table(tmp_path / "new.parquet")
    for name in ("added_at", "reviewed_at"):
        texts = pa.array([None if time is None else time.isoformat() for time in table[name].to_pylist()])
        table = table.set_column(table.column_names.index(name), name, texts)
    logs = [[{**entry, "at": entry["at"].isoformat()} for entry in log] for log in table["history"].to_pylist()]
    pq.write_table(
        table.set_column(table.column_names.index("history"), "history", pa.array(logs)), tmp_path / "old.parquet"
    )
    with Queue(tmp_path / "other.db") as other:
        other.load(tmp_path / "old.parquet")
        pd.testing.assert_frame_equal(other.events(), queue.events())
        pd.testing.assert_frame_equal(other.history(ids(queue)[0]), queue.history(ids(queue)[0]))


def test_a_table_of_label_studio_is_recognised(queue, tmp_path):
    pd.DataFrame(
        {"event_id": ids(queue), "verdict": "{}", "annotator": 7, "annotation_id": 1, "lead_time": 2.0}
    ).to_csv(tmp_path / "project.csv", index=False)
    with pytest.raises(
        ValueError, match=r"project.csv is a table of Label Studio.*export the project in the format JSON"
    ):
        queue.load(tmp_path / "project.csv")


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_column_that_comes_twice_is_refused(queue, edited, separator):
    file = edited({ids(queue)[1]: {"verdict": "noise", "reviewer": "bob"}}, sep=separator)
    header, rows = file.read_text().split("\n", 1)
    file.write_text(f"{header.replace('note', 'verdict')}\n{rows}")
    with pytest.raises(ValueError, match=r"has 2 columns named 'verdict'; names must be distinct"):
        queue.load(file)


def test_five_columns_of_an_earlier_verdict_do_not_bring_it_back(queue, edited):
    first, second, *_ = ids(queue)
    columns = ["event_id", "verdict", "note", "reviewer", "reviewed_at"]
    file = edited({second: {"verdict": "noise", "reviewer": "bob"}}, columns=columns)
    os.utime(file, (4e9, 4e9))
    load_export(file, queue)
    queue.give(first, "noise", "ann")
    queue.give(second, "fault", "cem")
    load_export(file, queue)
    assert [queue.event(name)["verdict"] for name in (first, second)] == ["noise", "fault"]


def test_the_command_line_says_what_it_took(queue, edited, tmp_path, capsys):
    _, second, third, _ = ids(queue)
    file = edited({second: {"verdict": "noise", "reviewer": "bob"}, third: {"verdict": "fault"}})
    assert main(["flag", "--queue", str(tmp_path / "queue.db"), "--load", str(file)]) == 3
    out, err = capsys.readouterr()
    assert out == f"{file}: 0 new events, 1 new verdicts, 1 already in the queue\n"
    assert err == f"anomalyvae: left out 1: a verdict without a reviewer: fill in that column, too (on {third})\n"
    assert main(["flag", "--queue", str(tmp_path / "queue.db"), "--load", str(file), "--reviewer", "7=ann"]) == 1
    assert "In a table, write the name into the column reviewer." in capsys.readouterr()[1]
