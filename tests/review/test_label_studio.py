"""Verdicts from Label Studio: read once, with author and time."""

import json

import numpy as np
import pandas as pd
import pytest
from test_queue import counts, events, ids, said

from anomalyvae import WindowRecipe
from anomalyvae.cli import main
from anomalyvae.review import Queue
from anomalyvae.review.label_studio import read_label_studio, write_label_studio

RECIPE = WindowRecipe(("speed", "yaw"), rate_hz=5, length_s=2, stride_s=1, max_gap_s=1)
NOON, ONE, TWO = (f"2026-03-01T{hour}:00:00.000250Z" for hour in (12, 13, 14))


@pytest.fixture
def queue(tmp_path):
    """Three events of a drive, at 0, 10 and 20 s, each 4 s long."""
    time_s = np.arange(0, 60, 0.2)
    (tmp_path / "drives").mkdir()
    drive = pd.DataFrame({"time_s": time_s, "speed": np.sin(time_s), "yaw": np.cos(time_s)})
    drive.to_csv(tmp_path / "drives" / "a.csv", index=False)
    with Queue(tmp_path / "queue.db") as queue:
        queue.add(events(3, source=str(tmp_path / "drives")))
        yield queue


@pytest.fixture
def export(queue, tmp_path):
    """Call it with annotations per event, for the export that Label Studio makes of the queue's tasks."""

    def write(**annotations):
        write_label_studio(tmp_path / "tasks.json", queue.events(), RECIPE)
        tasks = json.loads((tmp_path / "tasks.json").read_text())
        for number, task in enumerate(tasks, 1):
            imported = [annotation("", 1, NOON) | given for given in task.get("annotations", [])]
            task["annotations"] = imported + annotations.get(f"e{task['data']['event_id']}", [])
            task |= {"id": number, "inner_id": number, "project": 83, "drafts": [], "predictions": [], "meta": {}}
            task |= {"file_upload": "tasks.json", "created_at": NOON, "updated_at": TWO, "total_annotations": 1}
            task |= {"cancelled_annotations": 0, "total_predictions": 0, "comment_count": 0, "updated_by": 1}
        file = tmp_path / "export.json"
        file.write_text(json.dumps(tasks))
        return file

    return write


def annotation(verdict, by, at, note="", span=(0.0, 30.0), **changes):
    """As Label Studio writes one: with the fields of the serializer of its export, in version 1.23."""
    origin = {"to_name": "signals", "origin": "manual"}
    labels = {"start": span[0], "end": span[1], "instant": False, "timeserieslabels": [verdict]}
    result = [{"id": "Dx_aB91ISN", "from_name": "verdict", "type": "timeserieslabels", "value": labels, **origin}]
    if note:
        text = {"text": note.split("\n")}
        result.append({"id": "Zk_01", "from_name": "note", "type": "textarea", "value": text, **origin})
    return {
        "id": 1001, "completed_by": by, "result": result, "was_cancelled": False, "ground_truth": False,
        "created_at": NOON, "updated_at": at, "lead_time": 4.288, "prediction": {}, "result_count": 0, "task": 1,
        "unique_id": "0c5c8b5e-6b0f-4f2e-9a51-f0a7ad1b5e11", "import_id": None, "last_action": None, "project": 83,
        "updated_by": 1, "last_created_by": None, "parent_prediction": None, "parent_annotation": None,
        "draft_created_at": NOON, "bulk_created": False,
    } | changes  # fmt: skip


def on(event_id, *annotations):
    return {f"e{event_id}": list(annotations)}


def test_verdicts_are_read_once_with_author_time_and_note(queue, export):
    second = sorted(ids(queue))[1]
    by = {"id": 7, "email": "ann@drives.example", "first_name": "Ann", "last_name": ""}
    file = export(**on(second, annotation("fault", by, ONE, "cable\nloose"), annotation("new_normal", 8, TWO)))
    assert counts(read_label_studio(file, queue)) == (2, 0, {})
    assert said(queue, second) == [
        ["fault", "cable\nloose", "ann@drives.example", "2026-03-01T13:00:00.000250+00:00"],
        ["new_normal", "", "Label Studio 8", "2026-03-01T14:00:00.000250+00:00"],
    ]
    assert queue.event(second)["verdict"] == "new_normal"
    assert len(ids(queue, status="open")) == 2
    for again in (read_label_studio(file, queue), read_label_studio(file, queue, {"7": "ann", "8": "bob"})):
        assert counts(again) == (0, 2, {})
    assert len(queue.history(second)) == 2


def test_reviewers_maps_users_to_names(queue, export):
    """So that nobody can confirm their own verdict by using two programs."""
    first, second, third = sorted(ids(queue))
    for name in (first, second, third):
        queue.give(name, "new_normal", "ann")
    file = export(
        **on(first, annotation("new_normal", 7, TWO)),
        **on(second, annotation("new_normal", {"id": 7, "email": "ann@drives.example"}, TWO)),
        **on(third, annotation("new_normal", 8, TWO)),
    )
    loaded = read_label_studio(file, queue, {"7": "ann", "ann@drives.example": "ann"})
    assert (loaded.new, loaded.known) == (3, 3)
    assert queue.confirmed("new_normal") == {third}


def test_the_verdict_that_a_task_was_written_with_does_not_count(queue, export):
    first, second, third = sorted(ids(queue))
    queue.give(first, "new_normal", "ann", "new road")
    queue.give(second, "new_normal", "ann")
    assert counts(read_label_studio(export(), queue)) == (0, 2, {})
    assert queue.confirmed("new_normal") == set()

    file = export()
    tasks = json.loads(file.read_text())
    [changed] = [task["annotations"][0] for task in tasks if task["data"]["event_id"] == second]
    changed["result"][0]["value"]["timeserieslabels"] = ["fault"]  # somebody saw it otherwise, in the same annotation
    changed["updated_at"] = "2999-01-01T00:00:00Z"
    file.write_text(json.dumps(tasks))
    assert counts(read_label_studio(file, queue)) == (1, 1, {})
    assert queue.event(second)["verdict"] == "fault"
    assert queue.event(third)["verdict"] is None


def test_the_later_of_two_verdicts_counts_wherever_it_was_given(queue, export):
    first, second, _ = sorted(ids(queue))
    queue.give(first, "fault", "ann")
    queue.give(second, "fault", "ann")
    file = export(
        **on(first, annotation("new_normal", 7, "2026-03-01T12:00:00+02:00")),  # before today
        **on(second, annotation("new_normal", 7, "2999-01-01T00:00:00Z")),
    )
    assert read_label_studio(file, queue).new == 2
    assert queue.event(first)["verdict"] == "fault"
    assert queue.event(second)["verdict"] == "new_normal"
    assert said(queue, first)[0][-1] == "2026-03-01T10:00:00.000000+00:00"
    queue.undo(first, "ann")
    assert queue.event(first)["verdict"] == "new_normal"  # it was kept


def test_labels_of_an_earlier_version_are_read_under_their_new_name(queue, export):
    first, second, _ = sorted(ids(queue))
    queue.give(second, "new_normal", "ann")
    file = export(**on(first, annotation("novel", 7, ONE)))
    old = file.read_text().replace("new_normal", "novel")  # also the verdict that the second task was written with
    file.write_text(old)
    assert counts(read_label_studio(file, queue)) == (1, 1, {})
    assert queue.event(first)["verdict"] == "new_normal"
    assert counts(read_label_studio(file, queue)) == (0, 2, {})


def test_annotations_that_are_not_verdicts_are_left_out_and_listed(queue, export):
    first = sorted(ids(queue))[0]
    span = queue.event(first)["start_s"], queue.event(first)["end_s"]
    both = annotation("new_normal", 7, ONE)
    both["result"].append(annotation("fault", 7, ONE)["result"][0])
    file = export(
        **on(
            first,
            annotation("new_normal", 7, ONE, result=[]),
            annotation("new_normal", 7, ONE, "only a note", result=annotation("", 7, ONE, "only a note")["result"][1:]),
            annotation("new_normal", 7, ONE, was_cancelled=True),
            annotation("pothole", 7, ONE),
            both,
            annotation("new_normal", 7, ONE, span=(span[1] + 1, span[1] + 2)),
            annotation("new_normal", None, ONE),
            annotation("new_normal", 7, None, created_at=None),
            annotation("new_normal", 7, "yesterday"),
            annotation("new_normal", 7, ONE, result=[{"type": "timeserieslabels", "value": None}]),
            annotation("noise", 7, TWO, span=span),
        )
    )
    tasks = json.loads(file.read_text())
    for event_id in (None, "\x1b[31m", ["a"]):
        tasks.append({"data": {"event_id": event_id}, "annotations": [annotation("new_normal", 7, ONE)]})
    tasks.append({"data": {}})  # a task of somebody else's that nobody has labelled
    file.write_text(json.dumps(tasks))
    loaded = read_label_studio(file, queue)
    assert (loaded.new, loaded.known) == (1, 0)
    malformed = loaded.left_out.pop("not an annotation of Label Studio")
    assert malformed == [first, "['a']"]
    assert loaded.left_out == {
        "nothing is labelled": [first, first],
        "skipped there": [first],
        "labelled 'pothole', expected one of new_normal, fault, noise, unsure": [first],
        "labelled fault and new_normal at once": [first],
        "the labelled region does not touch the event": [first],
        "its author is missing": [first],
        "its time is missing": [first, first],
        "no event of this queue": ["None", r"'\x1b[31m'"],
    }
    assert [verdict for verdict, *_ in said(queue, first)] == ["noise"]


@pytest.mark.parametrize("text", ["", "{", "7", '{"data": {}}', '["a"]', '[{"verdict": [], "id": 1}]', '[{"data": 1}]'])
def test_another_file_is_refused(queue, tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ValueError, match=r"other.json, expected tasks of Label Studio .*JSON \(neither JSON-MIN"):
        read_label_studio(tmp_path / "other.json", queue)


def test_from_the_command_line(queue, export, tmp_path, capsys):
    first, second, _ = sorted(ids(queue))
    file = export(**on(first, annotation("fault", 7, ONE)), **on(second, annotation("bump", 7, ONE)))

    def run(where, *arguments):
        code = main(["flag", "--queue", str(tmp_path / where), "--load", str(file), *arguments])
        return code, *capsys.readouterr()

    code, out, err = run("queue.db", "--reviewer", "7=ann")
    assert (code, out) == (3, "Label Studio: 1 new verdicts, 0 already in the queue\n")
    assert err == (
        f"anomalyvae: left out 1: labelled 'bump', expected one of new_normal, fault, noise, unsure (on {second})\n"
    )
    assert queue.event(first)["reviewer"] == "ann"
    assert run("queue.db", "--reviewer", "7=bob")[1] == (
        "Label Studio: 0 new verdicts, 1 already in the queue, 1 with another name of their reviewer\n"
    )
    assert queue.event(first)["reviewer"] == "bob"
    assert len(queue.history(first)) == 1
    err = run("queue.db", "--reviewer", "9=cem", "--reviewer", "8=dan")[2]
    assert f"anomalyvae: --reviewer 9, 8 is no user of {file}; its users are 7.\n" in err
    assert queue.event(first)["reviewer"] == "bob"
    assert run("queue.db", "--quiet")[1] == ""
    assert "typo.db does not exist" in run("typo.db")[2]  # verdicts alone make no queue
    assert not (tmp_path / "typo.db").exists()
