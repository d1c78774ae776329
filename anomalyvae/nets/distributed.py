"""Several processes that train one network together (data parallel), as torchrun starts them.

Once ``torch.distributed.init_process_group`` was called, all processes hold the same rows and draw the same random
numbers, and each computes its own part of every batch. What is summed over the parts is what one process would have
computed of the whole batch, but for the rounding of sums. In a process alone, nothing here does anything.
"""

import signal
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

_SAME = 1e-6  # relative: processes standardise the same rows to within rounding, and other rows to something else


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process speaks for all."""
    return world_size() == 1 or dist.get_rank() == 0


def from_first(value: T) -> T:
    """The first process's value, in every process."""
    if world_size() == 1:
        return value
    box = [value]
    _with_all(dist.broadcast_object_list, box, src=0)
    return box[0]


def own(batch: Tensor) -> Tensor:
    """The rows of a batch that are this process's part; none, where there are fewer rows than processes."""
    return batch if world_size() == 1 else batch.tensor_split(world_size())[dist.get_rank()]


def smallest(values: Tensor, k: int, n: int) -> Tensor:
    """Of the ``k`` smallest values of a batch those that are this process's own, as places in its part.

    Parameters
    ----------
    values : Tensor
        Of this process's part.
    k, n : int
        How many are sought, among how many in the whole batch.
    """
    if world_size() == 1:
        return values.topk(k, largest=False).indices
    place = own(torch.arange(n, device=values.device))
    return torch.isin(place, gathered(values, n).topk(k, largest=False).indices).nonzero()[:, 0]


def gathered(values: Tensor, n: int) -> Tensor:
    """The values of a whole batch of ``n`` rows, without gradient, from each process's own."""
    if world_size() == 1:
        return values.detach()
    whole = values.new_zeros(n)
    whole[own(torch.arange(n, device=values.device))] = values.detach()
    _with_all(dist.all_reduce, whole)
    return whole


def _with_all(operation: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Do what every process does at the same time."""
    try:
        operation(*arguments, **options)
    except RuntimeError as error:
        raise ConnectionError(
            "Got no answer from the processes that train along, expected one from each. One of them has ended or is "
            f"stuck: see what it said, and start all again. (torch.distributed says: {error})"
        ) from error


class Team:
    """The processes of one training: they share their sums, the first one's clock, and an interrupt of any.

    Inside ``with``, SIGINT is held back until the next sum; then all processes raise KeyboardInterrupt, after the same
    step. A process that raised it by itself would leave the others waiting for its next part.
    """

    def __init__(self) -> None:
        self._alone = world_size() == 1
        self._started = time.monotonic()
        self._shared_elapsed = 0.0
        self._interrupted = False
        self._holds_back = False

    def __enter__(self) -> Self:
        raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if not self._alone and raises and threading.current_thread() is threading.main_thread():
            self._holds_back = True
            signal.signal(signal.SIGINT, self._note_interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._holds_back:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _note_interrupt(self, number: int, frame: Any) -> None:
        self._interrupted = True

    def elapsed(self) -> float:
        """Seconds since the team was made; with several processes, by the first one's clock at the last sum."""
        return time.monotonic() - self._started if self._alone else self._shared_elapsed

    def summed(self, part: Tensor) -> Tensor:
        """The sum over processes of a tensor of shape ``(k,)``, the same in all, bit for bit.

        Clock and interrupt travel in the same message: small ones cost their latency alone.

        Raises
        ------
        KeyboardInterrupt
            In all processes, if one of them was interrupted.
        """
        if self._alone:
            return part
        aside = [time.monotonic() - self._started if is_first() else 0.0, float(self._interrupted)]
        message = torch.cat([part, part.new_tensor(aside)])
        _with_all(dist.all_reduce, message)
        self._shared_elapsed, interrupted = message[-2:].tolist()
        if interrupted:
            raise KeyboardInterrupt
        return message[:-2]

    def start_alike(self, parameters: Tensor) -> None:
        """Overwrite parameters with those of the first process."""
        if not self._alone:
            _with_all(dist.broadcast, parameters, src=0)

    def refuse_unlike(self, rows: Tensor, weight: Tensor, *settings: float) -> None:
        """Refuse to train where processes differ in their rows or settings: their parts would be of no one batch.

        Raises
        ------
        ValueError
            In all processes, if one of them differs from the first.
        """
        if self._alone:
            return
        size = (weight * rows.abs().nansum(1, dtype=torch.float64)).sum()
        mine = torch.tensor([*rows.shape, float(size), *settings], dtype=torch.float64)
        firsts = from_first(mine)
        unlike = len(mine) != len(firsts) or not torch.allclose(mine, firsts, rtol=_SAME, atol=0)
        if self.summed(rows.new_tensor([float(unlike)])).any():
            raise ValueError(
                f"Got rows or settings that differ between the {world_size()} processes that train together (here "
                f"{len(rows)} rows of {rows.shape[1]} cells), expected the same in each. Pass all rows to fit in every "
                "process: it divides each batch, so X must not be divided."
            )
