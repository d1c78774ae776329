"""The views of windows: seven ways in which a window can be unlike the training windows, in one unit."""

import math
from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor

from anomalyvae.nets.described import Columns
from anomalyvae.nets.ellipsoid import complete_ellipsoid, ellipsoid_parts
from anomalyvae.nets.memory import Marks, keys_of, most_copied, weighted_distances
from anomalyvae.nets.spread import Spread, whitening_shapes
from anomalyvae.nets.views import (
    BLOCK,
    LEAST,
    LEAST_UNIT,
    OFF,
    TAIL,
    Views,
    crowd_of,
    finite,
    stored_rows,
    usual_distance,
)

_WAVES = 1024  # windows whose samples are stored
_RECUR = 0.75  # share of the variance that the nearest waveform explains, at least, if waveforms recur
_RESIDUAL = 5  # the number of the view of residuals
_PARTS = ("rows", "weight", "crowd", "mean", "whitening", "lines", "waves", "short_mean", "short_whitening")


class WindowViews(Views):
    """How unlike the training windows a window is, in seven ways, each in nats; `forward` is what they say together.

    - **near**, as of rows: its slow shape and its code are unlike those of the nearest windows.
    - **crowd**, as of rows: its shape, its movements and its code are far from those of the crowd.
    - **linear**: the Mahalanobis distance of its samples. Covariances between signals weigh a fifth: relations between
      signals change from one drive to the next.
    - **wave**: the distance of its samples, each signal without its level, from those of the most similar of 1,024
      training windows (as in the matrix profile, Yeh et al. 2016, Matrix profile I, ICDM). It counts where waveforms
      recur, as in an electrocardiogram: the nearest explains at least three quarters of the variance of the others.
    - **short**: the Mahalanobis distance of the samples of its most unusual segment, a quarter as long. A short event
      is a small part of a window, and the largest part of a segment.
    - **residual**: the distance of its samples from their reconstruction by the decoder, each in standard deviations.
      Its unit comes from windows that were not learned, the largest of which counts as no rarer than one of them;
      without any, the view is off. It counts by its mean with near.
    - **states**: a signal that never moves, or a state, has a value that it had in no training window. n windows
      without such a value show no more than that its probability is about ``1 / (n + 1)`` (rule of succession).

    A distance d becomes nats by ``log(2) + log(5) (d - q_50) / (q_90 - q_50)``, an estimate of ``-log P(a normal window
    is as far)``, with quantiles q of the distances of the training windows, each compared with others. The views depend
    on each other, and which of them sees an anomaly is not known. So the score is the harmonic mean of their
    probabilities (Wilson 2019, The harmonic mean p-value for combining dependent tests, PNAS 116): ``log mean exp`` of
    the nats.

    Parameters
    ----------
    columns : Columns
    rows, weight, crowd, mean, whitening
        As of `Views`: ``rows`` have the code and shape of windows, ``crowd`` also the movements, ``mean`` the samples.
    lines : Tensor of shape (7, 2)
    waves : Tensor
        Samples of stored windows, without the level of each signal; none if waveforms do not recur.
    short_mean, short_whitening : Tensor
        As ``mean`` and ``whitening``, of segments.
    """

    names: ClassVar[tuple[str, ...]] = ("near", "crowd", "linear", "wave", "short", "residual", "states")
    words: ClassVar[tuple[str, ...]] = (
        "far from its neighbours",
        "far from the crowd",
        "samples unlike themselves",
        "a waveform never seen",
        "a short event",
        "unlike its reconstruction",
        "a value never seen",
    )
    same: ClassVar[float] = 0.1
    waves: Tensor
    short_mean: Tensor
    short_whitening: Tensor
    wave_keys: Tensor
    segments: Tensor

    def __init__(
        self,
        columns: Columns,
        rows: Tensor,
        weight: Tensor,
        crowd: Tensor,
        mean: Tensor,
        whitening: Tensor,
        lines: Tensor,
        waves: Tensor,
        short_mean: Tensor,
        short_whitening: Tensor,
    ) -> None:
        super().__init__(rows, weight, crowd, mean, whitening, lines)
        self.columns = columns
        parts = {"waves": waves, "short_mean": short_mean, "short_whitening": short_whitening}
        for name, part in parts.items():
            self.register_buffer(name, part)
        self.register_buffer("wave_keys", keys_of(waves, torch.ones_like(waves[:, 0])), persistent=False)
        self.register_buffer("segments", _segments(columns).to(rows.device), persistent=False)

    @classmethod
    def of_windows(
        cls,
        u: Tensor,
        marks: Marks,
        generator: torch.Generator,
        columns: Columns,
        moving: bool,
        like: Self | None,
    ) -> Self:
        """Compare with described windows ``(m, k)``, of which the marks are known.

        By their waveforms if these recur in the views ``like`` these, or by default in the windows; and with their unit
        of residuals. Without it, `judge_residuals` is to be called.

        Selected windows weigh as much as all others in the covariances and in the unit of a view: a view that finds
        them unusual says less. Windows that overlap are near each other, and no new window overlaps with one of them,
        so none is compared with those. If no signal is ``moving``, all are states, whose variance says nothing: only
        the nearest windows count.
        """
        marks = marks._replace(recurring=most_copied(marks.counts, marks.recurring))
        rows, weight, tested, origin = stored_rows(u[:, : columns.near], marks)
        tested = tested if len(tested) > 1 else torch.arange(len(rows), device=u.device)
        crowd = crowd_of(u[:, : columns.crowd], marks, generator)
        windows = _in_turn(origin[tested].unique(), marks.selected)
        samples, chosen = u[windows, columns.of_samples], marks.selected[windows]
        waveforms_recur = None if like is None else len(like.waves) > 0
        waves, wave = _recurring_waves(_waves(samples, columns), waveforms_recur if moving else False)
        whole, segments = _spreads(samples, chosen, columns)
        mean, whitening = whole.whitening()
        short_mean, short_whitening = segments.whitening()
        lines = _line(u.new_zeros(1)).repeat(len(cls.names), 1)
        views = cls(columns, rows, weight, crowd, mean, whitening, lines, waves, short_mean, short_whitening)
        if len(u) > 1:
            near = views._near_others(marks.start[origin], tested)
            crowded = [views.crowd_distance(u[part, : columns.crowd], others=True) for part in windows.split(BLOCK)]
            linear, short = whole.from_others(), segments.from_others()
            masks = (marks.selected[origin[tested]], chosen, chosen, chosen, chosen)
            for i, (distances, mask) in enumerate(
                zip((near, torch.cat(crowded), linear, wave, short), masks, strict=True)
            ):
                lines[i] = _line(_balanced(distances, mask))
                views.usual_unselected[i] = usual_distance(distances, mask)
        lines[-1] = lines.new_tensor([math.log(float(marks.counts.sum()) + 1), 0.0])
        counts = {
            "near": True,
            "crowd": moving,
            "linear": moving and whitening.shape[1],
            "wave": moving and len(waves),
            "short": moving and short_whitening.shape[1] and columns.short,
            "residual": False,
            "states": columns.states,
        }
        off = torch.tensor([not counts[name] for name in cls.names], device=u.device)
        lines[off] = lines.new_tensor([0.0, OFF])
        if like is not None:
            views.judge_residuals_as(like)
        return views

    def judge_residuals(self, distances: Tensor) -> None:
        """Set the unit of residuals by the distances ``(n,)`` of windows that were not learned."""
        self.lines[_RESIDUAL] = _line(distances, heavy_tail=True)

    def judge_residuals_as(self, other: Self) -> None:
        """Take the unit of residuals from the views of another network."""
        self.lines[_RESIDUAL] = other.lines[_RESIDUAL]

    @classmethod
    def restored_windows(cls, columns: Columns, state: Mapping[str, Tensor]) -> Self:
        """Construct it from the tensors of a network; raises RuntimeError for missing or misshapen ones."""
        parts = [state.get(f"memorised.{name}", torch.empty(0)) for name in _PARTS]
        lines = _PARTS.index("lines")
        if parts[lines].shape == (len(cls.names) - 1, 2):  # of a version that did not judge residuals
            before, after = parts[lines].split([_RESIDUAL, len(parts[lines]) - _RESIDUAL])
            parts[lines] = torch.cat([before, before.new_tensor([[0.0, OFF]]), after])
        shapes = [tuple(part.shape) for part in parts]
        stored, crowd = len(parts[0]), len(parts[2])
        length, waves = max(1, columns.short), len(parts[_PARTS.index("waves")])
        mean, whitening = whitening_shapes(columns.signals, columns.samples)
        expected = [
            *((stored, columns.near), (stored,), (crowd, columns.crowd), mean, whitening, (len(cls.names), 2)),
            *((waves, *mean), *whitening_shapes(columns.signals, length)),
        ]
        if shapes != expected or not stored or not crowd:
            raise RuntimeError(
                f"Got stored windows of shapes {shapes}, expected {expected}. A model of windows by an earlier version "
                "cannot be read: fit it again."
            )
        return cls(columns, *parts)

    def together(self, nats: Tensor) -> Tensor:
        """The harmonic mean of the probabilities of the views ``(n, 7)``, in nats, shape ``(n,)``."""
        nats = self._combined(nats)[:, self.switched_on]
        return nats.logsumexp(1) - math.log(nats.shape[1])

    def _combined(self, nats: Tensor) -> Tensor:
        """The views ``(n, 7)`` as they count."""
        combined = nats.clone()
        combined[:, _RESIDUAL] = (nats[:, 0] + nats[:, _RESIDUAL]) / 2
        return combined

    @property
    def usual(self) -> Tensor:
        """As of `Views`; 0 for states, which are not distances."""
        usual = super().usual
        usual[-1] = 0.0
        return usual

    def distances(self, u: Tensor) -> Tensor:
        """The distances of windows ``(n, k)``, shape ``(n, 7)``."""
        columns, samples = self.columns, u[:, self.columns.of_samples]
        each = (
            self.near_distance(u[:, : columns.near]),
            self.crowd_distance(u[:, : columns.crowd]),
            complete_ellipsoid(samples, self.mean, self.whitening),
            self._from_nearest_wave(samples).square().sum(1).sqrt(),
            _largest(samples, self.segments, self.short_mean, self.short_whitening).values,
            self.residual_distance(u),
            (u[:, columns.of_states] > 0).any(1).to(u),
        )
        return torch.stack(each, dim=1)

    def residual_distance(self, u: Tensor) -> Tensor:
        """The norm of the residuals of windows ``(n, k)``, shape ``(n,)``."""
        return u[:, self.columns.of_residuals].square().sum(1).sqrt()

    def _near_others(self, start: Tensor, tested: Tensor) -> Tensor:
        """`near_distance` of the ``tested`` stored windows from those that do not overlap with them, if enough do not.

        ``start`` says when each stored window begins.
        """
        near = []
        for indices in tested.split(BLOCK):
            gap = (start[indices, None] - start).abs()
            overlaps = (gap > 0) & (gap < self.columns.samples)
            overlaps &= (~overlaps).sum(1, keepdim=True) > self.neighbours
            itself = indices[:, None] == torch.arange(len(start), device=start.device)
            near.append(self.near_distance(self.rows[indices], overlaps | itself))
        return torch.cat(near)

    def _from_nearest_wave(self, samples: Tensor) -> Tensor:
        """The difference from the nearest stored samples, each signal without its level; 0 if none are stored."""
        if not len(self.waves):
            return torch.zeros_like(samples)
        return _from_nearest(_waves(samples, self.columns), self.waves, self.wave_keys)

    def strongest(self, u: Tensor) -> Tensor:
        """As of `Views`; where no value is new, it is not the last."""
        nats = self._combined(self.nats(u))
        nats[:, -1][nats[:, -1] == 0] = -torch.inf
        return nats.argmax(1)

    def parts(self, u: Tensor) -> Tensor:
        """The part of each column of windows ``(n, k)`` in each distance, at least 0, shape ``(n, 7, k)``."""
        columns, samples = self.columns, u[:, self.columns.of_samples]
        parts = u.new_zeros(len(u), len(self.names), columns.total)
        parts[:, 0, : columns.near] = self.near_parts(u[:, : columns.near])
        parts[:, 1, : columns.crowd] = self.crowd_parts(u[:, : columns.crowd])
        parts[:, 2, columns.of_samples] = ellipsoid_parts(samples, self.mean, self.whitening)
        parts[:, 3, columns.of_samples] = self._from_nearest_wave(samples).square()
        index = self.segments[_largest(samples, self.segments, self.short_mean, self.short_whitening).indices]
        short = ellipsoid_parts(samples.gather(1, index), self.short_mean, self.short_whitening)
        parts[:, 4, columns.of_samples] = torch.zeros_like(samples).scatter(1, index, short)
        parts[:, _RESIDUAL, columns.of_residuals] = u[:, columns.of_residuals].square()
        parts[:, -1, columns.of_states] = u[:, columns.of_states]
        return parts


def _in_turn(windows: Tensor, selected: Tensor) -> Tensor:
    """The indices of windows, one that is ``selected`` and one that is not in turn, so that each fold has both."""
    chosen = selected[windows]
    return windows[torch.where(chosen, chosen.cumsum(0), (~chosen).cumsum(0)).argsort(stable=True)]


def _spreads(samples: Tensor, selected: Tensor, columns: Columns) -> tuple[Spread, Spread]:
    """The spread of windows ``(n, signals * samples)``, of which some are ``selected``, and that of their segments."""
    weight = torch.where(selected, _times(selected), 1).to(samples)
    short = samples[:, _segments(columns).to(samples.device)]
    each = (samples[:, None], short)
    whole, segments = (Spread(x.view(*x.shape[:2], columns.signals, -1), weight) for x in each)
    return whole, segments


def _largest(samples: Tensor, segments: Tensor, mean: Tensor, whitening: Tensor) -> "torch.return_types.max":
    """The largest distance of the segments of windows ``(n, signals * samples)``, and which segment it is."""
    some = samples[:, segments.flatten()].view(-1, segments.shape[1])
    return complete_ellipsoid(some, mean, whitening).view(-1, len(segments)).max(1)


def _segments(columns: Columns) -> Tensor:
    """The indices of the samples of each segment, ``(segments, signals * length)``; each covers half of the next."""
    length = max(1, columns.short)
    starts = [*range(0, columns.samples - length, max(1, length // 2)), columns.samples - length]
    index = torch.arange(columns.signals)[:, None] * columns.samples + torch.arange(length)
    return torch.stack([(index + start).flatten() for start in starts])


def _waves(samples: Tensor, columns: Columns) -> Tensor:
    """Samples of windows ``(n, signals * samples)``, each signal without its level."""
    cells = samples.view(-1, columns.signals, columns.samples)
    return (cells - cells.mean(2, keepdim=True)).flatten(1)


def _recurring_waves(waves: Tensor, waveforms_recur: bool | None) -> tuple[Tensor, Tensor]:
    """At most 1,024 of the waveforms ``(n, k)``, and the distance of each of the n from the nearest other of these.

    None and zeros, if they do not recur: by default, if the nearest others explain too little of the variance.
    """
    none = waves[:0], torch.zeros_like(waves[:, 0])
    stored, variance = waves[:_WAVES], waves.var(0, correction=0).sum()
    if len(stored) < 2 or not variance or waveforms_recur is False:
        return none
    keys = keys_of(stored, torch.ones_like(stored[:, 0]))
    indices = torch.arange(len(waves), device=waves.device)
    missed = [_from_nearest(waves[part], stored, keys, part).square().sum(1) for part in indices.split(BLOCK)]
    squared = torch.cat(missed)
    if waveforms_recur is None:
        waveforms_recur = bool(squared.mean() <= (1 - _RECUR) * variance)
    return (stored, squared.sqrt()) if waveforms_recur else none


def _from_nearest(waves: Tensor, stored: Tensor, keys: Tensor, own: Tensor | None = None) -> Tensor:
    """The differences of waveforms ``(n, k)`` from the nearest stored ones; not from those at their ``own`` indices."""
    squared = weighted_distances(waves, keys)
    if own is not None:
        among = own < len(stored)
        squared[among, own[among]] = torch.inf
    return waves - stored[squared.argmin(1)]


def _balanced(x: Tensor, selected: Tensor) -> Tensor:
    """Repeat those of the numbers ``(n,)`` that are ``selected``, a mask, so that they weigh as much as the others."""
    return torch.cat([x, x[selected].repeat(_times(selected) - 1)])


def _times(selected: Tensor) -> int:
    """How often each of the ``selected``, a mask, counts to weigh as much as all others together."""
    return max(1, len(selected) // max(1, int(selected.sum())) - 1)


def _line(distances: Tensor, heavy_tail: bool = False) -> Tensor:
    """Slope and value at 0 of a view's nats, from the distances of the training windows, shape ``(2,)``.

    With a ``heavy_tail``, the largest of n counts as no rarer than one in n.
    """
    distances = finite(distances)
    middle, begin = distances.quantile(0.5), distances.quantile(1 - TAIL).clamp(min=LEAST)
    unit = torch.maximum(begin - middle, LEAST_UNIT * begin) / math.log(0.5 / TAIL)
    if heavy_tail:
        unit = torch.maximum(unit, (distances.amax() - middle) / math.log(max(len(distances) / 2, 2)))
    return torch.stack([1 / unit, math.log(2) - middle / unit])
