"""Latency of `anomalyvae watch`: the delay from a line to its window's score, and the time to score a backlog.

A separate process runs `anomalyvae watch` with a model of six signals, a clock of 100 Hz and windows of one second,
one per line. Lines arrive at 100 per second, each flushed, as from a logger. The delay is from just before the line
is written to when its score can be read. Then the same with lines that exist already: the time to score the newest
window, and all windows. Writing a line per window is part of the measured time; starting the process (loading the
model) is not.

    .venv/bin/python pipelines/benchmarks/watch.py
    .venv/bin/python pipelines/benchmarks/watch.py --clock-hz 10     # averaged: one window per ten lines
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from anomalyvae import VAEOutlierDetector, WindowRecipe, save
from anomalyvae.recordings import read_windows

RATE_HZ = 100
SIGNALS = [f"x{i}" for i in range(6)]
BEFORE = 3 * RATE_HZ  # lines that exist when the process starts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=30, help="seconds of lines to write in real time")
    parser.add_argument("--backlog-s", type=float, default=600, help="seconds of recording that exist already")
    parser.add_argument("--clock-hz", type=float, default=RATE_HZ, help="clock of the windows")
    options = parser.parse_args()
    recipe = WindowRecipe(tuple(SIGNALS), options.clock_hz, 1.0, 1 / options.clock_hz, max_gap_s=0.5)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(scratch)
        model = fitted(recipe, folder)
        load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
        print(f"{len(SIGNALS)} signals, {RATE_HZ} lines/s, clock {options.clock_hz:g} Hz, {load}\n")
        print(f"{'delay from a line to its score':34}{'windows':>9}{'median':>10}{'p99':>10}{'max':>10}")
        for name, through_pipe in (("file", False), ("pipe", True)):
            delays = delays_of(model, folder, round(options.seconds * RATE_HZ), through_pipe, recipe)
            figures = statistics.median(delays), float(np.quantile(delays, 0.99)), max(delays)
            print(f"{name:34}{len(delays):9,}" + "".join(f"{1000 * figure:7.1f} ms" for figure in figures))
        print(f"\n{'a backlog, first':34}{'windows':>9}{'newest':>10}{'all':>10}{'x real time':>14}{'memory':>10}")
        for seconds in (options.backlog_s / 10, options.backlog_s):
            count, newest_s, all_s, megabytes = backlog_of(model, folder, round(seconds * RATE_HZ), recipe)
            print(
                f"{seconds:,.0f} s of recording".ljust(34)
                + f"{count:9,}{newest_s:8.2f} s{all_s:8.2f} s{seconds / all_s:14,.0f}{megabytes:7.0f} MB"
            )


def frame_of(rows: int, seed: int) -> pd.DataFrame:
    """Six smooth signals with noise, driven by two hidden factors."""
    rng = np.random.default_rng(seed)
    causes = np.cumsum(rng.normal(size=(rows, 2)), axis=0) / 10
    values = np.sin(causes @ np.random.default_rng(0).normal(size=(2, len(SIGNALS)))) + 0.1 * rng.normal(
        size=(rows, len(SIGNALS))
    )
    frame = pd.DataFrame(values.round(5), columns=SIGNALS)
    frame.insert(0, "time_s", np.arange(rows) / RATE_HZ)
    return frame


def fitted(recipe: WindowRecipe, folder: Path) -> Path:
    paths = []
    for seed in range(3):
        paths.append(folder / f"{seed}.parquet")
        frame_of(3000, seed).to_parquet(paths[-1])
    windows = read_windows(paths, recipe)
    detector = VAEOutlierDetector(random_state=0, max_epochs=5).fit(windows.rows)
    return save(detector, folder / "model", recipe=recipe.to_dict())


def started(model: Path, source: str, *options: str, **streams: Any) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "anomalyvae", "watch", source, "--model", str(model), "--json", "--quiet"]
    return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, **streams)


class Listener(threading.Thread):
    """Reads the output of a process, and records when each score arrived, by the row that completes the window."""

    def __init__(self, out: IO[bytes], recipe: WindowRecipe) -> None:
        super().__init__(daemon=True)
        self._out, self._later_s = out, 0.0 if recipe.rate_hz * 1.5 < RATE_HZ else -1 / recipe.rate_hz
        self.seen: dict[int, float] = {}
        self.start()

    def run(self) -> None:
        """Read until the process closes its output."""
        for line in self._out:
            now = time.perf_counter()
            self.seen[round((json.loads(line)["end_s"] + self._later_s) * RATE_HZ)] = now


def delays_of(model: Path, folder: Path, rows: int, through_pipe: bool, recipe: WindowRecipe) -> list[float]:
    """Write lines in real time, and return the delay from the last line of each window to its score."""
    path = folder / "live.csv"
    header, *lines = frame_of(rows + BEFORE, 9).to_csv(index=False).encode().splitlines(keepends=True)
    path.write_bytes(header)
    streams = {"stdin": subprocess.PIPE} if through_pipe else {}
    process = started(model, "-" if through_pipe else str(path), "--timeout", "5", **streams)
    assert process.stdout is not None  # noqa: S101
    listener = Listener(process.stdout, recipe)
    written: dict[int, float] = {}
    with process.stdin or path.open("ab") as sink:
        sink.write((header if through_pipe else b"") + b"".join(lines[:BEFORE]))
        sink.flush()
        while not listener.seen:
            time.sleep(0.01)
        began = time.perf_counter()
        for row, line in enumerate(lines[BEFORE:], start=BEFORE):
            time.sleep(max(began + (row - BEFORE) / RATE_HZ - time.perf_counter(), 0))
            written[row] = time.perf_counter()
            sink.write(line)
            sink.flush()
    listener.join()
    process.wait()
    return [now - written[row] for row, now in listener.seen.items() if row in written]


def backlog_of(model: Path, folder: Path, rows: int, recipe: WindowRecipe) -> tuple[int, float, float, float]:
    """The number of windows, the seconds until the newest and until all were scored, and the peak memory in MB."""
    path = folder / "backlog.csv"
    header, *lines = frame_of(rows + BEFORE, 9).to_csv(index=False).encode().splitlines(keepends=True)
    path.write_bytes(header + b"".join(lines[:BEFORE]))
    process = started(model, str(path), "--timeout", "5", "--newest-first")
    assert process.stdout is not None  # noqa: S101
    listener = Listener(process.stdout, recipe)
    while not listener.seen:
        time.sleep(0.01)
    time.sleep(1)
    before = len(listener.seen)
    begun = time.perf_counter()
    with path.open("ab") as sink:
        sink.write(b"".join(lines[BEFORE:]))
    while len(listener.seen) == before:
        time.sleep(0.001)
    newest_s = max(listener.seen.values()) - begun
    peak = 0.0
    while process.poll() is None:
        peak = _peak_of(process.pid) or peak
        time.sleep(0.2)
    listener.join()
    *_, all_but_the_last, _ = sorted(listener.seen.values())  # the last one may have waited for the end of its average
    return len(listener.seen) - before, newest_s, all_but_the_last - begun, peak


def _peak_of(process: int) -> float:
    """Peak memory of a process so far, in MB; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


if __name__ == "__main__":
    main()
