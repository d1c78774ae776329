"""Throughput of scoring a folder of Parquet files, compared with its two necessary parts and with PyOD's VAE.

    r   rows/s of pyarrow, which only reads the files
    s   rows/s of onnxruntime, which runs the same graph on rows in memory
    e   rows/s of score_folder: read, score and write

All three share the same cores, so even with perfect overlap e would be about 1 / (1/r + 1/s). Methods alternate in
one process; the result is the ratio of medians:

    make bench-score                             # 5 million rows of 20 columns, criterion="elbo"
    .venv/bin/python pipelines/benchmarks/score.py --memory   # peak memory if a file is ten times as long
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from fits import seconds

from anomalyvae import VAEOutlierDetector, WindowRecipe, save, score_folder
from anomalyvae.scoring import Scorer

COLUMNS = [f"x{i}" for i in range(20)]
SIGNALS = COLUMNS[:6]  # of a recording
BLOCKS = (256, 512, 1024, 2048, 4096, 16384)  # rows per call; the best one of onnxruntime counts
HIDDEN, LATENT = (128, 64, 32), 2  # PyOD's defaults, for both


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--files", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--score", default="elbo", choices=("elbo", "novelty", "memory", "reconstruction"))
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = fitted(options.score, Path(scratch))
        if options.memory:
            memory(model, Path(scratch))
        else:
            speed(model, options, Path(scratch))


def fitted(score: str, scratch: Path) -> Path:
    x = pd.DataFrame(np.random.default_rng(0).normal(size=(20_000, len(COLUMNS))), columns=COLUMNS)
    detector = VAEOutlierDetector(
        hidden=HIDDEN, latent_dim=LATENT, criterion=score, max_epochs=3, validation_fraction=0.1, random_state=0
    )
    return save(detector.fit(x), scratch / "model")


def write(folder: Path, rows: int, files: int, columns: list[str] = COLUMNS, row_group: int = 131_072) -> list[Path]:
    """Random rows, a row group at a time; ``time_s`` ticks at 100 Hz."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, paths = np.random.default_rng(1), []
    schema = pa.schema([(name, pa.float64()) for name in columns])
    for i in range(files):
        path = folder / f"part-{i}.parquet"
        with pq.ParquetWriter(path, schema) as writer:
            for start in range(0, rows // files, row_group):
                x = rng.normal(size=(len(columns), min(row_group, rows // files - start)))
                if columns[0] == "time_s":
                    x[0] = (start + np.arange(x.shape[1])) / 100
                writer.write_table(pa.table(list(x), schema=schema))
        paths.append(path)
    return paths


def speed(model: Path, options: argparse.Namespace, scratch: Path) -> None:
    import torch
    from pyod.models.vae import VAE

    torch.set_num_threads(1)  # PyOD's small steps are slower with two
    cores = os.cpu_count() or 1
    print(f"writing {options.rows:,} rows of {len(COLUMNS)} columns", flush=True)
    paths = write(scratch / "in", options.rows, options.files)
    scorer = Scorer(model, threads=1)
    session, outputs = scorer._session, ["anomaly_score", "p_value", "is_outlier"]
    x = np.random.default_rng(2).normal(size=(200_000, len(COLUMNS)))
    theirs = VAE(
        encoder_neuron_list=list(HIDDEN), decoder_neuron_list=list(reversed(HIDDEN)), latent_dim=LATENT,
        epoch_num=1, verbose=0, random_state=0,
    ).fit(x[:2000])  # fmt: skip

    def read() -> float:
        for path in paths:
            with pq.ParquetFile(path, pre_buffer=False) as file:  # faster than with it here
                for _ in file.iter_batches(65_536):
                    pass
        return options.rows

    def run(block: int) -> Callable[[], float]:
        def work(part: np.ndarray) -> None:
            for start in range(0, len(part), block):
                session.run(outputs, {"rows": part[start : start + block]})

        def all_cores() -> float:
            with ThreadPoolExecutor(cores) as pool:
                list(pool.map(work, np.array_split(x, 4 * cores)))
            return len(x)

        return all_cores

    def score() -> float:
        shutil.rmtree(scratch / "out", ignore_errors=True)
        return score_folder(model, scratch / "in", scratch / "out")["rows"]

    def in_memory() -> float:
        scorer_all.score(x, outputs)
        return len(x)

    def pyod() -> float:
        theirs.decision_function(x[:20_000])
        return 20_000

    scorer_all = Scorer(model)
    contestants = {"read": read, **{f"run {block}": run(block) for block in BLOCKS}, "Scorer": in_memory}
    contestants |= {"score_folder": score, "PyOD": pyod}
    for contestant in contestants.values():
        contestant()
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(options.repeats):
        print(f"round {turn + 1} of {options.repeats}", flush=True)
        for name, contestant in contestants.items():
            began = time.perf_counter()
            done = contestant()
            rates[name].append(done / (time.perf_counter() - began))
    report({name: statistics.median(values) for name, values in rates.items()}, scorer, cores)
    latency(scorer, x)


def report(rate: dict[str, float], scorer: Scorer, cores: int) -> None:
    best = max((name for name in rate if name.startswith("run")), key=lambda name: rate[name])
    r, s, e = rate["read"], rate[best], rate["score_folder"]
    both = 1 / (1 / r + 1 / s)
    print(f"\n{cores} cores, criterion={scorer.metadata['criterion']!r}, {scorer.metadata['precision']} precision")
    for text, value in (
        ("r  pyarrow reads", r),
        (f"s  bare onnxruntime, {best[4:]} rows at a time", s),
        ("   Scorer, rows in memory", rate["Scorer"]),
        ("e  score_folder, from files to files", e),
        ("   PyOD's VAE, rows in memory", rate["PyOD"]),
    ):
        print(f"{text:45s} {value:12,.0f} rows/s")
    print("\nratio of medians                              measured  bar")
    print(f"{'score_folder / (1 / (1/r + 1/s))':45s} {e / both:8.2f}  .75")
    print(f"{'score_folder / PyOD':45s} {e / rate['PyOD']:8.1f}  15")
    print(f"{'Scorer / bare onnxruntime':45s} {rate['Scorer'] / s:8.2f}  .85")


def latency(scorer: Scorer, x: np.ndarray) -> None:
    """One row at a time, on one thread."""
    row, session = x[:1], scorer._session
    calls = (lambda: scorer.score(row), lambda: session.run(None, {"rows": row}))
    times = [[seconds(call) for call in calls] for _ in range(3000)]
    ours, bare = (statistics.median(column) for column in zip(*times, strict=True))
    text = "one row: time of Scorer / of bare onnxruntime"
    print(f"{text:45s} {ours / bare:8.2f}  5 at most ({1e6 * ours:.0f} µs)")


PEAK = """
import sys
from anomalyvae import score_folder
score_folder(*sys.argv[1:])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def memory(model: Path, scratch: Path) -> None:
    """Peak memory of a new process that scores a file, and one ten times as long: a table and a recording."""
    recipe = WindowRecipe(tuple(SIGNALS), rate_hz=10, length_s=2, stride_s=1, max_gap_s=1)
    rows = pd.DataFrame(np.random.default_rng(3).normal(size=(2000, len(recipe.columns))), columns=recipe.columns)
    windows = save(
        VAEOutlierDetector(max_epochs=3, random_state=0).fit(rows), scratch / "windows", recipe=recipe.to_dict()
    )
    for kind, bundle, columns in (("table", model, COLUMNS), ("recording at 100 Hz", windows, ["time_s", *SIGNALS])):
        peaks = []
        for count in (1_000_000, 10_000_000):
            shutil.rmtree(scratch / "in", ignore_errors=True)
            [path] = write(scratch / "in", count, 1, columns)
            command = [sys.executable, "-c", PEAK, bundle, scratch / "in", scratch / f"out {kind} {count}"]
            output = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout
            peaks.append(int(output) // 1024)
            size = path.stat().st_size / 1e6
            print(f"{kind}: {count:12,} rows, {size:6,.0f} MB on disk: peak {peaks[-1]:5d} MB", flush=True)
        print(f"{kind}: ten times the file, {peaks[1] / peaks[0]:.2f} times the memory")


if __name__ == "__main__":
    main()
