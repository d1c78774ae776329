"""A network applied to many rows, each with the same arithmetic wherever it stands."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from anomalyvae.nets.training import threads

_BLOCK = {"cpu": 1024, "cuda": 65536}  # rows at a time; on a CPU the working set stays in the cache
_PAD = 16  # matrix kernels take rows in groups: full groups give every row the same arithmetic, bit for bit


def in_blocks(network: nn.Module, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function of a network to rows, block by block, on the network's device.

    Parameters
    ----------
    network : Module
    function : callable
        Of ``(m, k)`` rows, such as the network itself or one of its methods.
    x : Tensor of shape (n, k)

    Returns
    -------
    Tensor of shape (n, ...)
        On the CPU. A row's result does not depend, by a single bit, on the other rows, their number or the threads:
        rows with missing cells, which take more steps, go in blocks of their own.
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
    with threads(1) as workers:  # a thread per block scales, threads within these small products do not
        if device.type != "cpu" or min(workers, len(blocks) // 4) < 2:
            return torch.cat([apply(block) for block in blocks])
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return torch.cat(list(pool.map(apply, blocks)))
