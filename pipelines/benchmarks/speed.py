"""Speed of training and scoring, compared with PyOD's VAE in one process.

Both get the same rows (20,000 x 20, random), layers, number of epochs and threads, and otherwise their defaults:
ours masks cells and learns a variance per feature, PyOD's uses dropout.

- The time of an epoch is the difference between a fit of one epoch and a longer one, divided by the additional
  epochs. This removes, on both sides, all other work of a fit: checks, scaling, scores of the training rows, the
  threshold.
- Scoring is the whole call, from rows to scores. PyOD uses a float32 network and batches of 32. Ours uses float64 and
  the negative ELBO, one pass through the network like PyOD's. Two more rows of the table show our default score,
  which also looks up neighbours, and PyOD with batches of 1024.

The default is one thread, because PyOD's small steps are many times slower when two threads wait for each other on a
busy machine. Other processes may run on the machine, so methods alternate, and the result is the ratio of medians:

    make bench
"""

import argparse
import statistics
import warnings
from collections.abc import Callable

import numpy as np
import torch
from fits import seconds

from anomalyvae import VAEOutlierDetector
from anomalyvae.nets.objectives import build
from anomalyvae.nets.training import Schedule, TrainingRows, train

HIDDEN, LATENT = (128, 64, 32), 2  # PyOD's defaults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=3, help="difference in epochs of the two timed fits")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="torch threads, for both")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    from pyod.models.vae import VAE

    x = np.random.default_rng(0).normal(size=(options.rows, options.columns))

    def ours(epochs: int, score: str = "elbo") -> VAEOutlierDetector:
        return VAEOutlierDetector(
            hidden=HIDDEN,
            latent_dim=LATENT,
            max_epochs=epochs,
            validation_fraction=0,  # learn all rows, as PyOD does
            criterion=score,
            random_state=0,
            device="cpu",
        ).fit(x)

    def ours_in_batches_of_32(epochs: int) -> None:
        network = build(elbo.architecture_, elbo.network_.scaling)
        schedule = Schedule(epochs, batch_size=32, learning_rate=5e-3, patience=epochs)
        train(
            [network],
            [TrainingRows(standardised, torch.ones(len(x)))],
            None,
            schedule,
            torch.Generator().manual_seed(0),
        )

    def pyod(epochs: int) -> VAE:
        return VAE(
            encoder_neuron_list=list(HIDDEN),
            decoder_neuron_list=list(reversed(HIDDEN)),
            latent_dim=LATENT,
            batch_size=32,
            epoch_num=epochs,
            random_state=0,
            device="cpu",
            verbose=0,
        ).fit(x)

    def epoch_seconds(fit: Callable[[int], object]) -> float:
        return (seconds(lambda: fit(1 + options.epochs)) - seconds(lambda: fit(1))) / options.epochs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        elbo, novelty, theirs = ours(1), ours(1, score="novelty"), pyod(1)
        standardised = elbo.network_.scaling(torch.from_numpy(x)).float()
        contestants: dict[str, Callable[[], float]] = {
            "epoch, PyOD, batch 32": lambda: epoch_seconds(pyod),
            "epoch, ours, batch 32": lambda: epoch_seconds(ours_in_batches_of_32),
            "epoch, ours, default batch": lambda: epoch_seconds(ours),
            "scoring, PyOD": lambda: seconds(lambda: theirs.decision_function(x)),
            "scoring, PyOD, batch 1024": lambda: seconds(lambda: theirs.decision_function(x, batch_size=1024)),
            "scoring, ours, elbo": lambda: seconds(lambda: elbo.score_samples(x)),
            "scoring, ours, novelty": lambda: seconds(lambda: novelty.score_samples(x)),
        }
        rounds: dict[str, list[float]] = {name: [] for name in contestants}
        for turn in range(options.repeats):
            print(f"round {turn + 1} of {options.repeats}", flush=True)
            for name, contestant in contestants.items():
                rounds[name].append(contestant())
    report(rounds, options.rows)


def report(rounds: dict[str, list[float]], rows: int) -> None:
    median = {name: statistics.median(values) for name, values in rounds.items()}
    print(f"\n{rows:,} rows, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, value in median.items():
        print(f"{name:30s} {value:8.3f} s  {rows / value:12,.0f} rows/s")
    print("\nratio of medians                       measured   bar")
    for text, theirs, ours, bar in (
        ("epoch at batch 32", "epoch, PyOD, batch 32", "epoch, ours, batch 32", 3.5),
        ("epoch at our default batch", "epoch, PyOD, batch 32", "epoch, ours, default batch", 12),
        ("scoring by elbo", "scoring, PyOD", "scoring, ours, elbo", 15),
    ):
        print(f"{text:38s} {median[theirs] / median[ours]:7.1f} x  {bar:g} x")


if __name__ == "__main__":
    main()
