"""Categories are learned with a likelihood of their own; an unseen level is anomalous, not an error."""

import copy
import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch

from anomalyvae import VAEOutlierDetector, load, save
from anomalyvae.cli import main
from anomalyvae.detector.categories import common_levels, read_as
from anomalyvae.detector.representation import rows_like_training
from anomalyvae.nets.likelihoods import SURPRISE_FLOOR, Categorical
from anomalyvae.nets.objectives import build
from anomalyvae.nets.scaling import Mixed, fit_scaling

ROADS = {"dry": 30.0, "snow": 12.0, "wet": 21.0}


def drives(n, seed):
    """The speed depends on the road, the wipers on both; two columns have nothing to do with it."""
    rng = np.random.default_rng(seed)
    road = rng.choice(list(ROADS), n, p=[0.6, 0.1, 0.3])
    return pd.DataFrame(
        {
            "road": road,
            "speed": pd.Series(road).map(ROADS).to_numpy() + 2 * rng.normal(size=n),
            "wipers": (road != "dry") ^ (rng.random(n) < 0.05),
            "load": rng.normal(size=n),
            "gear": pd.Categorical(rng.choice(["low", "high"], n), categories=["reverse", "low", "high"]),
        }
    )


def fit(rows, **settings):
    return VAEOutlierDetector(**{"random_state": 0, "max_epochs": 60, "validation_fraction": 0, **settings}).fit(rows)


@pytest.fixture(scope="module")
def normal():
    return drives(600, 1)


@pytest.fixture(scope="module")
def fresh():
    return drives(400, 2)


@pytest.fixture(scope="module")
def detector(normal):
    return fit(normal, validation_fraction="auto")


SCORES = ["novelty", "elbo", "reconstruction", "log_likelihood"]


def rank(detector, rows, fresh, score):
    """Share of ordinary rows that score below each of these rows."""
    ordinary = np.sort(detector.score_terms(fresh)[score])
    return np.searchsorted(ordinary, detector.score_terms(rows)[score]) / len(ordinary)


# Detection


@pytest.mark.parametrize("score", SCORES)
def test_a_level_and_a_number_that_do_not_go_together_are_found(detector, fresh, score):
    torn = fresh[fresh["road"] == "dry"].assign(road="snow", wipers=True)  # fast on snow: each is common
    assert np.median(rank(detector, torn, fresh, score)) > 0.98


@pytest.mark.parametrize("score", SCORES)
def test_two_levels_that_do_not_go_together_are_found(detector, fresh, score):
    torn = fresh.assign(wipers=fresh["road"] == "dry")
    assert np.median(rank(detector, torn, fresh, score)) > 0.9


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("column", ["road", "gear"])
def test_an_unseen_level_is_anomalous(detector, fresh, column, score):
    odd = fresh.assign(**{column: "lava"})
    assert np.median(rank(detector, odd, fresh, score)) > 0.98
    assert (rank(detector, odd, fresh, score) > 0.9).mean() > 0.95


def test_one_unseen_level_does_not_drown_a_row(detector, fresh):
    """It costs as much as a number some standard deviations off, neither nothing nor everything."""
    odd = detector.feature_scores(fresh.assign(gear="neutral"))["gear"]
    assert odd.between(5, -np.log(SURPRISE_FLOOR / 3)).all()  # nats


def test_an_uninformative_column_hides_nothing():
    rng = np.random.default_rng(0)
    numbers = pd.DataFrame(
        rng.normal(size=(500, 1)) @ np.ones((1, 3)) + 0.2 * rng.normal(size=(500, 3)), columns=[*"abc"]
    )
    torn = numbers.apply(rng.permutation)
    detected = {}
    for levels in (0, 40):
        detector = fit(with_noise(numbers, levels, rng))
        ordinary = detector.anomaly_score(with_noise(numbers, levels, rng))
        anomalous = detector.anomaly_score(with_noise(torn, levels, rng))
        detected[levels] = (anomalous[:, None] > ordinary).mean()
    assert detected[40] > detected[0] - 0.1


def with_noise(table, levels, rng):
    return table.assign(noise=rng.integers(0, levels, len(table)).astype(str)) if levels else table


def test_a_missing_level_is_no_evidence(detector, fresh):
    gone = fresh.assign(gear=pd.Series([None] * len(fresh), dtype="category"))
    assert (detector.feature_scores(gone)["gear"] == 0).all()
    for score in ("elbo", "novelty"):
        assert 0.1 < np.median(rank(detector, gone, fresh, score)) < 0.7


def test_missing_levels_can_be_learned_around(normal, fresh):
    holes = normal.copy()
    for i, name in enumerate(("road", "gear")):
        holes.loc[holes.index[i::5], name] = None
    detector = fit(holes.astype({"wipers": "boolean"}))
    assert detector.categories_["road"] == sorted(ROADS)
    unknown = fresh.assign(road=None)
    expected = fresh["wipers"].map({True: {"wet", "snow"}, False: {"dry"}})
    guessed = detector.reconstruct(unknown)["road"]
    assert np.mean([road in roads for road, roads in zip(guessed, expected, strict=True)]) > 0.85


def test_a_mostly_constant_category_neither_fails_nor_dominates(normal, fresh):
    detector = fit(normal.assign(kind="a"))
    assert np.median(rank(detector, fresh.assign(kind="b"), fresh.assign(kind="a"), "novelty")) > 0.98
    assert np.isfinite(detector.anomaly_score(fresh.assign(kind="b"))).all()


# What counts as a category, and which levels are known


def test_levels_are_those_that_occur_sorted(detector):
    assert detector.categories_ == {"road": ["dry", "snow", "wet"], "wipers": [False, True], "gear": ["high", "low"]}
    assert detector.n_features_in_ == 5


def test_the_order_of_rows_and_of_levels_does_not_matter(normal, fresh, detector):
    turned = normal[::-1].assign(gear=normal["gear"].cat.reorder_categories(["high", "low", "reverse"]))
    first, again = (fit(rows, validation_fraction="auto", max_epochs=3) for rows in (normal, turned))
    np.testing.assert_array_equal(again.anomaly_score(fresh), first.anomaly_score(fresh))
    assert again.offset_ == first.offset_
    other = fresh.assign(gear=fresh["gear"].astype(str), road=fresh["road"].astype("category"))
    np.testing.assert_array_equal(detector.anomaly_score(other), detector.anomaly_score(fresh))


@pytest.mark.parametrize(
    "column",
    [
        pd.Series(["b", "a", None, "b"] * 30),
        pd.Series(["b", "a", None, "b"] * 30, dtype=object),
        pd.Series(["b", "a", None, "b"] * 30, dtype="string"),
        pd.Series(["b", "a", None, "b"] * 30, dtype="category"),
        pd.Series([2, 1, None, 2] * 30, dtype="category"),
        pd.Series(pd.cut([1.0, 2.0, 3.0, 4.0] * 30, [0, 2, 4])),
        pd.Series([True, False, True, True] * 30),
        pd.Series([True, False, None, True] * 30, dtype=object),
        pd.Series([True, False, pd.NA, True] * 30, dtype="boolean"),
    ],
    ids=lambda column: f"{column.dtype}-{column[0]}",
)
def test_every_dtype_of_a_category_comes_back_as_it_came(column):
    rows = pd.DataFrame({"number": pd.array([1, pd.NA, 2, 3] * 30, dtype="Int64"), "kind": column})
    detector = fit(rows, max_epochs=2, latent_dim=1)
    assert len(detector.categories_["kind"]) == 2
    assert all(type(level) in (str, bool) for level in detector.categories_["kind"])
    assert np.isfinite(detector.anomaly_score(rows)).all()
    expected = column.dtype if not isinstance(column.dtype, pd.CategoricalDtype) else "category"
    for table in (detector.reconstruct(rows), detector.sample(5), detector.decode(detector.transform(rows))):
        assert table["kind"].dtype == expected
        assert set(table["kind"]) <= set(detector.categories_["kind"])
        assert table["number"].dtype == float
    assert (detector.reconstruct(rows.set_index(rows.index + 7)).index == rows.index + 7).all()


def test_samples_look_like_the_data(normal):
    sample = fit(normal, max_epochs=80).sample(4000, random_state=1)
    share = sample["road"].value_counts(normalize=True)
    for road, expected in normal["road"].value_counts(normalize=True).items():
        assert abs(share[road] - expected) < 0.06
    assert (sample.groupby("road")["speed"].mean() - pd.Series(ROADS)).abs().max() < 4


def test_only_whole_numbers_are_written_in_two_ways():
    assert read_as({"1": "a", "2.0": "b", "2": "c"}) == {"1": "a", "1.0": "a", "2": "c", "2.0": "b"}
    for level in ("1.5", "007", "nan", "inf", "wet", "", True):
        assert read_as({level: "a"}) == {level: "a"}


def test_levels_that_occur_once_are_pooled_with_unseen_levels():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"x": rng.normal(size=300), "id": [f"id {i}" for i in range(150)] + ["a", "b", "c"] * 50})
    detector = fit(rows)
    assert detector.categories_ == {"id": ["a", "b", "c"]}
    new = rows.assign(id="never seen")
    once = rows[:150]  # half of the rows had a unique name: another is not anomalous
    for score in ("elbo", "novelty"):
        assert abs(np.median(rank(detector, new, rows, score)) - 0.5) < 0.25
        np.testing.assert_array_equal(detector.score_terms(new[:150])[score], detector.score_terms(once)[score])


def test_a_column_that_differs_in_every_row_carries_no_information(normal, fresh):
    with pytest.warns(UserWarning, match=r"almost every value is unique: 'plate'\. Nothing can be learned.*Leave"):
        detector = fit(normal.assign(plate=[f"HU {i}" for i in range(len(normal))]))
    assert detector.categories_["plate"] == []
    plates = fresh.assign(plate=[f"MZ {i}" for i in range(len(fresh))])
    assert detector.reconstruct(plates)["plate"].isna().all()
    torn = fresh[fresh["road"] == "dry"].assign(road="snow", wipers=True, plate="HU 1")
    assert np.median(rank(detector, torn, plates, "novelty")) > 0.98
    assert (detector.feature_scores(plates)["plate"].abs() < 1e-6).all()


def test_a_thousand_levels():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"x": rng.normal(size=4000), "y": rng.normal(size=4000), "shop": rng.integers(0, 1000, 4000)})
    rows["shop"] = rows["shop"].map("shop {}".format)
    detector = fit(rows, max_epochs=2)
    assert len(detector.categories_["shop"]) <= 1000
    score = detector.anomaly_score(pd.DataFrame({"x": [0.0, 30.0], "y": [0.0, -30.0], "shop": rows["shop"][:2]}))
    assert score[1] > score[0]


def test_a_weight_of_two_is_a_row_given_twice():
    codes = np.array([[0.0], [1.0], [1.0], [2.0], [-0.0], [np.nan]])
    levels = {"kind": ["a", "b", "c"]}
    twice, known = common_levels(np.concatenate([codes, codes[3:4]]), np.ones(7), ["kind"], levels)
    weighted, same = common_levels(codes, np.array([1.0, 1, 1, 2, 1, 1]), ["kind"], levels)
    assert known == same == {"kind": ["a", "b", "c"]}
    np.testing.assert_array_equal(twice[:6], weighted)
    assert common_levels(codes, np.ones(6), ["kind"], levels)[1] == {"kind": ["a", "b"]}
    assert common_levels(codes, np.array([0.0, 1, 1, 1, 1, 1]), ["kind"], levels)[1] == {"kind": ["b"]}
    assert common_levels(codes, np.full(6, 1 / 6), ["kind"], levels)[1] == {"kind": ["a", "b"]}


def test_zero_weight_takes_a_row_and_its_level_out(normal, fresh):
    more = pd.concat([normal, normal.assign(road="sand")], ignore_index=True)
    weighted = VAEOutlierDetector(random_state=0, max_epochs=3, validation_fraction=0)
    weighted.fit(more, sample_weight=np.repeat([1, 0], len(normal)))
    assert weighted.categories_["road"] == sorted(ROADS)
    np.testing.assert_array_equal(weighted.anomaly_score(fresh), fit(normal, max_epochs=3).anomaly_score(fresh))


# Scores


def test_terms_add_up(detector, fresh):
    terms, parts = detector.score_terms(fresh), detector.feature_scores(fresh)
    assert list(parts) == list(fresh)
    np.testing.assert_allclose(parts.sum(axis=1), terms["reconstruction"])
    np.testing.assert_allclose(terms["reconstruction"] + terms["kl"], terms["elbo"])
    torn = fresh[:1].assign(wipers=fresh["road"][:1] == "dry")
    assert detector.feature_scores(torn).iloc[0].idxmax() == "wipers"


@pytest.mark.parametrize("score", SCORES)
def test_same_row_same_score_bit_for_bit(normal, fresh, score):
    detector = fit(normal, criterion=score, max_epochs=2)
    many = pd.concat([fresh] * 4, ignore_index=True)
    many.loc[::7, "road"] = None
    many.loc[::11, "gear"] = None
    whole = detector.anomaly_score(many)
    order = np.random.default_rng(0).permutation(len(many))
    np.testing.assert_array_equal(detector.anomaly_score(many.iloc[order]), whole[order])
    for size in (1, 7, 33, 1025):
        np.testing.assert_array_equal(detector.anomaly_score(many[:size]), whole[:size])


@pytest.mark.parametrize("settings", [{}, {"objective": "reconstruction"}, {"contamination": 0.1}, {"masking": 0}])
@pytest.mark.parametrize("scaling", ["asinh", "standard", "robust", "quantile", None])
def test_a_table_of_categories_alone(normal, fresh, settings, scaling):
    names = ["road", "wipers", "gear"]
    detector = fit(normal[names], max_epochs=3, validation_fraction=0.2, scaling=scaling, **settings)
    assert np.isfinite(detector.score_terms(fresh[names])).all(axis=None)


def test_numbers_alone_have_no_layer_for_categories(normal):
    detector = fit(normal[["speed", "load"]], max_epochs=1)
    assert detector.categories_ == {}
    assert not isinstance(detector.network_.scaling, Mixed)
    as_array = fit(normal[["speed", "load"]].to_numpy(), max_epochs=1)
    np.testing.assert_array_equal(as_array.network_.memorised.keys, detector.network_.memorised.keys)


# There and back


def test_round_trips_keep_the_categories(detector, fresh, tmp_path):
    folder = save(detector, tmp_path / "bundle")
    card = json.loads((folder / "card.json").read_text())
    assert card["categories"] == detector.categories_
    odd = fresh.assign(road=["lava", None, *fresh["road"][2:]])
    for again in (load(folder), pickle.loads(pickle.dumps(detector)), copy.deepcopy(detector)):  # noqa: S301
        np.testing.assert_array_equal(again.anomaly_score(odd), detector.anomaly_score(odd))
        assert again.categories_ == detector.categories_
        pd.testing.assert_frame_equal(again.reconstruct(odd), detector.reconstruct(odd))
    numbers = save(fit(fresh[["speed", "load"]], max_epochs=1), tmp_path / "numbers")
    assert json.loads((numbers / "card.json").read_text())["categories"] == {}


@pytest.mark.parametrize("categories", [{}, {"road": ["dry"], "wipers": [False, True], "gear": ["high", "low"]}])
def test_a_card_with_other_levels_is_refused(detector, tmp_path, categories):
    folder = save(detector, tmp_path / "bundle")
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"categories": categories}))
    with pytest.raises(ValueError, match=r"do not fit together"):
        load(folder)


def test_models_with_other_levels_are_different(normal, tmp_path):
    identities = set()
    for names in (["dry", "snow", "wet"], ["a", "b", "c"]):
        rows = normal.assign(road=normal["road"].map(dict(zip(ROADS, names, strict=True))))
        folder = save(fit(rows, max_epochs=1), tmp_path / names[0])
        identities.add(json.loads((folder / "card.json").read_text())["model_id"])
    assert len(identities) == 2


def test_a_failed_fit_leaves_the_old_levels(normal, fresh):
    detector = fit(normal, max_epochs=2)
    before = detector.anomaly_score(fresh)
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        detector.fit(normal[:1].assign(road="sand"))
    np.testing.assert_array_equal(detector.anomaly_score(fresh), before)


def test_the_command_line_takes_text(tmp_path, normal, fresh, capsys):
    rename = {"dry": "d1", "wet": "d2", "snow": "off"}
    normal.assign(road=normal["road"].map(rename)).to_csv(tmp_path / "rows.csv", index=False)
    digits = fresh[fresh["road"] != "snow"]
    digits.assign(road=digits["road"].map(rename)).to_csv(tmp_path / "new.csv", index=False)
    model, out = str(tmp_path / "model"), str(tmp_path / "scores.csv")
    settings = ["--set", "max_epochs=3", "--set", "random_state=0"]
    assert main(["fit", str(tmp_path / "rows.csv"), "--model", model, *settings]) == 0
    assert "Learned 600 rows with the categories road, wipers, gear: model" in capsys.readouterr().out
    assert main(["score", str(tmp_path / "new.csv"), out, "--model", model]) == 0
    expected = load(model).anomaly_score(digits.assign(road=digits["road"].map(rename)))
    np.testing.assert_allclose(pd.read_csv(out)["anomaly_score"], expected, rtol=1e-4)


# Errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"road": 1}, r"another type than in training: 'road' as int64, expected text or a category\. Convert"),
        ({"speed": "fast"}, r"'speed' as str, expected numbers"),
        ({"wipers": "on"}, r"'wipers' as str, expected booleans"),
        ({"speed": True}, r"'speed' as bool, expected numbers"),
        ({"road": pd.Timestamp(0)}, r"'road' as datetime64.*, expected text or a category"),
    ],
)
def test_a_column_of_another_kind_is_refused(detector, fresh, change, message):
    with pytest.raises(ValueError, match=message):
        detector.score_samples(fresh.assign(**change))


def test_a_column_without_a_value_is_of_any_kind(detector, fresh):
    for empty in (None, np.nan, pd.NA):
        gone = detector.anomaly_score(fresh.assign(road=empty, speed=empty))
        expected = detector.anomaly_score(fresh.assign(road=pd.Series(dtype="str"), speed=np.nan))
        np.testing.assert_array_equal(gone, expected)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            lambda x: x.assign(when=pd.Timestamp(0)),
            r"neither numeric nor categories: 'when' \(datetime64.*leave them out",
        ),
        (lambda x: x.assign(what=[1, "a"] * 300), r"neither numeric nor categories: 'what' \(object, mixed-integer\)"),
        (lambda x: x.set_axis(range(5), axis=1), r"column names \[0, 1, 2, 3, 4\], expected text.*Rename"),
        (lambda x: x.rename(columns={"gear": "road"}), r"The table has 2 columns named 'road'.*Rename them"),
        (lambda x: x.assign(gear=None), r"Got no value at all in gear"),
    ],
)
def test_tables_that_cannot_be_learned(normal, rows, message):
    with pytest.raises(ValueError, match=message):
        fit(rows(normal))


def test_rows_without_names_and_folded_rows_are_refused(detector, normal, fresh):
    with pytest.raises(
        ValueError, match=r"Got ndarray rows, expected a DataFrame: the columns 'road', 'wipers', 'gear'"
    ):
        detector.score_samples(fresh.to_numpy())
    with pytest.raises(ValueError, match=r"Got input_shape=\(5,\) and categories in X, expected only numbers"):
        fit(normal, input_shape=(5,))


# The layers


@pytest.fixture
def table():
    """A number between two categories, of three levels and of none."""
    x = torch.tensor([[0.0, 5, -1], [2, 6, -1], [-1, 7, -1], [torch.nan, 9, torch.nan]], dtype=torch.float64)
    return x, fit_scaling("standard", x, torch.ones(4, dtype=torch.float64), [4, 0, 1])


def test_codes_become_one_hot_cells_and_codes_again(table):
    x, scaling = table
    s = scaling(x)
    one_hot = [[1, 0, 0, 0, 1], [0, 0, 1, 0, 1], [0, 0, 0, 1, 1]]
    np.testing.assert_array_equal(s[:3, 1:], one_hot)
    assert s[3, 1:].isnan().all()
    assert not s[:, 0].isnan().any()
    np.testing.assert_allclose(scaling.inverse(s)[:2], x[:2])
    assert scaling.inverse(s)[2, 0] in (0, 1, 2)  # what is not known comes back as something that is


def test_a_category_is_hidden_as_a_whole(table):
    x, scaling = table
    architecture = {"objective": "elbo", "body": "mlp", "hidden": [4], "input_shape": [6], "latent_dim": 1}
    options = {"beta": 1.0, "masking": 0.9, "trimming": 0.0, "criterion": "elbo"}
    network = build(architecture | options, scaling)
    s = scaling(x)[:3].repeat(200, 1).float()
    hidden = network._hide(s, torch.Generator().manual_seed(0)).isnan()
    assert (hidden[:, 1:5].all(1) == hidden[:, 1:5].any(1)).all()
    assert 0.1 < hidden[:, 1].float().mean() < 0.4
    assert (hidden[:, 0] != hidden[:, 1]).any()


def test_the_probabilities_of_a_category_add_up_and_none_is_below_the_floor():
    likelihood = Categorical([3, 5])
    decoded = 100 * torch.randn(50, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    total = torch.zeros(50, 2, dtype=torch.float64)
    for first in range(3):
        s = torch.zeros(50, 8, dtype=torch.float64)
        s[:, first] = s[:, 3 + first] = 1
        nll = likelihood.feature_nll(s, decoded)
        assert (nll <= -np.log(SURPRISE_FLOOR / 5) + 1e-12).all()
        torch.testing.assert_close(nll.sum(1), likelihood.row_nll(s, decoded))
        total += (-nll).exp()
    torch.testing.assert_close(total[:, 0], torch.ones(50, dtype=torch.float64))


@pytest.mark.parametrize("levels", [2, 3, 30])
def test_a_surprise_is_of_one_size_on_average_whatever_the_number_of_levels(levels):
    logits = torch.randn(1, levels + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits[:, -1] = -30  # nothing but the known levels
    likelihood = Categorical([levels + 1])
    decoded = logits.expand(20_000, -1)
    noise = torch.randn(decoded.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    s = likelihood.sample(decoded, noise)
    np.testing.assert_allclose(s.mean(0)[:-1], logits.softmax(1)[0, :-1], atol=0.015)
    assert float(likelihood.residual(s, decoded).square().mean()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    "settings", [{}, {"criterion": "elbo"}, {"objective": "reconstruction", "criterion": "reconstruction"}], ids=str
)
def test_rows_like_those_of_training_have_its_columns_and_levels(normal, settings):
    rows = rows_like_training(fit(normal, max_epochs=2, **settings))
    assert list(rows) == list(normal)
    for name in normal.select_dtypes(["category", "string", "bool"]):
        assert set(rows[name].dropna().astype(str)) <= set(normal[name].dropna().astype(str))


def test_a_table_of_text_alone_is_learned():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"road": rng.choice(["dry", "wet"], 120), "gear": rng.choice(["1", "2", "3"], 120)})
    detector = VAEOutlierDetector(random_state=0, max_epochs=2).fit(rows)
    odd = pd.DataFrame({"road": ["dry", "lava"], "gear": ["1", "reverse"]})
    usual, unheard = detector.anomaly_score(odd)
    assert usual < -detector.offset_ < unheard
