"""The generative half of the detector: densities in the user's units, new rows, and missing cells."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import multivariate_normal

from anomalyvae import VAEOutlierDetector, load, save
from anomalyvae.nets.elbo import log_density

LOADING = np.random.default_rng(0).normal(size=(2, 6))
COVARIANCE = LOADING.T @ LOADING + 0.09 * np.eye(6)
UNITS = 10.0 ** np.arange(-3, 3)


def gaussian(n, seed):
    """Rows of N(0, COVARIANCE), which two causes explain."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)) @ LOADING + 0.3 * rng.normal(size=(n, 6))


def mixed(n, seed):
    """A category that decides on a number, and a boolean that another number decides on."""
    rng = np.random.default_rng(seed)
    road = rng.choice(["city", "country", "motorway"], n, p=[0.5, 0.3, 0.2])
    speed = pd.Series(road).map({"city": 40.0, "country": 80.0, "motorway": 120.0}).to_numpy() + 6 * rng.normal(size=n)
    light = rng.normal(size=n)
    return pd.DataFrame({"road": pd.Categorical(road), "speed": speed, "light": light, "lamps": light < 0})


@pytest.fixture(scope="module")
def linear():
    """Trained on whole rows: the density of such data is what it can learn best."""
    settings = {"scaling": "standard", "masking": 0.0, "latent_dim": 2, "validation_fraction": 0.2}
    return VAEOutlierDetector(**settings, random_state=0).fit(gaussian(3000, 1) * UNITS)


@pytest.fixture(scope="module")
def roads():
    return VAEOutlierDetector(random_state=0, validation_fraction=0, max_epochs=80).fit(mixed(1500, 1))


class TestDensity:
    def test_the_bound_approaches_the_truth_from_below_as_codes_become_more(self, linear):
        x = gaussian(300, 2) * UNITS
        truth = multivariate_normal(cov=COVARIANCE).logpdf(x / UNITS).mean() - np.log(UNITS).sum()
        network = linear.network_

        def bound(count, repeats):
            generator = torch.Generator().manual_seed(0)
            tables = torch.randn(repeats, count, network.latent_dim, generator=generator, dtype=torch.float64)
            return np.mean([float(log_density(network, torch.from_numpy(x), points).mean()) for points in tables])

        bounds = [bound(1, 60), bound(4, 30), bound(16, 10), bound(64, 5)]  # each of three widths
        assert bounds[0] < bounds[1] - 0.05 < bounds[2]
        assert abs(bounds[2] - bounds[3]) < 0.05  # it has arrived
        assert -0.05 < truth - linear.log_density(x).mean() < 0.3  # nats of the six cells together

    @pytest.mark.parametrize("scaling", ["standard", "asinh", "quantile"])
    def test_a_density_adds_up_to_one(self, scaling):
        x = np.random.default_rng(0).gamma(2.0, size=(1500, 1))
        detector = VAEOutlierDetector(scaling=scaling, random_state=0, max_epochs=20, validation_fraction=0).fit(x)
        grid = np.linspace(-15, 40, 2001)
        density = np.exp(detector.log_density(grid[:, None], samples=150))
        assert np.trapezoid(density, grid) == pytest.approx(1, abs=0.03)

    def test_missing_cells_are_integrated_out(self, linear):
        x = gaussian(200, 2)
        truth = multivariate_normal(cov=COVARIANCE[:3, :3]).logpdf(x[:, :3]).mean() - np.log(UNITS[:3]).sum()
        x[:, 3:] = np.nan
        assert abs(truth - linear.log_density(x * UNITS).mean()) < 0.3

    def test_categories_have_probabilities(self, roads):
        rows = mixed(1, 2).iloc[[0] * 6].reset_index(drop=True)
        rows["road"], rows["lamps"] = ["city", "country", "motorway"] * 2, [True] * 3 + [False] * 3
        given = roads.log_density(rows[["road", "speed", "light", "lamps"]], samples=3000)
        without = rows.assign(road=pd.Series([None] * 6, dtype="str"), lamps=pd.Series([None] * 6, dtype=object))
        marginal = roads.log_density(without, samples=3000)[0]
        assert np.log(np.exp(given).sum()) == pytest.approx(marginal, abs=0.1)

    def test_a_row_has_the_same_density_in_any_batch(self, linear):
        x = gaussian(300, 2) * UNITS
        x[::3, 1] = np.nan
        whole = linear.log_density(x, samples=20)
        np.testing.assert_array_equal(linear.log_density(x[::-1], samples=20)[::-1], whole)
        np.testing.assert_array_equal(linear.log_density(x[:7], samples=20), whole[:7])

    def test_what_has_no_density_says_so(self, autoencoder, linear, fresh):
        for ask in (autoencoder.log_density, autoencoder.impute):
            with pytest.raises(ValueError, match=r"Got objective='reconstruction', expected.*Use objective='elbo'"):
                ask(fresh)
        with pytest.raises(ValueError, match=r"Got samples=0, expected at least 1"):
            linear.log_density(gaussian(3, 0), samples=0)


class TestSample:
    def test_two_clusters_stay_separate(self):
        """N(0, I) has its largest density between them, where there is no row."""
        rng = np.random.default_rng(0)
        x = np.concatenate([rng.normal(-4, 0.4, size=(500, 3)), rng.normal(4, 0.4, size=(1500, 3))])
        detector = VAEOutlierDetector(random_state=0, max_epochs=40, validation_fraction=0).fit(x)

        def between(prior):
            return (np.abs(detector.sample(2000, prior=prior).mean(axis=1)) < 2).mean()

        assert between("aggregate") < 0.02 < between("standard")
        assert (detector.sample(2000)[:, 0] < 0).mean() == pytest.approx(0.25, abs=0.04)

    def test_a_row_of_weight_three_is_sampled_three_times_as_often(self):
        rng = np.random.default_rng(0)
        x = np.concatenate([rng.normal(-4, 0.4, size=(300, 3)), rng.normal(4, 0.4, size=(300, 3))])
        detector = VAEOutlierDetector(random_state=0, max_epochs=40, validation_fraction=0)
        detector.fit(x, sample_weight=np.repeat([3, 1], 300))
        assert (detector.sample(4000)[:, 0] < 0).mean() == pytest.approx(0.75, abs=0.04)

    def test_outliers_that_were_not_learned_are_not_sampled(self):
        rng = np.random.default_rng(0)
        x = np.concatenate([gaussian(600, 1), gaussian(30, 2) + rng.choice([-9, 9], size=(30, 6))])
        detector = VAEOutlierDetector(
            random_state=0, max_epochs=60, contamination=0.05, criterion="elbo", validation_fraction=0
        ).fit(x)
        normal = np.abs(x[:600]).max()
        assert (np.abs(x[600:]) > normal).any(axis=1).mean() > 0.9
        assert (np.abs(detector.sample(1000)) > normal).any(axis=1).mean() < 0.01

    def test_samples_survive_a_pickle_and_a_bundle(self, linear, tmp_path):
        expected = linear.sample(20, random_state=1)
        again = pickle.loads(pickle.dumps(linear))  # noqa: S301 - our own bytes
        save(linear, tmp_path / "bundle")
        for other in (again, load(tmp_path / "bundle")):
            np.testing.assert_array_equal(other.sample(20, random_state=1), expected)

    def test_a_model_without_kept_codes_samples_the_standard_prior(self, linear):
        state = linear.__getstate__()
        state["network_"] = {name: t for name, t in state["network_"].items() if not name.startswith("aggregate.")}
        older = VAEOutlierDetector()
        older.__setstate__(state)
        np.testing.assert_array_equal(older.sample(9), linear.sample(9, prior="standard"))
        with pytest.raises(ValueError, match=r"Got prior='aggregate'.*expected 'standard'.*Leave out prior"):
            older.sample(9, prior="aggregate")

    def test_codes_that_do_not_fit_are_refused(self, linear):
        state = linear.__getstate__()
        state["network_"]["aggregate.mean"] = state["network_"]["aggregate.mean"][:, :1]
        with pytest.raises(RuntimeError, match=r"Got an aggregate posterior of shapes .*, expected"):
            VAEOutlierDetector().__setstate__(state)


class TestImpute:
    @staticmethod
    def conditional(x, missing):
        """Mean and standard deviation of the missing cells given the others."""
        seen = [i for i in range(6) if i not in missing]
        gain = COVARIANCE[np.ix_(missing, seen)] @ np.linalg.inv(COVARIANCE[np.ix_(seen, seen)])
        spread = COVARIANCE[np.ix_(missing, missing)] - gain @ COVARIANCE[np.ix_(seen, missing)]
        return x[:, seen] @ gain.T, np.sqrt(np.diag(spread))

    @pytest.mark.parametrize("missing", [[0, 1], [1, 2, 3, 4]])
    def test_a_known_conditional_mean_is_found(self, linear, missing):
        holed = gaussian(200, 2)
        holed[:, missing] = np.nan
        mean, std = self.conditional(holed, missing)
        best = (linear.impute(holed * UNITS) / UNITS)[:, missing]
        assert np.sqrt(((best - mean) ** 2).mean(axis=0) / std**2).max() < 0.6  # of a conditional standard deviation

    def test_the_default_model_beats_the_column_means(self, detector, fresh):
        hidden = np.random.default_rng(0).random(fresh.shape) < 0.3
        filled = detector.impute(fresh.mask(hidden))
        error = ((filled - fresh) / fresh.std()).to_numpy()[hidden]
        by_means = ((fresh.mean() - fresh) / fresh.std()).to_numpy()[hidden]
        assert np.sqrt((error**2).mean()) < 0.6 * np.sqrt((by_means**2).mean())

    def test_observed_cells_come_back_as_they_were(self, roads):
        given = mixed(200, 2)
        hidden = np.random.default_rng(0).random(given.shape) < 0.3
        hidden[:, 1] = False
        holed = given.mask(hidden)
        holed.loc[1:3, "speed"] = np.nan
        holed["lamps"] = holed["lamps"].astype("boolean")
        table = roads.impute(holed)
        assert not table.isna().any(axis=None)
        pd.testing.assert_index_equal(table.index, holed.index)
        pd.testing.assert_frame_equal(table.mask(holed.isna()), holed, check_dtype=False)
        assert list(table.dtypes) == list(holed.dtypes)

    def test_a_level_never_seen_comes_back_too(self, roads):
        holed = mixed(3, 2)
        holed["road"] = pd.Categorical(["ferry", None, "city"])
        holed.loc[0, "speed"] = np.nan
        filled = roads.impute(holed)
        assert filled.loc[0, "road"] == "ferry"
        assert filled.loc[1, "road"] in {"city", "country", "motorway"}

    def test_categories_follow_from_numbers_and_back(self, roads):
        given = mixed(400, 2)
        without = given.assign(road=pd.Series([None] * len(given), dtype="str"))
        assert (roads.impute(without)["road"].astype(str) == given["road"].astype(str)).mean() > 0.9
        filled = roads.impute(given.assign(speed=np.nan))
        np.testing.assert_allclose(filled.groupby("road", observed=True)["speed"].mean(), [40, 80, 120], atol=12)

    def test_nothing_missing_is_nothing_to_do_and_the_input_stays(self, detector, fresh):
        pd.testing.assert_frame_equal(detector.impute(fresh), fresh)
        holed = fresh.mask(np.random.default_rng(0).random(fresh.shape) < 0.2)
        before = holed.copy()
        first = detector.impute(holed)
        pd.testing.assert_frame_equal(holed, before)
        pd.testing.assert_frame_equal(detector.impute(holed), first)
