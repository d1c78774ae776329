"""Drift while recordings are written, and across restarts: each stretch of a recording counts once."""

import json

import numpy as np
import pandas as pd
import pytest
from killing import kills

from anomalyvae.fleet import FALSE_ALARMS, Fleet, Monitor
from anomalyvae.recordings import Windows
from anomalyvae.scoring.drift import LiveDrift, drift, drift_in_words, signals_in_words
from anomalyvae.scoring.ranking import Scores

LONGEST, SHORTEST = 12, 8


@pytest.fixture
def known():
    """Training recordings of 8 to 12 windows, of standard normal scores of all signals and of one."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(SHORTEST, LONGEST + 1, 60)
    sizes[:2] = SHORTEST, LONGEST
    parts = [np.sort(rng.normal(size=(n, 2)), axis=0) for n in sizes]
    figures = np.array([[part[-3:, i].mean() if brief else part[:, i].mean() for i in (0, 1) for brief in (True, False)]
                        for part in parts])  # fmt: skip
    return Fleet(tuple(f"d{i}" for i in range(60)), sizes, ("x",), figures)


def recording(name, count, seed, shift=0.0, first=0, start=None):
    """Windows of a recording from a place on, and their scores."""
    rng = np.random.default_rng(seed)
    scores = (rng.normal(size=(100, 2)) + shift)[first:count]
    spans = pd.DataFrame({"recording": name, "start_s": np.arange(first, count) * 1.0})
    starts = {} if start is None else {name: pd.Timestamp(start, tz="UTC")}
    return Windows(pd.DataFrame(scores), spans.assign(end_s=spans["start_s"] + 1), starts=starts), scores


def feed(live, windows, scores, pieces=1):
    for part in np.array_split(np.arange(len(windows)), pieces):
        live.add(Windows(windows.rows.iloc[part], windows.spans.iloc[part], starts=windows.starts), scores[part])


def counted(live):
    return live._monitor.seen


def test_a_recording_counts_once_when_it_ends_in_pieces_of_any_size(known):
    seen = []
    for pieces in (1, 3, 10):
        live = LiveDrift(known, "m")
        for seed in range(6):
            feed(live, *recording(f"r{seed}", 10, seed), pieces)
            assert counted(live) == seed
        live.end()
        seen.append(live._monitor.to_dict())
    assert seen[0]["seen"] == 6
    assert seen[0] == seen[1] == seen[2]
    assert live.said.startswith("No drift: 6 new recordings are within what the model knows (evidence ")


def test_what_is_too_short_does_not_count_and_what_goes_on_counts_anew(known):
    live = LiveDrift(known, "m")
    feed(live, *recording("short", SHORTEST // 2 - 1, 1))
    live.end()
    assert (counted(live), live.said) == (0, "")
    feed(live, *recording("long", 3 * LONGEST + 3, 2), pieces=5)
    assert counted(live) == 3
    live.end()
    assert counted(live) == 3  # a rest of three windows is too short
    feed(live, *recording("d1", known.windows[1], 3))  # the longest training recording
    feed(live, *recording("d0", known.windows[0], 4))
    live.end()
    assert counted(live) == 3


def test_a_crossing_is_said_once_with_the_recording_and_the_bound(known):
    said = []
    live = LiveDrift(known, "m", notify=said.append)
    for seed in range(30):
        feed(live, *recording(f"r{seed}", 10, seed, shift=2.0, start=f"2026-03-{seed + 1:02d} 08:00"))
    live.end()
    assert len(said) == 1
    at = int(said[0].split("with recording r")[1].split(" ")[0])
    assert 2 <= at <= 12
    assert f"Retrain: with recording r{at} (2026-03-{at + 1:02d} 08:00 UTC), number {at + 1} of the new ones" in said[0]
    assert said[0].endswith("in clean recordings is at most 1% over all time, if they are independent of each other.")
    assert live.said == said[0]


def test_an_alarm_within_a_recording_does_not_promise_what_holds_for_others(known):
    live = LiveDrift(known, "m")
    for hour in range(8):
        _, scores = recording("long", 100, hour, shift=1.6)
        spans = pd.DataFrame({"recording": "long", "start_s": 100.0 * hour + np.arange(100)})
        live.add(Windows(pd.DataFrame(scores), spans.assign(end_s=spans["start_s"] + 1)), scores)
    assert live.said.startswith("Retrain: with recording long")
    assert live.said.endswith(
        f"Each {LONGEST} windows of a long recording count as one, so the alarm may be false if a state lasts."
    )


def test_clean_streams_hardly_ever_alarm(known):
    rng, alarms = np.random.default_rng(0), 0
    for seed in range(40):
        live = LiveDrift(known, "m")
        for number in range(60):
            feed(live, *recording(f"r{number}", rng.integers(SHORTEST, LONGEST + 1), [seed, number]))
        live.end()
        alarms += "Retrain" in live.said
    assert alarms <= FALSE_ALARMS * 40 + 3 * np.sqrt(FALSE_ALARMS * 40)


def test_a_restart_goes_on_and_counts_nothing_twice(known, tmp_path):
    whole = LiveDrift(known, "m")
    for seed in range(8):
        feed(whole, *recording(f"r{seed}", 10, seed, shift=0.5))
    feed(whole, *recording("growing", 30, 99, shift=0.5))
    whole.end()

    state = tmp_path / "drift.json"
    for seed in range(8):
        live = LiveDrift(known, "m", state)
        for again in range(max(seed - 1, 0), seed + 1):  # the recording before is read again
            feed(live, *recording(f"r{again}", 10, again, shift=0.5))
        live.end()
    for upto in (5, 14, 20, 30):  # killed in the middle of a recording, which is then read from its beginning
        live = LiveDrift(known, "m", state)
        feed(live, *recording("growing", upto, 99, shift=0.5))
    live.end()
    assert counted(live) == counted(whole) == 8 + 3
    assert LiveDrift(known, "m", state)._monitor.to_dict() == whole._monitor.to_dict()
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["drift.json"]


def test_a_file_of_many_stretches_is_read_again_and_counts_nothing_twice(known):
    live = LiveDrift(known, "m")
    for _ in range(2):
        for seed in range(1100):
            feed(live, *recording(f"r{seed}", SHORTEST, seed))
    live.end()
    assert counted(live) == 1100


def test_a_kill_at_any_change_of_the_state_counts_nothing_twice(known, tmp_path):
    state = tmp_path / "drift.json"

    def watch():
        live = LiveDrift(known, "m", state)
        for seed in range(3):
            feed(live, *recording(f"r{seed}", 10, seed))
        live.end()

    for _ in kills(watch, tmp_path):
        watch()
        assert counted(LiveDrift(known, "m", state)) == 3
        state.unlink()
    watch()
    assert counted(LiveDrift(known, "m", state)) == 3


def test_a_state_that_has_alarmed_says_so_at_the_next_start(known, tmp_path):
    said = []
    live = LiveDrift(known, "m", tmp_path / "drift.json", said.append)
    for seed in range(12):
        feed(live, *recording(f"r{seed}", 10, seed, shift=3.0))
    live.end()
    later = []
    assert LiveDrift(known, "m", tmp_path / "drift.json", later.append).said == said[0] == later[0]


def test_processes_share_a_state(known, tmp_path):
    one, other = (LiveDrift(known, "m", tmp_path / "drift.json") for _ in range(2))
    for seed in range(6):
        feed((one, other)[seed % 2], *recording(f"r{seed}", 10, seed))
    one.end()
    other.end()
    assert counted(LiveDrift(known, "m", tmp_path / "drift.json")) == 6


def test_a_state_of_another_model_or_a_damaged_one_is_refused(known, tmp_path):
    state = tmp_path / "drift.json"
    live = LiveDrift(known, "m", state)
    feed(live, *recording("r", 10, 0))
    live.end()
    with pytest.raises(ValueError, match="has the drift of model m, expected that of n"):
        LiveDrift(known, "n", state)
    plain = json.loads(state.read_text())
    for change in ({"monitor": {}}, {"counted": [1]}, {"alarm": None}, {"monitor": plain["monitor"] | {"seen": -1}}):
        state.write_text(json.dumps(plain | change))
        with pytest.raises(ValueError, match=r"drift.json is no state of drift, or damaged .* remove it to begin anew"):
            LiveDrift(known, "m", state)
    state.write_text("[1]")
    with pytest.raises(ValueError, match="no state of drift"):
        LiveDrift(known, "m", state)


# --- of a folder of scores --------------------------------------------------------------------------------


def scores_of(known, recordings):
    """What a folder of scores says of recordings: pairs of windows and figures."""
    table = pd.DataFrame([{"recording": f"n{i}", "windows": n, "figures": f} for i, (n, f) in enumerate(recordings)])
    table = table.assign(start=pd.to_datetime(pd.Series([None] * len(table)), utc=True))
    return Scores(table, known, "m")


def test_evidence_of_each_signal_alone(known):
    odd = np.array([0.0, 0.0, 9.0, 9.0])
    found = drift(scores_of(known, [(10, odd)] * 8))
    assert [name for name in found if name.startswith("evidence.")] == [f"evidence.{n}" for n in Monitor(known).names]
    assert found["evidence.x"].iloc[-1] > Monitor.alarm_at > found["evidence.brief"].max()
    assert found["alarm"].iloc[-1]
    assert "most of all by signal x." in drift_in_words(found)
    assert signals_in_words(found).startswith(f"Evidence of each signal alone: x {found['evidence.x'].max():.1f} (an ")


def test_no_drift_is_said_only_of_recordings_that_could_have_shown_it(known):
    fewest = Monitor.fewest(known)
    for odd in (0.0, 1e9):
        found = drift(scores_of(known, [(10, np.full(4, odd))] * fewest))
        assert drift_in_words(found).startswith("Retrain:" if odd else f"No drift: {fewest} new recordings are within")
        few = drift(scores_of(known, [(10, np.full(4, odd))] * (fewest - 1)))
        assert drift_in_words(few) == (
            f"Nothing can be said about drift yet: {fewest - 1} new recordings are too few, an alarm takes at least "
            f"{fewest}."
        )


def test_recordings_that_are_too_short_are_counted_as_such(known):
    odd = np.full(4, 9.0)
    found = drift(scores_of(known, [(3, odd)] * 20))
    assert not found["counted"].any()
    assert drift_in_words(found) == "Nothing can be said about drift. 20 new recordings are too short to count."
    found = drift(scores_of(known, [(10, np.zeros(4)), (3, odd), (10, np.zeros(4))]))
    assert found["counted"].tolist() == [True, False, True]
    assert found["evidence"][1] == found["evidence"][0]
    assert drift_in_words(found).endswith(" 1 new recording is too short to count.")
