"""Bodies: the encoder and decoder layers around the latent code.

A body is any callable ``(input_shape, latent_dim) -> nn.Module`` whose module has

- ``encode(x)``: ``(n, *input_shape)`` -> ``(n, k)`` features, with any ``k``;
- ``decode(z)``: ``(n, latent_dim)`` -> ``(n, *input_shape)``, the mean of each cell.

The objective adds the linear layers that turn features into a code. There is no base class and no registry: pass your
own function as ``VAEOutlierDetector(body=...)``.

Convolutions are written as matrix products. Rows are scored in double precision, where these are faster than torch's
own layers; ONNX runtimes have no others in double; and each row gets the same arithmetic in any batch.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise, product

import torch
from torch import Tensor, nn
from torch.nn import functional

Body = Callable[[tuple[int, ...], int], nn.Module]


class Linear(nn.Linear):
    """A linear layer that can hold the weights of several networks, ``(networks, out, into)``.

    Rows are then those of each network in turn; see `anomalyvae.nets.training.stack`.
    """

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if self.weight.dim() == 2:
            odd = self.in_features % 2 if x.dtype == torch.float64 else 0  # in scoring
            # Rows of weights that do not begin at 16 bytes: kernels would then add up each row of x by its position.
            weight, x = (functional.pad(part, (0, odd)) if odd else part for part in (self.weight, x))
            return functional.linear(x, weight, self.bias)
        rows = x.reshape(len(self.weight), -1, self.in_features)
        return torch.baddbmm(self.bias[:, None], rows, self.weight.mT).view(*x.shape[:-1], self.out_features)


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
        _refuse_empty_layers(hidden)
        cells = math.prod(input_shape)
        inner = [*reversed(hidden)]
        self.encoder = nn.Sequential(nn.Flatten(), *_layers([cells, *hidden]))
        self.decoder = nn.Sequential(
            *_layers([latent_dim, *inner]),
            Linear([latent_dim, *inner][-1], cells),
            nn.Unflatten(1, input_shape),
        )

    def encode(self, x: Tensor) -> Tensor:
        """Rows ``(n, *input_shape)`` -> features ``(n, hidden[-1])``."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """Codes ``(n, latent_dim)`` -> means ``(n, *input_shape)``."""
        return self.decoder(z)


class Convolutional(nn.Module):
    """Convolutions that halve both sides of an image; the decoder mirrors them and doubles them.

    The same weights apply at every place. Any size is allowed: the encoder rounds half of an odd side up, and the
    decoder drops the last row or column that this adds. The decoder uses sub-pixel convolutions (Shi et al. 2016,
    arXiv:1609.05158): each place becomes two per axis.

    Parameters
    ----------
    input_shape : tuple of int
        ``(channels, height, width)``.
    latent_dim : int
    hidden : sequence of int
        Channels of the encoder's layers, from the row inwards; the decoder has them in reverse.
    """

    def __init__(self, input_shape: tuple[int, ...], latent_dim: int, hidden: Sequence[int] = (32, 64)) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise ValueError(
                f"Got input_shape={tuple(input_shape)}, expected (channels, height, width) for this body. "
                "Pass input_shape=(channels, height, width): their product is the number of features."
            )
        _refuse_empty_layers(hidden)
        sides: list[tuple[int, ...]] = [input_shape[1:]]
        for _ in hidden:
            sides.append(tuple(-(-side // 2) for side in sides[-1]))
        channels = [input_shape[0], *hidden]
        self.encoder = nn.Sequential(ChannelsLast())
        for into, out in pairwise(channels):
            self.encoder.extend([Halving(into, out), nn.Hardswish()])
        self.encoder.append(nn.Flatten())
        self.decoder = nn.Sequential(Linear(latent_dim, math.prod(sides[-1]) * channels[-1]))
        self.decoder.append(nn.Unflatten(1, (*sides[-1], channels[-1])))
        for (out, into), shape in zip(reversed([*pairwise(channels)]), reversed(sides[:-1]), strict=True):
            self.decoder.extend([nn.Hardswish(), Doubling(into, out, shape)])
        self.decoder.append(ChannelsFirst())

    def encode(self, x: Tensor) -> Tensor:
        """Rows ``(n, *input_shape)`` -> features ``(n, k)``: the channels of all remaining places."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """Codes ``(n, latent_dim)`` -> means ``(n, *input_shape)``."""
        return self.decoder(z)


class ChannelsLast(nn.Module):
    """``(n, channels, height, width)`` -> ``(n, height, width, channels)``."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.movedim(1, -1)


class ChannelsFirst(nn.Module):
    """``(n, height, width, channels)`` -> ``(n, channels, height, width)``."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.movedim(-1, 1)


class Halving(nn.Module):
    """A 3 x 3 convolution at every other place per axis: ``(n, *sides, into)`` -> ``(n, *halves, out)``."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.linear = Linear(9 * into, out)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.linear(neighbours(x, 2))


class Doubling(nn.Module):
    """A 3 x 3 convolution that makes two places per axis of one: ``(n, *halves, into)`` -> ``(n, *sides, out)``."""

    def __init__(self, into: int, out: int, sides: tuple[int, ...]) -> None:
        super().__init__()
        self.sides = sides
        self.linear = Linear(9 * into, 4 * out)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return doubled(self.linear(neighbours(x, 1)), self.sides)


def neighbours(x: Tensor, step: int) -> Tensor:
    """The channels of each place and its neighbours: ``(n, height, width, c)`` -> ``(n, rows, columns, 9 c)``.

    ``rows`` and ``columns`` are every ``step``-th of the sides; the edges are padded with zeros.
    """
    height, width = ((side - 1) // step * step + 1 for side in x.shape[1:3])  # as far as the last place
    x = functional.pad(x, (0, 0, 1, width + 1 - x.shape[2], 1, height + 1 - x.shape[1]))
    shifted = [
        x[:, row : row + height : step, column : column + width : step] for row, column in product(range(3), repeat=2)
    ]
    return torch.cat(shifted, dim=-1)


def doubled(x: Tensor, sides: tuple[int, ...]) -> Tensor:
    """Rearrange each place into two by two: ``(n, rows, columns, 4 c)`` -> ``(n, *sides, c)``."""
    n, rows, columns, channels = x.shape
    x = x.unflatten(-1, (2, 2, -1)).transpose(2, 3)  # (n, rows, 2, columns, 2, c)
    return x.reshape(n, 2 * rows, 2 * columns, channels // 4)[:, : sides[0], : sides[1]]


# Hard swish (Howard et al. 2019, arXiv:1905.02244, equation 8) detects as well as SiLU and costs a quarter in float64.
def _layers(widths: Sequence[int]) -> list[nn.Module]:
    return [layer for into, out in pairwise(widths) for layer in (Linear(into, out), nn.Hardswish())]


def _refuse_empty_layers(hidden: Sequence[int]) -> None:
    if not all(size >= 1 for size in hidden):
        raise ValueError(f"Got hidden={tuple(hidden)}, expected sizes of at least 1. Leave out the layer instead.")


BODIES: dict[str, Callable[..., nn.Module]] = {"mlp": MLP, "conv2d": Convolutional}
HIDDEN: dict[str, tuple[int, ...]] = {"mlp": (128, 64), "conv2d": (32, 64)}
"""``hidden="auto"`` of each body."""
