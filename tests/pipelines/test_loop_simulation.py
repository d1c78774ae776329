"""The loop simulated on recordings whose events are known."""

import numpy as np
import pandas as pd
import pytest
from loop_simulation import Simulation, simulate_loop

from anomalyvae.bundle import read_card
from anomalyvae.evaluate import read_job
from anomalyvae.evaluate.job import find_recordings
from anomalyvae.review import Queue

JOB = """
[data]
recordings = "{folder}/d*.csv"
events = "{folder}/events.csv"
kinds = "bump"
[windows]
signals = ["x", "y"]
rate_hz = 10
length_s = 1.0
stride_s = 0.5
max_gap_s = 0.5
[detector]
random_state = 0
max_epochs = 30
criterion = "elbo"
[simulation]
learn = ["d0"]
meet = ["d1", "d2"]
holdout = ["d3", "d4"]
[output]
folder = "{folder}/out"
"""


def read_simulation(path):
    return read_job(path, {"simulation": Simulation})


@pytest.fixture
def job(tmp_path):
    rng = np.random.default_rng(0)
    time_s = np.arange(0, 120, 0.1)
    marks = []
    for drive in range(5):
        x, y = rng.normal(size=(2, len(time_s)))
        for at in (20, 50, 80):
            x[at * 10 : at * 10 + 5] += 6.0
            marks.append((f"d{drive}", at + 0.2, "bump"))
        if drive:  # what the first drive did not have, and is nothing bad
            y[300:340] += 5.0
            marks.append((f"d{drive}", 32.0, "hill"))
        pd.DataFrame({"time_s": time_s, "x": x, "y": y}).to_csv(tmp_path / f"d{drive}.csv", index=False)
    pd.DataFrame(marks, columns=["recording", "time_s", "kind"]).to_csv(tmp_path / "events.csv", index=False)
    path = tmp_path / "job.toml"
    path.write_text(JOB.format(folder=tmp_path), encoding="utf-8")
    return path


@pytest.mark.slow
def test_each_round_is_reviewed_by_the_known_events_and_judged_on_the_hold_out(job):
    table = simulate_loop(read_simulation(job))
    assert table["model"].tolist() == ["first", "poisoned", "as reviewed", "poisoned", "as reviewed"]
    with Queue(job.parent / "out" / "queue.db") as queue:
        events = queue.events()
    faults = events[events["verdict"] == "fault"]
    middle = (faults["start_s"] + faults["end_s"]) / 2
    assert (np.abs(middle.to_numpy()[:, None] - [20.2, 50.2, 80.2]).min(axis=1) < 2).all()
    hill = events[(events["start_s"] < 33) & (events["end_s"] > 31)]
    assert set(hill["recording"]) == {"d1", "d2"}
    assert set(hill["verdict"]) == {"new_normal"}
    last = table.iloc[-1]
    assert last["fault"] == len(faults)
    assert faults["recording"].value_counts().min() >= 2  # of three; the third may be a near-duplicate
    assert table.loc[table["model"] == "poisoned", "fault"].tolist() == [0, 0]
    assert not table.loc[table["model"] == "poisoned", "promoted"].any()
    out = job.parent / "out"
    promoted = table[(table["model"] == "as reviewed") & table["promoted"].astype(bool)]
    came = [f"round{number}/as-reviewed" for number in promoted["round"]]
    identity = read_card(out / "champion")["model_id"]
    assert came  # it has learned the hill: what is promoted is what was reviewed, never what was lied to
    assert identity == read_card(out / came[-1])["model_id"]
    pd.testing.assert_frame_equal(pd.read_csv(out / "rounds.csv"), table, check_dtype=False)


def test_a_recording_met_again_is_asked_for_what_was_not_flagged_before(job):
    text = (
        job.read_text(encoding="utf-8")
        .replace('["d1", "d2"]', '["d1", "d1"]')
        .replace("[simulation]", "[simulation]\nbudget = 2")
    )
    job.write_text(text, encoding="utf-8")
    table = simulate_loop(read_simulation(job))
    assert table[["new_normal", "fault"]].sum(axis=1).tolist() == [0, 2, 2, 4, 4]
    with Queue(job.parent / "out" / "queue.db") as queue:
        events = queue.events().sort_values("start_s")
    assert set(events["recording"]) == {"d1"}
    assert (events["end_s"].to_numpy()[:-1] <= events["start_s"].to_numpy()[1:]).all()


def test_parts_that_do_not_fit_and_foreign_folders_are_refused(job):
    text = job.read_text(encoding="utf-8")
    for wrong, message in (
        ('["d1", "d9"]', r"meet = \['d1', 'd9'\] .* expected recordings"),
        ('["d0"]', "has two parts"),
    ):
        job.write_text(text.replace('["d1", "d2"]', wrong), encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            simulate_loop(read_simulation(job))
    job.write_text(text, encoding="utf-8")
    (job.parent / "out").mkdir()
    (job.parent / "out" / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match=r"thesis\.txt"):
        simulate_loop(read_simulation(job))


def test_kinds_say_which_events_count(job):
    text = job.read_text(encoding="utf-8")
    assert set(find_recordings(read_simulation(job).data)[1]["kind"]) == {"bump"}
    job.write_text(text.replace('kinds = "bump"', 'kinds = ["h*", "b*"]'), encoding="utf-8")
    assert set(find_recordings(read_simulation(job).data)[1]["kind"]) == {"bump", "hill"}
    job.write_text(
        text.replace("budget = 60", "").replace("[simulation]", "[simulation]\nbudget = 2.5"), encoding="utf-8"
    )
    with pytest.raises(ValueError, match="a valid integer"):
        read_simulation(job)
