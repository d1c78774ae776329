"""Bodies: the encoder and decoder layers around the latent code.

A body is any callable ``(input_shape, latent_dim) -> nn.Module`` whose module has

- ``encode(x)``: ``(n, *input_shape)`` -> ``(n, k)`` features, with any ``k``;
- ``decode(z)``: ``(n, latent_dim)`` -> ``(n, *input_shape)``, the mean of each cell.

The objective adds the linear layers that turn features into a code. There is no base class and no registry: pass your
own function as ``VAEOutlierDetector(body=...)``.

Convolutions and recurrences are written as matrix products. Rows are scored in double precision, where these are faster
than torch's own layers; ONNX runtimes have no others in double; and each row gets the same arithmetic in any batch.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
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
            return functional.linear(x, self.weight, self.bias)
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
    """Convolutions that halve the length of every axis; the decoder mirrors them and doubles it.

    The same weights apply at every place of a window or an image. Any length is allowed: odd lengths are rounded up in
    the encoder and cropped in the decoder. The decoder uses sub-pixel convolutions (Shi et al. 2016,
    arXiv:1609.05158): each place becomes two per axis.

    Parameters
    ----------
    input_shape : tuple of int
        Channels, then the length of each axis: ``(channels, length)`` or ``(channels, height, width)``.
    latent_dim : int
    hidden : sequence of int
        Channels of the encoder's layers, from the row inwards; the decoder has them in reverse.
    axes : int
        Number of axes besides the channels.
    """

    def __init__(
        self, input_shape: tuple[int, ...], latent_dim: int, hidden: Sequence[int] = (32, 64), *, axes: int = 1
    ) -> None:
        super().__init__()
        _refuse_other_axes(input_shape, ("channels", *(("length",) if axes == 1 else ("height", "width"))))
        _refuse_empty_layers(hidden)
        sides = [input_shape[1:]]
        for _ in hidden:
            sides.append(tuple(-(-side // 2) for side in sides[-1]))
        channels = [input_shape[0], *hidden]
        self.encoder = nn.Sequential(ChannelsLast())
        for into, out in pairwise(channels):
            self.encoder.extend([Halving(into, out, axes), nn.Hardswish()])
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
    """``(n, channels, *sides)`` -> ``(n, *sides, channels)``."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.movedim(1, -1)


class ChannelsFirst(nn.Module):
    """``(n, *sides, channels)`` -> ``(n, channels, *sides)``."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.movedim(-1, 1)


class Halving(nn.Module):
    """A convolution over three places per axis, at every other one: ``(n, *sides, into)`` -> ``(n, *halves, out)``."""

    def __init__(self, into: int, out: int, axes: int) -> None:
        super().__init__()
        self.linear = Linear(3**axes * into, out)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.linear(neighbours(x, 2))


class Doubling(nn.Module):
    """A convolution over three places per axis into two per axis: ``(n, *halves, into)`` -> ``(n, *sides, out)``."""

    def __init__(self, into: int, out: int, sides: tuple[int, ...]) -> None:
        super().__init__()
        self.sides = sides
        self.linear = Linear(3 ** len(sides) * into, 2 ** len(sides) * out)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return doubled(self.linear(neighbours(x, 1)), self.sides)


def neighbours(x: Tensor, step: int) -> Tensor:
    """The channels of each place and its neighbours: ``(n, *sides, c)`` -> ``(n, *places, 3 ** axes * c)``.

    ``places`` are every ``step``-th along each axis; the edges are padded with zeros.
    """
    sides = x.shape[1:-1]
    places = [-(-side // step) for side in sides]
    last = [step * (count - 1) + 1 for count in places]
    edges = [(1, n + 1 - side) for n, side in zip(last, sides, strict=True)]
    x = functional.pad(x, (0, 0, *(zeros for pair in reversed(edges) for zeros in pair)))
    shifted = [
        x[(slice(None), *(slice(offset, offset + n, step) for offset, n in zip(offsets, last, strict=True)))]
        for offsets in product(range(3), repeat=len(sides))
    ]
    return torch.cat(shifted, dim=-1)


def doubled(x: Tensor, sides: tuple[int, ...]) -> Tensor:
    """Rearrange each place into two per axis: ``(n, *halves, 2 ** axes * c)`` -> ``(n, *sides, c)``."""
    halves, axes = x.shape[1:-1], len(sides)
    x = x.unflatten(-1, (*[2] * axes, -1))
    x = x.permute(0, *(axis for i in range(axes) for axis in (1 + i, 1 + axes + i)), 1 + 2 * axes)
    x = x.reshape(len(x), *(2 * half for half in halves), x.shape[-1])
    return x[(slice(None), *(slice(side) for side in sides))]


class Recurrent(nn.Module):
    """Gated recurrent units over the steps of a window.

    The encoder's features are its last state. The decoder gets the code as input at every step.

    Parameters
    ----------
    input_shape : tuple of int
        ``(channels, length)``.
    latent_dim : int
    hidden : sequence of int
        State sizes of the encoder's layers, from the row inwards, at least one; the decoder has them in reverse.
    """

    def __init__(self, input_shape: tuple[int, ...], latent_dim: int, hidden: Sequence[int] = (32,)) -> None:
        super().__init__()
        _refuse_other_axes(input_shape, ("channels", "length"))
        _refuse_empty_layers(hidden)
        if not hidden:
            raise ValueError("Got hidden=(), expected at least one state size. Pass, for example, hidden=(32,).")
        channels, self.length = input_shape
        inner = [*reversed(hidden)]
        self.reading = nn.ModuleList(GRU(*sizes) for sizes in pairwise([channels, *hidden]))
        self.writing = nn.ModuleList(GRU(*sizes) for sizes in pairwise([latent_dim, *inner]))
        self.cells = Linear(inner[-1], channels)

    def encode(self, x: Tensor) -> Tensor:
        """Rows ``(n, channels, length)`` -> features ``(n, hidden[-1])``: the last state."""
        steps = x.permute(2, 0, 1)  # (length, n, channels)
        for layer in self.reading:
            steps = layer(steps)
        return steps[-1]

    def decode(self, z: Tensor) -> Tensor:
        """Codes ``(n, latent_dim)`` -> means ``(n, channels, length)``."""
        steps = z.expand(self.length, -1, -1)
        for layer in self.writing:
            steps = layer(steps)
        return self.cells(steps).permute(1, 2, 0)


class GRU(nn.Module):
    """Gated recurrent units (Cho et al. 2014, arXiv:1406.1078): ``(length, n, into)`` -> states ``(length, n, size)``.

    With a linear in the input and b linear in the state h, split into three parts each: ``[r, u] = sigmoid(a + b)``,
    ``c = tanh(a + r b)``, and the next state is ``u h + (1 - u) c``.
    """

    def __init__(self, into: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.seen = Linear(into, 3 * size)
        self.state = Linear(size, 3 * size)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        same = x.stride(0) == 0  # the code is the same at every step: multiply it once
        seen = self.seen(x[0]).expand(len(x), -1, -1) if same else self.seen(x)
        state, states = x.new_zeros(x.shape[1], self.size), []
        parts = [2 * self.size, self.size]
        for step in seen:
            (gates, candidate), (gates_again, remembered) = step.split(parts, 1), self.state(state).split(parts, 1)
            reset, update = (gates + gates_again).sigmoid().chunk(2, 1)
            state = torch.lerp(torch.addcmul(candidate, reset, remembered).tanh(), state, update)
            states.append(state)
        return torch.stack(states)


# Hard swish (Howard et al. 2019, arXiv:1905.02244, equation 8) detects as well as SiLU and costs a quarter in float64.
def _layers(widths: Sequence[int]) -> list[nn.Module]:
    return [layer for into, out in pairwise(widths) for layer in (Linear(into, out), nn.Hardswish())]


def _refuse_empty_layers(hidden: Sequence[int]) -> None:
    if not all(size >= 1 for size in hidden):
        raise ValueError(f"Got hidden={tuple(hidden)}, expected sizes of at least 1. Leave out the layer instead.")


def _refuse_other_axes(input_shape: tuple[int, ...], names: tuple[str, ...]) -> None:
    if len(input_shape) != len(names):
        expected = ", ".join(names)
        raise ValueError(
            f"Got input_shape={tuple(input_shape)}, expected ({expected}) for this body. "
            f"Pass input_shape=({expected}): channels times the rest is the number of features."
        )


BODIES: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "conv1d": partial(Convolutional, axes=1),
    "conv2d": partial(Convolutional, axes=2),
    "gru": Recurrent,
}
HIDDEN: dict[str, tuple[int, ...]] = {"mlp": (128, 64), "conv1d": (32, 64), "conv2d": (32, 64), "gru": (32,)}
"""``hidden="auto"`` of each body."""
