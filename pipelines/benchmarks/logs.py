"""Speed of turning recorded CAN frames in MF4 files into signals, compared with decoding each message by cantools.

Both read the same files with asammdf and end with an array of values and time stamps per signal. They alternate in
one process; the result is the ratio of medians. The same frames are also written as BLF and ASC, to show
the cost of these formats.

    .venv/bin/python pipelines/benchmarks/logs.py                     # real drives in ../shared/data/css_drive
    .venv/bin/python pipelines/benchmarks/logs.py FOLDER car.dbc      # your own
"""

import argparse
import statistics
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asammdf
import can
import cantools
import numpy as np
from fits import seconds

from anomalyvae.recordings import read_log

CSS_DRIVE = Path(__file__).parents[3] / "shared" / "data" / "css_drive"
Values = dict[str, tuple[np.ndarray, np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=CSS_DRIVE / "LOG", help="folder of MF4 files")
    parser.add_argument("database", nargs="?", type=Path, default=CSS_DRIVE / "canmod-gps.dbc")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    files = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() == ".mf4")
    if not files:
        raise SystemExit(f"{options.folder} has no MF4 file. Name another folder.")
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as scratch:
        warnings.simplefilter("ignore")
        database = cantools.database.load_file(options.database)
        assert_same(files[0], options.database, database)
        hours, frames = extent(files)
        methods: dict[str, Callable[[], object]] = {
            "read_log, MF4": lambda: [read_log(path, databases=options.database) for path in files],
            "cantools, message by message": lambda: [one_by_one(path, database) for path in files],
        }
        for suffix, writer in ((".blf", can.BLFWriter), (".asc", can.ASCWriter)):
            copies = [rewritten(path, Path(scratch) / f"{n}{suffix}", writer) for n, path in enumerate(files)]
            methods[f"read_log, {suffix[1:].upper()}"] = lambda copies=copies: [  # type: ignore[misc]
                read_log(path, databases=options.database) for path in copies
            ]
        rounds: dict[str, list[float]] = defaultdict(list)
        for _ in range(options.repeats):
            for name, method in methods.items():
                rounds[name].append(seconds(method))
    print(f"{len(files)} files, {frames:,} frames, {hours:.2f} hours; median of {options.repeats}\n")
    print(f"{'':30}{'seconds':>9}{'frames/s':>12}{'hours/s':>9}{'times':>8}")
    slowest = statistics.median(rounds["cantools, message by message"])
    for name, found in rounds.items():
        median = statistics.median(found)
        print(f"{name:30}{median:9.3f}{frames / median:12,.0f}{hours / median:9.2f}{slowest / median:8.1f}")


def recorded(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The time stamps of the frames in a file, and the frames as asammdf returns them."""
    settings: dict[str, Any] = {"process_bus_logging": False}
    with asammdf.MDF(path, **settings) as file:
        groups: Any = file.groups
        (place,) = (n for n, group in enumerate(groups) if any(c.name == "CAN_DataFrame" for c in group.channels))
        signal = file.get("CAN_DataFrame", group=place, raw=True)
    return signal.timestamps, signal.samples


def one_by_one(path: Path, database: Any) -> Values:
    """Decode a file as in the documentation of cantools."""
    stamps, samples = recorded(path)
    lists: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    known = {message.frame_id for message in database.messages}
    rows = zip(
        stamps.tolist(),
        samples["CAN_DataFrame.ID"].tolist(),
        samples["CAN_DataFrame.DataLength"].tolist(),
        samples["CAN_DataFrame.DataBytes"],
        strict=True,
    )
    for stamp, key, length, data in rows:
        if key in known:
            decoded = database.decode_message(key, data[:length].tobytes(), decode_choices=False, allow_truncated=True)
            for name, value in decoded.items():
                lists[name][0].append(stamp)
                lists[name][1].append(value)
    return {name: (np.array(times), np.array(values)) for name, (times, values) in lists.items()}


def assert_same(path: Path, database: Path, loaded: Any) -> None:
    log = read_log(path, databases=database)
    for name, (times, values) in one_by_one(path, loaded).items():
        np.testing.assert_array_equal(log[name].time_s, times)
        np.testing.assert_allclose(log[name].values, values, rtol=1e-12)


def extent(files: list[Path]) -> tuple[float, int]:
    """The total hours and the number of frames of the files."""
    stamps = [recorded(path)[0] for path in files]
    return sum(times[-1] - times[0] for times in stamps) / 3600, sum(len(times) for times in stamps)


def rewritten(path: Path, target: Path, writer: Callable[..., Any]) -> Path:
    """Write the frames of a file in another format."""
    stamps, samples = recorded(path)
    with writer(target) as file:
        for stamp, row in zip(stamps, samples, strict=True):
            data = row["CAN_DataFrame.DataBytes"][: row["CAN_DataFrame.DataLength"]].tobytes()
            key, extended = int(row["CAN_DataFrame.ID"]), bool(row["CAN_DataFrame.IDE"])
            file.on_message_received(can.Message(1.6e9 + stamp, key, extended, data=data, channel=0))
    return target


if __name__ == "__main__":
    main()
