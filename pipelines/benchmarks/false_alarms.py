"""Measure the share of new normal rows that the default threshold flags, where 5 % is promised.

Run::

    python pipelines/benchmarks/false_alarms.py            # or: make bench-false-alarms

Rows come from four distributions in turn, and are repeated, weighted or grouped in the ways that users' rows are. New
rows come from the same distribution: with the same share of repeats, by the same weights, from new groups. Most levels
of a category are rare, as most words of a text are: new rows have levels that no row before had. Windows of
20 samples overlap, of signals whose samples are correlated, without groups. Each line shows the rate over all fits,
what exact calibration would give, and the interval that 95 % of rates keep. Exact calibration sets the threshold by as
many scores of new rows, from the fitted model itself. It gives 5 %, or less: of 50 rows it can flag no more than 2 in
51, and where equal rows have the score at which 5 % is reached, no threshold comes nearer without flagging them all. So
the interval reaches from there to 5 %, and further by chance on both sides. Of groups, and windows that overlap, the
promise is an upper bound.

One line in twenty lies outside its interval by chance. So the exit code is 1 if a line lies outside the interval that
all lines together keep with 95 %.
"""

import argparse
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.signal import lfilter

from anomalyvae import VAEOutlierDetector
from anomalyvae.calibration import AUTO_FALSE_ALARMS, auto_threshold

Floats = NDArray[np.float64]
NEW, DRAWS = 4000, 200


class Case(NamedTuple):
    """Rows to learn, the arguments of ``fit`` beside them, and new rows."""

    rows: Floats | pd.DataFrame
    more: dict[str, Any]
    new: Floats | pd.DataFrame
    input_shape: tuple[int, int] | None = None
    weight: Floats | None = None  # that exact calibration gives each row; None: its groups give an upper bound only


def normal_rows(kind: int, n: int, rng: np.random.Generator) -> Floats:
    """Rows of a normal, a correlated, a heavy-tailed or a clustered distribution."""
    if kind % 4 == 0:
        return rng.normal(size=(n, 4))
    if kind % 4 == 1:
        mixing = np.random.default_rng(5).normal(size=(2, 8))
        return rng.normal(size=(n, 2)) @ mixing + 0.2 * rng.normal(size=(n, 8))
    if kind % 4 == 2:
        return rng.standard_t(3, size=(n, 5))
    centres = np.array([[0.0, 0, 0], [5, 5, 0], [-5, 3, 4]])
    return centres[rng.integers(0, 3, n)] + rng.normal(size=(n, 3))


def repeated(n: int, share: float) -> Callable[[int], Case]:
    """Rows of which a share is one and the same."""

    def case(seed: int) -> Case:
        rng = np.random.default_rng(seed)
        idle = normal_rows(seed, 1, rng)

        def draw(count: int) -> Floats:
            return np.where(rng.random((count, 1)) < share, idle, normal_rows(seed, count, rng))

        return Case(draw(n), {}, draw(NEW), weight=np.ones(n))

    return case


def with_categories(n: int, levels: int, columns: int = 1, numbers: bool = True) -> Callable[[int], Case]:
    """Rows with categories of so many levels, whose frequencies fall as one over their rank (Zipf 1949)."""

    def case(seed: int) -> Case:
        rng = np.random.default_rng(seed)

        def draw(count: int) -> pd.DataFrame:
            table = pd.DataFrame(normal_rows(seed, count, rng) if numbers else np.empty((count, 0))).add_prefix("x")
            kind = rng.integers(0, 3, count)  # of which the levels say something
            for column in range(columns):
                rank = (float(levels // 3) ** rng.random(count)).astype(int)
                table[f"category{column}"] = [f"{a}-{b}" for a, b in zip(kind, rank, strict=True)]
            return table

        return Case(draw(n), {}, draw(NEW), weight=np.ones(n))

    return case


def counts(n: int) -> Callable[[int], Case]:
    """Rows of small counts, many of which are equal."""

    def case(seed: int) -> Case:
        rng = np.random.default_rng(seed)
        rows, new = (rng.poisson([1.0, 2.0, 3.0, 0.5], size=(count, 4)).astype(float) for count in (n, NEW))
        return Case(rows, {}, new, weight=np.ones(n))

    return case


def rounded(n: int, *steps: float) -> Callable[[int], Case]:
    """Rows of numbers in steps of these sizes, many of which are equal; of three, the second is about a sum."""

    def case(seed: int) -> Case:
        rng = np.random.default_rng(seed)
        mixing = np.array([[1, 1, 0], [0, 1, 1]])[:, : len(steps)]
        rows = np.round(rng.normal(size=(n + NEW, 2)) @ mixing / steps)
        return Case(rows[:n], {}, rows[n:], weight=np.ones(n))

    return case


def weighted(n: int, weights: Callable[[int, np.random.Generator], Floats]) -> Callable[[int], Case]:
    """Rows with weights; new rows are as likely as their weights say, which here do not depend on the row."""

    def case(seed: int) -> Case:
        rng = np.random.default_rng(seed)
        w = weights(n, rng)
        worth = w * (w.sum() / np.square(w).sum())  # as many equally weighted rows (Kish)
        return Case(normal_rows(seed, n, rng), {"sample_weight": w}, normal_rows(seed, NEW, rng), weight=worth)

    return case


def grouped(sizes: Callable[[np.random.Generator], NDArray[np.int64]]) -> Callable[[int], Case]:
    """Groups that differ in level."""

    def case(seed: int) -> Case:
        rng = np.random.default_rng(seed)

        def draw(lengths: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
            place = np.repeat(np.arange(len(lengths)), lengths)
            rows = normal_rows(seed, len(place), rng)
            return rows + 0.5 * rng.normal(size=(len(lengths), rows.shape[1]))[place], place

        rows, place = draw(sizes(rng))
        return Case(rows, {"groups": place}, draw(np.full(400, 10))[0])

    return case


def equal_groups(count: int, size: int) -> Callable[[int], Case]:
    """As `grouped`, each of the same size."""
    return grouped(lambda rng: np.full(count, size))


def overlapping(ticks: int, stride: int) -> Callable[[int], Case]:
    """Windows of two correlated signals, which overlap."""

    def case(seed: int) -> Case:
        rng = np.random.default_rng(seed)

        def draw(ticks: int, stride: int) -> Floats:
            signals = lfilter([1.0], [1.0, -0.9], rng.normal(size=(ticks, 2)), axis=0)
            windows = np.lib.stride_tricks.sliding_window_view(signals, 20, axis=0)[::stride]
            return np.ascontiguousarray(windows).reshape(len(windows), -1)

        return Case(draw(ticks, stride), {}, draw(7 * NEW, 7), (2, 20))

    return case


def cases() -> Iterator[tuple[str, int, Callable[[int], Case]]]:
    """The name of each line, how many fits it takes, and its cases by seed."""
    for n, fits in ((20, 40), (50, 32), (100, 24), (200, 24), (500, 16), (1000, 12), (2000, 8), (5000, 8)):
        yield f"{n} rows", fits, repeated(n, 0.0)
    for n in (50, 300, 1000, 6000):
        for share in (0.3, 0.5, 0.8, 0.95):
            yield f"{n} rows, {share:.0%} repeats", 24 if n < 1000 else 12 if n < 6000 else 8, repeated(n, share)
    for n in (200, 1000, 5000):
        for levels in (50, 500):
            yield f"{n} rows, a category of {levels}", 16 if n < 1000 else 8, with_categories(n, levels)
            for columns in (1, 3):
                categories = with_categories(n, levels, columns, numbers=False)
                yield f"{n} rows, {columns} of {levels} levels alone", 16 if n < 1000 else 8, categories
    for n in (200, 1000, 5000):
        yield f"{n} rows of small counts", 16 if n < 1000 else 8, counts(n)
        for steps in ((0.01,), (0.5, 1.0, 0.3)):
            yield f"{n} rows, {len(steps)} with few digits", 16 if n < 1000 else 8, rounded(n, *steps)
    ways: dict[str, Callable[[int, np.random.Generator], Floats]] = {
        "constant 1000": lambda n, rng: np.full(n, 1000.0),
        "constant 0.001": lambda n, rng: np.full(n, 0.001),
        "exponential": lambda n, rng: rng.exponential(size=n),
        "log-normal": lambda n, rng: rng.lognormal(size=n),
    }
    for name, weights in ways.items():
        yield f"400 rows, weights {name}", 16, weighted(400, weights)
    yield "30 groups of 30", 8, equal_groups(30, 30)
    yield "30 groups of 1 to 400", 8, grouped(lambda rng: rng.integers(1, 401, 30))
    for count, size in ((10, 600), (20, 300), (60, 100)):  # one split: so many rows are not cross-fitted
        yield f"{count} groups of {size}", 8, equal_groups(count, size)
    yield "groups of 399 and 1", 8, grouped(lambda rng: np.array([399, 1]))
    for ticks, stride in ((1000, 1), (3000, 1), (3000, 3), (8000, 1)):
        yield f"{ticks} samples, a window each {stride}", 12, overlapping(ticks, stride)


def exact(case: Case, detector: VAEOutlierDetector, scores: Floats, seed: int) -> tuple[float, float]:
    """The expected rate of one fit by exact calibration, and its variance, given the scores of the new rows."""
    known = detector.calibration_.evidence
    if case.weight is None:
        rate = max(math.floor((known + 1) * AUTO_FALSE_ALARMS), 1) / (known + 1)
        return rate, rate * (1 - rate) * (1 / (known + 2) + 1 / NEW)
    weight = case.weight[: round(known / case.weight.sum() * len(case.weight))]  # fewer, if a part is held out
    rng = np.random.default_rng(seed)
    drawn = [auto_threshold(rng.choice(scores, len(weight)), weight) for _ in range(DRAWS)]
    rates = np.array([(scores > threshold).mean() for threshold in drawn])
    return float(rates.mean()), float(rates.var() + rates.mean() * (1 - rates.mean()) / NEW)


def measured(make: Callable[[int], Case], seeds: range, criterion: str) -> tuple[float, float, float, bool]:
    """Mean rate, mean rate of exact calibration, the standard error between them, whether it is an upper bound."""
    rates, expected, variance, upper_only = [], [], [], False
    for seed in seeds:
        case = make(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            detector = VAEOutlierDetector(random_state=seed, criterion=criterion, input_shape=case.input_shape)
            detector.fit(case.rows, **case.more)
        scores = detector.anomaly_score(case.new)
        rates.append(float((scores > -detector.offset_).mean()))
        by_exact = exact(case, detector, scores, seed)
        expected.append(by_exact[0])
        variance.append(by_exact[1])
        upper_only = case.weight is None
    return float(np.mean(rates)), float(np.mean(expected)), math.sqrt(sum(variance)) / len(seeds), upper_only


def main() -> int:
    """Print the table; the exit code is 1 if a rate lies outside the interval that all lines keep together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--criterion", default="novelty", help="of the detector (default: novelty)")
    parser.add_argument("--only", nargs="+", default=[""], help="lines whose name contains one of these")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first fit of each line")
    parser.add_argument("--more", type=int, default=1, help="times as many fits")
    options = parser.parse_args()
    lines = list(cases())
    joint = NormalDist().inv_cdf(1 - (1 - 0.95 ** (1 / len(lines))) / 2)  # standard errors
    print(f"Share of new normal rows that are flagged, {AUTO_FALSE_ALARMS:.0%} promised, by {options.criterion}\n")
    print(f"{'':<30} {'rate':>6}  {'exact':>6}  {'95 % of rates':<16}   fits")
    shown = outside = failed = 0
    for name, fits, make in lines:
        if not any(part in name for part in options.only):
            continue
        fits *= options.more
        rate, expected, error, upper_only = measured(
            make, range(options.first, options.first + fits), options.criterion
        )
        most = expected if upper_only else max(expected, AUTO_FALSE_ALARMS)
        low, high = 0.0 if upper_only else max(0.0, expected - 1.96 * error), most + 1.96 * error
        far = (rate - most if rate > most else 0.0 if upper_only else max(0.0, expected - rate)) / error
        verdict = "inside" if low <= rate <= high else "by chance?" if far <= joint else "FAILS"
        shown, outside, failed = shown + 1, outside + (far > 1.96), failed + (far > joint)
        way = "" if verdict == "inside" else "above" if rate > expected else "below"
        print(f"{name:<30} {rate:.4f}  {expected:.4f}  [{low:.4f}, {high:.4f}]  {fits:>4}  {verdict} {way}", flush=True)
    print(f"\n{outside} of {shown} outside their intervals ({0.05 * shown:.1f} by chance), {failed} fail")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
