"""How the loop moves parameters, whatever the objective."""

import torch
from torch import nn

from anomalyvae.nets.training import Schedule, TrainingRows, train


class Regression(nn.Module):
    """An objective of the least: features -> the first of them, by way of a frozen and past an unused layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.frozen, self.free, self.unused = nn.Linear(3, 5).requires_grad_(False), nn.Linear(5, 1), nn.Linear(2, 2)

    def players(self):
        return {"model": list(self.parameters())}

    def turns(self, s, weight, warmth, generator):
        error = self.free(self.frozen(s).tanh())[:, 0] - 100 * s[:, 0]  # steep at first: the gradient is clipped
        yield "model", (weight * error.square()).mean()


ROWS = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))


def trained(epochs):
    objective = Regression()
    schedule = Schedule(max_epochs=epochs, batch_size=64, learning_rate=0.1, patience=epochs)
    train([objective], [TrainingRows(ROWS, torch.ones(64))], None, schedule, torch.Generator().manual_seed(0))
    return objective


def test_steps_are_those_of_adam_with_clipped_gradients():
    expected = Regression()
    adam = torch.optim.Adam(expected.free.parameters(), lr=0.1)
    for step in range(5):
        adam.param_groups[0]["lr"] = 0.1 * (0.02 + 0.98 * 0.5 * (1 + torch.tensor(torch.pi * step / 5).cos().item()))
        ((_, loss),) = expected.turns(ROWS, torch.ones(64), 1.0, torch.Generator())
        adam.zero_grad()
        loss.backward()
        assert nn.utils.clip_grad_norm_(expected.free.parameters(), 5.0) > 5.0
        adam.step()
    torch.testing.assert_close(trained(5).free.state_dict(), expected.free.state_dict())


def test_frozen_and_unused_parameters_of_a_body_stay_as_they_are():
    before, after = Regression(), trained(3)
    for name in ("frozen", "unused"):
        assert torch.equal(getattr(before, name).weight, getattr(after, name).weight)
    assert not torch.equal(before.free.weight, after.free.weight)
