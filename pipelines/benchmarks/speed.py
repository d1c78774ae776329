"""Training and scoring speed against PyOD's VAE, in one process.

Same layers, same epochs, 20,000 x 20 random rows, the same number of threads: one by default, since PyOD's small
steps slow down many times over when two threads wait for each other on a busy machine. The machine may be shared, so
methods take turns, and what counts is the ratio of medians:

    make bench
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch

from anomalyvae import VAEOutlierDetector

HIDDEN, LATENT = (128, 64, 32), 2  # PyOD's defaults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=2, help="epochs per timed fit")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="torch's threads, for both")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    from pyod.models.vae import VAE

    x = np.random.default_rng(0).normal(size=(options.rows, options.columns))

    def ours(batch_size: int | str) -> VAEOutlierDetector:
        return VAEOutlierDetector(
            hidden=HIDDEN,
            latent_dim=LATENT,
            batch_size=batch_size,
            max_epochs=options.epochs,
            validation_fraction=0,  # every row is learned, as in the other
            score="elbo",
            random_state=0,
            device="cpu",
        )

    def pyod() -> VAE:
        return VAE(
            encoder_neuron_list=list(HIDDEN),
            decoder_neuron_list=list(reversed(HIDDEN)),
            latent_dim=LATENT,
            batch_size=32,
            epoch_num=options.epochs,
            random_state=0,
            device="cpu",
            verbose=0,
        )

    def epoch_seconds(model: VAEOutlierDetector) -> float:
        return float(model.fit(x).history_["seconds"].iloc[-1]) / options.epochs

    def pyod_epoch_seconds() -> float:
        model = pyod()
        model.fit(x)  # scores the rows once at its end; that share is taken off
        fit_seconds = clocked(lambda: model.fit(x))
        return (fit_seconds - clocked(lambda: model.decision_function(x))) / options.epochs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted, pyod_fitted = ours("auto").fit(x), pyod()
        pyod_fitted.fit(x)
        contestants: dict[str, Callable[[], float]] = {
            "epoch, PyOD, batch 32": pyod_epoch_seconds,
            "epoch, ours, batch 32": lambda: epoch_seconds(ours(32)),
            "epoch, ours, default batch": lambda: epoch_seconds(ours("auto")),
            "scoring, PyOD": lambda: clocked(lambda: pyod_fitted.decision_function(x)),
            "scoring, ours, elbo, float64": lambda: clocked(lambda: fitted.score_samples(x)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for turn in range(options.repeats):
            print(f"round {turn + 1} of {options.repeats}", flush=True)
            for name, contestant in contestants.items():
                seconds[name].append(contestant())
    report(seconds, options.rows)


def clocked(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def report(seconds: dict[str, list[float]], rows: int) -> None:
    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"\n{rows:,} rows, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, value in median.items():
        print(f"{name:30s} {value:8.3f} s  {rows / value:12,.0f} rows/s")
    print("\nratio of medians                       measured   bar")
    for text, theirs, ours, bar in (
        ("epoch at batch 32", "epoch, PyOD, batch 32", "epoch, ours, batch 32", 3.5),
        ("epoch at our default batch", "epoch, PyOD, batch 32", "epoch, ours, default batch", 12),
        ("scoring", "scoring, PyOD", "scoring, ours, elbo, float64", 15),
    ):
        print(f"{text:38s} {median[theirs] / median[ours]:7.1f} x  {bar:g} x")


if __name__ == "__main__":
    main()
