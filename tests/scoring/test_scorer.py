"""The scorer takes rows in every form, gives what the detector gives, and says what it cannot take."""

import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pyarrow as pa
import pytest
from onnx import helper

from anomalyvae import Scorer, VAEOutlierDetector, export_onnx, load, save
from anomalyvae.bundle import read_card
from anomalyvae.scoring import scorer as module


def fit(rows):
    return VAEOutlierDetector(random_state=0, max_epochs=3, validation_fraction=0.3).fit(rows)


@pytest.fixture(scope="module")
def file(detector, tmp_path_factory):
    return export_onnx(
        detector, tmp_path_factory.mktemp("named") / "model.onnx", feature_scores=True, precision="double"
    )


@pytest.fixture(scope="module")
def scorer(file):
    return Scorer(file)


def mixed(n, seed):
    rng = np.random.default_rng(seed)
    road = rng.choice(["dry", "wet"], n)
    speed = np.where(road == "dry", 30.0, 20.0) + rng.normal(size=n)
    rows = pd.DataFrame({"road": road, "speed": speed, "gear": rng.integers(1, 5, n), "wipers": road == "wet"})
    return rows.astype({"gear": "category"})


@pytest.fixture(scope="module")
def mixed_detector():
    return fit(mixed(600, 0))


@pytest.fixture(scope="module")
def mixed_scorer(mixed_detector, tmp_path_factory):
    return Scorer(export_onnx(mixed_detector, tmp_path_factory.mktemp("mixed") / "model.onnx", precision="double"))


def test_it_gives_what_the_detector_gives(scorer, detector, fresh, strange):
    rows = pd.concat([fresh, strange])
    got = scorer.score(rows)
    assert list(got) == scorer.outputs == ["anomaly_score", "p_value", "is_outlier", "feature_scores"]
    np.testing.assert_allclose(got["anomaly_score"], detector.anomaly_score(rows), rtol=1e-9)
    for method in ("anomaly_score", "predict", "decision_function", "p_values", "feature_scores"):
        np.testing.assert_allclose(getattr(scorer, method)(rows), getattr(detector, method)(rows), rtol=1e-9, atol=1e-9)


FORMS = {
    "array": lambda x: x.to_numpy(),
    "list": lambda x: x.to_numpy().tolist(),
    "arrow": lambda x: pa.Table.from_pandas(x, preserve_index=False),
    "chunked arrow": lambda x: pa.concat_tables([pa.Table.from_pandas(x[:9]), pa.Table.from_pandas(x[9:])]),
    "record batch": lambda x: pa.RecordBatch.from_pandas(x, preserve_index=False),
    "dict": lambda x: {name: x[name].to_numpy() for name in x},
    "dict of lists": lambda x: {name: x[name].tolist() for name in x},
    "nullable": lambda x: x.convert_dtypes(),
    "objects": lambda x: x.astype(object).where(x.notna(), None),
    "array of objects": lambda x: x.astype(object).where(x.notna(), None).to_numpy(),
    "array of numbers and text": lambda x: np.where(x.isna(), pd.NA, x.astype(str)),
    "list with None": lambda x: x.astype(object).where(x.notna(), None).to_numpy().tolist(),
    "another order": lambda x: x[x.columns[::-1]],
    "another index": lambda x: x.set_axis(np.arange(len(x)) / 2 - 7),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_rows(form, scorer, detector, fresh):
    rows = fresh.mask(np.random.default_rng(0).random(fresh.shape) < 0.1)
    np.testing.assert_allclose(scorer.anomaly_score(FORMS[form](rows)), detector.anomaly_score(rows), rtol=1e-9)


@pytest.mark.parametrize("form", ["arrow", "chunked arrow", "dict of lists", "objects", "another order", "plain text"])
def test_every_form_of_categories(form, mixed_scorer, mixed_detector):
    rows = mixed(100, 1)
    rows["gear"] = rows["gear"].cat.rename_categories(str)
    rows["wipers"] = rows["wipers"].astype(object)
    rows.loc[::3, "road"] = rows.loc[1::4, "gear"] = rows.loc[2::5, "wipers"] = None
    rows.loc[4::9, "road"] = "lava"
    forms = FORMS | {"plain text": lambda x: x.astype({"gear": "str"})}
    np.testing.assert_allclose(
        mixed_scorer.anomaly_score(forms[form](rows)), mixed_detector.anomaly_score(rows), rtol=1e-9
    )


def test_categories_that_are_no_text(mixed_scorer, mixed_detector):
    rows = mixed(50, 2)
    rows.loc[::3, "gear"] = None
    np.testing.assert_allclose(mixed_scorer.anomaly_score(rows), mixed_detector.anomaly_score(rows), rtol=1e-9)
    gone = rows.assign(road=np.nan, wipers=None)
    np.testing.assert_allclose(mixed_scorer.anomaly_score(gone), mixed_detector.anomaly_score(gone), rtol=1e-9)


def test_a_model_without_names(normal, fresh, tmp_path):
    detector = fit(normal.to_numpy())
    scorer = Scorer(export_onnx(detector, tmp_path / "m.onnx", precision="double"))
    expected = detector.anomaly_score(fresh.to_numpy())
    np.testing.assert_allclose(scorer.anomaly_score(fresh.to_numpy()), expected, rtol=1e-9)
    np.testing.assert_allclose(scorer.anomaly_score(fresh), expected, rtol=1e-9)
    with pytest.raises(ValueError, match=r"Got 5 columns, expected 6\. Pass the columns of the training rows"):
        scorer.predict(fresh.iloc[:, :5])


@pytest.mark.parametrize("threads", [None, 1])
def test_a_row_scores_the_same_in_any_company(file, fresh, threads, monkeypatch):
    scorer = Scorer(file, threads=threads)
    rows = np.tile(fresh.to_numpy(), (12, 1))
    whole = scorer.score(rows)
    monkeypatch.setattr(module, "_BATCH", 1500)  # batches and blocks that do not divide the rows
    again = scorer.score(pd.DataFrame(rows, columns=fresh.columns))
    for name in whole:
        assert len(again[name]) == len(rows)
        np.testing.assert_allclose(again[name], whole[name], rtol=1e-12, atol=1e-12)
    one_by_one = [float(scorer.anomaly_score(rows[[i]])[0]) for i in range(5)]
    np.testing.assert_allclose(one_by_one, whole["anomaly_score"][:5], rtol=1e-12)


def test_blocks_are_bounded(scorer, fresh, monkeypatch):
    seen, session = [], scorer._session

    class Watching:
        def run(self, outputs, feeds):
            seen.append(len(feeds["rows"]))
            return session.run(outputs, feeds)

    monkeypatch.setattr(scorer, "_session", Watching())
    scorer.predict(np.tile(fresh.to_numpy(), (200, 1)))
    assert sum(seen) == 80_000
    assert max(seen) <= 1024


@pytest.mark.parametrize("rows", [np.empty((0, 6)), "frame"])
def test_no_rows(scorer, fresh, rows):
    got = scorer.score(fresh[:0] if isinstance(rows, str) else rows)
    assert {name: len(values) for name, values in got.items()} == dict.fromkeys(scorer.outputs, 0)
    assert got["is_outlier"].dtype == bool


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.to_numpy()[0], r"rows of shape \(6,\), expected \(n, 6\)\. Pass a 2-D array"),
        (lambda x: x.to_numpy()[:, :5], r"rows of shape \(400, 5\), expected \(n, 6\)"),
        (lambda x: x.to_numpy().astype(str), r"rows of dtype <U\d+, expected numbers\. Convert"),
        (lambda x: np.array([[1.0] * 5 + [np.timedelta64(5, "s")]], dtype=object), "rows of dtype timedelta64"),
        (lambda x: np.array([[1.0] * 5 + [2j]], dtype=object), "rows of dtype complex128, expected numbers"),
        (
            lambda x: np.array([[1.0] * 5 + [np.complex64(2j)]], dtype=object),
            "rows of dtype complex64, expected numbers",
        ),
        (lambda x: x.drop(columns="signal 3"), r"The table lacks 'signal 3', expected the 6 columns.*Rename"),
        (lambda x: x.assign(time=0.0), r"The table has also 'time', expected"),
        (lambda x: x.rename(columns={"signal 1": "speed"}), r"lacks 'signal 1' and has also 'speed'"),
        (lambda x: x.assign(**{"signal 1": "fast"}), r"'signal 1' is of type str, expected numbers\. Convert"),
        (lambda x: x.assign(**{"signal 1": True}), r"'signal 1' is of type bool, expected numbers"),
        (lambda x: x.assign(**{"signal 1": 1 + 2j}), r"'signal 1' is of type complex128, expected numbers"),
        (lambda x: x.assign(**{"signal 1": pd.Timestamp(0)}), r"'signal 1' is of type datetime64.*, expected numbers"),
        (lambda x: x.assign(**{"signal 1": pd.Timedelta("1s")}), r"'signal 1' is of type timedelta64.*, expected numb"),
        (lambda x: x.assign(**{"signal 1": np.inf}), r"infinite cells in 'signal 1'\. Replace them"),
        (lambda x: np.full((2, 6), -np.inf), r"infinite cells in 'signal 0', .* and 1 more"),
        (
            lambda x: {"signal 0": [1.0], "signal 1": [1.0, 2.0]},
            r"different lengths: .*Pass columns of",
        ),
    ],
)
def test_rows_that_are_refused(scorer, fresh, change, message):
    with pytest.raises(ValueError, match=message):
        scorer.score(change(fresh))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x: x.to_numpy(),
            r"rows of type ndarray, expected a table: the columns 'road', 'gear', 'wipers' are",
        ),
        (lambda x: x.assign(road=1.0), r"'road' is of type float64, expected text\. Convert"),
        (lambda x: x.assign(wipers="on"), r"'wipers' is of type str, expected booleans"),
        (lambda x: x.assign(wipers=1), r"'wipers' is of type int64, expected booleans"),
        (lambda x: x.assign(speed=np.inf), r"infinite cells in 'speed'"),
    ],
)
def test_categories_that_are_refused(mixed_scorer, change, message):
    with pytest.raises(ValueError, match=message):
        mixed_scorer.score(change(mixed(9, 0)))


# The file


def test_what_is_no_file_of_ours(file, tmp_path, write):
    with pytest.raises(FileNotFoundError, match=r"does not exist\. Pass the folder of a fitted model"):
        Scorer(tmp_path / "none.onnx")
    text = write("scores", "text.onnx")
    with pytest.raises(ValueError, match=r"onnxruntime cannot read .*text\.onnx\. Export the model again"):
        Scorer(text)
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"cut\.onnx\. Export the model again"):
        Scorer(cut)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: None, r"does not describe a model of anomalyvae\. Pass one"),
        (lambda m: "{", r"does not describe a model"),
        (lambda m: "[]", r"does not describe a model"),
        (lambda m: m | {"format": "one"}, r"does not describe a model"),
        (lambda m: m | {"format": 4}, r"is of format 4, expected 3\. Update anomalyvae\."),
        (lambda m: m | {"format": 1}, r"of format 1, expected 3\. Export the model again\."),
        (lambda m: {"format": 3}, r"description in .*changed\.onnx is incomplete\. Export the model again"),
    ],
)
def test_another_description(file, tmp_path, change, message):
    model = onnx.load(file)
    changed = change(json.loads(model.metadata_props[0].value))
    del model.metadata_props[:]
    if changed is not None:
        helper.set_model_props(model, {"anomalyvae": changed if isinstance(changed, str) else json.dumps(changed)})
    onnx.save(model, tmp_path / "changed.onnx")
    with pytest.raises(ValueError, match=message):
        Scorer(tmp_path / "changed.onnx")


def test_a_bundle_is_as_good_as_its_file(detector, fresh, tmp_path):
    folder = save(detector, tmp_path / "bundle", precision="double")
    scorer = Scorer(folder)
    np.testing.assert_allclose(scorer.anomaly_score(fresh), detector.anomaly_score(fresh), rtol=1e-9)
    assert scorer.metadata["model_id"] == read_card(folder)["model_id"]
    assert scorer.outputs == ["anomaly_score", "p_value", "is_outlier", "feature_scores"]
    with (folder / "model.onnx").open("ab") as graph:
        graph.write(b"more")
    with pytest.raises(ValueError, match=r"model\.onnx is missing or not the file that the card describes"):
        Scorer(folder)


def test_a_bundle_without_a_graph_says_how_to_score(detector, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise TypeError("Got a network with Tanh.")

    monkeypatch.setattr("anomalyvae.export.write_onnx", refuse)
    with pytest.warns(UserWarning, match=r"has no ONNX file\. Got a network with Tanh"):
        folder = save(detector, tmp_path / "bundle")
    load(folder)
    with pytest.raises(ValueError, match=r"has no ONNX file\. Score with load"):
        Scorer(folder)


def test_outputs_are_chosen_by_name(scorer, fresh):
    assert list(scorer.score(fresh, "p_value")) == ["p_value"]
    with pytest.raises(
        ValueError, match=r"Got 'p_valu' among the outputs, which the file lacks\. Did you mean 'p_value'"
    ):
        scorer.score(fresh, ["p_valu"])


def test_feature_scores_that_were_not_exported(mixed_scorer):
    with pytest.raises(ValueError, match=r"has no feature scores\. .*feature_scores=True \(--feature-scores\)"):
        mixed_scorer.feature_scores(mixed(3, 0))


def test_where_it_runs(file, monkeypatch):
    assert "CPUExecutionProvider" in repr(Scorer(file, providers=["CPUExecutionProvider"]))
    with pytest.raises(ValueError, match=r"lacks the providers 'Abacus'; it has .*'CPUExecutionProvider'.*Install"):
        Scorer(file, providers=["Abacus"])
    with pytest.raises(ValueError, match=r"Got providers='cpu', expected 'auto' or a list"):
        Scorer(file, providers="cpu")
    with pytest.raises(ValueError, match=r"Got threads=0, expected at least 1"):
        Scorer(file, threads=0)


def test_cuda_that_cannot_be_used_is_reported_once(file, fresh, monkeypatch):
    start = onnxruntime.InferenceSession

    def without_a_device(*arguments, providers, **options):
        if providers[0] == "CUDAExecutionProvider":
            raise RuntimeError("no device")
        return start(*arguments, providers=providers, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", without_a_device)
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    with pytest.warns(UserWarning, match="no CUDA device that it can use. Scoring runs on the CPU") as caught:
        scorer = Scorer(file)
    assert len(caught) == 1
    assert len(scorer.predict(fresh)) == len(fresh)


def test_its_process_imports_no_more_than_it_needs(file, fresh, tmp_path):
    np.save(tmp_path / "rows.npy", fresh.to_numpy())
    script = (
        "import sys, numpy; from anomalyvae import Scorer\n"
        f"print(Scorer({str(file)!r}).predict(numpy.load({str(tmp_path / 'rows.npy')!r})).sum())\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    total, modules = result.stdout.splitlines()
    assert int(total) == Scorer(file).predict(fresh).sum()
    assert not set(modules.split()) & {"torch", "sklearn", "scipy", "pandas", "pyarrow", "mlflow", "onnx", "skl2onnx"}
