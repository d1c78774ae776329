"""A bundle or an ONNX file that was damaged or edited gives the same scores, or one named error."""

import copy
import json
import shutil
from pathlib import Path
from random import Random

import numpy as np
import onnx
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from anomalyvae import Scorer, VAEOutlierDetector, load, save
from anomalyvae.bundle import read_calibration, read_card
from anomalyvae.bundle.card import model_id_of, sha256_of, write_card
from anomalyvae.health.profile import Profile
from anomalyvae.scoring.onnx_file import METADATA, seal
from anomalyvae.train import ranges_of, recipe_of

HERE = Path(__file__).parent
REMEDY = ("Save it", "Save the model", "Export the model", "Export it", "Pass one that", "Fit the model", "Fit it with",
          "Fit one with", "Update anomalyvae", "Learn it again")  # fmt: skip
VALUES = [None, True, -1, 0, 7, 10**30, 1e308, -0.5, "", "x", [], {}, [[]], {"a": {}}, ["x"] * 9, "9" * 5000]


def mutated(data: bytes, rng: Random) -> bytes:
    """Bytes with one region changed, cut out, repeated or swapped."""
    start = rng.randrange(len(data))
    stop = min(len(data), start + rng.choice((1, 1, 2, 8, 64, 999)))
    part = data[start:stop]
    kind = rng.randrange(6)
    if kind == 0:
        part = bytes(byte ^ (1 << rng.randrange(8)) for byte in part)
    elif kind == 1:
        part = bytes(rng.choice((0, 255, 32, 48, 123)) for _ in part)
    elif kind == 2:
        part = b""
    elif kind == 3:
        part = part * 3
    elif kind == 4:
        return data[:start]
    else:
        part = rng.randbytes(len(part))
    return data[:start] + part + data[stop:]


def outcome(call, *arguments):
    """What a call gives, or None after an error that says what to do; any other error is raised."""
    try:
        return call(*arguments)
    except (ValueError, FileNotFoundError) as error:
        if type(error) in (ValueError, FileNotFoundError) and any(remedy in str(error) for remedy in REMEDY):
            return None
        raise


def rows():
    rng = np.random.default_rng(0)
    return pd.DataFrame(rng.normal(size=(4, 3)), columns=["a", "b", "c"]).assign(kind=["on", "off", "on", None])


def by_load(folder):
    return load(folder).score_samples(rows())


def by_scorer(place):
    return Scorer(place, threads=1).score(rows(), ["anomaly_score", "p_value"])


@pytest.fixture
def bundle(detector_of_rows, tmp_path):
    return shutil.copytree(detector_of_rows, tmp_path / "bundle")


@pytest.fixture(scope="module")
def detector_of_rows(tmp_path_factory):
    """A bundle of the present version."""
    table = pd.concat([rows()] * 12, ignore_index=True)
    table[["a", "b", "c"]] += np.random.default_rng(1).normal(size=(len(table), 3))
    detector = VAEOutlierDetector(hidden=(4,), latent_dim=2, max_epochs=2, random_state=0).fit(table)
    return save(detector, tmp_path_factory.mktemp("mutations") / "bundle", units={"a": "m"})


@pytest.mark.parametrize("times", [40, pytest.param(1500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["card.json", "model.safetensors", "model.onnx"])
def test_any_damage_to_a_file_of_a_bundle_is_named(bundle, name, times):
    whole, expected = (bundle / name).read_bytes(), by_load(bundle)
    rng = Random(name)  # noqa: S311
    for _ in range(times):
        (bundle / name).write_bytes(mutated(whole, rng))
        found = outcome(by_load, bundle)
        assert found is None or np.array_equal(found, expected)
        for call in (by_scorer, read_card, read_calibration):
            outcome(call, bundle)


@pytest.mark.parametrize("times", [60, pytest.param(3000, marks=pytest.mark.slow)])
def test_any_damage_to_an_onnx_file_is_named(bundle, tmp_path, times):
    whole, expected, file = (bundle / "model.onnx").read_bytes(), by_scorer(bundle), tmp_path / "model.onnx"
    rng = Random(0)  # noqa: S311
    for _ in range(times):
        file.write_bytes(mutated(whole, rng))
        found = outcome(by_scorer, file)
        assert found is None or all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("evidence", [None, "many", -1, 0, float("nan")])
def test_a_file_that_forges_its_calibration_is_refused(bundle, evidence):
    file = bundle / "model.onnx"
    model = onnx.load(file)
    metadata = Scorer(file).metadata
    metadata["calibration"]["evidence"] = evidence
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {METADATA: json.dumps(metadata)})
    file.write_bytes(seal(model.SerializeToString()))
    with pytest.raises(ValueError, match=r"has a wrong calibration|does not describe a model"):
        Scorer(file)


def places(value, path=()):
    """All places in nested JSON."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def forged(card, path, value):
    card = copy.deepcopy(card)
    inner = card
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return card


def uses(folder):
    """All that reads a card; each gives a result or a named error."""
    outcome(load, folder)
    outcome(Scorer, folder)
    outcome(read_calibration, folder)
    outcome(ranges_of, folder)
    card = outcome(read_card, folder)
    if card is not None and card["windowing"] is not None:
        outcome(recipe_of, folder)
    if card is not None and card["health"] is not None:
        outcome(Profile.from_dict, card["health"])


@pytest.mark.parametrize("source", ["detector", "windows"])
@pytest.mark.parametrize("share", [0.04, pytest.param(1, marks=pytest.mark.slow)])
def test_a_forged_card_with_fitting_checksums_ends_in_a_named_error(source, share, tmp_path):
    folder = shutil.copytree(HERE / "format-4" / source, tmp_path / "bundle")
    card = json.loads((folder / "card.json").read_text())
    del card["parts"]
    rng = Random(0)  # noqa: S311
    for path in places(card):
        for value in VALUES:
            if path and rng.random() < share:
                fake = forged(card, path, value)
                if path[0] != "model_id":
                    fake["model_id"] = model_id_of(fake, sha256_of(folder / "model.safetensors"))
                write_card(fake, folder)
                uses(folder)


def test_a_card_without_one_of_its_keys_scores_the_same_or_is_refused(bundle):
    card, expected = json.loads((bundle / "card.json").read_text()), by_load(bundle)
    for name in card.keys() - {"digest"}:
        rest = {key: value for key, value in card.items() if key not in (name, "digest")}
        (bundle / "card.json").write_text(json.dumps(rest))
        found = outcome(by_load, bundle)
        assert found is None or np.array_equal(found, expected)
        for call in (by_scorer, read_calibration, ranges_of):
            outcome(call, bundle)


@pytest.mark.parametrize("share", [0.1, pytest.param(1, marks=pytest.mark.slow)])
def test_forged_arrays_with_fitting_checksums_end_in_a_named_error(share, tmp_path):
    folder = shutil.copytree(HERE / "format-4" / "detector", tmp_path / "bundle")
    card = json.loads((folder / "card.json").read_text())
    del card["parts"]
    arrays = load_file(folder / "model.safetensors")
    rng = Random(0)  # noqa: S311
    changes = [
        lambda a: a[:0], lambda a: a[..., None], lambda a: np.repeat(a, 2, 0), lambda a: a.ravel(), lambda a: -a,
        lambda a: a * 0, lambda a: a + 1e308, lambda a: a - 1e308, lambda a: a * np.inf, lambda a: a * np.nan,
        lambda a: a.astype(np.float32), lambda a: a.astype(np.int64), lambda a: a * 1e-320, lambda a: None,
    ]  # fmt: skip
    for name, array in arrays.items():
        for change in changes:
            if rng.random() < share:
                with np.errstate(all="ignore"):
                    new = change(array) if array.ndim else array
                given = {**arrays, name: new} if new is not None else {k: v for k, v in arrays.items() if k != name}
                save_file({k: np.ascontiguousarray(v) for k, v in given.items()}, folder / "model.safetensors")
                card["model_id"] = model_id_of(card, sha256_of(folder / "model.safetensors"))
                write_card(card, folder)
                found = outcome(by_load, folder)
                assert found is None or np.isfinite(found).all(), (name, new)
                outcome(read_calibration, folder)
