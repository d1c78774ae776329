"""How a fit is conducted: which rows are learned, for how long, and which rows say how new ones score."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from anomalyvae.detector.rows import Rows, cross_folds, hold_out
from anomalyvae.nets.blocks import in_blocks
from anomalyvae.nets.distributed import from_first, is_first
from anomalyvae.nets.generation import AggregatePosterior
from anomalyvae.nets.objectives import Elbo, Reconstruction
from anomalyvae.nets.training import Schedule, parts_of, train

_STEPS, _MIN_EPOCHS = 1000, 20  # of max_epochs="auto"
_VALIDATION_FRACTION = 0.2  # of validation_fraction="auto", where it splits

Floats = NDArray[np.float64]
History = list[dict[str, float]]

listener: ContextVar[Callable[[dict[str, float]], None] | None] = ContextVar("listener", default=None)
"""Who is told of each epoch of a fit as it ends, of the network that is kept alone; it must return at once."""


@dataclass(frozen=True)
class Fit:
    """What a fit leaves behind.

    Parameters
    ----------
    network : Reconstruction
        In float64, ready to score.
    history : list of dict
        A record per epoch.
    stop_reason : str
    unlearned : Rows
        Rows that stand for new ones: not learned by the network that gave their scores. Where there was none such,
        those that were learned.
    scores : ndarray of shape (len(unlearned),)
        Their anomaly scores.
    """

    network: Reconstruction
    history: History
    stop_reason: str
    unlearned: Rows
    scores: Floats


@dataclass(frozen=True)
class Conductor:
    """Fits networks to rows.

    Parameters
    ----------
    new_network : callable
        ``(rows) -> Reconstruction``: an untrained network around the scaling of these rows.
    max_epochs, batch_size, patience, validation_fraction : number or "auto"
    learning_rate, max_time, memory_size, verbose
        As `VAEOutlierDetector` describes them.
    splits : bool
        Whether rows are held out, however few there are.
    seed : int
    outliers : ndarray of shape (k, d), optional
        Rows that are known to be strange: to be told apart, never learned.
    """

    new_network: Callable[[Rows], Reconstruction]
    max_epochs: int | str
    batch_size: int | str
    learning_rate: float
    validation_fraction: float | str
    patience: int | str
    max_time: float | None
    memory_size: int
    verbose: bool
    splits: bool
    seed: int
    outliers: Floats | None = None

    def fit(self, rows: Rows, rng: np.random.RandomState, resumed: Reconstruction | None = None) -> Fit:
        """Learn the rows and score such as were not learned.

        Few rows are all learned, and three more networks, each without a third of them, say how unlearned rows score
        (cross-fitting); many are split.

        Parameters
        ----------
        rows : Rows
        rng : RandomState
            Draws the rows that are held out.
        resumed : Reconstruction, optional
            A network to go on with in place of a new one.

        Raises
        ------
        FloatingPointError
            If training diverges.
        KeyboardInterrupt
            If interrupted in the first epoch; later, what has been learned is kept.
        """
        rng = from_first(rng)
        fold = None if self.splits else cross_folds(rows, rng)
        if fold is None:
            share = _VALIDATION_FRACTION if self.validation_fraction == "auto" else float(self.validation_fraction)
            learned, stopping, calibration = hold_out(rows, share, rng)
            network = resumed if resumed is not None else self.new_network(learned)
            history, reason = self._learn(network, learned, stopping, "learning")
            _tell_of_interrupt(history, reason)
            unlearned = rows.take(rows.drawn()) if calibration is None else calibration
            return Fit(network, history, reason, unlearned, _scores(network, unlearned))
        network = self.new_network(rows)
        history, reason = self._learn(network, rows, None, f"learning, 1 of {fold.max() + 2}")
        _tell_of_interrupt(history, reason)
        scores = None if reason == "interrupted" else self._cross_scores(rows, fold)
        told, drawn = _scores(network, rows) if scores is None else scores, rows.drawn()
        return Fit(network, history, reason, rows.take(drawn), told[drawn])

    def _cross_scores(self, rows: Rows, fold: NDArray[np.int64]) -> Floats | None:
        """The anomaly score of each row in a fold by a network that learned without it; None if interrupted."""
        scores = np.empty(len(rows))
        parts = int(fold.max()) + 1
        for part in range(parts):
            learned = rows.take(fold != part)
            network = self.new_network(learned)
            _, reason = self._learn(network, learned, None, f"threshold, {part + 2} of {parts + 1}", len(rows))
            if reason == "interrupted":
                warnings.warn(
                    "The fit was interrupted while it set the threshold; the model is whole, and its threshold is set "
                    "with the rows that it learned, too low for new ones. Fit again for one that holds.",
                    stacklevel=5,
                )
                return None
            scores[fold == part] = _scores(network, rows.take(fold == part))
        return scores

    def _learn(
        self, network: Reconstruction, learned: Rows, stopping: Rows | None, title: str, like: int = 0
    ) -> tuple[History, str]:
        """Train a network, let it remember, and leave it ready to score."""
        device = next(network.parameters()).device

        @torch.no_grad()
        def standardised(x: Floats) -> torch.Tensor:
            return network.scaling(torch.from_numpy(x).to(device))

        s, seed = standardised(learned.x), from_first(self.seed)
        strange = None if self.outliers is None else standardised(self.outliers)
        network.outliers = None if strange is None else strange.float()
        schedule = self._schedule(len(learned), like or len(learned))
        heard = None if like else listener.get()
        with _progress(self.verbose and is_first(), schedule.max_epochs, title) as show, torch.enable_grad():

            def on_epoch(record: dict[str, float]) -> None:
                show(record)
                if heard is not None:
                    heard(dict(record))

            outcome = train(
                network,
                s.float(),
                torch.from_numpy(learned.weight / learned.weight.mean()).float().to(device),
                None if stopping is None else standardised(stopping.x).float(),
                schedule,
                torch.Generator(device).manual_seed(seed),
                on_epoch,
            )
        network.in_precision(torch.float64).eval()
        network.outliers = None
        weight = torch.from_numpy(learned.weight)
        if network.criterion == "memory":
            network.remember(s, self.memory_size, torch.Generator().manual_seed(seed), strange, weight)
        if isinstance(network, Elbo) and not like:  # a network that only sets the threshold draws no rows
            network.aggregate = AggregatePosterior.of(network, s, weight, torch.Generator().manual_seed(seed))
        return outcome

    def _schedule(self, n: int, like: int) -> Schedule:
        """How long to learn from n rows: as many steps as from ``like`` rows, so that their scores can be compared."""
        batch = int(np.clip(like // 32, 128, 1024)) if self.batch_size == "auto" else int(self.batch_size)
        epochs = max(_MIN_EPOCHS, -(-_STEPS // parts_of(like, batch)))
        if self.max_epochs != "auto":
            epochs = int(self.max_epochs)
        epochs = -(-epochs * parts_of(like, batch) // parts_of(n, batch))
        patience = max(10, epochs // 5) if self.patience == "auto" else int(self.patience)
        return Schedule(epochs, batch, self.learning_rate, patience, self.max_time)


def _scores(network: Reconstruction, rows: Rows) -> Floats:
    return in_blocks(network, network, torch.from_numpy(rows.x)).numpy()


def _tell_of_interrupt(history: History, reason: str) -> None:
    if reason != "interrupted":
        return
    if not history:
        raise KeyboardInterrupt
    warnings.warn(
        f"Training was interrupted in epoch {len(history) + 1}; the best weights so far are kept, and the "
        "threshold is set with the rows at hand.",
        stacklevel=5,
    )


@contextmanager
def _progress(shown: bool, max_epochs: int, title: str) -> Iterator[Callable[[dict[str, float]], None]]:
    """A progress bar that shows the losses of each epoch, or nothing."""
    if not shown:
        yield lambda record: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        f"{title}: epoch",
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns) as bar:
        task = bar.add_task("", total=max_epochs)

        def on_epoch(record: dict[str, float]) -> None:
            held_out = f"  held out {record['held_out_loss']:.3f}" if "held_out_loss" in record else ""
            text = f"loss {record['loss']:.3f}{held_out}"
            bar.update(task, advance=1, description=text)

        yield on_epoch
