"""What a row is to the network: the encoder and the decoder around the latent code.

A body is any callable ``(input_shape, latent_dim) -> nn.Module`` whose module has

- ``encode(x)``: ``(n, *input_shape)`` -> ``(n, k)`` features, for a ``k`` of its own choice;
- ``decode(z)``: ``(n, latent_dim)`` -> ``(n, *input_shape)``, the mean of each cell.

The objective adds the linear layers that turn features into a code. There is nothing to inherit from and nothing
to register: pass a function of your own as ``VAEOutlierDetector(body=...)``.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

Body = Callable[[tuple[int, ...], int], nn.Module]


class MLP(nn.Module):
    """Fully connected layers, mirrored around the code.

    Parameters
    ----------
    input_shape : tuple of int
    latent_dim : int
    hidden : sequence of int
        Widths of the encoder's layers, from the row inwards; the decoder has them in reverse.
    """

    def __init__(self, input_shape: tuple[int, ...], latent_dim: int, hidden: Sequence[int] = (128, 64)) -> None:
        super().__init__()
        if not all(width >= 1 for width in hidden):
            raise ValueError(f"Got hidden={tuple(hidden)}, expected widths of at least 1. Leave a layer out instead.")
        cells = math.prod(input_shape)
        inner = [*reversed(hidden)]
        self.encoder = nn.Sequential(nn.Flatten(), *_layers([cells, *hidden]))
        self.decoder = nn.Sequential(
            *_layers([latent_dim, *inner]),
            nn.Linear([latent_dim, *inner][-1], cells),
            nn.Unflatten(1, input_shape),
        )

    def encode(self, x: Tensor) -> Tensor:
        """Rows ``(n, *input_shape)`` -> features ``(n, hidden[-1])``."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """Codes ``(n, latent_dim)`` -> means ``(n, *input_shape)``."""
        return self.decoder(z)


# Hard swish (Howard et al. 2019, arXiv:1905.02244, equation 8) detects as well as SiLU and costs a quarter in float64.
def _layers(widths: Sequence[int]) -> list[nn.Module]:
    return [layer for into, out in pairwise(widths) for layer in (nn.Linear(into, out), nn.Hardswish())]


BODIES: dict[str, Callable[..., nn.Module]] = {"mlp": MLP}
