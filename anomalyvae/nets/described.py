"""Windows as the shape and the energies of their signals: numbers that do not depend on when a fast event happens."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from anomalyvae.nets.scaling import LIMIT

LOW = 3  # coefficients that are kept: level, slope and bend
CODE = 0.5  # weight of the code beside the numbers: of few windows it fits noise
_STATES = 10  # distinct values that a state has at most
_STILL = 1e-2  # of a movement's root mean square in training; a much smaller one counts as none
_LEAST_STILL = 1e-6  # its square, for a signal that never moves
_MOVES = 0.1  # standard deviation of a standardised signal; of a constant one it is smaller
_LEAST_SCALE = 1e-3
PEAKS = 2  # the largest departure, the largest step
_EXAMPLES = 128
_PAD = 16  # columns of zeros, for which matrix kernels give each row the same arithmetic
_PARTS = ("center", "scale", "judged", "still", "examples")


class Described(nn.Module):
    """Each signal of a window as three numbers for its shape, and the size of its faster movements.

    With c_k the coefficients of the orthonormal cosine transform (DCT-II, Ahmed, Natarajan & Rao 1974) of the samples
    of a signal, the shape is c_0, c_1, c_2: level, slope, bend. Movements are the mean of c_k^2 over k = 3 to 5, over
    6 to 11, and so on, an energy for each octave; the largest square of the samples without the shape; and the largest
    square of a step from one sample to the next. A fast event has the same movements wherever it lies in the window, so
    windows that are not aligned can be compared. The fourth root of each lies between an amplitude and its logarithm,
    so that neither loud windows nor quiet ones rule the distances.

    A signal with two to ten distinct values in training is a state, such as a gear or a switch. It says which normal
    condition holds and is not judged itself: its numbers are 0. The code still depends on it.

    Parameters
    ----------
    input_shape : (int, int)
        Signals and samples of a window.
    center, scale, judged : Tensor of shape (signals * k,)
        Mean and standard deviation of each number in training; 0 for those of states, else 1.
    still : Tensor of shape (signals, movements)
        Added to each square.
    examples : Tensor of shape (e, signals * samples)
        Some standardised training rows.
    """

    center: Tensor
    scale: Tensor
    judged: Tensor
    still: Tensor
    examples: Tensor
    basis: Tensor
    bands: Tensor
    departures: Tensor
    steps: Tensor

    def __init__(
        self,
        input_shape: tuple[int, ...],
        center: Tensor,
        scale: Tensor,
        judged: Tensor,
        still: Tensor,
        examples: Tensor,
    ) -> None:
        super().__init__()
        self.signals, self.samples = input_shape
        for name, part in zip(_PARTS, (center, scale, judged, still, examples), strict=True):
            self.register_buffer(name, part)
        basis = _basis(self.samples)
        slow = basis[:, :LOW]
        fixed = {
            "basis": basis,
            "bands": _bands(self.samples),
            "departures": functional.pad(torch.eye(self.samples) - slow @ slow.T, (0, -self.samples % _PAD)),
            "steps": _steps(self.samples),
        }
        for name, part in fixed.items():
            self.register_buffer(name, part.to(center), persistent=False)

    @classmethod
    def of(cls, input_shape: tuple[int, ...], s: Tensor) -> Self:
        """Describe windows as these training rows are best described: standardised, ``(m, d)``, no cell missing."""
        signals, samples = input_shape
        numbers, movements = _numbers_of(samples)
        cells = s.view(len(s), signals, samples)
        none, still = s.new_zeros(signals * numbers), s.new_zeros(signals, movements)
        examples = s[:_EXAMPLES].clone()
        plain = cls(input_shape, none, none + 1, none, still, examples)
        still = (_STILL**2 * plain._parts(s)[1].mean(0)).clamp(min=_LEAST_STILL)
        plain.still = still
        raw = plain._raw(s)
        center, scale = raw.mean(0), raw.std(0, correction=0)
        moves = (cells.transpose(1, 2).flatten(0, 1).std(0, correction=0) > _MOVES).repeat_interleave(numbers)
        scale = torch.where(moves, scale.clamp(min=_LEAST_SCALE), 1.0)
        values = torch.tensor([len(column.unique()) for column in cells[:, :, -1].T])
        state = (values > 1) & (values <= _STATES)
        if (state | (values == 1)).all():  # nothing else could be judged
            state = torch.zeros_like(state)
        judged = (~state).to(s).repeat_interleave(numbers)
        return cls(input_shape, center, scale, judged, still, examples)

    @classmethod
    def restored(cls, input_shape: tuple[int, ...], state: Mapping[str, Tensor]) -> Self:
        """Construct it from the tensors of a network; raises RuntimeError for missing or misshapen ones."""
        numbers, movements = _numbers_of(input_shape[1])
        width, cells = input_shape[0] * numbers, math.prod(input_shape)
        parts = [state.get(f"described.{name}", torch.empty(0)) for name in _PARTS]
        shapes = [tuple(part.shape) for part in parts]
        expected = [(width,)] * 3 + [(input_shape[0], movements), (len(parts[-1]), cells)]
        if shapes != expected or not len(parts[-1]):
            raise RuntimeError(f"Got a description of shapes {shapes}, expected {expected}. Save the model again.")
        return cls(input_shape, *parts)

    @property
    def states(self) -> list[int]:
        """The numbers of the signals that are not judged."""
        return (self.judged.view(self.signals, -1)[:, 0] == 0).nonzero()[:, 0].tolist()

    @property
    def signal(self) -> Tensor:
        """Which signal each number describes, shape ``(signals * k,)``."""
        return torch.arange(self.signals, device=self.center.device).repeat_interleave(len(self.center) // self.signals)

    def forward(self, s: Tensor) -> Tensor:
        """Standardised rows ``(n, signals * samples)`` -> numbers, signal by signal, ``(n, signals * k)``."""
        return ((self._raw(s) - self.center) / self.scale).clamp(-LIMIT, LIMIT) * self.judged

    def _raw(self, s: Tensor) -> Tensor:
        shape, squares = self._parts(s)
        return torch.cat([shape, (squares + self.still).sqrt().sqrt()], dim=2).flatten(1)

    def _parts(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """The lowest coefficients ``(n, signals, 3)``, and the squares of movements ``(n, signals, k)``."""
        samples = s.reshape(-1, self.samples)
        low, bands = min(LOW, self.samples), self.still.shape[1] - PEAKS
        coefficients = samples @ self.basis
        shape = coefficients[:, :low].view(len(s), self.signals, low)
        if bands < 1:
            return shape, s.new_zeros(len(s), self.signals, 0)
        energies = (coefficients.square() @ self.bands)[:, :bands]
        largest = (samples @ self.departures).square().amax(1), (samples @ self.steps).square().amax(1)
        squares = torch.cat([energies, torch.stack(largest, dim=1)], dim=1)
        return shape, squares.view(len(s), self.signals, -1)


def _numbers_of(samples: int) -> tuple[int, int]:
    """How many numbers describe a signal, and how many of them are movements."""
    movements = len(_edges(samples)) - 1 + PEAKS if samples > LOW else 0
    return min(LOW, samples) + movements, movements


def _edges(samples: int) -> list[int]:
    """The first coefficient of each octave, and the end of the last; less than half an octave joins the one before."""
    edges = [LOW]
    while edges[-1] < samples:
        edges.append(2 * edges[-1])
    edges[-1] = max(samples, LOW)
    return [*edges[:-2], edges[-1]] if len(edges) > 2 and samples - edges[-2] <= edges[-2] // 2 else edges


def _basis(samples: int) -> Tensor:
    """The cosines, a column each, from the slowest on, ``(samples, samples padded)``."""
    order, place = torch.arange(samples, dtype=torch.float64), torch.arange(samples, dtype=torch.float64) + 0.5
    waves = torch.cos(math.pi / samples * place[:, None] * order) * math.sqrt(2 / samples)
    waves[:, 0] = math.sqrt(1 / samples)
    return functional.pad(waves, (0, -samples % _PAD))


def _bands(samples: int) -> Tensor:
    """The means over octaves of coefficients, a column each, ``(samples padded, bands padded)``."""
    edges = _edges(samples)
    means = torch.zeros(samples + -samples % _PAD, len(edges) + -len(edges) % _PAD, dtype=torch.float64)
    for band, (first, end) in enumerate(pairwise(edges)):
        means[first:end, band] = 1 / (end - first)
    return means


def _steps(samples: int) -> Tensor:
    """Differences of neighbours, a column each, ``(samples, samples padded)``."""
    identity = torch.eye(samples, dtype=torch.float64)
    return functional.pad((identity[1:] - identity[:-1]).T, (0, 1 + -samples % _PAD))
