"""The memory of training rows."""

import pytest
import torch

from anomalyvae.nets.memory import (
    Memory,
    cleanest,
    dimension,
    most_copied,
    sample_by_weight,
    squared_distances,
    worth_learning,
)


def rows(n, seed, dimensions=3):
    return torch.rand(n, dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_row_that_counts_tenfold_scores_like_ten_rows():
    """One of two equal clusters is thinned to a tenth, whose rows count tenfold: new rows score alike in both."""
    away = torch.tensor([9.0, 0.0, 0.0], dtype=torch.float64)
    whole, thin = rows(3000, 0), rows(300, 1) + away
    u = torch.cat([whole, thin])
    count = torch.cat([torch.ones(3000), torch.full((300,), 10.0)])
    new = rows(500, 2)

    def median_scores(memory):
        return memory(new).median().item(), memory(new + away).median().item()

    plain, starved = median_scores(Memory.of(u))
    assert starved > 1.3 * plain
    plain, starved = median_scores(Memory.of(u, count))
    assert abs(starved / plain - 1) < 0.1


def test_equal_counts_change_no_bit():
    u = rows(100, 0)
    assert torch.equal(Memory.of(u).keys, Memory.of(u, torch.full((100,), 3.0)).keys)


def test_dimensions_are_those_that_rows_fill():
    for fills in (1, 2, 4):
        u = rows(2000, 3, fills) @ rows(fills, 4, 8)
        assert abs(dimension(squared_distances(u, u)) - fills) < 0.15 * fills + 0.1


def test_sampled_rows_represent_all_rows_for_any_weights():
    """The weighted sum over sampled rows is the sum over all rows, on average."""
    weight = torch.cat([torch.full((10,), 30.0), torch.rand(190, generator=torch.Generator().manual_seed(0)) + 0.5])
    value = torch.rand(200, generator=torch.Generator().manual_seed(1))
    sums = []
    for seed in range(300):
        chosen, represents = sample_by_weight(weight, 100, torch.Generator().manual_seed(seed))
        assert len(set(chosen.tolist())) == 100
        assert set(range(10)) <= set(chosen.tolist())  # too heavy to be left out
        assert torch.equal(represents[chosen < 10], weight[chosen[chosen < 10]])
        sums.append((represents * value[chosen]).sum().item())
    whole = (weight * value).sum().item()
    assert abs(sum(sums) / len(sums) / whole - 1) < 0.02
    chosen, represents = sample_by_weight(weight, 200, torch.Generator().manual_seed(0))
    assert torch.equal(represents, weight[chosen])  # all are kept, and stand for themselves


def test_no_row_of_a_narrow_clump_is_kept():
    """A tenth of the rows lies closer together than the others do, and far from these."""
    generator = torch.Generator().manual_seed(0)
    normal, noise = torch.randn(540, 10, generator=generator), torch.randn(60, 10, generator=generator)
    kept = cleanest(torch.cat([normal, 2 + 0.1 * noise]), 0.1)
    assert len(kept) == 480
    assert (kept < 540).all()


@pytest.mark.parametrize("seed", range(4))
def test_no_row_of_a_clump_beside_a_plane_is_kept(seed):
    """Half of the rows of the plane are farther from the clump's place than it is from the plane."""
    generator = torch.Generator().manual_seed(seed)
    plane, clump = torch.randn(540, 8, generator=generator), 0.1 * torch.randn(60, 8, generator=generator)
    plane[:, 2:] *= 0.1
    clump[:, 2] += 1.5
    assert (cleanest(torch.cat([plane, clump]), 0.1) < 540).all()


def test_the_farthest_rows_are_not_worth_learning_but_recurring_ones_are():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(400, 3, generator=generator)
    rows[:20], rows[20] = 9 * rows[:20].sign(), 30.0
    rows[5, 1] = torch.nan
    recurring = torch.arange(400) == 20
    learned = worth_learning(rows, torch.ones(400), recurring, 0.1, generator)
    assert learned.tolist() == list(range(20, 400))  # half of the expected outliers are left out


def test_most_rows_at_the_ends_of_an_arc_are_kept_and_scattered_rows_are_not():
    """The ends have fewer rows around them than the middle has."""
    generator = torch.Generator().manual_seed(0)
    angle = torch.linspace(0, 3, 255)
    arc = torch.stack([angle.cos(), angle.sin()], dim=1) + 0.03 * torch.randn(255, 2, generator=generator)
    scattered = 4 * torch.rand(20, 2, generator=generator) - 2
    kept = cleanest(torch.cat([arc, scattered]), 20 / 275)
    ends = torch.cat([torch.arange(25), torch.arange(230, 255)])
    assert torch.isin(ends, kept).double().mean() > 0.5
    assert (kept >= 255).sum() <= 2


def test_few_rows_are_stored_several_times_though_many_recur_alike():
    """Copies of all that recur took 18 GB of 57,000 rows of whole numbers."""
    count = torch.ones(1000, dtype=torch.float64)
    assert len(Memory.of(rows(1000, 0), count, torch.ones(1000, dtype=torch.bool)).rows) < 3000
    count[500:] = 9
    copied = most_copied(count, torch.arange(1000) % 2 == 0)
    assert copied.sum() == 256
    assert copied[500::2].all()
