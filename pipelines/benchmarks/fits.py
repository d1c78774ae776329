"""Seconds of a whole fit with default settings, threshold included, beside PyOD's VAE with its defaults.

    python pipelines/benchmarks/fits.py          # or: make bench-fits

Rows are standard normal. Each size is fitted in turns, on one thread; the table has medians of one run and their ratio.
Machines differ and are shared: compare the ratios.
"""

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch

from anomalyvae import VAEOutlierDetector

SIZES = ((100, 2), (200, 20), (2500, 20), (20_000, 20))


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """The time of a call."""
    started = clock()
    work()
    return clock() - started


def main() -> None:
    """Print the table."""
    from pyod.models.vae import VAE

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="fits of each size (default: 3)")
    parser.add_argument("--most-rows", type=int, default=20_000, help="leave out larger tables (default: 20,000)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    VAEOutlierDetector(random_state=0, max_epochs=1).fit(np.random.default_rng(0).normal(size=(50, 2)))  # imports
    print(f"{'rows':>14}{'ours, s':>12}{'PyOD VAE, s':>14}{'ours / PyOD':>14}")
    for n, d in SIZES:
        if n > options.most_rows:
            continue
        rows = np.random.default_rng(0).normal(size=(n, d))
        ours, theirs = [], []
        for _ in range(options.repeats):
            ours.append(seconds(lambda rows=rows: VAEOutlierDetector(random_state=0).fit(rows)))  # type: ignore[misc]
            theirs.append(seconds(lambda rows=rows: VAE(random_state=0, verbose=0).fit(rows)))  # type: ignore[misc]
        us, them = np.median(ours), np.median(theirs)
        print(f"{f'{n:,} x {d}':>14}{us:>12.2f}{them:>14.2f}{us / them:>14.2f}", flush=True)


if __name__ == "__main__":
    main()
