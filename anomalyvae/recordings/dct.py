"""The shape of a window: the lowest cosine coefficients of each signal, in place of its samples.

The discrete cosine transform DCT-II, orthonormal (Ahmed, Natarajan & Rao, 1974): of samples x_0 … x_{m-1},

    c_0 = sum_t x_t / sqrt(m),        c_k = sqrt(2 / m) sum_t x_t cos(pi k (2 t + 1) / (2 m)).

c_0 is the level (the mean times sqrt(m)), c_1 falls where the signal rises, c_2 is its bend, and so on: c_k has k zero
crossings in the window, so it is what happens at k / (2 length) hertz. All m of them hold the same sum of squares as
the samples.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def cosines(samples: int, coefficients: int) -> Floats:
    """The lowest cosines over a window, shape ``(coefficients, samples)``; its rows are orthonormal."""
    order, place = np.arange(coefficients)[:, None], np.arange(samples) + 0.5
    weight = np.where(order == 0, np.sqrt(1 / samples), np.sqrt(2 / samples))
    return np.asarray(weight * np.cos(np.pi / samples * order * place))


def coefficients_at(values: Floats, starts: NDArray[np.integer], basis: Floats) -> Floats:
    """Coefficients of the windows that begin there.

    Parameters
    ----------
    values : ndarray of shape (ticks, signals)
    starts : ndarray of int, shape (n,)
        Tick at which each window begins.
    basis : ndarray of shape (coefficients, samples)
        As `cosines` gives it.

    Returns
    -------
    ndarray of shape (n, signals, coefficients)
        NaN for a signal that is missing anywhere in the window. A window has the same bits whichever others are asked
        for with it: sums run sample by sample, which a matrix product does not promise.
    """
    found = np.zeros((len(starts), values.shape[1], len(basis)))
    for sample, weights in enumerate(basis.T):
        found += values[starts + sample][:, :, None] * weights
    return found
