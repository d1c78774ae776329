"""There is one way to train: a model can be fitted again from its bundle, whoever made it."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from fault_injection import Faults, inject_faults
from loop_simulation import Simulation, simulate_loop

from anomalyvae import VAEOutlierDetector, WindowRecipe, load, read_windows
from anomalyvae.bundle import read_card, read_manifest
from anomalyvae.calibration import caution_of
from anomalyvae.cli import main
from anomalyvae.evaluate import read_job, run_job
from anomalyvae.nets.window_views import WindowViews
from anomalyvae.review import retrain
from anomalyvae.review.retraining import refits
from anomalyvae.train import TrainingSet, groups_of, train, unfitted

JOB = """
[data]
recordings = "{drives}/*.csv"
events = "{drives}/events.csv"
[windows]
signals = ["x", "y"]
rate_hz = 5
length_s = 1.0
stride_s = 0.6
max_gap_s = 0.5
[detector]
random_state = 7
max_epochs = 4
hidden = [8]
criterion = "elbo"
[health]
range.y = [-3.5, 3.5]
drift = false
[output]
folder = "{out}"
"""
RECIPE = WindowRecipe(("x", "y"), rate_hz=5, length_s=1.0, stride_s=0.6, max_gap_s=0.5)
DETECTOR = VAEOutlierDetector(random_state=7, max_epochs=4, hidden=(8,), criterion="elbo")


@pytest.fixture(scope="module")
def drives(tmp_path_factory):
    """Five drives, one much shorter than the others; each has an event."""
    folder = tmp_path_factory.mktemp("drives")
    marks = []
    for number, seconds in enumerate((60, 90, 8, 70, 80)):
        rng = np.random.default_rng(number)
        time_s = np.arange(0, seconds, 0.2)
        x, y = rng.normal(size=(2, len(time_s)))
        x[20:25] += 8.0
        pd.DataFrame({"time_s": time_s, "x": x, "y": y}).to_csv(folder / f"d{number}.csv", index=False)
        marks.append((f"d{number}", 4.4))
    pd.DataFrame(marks, columns=["recording", "time_s"]).to_csv(folder / "events.csv", index=False)
    return folder


def files(drives, count=5):
    return [drives / f"d{number}.csv" for number in range(count)]


def job_file(drives, out, *more):
    path = out.with_suffix(".toml")
    text = JOB.format(drives=drives, out=out).replace("/*.csv", "/d*.csv")
    path.write_text("\n".join([text, *more]), encoding="utf-8")
    return path


def by_fit(drives, out):
    named = [str(file) for file in files(drives)]
    assert main(["fit", *named, "--recipe", str(job_file(drives, out)), "--model", str(out), "--quiet"]) == 0
    return out


def by_run(drives, out):
    run_job(read_job(job_file(drives, out)))
    return out / "model"


def by_run_without_one(drives, out):
    run_job(read_job(job_file(drives, out)))
    return out / "folds" / "d1"


def by_retrain(drives, out):
    train(files(drives, 3), RECIPE, DETECTOR, out.with_name("champion"), ranges={"y": (-3.5, 3.5)})
    verdicts = [("d3", 4.0, 5.0, "fault"), ("d4", 20.0, 30.0, "new_normal"), ("d1", 30.0, 40.0, "noise")]
    events = pd.DataFrame(verdicts, columns=["recording", "start_s", "end_s", "verdict"])
    events = events.assign(event_id=events["recording"], source=str(drives), file=events["recording"] + ".csv")
    retrain(events, out.with_name("champion"), out)
    return out


def by_the_simulated_loop(drives, out):
    parts = '[simulation]\nlearn = ["d0", "d1"]\nmeet = ["d3"]\nholdout = ["d4"]\nbudget = 3'
    simulate_loop(read_job(job_file(drives, out, parts), {"simulation": Simulation}))
    return out / "round1" / "as-reviewed"


def by_fault_injection(drives, out):
    parts = '[faults]\nholdout = "d4"\nmoving = "x"\nrounds = 1'
    inject_faults(read_job(job_file(drives, out, parts), {"faults": Faults}))
    return out / "model"


@pytest.mark.parametrize(
    "made",
    [by_fit, by_run, by_run_without_one, by_retrain, by_the_simulated_loop, by_fault_injection],
    ids=lambda made: made.__name__,
)
def test_a_model_fitted_again_with_its_own_seed_is_the_same_model(made, drives, tmp_path):
    bundle = made(drives, tmp_path / "out")
    champion, data = load(bundle), TrainingSet.of_bundle(bundle)
    again = train(data, data.recipe, unfitted(bundle))
    assert again.offset_ == champion.offset_
    np.testing.assert_array_equal(again.calibration_.scores, champion.calibration_.scores)
    np.testing.assert_array_equal(again.calibration_.weight, champion.calibration_.weight)
    np.testing.assert_array_equal(again.anomaly_score(data.rows), champion.anomaly_score(data.rows))
    assert again.training_["sha256"] == champion.training_["sha256"]


def test_refits_hold_out_by_the_same_rule_and_differ_by_their_seeds_alone(drives, tmp_path):
    bundle = by_fit(drives, tmp_path / "out")
    champion = load(bundle)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what the champion's own fit has said is not said again
        others = list(refits(bundle, 2))
    assert len({model.offset_ for model in (champion, *others)}) == 3
    for other in others:
        assert other.calibration_.evidence == pytest.approx(champion.calibration_.evidence)
        assert other.training_["sha256"] == champion.training_["sha256"]
        parameters = other.get_params() | {"random_state": 7}
        assert {k: v for k, v in parameters.items() if k != "verbose"} == {
            k: v for k, v in champion.get_params().items() if k != "verbose"
        }


def test_a_retrained_model_keeps_ranges_and_health_of_its_champion(drives, tmp_path):
    bundle = by_retrain(drives, tmp_path / "out")
    assert read_card(bundle)["training"]["ranges"] == {"y": [-3.5, 3.5]}
    assert read_card(bundle)["health"]["levels"]["y"]["above"][1:] == [3.5, 3.5]


def test_coefficients_are_learned_with_the_bits_that_are_scored(drives):
    recipe = replace(RECIPE, coefficients=3)
    data = TrainingSet.of_files(files(drives), recipe)
    np.testing.assert_array_equal(data.rows, read_windows(files(drives), recipe).rows)


def test_the_order_of_files_does_not_matter(drives):
    one = train(files(drives), RECIPE, DETECTOR)
    other = train(files(drives)[::-1], RECIPE, DETECTOR)
    assert one.offset_ == other.offset_


def test_a_copy_of_a_recording_is_learned_once(drives, tmp_path):
    copy = tmp_path / "copy.csv"
    copy.write_bytes((drives / "d0.csv").read_bytes())
    with pytest.warns(UserWarning, match="d0 are copies of others|copy are copies of others"):
        data = TrainingSet.of_files([*files(drives), copy], RECIPE)
    assert len(data.rows) == len(TrainingSet.of_files(files(drives), RECIPE).rows)


def test_known_events_are_not_learned_and_the_manifest_says_so(drives, tmp_path):
    events = pd.read_csv(drives / "events.csv")
    train(files(drives), RECIPE, DETECTOR, tmp_path / "model", events=events, tolerance_s=0.5)
    manifest = read_manifest(tmp_path / "model")
    assert manifest["role"].value_counts().to_dict() == {"normal": 5, "excluded": 5}
    data = TrainingSet.of_bundle(tmp_path / "model")
    assert data.rows[data.role == "normal"].to_numpy().max() < 6  # the event adds 8
    assert read_card(tmp_path / "model")["training"]["rows"] == (data.role == "normal").sum()


def test_nothing_normal_to_learn_is_refused(drives):
    events = pd.DataFrame({"recording": [f"d{n}" for n in range(5)], "start_s": 0.0, "end_s": 1e3})
    with pytest.raises(ValueError, match="No normal window is left to learn from"):
        train(files(drives), RECIPE, DETECTOR, events=events)


@pytest.fixture(scope="module")
def drives_of_one_sensor(tmp_path_factory):
    """Four drives; the first alone has a value of z. Elsewhere its cells are empty, or far out of its range."""
    folder = tmp_path_factory.mktemp("sensor")
    for number in range(4):
        x, y, z = np.random.default_rng(number).normal(size=(3, 300))
        frame = pd.DataFrame({"time_s": np.arange(300) * 0.2, "x": x, "y": y, "empty": z, "out": z})
        if number:
            frame = frame.assign(empty=np.nan, out=900.0)
        frame.to_csv(folder / f"d{number}.csv", index=False)
    return folder


@pytest.mark.parametrize("coefficients", [None, 3])
@pytest.mark.parametrize(("signal", "missing"), [("empty", 0.9), ("out", 0.0)])
def test_a_signal_of_one_recording_is_learned_and_the_recordings_are_not_compared(
    drives_of_one_sensor, tmp_path, signal, missing, coefficients
):
    recipe = replace(RECIPE, signals=("x", "y", signal), missing=missing, coefficients=coefficients)
    ranges = {"out": (-9, 9)} if signal == "out" else None
    said = f"Without 'd0', 'd3', no normal window has values of '{signal}'"
    with pytest.warns(UserWarning, match=said):
        model = train(files(drives_of_one_sensor, 4), recipe, DETECTOR, tmp_path / "model", ranges=ranges)
    assert read_card(tmp_path / "model").get("fleet") is None
    data = TrainingSet.of_bundle(tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").anomaly_score(data.rows), model.anomaly_score(data.rows))


def test_a_signal_that_no_window_has_within_its_range_is_named(drives):
    with pytest.raises(ValueError, match=r"No normal window of 'd0', .* has values of 'y'.* correct its range"):
        train(files(drives), RECIPE, DETECTOR, ranges={"y": (90, 99)})


def test_a_job_names_a_signal_of_one_recording_before_any_fit(drives_of_one_sensor, tmp_path, monkeypatch):
    text = JOB.format(drives=drives_of_one_sensor, out=tmp_path / "out").replace('"y"', '"out"')
    text = "\n".join(line for line in text.splitlines() if "events" not in line)
    (tmp_path / "job.toml").write_text(text.replace("range.y", "range.out"))
    monkeypatch.setattr(TrainingSet, "fit", lambda *_: pytest.fail("a fit had begun"))
    with pytest.raises(ValueError, match="No normal window of 'd1', 'd2', 'd3' has values of 'out'"):
        run_job(read_job(tmp_path / "job.toml"))


def test_recordings_without_a_window_are_named(drives_of_one_sensor, tmp_path):
    recipe = replace(RECIPE, signals=("x", "empty"))
    with pytest.warns(UserWarning, match=r"Not learned: d1 \(It has no window: it has no value of 'empty'\), d2"):
        train(files(drives_of_one_sensor, 4), recipe, DETECTOR)
    text = JOB.format(drives=drives_of_one_sensor, out=tmp_path / "out").replace('"y"', '"empty"')
    text = "\n".join(line for line in text.splitlines() if "events" not in line and "range" not in line)
    (tmp_path / "job.toml").write_text(text)
    with pytest.raises(ValueError, match=r"Only one recording has windows \(d0\).* Not used: d1 \(It has no window"):
        run_job(read_job(tmp_path / "job.toml"))


def test_recordings_are_compared_by_fits_with_the_views_of_the_model(drives, monkeypatch):
    """The fits that leave recordings out hold out no window, from which the unit of residuals comes."""
    data, lines = TrainingSet.of_files(sorted(drives.glob("d*.csv")), RECIPE), []
    tally = TrainingSet._tally
    monkeypatch.setattr(
        TrainingSet,
        "_tally",
        lambda self, model, *a: lines.append(model.network_.memorised.lines) or tally(self, model, *a),
    )
    model = data.fit(VAEOutlierDetector(random_state=0, max_epochs=2, hidden=(8,)))
    data.fleet(model)
    residual = WindowViews.names.index("residual")
    own = model.network_.memorised.lines[residual]
    assert own[0] > 0
    assert len(lines) > 5
    assert all((of_fit[residual] == own).all() for of_fit in lines)


def test_parts_of_one_recording_are_not_called_recordings(drives, tmp_path):
    unit = "9 stretches of recordings can show no p-value below 0.1"
    said = f"{unit}, so 5% false alarms in new recordings are .* takes 19 recordings that are held out"
    with pytest.warns(UserWarning, match=said) as warned:
        train(files(drives)[:1], RECIPE, DETECTOR, tmp_path / "model")
    assert len([one for one in warned if "can show no p-value" in str(one.message)]) == 1
    assert caution_of(read_card(tmp_path / "model")).startswith(unit)


def test_windows_are_held_out_by_recordings_of_similar_size_and_by_stretches_otherwise():
    alike = pd.DataFrame({"recording": np.repeat(["a", "b", "c"], [50, 40, 60])})
    assert groups_of(alike).tolist() == pd.factorize(alike["recording"])[0].tolist()
    unlike = pd.DataFrame({"recording": np.repeat(["a", "b", "c", "d"], [180, 3, 2, 115])})
    groups = pd.Series(groups_of(unlike))
    sizes = groups.value_counts()
    assert len(sizes) == 9
    assert sizes.max() <= 2 * 300 / 9
    assert sizes.min() >= 10
    assert groups[180:183].nunique() == groups[183:185].nunique() == 1
    assert groups.is_monotonic_increasing
    many = pd.DataFrame({"recording": np.repeat([f"r{number:02}" for number in range(24)], [300] * 4 + [15] * 20)})
    assert groups_of(many).tolist() == pd.factorize(many["recording"])[0].tolist()
    one_long = pd.DataFrame({"recording": np.repeat([f"r{number:02}" for number in range(24)], [900] + [15] * 23)})
    assert len(np.unique(groups_of(one_long))) == 9  # so few that it is said
