"""Speed of scoring windows with each body: the detector in torch, and its ONNX file in double and single precision.

Windows of 9 signals and 20 steps are random; three hidden factors explain most of their variance. Layers are the
defaults, and training is short, because it does not change the speed of scoring. The benchmark uses one thread and
measures CPU seconds instead of wall time, so that other processes matter less. Methods alternate, and the median of
the rounds is printed.

    python pipelines/benchmarks/bodies.py
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from fits import seconds

from anomalyvae import Scorer, VAEOutlierDetector, export_onnx

BODIES = {"mlp": (9, 20), "conv2d": (1, 9, 20)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scores", nargs="+", default=["elbo", "novelty"])
    parser.add_argument("--bodies", nargs="+", default=list(BODIES), choices=list(BODIES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{options.rows:,} windows, rows/s by CPU seconds of one thread; one row in µs, the file in kB")
    print("| score | body | torch | ONNX, double | ONNX, single | one row | file |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for score in options.scores:
        for body in options.bodies:
            cells = measure(body, score, options.rows, options.rounds)
            print(f"| {score} | {body} | " + " | ".join(f"{cell:,.0f}" for cell in cells) + " |", flush=True)


def measure(body: str, score: str, count: int, rounds: int) -> list[float]:
    """Rows per second of each method, microseconds for a single row, and kB of the file in single precision."""
    learned, x = windows(3000, 0), windows(count, 1)
    detector = VAEOutlierDetector(
        body=body, input_shape=BODIES[body], criterion=score, max_epochs=1, validation_fraction=0.2, random_state=0
    ).fit(learned)
    with tempfile.TemporaryDirectory() as folder:
        files = {
            precision: export_onnx(detector, Path(folder) / f"{precision}.onnx", precision=precision)
            for precision in ("double", "single")
        }
        double, single = (Scorer(file, providers=["CPUExecutionProvider"], threads=1) for file in files.values())
        size = files["single"].stat().st_size / 1000
    work: list[Callable[[], object]] = [
        lambda: detector.anomaly_score(x),
        lambda: double.anomaly_score(x),
        lambda: single.anomaly_score(x),
        lambda: [single.anomaly_score(x[:1]) for _ in range(100)],
    ]
    measured = [[seconds(one, time.process_time) for one in work] for _ in range(rounds)]
    *many, one = (statistics.median(column) for column in zip(*measured, strict=True))
    return [*(count / value for value in many), one / 100 * 1e6, size]


def windows(count: int, seed: int) -> np.ndarray:
    """Random windows, flattened, shape ``(count, 180)``."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(2).normal(size=(3, 180))
    return rng.normal(size=(count, 3)) @ mixing + 0.3 * rng.normal(size=(count, 180))


if __name__ == "__main__":
    main()
