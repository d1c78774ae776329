"""The adversarial objective: codes follow the prior, and what the critic has learned says which are rare."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import gaussian_kde
from sklearn.metrics import roc_auc_score

from anomalyvae import VAEOutlierDetector, load, save
from anomalyvae.nets.training import Schedule, TrainingRows, train
from tests.nets.test_family import network, rows

SETTINGS = {"objective": "adversarial", "hidden": (32,), "max_epochs": 60, "random_state": 0}


def two_sided(n, seed):
    """Rows in two clouds along one direction, with nothing in between."""
    rng = np.random.default_rng(seed)
    side = rng.choice([-2.0, 2.0], size=n)
    return np.outer(side, [1.0, 1.0, -1.0, 1.0]) + 0.5 * rng.normal(size=(n, 4))


@pytest.fixture(scope="module")
def adversarial(normal):
    return VAEOutlierDetector(objective="adversarial", random_state=0, validation_fraction=0).fit(normal)


def test_codes_follow_the_prior(adversarial, normal, fresh):
    settings = {"random_state": 0, "validation_fraction": 0, "max_epochs": 100}
    without = VAEOutlierDetector(objective="reconstruction", **settings).fit(normal)
    drawn, free = (detector.embed(fresh).to_numpy() for detector in (adversarial, without))
    assert np.abs(drawn.mean(axis=0)).max() < 0.3
    off = [np.linalg.norm(np.cov(z.T) - np.eye(z.shape[1])) for z in (drawn, free)]
    assert off[0] < 0.5 * off[1]


def test_the_critic_knows_the_density_of_codes_better_than_the_prior_does():
    learned, new = two_sided(2000, 0), two_sided(2000, 1)
    detector = VAEOutlierDetector(
        **SETTINGS | {"beta": 0.3, "latent_dim": 1, "validation_fraction": 0, "max_epochs": 30}
    ).fit(learned)
    z = detector.embed(new)
    rarity = -gaussian_kde(detector.embed(learned).T).logpdf(z.T)
    off = {"critic": detector.score_terms(new)["critic"] - rarity, "prior": 0.5 * z[:, 0] ** 2 - rarity}
    assert off["critic"].std() < 0.5 * off["prior"].std()  # but for a constant, as all scores are


def test_terms_add_up_and_detect(adversarial, fresh, strange):
    terms = adversarial.score_terms(fresh)
    assert list(terms) == ["reconstruction", "critic", "energy", "near", "crowd", "linear", "novelty"]
    np.testing.assert_allclose(terms["energy"], terms["reconstruction"] + terms["critic"])
    both = pd.concat([terms, adversarial.score_terms(strange)])
    outlier = np.repeat([False, True], [len(fresh), len(strange)])
    for name in ("reconstruction", "energy", "novelty"):
        assert roc_auc_score(outlier, both[name]) > 0.9, name


def test_the_critic_steps_before_the_model_and_each_by_its_own_loss():
    net, _ = network("adversarial", "mlp")
    turns = net.turns(rows(64), torch.ones(64), 1.0, torch.Generator().manual_seed(0))
    played = {name: {id(p) for p in parameters} for name, parameters in net.players().items()}
    player, loss = next(turns)
    assert player == "critic"
    given = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
    reached = {id(p) for p, slope in zip(net.parameters(), given, strict=True) if slope is not None}
    assert reached == played["critic"]
    with torch.no_grad():
        net.discriminator[-1].bias -= 1000.0  # a critic so taught sees through every code
    player, loss = next(turns)
    assert player == "model"
    assert float(loss.detach()) > 900  # and the model hears of it in the same step
    assert next(turns, None) is None


@pytest.mark.parametrize("rate", [1e-3, 2e-2])
def test_the_game_settles_at_any_rate(rate):
    net, _ = network("adversarial", "mlp")
    schedule = Schedule(max_epochs=40, batch_size=32, learning_rate=rate, patience=99)
    history, _ = train(
        [net], [TrainingRows(rows(200), torch.ones(200))], rows(50, 1), schedule, torch.Generator().manual_seed(0)
    )
    late = [record["held_out_loss"] for record in history[-10:]]
    assert max(late) - min(late) < 0.1 * (history[0]["held_out_loss"] - min(late))
    with torch.no_grad():
        assert float(net.logit(net.encode(rows(200))).abs().mean()) < 3  # the critic is not sure of itself


def test_samples_are_like_the_training_rows(adversarial, normal):
    drawn = adversarial.sample(2000, random_state=0)
    assert list(drawn) == list(normal)
    np.testing.assert_allclose(drawn.corr(), normal.corr(), atol=0.15)
    np.testing.assert_allclose(drawn.std() / normal.std(), 1, atol=0.15)
    pd.testing.assert_frame_equal(drawn, adversarial.sample(2000, random_state=0))


def test_it_is_judged_by_held_out_rows_and_stored(normal, fresh, tmp_path):
    settings = SETTINGS | {"max_epochs": 3, "validation_fraction": 0.2, "criterion": "energy"}
    detector = VAEOutlierDetector(**settings).fit(normal)
    assert {"held_out_loss", "held_out_reconstruction"} <= set(detector.history_)
    save(detector, tmp_path / "bundle")
    np.testing.assert_array_equal(load(tmp_path / "bundle").anomaly_score(fresh), detector.anomaly_score(fresh))


def test_categories_holes_and_outliers_among_the_rows(normal):
    table = normal.assign(gear=np.where(normal["signal 0"] > 5, "high", "low"))
    table.iloc[::7, 2] = np.nan
    strange = table.head(30).assign(**{"signal 1": 99.0})
    settings = SETTINGS | {"contamination": 0.05, "max_epochs": 10, "validation_fraction": 0}
    detector = VAEOutlierDetector(**settings).fit(table, outliers=strange)
    assert np.isfinite(detector.score_terms(table)).all(axis=None)
    assert set(detector.sample(50, random_state=0)["gear"]) <= {"high", "low"}


@pytest.mark.parametrize(("score", "having"), [("critic", "adversarial"), ("elbo", "elbo"), ("energy", "adversarial")])
def test_a_score_of_another_objective_is_refused_with_the_one_that_has_it(normal, score, having):
    with pytest.raises(ValueError, match=f"Got criterion='{score}'.*Use objective='{having}'"):
        VAEOutlierDetector(objective="reconstruction", criterion=score).fit(normal)
