import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.preprocessing import QuantileTransformer, StandardScaler

from anomalyvae.nets.scaling import LIMIT, fit_scaling, jittering

KINDS = ("asinh", "standard", "robust", "quantile", None)
tables = arrays(float, st.tuples(st.integers(2, 50), st.integers(1, 3)), elements=st.floats(-1e6, 1e6, width=32))


def fitted(kind, x, weight=None):
    weight = np.ones(len(x)) if weight is None else weight
    return fit_scaling(kind, torch.from_numpy(x), torch.from_numpy(np.asarray(weight, float)))


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=20)
@given(x=tables)
def test_the_inverse_restores_rows(kind, x):
    scaling = fitted(kind, x)
    y = scaling(torch.from_numpy(x))
    assert y.isfinite().all()
    spread = np.ptp(x, axis=0) + np.abs(x).max(axis=0)
    kept = (y.abs() < 0.9 * LIMIT).numpy()  # beyond the limit rows are equally anomalous
    back = scaling.inverse(y).numpy()
    np.testing.assert_allclose(back[kept], x[kept], atol=1e-6 * (spread.max() + 1e-300), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=20)
@given(x=tables)
def test_order_is_kept(kind, x):
    scaling = fitted(kind, x)
    line = torch.linspace(-2e6, 2e6, 400, dtype=torch.float64)[:, None].expand(-1, x.shape[1])
    y = scaling(line)
    assert (y.diff(dim=0) >= -1e-9 * (1 + y[1:].abs())).all()


def test_standard_agrees_with_sklearn():
    x = np.random.default_rng(0).gamma(2, size=(300, 3)) * [1, 1e3, 1e-3]
    weight = np.random.default_rng(1).integers(0, 4, 300)
    ours = fitted("standard", x, weight)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(ours, StandardScaler().fit(x, sample_weight=weight).transform(x))


def test_robust_is_not_moved_by_outliers():
    x = np.random.default_rng(0).normal(size=(2000, 1))
    spoiled = x.copy()
    spoiled[:100] = 1e9
    scaling = fitted("robust", spoiled)
    assert abs(float(scaling.center)) < 0.2
    assert float(scaling.scale) == pytest.approx(1, abs=0.2)


def test_quantile_makes_a_skewed_column_normal():
    x = np.exp(2 * np.random.default_rng(0).normal(size=(4000, 1)))
    ours = fitted("quantile", x)(torch.from_numpy(x)).numpy()
    theirs = QuantileTransformer(output_distribution="normal", n_quantiles=1000).fit_transform(x)
    inner = np.abs(theirs) < 1.8
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=0.1)
    assert float(fitted("quantile", x)(torch.tensor([[1e5]], dtype=torch.float64))) > 100  # far stays far


def test_a_constant_column_is_measured_by_its_magnitude():
    x = np.column_stack([np.full(50, 200.0), np.zeros(50)])
    for kind in ("asinh", "standard", "robust", "quantile"):
        moved = fitted(kind, x)(torch.tensor([[202.0, 1.0]], dtype=torch.float64))
        np.testing.assert_allclose(moved.numpy(), [[1.0, 1.0]], atol=1e-6)


@pytest.mark.parametrize("kind", [*KINDS[:-1], "isotropic"])
@pytest.mark.parametrize("unit", [1e306, 1e160, 1e-170, 1e-300])
def test_the_unit_of_a_column_does_not_matter(kind, unit):
    x = np.random.default_rng(0).normal(size=(200, 1))
    expected = fitted(kind, x)(torch.from_numpy(x))
    np.testing.assert_allclose(fitted(kind, x * unit)(torch.from_numpy(x * unit)), expected, rtol=1e-6, atol=1e-9)
    assert not jittering(torch.from_numpy(x * unit)).any()


@pytest.mark.parametrize("kind", [*KINDS[:-1], "isotropic"])
@pytest.mark.parametrize("huge", [1e300, 1.79e308])
def test_no_value_is_too_far_to_be_far(kind, huge):
    x = 1e-3 * np.random.default_rng(0).normal(size=(200, 1))
    far = fitted(kind, x)(torch.tensor([[huge], [-huge]], dtype=torch.float64))
    assert far.squeeze(1).tolist() == pytest.approx([LIMIT, -LIMIT], rel=1e-3)
