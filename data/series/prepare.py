"""Classes of series, one of which is unknown: 12 sets that the packages aeon and tslearn have as examples.

Sources: aeon 1.6.0 and tslearn 0.9.0, whose copies come from the UCR and UEA archives of series (Dau et al.
2019, The UCR time series archive, arXiv:1810.07758; Bagnall et al. 2018, arXiv:1811.00075). They are read from the
archives: nothing is unpacked, and none of their code runs.

1.  The training and the test part of a set are joined. Signals of series have one length: the median of the set, or 100
    if that is less. A longer signal becomes the means of as many stretches, a shorter one is interpolated.
2.  A task learns one class that has 40 series or more, or all classes but one, if there are three or more. Of the tasks
    of a set, four are taken, evenly spaced.
3.  Every other normal series is learned. The others are scored, with at most as many of the unknown, evenly spaced.

Written are ``GunPoint.one-1.npz``, ``OSULeaf.but-4.npz`` and so on with ``learned`` and ``scored`` (series, signals,
samples), and ``y`` of the scored ones (1: unknown). They are not recordings.
"""

import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from anomalyvae.datasets import source_file

ABOUT = {
    "what": "classes of series, one of which is unknown, in 12 sets of the UCR and UEA archives; not recordings",
    "licence": "BSD-3-Clause (aeon), BSD-2-Clause (tslearn); the data: none stated",
    "source": "the packages aeon 1.6.0 and tslearn 0.9.0",
    "size_mb": 25.8,
}
PACKAGES = "https://files.pythonhosted.org/packages"
ARCHIVES = {
    "aeon-1.6.0-py3-none-any.whl": (
        f"{PACKAGES}/7d/49/034d8d142106e035fce019d8ee6f04d3ac8842490cd33f811d4df8e15da3",
        "d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409",
    ),
    "tslearn-0.9.0.tar.gz": (
        f"{PACKAGES}/54/70/297bf11d18bf3b32d7883353ee96941546d66be97b5ad02ce0b6a5b6c3f6",
        "eb7d32b6876a5606275ebecbf9e0b22075490a5fc8d1d09e4c13c884b30a45af",
    ),
}
AEON, TSLEARN = ARCHIVES
SETS = {
    "ACSF1": (AEON, "aeon/datasets/data/ACSF1/ACSF1_{}.ts"),
    "ArrowHead": (AEON, "aeon/datasets/data/ArrowHead/ArrowHead_{}.ts"),
    "BasicMotions": (AEON, "aeon/datasets/data/BasicMotions/BasicMotions_{}.ts"),
    "Car": (TSLEARN, "tslearn-0.9.0/docs/datasets/Car/Car_{}.txt"),
    "FaceFour": (TSLEARN, "tslearn-0.9.0/docs/datasets/FaceFour/FaceFour_{}.txt"),
    "GunPoint": (AEON, "aeon/datasets/data/GunPoint/GunPoint_{}.ts"),
    "ItalyPowerDemand": (AEON, "aeon/datasets/data/ItalyPowerDemand/ItalyPowerDemand_{}.ts"),
    "JapaneseVowels": (AEON, "aeon/datasets/data/JapaneseVowels/JapaneseVowels_{}.ts"),
    "Lightning2": (TSLEARN, "tslearn-0.9.0/docs/datasets/Lightning2/Lightning2_{}.txt"),
    "OSULeaf": (AEON, "aeon/datasets/data/OSULeaf/OSULeaf_{}.ts"),
    "PickupGestureWiimoteZ": (AEON, "aeon/datasets/data/PickupGestureWiimoteZ/PickupGestureWiimoteZ_{}.ts"),
    "Trace": (TSLEARN, "tslearn-0.9.0/tslearn/.cached_datasets/Trace.npz"),
}
LONGEST = 100  # samples
FEWEST = 40  # series of a class that is learned alone
MOST_TASKS = 4

Series = list[list[np.ndarray]]  # the signals of each


def prepare(folder: Path) -> None:
    """Write the data set into an empty folder."""
    files = {
        name: source_file("series", name, url=f"{url}/{name}", sha256=sha256)
        for name, (url, sha256) in ARCHIVES.items()
    }
    for name, (archive, pattern) in SETS.items():
        series: Series = []
        kinds: list[str] = []
        for part in dict.fromkeys(pattern.format(part) for part in ("TRAIN", "TEST")):
            for signals, kind in read(part, content(files[archive], part)):
                series.append(signals)
                kinds.append(kind)
        for task, learned, scored, y in tasks(of_one_length(series), np.array(kinds)):
            np.savez_compressed(folder / f"{name}.{task}.npz", learned=learned, scored=scored, y=y)


def content(archive: Path, member: str) -> bytes:
    """A file in an archive."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as packed:
            return packed.read(member)
    with tarfile.open(archive) as tar:
        file = tar.extractfile(tar.getmember(member))
        if file is None:
            raise ValueError(f"{member} in {archive.name} is no file: the archive is of another version. Replace it.")
        return file.read()


def read(name: str, data: bytes) -> Iterator[tuple[list[np.ndarray], str]]:
    """The signals and the class of each series in a file."""
    if name.endswith(".npz"):
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            for part in ("train", "test"):
                for series, kind in zip(arrays[f"X_{part}"], arrays[f"y_{part}"], strict=True):
                    yield list(series.T), str(kind)
        return
    lines = data.decode().splitlines()
    if name.endswith(".txt"):  # the class, then the samples
        for values in (np.array(line.split(), dtype=np.float64) for line in lines):
            yield [values[1:]], f"{values[0]:.0f}"
        return
    begin = next(number for number, line in enumerate(lines) if line.strip().lower() == "@data")
    for line in lines[begin + 1 :]:  # signals and class between colons, samples between commas
        *signals, kind = line.strip().split(":")
        yield [np.array(signal.split(","), dtype=np.float64) for signal in signals], kind


def of_one_length(series: Series) -> np.ndarray:
    """Series as windows ``(n, signals, samples)`` (rule 1)."""
    length = min(LONGEST, int(np.median([len(signals[0]) for signals in series])))
    return np.array([[resized(signal, length) for signal in signals] for signals in series])


def resized(signal: np.ndarray, length: int) -> np.ndarray:
    """A signal of so many samples."""
    if len(signal) <= length:
        return np.interp(np.linspace(0, len(signal) - 1, length), np.arange(len(signal)), signal)
    bounds = np.linspace(0, len(signal), length + 1).astype(int)
    return np.add.reduceat(signal, bounds[:-1]) / np.diff(bounds)


def tasks(windows: np.ndarray, kinds: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Names, learned and scored windows, and which of these are unknown (rules 2 and 3)."""
    names, counts = np.unique(kinds, return_counts=True)
    possible = [("one", name) for name in names[counts >= FEWEST]]
    possible += [("but", name) for name in names] if len(names) > 2 else []
    for number in _spaced(len(possible), MOST_TASKS):
        way, name = possible[number]
        normal, unknown = (np.flatnonzero((kinds == name) == (way == which)) for which in ("one", "but"))
        rest = normal[1::2]
        unknown = unknown[_spaced(len(unknown), len(rest))]
        y = np.repeat([0, 1], [len(rest), len(unknown)])
        yield f"{way}-{name}", windows[normal[::2]], windows[np.concatenate([rest, unknown])], y


def _spaced(n: int, most: int) -> np.ndarray:
    return np.linspace(0, n - 1, min(n, most)).astype(int)
