"""The loop: verdicts make a challenger, and the gate decides whether it replaces the champion."""

import json
import re
import shutil
import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from killing import kills

from anomalyvae import Scorer, VAEOutlierDetector, load, save
from anomalyvae.bundle import read_card, read_manifest
from anomalyvae.bundle.manifest import manifest_of, windows_by_role, write_manifest
from anomalyvae.cli import main
from anomalyvae.folders import in_words, locked
from anomalyvae.recordings import WindowRecipe
from anomalyvae.review import Queue, gate, promotion, retrain, retraining
from anomalyvae.review.comparison import EARNING, FIGURES, RECALL, Counts, beyond_refits, compare_share
from anomalyvae.review.queue import EVENT_COLUMNS
from anomalyvae.review.retraining import formers
from anomalyvae.train import train

RECIPE = WindowRecipe(signals=("a", "b"), rate_hz=5, length_s=2, stride_s=1, max_gap_s=1)
SETTINGS = {"hidden": (16,), "max_epochs": 20, "random_state": 0}
FAULTS = (40, 90, 140)  # s, in drives that have them: five seconds of a shaking signal
RATE = 60.0


def drive(path, seed, regime=0.0, faults=()):
    """Two correlated signals; another regime changes the correlation."""
    rng = np.random.default_rng(seed)
    time = np.arange(0, 200, 0.2)
    a = np.sin(time + seed) + 0.1 * rng.normal(size=len(time))
    b = (a + 0.1 * rng.normal(size=len(time))) * (1 - regime)
    for start in faults:
        inside = (time >= start) & (time < start + 5)
        b[inside] += 1.5 * (-1.0) ** np.arange(inside.sum())
    pd.DataFrame({"time_s": time, "a": a, "b": b}).to_parquet(path)
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Drives, a champion that knows one regime, and the verdicts on what it met since."""
    folder = tmp_path_factory.mktemp("world")
    learned = [drive(folder / f"old{n}.parquet", n) for n in range(4)]
    for n in range(3):
        drive(folder / f"new{n}.parquet", 10 + n, regime=2.0)
        drive(folder / f"broken{n}.parquet", 20 + n, faults=FAULTS)
    held = [drive(folder / f"held{n}.parquet", 30 + n, regime=2.0 * (n % 2), faults=FAULTS) for n in range(6)]
    marks = pd.DataFrame(
        [(f"held{n}", start, start + 5.0) for n in range(6) for start in FAULTS],
        columns=["recording", "start_s", "end_s"],
    )
    marks.to_csv(folder / "marks.csv", index=False)
    train(learned, RECIPE, VAEOutlierDetector(**SETTINGS), folder / "first")
    judged = [event(folder, f"new{n}", 10.0 * k, 10.0 * k + 9, "new_normal") for n in range(3) for k in range(20)]
    judged += [event(folder, f"broken{n}", start, start + 5.0, "fault") for n in range(3) for start in FAULTS]
    return {"folder": folder, "events": pd.DataFrame(judged), "held": held}


def event(folder, recording, start_s, end_s, verdict):
    return {
        "event_id": f"{recording}-{start_s:g}", "source": str(folder), "file": f"{recording}.parquet",
        "recording": recording, "start_s": start_s, "end_s": end_s, "verdict": verdict,
    }  # fmt: skip


@pytest.fixture(scope="module")
def challenger(world):
    retrain(world["events"], world["folder"] / "first", world["folder"] / "challenger")
    return world["folder"] / "challenger"


@pytest.fixture(scope="module")
def holdout(world):
    return gate.holdout(world["folder"] / "first", world["held"], world["folder"] / "marks.csv")


@pytest.fixture
def champion(world, tmp_path):
    promotion._copy(world["folder"] / "first", tmp_path / "champion")
    return tmp_path / "champion"


def judged(challenger, champion, world, holdout, refits=0):
    return gate.judge(challenger, champion, world["events"], holdout, alarms_per_hour=RATE, refits=refits)


@pytest.fixture(scope="module")
def decision(world, challenger, holdout):
    return judged(challenger, world["folder"] / "first", world, holdout)


# Retraining


def test_a_challenger_learns_reviewed_events_and_lists_them(world, challenger):
    manifest = read_manifest(challenger)
    windows, role = windows_by_role(manifest, RECIPE)
    card = read_card(challenger)
    assert card["training"]["rows"] == (role == "normal").sum()
    assert card["training"]["outliers"] == (role == "fault").sum() == 3 * len(FAULTS) * 4
    assert set(manifest["event_id"]) == {"", *world["events"]["event_id"]}
    assert card["windowing"] == read_card(world["folder"] / "first")["windowing"]
    assert card["parameters"] == read_card(world["folder"] / "first")["parameters"]
    model = load(challenger)
    assert (model.predict(windows.rows[role == "fault"]) == -1).mean() > 0.9
    assert (model.predict(windows.rows[role == "normal"]) == -1).mean() < 0.1


def test_retraining_without_a_verdict_is_refused(world, tmp_path):
    nothing = world["events"].assign(verdict=None)
    unsure = nothing.assign(verdict=["unsure", *nothing["verdict"][1:]])
    elsewhere = nothing.assign(verdict=["noise", *nothing["verdict"][1:]])  # in a recording that is not learned
    for events, said in ((nothing, "69 open"), (unsure, "68 open, 1 unsure"), (elsewhere, "68 open, 1 noise")):
        with pytest.raises(ValueError, match=f"Got {said}, expected verdicts that change what .*first has learned"):
            retrain(events, world["folder"] / "first", tmp_path / "same")
    with pytest.raises(
        ValueError, match=r"Got no events, expected verdicts .*Review events first \(anomalyvae review\)"
    ):
        retrain(nothing[:0], world["folder"] / "first", tmp_path / "same")
    assert not (tmp_path / "same").exists()


def test_a_recording_that_was_overwritten_since_its_review_is_not_learned(world, tmp_path):
    first = world["folder"] / "first"
    events = world["events"].assign(model_id=read_card(first)["model_id"], peak_score=-99.0)
    with pytest.raises(ValueError, match=r"broken0.parquet is not the recording that was scored: its window at 40 s"):
        retrain(events.assign(peak_start_s=events["start_s"]), first, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_recording_overwritten_since_it_was_learned_is_not_learned_again(world, tmp_path):
    """Not by retraining from the champion that learned it, and the gate does not judge on it."""
    first, folder = world["folder"] / "first", shutil.copytree(world["folder"], tmp_path / "world")
    events = world["events"].assign(source=str(folder))
    second = retrain(events[-1:], first, tmp_path / "second").folder
    drive(folder / "broken2.parquet", 99)
    with pytest.raises(ValueError, match=r"broken2.parquet has changed since .*or undo the verdicts on its events\."):
        retrain(events, second, tmp_path / "third")
    with pytest.raises(ValueError, match=r"broken2.parquet has changed since it was learned"):
        gate.judge(second, first, events, gate.holdout(first, world["held"]), refits=0)
    undone = events.assign(verdict=["fault", *[None] * (len(events) - 1)])
    assert retrain(undone, second, tmp_path / "third").verdicts == {"open": len(events) - 1, "fault": 1}


def test_a_recording_overwritten_before_it_was_learned_is_not_judged_on(world, tmp_path):
    """An event that was reviewed after retraining is in no manifest: its score shows whether the file is the same."""
    first, learned = world["folder"] / "first", world["events"].iloc[-1:]
    challenger = retrain(learned, first, tmp_path / "next").folder
    later = world["events"].iloc[[0]]
    known = {"model_id": read_card(first)["model_id"], "peak_score": -99.0}
    events = pd.concat([learned, later]).assign(**known, peak_start_s=lambda table: table["start_s"])
    held = gate.holdout(first, world["held"][:2])
    with pytest.raises(ValueError, match=r"new0.parquet is not the recording that was scored: its window at 0 s"):
        gate.judge(challenger, first, events, held, refits=0)


def test_events_of_a_former_champion_are_checked_by_it(world, champion, tmp_path):
    known = {"model_id": read_card(champion)["model_id"], "peak_score": -99.0, "peak_start_s": 0.0}
    now = retrain(world["events"][:1], champion, tmp_path / "now").folder
    promotion._copy(champion, formers(now) / known["model_id"])
    with pytest.raises(ValueError, match=r"broken2.parquet is not the recording that was scored"):
        retrain(world["events"][-1:].assign(**known), now, tmp_path / "out")


def test_a_folder_with_other_files_is_refused_before_anything_is_read(world, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="other files than a bundle"):
        retrain(world["events"].assign(source="gone"), world["folder"] / "first", tmp_path)


def test_a_champion_replaced_while_it_is_read_teaches_nothing(world, challenger, champion, tmp_path, monkeypatch):
    whole = retraining.read_manifest

    def replaced(folder):
        manifest = whole(folder)
        promotion._copy(challenger, champion)
        return manifest

    monkeypatch.setattr(retraining, "read_manifest", replaced)
    with pytest.raises(ValueError, match=r"has replaced it meanwhile\. Run the same command again"):
        retrain(world["events"][-1:], champion, tmp_path / "out")


def test_verdicts_that_the_champion_has_learned_are_no_reason_to_retrain(world, challenger, tmp_path):
    with pytest.raises(ValueError, match="Got 60 new_normal, 9 fault, expected verdicts that change"):
        retrain(world["events"], challenger, tmp_path / "again")


def test_a_champion_without_a_manifest_needs_learned(world, tmp_path):
    plain = save(load(world["folder"] / "first"), tmp_path / "plain", recipe=RECIPE.to_dict())
    with pytest.raises(FileNotFoundError, match="--learned"):
        retrain(world["events"], plain, tmp_path / "out")
    learned = [world["folder"] / f"old{n}.parquet" for n in range(4)]
    with pytest.raises(ValueError, match="expected verdicts that change"):
        retrain(world["events"].assign(verdict=None), plain, tmp_path / "out", learned=learned)
    fault = world["events"][-1:]
    made = retrain(fault, plain, tmp_path / "out", learned=learned)
    assert (made.normal, made.faults) == (read_card(plain)["training"]["rows"], 4)


def test_a_champion_is_never_overwritten_by_retraining(world):
    with pytest.raises(ValueError, match="only promotion replaces a champion"):
        retrain(world["events"], world["folder"] / "first", world["folder"] / "first")


def test_a_manifest_that_was_changed_is_refused(challenger, tmp_path):
    promotion._copy(challenger, tmp_path / "changed")
    file = tmp_path / "changed" / "manifest.json"
    file.write_text(file.read_text().replace('"fault"', '"normal"'))
    with pytest.raises(ValueError, match="not the manifest that the card describes"):
        read_manifest(tmp_path / "changed")


# The gate


def test_a_better_challenger_is_promoted_and_can_be_rolled_back(challenger, champion, decision, holdout):
    first = read_card(champion)["model_id"]
    assert decision.promoted, str(decision)
    figures = {figure.name: figure for figure in decision.figures}
    new = figures["alarms on new normals at the alarm rate"]
    assert new.challenger < new.champion
    assert any(figure.better for figure in decision.figures)

    promotion.promote(challenger, champion, decision, holdout, dry_run=True)
    assert read_card(champion)["model_id"] == first
    promotion.promote(challenger, champion, decision, holdout)
    assert read_card(champion)["model_id"] == decision.challenger
    assert json.loads((champion / "gate.json").read_text())["reasons"] == list(decision.reasons)
    assert promotion.frozen_holdout(champion, None).equals(holdout)

    assert promotion.roll_back(champion) == first
    assert read_card(champion)["model_id"] == first
    with pytest.raises(ValueError, match="no earlier champion to roll back to"):
        promotion.roll_back(champion)
    assert read_card(promotion._former(champion, decision.challenger))["model_id"] == decision.challenger


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_leaves_a_champion_and_the_next_call_completes(challenger, champion, decision, holdout, every):
    first = read_card(champion)["model_id"]

    def promote():
        promotion.promote(challenger, champion, decision, holdout)

    for _ in kills(promote, champion.parent, every):
        assert read_card(champion)["model_id"] in (first, decision.challenger)
        promote()
        assert read_card(champion)["model_id"] == decision.challenger
        assert promotion.frozen_holdout(champion, None).equals(holdout)
        assert promotion.roll_back(champion) == first
    for _ in kills(lambda: promotion.roll_back(champion), champion.parent, every):
        if read_card(champion)["model_id"] != first:
            promotion.roll_back(champion)
        assert read_card(champion)["model_id"] == first
        promote()
    assert read_card(champion)["model_id"] == first


@pytest.mark.parametrize("swaps", [20, pytest.param(357, marks=pytest.mark.slow)])
def test_a_reader_finds_a_champion_while_it_is_exchanged(challenger, champion, swaps, tmp_path):
    other = shutil.copytree(champion, tmp_path / "other")
    known = {read_card(folder)["model_id"] for folder in (challenger, other)}
    ended = threading.Event()

    def exchange():
        for number in range(swaps):
            promotion._copy((challenger, other)[number % 2], champion)
        ended.set()

    thread = threading.Thread(target=exchange)
    thread.start()
    reads = 0
    while not ended.is_set():
        for model_id in (read_card(champion)["model_id"], Scorer(champion).metadata["model_id"]):
            assert model_id in known
        assert read_manifest(champion)["sha256"].notna().all()
        reads += 1
    thread.join()
    assert reads


def test_figures_outside_the_hold_out_promote_nobody():
    figures = [gate.Figure(name, 0.5, 0.5, (0.0, 0.0), 9, 3, True, False) for name in FIGURES]
    better = [replace(figure, better=figure.name not in EARNING) for figure in figures]
    promoted, reasons = gate._decide(tuple(better))
    assert not promoted
    assert reasons[0] == "Nothing is better on the hold-out by more than chance."
    assert gate._decide((replace(figures[0], better=True), *better[1:]))[0]
    assert not gate._decide((replace(figures[0], better=True), replace(better[2], passed=False)))[0]


def test_a_promotion_that_fails_keeps_the_champion(challenger, champion, decision, holdout, monkeypatch):
    before = read_card(champion)["model_id"]
    whole = promotion.shutil.copy2

    def until_the_disk_is_full(source, target):
        whole(source, target)
        if source == challenger / "model.safetensors":
            target.write_bytes(b"")
            raise OSError(28, "No space left on device", source, None, target)

    monkeypatch.setattr(promotion.shutil, "copy2", until_the_disk_is_full)
    with pytest.raises(OSError, match="No space") as raised:
        promotion.promote(challenger, champion, decision, holdout)
    assert in_words(raised.value) == f"{champion}: No space left on device. Make room on this disk, and try again."
    assert read_card(champion)["model_id"] == before
    assert sorted(path.name for path in champion.parent.iterdir()) == ["champion", "champion-former"]


def test_only_what_was_compared_is_exchanged(world, challenger, champion, decision, holdout, tmp_path):
    """Two promotions at once: the second was compared with a champion that is gone, and would overwrite the first."""
    other, next_ = shutil.copytree(world["folder"] / "first", tmp_path / "other"), tmp_path / "next"
    retrain(world["events"][-1:], world["folder"] / "first", other)
    shutil.copytree(challenger, next_, ignore=shutil.ignore_patterns("gate.json"))
    promotion.promote(other, champion, replace(decision, challenger=read_card(other)["model_id"]), holdout)
    first = read_card(champion)["model_id"]
    with pytest.raises(ValueError, match=f"champion has the model {first} now, expected {decision.champion}: another"):
        promotion.promote(next_, champion, decision, holdout)
    assert read_card(champion)["model_id"] == first
    assert not (next_ / "gate.json").exists()
    with pytest.raises(ValueError, match=r"expected None: another process has replaced it meanwhile\. Run the same"):
        promotion.promote(next_, champion, replace(decision, champion=None), holdout)
    promotion.roll_back(champion)
    promotion._copy(other, next_)  # another retraining has put its challenger there
    with pytest.raises(ValueError, match=f"next has the model {first} now, expected {decision.challenger}"):
        promotion.promote(next_, champion, decision, holdout)
    assert read_card(champion)["model_id"] == decision.champion


def test_a_model_replaced_while_it_is_judged_gets_no_decision(world, challenger, champion, holdout, monkeypatch):
    def compared(*given):
        promotion._copy(challenger, champion)
        return compare_share(*given)

    monkeypatch.setattr(gate, "compare_share", compared)
    with pytest.raises(ValueError, match=r"champion has the model \w+ now, expected \w+: another process"):
        judged(challenger, champion, world, holdout)


def test_two_promotions_at_once_wait_for_each_other(challenger, champion, decision, holdout):
    with locked(champion.parent):
        thread = threading.Thread(target=promotion.promote, args=[challenger, champion, decision, holdout])
        thread.start()
        thread.join(0.3)
        assert read_card(champion)["model_id"] == decision.champion
    thread.join()
    assert read_card(champion)["model_id"] == decision.challenger


def test_a_champion_is_named_from_its_own_folder(challenger, champion, decision, holdout, monkeypatch):
    monkeypatch.chdir(champion)
    promotion.promote(challenger, ".", decision, holdout)
    assert read_card(champion)["model_id"] == decision.challenger
    assert promotion.roll_back(champion) == decision.champion


@pytest.mark.parametrize("former", [None, "../first", "..", "", 7])
def test_a_rollback_goes_nowhere_but_to_a_former_champion(champion, former):
    (champion / "gate.json").write_text(json.dumps({"champion": former}))
    with pytest.raises(ValueError, match="no earlier champion to roll back to"):
        promotion.roll_back(champion)


@pytest.mark.parametrize(
    "said", [{"fault": "new_normal"}, {"fault": "new_normal", "new_normal": "fault"}], ids=["faults", "swapped"]
)
def test_a_challenger_that_learned_faults_as_new_normals_is_refused(world, champion, holdout, tmp_path, said):
    poisoned = world["events"].assign(verdict=world["events"]["verdict"].map(said))
    retrain(poisoned, champion, tmp_path / "poisoned")
    decision = gate.judge(tmp_path / "poisoned", champion, poisoned, holdout, alarms_per_hour=RATE, refits=0)
    assert not decision.promoted
    assert decision.reasons[0].startswith("New normals that look like held-out faults: ")
    before = read_card(champion)["model_id"]
    promotion.promote(tmp_path / "poisoned", champion, decision, holdout)
    assert read_card(champion)["model_id"] == before
    assert not json.loads((tmp_path / "poisoned" / "gate.json").read_text())["promoted"]


def test_new_normals_that_look_like_held_out_faults_are_looked_at_again(world, challenger, holdout, tmp_path):
    first, events = world["folder"] / "first", world["events"]
    faults = events[events["verdict"] == "fault"]
    lie = faults.assign(verdict="new_normal")
    retrain(lie, first, tmp_path / "lied")
    decide = partial(gate.judge, tmp_path / "lied", first, lie, holdout, alarms_per_hour=RATE, refits=0)
    refused = decide(two_reviewers=False)
    assert refused.reasons[0].startswith("New normals that look like held-out faults: ")
    assert "Look at them again on the review page" in refused.reasons[0]
    assert 5 <= len(refused.doubtful) <= len(faults)
    assert set(refused.doubtful) <= set(faults["event_id"])
    agreed = decide(confirmed=set(faults["event_id"]), two_reviewers=False)  # by somebody else
    assert agreed.doubtful == ()
    assert agreed.reasons[-1] == "new normals that look like held-out faults: nothing to compare"
    honest = judged(challenger, first, world, holdout)
    assert honest.promoted
    assert honest.doubtful == ()
    assert re.fullmatch(r"new normals that look like held-out faults: \d of 60, and \d+ of .*", honest.reasons[-1])


def test_new_normals_wait_for_a_second_reviewer(world, challenger, holdout):
    events = world["events"]
    new = set(events.loc[events["verdict"] == "new_normal", "event_id"])
    for confirmed, doubtful in ((set(), new), (new, set())):
        options = {"alarms_per_hour": RATE, "confirmed": confirmed, "refits": 0}
        decision = gate.judge(challenger, world["folder"] / "first", events, holdout, **options)
        assert set(decision.doubtful) == doubtful
        assert decision.promoted == (not doubtful)


@pytest.mark.slow
def test_some_faults_among_new_normals_wait_for_a_second_reviewer(world, champion, holdout, tmp_path):
    """No figure shows that one fault in nine was called a new normal; that only one person called it so does."""
    wrong = f"broken0-{FAULTS[0]:g}"
    taken = world["events"].copy()
    taken.loc[taken["event_id"] == wrong, "verdict"] = "new_normal"
    retrain(taken, champion, tmp_path / "taken")
    decide = partial(gate.judge, tmp_path / "taken", events=taken, holdout=holdout, alarms_per_hour=RATE, refits=0)
    assert decide(champion).promoted
    new = set(taken.loc[taken["verdict"] == "new_normal", "event_id"])
    alone = decide(champion, confirmed=new - {wrong})
    assert not alone.promoted
    assert alone.reasons[0] == (
        "Called new normal by only one reviewer: broken0 at 40 s. A second reviewer must confirm it (2nd look, on the "
        "review page)."
    )
    assert alone.doubtful == (wrong,)
    everybody = decide(champion, confirmed=set())
    assert set(everybody.doubtful) == new
    assert "and 56 more" in everybody.reasons[0]
    confirmed = decide(champion, confirmed=new)
    assert confirmed.promoted
    promotion.promote(tmp_path / "taken", champion, confirmed, holdout)
    retrain(world["events"], champion, tmp_path / "next")  # what a champion has learned is not asked about again
    assert gate.judge(tmp_path / "next", champion, taken, holdout, confirmed=set(), refits=0).doubtful == ()


def test_the_champion_itself_is_refused(champion, world, holdout):
    decision = judged(world["folder"] / "first", champion, world, holdout)
    assert not decision.promoted
    assert decision.reasons == ("It is the champion.",)


def test_a_challenger_that_learned_from_the_hold_out_is_refused(world, challenger, champion):
    leaking = manifest_of([world["folder"] / "new0.parquet"], RECIPE)
    decision = judged(challenger, champion, world, leaking)
    assert not decision.promoted
    assert "has learned recordings of the hold-out: new0.parquet" in decision.reasons[0]


def test_verdicts_and_a_hold_out_without_faults_are_judged(world, challenger, champion):
    normal = world["events"][world["events"]["verdict"] == "new_normal"]
    unmarked = gate.holdout(champion, world["held"])
    decision = gate.judge(challenger, champion, normal, unmarked, alarms_per_hour=RATE, refits=0)
    assert "recall of held-out faults at its own threshold: nothing to compare" in str(decision)


def test_the_first_champion_needs_no_rival(world, challenger, holdout, tmp_path):
    decision = judged(challenger, tmp_path / "none", world, holdout)
    promotion.promote(challenger, tmp_path / "none", decision, holdout)
    assert read_card(tmp_path / "none")["model_id"] == decision.challenger


def test_the_hold_out_is_frozen_by_the_first_promotion(world, challenger, holdout, tmp_path):
    with pytest.raises(ValueError, match="Pass --holdout"):
        promotion.frozen_holdout(tmp_path / "none", None)
    decision = judged(challenger, tmp_path / "none", world, holdout)
    promotion.promote(challenger, tmp_path / "none", decision, holdout)
    with pytest.raises(ValueError, match="hold-out differs"):
        promotion.frozen_holdout(tmp_path / "none", holdout.iloc[1:])


def test_a_hold_out_in_a_file_has_its_own_faults(world, champion, holdout, tmp_path):
    write_manifest(holdout, tmp_path / "holdout.json")
    assert gate.holdout(champion, [tmp_path / "holdout.json"]).equals(holdout)
    with pytest.raises(ValueError, match="has its own faults"):
        gate.holdout(champion, [tmp_path / "holdout.json"], world["folder"] / "marks.csv")
    with pytest.raises(ValueError, match="Got tolerance_s=-1, expected a finite number from 0"):
        gate.holdout(champion, [world["folder"] / "any.csv"], tolerance_s=-1)


def counted(found, faults=10.0, **more):
    """Counts of 20 recordings of ten faults, of which so many are found in each."""
    parts = [f"r{n}" for n in range(20)]
    whole = {name: 0.0 for pair in FIGURES.values() for name in pair[:2]}
    table = pd.DataFrame(whole | {"held_faults": faults, "held_found": found} | more, index=parts)
    return Counts(table, (np.arange(10) < np.asarray(found)[:, None]).ravel().astype(float))


def test_figures_are_compared_on_the_same_resampled_recordings():
    found = np.arange(20) % 5
    old = counted(found)
    alike = compare_share(RECALL, old, old, 0.05, 0)
    assert alike.interval == (0.0, 0.0)
    assert (alike.passed, alike.better) == (True, False)
    better = compare_share(RECALL, old, counted(found + 1), 0.05, 0)
    assert better.interval == pytest.approx((0.1, 0.1))  # every recording gains alike, whatever is drawn
    assert (better.passed, better.better) == (True, True)
    worse = compare_share(RECALL, old, counted(found - 1.0), 0.05, 0)
    assert (worse.passed, worse.better) == (False, False)
    assert not compare_share(
        RECALL, old, counted(np.where(np.arange(20) == 0, 5, found)), 0.05, 0
    ).better  # one recording
    fewer = found - ((found > 0) & (np.arange(20) < 8))  # 0.03 of the faults are lost
    assert not compare_share(RECALL, old, counted(fewer), 0.05, 0).passed
    past = "recall of past verdicts' faults at the alarm rate"
    alike = counted(found, verdict_faults=10.0, verdict_found=found)
    assert compare_share(past, alike, counted(found, verdict_faults=10.0, verdict_found=fewer), 0.05, 0).passed
    assert "nothing to compare" in str(compare_share("alarms on new normals at the alarm rate", old, old, 0.05, 0))


def test_a_few_more_faults_are_not_significant():
    """Two recordings gain in every resample, but two or four faults can be found by chance."""
    old, new = counted(np.full(20, 3)), counted(np.full(20, 3))
    for gained, evidence in ((2, False), (4, False), (5, True), (8, True)):
        ahead = old.found.copy()
        ahead[np.flatnonzero(ahead == 0)[:gained]] = 1
        table = new.table.iloc[:2].assign(held_found=3.0 + gained / 2)
        figure = compare_share(RECALL, Counts(old.table.iloc[:2], old.found), Counts(table, ahead), 0.05, 0)
        assert figure.interval[0] > 0
        assert figure.better == evidence


def test_a_gain_within_the_spread_of_refits_does_not_count():
    old, new = counted(np.full(20, 3)), counted(np.full(20, 5))
    better = compare_share(RECALL, old, new, 0.05, 0)
    assert better.better
    steady = [counted(np.full(20, 3 + step)) for step in (0, 0, 0.1, 0)]
    assert beyond_refits(better, steady).better
    wide = [counted(np.full(20, n)) for n in (2, 5, 4, 3)]
    luck = beyond_refits(better, wide)
    assert not luck.better
    assert luck.passed
    assert "no worse, 0.300 -> 0.500" in str(luck)
    assert "the champion fitted again has 0.200 to 0.500" in str(luck)
    assert beyond_refits(better, []) == better


def test_few_recordings_are_resampled_in_blocks(world, holdout):
    recordings = holdout["sha256"].unique()
    few = holdout[holdout["sha256"].isin(recordings[:2])]
    for part, expected in ((holdout, 6), (few, 10)):
        work = gate._Comparison(part, part.iloc[:0], RATE, None, None)
        windows, _ = windows_by_role(part, RECIPE)
        told = work._parts()(windows.spans)
        assert told.nunique() == expected
        assert told.value_counts().min() > 0.15 * len(windows.spans) / expected
        assert (told.str.split("/").str[0] == windows.spans["recording"]).all()


def test_a_champion_is_fitted_again_before_it_gives_way(world, challenger, champion, holdout, monkeypatch):
    made = []
    whole = gate.refits_of

    def counting(*args, **options):
        for model in whole(*args, **options):
            made.append(model)
            yield model

    monkeypatch.setattr(gate, "refits_of", counting)
    decision = judged(challenger, champion, world, holdout, refits=2)
    assert decision.promoted
    assert len(made) == 2
    (recall,) = [figure for figure in decision.figures if figure.name == RECALL]
    assert len(recall.refits) == 2
    rows = pd.DataFrame(np.zeros((3, len(RECIPE.columns))), columns=RECIPE.columns)
    own = load(champion)
    assert len({model.anomaly_score(rows)[0] for model in (*made, own)}) == 3
    assert {model.training_["sha256"] for model in made} == {own.training_["sha256"]}
    made.clear()
    judged(world["folder"] / "first", champion, world, holdout)
    assert not made  # what is refused anyway costs no fit


# The command line


@pytest.fixture
def queue(world, tmp_path):
    """The queue with the world's events and verdicts, as the command line takes it."""
    filler = dict.fromkeys(EVENT_COLUMNS, 0.0) | {
        "model_id": "m", "signals": [], "shares": [], "outside": {}, "latent": [], "nearest": None, "windows": 1,
        "added_at": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    events = world["events"].to_dict("records")
    with Queue(tmp_path / "queue.db") as queue:
        queue.add(pd.DataFrame([filler | row for row in events]))
        for row in events:
            queue.give(row["event_id"], row["verdict"], "anna")
    return ["--queue", str(tmp_path / "queue.db")]


def test_promote_from_the_command_line(world, challenger, champion, queue, tmp_path, capsys, monkeypatch):
    before, after = read_card(champion)["model_id"], read_card(challenger)["model_id"]
    promote = [
        "promote", str(challenger), "--champion", str(champion), *queue, "--holdout", *map(str, world["held"]),
        "--alarms-per-hour", "60", "--events", str(world["folder"] / "marks.csv"), "--refits", "0",
    ]  # fmt: skip
    assert main([*promote, "--dry-run"]) == 0
    assert read_card(champion)["model_id"] == before
    assert "Promoted" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(promotion, "_copy", lambda *given: (champion / "none").read_bytes())
        assert main(promote) == 1
        assert "Promoted" not in capsys.readouterr().out
    assert main(promote) == 0
    assert f"Promoted: {after} against {before}" in capsys.readouterr().out
    assert main(promote) == 4
    assert "It is the champion." in capsys.readouterr().out
    rollback = ["promote", "--rollback", "--champion", str(champion)]
    for unused in (["--dry-run"], queue, [str(challenger)]):
        assert main([*rollback, *unused]) == 1
        assert f"Got {unused[0]}, but --rollback restores a model at once" in capsys.readouterr().err
    assert main([*promote[:6], "--events", str(world["folder"] / "marks.csv")]) == 1
    assert "the recordings of --holdout, which is missing" in capsys.readouterr().err
    assert main([*promote, "--tolerance", "5"]) == 1
    assert "expected a share from 0 to 1" in capsys.readouterr().err
    assert main(["promote", str(champion), *promote[2:]]) == 4  # the champion against itself: its past stays
    assert main(rollback) == 0
    assert read_card(champion)["model_id"] == before
    assert main([*promote, "--two-reviewers"]) == 4
    assert main(["promote", "--champion", str(champion)]) == 1
    assert "CHALLENGER" in capsys.readouterr().err


@pytest.mark.slow
def test_fit_retrain_and_score_from_the_command_line(world, queue, tmp_path, capsys):
    folder, champion, out = world["folder"], str(tmp_path / "champion"), str(tmp_path / "challenger")
    learned = [str(folder / f"old{n}.parquet") for n in range(4)]
    recipe = ["--signals", "a,b", "--rate-hz", "5", "--length-s", "2", "--stride-s", "1", "--max-gap-s", "1"]
    small = ["--set", "hidden=[16]", "--set", "max_epochs=20", "--set", "random_state=0"]
    assert main(["fit", *learned, "--model", champion, *recipe, *small, "--quiet"]) == 0
    bare = load(champion)
    del bare.training_["manifest"]  # a model that does not say what it learned
    unsaid = str(save(bare, tmp_path / "unsaid", recipe=read_card(champion)["windowing"]))
    assert main(["retrain", *queue, "--champion", unsaid, "--out", out]) == 1
    assert "--learned" in capsys.readouterr().err
    assert main(["retrain", *queue, "--champion", unsaid, "--out", out, "--learned", *learned]) == 0
    assert "against 36 of faults" in capsys.readouterr().out
    assert main(["retrain", *queue, "--champion", champion, "--out", out]) == 0
    assert "against 36 of faults" in capsys.readouterr().out
    assert main(["score", str(world["held"][0]), str(tmp_path / "scores"), "--model", out, "--quiet"]) == 0
