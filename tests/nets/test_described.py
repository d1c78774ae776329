"""Windows are described by shape and energies: what depends on the place of a fast event does not count."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy.fft import dct, idct
from sklearn.metrics import roc_auc_score

from anomalyvae import VAEOutlierDetector
from anomalyvae.models import export_onnx, load, save
from anomalyvae.nets.described import Described
from anomalyvae.nets.scaling import Affine
from anomalyvae.nets.window_views import WindowViews
from anomalyvae.scoring import Scorer

SHAPE = (3, 20)
FIT = {"input_shape": SHAPE, "random_state": 0, "max_epochs": 2}


def windows(n, seed=0):
    """Two noisy signals, and a switch that is on or off for a whole window, ``(n, 3, 20)``."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, *SHAPE)) + rng.normal(size=(n, 3, 1))
    x[:, 2] = rng.integers(0, 2, (n, 1))
    return x


def flat(x):
    return x.reshape(len(x), -1)


PLAIN = Affine(torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))


def described(x):
    s = torch.tensor(flat(x))
    return Described.of(x.shape[1:], s, PLAIN, s)


def numbers(description, x):
    """Shape, movements, samples, residuals and new values, as arrays."""
    s = torch.tensor(flat(x))
    parts = description(s, s.isnan(), 2 * s).split(description.widths, dim=1)
    return [part.numpy() for part in parts]


def test_a_signal_becomes_its_shape_and_movements():
    x = windows(400)[:, :2]
    description = described(x)
    c = dct(x, norm="ortho")
    octaves = [slice(3, 6), slice(6, 12), slice(12, 20)]
    still = description.still.numpy()
    slow = idct(np.where(np.arange(20) < 3, c, 0), norm="ortho")
    squares = [np.square(c[:, :, octave]).mean(2) for octave in octaves]
    squares += [np.square(x - slow).max(2), np.square(np.diff(x)).max(2)]
    shape, movements, samples, residuals, _ = numbers(description, x)
    for got, raw in ((shape, flat(c[:, :, :3])), (movements, flat((np.stack(squares, 2) + still) ** 0.25))):
        np.testing.assert_allclose(got, (raw - raw.mean(0)) / raw.std(0), atol=1e-9)
    np.testing.assert_array_equal(samples, flat(x))
    np.testing.assert_array_equal(residuals, 2 * flat(x))
    assert (still < 1e-3 * np.stack(squares, 2).mean(0)).all()


@pytest.mark.parametrize(("samples", "bands"), [(1, 0), (3, 0), (4, 1), (10, 2), (14, 2), (20, 3), (40, 4)])
def test_less_than_half_an_octave_joins_the_one_before(samples, bands):
    x = np.random.default_rng(0).normal(size=(50, 2, samples))
    movements = bands + 2 * (bands > 0)
    shapes = [part.shape for part in numbers(described(x), x)]
    assert shapes == [(50, 2 * min(3, samples)), (50, 2 * movements), (50, 2 * samples), (50, 2 * samples), (50, 0)]


def test_a_burst_is_the_same_wherever_it_lies():
    description = described(windows(400)[:, :2])
    burst = np.zeros((2, 2, 20))
    burst[0, 0, 4:8] = burst[1, 0, 12:16] = [5, -5, 5, -5]
    early, late = numbers(description, burst)[1][:, 2]
    assert early > 5  # in standard deviations of the energy of the fastest octave
    assert abs(early - late) < 0.1 * early


def test_states_and_constants_are_held_and_coarse_signals_have_no_part():
    coarse = np.random.default_rng(0).integers(0, 5, (400, 1, 20)) / 3
    x = np.concatenate([windows(400), np.full((400, 1, 20), 4.0), coarse], axis=1)
    description = described(x)
    assert description.judged.tolist() == [0, 1]
    assert description.unjudged == ([2, 3], [4])
    asked = x[:4].copy()
    asked[1, 2, :5], asked[2, 3, -2:], asked[3, 4] = 2, 4.001, 9
    np.testing.assert_allclose(numbers(description, asked)[4], [[0, 0], [0.25, 0], [0, 0.1], [0, 0]])


def test_a_missing_value_is_not_new():
    x = windows(400)
    description = described(x)
    s = torch.tensor(flat(x[:1])).masked_fill(torch.arange(60) == 41, 7.0)
    assert description(s, torch.arange(60)[None] == 41, s)[0, -1] == 0
    assert description(s, torch.zeros(1, 60, dtype=torch.bool), s)[0, -1] > 0


def test_a_rare_value_is_known_wherever_it_stands_in_the_training_rows():
    x = windows(20_000)
    x[-1, 2] = 5
    assert 5 in described(x).values


def test_states_alone_are_judged():
    x = np.random.default_rng(0).integers(0, 2, (400, 2, 1)) * np.ones((1, 1, 20))
    assert described(x).judged.tolist() == [0, 1]


def test_a_signal_that_varies_by_rounding_alone_is_a_constant():
    x = windows(400)
    x[:, 1] = 0.1 + 1e-16 * np.random.default_rng(1).integers(0, 9, (400, 20))
    description = described(x)
    assert description.unjudged == ([1, 2], [])
    assert numbers(description, x)[4].max() == 0


def test_a_fast_event_is_found_wherever_it_lies():
    """Single samples hardly tell a burst, as each lies in the range of normal ones."""
    normal, new = windows(1000), windows(400, seed=1)
    y = np.arange(400) < 200
    for row, place in enumerate(np.random.default_rng(2).integers(0, 14, 200)):
        new[row, 0, place : place + 6] = new[row, 0].mean() + 2.5 * np.array([1, -1, 1, -1, 1, -1])
    found = {}
    for shape in (SHAPE, None):
        detector = VAEOutlierDetector(**FIT | {"input_shape": shape}).fit(flat(normal))
        found[shape] = roc_auc_score(y, -detector.score_samples(flat(new)))
    assert found[SHAPE] > 0.9
    assert found[SHAPE] > found[None]


@pytest.fixture(scope="module")
def detector():
    return VAEOutlierDetector(**FIT).fit(flat(windows(600)))


def test_new_normal_windows_raise_the_promised_alarms(detector):
    alarms = (detector.predict(flat(windows(4000, seed=5))) == -1).mean()
    assert 0.02 < alarms < 0.08


def test_a_window_has_the_same_score_in_any_batch(detector):
    x = flat(windows(300, seed=3))
    x[::3, ::7] = np.nan
    alone = [detector.score_samples(x[i : i + 1])[0] for i in range(40)]
    np.testing.assert_array_equal(detector.score_samples(x)[:40], alone)


def test_a_bundle_and_a_graph_score_alike(detector, tmp_path):
    x = flat(windows(300, seed=3))
    save(detector, tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").score_samples(x), detector.score_samples(x))
    export_onnx(detector, tmp_path / "model.onnx")
    scorer = Scorer(tmp_path / "model.onnx")
    assert scorer.metadata["precision"] == "single"
    got = scorer.score(x)
    np.testing.assert_allclose(got["anomaly_score"], -detector.score_samples(x), atol=1e-4, rtol=1e-5)
    alone = [scorer.score(x[i : i + 1])["anomaly_score"][0] for i in range(40)]
    np.testing.assert_allclose(got["anomaly_score"][:40], alone, atol=1e-5)


def test_missing_cells_are_imputed_in_the_graph_too(tmp_path):
    learned = flat(windows(600))
    learned[::4, 3:9] = np.nan
    detector = VAEOutlierDetector(**FIT).fit(learned)
    x = flat(windows(200, seed=3))
    x[::2, 3:9] = np.nan
    export_onnx(detector, tmp_path / "model.onnx", precision="double")
    got = Scorer(tmp_path / "model.onnx").score(x)["anomaly_score"]
    np.testing.assert_allclose(got, -detector.score_samples(x), atol=1e-9)


def test_reasons_name_the_view_and_the_signal(detector):
    x = windows(20, seed=4)
    x[0, 1] += 30
    x[1, 2] = 2
    x[2, 0, 9:13] += [6, -6, 6, -6]
    reasons = detector.reasons(flat(x))
    shares = reasons.drop(columns="view").to_numpy().reshape(20, *SHAPE)
    np.testing.assert_allclose(shares.sum((1, 2)), 1)
    assert (shares.sum(2).argmax(1)[:3] == [1, 2, 0]).all()
    assert shares[0, 1].sum() > 0.9
    assert reasons["view"][1] == "a value never seen"
    views = detector.network_.view_shares(torch.tensor(flat(x)))[2].view(-1, *SHAPE)
    for name, least in {"short": 0.9, "linear": 0.5}.items():
        assert views[WindowViews.names.index(name), 0, 9:13].sum() > least
    assert (reasons["view"][3:] != "a value never seen").all()


def test_a_state_never_seen_is_flagged(detector):
    x = windows(300, seed=7)
    new = x.copy()
    new[:, 2] = 2
    assert (detector.predict(flat(new)) == -1).mean() > 0.9
    assert (detector.predict(flat(x)) == -1).mean() < 0.12


def test_terms_are_those_of_windows(detector):
    terms = detector.score_terms(flat(windows(50, seed=8)))
    together = terms.assign(residual=(terms["near"] + terms["residual"]) / 2)  # as it counts
    views = together[[*WindowViews.names]].to_numpy()[:, detector.network_.memorised.switched_on]
    np.testing.assert_allclose(terms["novelty"], np.log(np.exp(views).mean(1)), rtol=1e-9)
    np.testing.assert_allclose(terms["novelty"], -detector.score_samples(flat(windows(50, seed=8))))


def test_a_signal_that_a_fold_does_not_have_is_learned():
    """One of twelve recordings has it: a network that learns the others knows no value of it."""
    x = windows(240)
    x[20:, 2] = np.nan
    detector = VAEOutlierDetector(**FIT).fit(flat(x), groups=np.arange(240) // 20)
    assert np.isfinite(detector.anomaly_score(flat(windows(50, 1)))).all()


def test_windows_like_selected_ones_are_normal_and_others_stay_novel():
    """A few new normals weigh enough: samples, pieces and movements see them as usual, too."""
    rng = np.random.default_rng(9)
    known, bumps, turns = windows(630, seed=1), windows(230, seed=2), windows(200, seed=3)
    place = rng.integers(2, 15, 230)
    for row, at in zip(bumps, place, strict=True):
        row[0, at : at + 3] += [5, -5, 5]
    turns[:, 1] += np.linspace(-4, 4, 20)
    known[:30] = bumps[200:]
    selected = np.arange(630) < 30
    before = VAEOutlierDetector(**FIT).fit(flat(known))
    after = VAEOutlierDetector(**FIT).fit(flat(known), selected=selected)
    flagged = [[(d.predict(flat(x)) == -1).mean() for x in (bumps[:200], turns)] for d in (before, after)]
    assert flagged[1][0] < flagged[0][0] - 0.2
    assert flagged[1][1] > 0.9


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (3, 4), (1, 200), (300, 5)])
def test_windows_of_any_shape_are_learned_and_exported(shape, tmp_path):
    x = np.random.default_rng(0).normal(size=(60, math.prod(shape)))
    detector = VAEOutlierDetector(input_shape=shape, random_state=0, max_epochs=1).fit(x)
    new = x[:9] + 0.1
    export_onnx(detector, tmp_path / "model.onnx", precision="double")
    np.testing.assert_allclose(
        Scorer(tmp_path / "model.onnx").score(new)["anomaly_score"], -detector.score_samples(new), atol=1e-7
    )
    new[0] += 20
    assert detector.score_samples(new).argmin() == 0


def test_a_description_of_another_shape_is_refused(detector):
    state = dict(detector.network_.state_dict())
    with pytest.raises(RuntimeError, match=r"Got a description of shapes .*expected .*fit it again"):
        Described.restored((2, 20), state)
    with pytest.raises(RuntimeError, match="Got a description"):
        Described.restored(SHAPE, state | {"described.examples": torch.empty(0, 60)})
    with pytest.raises(RuntimeError, match=r"Got stored windows of shapes .*fit it again"):
        WindowViews.restored_windows(
            detector.network_.described.columns(detector.network_.latent_dim),
            state | {"memorised.short_mean": torch.empty(3)},
        )


def test_networks_of_a_fit_agree_whether_waveforms_recur(monkeypatch):
    """The threshold comes from distances in the views of the folds' networks: these must be the model's views."""
    rng, made, of_windows = np.random.default_rng(0), [], WindowViews.of_windows
    monkeypatch.setattr(WindowViews, "of_windows", lambda *a, **k: made.append(of_windows(*a, **k)) or made[-1])
    beats = np.sin(np.arange(60)[:, None] + np.arange(20))
    decisions = []
    for noise in np.linspace(0.2, 0.5, 16):  # from beats that recur to noise that does not
        made.clear()
        x = beats + noise * rng.normal(size=beats.shape)
        VAEOutlierDetector(input_shape=(1, 20), random_state=0, max_epochs=1).fit(x)
        decisions.append({len(views.waves) > 0 for views in made})
        assert len(made) > 1
    assert {True} in decisions
    assert {False} in decisions
    assert {True, False} not in decisions


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("groups", [5, 12])
def test_networks_of_a_fit_agree_which_signals_are_judged(groups, whole, monkeypatch):
    """A signal of eleven values, one of them rare, has fewer in a fold, whose network judges it as the model does."""
    made, of = [], Described.of
    monkeypatch.setattr(Described, "of", lambda *a, **k: made.append(of(*a, **k)) or made[-1])
    x = windows(240)
    x[:, 2] = np.random.default_rng(0).integers(0, 10, (240, 1)) / (1 if whole else 4)
    x[::240, 2] = 10 / (1 if whole else 4)
    VAEOutlierDetector(**FIT).fit(flat(x), groups=np.arange(240) * groups // 240)
    assert len(made) > 1
    assert len({tuple(one.role.tolist()) for one in made}) == 1


def test_a_waveform_counts_where_waveforms_recur(detector, tmp_path):
    """Beats of a heart at any phase: a later part of one that comes too early is found, as no other view does."""
    rng = np.random.default_rng(0)
    beat = np.interp(np.arange(50), [0, 8, 10, 12, 14, 16, 25, 32, 40, 49], [0, 0, -1, 6, -2, 0, 0, 1.5, 0, 0])
    series = np.tile(beat, 60) + 0.05 * rng.normal(size=3000)
    learned, x = (np.lib.stride_tricks.sliding_window_view(part, 20) for part in (series[:2000], series[2000:]))
    odd = x[:100].copy()
    odd[:, 10:] += np.interp(np.arange(10), [0, 4, 9], [0, 1.2, 0])
    beats = VAEOutlierDetector(input_shape=(1, 20), random_state=0).fit(learned)
    wave = beats.score_terms(odd)["wave"] - beats.score_terms(x)["wave"].quantile(0.99)
    assert (wave > 0).mean() > 0.9
    assert (beats.predict(odd) == -1).mean() > 0.9
    assert not len(detector.network_.memorised.waves)  # noise does not recur
    export_onnx(beats, tmp_path / "model.onnx")
    scores = Scorer(tmp_path / "model.onnx").score(odd)["anomaly_score"]
    np.testing.assert_allclose(scores, -beats.score_samples(odd), rtol=1e-4)
    shares = beats.network_.view_shares(torch.tensor(odd)).detach()[:, WindowViews.names.index("wave")]
    np.testing.assert_allclose(shares.sum(1), 1)


def test_residuals_are_judged_by_those_of_windows_that_were_not_learned():
    """Of few windows, a network reconstructs those that it learned better than new ones."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(6, 40))

    def draw(n):
        return np.tanh(rng.normal(size=(n, 6)) @ mixing) + 0.3 * rng.normal(size=(n, 40))

    for groups in (None, np.arange(120) // 4):
        detector = VAEOutlierDetector(input_shape=(2, 20), random_state=0).fit(draw(120), groups=groups)
        assert 0.02 < (detector.score_terms(draw(4000))["residual"] > np.log(20)).mean() < 0.1


def test_the_largest_residual_counts_as_no_rarer_than_one_of_them(detector):
    views = copy.deepcopy(detector.network_.memorised)
    distances = torch.linspace(1, 2, 1000, dtype=torch.float64)
    distances[-1] = 50.0
    views.judge_residuals(distances)
    slope, start = views.lines[WindowViews.names.index("residual")].tolist()
    assert slope * 50 + start == pytest.approx(np.log(1000))


def test_residuals_are_not_judged_if_no_window_is_held_out():
    detector = VAEOutlierDetector(input_shape=(1, 20), random_state=0, validation_fraction=0, max_epochs=2)
    detector.fit(flat(windows(60)[:, :1]))
    assert "residual" not in [WindowViews.names[i] for i in detector.network_.memorised.switched_on]


def test_windows_of_states_alone_are_judged_by_the_nearest():
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.random((500, 2, 20)) < 0.05, axis=2) % 3.0
    detector = VAEOutlierDetector(input_shape=(2, 20), random_state=0).fit(x.reshape(500, -1))
    assert detector.network_.memorised.switched_on == [0]
    terms = detector.score_terms(x.reshape(500, -1))
    np.testing.assert_allclose(terms["novelty"], terms["near"])
