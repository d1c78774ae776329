"""The only training loop, and the application of a network to many rows."""

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from anomalyvae.nets.bodies import MLP, Convolutional
from anomalyvae.nets.elbo import Elbo
from anomalyvae.nets.reconstruction import Reconstruction

_WARM_UP = 0.2  # share of training over which the KL term grows to its full weight
_FINAL_RATE = 0.02  # of the learning rate, at the end
_GRADIENT_NORM = 5.0
_MIN_IMPROVEMENT = 1e-4  # nats per feature; smaller ones are noise
_HELD_OUT_BLOCK = 8192
_ONE_THREAD_WORK = 2e8  # multiply-adds of a step; below, one thread is faster than two
_BLOCK = {"cpu": 1024, "cuda": 65536}  # rows at a time; on a CPU they fit the cache,
_LEAST_BLOCK, _BLOCK_CELLS = 256, 1 << 18  # also wide ones, of which a block has fewer
_PAD = 16  # matrix kernels take rows in groups; full groups give every row the same arithmetic, bit for bit


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    max_epochs: int
    batch_size: int
    learning_rate: float  # of Adam at the start; it falls along half a cosine over ``max_epochs``
    patience: int  # epochs without a better held-out loss before training stops


class TrainingRows(NamedTuple):
    """The rows that one network learns."""

    rows: Tensor  # (n, d), standardised, on the device of the network
    weight: Tensor  # (n,), of mean 1


def train(
    networks: Sequence[Reconstruction],
    learned: Sequence[TrainingRows],
    held_out: Tensor | None,
    schedule: Schedule,
    generator: torch.Generator,
    on_epoch: Callable[[dict[str, float]], None] = lambda record: None,
    rows_per_epoch: int | None = None,
) -> tuple[list[dict[str, float]], str]:
    """Fit networks to their rows, all of them in the same steps, and leave them with the weights of the best epoch.

    Small matrices cost a processor more to start than to multiply: four networks in one stack of matrices take half the
    time of four in turn.

    Parameters
    ----------
    networks : sequence of Reconstruction
        One, or several for which `stackable` holds.
    learned : sequence of TrainingRows
        The rows of each network.
    held_out : Tensor of shape (m, d) or None
        Rows that decide when to stop and which epoch was best, for a single network. Without them, training makes all
        epochs.
    schedule : Schedule
    generator : torch.Generator
        The source of every random number, on the device of the networks.
    on_epoch : callable
        Receives each epoch's record.
    rows_per_epoch : int, optional
        How many rows each network learns in an epoch; all rows of the first by default.

    Returns
    -------
    history : list of dict
        Per epoch: ``epoch``, ``seconds`` so far, ``loss`` (training, mean over the networks); with held-out rows,
        ``held_out_loss`` and its terms.
    reason : str
        Why training ended: ``"max_epochs"``, ``"patience"`` or ``"interrupted"``.

    Raises
    ------
    FloatingPointError
        If the loss stops being finite.
    """
    started = time.monotonic()
    stacked = stack(networks)
    columns, n = learned[0].rows.shape[1], rows_per_epoch or len(learned[0].rows)
    orders = [_Order(len(part.rows), generator, part.rows.device) for part in learned]
    optimisers = {name: _Optimiser(parameters, len(networks)) for name, parameters in stacked.players().items()}
    noise_seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    history: list[dict[str, float]] = []
    best, best_epoch, best_weights = math.inf, 0, _snapshot(stacked)
    reason = "max_epochs"
    with threads(_threads_for(stacked, min(schedule.batch_size, n))):
        try:
            for epoch in range(1, schedule.max_epochs + 1):
                loss = _epoch(stacked, optimisers, learned, orders, n, epoch, schedule, generator)
                record = {"epoch": epoch, "seconds": time.monotonic() - started, "loss": loss}
                if held_out is not None:
                    record |= _held_out(stacked, held_out, noise_seed)
                    if record["held_out_loss"] < best - _MIN_IMPROVEMENT * columns:
                        best, best_epoch, best_weights = record["held_out_loss"], epoch, _snapshot(stacked)
                _refuse_divergence(record.values(), epoch)
                history.append(record)
                on_epoch(record)
                waited = epoch - max(best_epoch, _WARM_UP * schedule.max_epochs)
                if held_out is not None and waited >= schedule.patience:
                    reason = "patience"
                    break
        except KeyboardInterrupt:
            reason = "interrupted"
    if held_out is not None and history:
        stacked.load_state_dict(best_weights)
    _refuse_divergence([float(p.detach().sum()) for p in stacked.parameters()], len(history))
    if len(networks) > 1:
        _unstack(stacked, networks)
    return history, reason


def stackable(network: Reconstruction) -> bool:
    """Whether networks like this one can train in one stack of matrices."""
    return type(network) in (Reconstruction, Elbo) and type(network.body) in (MLP, Convolutional)


def stack(networks: Sequence[Reconstruction]) -> Reconstruction:
    """One network that holds the weights of several alike, each parameter of shape ``(networks, ...)``.

    It takes the rows of the first, then as many of the second, and so on. A single network is returned as it is.
    """
    if len(networks) == 1:
        return networks[0]
    stacked = copy.deepcopy(networks[0])
    stacked.networks = len(networks)
    for name, module in stacked.named_modules():
        for key in list(module._parameters):
            same = [network.get_submodule(name).get_parameter(key).detach() for network in networks]
            module._parameters[key] = nn.Parameter(torch.stack(same))
    return stacked


@torch.no_grad()
def _unstack(stacked: Reconstruction, networks: Sequence[Reconstruction]) -> None:
    trained = dict(stacked.named_parameters())
    for i, network in enumerate(networks):
        for name, parameter in network.named_parameters():
            parameter.data = trained[name][i].clone()


class _Order:
    """The rows of a network in random order, each once before any comes again."""

    def __init__(self, n: int, generator: torch.Generator, device: torch.device) -> None:
        self.n, self.generator, self.device = n, generator, device
        self.rest = torch.empty(0, dtype=torch.long, device=device)

    def take(self, count: int) -> Tensor:
        """The next so many indices."""
        while len(self.rest) < count:
            again = torch.randperm(self.n, generator=self.generator, device=self.device)
            self.rest = torch.cat([self.rest, again])
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken


class _Optimiser:
    """Adam with clipped gradients on one flat tensor of a row per network; the parameters become views of it.

    An epoch at a batch of 32 is a fifth faster than with one tensor per parameter. The class `torch.optim.Adam` would
    first import torch's compiler, which takes longer than a small fit.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], networks: int) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        each = [parameter.detach().reshape(networks, -1) for parameter in self.parameters]
        self.flat = torch.cat(each, dim=1)
        self.gradient = torch.empty_like(self.flat)
        self.mean, self.square = torch.zeros_like(self.flat), torch.zeros_like(self.flat)  # of past gradients
        self.steps = torch.zeros((), dtype=torch.float32, device=self.flat.device)
        flat, gradient = (part.split([one.shape[1] for one in each], dim=1) for part in (self.flat, self.gradient))
        for parameter, part in zip(self.parameters, flat, strict=True):
            parameter.data = part.view_as(parameter)
        self.gradients = [part.view_as(one) for one, part in zip(self.parameters, gradient, strict=True)]

    def step(self, loss: Tensor, rate: float) -> None:
        """Move the parameters along the gradient of a loss."""
        torch._foreach_copy_(self.gradients, torch.autograd.grad(loss, self.parameters, materialize_grads=True))
        norm = torch.linalg.vector_norm(self.gradient, dim=1, keepdim=True)
        self.gradient.mul_((_GRADIENT_NORM / (norm + 1e-6)).clamp(max=1.0))
        adam(
            [self.flat], [self.gradient], [self.mean], [self.square], [], [self.steps], fused=True, lr=rate,
            beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, amsgrad=False, maximize=False,
        )  # fmt: skip


def _epoch(
    network: Reconstruction,
    optimisers: dict[str, _Optimiser],
    learned: Sequence[TrainingRows],
    orders: Sequence[_Order],
    n: int,
    epoch: int,
    schedule: Schedule,
    generator: torch.Generator,
) -> float:
    """Learn ``n`` rows with each network; returns the mean loss of the last player."""
    steps = steps_per_epoch(n, schedule.batch_size)
    taken = [order.take(n) for order in orders]
    rows = torch.stack([part.rows[chosen] for part, chosen in zip(learned, taken, strict=True)])
    weight = torch.stack([part.weight[chosen] for part, chosen in zip(learned, taken, strict=True)])
    batches = zip(rows.tensor_split(steps, dim=1), weight.tensor_split(steps, dim=1), strict=True)
    total = torch.zeros((), device=rows.device)
    for step, (x, w) in enumerate(batches):
        progress = (epoch - 1 + step / steps) / schedule.max_epochs
        rate = schedule.learning_rate * _rate(progress)
        for player, loss in network.turns(x.flatten(0, 1), w.flatten(), min(1.0, progress / _WARM_UP), generator):
            optimisers[player].step(loss, rate)
        total += loss.detach()
    return float(total) / steps / len(learned)


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Steps of an epoch, of equal size: a last batch of one row would change the weights as much as a full one."""
    return max(1, round(n / batch_size))


def _rate(progress: float) -> float:
    """Learning rate after this share of training, relative to the first: half a cosine."""
    return _FINAL_RATE + (1 - _FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def _held_out(network: Reconstruction, rows: Tensor, noise_seed: int) -> dict[str, float]:
    """Mean loss and its terms. The noise is the same in every epoch, so that epochs are comparable."""
    generator = torch.Generator(rows.device).manual_seed(noise_seed)
    totals: dict[str, float] = {}
    for block in rows.split(_HELD_OUT_BLOCK):
        for name, term in network.held_out_terms(block, generator).items():
            totals[name] = totals.get(name, 0.0) + float(term.sum(dtype=torch.float64))
    terms = {f"held_out_{name}": total / len(rows) for name, total in totals.items()}
    return {"held_out_loss": sum(terms.values()), **terms}


def _snapshot(network: Reconstruction) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _refuse_divergence(values: Iterable[float], epoch: int) -> None:
    wrong = [value for value in values if not math.isfinite(value)]
    if wrong:
        raise FloatingPointError(
            f"Got a loss or weight of {wrong[0]} in epoch {epoch}, expected finite numbers: training diverged. Use "
            "scaling='robust' or 'quantile' if a few rows are far larger than the rest."
        )


@contextlib.contextmanager
def threads(number: int) -> Iterator[int]:
    """Set torch's number of threads and restore the caller's afterwards; yields the caller's."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


def _threads_for(network: Reconstruction, batch_size: int) -> int:
    """Threads for a step: one for small steps."""
    work = batch_size * sum(parameter.numel() for parameter in network.parameters())
    return 1 if work < _ONE_THREAD_WORK else torch.get_num_threads()


def in_blocks(network: Reconstruction, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a network or one of its methods to rows ``(n, k)``, block by block; the result is on the CPU.

    A row's result is bit-equal whatever the other rows, their number or the threads. Rows with missing cells take more
    steps, so they go into separate blocks.
    """
    holed = x.isnan().any(1)
    if holed.any() and not holed.all():
        order = holed.long().argsort(stable=True)
        parts = [in_blocks(network, function, part) for part in x[order].split([int((~holed).sum()), int(holed.sum())])]
        return torch.cat(parts)[order.argsort()]
    device = network.device

    @torch.no_grad()
    def apply(block: Tensor) -> Tensor:
        missing = -len(block) % _PAD
        padded = torch.cat([block, block[:1].expand(missing, -1)]) if missing else block
        return function(padded.to(device))[: len(block)].cpu()

    size = _BLOCK[device.type]
    if device.type == "cpu":
        size = min(size, max(_LEAST_BLOCK, _BLOCK_CELLS // x.shape[1] // _PAD * _PAD))
    blocks = x.split(size)
    with threads(1) as workers:  # one thread per block scales; threads within these small products do not
        if device.type != "cpu" or min(workers, len(blocks) // 4) < 2:
            return torch.cat([apply(block) for block in blocks])
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return torch.cat(list(pool.map(apply, blocks)))
