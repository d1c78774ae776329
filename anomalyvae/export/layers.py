"""The bodies of `anomalyvae.nets.bodies` as ONNX operators that exist in double precision.

Runtimes have convolutions in single precision only. Here a convolution gathers the neighbours of each place and
multiplies by one matrix. Between layers rows are flat, with the last axis of the body running fastest.
"""

import math
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
    if isinstance(body, MLP | Convolutional):
        return in_turn(body.encoder, shape, x)
    raise cannot_export(body)


def decode(body: nn.Module, shape: tuple[int, ...], z: Value) -> Value:
    """Codes ``(n, latent_dim)`` -> rows ``(n, d)``."""
    if isinstance(body, MLP | Convolutional):
        return in_turn(body.decoder, shape, z)
    raise cannot_export(body)


def linear(x: Value, weight: Tensor, bias: Tensor) -> Value:
    """A linear layer by its weights."""
    return x.op("Gemm", weight, bias, transB=1)


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
    cells, sixfold = (
        math.prod(sides),
        False,
    )  # in double, a hard swish leaves its division by 6 to the next weights
    for layer in layers.children():
        if isinstance(layer, nn.Linear | Halving | Doubling):
            product = layer if isinstance(layer, nn.Linear) else layer.linear
            weight, bias, sixfold = product.weight / 6 if sixfold else product.weight, product.bias, False
        if isinstance(layer, nn.Linear):
            x = linear(x, weight, bias)
        elif isinstance(layer, Halving):
            x = _convolution(x, weight, bias, sides, 2)
            sides = [-(-side // 2) for side in sides]
        elif isinstance(layer, Doubling):
            halves = [-(-side // 2) for side in layer.sides]
            x = _in_order(_convolution(x, weight, bias, halves, 1), halves, layer.sides, len(bias) // 2 ** len(halves))
        elif isinstance(layer, nn.Hardswish) and x.single:
            x = x * x.op("HardSigmoid", alpha=1 / 6, beta=0.5)
        elif isinstance(layer, nn.Hardswish):
            x, sixfold = x * (x + 3.0).op("Clip", 0.0, 6.0), True
        elif isinstance(layer, ChannelsLast):
            x = _folded(_folded(x, channels, cells).op("Transpose", perm=[0, 2, 1]), channels * cells)
        elif isinstance(layer, ChannelsFirst):
            x = _folded(_folded(x, cells, channels).op("Transpose", perm=[0, 2, 1]), channels * cells)
        elif not isinstance(layer, nn.Flatten | nn.Unflatten):
            raise cannot_export(layer)
    return x / 6.0 if sixfold else x


def _folded(x: Value, *shape: int) -> Value:
    return x.op("Reshape", [-1, *shape])


# Convolutions


def _convolution(x: Value, weight: Tensor, bias: Tensor, sides: list[int], step: int) -> Value:
    """A linear layer of each place and its neighbours, at every ``step`` along each axis."""
    channels, places = weight.shape[1] // 3 ** len(sides), math.prod(sides)
    table = neighbours(torch.arange(1, places + 1).view(1, *sides, 1), step).flatten()  # 0 is beyond the edge
    padded = _folded(x.op("Pad", [0, channels, 0, 0]), places + 1, channels)
    seen = _folded(padded.op("Gather", table, axis=1), weight.shape[1])
    return _folded(linear(seen, weight, bias), len(table) // 3 ** len(sides) * len(bias))


def _in_order(x: Value, halves: list[int], sides: tuple[int, ...], channels: int) -> Value:
    """Put the two values per axis that each place was turned into where they belong; cut off those past the edge."""
    parts = 2 ** len(sides)
    made = torch.arange(math.prod(halves) * parts)
    table = doubled(made.view(1, *halves, parts), sides).flatten()
    if torch.equal(table, made):
        return x
    return _folded(_folded(x, len(made), channels).op("Gather", table, axis=1), len(table) * channels)
