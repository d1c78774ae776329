"""Conditions on signals: comparisons of a signal with a number, joined by ``and``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_OPERATORS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_COMPARISON = re.compile(
    r"\s*(?P<signal>[^<>=!]*[^<>=!\s])\s*(?P<sign><=|>=|==|!=|<|>)\s*"
    r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*"
)


class Comparison(NamedTuple):
    """``signal sign number``, as in ``speed_mps > 2``."""

    signal: str
    sign: str
    number: float

    def holds(self, values: np.ndarray) -> np.ndarray:
        """Return for each value whether the comparison holds; never for a missing value."""
        return _OPERATORS[self.sign](values, self.number) & ~np.isnan(values)


def parse_where(text: str | None) -> tuple[Comparison, ...]:
    """Parse a condition; None always holds.

    Raises
    ------
    ValueError
        The text is not of the form ``signal sign number and signal sign number …``.

    Examples
    --------
    >>> parse_where("speed_mps > 2 and rpm <= 3e3")
    (Comparison(signal='speed_mps', sign='>', number=2.0), Comparison(signal='rpm', sign='<=', number=3000.0))
    """
    if text is None:
        return ()
    comparisons = []
    for part in re.split(r"(?:^|\s+)and(?:\s+|$)", text):
        match = _COMPARISON.fullmatch(part)
        if match is None:
            raise ValueError(
                f"where={text!r} has {part.strip()!r}, which is not a comparison of a signal with a number (signs "
                f"{' '.join(_OPERATORS)}). Join comparisons by 'and', as in 'speed_mps > 2 and speed_mps < 30'."
            )
        comparisons.append(Comparison(match["signal"], match["sign"], float(match["number"])))
    return tuple(comparisons)
