"""The views: each sees what it is for, they share a unit, and the score is what they say together."""

import math

import numpy as np
import pytest
import torch

from anomalyvae.nets.memory import Marks
from anomalyvae.nets.views import NEIGHBOURS, VIEWS, Views


def marks_of(n, count=None, recurring=None):
    none = torch.zeros(n, dtype=torch.bool)
    count = torch.ones(n).double() if count is None else count
    return Marks(count, count, none if recurring is None else recurring, selected=none, start=none.long())


def stored(u, count=None, recurring=None, unbent=None):
    generator = torch.Generator().manual_seed(0)
    return Views.of(u, u if unbent is None else unbent, marks_of(len(u), count, recurring), generator)


def with_code(u):
    """Rows with a code that says nothing."""
    return torch.cat([u, torch.zeros(len(u), 1, dtype=u.dtype)], dim=1)


def normal(n, columns, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, columns)))


def test_a_nat_means_the_same_in_each_view():
    """``-log P`` of a normal row: one in ten is beyond log(10)."""
    views = stored(normal(2000, 4))
    nats = views.nats(normal(4000, 4, seed=1))
    for i, name in enumerate(VIEWS):
        assert 0.07 < (nats[:, i] > math.log(10)).double().mean() < 0.13, name
        assert 0.005 < (nats[:, i] > math.log(100)).double().mean() < 0.02, name


def test_views_that_agree_count_together_and_the_crowd_alone_if_it_is_surer():
    clump, seen = 8 + 0.05 * normal(20, 3, seed=1), set()
    for rows in (normal(300, 3), torch.cat([normal(300, 3), clump])):
        new = torch.cat([3 * normal(50, 3, seed=2), normal(300, 3, seed=3), clump + 0.05])
        views, u = stored(with_code(rows), unbent=rows), torch.cat([with_code(new), new], dim=1)
        near, crowd, linear = views.nats(u).T
        counted = torch.stack([near, crowd - math.log(3), (near + linear) / 2, (near + crowd + linear) / 3])
        torch.testing.assert_close(views(u), counted.amax(0))
        largest = counted.argmax(0)
        assert torch.equal(views.strongest(u), largest.clamp(max=2))
        seen |= set(largest.tolist())
    assert seen == {0, 1, 2, 3}


def test_a_learned_clump_is_near_itself_and_far_from_the_crowd():
    rows = torch.cat([normal(950, 3), 8 + 0.05 * normal(50, 3, seed=1)])
    near, crowd, _ = stored(rows).nats(8 + 0.05 * normal(40, 3, seed=2)).T
    assert near.median() < math.log(10)
    assert crowd.median() > near.median() + 1


def test_a_broken_linear_relation_is_seen_in_few_rows_of_many_columns():
    cause = normal(150, 30)
    rows = torch.cat([cause, cause.sum(1, keepdim=True) / math.sqrt(30)], dim=1)
    broken = rows[:60].clone()
    broken[:, -1] = rows[60:120, -1]  # another row's, as usual alone as before
    near, _, linear = stored(rows).nats(broken).T
    assert linear.median() > near.median() + 1


def test_a_total_of_many_rows_is_exact():
    """A break of a tenth of a standard deviation is seen, which a covariance shrunk for its error would hide."""
    causes = normal(600, 4)
    rows = torch.cat([causes, causes.sum(1, keepdim=True) / 2], dim=1)
    views = stored(with_code(rows[:400]), unbent=rows[:400])
    broken = rows[400:] + torch.tensor([0, 0, 0, 0, 0.1], dtype=torch.float64)
    kept, found = (views(torch.cat([with_code(x), x], dim=1)) for x in (rows[400:], broken))
    assert kept.median() < math.log(10)
    assert found.min() > kept.max()


def test_a_heavy_tail_is_not_taken_for_a_rare_row():
    """An exponential tail with the same mean would call two rows of a thousand one of a thousand."""

    def heavy(n, seed):
        scale = np.random.default_rng(seed).chisquare(4, size=(n, 1)) / 4  # Student's t with four degrees of freedom
        return normal(n, 8, seed) / torch.from_numpy(scale).sqrt()

    nats = stored(heavy(1000, 0)).nats(heavy(20000, 1))[:, VIEWS.index("linear")]
    assert (nats > math.log(1000)).double().mean() < 0.0012


def test_no_score_jumps_where_neighbours_change():
    """The last of the neighbours has no weight, so that it may be replaced by another at the same distance."""
    grid = torch.cartesian_prod(*[torch.arange(6.0, dtype=torch.float64)] * 2)
    views = stored(grid)
    path = torch.stack([torch.linspace(0, 5, 20_001).double(), torch.full((20_001,), 2.3).double()], dim=1)
    steps = views.nats(path)[:, 0].diff().abs()
    assert steps.max() < 50 * steps.median()


def test_a_recurring_row_scores_as_little_as_can_be():
    rows, often = normal(100, 3), torch.arange(100) == 7
    count = torch.where(often, 60.0, 1.0).double()
    views = stored(rows, count, often)
    assert len(views.rows) == 99 + NEIGHBOURS
    near = views.nats(torch.cat([rows[7:8], rows[7:8] + 1e-12, normal(500, 3, seed=1)]))[:, 0]
    assert near[0] == near[1] == near.min()


@pytest.mark.parametrize("n", [1, 2, 3, 13])
def test_a_few_rows_are_enough(n):
    assert stored(normal(n, 3)).nats(normal(20, 3, seed=1)).isfinite().all()


def test_the_distance_to_the_crowd_is_exact_near_its_rows():
    """A difference of squares would lose all digits of a distance of 1e-7 from rows far from 0."""
    rows = torch.full((20, 3), -1.0, dtype=torch.float64)
    views = stored(rows)
    near = rows[:1] + torch.tensor([[3e-7, 0.0, 0.0]])
    torch.testing.assert_close(views.crowd_distance(near), (near - rows[:1]).norm(dim=1), rtol=1e-9, atol=0.0)


def test_other_neighbours_are_told_where_rows_are_equally_near():
    views = stored(normal(300, 3))
    u = normal(40, 3, seed=1)
    torch.testing.assert_close(views.near_otherwise(u, 1e-12), views.near_distance(u), rtol=0, atol=0)
    grid = torch.cartesian_prod(*[torch.arange(4.0, dtype=torch.float64)] * 3)
    views = stored(grid)
    assert (views.near_otherwise(grid + 0.5, 1e-4) != views.near_distance(grid + 0.5)).any()


def test_rounding_does_not_choose_the_neighbours():
    """Rows at one distance, and rows far from 0, whose squares lose the digits that tell them apart."""
    grid = torch.cartesian_prod(*[torch.arange(4.0, dtype=torch.float64)] * 3)
    between, far = grid + 0.5, 2.0**20
    views, moved = stored(grid), stored(grid + far)
    torch.testing.assert_close(moved.near_distance(between + far), views.near_distance(between), rtol=1e-5, atol=0)
    nudged = between * (1 + 1e-13)
    torch.testing.assert_close(views.near_distance(nudged), views.near_distance(between), rtol=1e-9, atol=0)
