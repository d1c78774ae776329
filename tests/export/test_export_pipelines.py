"""A whole Pipeline in one ONNX file and in a bundle: what comes out is what scikit-learn gives, or it is refused."""

import re
import warnings

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pyarrow as pa
import pytest
from onnx import TensorProto, helper
from sklearn import decomposition as dec
from sklearn import feature_selection as sel
from sklearn import preprocessing as pre
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import IsolationForest
from sklearn.impute import KNNImputer, MissingIndicator, SimpleImputer
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline

from anomalyvae import Scorer, VAEOutlierDetector, export_onnx, load, save
from anomalyvae.bundle.card import read_card
from anomalyvae.export import graph, pipelines
from anomalyvae.export.columns import Column, Input, numbers
from anomalyvae.export.numeric import FUNCTIONS

pytestmark = pytest.mark.filterwarnings("ignore:Found unknown categories:UserWarning")


def detector(**settings):
    return VAEOutlierDetector(
        **{"random_state": 0, "max_epochs": 2, "validation_fraction": 0.3, "hidden": (8,)} | settings
    )


def named(step):
    """The id of a case: the step without memory addresses, which differ between processes."""
    return re.sub(r" at 0x\w+|\s+", "", repr(step))


def signals(n, seed):
    """Numbers of every size: seconds since 1970, nanovolts, counts, a long tail, a constant."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "time": 1.7e9 + rng.integers(0, 10**6, n),
            "tiny": 1e-9 * rng.standard_normal(n),
            "count": rng.poisson(2, n).astype(float),
            "tail": rng.exponential(3, n) ** 2,
            "still": np.full(n, 3.0),
            "plain": rng.normal(5, 2, n),
        }
    )


def drives(n, seed):
    """A table as it comes: numbers with holes, text, whole numbers, booleans, and a name that says nothing."""
    rng = np.random.default_rng(seed)
    cause = rng.standard_normal((n, 2))
    table = pd.DataFrame(
        {
            "time": 1.7e9 + 1e5 * cause[:, 0],
            "speed": 80 + 20 * cause[:, 0] + cause[:, 1],
            "load": np.exp(cause[:, 1]),
            "gear": rng.integers(1, 6, n),
            "road": np.where(cause[:, 0] > 0, "dry", np.where(rng.random(n) < 0.2, "ice", "wet")),
            "driver": rng.choice(["ann", "bob", "cem"], n),
            "braking": cause[:, 1] > 0,
            "trip": [f"trip {i}" for i in range(n)],
        }
    )
    table.loc[rng.random(n) < 0.1, ["speed", "road"]] = None
    return table


def odd_drives():
    """Drives that no training row resembles."""
    rows = drives(400, seed=5)
    rows.loc[::7, "road"] = "lava"
    rows.loc[::11, "driver"] = "zoe"
    rows.loc[::5, "driver"] = None
    rows.loc[::13, "gear"] = 9
    rows.loc[::17, "load"] = 1e6
    rows.loc[::19, "speed"] = -1e9
    return rows


def mixed_steps():
    fill = SimpleImputer(strategy="median", add_indicator=True)
    numeric = Pipeline([("fill", fill), ("scale", pre.StandardScaler())])
    road = make_pipeline(SimpleImputer(strategy="most_frequent"), pre.OneHotEncoder(handle_unknown="ignore"))
    return ColumnTransformer(
        [
            ("numeric", numeric, ["time", "speed"]),
            ("road", road, ["road"]),
            ("driver", pre.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["driver"]),
            ("braking", pre.OneHotEncoder(handle_unknown="ignore", drop="if_binary"), ["braking"]),
            ("gear", pre.OneHotEncoder(handle_unknown="ignore"), ["gear"]),
            ("raw", "passthrough", ["gear", "load"]),
        ]
    )


@pytest.fixture(scope="module")
def mixed():
    return make_pipeline(mixed_steps(), detector(max_epochs=20)).fit(drives(600, seed=0))


@pytest.fixture(scope="module")
def mixed_file(mixed, tmp_path_factory):
    return export_onnx(mixed, tmp_path_factory.mktemp("mixed") / "model.onnx", precision="double", feature_scores=True)


# A whole pipeline


def test_the_graph_gives_what_the_pipeline_gives(mixed, mixed_file):
    rows = odd_drives()
    scorer = Scorer(mixed_file)
    got = scorer.score(rows)
    np.testing.assert_allclose(scorer.decision_function(rows), mixed.decision_function(rows), rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(got["is_outlier"], mixed.predict(rows) < 0)
    prepared = mixed[:-1].transform(rows)
    np.testing.assert_allclose(got["p_value"], mixed[-1].p_values(prepared), rtol=1e-12)
    np.testing.assert_allclose(got["feature_scores"], mixed[-1].feature_scores(prepared), rtol=1e-9, atol=1e-9)
    assert 0 < np.mean(got["is_outlier"]) < 1


def test_any_table_gives_the_same(mixed_file):
    rows, scorer = odd_drives(), Scorer(mixed_file)
    expected = scorer.decision_function(rows)
    used = rows.drop(columns="trip")
    for table in (
        used,
        rows[rows.columns[::-1]],
        rows.astype({"road": "category", "driver": object, "braking": object, "speed": "Float64"}),
        pa.Table.from_pandas(rows),
        {name: list(rows[name]) for name in rows},
    ):
        np.testing.assert_array_equal(scorer.decision_function(table), expected)


def test_the_file_says_what_goes_in(mixed_file, mixed, tmp_path):
    model = onnx.load(mixed_file)
    onnx.checker.check_model(model, full_check=True)
    kinds = {i.name: i.type.tensor_type.elem_type for i in model.graph.input}
    text = {"road", "driver"}
    assert kinds == {
        name: TensorProto.STRING if name in text else TensorProto.DOUBLE for name in drives(1, 0) if name != "trip"
    }
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx.ml"}
    assert not [n for n in model.graph.node if "Random" in n.op_type or n.op_type in ("Bernoulli", "Multinomial")]
    metadata = Scorer(mixed_file).metadata
    assert metadata["kinds"] == {"road": "text", "driver": "text", "braking": "bool"}
    assert metadata["ignored"] == ["trip"]
    assert metadata["features"][:3] == ["numeric__time", "numeric__speed", "numeric__missingindicator_speed"]
    assert len(metadata["features"]) == model.graph.output[-1].type.tensor_type.shape.dim[1].dim_value
    assert metadata["parity"]["rows"] >= 256
    assert metadata["parity"]["rows_from"] == "columns"
    assert metadata["parity"]["score_difference"] < 1e-9
    assert metadata["model_id"] == read_card(save(mixed, tmp_path / "bundle"))["model_id"]


def test_single_precision_is_near(mixed, tmp_path):
    rows = odd_drives()
    scorer = Scorer(export_onnx(mixed, tmp_path / "m.onnx", precision="single"))
    np.testing.assert_allclose(scorer.decision_function(rows), mixed.decision_function(rows), rtol=1e-4, atol=1e-4)


def test_a_sample_says_what_is_boolean_and_is_used_for_the_check(tmp_path):
    rows = drives(600, seed=0)[["speed", "braking"]]
    pipeline = make_pipeline(SimpleImputer(), detector()).fit(rows)
    scorer = Scorer(export_onnx(pipeline, tmp_path / "m.onnx", sample=rows[:50]))
    assert scorer.metadata["kinds"] == {"braking": "bool"}
    assert scorer.metadata["parity"]["rows_from"] == "sample"
    np.testing.assert_allclose(scorer.anomaly_score(rows), -pipeline.score_samples(rows), rtol=1e-4)
    with pytest.raises(ValueError, match=r"sample has 50 rows and lacks the columns \['braking'\]\. Pass some"):
        export_onnx(pipeline, tmp_path / "m.onnx", sample=rows[:50][["speed"]])


def test_a_graph_that_disagrees_is_not_written(mixed, tmp_path, monkeypatch):
    monkeypatch.setattr("anomalyvae.export.numeric.double", lambda array: np.asarray(array, dtype=float) * 1.001)
    for sample in (None, drives(100, seed=1)):
        with pytest.raises(ArithmeticError, match=r"does not agree.*No file was written"):
            export_onnx(mixed, tmp_path / "m.onnx", sample=sample)
    assert not list(tmp_path.iterdir())


def test_only_rows_with_unknown_levels_can_tell(mixed, tmp_path, monkeypatch):
    """A graph that is wrong for levels that were not in training alone is found out."""
    honest = pipelines.apply

    def forgetful(step, columns):
        if isinstance(step, pre.OrdinalEncoder):
            step = pre.OrdinalEncoder(**USE, unknown_value=5).fit(drives(600, 0)[["driver"]])
        return honest(step, columns)

    monkeypatch.setattr(pipelines, "apply", forgetful)
    with pytest.raises(ArithmeticError, match="does not agree"):
        export_onnx(mixed, tmp_path / "m.onnx")


def test_missing_cells_that_the_pipeline_refuses_are_refused(tmp_path):
    rows = signals(300, 0)
    steps = ColumnTransformer([("project", dec.PCA(2), ["count", "plain"]), ("rest", "passthrough", ["tail"])])
    pipeline = make_pipeline(steps, detector()).fit(rows)
    scorer = Scorer(export_onnx(pipeline, tmp_path / "m.onnx"))
    assert scorer.metadata["required"] == ["count", "plain"]
    new = rows[:9].assign(tail=np.nan)
    np.testing.assert_allclose(scorer.anomaly_score(new), -pipeline.score_samples(new), rtol=1e-4)
    new.loc[3, "plain"] = None
    with pytest.raises(ValueError, match=r"missing cells in 'plain', where a transformer.*SimpleImputer"):
        scorer.predict(new)


def test_rows_without_names(tmp_path):
    rows = signals(300, 0).to_numpy()
    pipeline = make_pipeline(pre.RobustScaler(), dec.PCA(4), detector()).fit(rows)
    scorer = Scorer(export_onnx(pipeline, tmp_path / "m.onnx", precision="double"))
    assert (scorer.metadata["inputs"], scorer.metadata["required"]) == ("matrix", list(range(6)))
    assert scorer.metadata["parity"]["rows_from"] == "inverse_transform"
    np.testing.assert_allclose(scorer.anomaly_score(rows), -pipeline.score_samples(rows), rtol=1e-9)
    rows = np.where(rows == rows[0, 3], np.nan, rows)
    with pytest.raises(ValueError, match="missing cells in 3, where a transformer"):
        scorer.anomaly_score(rows)


def test_booleans_without_names(tmp_path):
    rows = np.random.default_rng(0).random((300, 3)) > [0.3, 0.5, 0.9]
    pipeline = make_pipeline(one_hot(drop="if_binary", sparse_output=False), detector()).fit(rows)
    scorer = Scorer(export_onnx(pipeline, tmp_path / "m.onnx"))
    np.testing.assert_allclose(scorer.anomaly_score(rows), -pipeline.score_samples(rows), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("arrangement", ["matrix", "columns"])
def test_numbers_go_in_either_way(arrangement, tmp_path):
    rows = signals(300, 0)
    pipeline = make_pipeline(pre.StandardScaler(), sel.VarianceThreshold(), detector()).fit(rows)
    file = export_onnx(pipeline, tmp_path / "m.onnx", inputs=arrangement, precision="double")
    assert [i.name for i in onnx.load(file).graph.input] == (["rows"] if arrangement == "matrix" else [*rows])
    np.testing.assert_allclose(Scorer(file).anomaly_score(rows), -pipeline.score_samples(rows), rtol=1e-9)


def test_what_is_missing_may_be_a_word_or_a_number(tmp_path):
    rows = drives(400, 0)[["road", "gear", "speed"]].assign(road=lambda t: t["road"].fillna("?"))
    steps = ColumnTransformer(
        [
            ("gear", SimpleImputer(missing_values=3), ["gear"]),
            ("road", make_pipeline(SimpleImputer(missing_values="?", strategy="most_frequent"), one_hot()), ["road"]),
            ("hole", MissingIndicator(), ["speed"]),
        ]
    )
    pipeline = make_pipeline(steps, detector()).fit(rows)
    scorer = Scorer(export_onnx(pipeline, tmp_path / "m.onnx", precision="double"))
    np.testing.assert_allclose(scorer.anomaly_score(rows), -pipeline.score_samples(rows), rtol=1e-9)


def test_none_is_what_is_missing_where_the_pipeline_has_it_so(tmp_path):
    rows = drives(400, 0)[["road", "load"]].astype({"road": object})
    rows["road"] = rows["road"].where(rows["road"].notna(), None)
    steps = ColumnTransformer(
        [
            ("road", make_pipeline(SimpleImputer(missing_values=None, strategy="most_frequent"), one_hot()), ["road"]),
            ("level", one_hot(), ["road"]),
            ("load", "passthrough", ["load"]),
        ]
    )
    pipeline = make_pipeline(steps, detector()).fit(rows)
    scorer = Scorer(export_onnx(pipeline, tmp_path / "m.onnx", precision="double"))
    np.testing.assert_allclose(scorer.anomaly_score(rows), -pipeline.score_samples(rows), rtol=1e-7)


def test_a_detector_may_have_categories_behind_transformers(tmp_path):
    rows = drives(500, 0)
    steps = ColumnTransformer(
        [
            ("scale", pre.StandardScaler(), ["speed", "load"]),
            ("road", SimpleImputer(strategy="most_frequent"), ["road"]),
            ("rest", "passthrough", ["driver", "braking"]),
        ],
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    pipeline = make_pipeline(steps, detector()).fit(rows)
    assert set(pipeline[-1].categories_) == {"road", "driver", "braking"}
    scorer = Scorer(export_onnx(pipeline, tmp_path / "m.onnx", precision="double"))
    new = odd_drives()
    np.testing.assert_allclose(scorer.anomaly_score(new), -pipeline.score_samples(new), rtol=1e-9)
    np.testing.assert_array_equal(load(save(pipeline, tmp_path / "b")).predict(new), pipeline.predict(new))


# Every transformer alone, far beyond the rows that it was fitted to


def one_hot(**settings):
    return pre.OneHotEncoder(handle_unknown="ignore", **settings)


def transformed(step, rows):
    """What the operators of a fitted step make of rows, in plain onnxruntime."""
    inputs = [Input(str(name)) for name in rows]
    for _ in range(2):  # the first time tells which columns are text
        made = graph.Graph()
        columns = [Column(graph.Value(made, str(c.name)), 0, 1, c) for c in inputs]
        out = numbers(pipelines.converted(step, columns))
    kinds = {"text": TensorProto.STRING}
    taken = [c for c in inputs if c.used]
    infos = [helper.make_tensor_value_info(c.name, kinds.get(c.kind, TensorProto.DOUBLE), ["n", 1]) for c in taken]
    result = helper.make_tensor_value_info(out.name, TensorProto.DOUBLE, ["n", None])
    model = helper.make_model(
        helper.make_graph(made.nodes, "step", infos, [result], list(made.constants.values())),
        opset_imports=[helper.make_opsetid(*item) for item in graph.OPSET.items()],
        ir_version=9,
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {
        c.name: rows[[c.name]].astype(object).fillna("<missing>").to_numpy()
        if c.kind == "text"
        else rows[[c.name]].to_numpy(dtype=float, na_value=np.nan)
        for c in taken
    }
    return session.run(None, feeds)[0]


def assert_same(step, rows, rtol=1e-12):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = step.transform(rows)
    expected = np.asarray(expected.toarray() if hasattr(expected, "toarray") else expected, dtype=float)
    np.testing.assert_allclose(transformed(step, rows), expected, rtol=rtol, atol=0)


TAKE_MISSING = [
    pre.StandardScaler(),
    pre.StandardScaler(with_mean=False),
    pre.StandardScaler(with_std=False),
    pre.MinMaxScaler(),
    pre.MinMaxScaler((-1, 2), clip=True),
    pre.MaxAbsScaler(),
    pre.MaxAbsScaler(clip=True),
    pre.RobustScaler(),
    pre.RobustScaler(with_centering=False),
    pre.RobustScaler(with_scaling=False),
    pre.PowerTransformer(standardize=False),
    pre.FunctionTransformer(),
    pre.FunctionTransformer(np.tanh),
    SimpleImputer(),
    SimpleImputer(strategy="median", add_indicator=True),
    SimpleImputer(strategy="constant", fill_value=-1),
    MissingIndicator(features="all"),
    sel.VarianceThreshold(),
]
TAKE_NONE = [
    pre.PolynomialFeatures(3),
    pre.PolynomialFeatures(2, interaction_only=True, include_bias=False),
    dec.PCA(),
    dec.PCA(3, whiten=True),
    dec.IncrementalPCA(2),
    sel.SelectPercentile(percentile=50),
    sel.SelectKBest(sel.f_regression, k=2),
]


@pytest.mark.parametrize("step", [*TAKE_MISSING, *TAKE_NONE], ids=named)
def test_numbers_come_out_as_from_scikit_learn(step):
    rng = np.random.default_rng(3)
    rows = signals(500, 0)
    if type(step).__module__.startswith(("sklearn.decomposition", "sklearn.feature_selection._uni")):
        rows = rows.drop(columns="still")  # it has no variance to divide by
    target = rows["plain"] > 5
    parts = [signals(500, 1), rows[:50], 1e3 * signals(50, 2), -signals(50, 3)]
    new = pd.concat(parts, ignore_index=True)[[*rows]]
    if step in TAKE_MISSING:
        rows, new = rows.mask(rng.random(rows.shape) < 0.1), new.mask(rng.random(new.shape) < 0.2)
    assert_same(step.fit(rows, target), new)


def test_a_power_is_as_exact_as_its_rounding():
    """The scale is that of the rounding where a power far from 1 makes a column of large numbers nearly constant."""
    assert_same(pre.PowerTransformer().fit(signals(500, 0)), signals(500, 1), rtol=1e-7)


@pytest.mark.parametrize("encode", ["onehot", "onehot-dense", "ordinal"])
def test_bins(encode):
    rows = signals(500, 0)[["time", "tail", "plain"]]
    new = pd.concat([rows, 1e3 * rows, -rows])
    assert_same(pre.KBinsDiscretizer(5, encode=encode).fit(rows), new)


@pytest.mark.parametrize("function", list(FUNCTIONS), ids=lambda f: f.__name__)
def test_functions(function):
    x = np.append(np.random.default_rng(0).exponential(3, 99), [1e-300, 1e-12, 1e-8, 1e-3, 1.0, 2.0, 30.0, 600.0])
    signed = function in (np.expm1, np.absolute, np.negative, np.sign, np.square, np.tanh, np.exp)
    rows = pd.DataFrame({"x": np.concatenate([x, -x]) if signed else x})
    assert_same(pre.FunctionTransformer(function).fit(rows), rows, rtol=1e-11)


LEVELS = pd.DataFrame(
    {
        "road": (["dry"] * 50 + ["wet"] * 30 + ["ice"] * 3 + ["mud"] * 2) * 2,
        "gear": ([1, 2, 3, 7, 5] * 17) * 2,
        "braking": ([True, False, False, False, True] * 17) * 2,
        "holed": (["x", None, "y", "x", "y"] * 17) * 2,
        "number": ([0.5, np.nan, 1e18, -3.25, 0.5] * 17) * 2,
        "one": ["same"] * 170,
    }
)
USE = {"handle_unknown": "use_encoded_value"}


@pytest.mark.parametrize(
    "step",
    [
        one_hot(),
        one_hot(sparse_output=False, dtype=np.float32),
        one_hot(drop="first"),
        one_hot(drop="if_binary"),
        one_hot(min_frequency=10),
        pre.OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=10, drop="first"),
        pre.OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=3),
        pre.OneHotEncoder(handle_unknown="warn", max_categories=2),
        pre.OrdinalEncoder(**USE, unknown_value=-1, encoded_missing_value=-2),
        pre.OrdinalEncoder(**USE, unknown_value=np.nan),
        pre.OrdinalEncoder(**USE, unknown_value=99, min_frequency=10),
    ],
    ids=named,
)
def test_levels_come_out_as_from_scikit_learn(step):
    new = pd.DataFrame(
        {
            "road": ["dry", "ice", "mud", "lava", None, "wet"],
            "gear": [7, 1, 4, 2, 3, 5],
            "braking": [True, False, True, False, True, False],
            "holed": ["x", None, "z", "y", "", "x"],
            "number": [0.5, np.nan, 1e18, 1e18 + 256, -3.25, 0.0],
            "one": ["same", "other", None, "same", "same", "same"],
        }
    )
    assert_same(step.fit(LEVELS), new)
    assert_same(step.fit(LEVELS[["gear", "number"]].to_numpy()), new[["gear", "number"]])


STRUCTURES = [
    FeatureUnion([("a", pre.StandardScaler()), ("b", "passthrough"), ("c", "drop")], transformer_weights={"a": 3.0}),
    FeatureUnion([("a", make_pipeline(SimpleImputer(), dec.PCA(2))), ("b", MissingIndicator(features="all"))]),
    ColumnTransformer([("a", pre.StandardScaler(), [5, 0]), ("b", "drop", ["tail"])], remainder="passthrough"),
    ColumnTransformer([("a", pre.MinMaxScaler(), slice(1, 3)), ("b", "passthrough", [])], remainder=pre.RobustScaler()),
    ColumnTransformer(
        [("a", pre.StandardScaler(), make_column_selector("t.*")), ("b", "passthrough", lambda table: ["still"])]
    ),
    ColumnTransformer(
        [
            ("a", make_pipeline("passthrough", None, pre.StandardScaler()), ["time"]),
            ("b", pre.MaxAbsScaler(), ["time"]),
        ],
        transformer_weights={"b": 0.5},
    ),
    make_pipeline(sel.VarianceThreshold(), pre.StandardScaler(), sel.VarianceThreshold(0.9)),
]


@pytest.mark.parametrize("step", STRUCTURES, ids=range(len(STRUCTURES)))
def test_steps_are_put_together_as_in_scikit_learn(step):
    rows = signals(300, 0)
    new = signals(300, 1)
    assert_same(step.fit(rows.mask(np.random.default_rng(0).random(rows.shape) < 0.1)), new)


def test_a_float32_table_is_taken_in_double():
    rows = signals(300, 0)[["count", "plain"]].astype(np.float32)
    step = dec.PCA().fit(rows)
    assert step.components_.dtype == np.float32
    np.testing.assert_allclose(transformed(step, rows), step.transform(rows), rtol=1e-4, atol=1e-5)


# What has no form is refused


class Mine(pre.StandardScaler):
    """A class that somebody else wrote."""


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (KNNImputer(), r"KNNImputer \(the step 'knnimputer'\) cannot be exported to ONNX\. Use SimpleImputer"),
        (pre.SplineTransformer(), r"SplineTransformer \(.*Use PolynomialFeatures"),
        (dec.KernelPCA(2), r"KernelPCA \(.*Use PCA"),
        (dec.FastICA(1), r"FastICA \(.*Use PCA"),
        (pre.QuantileTransformer(n_quantiles=9), r"QuantileTransformer \(.*the detector's scaling='quantile'"),
        (pre.Normalizer(), r"Normalizer \(.*Apply it to the rows before"),
        (Mine(), r"Mine \(.*Apply it to the rows before"),
        (pre.PowerTransformer("box-cox"), r"PowerTransformer \(.*use method='yeo-johnson'"),
        (pre.FunctionTransformer(np.cumsum), r"FunctionTransformer \(.*numpy\.log1p.*without kw_args"),
        (pre.FunctionTransformer(lambda x: 2 * x), r"FunctionTransformer \(.*Use func=None or one of"),
        (pre.OneHotEncoder(sparse_output=False), r"OneHotEncoder \(.*set_params\(handle_unknown='ignore'\)"),
        (pre.OrdinalEncoder(), r"OrdinalEncoder \(.*handle_unknown='use_encoded_value', unknown_value=-1"),
        (
            ColumnTransformer([("inner", make_pipeline(pre.StandardScaler(), KNNImputer()), ["tail"])]),
            r"KNNImputer \(the step 'columntransformer__inner__knnimputer'\)",
        ),
    ],
    ids=named,
)
def test_what_has_no_form_is_refused_by_name(step, message, tmp_path):
    rows = signals(200, 0)[["count", "tail"]] + 1
    pipeline = make_pipeline(step, detector(max_epochs=1)).fit(rows)
    with pytest.raises(TypeError, match=rf"(?s)^{message}"):
        export_onnx(pipeline, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_an_encoder_needs_no_other_fit_to_be_exported(tmp_path):
    rows = drives(300, 0)[["driver", "load"]]
    steps = ColumnTransformer([("driver", pre.OneHotEncoder(), ["driver"])], remainder="passthrough")
    pipeline = make_pipeline(steps, detector()).fit(rows)
    pipeline.set_params(columntransformer__driver__handle_unknown="ignore")
    pipeline[0].named_transformers_["driver"].set_params(handle_unknown="ignore")
    scorer = Scorer(export_onnx(pipeline, tmp_path / "m.onnx"))
    np.testing.assert_allclose(scorer.anomaly_score(rows), -pipeline.score_samples(rows), rtol=1e-4)


def test_text_without_names_is_refused(tmp_path):
    rows = drives(300, 0)[["driver", "load"]].to_numpy(object)
    steps = ColumnTransformer([("driver", one_hot(), [0])], remainder=pre.StandardScaler())
    with pytest.raises(ValueError, match=r"have text but no column names\. Fit the pipeline to a DataFrame"):
        export_onnx(make_pipeline(steps, detector()).fit(rows), tmp_path / "m.onnx")


def test_a_column_is_of_one_kind(tmp_path):
    rows = drives(300, 0)[["driver", "load"]]
    steps = ColumnTransformer([("driver", one_hot(), ["driver"])], remainder="passthrough")
    pipeline = make_pipeline(steps, detector()).fit(rows)
    with pytest.raises(ValueError, match=r"Column 'load' is used as number and as text; a graph input has one kind"):
        export_onnx(pipeline, tmp_path / "m.onnx", sample=rows.astype(str))


def test_a_pipeline_ends_in_a_detector(tmp_path):
    rows = signals(100, 0)
    with pytest.raises(TypeError, match=r"ends in IsolationForest \('isolationforest'\), expected"):
        export_onnx(make_pipeline(pre.StandardScaler(), IsolationForest()).fit(rows), tmp_path / "m.onnx")
    with pytest.raises(TypeError, match=r"Got sklearn\.\S+\.IsolationForest, expected a VAEOutlierDetector or"):
        save(IsolationForest().fit(rows), tmp_path / "b")


def test_the_word_for_missing_is_no_level(tmp_path):
    rows = drives(200, 0)[["driver", "load"]].replace({"driver": {"ann": "<missing>"}})
    pipeline = make_pipeline(ColumnTransformer([("d", one_hot(), ["driver"])], remainder="passthrough"), detector())
    with pytest.raises(ValueError, match=r"Column 'driver' has the level '<missing>', which.*Replace it by None"):
        export_onnx(pipeline.fit(rows), tmp_path / "m.onnx")
