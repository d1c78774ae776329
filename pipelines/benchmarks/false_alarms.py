"""Measure the share of new normal rows that the default threshold flags, where 5 % is promised.

Run::

    python pipelines/benchmarks/false_alarms.py            # or: make bench-false-alarms

Rows come from four distributions in turn, and are repeated, weighted or grouped in the ways that users' rows are. New
rows come from the same distribution: with the same share of repeats, by the same weights, from new groups. Each line
shows the rate over all fits, and the interval in which 95 % of such rates lie if the promise holds exactly. Rates above
it are marked; rates below it give recall away and are marked, too, except for groups, where the promise is an upper
bound.
"""

import argparse
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalyvae import VAEOutlierDetector
from anomalyvae.calibration import AUTO_FALSE_ALARMS

Floats = NDArray[np.float64]
NEW = 4000


class Case(NamedTuple):
    """Rows to learn, the arguments of ``fit`` beside them, and new rows."""

    rows: Floats
    more: dict[str, Any]
    new: Floats
    evidence: float  # independent observations; of groups, those count that are held out
    upper_only: bool = False


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

        return Case(draw(n), {}, draw(NEW), n)

    return case


def weighted(n: int, weights: Callable[[int, np.random.Generator], Floats]) -> Callable[[int], Case]:
    """Rows with weights; new rows are as likely as their weights say, which here do not depend on the row."""

    def case(seed: int) -> Case:
        rng = np.random.default_rng(seed)
        w = weights(n, rng)
        evidence = w.sum() ** 2 / np.square(w).sum()
        return Case(normal_rows(seed, n, rng), {"sample_weight": w}, normal_rows(seed, NEW, rng), evidence)

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
        return Case(rows, {"groups": place}, draw(np.full(400, 10))[0], len(np.unique(place)), upper_only=True)

    return case


def equal_groups(count: int, size: int) -> Callable[[int], Case]:
    """As `grouped`, each of the same size."""
    return grouped(lambda rng: np.full(count, size))


def cases() -> Iterator[tuple[str, int, Callable[[int], Case]]]:
    """The name of each line, how many fits it takes, and its cases by seed."""
    for n, fits in ((20, 24), (50, 16), (100, 12), (200, 8), (500, 8), (1000, 4), (2000, 4), (5000, 4)):
        yield f"{n} rows", fits, repeated(n, 0.0)
    for n in (300, 1000, 6000):
        for share in (0.3, 0.5, 0.8, 0.95):
            yield f"{n} rows, {share:.0%} repeats", 8 if n < 1000 else 4, repeated(n, share)
    ways: dict[str, Callable[[int, np.random.Generator], Floats]] = {
        "constant 1000": lambda n, rng: np.full(n, 1000.0),
        "constant 0.001": lambda n, rng: np.full(n, 0.001),
        "exponential": lambda n, rng: rng.exponential(size=n),
        "log-normal": lambda n, rng: rng.lognormal(size=n),
    }
    for name, weights in ways.items():
        yield f"400 rows, weights {name}", 8, weighted(400, weights)
    yield "30 groups of 30", 4, equal_groups(30, 30)
    yield "30 groups of 1 to 400", 4, grouped(lambda rng: rng.integers(1, 401, 30))
    for count, size in ((10, 600), (20, 300), (60, 100)):  # one split: so many rows are not cross-fitted
        yield f"{count} groups of {size}", 6, equal_groups(count, size)
    yield "groups of 399 and 1", 4, grouped(lambda rng: np.array([399, 1]))


def interval(evidence: float, fits: int) -> tuple[float, float]:
    """Where 95 % of rates lie: that of one fit is beta-distributed, and its share of new rows binomial."""
    rate = max(math.floor((evidence + 1) * AUTO_FALSE_ALARMS), 1) / (evidence + 1)
    error = 1.96 * math.sqrt(rate * (1 - rate) * (1 / (evidence + 2) + 1 / NEW) / fits)
    return max(0.0, rate - error), rate + error


def main() -> int:
    """Print the table; the exit code is 1 if a rate lies above its interval."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--criterion", default="novelty", help="of the detector (default: novelty)")
    parser.add_argument("--only", default="", help="lines whose name contains this")
    options = parser.parse_args()
    above = below = 0
    print(f"Share of new normal rows that are flagged, {AUTO_FALSE_ALARMS:.0%} promised, by {options.criterion}\n")
    for name, fits, make in cases():
        if options.only not in name:
            continue
        rates, evidence = [], []
        for seed in range(fits):
            case = make(seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                detector = VAEOutlierDetector(random_state=seed, criterion=options.criterion)
                detector.fit(case.rows, **case.more)
            rates.append(float((detector.predict(case.new) < 0).mean()))
            evidence.append(detector.calibration_.evidence if case.upper_only else case.evidence)
        rate, (low, high) = float(np.mean(rates)), interval(float(np.mean(evidence)), fits)
        mark = "ABOVE" if rate > high else "below" if rate < low and not case.upper_only else ""
        above, below = above + (mark == "ABOVE"), below + (mark == "below")
        print(f"{name:<36} {rate:.4f}   [{low:.4f}, {high:.4f}]  {fits:>3} fits  {mark}", flush=True)
    print(f"\n{above} rates above their interval, {below} below")
    return int(above > 0)


if __name__ == "__main__":
    sys.exit(main())
