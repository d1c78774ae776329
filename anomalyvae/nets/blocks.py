"""Apply a network to many rows, with the same arithmetic for each row in any batch."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from anomalyvae.nets.training import threads

_BLOCK = {"cpu": 1024, "cuda": 65536}  # rows at a time; on a CPU they fit the cache
_PAD = 16  # matrix kernels take rows in groups; full groups give every row the same arithmetic, bit for bit


def in_blocks(network: nn.Module, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function of a network to rows, block by block, on the network's device.

    Parameters
    ----------
    network : Module
    function : callable
        Takes ``(m, k)`` rows: the network itself or one of its methods.
    x : Tensor of shape (n, k)

    Returns
    -------
    Tensor of shape (n, ...)
        On the CPU. A row's result is bit-equal whatever the other rows, their number or the threads. Rows with missing
        cells take more steps, so they go into separate blocks.
    """
    holed = x.isnan().any(1)
    if holed.any() and not holed.all():
        order = holed.long().argsort(stable=True)
        parts = [in_blocks(network, function, part) for part in x[order].split([int((~holed).sum()), int(holed.sum())])]
        return torch.cat(parts)[order.argsort()]
    device = next(network.parameters()).device

    @torch.no_grad()
    def apply(block: Tensor) -> Tensor:
        missing = -len(block) % _PAD
        padded = torch.cat([block, block[:1].expand(missing, -1)]) if missing else block
        return function(padded.to(device))[: len(block)].cpu()

    blocks = x.split(_BLOCK[device.type])
    with threads(1) as workers:  # one thread per block scales; threads within these small products do not
        if device.type != "cpu" or min(workers, len(blocks) // 4) < 2:
            return torch.cat([apply(block) for block in blocks])
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return torch.cat(list(pool.map(apply, blocks)))
