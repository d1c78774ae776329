"""From scores to decisions: thresholds and p-values; `anomalyvae.alarms` turns p-values into alarms.

Numpy only. All functions take anomaly scores (high = anomalous).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomalyvae.alarms import SLACK, AlarmTarget, Flags, flags

STRETCHES = "stretches"  # key in a card's `training`: whether its groups are stretches of time
AUTO_FALSE_ALARMS = 0.05  # share of normal rows beyond the threshold of contamination="auto"
ENOUGH = round(1 / AUTO_FALSE_ALARMS) - 1  # calibration rows (or groups) that show a p-value as small as that

CAUTION = ".* can show no p-value"  # how the warning of `few_calibrate` begins, as a pattern
_TAIL_SHARE = 0.1  # of the calibration scores; the tail is fitted to the highest of them
_MIN_FOR_TAIL = 20  # rows (or groups): a tenth of them are two, the fewest that show a shape

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Scores of held-out rows and their weights, which turn a score into a p-value and an alarm.

    The p-value of a score s is the weighted share of calibration scores that are at least as high, with the new row
    counted among them:

        p(s) = (1 + sum of weight_i where scores_i >= s) / (1 + sum of weight_i)

    It lies in (0, 1]; ties count. Most callers use `from_rows`.

    Parameters
    ----------
    scores : array-like of shape (m,)
        Anomaly scores, finite. Kept sorted, low to high.
    weight : array-like of shape (m,)
        How much each score counts, above zero: 1 for a row, 2 for a row of weight two, 1 / size for a row of a group.

    Raises
    ------
    ValueError
        For no rows, different lengths, scores that are not finite, weights that are not above zero.

    Notes
    -----
    **Guaranteed.** Rows (split conformal prediction [1]_): a new row that is exchangeable with the calibration rows
    has p <= alpha with probability at most alpha, whatever the distribution and the network. Groups (hierarchical
    conformal prediction [2]_ [3]_): a row drawn at random from a *new* group, exchangeable with the calibration
    groups, has p <= alpha with probability at most alpha, however the rows of a group depend on each other. (With the
    new group's own share of rows at or above s in place of the 1, p is the survival function of the equal mixture of
    all G + 1 groups. The row is a sample of that mixture, as any group is equally likely to be the new one. The 1 can
    only raise p.) So alpha bounds the share of a new group's rows that raise a false alarm, on average over new groups
    of any size.

    **Not guaranteed.** G groups give no p-value below 1 / (G + 1), n rows none below 1 / (n + 1). Rows of one group
    stay dependent: one unusual drive can alarm many times while most never do. The guarantee is an average over
    calibration sets: with a given one, the rate is alpha plus or minus about sqrt(alpha (1 - alpha) / n). With
    cross-fitted scores, each from a network trained without the row's fold, it holds approximately [4]_: the network
    that scores new rows has learned slightly more rows.

    References
    ----------
    .. [1] V. Vovk, A. Gammerman, G. Shafer (2005), Algorithmic Learning in a Random World, Springer.
    .. [2] R. Dunn, L. Wasserman, A. Ramdas (2022), Distribution-Free Prediction Sets for Two-Layer Hierarchical
       Models, Journal of the American Statistical Association.
    .. [3] Y. Lee, R. F. Barber, R. Willett (2023), Distribution-free inference with hierarchical data,
       arXiv:2306.06342.
    .. [4] V. Vovk (2015), Cross-conformal predictors, Annals of Mathematics and Artificial Intelligence 74.

    Examples
    --------
    >>> calibration = Calibration.from_rows([0.1, 0.4, 0.2, 0.3])
    >>> calibration.p_values([0.25, 0.3, 9.0])
    array([0.6, 0.6, 0.2])
    >>> calibration.alarms([0.25, 0.3, 9.0], alpha=0.2)
    array([False, False,  True])
    """

    scores: Floats
    weight: Floats

    def __post_init__(self) -> None:
        scores = np.asarray(self.scores, dtype=np.float64)
        weight = np.asarray(self.weight, dtype=np.float64)
        if scores.ndim != 1 or scores.shape != weight.shape or not len(scores):
            raise ValueError(
                f"Got calibration scores of shape {scores.shape} and weights of shape {weight.shape}, expected (m,) "
                "for both, m >= 1. Pass one score and one weight per calibration row."
            )
        if not np.isfinite(scores).all():
            raise ValueError(
                f"Got {np.sum(~np.isfinite(scores))} NaN or infinite calibration scores out of {len(scores)}, "
                "expected finite ones. Leave those rows out."
            )
        if not (np.isfinite(weight) & (weight > 0)).all():
            raise ValueError(
                f"Got calibration weights from {weight.min()} to {weight.max()}, expected finite ones above zero. "
                "Leave out rows that do not count."
            )
        order = np.lexsort((weight, scores))  # ties are ordered too: sums do not depend on the order of rows
        object.__setattr__(self, "scores", scores[order])
        object.__setattr__(self, "weight", weight[order])

    @classmethod
    def from_rows(cls, scores: ArrayLike, weight: ArrayLike | None = None, group: Any = None) -> Self:
        """Weigh each row, or each group of rows, equally.

        Parameters
        ----------
        scores : array-like of shape (m,)
            Anomaly scores of held-out rows.
        weight : array-like of shape (m,), optional
            Weight of each row; 1 by default.
        group : array-like of shape (m,), optional
            The group (drive, machine, patient, ...) of each row. Each group then counts as *one* observation, divided
            among its rows in proportion to their weights.
        """
        s = np.asarray(scores, dtype=np.float64)
        w = np.ones(s.shape) if weight is None else np.asarray(weight, dtype=np.float64)
        rows = cls(s, w)
        if group is None:
            return rows
        inverse = np.unique(np.asarray(group), return_inverse=True)[1]
        if inverse.shape != s.shape:
            raise ValueError(
                f"Got groups of shape {inverse.shape} for {s.size} scores, expected one per score. Pass matching rows."
            )
        return cls(s, w / np.bincount(inverse, weights=w)[inverse])

    @property
    def evidence(self) -> float:
        """The number of calibration rows (or groups): the sum of the weights."""
        return float(self.weight.sum())

    def p_values(self, scores: ArrayLike, tail: str = "conformal") -> Floats:
        """Probability that a normal row scores at least as high.

        Parameters
        ----------
        scores : array-like of shape (n,)
            Anomaly scores of new rows.
        tail : {"conformal", "pareto"}, default="conformal"
            ``"conformal"`` needs no assumption, and is at least 1 / (1 + evidence). ``"pareto"`` *extrapolates* below
            that: beyond the highest score that a total weight of one reaches, the 1 of the new row is multiplied by
            the tail of a generalised Pareto distribution [1]_.

        Returns
        -------
        ndarray of shape (n,)
            In (0, 1], falling as scores rise.

        Raises
        ------
        ValueError
            For a score that is NaN; for ``tail="pareto"`` with evidence of fewer than 20 rows (or groups).

        Notes
        -----
        The tail is fitted to the scores above the 90th percentile, by probability-weighted moments [2]_: with l1 the
        mean excess and l2 half the mean difference of two excesses, shape = 2 - l1 / l2. The shape is at least that of
        an exponential tail: a bounded tail would call scores beyond its end impossible. One standard error is added,
        because the plain estimate raises several times the allowed alarms. With 1,000 rows and alpha = 0.1 / (n + 1),
        false alarms are then 0.3 of the allowed number for exponential scores, almost none for normal ones, and 1.4
        times the allowed number for Student's t with three degrees of freedom.

        For any true tail, ``"pareto"`` is at most ``"conformal"`` and at most 1 / (1 + evidence) below it, so
        p <= alpha has probability at most alpha + 1 / (1 + evidence); for alpha of at least 2 / (1 + evidence) both
        flag the same rows. Both are equal if calibration scores are tied from the 90th percentile up.

        References
        ----------
        .. [1] J. Pickands (1975), Statistical inference using extreme order statistics, Annals of Statistics 3.
        .. [2] J. R. M. Hosking, J. R. Wallis (1987), Parameter and quantile estimation for the generalized Pareto
           distribution, Technometrics 29.
        """
        if tail not in ("conformal", "pareto"):
            raise ValueError(f"Got tail={tail!r}, expected 'conformal' or 'pareto'. Pass one of the two.")
        s = np.asarray(scores, dtype=np.float64)
        if np.isnan(s).any():
            raise ValueError(
                f"Got NaN in {np.isnan(s).sum()} of {s.size} scores, expected numbers. Leave those rows out."
            )
        reached = np.append(np.cumsum(self.weight[::-1])[::-1], 0.0)  # (m + 1,) evidence from each score up
        at_least = reached[np.searchsorted(self.scores, s)]
        counted = 1 + at_least
        if tail == "pareto":
            if self.evidence < _MIN_FOR_TAIL * (1 - SLACK):
                raise ValueError(
                    f"Got tail='pareto' with {self.evidence:g} calibration rows (or groups), expected at least "
                    f"{_MIN_FOR_TAIL} to fit a tail. Calibrate with more, or pass tail='conformal' (--tail)."
                )
            last = self.scores[np.flatnonzero(reached >= 1 - SLACK)[-1]]
            counted = np.where(s > last, np.maximum(self._fading(s, last), at_least), counted)
        return np.maximum(counted / (1 + reached[0]), np.finfo(np.float64).tiny)

    def _fading(self, s: Floats, last: float) -> Floats:
        """Probability that a row exceeds ``s``, given that it exceeds ``last``, by a generalised Pareto tail."""
        begin = np.searchsorted(np.cumsum(self.weight), (1 - _TAIL_SHARE) * self.evidence * (1 - SLACK))
        threshold = self.scores[begin]
        above = self.scores > threshold
        excess, w = self.scores[above] - threshold, self.weight[above]
        total = w.sum()
        mean = w @ excess / total if above.any() else 0.0
        if mean == 0:
            return np.ones_like(s)
        pairs = total**2 - w @ np.minimum(w, 1)  # a row of weight two pairs with itself
        half_difference = (w * excess) @ (2 * np.cumsum(w) - w - total) / pairs if pairs > 0 else 0.0
        shape = max(2 - mean / half_difference, 0.0) if half_difference > 0 else 0.0
        shape = min(shape + math.sqrt(4 / 3 / total), 0.9)  # error of an exponential tail; the mean is finite below 1
        with np.errstate(over="ignore"):
            steps = np.maximum(np.append(s, last) - threshold, 0) / mean
            logs = np.log1p(steps * shape / (1 - shape))
        return np.exp((logs[-1] - logs[:-1]) / shape).reshape(s.shape)

    def alarms(
        self,
        scores: ArrayLike,
        *,
        alpha: float | None = None,
        fdr: float | None = None,
        per_hour: float | None = None,
        rows_per_hour: float | None = None,
        tail: str = "conformal",
        storey: bool = False,
    ) -> Flags:
        """Flag rows for exactly one target of false alarms; bool, shape ``(n,)``.

        Parameters
        ----------
        scores : array-like of shape (n,)
            Anomaly scores of new rows.
        alpha : float in (0, 1), optional
            At most this share of normal rows is flagged: p <= alpha.
        fdr : float in (0, 1), optional
            At most this share of the rows flagged in this batch is normal, on average over batches; see
            `anomalyvae.alarms.false_discovery`.
        per_hour : float, optional
            At most so many normal rows are flagged in an hour of recording: p <= per_hour / rows_per_hour. Alarms that
            merge neighbouring windows are fewer.
        rows_per_hour : float, optional
            With ``per_hour``: rows in an hour of recording, 3600 s / the step between windows.
        tail : {"conformal", "pareto"}, default="conformal"
            See `p_values`. ``"pareto"`` extrapolates for targets below 1 / (1 + evidence).
        storey : bool, default=False
            With ``fdr``; see `anomalyvae.alarms.false_discovery`.

        Raises
        ------
        ValueError
            For no or several targets, and for a target out of range.

        Warns
        -----
        UserWarning
            If nothing is flagged and the target needs smaller p-values than this calibration can give (with ``fdr``,
            for a single anomalous row in a batch of this size).
        """
        target = AlarmTarget.of({"alpha": alpha, "fdr": fdr, "per_hour": per_hour})
        if (per_hour is None) != (rows_per_hour is None):
            raise ValueError(
                f"Got {target} with rows_per_hour={rows_per_hour}, expected per_hour and rows_per_hour together or "
                "neither. Pass rows_per_hour = 3600 / (step between rows in seconds) with per_hour alone."
            )
        if rows_per_hour is not None and not rows_per_hour > 0:
            raise ValueError(f"Got rows_per_hour={rows_per_hour}, expected a number above 0. Pass 3600 / (step in s).")
        if storey and fdr is None:
            raise ValueError(f"Got storey=True with {target}, expected it with fdr. Pass fdr, or storey=False.")
        p, smallest = self.p_values(scores, tail), float(self.p_values(np.inf, tail))
        return flags(p, target, self.evidence, smallest, rows_per_hour, storey, tail)


def few_calibrate(evidence: float, unit: str, of: str | None = None) -> str | None:
    """What so few calibration rows or groups cannot show, in plain words; None if they support the threshold.

    Parameters
    ----------
    evidence : float
        How many calibrate: `Calibration.evidence`.
    unit : str
        What they are, in the plural, such as ``"groups"``.
    of : str, optional
        What they are parts of, and what new rows come in; by default ``unit``.
    """
    of = unit if of is None else of
    least = 1 / (1 + evidence)
    if least <= AUTO_FALSE_ALARMS * (1 + SLACK):
        return None
    count = f"{evidence:.0f}"
    if count == "1":
        unit = re.sub(r"(?<=stretch)es|s\b", "", unit, count=1)
    return (
        f"{count} {unit} can show no p-value below {least:.2g}, so {AUTO_FALSE_ALARMS:.0%} false alarms in new "
        f"{of} are not guaranteed: the threshold is an estimate, and flagged rows can have larger p-values. The "
        f"guarantee takes {ENOUGH} {of} that are held out."
    )


def caution_of(description: Mapping[str, Any]) -> str | None:
    """`few_calibrate` for a saved model: the card of a bundle, or the metadata of an ONNX file."""
    evidence, training = description["calibration"]["evidence"], description["training"]
    if description["windowing"] is not None:
        return few_recordings(evidence, training)
    return few_calibrate(evidence, calibrated_by(training))


def calibrated_by(training: Mapping[str, Any]) -> str:
    """What calibrates a model, in the plural; ``training`` is what its card says of the training rows."""
    if training.get(STRETCHES):
        return "stretches of time"
    units = {None: "rows (or groups)", 0: "rows"}  # older models do not say
    return units.get(training.get("groups"), "groups")


def few_recordings(evidence: float, training: Mapping[str, Any]) -> str | None:
    """`few_calibrate` for a model of recordings; ``training`` is what its card says of the training rows."""
    unit = "stretches of recordings" if training.get(STRETCHES) else "recordings"
    return few_calibrate(evidence, unit, of="recordings")


def auto_threshold(held_out: Floats, weight: Floats, alpha: float = AUTO_FALSE_ALARMS) -> float:
    """The score that a new normal row exceeds with probability ``alpha``, from m held-out scores and their weights.

    It is the ceil((m + 1)(1 - alpha))-th smallest score (Vovk et al. 2005, split conformal prediction). With too few
    rows for ``alpha``, it is the largest score: the probability is then 1 / (m + 1).
    """
    order = np.argsort(held_out)
    reached = np.cumsum(weight[order])
    wanted = (reached[-1] + 1) * (1 - alpha)
    index = int(np.searchsorted(reached, wanted * (1 - 1e-12)))
    return float(held_out[order[min(index, len(held_out) - 1)]])


def contamination_threshold(scores: Floats, weight: Floats, contamination: float, ties: Floats | None = None) -> float:
    """The score that the share ``contamination`` of all rows passed to ``fit`` exceeds.

    Scores up to ``ties[i]`` are equal to ``scores[i]`` but for rounding; equal rows are flagged together. The threshold
    lies half-way between the lowest flagged score and the next below it, so that rounding does not change the flags.
    """
    value, first, inverse = np.unique(scores, return_index=True, return_inverse=True)
    limit = value if ties is None else ties[first]
    begins = np.append(True, value[1:] > limit[:-1])  # of values that tie, the lowest
    ends = np.append(begins[1:], True)
    group = np.cumsum(begins) - 1
    reached = np.cumsum(np.bincount(group[inverse], weights=weight)[::-1])  # weight of the rows at or above each group
    flagged = int(np.searchsorted(reached, contamination * reached[-1] * (1 + 1e-12), side="right"))
    if flagged == 0:
        return float(limit[-1])
    last, next_below = value[begins][-flagged], value[ends][-min(flagged + 1, len(reached))]
    middle = 0.5 * (last + next_below)
    return float(middle if middle < last else next_below)  # adjacent floats have no middle
