"""Damaged files: each is read right, or refused by name, and never read differently, and no reader hangs or crashes.

Small files of every format are damaged at random: bytes, digits, lines, whole parts. Each is read in a child process
with limits of time and memory. Where a simple decoder (in `mutation_decoders.py`) reads the damaged file as well, the
values must be equal. It exits with 1 if one differs, hangs, or raises another error than one that names the file.

    .venv/bin/python pipelines/benchmarks/mutations.py                              # 10,000 files
    .venv/bin/python pipelines/benchmarks/mutations.py --count 500 --formats asc blf

To add a format, add an entry to ``FORMATS``.
"""

import argparse
import contextlib
import logging
import multiprocessing
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import can
import mutation_decoders as decoders
import mutation_files as files
import numpy as np
from mutation_decoders import Samples, UndecodedError

from anomalyvae.recordings import Log, read_log

TIMEOUT_S, MEMORY = 10.0, 6 << 30


class Format(NamedTuple):
    """A format of files to damage."""

    suffix: str
    write: Callable[[Path], None]
    damage: Callable[[bytes, np.random.Generator], bytes]
    decode: Callable[[bytes], Samples] | None  # independent of the package; None if there is no such decoder
    read: Callable[[Path], Log] = lambda path: read_log(path, databases=path.with_name("car.dbc"))


FORMATS = {
    "candump": Format(
        ".log", files.written_by(can.CanutilsLogWriter), files.damaged_lines, decoders.of_lines(decoders.candump_row)
    ),
    "asc": Format(".asc", files.written_by(can.ASCWriter), files.damaged_lines, decoders.of_lines(decoders.asc_row)),
    "trc 1": Format(".trc", files.write_trc_1, files.damaged_lines, decoders.of_lines(decoders.trc_1_row)),
    "trc 2": Format(
        ".trc", files.written_by(can.TRCWriter, fd=False), files.damaged_lines, decoders.of_lines(decoders.trc_2_row)
    ),
    "blf": Format(".blf", files.written_by(can.BLFWriter), files.damaged_blf, decoders.decoded_blf),
    "mcap": Format(".mcap", files.write_mcap, files.damaged_bytes, decoders.decoded_mcap, read_log),
    "bag": Format(".bag", files.write_bag, files.damaged_bytes, decoders.decoded_bag, read_log),
    "mf4": Format(".mf4", files.write_mf4, files.damaged_bytes, decoders.decoded_mdf, read_log),
    "mf4 frames": Format(".mf4", files.write_mf4_frames, files.damaged_bytes, decoders.decoded_mdf_frames),
    "parquet": Format(".parquet", files.write_parquet, files.damaged_parquet, None, read_log),
    "dbc": Format(
        ".dbc",
        files.write_database,
        files.damaged_lines,
        decoders.decoded_by,
        lambda path: read_log(path.with_name("whole.log"), databases=path),
    ),
}


# --- reading --------------------------------------------------------------------------------------------


def outcome(name: str, path: Path) -> tuple[str, str]:
    """Read a file, and compare its values with those of the simple decoder."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            log = FORMATS[name].read(path)
        except (ValueError, OSError) as error:
            return (
                ("refused", "") if path.parent.name in str(error) else ("crashed", f"{type(error).__name__}: {error}")
            )
        except Exception as error:
            return "crashed", f"{type(error).__name__}: {error}"
    decode = FORMATS[name].decode
    try:
        if decode is None:
            raise UndecodedError
        expected = decode(path.read_bytes())
    except Exception:
        return "read, not comparable", ""
    different = difference(log, expected)
    texts = [str(warning.message) for warning in said]
    if different and any("not read" in text or "left out" in text for text in texts):
        return "loss counted", ""
    return ("different", f"{different} {texts}") if different else ("read and equal", "")


def difference(log: Log, expected: Samples) -> str:
    """Return what differs, nothing if a recording has the expected samples."""
    for signal, samples in expected.items():
        if signal not in log.signals:
            return f"{signal} is missing"
        found = log[signal]
        times = np.array(sorted(samples))
        values = np.array([samples[t] for t in times])
        kept = ~np.isnan(found.values)
        if len(times) != kept.sum() or not np.allclose(found.time_s[kept], times, rtol=0, atol=2e-6):
            return f"{signal}: {kept.sum()} samples for {len(times)}"
        if not np.allclose(found.values[kept], values, rtol=1e-9, atol=0, equal_nan=True):
            return f"{signal}: other values"
    more = log.signals.keys() - expected.keys()
    return f"{more} are not there" if more else ""


def serve(connection: Any) -> None:
    """Answer until the other side hangs up; a child of its own, so that a hang or a crash ends only this process."""
    logging.getLogger("cantools").setLevel(logging.ERROR)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    connection.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            connection.send(outcome(*connection.recv()))


class Child:
    """A process that reads files, started again if it hangs or dies."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other,), daemon=True)
        self._process.start()
        other.close()
        self._connection.recv()  # its imports are no reading, and take long on a busy machine

    def ask(self, *job: Any) -> tuple[str, str]:
        """Return the outcome of a file."""
        self._connection.send(job)
        try:
            if self._connection.poll(TIMEOUT_S):
                answer: tuple[str, str] = self._connection.recv()
                return answer
            result = "hung", f"more than {TIMEOUT_S:g} s"
        except EOFError:
            result = "crashed", f"the process died with exit code {self._process.exitcode}"
        self._process.kill()
        self._process.join()
        self._start()
        return result

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()


def run(formats: list[str], count: int, seed: int, keep: Path | None = None) -> dict[str, Counter[str]]:
    """Return how often each outcome came, by format; files that are not read as they should be are kept in ``keep``."""
    outcomes: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as scratch, contextlib.closing(Child()) as child:
        (Path(scratch) / "car.dbc").write_text(files.DATABASE)
        for place, name in enumerate(formats):
            counts = outcomes[name] = Counter()
            path = Path(scratch) / f"drive{FORMATS[name].suffix}"
            FORMATS[name].write(path)
            whole = path.read_bytes()
            result = child.ask(name, path)  # the first one takes long: imports
            rng = np.random.default_rng([seed, place])
            for number in range(count // len(formats)):
                if number:
                    path.write_bytes(FORMATS[name].damage(whole, rng))
                    result = child.ask(name, path)
                if result[0] == "hung":  # or the machine is busy: a file that hangs does so again
                    result = child.ask(name, path)
                counts[result[0]] += 1
                if result[0] in BAD:
                    print(f"{name}, file {number}: {result[0]}: {result[1][:300]}", file=sys.stderr)
                    if keep is not None:
                        keep.mkdir(parents=True, exist_ok=True)
                        (keep / f"{name.replace(' ', '-')}-{number}{path.suffix}").write_bytes(path.read_bytes())
    return outcomes


GOOD, BAD = ("read and equal", "read, not comparable", "loss counted", "refused"), ("different", "crashed", "hung")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=10_000, help="files in all")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that are not read as they should be")
    options = parser.parse_args()
    began = time.perf_counter()
    outcomes = run(options.formats, options.count, options.seed, options.keep)
    total: Counter[str] = sum(outcomes.values(), Counter())
    print(f"{'format':12}{'files':>8}" + "".join(f"{what:>22}" for what in (*GOOD, *BAD)))
    for name, counts in [*outcomes.items(), ("all", total)]:
        print(f"{name:12}{counts.total():8,}" + "".join(f"{counts[what]:22,}" for what in (*GOOD, *BAD)))
    print(f"{time.perf_counter() - began:.0f} s")
    sys.exit(any(total[what] for what in BAD))


if __name__ == "__main__":
    main()
