"""Every objective with every body lives through the same life."""

import math
import pickle
from itertools import product

import pytest
import torch

from anomalyvae import VAEOutlierDetector
from anomalyvae.nets.bodies import BODIES, HIDDEN, doubled, neighbours
from anomalyvae.nets.elbo import kl_to_standard_normal
from anomalyvae.nets.memory import Marks
from anomalyvae.nets.objectives import OBJECTIVES, build, restore
from anomalyvae.nets.scaling import fit_scaling
from anomalyvae.nets.training import Schedule, TrainingRows, in_blocks, train
from anomalyvae.nets.views import COMPARING

SHAPES = {"mlp": (6,), "conv2d": (1, 3, 5)}
FAMILY = [(objective, body) for objective in OBJECTIVES for body in BODIES]


def rows(n, seed=0, cells=6):
    generator = torch.Generator().manual_seed(seed)
    causes = torch.randn(n, 2, generator=generator)
    mixing = torch.randn(2, cells, generator=torch.Generator().manual_seed(9))
    return causes @ mixing + 0.1 * torch.randn(n, cells, generator=generator)


def rows_of(body, n, seed=0):
    return rows(n, seed, math.prod(SHAPES[body]))


def network(objective, body):
    torch.manual_seed(0)
    x = rows_of(body, 200).double()
    architecture = {
        "objective": objective,
        "body": body,
        "hidden": [16],
        "input_shape": list(SHAPES[body]),
        "latent_dim": 2,
        "beta": 1.0,
        "likelihood": "gaussian",
        "masking": 0.5,
        "trimming": 0.0,
        "criterion": "reconstruction",
    }
    return build(architecture, fit_scaling("standard", x, torch.ones(200, dtype=x.dtype))), architecture


def fit(net, epochs=30, **options):
    schedule = Schedule(**({"max_epochs": epochs, "batch_size": 32, "learning_rate": 1e-2, "patience": 99} | options))
    cells = net.cells
    learned, held_out = rows(200, 0, cells), rows(50, 1, cells)
    return train([net], [TrainingRows(learned, torch.ones(200))], held_out, schedule, torch.Generator().manual_seed(0))


def remember(net, body):
    none = torch.zeros(50, dtype=torch.bool)
    once = torch.ones(50).double()
    marks = Marks(counts=once, copies=once, recurring=none, selected=none, start=none.long())
    net.remember(rows_of(body, 50).double(), marks, 32, torch.Generator().manual_seed(0))


def scores_of(net, body):
    """Each score of a network, in turn; those that compare with stored rows need the rows stored for them."""
    for criterion in ("memory", "novelty"):
        net.criterion = criterion
        remember(net, body)
        for name in net.scores:
            if name not in COMPARING or name == criterion or criterion == "novelty" != name != "memory":
                yield getattr(net, name)


@pytest.mark.parametrize(("objective", "body"), FAMILY)
class TestFamily:
    def test_the_loss_falls(self, objective, body):
        history, reason = fit(network(objective, body)[0])
        assert history[-1]["held_out_loss"] < history[0]["held_out_loss"] - 1  # nats per row
        assert reason == "max_epochs"

    def test_gradient_reaches_every_parameter(self, objective, body):
        net, _ = network(objective, body)
        for _, loss in net.turns(rows_of(body, 64), torch.ones(64), 1.0, torch.Generator().manual_seed(0)):
            loss.backward()
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name

    def test_every_parameter_has_one_player(self, objective, body):
        net, _ = network(objective, body)
        played = [parameter for player in net.players().values() for parameter in player]
        assert len(played) == len(set(played)) == len(list(net.parameters()))

    def test_training_is_deterministic(self, objective, body):
        first, second = network(objective, body)[0], network(objective, body)[0]
        fit(first, 3)
        fit(second, 3)
        for a, b in zip(first.parameters(), second.parameters(), strict=True):
            assert torch.equal(a, b)

    def test_scoring_uses_no_random_number(self, objective, body):
        net, _ = network(objective, body)
        net.in_precision(torch.float64)
        before = torch.random.get_rng_state()
        x = rows_of(body, 5).double()
        for score in scores_of(net, body):
            assert torch.equal(score(x), score(x))
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_restored_from_its_tensors(self, objective, body):
        net, architecture = network(objective, body)
        fit(net, 2)
        remember(net.in_precision(torch.float64), body)
        for criterion in ("memory", "novelty"):
            net.criterion = architecture["criterion"] = criterion
            remember(net, body)
            again = restore(architecture, net.state_dict())
            assert torch.equal(again(rows_of(body, 7).double()), net(rows_of(body, 7).double()))

    def test_a_row_scores_the_same_in_any_batch(self, objective, body):
        net, _ = network(objective, body)
        fit(net, 2)
        net.in_precision(torch.float64)
        x = rows_of(body, 1100).double()
        x[::3].masked_fill_(torch.rand(x[::3].shape, generator=torch.Generator().manual_seed(1)) < 0.3, torch.nan)
        for score in scores_of(net, body):
            together = in_blocks(net, score, x)
            assert together.isfinite().all()
            for part in map(list, ([7], range(3, 40), range(500, 1100), range(1099, -1, -1))):
                assert torch.equal(in_blocks(net, score, x[part]), together[part])

    def test_a_weight_of_two_pulls_like_two_rows(self, objective, body):
        net, _ = network(objective, body)
        x = rows_of(body, 4)

        def gradient(batch, weight):
            net.zero_grad()
            torch.manual_seed(0)
            for _, loss in net.turns(batch, weight, 0.0, torch.Generator().manual_seed(0)):
                (loss * len(batch)).backward()
            return net.likelihood.log_variance.grad.clone()

        once = gradient(x[:1], torch.tensor([1.0]))
        torch.testing.assert_close(gradient(x[:1], torch.tensor([2.0])), 2 * once)


@pytest.mark.parametrize("cells", [5, 9, 33])
def test_a_row_has_the_same_code_in_any_order_of_any_width(cells):
    encoder = BODIES["mlp"]((cells,), 2, hidden=(128, 64)).double()
    x = rows(112, cells=cells).double()
    with torch.no_grad():
        assert torch.equal(encoder.encode(x.flip(0)).flip(0), encoder.encode(x))


def test_the_best_epoch_is_restored():
    net, _ = network("elbo", "mlp")
    history, _ = fit(net, 40, learning_rate=0.3)  # so fast that it gets worse again
    best = min(record["held_out_loss"] for record in history)
    generator = torch.Generator().manual_seed(0)
    restored = sum(net.held_out_terms(rows(50, 1), generator).values()).mean()
    assert restored < best + 0.5 * (max(record["held_out_loss"] for record in history) - best)


def test_patience_stops_training_after_so_many_epochs_without_improvement():
    history, reason = fit(network("elbo", "mlp")[0], 200, learning_rate=0.1, patience=5)
    assert reason == "patience"
    best = min(history, key=lambda record: record["held_out_loss"])["epoch"]
    assert len(history) < 200
    assert len(history) >= max(best, 0.2 * 200) + 5 - 1


def test_kl_is_the_closed_form():
    mean, log_var = torch.tensor([[0.5, -1.0]]), torch.tensor([[0.2, -0.7]])
    posterior = torch.distributions.Normal(mean, (0.5 * log_var).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_to_standard_normal(mean, log_var), expected)


def test_any_length_and_any_number_of_channels():
    for length, hidden, channels in product([1, 2, 4, 7, 21], [(3,), (3, 4), (3, 4, 5)], [1, 3]):
        shape = (channels, length, 5)
        net = BODIES["conv2d"](shape, 2, hidden=hidden)
        x = torch.randn(4, *shape)
        features = net.encode(x)
        assert features.shape[0] == 4
        assert features.ndim == 2
        assert net.decode(torch.randn(4, 2)).shape == x.shape


def test_convolutions_are_those_of_torch():
    for step in (1, 2):
        x, weight = torch.randn(4, 3, 7, 6), torch.randn(5, 3, 3, 3)
        ours = neighbours(x.movedim(1, -1), step) @ weight.movedim(1, -1).reshape(5, -1).T
        theirs = torch.nn.functional.conv2d(x, weight, stride=step, padding=1)
        torch.testing.assert_close(ours.movedim(-1, 1), theirs)


def test_a_doubled_place_becomes_its_own_neighbours():
    x = torch.arange(2 * 3 * 4.0).view(1, 2, 3, 4)  # 2 x 3 places of 2 x 2 x 1
    expected = torch.nn.functional.pixel_shuffle(x.movedim(-1, 1), 2).movedim(1, -1)
    assert torch.equal(doubled(x, (4, 6)), expected)
    assert torch.equal(doubled(x, (3, 5)), expected[:, :3, :5])


@pytest.mark.parametrize(
    ("body", "shape", "hidden", "message"),
    [
        ("conv2d", (2, 3), (8,), r"Got input_shape=\(2, 3\), expected \(channels, height, width\).*Pass input_shape"),
        ("conv2d", (1, 2, 3), (8, 0), r"Got hidden=\(8, 0\), expected sizes of at least 1"),
    ],
)
def test_shapes_that_cannot_be(body, shape, hidden, message):
    with pytest.raises(ValueError, match=message):
        BODIES[body](shape, 2, hidden=hidden)


@pytest.mark.parametrize("body", [body for body in BODIES if body != "mlp"])
def test_the_detector_folds_its_rows(body):
    x = rows_of(body, 300).double().numpy()
    settings = {"body": body, "input_shape": SHAPES[body], "max_epochs": 2, "validation_fraction": 0, "random_state": 0}
    detector = VAEOutlierDetector(**settings).fit(x)
    assert detector.architecture_["hidden"] == list(HIDDEN[body])  # so that a stored model does not hang on a default
    assert detector.reconstruct(x).shape == x.shape
    again = pickle.loads(pickle.dumps(detector))  # noqa: S301 - our own bytes
    assert (again.anomaly_score(x) == detector.anomaly_score(x)).all()
