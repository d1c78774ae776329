"""Events to review are anomalous, different from each other and new, and their reasons are right."""

import itertools
import json
import re
import shutil
from xml.etree.ElementTree import XML

import numpy as np
import pandas as pd
import pytest

from anomalyvae import VAEOutlierDetector, WindowRecipe, load, save, score_folder
from anomalyvae.alarms import false_discovery
from anomalyvae.bundle import read_card
from anomalyvae.calibration import few_calibrate
from anomalyvae.cli import main
from anomalyvae.detector.fitting import MEMORY_SIZE
from anomalyvae.events import merge_alarms
from anomalyvae.health.sensors import signal_scores
from anomalyvae.recordings import log_from_frame, read_log, read_windows
from anomalyvae.review import Queue, flag_folder, flagging
from anomalyvae.review.flagging import in_words
from anomalyvae.review.label_studio import labelling_interface, write_label_studio
from anomalyvae.review.picking import NEAR, alarm_cut, flagged_events, pick_events, spread_of
from anomalyvae.review.reasons import Reasons, excess_shares


def scored(n=300, recordings=6, seed=0, flagged=0.3):
    """Overlapping windows with codes of five kinds."""
    rng = np.random.default_rng(seed)
    start_s = np.tile(np.arange(n // recordings) * 1.0, recordings)
    scores = pd.DataFrame({"recording": np.repeat([f"drive {i}" for i in range(recordings)], n // recordings)})
    scores = scores.assign(start_s=start_s, end_s=start_s + 2, anomaly_score=rng.exponential(size=n))
    rank = scores["anomaly_score"].rank(ascending=False)
    scores = scores.assign(p_value=rank / (n + 1), is_outlier=rng.random(n) < flagged)
    kinds = 10 * np.random.default_rng(1).normal(size=(5, 3))
    return scores, kinds[rng.integers(5, size=n)] + rng.normal(size=(n, 3))


def pick(scores, budget, latent, spread=None, **options):
    """Pick from scored windows whose latent codes are known."""
    unit = spread_of(latent) if spread is None else spread
    return pick_events(flagged_events(scores), lambda part: latent[part["peak"]], budget, spread=unit, **options)


def codes(picked):
    return np.array(picked["latent"].tolist())


# --- picking --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("budget", "per_recording"), [(1, 5), (8, 2), (8, 1), (500, 500)])
def test_picks_keep_the_budget_the_cap_and_the_distance(seed, budget, per_recording):
    scores, latent = scored(seed=seed)
    picked = pick(scores, budget, latent, per_recording=per_recording)
    events = merge_alarms(scores, scores["is_outlier"])
    assert 0 < len(picked) <= min(budget, len(events))
    assert picked["recording"].value_counts().max() <= per_recording
    assert picked["peak_score"][0] == scores.loc[scores["is_outlier"], "anomaly_score"].max()
    merged = picked.merge(events, on=["recording", "start_s", "end_s", "windows"])
    assert len(merged) == len(picked)
    for event, members in zip(picked.to_dict("records"), merged["members"], strict=True):
        assert event["peak"] == members[np.argmax(scores["anomaly_score"].to_numpy()[members])]
        np.testing.assert_array_equal(event["latent"], latent[event["peak"]])
    if len(picked) > 1:
        near = min(np.linalg.norm(a - b) for a, b in itertools.combinations(codes(picked), 2))
        assert near > NEAR * spread_of(latent)


def test_a_pick_reaches_every_kind():
    scores, latent = scored(n=1200)
    picked = pick(scores, 5, latent, pool=20)
    kinds = 10 * np.random.default_rng(1).normal(size=(5, 3))
    assert {int(np.linalg.norm(kinds - code, axis=1).argmin()) for code in codes(picked)} == set(range(5))


@pytest.mark.parametrize("seed", range(4))
def test_picks_cover_events_within_twice_the_optimal_radius(seed):
    """Gonzalez's theorem for greedy k-centre: no choice leaves an event less than half as far from all picked."""
    scores, latent = scored(n=60, recordings=2, seed=seed)
    events = flagged_events(scores)
    picked = pick(scores, 3, latent, per_recording=99, near=0, pool=99)
    every = latent[events["peak"]]

    def radius(centres):
        return np.linalg.norm(every[:, None] - centres[None], axis=2).min(axis=1).max()

    best = min(radius(every[list(chosen)]) for chosen in itertools.combinations(range(len(every)), 3))
    assert radius(codes(picked)) <= 2 * best * (1 + 1e-9)

    left = np.linalg.norm(every - codes(picked)[0], axis=1)
    for code in codes(picked)[1:]:  # always the farthest of those that are left
        np.testing.assert_array_equal(code, every[left.argmax()])
        left = np.minimum(left, np.linalg.norm(every - code, axis=1))


def test_the_order_of_rows_and_another_call_change_nothing():
    scores, latent = scored()
    for name in ("anomaly_score", "is_outlier"):  # ties, too: the same flags and scores at the same times of all drives
        scores[name] = np.tile(scores[name][:50], 6)
    order = np.random.default_rng(9).permutation(len(scores))
    shuffled = scores.iloc[order].reset_index(drop=True)
    for budget, near in [(12, 0.5), (40, 0.0)]:
        first = pick(scores, budget, latent, near=near).drop(columns="peak")
        again = pick(shuffled, budget, latent[order], near=near).drop(columns="peak")
        pd.testing.assert_frame_equal(first, again)
    wanted = flagged_events(scores).drop(columns="peak")
    pd.testing.assert_frame_equal(flagged_events(shuffled).drop(columns="peak"), wanted)


def test_events_similar_to_reviewed_ones_are_left_out():
    scores, latent = scored()
    before = pick(scores, 6, latent)
    known = before.assign(event_id=[f"e{i}" for i in range(len(before))])
    elsewhere = known.assign(recording="another drive")
    after = pick(scores, 50, latent, known=elsewhere, per_recording=50, near=0.1)
    distance = np.linalg.norm(codes(after)[:, None] - codes(known)[None], axis=2) / spread_of(latent)
    assert len(after)
    assert distance.min() > 0.1
    assert list(after["nearest"]) == [f"e{i}" for i in distance.argmin(axis=1)]
    np.testing.assert_allclose(after["nearest_distance"], distance.min(axis=1))


def test_only_reviewed_events_are_named_but_waiting_ones_are_known():
    scores, latent = scored()
    known = pick(scores, 4, latent, near=0.1).assign(event_id=list("abcd"), recording="another drive")
    known["verdict"] = ["fault", None, None, None]
    after = pick(scores, 20, latent, known=known, near=0.1)
    assert set(after["nearest"]) == {"a"}
    distance = np.linalg.norm(codes(after)[:, None] - codes(known)[None], axis=2) / spread_of(latent)
    assert distance.min() > 0.1


def test_verdicts_change_which_events_are_picked_and_no_score():
    scores, latent = scored(n=1200, recordings=60)
    kinds = 10 * np.random.default_rng(1).normal(size=(5, 3))
    kind_of = {code: int(np.linalg.norm(kinds - code, axis=1).argmin()) for code in map(tuple, latent)}
    known = pick(scores, 5, latent, pool=20)  # one of each kind
    known = known.assign(event_id=list("abcde"), recording="another drive")
    kind = [kind_of[tuple(code)] for code in known["latent"]]
    options = {"near": 0.01, "per_recording": 50}
    plain = pick(scores, 20, latent, known=known.assign(verdict="unsure"), **options)
    said = known.assign(verdict=["fault" if each == kind[0] else "new_normal" for each in kind])
    after = pick(scores, 20, latent, known=said, **options)
    alike = [sum(kind_of[tuple(code)] == kind[0] for code in picked["latent"]) for picked in (plain, after)]
    assert alike[1] > alike[0]
    assert kind_of[tuple(after["latent"][0])] == kind[0]
    assert set(after["peak_score"]) <= set(scores["anomaly_score"])
    none = pick(scores, 20, latent, known=known.assign(verdict=None), **options)
    pd.testing.assert_frame_equal(none.drop(columns=["nearest", "nearest_distance"]),
                                  plain.drop(columns=["nearest", "nearest_distance"]))  # fmt: skip


def test_a_recording_full_of_known_events_does_not_hide_a_new_one():
    n = 400
    scores = pd.DataFrame({"recording": "a", "start_s": 10.0 * np.arange(n), "end_s": 10.0 * np.arange(n) + 2})
    scores = scores.assign(anomaly_score=np.arange(n, 0, -1.0), p_value=0.01, is_outlier=True)
    latent = np.zeros((n, 2))
    latent[-1] = 5.0
    known = pd.DataFrame({"event_id": ["k"], "latent": [[0.0, 0.0]]})
    assert list(pick(scores, 3, latent, known=known)["start_s"]) == [10.0 * (n - 1)]


def test_copies_of_one_fault_do_not_use_up_the_budget():
    scores, latent = scored(n=600)
    stuck = scores["recording"] == "drive 0"
    latent[stuck] = 7.0
    scores.loc[stuck, "anomaly_score"] += 1000
    scores.loc[stuck, "is_outlier"] = np.arange(stuck.sum()) % 4 == 0  # many events, all stranger than all others
    picked = pick(scores, 10, latent, near=0.1)
    assert len(picked) == 10
    assert (picked["recording"] == "drive 0").sum() == 1


def test_codes_are_computed_for_candidates_only():
    scores, latent = scored(n=3000)
    events, asked = flagged_events(scores), []

    def codes_of(part):
        asked.extend(part["peak"])
        return latent[part["peak"]]

    pick_events(events, codes_of, 5, near=0, pool=4)
    assert asked == list(events["peak"][:20])


def test_an_alarm_target_replaces_the_flags():
    scores, _ = scored(flagged=0)
    scores.loc[:9, "p_value"] = 1e-6
    assert flagged_events(scores).empty
    p = scores["p_value"].to_numpy()
    flagged = false_discovery(p, 0.1)
    assert flagged.any()
    assert flagged_events(scores, alarm_cut(p, {"fdr": 0.1}, 3600))["windows"].sum() == flagged.sum()
    hourly, share = (alarm_cut(p, alarms, 3600) for alarms in ({"per_hour": 360.0}, {"alpha": 0.1}))
    assert hourly == share
    assert flagged_events(scores, hourly)["windows"].sum() == (p <= 0.1).sum()


def test_an_alarm_target_that_the_p_values_cannot_reach_is_reported():
    scores, _ = scored()
    with pytest.warns(UserWarning, match=r"target alpha=0.0001 needs p-values of .*smallest of 300 is 0.0033, so noth"):
        assert flagged_events(scores, alarm_cut(scores["p_value"].to_numpy(), {"alpha": 1e-4}, 3600)).empty


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"budget": 0}, "Got budget=0, expected 1 or more"),
        ({"per_recording": 0}, "Got per_recording=0, expected 1 or more"),
        ({"known": pd.DataFrame({"event_id": ["a"], "latent": [[0.0]]})}, "codes of 3 numbers and known events with 1"),
    ],
)
def test_invalid_arguments_are_refused(arguments, said):
    scores, latent = scored()
    with pytest.raises(ValueError, match=said):
        pick(scores, **({"budget": 5, "latent": latent} | arguments))


# --- from a folder of scores to the queue ---------------------------------------------------------------

RECIPE = WindowRecipe(("speed", "<b>yaw</b>"), rate_hz=10, length_s=1.0, stride_s=0.5, max_gap_s=1.0)


def drive(seed, faults=()):
    """Two minutes of two correlated signals; a fault shifts the second one."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(1200) / 10
    speed = np.sin(time_s / 3) + 0.5 * np.sin(time_s + rng.uniform(0, 6))
    table = pd.DataFrame({"time_s": time_s, "speed": speed, "<b>yaw</b>": 2 * speed + 1})
    table.iloc[:, 1:] += 0.05 * rng.normal(size=(1200, 2))
    for begin, jump in faults:
        table.loc[(time_s >= begin) & (time_s < begin + 3), "<b>yaw</b>"] += jump
    return table


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Models of the same normal drives with different scores."""
    folder = tmp_path_factory.mktemp("models")
    for seed in range(6):
        drive(seed).to_parquet(folder / f"normal{seed}.parquet")
    windows = read_windows(sorted(folder.glob("*.parquet")), RECIPE)
    for name, options in (
        ("memory", {"criterion": "memory"}),
        ("elbo", {"criterion": "elbo"}),
        ("autoencoder", {"objective": "reconstruction", "criterion": "reconstruction"}),
    ):
        model = VAEOutlierDetector(random_state=0, max_epochs=30, **options).fit(windows.rows)
        save(model, folder / name, recipe=RECIPE.to_dict(), units=windows.units)
    return folder


@pytest.fixture
def night(bundles, tmp_path):
    """Drives of a night with the scores of one model: nothing, two faults of a kind, and one of another."""
    drives = tmp_path / "drives"
    (drives / "b").mkdir(parents=True)
    drive(11).to_csv(drives / "a.csv", index=False)
    drive(12, faults=[(20, 9.0), (60, 9.0)]).to_parquet(drives / "b" / "two.parquet")
    drive(13, faults=[(40, -30.0)]).to_csv(drives / "c.csv", index=False)
    (drives / "broken.csv").write_text("nothing of use\n")
    score_folder(bundles / "memory", drives, tmp_path / "scores")
    return tmp_path


@pytest.fixture
def queue(tmp_path):
    with Queue(tmp_path / "queue.db") as queue:
        yield queue


def flag(night, bundles, queue, **options):
    return flag_folder(night / "scores", bundles / "memory", queue, **options)


def touching(events, recording, begin):
    near = (events["start_s"] <= begin + 3) & (events["end_s"] >= begin)
    return events[near & (events["recording"] == recording)]


def test_faults_are_picked_with_reasons_that_hold(night, bundles, queue):
    flagged = flag(night, bundles, queue, budget=50)
    events = queue.events()
    assert flagged.added == len(flagged.picked) == len(events)
    assert set(flagged.picked["event_id"]) == set(events["event_id"])
    model, reasons = load(bundles / "memory"), Reasons(bundles / "memory")
    for recording, file, begin, widths in [("b/two", "b/two.parquet", 20, 1), ("c", "c.csv", 40, 4)]:
        [event] = touching(events, recording, begin).to_dict("records")
        assert (event["file"], event["source"]) == (file, str(night / "drives"))
        assert event["signals"][0] == "<b>yaw</b>"
        assert event["shares"][0] > 0.6
        assert sum(event["shares"]) == pytest.approx(1)
        assert event["outside"]["<b>yaw</b>"] > widths
        windows = RECIPE.windows(read_log(night / "drives" / file))
        peak = windows.rows[windows.spans["start_s"] == event["peak_start_s"]]
        np.testing.assert_array_equal(event["latent"], model.embed(peak).to_numpy()[0])
        assert event["peak_score"] == pytest.approx(model.anomaly_score(peak)[0], rel=1e-3)
    usual = touching(events, "a", 0)
    assert not any(usual["outside"].map(lambda outside: max(outside.values(), default=0) > 0.5))
    assert reasons.spread > 0


def test_flagging_again_gives_the_same_and_adds_nothing(night, bundles, queue, tmp_path):
    first = flag(night, bundles, queue, budget=4)
    again = flag(night, bundles, queue, budget=4)
    pd.testing.assert_frame_equal(first.picked, again.picked)
    assert (first.added, again.added) == (len(first.picked), 0)
    with Queue(tmp_path / "other.db") as other:
        pd.testing.assert_frame_equal(flag(night, bundles, other, budget=4).picked, first.picked)


def test_reviewed_and_similar_events_are_not_flagged_again(night, bundles, queue):
    flag(night, bundles, queue)
    known = touching(queue.events(), "c", 40)["event_id"].iloc[0]
    queue.give(known, "fault", "ann")
    again = flag(night, bundles, queue)
    assert again.known == 1
    assert known not in set(again.picked["event_id"])
    assert set(again.picked["nearest"]) == {known}

    drive(14, faults=[(70, -30.0)]).to_csv(night / "drives" / "d.csv", index=False)  # the same fault, the next day
    score_folder(bundles / "memory", night / "drives", night / "scores")
    near = flag(night, bundles, queue, near=1.0).picked
    assert touching(near, "d", 70).empty
    assert len(touching(flag(night, bundles, queue, near=0.0, budget=99).picked, "d", 70)) == 1


def test_flagging_says_how_many_verdicts_took_part(night, bundles, queue):
    first = flag(night, bundles, queue)
    assert first.verdicts == 0
    assert "verdict" not in in_words(first)
    before = queue.events().set_index("event_id")["peak_score"]
    scores = {path: path.read_bytes() for path in (night / "scores").rglob("*.parquet")}
    for name, verdict in zip(first.picked["event_id"][:3], ("fault", "noise", "unsure"), strict=True):
        queue.give(name, verdict, "ann")
    again = flag(night, bundles, queue)
    assert again.verdicts == 2
    assert in_words(again).splitlines()[1].startswith("2 verdicts took part in the choice")
    pd.testing.assert_frame_equal(again.picked, flag(night, bundles, queue).picked)
    after = queue.events().set_index("event_id")["peak_score"]
    pd.testing.assert_series_equal(after[before.index], before)
    assert scores == {path: path.read_bytes() for path in (night / "scores").rglob("*.parquet")}  # also the flags


def test_events_that_touch_a_known_one_are_known_whatever_their_code(night, bundles, queue):
    known = touching(flag(night, bundles, queue).picked, "c", 40)
    with Queue(night / "other.db") as other:
        far = [[1e6] * len(code) for code in known["latent"]]
        other.add(known.assign(end_s=known["end_s"] + 1, latent=far).drop(columns="event_id"))
        again = flag(night, bundles, other, near=0.0, budget=99)
        assert again.known == 1
        assert touching(again.picked, "c", 40).empty
        assert len(again.picked)


def test_reasons_are_measured_against_the_training_windows(bundles):
    reasons, model = Reasons(bundles / "memory"), load(bundles / "memory")
    learned = read_windows(sorted(bundles.glob("*.parquet")), RECIPE).rows
    assert len(learned) < MEMORY_SIZE  # so the memory holds all of them
    rows = RECIPE.windows(log_from_frame(drive(21, faults=[(30, 4.0), (50, -4.0)]), "x")).rows
    expected = excess_shares(signal_scores(model, rows, RECIPE) - signal_scores(model, learned, RECIPE).mean(axis=0))
    found = reasons.explain(rows.to_numpy())
    shares = [dict(zip(*row, strict=True)) for row in zip(found["signals"], found["shares"], strict=True)]
    np.testing.assert_allclose([[share[name] for name in RECIPE.signals] for share in shares], expected, atol=1e-6)
    assert (np.array([np.diff(share) for share in found["shares"]]) <= 0).all()

    values, known = (table.to_numpy().reshape(-1, 2, 10) for table in (rows, learned))
    low, high = known.min(axis=(0, 2)), known.max(axis=(0, 2))
    beyond = np.maximum(values.max(axis=2) - high, low - values.min(axis=2)) / (high - low)
    assert (beyond[:, 1] > 0.1).any()
    for row, outside in zip(beyond, found["outside"], strict=True):
        wanted = {name: far for name, far in zip(RECIPE.signals, row, strict=True) if far > 0.01}
        assert outside == pytest.approx(wanted)
    assert reasons.spread == pytest.approx(spread_of(model.embed(learned).to_numpy()))


@pytest.mark.parametrize("name", ["elbo", "autoencoder"])
def test_models_without_a_memory_give_reasons(name, bundles):
    reasons = Reasons(bundles / name)
    normal, strange = drive(21), drive(21, faults=[(0, 9.0)])
    first = [RECIPE.windows(log_from_frame(table, "x")).rows.to_numpy()[:4] for table in (normal, strange)]
    usual, found = (reasons.explain(rows) for rows in first)
    assert all(signals[0] == "<b>yaw</b>" for signals in found["signals"])
    assert all(outside["<b>yaw</b>"] > 0.3 for outside in found["outside"])
    assert max(max(outside.values(), default=0) for outside in usual["outside"]) < 0.1
    code = reasons.codes(np.vstack(first))
    assert 0.3 < reasons.spread / spread_of(code[:4]) < 30


def test_known_events_of_another_model_are_encoded_by_this_one(night, bundles, queue):
    score_folder(bundles / "elbo", night / "drives", night / "old")
    flag_folder(night / "old", bundles / "elbo", queue, budget=1)
    [old] = touching(queue.events(), "c", 40)["event_id"]
    queue.give(old, "fault", "ann")
    fresh = flag(night, bundles, queue)
    assert touching(fresh.picked, "c", 40).empty
    assert set(fresh.picked["model_id"]) == {Reasons(bundles / "memory").model_id}
    assert set(fresh.picked["nearest"]) <= {old}

    (night / "drives" / "c.csv").rename(night / "c.csv")
    (night / "scores" / "_summary.json").unlink()
    score_folder(bundles / "memory", night / "drives", night / "scores")
    with pytest.warns(UserWarning, match=r"recordings of \d+ known events of other models cannot be read"):
        flag(night, bundles, queue)


def test_a_folder_of_scores_of_an_earlier_version_is_read(night, bundles, queue):
    picked = flag(night, bundles, queue).picked["event_id"].tolist()
    (night / "scores" / "_summary.json").rename(night / "scores" / "summary.json")
    assert flag(night, bundles, queue).picked["event_id"].tolist() == picked != []


def test_budget_and_cap_hold_over_a_folder(night, bundles, queue):
    assert len(flag(night, bundles, queue, budget=2).picked) == 2
    with Queue(night / "fresh.db") as fresh:
        picked = flag(night, bundles, fresh, per_recording=1).picked
        assert picked["recording"].is_unique


def test_alarms_over_a_folder_are_those_over_its_joined_scores(night, bundles, queue):
    parts = [pd.read_parquet(path) for path in sorted((night / "scores").rglob("*.parquet"))]
    scores = pd.concat(parts, ignore_index=True)
    for alarms in ({"fdr": 0.2}, {"per_hour": 40.0}):
        wanted = flagged_events(scores, alarm_cut(scores["p_value"].to_numpy(), alarms, 7200))
        assert flag(night, bundles, queue, alarms=alarms).events == len(wanted) > 0


def test_scores_and_recordings_must_be_those_of_the_model(night, bundles, queue):
    with pytest.raises(ValueError, match=r"Got scores of model .* and the bundle of model .*, expected the same model"):
        flag_folder(night / "scores", bundles / "elbo", queue)
    with pytest.raises(FileNotFoundError, match=r"without a _summary.json, expected a complete folder of scores"):
        flag_folder(night / "drives", bundles / "memory", queue)
    score_folder(bundles / "memory", night / "drives", night / "ticks", per_tick="causal")
    with pytest.raises(ValueError, match=r"ticks with a score per tick, expected scores of windows.*--per-tick"):
        flag_folder(night / "ticks", bundles / "memory", queue)
    drive(13).head(300).to_csv(night / "drives" / "c.csv", index=False)
    with pytest.raises(ValueError, match=r"without a window at .* s: it is not the recording"):
        flag(night, bundles, queue)
    assert queue.events().empty

    (night / "bad").mkdir()
    (night / "bad" / "broken.csv").write_text("nothing of use\n")
    score_folder(bundles / "memory", night / "bad", night / "none")
    with pytest.raises(ValueError, match=r"No file in .*none has scores"):
        flag_folder(night / "none", bundles / "memory", queue)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda table: table.drop(columns="p_value"), "cannot be read .it has no column p_value.. Score its recording"),
        (lambda table: table.assign(anomaly_score=np.nan), "has flagged windows without a score. Score its recording"),
        (None, "cannot be read .*magic bytes not found.*. Score its recording again"),
    ],
)
def test_a_damaged_file_of_scores_is_named(night, bundles, queue, change, why):
    file = next(
        path for path in sorted((night / "scores").rglob("*.parquet")) if pd.read_parquet(path)["is_outlier"].any()
    )
    table = pd.read_parquet(file)
    file.write_bytes(file.read_bytes()[:400]) if change is None else change(table).to_parquet(file)
    with pytest.raises(ValueError, match=rf"{re.escape(str(file))} {why}"):
        flag(night, bundles, queue)
    assert queue.events().empty


def test_a_recording_that_was_overwritten_by_another_is_not_explained(night, bundles, queue):
    drive(16, faults=[(80, 9.0)]).to_csv(night / "drives" / "c.csv", index=False)  # as long as the old one
    with pytest.raises(ValueError, match=r"c.csv is not the recording that was scored: its window at .* Restore the"):
        flag(night, bundles, queue)
    assert queue.events().empty


def test_source_finds_moved_recordings(night, bundles, queue):
    (night / "drives").rename(night / "archive")
    with pytest.raises(FileNotFoundError):
        flag(night, bundles, queue)
    assert flag(night, bundles, queue, source=night / "archive").added


def test_events_of_recordings_of_one_name_in_two_folders_are_two(night, bundles, queue, tmp_path):
    flag(night, bundles, queue)
    before = queue.events()
    [first] = touching(before, "c", 40).to_dict("records")
    queue.give(first["event_id"], "fault", "ann")
    other = tmp_path / "other"
    other.mkdir()
    drive(15, faults=[(40, 25.0)]).to_csv(other / "c.csv", index=False)
    score_folder(bundles / "memory", other, tmp_path / "more")
    for added in (True, False):
        flagged = flag_folder(tmp_path / "more", bundles / "memory", queue, near=0.0)
        assert (flagged.known, flagged.added > 0) == (0, added)
    events = queue.events()
    [second] = touching(events[events["source"] == str(other)], "c", 40).to_dict("records")
    assert (second["start_s"], second["end_s"]) == (first["start_s"], first["end_s"])
    assert second["event_id"] != first["event_id"]
    assert second["verdict"] is None
    queue.give(second["event_id"], "new_normal", "bob")
    queue.export(tmp_path / "queue.csv")
    assert queue.load(tmp_path / "queue.csv") == 0
    assert {queue.event(event["event_id"])["verdict"] for event in (first, second)} == {"fault", "new_normal"}


def test_two_flags_at_once_lose_no_event_of_recordings_of_one_name(night, bundles, queue, tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    drive(15, faults=[(40, 25.0)]).to_csv(tmp_path / "other" / "c.csv", index=False)
    score_folder(bundles / "memory", tmp_path / "other", tmp_path / "more")
    add = queue.add

    def late(events):
        monkeypatch.undo()
        assert flag(night, bundles, queue).added
        return add(events)

    monkeypatch.setattr(queue, "add", late)
    flagged = flag_folder(tmp_path / "more", bundles / "memory", queue, near=0.0)
    assert flagged.added == len(flagged.picked)
    assert len(touching(queue.events(), "c", 40)) == 2
    assert flag_folder(tmp_path / "more", bundles / "memory", queue, near=0.0).added == 0


def test_a_model_that_is_replaced_meanwhile_flags_nothing(night, bundles, queue, tmp_path, monkeypatch):
    model = shutil.copytree(bundles / "memory", tmp_path / "model")

    def replaced(folder):
        shutil.copytree(bundles / "elbo", model, dirs_exist_ok=True)
        return read_card(folder)

    monkeypatch.setattr(flagging, "read_card", replaced)
    with pytest.raises(ValueError, match=r"model has the model \w+ now, expected \w+: another process has replaced it"):
        flag_folder(night / "scores", model, queue)
    assert queue.events().empty


def test_a_reviewed_event_of_a_moved_recording_is_known(night, bundles, queue):
    flag(night, bundles, queue)
    queue.give(touching(queue.events(), "c", 40)["event_id"].iloc[0], "fault", "ann")
    (night / "drives").rename(night / "archive")
    moved = flag(night, bundles, queue, source=night / "archive", near=0.0)
    assert moved.known == 1
    assert touching(moved.picked, "c", 40).empty


# --- Label Studio and the command line ------------------------------------------------------------------


def test_label_studio_tasks_hold_the_signals_and_the_verdicts(night, bundles, queue):
    flag(night, bundles, queue)
    events = queue.events()
    fault = touching(events, "c", 40)["event_id"].iloc[0]
    queue.give(fault, "fault", "ann", "<i>cable</i>")
    interface = write_label_studio(night / "tasks.json", queue.events(), RECIPE, around_s=2.0)
    tasks = json.loads((night / "tasks.json").read_text())
    assert [task["data"]["event_id"] for task in tasks] == list(events["event_id"])
    [reviewed] = [task for task in tasks if "annotations" in task]
    verdict, note = reviewed["annotations"][0]["result"]
    assert reviewed["data"]["event_id"] == fault
    assert verdict["value"]["timeserieslabels"] == ["fault"]
    assert note["value"]["text"] == ["<i>cable</i>"]
    raw = {path: read_log(night / "drives" / path) for path in set(events["file"])}
    for task, event in zip(tasks, events.to_dict("records"), strict=True):
        shown = task["data"]["signals"]
        time_s = np.array(shown["time_s"])
        assert (np.diff(time_s) > 0).all()
        assert time_s[0] == pytest.approx(max(event["start_s"] - 2, 0))
        assert time_s[-1] == pytest.approx(min(event["end_s"] + 2, 119.9))
        yaw = raw[event["file"]]["<b>yaw</b>"]
        np.testing.assert_allclose(shown["signal_1"], np.interp(time_s, yaw.time_s, yaw.values), atol=1e-9)
    assert XML(interface.read_text()).find("TimeSeries/Channel[2]").get("legend") == "<b>yaw</b>"


def test_a_signal_may_have_any_name_in_label_studio():
    names = ('"><script>', "a & b", "time_s", 'it\'s "quoted"')
    channels = XML(labelling_interface(names)).findall("TimeSeries/Channel")
    assert [channel.get("legend") for channel in channels] == list(names)
    assert "time_s" not in {channel.get("column") for channel in channels}


def test_from_the_command_line(night, bundles, capsys, monkeypatch):
    def run(*arguments):
        code = main(["flag", "--queue", str(night / "q.db"), *map(str, arguments)])
        return code, *capsys.readouterr()

    model = ("--model", bundles / "memory")
    code, out, err = run(night / "scores", *model, "--budget", 2, "--per-recording", 1, "--export", night / "q.csv")
    assert (code, err.count("has no scores: ")) == (3, 1)
    assert "picked 2 from 2 recordings, 2 of them new in the queue" in out
    assert "<b>yaw</b>" in out
    assert run("--load", night / "q.csv", "--export", night / "q.parquet", "--quiet") == (0, "", "")
    assert len(pd.read_parquet(night / "q.parquet")) == 2
    assert run("--export", night / "q.json", *model) == (0, f"Wrote the queue: {night / 'q.json'}\n", "")
    assert len(json.loads((night / "q.json").read_text())) == 2
    code, out, err = run(night / "scores", *model, "--alarms", "fdr=0.2", "--quiet")
    assert (code, out, err.count("has no scores: ")) == (3, "", 1)
    monkeypatch.setattr("anomalyvae.review.flagging.caution_of", lambda card: few_calibrate(3, "recordings"))
    said = run(night / "scores", *model, "--export", night / "q.json")[2]
    assert "3 recordings can show no p-value below 0.25" in said
    header = XML((night / "q.xml").read_text()).findall("Header")[1].get("value")
    assert header == few_calibrate(3, "recordings")
    for arguments, said in [
        ((), "There is nothing to do. Pass SCORES, --load or --export"),
        ((night / "scores",), "The model that gave the scores is missing. Pass --model"),
        (("--export", night / "q.json"), "The model that gave the scores is missing. Pass --model"),
        ((night / "scores", *model, "--budget", 0), "Got budget=0"),
    ]:
        code, _, err = run(*arguments)
        assert code == 1
        assert said in err
