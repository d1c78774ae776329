"""The likelihoods of `anomalyvae.nets.likelihoods` as operators of an ONNX graph."""

from typing import Any

import numpy as np
import torch

from anomalyvae.export.layers import cannot_export
from anomalyvae.export.nodes import Value, concat, working
from anomalyvae.export.scaling import Cells
from anomalyvae.nets.likelihoods import (
    LOG_2PI,
    NOISE_FLOOR,
    SURPRISE_FLOOR,
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Gaussian,
    Mixture,
)

_SERIES = (0.02, 0.1)  # double and single: below this, differences of large terms cancel, and a series is used


def row_nll(likelihood: Any, cells: Cells, decoded: Value) -> Value:
    """``-log p(s | z)`` over the observed cells, shape ``(n, 1)``."""
    if isinstance(likelihood, Gaussian):
        variance = likelihood.variance()
        constant = 0.5 * (variance.log() + LOG_2PI)
        error = _observed(cells, cells.s - decoded)
        squares = (error * error) @ (0.5 / variance)[:, None]
        if cells.missing is None:
            return squares + constant.sum()[None, None]
        return squares + working(cells.missing.op("Not")) @ constant[:, None]
    return feature_nll(likelihood, cells, decoded).sum()


def feature_nll(likelihood: Any, cells: Cells, decoded: Value) -> Value:
    """``-log p(s_j | z)`` of each feature, shape ``(n, d)``, in the user's order."""
    if isinstance(likelihood, Gaussian):
        variance = likelihood.variance()
        error = cells.s - decoded
        return _observed(cells, error * error * (0.5 / variance) + 0.5 * (variance.log() + LOG_2PI))
    if isinstance(likelihood, Bernoulli):
        inside = cells.s.op("Clip", 0.0, 1.0)
        nll = _inside_nll(likelihood, inside, decoded) + (cells.s - inside).op("Abs") / NOISE_FLOOR
        return _observed(cells, nll)
    if isinstance(likelihood, Categorical):
        log_p = _probabilities(likelihood, decoded).op("Log")
        return (cells.s * log_p).op("Neg") @ _members(likelihood)  # a missing category has 0 in all its cells
    return _both(feature_nll, likelihood, cells, decoded)


def residual(likelihood: Any, cells: Cells, decoded: Value) -> Value:
    """The distance of each feature from its expected value, in standard deviations, shape ``(n, d)``."""
    if isinstance(likelihood, Gaussian):
        return _observed(cells, cells.s - decoded) / likelihood.variance().sqrt()
    if isinstance(likelihood, Bernoulli):
        error = cells.s - expected(likelihood, decoded)
        return _observed(cells, error / _variance(likelihood, decoded).op("Sqrt"))
    if isinstance(likelihood, Categorical):
        freedom = torch.tensor([max(1, size - 2) for size in likelihood.sizes], dtype=torch.float64)
        whole = Cells(cells.filled(expected(likelihood, decoded)), None)
        surprise = feature_nll(likelihood, whole, decoded).op("Max", 0.0)
        return ((surprise.op("Exp") - 1.0) / freedom).op("Sqrt")
    return _both(residual, likelihood, cells, decoded)


def expected(likelihood: Any, decoded: Value) -> Value:
    """Mean of each number, likeliest level of each category, shape ``(n, cells)``."""
    if isinstance(likelihood, Gaussian):
        return decoded
    if isinstance(likelihood, ContinuousBernoulli):
        t, h, e, near = _natural(decoded)
        far = t.op("Sign") * ((e + 1.0) / (e.op("Neg") + 1.0) - h.op("Reciprocal")) * 0.5
        return near.op("Where", t / 12.0 - t * t * t / 720.0, far) + 0.5
    if isinstance(likelihood, Bernoulli):
        return decoded.op("Sigmoid") * (1 - SURPRISE_FLOOR) + SURPRISE_FLOOR / 2
    if isinstance(likelihood, Categorical):
        blocks = [
            working(block.op("ArgMax", axis=1, keepdims=1).op("Equal", np.arange(size)))
            for block, size in zip(decoded.split(likelihood.sizes), likelihood.sizes, strict=True)
        ]
        return concat(blocks)
    if not isinstance(likelihood, Mixture):
        raise cannot_export(likelihood)
    numbers, categories = decoded.split(likelihood.split)
    return concat([expected(likelihood.gaussian, numbers), expected(likelihood.categorical, categories)])


def _inside_nll(likelihood: Bernoulli, s: Value, decoded: Value) -> Value:
    """``-log p(s_j | z)`` of cells between 0 and 1."""
    if isinstance(likelihood, ContinuousBernoulli):
        t, h, e, near = _natural(decoded)
        squared = t * t
        far = h + ((e.op("Neg") + 1.0) / (h * 2.0)).op("Log")
        return near.op("Where", squared / 24.0 - squared * squared / 2880.0, far) - t * (s - 0.5)
    p = expected(likelihood, decoded)
    one, zero = p.op("Log"), (p.op("Neg") + 1.0).op("Log")
    return (zero + s * (one - zero)).op("Neg")


def _variance(likelihood: Bernoulli, decoded: Value) -> Value:
    if isinstance(likelihood, ContinuousBernoulli):
        t, h, e, near = _natural(decoded)
        squared, rest = t * t, e.op("Neg") + 1.0
        far = (h * h).op("Reciprocal") * 0.25 - e / (rest * rest)
        return near.op("Where", squared * squared / 6048.0 - squared / 240.0 + 1 / 12, far)
    p = expected(likelihood, decoded)
    return p - p * p


def _natural(decoded: Value) -> tuple[Value, Value, Value, Value]:
    """The bounded parameter t; h = |t| / 2, bounded below; exp(-2 h); and where the bound applied."""
    t = decoded / (decoded.op("Abs") * NOISE_FLOOR + 1.0)
    half, series = t.op("Abs") * 0.5, _SERIES[decoded.single]
    h = half.op("Max", series)
    return t, h, (h * -2.0).op("Exp"), half.op("Less", series)


def _both(function: Any, likelihood: Any, cells: Cells, decoded: Value) -> Value:
    """A function of numbers and categories side by side, in the user's order."""
    if not isinstance(likelihood, Mixture):
        raise cannot_export(likelihood)
    parts = zip(
        (likelihood.gaussian, likelihood.categorical),
        cells.split(likelihood.split),
        decoded.split(likelihood.split),
        strict=True,
    )
    return concat([function(*part) for part in parts]).op("Gather", likelihood.order, axis=1)


def _observed(cells: Cells, values: Value) -> Value:
    """Values of cells, 0 where a cell is missing."""
    return values if cells.missing is None else cells.missing.op("Where", 0.0, values)


def _probabilities(likelihood: Categorical, decoded: Value) -> Value:
    floor = SURPRISE_FLOOR
    sizes = torch.tensor([size for size in likelihood.sizes for _ in range(size)], dtype=torch.float64)
    blocks = [block.op("Softmax", axis=1) for block in decoded.split(likelihood.sizes)]
    return concat(blocks) * (1 - floor) + floor / sizes


def _members(likelihood: Categorical) -> torch.Tensor:
    """Which cells belong to which category, ``(cells, categories)``."""
    return torch.block_diag(*[torch.ones(size, 1, dtype=torch.float64) for size in likelihood.sizes])
