"""The queue as the review page lists it: in parts, by filters, and as the log says now."""

import numpy as np
import pandas as pd
import pytest

from anomalyvae.review import Queue
from anomalyvae.review.listing import Filter, Listing

N = 1000


@pytest.fixture
def queue(tmp_path):
    start_s = 2.0 * np.arange(N)
    event = {
        "model_id": [f"m{i}" for i in range(N)], "source": "/drives", "file": [f"d{i % 4}.csv" for i in range(N)],
        "recording": [f"Drive {i % 4}" for i in range(N)], "start_s": start_s, "end_s": start_s + 2,
        "peak_start_s": start_s, "peak_end_s": start_s + 2, "peak_score": N - np.arange(N), "p_value": 0.01,
        "windows": 1, "signals": [["Speed", "rpm"] if i % 10 else ["torque", "rpm"] for i in range(N)],
        "shares": [[0.7, 0.3]] * N, "outside": [{}] * N, "nearest": None, "nearest_distance": np.nan,
        "latent": [[0.0]] * N,
    }  # fmt: skip
    with Queue(tmp_path / "queue.db") as opened:
        opened.add(pd.DataFrame(event))
        yield opened


@pytest.fixture
def ids(queue):
    return list(queue.events()["event_id"])


def names(part):
    return [event["event_id"] for event in part["events"]]


def test_the_first_events_are_sent_and_those_around_the_current_one(queue, ids):
    listing = Listing(queue)
    first = listing.part(Filter())
    assert names(first) == ids[:300]
    assert (first["matching"], first["total"], first["current"]) == (N, N, None)
    assert not any("gap" in event for event in first["events"])
    deep = listing.part(Filter(), ids[600])
    assert names(deep) == [*ids[:100], *ids[450:750]]
    assert [event.get("gap") for event in deep["events"][99:102]] == [None, 350, None]
    assert deep["current"]["event_id"] == ids[600]
    near = listing.part(Filter(), ids[120])
    assert names(near) == ids[:300]
    last = listing.part(Filter(), ids[-1])
    assert names(last) == [*ids[:100], *ids[-300:]]
    elsewhere = listing.part(Filter(status="reviewed"), ids[600])
    assert names(elsewhere) == []
    assert elsewhere["current"]["event_id"] == ids[600]  # shown, though the filter leaves it out
    assert listing.part(Filter(), "unknown")["current"] is None


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        (Filter("open"), N - 3),
        (Filter("reviewed"), 3),
        (Filter("second", reviewer="bob"), 1),
        (Filter("second", reviewer="ada"), 0),
        (Filter(verdict="fault"), 1),
        (Filter(recording="Drive 1"), N // 4),
        (Filter(text="drive 3"), N // 4),
        (Filter(text=" TORQUE "), N // 10),
        (Filter(text="new norm"), 1),
        (Filter(text="kerb"), 1),
        (Filter(text="ADA"), 2),
        (Filter("open", text="ada"), 0),
        (Filter("open", text="torque", recording="Drive 2"), 50),
        (Filter(text="nothing like it"), 0),
    ],
)
def test_filters(queue, ids, wanted, count):
    queue.give(ids[1], "new_normal", "ada", "a Kerb")
    queue.give(ids[2], "fault", "ada")
    queue.give(ids[3], "unsure", "bob")
    part = Listing(queue).part(wanted)
    assert part["matching"] == count
    assert len(part["events"]) == min(count, 300)
    assert part["counts"] == {"new_normal": 1, "fault": 1, "noise": 0, "unsure": 1}


def test_what_others_write_is_listed_at_once(queue, ids):
    listing = Listing(queue)
    assert listing.part(Filter())["counts"]["fault"] == 0
    queue.give(ids[5], "fault", "ada", "loose")
    told = listing.part(Filter())
    assert told["counts"]["fault"] == 1
    assert [told["events"][5][name] for name in ("verdict", "note", "agreeing")] == ["fault", "loose", ["ada"]]
    entry = queue.history(ids[5])["entry_id"][0]
    queue.rename({entry: "eve"})
    assert listing.part(Filter())["events"][5]["reviewer"] == "eve"
    queue.undo(ids[5], "eve")
    assert listing.part(Filter())["events"][5]["verdict"] is None
    more = queue.events()[:1].assign(event_id="added", start_s=1e6, end_s=1e6 + 2, peak_score=1e6)
    queue.add(more)
    again = listing.part(Filter(), "added")
    assert names(again)[0] == "added"
    assert again["total"] == N + 1
    assert listing.recordings() == [f"Drive {number}" for number in range(4)]


def test_a_queue_is_read_once(queue, ids, monkeypatch):
    listing = Listing(queue)
    listing.prepare()
    monkeypatch.setattr(queue, "events", None)  # it must not be called
    queue.give(ids[0], "noise", "ada")
    assert listing.part(Filter("open"))["matching"] == N - 1


def test_charts_get_the_current_event_and_reviewed_ones_first(queue, ids):
    queue.give(ids[900], "fault", "ada")
    listing = Listing(queue)
    assert list(listing.of_map()["event_id"]) == ids
    few = listing._now().most(np.arange(N), 4, ids[950])
    assert list(few["event_id"]) == [ids[0], ids[1], ids[900], ids[950]]
    source = queue.event(ids[900])["source"]
    own = listing.of_recording({"source": source, "recording": "Drive 0", "event_id": ids[900]})
    assert own["count"] == N // 4
    assert {event["recording"] for event in own["events"]} == {"Drive 0"}
    assert next(event["verdict"] for event in own["events"] if event["event_id"] == ids[900]) == "fault"
    assert listing.of_recording({"source": "elsewhere", "recording": "Drive 0", "event_id": ids[900]})["count"] == 0
    assert listing.mark(None) is None
    assert listing.mark("unknown") is None
    assert listing.mark(ids[3])["start_s"] == 6.0


def test_an_empty_queue(tmp_path):
    with Queue(tmp_path / "empty.db") as queue:
        part = Listing(queue).part(Filter("open", text="x", reviewer="ada"))
        assert (part["events"], part["matching"], part["total"], part["second"]) == ([], 0, 0, 0)
        assert Listing(queue).of_map().empty
