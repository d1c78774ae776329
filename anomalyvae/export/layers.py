"""The bodies of `anomalyvae.nets.bodies` as ONNX operators that exist in double precision.

Runtimes have convolutions in single precision only. Here a convolution gathers the neighbours of each place and
multiplies by one matrix. Between layers rows are flat, with the last axis of the body running fastest.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anomalyvae.export.nodes import Value
from anomalyvae.nets.bodies import (
    BODIES,
    MLP,
    ChannelsFirst,
    ChannelsLast,
    Convolutional,
    Doubling,
    Halving,
    doubled,
    neighbours,
)


def encode(body: nn.Module, shape: tuple[int, ...], x: Value) -> Value:
    """Rows ``(n, d)``, of this shape inside the body, -> features ``(n, k)``."""
    return in_turn(_exportable(body).encoder, shape, x)


def decode(body: nn.Module, shape: tuple[int, ...], z: Value) -> Value:
    """Codes ``(n, latent_dim)`` -> rows ``(n, d)``."""
    return in_turn(_exportable(body).decoder, shape, z)


def _exportable(body: nn.Module) -> MLP | Convolutional:
    if not isinstance(body, MLP | Convolutional):
        raise cannot_export(body)
    return body


def linear(x: Value, weight: Tensor, bias: Tensor) -> Value:
    """A linear layer by its weights, which are transposed here: onnxruntime's int8 tool does so once per use."""
    return x.op("Gemm", weight.T, bias)


def cannot_export(part: Any) -> TypeError:
    """The error for a part of the network that has no ONNX operators here."""
    return TypeError(
        f"The network has a part {type(part).__name__} that cannot be exported to ONNX; only the layers of "
        f"body={', '.join(map(repr, BODIES))} and the package's own scalings can. Score with the detector itself, or "
        "fit one with these."
    )


def in_turn(layers: nn.Module, shape: tuple[int, ...], x: Value) -> Value:
    """Layers in sequence, on rows ``(n, k)`` of this shape."""
    channels, *sides = shape
    places = math.prod(sides)
    divisor = 1.0  # in double, a hard swish leaves its division by 6 to the weights of the next layer
    for layer in layers.children():
        if isinstance(layer, nn.Linear | Halving | Doubling):
            product = layer if isinstance(layer, nn.Linear) else layer.linear
            weight, bias = product.weight / divisor, product.bias
            divisor = 1.0
        if isinstance(layer, nn.Linear):
            x = linear(x, weight, bias)
        elif isinstance(layer, Halving):
            x = _convolution(x, weight, bias, sides, step=2)
            sides = _halved(sides)
        elif isinstance(layer, Doubling):
            x = _convolution(x, weight, bias, _halved(layer.sides), step=1)
            x = _in_order(x, layer.sides, len(bias) // 4)
        elif isinstance(layer, nn.Hardswish) and x.single:
            x = x * x.op("HardSigmoid", alpha=1 / 6, beta=0.5)
        elif isinstance(layer, nn.Hardswish):
            x = x * (x + 3.0).op("Clip", 0.0, 6.0)
            divisor = 6.0
        elif isinstance(layer, ChannelsLast):
            x = _folded(_folded(x, channels, places).op("Transpose", perm=[0, 2, 1]), channels * places)
        elif isinstance(layer, ChannelsFirst):
            x = _folded(_folded(x, places, channels).op("Transpose", perm=[0, 2, 1]), channels * places)
        elif not isinstance(layer, nn.Flatten | nn.Unflatten):
            raise cannot_export(layer)
    return x if divisor == 1 else x / divisor


def _folded(x: Value, *shape: int) -> Value:
    return x.op("Reshape", [-1, *shape])


# Convolutions


def _halved(sides: Sequence[int]) -> list[int]:
    return [-(-side // 2) for side in sides]


def _convolution(x: Value, weight: Tensor, bias: Tensor, sides: list[int], step: int) -> Value:
    """A linear layer of each place and its eight neighbours, at every ``step`` along both axes."""
    channels, places = weight.shape[1] // 9, math.prod(sides)
    table = neighbours(torch.arange(1, places + 1).view(1, *sides, 1), step).flatten()  # 0 is beyond the edge
    padded = _folded(x.op("Pad", [0, channels, 0, 0]), places + 1, channels)
    seen = _folded(padded.op("Gather", table, axis=1), 9 * channels)
    return _folded(linear(seen, weight, bias), len(table) // 9 * len(bias))


def _in_order(x: Value, sides: tuple[int, ...], channels: int) -> Value:
    """Put the four values that each place was turned into where they belong; cut off those past the edge."""
    halves = _halved(sides)
    made = torch.arange(4 * math.prod(halves))
    table = doubled(made.view(1, *halves, 4), sides).flatten()
    if torch.equal(table, made):
        return x
    return _folded(_folded(x, len(made), channels).op("Gather", table, axis=1), len(table) * channels)
