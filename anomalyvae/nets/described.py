"""Windows as the shape and the energies of their signals: numbers that do not depend on when a fast event happens."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from anomalyvae.nets.ellipsoid import PAD, padded
from anomalyvae.nets.scaling import LIMIT, Scaling, jittering

LOW = 3  # coefficients that are kept: level, slope and bend
CODE = 0.5  # weight of the code beside the numbers: of few windows it fits noise
_MOST_VALUES = 10  # distinct values that a state has at most
_STILL = 1e-2  # of a movement's root mean square in training; a much smaller one counts as none
_LEAST_STILL = 1e-6  # its square
_NEARLY_STILL = 1e-3  # range of a standardised signal that may be a constant one
_ROUNDED = 1e-5  # by how much such a signal changes by rounding: 1e-7 of its level, as its unit is 1 % of that
_WHOLE = 1e-6  # by how much a whole number differs from one by rounding
_ROWS = 8192  # at a time
_LEAST_SCALE = 1e-3
PEAKS = 2  # the largest departure, the largest step
_EXAMPLES = 128
_SEGMENTS = 4  # that fit into a window side by side
_LEAST_SAMPLES = 4  # of a window that has segments
_PARTS = ("center", "scale", "still", "role", "values", "width", "examples")
_JUDGED, _STATE, _NO_PART = 1, 2, 0  # roles of a signal; a constant one is a state, too


class Columns(NamedTuple):
    """How many columns of a described window have a part in each view."""

    near: int  # the first: code and shape
    crowd: int  # the first: code, shape and movements
    signals: int  # whose samples come next, and then their residuals
    samples: int  # of each signal
    states: int  # signals of which only new values count; the last columns

    @property
    def total(self) -> int:
        """Of a described window."""
        return self.crowd + 2 * self.signals * self.samples + self.states

    @property
    def of_samples(self) -> slice:
        """The columns of the samples."""
        return slice(self.crowd, self.crowd + self.signals * self.samples)

    @property
    def of_residuals(self) -> slice:
        """The columns of the residuals of samples."""
        return slice(self.of_samples.stop, self.total - self.states)

    @property
    def of_states(self) -> slice:
        """The columns of the states."""
        return slice(self.total - self.states, self.total)

    @property
    def short(self) -> int:
        """Samples of a segment, 0 in a window without segments."""
        return self.samples // _SEGMENTS if self.samples >= _LEAST_SAMPLES else 0


class Described(nn.Module):
    """A window as numbers: shape, size of faster movements, samples, their residuals, and which values are new.

    With c_k the coefficients of the orthonormal cosine transform (DCT-II, Ahmed, Natarajan & Rao 1974) of the samples
    of a signal, the shape is c_0, c_1, c_2: level, slope, bend. Movements are the mean of c_k^2 over k = 3 to 5, over
    6 to 11, and so on, an energy for each octave; the largest square of the samples without the shape; and the largest
    square of a step from one sample to the next. A fast event has the same movements wherever it lies in the window, so
    windows that are not aligned can be compared. The fourth root of each lies between an amplitude and its logarithm,
    so that neither loud windows nor quiet ones rule the distances.

    A signal that never moves in training, or is a state, such as a gear or a switch (whole numbers, two to ten of
    them), says which normal condition holds. It is not judged by how far it moves, but a value that it never had is
    new. A signal of two to ten values with fractions comes from a coarse sensor, and is ignored.

    Parameters
    ----------
    input_shape : (int, int)
        Signals and samples of a window.
    center, scale : Tensor of shape (k,)
        Mean and standard deviation in training of each number of shape, then of movements.
    still : Tensor of shape (j, movements)
        Added to each square.
    role : Tensor of shape (signals,)
        1 for the j signals that have these numbers, 2 for the h states, of which new values count, 0 for the others.
    values : Tensor of shape (h, samples, 10)
        Their values in training, standardised.
    width : Tensor of shape (h, samples)
        How far from the nearest of them a value is new.
    examples : Tensor of shape (e, signals * samples)
        Some standardised training rows.
    """

    center: Tensor
    scale: Tensor
    still: Tensor
    role: Tensor
    values: Tensor
    width: Tensor
    examples: Tensor
    judged: Tensor
    states: Tensor
    basis: Tensor
    bands: Tensor
    departures: Tensor
    steps: Tensor
    moving: bool = True  # whether a judged signal is not a state; set in training, not restored

    def __init__(
        self,
        input_shape: tuple[int, ...],
        center: Tensor,
        scale: Tensor,
        still: Tensor,
        role: Tensor,
        values: Tensor,
        width: Tensor,
        examples: Tensor,
    ) -> None:
        super().__init__()
        self.signals, self.samples = input_shape
        parts = (center, scale, still, role, values, width, examples)
        for name, part in zip(_PARTS, parts, strict=True):
            self.register_buffer(name, part)
        basis = padded(cosines(self.samples))
        slow = basis[:, :LOW]
        fixed = {
            "basis": basis,
            "bands": _bands(self.samples),
            "departures": padded(torch.eye(self.samples) - slow @ slow.T),
            "steps": _steps(self.samples),
        }
        for name, part in fixed.items():
            self.register_buffer(name, part.to(center), persistent=False)
        for name, number in (("judged", _JUDGED), ("states", _STATE)):
            self.register_buffer(name, (role == number).nonzero()[:, 0], persistent=False)

    @classmethod
    def of(
        cls, input_shape: tuple[int, ...], s: Tensor, scaling: Scaling, chosen: Tensor, like: Self | None = None
    ) -> Self:
        """Learn from training windows how to describe windows.

        Parameters
        ----------
        input_shape : (int, int)
        s : Tensor of shape (n, signals * samples)
            All training rows, standardised, NaN where a cell is missing.
        scaling : Scaling
            That standardised them.
        chosen : Tensor of shape (m, signals * samples)
            Some of them, without missing cells; they set the scales.
        like : Described, optional
            Whose signals have the same roles. By default, the roles come from the rows.
        """
        signals, samples = input_shape
        numbers, movements = _numbers_of(samples)
        role, values, width, moving = _roles(s, input_shape, scaling, like)
        judged = int((role == _JUDGED).sum())
        none, squares = chosen.new_zeros(judged * numbers), chosen.new_zeros(judged, movements)
        described = cls(input_shape, none, none + 1, squares, role, values, width, chosen[:_EXAMPLES].clone())
        described.moving = moving
        cells = chosen.view(-1, signals, samples)[:, described.judged]
        parts = described._parts(cells)
        described.still = (_STILL**2 * parts[1].mean(0)).clamp(min=_LEAST_STILL)
        raw = described._numbers(*parts)
        spread = raw.std(0, correction=0)
        described.center, described.scale = raw.mean(0), torch.where(spread > _LEAST_SCALE, spread, 1.0)
        return described

    @classmethod
    def restored(cls, input_shape: tuple[int, ...], state: Mapping[str, Tensor]) -> Self:
        """Construct it from the tensors of a network; raises RuntimeError for missing or misshapen ones."""
        signals, samples = input_shape
        numbers, movements = _numbers_of(samples)
        parts = [state.get(f"described.{name}", torch.empty(0)) for name in _PARTS]
        shapes = [tuple(part.shape) for part in parts]
        judged, states, examples = int((parts[3] == _JUDGED).sum()), int((parts[3] == _STATE).sum()), len(parts[-1])
        width = judged * numbers
        expected = [(width,), (width,), (judged, movements), (signals,), (states, samples, _MOST_VALUES)]
        expected += [(states, samples), (examples, signals * samples)]
        if shapes != expected or not examples or not judged:
            raise RuntimeError(
                f"Got a description of shapes {shapes}, expected {expected}. A model of windows by an earlier version "
                "cannot be read: fit it again."
            )
        return cls(input_shape, *parts)

    @property
    def unjudged(self) -> tuple[list[int], list[int]]:
        """The numbers of the signals of which new values count, and of those that have no part."""
        return self.states.tolist(), (self.role == _NO_PART).nonzero()[:, 0].tolist()

    @property
    def widths(self) -> tuple[int, int, int, int, int]:
        """How many numbers there are of shape, movements, samples, residuals and new values."""
        shape, samples = len(self.judged) * min(LOW, self.samples), len(self.judged) * self.samples
        return shape, len(self.center) - shape, samples, samples, len(self.states)

    def columns(self, latent_dim: int) -> Columns:
        """Which columns have a part in each view, behind a latent code."""
        shape, movements, *_, states = self.widths
        near = latent_dim + shape
        return Columns(near, near + movements, len(self.judged), self.samples, states)

    def forward(self, s: Tensor, missing: Tensor, residual: Tensor) -> Tensor:
        """Standardised rows ``(n, signals * samples)`` -> all numbers, ``(n, k)``.

        The missing cells, a mask, are imputed; ``residual`` is that of each cell. The last numbers are the share of new
        values of each state.
        """
        cells = s.view(-1, self.signals, self.samples)
        judged = cells[:, self.judged]
        numbers = ((self._numbers(*self._parts(judged)) - self.center) / self.scale).clamp(-LIMIT, LIMIT)
        distance = (cells[:, self.states, :, None] - self.values).abs().amin(3)
        new = (distance > self.width) & ~missing.view_as(cells)[:, self.states]
        missed = residual.view_as(cells)[:, self.judged]
        return torch.cat([numbers, judged.flatten(1), missed.flatten(1), new.to(s).mean(2)], dim=1)

    def spread(self, parts: Tensor) -> Tensor:
        """Parts of numbers ``(n, v, k)`` -> of cells, ``(n, v, signals * samples)``; a number's are spread evenly."""
        shape, movements, samples, residuals, new = parts.split(self.widths, dim=2)
        n, v, judged = *parts.shape[:2], len(self.judged)
        even = sum(part.reshape(n, v, judged, -1).sum(3, keepdim=True) for part in (shape, movements) if part.shape[2])
        cells = parts.new_zeros(n, v, self.signals, self.samples)
        cells[:, :, self.judged] = (samples + residuals).view(n, v, judged, -1) + even / self.samples
        cells[:, :, self.states] = new[..., None] / self.samples
        return cells.flatten(2)

    def _numbers(self, shape: Tensor, squares: Tensor) -> Tensor:
        """Shape, then movements, by `_parts`, not standardised, ``(n, k)``."""
        return torch.cat([shape, (squares + self.still).sqrt().sqrt().flatten(1)], dim=1)

    def _parts(self, judged: Tensor) -> tuple[Tensor, Tensor]:
        """The lowest coefficients ``(n, j * 3)``, and the squares of movements ``(n, j, movements)``."""
        samples = judged.reshape(-1, self.samples)
        low, bands = min(LOW, self.samples), self.still.shape[1] - PEAKS
        coefficients = samples @ self.basis
        shape = coefficients[:, :low].reshape(len(judged), -1)
        if bands < 1:
            return shape, judged.new_zeros(*judged.shape[:2], 0)
        energies = (coefficients.square() @ self.bands)[:, :bands]
        largest = (samples @ self.departures).square().amax(1), (samples @ self.steps).square().amax(1)
        return shape, torch.cat([energies, torch.stack(largest, dim=1)], dim=1).view(*judged.shape[:2], -1)


def _roles(
    s: Tensor, input_shape: tuple[int, ...], scaling: Scaling, like: "Described | None"
) -> tuple[Tensor, Tensor, Tensor, bool]:
    """The role of each signal, the values of the states, and how far from these a value is new.

    If no signal would be judged, all are. Also returns whether any judged signal is not a state. A signal that is a
    state in ``like`` alone has any value between its least and its largest one.
    """
    signals, samples = input_shape
    last = s.view(-1, signals, samples)[:, :, -1]
    few = [number for number in range(signals) if len(_observed(last[:, number]).unique()) <= _MOST_VALUES]
    levels, spans = _levels(s, input_shape, scaling, few), _spans(s, input_shape, scaling)
    if like is None:
        judged = [number for number in range(signals) if number not in few and number not in spans]
        moving = bool(judged)
        judged, states = (judged, sorted(levels.keys() | spans.keys())) if moving else (list(range(signals)), [])
    else:
        judged, states, moving = like.judged.tolist(), like.states.tolist(), like.moving
        spans |= {n: _span(s.view(-1, *input_shape)[:, n]) for n in states if n not in levels and n not in spans}
    values, width = s.new_zeros(len(states), samples, _MOST_VALUES), s.new_zeros(len(states), samples)
    for index, number in enumerate(states):
        if number in spans:
            values[index] = spans[number][[0] + [1] * (_MOST_VALUES - 1)]
            width[index] = (spans[number][1] - spans[number][0]).clamp(min=_ROUNDED)
            continue
        rows = levels[number][:, None, None].expand(-1, signals, samples).flatten(1)
        scaled = scaling(rows).view(-1, signals, samples)[:, number].T
        values[index] = scaled[:, [min(i, scaled.shape[1] - 1) for i in range(_MOST_VALUES)]]
        width[index] = scaled.diff().amin(1) / 2
    role = s.new_full((signals,), _NO_PART)
    role[judged], role[states] = _JUDGED, _STATE
    return role, values, width, moving


def _spans(s: Tensor, input_shape: tuple[int, ...], scaling: Scaling) -> dict[int, Tensor]:
    """The least and the largest standardised value of each signal that is constant, or varies by rounding alone."""
    cells, spans = s.view(-1, *input_shape), {}
    for number in range(input_shape[0]):
        span = _span(cells[:, number])
        if span[1] - span[0] <= _NEARLY_STILL * (1 + span.abs().max()):
            spans[number] = span
    x = scaling.inverse(s).view(cells.shape) if spans else cells
    return {number: span for number, span in spans.items() if _is_constant(x[:, number].flatten())}


def _span(cells: Tensor) -> Tensor:
    """The least and the largest of some cells, shape ``(2,)``; 0 where all are missing, as in a fold."""
    observed = _observed(cells)
    return torch.stack(observed.aminmax()) if len(observed) else cells.new_zeros(2)


def _levels(s: Tensor, input_shape: tuple[int, ...], scaling: Scaling, few: list[int]) -> dict[int, Tensor]:
    """The values of each of these signals that is a state, ascending, in the user's units."""
    found: dict[int, set[float]] = {number: set() for number in few}
    for block in s.split(_ROWS) if few else ():
        x = scaling.inverse(block).view(-1, *input_shape)
        for number in list(found):
            values = _observed(x[:, number]).unique()
            found[number].update(values.round().tolist())
            if len(found[number]) > _MOST_VALUES or bool(((values - values.round()).abs() > _WHOLE).any()):
                del found[number]
    return {n: torch.tensor(sorted(values)).to(s) for n, values in found.items() if len(values) > 1}


def _is_constant(x: Tensor) -> bool:
    """Whether values in the user's units are equal, or vary by rounding alone."""
    return len(_observed(x).unique()) <= 1 or bool(jittering(x[:, None]))


def _observed(x: Tensor) -> Tensor:
    return x[~x.isnan()]


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


def cosines(samples: int) -> Tensor:
    """The basis of the orthonormal cosine transform, a column each, from the slowest on, ``(samples, samples)``."""
    order, position = torch.arange(samples, dtype=torch.float64), torch.arange(samples, dtype=torch.float64) + 0.5
    waves = torch.cos(math.pi / samples * position[:, None] * order) * math.sqrt(2 / samples)
    waves[:, 0] = math.sqrt(1 / samples)
    return waves


def _bands(samples: int) -> Tensor:
    """The means over octaves of coefficients, a column each, ``(samples padded, bands padded)``."""
    edges = _edges(samples)
    means = torch.zeros(samples + -samples % PAD, len(edges) + -len(edges) % PAD, dtype=torch.float64)
    for band, (first, end) in enumerate(pairwise(edges)):
        means[first:end, band] = 1 / (end - first)
    return means


def _steps(samples: int) -> Tensor:
    """Differences of neighbours, a column each, ``(samples, samples padded)``."""
    identity = torch.eye(samples, dtype=torch.float64)
    return functional.pad((identity[1:] - identity[:-1]).T, (0, 1 + -samples % PAD))
