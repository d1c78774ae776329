"""Training rows: equal rows merged, and rows held out from training. `anomalyvae.detector.validation` reads them."""

import hashlib
import warnings
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalyvae.calibration import ENOUGH
from anomalyvae.detector.copies import copies_up_to_rounding

Floats = NDArray[np.float64]

_FOLDS = 3
_MORE_FOLDS, _VERY_FEW_ROWS = 8, 150  # below, a network without a third of the rows says little of one with all
_FEW_ROWS, _FEW_GROUPS = 5000, 10  # below these, the threshold is cross-fitted
_SHARE = 0.2  # held out by validation_fraction="auto", where it splits
_MIN_HELD_OUT = 5  # fewer rows are not enough to stop training or to set a threshold
_FEWEST = 3  # distinct rows for folds: of two, a network without one would learn a single row
_IN_COMMON = 15  # distinct rows; fewer have a common factor by chance
_RECURRING_ROWS, _RECURRING_GROUPS = 8, 3  # content in so many rows (or groups) is expected in new rows
_REPEATS = 0.05  # of the rows; where fewer repeat others, it makes no difference how they are held out
_PER_VALUE = 4  # distinct rows, at least, of a column with few values
_COMPARED = 1000  # rows
_MOST_EQUAL = 1.5  # times as many equal pairs as expected; cells that depend on each other give up to that, copies more
_DOMINATING = 0.6  # a group with a larger share of the rows is divided: the others are too few to learn from


@dataclass(frozen=True)
class Rows:
    """Distinct rows, ordered by content, so that nothing depends on their order in ``X``."""

    x: Floats  # (n, d)
    weight: Floats  # (n,), how often each row counts; the sum is the number of rows as given
    group: NDArray[np.int64] | None = None  # (n,), a number per group
    selected: NDArray[np.bool_] | None = None  # (n,), in X because they scored high: learned, never held out
    recurring: NDArray[np.bool_] | None = None  # (n,), given so often that new rows will equal them: never held out
    start: NDArray[np.int64] | None = None  # (n,), of windows that overlap: when each begins, in samples
    copies: Floats | None = None  # (n,), how often each was given, where weights say something else

    def __len__(self) -> int:
        return len(self.x)

    def take(self, chosen: NDArray[Any]) -> Self:
        """The rows of a mask or of indices."""
        marks = (self.group, self.selected, self.recurring, self.start, self.copies)
        parts = (None if mark is None else mark[chosen] for mark in marks)
        return type(self)(self.x[chosen], self.weight[chosen], *parts)

    @property
    def is_reference(self) -> NDArray[np.bool_]:
        """Rows that are a sample of normal rows, shape ``(n,)``: those that were not selected."""
        return np.ones(len(self), dtype=bool) if self.selected is None else ~self.selected

    @property
    def is_recurring(self) -> NDArray[np.bool_]:
        """Rows that new rows will equal, shape ``(n,)``."""
        return np.zeros(len(self), dtype=bool) if self.recurring is None else self.recurring

    @property
    def has_copies(self) -> NDArray[np.bool_]:
        """Rows that equal another one, shape ``(n,)``."""
        inverse = equal_rows(np.ascontiguousarray(self.x).view(np.uint64))[1]
        return np.asarray(np.bincount(inverse)[inverse] > 1)

    @property
    def may_be_held_out(self) -> NDArray[np.bool_]:
        """Rows that a network can do without, shape ``(n,)``: neither selected nor recurring."""
        return self.is_reference & ~self.is_recurring

    def equal_by_chance(self, category: NDArray[np.bool_]) -> bool:
        """Whether normal rows equal each other by chance, as rows of categories, counts or rounded numbers do.

        Copies make more pairs of rows equal than chance does, which the pairs that differ in one cell tell, in two
        ways. Without groups, numbers of a fixed step are about as often equal as one step apart. And if each cell,
        a ``category`` (a mask of shape ``(d,)``) or a number of few values, is equal independently of the others, then
        ``equal * two[i, j] = one[i] * one[j]``, where ``one[i]`` pairs differ in cell i alone, and ``two[i, j]`` in
        two cells.
        """
        if category.all() and len(category) < 3:  # two often depend on each other
            return True
        given = np.round(self.weight if self.copies is None else self.copies).clip(1, _RECURRING_ROWS)
        if not category.all() and (self.group is not None or given.sum() < (1 + _REPEATS) * len(self)):
            return False
        some = np.random.default_rng(0).permutation(len(self))[:_COMPARED]
        cells, times = np.nan_to_num(self.x[some], nan=np.inf).T, given[some]
        equal = (given * (given - 1)).sum() / 2 * (len(some) / len(self)) ** 2
        number = np.zeros((len(some), len(some)), dtype=np.int64)
        for column in cells:
            number += column[:, None] != column
        left, right = np.nonzero(np.triu(number == 1))
        pairs = times[left] * times[right]
        one = np.array([pairs @ (column[left] != column[right]) for column in cells])
        if all(_has_few_values(column) for column in self.x[:, ~category].T):
            two = times @ (number == 2) @ times / 2
            if equal * two <= _MOST_EQUAL * (one.sum() ** 2 - np.square(one).sum()) / 2:
                return True
        steps = [pairs @ _a_step_apart(column, left, right) for column in cells[~category]]
        return bool(2 * equal <= _MOST_EQUAL * max(steps, default=0.0))

    def balanced(self) -> Self:
        """The rows, with recurring ones weighing no more than all others together, which they would drown out."""
        often = self.is_recurring
        most, others = self.weight[often].sum(), self.weight[~often].sum()
        if not 0 < others < most:
            return self
        return replace(self, weight=np.where(often, self.weight * (others / most), self.weight))

    def without(self, held_out: NDArray[np.bool_]) -> Self:
        """The rows outside a mask; recurring rows lose the same share of their weight as the others."""
        kept = self.take(~held_out)
        if self.group is not None or self.recurring is None:
            return kept
        others = ~self.is_recurring
        share = kept.weight[~kept.is_recurring].sum() / self.weight[others].sum() if others.any() else 1.0
        return replace(kept, weight=np.where(kept.is_recurring, kept.weight * share, kept.weight))

    def in_copies(self) -> Self:
        """Rows that may be held out, once for each time that they were given, up to eight times."""
        given = np.round(self.weight if self.copies is None else self.copies)
        times = np.where(self.may_be_held_out, given.clip(1, _MORE_FOLDS), 1)
        each = replace(self, weight=self.weight / times, copies=None if self.copies is None else self.copies / times)
        return each.take(np.repeat(np.arange(len(self)), times.astype(np.int64)))

    def merged(self) -> Self:
        """The same rows, with equal ones of one group as one."""
        return self._merged([self.x, *(part for part in (self.group, self.selected) if part is not None)])

    def by_content(self) -> Self:
        """Distinct rows whatever their group; one is selected if any of those equal to it is."""
        return self._merged([self.x])

    def _merged(self, key: list[NDArray[Any]]) -> Self:
        first, inverse = equal_rows(np.ascontiguousarray(np.column_stack(key)).view(np.uint64))
        weight = np.bincount(inverse, self.weight).astype(np.float64)
        copies = None if self.copies is None else np.bincount(inverse, self.copies).astype(np.float64)
        group = None if len(key) == 1 or self.group is None else self.group[first]
        selected, recurring = (np.bincount(inverse, marks) > 0 for marks in (~self.is_reference, self.is_recurring))
        rows = replace(self.take(first), weight=weight, group=group, copies=copies)
        return replace(rows, selected=selected, recurring=recurring)

    def sha256(self) -> str:
        """A checksum of rows, weights, groups and selection."""
        digest = hashlib.sha256(repr(self.x.shape).encode())
        for part in (self.x, self.weight, self.group, self.selected):
            if part is not None:
                digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()


def distinct_rows(
    x: Floats, weight: Floats, groups: Any = None, selected: Any = None, up_to_rounding: bool = False
) -> Rows:
    """Merge equal rows into one with their total weight, and order rows by content.

    So a row given twice equals a row of weight two, both sides of a split never share a row, and a fit does not depend
    on the order of the rows. Rows of weight zero, and rows in which every cell is missing, are left out. Without
    groups, rows that are equal ``up_to_rounding`` can be merged, too.

    A row is recurring if it is given eight times or more, counted in rows of the usual number; with groups, if three
    groups or more have it. Whole-number weights are numbers of rows; a factor common to 15 rows or more is left out, as
    a table given twice says no more than once. Other weights say how much rows count, not how often they come. They are
    scaled so that they add up to the number of equally weighted rows that are worth as much, ``sum(w)^2 / sum(w^2)``
    (Kish 1965, Survey Sampling).
    """
    kept = (weight > 0) & ~np.isnan(x).all(axis=1)
    x, weight = x[kept], weight[kept]
    group = None if groups is None else pd.factorize(np.asarray(groups)[kept], sort=True)[0].astype(np.int64)
    chosen = None if selected is None or not np.any(selected) else np.asarray(selected, dtype=bool)[kept]
    content = np.where(np.isnan(x), np.nan, x + 0.0)  # one bit pattern for NaN, and -0.0 becomes 0.0
    key = [content, *(part for part in (group, chosen) if part is not None)]
    first, inverse = equal_rows(np.ascontiguousarray(np.column_stack(key)).view(np.uint64))
    if up_to_rounding and group is None:
        merged = copies_up_to_rounding(np.column_stack([part[first] for part in key]))
        if merged is not None:
            first, inverse = first[np.unique(merged, return_index=True)[1]], merged[inverse]
    given = counts_of(weight)
    copies = np.bincount(inverse, weights=given).astype(np.float64)
    factor = float(np.gcd.reduce(copies.astype(np.int64))) if len(copies) >= _IN_COMMON else 1.0
    rows = replace(Rows(content, weight, group, chosen).take(first), weight=copies / factor)
    if not are_counts(weight):
        worth = np.bincount(inverse, weights=weight).astype(np.float64) * (weight.sum() / np.square(weight).sum())
        rows = replace(rows, weight=worth / factor, copies=copies / factor)
    usual = max(float(np.median(given)) if len(given) else 1.0, factor)
    recurring = _recurring(rows, copies, usual)
    return replace(rows, recurring=recurring) if recurring.any() else rows


def are_counts(weight: Floats) -> bool:
    """Whether weights say how many rows each row is: whole numbers, or one for all."""
    whole = (weight < 2**31).all() and (np.abs(weight - np.round(weight)) <= 1e-9 * weight).all()
    return bool(whole or (weight == weight[:1]).all())


def counts_of(weight: Floats) -> Floats:
    """How many rows each row is, shape ``(n,)``: what whole weights say that differ, else one; zero for none."""
    given = weight[weight > 0]
    differ = (given != given[:1]).any()
    return np.round(weight) if differ and are_counts(given) else (weight > 0).astype(np.float64)


def _recurring(rows: Rows, counts: Floats, usual: float) -> NDArray[np.bool_]:
    """Which rows have a content that eight rows of the usual count have or, with groups, three groups."""
    first, inverse = equal_rows(np.ascontiguousarray(rows.x).view(np.uint64))
    if rows.group is None:
        often = np.bincount(inverse, weights=counts) >= _RECURRING_ROWS * usual * (1 - 1e-9)
    else:
        pairs = np.unique(np.column_stack([inverse, rows.group]), axis=0)
        often = np.bincount(pairs[:, 0], minlength=len(first)) >= _RECURRING_GROUPS
    return np.asarray(often[inverse])


def equal_rows(keyed: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """As `numpy.unique` of rows: the index of the first of each set of equal rows, and the set of each row."""
    mark = fingerprint(keyed)
    order = np.argsort(mark, kind="stable")
    keyed, mark = keyed[order], mark[order]
    new = np.empty(len(order), dtype=bool)
    new[:1] = True
    new[1:] = (mark[1:] != mark[:-1]) | (keyed[1:] != keyed[:-1]).any(axis=1)
    inverse = np.empty(len(order), dtype=np.int64)
    inverse[order] = np.cumsum(new) - 1
    return order[new], inverse


def fingerprint(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A 64-bit hash of the bits of each row (multiply, mix, add; overflow wraps)."""
    odd = np.random.default_rng(0).integers(0, 2**63, bits.shape[1:], dtype=np.uint64) | np.uint64(1)
    result = np.zeros(len(bits), dtype=np.uint64)
    for column in range(bits.shape[1]):
        cell = bits[:, column]
        mixed = (cell ^ (cell >> np.uint64(32))) * odd[column]
        result += mixed ^ (mixed >> np.uint64(29))
    return result


def _has_few_values(column: Floats) -> bool:
    """Whether many rows share each value but the most frequent one, such as 0 where a measurement is rare."""
    times = np.unique(column, return_counts=True)[1]
    return bool((len(times) - 2) * _PER_VALUE <= len(column) - times.max())


@np.errstate(all="ignore")  # cells may be huge
def _a_step_apart(column: Floats, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which pairs of rows have cells as near each other as the nearest values of the column are."""
    away = np.abs(column[left] - column[right])
    return (away > 0) & (away < 1.5 * np.diff(np.unique(column)).min(initial=np.inf))


def hold_out(rows: Rows, fraction: float | str, rng: np.random.RandomState) -> tuple[Rows, Rows | None, Rows | None]:
    """Split rows into those that are learned, those that stop training, and those that set the threshold.

    The last two are half of the share ``fraction`` each, or None where there are too few rows (or groups). With
    ``"auto"`` they are a tenth each; of few groups up to a third set the threshold, until they show a p-value of 5 %.
    Whole groups are held out: neighbouring windows of a recording overlap. Selected rows are learned. Recurring rows
    are learned, and set the threshold too: without groups, with the share of their weight that is held out of the other
    rows; with groups, those in groups that are held out.
    """
    block, may = _blocks(rows), rows.may_be_held_out
    names = rng.permutation(np.unique(block[may]))
    share = _SHARE if isinstance(fraction, str) else fraction
    per_part = round(share / 2 * len(names))
    if rows.group is not None and share > 0:
        per_part = max(per_part, 1)
    calibrating = per_part
    if rows.group is not None and isinstance(fraction, str):
        calibrating = max(per_part, min(ENOUGH, len(names) // 3))
    if per_part == 0 or len(names) < per_part + calibrating + 1:
        return rows, None, None
    stopping = may & np.isin(block, names[:per_part])
    calibration = may & np.isin(block, names[per_part : per_part + calibrating])
    if min(stopping.sum(), calibration.sum()) < _MIN_HELD_OUT:
        return rows, None, None
    learned_too = rows.is_reference & rows.is_recurring  # by the network, and set the threshold all the same
    weight = rows.weight
    if rows.group is None:
        weight = np.where(learned_too, weight * per_part / len(names), weight)
    else:
        learned_too &= np.isin(rows.group, rows.group[calibration])
    return (
        rows.take(~(stopping | calibration)),
        rows.take(stopping),
        replace(rows, weight=weight).take(calibration | learned_too),
    )


def cross_folds(rows: Rows, rng: np.random.RandomState, more: bool = False) -> NDArray[np.int64] | None:
    """Fold of each row, one of 3, for fewer than 5,000 rows or 10 groups; one of 8 for fewer than 150, or for ``more``.

    Selected and recurring rows are in no fold, -1: all networks learn them. The folds have similar numbers of rows.
    Returns None where one split is enough, or where there are too few rows for folds.
    """
    may = rows.may_be_held_out
    names, inverse = np.unique(_blocks(rows)[may], return_inverse=True)
    few = len(inverse) < _FEW_ROWS or (rows.group is not None and len(np.unique(rows.group[may])) < _FEW_GROUPS)
    enough = len(inverse) >= _FEWEST or rows.is_recurring.any()
    if not few or len(names) < 2 or not enough:
        return None
    folds = min(_MORE_FOLDS if more or len(inverse) < _VERY_FEW_ROWS else _FOLDS, len(names))
    dealt = rng.permutation(np.arange(len(names)) % folds)
    size = np.bincount(inverse)
    if (size != size[0]).any():  # the largest first, each to the smallest fold
        filled = np.zeros(folds, dtype=np.int64)
        for name in np.lexsort((dealt, -size)):
            dealt[name] = filled.argmin()
            filled[dealt[name]] += size[name]
    fold = np.full(len(rows), -1, dtype=np.int64)
    fold[may] = dealt[inverse]
    return fold


def _blocks(rows: Rows) -> NDArray[np.int64]:
    """Rows with one number are held out together, shape ``(n,)``: a group, or a row without one.

    A group with most of the rows is divided into its rows, with a warning: without it, there is nothing to learn from.
    """
    own = np.arange(len(rows))
    if rows.group is None:
        return own
    size = np.bincount(rows.group[rows.may_be_held_out], minlength=rows.group.max() + 1)
    largest = int(size.argmax())
    if size[largest] <= _DOMINATING * size.sum() or (size > 0).sum() < 2:
        return rows.group
    warnings.warn(
        f"One of {len(size)} groups has {size[largest]:,} of the {size.sum():,} distinct rows, too many to train "
        "without it. Its rows are divided at random, so the threshold says little about rows of a new group. Record "
        "more groups, or shorten this one.",
        stacklevel=6,
    )
    return np.where(rows.group == largest, len(size) + own, rows.group)
