"""The Mahalanobis distance: as exact as the rows allow, and the same promise for rows with missing cells."""

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf

from anomalyvae.nets.ellipsoid import SHRINKAGE, ellipsoid, ellipsoid_of, ellipsoid_parts, shrunk


def normal(n, columns, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, columns)))


def with_total(n, seed=0):
    causes = normal(n, 4, seed)
    return torch.cat([causes, causes.sum(1, keepdim=True) / 2], dim=1)


def riddled(u, share, seed=0):
    missing = torch.from_numpy(np.random.default_rng(seed).random(u.shape) < share)
    missing[:, 0] &= ~missing.all(1)
    return u.masked_fill(missing, torch.nan)


@pytest.mark.parametrize(("n", "columns"), [(40, 4), (30, 60), (8, 3)])
def test_it_is_the_likeliest_for_rows_that_it_did_not_learn(n, columns):
    u = normal(n, columns) @ normal(columns, columns, seed=1)
    losses, distances = [], []
    for shrinkage in SHRINKAGE:
        loss, distance = 0.0, []
        for i in range(n):
            others = torch.cat([u[:i], u[i + 1 :]])
            covariance = (1 - shrinkage) * others.T.cov(correction=0)
            covariance += shrinkage * u.T.cov(correction=0).trace() / columns * torch.eye(columns)
            difference = u[i] - others.mean(0)
            distance.append(float(difference @ covariance.inverse() @ difference) ** 0.5)
            loss += distance[-1] ** 2 + float(covariance.logdet())
        losses.append(loss)
        distances.append(distance)
    best = int(np.argmin(losses))
    _, whitening, left_out = ellipsoid_of(u)
    np.testing.assert_allclose(left_out.numpy(), distances[best], rtol=1e-5)
    covariance = (1 - SHRINKAGE[best]) * u.T.cov()
    covariance += SHRINKAGE[best] * u.T.cov(correction=0).trace() / columns * torch.eye(columns)
    np.testing.assert_allclose((whitening @ whitening.T @ covariance).numpy(), np.eye(columns), atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_total_is_exact_also_where_cells_are_missing(share):
    """A break of a twentieth of a standard deviation is seen in every row whose five cells are there."""
    mean, whitening, _ = ellipsoid_of(riddled(with_total(400), share))
    kept = with_total(200, seed=1)
    broken = kept + torch.tensor([0, 0, 0, 0, 0.05], dtype=torch.float64)
    assert ellipsoid(broken, mean, whitening).min() > 2 * ellipsoid(kept, mean, whitening).max()


def test_a_constant_column_is_judged_in_its_own_unit():
    """Exact relations do not make every change of it an outlier."""
    u = with_total(400)
    u = torch.cat([u, torch.zeros(400, 1, dtype=u.dtype)], dim=1)
    mean, whitening, left_out = ellipsoid_of(u)
    moved = u[:2].clone()
    moved[:, -1] = torch.tensor([0.1, 10.0])
    small, large = ellipsoid(moved, mean, whitening)
    assert small < left_out.quantile(0.99)
    assert large > 2 * left_out.max()


@pytest.mark.parametrize("columns", [5, 20])
def test_the_distance_of_a_row_with_missing_cells_is_that_of_the_others(columns):
    u = normal(300, columns) @ normal(columns, columns, seed=1)
    u[:, -1] = u[:, 0] - u[:, 1]
    u[:100, -2] *= 1e4  # far rows
    mean, whitening, _ = ellipsoid_of(u[100:])
    covariance = torch.linalg.pinv(whitening @ whitening.T)
    for row in riddled(u[:120], 0.4):
        there = ~row.isnan()
        difference = (row - mean)[there]
        expected = (difference @ torch.linalg.solve(covariance[there][:, there], difference)).sqrt()
        found = ellipsoid(row[None], mean, whitening)[0] - columns**0.5 + there.sum() ** 0.5
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
        parts = ellipsoid_parts(row[None], mean, whitening)[0]
        assert (parts[~there] <= 1e-6 * parts.sum()).all()


def test_the_columns_that_account_for_a_distance_are_named():
    u = with_total(400)
    u = torch.cat([u, u[:, :1] + 0.01 * normal(400, 1, seed=2), normal(400, 1, seed=3)], dim=1)
    total, noise = 4, 6
    twins = [0, 5]
    mean, whitening, _ = ellipsoid_of(u)

    def shares(columns, by):
        moved = u[:50].clone()
        moved[:, columns] += torch.tensor(by, dtype=u.dtype)
        parts = ellipsoid_parts(moved, mean, whitening)
        return parts / parts.sum(1, keepdim=True)

    assert (shares([total], [1.0])[:, total] > 0.2).all()  # within its range: the causes may be wrong instead
    assert (shares([1], [20.0])[:, 1] > 0.7).all()
    assert (shares([*twins, total], [20.0, 20.0, 10.0])[:, twins] > 0.1).all()
    assert (shares([noise, 1, total], [9.0, 9.0, 4.5])[:, [noise, 1]] > 0.1).all()


def test_many_missing_cells_are_filled_exactly_where_relations_are_exact():
    mixing = normal(90, 100, seed=1)
    mean, whitening, _ = ellipsoid_of(normal(500, 90) @ mixing)
    covariance = torch.linalg.inv(whitening @ whitening.T)
    u = riddled(normal(20, 90, seed=2) @ mixing, 0.6)
    for row, found in zip(u, ellipsoid(u, mean, whitening), strict=True):
        there = ~row.isnan()
        difference = (row - mean)[there]
        expected = (difference @ torch.linalg.solve(covariance[there][:, there], difference)).sqrt()
        torch.testing.assert_close(found - 10 + there.sum() ** 0.5, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("learned", "scored"), [(0.0, 0.3), (0.3, 0.0), (0.3, 0.3), (0.0, 0.0)])
def test_rows_with_and_without_missing_cells_can_be_compared(learned, scored):
    """As many new rows as learned ones are beyond a line, however many cells are missing in either."""
    mixed = normal(12, 12, seed=1)
    mean, whitening, left_out = ellipsoid_of(riddled(normal(1000, 12) @ mixed, learned))
    beyond = ellipsoid(riddled(normal(4000, 12, seed=2) @ mixed, scored, 1), mean, whitening) > left_out.quantile(0.95)
    assert 0.03 < beyond.double().mean() < 0.08


def test_rows_with_missing_cells_say_what_the_covariance_is():
    mixed = normal(6, 6, seed=1)
    u = normal(4000, 6) @ mixed
    _, whitening, _ = ellipsoid_of(riddled(u, 0.3))
    covariance, truth = torch.linalg.inv(whitening @ whitening.T), mixed.T @ mixed
    assert (covariance - truth).norm() < 0.1 * truth.norm()


@pytest.mark.parametrize(("n", "k"), [(50, 5), (30, 60), (2, 3)])
def test_the_covariance_is_that_of_scikit_learn(n, k):
    x = np.random.default_rng(0).normal(size=(n, k)) @ np.random.default_rng(1).normal(size=(k, k))
    x -= x.mean(axis=0)
    covariance, fourth = torch.from_numpy(x.T @ x / n), torch.from_numpy(x).square().sum(1).square().mean()
    np.testing.assert_allclose(shrunk(covariance, fourth, n)[0].numpy(), ledoit_wolf(x)[0], atol=1e-12)


def test_a_row_that_counts_thrice_moves_mean_and_covariance_as_three_rows_do():
    u = normal(40, 3) @ normal(3, 3)
    counts = torch.ones(40, dtype=torch.float64)
    counts[:10] = 3.0
    mean, whitening, _ = ellipsoid_of(u, counts)
    repeated = torch.cat([u[:10], u[:10], u])
    torch.testing.assert_close(mean, repeated.mean(0))
    covariance = torch.linalg.inv((whitening @ whitening.T)[:3, :3])
    torch.testing.assert_close(covariance, torch.cov(repeated.T, correction=0), rtol=0.1, atol=0.05)  # it is shrunk


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_counts_that_are_all_equal_change_no_bit(share):
    u = riddled(with_total(400), share)
    for one, other in zip(ellipsoid_of(u, torch.full((len(u),), 0.1).to(u)), ellipsoid_of(u), strict=True):
        assert torch.equal(one, other)


def test_missing_cells_of_rows_that_count_more_are_filled_by_their_relation():
    """Two kinds of rows; the second, in which the columns rise together, counts a thousand times."""
    u = normal(600, 2)
    u[300:, 1] = u[300:, 0]
    u[::5, 1] = torch.nan
    counts = torch.ones(600).to(u)
    counts[300:] = 1000.0
    mean, whitening, _ = ellipsoid_of(u, counts)
    together, apart = torch.tensor([[2.0, 2.0], [2.0, -2.0]]).to(u)
    assert ellipsoid(apart[None], mean, whitening) > 10 * ellipsoid(together[None], mean, whitening)
