"""What is remembered of the training rows."""

import torch

from anomalyvae.nets.memory import Memory, dimension, squared_distances


def rows(n, seed, dimensions=3):
    return torch.rand(n, dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_row_that_stands_for_many_scores_as_if_they_were_there():
    """Of two crowds alike, one is thinned to a tenth, whose rows count tenfold: new rows are as strange in both."""
    away = torch.tensor([9.0, 0.0, 0.0], dtype=torch.float64)
    whole, thin = rows(3000, 0), rows(300, 1) + away
    u = torch.cat([whole, thin])
    count = torch.cat([torch.ones(3000), torch.full((300,), 10.0)])
    new = rows(500, 2)

    def strangeness(memory):
        return memory(new).median().item(), memory(new + away).median().item()

    plain, starved = strangeness(Memory.of(u))
    assert starved > 1.3 * plain
    plain, starved = strangeness(Memory.of(u, count))
    assert abs(starved / plain - 1) < 0.1


def test_equal_counts_change_no_bit():
    u = rows(100, 0)
    assert torch.equal(Memory.of(u).keys, Memory.of(u, torch.full((100,), 3.0)).keys)


def test_dimensions_are_those_that_rows_fill():
    for fills in (1, 2, 4):
        u = rows(2000, 3, fills) @ rows(fills, 4, 8)
        assert abs(dimension(squared_distances(u, u)) - fills) < 0.15 * fills + 0.1
