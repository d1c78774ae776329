"""What the detector promises beyond scikit-learn's contract."""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from anomalyvae import VAEOutlierDetector, load, save
from anomalyvae.detector.fitting import Trainer, epoch_callback, schedule_for
from anomalyvae.nets.training import _Optimiser

SCORES = ("near", "crowd", "linear", "novelty", "elbo", "reconstruction", "kl", "log_likelihood")


def auroc(detector, fresh, strange):
    scores = np.concatenate([detector.anomaly_score(fresh), detector.anomaly_score(strange)])
    return roc_auc_score(np.repeat([0, 1], [len(fresh), len(strange)]), scores)


# Detection


def test_broken_dependence_is_found(detector, autoencoder, fresh, strange):
    assert auroc(detector, fresh, strange) > 0.85
    assert auroc(autoencoder, fresh, strange) > 0.85


def test_likelihood_learns_how_precise_each_feature_is(normal):
    x = normal.to_numpy().copy()
    x[:, 3] = np.random.default_rng(0).normal(size=len(x))  # nothing explains this column
    settings = {"max_epochs": 60, "latent_dim": 2, "masking": 0, "validation_fraction": 0}
    network = VAEOutlierDetector(random_state=0, **settings).fit(x).network_
    noise = network.likelihood.variance().sqrt().detach().numpy()
    assert noise[3] > 2 * np.delete(noise, 3).max()


def test_beta_changes_what_is_learned(normal):
    kl = {
        beta: VAEOutlierDetector(beta=beta, random_state=0, max_epochs=40, validation_fraction=0)
        .fit(normal)
        .score_terms(normal)["kl"]
        .mean()
        for beta in (0.0, 1.0, 20.0)
    }
    assert kl[0.0] > 2 * kl[1.0] > 4 * kl[20.0]


CONSTANTS = {f"{c} {jitter}": (c, jitter) for c in (0.0, 7.0, -1013.25, 1e9) for jitter in (0.0, 3e-15)}


@pytest.mark.parametrize("scaling", ["asinh", "standard", "robust", "quantile"])
def test_a_constant_column_neither_fails_nor_dominates(normal, fresh, scaling):
    rng = np.random.default_rng(0)
    columns = {name: c * (1 + jitter * rng.normal(size=len(normal))) for name, (c, jitter) in CONSTANTS.items()}
    detector = VAEOutlierDetector(random_state=0, max_epochs=60, scaling=scaling, validation_fraction=0)
    detector.fit(normal.assign(**columns))
    ordinary = fresh.assign(**{name: c for name, (c, _) in CONSTANTS.items()})
    outlier = ordinary.copy()
    outlier["signal 0"] = normal["signal 0"].mean() + 8 * normal["signal 0"].std()
    usual, unusual = (np.median(detector.anomaly_score(rows)) for rows in (ordinary, outlier))
    for name, (constant, _) in CONSTANTS.items():
        unit = abs(constant) or 1.0
        moved, far = (ordinary.assign(**{name: constant + step * unit}) for step in (1e-4, 0.5))
        assert detector.anomaly_score(moved).max() < unusual, name
        assert detector.anomaly_score(far).min() > usual, name


def test_what_is_constant_in_single_precision_stays_constant():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    x[:, 2] = np.float32(9.81) + np.spacing(np.float32(9.81)) * rng.integers(0, 2, len(x))
    with pytest.warns(UserWarning, match="column 2 .* only by rounding errors"):
        detector = VAEOutlierDetector(random_state=0, max_epochs=2, validation_fraction=0).fit(x)
    assert (detector.predict(x + np.array([0, 0, 1e-5])) == detector.predict(x)).mean() > 0.98


@pytest.mark.parametrize("scaling", ["asinh", "standard", "robust", "quantile", "isotropic"])
@pytest.mark.parametrize("level", [1e5, 1e8, 1e10])
def test_the_level_of_a_column_does_not_matter(scaling, level):
    rng = np.random.default_rng(0)
    x, q = rng.normal(size=(500, 4)), rng.normal(size=(400, 4))
    x[:, 3], q[:200, 3] = 2 * x[:, 0], 2 * q[:200, 0]
    labels = np.arange(400) >= 200
    kind = {"likelihood": "isotropic"} if scaling == "isotropic" else {"scaling": scaling}
    settings = {**kind, "random_state": 0, "max_epochs": 8, "validation_fraction": 0}
    here, there = (
        roc_auc_score(labels, VAEOutlierDetector(**settings).fit(x + c).anomaly_score(q + c)) for c in (0, level)
    )
    assert there > here - 0.01


@pytest.mark.parametrize("scaling", ["asinh", "standard", "robust", "quantile"])
def test_units_do_not_matter(normal, fresh, scaling):
    settings = {"random_state": 0, "max_epochs": 10, "scaling": scaling}
    factor = 2.0 ** np.arange(-3, 3)
    here = VAEOutlierDetector(**settings, validation_fraction=0).fit(normal).anomaly_score(fresh)
    there = VAEOutlierDetector(**settings, validation_fraction=0).fit(normal * factor).anomaly_score(fresh * factor)
    assert np.corrcoef(here, there)[0, 1] > 0.9


# Scores


def test_terms_add_up(detector, fresh):
    terms = detector.score_terms(fresh)
    assert tuple(sorted(terms)) == tuple(sorted(SCORES))
    assert (terms["kl"] >= 0).all()
    np.testing.assert_allclose(terms["reconstruction"] + terms["kl"], terms["elbo"])
    np.testing.assert_allclose(detector.feature_scores(fresh).sum(axis=1), terms["reconstruction"])
    np.testing.assert_array_equal(detector.anomaly_score(fresh), terms["novelty"])
    assert (terms.index == fresh.index).all()


def test_reasons_name_the_view_and_the_feature():
    rng = np.random.default_rng(0)
    cause = rng.normal(size=(400, 1))
    rows = np.hstack([rng.normal(size=(400, 3)), cause, cause + 0.05 * rng.normal(size=(400, 1))])
    rows[:30, :3] = 9 + 0.05 * rng.normal(size=(30, 3))  # a clump that was learned
    table = pd.DataFrame(rows, columns=[*"abcde"])
    detector = VAEOutlierDetector(random_state=0, validation_fraction=0).fit(table)
    strange = pd.DataFrame([[0.0, 0, 30, 0, 0], [9, 9, 9, 0, 0], [0, 0, 0, 1.5, -1.5]], columns=table.columns)
    reasons = detector.reasons(strange)
    np.testing.assert_allclose(reasons[[*"abcde"]].sum(axis=1), 1)
    assert reasons.loc[0, [*"abcde"]].astype(float).idxmax() == "c"
    assert reasons.loc[0, "c"] > 0.8
    assert reasons.loc[1, "view"] == "far from the crowd"
    assert reasons.loc[2, ["d", "e"]].sum() > 0.8
    terms = detector.score_terms(table)[["near", "crowd", "linear"]].to_numpy()
    near, crowd, linear = terms.T
    terms = np.column_stack([near, crowd - np.log(3), np.maximum((near + linear) / 2, terms.mean(axis=1))])
    words = ["far from its neighbours", "far from the crowd", "breaks a linear relation"]
    assert detector.reasons(table)["view"].tolist() == [words[i] for i in terms.argmax(axis=1)]
    with pytest.raises(ValueError, match="Use criterion='novelty'"):
        VAEOutlierDetector(criterion="elbo", max_epochs=1).fit(table).reasons(table)


@pytest.mark.parametrize("score", SCORES)
def test_score_names_the_column_that_scores(normal, fresh, score):
    detector = VAEOutlierDetector(criterion=score, random_state=0, max_epochs=2, validation_fraction=0).fit(normal)
    np.testing.assert_array_equal(detector.anomaly_score(fresh), detector.score_terms(fresh)[score])
    np.testing.assert_array_equal(detector.score_samples(fresh), -detector.score_terms(fresh)[score])


def test_importance_weighted_bound_recovers_a_known_density():
    rng = np.random.default_rng(0)
    loading = rng.normal(size=(1, 4))
    x = rng.normal(size=(4000, 1)) @ loading + 0.5 * rng.normal(size=(4000, 4))
    detector = VAEOutlierDetector(
        scaling=None, latent_dim=2, criterion="log_likelihood", random_state=0, validation_fraction=0.2
    ).fit(x)
    covariance = loading.T @ loading + 0.25 * np.eye(4)
    inverse = np.linalg.inv(covariance)
    truth = -0.5 * (np.einsum("ij,jk,ik->i", x, inverse, x) + np.linalg.slogdet(2 * np.pi * covariance)[1])
    estimate = detector.score_samples(x)
    assert abs(np.mean(truth - estimate)) < 0.15  # nats, of about 4.6
    assert np.corrcoef(truth, estimate)[0, 1] > 0.95


@pytest.mark.parametrize("score", SCORES)
def test_same_row_same_score_bit_for_bit(normal, fresh, score):
    detector = VAEOutlierDetector(criterion=score, random_state=0, max_epochs=2, validation_fraction=0).fit(normal)
    many = pd.concat([fresh] * 6, ignore_index=True)
    whole = detector.anomaly_score(many)
    np.testing.assert_array_equal(whole, detector.anomaly_score(many))
    np.testing.assert_array_equal(whole[:400], whole[-400:])
    order = np.random.default_rng(0).permutation(len(many))
    np.testing.assert_array_equal(detector.anomaly_score(many.iloc[order]), whole[order])
    for size in (1, 7, 33, 1025):
        np.testing.assert_array_equal(detector.anomaly_score(many[:size]), whole[:size])


@pytest.mark.slow
def test_same_score_in_another_process(detector, fresh, tmp_path):
    np.save(tmp_path / "fresh.npy", fresh.to_numpy())
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(detector))
    code = (
        "import pickle, sys, warnings, numpy as np; warnings.simplefilter('ignore');"
        "d = pickle.load(open('model.pkl', 'rb'));"
        "np.save('scores.npy', d.anomaly_score(np.load('fresh.npy')))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), detector.anomaly_score(fresh))


def test_scores_do_not_depend_on_threads(detector, fresh):
    many = pd.concat([fresh] * 30, ignore_index=True)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = detector.anomaly_score(many)
        torch.set_num_threads(2)
        np.testing.assert_array_equal(detector.anomaly_score(many), one)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# Fitting


def test_the_same_seed_gives_the_same_model_and_leaves_global_seeds_alone(normal, fresh):
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    first = VAEOutlierDetector(random_state=0, max_epochs=3).fit(normal)
    drawn = torch.rand(1), np.random.rand()  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    assert (torch.rand(1), np.random.rand()) == drawn  # noqa: NPY002
    second = VAEOutlierDetector(random_state=0, max_epochs=3).fit(normal)
    np.testing.assert_array_equal(first.anomaly_score(fresh), second.anomaly_score(fresh))
    other = VAEOutlierDetector(random_state=1, max_epochs=3).fit(normal)
    assert not np.array_equal(first.anomaly_score(fresh), other.anomaly_score(fresh))


def test_the_order_of_rows_does_not_matter(normal, fresh):
    detector = VAEOutlierDetector(random_state=0, max_epochs=3)
    straight = clone(detector).fit(normal).anomaly_score(fresh)
    np.testing.assert_array_equal(clone(detector).fit(normal[::-1]).anomaly_score(fresh), straight)


@pytest.mark.parametrize("shape", [(2, 3), (3, 1), (40, 1), (12, 300), (1000, 2)])
@pytest.mark.parametrize("objective", ["elbo", "reconstruction"])
def test_any_size_works(shape, objective):
    x = np.random.default_rng(0).normal(size=shape)
    detector = VAEOutlierDetector(objective=objective, random_state=0, max_epochs=2).fit(x)
    assert np.isfinite(detector.anomaly_score(x)).all()
    assert np.isfinite(detector.anomaly_score(1e300 * x)).all()


@pytest.mark.slow
def test_two_thousand_features_and_a_hundred_thousand_rows():
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(200, 2000))
    assert np.isfinite(VAEOutlierDetector(random_state=0, max_epochs=2).fit(wide).score_samples(wide)).all()
    long = rng.normal(size=(100_000, 4))
    assert np.isfinite(VAEOutlierDetector(random_state=0, max_epochs=1).fit(long).score_samples(long)).all()


def test_rows_that_are_all_the_same():
    x = np.full((50, 3), 4.2)
    detector = VAEOutlierDetector(random_state=0, max_epochs=5).fit(x)
    assert (detector.predict(x) == 1).all()
    assert detector.anomaly_score([[8.4, 4.2, 4.2]])[0] > detector.anomaly_score(x)[0]


def test_zero_weight_takes_a_row_out(normal, strange, fresh):
    both = pd.concat([normal, strange], ignore_index=True)
    weight = np.repeat([1.0, 0.0], [len(normal), len(strange)])
    detector = VAEOutlierDetector(random_state=0, max_epochs=3)
    weighted = clone(detector).fit(both, sample_weight=weight).anomaly_score(fresh)
    np.testing.assert_array_equal(weighted, clone(detector).fit(normal).anomaly_score(fresh))


def test_a_split_records_the_held_out_loss_and_its_terms(normal):
    history = VAEOutlierDetector(random_state=0, max_epochs=2, validation_fraction=0.2).fit(normal).history_
    assert {"epoch", "seconds", "loss", "held_out_loss", "held_out_reconstruction", "held_out_kl"} <= set(history)
    np.testing.assert_allclose(history["held_out_loss"], history["held_out_reconstruction"] + history["held_out_kl"])


def test_patience_ends_training_before_the_last_epoch(normal):
    overfitted = normal[:60] + np.random.default_rng(0).normal(size=(60, 6)) * normal.std().to_numpy()
    detector = VAEOutlierDetector(random_state=0, max_epochs=300, validation_fraction=0.4, masking=0).fit(overfitted)
    assert detector.stop_reason_ == "patience"
    assert len(detector.history_) < 300


def test_an_interrupt_keeps_the_best_model_so_far(normal, fresh):
    def interrupt(record):
        if record["epoch"] == 3:
            raise KeyboardInterrupt

    token = epoch_callback.set(interrupt)
    with pytest.warns(UserWarning, match=r"interrupted in epoch 4.* best weights so far are kept"):
        detector = VAEOutlierDetector(random_state=0, max_epochs=1000).fit(normal)
    epoch_callback.reset(token)
    assert detector.stop_reason_ == "interrupted"
    assert len(detector.history_) == 3
    assert np.isfinite(detector.score_samples(fresh)).all()


def test_only_the_network_that_is_kept_reports_its_epochs(normal):
    epochs = []
    token = epoch_callback.set(lambda record: epochs.append(record["epoch"]))
    VAEOutlierDetector(random_state=0, max_epochs=2).fit(normal)
    epoch_callback.reset(token)
    assert epochs == [1, 2]


def test_an_interrupt_while_the_threshold_is_set_is_reported(normal, monkeypatch):
    train, calls = Trainer._train, []

    def interrupted_after_the_first(self, *arguments, **options):
        calls.append(arguments)
        history, reason, _ = train(self, *arguments, **options)
        return history, reason, False

    monkeypatch.setattr(Trainer, "_train", interrupted_after_the_first)
    with pytest.warns(UserWarning, match=r"interrupted while it set the threshold.*Fit again"):
        detector = VAEOutlierDetector(random_state=0, max_epochs=2).fit(normal)
    assert len(calls) == 1
    np.testing.assert_allclose(
        detector.calibration_.scores, np.sort(detector.anomaly_score(normal)), rtol=1e-8, atol=1e-8
    )


def test_an_interrupt_after_the_first_of_several_networks_keeps_its_epochs(normal, monkeypatch):
    """Networks with layers of one's own train one after another; the first is whole by then."""
    taken, step = [], _Optimiser.step

    def interrupted(self, *args, **kwargs):
        taken.append(1)
        if len(taken) == 15:  # of ten for each network
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(_Optimiser, "step", interrupted)
    detector = VAEOutlierDetector(random_state=0, max_epochs=2, body=LinearBody)
    with pytest.warns(UserWarning, match="interrupted while it set the threshold") as given:
        detector.fit(normal)
    assert not [w for w in given if "interrupted in epoch" in str(w.message)]
    assert detector.stop_reason_ == "max_epochs"
    assert len(detector.history_) == 2


def test_the_default_schedule_makes_a_step_per_two_rows_in_batches_of_a_32nd():
    assert schedule_for(320).batch_size == 128
    assert schedule_for(6400).batch_size == 200
    assert schedule_for(100_000).batch_size == 1024
    assert schedule_for(320, cells=600).batch_size == 64  # wide rows
    assert schedule_for(200).max_epochs == 50  # of 2 batches: 100 steps, the fewest
    assert schedule_for(1024).max_epochs == 64  # of 8 batches
    assert schedule_for(6400).max_epochs == 32  # of 32 batches: 1,000 steps
    assert schedule_for(100_000).max_epochs == 20
    assert schedule_for(2000, cells=1000).max_epochs == 33  # of 31 batches: 1,000 steps
    assert schedule_for(2000, cells=1000, described=True).max_epochs == 17  # half as many
    assert schedule_for(2000, cells=1000, precise=True, described=True).max_epochs == 33
    assert schedule_for(6400, cells=100, described=True).max_epochs == 32  # narrow windows are as rows
    assert schedule_for(6400, 200).patience == 40
    assert schedule_for(6400, 30).patience == 10


# Thresholds


@pytest.mark.parametrize("contamination", [0.01, 0.1, 0.5])
def test_contamination_is_the_share_of_training_rows_flagged(normal, contamination):
    detector = VAEOutlierDetector(contamination=contamination, random_state=0, max_epochs=3).fit(normal)
    assert (detector.predict(normal) == -1).sum() == round(contamination * len(normal))


def test_a_split_sets_the_line_on_rows_that_were_not_trained_on(normal):
    detector = VAEOutlierDetector(validation_fraction=0.2, random_state=0, max_epochs=5).fit(normal)
    assert len(detector.calibration_.scores) == 60
    assert -detector.offset_ == detector.calibration_.scores[57]  # the 58th of 60: ceil(61 x 0.95)


def test_few_rows_are_all_learned_and_all_set_the_line(normal, detector):
    assert len(detector.calibration_.scores) == len(normal)
    learned = np.sort(detector.anomaly_score(normal))
    assert np.median(detector.calibration_.scores) > np.median(learned)  # unlearned rows score higher
    many = pd.concat([normal + shift for shift in np.linspace(0, 1e-6, 10)])
    assert len(clone(detector).set_params(max_epochs=1).fit(many).calibration_.scores) == 600


@pytest.mark.parametrize("fraction", [pytest.param("auto", marks=pytest.mark.slow), 0.2])
def test_auto_keeps_its_false_alarm_rate(fraction):
    rng = np.random.default_rng(0)
    rates = []
    for seed in range(8):
        x = rng.normal(size=(1500, 3))
        detector = VAEOutlierDetector(validation_fraction=fraction, random_state=seed, max_epochs=20).fit(x)
        rates.append((detector.predict(rng.normal(size=(5000, 3))) == -1).mean())
    assert 0.03 < np.mean(rates) < 0.065  # the target is 5 %


def test_cross_fitting_holds_where_training_rows_would_fail():
    rng = np.random.default_rng(0)
    rates = {}
    for fraction in ("auto", 0):
        detector = VAEOutlierDetector(validation_fraction=fraction, random_state=0, max_epochs=200)
        detector.fit(rng.normal(size=(150, 20)))
        rates[fraction] = (detector.predict(rng.normal(size=(5000, 20))) == -1).mean()
    assert rates["auto"] < 0.1 < rates[0]


def test_groups_change_sides_whole(normal):
    groups = np.arange(len(normal)) // 60
    rng = np.random.default_rng(0)
    places = 20 * rng.normal(size=(10, 6))  # each group lies somewhere else: no group foretells another
    apart = pd.DataFrame(rng.normal(size=(600, 6)) + places[groups])
    by_group = VAEOutlierDetector(random_state=0, max_epochs=30, validation_fraction=0.2).fit(apart, groups=groups)
    by_row = VAEOutlierDetector(random_state=0, max_epochs=30, validation_fraction=0.2).fit(apart)
    assert len(by_group.calibration_.scores) == 60
    assert by_group.calibration_.scores.min() > by_row.calibration_.scores.max()
    few = VAEOutlierDetector(random_state=0, max_epochs=30).fit(apart[groups < 5], groups=groups[groups < 5])
    assert len(few.calibration_.scores) == 300
    assert np.median(few.calibration_.scores) > 3 * np.median(few.anomaly_score(apart[groups < 5]))


# Out in the user's own terms


def test_dataframes_in_dataframes_out(detector, fresh):
    z = detector.embed(fresh)
    assert list(z) == [f"latent{i}" for i in range(z.shape[1])]
    for frame in (detector.reconstruct(fresh), detector.decode(z), detector.feature_scores(fresh), detector.sample(3)):
        assert list(frame) == list(fresh)
    assert (detector.reconstruct(fresh[5:9]).index == fresh[5:9].index).all()
    np.testing.assert_array_equal(detector.decode(z), detector.reconstruct(fresh))


def test_set_output(detector, fresh):
    framed = clone(detector).set_params(max_epochs=1).set_output(transform="pandas").fit(fresh)
    assert list(framed.transform(fresh)) == list(framed.get_feature_names_out())
    assert isinstance(detector.transform(fresh), np.ndarray)


def test_samples_look_like_the_data(detector, normal):
    sample = detector.sample(4000, random_state=1)
    np.testing.assert_allclose((sample.mean() - normal.mean()) / normal.std(), 0, atol=0.15)
    np.testing.assert_allclose(sample.std() / normal.std(), 1, atol=0.15)
    np.testing.assert_allclose(sample.corr(), normal.corr(), atol=0.2)
    np.testing.assert_array_equal(detector.sample(5), detector.sample(5))


def test_reconstructions_are_close(detector, fresh):
    error = (detector.reconstruct(fresh) - fresh).std() / fresh.std()
    assert (error < 0.5).all()


def test_reconstruction_objective_has_no_prior(autoencoder, fresh):
    with pytest.raises(ValueError, match="Use objective='elbo'"):
        autoencoder.sample(2)
    assert list(autoencoder.score_terms(fresh)) == ["reconstruction", "near", "crowd", "linear", "novelty"]


# Inside scikit-learn


def test_grid_search_compares_by_held_out_density(normal):
    search = GridSearchCV(
        VAEOutlierDetector(random_state=0, max_epochs=10, validation_fraction=0), {"latent_dim": [1, 3]}, cv=3
    ).fit(normal)
    assert search.best_params_ == {"latent_dim": 3}


def test_criterion_is_a_parameter_and_score_a_method(detector, fresh):
    named = clone(detector).set_params(criterion="kl")
    assert named.get_params()["criterion"] == clone(named).get_params()["criterion"] == "kl"
    assert "criterion='kl'" in repr(named)
    assert detector.score(fresh) == pytest.approx(-detector.score_terms(fresh)["elbo"].mean())


def test_pipeline(normal, fresh):
    pipeline = make_pipeline(MinMaxScaler(), VAEOutlierDetector(random_state=0, max_epochs=3)).fit(normal)
    assert set(pipeline.predict(fresh)) <= {-1, 1}
    assert pipeline.score_samples(fresh).shape == (len(fresh),)


def test_a_body_of_ones_own(normal, fresh):
    detector = VAEOutlierDetector(body=LinearBody, random_state=0, max_epochs=20).fit(normal)
    copied = pickle.loads(pickle.dumps(detector))  # noqa: S301
    np.testing.assert_array_equal(copied.anomaly_score(fresh), detector.anomaly_score(fresh))


class LinearBody(torch.nn.Module):
    def __init__(self, input_shape, latent_dim):
        super().__init__()
        self.out = torch.nn.Linear(latent_dim, input_shape[0])

    def encode(self, x):
        return x

    def decode(self, z):
        return self.out(z)


def test_verbose_shows_progress(normal, capsys):
    VAEOutlierDetector(random_state=0, max_epochs=2, verbose=True).fit(normal)
    shown = capsys.readouterr().err
    assert "learning: epoch 2/2" in shown
    VAEOutlierDetector(random_state=0, max_epochs=2, verbose=True, body=LinearBody).fit(normal)
    assert "learning, 4 of 4" in capsys.readouterr().err  # these cannot train at once
    VAEOutlierDetector(random_state=0, max_epochs=2, verbose=True, validation_fraction=0.2).fit(normal)
    assert "held out" in capsys.readouterr().err


def test_verbose_writes_to_stderr_and_changes_nothing_else(normal, capfd, tmp_path):
    rows = normal.iloc[:60]
    quiet = VAEOutlierDetector(max_epochs=2, hidden=[8], random_state=0).fit(rows)
    assert capfd.readouterr() == ("", "")
    shown = clone(VAEOutlierDetector(max_epochs=2, hidden=[8], random_state=0, verbose=1)).fit(rows)
    out, err = capfd.readouterr()
    assert out == ""
    assert "epoch" in err
    assert shown.get_params()["verbose"] == 1
    assert np.array_equal(shown.anomaly_score(rows), quiet.anomaly_score(rows))
    save(shown, tmp_path / "model")
    assert load(tmp_path / "model").get_params()["verbose"] == 1


def test_the_linear_view_learns_the_relation_of_rows_that_weigh_more():
    """One row in 33 has another linear relation between columns; with equal weights of both kinds, it is normal."""
    rng = np.random.default_rng(0)
    usual, rare = rng.normal(size=(2, 2, 6))

    def rows(relation, n):
        return rng.normal(size=(n, 2)) @ relation + 0.1 * rng.normal(size=(n, 6))

    learned, weight = np.concatenate([rows(usual, 485), rows(rare, 15)]), np.repeat([1.0, 485 / 15], [485, 15])
    detector = VAEOutlierDetector(random_state=0, criterion="linear", max_epochs=2, validation_fraction=0.0)
    detector.fit(learned, sample_weight=weight)
    line = np.quantile(detector.anomaly_score(rows(usual, 500)), 0.95)
    assert (detector.anomaly_score(rows(rare, 500)) > line).mean() < 0.3  # without weights, more than 0.95
