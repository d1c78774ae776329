"""Public data sets by name: found or fetched, checked, and prepared once as Parquet.

A data set is a recipe, a Python file ``data/<name>/prepare.py`` with

- ``ABOUT``: ``{"what": …, "licence": …, "source": …, "size_mb": …}``;
- ``prepare(folder)``: writes the data set into an empty folder, with `source_file`, `write_recording`, `write_events`
  (or `write_parts`, for a table of series with labelled rows);
- ``DIGEST``, if the checksums of the source files are not known: the `content_digest` of the prepared folder.

A prepared data set is a folder::

    recordings/<name>.parquet   time_s and the signals, with units in the field metadata
    events.parquet              recording, time_s (or start_s and end_s), kind
    about.json                  description, licence, source, and the recipe's checksum

Source files are looked for in ``$ANOMALYVAE_DATA/<data set>/``, then in ``../shared/data/<data set>/`` beside a
checkout, and are fetched otherwise. ``$ANOMALYVAE_CACHE`` holds downloads and prepared data; by default it is the
user's cache folder.
"""

import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from anomalyvae.folders import replacing
from anomalyvae.recordings.log import UNIT_KEY
from anomalyvae.recordings.tabular import START_KEY
from anomalyvae.tables.names import nearest

_LAYOUT = 1  # of prepared folders: raise it to prepare all of them anew


@dataclass(frozen=True)
class Dataset:
    """A data set: the size of its download, whether it is prepared, and its folder."""

    name: str
    what: str
    licence: str
    source: str
    size_mb: float
    prepared: bool
    folder: Path


def list_datasets() -> list[Dataset]:
    """Describe every data set, by name; fetches and prepares nothing.

    Examples
    --------
    >>> "potholes" in [dataset.name for dataset in list_datasets()]
    True
    """
    return [
        Dataset(name, **load_recipe(name).ABOUT, prepared=_is_current(_cache() / name, name), folder=_cache() / name)
        for name in sorted(_recipes())
    ]


def get_dataset(name: str) -> Path:
    """Return the folder of a data set; prepare it first if needed, or if its recipe has changed.

    The folder is written atomically: a killed process leaves no incomplete data set.

    Raises
    ------
    ValueError
        For an unknown name (the message suggests a similar one), or a source file with another checksum.
    ConnectionError
        If a source file is not on this machine and cannot be fetched.
    """
    recipe = load_recipe(name)
    folder = _cache() / name
    if not _is_current(folder, name):
        with replacing(folder) as new:
            recipe.prepare(new)
            expected = getattr(recipe, "DIGEST", None)
            if expected is not None and content_digest(new) != expected:
                raise ValueError(
                    f"The data set {name} has another content than expected: a source file is damaged or of another "
                    f"version. Remove {_cache() / 'sources' / name} and try again."
                )
            about: dict[str, Any] = {"name": name, **recipe.ABOUT, "made_by": _fingerprint(name)}
            text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
            (new / "about.json").write_text(text, encoding="utf-8")
    return folder


def load_recipe(name: str) -> ModuleType:
    """Import the recipe of a data set from its file.

    Raises
    ------
    ValueError
        For an unknown name; the message suggests a similar one.
    """
    recipes = _recipes()
    if name not in recipes:
        raise ValueError(f"There is no data set {name!r}. {nearest(name, sorted(recipes))}")
    spec = importlib.util.spec_from_file_location(f"anomalyvae_data_{name}", recipes[name])
    assert spec is not None  # noqa: S101
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module there
    spec.loader.exec_module(module)
    return module


# --- for recipes ----------------------------------------------------------------------------------------


def source_file(dataset: str, name: str, *, sha256: str | None, url: str | None = None, origin: str = "") -> Path:
    """Return a source file, from this machine or else from its address.

    Parameters
    ----------
    dataset, name : str
        The file is looked for as ``<dataset>/<name>``.
    sha256 : str or None
        Its checksum. None if not known: then the recipe has a ``DIGEST``.
    url : str, optional
        Where to fetch it, pinned to a commit; without it the file must be on this machine.
    origin : str
        What a file without an address was converted from.

    Raises
    ------
    ValueError
        If the file has another checksum.
    ConnectionError
        If the file is not on this machine and cannot be fetched.
    """
    path = local_file(dataset, name, sha256=sha256)
    if path is None and url is None:
        raise ConnectionError(
            f"{dataset}/{name} is not on this machine, and cannot be fetched: it is an unpublished conversion of "
            f"{origin}. Set ANOMALYVAE_DATA to a folder that has {dataset}/{name}."
        )
    return path or _fetch(dataset, name, str(url), sha256)


def local_file(dataset: str, name: str, *, sha256: str | None) -> Path | None:
    """Return a source file from this machine, or None.

    Raises
    ------
    ValueError
        If the file has another checksum.
    """
    for root in _source_roots():
        path = root / dataset / name
        if path.is_file():
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            if sha256 is not None and found != sha256:
                raise ValueError(
                    f"{path} has the sha256 {found[:12]}…, expected {sha256[:12]}…: it is damaged or of another "
                    "version. Replace it, or remove it to have it fetched."
                )
            return path
    return None


def write_recording(
    path: Path,
    table: pd.DataFrame,
    units: Mapping[str, str],
    *,
    start_unix_s: float | None = None,
    about: str = "",
) -> None:
    """Write one recording as Parquet.

    Parameters
    ----------
    path : Path
        The file; its stem is the recording's name. Missing folders are created.
    table : pandas.DataFrame, shape (n, 1 + signals)
        Column ``time_s``, seconds from the recording's start, and one column per signal.
    units : mapping of str to str
        The unit of each signal.
    start_unix_s : float, optional
        The recording's start as unix time, for the file's metadata.
    about : str
        A remark, for the file's metadata.
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
    """Write a data set's events, sorted by recording and time.

    Parameters
    ----------
    folder : Path
        The data set's folder.
    events : pandas.DataFrame
        ``recording``, ``kind`` and either ``time_s`` or ``start_s`` and ``end_s``, in seconds.
    """
    time = "time_s" if "time_s" in events else "start_s"
    ordered = events.sort_values(["recording", time], kind="stable", ignore_index=True)
    ordered.to_parquet(folder / "events.parquet", index=False)


def write_parts(folder: Path, table: pd.DataFrame, signals: Mapping[str, str]) -> None:
    """Write the recordings ``<series>.train`` and ``<series>.test`` of a table, and events from its labelled rows.

    Parameters
    ----------
    folder : Path
        The data set's folder.
    table : pandas.DataFrame
        ``series``, ``split`` (train or test), ``time``, ``label`` (zero is unlabelled) and the signals.
    signals : mapping of str to str
        The signals of the table, and the names under which they are written.
    """
    events = []
    for (series, split), rows in table.groupby(["series", "split"], sort=True):
        name = f"{series}.{split}"
        recording = rows[["time", *signals]].rename(columns={"time": "time_s", **signals})
        write_recording(folder / "recordings" / f"{name}.parquet", recording, {})
        intervals = labelled_intervals(rows["time"].to_numpy(), rows["label"].to_numpy())
        events.append(intervals.assign(recording=name, kind="anomaly"))
    write_events(folder, pd.concat(events)[["recording", "start_s", "end_s", "kind"]])


def labelled_intervals(time_s: np.ndarray, label: np.ndarray) -> pd.DataFrame:
    """Intervals of consecutive labelled rows, from the first row of each to its last.

    Parameters
    ----------
    time_s, label : ndarray, shape (n,)
        Time stamps in seconds, and labels; zero is unlabelled.

    Returns
    -------
    pandas.DataFrame
        ``start_s``, ``end_s``: one row per interval.
    """
    edges = np.flatnonzero(np.diff(np.concatenate(([0], label != 0, [0])).astype(int)))
    return pd.DataFrame({"start_s": time_s[edges[::2]], "end_s": time_s[edges[1::2] - 1]})


def content_digest(folder: Path) -> str:
    """Checksum of the recordings and events of a prepared data set, independent of its source files.

    It uses single precision, since parsers of decimal numbers differ in the last bit of a double.
    """
    digest = hashlib.sha256()
    for path in sorted((folder / "recordings").glob("*.parquet")):
        table = pd.read_parquet(path)
        digest.update(" ".join([path.stem, *table]).encode())
        values = table.to_numpy(dtype=np.float32) + np.float32(0)  # -0.0 becomes 0.0
        values[np.isnan(values)] = np.nan  # one bit pattern for NaN
        digest.update(values.astype("<f4").tobytes())
    if (folder / "events.parquet").is_file():
        events = pd.read_parquet(folder / "events.parquet")
        digest.update(events.to_csv(index=False, float_format="%.3f", lineterminator="\n").encode())
    return digest.hexdigest()


# --- places ---------------------------------------------------------------------------------------------


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
            f"{url} cannot be fetched ({error}). Go online, or set ANOMALYVAE_DATA to a folder that has "
            f"{dataset}/{name}."
        ) from error
    except ValueError as error:  # of pooch, for a wrong checksum; it keeps nothing then
        raise ValueError(
            f"{url} is not the expected file {dataset}/{name} (sha256 {str(sha256)[:12]}…). Try again, or set "
            "ANOMALYVAE_DATA to a folder that has it."
        ) from error
    return target


def _fingerprint(name: str) -> str:
    return f"layout {_LAYOUT}, recipe {hashlib.sha256(_recipes()[name].read_bytes()).hexdigest()}"


def _is_current(folder: Path, name: str) -> bool:
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(about, dict) and about.get("made_by") == _fingerprint(name)
