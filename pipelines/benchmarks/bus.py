"""Attacks on a vehicle bus without a database: which windows are anomalous, and which identifier is to blame.

    python pipelines/benchmarks/bus.py            # 2 minutes on one core; --every 27 one, --attack the attack alone

Data: `j1939`, the bus of a truck. A model is what ``anomalyvae fit normal.log`` makes: windows of 1 s, every 0.5 s.

Faults put in   normal.log in three parts of 10 s: each part is scored by a model of the two others. A fault lasts for
                3 s of the part and hits one identifier; every ninth identifier with ten frames or more is hit in turn.
                    silent      all of its frames are missing
                    lost        30 % of them are
                    injected    as many frames again, in between, with other bytes
                    replayed    as many frames again, in between, with those of 8 s before or after
                    fuzzed      10 % of its frames have random bytes
                    slower      its period is half as long again
                    truncated   its frames have half of their bytes
                    frozen      its frames repeat the first one; only identifiers whose bytes change
                    unknown     an identifier that was never seen, ten times a second
                A window is anomalous if it has a frame that was put in or changed, or the middle of the time at which
                a missing one would have been awaited. The AUROC compares the anomalous windows of a fault with all
                windows of the part as it was. Normal windows are not all alike: in each part of so short a recording
                something happens that the two others do not have.
The attack      tsc1.log, scored by a model of all of normal.log. A window is anomalous if it has a labelled frame.

``named`` is the share of anomalous windows in which the signal with the largest feature score is one of the right
identifier; ``unknown.identifiers`` stands for the most frequent unknown identifier in the window.
"""

import argparse
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalyvae import metrics
from anomalyvae.datasets import get_dataset
from anomalyvae.detector import VAEOutlierDetector
from anomalyvae.recordings import WindowRecipe, bus_recipe, stream_windows
from anomalyvae.recordings.bus.frames import digits_of
from anomalyvae.recordings.bus.identifiers import MOST_FREQUENT, UNKNOWN
from anomalyvae.train import train

PART_S, BEGIN_S, LAST_S, SHIFT_S = 10.0, 5.0, 3.0, 8.0
FEWEST, EVERY, SEED = 10, 9, 0


class Frame(NamedTuple):
    """A frame of a log."""

    time_s: float
    key: int
    data: bytes


Frames = list[Frame]
Fault = tuple[str, str, Frames, NDArray[np.float64]]  # kind, identifier, the log with it, and the moments that show it


def read(path: Path) -> Frames:
    """Read what candump shows."""
    found = []
    for line in path.read_text().splitlines():
        stamp, _, digits, _, *data = line.split()
        found.append(Frame(float(stamp.strip("()")), int(digits, 16), bytes.fromhex(" ".join(data))))
    return found


def write(path: Path, frames: Frames) -> Path:
    """Write frames as candump shows them, in order of time."""
    lines = (
        f" ({frame.time_s:010.6f})  can0  {frame.key:08X}   [{len(frame.data)}]  {frame.data.hex(' ').upper()}\n"
        for frame in sorted(frames, key=lambda frame: frame.time_s)
    )
    path.write_text("".join(lines))
    return path


def faults(log: Frames, part: Frames, key: int, begin_s: float, rng: np.random.Generator) -> Iterator[Fault]:
    """Put each fault into a part of a log."""
    name, until_s = digits_of(key | 1 << 31), begin_s + LAST_S
    hit = [frame for frame in part if frame.key == key and begin_s <= frame.time_s < until_s]
    rest = [frame for frame in part if frame not in set(hit)]
    if len(hit) < 2:
        return
    stamps = np.array([frame.time_s for frame in hit])
    period_s = float(np.median(np.diff(stamps)))
    awaited = stamps + period_s / 2

    yield "silent", name, rest, awaited
    kept = rng.random(len(hit)) >= 0.3
    if not kept.all():
        some = [frame for frame, keep in zip(hit, kept, strict=True) if keep]
        yield "lost", name, rest + some, awaited[~kept]
    other = rng.bytes(len(hit[0].data))
    added = [Frame(frame.time_s + period_s * rng.uniform(0.2, 0.8), key, other) for frame in hit]
    yield "injected", name, part + added, np.array([frame.time_s for frame in added])
    shift_s = SHIFT_S if begin_s < SHIFT_S else -SHIFT_S
    replayed = [
        frame._replace(time_s=frame.time_s - shift_s + period_s * 0.37)
        for frame in log
        if frame.key == key and begin_s <= frame.time_s - shift_s < until_s
    ]
    if replayed:
        yield "replayed", name, part + replayed, np.array([frame.time_s for frame in replayed])
    spoiled = np.zeros(len(hit), dtype=bool)
    spoiled[rng.permutation(len(hit))[: max(1, len(hit) // 10)]] = True
    fuzzed = [f._replace(data=rng.bytes(len(f.data))) if spoil else f for f, spoil in zip(hit, spoiled, strict=True)]
    yield "fuzzed", name, rest + fuzzed, stamps[spoiled]
    late = [frame._replace(time_s=begin_s + 1.5 * (frame.time_s - begin_s)) for frame in hit]
    yield "slower", name, rest + [frame for frame in late if frame.time_s < until_s], awaited
    yield "truncated", name, rest + [f._replace(data=f.data[: len(f.data) // 2]) for f in hit], stamps
    if len({frame.data for frame in hit}) > 1:
        yield "frozen", name, rest + [frame._replace(data=hit[0].data) for frame in hit], stamps[1:]
    strange = next(number for number in range(key + 1, key + 99) if all(frame.key != number for frame in log))
    at_s = np.arange(begin_s, until_s, 0.1) + 0.003
    more = [Frame(time_s, strange, other) for time_s in at_s.tolist()]
    yield "unknown", digits_of(strange | 1 << 31), part + more, at_s


class Model(NamedTuple):
    """A fitted detector, and its windows."""

    detector: VAEOutlierDetector
    recipe: WindowRecipe

    @classmethod
    def of(cls, files: list[Path]) -> "Model":
        """Fit it as ``anomalyvae fit`` does."""
        recipe = bus_recipe(files)
        return cls(train(files, recipe, VAEOutlierDetector(random_state=SEED)), recipe)

    def scored(self, path: Path) -> pd.DataFrame:
        """The windows of a log: their span, score, and the identifier that is to blame."""
        batches = list(stream_windows(path, self.recipe))
        rows = pd.concat([batch.rows for batch in batches], ignore_index=True)
        table = pd.concat([batch.spans for batch in batches], ignore_index=True)
        table["score"] = -self.detector.score_samples(rows)
        largest = np.asarray(self.detector.feature_scores(rows)).argmax(axis=1)
        unknown = [named for batch in batches for named in batch.unknown or [""] * len(batch)]
        table["blamed"] = [
            named.split(" ")[0] if (signal := self.recipe.signals[place]) in (UNKNOWN, MOST_FREQUENT)
            else signal.partition(".")[0]
            for place, named in zip(largest, unknown, strict=True)
        ]  # fmt: skip
        return table


def touched(windows: pd.DataFrame, at_s: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which windows have one of these moments."""
    start_s, end_s = (windows[edge].to_numpy()[:, None] - 1e-6 for edge in ("start_s", "end_s"))
    return np.asarray(((at_s >= start_s) & (at_s < end_s)).any(axis=1))


def auroc(anomalous: Any, normal: Any) -> float:
    label = np.repeat([1, 0], [len(anomalous), len(normal)])
    return float(metrics.auroc(label, np.concatenate((anomalous, normal))))


def measure_faults(normal: Path, every: int, folder: Path) -> pd.DataFrame:
    """Put faults into each part of the normal log, and score them."""
    log, found = read(normal), []
    rng = np.random.default_rng(SEED)
    for number in range(3):
        first_s, last_s = number * PART_S, (number + 1) * PART_S
        learned = [[f for f in log if f.time_s < first_s], [f for f in log if f.time_s >= last_s]]
        model = Model.of([write(folder / f"learned{k}.log", part) for k, part in enumerate(learned) if part])
        part = [frame for frame in log if first_s <= frame.time_s < last_s]
        clean = model.scored(write(folder / "part.log", part))
        keys, counts = np.unique([frame.key for frame in part], return_counts=True)
        for key in keys[counts >= FEWEST][number % every :: every].tolist():
            for kind, name, spoiled, at_s in faults(log, part, key, first_s + BEGIN_S, rng):
                windows = model.scored(write(folder / "spoiled.log", spoiled))
                hit = windows[touched(windows, at_s)]
                if len(hit):
                    share = float((hit["blamed"] == name).mean())
                    found.append((kind, auroc(hit["score"], clean["score"]), share, len(hit)))
    table = pd.DataFrame(found, columns=["fault", "AUROC", "named", "windows"])
    return table.groupby("fault", sort=False).agg(
        AUROC=("AUROC", "mean"), worst=("AUROC", "min"), named=("named", "mean"), logs=("AUROC", "size")
    )


def measure_attack(data: Path) -> str:
    """Score the log with the attack by a model of the normal one."""
    model = Model.of([data / "recordings" / "normal.log"])
    windows = model.scored(data / "recordings" / "tsc1.log")
    events = pd.read_parquet(data / "events.parquet")
    label = touched(windows, events["time_s"].to_numpy())
    named = float(windows.loc[label, "blamed"].isin(set(events["identifier"])).mean())
    score = windows["score"].to_numpy()
    return (
        f"tsc1: {len(windows)} windows, {label.sum()} with an attack; {len(model.recipe.signals)} signals\n"
        f"AUROC {metrics.auroc(label, score):.3f}, AP {metrics.average_precision(label, score):.3f}, "
        f"the right identifier is first in {named:.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=EVERY, help=f"hit every so many identifiers (default: {EVERY})")
    parser.add_argument("--attack", action="store_true", help="measure the attack alone")
    parser.add_argument("--faults", action="store_true", help="measure the faults put in alone")
    args = parser.parse_args()
    data = get_dataset("j1939")
    warnings.simplefilter("ignore", UserWarning)
    if not args.attack:
        with tempfile.TemporaryDirectory() as folder:
            table = measure_faults(data / "recordings" / "normal.log", args.every, Path(folder))
        print(table.round(3).to_string(), flush=True)
    if not args.faults:
        print(measure_attack(data))


if __name__ == "__main__":
    main()
