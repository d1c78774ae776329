"""Public data sets by name: found or fetched, checked, and prepared once into tidy Parquet.

A data set is a recipe: a Python file in the folder ``data`` (``data/<name>/prepare.py``) with two names:

``ABOUT``
    ``{"what": …, "licence": …, "source": …, "size_mb": …}``, for people.
``prepare(folder)``
    Writes the data set into an empty folder by means of `source_file`, `write_recording` and `write_events`.
``DIGEST``, where the checksums of the authors' own files are not known
    The `content_digest` of the folder that ``prepare`` has to make. What is made is checked in their place.

A prepared data set is a folder::

    recordings/<name>.parquet   time_s and the signals, the unit of each in its field metadata
    events.parquet              recording, time_s (or start_s and end_s), kind: what is known to have happened
    about.json                  what it is, its licence, its source, and which recipe made it

Source files are looked for in ``$ANOMALYVAE_DATA/<data set>/``, then in ``../shared/data/<data set>/`` beside
a checkout, and are fetched otherwise. ``$ANOMALYVAE_CACHE`` holds downloads and prepared data; by default it
is the user's cache folder.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from anomalyvae.folders import replacing
from anomalyvae.recordings.log import nearest
from anomalyvae.recordings.tabular import START_KEY, UNIT_KEY

_LAYOUT = 1  # raised when prepared folders look different, so that old ones are made anew


@dataclass(frozen=True)
class Dataset:
    """What a data set is, and whether it is ready.

    ``size_mb`` is what is fetched; ``folder`` is where the prepared data lies, or will lie.
    """

    name: str
    what: str
    licence: str
    source: str
    size_mb: float
    prepared: bool
    folder: Path


def dataset_names() -> list[str]:
    """Return the names that `get_dataset` knows, in alphabetical order.

    Examples
    --------
    >>> "potholes" in dataset_names()
    True
    """
    return sorted(_recipes())


def describe(name: str) -> Dataset:
    """Tell what a data set is, without fetching or preparing anything.

    Raises
    ------
    ValueError
        No data set has this name; the nearest is told.
    """
    about = load_recipe(name).ABOUT
    folder = _cache() / name
    return Dataset(name=name, **about, prepared=_is_current(folder, name), folder=folder)


def list_datasets() -> list[Dataset]:
    """Describe every data set."""
    return [describe(name) for name in dataset_names()]


def get_dataset(name: str) -> Path:
    """Return the folder of a prepared data set; prepare it if that is not done or its recipe has changed.

    Preparing is all or nothing: a process that is killed leaves no folder that looks prepared.

    Raises
    ------
    ValueError
        No data set has this name, or a source file is not the one that the recipe expects.
    ConnectionError
        A source file is neither on this machine nor to be had from its source.
    """
    recipe = load_recipe(name)
    folder = _cache() / name
    if not _is_current(folder, name):
        with replacing(folder) as new:
            _make(recipe, name, new)
    return folder


def load_recipe(name: str) -> ModuleType:
    """Import the recipe of a data set from its file.

    Raises
    ------
    ValueError
        No data set has this name; the nearest is told.
    """
    recipes = _recipes()
    if name not in recipes:
        raise ValueError(f"Got data set {name!r}, expected one that is known. {nearest(name, sorted(recipes))}")
    spec = importlib.util.spec_from_file_location(f"anomalyvae_data_{name}", recipes[name])
    if spec is None or spec.loader is None:
        raise ImportError(f"Got {recipes[name]}, which cannot be imported, expected a Python file. Restore it.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


# --- for recipes ----------------------------------------------------------------------------------------


def local_file(dataset: str, name: str, *, sha256: str | None) -> Path | None:
    """Return a source file that lies on this machine, None where it does not.

    Raises
    ------
    ValueError
        The file has another checksum.
    """
    for root in _source_roots():
        path = root / dataset / name
        if path.is_file():
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            if sha256 is not None and found != sha256:
                raise ValueError(
                    f"Got {path} with sha256 {found[:12]}…, expected {sha256[:12]}…: it is damaged or "
                    f"another version. Replace the file, or remove it to have it fetched."
                )
            return path
    return None


def converted_file(dataset: str, name: str, *, sha256: str, source: str) -> Path:
    """Return a conversion of a source that lies on this machine; there is no address to fetch it from.

    Raises
    ------
    ConnectionError
        The file is not on this machine.
    ValueError
        The file has another checksum.
    """
    path = local_file(dataset, name, sha256=sha256)
    if path is None:
        raise ConnectionError(
            f"Got no file {dataset}/{name}, expected it on this machine: it is a conversion of {source} that is "
            f"not published. Set ANOMALYVAE_DATA to a folder that holds {dataset}/{name}."
        )
    return path


def source_file(dataset: str, name: str, *, url: str, sha256: str | None) -> Path:
    """Return a source file: one that lies on this machine, or else the one that is fetched now.

    Parameters
    ----------
    dataset, name : str
        The file is looked for as ``<dataset>/<name>`` in the places named above.
    url : str
        Where it is fetched from; pinned to a commit.
    sha256 : str or None
        Its checksum in hexadecimal. A file with another one is refused, wherever it comes from. None where it
        is not known: then the recipe has a ``DIGEST``.

    Raises
    ------
    ValueError
        The file has another checksum.
    ConnectionError
        The file is not on this machine and cannot be fetched.
    """
    return local_file(dataset, name, sha256=sha256) or _fetch(dataset, name, url, sha256)


def write_recording(
    path: Path,
    table: pd.DataFrame,
    units: Mapping[str, str],
    *,
    start_unix_s: float | None = None,
    about: str = "",
) -> None:
    """Write one recording as tidy Parquet.

    Parameters
    ----------
    path : Path
        The file; its name without suffix is the recording's name. Missing folders are made.
    table : pandas.DataFrame, shape (n, 1 + signals)
        Column ``time_s``, seconds from the recording's start, and one column per signal.
    units : mapping of str to str
        The unit of each signal.
    start_unix_s : float, optional
        The recording's start as unix time; kept in the file's metadata.
    about : str
        What the recording is, where it could be mistaken for something else; kept in the file's metadata.
    """
    unit = {"time_s": "s", **units}
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    columns = [f.with_metadata({UNIT_KEY: unit.get(f.name, "")}) for f in arrow.schema]
    notes = {} if start_unix_s is None else {START_KEY: repr(float(start_unix_s)).encode()}
    if about:
        notes[b"about"] = about.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(arrow.cast(pa.schema(columns, metadata=notes)), path)


def write_events(folder: Path, events: pd.DataFrame) -> None:
    """Write a data set's events in order of recording and time.

    Parameters
    ----------
    folder : Path
        The data set's folder.
    events : pandas.DataFrame
        ``recording``, ``kind`` and either ``time_s`` (a mark) or ``start_s`` and ``end_s``, in seconds.
    """
    time = "time_s" if "time_s" in events else "start_s"
    ordered = events.sort_values(["recording", time], kind="stable", ignore_index=True)
    ordered.to_parquet(folder / "events.parquet", index=False)


def labelled_intervals(time_s: np.ndarray, label: np.ndarray) -> pd.DataFrame:
    """Return the runs of labelled rows as intervals, from the first row of a run to its last.

    Parameters
    ----------
    time_s, label : ndarray, shape (n,)
        Stamps in seconds, and what counts as labelled where it is not zero.

    Returns
    -------
    pandas.DataFrame
        ``start_s``, ``end_s``: one row per run.
    """
    edges = np.flatnonzero(np.diff(np.concatenate(([0], label != 0, [0])).astype(int)))
    return pd.DataFrame({"start_s": time_s[edges[::2]], "end_s": time_s[edges[1::2] - 1]})


def content_digest(folder: Path) -> str:
    """Return a checksum of what a prepared data set says, whatever files it was made of.

    Values count in single precision: parsers of decimal numbers differ in the last bit of a double.
    """
    digest = hashlib.sha256()
    for path in sorted((folder / "recordings").glob("*.parquet")):
        table = pd.read_parquet(path)
        digest.update(" ".join([path.stem, *table]).encode())
        values = table.to_numpy(dtype=np.float32) + np.float32(0)  # minus zero is zero
        values[np.isnan(values)] = np.nan  # one bit pattern for what is missing
        digest.update(values.astype("<f4").tobytes())
    if (folder / "events.parquet").is_file():
        events = pd.read_parquet(folder / "events.parquet")
        digest.update(events.to_csv(index=False, float_format="%.3f", lineterminator="\n").encode())
    return digest.hexdigest()


def command_line(name: str, description: str | None, argv: Sequence[str] | None = None) -> int:
    """Run a recipe as a script: prepare the data set for `get_dataset`, or in a folder of choice."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write here, into a new folder, not into the cache")
    args = parser.parse_args(argv)
    try:
        print(get_dataset(name) if args.out is None else write_dataset(name, args.out))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def write_dataset(name: str, folder: Path, prepare: Callable[[Path], None] | None = None) -> Path:
    """Prepare a data set in a folder that does not exist yet.

    Parameters
    ----------
    name : str
        The data set.
    folder : Path
        Where to.
    prepare : callable, optional
        Takes the place of the recipe's own ``prepare``, with other arguments say.

    Raises
    ------
    FileExistsError
        There is something at ``folder``; nothing of anybody's is overwritten.
    """
    if folder.exists():
        raise FileExistsError(f"Got {folder}, which exists, expected a new folder. Remove it or name another.")
    with replacing(folder) as new:
        _make(load_recipe(name), name, new, prepare)
    return folder


# --- places and whole folders ---------------------------------------------------------------------------


def _recipes() -> dict[str, Path]:
    home = _recipe_folder()
    found = {path.parent.name: path for path in home.glob("*/prepare.py")}
    return {**found, "simulated": home / "simulate.py"}


def _recipe_folder() -> Path:
    package = Path(__file__).resolve().parent
    in_wheel = package / "data"
    return in_wheel if in_wheel.is_dir() else package.parent / "data"


def _source_roots() -> Iterator[Path]:
    if os.environ.get("ANOMALYVAE_DATA"):
        yield Path(os.environ["ANOMALYVAE_DATA"]).expanduser()
    yield _recipe_folder().parent.parent / "shared" / "data"


def _cache() -> Path:
    if os.environ.get("ANOMALYVAE_CACHE"):
        return Path(os.environ["ANOMALYVAE_CACHE"]).expanduser()
    import pooch

    return Path(pooch.os_cache("anomalyvae"))


def _fetch(dataset: str, name: str, url: str, sha256: str | None) -> Path:
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")
    target = _cache() / "sources" / dataset / name
    try:
        known = None if sha256 is None else f"sha256:{sha256}"
        pooch.retrieve(url, known_hash=known, fname=target.name, path=target.parent)
    except requests.RequestException as error:
        raise ConnectionError(
            f"Got no file from {url} ({error}), expected {dataset}/{name}. Go online, or set ANOMALYVAE_DATA "
            f"to a folder that holds {dataset}/{name}."
        ) from error
    except ValueError as error:  # pooch's word for a wrong checksum; it keeps nothing then
        raise ValueError(
            f"Got a file from {url} that is not the expected {dataset}/{name} (sha256 {str(sha256)[:12]}…). "
            f"Try again, or set ANOMALYVAE_DATA to a folder that holds it."
        ) from error
    return target


def _make(recipe: ModuleType, name: str, folder: Path, prepare: Callable[[Path], None] | None = None) -> None:
    (prepare or recipe.prepare)(folder)
    expected = getattr(recipe, "DIGEST", None)
    if prepare is None and expected is not None and content_digest(folder) != expected:
        raise ValueError(
            f"Got another content of data set {name} than expected: a source file is damaged or another version. "
            f"Remove {_cache() / 'sources' / name} and try again."
        )
    about: dict[str, Any] = {"name": name, **recipe.ABOUT, "made_by": _fingerprint(name)}
    (folder / "about.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _fingerprint(name: str) -> str:
    return f"layout {_LAYOUT}, recipe {hashlib.sha256(_recipes()[name].read_bytes()).hexdigest()}"


def _is_current(folder: Path, name: str) -> bool:
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(about, dict) and about.get("made_by") == _fingerprint(name)
