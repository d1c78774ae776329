"""The scalings of `anomalyvae.nets.scaling` as operators of an ONNX graph: rows in the user's units -> cells.

A missing cell is 0 in ``s`` and true in ``missing``, so that NaN never enters the arithmetic.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from anomalyvae.export.layers import cannot_export
from anomalyvae.export.nodes import Value, cast, concat, double, working
from anomalyvae.nets.scaling import LIMIT, Affine, Asinh, Mixed, Quantile


@dataclass(frozen=True)
class Cells:
    """Standardised cells ``(n, d)``, and which are missing; None if none can be.

    ``precise`` are the same cells in double precision, where they are asked for; of rows, without compressed tails.
    """

    s: Value
    missing: Value | None
    precise: Value | None = None

    def split(self, sizes: list[int]) -> list["Cells"]:
        """Blocks of columns."""
        missing = [None] * len(sizes) if self.missing is None else self.missing.split(sizes)
        return [Cells(*pair) for pair in zip(self.s.split(sizes), missing, strict=True)]

    def filled(self, filling: Any) -> Value:
        """The cells, with the missing ones filled."""
        return self.s if self.missing is None else self.missing.op("Where", filling, self.s)


def standardise(scaling: Any, x: Value, *, precise: bool, unbent: bool) -> Cells:
    """Rows in the user's units ``(n, d)``, double, as the network sees them; also ``precise``, ``unbent`` or not."""
    exact = partial(_scale, working=double, bent=not unbent)
    if not isinstance(scaling, Mixed):
        missing = x.op("IsNaN")
        numbers = missing.op("Where", 0.0, x)
        return Cells(_scale(scaling, numbers), missing, exact(scaling, numbers) if precise else None)
    cells = x.op("Gather", scaling.source, axis=1)
    missing = cells.op("IsNaN")
    sizes = [len(scaling.numbers), sum(scaling.sizes)]
    numbers, codes = missing.op("Where", 0.0, cells).split(sizes)
    known = missing.split(sizes)[1].op("Not")
    one_hot = codes.op("Equal", scaling.code).op("And", known)
    in_double = concat([exact(scaling.numeric, numbers), cast(one_hot)]) if precise else None
    return Cells(concat([_scale(scaling.numeric, numbers), working(one_hot)]), missing, in_double)


def _scale(scaling: Any, x: Value, working: Callable[[Value], Value] = working, bent: bool = True) -> Value:
    if isinstance(scaling, Quantile):
        knots, values = scaling.x, scaling.y
        low, high = scaling.reach
        x = x.op("Max", low).op("Min", high)
        slopes = torch.cat([scaling.slope[None], values.diff(dim=0) / knots.diff(dim=0), scaling.slope[None]])
        y = (x - knots[0]) * scaling.slope + values[0]
        for knot, bend in zip(knots, slopes.diff(dim=0), strict=True):
            y = y + (x - knot).op("Relu") * bend
        return working(y.op("Clip", -LIMIT, LIMIT))
    if not isinstance(scaling, Affine | Asinh):
        raise cannot_export(scaling)
    u = working(((x - scaling.center) / scaling.scale).op("Clip", -LIMIT, LIMIT))
    if isinstance(scaling, Affine) or not bent:
        return u
    inside = u.op("Max", scaling.low).op("Min", scaling.high)
    return asinh(inside / scaling.gain) + (u - inside)


def asinh(x: Value) -> Value:
    """Inverse hyperbolic sine, which runtimes have in single precision only."""
    return x.op("Sign") * (x.op("Abs") + (x * x + 1.0).op("Sqrt")).op("Log")
