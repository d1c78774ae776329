"""The only training loop, of one process or of several that train together."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass

import torch
from torch import Tensor, nn

from anomalyvae.nets.distributed import Team
from anomalyvae.nets.objectives import Reconstruction

_WARM_UP = 0.2  # share of training over which the KL term grows to its full weight
_FINAL_RATE = 0.02  # share of the learning rate that is left at the end
_GRADIENT_NORM = 5.0
_MIN_IMPROVEMENT = 1e-4  # nats per feature: less is noise
_HELD_OUT_BLOCK = 8192
_ONE_THREAD_WORK = 2e8  # multiply-adds of a step below which a second thread costs more than it brings


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn.

    Parameters
    ----------
    max_epochs : int
    batch_size : int
    learning_rate : float
        Of Adam at the start; it falls along half a cosine over ``max_epochs``.
    patience : int
        Epochs without a better held-out loss before training stops.
    max_time : float or None
        Seconds after which training stops at the end of a batch.
    """

    max_epochs: int
    batch_size: int
    learning_rate: float
    patience: int
    max_time: float | None = None


def train(
    objective: Reconstruction,
    rows: Tensor,
    weight: Tensor,
    held_out: Tensor | None,
    schedule: Schedule,
    generator: torch.Generator,
    on_epoch: Callable[[dict[str, float]], None] = lambda record: None,
) -> tuple[list[dict[str, float]], str]:
    """Fit an objective to standardised rows and leave it with the weights of its best epoch.

    Several processes (see `anomalyvae.nets.distributed`) call it with the same arguments; it leaves the same weights in
    all of them, and what it returns or raises is the same too.

    Parameters
    ----------
    objective : Reconstruction or a subclass
    rows : Tensor of shape (n, d)
        Standardised, on the device of the objective.
    weight : Tensor of shape (n,)
        Weight of each row, of mean 1.
    held_out : Tensor of shape (m, d) or None
        Rows that decide when to stop and which epoch was best. Without them all epochs are made.
    schedule : Schedule
    generator : torch.Generator
        The source of every random number, on the device of the objective.
    on_epoch : callable
        Called with each epoch's record.

    Returns
    -------
    history : list of dict
        Per epoch: ``epoch``, ``seconds`` so far, ``loss`` (training); with held-out rows, ``held_out_loss`` and its
        terms.
    reason : str
        Why training ended: ``"max_epochs"``, ``"patience"``, ``"max_time"`` or ``"interrupted"``.

    Raises
    ------
    FloatingPointError
        If the loss stops being finite.
    ValueError
        If processes that train together were given different rows or settings.
    ConnectionError
        If one of them has ended.
    """
    team = Team()
    size = sum(parameter.numel() for parameter in objective.parameters())
    team.refuse_unlike(rows, weight, size, *(value or 0.0 for value in astuple(schedule)))
    optimisers = {name: _Optimiser(parameters, team) for name, parameters in objective.players().items()}
    noise_seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    history: list[dict[str, float]] = []
    best, best_epoch, best_weights = math.inf, 0, _snapshot(objective)
    reason = "max_epochs"
    with threads(_threads_for(objective, min(schedule.batch_size, len(rows)))), team:
        try:
            for epoch in range(1, schedule.max_epochs + 1):
                loss = _epoch(objective, optimisers, rows, weight, epoch, schedule, team, generator)
                record = {"epoch": epoch, "seconds": team.elapsed(), "loss": loss}
                if held_out is not None:
                    record |= _held_out(objective, held_out, noise_seed, team)
                    if record["held_out_loss"] < best - _MIN_IMPROVEMENT * rows.shape[1]:
                        best, best_epoch, best_weights = record["held_out_loss"], epoch, _snapshot(objective)
                _refuse_divergence(record.values(), epoch, schedule)
                history.append(record)
                on_epoch(record)
                if schedule.max_time is not None and record["seconds"] >= schedule.max_time:
                    reason = "max_time"
                    break
                waited = epoch - max(best_epoch, _WARM_UP * schedule.max_epochs)
                if held_out is not None and waited >= schedule.patience:
                    reason = "patience"
                    break
        except KeyboardInterrupt:
            reason = "interrupted"
    if held_out is not None and history:
        objective.load_state_dict(best_weights)
    _refuse_divergence([float(p.detach().sum()) for p in objective.parameters()], len(history), schedule)
    return history, reason


class _Optimiser:
    """Adam with clipped gradients, on one long tensor of which a player's parameters become views.

    A step on many short tensors spends its time between them: on one, an epoch at a batch of 32 is a fifth faster.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], team: Team) -> None:
        self.team = team
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.flat = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in self.parameters]))
        team.start_alike(self.flat.detach())
        parts = self.flat.detach().split([parameter.numel() for parameter in self.parameters])
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.data = part.view_as(parameter)
        self.adam = torch.optim.Adam([self.flat], fused=True)

    def step(self, loss: Tensor, rate: float) -> None:
        """Move the parameters along the gradient of a loss, of which each process has its part."""
        gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        self.flat.grad = self.team.summed(torch.cat([part.flatten() for part in gradients]))
        nn.utils.clip_grad_norm_(self.flat, _GRADIENT_NORM)
        self.adam.param_groups[0]["lr"] = rate
        self.adam.step()


def _epoch(
    objective: Reconstruction,
    optimisers: dict[str, _Optimiser],
    rows: Tensor,
    weight: Tensor,
    epoch: int,
    schedule: Schedule,
    team: Team,
    generator: torch.Generator,
) -> float:
    """One pass over the rows in a new order; returns the mean loss of the last player."""
    order = torch.randperm(len(rows), generator=generator, device=rows.device)
    parts = parts_of(len(rows), schedule.batch_size)
    batches = zip(rows[order].tensor_split(parts), weight[order].tensor_split(parts), strict=True)
    total = torch.zeros((), device=rows.device)
    for step, (x, w) in enumerate(batches):
        progress = (epoch - 1 + step / parts) / schedule.max_epochs
        rate = schedule.learning_rate * _rate(progress)
        for player, loss in objective.turns(x, w, min(1.0, progress / _WARM_UP), generator):
            optimisers[player].step(loss, rate)
        total += loss.detach()
        if schedule.max_time is not None and team.elapsed() > schedule.max_time:
            break
    return float(team.summed(total[None])) / (step + 1)


def parts_of(n: int, batch_size: int) -> int:
    """Steps of an epoch. Parts have equal size: a last batch of one row would shake the weights like a full one."""
    return max(1, round(n / batch_size))


def _rate(progress: float) -> float:
    """Learning rate at a share of training, as a share of the first: half a cosine."""
    return _FINAL_RATE + (1 - _FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def _held_out(objective: Reconstruction, rows: Tensor, noise_seed: int, team: Team) -> dict[str, float]:
    """Mean loss and its terms. The noise is the same in every epoch, so that epochs can be compared."""
    generator = torch.Generator(rows.device).manual_seed(noise_seed)
    totals: dict[str, float] = {}
    for block in rows.split(_HELD_OUT_BLOCK):
        for name, term in objective.held_out_terms(block, generator).items():
            totals[name] = totals.get(name, 0.0) + float(term.sum(dtype=torch.float64))
    summed = team.summed(torch.tensor(list(totals.values()), dtype=torch.float64, device=rows.device)).tolist()
    terms = {f"held_out_{name}": total / len(rows) for name, total in zip(totals, summed, strict=True)}
    return {"held_out_loss": sum(terms.values()), **terms}


def _snapshot(objective: Reconstruction) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in objective.state_dict().items()}


def _refuse_divergence(values: Iterable[float], epoch: int, schedule: Schedule) -> None:
    wrong = [value for value in values if not math.isfinite(value)]
    if wrong:
        raise FloatingPointError(
            f"Got a loss or weight of {wrong[0]} in epoch {epoch}, expected finite numbers: training diverged. "
            f"Lower learning_rate (it is {schedule.learning_rate:g}), or use scaling='robust' or 'quantile' if a few "
            "rows are far larger than the rest."
        )


@contextlib.contextmanager
def threads(number: int) -> Iterator[int]:
    """Let torch compute on so many threads, and give the caller's number back afterwards; yields that number."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


def _threads_for(objective: Reconstruction, batch_size: int) -> int:
    """Small steps run faster on one thread than on two."""
    work = batch_size * sum(parameter.numel() for parameter in objective.parameters())
    return 1 if work < _ONE_THREAD_WORK else torch.get_num_threads()
