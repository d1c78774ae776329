"""The latent space: walks that end where they should, measures that linear algebra knows, and collapse, told."""

import copy
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import make_pipeline
from torch import nn

from anomalyvae import VAEOutlierDetector
from anomalyvae.study.latent import LatentSpace


class Linear(nn.Module):
    """A body without a bend: its decoder is a matrix."""

    def __init__(self, input_shape, latent_dim):
        super().__init__()
        self.into, self.out = nn.Linear(input_shape[0], 4), nn.Linear(latent_dim, input_shape[0])

    def encode(self, x):
        return self.into(x)

    def decode(self, z):
        return self.out(z)


def fitted(rows, seed=0, **settings):
    """One network in place of four, and no early end: half of a fifth of the rows sets the threshold."""
    return VAEOutlierDetector(validation_fraction=0.2, patience=1000, random_state=seed, **settings).fit(rows)


def spiral(n, seed=0):
    """A curved band in eight columns, with a gap between its turns in which no row lies."""
    rng = np.random.default_rng(seed)
    turn = np.sqrt(rng.random(n)) * 3 * np.pi
    places = np.column_stack([turn * np.cos(turn), turn * np.sin(turn), 10 * rng.random(n)])
    return places @ np.random.default_rng(1).normal(size=(3, 8)) + 0.1 * rng.normal(size=(n, 8))


@pytest.fixture(scope="module")
def space(normal):
    return LatentSpace(fitted(normal, latent_dim=5), normal)


@pytest.fixture(scope="module")
def plain(autoencoder, normal):
    return LatentSpace(autoencoder, normal)


@pytest.fixture(scope="module")
def mixed():
    rng = np.random.default_rng(0)
    gear = rng.integers(1, 4, 300)
    table = pd.DataFrame({"speed": 10.0 * gear + rng.normal(size=300), "gear": np.array(list("-abc"))[gear]})
    table["fast"] = table["speed"] > 25
    return LatentSpace(fitted(table, latent_dim=2), table)


# Walks


def test_a_way_ends_at_the_reconstructions_of_its_rows(space, normal):
    rows, scores = space.interpolate(normal.iloc[0], normal.iloc[[1]], steps=5)
    reconstructed = space.detector.reconstruct(normal.iloc[:2])
    np.testing.assert_array_equal(rows.iloc[[0, -1]], reconstructed)
    np.testing.assert_array_equal(scores["anomaly_score"], space.detector.anomaly_score(rows))
    assert [*rows.columns] == [*normal.columns]
    assert [*rows.index] == [0, 0.25, 0.5, 0.75, 1]


def test_the_row_half_way_decodes_the_mean_of_the_codes(space, normal):
    rows, _ = space.interpolate(normal.iloc[3], normal.iloc[4], steps=3)
    middle = space.codes.iloc[3:5].mean().to_numpy()[None]
    np.testing.assert_array_equal(rows.iloc[1], np.asarray(space.detector.decode(middle))[0])


def test_a_traversal_changes_its_unit_alone(space, normal):
    around = normal.iloc[7]
    walk = space.traverse("latent3", steps=4, around=around)
    codes = np.tile(space.codes.iloc[7], (4, 1))
    codes[:, 3] = walk.index
    np.testing.assert_array_equal(walk, space.detector.decode(codes))
    assert walk.index.name == "latent3"
    assert walk.index[0] == pytest.approx(space.codes["latent3"].quantile(0.01))


def test_traversals_of_used_units_move_rows_and_those_of_idle_ones_do_not(space):
    spread = space.detector.decode(space.codes).std()
    movement = {unit: (space.traverse(unit).std() / spread).max() for unit in space.units}
    active = space.active_units()["active"]
    assert min(movement[unit] for unit in active.index[active]) > 0.3
    assert max(movement[unit] for unit in active.index[~active]) < 0.1


def test_values_of_a_traversal_can_be_given(plain):
    assert [*plain.traverse(0, values=[-1.5, 0, 2]).index] == [-1.5, 0, 2]


def test_categories_come_back_as_such(mixed):
    rows, _ = mixed.interpolate(mixed_row("a", 10.0), mixed_row("c", 30.0), steps=7)
    assert [*rows["gear"]] == sorted(rows["gear"])
    assert set(rows["gear"]) >= {"a", "c"}
    assert rows["fast"].dtype == bool
    assert rows["fast"].iloc[-1]
    assert mixed.continuity()["movement"].max() > 0.5


def mixed_row(gear, speed):
    return pd.DataFrame({"speed": [speed], "gear": [gear], "fast": [speed > 25]}).iloc[0]


# Measures


@pytest.mark.parametrize("objective", ["elbo", "reconstruction"])
def test_of_a_linear_decoder_continuity_is_what_its_matrix_says(objective):
    rows = np.random.default_rng(0).normal(size=(200, 2)) @ np.random.default_rng(1).normal(size=(2, 6))
    detector = fitted(rows, objective=objective, body=Linear, latent_dim=3, scaling=None, max_epochs=50)
    space = LatentSpace(detector, rows)
    matrix = detector.decode(np.eye(3)) - detector.decode(np.zeros((3, 3)))
    measured, spread = space.continuity(), np.std(detector.embed(rows), axis=0)
    np.testing.assert_allclose(measured["gain"], np.linalg.norm(matrix, axis=1), rtol=1e-5)
    np.testing.assert_allclose(measured["movement"], np.linalg.norm(matrix, axis=1) * spread, rtol=1e-5)
    np.testing.assert_allclose(measured["roughness"], 1, rtol=1e-5)
    np.testing.assert_allclose(space.smoothness(), 1, rtol=1e-9)


def test_two_causes_wake_two_units_of_five(space, normal):
    table = space.active_units()
    assert table["active"].sum() == 2
    assert table["kl"].sum() == pytest.approx(space.detector.score_terms(normal)["kl"].mean())
    assert table["kl"][table["active"]].min() > 0.5 > 0.1 > table["kl"][~table["active"]].max()


def test_a_collapsed_posterior_is_told(normal):
    detector = fitted(normal, latent_dim=3, beta=1000, max_epochs=40)
    with pytest.warns(UserWarning, match="Got no active latent unit of 3.*collapsed.*smaller beta"):
        table = LatentSpace(detector, normal).active_units()
    assert not table["active"].any()


def test_a_code_that_is_mostly_idle_is_told(normal):
    detector = fitted(normal, latent_dim=12)
    with pytest.warns(UserWarning, match="Got 2 active latent units of 12.*smaller latent_dim"):
        LatentSpace(detector, normal).active_units()


def test_activity_without_a_prior_has_no_unit(plain):
    """Codes of an autoencoder a hundred times as small are as active as they were."""
    small, table = copy.copy(plain), plain.active_units()
    small.codes = plain.codes / 100
    assert table["active"].any()
    assert table["active"].equals(small.active_units()["active"])
    assert table["kl"].isna().all()


def test_regularisation_buys_completeness_and_continuity():
    """Means of two sets and fits: a hole lies where a fit puts it."""
    measured = {
        beta: pd.concat([spiral_measures(beta, seed) for seed in (0, 1)], axis=1).mean(axis=1) for beta in (0.001, 1.0)
    }
    assert measured[1.0]["coverage"] > 0.9 > 0.5 > measured[0.001]["coverage"]
    assert measured[1.0]["filled"] > measured[0.001]["filled"] + 0.15
    assert measured[1.0]["detour"] < measured[0.001]["detour"]
    assert measured[1.0]["largest_step"] < measured[0.001]["largest_step"]


def spiral_measures(beta, seed):
    rows = spiral(800, seed)
    space = LatentSpace(fitted(rows, latent_dim=2, beta=beta, seed=seed), rows)
    shares = space.completeness(n=500)
    filled = pd.Series({"filled": shares["plausible"] / shares["reference"]})
    return pd.concat([shares, filled, space.smoothness()])


def test_where_rows_fill_the_prior_all_of_it_is_plausible(space):
    shares = space.completeness(n=500)
    assert shares["plausible"] > 0.95
    np.testing.assert_array_equal(shares, space.completeness(n=500))


def test_completeness_takes_a_prior_and_a_calibration(plain, normal):
    with pytest.raises(ValueError, match=r"Got objective='reconstruction'.*no prior.*Use objective='elbo'"):
        plain.completeness()
    few = VAEOutlierDetector(random_state=0, max_epochs=5).fit(normal[:90], groups=np.arange(90) // 10)
    with pytest.raises(ValueError, match=r"Got alpha=0\.05 with 9 calibration rows.*at least 19"):
        LatentSpace(few, normal).completeness()


def test_arrays_and_tables_measure_the_same(normal):
    rows = normal.to_numpy()
    table = LatentSpace(VAEOutlierDetector(random_state=0, max_epochs=5).fit(normal), normal)
    array = LatentSpace(VAEOutlierDetector(random_state=0, max_epochs=5).fit(rows), rows)
    pd.testing.assert_frame_equal(table.continuity(), array.continuity())
    np.testing.assert_array_equal(
        table.interpolate(normal.iloc[0], normal.iloc[1])[0], array.interpolate(rows[0], rows[1])[0]
    )


# Maps


@pytest.mark.parametrize("method", ["pca", "latent", pytest.param("umap", marks=pytest.mark.slow)])
def test_new_rows_lie_where_the_same_rows_lay(normal, fresh, method):
    detector = fitted(normal, latent_dim=2, max_epochs=20)
    laid = LatentSpace(detector, normal[:150]).map(method)
    off = np.linalg.norm(laid.transform(normal[20:60]) - laid.coordinates[20:60], axis=1)
    assert np.median(off) <= (0.3 * laid.coordinates.std().max() if method == "umap" else 1e-12)
    placed = laid.transform(fresh[:40])
    assert placed.index.equals(fresh[:40].index)
    pd.testing.assert_frame_equal(placed, LatentSpace(detector, normal[:150]).map(method).transform(fresh[:40]))


def test_the_map_shows_most_of_the_variance(space):
    laid = space.map()
    values = np.linalg.eigvalsh(np.cov(space.codes.T))
    assert laid.explained == pytest.approx(values[-2:].sum() / values.sum())
    assert laid.coordinates.var().sum() == pytest.approx(values[-2:].sum())


def test_maps_that_cannot_be_made(space, normal, monkeypatch):
    with pytest.raises(ValueError, match="Got method='tsne', expected one of 'pca', 'latent', 'umap'"):
        space.map("tsne")
    with pytest.raises(ValueError, match=r"Got method='latent' with latent_dim=5, expected 2\. Pass method='pca'"):
        space.map("latent")
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match=r"Run: pip install 'anomalyvae\[umap\]'"):
        space.map("umap")


def test_what_cannot_be_walked(space, normal):
    with pytest.raises(ValueError, match=r"Got unit=5, expected one of the 5 latent units\. Pass 0 to 4"):
        space.traverse(5)
    with pytest.raises(ValueError, match="Got unit='speed'"):
        space.traverse("speed")
    with pytest.raises(ValueError, match="Got 3 rows, expected one"):
        space.interpolate(normal[:3], normal.iloc[0])
    with pytest.raises(ValueError, match="Got 1 row"):
        LatentSpace(space.detector, normal[:1])
    with pytest.raises(TypeError, match=r"Got Pipeline, expected a VAEOutlierDetector.*pipeline\[:-1\]"):
        LatentSpace(make_pipeline(space.detector), normal)
