"""Train a network on rows, and score rows that it was not trained on."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from anomalyvae.detector.categories import pool_again
from anomalyvae.detector.rows import Rows, cross_folds, hold_out
from anomalyvae.nets.elbo import AggregatePosterior, Elbo
from anomalyvae.nets.memory import Marks, worth_learning
from anomalyvae.nets.reconstruction import Reconstruction
from anomalyvae.nets.training import Schedule, TrainingRows, in_blocks, stackable, steps_per_epoch, train

MEMORY_SIZE = 2048  # training rows, windows or images that new ones are compared with
_MORE_ROWS = 4096  # of plain rows by views: an anomaly often lies in a gap between rows that fewer would not show
_FEWEST_STEPS, _STEPS, _MIN_EPOCHS = 100, 1000, 20  # of max_epochs="auto"; in between, a step per two rows
_BATCHES, _MIN_BATCH, _MAX_BATCH = 32, 128, 1024  # an epoch has so many batches, within these sizes
_WIDE = 128  # cells of a row, from which batches are half as large: a step then takes half the time
_WINDOW_STEPS = 500  # of described windows twice as wide or more
_LEARNING_RATE = 5e-3
_PATIENCE, _MIN_PATIENCE = 5, 10  # epochs without improvement: max_epochs / 5, at least 10
_FEWEST_HALVED = 4  # stored rows: half of fewer is one row, which has no neighbour
_ROUNDING = 1e-6  # of the largest score; the root of a rounded difference may be so large
_TIE = 1e-9  # relative: scores this close differ by rounding alone

Floats = NDArray[np.float64]
History = list[dict[str, float]]

epoch_callback: ContextVar[Callable[[dict[str, float]], None] | None] = ContextVar("epoch_callback", default=None)
"""Called with the record of each epoch of the network that is kept; it must return at once."""


@dataclass(frozen=True)
class FitResult:
    """A trained network in float64, and the scores that calibrate it."""

    network: Reconstruction
    history: History  # a record per epoch
    stop_reason: str  # "max_epochs", "patience" or "interrupted"
    calibration: Rows  # held out from the network that scored them; the training rows, where none could be held out
    scores: Floats  # of the calibration rows


@dataclass(frozen=True)
class Trainer:
    """Trains networks on rows, with parameters of `VAEOutlierDetector`."""

    new_network: Callable[[Rows], Reconstruction]  # untrained, with the scaling of these rows
    seed: int  # of the random numbers of training
    max_epochs: int | str = "auto"
    validation_fraction: float | str = "auto"
    outliers: Floats | None = None  # known ones, shape (k, d)
    verbose: bool = False
    cells: Sequence[int] = ()  # one-hot cells of each column, 0 for a number; empty without categories

    def fit(self, rows: Rows, rng: np.random.RandomState) -> FitResult:
        """Train a network, and score rows that were held out.

        Many rows are split. Few rows are all learned, and three more networks, each trained without a third of them,
        score the third that they did not see (cross-fitting). An interrupt in the first epoch is raised; later, the
        best weights so far are kept.

        Rows of categories and small counts equal each other by chance, as new rows will. So they are held out one by
        one. Eight networks then score an eighth each, as they know fewer levels if they lack more rows.
        """
        by_chance = rows.equal_by_chance(np.array(self.cells or [0] * rows.x.shape[1]) > 0)
        in_copies = by_chance and rows.group is None
        rows = rows.in_copies() if in_copies else rows
        fold = cross_folds(rows, rng, more=in_copies) if self.validation_fraction == "auto" else None
        result = self._fit_split(rows, rng, by_chance) if fold is None else self._fit_crossed(rows, fold, by_chance)
        return replace(result, scores=_tied(result.scores, result.calibration.is_recurring))

    def _fit_split(self, rows: Rows, rng: np.random.RandomState, by_chance: bool) -> FitResult:
        learned, stopping, calibration = hold_out(rows, self.validation_fraction, rng)
        learned = learned.merged() if by_chance else learned
        network = self.new_network(learned.balanced())
        history, reason, _ = self._train_and_store([network], [learned], stopping)
        if stopping is not None:
            _judge_residuals([network], [stopping.x])
        _warn_of_interrupt(history, reason)
        if calibration is None:
            calibration = learned.take(learned.is_reference)
            if self.validation_fraction != 0 and not calibration.is_recurring.all():
                groups = calibration.group
                few = f"{len(calibration)} distinct rows" if groups is None else f"{len(np.unique(groups))} groups"
                warnings.warn(
                    f"Got {few}, too few to hold some out from training with validation_fraction="
                    f"{self.validation_fraction!r}. So rows that were learned set the threshold, which is too low for "
                    "new ones. Leave validation_fraction at 'auto', with at least three distinct rows, or two groups.",
                    stacklevel=4,
                )
        elif self.cells:
            calibration = replace(calibration, x=pool_again(learned, calibration.x, self.cells)[1])
        scores = _scores(network, calibration.x)
        if rows.group is not None and len(learned) < len(rows) and network.has_views:
            # What it did not learn is known, too.
            self._remember(network, rows, like=network)
        return FitResult(network, history, reason, calibration, scores)

    def _fit_crossed(self, rows: Rows, fold: NDArray[np.int64], by_chance: bool) -> FitResult:
        parts = [rows, *(rows.without(fold == held_out) for held_out in range(int(fold.max()) + 1))]
        seen = rows.x.copy()  # each row as the network sees it that scores it
        if by_chance:
            parts[0] = rows.merged()
        for held_out in range(len(parts) - 1 if self.cells else 0):
            own = fold == held_out
            parts[1 + held_out], seen[own] = pool_again(parts[1 + held_out], seen[own], self.cells)
        networks = [self.new_network(part.balanced()) for part in parts]
        history, reason, complete = self._train_and_store(networks, parts)
        _warn_of_interrupt(history, reason)
        if complete:
            _judge_residuals(networks, [rows.x[:0], *(rows.x[fold == part] for part in range(len(networks) - 1))])
            scores = self._cross_scores(networks, parts, replace(rows, x=seen), fold)
            if by_chance:  # such rows nearly tie, and new ones equal to them get the score of the first network
                again = rows.has_copies
                if again.any():
                    scores[again] = np.maximum(scores[again], _scores(networks[0], rows.x[again]))
        else:
            scores = _scores(networks[0], rows.x)
            if reason != "interrupted":
                warnings.warn(
                    "The fit was interrupted while it set the threshold. The model is complete, but its threshold "
                    "comes from rows that it learned and is too low for new rows. Fit again for a valid threshold.",
                    stacklevel=4,
                )
        return FitResult(networks[0], history, reason, rows.take(rows.is_reference), scores[rows.is_reference])

    def _cross_scores(
        self, networks: Sequence[Reconstruction], parts: Sequence[Rows], rows: Rows, fold: NDArray[np.int64]
    ) -> Floats:
        """The anomaly score of each row in a fold by the network trained without that fold.

        Rows in no fold keep their scores by the first network, which learned them.

        Rows of a new group are not neighbours of the others, so the scores of groups stay as they are. Otherwise, the
        more rows are stored, the smaller are the distances from them. So distances from the rows that a fold's network
        stores are made as small as those from all rows.
        """
        first, inside = networks[0], fold >= 0
        if rows.group is not None or not first.compares:
            scores = _scores_of_folds(networks[1:], rows, fold)
        elif first.has_views:
            scores = self._view_scores_of_folds(networks, rows, fold)
        else:
            scores = self._memory_scores_of_folds(networks[1:], parts, rows, fold)
        if not inside.all():
            scores[~inside] = _scores(first, rows.x[~inside])
        return scores

    def _memory_scores_of_folds(
        self, folds: Sequence[Reconstruction], parts: Sequence[Rows], rows: Rows, fold: NDArray[np.int64]
    ) -> Floats:
        """The scores of rows in a fold, from their distances in the memory of the network trained without that fold.

        They are multiplied by ``(d / h) ** e``: d / h is the median ratio of the distances from this memory and from
        half of it, and e is the number of halvings between the memory of all rows and this one. (Distances between
        neighbours are a power of the number of rows: Levina & Bickel 2004.)
        """
        everything, *learned = parts
        scores = _scores_of_folds(folds, rows, fold)
        stored = min(len(learned[-1]), MEMORY_SIZE)
        if stored < _FEWEST_HALVED:
            return scores
        for network, part in zip(folds, learned, strict=True):
            self._remember(network, part, stored // 2)
        halved = _scores_of_folds(folds, rows, fold)
        usable = (halved > 0) & (scores > 0)
        if usable.any():
            halvings = math.log2(min(len(everything), MEMORY_SIZE) / stored)
            scores *= min(1.0, float(np.median(scores[usable] / halved[usable]))) ** halvings
        return scores

    @staticmethod
    def _view_scores_of_folds(networks: Sequence[Reconstruction], rows: Rows, fold: NDArray[np.int64]) -> Floats:
        """The scores of rows in a fold, from their distances in the views of the network trained without that fold.

        Views turn distances into nats, in units that come from the stored rows. An unusual row widens them: without
        it, it would look more unusual than a new row does. So the first network turns distances into nats, as it does
        for new rows. Before, they are multiplied by the ratio of the usual distances in the first network and in those
        of the folds, on average. These are distances of rows that were not selected, as the rows in the folds.
        """
        first, folds = networks[0], networks[1:]
        usual = torch.stack([network.stored_views.usual_unselected for network in folds]).mean(0)
        ratio = torch.where(usual > 0, first.stored_views.usual_unselected / usual, 1.0)
        scores = np.full(len(rows), np.nan)
        for held_out, network in enumerate(folds):
            own = fold == held_out
            x = torch.from_numpy(rows.x[own])
            distances = in_blocks(network, network.view_distances, x).to(ratio.device)
            scores[own] = first.score_of_distances(distances * ratio).cpu().numpy()
        return scores

    def _train_and_store(
        self, networks: Sequence[Reconstruction], parts: Sequence[Rows], stopping: Rows | None = None
    ) -> tuple[History, str, bool]:
        """Train networks, each on its part of the rows, for as many steps as the first, and fill their memories.

        The first is kept, with its codes to sample from. Returns its history, why its training ended, and whether the
        others were trained as long.
        """
        kept, learned = networks[0], []
        for network, part in zip(networks, parts, strict=True):
            network.outliers = None if self.outliers is None else _standardised(network, self.outliers).float()
            weight = torch.from_numpy(part.balanced().weight)
            s = _standardised(network, part.x)
            if network.trimming:
                recurring, generator = torch.from_numpy(part.is_recurring), torch.Generator().manual_seed(self.seed)
                chosen = worth_learning(s, weight, recurring, network.trimming, generator)
                s, weight = s[chosen], weight[chosen.cpu()]
            learned.append(TrainingRows(s.float(), (weight / weight.mean()).float().to(s.device)))
        held_out = None if stopping is None else _standardised(kept, stopping.x).float()
        history, reason, complete = self._train(networks, learned, held_out)
        for network, part in zip(networks, parts, strict=True):
            network.in_precision(torch.float64).eval()
            network.outliers = None
            if network.compares:  # those of the folds have the same views as the first
                self._remember(network, part, like=None if network is kept else kept)
        if isinstance(kept, Elbo):
            s, weight = _standardised(kept, parts[0].x), torch.from_numpy(parts[0].balanced().weight)
            kept.aggregate = AggregatePosterior.of(kept, s, weight, torch.Generator().manual_seed(self.seed))
        return history, reason, complete

    def _train(
        self, networks: Sequence[Reconstruction], learned: Sequence[TrainingRows], held_out: torch.Tensor | None
    ) -> tuple[History, str, bool]:
        """Train networks at once, where they can be stacked, or else in turn; returns what `_train_and_store` does."""
        kept, rows = networks[0], len(learned[0].rows)
        precise = not kept.compares or len(kept.players()) > 1  # a density, or a game of two players, needs more steps
        described = kept.has_views and len(kept.input_shape) == 2
        schedule = schedule_for(rows, self.max_epochs, precise, kept.cells, described)
        callback, generator = epoch_callback.get(), torch.Generator(kept.device).manual_seed(self.seed)
        at_once = len(networks) if self.outliers is None and stackable(kept) else 1
        outcomes: list[tuple[History, str]] = []
        for first in range(0, len(networks), at_once):
            title = "learning" if at_once == len(networks) else f"learning, {first + 1} of {len(networks)}"
            with _progress(self.verbose, schedule.max_epochs, title) as show, torch.enable_grad():

                def on_epoch(record: dict[str, float], show: Any = show, first: int = first) -> None:
                    show(record)
                    if callback is not None and first == 0:
                        callback(dict(record))

                now = slice(first, first + at_once)
                outcomes.append(train(networks[now], learned[now], held_out, schedule, generator, on_epoch, rows))
            if outcomes[-1][1] == "interrupted":
                break
        complete = outcomes[-1][1] != "interrupted" or at_once == len(networks)
        history, reason = outcomes[0]
        return history, reason, complete

    @torch.no_grad()
    def _remember(
        self, network: Reconstruction, learned: Rows, size: int | None = None, like: Reconstruction | None = None
    ) -> None:
        """Fill the memory of a network with at most ``size`` of the rows that it has learned."""
        if size is None:
            size = _MORE_ROWS if network.has_views and len(network.input_shape) == 1 else MEMORY_SIZE
        known = learned.by_content()
        s = _standardised(network, known.x)
        outliers = None if self.outliers is None else _standardised(network, self.outliers)
        start = np.zeros(len(known), dtype=np.int64) if known.start is None else known.start
        copies = np.full(len(known), np.inf) if known.copies is None else known.copies
        parts = (known.weight, copies, known.is_recurring, ~known.is_reference, start)
        marks = Marks(*map(torch.from_numpy, parts))
        generator = torch.Generator().manual_seed(self.seed)
        network.remember(s, marks, size, generator, outliers=outliers, like=like)


@torch.no_grad()
def _standardised(network: Reconstruction, x: Floats) -> torch.Tensor:
    """Rows ``(n, d)`` in the network's units, on its device."""
    return network.scaling(torch.from_numpy(x).to(network.device))


def rounded_up(network: Reconstruction, scores: Floats) -> Floats:
    """Calibration scores, moved up by what rounding may move a score.

    So rows that are equal, or would be without rounding, tie: on this machine, in another batch, and in an ONNX file.
    """
    size = np.maximum(np.abs(scores), np.median(np.abs(scores)))
    return scores + _TIE * size + network.rounding_error


def schedule_for(
    n: int, max_epochs: int | str = "auto", precise: bool = False, cells: int = 1, described: bool = False
) -> Schedule:
    """The schedule for ``n`` training rows of so many ``cells``.

    "auto" makes a step per two rows, from 100 (1,000 if it should be ``precise``) to 1,000, and at least 20 epochs.
    Wide windows that are ``described`` get fewer steps, down to 500: on new recordings, more steps reconstruct them no
    better.
    """
    batch = int(np.clip(n // _BATCHES, _MIN_BATCH, _MAX_BATCH)) // (2 if cells >= _WIDE else 1)
    most, min_epochs = _STEPS, _MIN_EPOCHS
    if described and not precise and cells > _WIDE:
        most, min_epochs = max(_WINDOW_STEPS, _STEPS * _WIDE // cells), 1
    steps = int(np.clip(n // 2, _STEPS if precise else _FEWEST_STEPS, most))
    epochs = max(min_epochs, -(-steps // steps_per_epoch(n, batch))) if max_epochs == "auto" else int(max_epochs)
    return Schedule(epochs, batch, _LEARNING_RATE, max(_MIN_PATIENCE, epochs // _PATIENCE))


def _judge_residuals(networks: Sequence[Reconstruction], unseen: Sequence[Floats]) -> None:
    """Judge the residuals of moving windows by those of rows ``unseen`` by each network, in the same unit for all."""
    described = networks[0].described
    if described is None or not described.moving:
        return
    pairs = zip(networks, map(torch.from_numpy, unseen), strict=True)
    distances = torch.cat([in_blocks(network, network.residual_distance, x) for network, x in pairs if len(x)])
    for network in networks:
        network.judge_residuals(distances.to(network.device))


def _scores(network: Reconstruction, x: Floats) -> Floats:
    return in_blocks(network, network, torch.from_numpy(x)).numpy()


def _scores_of_folds(folds: Sequence[Reconstruction], rows: Rows, fold: NDArray[np.int64]) -> Floats:
    """The score of each row by the network trained without its fold; NaN in no fold."""
    scores = np.full(len(rows), np.nan)
    for held_out, network in enumerate(folds):
        scores[fold == held_out] = _scores(network, rows.x[fold == held_out])
    return scores


def _tied(scores: Floats, recurring: NDArray[np.bool_]) -> Floats:
    """Give recurring rows whose scores are 0 up to rounding, as they are in the memory, the highest of these."""
    zero = recurring & (np.abs(scores) <= _ROUNDING * np.abs(scores).max())
    return np.where(zero, scores[zero].max(), scores) if zero.any() else scores


def _warn_of_interrupt(history: History, reason: str) -> None:
    if reason != "interrupted":
        return
    if not history:
        raise KeyboardInterrupt
    warnings.warn(
        f"Training was interrupted in epoch {len(history) + 1}. The best weights so far are kept, and the threshold is "
        "set with the rows at hand. Fit again to train to the end.",
        stacklevel=5,
    )


@contextmanager
def _progress(shown: bool, max_epochs: int, title: str) -> Iterator[Callable[[dict[str, float]], None]]:
    """A progress bar on stderr that shows the losses of each epoch, or nothing."""
    if not shown:
        yield lambda record: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(f"{title}: epoch", *columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=max_epochs)

        def on_epoch(record: dict[str, float]) -> None:
            held_out = f"  held out {record['held_out_loss']:.3f}" if "held_out_loss" in record else ""
            bar.update(task, advance=1, description=f"loss {record['loss']:.3f}{held_out}")

        yield on_epoch
