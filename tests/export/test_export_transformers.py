"""Each transformer gives what scikit-learn gives, also far from the rows that it was fitted to."""

import warnings

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from onnx import TensorProto, helper
from pipeline_tables import named, one_hot, signals
from sklearn import decomposition as dec
from sklearn import feature_selection as sel
from sklearn import preprocessing as pre
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import FeatureUnion, make_pipeline

from anomalyvae.export import graph, pipelines
from anomalyvae.export.columns import Column, Input, numbers
from anomalyvae.export.numeric import FUNCTIONS

pytestmark = pytest.mark.filterwarnings("ignore:Found unknown categories:UserWarning")


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
