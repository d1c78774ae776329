"""Windows are described by shape and energies: what depends on the place of a fast event does not count."""

import numpy as np
import pytest
import torch
from scipy.fft import dct, idct
from sklearn.metrics import roc_auc_score

from anomalyvae import VAEOutlierDetector
from anomalyvae.models import export_onnx, load, save
from anomalyvae.nets.described import Described
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


def described(x):
    return Described.of(x.shape[1:], torch.tensor(flat(x)))


def test_a_signal_becomes_its_shape_and_movements():
    x = windows(400)[:, :2]
    description = described(x)
    c = dct(x, norm="ortho")
    octaves = [slice(3, 6), slice(6, 12), slice(12, 20)]
    still = description.still.numpy()
    slow = idct(np.where(np.arange(20) < 3, c, 0), norm="ortho")
    squares = [np.square(c[:, :, octave]).mean(2) for octave in octaves]
    squares += [np.square(x - slow).max(2), np.square(np.diff(x)).max(2)]
    movements = (np.stack(squares, 2) + still) ** 0.25
    expected = flat(np.concatenate([c[:, :, :3], movements], axis=2))
    expected = (expected - expected.mean(0)) / expected.std(0)
    np.testing.assert_allclose(description(torch.tensor(flat(x))).numpy(), expected, atol=1e-9)
    assert (still < 1e-3 * np.stack(squares, 2).mean(0)).all()


@pytest.mark.parametrize(("samples", "bands"), [(1, 0), (3, 0), (4, 1), (10, 2), (14, 2), (20, 3), (40, 4)])
def test_less_than_half_an_octave_joins_the_one_before(samples, bands):
    x = np.random.default_rng(0).normal(size=(50, 2, samples))
    movements = bands + 2 * (bands > 0)
    assert described(x).still.shape == (2, movements)
    assert described(x)(torch.tensor(flat(x))).shape == (50, 2 * (min(3, samples) + movements))


def test_a_burst_is_the_same_wherever_it_lies():
    description = described(windows(400)[:, :2])
    burst = np.zeros((2, 2, 20))
    burst[0, 0, 4:8] = burst[1, 0, 12:16] = [5, -5, 5, -5]
    early, late = description(torch.tensor(flat(burst))).view(2, 2, 8)[:, 0, 5]
    assert early > 5  # in standard deviations of the energy of the fastest octave
    assert abs(early - late) < 0.1 * early


def test_a_state_is_not_judged_and_a_constant_is():
    x = np.concatenate([windows(400), np.full((400, 1, 20), 4.0)], axis=1)
    description = described(x)
    asked = x[:1].copy()
    asked[0, 2:] = [[2], [5]]
    numbers = description(torch.tensor(flat(asked))).view(4, 8).abs().sum(1)
    assert numbers[2] == 0
    assert numbers[3] > 1


def test_states_alone_are_judged():
    x = np.random.default_rng(0).integers(0, 2, (400, 2, 1)) * np.ones((1, 1, 20))
    assert described(x).judged.all()


def test_a_signal_that_never_moves_has_no_noise():
    x = windows(400)
    x[:, 1] = 0.1 + 1e-9 * np.random.default_rng(1).normal(size=(400, 20))
    numbers = described(x)(torch.tensor(flat(x))).view(-1, 3, 8)
    assert numbers[:, 1].abs().max() < 1e-6


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


def test_reasons_name_the_signal(detector):
    x = windows(20, seed=4)
    x[0, 1] += 30
    reasons = detector.reasons(flat(x))
    shares = reasons.drop(columns="view").to_numpy().reshape(20, *SHAPE).sum(2)
    np.testing.assert_allclose(shares.sum(1), 1)
    assert shares[0].argmax() == 1
    assert shares[0, 1] > 0.9
    assert set(reasons["view"]) <= {"far from its neighbours", "far from the crowd", "signals unlike themselves"}


def test_a_description_of_another_shape_is_refused(detector):
    state = {f"described.{name}": part for name, part in detector.network_.described.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"Got a description of shapes .*expected .*Save the model again"):
        Described.restored((2, 20), state)
    with pytest.raises(RuntimeError, match="Got a description"):
        Described.restored(SHAPE, state | {"described.examples": torch.empty(0, 60)})
