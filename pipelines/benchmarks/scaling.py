"""The cost of scoring a day of driving: the calculation behind docs/scaling.md, and a simulation of a cluster.

Without options, it measures two costs on this machine, per window and per file, by scoring short and long drives
with one worker. Then it simulates a day: drives of mixed length, workers that take the next file when they are free,
one scheduler that assigns files, and workers that fail, whose file another worker repeats.

    .venv/bin/python pipelines/benchmarks/scaling.py
    .venv/bin/python pipelines/benchmarks/scaling.py --hours 10000 --window-us 20 --file-ms 8   # known costs
"""

import argparse
import heapq
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

SIGNALS, RATE_HZ, LENGTH_S, STRIDE_S = 6, 10.0, 2.0, 1.0


@dataclass(frozen=True)
class Costs:
    """The cost of scoring on one core."""

    window_s: float
    file_s: float
    handing_out_s: float = 0.001  # a scheduler's own time per file
    restart_s: float = 10.0


@dataclass(frozen=True)
class Day:
    """A day of a fleet.

    Parameters
    ----------
    hours : float
        Hours of driving.
    file_hours : float
        Mean length of a drive. Lengths are lognormal; a tenth of them exceeds twice the mean.
    """

    hours: float
    file_hours: float

    def windows(self, rng: np.random.Generator) -> np.ndarray:
        """Windows of each file."""
        files = max(1, round(self.hours / self.file_hours))
        lengths = rng.lognormal(sigma=0.8, size=files)
        return np.ceil(lengths / lengths.sum() * self.hours * 3600 / STRIDE_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--hours", type=float, default=10_000, help="hours of driving per day")
    parser.add_argument("--window-us", type=float, help="cost per window, in microseconds of one core")
    parser.add_argument("--file-ms", type=float, help="fixed cost per file, in milliseconds")
    parser.add_argument("--price", type=float, default=0.05, help="price of a core-hour")
    parser.add_argument("--lost-per-day", type=float, default=2.0, help="failures of a worker in 24 hours")
    options = parser.parse_args()
    if options.window_us is None or options.file_ms is None:
        costs = measured()
    else:
        costs = Costs(options.window_us / 1e6, options.file_ms / 1e3)
    print(f"one core: {1e6 * costs.window_s:.1f} µs a window ({1 / costs.window_s:,.0f} windows/s), and "
          f"{1e3 * costs.file_s:.1f} ms a file")  # fmt: skip
    windows = options.hours * 3600 / STRIDE_S
    core_hours = windows * costs.window_s / 3600
    print(f"{options.hours:,.0f} h of driving: {windows / 1e6:,.1f} million windows, {core_hours:.2f} core-hours")
    print(
        f"a million windows: {1e6 * costs.window_s:.0f} core-seconds, {1e6 * costs.window_s / 3600 * options.price:.5f}"
    )
    print()
    print("drives of   files      workers   minutes   busy   redone   core-hours")
    for file_hours in (1 / 60, 0.25, 1.0, 8.0):
        for workers in (2, 16, 64):
            made = simulate(Day(options.hours, file_hours), workers, costs, options.lost_per_day, seed=0)
            print(f"{60 * file_hours:5.0f} min   {made.files:9,d} {workers:9d} {made.seconds / 60:9.1f} "
                  f"{made.busy:6.0%} {made.redone:8.2%} {workers * made.seconds / 3600:12.2f}")  # fmt: skip


@dataclass(frozen=True)
class Made:
    """The result of a simulated day."""

    files: int
    seconds: float
    busy: float
    redone: float


def simulate(day: Day, workers: int, costs: Costs, lost_per_day: float, seed: int) -> Made:
    """Simulate a day, file by file."""
    rng = np.random.default_rng(seed)
    waiting = list(costs.file_s + costs.window_s * day.windows(rng))
    files, useful, redone = len(waiting), sum(waiting), 0.0
    free = [(costs.restart_s, worker) for worker in range(workers)]  # start-up takes as long as a restart
    heapq.heapify(free)
    lost_at = costs.restart_s + rng.exponential(86_400 / max(lost_per_day, 1e-9), workers)
    handed_out, end = 0.0, 0.0
    while waiting:
        now, worker = heapq.heappop(free)
        handed_out = max(handed_out, now) + costs.handing_out_s
        done = handed_out + waiting[-1]
        if done > lost_at[worker] > handed_out:
            redone += lost_at[worker] - handed_out
            done = lost_at[worker] + costs.restart_s
            lost_at[worker] = done + rng.exponential(86_400 / lost_per_day)
        else:
            waiting.pop()
            end = max(end, done)
        heapq.heappush(free, (done, worker))
    return Made(files, end, useful / (workers * end), redone / useful)


def measured() -> Costs:
    """Score drives of a minute and of three hours, and derive the cost of a file and of a window."""
    from anomalyvae import VAEOutlierDetector, WindowRecipe, read_windows, save, score_folder

    names = [f"signal_{i}" for i in range(SIGNALS)]
    recipe = WindowRecipe(tuple(names), RATE_HZ, LENGTH_S, STRIDE_S, max_gap_s=1.0)
    rng = np.random.default_rng(0)

    def drives(folder: Path, number: int, hours: float) -> Path:
        folder.mkdir()
        for i in range(number):
            ticks = int(3600 * hours * RATE_HZ)
            walk = np.cumsum(rng.normal(size=(ticks, SIGNALS)), axis=0) * 0.05 + rng.normal(size=(ticks, SIGNALS))
            frame = pd.DataFrame(walk - walk.mean(axis=0), columns=names)
            frame.insert(0, "time_s", np.arange(ticks) / RATE_HZ)
            frame.to_parquet(folder / f"drive-{i}.parquet", index=False)
        return folder

    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        short, long = drives(Path(scratch, "short"), 200, 1 / 60), drives(Path(scratch, "long"), 10, 3.0)
        rows = read_windows(sorted(long.iterdir())[:2], recipe).rows
        model = save(VAEOutlierDetector(random_state=0).fit(rows), Path(scratch, "model"), recipe=recipe.to_dict())
        seconds: list[float] = []
        windows, files = [], []
        for source in (short, long, short, long):
            began = time.perf_counter()
            done = score_folder(model, source, Path(scratch, f"out {len(seconds)}"), workers=1)
            seconds.append(time.perf_counter() - began)
            windows.append(done["rows"])
            files.append(done["scored"])
    (window_s, file_s), *_ = np.linalg.lstsq(np.column_stack([windows, files]), np.array(seconds), rcond=None)
    return Costs(float(window_s), max(float(file_s), 1e-4))


if __name__ == "__main__":
    main()
