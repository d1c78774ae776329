"""A bundle gives back what went in, and refuses whatever is not what was saved."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from anomalyvae import Scorer, VAEOutlierDetector, load, save
from anomalyvae.bundle import read_calibration, read_card
from anomalyvae.bundle.card import model_id_of, sha256_of, write_card
from anomalyvae.nets.bodies import BODIES, MLP


@pytest.fixture(scope="module")
def saved(detector, tmp_path_factory):
    return save(detector, tmp_path_factory.mktemp("bundle"), recipe={"rate_hz": 5}, figures={"auroc": 0.9})


@pytest.fixture
def folder(saved, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(saved, tmp_path / "bundle")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"objective": "reconstruction"},
        {"criterion": "log_likelihood"},
        {"contamination": 0.1},
        {"scaling": "quantile"},
        {"scaling": None},
    ],
)
def test_scores_are_bit_equal(settings, normal, fresh, tmp_path):
    detector = VAEOutlierDetector(random_state=0, max_epochs=3, **settings).fit(normal)
    again = load(save(detector, tmp_path / "bundle"))
    np.testing.assert_array_equal(again.score_samples(fresh), detector.score_samples(fresh))
    np.testing.assert_array_equal(again.predict(fresh), detector.predict(fresh))
    np.testing.assert_array_equal(again.p_values(fresh), detector.p_values(fresh))
    assert again.get_params() == detector.get_params()
    assert again.history_.equals(detector.history_)
    assert list(again.feature_scores(fresh)) == list(fresh)


def test_the_card_says_what_the_model_is(folder, detector):
    card = read_card(folder)
    assert card["format"] == 4
    assert card["columns"] == list(detector.feature_names_in_)
    assert card["windowing"] == {"rate_hz": 5}
    assert card["figures"] == {"auroc": 0.9}
    assert card["versions"].keys() >= {"anomalyvae", "torch"}
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "model.onnx", "model.safetensors"]


def test_the_card_knows_the_rows_that_were_learned(normal, tmp_path):
    def training(rows, **settings):
        detector = VAEOutlierDetector(random_state=0, max_epochs=1).fit(rows, **settings)
        return read_card(save(detector, tmp_path / "bundle"))["training"]

    known = training(normal)
    assert known["rows"] == len(normal)
    assert training(normal[::-1]) == known
    assert training(normal, sample_weight=1.0 + np.arange(len(normal)) % 2)["sha256"] != known["sha256"]
    changed = normal.copy()
    changed.iloc[7, 3] += 1e-12
    assert training(changed)["sha256"] != known["sha256"]


def test_models_are_reported_apart(folder, normal, tmp_path):
    other = save(VAEOutlierDetector(random_state=1, max_epochs=1).fit(normal), tmp_path / "other")
    assert read_card(other)["model_id"] != read_card(folder)["model_id"]


def test_saving_again_replaces(folder, autoencoder, fresh):
    save(autoencoder, folder)
    np.testing.assert_array_equal(load(folder).score_samples(fresh), autoencoder.score_samples(fresh))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_other_peoples_files_are_not_overwritten(detector, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"has other files than a bundle\. Choose another folder"):
        save(detector, tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_a_body_that_is_no_longer_offered_is_named(normal, tmp_path, monkeypatch):
    monkeypatch.setitem(BODIES, "gru", BODIES["mlp"])
    save(VAEOutlierDetector(body="gru", hidden=(8,), max_epochs=1).fit(normal), tmp_path / "old")
    monkeypatch.delitem(BODIES, "gru")
    with pytest.raises(ValueError, match=r"has body='gru', expected one of mlp, conv2d: .*Fit again with one of these"):
        load(tmp_path / "old")
    assert Scorer(tmp_path / "old").score(normal)["anomaly_score"].shape == (len(normal),)


def test_parameters_set_after_the_fit_are_checked_and_describe_no_other_model(normal, fresh, tmp_path):
    model = VAEOutlierDetector(random_state=0, max_epochs=2, hidden=(8,)).fit(normal)
    save(model.set_params(objective="reconstruction", criterion="near"), tmp_path / "m")
    assert [Scorer(tmp_path / "m").metadata[name] for name in ("objective", "criterion")] == ["elbo", "novelty"]
    np.testing.assert_array_equal(load(tmp_path / "m").anomaly_score(fresh), model.anomaly_score(fresh))
    with pytest.raises(ValueError, match=r"Got max_epochs=0, expected 'auto' or an integer of at least 1"):
        save(model.set_params(max_epochs=0), tmp_path / "m")


def test_a_callable_body_is_refused(normal, tmp_path):
    with pytest.raises(TypeError, match="a callable cannot be stored without pickling"):
        save(VAEOutlierDetector(body=MLP, max_epochs=1).fit(normal), tmp_path / "bundle")


def edit(folder, **changes):
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | changes))


def forge(folder, **changes):
    """What somebody does who forges a bundle with care: all checksums fit."""
    card = json.loads((folder / "card.json").read_text()) | changes
    del card["digest"], card["parts"]
    card["model_id"] = model_id_of(card, sha256_of(folder / "model.safetensors"))
    write_card(card, folder)


def outcome(folder, rows):
    """Scores, or None after the named error; any other error is raised."""
    try:
        return load(folder).score_samples(rows)
    except ValueError as error:
        if any(text in str(error) for text in ("do not fit together", "not the card", "not the file", "expected 4")):
            return None
        raise


def test_no_bundle(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not a bundle: it has no card\.json\. Pass the folder"):
        load(tmp_path)


@pytest.mark.parametrize(("number", "remedy"), [(5, "Update anomalyvae, or save"), (2, "Fit the model again")])
def test_another_format(folder, number, remedy):
    edit(folder, format=number)
    with pytest.raises(ValueError, match=rf"format {number}, expected 4\. {remedy}"):
        load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "one", "parts": {}}', "null"])
def test_a_damaged_card(folder, text):
    (folder / "card.json").write_text(text)
    with pytest.raises(ValueError, match="not the card of a bundle"):
        load(folder)


@pytest.mark.parametrize(
    "spoil", [lambda b: b[:-1], lambda b: b[:-9] + b"\0" * 9, lambda b: b""], ids=["short", "0", ""]
)
def test_damaged_arrays(folder, spoil):
    path = folder / "model.safetensors"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match="is missing or not the file that the card describes"):
        load(folder)


def test_a_part_outside_the_folder(folder):
    edit(folder, parts={"../../etc/passwd": "0"})
    with pytest.raises(ValueError, match="lists the files"):
        load(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: {name: array for name, array in a.items() if "log_variance" not in name},
        lambda a: a | {"network.extra": np.zeros(1)},
        lambda a: a | {"network.likelihood.log_variance": np.zeros(7)},
        lambda a: a | {"network.likelihood.log_variance": np.full(6, np.nan)},
        lambda a: {name: array for name, array in a.items() if "memorised" not in name},
        lambda a: a | {"network.memorised.rows": a["network.memorised.rows"][:0]},
        lambda a: a | {"network.memorised.rows": a["network.memorised.rows"][:, 1:]},
        lambda a: a | {"network.memorised.lines": a["network.memorised.lines"][1:]},
        lambda a: a | {"calibration.weight": -a["calibration.weight"]},
        lambda a: a | {"calibration.scores": a["calibration.scores"][:-1]},
        lambda a: {name: array.astype(np.float32) for name, array in a.items()},
    ],
)
def test_forged_arrays(folder, change):
    arrays = change(load_file(folder / "model.safetensors"))
    save_file(arrays, folder / "model.safetensors")
    forge(folder)
    with pytest.raises(ValueError, match="card and arrays do not fit together"):
        load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters": {"objective": "gan"}},
        {"parameters": {"no_such": 1}},
        {"offset": "low"},
        {"architecture": {}},
        {"columns": ["one"]},
        {"n_features": 7},
        {"history": {"loss": [1], "epoch": [1, 2]}},
        {"categories": {"signal 0": ["a"]}},
        {"units": {"signal 0": 1}},
        {"training": None},
    ],
)
def test_a_forged_card(folder, changes):
    forge(folder, **changes)
    with pytest.raises(ValueError, match=r"is inconsistent: its card and arrays do not fit together .*Save it again"):
        load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"units": {"signal 0": "mph"}},
        {"offset": -1.0},
        {"offset": -1e308},
        {"windowing": {"rate_hz": 50}},
        {"columns": [f"signal {i}" for i in (1, 0, 2, 3, 4, 5)]},
        {"training": {"rows": 1}},
        {"calibration": {"rows": 9, "evidence": 9.0}},
        {"model_id": "0" * 12},
        {"note": "a new key"},
    ],
)
def test_an_edited_card_is_noticed(folder, changes):
    edit(folder, **changes)
    for read in (load, read_card, read_calibration, Scorer):
        with pytest.raises(ValueError, match="do not fit together"):
            read(folder)


def test_a_card_without_a_digest_is_bound_by_its_model_id(folder):
    card = json.loads((folder / "card.json").read_text())
    del card["digest"]  # as in bundles of earlier versions
    (folder / "card.json").write_text(json.dumps(card))
    load(folder)
    edit(folder, offset=-1.0)
    with pytest.raises(ValueError, match="model_id is of another model"):
        load(folder)


@pytest.mark.parametrize(
    "text",
    [
        lambda card: card.replace('"offset": -', '"offset": 1, "offset": -', 1),
        lambda card: card.replace('"offset": -', '"offset": -1e999, "was": -', 1),
        lambda card: card.replace('"offset": -', '"offset": NaN, "was": -', 1),
        lambda card: "[" * 100_000,
        lambda card: card + card,
        lambda card: card.encode("utf-16"),
    ],
    ids=["twice", "infinite", "NaN", "deep", "two", "UTF-16"],
)
def test_json_that_means_no_one_thing(folder, text):
    path = folder / "card.json"
    spoilt = text(path.read_text())
    path.write_bytes(spoilt if isinstance(spoilt, bytes) else spoilt.encode())
    with pytest.raises(ValueError, match=r"card\.json is not the card of a bundle .*Save the model again"):
        load(folder)


def test_arrays_of_another_model_are_noticed(folder, normal, tmp_path):
    other = save(VAEOutlierDetector(random_state=1, max_epochs=1).fit(normal), tmp_path / "other")
    shutil.copy(other / "model.safetensors", folder)
    parts = json.loads((folder / "card.json").read_text())["parts"]
    edit(folder, parts=parts | {"model.safetensors": sha256_of(folder / "model.safetensors")})
    with pytest.raises(ValueError, match="do not fit together"):
        load(folder)


def test_a_graph_of_another_model_is_noticed(folder, normal, tmp_path):
    other = save(VAEOutlierDetector(random_state=1, max_epochs=1).fit(normal), tmp_path / "other")
    shutil.copy(other / "model.onnx", folder)
    forge(folder)
    with pytest.raises(ValueError, match=r"its model\.onnx is of another model"):
        Scorer(folder)


def test_an_edited_graph_is_noticed(folder, tmp_path):
    file = tmp_path / "edited.onnx"
    whole = (folder / "model.onnx").read_bytes()
    file.write_bytes(whole.replace(b'"offset": -', b'"offset":  ', 1))
    with pytest.raises(ValueError, match=r"was changed after it was exported\. Export the model again"):
        Scorer(file)
    file.write_bytes(whole[:-87])  # without its last entry, the checksum
    with pytest.raises(ValueError, match="was changed after it was exported"):
        Scorer(file)


@pytest.mark.parametrize("name", ["scaling.scale", "likelihood.log_variance"])
@pytest.mark.parametrize("value", [0.0, -1.0, 1e308, -1e308, 5e-324])
def test_arrays_that_give_no_score_are_refused(folder, fresh, name, value):
    arrays = load_file(folder / "model.safetensors")
    for key in arrays:
        if key.endswith(name):
            arrays[key] = np.full_like(arrays[key], value)
    save_file(arrays, folder / "model.safetensors")
    forge(folder)
    scores = outcome(folder, fresh)
    assert scores is None or np.isfinite(scores).all()


def test_a_huge_architecture_allocates_nothing(folder):
    architecture = read_card(folder)["architecture"] | {"hidden": [10**9, 10**9]}
    forge(folder, architecture=architecture)
    with pytest.raises(ValueError, match="do not fit together"):
        load(folder)
