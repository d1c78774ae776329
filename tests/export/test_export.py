"""The ONNX file is the whole detector: what it gives is what the detector gives, or there is no file."""

import json

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from onnx import helper
from sklearn.exceptions import NotFittedError

from anomalyvae import Scorer, VAEOutlierDetector, export_onnx, load, save
from anomalyvae.bundle import read_card
from anomalyvae.calibration import Calibration
from anomalyvae.detector.fitting import MEMORY_SIZE
from anomalyvae.export import graph as graphs
from anomalyvae.export.scaling import Cells
from anomalyvae.nets.bodies import BODIES, MLP

EVERY = [
    *({"criterion": score} for score in ("memory", "elbo", "reconstruction", "kl", "log_likelihood")),
    *({"objective": "reconstruction", "criterion": score} for score in ("memory", "reconstruction")),
    *({"scaling": scaling} for scaling in ("standard", "robust", "quantile", None)),
    {"input_shape": (2, 3), "hidden": (16,)},
    {"hidden": (), "latent_dim": 1},
    {"memory": 3},  # fewer rows than neighbours
    {"contamination": 0.1},
]


def fit(rows, memory=MEMORY_SIZE, **settings):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anomalyvae.detector.fitting.MEMORY_SIZE", memory)
        return VAEOutlierDetector(**{"random_state": 0, "max_epochs": 3, "validation_fraction": 0.3} | settings).fit(
            rows
        )


def riddled(x, share=0.3, seed=0):
    return x.mask(np.random.default_rng(seed).random(x.shape) < share)


def with_categories(x):
    """The same rows with text and booleans among them."""
    road = pd.Series(np.where(x["signal 0"] > x["signal 0"].median(), "dry", "wet"), index=x.index)
    return x.assign(road=road, wet=road == "wet", gear=pd.Categorical(np.where(x["signal 1"] > 4.99, "low", "high")))


def run(file, feeds):
    """Plain onnxruntime, as anybody has it."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return dict(zip((o.name for o in session.get_outputs()), session.run(None, feeds), strict=True))


def exactly(detector, path, **options):
    return export_onnx(detector, path, precision="double", **options)


@pytest.fixture
def file(detector, tmp_path):
    return exactly(detector, tmp_path / "model.onnx", feature_scores=True)


@pytest.mark.parametrize("settings", EVERY, ids=str)
def test_the_graph_gives_what_the_detector_gives(settings, normal, fresh, strange, tmp_path):
    rows = pd.concat([fresh, strange, riddled(fresh), 1e3 * fresh])
    if settings.get("scaling", "") is None:
        center, unit = normal.mean(), normal.std()
        normal, rows = (normal - center) / unit, (rows - center) / unit
    detector = fit(normal, **settings)
    expected, features, label = detector.anomaly_score(rows), detector.feature_scores(rows), detector.predict(rows)
    scorer = Scorer(exactly(detector, tmp_path / "m.onnx", feature_scores=True))
    got = scorer.score(rows)
    np.testing.assert_allclose(got["anomaly_score"], expected, rtol=1e-9)
    np.testing.assert_allclose(scorer.decision_function(rows), detector.decision_function(rows), rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(got["is_outlier"], label < 0)
    assert got["is_outlier"].dtype == bool
    np.testing.assert_allclose(got["p_value"], detector.p_values(rows), rtol=1e-12)
    np.testing.assert_allclose(got["feature_scores"], features, rtol=1e-9, atol=1e-9)
    assert 0 < np.mean(got["is_outlier"]) < 1  # there were both kinds

    scorer = Scorer(export_onnx(detector, tmp_path / "m.onnx", feature_scores=True))
    assert scorer.metadata["precision"] == "single"
    got = scorer.score(rows)
    np.testing.assert_allclose(got["anomaly_score"], expected, rtol=1e-4, atol=1e-4 * np.median(np.abs(expected)))
    away = np.abs(expected + detector.offset_) > 1e-4 * np.abs(expected)
    np.testing.assert_array_equal(got["is_outlier"][away], label[away] < 0)
    np.testing.assert_array_equal(got["is_outlier"], scorer.decision_function(rows) < 0)
    np.testing.assert_allclose(got["feature_scores"], features, rtol=1e-4, atol=1e-4)


def test_single_precision_is_close_far_from_zero(detector, fresh, tmp_path):
    """Rows are scaled in double: small differences of large numbers are kept."""
    rows = 1e-3 * fresh + 1.7e9
    got = Scorer(export_onnx(detector, tmp_path / "m.onnx", precision="single")).anomaly_score(rows)
    np.testing.assert_allclose(got, detector.anomaly_score(rows), rtol=1e-4)


def test_precision_falls_back_where_single_is_not_enough(detector, normal, tmp_path, monkeypatch):
    """A graph whose single precision is off by a little is replaced by the double one, or refused."""
    honest = graphs.detector_outputs

    def rough(x, *others):
        outputs = honest(x, *others)
        if x.graph.single:
            outputs["anomaly_score"] = outputs["anomaly_score"] * (1 + error)
        return outputs

    monkeypatch.setattr(graphs, "detector_outputs", rough)
    error = 2e-5
    scorer = Scorer(export_onnx(detector, tmp_path / "s.onnx"))
    assert scorer.metadata["precision"] == "single"
    assert (
        scorer.score(normal)["p_value"] >= detector.p_values(normal) - 1e-9
    ).all()  # calibration rows among them tie
    error = 5e-5
    assert Scorer(export_onnx(detector, tmp_path / "a.onnx")).metadata["precision"] == "double"
    with pytest.raises(ArithmeticError, match=r"does not agree.*or pass precision='double'"):
        export_onnx(detector, tmp_path / "n.onnx", precision="single")
    with pytest.raises(ValueError, match=r"Got precision='half', expected 'auto', 'double' or 'single'"):
        export_onnx(detector, tmp_path / "n.onnx", precision="half")


@pytest.mark.parametrize(
    "settings",
    [
        *({"criterion": score} for score in ("memory", "elbo", "log_likelihood")),
        {"objective": "reconstruction"},
        {"objective": "adversarial", "criterion": "energy"},
        {"scaling": "quantile"},
    ],
    ids=str,
)
def test_categories_go_in_as_text(settings, normal, fresh, tmp_path):
    detector = fit(with_categories(normal), **settings)
    rows = with_categories(fresh)
    rows["wet"] = rows["wet"].astype("boolean")
    rows.loc[rows.index[::3], ["gear", "signal 2"]] = None
    rows.loc[rows.index[::5], ["road", "wet"]] = None
    rows.loc[rows.index[1::7], "road"] = "lava"
    file = exactly(detector, tmp_path / "m.onnx", feature_scores=True)
    feeds = {name: rows[[name]].to_numpy() for name in fresh}
    feeds |= {name: rows[[name]].astype(object).fillna("<missing>").to_numpy() for name in ("road", "gear")}
    feeds["wet"] = rows[["wet"]].to_numpy(dtype=float, na_value=np.nan)
    got = run(file, feeds)
    np.testing.assert_allclose(got["anomaly_score"], detector.anomaly_score(rows), rtol=1e-9)
    np.testing.assert_array_equal(got["is_outlier"], detector.predict(rows) < 0)
    np.testing.assert_allclose(got["p_value"], detector.p_values(rows), rtol=1e-12)
    np.testing.assert_allclose(got["feature_scores"], detector.feature_scores(rows), rtol=1e-9, atol=1e-9)


def test_categories_alone(normal, fresh, tmp_path):
    names = ["road", "wet", "gear"]
    detector = fit(with_categories(normal)[names])
    rows = with_categories(fresh)[names]
    got = Scorer(exactly(detector, tmp_path / "m.onnx")).anomaly_score(rows)
    np.testing.assert_allclose(got, detector.anomaly_score(rows), rtol=1e-9)


def test_a_constant_column_and_copies_of_rows(normal, fresh, tmp_path):
    rows = pd.concat([normal[:50]] * 12).assign(still=7.0)
    detector = fit(rows)
    new = pd.concat([rows[:60], fresh.assign(still=7.0), fresh.assign(still=8.0)])
    got = Scorer(exactly(detector, tmp_path / "m.onnx")).anomaly_score(new)
    np.testing.assert_allclose(got, detector.anomaly_score(new), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("branches", [4096, 8])
@pytest.mark.parametrize("count", [0, 3, 4, 1000])
def test_p_values_count_ties_as_the_calibration_does(branches, count, monkeypatch):
    monkeypatch.setattr(graphs, "_BRANCHES", branches)
    rng = np.random.default_rng(count)
    more = np.round(rng.gamma(2, size=count), 2)  # with ties of their own
    weight = np.concatenate([[1.0, 2.0, 1.0, 0.5, 1.0], rng.uniform(0.1, 2, count)])
    calibration = Calibration(np.concatenate([[0.1, 0.2, 0.2, 0.2, 0.3], more]), weight)
    asked = np.concatenate([[-1.0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 1e300], more])
    graph = graphs.Graph()
    p = graphs._p_value(graphs.Value(graph, "s"), calibration, calibration.scores + 1e-9)
    infos = [helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, ["n"]) for name in ("s", p.name)]
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "p", infos[:1], infos[1:], list(graph.constants.values())),
        opset_imports=[helper.make_opsetid(domain, number) for domain, number in graphs.OPSET.items()],
        ir_version=9,
    )
    expected = calibration.p_values(asked)
    for rounding in (1, 1 - 1e-14, 1 + 1e-14):
        got = run(proto.SerializeToString(), {"s": asked * rounding})[p.name]
        np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("score", ["elbo", "memory"])
def test_rows_that_are_the_threshold_are_on_the_same_side_of_it(score, normal, tmp_path):
    """Of few rows, or few kinds of rows, many tie with the calibration, and some are where the line is drawn."""
    for rows in (normal[:12], np.round(normal / normal.std()), pd.concat([normal[:20]] * 20)):
        detector = VAEOutlierDetector(random_state=0, max_epochs=3, criterion=score).fit(rows)
        scorer = Scorer(exactly(detector, tmp_path / "m.onnx"))
        got = scorer.score(rows)
        np.testing.assert_array_equal(got["is_outlier"], detector.predict(rows) < 0)
        np.testing.assert_array_equal(got["is_outlier"], scorer.decision_function(rows) < 0)
        scores = detector.anomaly_score(rows)
        tied = detector.calibration_.p_values(scores - 1e-10 * np.abs(scores))  # its own last bit may break a tie
        np.testing.assert_allclose(got["p_value"], tied, rtol=1e-12)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("scaling", ["asinh", "quantile", None])
def test_a_constant_table_can_be_exported(value, scaling, tmp_path):
    rows = np.full((100, 3), value)
    detector = fit(rows, scaling=scaling)
    scorer = Scorer(exactly(detector, tmp_path / "m.onnx"))
    np.testing.assert_array_equal(scorer.predict(rows), detector.predict(rows))
    assert (scorer.predict(rows + 1) == -1).all()


@pytest.mark.parametrize("case", ["all equal", "level 1.7e9", "level 1e12", "beyond 2^53", "near a constant"])
def test_labels_and_p_values_are_those_of_the_detector(case, tmp_path):
    rng = np.random.default_rng(0)
    rows, new = rng.normal(size=(300, 4)), rng.normal(size=(600, 4))
    if case == "all equal":
        rows, new = np.full((300, 4), 3.3), np.full((600, 4), 3.3)
    elif case.startswith("level"):
        rows, new = rows + float(case.split()[1]), new + float(case.split()[1])
    elif case == "beyond 2^53":
        rows, new = (np.float64(2**60) + np.rint(1000 * x) for x in (rows, new))
    else:
        rows[:, 2], new[:, 2] = 9.81, np.float32(9.81)
    detector = fit(rows)
    got = Scorer(export_onnx(detector, tmp_path / "m.onnx")).score(np.concatenate([new, rows]))
    score = detector.anomaly_score(np.concatenate([new, rows]))
    np.testing.assert_array_equal(got["is_outlier"], score > -detector.offset_)
    nearly = 6e-5 * np.maximum(np.abs(score), np.median(np.abs(score)))  # single precision, and what counts as a tie
    p = detector.calibration_.p_values
    assert ((got["p_value"] >= p(score + nearly) - 1e-12) & (got["p_value"] <= p(score - nearly) + 1e-12)).all()


def test_the_threshold_of_equal_rows_is_no_rounding_error(tmp_path):
    """A share of rows that differ by rounding alone is not flagged, by the detector or its file."""
    rows = np.tile([0.0, 7.25, 0.1, -273.15], (100, 1))
    detector = fit(rows, criterion="memory", objective="reconstruction", contamination=0.1)
    near = rows * (1 + 2.0**-52 * np.random.default_rng(0).integers(-2, 3, rows.shape))
    assert (detector.predict(near) == 1).all()
    assert (Scorer(export_onnx(detector, tmp_path / "m.onnx")).predict(near) == 1).all()


def test_scores_near_a_calibration_score_do_not_tie_by_the_rounding_of_distances(tmp_path):
    """Calibration scores are rounded up by it already."""
    rng = np.random.default_rng(0)
    rows, new = (6e4 + rng.normal(size=(n, 3)) for n in (300, 3000))
    detector = fit(rows, criterion="memory", scaling=None)
    got = Scorer(exactly(detector, tmp_path / "m.onnx")).score(new)
    np.testing.assert_allclose(got["p_value"], detector.p_values(new), rtol=1e-9)


def test_what_the_file_is(file):
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    assert {(o.domain, o.version) for o in model.opset_import} >= {("", 20)}
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx.ml"}
    used = {node.op_type for node in model.graph.node}
    assert not {name for name in used if "Random" in name or name in ("Bernoulli", "Multinomial", "Dropout")}
    names = [node.name for node in model.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    floats = {t.data_type for t in model.graph.initializer} - {onnx.TensorProto.INT64, onnx.TensorProto.BOOL}
    assert floats == {onnx.TensorProto.DOUBLE}
    (rows,) = model.graph.input
    assert rows.type.tensor_type.shape.dim[0].dim_param == "n"
    assert rows.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE


@pytest.mark.parametrize("count", [0, 1, 5, 2000])
def test_any_number_of_rows(file, detector, fresh, count):
    rows = pd.concat([fresh] * 5)[:count].to_numpy()
    got = run(file, {"rows": rows})
    assert got["is_outlier"].shape == got["p_value"].shape == (count,)
    if count:
        expected = detector.anomaly_score(pd.DataFrame(rows, columns=fresh.columns))
        np.testing.assert_allclose(got["anomaly_score"], expected)


def test_the_metadata_say_what_the_model_is(file, detector, tmp_path):
    metadata = json.loads({entry.key: entry.value for entry in onnx.load(file).metadata_props}["anomalyvae"])
    assert metadata["model_id"] == read_card(save(detector, tmp_path / "bundle"))["model_id"]
    assert metadata["columns"] == list(detector.feature_names_in_)
    assert metadata["offset"] == detector.offset_
    assert metadata["preprocessing"] == "inside"
    assert metadata["calibration"]["evidence"] == detector.calibration_.evidence
    assert metadata["parity"]["rows"] >= 256
    assert metadata["parity"]["score_difference"] < 1e-9
    assert metadata["parity"]["labels_that_differ"] == metadata["parity"]["p_values_that_differ"] == 0
    assert sorted(path.name for path in file.parent.iterdir()) == ["bundle", "model.onnx"]


def test_one_input_per_column(detector, fresh, tmp_path):
    file = exactly(detector, tmp_path / "m.onnx", inputs="columns")
    got = run(file, {name: fresh[[name]].to_numpy() for name in fresh})
    np.testing.assert_allclose(got["anomaly_score"], detector.anomaly_score(fresh), rtol=1e-9)
    np.testing.assert_allclose(Scorer(file).anomaly_score(fresh.to_numpy()), detector.anomaly_score(fresh), rtol=1e-9)


@pytest.mark.parametrize(
    ("output", "spoil"),
    [
        ("anomaly_score", lambda v: v * 1.001),
        ("is_outlier", lambda v: v.op("Not")),
        ("p_value", lambda v: v * 0.9),
        ("feature_scores", lambda v: v + 0.01),
        ("anomaly_score", lambda v: v / 0.0 * 0.0),
    ],
    ids=["score", "label", "p_value", "feature_scores", "nan"],
)
def test_a_graph_that_disagrees_is_not_written(output, spoil, file, autoencoder, monkeypatch):
    honest, before = graphs.detector_outputs, file.read_bytes()

    def tampered(x, *others):
        outputs = honest(x, *others)
        return outputs | {output: spoil(outputs[output])}

    monkeypatch.setattr(graphs, "detector_outputs", tampered)
    with pytest.raises(ArithmeticError, match=r"does not agree with the detector.*No file was written\. Score with"):
        export_onnx(autoencoder, file, feature_scores=True)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_only_spoiled_rows_can_tell(file, detector, monkeypatch):
    """A graph that is wrong for rows with missing cells alone is found out."""
    monkeypatch.setattr(Cells, "filled", lambda cells, filling: cells.s)
    with pytest.raises(ArithmeticError, match="does not agree"):
        export_onnx(detector, file)


def test_what_has_no_form_is_refused_by_name(normal, tmp_path):
    def my_body(input_shape, latent_dim):
        return MLP(input_shape, latent_dim)

    with pytest.raises(TypeError, match=r"body is <function .*my_body.*Fit with one of body='mlp', 'conv2d'"):
        export_onnx(fit(normal, body=my_body), tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("body", ["mlp", "conv2d"])
def test_a_layer_without_a_form_is_refused_and_its_bundle_does_without(body, normal, fresh, tmp_path, monkeypatch):
    plain = BODIES[body]

    def bent(input_shape, latent_dim, hidden):
        network = plain(input_shape, latent_dim, hidden)
        network.encoder.append(torch.nn.Tanh())
        return network

    monkeypatch.setitem(BODIES, body, bent)
    detector = fit(normal, body=body, input_shape=(1, 2, 3), hidden=(8,))
    refusal = r"The network has a part Tanh that cannot be exported.*layers of body='mlp', 'conv2d'.*Score"
    with pytest.raises(TypeError, match=refusal):
        export_onnx(detector, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()
    with pytest.warns(UserWarning, match=rf"has no ONNX file.*{refusal}"):
        save(detector, tmp_path / "bundle")
    np.testing.assert_array_equal(load(tmp_path / "bundle").anomaly_score(fresh), detector.anomaly_score(fresh))


def test_a_body_of_an_unknown_kind_is_refused_by_name(normal, tmp_path, monkeypatch):
    class Own(torch.nn.Module):
        def __init__(self, input_shape, latent_dim, hidden):
            super().__init__()
            inner = MLP(input_shape, latent_dim, hidden)
            self.encode, self.decode = inner.encode, inner.decode
            self.inner = inner

    monkeypatch.setitem(BODIES, "mlp", Own)
    with pytest.raises(TypeError, match=r"The network has a part Own that cannot be exported"):
        export_onnx(fit(normal), tmp_path / "m.onnx")


def test_an_unfitted_detector_is_refused(tmp_path):
    with pytest.raises(NotFittedError):
        export_onnx(VAEOutlierDetector(), tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("change", "inputs", "message"),
    [
        (lambda x: x, "table", r"Got inputs='table', expected 'auto', 'matrix' or 'columns'"),
        (lambda x: x.to_numpy(), "columns", r"fitted to rows without column names.*pass inputs='matrix'"),
        (lambda x: x.rename(columns={"signal 0": "p_value"}), "columns", r"names 'p_value';.*or pass inputs='matrix'"),
        (with_categories, "matrix", r"with the categories 'road', 'wet', 'gear';.*Pass inputs='columns'"),
        (
            lambda x: x.assign(road=["<missing>", "dry"] * 300),
            "auto",
            r"'road' has the level '<missing>'.*Replace",
        ),
    ],
)
def test_inputs_that_cannot_be(change, inputs, message, normal, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_onnx(fit(change(normal), max_epochs=1), tmp_path / "m.onnx", inputs=inputs)


def test_rows_that_single_precision_cannot_put_in_order_are_compared_in_double(tmp_path):
    """One far row makes the others so close, in units of the spread, that their order would be that of rounding."""
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(-15.87, 1e-3, 62), [1000.0]])[:, None]
    model = VAEOutlierDetector(hidden=(8,), max_epochs=1, random_state=2, validation_fraction=0.0).fit(rows)
    scorer = Scorer(export_onnx(model, tmp_path / "close.onnx"))
    assert scorer.metadata["precision"] == "double"
    np.testing.assert_allclose(scorer.anomaly_score(rows), model.anomaly_score(rows), rtol=1e-9)
    plain = VAEOutlierDetector(hidden=(8,), max_epochs=1, random_state=2).fit(rng.normal(size=(200, 4)))
    assert Scorer(export_onnx(plain, tmp_path / "plain.onnx")).metadata["precision"] == "single"


def test_neighbours_that_tie_count_once_in_single_precision(tmp_path):
    """Of equal rows among the stored ones, some may be the last of the neighbours, and others beyond."""
    rng = np.random.default_rng(0)
    rows, new = rng.normal(size=(200, 4)), rng.normal(size=(400, 4))
    detector = fit(np.concatenate([rows, rows[:80]]), criterion="near")
    scorer = Scorer(export_onnx(detector, tmp_path / "m.onnx", precision="single"))
    score = detector.anomaly_score(new)
    nearly = 3e-6 * np.maximum(np.abs(score), 1)
    assert (np.abs(scorer.score(new)["anomaly_score"] - score) < nearly).all()


def test_rows_at_one_distance_are_scored_in_double_precision(tmp_path):
    """Columns with few values: rounding would choose the neighbours in single precision."""
    rng = np.random.default_rng(0)
    rows, new = (rng.integers(0, 5, size=(n, 3)).astype(float) for n in (300, 400))
    detector = fit(rows)
    scorer = Scorer(export_onnx(detector, tmp_path / "m.onnx"))
    assert scorer.metadata["precision"] == "double"
    np.testing.assert_allclose(scorer.score(new)["anomaly_score"], detector.anomaly_score(new), rtol=1e-9, atol=1e-9)
