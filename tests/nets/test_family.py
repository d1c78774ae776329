"""Every objective with every body lives through the same life."""

import math

import pytest
import torch

from anomalyvae.nets.bodies import BODIES
from anomalyvae.nets.objectives import OBJECTIVES, build, restore
from anomalyvae.nets.scaling import fit_scaling
from anomalyvae.nets.training import Schedule, train

SHAPE = (6,)
FAMILY = [(objective, body) for objective in OBJECTIVES for body in BODIES]


def rows(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    causes = torch.randn(n, 2, generator=generator)
    mixing = torch.randn(2, math.prod(SHAPE), generator=torch.Generator().manual_seed(9))
    return causes @ mixing + 0.1 * torch.randn(n, math.prod(SHAPE), generator=generator)


def network(objective, body):
    torch.manual_seed(0)
    x = rows(200).double()
    architecture = {
        "objective": objective,
        "body": body,
        "hidden": [16],
        "input_shape": list(SHAPE),
        "latent_dim": 2,
        "beta": 1.0,
        "masking": 0.5,
        "trimming": 0.0,
        "score": "reconstruction",
    }
    return build(architecture, fit_scaling("standard", x, torch.ones(200, dtype=x.dtype))), architecture


def fit(net, epochs=30, **options):
    schedule = Schedule(**({"max_epochs": epochs, "batch_size": 32, "learning_rate": 1e-2, "patience": 99} | options))
    return train(net, rows(200), torch.ones(200), rows(50, 1), schedule, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("objective", "body"), FAMILY)
class TestFamily:
    def test_the_loss_falls(self, objective, body):
        history, reason = fit(network(objective, body)[0])
        assert history[-1]["held_out_loss"] < history[0]["held_out_loss"] - 1  # nats per row
        assert reason == "max_epochs"

    def test_gradient_reaches_every_parameter(self, objective, body):
        net, _ = network(objective, body)
        for _, loss in net.turns(rows(64), torch.ones(64), 1.0, torch.Generator().manual_seed(0)):
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

    def test_scoring_draws_no_random_number(self, objective, body):
        net, _ = network(objective, body)
        net.in_precision(torch.float64)
        before = torch.random.get_rng_state()
        net.remember(rows(50).double(), 32, torch.Generator().manual_seed(0))
        for score in net.scores:
            assert torch.equal(getattr(net, score)(rows(5).double()), getattr(net, score)(rows(5).double()))
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_restored_from_its_tensors(self, objective, body):
        net, architecture = network(objective, body)
        fit(net, 2)
        net.in_precision(torch.float64).remember(rows(50).double(), 32, torch.Generator().manual_seed(0))
        net.score = architecture["score"] = "memory"
        again = restore(architecture, net.state_dict())
        assert torch.equal(again(rows(7).double()), net(rows(7).double()))

    def test_a_weight_of_two_pulls_like_two_rows(self, objective, body):
        net, _ = network(objective, body)
        x = rows(4)

        def gradient(batch, weight):
            net.zero_grad()
            torch.manual_seed(0)
            for _, loss in net.turns(batch, weight, 0.0, torch.Generator().manual_seed(0)):
                (loss * len(batch)).backward()
            return net.likelihood.log_variance.grad.clone()

        once = gradient(x[:1], torch.tensor([1.0]))
        torch.testing.assert_close(gradient(x[:1], torch.tensor([2.0])), 2 * once)


def test_the_best_epoch_is_restored():
    net, _ = network("elbo", "mlp")
    history, _ = fit(net, 40, learning_rate=0.3)  # so fast that it gets worse again
    best = min(record["held_out_loss"] for record in history)
    generator = torch.Generator().manual_seed(0)
    restored = sum(net.held_out_terms(rows(50, 1), generator).values()).mean()
    assert restored < best + 0.5 * (max(record["held_out_loss"] for record in history) - best)


def test_kl_is_the_closed_form():
    from anomalyvae.nets.objectives import kl_to_standard_normal

    mean, log_var = torch.tensor([[0.5, -1.0]]), torch.tensor([[0.2, -0.7]])
    posterior = torch.distributions.Normal(mean, (0.5 * log_var).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_to_standard_normal(mean, log_var), expected)
