"""Windows are compared with those in other folds as if only these were known."""

import pytest
import torch

from anomalyvae.nets.ellipsoid import ellipsoid
from anomalyvae.nets.spread import Spread


@pytest.mark.parametrize("shape", [(60, 1, 3, 8), (60, 4, 3, 2), (40, 1, 300, 5), (3, 2, 2, 2), (20, 1, 1100, 1)])
def test_a_distance_is_that_from_the_windows_of_other_folds(shape):
    generator = torch.Generator().manual_seed(0)
    x = 3 + torch.randn(shape, generator=generator, dtype=torch.float64).cumsum(3)
    weight = torch.randint(1, 4, shape[:1], generator=generator).double()
    found = Spread(x, weight).from_others()
    fold = torch.arange(len(x)) % 5
    for i in range(len(x)):
        others = fold != fold[i]
        repeated = x[others].repeat_interleave(weight[others].long(), 0)
        mean, whitening = Spread(repeated, torch.ones(len(repeated)).double()).whitening()
        expected = ellipsoid(x[i].flatten(1), mean, whitening).amax()
        torch.testing.assert_close(found[i], expected, rtol=1e-8, atol=1e-9)
