"""Images as rows: folded for the network, with likelihoods of cells that share a unit, and a score per pixel."""

import pickle

import numpy as np
import pytest
import torch
from numpy.polynomial.legendre import leggauss
from sklearn.datasets import load_digits

from anomalyvae import VAEOutlierDetector, load, save
from anomalyvae.metrics import auroc
from anomalyvae.nets.likelihoods import Bernoulli, ContinuousBernoulli, Isotropic

SMALL = {"hidden": (16,), "max_epochs": 20, "validation_fraction": 0, "random_state": 0}


@pytest.fixture(scope="module")
def digits():
    images, digit = load_digits(return_X_y=True)
    return images / 16, digit


def binary(n=400, seed=0):
    """Twelve cells, copies of two causes, some of which are wrong."""
    rng = np.random.default_rng(seed)
    cells = np.repeat(rng.random((n, 2)) < 0.4, 6, axis=1)
    return (cells ^ (rng.random(cells.shape) < 0.05)).astype(float)


def intensities(n=400, seed=0):
    """Six cells that two causes light."""
    rng, mixing = np.random.default_rng(seed), np.random.default_rng(5).normal(size=(2, 6))
    return 1 / (1 + np.exp(-2 * rng.normal(size=(n, 2)) @ mixing - 0.2 * rng.normal(size=(n, 6))))


LIVES = [("isotropic", intensities), ("bernoulli", intensities), ("bernoulli", binary)]

# The densities themselves

DECODED = torch.tensor([[-5e4, -300, -30, -3, -0.3, -0.041, -0.039, 0, 0.01, 0.039, 0.041, 1, 25, 900]]).double()


def moments(likelihood):
    """Integral, mean and variance of the density, by quadrature; one parameter in each column."""
    points, weight = (torch.from_numpy(a)[:, None] / 2 for a in leggauss(200))
    points = (points + 0.5).expand(-1, DECODED.shape[1])
    density = weight * (-likelihood.feature_nll(points, DECODED.expand_as(points))).exp()
    mean = (density * points).sum(0)
    return density.sum(0), mean, (density * (points - mean).square()).sum(0)


def test_the_density_of_intensities_is_one():
    whole, mean, variance = moments(likelihood := ContinuousBernoulli(1))
    torch.testing.assert_close(whole, torch.ones_like(whole), rtol=1e-9, atol=0)
    torch.testing.assert_close(likelihood.means(DECODED)[0], mean, rtol=1e-9, atol=0)
    torch.testing.assert_close(likelihood.variance(DECODED)[0], variance, rtol=1e-7, atol=0)
    assert (moments(Bernoulli(1))[0] < 0.999).all()  # which that of zeros and ones is not, taken for intensities


def test_it_is_the_continuous_bernoulli():
    natural = DECODED / (1 + 0.01 * DECODED.abs())
    theirs = torch.distributions.ContinuousBernoulli(logits=natural.float().clamp(-8, 8))
    moderate = natural.abs()[0] < 8
    s = torch.full_like(DECODED, 0.3)
    ours = ContinuousBernoulli(1).feature_nll(s, DECODED)
    torch.testing.assert_close(
        ours[:, moderate], -theirs.log_prob(s.float())[:, moderate].double(), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("likelihood", [Bernoulli(1), ContinuousBernoulli(1)])
def test_samples_have_the_mean_and_variance_of_the_likelihood(likelihood):
    noise = torch.randn(40_000, DECODED.shape[1], generator=torch.Generator().manual_seed(0)).double()
    drawn = likelihood.sample(DECODED.expand_as(noise), noise)
    mean, variance = likelihood.means(DECODED)[0], likelihood.variance(DECODED)[0]
    assert ((drawn >= 0) & (drawn <= 1)).all()
    assert ((drawn.mean(0) - mean).abs() < 5 * (variance / len(noise)).sqrt()).all()
    torch.testing.assert_close(drawn.var(0), variance, rtol=0.15, atol=2e-4)


@pytest.mark.parametrize("likelihood", [Bernoulli(1), ContinuousBernoulli(1)])
def test_cells_further_outside_the_range_are_more_anomalous(likelihood):
    for way in ([1.0, 1.01, 1.5, 7.0, 1e6], [0.0, -0.01, -0.5, -7.0, -1e6]):
        nll = torch.stack([likelihood.feature_nll(torch.full_like(DECODED, s), DECODED)[0] for s in way])
        assert (nll.diff(dim=0) > 0).all()


@pytest.mark.parametrize("likelihood", [Bernoulli(1), ContinuousBernoulli(1), Isotropic(DECODED.shape[1]).double()])
def test_a_missing_cell_is_no_evidence(likelihood):
    decoded = DECODED.clone().requires_grad_()
    hole = torch.full_like(DECODED, torch.nan)
    assert (likelihood.feature_nll(hole, decoded) == 0).all()
    assert (likelihood.residual(hole, decoded) == 0).all()
    likelihood.row_nll(hole, decoded).sum().backward()
    assert decoded.grad.isfinite().all()


# The detector with them


@pytest.mark.parametrize("objective", ["elbo", "reconstruction", "adversarial"])
@pytest.mark.parametrize(("likelihood", "make"), LIVES, ids=["isotropic", "intensities", "binary"])
def test_every_likelihood_lives_with_every_objective(objective, likelihood, make, tmp_path):
    x = make()
    x[::9, 2] = np.nan
    settings = SMALL | {"max_epochs": 100, "hidden": (32,)}
    detector = VAEOutlierDetector(objective=objective, likelihood=likelihood, **settings).fit(x)
    assert detector.history_["loss"].iloc[-1] < detector.history_["loss"].iloc[0] - 0.5  # nats per row
    terms = detector.score_terms(x)
    assert np.isfinite(terms).all(axis=None)
    np.testing.assert_allclose(detector.feature_scores(x).sum(axis=1), terms["reconstruction"])
    assert (detector.feature_scores(x)[::9, 2] == 0).all()
    scores = detector.anomaly_score(x)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(detector)).anomaly_score(x), scores)  # noqa: S301
    save(detector, tmp_path / "bundle")
    np.testing.assert_array_equal(load(tmp_path / "bundle").anomaly_score(x), scores)
    if objective != "reconstruction":
        drawn = detector.sample(200, random_state=0)
        assert likelihood == "isotropic" or ((drawn >= 0) & (drawn <= 1)).all()
        assert (make is binary) == set(np.unique(drawn)).issubset({0.0, 1.0})


@pytest.mark.parametrize(("likelihood", "make"), LIVES, ids=["isotropic", "intensities", "binary"])
def test_what_is_reconstructed_is_what_was_likely(likelihood, make):
    x, new = make(600), make(300, seed=1)
    detector = VAEOutlierDetector(likelihood=likelihood, **SMALL | {"max_epochs": 150, "hidden": (32,)}).fit(x)
    error = np.abs(detector.reconstruct(new) - new).mean()
    assert error < 0.5 * np.abs(x.mean(axis=0) - new).mean()
    flipped = new.copy()
    flipped[:, 1:3] = 1 - new[:, 1:3]
    assert auroc(np.repeat([False, True], 300), detector.anomaly_score(np.concatenate([new, flipped]))) > 0.75


def test_zeros_and_ones_have_probabilities_and_other_cells_a_density():
    for x, name in ((binary(50), "bernoulli"), (intensities(50), "continuous_bernoulli")):
        detector = VAEOutlierDetector(likelihood="bernoulli", scaling="robust", **SMALL).fit(x)
        assert detector.architecture_["likelihood"] == name
        assert (detector.network_.scaling.scale == 1).all()  # cells are taken as they are
        assert (detector.network_.scaling.center == 0).all()
    nats = VAEOutlierDetector(likelihood="bernoulli", **SMALL).fit(binary()).score_terms(binary(seed=1))
    assert (nats["reconstruction"] > 0).all()  # a probability


def test_one_unit_for_all_pixels(digits):
    images, _ = digits
    network = VAEOutlierDetector(likelihood="isotropic", scaling="robust", **SMALL).fit(images[:200]).network_
    assert network.scaling.scale.unique().numel() == 1
    assert network.likelihood.variance().unique().numel() == 1


@pytest.mark.parametrize("unit", [1.0, 16.0, 255 / 16])
def test_flat_rows_of_pixels_share_a_unit_by_default(digits, unit):
    images, _ = digits
    rows = (unit * images[:200]).astype(np.float32)
    flat, image = (
        VAEOutlierDetector(input_shape=shape, **SMALL).fit(rows).score_samples(rows[:20]) for shape in (None, (1, 8, 8))
    )
    assert (flat == image).all()


def in_other_units(pixels):
    return pixels * np.where(np.arange(pixels.shape[1]) % 2, 1, 1000)


def no_levels(pixels):
    return pixels + np.random.default_rng(0).normal(size=pixels.shape)


def flags(pixels):
    return np.where(pixels > pixels.mean(), 1, 0)


def rare_high_values(pixels):
    return np.minimum(pixels, np.where(np.arange(pixels.shape[1]) == 20, 16, 3))


@pytest.mark.parametrize("make", [in_other_units, no_levels, flags, rare_high_values, lambda pixels: pixels[:, 18:30]])
def test_other_columns_keep_units_of_their_own(digits, make):
    rows = make(np.rint(16 * digits[0][:200]))
    scale = VAEOutlierDetector(**SMALL).fit(rows).network_.scaling.scale
    assert scale.unique().numel() > 1


def test_cells_that_have_no_such_likelihood_are_refused(normal, digits):
    images, _ = digits
    with pytest.raises(ValueError, match=r"Got cells from 0 to 16 with likelihood='bernoulli', expected.*Divide by"):
        VAEOutlierDetector(likelihood="bernoulli", **SMALL).fit(16 * images)
    with pytest.raises(ValueError, match=r"Got cells from -0.5 to 0.5 .*or use likelihood='gaussian'"):
        VAEOutlierDetector(likelihood="bernoulli", **SMALL).fit(images - 0.5)
    for likelihood in ("bernoulli", "isotropic"):
        with pytest.raises(ValueError, match=f"Got likelihood='{likelihood}' and categories in X"):
            VAEOutlierDetector(likelihood=likelihood, **SMALL).fit(normal.assign(gear="1"))


# Pixels


def test_a_stain_is_found_where_it_is(digits):
    images, digit = digits
    threes = images[digit == 3]
    detector = VAEOutlierDetector(body="conv2d", input_shape=(1, 8, 8), likelihood="isotropic", **SMALL)
    detector.set_params(max_epochs=60).fit(threes[:90])
    stained = threes[90:].reshape(-1, 1, 8, 8).copy()
    stained[:, 0, 3:5, 0:2] = 1.0
    pixels = detector.feature_scores(stained.reshape(len(stained), -1)).reshape(-1, 1, 8, 8)
    hottest = pixels.reshape(len(pixels), -1).argmax(axis=1)
    row, column = hottest // 8, hottest % 8
    assert ((row >= 3) & (row < 5) & (column < 2)).mean() > 0.8


def test_the_benchmark_splits_without_leaking_and_goes_on_where_it_stopped(digits, tmp_path, capsys):
    import images as benchmark

    rows, digit = digits
    given = benchmark.task(rows, digit, 4, seed=0)
    own = (digit == 4).sum()
    assert len(given.learned) == own // 2
    assert (~given.novel).sum() == own - own // 2
    assert given.novel.sum() == (digit != 4).sum()
    assert len(np.unique(np.concatenate([given.learned, given.scored[~given.novel]]), axis=0)) == own
    arguments = ({"pixels": rows}, digit, [4], [0])
    benchmark.run(*arguments, ["knn"], benchmark.METHODS, tmp_path / "results.jsonl")
    capsys.readouterr()
    results = benchmark.run(*arguments, ["knn", "pca"], benchmark.METHODS, tmp_path / "results.jsonl")
    assert capsys.readouterr().out.splitlines() == ["1/1 pixels, digit 4, seed 0, pca"]
    assert (benchmark.summary(results)["pixels: mean"] > 0.98).all()
    kinds = benchmark.features(rows, digit)
    assert {name: one.shape for name, one in kinds.items()} == dict.fromkeys(kinds, (len(rows), 64))
