"""A whole Pipeline in one ONNX file and in a bundle: what comes out is what scikit-learn gives, or it is refused."""

import numpy as np
import onnx
import pandas as pd
import pyarrow as pa
import pytest
from onnx import TensorProto
from pipeline_tables import detector, drives, named, one_hot, signals
from sklearn import decomposition as dec
from sklearn import feature_selection as sel
from sklearn import preprocessing as pre
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import IsolationForest
from sklearn.impute import KNNImputer, MissingIndicator, SimpleImputer
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline

from anomalyvae import Scorer, export_onnx, load, save
from anomalyvae.bundle import read_card
from anomalyvae.cli import main
from anomalyvae.export import pipelines, transformers
from anomalyvae.export.check_rows import check_rows
from anomalyvae.export.culprits import culprit
from anomalyvae.export.pipelines import inputs_of

pytestmark = pytest.mark.filterwarnings("ignore:Found unknown categories:UserWarning")


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
    np.testing.assert_allclose(scorer.decision_function(rows), mixed.decision_function(rows), rtol=1e-9, atol=1e-6)
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
    without = Scorer(export_onnx(pipeline, tmp_path / "without.onnx"))
    with pytest.raises(ValueError, match=r"'braking' is of type bool, expected numbers.*takes them if .*with sample="):
        without.score(rows)


def test_tables_of_polars_within_and_as_sample(tmp_path):
    """A sample's columns go by their names, in any table; the Pipeline's steps may give tables of polars."""
    polars = pytest.importorskip("polars")
    rows = drives(600, seed=0)[["speed", "braking", "load", "road"]].fillna({"speed": 80.0})
    parts = [("numbers", pre.StandardScaler(), ["speed", "load"]), ("levels", one_hot(sparse_output=False), ["road"])]
    pipeline = make_pipeline(ColumnTransformer(parts, remainder="passthrough"), detector())
    pipeline.set_output(transform="polars").fit(rows)
    sample = polars.from_pandas(rows[rows.columns[::-1]][:50])
    for given in (None, sample):
        scorer = Scorer(export_onnx(pipeline, tmp_path / "m.onnx", sample=given))
        np.testing.assert_allclose(scorer.anomaly_score(rows), -pipeline.score_samples(rows), rtol=1e-4, atol=1e-6)
    assert scorer.metadata["kinds"] == {"braking": "bool", "road": "text"}


def test_a_graph_that_disagrees_is_not_written(mixed, tmp_path, monkeypatch):
    monkeypatch.setattr("anomalyvae.export.numeric.as_double", lambda array: np.asarray(array, dtype=float) * 1.001)
    for sample in (None, drives(100, seed=1)):
        with pytest.raises(ArithmeticError, match=r"does not agree.*No file was written"):
            export_onnx(mixed, tmp_path / "m.onnx", sample=sample)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "step",
    [pre.StandardScaler(), pre.PowerTransformer(), pre.KBinsDiscretizer(4), pre.PolynomialFeatures(2), dec.PCA(2)],
    ids=named,
)
def test_a_wrong_transformer_is_noticed_without_a_sample(step, tmp_path, monkeypatch):
    rows = signals(300, 0)[["count", "tail", "plain"]]
    steps = ColumnTransformer([("step", step, ["count", "tail"])], remainder="passthrough", sparse_threshold=0)
    pipeline = make_pipeline(steps, detector()).fit(rows)
    assert Scorer(export_onnx(pipeline, tmp_path / "m.onnx")).metadata["parity"]["rows_from"] == "inverse_transform"
    honest = transformers._NUMERIC[type(step)]
    monkeypatch.setitem(transformers._NUMERIC, type(step), lambda t, x: honest(t, x) * 1.001)
    with pytest.raises(ArithmeticError, match="does not agree"):
        export_onnx(pipeline, tmp_path / "m.onnx")


def test_only_rows_with_unknown_levels_can_tell(mixed, tmp_path, monkeypatch):
    """A graph that is wrong for levels that were not in training alone is found out."""
    honest = pipelines.apply

    def forgetful(step, columns):
        if isinstance(step, pre.OrdinalEncoder):
            step = pre.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=5)
            step = step.fit(drives(600, 0)[["driver"]])
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
    np.testing.assert_allclose(scorer.anomaly_score(rows), -pipeline.score_samples(rows), rtol=1e-9, atol=1e-6)
    rows = np.where(rows == rows[0, 3], np.nan, rows)
    with pytest.raises(ValueError, match="missing cells in 3, where a transformer"):
        scorer.anomaly_score(rows)


@pytest.mark.parametrize("names", [range(6), range(10, 70, 10)])
@pytest.mark.parametrize("output", ["default", "pandas"])
@pytest.mark.parametrize("step", [pre.StandardScaler(), make_pipeline(pre.RobustScaler(), dec.PCA(4)), "passthrough"])
def test_columns_named_by_numbers_go_in_as_into_the_pipeline(step, output, names, tmp_path):
    rows = signals(300, 0).set_axis(names, axis=1)
    pipeline = make_pipeline(step, detector()).set_output(transform=output).fit(rows)
    scorer = Scorer(export_onnx(pipeline, tmp_path / "m.onnx", precision="double"))
    for given in (rows, rows.to_numpy()):  # a table of names that a later step made up was asked for
        np.testing.assert_allclose(scorer.anomaly_score(given), -pipeline.score_samples(given), rtol=1e-9, atol=1e-6)
    if step == "passthrough":  # the detector itself takes the names, so the file knows them
        for model in (pipeline, scorer):
            with pytest.raises(ValueError, match="in another order than in training"):
                model.predict(rows.iloc[:, ::-1])


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
    np.testing.assert_allclose(Scorer(file).anomaly_score(rows), -pipeline.score_samples(rows), rtol=1e-9, atol=1e-6)


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
    np.testing.assert_allclose(scorer.anomaly_score(rows), -pipeline.score_samples(rows), rtol=1e-9, atol=1e-6)


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


def test_an_imputer_that_leaves_none_is_refused_by_name(tmp_path):
    """As of tables of polars, whose missing text is None for scikit-learn; the file disagreed without a reason."""
    rows = drives(400, 0)[["road", "load"]].astype({"road": object})
    rows["road"] = rows["road"].where(rows["road"].notna(), None)
    road = make_pipeline(SimpleImputer(strategy="most_frequent"), one_hot())
    pipeline = make_pipeline(
        ColumnTransformer([("road", road, ["road"]), ("load", "passthrough", ["load"])]), detector()
    )
    with pytest.raises(
        ValueError, match=r"Column 'road' has None where .*Fit with SimpleImputer\(missing_values=None\)"
    ):
        export_onnx(pipeline.fit(rows), tmp_path / "m.onnx")


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
    np.testing.assert_allclose(scorer.anomaly_score(new), -pipeline.score_samples(new), rtol=1e-9, atol=1e-6)
    np.testing.assert_array_equal(load(save(pipeline, tmp_path / "b")).predict(new), pipeline.predict(new))


def still_pipeline(**settings):
    """A Pipeline of numbers, one of which varies by rounding errors alone, and its rows."""
    rng = np.random.default_rng(0)
    rows = signals(200, 0)[["count", "tail"]].assign(still=-273.15 * (1 + rng.integers(-1, 2, 200) * 2.0**-52))
    inner = make_pipeline(SimpleImputer(), pre.PowerTransformer(standardize=False), pre.StandardScaler())
    steps = ColumnTransformer([("inner", inner, [*rows])])
    return make_pipeline(steps, detector(max_epochs=1, **settings)).fit(rows), rows


def test_rows_of_the_check_have_the_level_of_training():
    """They are led back through the steps of a Pipeline within a ColumnTransformer."""
    pipeline, rows = still_pipeline()
    check = check_rows(pipeline[:-1], pipeline[-1], inputs_of(pipeline[:-1], pipeline[-1]))
    assert check.origin == "inverse_transform"
    remembered, known = (table[["count", "tail"]].to_numpy() for table in (check.rows[-128:-32], rows))
    apart = np.abs(remembered[:, None] - known).max(axis=2).min(axis=1)
    assert apart.max() < 1e-6  # whole rows of training: columns that are made up one by one do not go together
    still = check.rows["still"][-128:-32]
    np.testing.assert_allclose(still, -273.15, rtol=1e-12)


def test_a_refusal_names_what_magnifies_rounding_errors(tmp_path):
    pipeline, _ = still_pipeline(scaling="quantile")
    with pytest.raises(ArithmeticError, match=r"Column 'still' varies by little more than rounding errors: leave it"):
        export_onnx(pipeline, tmp_path / "m.onnx")
    constant = pd.DataFrame({"still": np.full(200, 0.1), "plain": np.random.default_rng(0).normal(5, 2, 200)})
    pipeline = make_pipeline(pre.PowerTransformer(), detector(max_epochs=1, scaling="quantile")).fit(constant)
    with pytest.raises(ArithmeticError, match=r"PowerTransformer \(the step 'powertransformer'\) magnifies.* sample="):
        export_onnx(pipeline, tmp_path / "m.onnx")
    hidden = make_pipeline(pre.PowerTransformer(), FeatureUnion([("same", SimpleImputer())]), detector(max_epochs=1))
    with pytest.raises(ArithmeticError, match=r"(magnifies|makes nothing but) rounding errors.* sample="):
        export_onnx(hidden.fit(np.full((200, 2), 0.1)), tmp_path / "m.onnx")
    rows = constant[["plain"]]
    lost = make_pipeline(pre.FunctionTransformer(np.tanh), pre.MinMaxScaler(), detector()).fit(rows)
    assert culprit(lost[:-1], lost[-1], rows + 14).startswith("FunctionTransformer (the step 'functiontransformer')")
    assert culprit(lost[:-1], lost[-1], rows - 5) == ""


def test_the_detector_behind_a_pipeline_is_checked_where_training_rows_lie(tmp_path):
    """A step without an inverse hides their places, which here single precision cannot tell apart."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"a": 47 + 0.01 * rng.standard_normal(300), "b": np.where(rng.random(300) < 0.05, 1e3, 0.0)})
    steps = FeatureUnion([("filled", SimpleImputer()), ("holes", MissingIndicator(features="all"))])
    pipeline = make_pipeline(steps, detector(scaling=None, validation_fraction=0.0)).fit(rows)
    scorer = Scorer(export_onnx(pipeline, tmp_path / "m.onnx"))
    np.testing.assert_allclose(scorer.anomaly_score(rows), -pipeline.score_samples(rows), rtol=1e-4, atol=1e-4)


def test_an_empty_text_that_passes_to_the_detector_is_missing(tmp_path):
    rows = drives(500, 0)[["speed", "driver"]]
    steps = ColumnTransformer([("scale", pre.StandardScaler(), ["speed"])], remainder="passthrough")
    pipeline = make_pipeline(steps.set_output(transform="pandas"), detector()).fit(rows)
    new = rows[:60].assign(driver=lambda t: t["driver"].where(t.index % 3 > 0, ""))
    scorer = Scorer(export_onnx(pipeline, tmp_path / "m.onnx", precision="double"))
    np.testing.assert_allclose(scorer.anomaly_score(new), -pipeline.score_samples(new), rtol=1e-9, atol=1e-6)


def test_calibration_rows_in_single_precision_tie(tmp_path):
    """Without a sample, nothing shows that numpy.tanh computes these columns in single precision."""
    rows = signals(300, 0)[["count", "plain"]].astype(np.float32)
    pipeline = make_pipeline(pre.FunctionTransformer(np.tanh), detector(criterion="elbo")).fit(rows)
    scorer = Scorer(export_onnx(pipeline, tmp_path / "m.onnx", precision="double"))
    assert (scorer.score(rows)["p_value"] >= pipeline[-1].p_values(pipeline[:-1].transform(rows)) - 1e-9).all()


def test_bins_of_computed_numbers_are_checked_with_rows_of_training(tmp_path):
    """Rounding decides the bin of rows on an edge; which they are, training rows alone can tell."""
    rows = signals(300, 0)[["tail", "plain"]]
    pipeline = make_pipeline(dec.PCA(2), pre.KBinsDiscretizer(4, encode="ordinal"), detector()).fit(rows)
    with pytest.raises(ValueError, match=r"KBinsDiscretizer gets numbers that a step before it has computed.*sample="):
        export_onnx(pipeline, tmp_path / "m.onnx")
    scorer = Scorer(export_onnx(pipeline, tmp_path / "m.onnx", sample=rows))
    np.testing.assert_allclose(scorer.anomaly_score(rows), -pipeline.score_samples(rows), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sample", [True, False])
def test_a_step_that_divides_integers_is_refused(sample, tmp_path):
    """numpy.reciprocal of an integer is an integer; a graph has numbers in double alone."""
    rows = pd.DataFrame({"gear": np.arange(300) % 5 + 1, "speed": np.random.default_rng(0).normal(80, 9, 300)})
    pipeline = make_pipeline(pre.FunctionTransformer(np.reciprocal), pre.StandardScaler(), detector()).fit(rows)
    with pytest.raises(ValueError, match=r"FunctionTransformer \(the step 'functiontransformer'\) makes other.*int64"):
        export_onnx(pipeline, tmp_path / "m.onnx", sample=rows if sample else None)
    floats = rows.astype(float)
    pipeline.fit(floats)
    scorer = Scorer(export_onnx(pipeline, tmp_path / "m.onnx", sample=floats))
    np.testing.assert_allclose(scorer.anomaly_score(floats), -pipeline.score_samples(floats), rtol=1e-4, atol=1e-4)


def test_a_square_of_large_integers_is_refused(tmp_path):
    """It overflows in 64 bits; a graph has numbers in double alone. Without a sample, the types are unknown."""
    rows = pd.DataFrame({"id": 2**53 + 7**11 * np.arange(300), "speed": np.random.default_rng(0).normal(80, 9, 300)})
    pipeline = make_pipeline(pre.FunctionTransformer(np.square), pre.StandardScaler(), detector()).fit(rows)
    for sample in (None, rows):
        with pytest.raises(
            ValueError, match=r"FunctionTransformer \(the step 'functiontransformer'\) makes other.*int64"
        ):
            export_onnx(pipeline, tmp_path / "m.onnx", sample=sample)


def test_functions_that_magnify_rounding_errors_are_refused(tmp_path):
    """The rows of the check are led back through functions, so they lie at the level of training: here next to 1."""
    rows = 1e-13 * np.random.default_rng(0).normal(size=(200, 3))
    steps = [pre.FunctionTransformer(np.log1p), pre.FunctionTransformer(np.exp), pre.StandardScaler()]
    pipeline = make_pipeline(*steps, detector()).fit(rows)
    with pytest.raises(ArithmeticError, match="No file was written"):
        export_onnx(pipeline, tmp_path / "m.onnx", precision="double")


def test_rows_of_the_check_have_the_types_of_the_sample(tmp_path):
    """A StandardScaler computes in single precision if all columns are single: of a high level it leaves little."""
    rows = signals(300, 0)[["count", "plain"]].astype(np.float32)
    pipeline = make_pipeline(pre.StandardScaler(), detector()).fit(rows)
    scorer = Scorer(export_onnx(pipeline, tmp_path / "m.onnx", sample=rows))
    np.testing.assert_allclose(scorer.anomaly_score(rows), -pipeline.score_samples(rows), rtol=1e-4, atol=1e-4)
    high = rows + np.float32(1e5)
    with pytest.raises(ValueError, match=r"StandardScaler .*makes other numbers of the type float32 than of float64"):
        export_onnx(pipeline.fit(high), tmp_path / "m.onnx", sample=high)


def test_rare_booleans_are_levels(tmp_path):
    """scikit-learn leads infrequent levels back to a word, which is none of them."""
    rows = pd.DataFrame({"braking": np.arange(300) % 2 == 0, "speed": np.random.default_rng(0).normal(80, 9, 300)})
    encoder = pre.OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=0.6, sparse_output=False)
    steps = ColumnTransformer([("levels", encoder, ["braking"])], remainder="passthrough")
    pipeline = make_pipeline(steps, detector()).fit(rows)
    scorer = Scorer(export_onnx(pipeline, tmp_path / "m.onnx"))
    np.testing.assert_allclose(scorer.anomaly_score(rows), -pipeline.score_samples(rows), rtol=1e-4, atol=1e-4)


def test_bins_of_exact_cells_have_exact_edges(tmp_path):
    """A cell just below an edge, by less than the rounding of a step that computes, is in the bin below."""
    rows = pd.DataFrame({"level": 1e8 + np.arange(400) % 40})
    bins = pre.KBinsDiscretizer(4, encode="ordinal", strategy="uniform")
    pipeline = make_pipeline(bins, detector(max_epochs=1)).fit(rows)
    edges = pipeline[0].bin_edges_[0][1:-1]
    new = pd.DataFrame({"level": np.concatenate([edges, np.nextafter(edges, 0), edges - 5e-5])})
    scorer = Scorer(export_onnx(pipeline, tmp_path / "m.onnx"))
    np.testing.assert_allclose(scorer.anomaly_score(new), -pipeline.score_samples(new), rtol=1e-4, atol=1e-6)


# What cannot be exported is refused


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


def test_an_encoder_of_no_value_is_refused_by_name(tmp_path):
    rows = drives(100, 0)[["driver", "load"]].assign(note=np.array(None, dtype=object))
    encode = pre.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2)
    steps = ColumnTransformer([("encode", encode, ["driver", "note"])], remainder="passthrough")
    pipeline = make_pipeline(steps, detector(max_epochs=1)).fit(rows)
    message = r"OrdinalEncoder \(the step 'columntransformer__encode'\).*Fit it without the column 'note', which has no"
    with pytest.raises(TypeError, match=message):
        export_onnx(pipeline, tmp_path / "m.onnx")


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


def test_the_command_line_takes_rows_for_the_check(tmp_path, capsys):
    """Numbers of text columns stay text, and other columns of the table are left out."""
    rows = signals(300, 0)[["tail", "plain"]].assign(code=np.where(np.arange(300) % 3, "007", "7"))
    numbers = make_pipeline(dec.PCA(2), pre.KBinsDiscretizer(4, encode="ordinal"))
    code = pre.OneHotEncoder(handle_unknown="ignore")
    steps = ColumnTransformer([("numbers", numbers, ["tail", "plain"]), ("code", code, ["code"])])
    save(make_pipeline(steps, detector(max_epochs=3)).fit(rows), tmp_path / "model", sample=rows)
    rows.assign(other="x").to_csv(tmp_path / "rows.csv", index=False, sep=";", decimal=",")
    export = ["export", str(tmp_path / "model"), str(tmp_path / "m.onnx")]
    assert main(export) == 1
    assert "or pass sample= (--sample)" in capsys.readouterr().err
    assert main([*export, "--sample", str(tmp_path / "rows.csv")]) == 0
    assert f"rows from {tmp_path / 'rows.csv'}" in capsys.readouterr().out
    assert Scorer(tmp_path / "m.onnx").metadata["parity"]["rows_from"] == "sample"
