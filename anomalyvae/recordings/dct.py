"""The shape of a signal in a window: its lowest cosine coefficients.

They are those of the orthonormal discrete cosine transform DCT-II (Ahmed, Natarajan & Rao, 1974). For samples x_0 …
x_{m-1},

    c_0 = sum_t x_t / sqrt(m),        c_k = sqrt(2 / m) sum_t x_t cos(pi k (2 t + 1) / (2 m)).

c_0 is the level (the mean times sqrt(m)), c_1 falls if the signal rises, c_2 is its bend; c_k has k zero crossings in
the window, so it shows what happens at k / (2 length) hertz. All m of them have the same sum of squares as the samples.
"""

import numpy as np


def cosines(samples: int, coefficients: int) -> np.ndarray:
    """Return the lowest cosines over a window, shape ``(coefficients, samples)``; the rows are orthonormal."""
    order, position = np.arange(coefficients)[:, None], np.arange(samples) + 0.5
    weight = np.where(order == 0, np.sqrt(1 / samples), np.sqrt(2 / samples))
    return np.asarray(weight * np.cos(np.pi / samples * order * position))


def coefficients_at(values: np.ndarray, starts: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Return the coefficients of windows, shape ``(n, signals, coefficients)``, of values ``(ticks, signals)``.

    ``basis`` is that of `cosines`. A signal with a missing value in the window has NaN coefficients. The sum runs
    sample by sample: unlike a matrix product, it has the same bits whichever windows are asked for.
    """
    found = np.zeros((len(starts), values.shape[1], len(basis)))
    for sample, weights in enumerate(basis.T):
        found += values[starts + sample][:, :, None] * weights
    return found
