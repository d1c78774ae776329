"""Recordings become rows, and a row keeps its way back."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dct, idct

from anomalyvae import VAEOutlierDetector, save, score_folder
from anomalyvae.recordings import Log, Signal, WindowRecipe, Windows, log_from_frame, read_windows, resample
from anomalyvae.review.reasons import Reasons, window_view

RECIPE = WindowRecipe(("x", "y"), rate_hz=10, length_s=0.5, stride_s=0.2, max_gap_s=0.3)


def counting_log(time_s, recording="drive"):
    """A log whose signals tell the time, so that a row tells where it was cut."""
    time_s = np.asarray(time_s, float)
    return log_from_frame(pd.DataFrame({"time_s": time_s, "x": time_s, "y": -time_s}), recording)


def test_rows_are_channel_major_and_named_by_signal_and_sample():
    windows = RECIPE.windows(counting_log(np.arange(10) / 10))
    assert list(windows.rows) == RECIPE.columns == [f"{s}@{i}" for s in "xy" for i in range(5)]
    assert RECIPE.input_shape == (2, 5)
    np.testing.assert_allclose(windows.rows["x@0"], [0.0, 0.2, 0.4])
    np.testing.assert_allclose(windows.rows.iloc[1], [0.2, 0.3, 0.4, 0.5, 0.6, -0.2, -0.3, -0.4, -0.5, -0.6])
    np.testing.assert_allclose(windows.spans["start_s"], [0.0, 0.2, 0.4])
    np.testing.assert_allclose(windows.spans["end_s"], [0.5, 0.7, 0.9])
    assert (windows.rows.dtypes == np.float64).all()
    assert windows.rows.index.equals(windows.spans.index)


gappy = st.lists(st.sampled_from([0.1, 0.1, 0.1, 0.1, 0.05, 0.25, 0.35, 1.0, 7.3]), min_size=1, max_size=80)


@given(steps=st.lists(gappy, min_size=1, max_size=3), stride=st.sampled_from([0.1, 0.2, 0.25, 0.5, 0.7]))
def test_the_way_from_a_row_leads_back_to_its_samples_and_crosses_no_gap(steps, stride):
    recipe = WindowRecipe(("x", "y"), rate_hz=10, length_s=0.5, stride_s=stride, max_gap_s=0.3)
    logs = [counting_log(np.round(np.cumsum([0.0, *run]), 6), f"drive{number}") for number, run in enumerate(steps)]
    windows = read_windows(logs, recipe)
    assert len(windows.spans) == len(windows.rows) == len(windows)
    folded = windows.rows.to_numpy().reshape(-1, *recipe.input_shape)
    for row, span in zip(folded, windows.spans.itertuples(), strict=True):
        expected = span.start_s + np.arange(5) / 10
        np.testing.assert_allclose(row, [expected, -expected], atol=1e-6)
        assert span.end_s - span.start_s == pytest.approx(0.5)
        stamps = logs[int(span.recording[-1])]["x"].time_s
        inside = stamps[
            max(np.searchsorted(stamps, span.start_s + 1e-6) - 1, 0) : np.searchsorted(stamps, expected[-1] - 1e-6) + 1
        ]
        assert (np.diff(inside) <= 0.3 + 1e-6).all()


@given(steps=gappy, stride=st.sampled_from([0.1, 0.2, 0.25, 0.5, 0.7]))
def test_no_window_that_would_fit_is_missing(steps, stride):
    recipe = WindowRecipe(("x",), rate_hz=10, length_s=0.5, stride_s=stride, max_gap_s=0.3)
    log = counting_log(np.round(np.cumsum([0.0, *steps]), 6))
    ticks = resample(log, 10, 0.3, ["x"])
    tick = np.round(ticks["time_s"].to_numpy() * 10).astype(int)
    expected, begin = [], 0
    for place in range(len(tick)):  # walk the clock as a person would
        if np.isnan(ticks["x"].iloc[place]) or (place and tick[place] != tick[place - 1] + 1):
            begin = place + (1 if np.isnan(ticks["x"].iloc[place]) else 0)
            if np.isnan(ticks["x"].iloc[place]):
                continue
        since = place - begin + 1 - 5
        starts = [int(np.floor(k * stride * 10 + 1e-6)) for k in range(1000 if since >= 0 else 0)]
        if since in starts:
            expected.append(ticks["time_s"].iloc[place - 4])
    np.testing.assert_allclose(recipe.windows(log).spans["start_s"], expected)


def test_a_window_may_begin_right_after_a_gap():
    time_s = np.concatenate((np.arange(7) / 10, 2.0 + np.arange(6) / 10))
    starts = RECIPE.windows(counting_log(time_s)).spans["start_s"]
    np.testing.assert_allclose(starts, [0.0, 0.2, 2.0])


def test_a_gap_in_one_signal_is_a_gap():
    frame = pd.DataFrame({"time_s": np.arange(20) / 10, "x": 1.0, "y": 2.0})
    frame.loc[8:12, "y"] = np.nan
    starts = RECIPE.windows(log_from_frame(frame, "drive")).spans["start_s"]
    np.testing.assert_allclose(starts, [0.0, 0.2, 1.3, 1.5])


def test_the_condition_holds_at_every_sample_and_its_signal_need_not_be_in_the_row():
    recipe = WindowRecipe(("x",), 1, length_s=3, stride_s=1, max_gap_s=1, where="speed > 2 and speed < 9")
    speed = [0, 3, 3, 3, 3, 1, 3, 3, 9, 3, 3, 3, np.nan, 3]
    frame = pd.DataFrame({"time_s": np.arange(14.0), "x": np.arange(14.0), "speed": speed})
    windows = recipe.windows(log_from_frame(frame, "drive"))
    assert windows.rows["x@0"].tolist() == [1.0, 2.0, 9.0]
    assert recipe.needed == ["x", "speed"]
    assert list(windows.rows) == ["x@0", "x@1", "x@2"]


def test_a_missing_value_under_the_condition_selects_nothing():
    recipe = WindowRecipe(("x",), 1, length_s=2, stride_s=1, max_gap_s=1, where="speed != 5")
    frame = pd.DataFrame({"time_s": np.arange(5.0), "x": 1.0, "speed": [1, 1, np.nan, 1, 1]})
    assert recipe.windows(log_from_frame(frame, "drive")).spans["start_s"].tolist() == [0.0, 3.0]


@pytest.mark.parametrize("samples", [0, 1, 4])
def test_a_recording_shorter_than_a_window_gives_no_rows_but_the_columns(samples):
    windows = RECIPE.windows(counting_log(np.arange(samples) / 10))
    assert windows.rows.shape == (0, 10)
    assert list(windows.rows) == RECIPE.columns
    assert (windows.rows.dtypes == np.float64).all()
    assert list(windows.spans) == ["recording", "start_s", "end_s"]


def test_windows_of_stacks_logs_and_files_and_joins_none(tmp_path):
    pd.DataFrame({"time_s": np.arange(6) / 10, "x": 1.0, "y": 2.0, "note": "text"}).to_csv(
        tmp_path / "second.csv", index=False
    )
    windows = read_windows([counting_log(np.arange(8) / 10, "first"), tmp_path / "second.csv"], RECIPE)
    assert windows.spans["recording"].tolist() == ["first", "first", "second"]
    assert windows.rows.index.tolist() == [0, 1, 2]
    assert len(read_windows(tmp_path / "second.csv", RECIPE)) == 1  # one file needs no list
    nothing = read_windows([], RECIPE)
    assert (list(nothing.rows), len(nothing)) == (RECIPE.columns, 0)


def test_two_recordings_of_one_name_are_refused():
    log = counting_log(np.arange(8) / 10)
    with pytest.raises(ValueError, match=r"Two recordings are named 'drive'.*read_log\(path, recording="):
        read_windows([log, log], RECIPE)


def test_windows_know_the_units_of_the_signals_that_they_need():
    recipe = WindowRecipe(("x",), 1, 2, 1, 1, where="speed > 1 and gear > 0")
    frame = pd.DataFrame({"time_s": [0.0, 1.0], "x": 1.0, "speed": 2.0, "gear": 3.0, "rpm": 800.0})
    log = log_from_frame(frame, "drive", units={"x": "g", "speed": "m/s", "rpm": "1/min"})
    assert recipe.windows(log).units == {"x": "g", "speed": "m/s"}
    assert read_windows(log, recipe).units == {"x": "g", "speed": "m/s"}
    assert read_windows([log_from_frame(frame, "other"), log], recipe).units == {"x": "g", "speed": "m/s"}
    assert Windows(frame, frame).units == {}


def test_recordings_that_disagree_on_a_unit_are_refused():
    recipe = WindowRecipe(("x",), 1, 2, 1, 1, where="speed > 1")
    frame = pd.DataFrame({"time_s": [0.0, 1.0], "x": 1.0, "speed": 2.0})
    logs = [
        log_from_frame(frame, name, units={"speed": unit}) for name, unit in [("a", "m/s"), ("-", ""), ("b", "km/h")]
    ]
    with pytest.raises(
        ValueError,
        match=r"^Signal 'speed' is in km/h in recording 'b', but in m/s in recording 'a'\. Convert it\.$",
    ):
        read_windows(logs, recipe)


def test_a_missing_signal_is_refused_with_the_nearest():
    recipe = WindowRecipe(("acc_x_g",), 1, 2, 1, 1, where="sped > 1")
    frame = pd.DataFrame({"time_s": [0.0, 1.0], "acc_x_g": 1.0, "speed": 2.0})
    with pytest.raises(ValueError, match=r"signal 'sped'.*Did you mean 'speed'"):
        recipe.windows(log_from_frame(frame, "drive"))


def test_a_stride_between_two_ticks_keeps_its_pace():
    recipe = WindowRecipe(("x",), rate_hz=5, length_s=2, stride_s=0.5, max_gap_s=0.5)
    starts = recipe.windows(counting_log(np.arange(21) / 5)).spans["start_s"]
    np.testing.assert_allclose(starts, [0.0, 0.4, 1.0, 1.4, 2.0])


GOOD = {"signals": ["x"], "rate_hz": 5, "length_s": 2, "stride_s": 1, "max_gap_s": 0.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strides_s": 1}, r"key 'strides_s'.*Did you mean 'stride_s'"),
        ({"signals": "x"}, r"signals='x' is not a list of names"),
        ({"signals": []}, r"needs one or more distinct names"),
        ({"signals": ["x", "x"]}, r"needs one or more distinct names"),
        ({"signals": [1]}, r"is not a list of names"),
        ({"rate_hz": "5"}, r"rate_hz='5' must be a positive number"),
        ({"rate_hz": True}, r"rate_hz=True must be a positive number"),
        ({"length_s": -2}, r"length_s=-2 must be a positive number"),
        ({"length_s": 0.5}, r"length_s=0\.5 is 2\.5 samples.*Use length_s=0\.4"),
        ({"length_s": 0.01}, r"Use length_s=0\.2"),
        ({"stride_s": 0.1}, r"stride_s=0\.1 is less than one sample at rate_hz=5.*Use stride_s=0\.2"),
        ({"max_gap_s": 0.1}, r"max_gap_s=0\.1 at rate_hz=5.* is less than 0\.2 s"),
        ({"where": "speed"}, r"where='speed' has 'speed', which is not a comparison"),
        ({"where": 2}, r"where=2 is not text"),
        ({"states": "x"}, r"states='x' is not a list of names"),
        ({"states": ["y"]}, r"states=\('y',\) has 'y', .* neither of the window nor of where\. Use one of 'x'"),
        ({"states": ["x"], "counts": ["x"]}, r"'x' is in states and in counts"),
        ({"antialias": 1}, r"antialias=1 must be true or false"),
        ({"missing": 1.0}, r"missing=1\.0 must be a share from 0 to below 1"),
        ({"missing": "0.1"}, r"missing='0\.1' must be a share"),
        ({"coefficients": 0}, r"coefficients=0 must be a whole number from 1 to 10, the samples of a window"),
        ({"coefficients": 11}, r"coefficients=11 must be a whole number from 1 to 10"),
        ({"coefficients": True}, r"coefficients=True must be a whole number"),
        ({"coefficients": 2.0}, r"coefficients=2\.0 must be a whole number"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        WindowRecipe.from_dict({**GOOD, **change})


def test_a_recipe_with_parts_missing_names_them():
    with pytest.raises(ValueError, match="lacks length_s, max_gap_s"):
        WindowRecipe.from_dict({"signals": ["x"], "rate_hz": 5, "stride_s": 1})


@pytest.mark.parametrize(
    "options",
    [
        {"where": "speed > 2"},
        {
            "states": ["gear"],
            "counts": ["fault"],
            "where": "gear > 0 and fault < 3",
            "antialias": False,
            "missing": 0.25,
        },
        {"coefficients": 3},
    ],
)
def test_a_recipe_survives_json(options):
    recipe = WindowRecipe(**GOOD, **options)
    again = WindowRecipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert again == recipe
    assert hash(again) == hash(recipe)
    assert {key: again.to_dict()[key] for key in options} == options


def test_a_recipe_of_before_averaging_means_what_it_meant():
    frame = pd.DataFrame({"time_s": np.arange(300) / 50, "x": np.random.default_rng(0).normal(size=300)})
    log = log_from_frame(frame, "drive")
    old, new = WindowRecipe.from_dict(GOOD), WindowRecipe(**GOOD)
    picked = frame["x"][::10].to_numpy()
    np.testing.assert_array_equal(old.windows(log).rows.iloc[0], picked[:10])
    assert np.abs(new.windows(log).rows.iloc[0]).sum() < 0.6 * np.abs(picked[:10]).sum()
    assert (old.to_dict()["antialias"], new.to_dict()["antialias"]) == (False, True)
    assert WindowRecipe.from_dict(new.to_dict()) == new


def test_states_and_counts_reach_the_windows_and_the_condition():
    signals = {
        "x": Signal("x", np.arange(8.0), np.arange(8.0)),
        "gear": Signal("gear", np.array([0.0, 3.0]), np.array([1.0, 2.0])),
        "fault": Signal("fault", np.array([1.5, 1.7, 6.0]), np.ones(3)),
    }
    recipe = WindowRecipe(("x", "fault"), 1, 2, 2, 1, where="gear > 1", states=("gear",), counts=("fault",))
    windows = recipe.windows(Log("drive", None, signals))
    assert windows.rows.to_numpy().tolist() == [[4.0, 5.0, 0.0, 0.0], [6.0, 7.0, 1.0, 0.0]]
    everything = WindowRecipe(("x", "fault"), 1, 2, 2, 1, counts=("fault",)).windows(Log("drive", None, signals))
    assert everything.rows["fault@0"].tolist() == [0.0, 2.0, 0.0, 1.0]


def gappy_log():
    """Half a second without y, a pause of everything, and y dead from then on."""
    time_s = np.concatenate((np.arange(20), 100 + np.arange(8))) / 10
    frame = pd.DataFrame({"time_s": time_s, "x": np.arange(28.0), "y": 1.0})
    frame.loc[8:12, "y"] = np.nan
    frame.loc[20:, "y"] = np.nan
    return log_from_frame(frame, "drive")


def test_a_share_of_cells_may_be_missing_and_is_missing_in_the_row():
    recipe = replace(RECIPE, missing=0.3)  # of 10 cells: 3
    windows = recipe.windows(gappy_log())
    lacking = windows.rows.isna().sum(axis=1)
    np.testing.assert_allclose(windows.spans["start_s"], [0.0, 0.2, 0.4, 0.6, 1.0, 1.2, 1.4])
    assert lacking.tolist() == [0, 0, 1, 3, 3, 1, 0]
    assert windows.rows.filter(like="x@").notna().all(axis=None)
    assert (len(RECIPE.windows(gappy_log())), len(replace(RECIPE, missing=0.5).windows(gappy_log()))) == (
        4,
        10,
    )


def test_no_window_crosses_a_pause_of_all_its_signals():
    time_s = np.concatenate((np.arange(7), 100 + np.arange(8))) / 10
    rows = pd.DataFrame({"time_s": time_s, "x": 1.0, "y": 2.0})
    cells = pd.DataFrame({"time_s": np.arange(15) / 10, "x": 1.0, "y": 2.0})
    cells.loc[7:8, ["x", "y"]] = np.nan  # rows with stamps, but empty
    recipe = replace(RECIPE, missing=0.9, max_gap_s=0.15)
    for frame, starts in [(rows, [0.0, 0.2, 10.0, 10.2]), (cells, [0.0, 0.2, 0.9])]:
        windows = recipe.windows(log_from_frame(frame, "drive"))
        np.testing.assert_allclose(windows.spans["start_s"], starts)
        assert windows.rows.notna().all(axis=None)


def test_a_long_recording_is_cut_in_one_piece():
    count = 400_000
    log = counting_log(np.arange(count) / 100)
    recipe = WindowRecipe(("x", "y"), rate_hz=100, length_s=1, stride_s=0.5, max_gap_s=0.1, where="x >= 100")
    windows = recipe.windows(log)
    assert windows.rows.shape == ((count - 100) // 50 + 1 - 200, 200)
    assert windows.spans["start_s"].iloc[0] == pytest.approx(100.0)
    assert windows.rows.to_numpy().base is not None  # the table is the array itself, not a copy of it


SHAPE = replace(RECIPE, length_s=1.0, coefficients=3)


def noisy_log(count=60, seed=0):
    x, y = np.random.default_rng(seed).normal(size=(2, count))
    return log_from_frame(pd.DataFrame({"time_s": np.arange(count) / 10, "x": x, "y": y}), "drive")


def test_coefficients_are_the_lowest_of_the_orthonormal_cosine_transform():
    plain, shape = replace(SHAPE, coefficients=None).windows(noisy_log()), SHAPE.windows(noisy_log())
    assert (list(shape.rows), SHAPE.input_shape) == ([f"{s}~{i}" for s in "xy" for i in range(3)], (2, 3))
    pd.testing.assert_frame_equal(shape.spans, plain.spans)
    samples = plain.rows.to_numpy().reshape(-1, 2, 10)
    expected = dct(samples, axis=2, norm="ortho")
    np.testing.assert_allclose(shape.rows, expected[:, :, :3].reshape(-1, 6), atol=1e-12)
    whole = replace(SHAPE, coefficients=10)
    np.testing.assert_allclose(whole.over_time(whole.windows(noisy_log()).rows.to_numpy()), samples, atol=1e-12)
    expected[:, :, 3:] = 0
    np.testing.assert_allclose(SHAPE.over_time(shape.rows.to_numpy()), idct(expected, axis=2, norm="ortho"), atol=1e-12)


@pytest.mark.parametrize("most", [1, 3, 1000])
def test_a_window_s_coefficients_are_the_same_bits_in_any_batch_and_piece(most):
    ticks, whole = SHAPE.ticks(noisy_log()), SHAPE.windows(noisy_log())
    pieces = [ticks[:13], ticks[13:14], ticks[14:47], ticks[47:]]
    batches = list(SHAPE.batches(pieces, "drive", {}, most))
    np.testing.assert_array_equal(np.vstack([batch.rows for batch in batches]), whole.rows)
    assert max(map(len, batches)) <= most


def test_a_signal_with_a_missing_cell_has_no_coefficients_and_leaves_the_others_theirs():
    recipe = replace(RECIPE, missing=0.3, coefficients=2)
    cells, rows = replace(recipe, coefficients=None).windows(gappy_log()).rows, recipe.windows(gappy_log()).rows
    assert rows.filter(like="x~").notna().all(axis=None)
    lacking = cells.filter(like="y@").isna().any(axis=1)
    assert 0 < lacking.sum() < len(rows)
    assert rows["y~0"].isna().equals(lacking)
    assert rows["y~1"].isna().equals(lacking)


def test_a_recipe_of_before_coefficients_has_none():
    old = {key: value for key, value in RECIPE.to_dict().items() if key != "coefficients"}
    assert WindowRecipe.from_dict(old) == RECIPE
    assert WindowRecipe.from_dict({**GOOD, "coefficients": np.int64(2)}).to_dict()["coefficients"] == 2


def test_a_model_of_coefficients_scores_files_and_gives_reasons(tmp_path):
    windows = SHAPE.windows(noisy_log(400, seed=1))
    model = VAEOutlierDetector(max_epochs=5, random_state=0).fit(windows.rows)
    save(model, tmp_path / "model", recipe=SHAPE.to_dict())
    frame = pd.DataFrame({"time_s": np.arange(60) / 10, **{s: noisy_log()[s].values for s in "xy"}})
    frame.loc[30:, "y"] += 9.0
    (tmp_path / "drives").mkdir()
    frame.to_csv(tmp_path / "drives" / "drive.csv", index=False)
    score_folder(tmp_path / "model", tmp_path / "drives", tmp_path / "scores")
    scores = pd.concat(map(pd.read_parquet, (tmp_path / "scores").glob("*.parquet")))
    found = SHAPE.windows(log_from_frame(frame, "drive"))
    np.testing.assert_allclose(scores["anomaly_score"], model.anomaly_score(found.rows), rtol=1e-4)

    reasons = Reasons(tmp_path / "model").explain(found.rows.to_numpy())
    assert reasons["signals"].iloc[-1][0] == "y"
    assert next(iter(reasons["outside"].iloc[-1])) == "y"
    view = window_view(model, SHAPE, found, len(found) - 1, 1.0, False, np.array([0.0, 1.0]))
    assert (view.reconstruction.shape, view.around.shape[0]) == ((2, 10), 2)
    assert view.around[1, -5:].mean() == pytest.approx(9, abs=1)
