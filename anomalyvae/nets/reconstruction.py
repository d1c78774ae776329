"""The autoencoder that every objective builds on: its losses, its memory and its scores."""

import math
from collections.abc import Iterator, Mapping
from functools import partial, partialmethod
from typing import Any, Self

import torch
from torch import Tensor, nn

from anomalyvae.nets.bodies import BODIES, Linear
from anomalyvae.nets.described import CODE, Described
from anomalyvae.nets.likelihoods import LIKELIHOODS, Likelihood, Mixture
from anomalyvae.nets.memory import Marks, Memory, cleanest, sample_by_weight, share_of_cleanest, unlike_outliers
from anomalyvae.nets.scaling import Mixed, Scaling, asinh
from anomalyvae.nets.views import COMPARING, VIEW_SCORES, VIEWS, Views
from anomalyvae.nets.window_views import WindowViews

REACH = 10.0  # the encoder clips standardised cells to this: a far row must not steer the decoder
_EXPOSED = 0.25  # known outliers in a step, as a share of its rows
_ALARM = 0.95  # quantile of the losses of a batch that known outliers are pushed above
_MARGIN = 1.0  # nats per cell by which they are pushed above it
_PUSH = 0.1  # weight of the push: at 1, outliers that look like normal rows cost more than they teach


class Reconstruction(nn.Module):
    """An autoencoder with a learned precision per feature, trained with masked cells.

    In training, half of the rows hide a random share of their cells from the encoder; the loss counts all cells (masked
    autoencoding; for VAEs Ivanov et al. 2019, arXiv:1806.02382). So the network learns to predict a cell from the
    others, and a missing cell alone is no anomaly.

    ``architecture`` has

    - ``body`` (a name or a callable, see `anomalyvae.nets.bodies`), ``hidden``, ``input_shape``, ``latent_dim``;
    - ``masking``: largest share of a row's cells that is hidden;
    - ``trimming``: share of each batch, the rows with the largest losses, that is not learned;
    - ``likelihood`` of numbers: a name in `LIKELIHOODS`. With categories, numbers are Gaussian;
    - ``beta``: weight of the second term of a subclass;
    - ``criterion``: the name of the anomaly score.
    """

    scores: tuple[str, ...] = ("reconstruction", *COMPARING)
    generative = False  # whether codes follow the prior N(0, I), so that new rows can be sampled
    body: Any  # a module with encode and decode
    scaling: Scaling
    described: Described | None  # of windows that are compared as views
    memorised: Memory | Views | None
    outliers: Tensor | None  # known outliers, standardised; set during training
    networks = 1  # in a stack that trains together, see `anomalyvae.nets.training`; its rows are those of each in turn
    _codes = 1  # vectors of size latent_dim that the encoder gives per row

    def __init__(self, architecture: Mapping[str, Any], scaling: Scaling) -> None:
        super().__init__()
        self.input_shape: tuple[int, ...] = tuple(architecture["input_shape"])
        self.latent_dim: int = architecture["latent_dim"]
        self.masking: float = architecture["masking"]
        self.trimming: float = architecture["trimming"]
        self.beta: float = architecture["beta"]
        self.criterion: str = architecture["criterion"]
        self.scaling = scaling
        self.cells = math.prod(self.input_shape)
        body = architecture["body"]
        if isinstance(body, str):
            body = partial(BODIES[body], hidden=tuple(architecture["hidden"]))
        self.body = body(self.input_shape, self.latent_dim)
        with torch.no_grad():
            features = self.body.encode(torch.zeros(2, *self.input_shape))
        self.to_code = Linear(features.shape[1], self._codes * self.latent_dim)
        self.likelihood: Likelihood
        if isinstance(scaling, Mixed):
            self.likelihood = Mixture(scaling.numbers, scaling.categories, scaling.sizes)
            self.columns = len(scaling.cells)  # of the user; a category is many cells of s
        else:
            self.likelihood = LIKELIHOODS[architecture.get("likelihood", "gaussian")](self.cells)  # older ones lack it
            self.columns = self.cells
        self.missing = nn.Parameter(torch.zeros(self.cells))  # the encoder's input for a missing cell
        self.described = None
        self.memorised = None
        self.outliers = None

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self.missing.device

    def in_precision(self, dtype: torch.dtype) -> Self:
        """Convert all but the scaling: raw units need double precision."""
        scaling = self.scaling
        del self.scaling
        self.to(dtype)
        self.scaling = scaling
        return self

    # Training: standardised rows, NaN where a cell is missing

    def players(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that are optimised: one optimiser per name."""
        return {"model": list(self.parameters())}

    def turns(
        self, s: Tensor, weight: Tensor, warmth: float, generator: torch.Generator
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield the losses of one step; ``warmth`` rises from 0 to 1 over the first epochs."""
        loss = self._losses(s, self._hide(s, generator), warmth, generator)
        kept = self._learned(loss, warmth)
        mean = self.networks * (weight[kept] * loss[kept]).mean()  # the sum of the means of the networks
        yield "model", mean if self.outliers is None else mean + self._exposure(loss, warmth, generator)

    def held_out_terms(self, s: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The terms of the loss of held-out rows, each of shape ``(n,)``; they add up to the loss."""
        return {"reconstruction": self.row_nll(s, self.encode(s))}

    def encode(self, s: Tensor) -> Tensor:
        """Standardised rows ``(n, d)`` -> codes ``(n, latent_dim)``."""
        return self._codes_of(s)

    def decode(self, z: Tensor) -> Tensor:
        """Codes ``(n, latent_dim)`` -> the likelihood's means or logits of rows ``(n, d)``."""
        return self.body.decode(z).flatten(1)

    def row_nll(self, s: Tensor, z: Tensor) -> Tensor:
        """``-log p(s | z)`` over the observed cells, shape ``(n,)``."""
        return self.likelihood.row_nll(s, self.decode(z))

    def memory_features(self, s: Tensor) -> Tensor:
        """Row, code and residual side by side, shape ``(n, k)``: the space of the memory.

        Missing cells are imputed by the decoder before the row is encoded; their residual is zero. Residuals are in
        standard deviations, compressed by ``asinh``: one badly reconstructed cell must not hide all others. Of a window
        that is described, half its code and its description.
        """
        whole = self._whole(s)
        z = self.encode(whole)
        residual = self.likelihood.residual(s, self.decode(z))
        if self.described is not None:
            return torch.cat([CODE * z, self.described(whole, s.isnan(), residual)], dim=1)
        return torch.cat([whole, z, asinh(residual)], dim=1)

    @property
    def unbends(self) -> bool:
        """Whether the linear view compares rows without compressed tails, as in models of this version."""
        stored = self.memorised
        return isinstance(stored, Views) and self.described is None and not stored.is_earlier

    def _whole(self, s: Tensor) -> Tensor:
        """Rows with their missing cells imputed, ``(n, d)``."""
        missing = s.isnan()
        return torch.where(missing, self.likelihood.expected(self.decode(self.encode(s))), s) if missing.any() else s

    @property
    def learned_rows(self) -> Tensor | None:
        """Some standardised training rows ``(m, d)``, if the criterion compares with stored ones."""
        if self.described is not None:
            return self.described.examples
        return None if self.memorised is None else self.memorised.rows[:, : self.cells]

    @torch.no_grad()
    def remember(
        self,
        s: Tensor,
        marks: Marks,
        size: int,
        generator: torch.Generator,
        *,
        outliers: Tensor | None = None,
        like: "Reconstruction | None" = None,
    ) -> None:
        """Store at most ``size`` standardised rows as the memory; with ``trimming``, the `cleanest`.

        More rows are sampled by their count. Rows similar to known ``outliers`` are left out. Windows are compared as
        those of a network ``like`` this one: by the same signals, by their waveforms if those recur in it, and with its
        unit of residuals.
        """
        chosen, counts = sample_by_weight(marks.counts, round(size / share_of_cleanest(self.trimming)), generator)
        marks = marks.take(chosen)._replace(counts=counts).to(s.device)
        s_chosen = s[chosen.to(s.device)]
        if self.has_views and len(self.input_shape) == 2:
            known = None if like is None else like.described
            self.described = Described.of(self.input_shape, s, self.scaling, self._whole(s_chosen), known)
        u = self.memory_features(s_chosen)
        stored = torch.arange(len(u), device=u.device)
        if outliers is not None:
            unlike = unlike_outliers(u, self.memory_features(outliers))
            stored = stored[unlike] if unlike.sum() > 1 else stored
        if self.trimming:
            kept = marks.recurring[stored]
            kept[cleanest(u[stored], self.trimming)] = True  # a stored outlier would hide similar ones
            stored = stored[kept]
        u, marks = u[stored], marks.take(stored)
        if self.described is not None:
            columns, moving = self.described.columns(self.latent_dim), self.described.moving
            views = None if like is None else like.memorised
            self.memorised = WindowViews.of_windows(
                u, marks, generator, columns, moving, views if isinstance(views, WindowViews) else None
            )
        elif self.has_views:
            self.memorised = Views.of(u, self.scaling.unbent(s_chosen[stored]), marks, generator)
        else:
            self.memorised = Memory.of(u, marks.counts, marks.recurring)

    def _hide(self, s: Tensor, generator: torch.Generator) -> Tensor:
        if not self.masking:
            return s
        uniform = torch.rand(len(s), self.columns + 1, generator=generator, device=s.device, dtype=s.dtype)
        share = self.masking * (2 * uniform[:, :1] - 1)  # of each row's cells; below zero for half of the rows
        hidden = uniform[:, 1:] < share
        if isinstance(self.scaling, Mixed):
            hidden = hidden[:, self.scaling.source]  # a category is hidden as a whole
        return s.masked_fill(hidden, torch.nan)

    def _losses(self, s: Tensor, seen: Tensor, warmth: float, generator: torch.Generator) -> Tensor:
        """The loss of each row of a batch, of which the encoder sees ``seen``."""
        return self.row_nll(s, self.encode(seen))

    def _exposure(self, loss: Tensor, warmth: float, generator: torch.Generator) -> Tensor:
        """Mean hinge loss of known outliers below the alarm line of a batch plus a margin.

        Outlier exposure (Hendrycks et al. 2019, arXiv:1812.04606) with its margin for densities, one nat per dimension
        (section 4.4). The margin starts at a quantile of the losses of the batch instead of a single row's. Outliers
        beyond it have no gradient: anomalous rows have no common place to go.
        """
        assert self.outliers is not None  # noqa: S101
        count = math.ceil(_EXPOSED * len(loss))
        chosen = torch.randint(len(self.outliers), (count,), generator=generator, device=self.outliers.device)
        shown = self.outliers[chosen]
        line = loss.detach().quantile(_ALARM) + _MARGIN * self.columns
        return _PUSH * (line - self._losses(shown, shown, warmth, generator)).relu().sum() / len(shown)

    def _learned(self, loss: Tensor, warmth: float) -> Tensor | slice:
        """Rows of a batch that are learned: after the warm-up, all but the share ``trimming`` of the hardest."""
        if not self.trimming or warmth < 1:
            return slice(None)
        of_network = loss.view(self.networks, -1)
        learned = of_network.topk(math.ceil((1 - self.trimming) * of_network.shape[1]), largest=False).indices
        return (learned + of_network.shape[1] * torch.arange(self.networks, device=loss.device)[:, None]).flatten()

    def _codes_of(self, s: Tensor) -> Tensor:
        filled = self.missing if self.networks == 1 else self.missing.repeat_interleave(len(s) // self.networks, 0)
        seen = torch.where(s.isnan(), filled, s.clamp(-REACH, REACH))
        return self.to_code(self.body.encode(seen.view(-1, *self.input_shape)))

    # Scoring: rows in the user's units

    @property
    def compares(self) -> bool:
        """Whether the ``criterion`` compares rows with stored ones."""
        return self.criterion in COMPARING

    @property
    def has_views(self) -> bool:
        """Whether it compares them by views."""
        return self.criterion in VIEW_SCORES

    @property
    def rounding_error(self) -> float:
        """How far rounding may move a score that should be 0; only distances from the memory are so uncertain."""
        return self.memorised.rounding_error if isinstance(self.memorised, Memory) else 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Anomaly score of each row, shape ``(n,)``: the term that ``criterion`` names."""
        return getattr(self, self.criterion)(x)

    def reconstruction(self, x: Tensor) -> Tensor:
        """``-log p(x | z)`` at the code of each row, shape ``(n,)``."""
        s = self.scaling(x)
        return self.row_nll(s, self.encode(s))

    def features(self, x: Tensor) -> Tensor:
        """The `memory_features` of rows ``(n, d)`` in the user's units, shape ``(n, k)``."""
        return self.memory_features(self.scaling(x))

    def compared(self, x: Tensor) -> Tensor:
        """What views compare of rows ``(n, d)`` in the user's units: their `features`, ``(n, k)``.

        For the linear view, cells without compressed tails follow, NaN where one is missing.
        """
        s = self.scaling(x)
        u = self.memory_features(s)
        return torch.cat([u, self.scaling.unbent(s)], dim=1) if self.unbends else u

    def memory(self, x: Tensor) -> Tensor:
        """Distance of each row from the training rows in the memory, shape ``(n,)``."""
        assert isinstance(self.memorised, Memory)  # noqa: S101
        return self.memorised(self.features(x))

    @property
    def stored_views(self) -> Views:
        """The memory of a network that has views."""
        assert isinstance(self.memorised, Views)  # noqa: S101
        return self.memorised

    def novelty(self, x: Tensor) -> Tensor:
        """The views of each row together, shape ``(n,)``; see `anomalyvae.nets.views`."""
        return self.stored_views(self.compared(x))

    def views(self, x: Tensor) -> Tensor:
        """How unlike the training rows each row is in each of its views, in nats, shape ``(n, v)``."""
        return self.stored_views.nats(self.compared(x))

    def view_distances(self, x: Tensor) -> Tensor:
        """The distance of each row in each of its views, shape ``(n, v)``."""
        return self.stored_views.distances(self.compared(x))

    def judge_residuals(self, distances: Tensor) -> None:
        """Judge the residuals of windows by those of windows that were not learned, whose distances are ``(n,)``."""
        assert isinstance(self.memorised, WindowViews)  # noqa: S101
        self.memorised.judge_residuals(distances)

    def judge_residuals_as(self, other: "Reconstruction") -> None:
        """Judge the residuals of windows in the unit of another network."""
        if isinstance(self.memorised, WindowViews) and isinstance(other.memorised, WindowViews):
            self.memorised.judge_residuals_as(other.memorised)

    def residual_distance(self, x: Tensor) -> Tensor:
        """The distance of windows ``(n, d)`` from their reconstructions, in the view of that name, shape ``(n,)``."""
        assert isinstance(self.memorised, WindowViews)  # noqa: S101
        return self.memorised.residual_distance(self.features(x))

    def score_of_distances(self, distances: Tensor) -> Tensor:
        """The anomaly score of rows at these distances in each view ``(n, v)``, shape ``(n,)``."""
        nats = self.stored_views.in_nats(distances)
        return self.stored_views.together(nats) if self.criterion == "novelty" else nats[:, VIEWS.index(self.criterion)]

    def strongest_view(self, x: Tensor) -> Tensor:
        """The number of the view that is the surest, shape ``(n,)``."""
        return self.stored_views.strongest(self.compared(x))

    def view_shares(self, x: Tensor) -> Tensor:
        """The share of each column in each view, shape ``(n, v, d)``; shares of a row and view add up to 1.

        A column has the parts of its cells and of its residual. The code belongs to all columns and is left out. The
        samples of a window share equally what their signal has of shape and movements.
        """
        parts = self.stored_views.parts(self.compared(x))
        if self.described is not None:
            return _shares(self.described.spread(parts[:, :, self.latent_dim :]))
        cells, residuals = parts[:, :, : self.cells], parts[:, :, self.cells + self.latent_dim :]
        of_column = self.scaling.source if isinstance(self.scaling, Mixed) else torch.arange(self.columns)
        return _shares(residuals.index_add(2, of_column.to(parts.device), cells))

    def _view(self, number: int, x: Tensor) -> Tensor:
        return self.views(x)[:, number]

    near, crowd, linear = (partialmethod(_view, 0), partialmethod(_view, 1), partialmethod(_view, 2))  # as in `VIEWS`

    def feature_scores(self, x: Tensor) -> Tensor:
        """The part of each feature in ``reconstruction``, shape ``(n, d)``."""
        s = self.scaling(x)
        return self.likelihood.feature_nll(s, self.decode(self.encode(s)))

    def embed(self, x: Tensor) -> Tensor:
        """Codes ``(n, latent_dim)`` of rows."""
        return self.encode(self.scaling(x))

    def decode_units(self, z: Tensor) -> Tensor:
        """Codes -> the rows ``(n, d)`` that they decode to, in the user's units."""
        return self.scaling.inverse(self.likelihood.means(self.decode(z)))  # of categories the largest logit


def _shares(parts: Tensor) -> Tensor:
    """Parts of columns ``(n, v, d)`` as shares that add up to 1; equal ones where all parts are 0."""
    total = parts.sum(2, keepdim=True)
    return torch.where(total > 0, parts / total, 1 / parts.shape[2])
