"""The latent space: traversals, measures checked against linear algebra, and warnings of collapse."""

import copy

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import make_pipeline
from torch import nn

from anomalyvae import VAEOutlierDetector
from anomalyvae.study import LatentSpace


class Linear(nn.Module):
    """A linear body: its decoder is a matrix."""

    def __init__(self, input_shape, latent_dim):
        super().__init__()
        self.into, self.out = nn.Linear(input_shape[0], 4), nn.Linear(latent_dim, input_shape[0])

    def encode(self, x):
        return self.into(x)

    def decode(self, z):
        return self.out(z)


def fitted(rows, seed=0, **settings):
    """One network that learns all rows, without early stopping."""
    return VAEOutlierDetector(validation_fraction=0, random_state=seed, **settings).fit(rows)


def spiral(n, seed=0):
    """A curved band in eight columns, with an empty gap between its turns."""
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
    return LatentSpace(fitted(table, latent_dim=2, max_epochs=100), table)


# Traversals


def test_a_path_ends_at_the_reconstructions_of_its_rows(space, normal):
    rows, scores = space.interpolate(normal.iloc[0], normal.iloc[[1]], steps=5)
    reconstructed = space.detector.reconstruct(normal.iloc[:2])
    np.testing.assert_array_equal(rows.iloc[[0, -1]], reconstructed)
    np.testing.assert_array_equal(scores["anomaly_score"], space.detector.anomaly_score(rows))
    assert [*rows.columns] == [*normal.columns]
    assert [*rows.index] == [0, 0.25, 0.5, 0.75, 1]


def test_the_row_half_way_decodes_the_mean_of_the_codes(space, normal):
    rows, _ = space.interpolate(normal.iloc[3], normal.iloc[4], steps=3)
    middle = space.codes.iloc[3:5].mean().to_numpy()[None]
    np.testing.assert_allclose(rows.iloc[1], np.asarray(space.detector.decode(middle))[0], rtol=1e-12)


def test_a_traversal_changes_its_unit_alone(space, normal):
    around = normal.iloc[7]
    walk = space.traverse("latent3", steps=4, around=around)
    codes = np.tile(space.codes.iloc[7], (4, 1))
    codes[:, 3] = walk.index
    np.testing.assert_array_equal(walk, space.detector.decode(codes))
    assert walk.index.name == "latent3"
    assert walk.index[0] == pytest.approx(space.codes["latent3"].quantile(0.01))


def test_active_units_move_rows_and_others_do_not(space):
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
def test_continuity_of_a_linear_decoder_is_that_of_its_matrix(objective):
    rows = np.random.default_rng(0).normal(size=(200, 2)) @ np.random.default_rng(1).normal(size=(2, 6))
    detector = fitted(rows, objective=objective, body=Linear, latent_dim=3, scaling=None, max_epochs=50)
    space = LatentSpace(detector, rows)
    matrix = detector.decode(np.eye(3)) - detector.decode(np.zeros((3, 3)))
    measured, spread = space.continuity(), np.std(detector.embed(rows), axis=0)
    np.testing.assert_allclose(measured["gain"], np.linalg.norm(matrix, axis=1), rtol=1e-5)
    np.testing.assert_allclose(measured["movement"], np.linalg.norm(matrix, axis=1) * spread, rtol=1e-5)
    np.testing.assert_allclose(measured["roughness"], 1, rtol=1e-5)
    np.testing.assert_allclose(space.smoothness(), 1, rtol=1e-9)


def test_two_causes_activate_two_of_five_units(space, normal):
    table = space.active_units()
    assert table["active"].sum() == 2
    assert table["kl"].sum() == pytest.approx(space.detector.score_terms(normal)["kl"].mean())
    assert table["kl"][table["active"]].min() > 0.5 > 0.1 > table["kl"][~table["active"]].max()


def test_a_collapsed_posterior_is_warned_of(normal):
    detector = fitted(normal, latent_dim=3, beta=1000, max_epochs=40)
    with pytest.warns(UserWarning, match="None of 3 latent units is active.*collapsed.*smaller beta"):
        table = LatentSpace(detector, normal).active_units()
    assert not table["active"].any()


def test_a_mostly_inactive_code_is_warned_of(normal):
    detector = fitted(normal, latent_dim=12)
    with pytest.warns(UserWarning, match="Only 2 of 12 latent units are active.*smaller latent_dim"):
        LatentSpace(detector, normal).active_units()


def test_activity_without_a_prior_does_not_depend_on_scale(plain):
    small, table = copy.copy(plain), plain.active_units()
    small.codes = plain.codes / 100
    assert table["active"].any()
    assert table["active"].equals(small.active_units()["active"])
    assert table["kl"].isna().all()


@pytest.mark.slow
def test_regularisation_buys_completeness_and_continuity():
    """Means of two data sets and fits, since holes differ from fit to fit."""
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
    with pytest.raises(ValueError, match=r"objective 'reconstruction' has no prior.*Use objective='elbo'"):
        plain.completeness()
    few = VAEOutlierDetector(random_state=0, max_epochs=5).fit(normal[:90], groups=np.arange(90) // 10)
    with pytest.raises(ValueError, match=r"With 9 calibration rows.*alpha=0\.05.*at least 19"):
        LatentSpace(few, normal).completeness()


def test_arrays_and_tables_measure_the_same(normal):
    rows = normal.to_numpy()
    table = LatentSpace(VAEOutlierDetector(random_state=0, max_epochs=5).fit(normal), normal)
    array = LatentSpace(VAEOutlierDetector(random_state=0, max_epochs=5).fit(rows), rows)
    pd.testing.assert_frame_equal(table.continuity(), array.continuity())
    np.testing.assert_array_equal(
        table.interpolate(normal.iloc[0], normal.iloc[1])[0], array.interpolate(rows[0], rows[1])[0]
    )


def test_bad_arguments_are_refused(space, normal):
    with pytest.raises(ValueError, match=r"unit=5 is not one of the 5 latent units\. Pass 0 to 4"):
        space.traverse(5)
    with pytest.raises(ValueError, match="unit='speed' is not one"):
        space.traverse("speed")
    with pytest.raises(ValueError, match="Got 3 rows, expected one"):
        space.interpolate(normal[:3], normal.iloc[0])
    with pytest.raises(ValueError, match="Got 1 row"):
        LatentSpace(space.detector, normal[:1])
    with pytest.raises(TypeError, match=r"Got a Pipeline, expected a VAEOutlierDetector.*pipeline\[:-1\]"):
        LatentSpace(make_pipeline(space.detector), normal)
