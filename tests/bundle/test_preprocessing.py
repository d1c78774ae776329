"""The transformers of a Pipeline are stored without pickling, come back as they were, and run no foreign code."""

import json
import re
import shutil

import numpy as np
import pytest
import skops.io
from sklearn import decomposition as dec
from sklearn import feature_selection as sel
from sklearn import preprocessing as pre
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline

from anomalyvae import Scorer, VAEOutlierDetector, load, save
from anomalyvae.bundle import preprocessing
from anomalyvae.bundle.card import read_card, write_card


def steps():
    one_hot = pre.OneHotEncoder(handle_unknown="ignore")
    numbers = make_pipeline(SimpleImputer(), pre.StandardScaler())
    return ColumnTransformer([("road", one_hot, ["road"])], remainder=numbers)


def detector():
    return VAEOutlierDetector(random_state=0, max_epochs=1, hidden=(8,))


@pytest.fixture(scope="module")
def rows(normal):
    return normal.assign(road=np.where(normal["signal 0"] > 5, "dry", "wet"))


@pytest.fixture(scope="module")
def pipeline(rows):
    return make_pipeline(steps(), detector()).fit(rows)


@pytest.fixture(scope="module")
def saved(pipeline, tmp_path_factory):
    return save(pipeline, tmp_path_factory.mktemp("pipeline") / "bundle")


@pytest.fixture
def folder(saved, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(saved, tmp_path / "bundle")


def test_scores_are_bit_equal(pipeline, saved, rows, tmp_path):
    again = load(saved)
    new = rows.assign(road=[*["lava", None] * (len(rows) // 2)]).mask(np.random.default_rng(0).random(rows.shape) < 0.1)
    np.testing.assert_array_equal(again.decision_function(new), pipeline.decision_function(new))
    np.testing.assert_array_equal(again.predict(new), pipeline.predict(new))
    assert [*again.named_steps] == [*pipeline.named_steps]
    parts = ["card.json", "model.onnx", "model.safetensors", "preprocessing.skops"]
    assert sorted(path.name for path in saved.iterdir()) == parts
    card = read_card(saved)
    assert card["preprocessing"]["steps"] == ["ColumnTransformer"]
    assert card["preprocessing"]["columns"] == list(rows)
    assert read_card(save(again, tmp_path / "again"))["model_id"] == card["model_id"]
    np.testing.assert_array_equal(Scorer(saved).predict(new), pipeline.predict(new))


STEPS = [
    *(pre.StandardScaler(), pre.MinMaxScaler((-1, 2), clip=True), pre.MaxAbsScaler(), pre.RobustScaler()),
    *(pre.QuantileTransformer(n_quantiles=37), pre.PowerTransformer(), pre.PolynomialFeatures(2), pre.Normalizer()),
    *(pre.FunctionTransformer(), pre.FunctionTransformer(np.tanh), pre.KBinsDiscretizer(3, encode="ordinal")),
    *(SimpleImputer(strategy="median", add_indicator=True), sel.VarianceThreshold()),
    *(sel.SelectKBest(sel.f_regression, k=2), sel.SelectPercentile(percentile=50)),
    *(dec.PCA(3, whiten=True), dec.TruncatedSVD(3), dec.FastICA(2, random_state=0)),
    FeatureUnion([("a", pre.StandardScaler()), ("b", "passthrough")], transformer_weights={"a": 3.0}),
    ColumnTransformer([("a", pre.MinMaxScaler(), slice(1, 3)), ("b", "drop", [0])], remainder="passthrough"),
    ColumnTransformer([("a", pre.StandardScaler(), make_column_selector(dtype_include=np.number))]),
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: re.sub(r" at 0x\w+|\s+", "", repr(step)))
def test_what_skops_keeps_is_what_was_there(step, normal):
    before = hiding(step).fit(normal, normal["signal 3"] > normal["signal 3"].median())
    again = preprocessing.loads(preprocessing.dumps(before))
    np.testing.assert_array_equal(again.transform(normal), before.transform(normal))
    assert preprocessing.description(again) == preprocessing.description(before)


def hiding(step):
    return Pipeline([("step", step), ("detector", "passthrough")])


def test_an_earlier_name_of_the_columns_is_no_damage(normal, tmp_path, monkeypatch):
    """The card of a Pipeline that was fitted without names had those that its first step gives to the second."""
    model = make_pipeline(pre.StandardScaler(), dec.PCA(2), detector()).set_output(transform="pandas")
    model.fit(np.asarray(normal))
    earlier = preprocessing.description(preprocessing.split(model)[0]) | {"columns": ["x0", "x1", "x2"]}
    monkeypatch.setattr(preprocessing, "description", lambda before: earlier)
    save(model, tmp_path / "model")
    monkeypatch.undo()
    scores = load(tmp_path / "model").score_samples(np.asarray(normal))
    np.testing.assert_array_equal(scores, model.score_samples(np.asarray(normal)))


def test_other_transformers_make_another_model(pipeline, rows):
    other = make_pipeline(steps(), "passthrough").fit(rows[:-1])
    own = preprocessing.split(pipeline)[0]
    assert preprocessing.description(other)["fingerprint"] != preprocessing.description(own)["fingerprint"]


class Mine(pre.StandardScaler):
    """A class that somebody else wrote."""


def test_foreign_code_is_not_stored(normal, tmp_path):
    def double(x):
        return 2 * x

    for step, message in (
        (pre.FunctionTransformer(double), r"step 'functiontransformer' of the Pipeline has .*double.*scikit-learn's"),
        (Mine(), r"step 'mine' of the Pipeline has .*Mine"),
    ):
        with pytest.raises(TypeError, match=message):
            save(make_pipeline(step, detector()).fit(normal), tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_a_pipeline_that_cannot_be_exported_is_saved_without_onnx(normal, tmp_path):
    pipeline = make_pipeline(KNNImputer(), detector()).fit(normal)
    with pytest.warns(UserWarning, match=r"has no ONNX file\. KNNImputer \(the step 'knnimputer'\) cannot be exported"):
        folder = save(pipeline, tmp_path / "bundle")
    np.testing.assert_array_equal(load(folder).score_samples(normal), pipeline.score_samples(normal))


ran = []


class Trap:
    """An object that does something when it is loaded."""

    def __init__(self):
        self.bait = "cheese"

    def __setstate__(self, state):
        ran.append(state)


def forge(folder, data):
    """Swap the transformers of a bundle, and make the card fit."""
    part = folder / "preprocessing.skops"
    part.write_bytes(data)
    card = json.loads((folder / "card.json").read_text())
    del card["digest"], card["parts"]
    write_card(card, folder)


@pytest.mark.parametrize(
    ("forged", "message"),
    [
        (lambda: skops.io.dumps(hiding(pre.FunctionTransformer(exec))), r"builtins\.exec.*None of it was run"),
        (lambda: skops.io.dumps(hiding(pre.FunctionTransformer(kw_args={"x": Trap()}))), "Trap.*None of it was run"),
        (lambda: skops.io.dumps(pre.StandardScaler()), "is a StandardScaler, not a Pipeline"),
        (lambda: b"PK\x03\x04 and nothing more", "cannot be read"),
    ],
    ids=["function", "object", "no pipeline", "bytes"],
)
def test_forged_transformers_are_refused(forged, message, folder):
    forge(folder, forged())
    with pytest.raises(ValueError, match=message):
        load(folder)
    assert not ran


def test_a_missing_or_another_part_is_refused(folder):
    card = json.loads((folder / "card.json").read_text())
    (folder / "preprocessing.skops").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"preprocessing\.skops is missing or not the file"):
        load(folder)
    del card["parts"]["preprocessing.skops"]
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="do not fit together"):
        load(folder)
