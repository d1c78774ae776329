"""A manifest lists what a model learned, and changes by verdicts alone."""

import numpy as np
import pandas as pd
import pytest

from anomalyvae.bundle.manifest import (
    begin_manifest,
    manifest_of,
    next_manifest,
    read_manifest,
    windows_by_role,
    write_manifest,
)
from anomalyvae.recordings import WindowRecipe

RECIPE = WindowRecipe(signals=("a", "b"), rate_hz=5, length_s=2, stride_s=1, max_gap_s=1)


@pytest.fixture
def folder(tmp_path):
    for name in ("old", "new"):
        frame = pd.DataFrame(np.random.default_rng(len(name)).normal(size=(101, 2)), columns=["a", "b"])
        frame.insert(0, "time_s", np.arange(101) * 0.2)
        frame["a"] += name == "new"
        frame.to_parquet(tmp_path / f"{name}.parquet")
    return tmp_path


@pytest.fixture
def old(folder):
    """The manifest of a model that learned one recording."""
    return manifest_of([folder / "old.parquet"], RECIPE)


def event(folder, event_id, verdict, start_s, end_s, recording="new"):
    place = {"source": str(folder), "file": f"{recording}.parquet", "recording": recording}
    return {"event_id": event_id, **place, "start_s": start_s, "end_s": end_s, "verdict": verdict}


def events(folder, *rows):
    return pd.DataFrame([event(folder, *row) for row in rows])


def starts(manifest, role):
    windows, roles = windows_by_role(manifest, RECIPE)
    return windows.spans["start_s"][roles == role].tolist()


def test_novel_events_are_learned_and_faults_noise_and_what_nobody_judged_are_not(folder, old):
    assert starts(old, "normal") == [*range(19)]
    said = events(
        folder, ("n", "new_normal", 2, 6), ("f", "fault", 10, 13), ("x", "noise", 15, 17), ("u", "unsure", 0, 2),
        ("open", None, 6, 9),
    )  # fmt: skip
    new = next_manifest(old, said)
    learned = windows_by_role(new, RECIPE)[0].spans
    assert starts(new, "normal") == [*range(19), 2, 3, 4]
    assert starts(new, "fault") == [10, 11]
    assert learned["recording"].nunique() == 2


def test_a_fault_is_taken_out_of_what_was_learned_with_all_windows_that_touch_it(folder, old):
    new = next_manifest(old, events(folder, ("f", "fault", 8, 10, "old")))
    assert starts(new, "normal") == [*range(6), *range(11, 19)]
    assert starts(new, "fault") == [8]
    assert starts(new, "excluded") == [6, 7, 9, 10]


@pytest.mark.parametrize("later", ["fault", "noise", "unsure", None])
def test_a_later_verdict_takes_the_place_of_an_earlier_one(folder, later, old):
    first = next_manifest(old, events(folder, ("e", "new_normal", 2, 6)))
    second = next_manifest(first, events(folder, ("e", later, 2, 6)))
    assert starts(second, "normal") == starts(old, "normal")


def test_what_came_from_another_queue_is_kept_and_the_same_queue_adds_nothing_twice(folder, old):
    said = events(folder, ("e", "new_normal", 2, 6))
    first = next_manifest(old, said)
    pd.testing.assert_frame_equal(next_manifest(first, said), first)
    assert starts(next_manifest(first, events(folder, ("other", "fault", 12, 14))), "normal") == [*range(19), 2, 3, 4]


def test_a_manifest_of_an_earlier_version_is_read_with_the_new_name_of_its_verdicts(folder, tmp_path, old):
    new = next_manifest(old, events(folder, ("e", "new_normal", 2, 6)))
    write_manifest(new.replace("new_normal", "novel"), tmp_path / "old.json")
    pd.testing.assert_frame_equal(read_manifest(tmp_path / "old.json"), new)


def test_known_events_are_no_normal_windows(folder):
    marks = pd.DataFrame({"recording": ["old"], "time_s": [9.5]})
    assert starts(manifest_of([folder / "old.parquet"], RECIPE, marks), "normal") == [*range(8), *range(10, 19)]
    wide = manifest_of([folder / "old.parquet"], RECIPE, marks, 1.6)
    assert starts(wide, "normal") == [*range(6), *range(12, 19)]


def test_a_recording_that_changed_or_went_is_refused(folder, old):
    manifest = next_manifest(old, events(folder, ("e", "new_normal", 2, 6)))
    pd.read_parquet(folder / "new.parquet").assign(a=0.0).to_parquet(folder / "new.parquet")
    with pytest.raises(ValueError, match="has changed since it was learned or reviewed"):
        windows_by_role(manifest, RECIPE)
    (folder / "new.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="Put it back"):
        windows_by_role(manifest, RECIPE)


def test_a_recording_that_is_named_in_two_ways_is_read_once(folder, monkeypatch, old):
    monkeypatch.chdir(folder)
    other = old.assign(source=".", event_id="e", verdict="new_normal")
    assert starts(pd.concat([old, other], ignore_index=True), "normal") == [*range(19)]


def test_recordings_are_found_from_any_folder(folder, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(folder)
    manifest = manifest_of(["old.parquet"], RECIPE)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert len(windows_by_role(manifest, RECIPE)[0]) == 19


def test_recordings_may_move(folder, tmp_path_factory, old):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / "old.parquet").rename(elsewhere / "old.parquet")
    windows, _ = windows_by_role(old, RECIPE, elsewhere)
    assert len(windows) == 19


def test_a_manifest_is_read_as_it_was_written(folder, old):
    manifest = next_manifest(old, events(folder, ("e", "fault", 2, 6)))
    write_manifest(manifest, folder / "m.json")
    pd.testing.assert_frame_equal(read_manifest(folder / "m.json"), manifest)
    (folder / "m.json").write_text('{"format": 1, "intervals": 3}')
    with pytest.raises(ValueError, match="is not a manifest"):
        read_manifest(folder / "m.json")


def test_an_empty_manifest_names_no_window(folder):
    empty = begin_manifest([], pd.DataFrame({"recording": [], "start_s": [], "end_s": []}))
    windows, role = windows_by_role(empty, RECIPE)
    assert len(windows) == len(role) == 0
    assert list(windows.rows.columns) == RECIPE.columns
