"""The density of the debiasing VAE, with which the audit is compared."""

import numpy as np
from audit import histogram_density


def test_histograms_multiply():
    codes = np.array([[0.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    first, second = np.array([1.5, 1.5, 1.5, 0.5]), np.array([0.5, 1.5, 1.5, 1.5])  # of two bins of half a unit
    expected = (first + 0.1) * (second + 0.1)
    density = histogram_density(codes, bins=2, alpha=0.1)
    np.testing.assert_allclose(density / density[0], expected / expected[0])
