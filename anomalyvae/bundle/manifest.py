"""What a model learned, interval by interval: the way back from a model to the recordings it was made from.

A manifest is a table with a row per interval of a recording:

- ``source``, ``file``: where the recording lies (``source`` may be empty), and ``sha256`` of that file;
- ``recording``, ``start_s``, ``end_s``: the interval;
- ``role``: ``normal`` (its windows are learned), ``fault`` (they are pushed away) or ``excluded`` (left out);
- ``event_id``, ``verdict``: whose review said so; empty for what a model was begun with.

A bundle carries the manifest of its model as ``manifest.json``, whose sha256 stands in the card under ``training``. The
recordings that are held out for the gate are a manifest, too.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalyvae.bundle.card import read_card, sha256_of
from anomalyvae.metrics import event_spans, touches
from anomalyvae.recordings import WindowRecipe, Windows, read_windows, stream_windows
from anomalyvae.recordings.bus.messages import Databases

MANIFEST = "manifest.json"
ROLES = {"new_normal": "normal", "fault": "fault", "noise": "excluded"}
"""What becomes of an event by its verdict; one that is open or ``unsure`` is left as if it had never been flagged."""
COLUMNS = ("source", "file", "recording", "start_s", "end_s", "role", "sha256", "event_id", "verdict")
_FORMAT = 1
_SLACK_S = 1e-6  # ends of windows come from sums of decimal steps

Paths = str | os.PathLike[str]


# --- making one -----------------------------------------------------------------------------------------


def begin_manifest(
    files: Iterable[Paths],
    spans: pd.DataFrame,
    events: pd.DataFrame | None = None,
    tolerance_s: float = 0.0,
    role: str = "fault",
) -> pd.DataFrame:
    """The manifest of recordings whose windows are normal, but for known events.

    Parameters
    ----------
    files : iterable of path
        The recordings.
    spans : DataFrame
        Their windows: ``recording`` (a file's name without suffix), ``start_s``, ``end_s``.
    events : DataFrame, optional
        What is known to be strange: ``recording`` and ``start_s``, ``end_s`` (or ``time_s``), in seconds.
    tolerance_s : float, default=0
        By how much events are widened to both sides.
    role : {"fault", "excluded"}, default="fault"
        Of the events.

    Returns
    -------
    DataFrame
        One interval per recording that has windows, from its first to its last, and the events in them.
    """
    reach = spans.groupby("recording", sort=False).agg(start_s=("start_s", "min"), end_s=("end_s", "max"))
    strange = pd.DataFrame(columns=["recording", "start_s", "end_s"]) if events is None else event_spans(events)
    strange = strange.assign(start_s=strange["start_s"] - tolerance_s, end_s=strange["end_s"] + tolerance_s)
    parts = []
    for file in map(Path, files):
        if file.stem not in reach.index:
            continue
        whole = reach.loc[[file.stem]].assign(role="normal")
        known = strange[strange["recording"] == file.stem].assign(role=role)
        part = pd.concat([whole, known[list(whole)]], ignore_index=True)
        digest = sha256_of(file)
        parts.append(part.assign(source=str(file.parent), file=file.name, recording=file.stem, sha256=digest))
    return _in_form(pd.concat(parts) if parts else pd.DataFrame())


def manifest_of(
    files: Iterable[Paths],
    recipe: WindowRecipe,
    events: pd.DataFrame | None = None,
    tolerance_s: float = 0.0,
    databases: Databases = None,
) -> pd.DataFrame:
    """`begin_manifest` of the windows that a recipe makes of the recordings."""
    files = list(files)
    return begin_manifest(files, read_windows(files, recipe, databases=databases).spans, events, tolerance_s)


def reviewed_manifest(events: pd.DataFrame, source: Paths | None = None) -> pd.DataFrame:
    """The intervals that reviewers have judged, as a manifest.

    Parameters
    ----------
    events : DataFrame
        Of a queue: ``event_id``, ``source``, ``file``, ``recording``, ``start_s``, ``end_s`` and ``verdict``.
    source : path, optional
        Where the recordings lie now, if elsewhere than when they were flagged.

    Raises
    ------
    FileNotFoundError
        If a recording is gone.
    """
    judged = events[events["verdict"].isin(list(ROLES))]
    paths = [_place(row, source) for row in judged.to_dict("records")]
    known = {path: sha256_of(path) for path in dict.fromkeys(paths)}
    roles = judged["verdict"].map(ROLES)
    return _in_form(judged.assign(role=roles, sha256=[known[path] for path in paths]))


def next_manifest(old: pd.DataFrame, events: pd.DataFrame, source: Paths | None = None) -> pd.DataFrame:
    """What is to be learned next: the old intervals and the new normals, without faults and noise.

    A verdict takes the place of an earlier one on the same event; an event whose verdict was taken back, or is
    ``unsure`` now, is no longer learned. Nothing else of the events is.

    Parameters
    ----------
    old : DataFrame
        The manifest of the model so far.
    events : DataFrame
        All events of a queue, as for `reviewed_manifest`.
    source : path, optional
    """
    kept = old[~old["event_id"].isin(events["event_id"])]
    return _in_form(pd.concat([kept, reviewed_manifest(events, source)]))


def _in_form(table: pd.DataFrame) -> pd.DataFrame:
    """Bring a table into the columns of a manifest; what is not said is empty."""
    table = table.reindex(columns=list(COLUMNS)).reset_index(drop=True)
    times = ["start_s", "end_s"]
    texts = [name for name in COLUMNS if name not in times]
    return table.assign(**table[times].astype(float), **table[texts].astype(object).fillna("").astype(str))


# --- from intervals to windows --------------------------------------------------------------------------


def windows_by_role(
    manifest: pd.DataFrame, recipe: WindowRecipe, source: Paths | None = None, databases: Databases = None
) -> tuple[Windows, NDArray[np.str_]]:
    """Read the windows that a manifest names, and say of each what it is.

    Parameters
    ----------
    manifest : DataFrame
    recipe : WindowRecipe
    source : path, optional
        Where the recordings lie now, if elsewhere than the manifest says.
    databases : path or paths, optional
        What the messages of a vehicle bus mean, as for `anomalyvae.read_log`.

    Returns
    -------
    windows : Windows
        Those that the manifest says anything of; their ``recording`` is the sha256 of the file, since names repeat.
    role : ndarray of str
        ``"fault"`` for windows inside a fault, ``"excluded"`` for others that touch a fault or something excluded, and
        ``"normal"`` for the rest of those inside a normal interval.

    Raises
    ------
    FileNotFoundError, ValueError
        If a recording is gone, or is not the file that was reviewed.
    """
    rows, spans = [np.empty((0, len(recipe.columns)))], [read_windows([], recipe).spans]
    units: dict[str, str] = {}
    roles = [np.empty(0, dtype="<U8")]
    for digest, part in manifest.groupby("sha256", sort=False):
        path = _place(part.iloc[0].to_dict(), source)
        _refuse_changed(path, str(digest))
        for slab in stream_windows(path, recipe, recording=str(digest), databases=databases):
            role = roles_of(slab.spans, part)
            said = role != ""
            rows.append(slab.rows.to_numpy()[said])
            spans.append(slab.spans[said])
            roles.append(role[said])
            for signal, unit in slab.units.items():
                if units.setdefault(signal, unit) != unit:
                    raise ValueError(
                        f"Signal {signal!r} is in {unit} in {path}, expected {units[signal]} as in the recordings "
                        "before. Convert it."
                    )
    where = pd.concat(spans, ignore_index=True)
    return Windows(pd.DataFrame(np.concatenate(rows), columns=recipe.columns), where, units), np.concatenate(roles)


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
    begun = np.zeros(len(spans), dtype=bool)
    for digest, part in manifest[(manifest["role"] == "normal") & (manifest["event_id"] == "")].groupby("sha256"):
        own = (spans["recording"] == digest).to_numpy()
        begun[own] = _inside(spans[own], part)
    return begun


def _inside(spans: pd.DataFrame, intervals: pd.DataFrame) -> NDArray[np.bool_]:
    """Tell which windows lie wholly inside one of the intervals of their recording."""
    intervals = intervals.sort_values("start_s")
    reach = np.concatenate([[-np.inf], np.maximum.accumulate(intervals["end_s"].to_numpy())])
    begun = np.searchsorted(intervals["start_s"].to_numpy(), spans["start_s"].to_numpy() + _SLACK_S, side="right")
    return np.asarray(reach[begun] >= spans["end_s"].to_numpy() - _SLACK_S)


def _place(row: dict[Any, Any], source: Paths | None) -> Path:
    path = Path(row["source"] if source is None else source, row["file"])
    if not path.is_file():
        raise FileNotFoundError(
            f"Got the recording {row['recording']!r} of a manifest or queue, which is not at {path}. Put it back, or "
            "pass source= (--source), the folder that it lies in now."
        )
    return path


def _refuse_changed(path: Path, expected: str) -> None:
    found = sha256_of(path)
    if found != expected:
        raise ValueError(
            f"Got {path} with sha256 {found[:12]}, expected {expected[:12]}: it is not the file that was learned or "
            "reviewed. Put that one back, or review its events again."
        )


# --- in a bundle ----------------------------------------------------------------------------------------


def write_manifest(manifest: pd.DataFrame, file: Paths) -> str:
    """Write a manifest as JSON; returns the sha256 of the file."""
    text = json.dumps({"format": _FORMAT, "intervals": manifest.to_dict("records")}, indent=1, allow_nan=False) + "\n"
    Path(file).write_text(text, encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(path: Paths) -> pd.DataFrame:
    """Read a manifest: that of a bundle, or a JSON file.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is damaged, or is not the one that the bundle's model was made from.
    """
    folder = Path(path) if Path(path).is_dir() else None
    file = Path(path) if folder is None else folder / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(
            f"Got {path} without {MANIFEST}, expected a model that says what it learned. Fit it again from recordings "
            "with this version, or pass the recordings that it learned (--learned)."
        )
    if folder is not None and read_card(folder)["training"].get("manifest") != sha256_of(file):
        raise ValueError(f"Got {file}, which is not the manifest that the card describes. Save the model again.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']}, expected {_FORMAT}")
        table = _in_form(pd.DataFrame(content["intervals"], columns=list(COLUMNS)))
        return table.assign(verdict=table["verdict"].replace("novel", "new_normal"))  # as an earlier version called it
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"Got {file}, which is no manifest ({error}). Write it again.") from error
