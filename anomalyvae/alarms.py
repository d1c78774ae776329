"""From p-values to alarms, with a target of false alarms. Numpy only."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

SLACK = 1e-9  # relative; sums of weights are rounded, and a p-value equal to its target must count
_STOREY_LAMBDA = 0.5  # p-values above it count as those of normal rows

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class AlarmTarget:
    """How many false alarms are allowed: one of the three rates of `Calibration.alarms`."""

    kind: str  # "alpha", "fdr" or "per_hour"
    value: float

    def __post_init__(self) -> None:
        _refuse_outside(self, math.inf if self.kind == "per_hour" else 1.0)

    def __str__(self) -> str:
        return f"{self.kind}={self.value}"

    @classmethod
    def of(cls, alarms: Mapping[str, Any]) -> Self:
        """Read ``{"alpha": 0.01}``, ``{"fdr": 0.1}`` or ``{"per_hour": 6}``; entries that are None do not count.

        Raises
        ------
        ValueError
            Unless there is exactly one, with a number in its range.
        """
        given = {name: value for name, value in alarms.items() if value is not None}
        known = given.keys() <= {"alpha", "fdr", "per_hour"} and all(isinstance(v, Real) for v in given.values())
        if len(given) != 1 or not known:
            said = " and ".join(f"{name}={value}" for name, value in given.items()) or "nothing"
            raise ValueError(
                f"Got {said} as alarm target, expected exactly one of alpha, fdr and per_hour, with a number. Set one, "
                "for example alpha=0.01."
            )
        [(kind, value)] = given.items()
        return cls(kind, value)

    def rate(self, rows_per_hour: float | None = None) -> float:
        """The target as a share of the rows (``fdr``: of the flagged rows)."""
        if self.kind != "per_hour":
            return self.value
        if rows_per_hour is None:
            raise ValueError(
                f"Got the alarm target {self} for plain rows, which have no time, expected it for windows of "
                "recordings. Use alpha, the share of normal rows."
            )
        _refuse_outside(self, rows_per_hour)
        return self.value / rows_per_hour

    def row_rate(self, rows_per_hour: float | None = None) -> float:
        """As `rate`, where rows are flagged one by one; ``fdr`` is then refused."""
        if self.kind == "fdr":
            raise ValueError(
                f"Got the alarm target {self} where rows are scored piece by piece, expected alpha or per_hour: fdr "
                "needs all rows at once. Use alpha (or per_hour, for windows), or score all files into one table."
            )
        return self.rate(rows_per_hour)

    def cut(self, p_values: Floats, rows_per_hour: float | None = None, storey: bool = False) -> float:
        """The largest p-value that is flagged, 0 if none is; ``fdr`` depends on the p-values of the whole batch."""
        rate = self.rate(rows_per_hour)
        if self.kind == "fdr":
            return float(p_values[false_discovery(p_values, rate, storey)].max(initial=0.0))
        return rate * (1 + SLACK)

    def needed(self, rows: int, rows_per_hour: float | None = None) -> float:
        """The p-value that a single anomalous row in a batch needs to be flagged."""
        rate = self.rate(rows_per_hour)
        return rate / max(rows, 1) if self.kind == "fdr" else rate


def _refuse_outside(target: AlarmTarget, most: float) -> None:
    if not 0 < target.value < most:
        upper = "" if most == math.inf else f" and below {most:g}"
        raise ValueError(f"Got {target} as alarm target, expected a number above 0{upper}. Set one in that range.")


def false_discovery(p_values: ArrayLike, rate: float, storey: bool = False) -> Flags:
    """Flag rows ``(n,)`` of a batch so that the expected share of normal rows among the flagged is at most ``rate``.

    Parameters
    ----------
    p_values : array-like of shape (n,)
        Of all rows of the batch; without the rows of high p-value the rate does not hold.
    rate : float in (0, 1)
    storey : bool, default=False
        Estimate the share of normal rows in the batch as (1 + number of p > 1/2) / (n / 2), instead of 1. It finds more
        in batches with many anomalous rows, and flags none with p > 1/2.

    Raises
    ------
    ValueError
        For p-values outside of [0, 1], or a rate outside of (0, 1).

    Notes
    -----
    The procedure is Benjamini and Hochberg's [1]_, with Storey's estimate in its conservative form [2]_. Conformal
    p-values of one batch share their calibration rows, so they are positively dependent (PRDS). The rate holds for rows
    that are independent of each other given the network [3]_, with Storey's estimate too [4]_. It is not proven for
    several rows of one group, or for p-values of a fitted tail.

    References
    ----------
    .. [1] Y. Benjamini, Y. Hochberg (1995), Controlling the false discovery rate, JRSS B 57.
    .. [2] J. D. Storey, J. E. Taylor, D. Siegmund (2004), Strong control, conservative point estimation and
       simultaneous conservative consistency of false discovery rates, JRSS B 66.
    .. [3] S. Bates, E. Candès, L. Lei, Y. Romano, M. Sesia (2023), Testing for outliers with conformal p-values,
       Annals of Statistics 51.
    .. [4] A. Marandon, L. Lei, D. Mary, E. Roquain (2024), Adaptive novelty detection with false discovery rate
       guarantee, Annals of Statistics 52.

    Examples
    --------
    >>> false_discovery([0.01, 0.04, 0.03, 0.9], 0.1)
    array([ True,  True,  True, False])
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(
            f"Got p-values from {p.min()} to {p.max()}, expected numbers in [0, 1]. Pass what p_values returns."
        )
    if not 0 < rate < 1:
        raise ValueError(f"Got rate={rate}, expected a number above 0 and below 1. Pass 0.1 for one false in ten.")
    normal = (1 + np.sum(p > _STOREY_LAMBDA)) / (1 - _STOREY_LAMBDA) if storey else p.size
    ranked = np.sort(p)
    allowed = np.arange(1, p.size + 1) * rate / max(normal, 1) * (1 + SLACK)
    kept = ranked[ranked <= (np.minimum(allowed, _STOREY_LAMBDA) if storey else allowed)]
    return p <= (kept[-1] if kept.size else -1.0)


def flags(
    p: Floats,
    target: AlarmTarget,
    evidence: float,
    smallest: float,
    rows_per_hour: float | None = None,
    storey: bool = False,
    tail: str = "conformal",
) -> Flags:
    """Flag rows by their p-values; `Calibration.alarms`, where the p-values are known.

    Parameters
    ----------
    p : ndarray of shape (n,)
    target : AlarmTarget
    evidence, smallest : float
        Of the calibration: how many observations it has, and the smallest p-value that it can give.
    rows_per_hour, storey, tail
        As for `Calibration.alarms`.
    """
    flagged = p <= target.cut(p, rows_per_hour, storey)
    wanted = target.needed(p.size, rows_per_hour)
    if not flagged.any() and smallest > wanted * (1 + SLACK):
        batch, row = (f" for {p.size} rows", "one anomalous row") if target.kind == "fdr" else ("", "any row")
        warnings.warn(
            f"The alarm target {target}{batch} needs p-values of {wanted:.2g} to flag {row}, but "
            f"{evidence:g} calibration rows (or groups) give none below {smallest:.2g}, so nothing is "
            f"flagged. Calibrate with at least {math.ceil(1 / wanted * (1 - SLACK)) - 1:,}"
            + (", or pass tail='pareto' (--tail), which extrapolates." if tail == "conformal" else "."),
            stacklevel=3,
        )
    return flagged
