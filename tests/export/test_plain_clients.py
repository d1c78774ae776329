"""A client with a runtime and the file alone, in any language, finds out how to call it, and gets the right scores."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16
from pipeline_tables import detector as quick
from pipeline_tables import drives, one_hot
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline

from anomalyvae import Scorer, WindowRecipe, export_onnx, save

PAGE = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
[NODE] = re.findall(r"```js\n(.*?)```", PAGE, re.DOTALL)
ROWS = pd.DataFrame(
    {"rpm": [1e3, 1e3, 2e3], "bar": [2.0, 6.0, 4.0], "valve": ["shut", "shut", None], "alarm": False}
)  # of the page
EACH = ["anomaly_score", "p_value", "is_outlier"]


@pytest.fixture(scope="module")
def pump(tmp_path_factory):
    """The folder in which the first snippet of the page has run, and its names."""
    folder, names = tmp_path_factory.mktemp("pump"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(PYTHON[0], names)  # noqa: S102
    return folder, names


def raw(file, **columns):
    """Scores from onnxruntime, of columns as any language has them."""
    session = onnxruntime.InferenceSession(file)
    feeds = {
        name: np.array(cells, dtype=object if any(isinstance(cell, str) for cell in cells) else float)[:, None]
        for name, cells in columns.items()
    }
    return session.run(["anomaly_score"], feeds)[0]


# The pages


def test_the_page_runs_with_onnxruntime_alone(pump):
    folder, names = pump
    alone = "import sys\nfor name in ('anomalyvae', 'torch', 'sklearn', 'pandas'):\n    sys.modules[name] = None\n"
    code = f"{alone}{PYTHON[1]}\nprint(score.tolist())"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    *described, outliers, scores = done.stdout.splitlines()
    assert outliers == str(names["detector"].predict(ROWS) == -1) == "[False  True False]"
    np.testing.assert_allclose(json.loads(scores), names["detector"].anomaly_score(ROWS), rtol=1e-4)
    assert described == onnxruntime.InferenceSession(folder / "pump.onnx").get_modelmeta().description.splitlines()


def test_the_page_names_the_types_that_the_file_has(pump):
    session = onnxruntime.InferenceSession(pump[0] / "pump.onnx")
    found = {put.name: (put.type, put.shape) for put in [*session.get_inputs(), *session.get_outputs()]}
    assert found == {
        "rpm": ("tensor(double)", ["n", 1]),
        "bar": ("tensor(double)", ["n", 1]),
        "valve": ("tensor(string)", ["n", 1]),
        "alarm": ("tensor(double)", ["n", 1]),
        "anomaly_score": ("tensor(double)", ["n"]),
        "p_value": ("tensor(double)", ["n"]),
        "is_outlier": ("tensor(bool)", ["n"]),
    }
    table = dict(re.findall(r"^\| (.+?) \| ([a-z]+), `", PAGE, re.MULTILINE))
    assert table == {
        "input `rows`": "double", "of numbers": "double", "of booleans": "double", "of text": "string",
        "output `anomaly_score`": "double", "output `p_value`": "double", "output `is_outlier`": "bool",
        "output `feature_scores`": "double",
    }  # fmt: skip


def test_the_page_runs_in_node(pump):
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node")
    if subprocess.run([node, "-e", 'require("onnxruntime-node")'], capture_output=True, check=False).returncode:
        pytest.skip("node has no onnxruntime-node (npm install onnxruntime-node, and NODE_PATH)")
    done = subprocess.run([node, "-e", NODE], cwd=pump[0], capture_output=True, text=True, check=True, env=os.environ)
    found = json.loads(done.stdout)
    np.testing.assert_allclose(found["score"], pump[1]["detector"].anomaly_score(ROWS), rtol=1e-4)
    assert found["outlier"] == [0, 1, 0]


# What the file says


def test_every_input_and_output_is_described_and_every_node_has_a_name(pump):
    proto = onnx.load(pump[0] / "models" / "pump" / "model.onnx")
    puts = [*proto.graph.input, *proto.graph.output]
    assert [put.name for put in puts] == ["rpm", "bar", "valve", "alarm", *EACH, "feature_scores"]
    for put in puts:
        assert f"{put.name!r}: {put.doc_string}" in proto.doc_string
    about = Scorer(pump[0] / "pump.onnx").metadata["about"]
    assert about["inputs"]["valve"] == (
        'Text of shape (n, 1): "open", "shut". Any other text is an unknown one, not an error. '
        'Where a cell is missing: "" or "<missing>".'
    )
    assert "1 for true, 0 for false, NaN where a cell is missing" in about["inputs"]["alarm"]
    names = [node.name for node in proto.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)


def test_every_value_has_a_type(pump):
    graph = onnx.load(pump[0] / "pump.onnx").graph
    typed = {value.name for value in (*graph.value_info, *graph.output)}
    assert {name for node in graph.node for name in node.output} <= typed


@pytest.mark.parametrize("kind", ["table", "rows", "windows", "elbo"])
def test_half_precision_and_int8_tools_take_the_file(kind, pump, normal, tmp_path):
    """The tools give nodes names of their own, and change a weight wherever it is used."""
    file, feeds = pump[0] / "pump.onnx", pump[1]["table"]
    if kind == "table":
        rows = feeds.assign(valve=feeds["valve"].fillna(""), alarm=feeds["alarm"].astype(float))
        feeds = {name: cells.to_numpy()[:, None] for name, cells in rows.items()}
    else:
        settings = {"criterion": "elbo"} if kind == "elbo" else {"input_shape": (2, 3)} if kind == "windows" else {}
        file = export_onnx(quick(**settings).fit(normal.to_numpy()), tmp_path / "model.onnx")
        feeds = {"rows": normal.to_numpy(np.float64)}
    score = onnxruntime.InferenceSession(file).run(["anomaly_score"], feeds)[0]
    half = convert_float_to_float16(onnx.load(file), keep_io_types=True)
    found = onnxruntime.InferenceSession(half.SerializeToString()).run(["anomaly_score"], feeds)[0]
    np.testing.assert_allclose(found, score, atol=0.1)
    quantize_dynamic(file, tmp_path / "int8.onnx")
    found = onnxruntime.InferenceSession(tmp_path / "int8.onnx").run(["anomaly_score"], feeds)[0]
    assert np.corrcoef(found, score)[0, 1] > 0.99


def test_a_file_of_windows_says_how_they_are_cut(normal, tmp_path):
    recipe = WindowRecipe(("speed", "yaw"), rate_hz=2, length_s=1.5, stride_s=0.5, max_gap_s=1)
    rows = pd.DataFrame(normal.to_numpy(), columns=recipe.columns)
    save(quick().fit(rows), tmp_path / "m", recipe=recipe.to_dict(), units={"speed": "km/h"})
    text = onnxruntime.InferenceSession(tmp_path / "m" / "model.onnx").get_modelmeta().description
    assert "A row is a window of 1.5 s at 2 Hz, a new one every 0.5 s: signal by signal, 3 samples each" in text
    assert "of speed [km/h], yaw." in text
    assert json.dumps(recipe.to_dict()) in text


def test_units_and_the_order_of_columns_are_told(normal, tmp_path):
    save(quick().fit(normal), tmp_path / "m", units={"signal 1": "bar"})
    text = onnxruntime.InferenceSession(tmp_path / "m" / "model.onnx").get_modelmeta().description
    assert "input 'rows': float64 of shape (n, 6)" in text
    assert "in this order: signal 0, signal 1 [bar], signal 2, signal 3, signal 4, signal 5." in text


# An empty text


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    x = rng.normal(size=300)
    road = np.where(x > 0, "dry", "wet").astype(object)
    road[::9] = None
    return pd.DataFrame({"x": x, "road": road, "note": np.where(x > 0.5, "", "seen")})


def test_an_empty_text_is_missing_unless_it_was_a_trained_level(rows, tmp_path):
    model = quick().fit(rows)
    file = export_onnx(model, tmp_path / "m.onnx", precision="double")
    asked = pd.DataFrame({"x": 0.3, "road": ["dry", "", None, "ice"] * 2, "note": ["seen"] * 4 + [""] * 4})
    expected = model.anomaly_score(asked)
    assert expected[1] == expected[2] != expected[3]  # the detector itself
    assert (expected[:4] != expected[4:]).all()
    missing = asked.assign(road=asked["road"].fillna("<missing>"))
    for text in (missing, missing.replace({"road": {"<missing>": ""}})):
        np.testing.assert_allclose(raw(file, **text.to_dict("list")), expected, rtol=1e-9)
    np.testing.assert_allclose(Scorer(file).anomaly_score(asked), expected, rtol=1e-9)
    assert Scorer(file).metadata["missing_text"] == {"road": ["<missing>", ""], "note": ["<missing>"]}


def test_an_empty_text_is_a_new_gap_where_training_had_none(rows, tmp_path):
    model = quick().fit(rows[["x", "road"]].dropna())
    asked = pd.DataFrame({"x": 0.3, "road": ["dry", ""]})
    file = export_onnx(model, tmp_path / "m.onnx")
    assert Scorer(file).new_gaps(asked).tolist() == [None, "road"]
    assert model.new_gaps(asked) == [[], ["road"]]


def test_a_single_empty_text_of_training_is_no_level(rows):
    single = rows[["x", "road"]].assign(road=rows["road"].where(rows.index != 5, ""))
    model, plain = quick().fit(single), quick().fit(single.replace({"road": {"": None}}))
    assert model.categories_ == {"road": ["dry", "wet"]}
    asked = pd.DataFrame({"x": 0.3, "road": ["dry", ""]})
    np.testing.assert_array_equal(model.anomaly_score(asked), plain.anomaly_score(asked))


@pytest.mark.parametrize("imputer", [None, SimpleImputer(strategy="most_frequent", missing_values=None)])
def test_a_pipeline_reads_an_empty_text_and_its_file_takes_it_as_missing(imputer, tmp_path):
    encoded = one_hot() if imputer is None else make_pipeline(imputer, one_hot())
    table = drives(300, 0)[["speed", "road"]].fillna({"speed": 80})
    table["road"] = pd.Series([None if pd.isna(road) else road for road in table["road"]], dtype=object)
    pipeline = make_pipeline(make_column_transformer((encoded, ["road"]), remainder="passthrough"), quick()).fit(table)
    file = export_onnx(pipeline, tmp_path / "m.onnx", precision="double", sample=table)
    asked = pd.DataFrame({"speed": 80.0, "road": pd.Series(["dry", "", None], dtype=object)})
    expected = pipeline.score_samples(asked)
    np.testing.assert_allclose(-Scorer(file).anomaly_score(asked), expected, rtol=1e-9, atol=1e-9)
    assert expected[1] != expected[2]
    got = raw(file, speed=[80.0] * 3, road=["dry", "", "<missing>"])
    np.testing.assert_allclose(-got, expected[[0, 2, 2]], rtol=1e-9, atol=1e-9)


def test_an_empty_text_that_an_imputer_replaces_stays(tmp_path):
    table = drives(300, 0)[["speed", "road"]]
    table = table.assign(speed=table["speed"].fillna(80), road=table["road"].fillna("").astype(object))
    imputer = make_pipeline(SimpleImputer(strategy="most_frequent", missing_values=""), one_hot())
    pipeline = make_pipeline(make_column_transformer((imputer, ["road"]), remainder="passthrough"), quick()).fit(table)
    file = export_onnx(pipeline, tmp_path / "m.onnx", precision="double", sample=table)
    expected = -pipeline.score_samples(table[:50])
    np.testing.assert_allclose(raw(file, **table[:50].to_dict("list")), expected, rtol=1e-9, atol=1e-9)
