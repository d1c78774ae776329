"""The manifest of a model: which intervals of which recordings it learned.

A manifest is a table with a row per interval of a recording:

- ``source``, ``file``: folder (may be empty) and name of the recording, and ``sha256`` of its file;
- ``recording``, ``start_s``, ``end_s``: the interval;
- ``role``: ``normal`` (its windows are learned), ``fault`` (they are learned as outliers) or ``excluded`` (left out);
- ``event_id``, ``verdict``: the reviewed event that the interval comes from; empty for the first training.

A bundle has the manifest of its model as ``manifest.json``, whose sha256 is on the card under ``training``. Recordings
that are held out for the gate are a manifest, too.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalyvae.bundle.card import read_card, sha256_of
from anomalyvae.events import SLACK_S, check_matches, event_spans, touches
from anomalyvae.folders import read_whole, write_text
from anomalyvae.options import ReadOptions
from anomalyvae.recordings import WindowRecipe, Windows, read_windows, stream_windows
from anomalyvae.recordings.cutting import stacked
from anomalyvae.untrusted import read_json

MANIFEST = "manifest.json"
ROLES = {"new_normal": "normal", "fault": "fault", "noise": "excluded"}
"""The role of an event by its verdict. An event that is open or ``unsure`` has none: it changes nothing."""
COLUMNS = ("source", "file", "recording", "start_s", "end_s", "role", "sha256", "event_id", "verdict")
_FORMAT = 1

Paths = str | os.PathLike[str]


# --- making one -----------------------------------------------------------------------------------------


def begin_manifest(
    files: Iterable[Paths],
    spans: pd.DataFrame,
    events: pd.DataFrame | None = None,
    tolerance_s: float = 0.0,
    role: str = "fault",
) -> pd.DataFrame:
    """The manifest of recordings whose windows are normal, except during known events.

    Parameters
    ----------
    files : iterable of path
        The recordings.
    spans : DataFrame
        Their windows: ``recording`` (a file's name without suffix), ``start_s``, ``end_s``.
    events : DataFrame, optional
        Known anomalies: ``recording`` and ``start_s``, ``end_s`` (or ``time_s``), in seconds.
    tolerance_s : float, default=0
        Events are extended by this to both sides.
    role : {"fault", "excluded"}, default="fault"
        Of the events.

    Returns
    -------
    DataFrame
        For each recording with windows, an interval from its first to its last, and its events.
    """
    reach = spans.groupby("recording", sort=False).agg(start_s=("start_s", "min"), end_s=("end_s", "max"))
    known = pd.DataFrame(columns=["recording", "start_s", "end_s"]) if events is None else event_spans(events)
    check_matches(known, spans)
    known = known.assign(start_s=known["start_s"] - tolerance_s, end_s=known["end_s"] + tolerance_s, role=role)
    parts = []
    for file in map(Path, files):
        if file.stem not in reach.index:
            continue
        whole = reach.loc[[file.stem]].assign(role="normal")
        part = pd.concat([whole, known.loc[known["recording"] == file.stem, list(whole)]], ignore_index=True)
        digest = sha256_of(file)
        source = os.path.abspath(file.parent)  # for commands that run in other folders
        parts.append(part.assign(source=source, file=file.name, recording=file.stem, sha256=digest))
    return _in_form(pd.concat(parts) if parts else pd.DataFrame())


def manifest_of(
    files: Iterable[Paths],
    recipe: WindowRecipe,
    events: pd.DataFrame | None = None,
    tolerance_s: float = 0.0,
    **options: Unpack[ReadOptions],
) -> pd.DataFrame:
    """`begin_manifest` for the windows into which a recipe cuts the recordings."""
    files = list(files)
    return begin_manifest(files, read_windows(files, recipe, **options).spans, events, tolerance_s)


def reviewed_manifest(events: pd.DataFrame, source: Paths | None = None, *known: pd.DataFrame) -> pd.DataFrame:
    """The intervals that reviewers have judged, as a manifest.

    Parameters
    ----------
    events : DataFrame
        Of a queue: ``event_id``, ``source``, ``file``, ``recording``, ``start_s``, ``end_s`` and ``verdict``.
    source : path, optional
        The folder of the recordings, if they have moved.
    *known : DataFrame
        Manifests. The events in them keep the checksum of the recording that was learned, so that a recording which has
        been overwritten since is refused when it is read.

    Raises
    ------
    FileNotFoundError
        If a recording is gone.
    """
    judged = events[events["verdict"].isin(list(ROLES))]
    learned = {
        event: digest for table in known for event, digest in table[["event_id", "sha256"]].itertuples(index=False)
    }
    paths = [_path_of(row, source) for row in judged.to_dict("records")]
    new = dict.fromkeys(path for path, event in zip(paths, judged["event_id"], strict=True) if event not in learned)
    digests = {path: sha256_of(path) for path in new}
    sha256 = [learned.get(event) or digests[path] for path, event in zip(paths, judged["event_id"], strict=True)]
    return _in_form(judged.assign(role=judged["verdict"].map(ROLES), sha256=sha256))


def next_manifest(old: pd.DataFrame, events: pd.DataFrame, source: Paths | None = None) -> pd.DataFrame:
    """The manifest for the next training: the old intervals, with the reviewed events in their roles.

    The latest verdict on an event counts. An event whose verdict was withdrawn, or is ``unsure`` now, is not learned.

    Parameters
    ----------
    old : DataFrame
        The manifest of the model so far.
    events : DataFrame
        All events of a queue, as for `reviewed_manifest`.
    source : path, optional
    """
    kept = old[~old["event_id"].isin(events["event_id"])]
    return _in_form(pd.concat([kept, reviewed_manifest(events, source, old)]))


def _in_form(table: pd.DataFrame) -> pd.DataFrame:
    """A table with the columns of a manifest; missing ones are empty."""
    table = table.reindex(columns=list(COLUMNS)).reset_index(drop=True)
    times = ["start_s", "end_s"]
    texts = [name for name in COLUMNS if name not in times]
    return table.assign(**table[times].astype(float), **table[texts].astype(object).fillna("").astype(str))


# --- from intervals to windows --------------------------------------------------------------------------


def windows_by_role(
    manifest: pd.DataFrame, recipe: WindowRecipe, source: Paths | None = None, **options: Unpack[ReadOptions]
) -> tuple[Windows, NDArray[np.str_]]:
    """Read the windows in the intervals of a manifest, and the role of each.

    Parameters
    ----------
    manifest : DataFrame
    recipe : WindowRecipe
    source : path, optional
        The folder of the recordings, if they have moved.
    **options
        How files are read: see `anomalyvae.options.ReadOptions`.

    Returns
    -------
    windows : Windows
        Those with a role. Their ``recording`` is the sha256 of the file, since names may repeat.
    role : ndarray of str
        ``"fault"`` inside a fault; otherwise ``"excluded"`` if the window touches a fault or an excluded interval;
        otherwise ``"normal"`` inside a normal interval.

    Raises
    ------
    FileNotFoundError, ValueError
        If a recording is gone or its file has changed.
    """
    units: dict[str, str] = {}
    parts, roles = [], [np.empty(0, dtype="<U8")]
    for digest, part in manifest.groupby("sha256", sort=False):
        path = _path_of(part.iloc[0].to_dict(), source)
        _refuse_changed(path, str(digest))
        for batch in stream_windows(path, recipe, recording=str(digest), **options):
            role = roles_of(batch.spans, part)
            parts.append(batch.part(role != ""))
            roles.append(role[role != ""])
            for signal, unit in batch.units.items():
                if units.setdefault(signal, unit) != unit:
                    raise ValueError(
                        f"Signal {signal!r} is in {unit} in {path}, expected {units[signal]} as in the recordings "
                        "before. Convert it."
                    )
    return stacked(parts, recipe), np.concatenate(roles)


def roles_of(spans: pd.DataFrame, part: pd.DataFrame) -> NDArray[np.str_]:
    """The role of each window by the intervals of a manifest, "" outside of them; ``recording`` is the sha256."""
    part = part.assign(recording=part["sha256"])
    role = np.full(len(spans), "", dtype="<U8")
    role[_inside(spans, part[part["role"] == "normal"])] = "normal"
    role[touches(spans, part[part["role"] != "normal"])] = "excluded"
    role[_inside(spans, part[part["role"] == "fault"])] = "fault"
    return role


def is_base(spans: pd.DataFrame, manifest: pd.DataFrame) -> NDArray[np.bool_]:
    """Which normal windows (of `windows_by_role`) belong to a recording that was normal without a verdict."""
    base = np.zeros(len(spans), dtype=bool)
    for digest, part in manifest[(manifest["role"] == "normal") & (manifest["event_id"] == "")].groupby("sha256"):
        own = (spans["recording"] == digest).to_numpy()
        base[own] = _inside(spans[own], part)
    return base


def _inside(spans: pd.DataFrame, intervals: pd.DataFrame) -> NDArray[np.bool_]:
    """Which windows lie wholly inside one of the intervals of their recording."""
    intervals = intervals.sort_values("start_s")
    reach = np.concatenate([[-np.inf], np.maximum.accumulate(intervals["end_s"].to_numpy())])
    begun = np.searchsorted(intervals["start_s"].to_numpy(), spans["start_s"].to_numpy() + SLACK_S, side="right")
    return np.asarray(reach[begun] >= spans["end_s"].to_numpy() - SLACK_S)


def _path_of(row: dict[Any, Any], source: Paths | None) -> Path:
    path = Path(row["source"] if source is None else source, row["file"])
    if not path.is_file():
        raise FileNotFoundError(
            f"The recording {row['recording']!r} of a manifest or queue is not at {path}. Put it back, or pass its new "
            "folder as source= (--source)."
        )
    return path


def _refuse_changed(path: Path, expected: str) -> None:
    found = sha256_of(path)
    if found != expected:
        raise ValueError(
            f"{path} has changed since it was learned or reviewed: its sha256 is {found[:12]}, expected "
            f"{expected[:12]}. Restore the old file, or undo the verdicts on its events."
        )


# --- in a bundle ----------------------------------------------------------------------------------------


def write_manifest(manifest: pd.DataFrame, file: Paths) -> str:
    """Write a manifest as JSON; returns the sha256 of the file."""
    text = json.dumps({"format": _FORMAT, "intervals": manifest.to_dict("records")}, indent=1, allow_nan=False) + "\n"
    write_text(Path(file), text)
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(path: Paths) -> pd.DataFrame:
    """Read a manifest: that of a bundle, or a JSON file.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is damaged, or does not belong to the bundle.
    """
    return read_whole(Path(path), _read_manifest)


def _read_manifest(path: Path) -> pd.DataFrame:
    folder = path if path.is_dir() else None
    file = path if folder is None else folder / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(
            f"{path} has no {MANIFEST}, which lists the recordings that a model learned. Fit the model again from "
            "recordings, or pass the recordings that it learned (--learned)."
        )
    data = file.read_bytes()
    if folder is not None and read_card(folder)["training"].get("manifest") != hashlib.sha256(data).hexdigest():
        raise ValueError(f"{file} is not the manifest that the card describes. Save the model again.")
    try:
        content = read_json(data)
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']}, expected {_FORMAT}")
        table = _in_form(pd.DataFrame(content["intervals"], columns=list(COLUMNS)))
        unknown = sorted(set(table["role"]) - {*ROLES.values()})
        if unknown:
            raise ValueError(f"the role {unknown[0]!r}, expected one of {', '.join(sorted({*ROLES.values()}))}")
        if not (table["start_s"] <= table["end_s"]).all():
            raise ValueError("an interval that ends before it starts")
        return table.assign(verdict=table["verdict"].replace("novel", "new_normal"))  # its old name
    except (AttributeError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is not a manifest ({error}). Write it again.") from error
