"""Events as time-series tasks of Label Studio (https://labelstud.io/tags/timeseries), and verdicts as their labels.

Verdicts are read from its JSON export (https://labelstud.io/guide/task_format).
"""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Unpack
from xml.sax.saxutils import quoteattr

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalyvae.folders import write_text
from anomalyvae.options import ReadOptions
from anomalyvae.recordings import WindowRecipe, stream_windows
from anomalyvae.review.database import RENAMED, VERDICT_COLUMNS, VERDICTS, entry_id_of, storable, utc_text
from anomalyvae.review.exports import Loaded
from anomalyvae.review.queue import Queue
from anomalyvae.untrusted import printable, read_json

# --- reading verdicts -----------------------------------------------------------------------------------


def read_label_studio(path: str | os.PathLike[str], queue: Queue, reviewers: Mapping[str, str] | None = None) -> Loaded:
    """Add the verdicts that people gave in Label Studio on tasks of `write_label_studio`.

    Each annotation is one verdict of the user who completed it, at the time of its last change. All annotations of a
    task are kept; the latest verdict on an event counts, wherever it was given. Loading a file again adds nothing: a
    verdict is known by its event, user, time and content. Names in ``reviewers`` replace those of known verdicts. An
    annotation that only repeats the verdict in its task is not a second opinion. An annotation that was deleted there
    is not taken back here.

    Parameters
    ----------
    path : path
        Label Studio's export of the project, in the format *JSON*.
    queue : Queue
        The queue with the events.
    reviewers : mapping of str to str, optional
        From the number or e-mail address of a Label Studio user to the name of the reviewer. Other users are named by
        their address, or by number, as in ``Label Studio 7``.

    Returns
    -------
    Loaded

    Raises
    ------
    ValueError
        If the file is not such an export.
    """
    spans = {row["event_id"]: (row["start_s"], row["end_s"]) for row in queue.events().to_dict("records")}
    entries: list[dict[str, Any]] = []
    known = 0
    left_out: dict[str, list[str]] = {}
    users: set[str] = set()
    named: dict[str, str] = {}  # entries of users that have a name
    for data, annotation in _annotations(Path(path)):
        event_id = data.get("event_id")
        where = str(event_id) if str(event_id) in spans else repr(event_id)  # without control sequences of a terminal
        try:
            if event_id not in spans:
                raise ValueError("no event of this queue")
            users.update(_users(annotation))
            label, note = _label_and_note(annotation, spans[event_id])
            if _repeats(annotation, label, note, data):
                known += 1
            else:
                entry = _entry(annotation, str(event_id), label, note, reviewers or {})
                entries.append(entry)
                if not (reviewers or {}).keys().isdisjoint(_users(annotation)):
                    named[entry["entry_id"]] = entry["reviewer"]
        except ValueError as error:
            left_out.setdefault(str(error), []).append(where)
        except (AttributeError, KeyError, TypeError):
            left_out.setdefault("not an annotation of Label Studio", []).append(where)
    new = queue.append(entries)
    return Loaded(
        new,
        known + len(entries) - new,
        left_out,
        renamed=queue.rename(named),
        unmatched=tuple(name for name in reviewers or {} if name not in users),
        users=tuple(sorted(users)),
    )


def _annotations(path: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The annotations of an export, each with the data of its task."""
    try:
        content = path.read_bytes()
        tasks = read_json(content, longest=len(content))  # signals are long
        if all(isinstance(task["data"], dict) for task in tasks):
            return [(task["data"], annotation) for task in tasks for annotation in task.get("annotations") or []]
    except (ValueError, AttributeError, KeyError, TypeError):
        pass
    raise ValueError(
        f"Got {path}, expected tasks of Label Studio with their annotations. Export the project in the format JSON "
        "(neither JSON-MIN nor CSV)."
    )


def _label_and_note(annotation: dict[str, Any], span: tuple[float, float]) -> tuple[str, str]:
    """The label of an annotation and its note; ValueError says why there is no verdict."""
    if annotation.get("was_cancelled"):
        raise ValueError("skipped there")
    result = annotation["result"]
    regions = [region["value"] for region in result if region.get("type") == "timeserieslabels"]
    if not regions:
        raise ValueError("nothing is labelled")
    labels = {
        label
        for region in regions
        if region.get("start", np.inf) <= span[1] and region.get("end", -np.inf) >= span[0]
        for label in region.get("timeserieslabels", [])
    }
    if not labels:
        raise ValueError("the labelled region does not touch the event")
    unknown = sorted(labels.difference(VERDICTS, RENAMED))
    if unknown:
        raise ValueError(f"labelled {', '.join(map(repr, unknown))}, expected one of {', '.join(VERDICTS)}")
    if len(labels) > 1:
        raise ValueError(f"labelled {' and '.join(sorted(labels))} at once")
    notes = [region["value"].get("text", "") for region in result if region.get("type") == "textarea"]
    lines = [line for note in notes for line in ([note] if isinstance(note, str) else note)]
    return labels.pop(), storable("\n".join(lines)).strip()


def _repeats(annotation: dict[str, Any], label: str, note: str, data: dict[str, Any]) -> bool:
    """Whether this is the annotation that the task was written with, unchanged."""
    before = data.get("stood") or {}
    regions = {region.get("id") for region in annotation["result"] if region.get("type") == "timeserieslabels"}
    verdict = str(before.get("verdict"))
    same = RENAMED.get(label, label) == RENAMED.get(verdict, verdict) and note == str(before.get("note")).strip()
    return regions == {data["event_id"]} and same


def _users(annotation: dict[str, Any]) -> list[str]:
    """The e-mail address and the number of an annotation's author, as far as they are known."""
    by = annotation.get("completed_by")
    users = [by.get("email"), by.get("id")] if isinstance(by, dict) else [by]
    return [str(user) for user in users if user is not None]


def _entry(
    annotation: dict[str, Any], event_id: str, label: str, note: str, reviewers: Mapping[str, str]
) -> dict[str, Any]:
    """An annotation as an entry of the queue's log."""
    names = _users(annotation)
    if not names:
        raise ValueError("its author is missing")
    try:
        at = utc_text(datetime.fromisoformat(annotation.get("updated_at") or annotation["created_at"]))
    except (KeyError, TypeError, ValueError):
        raise ValueError("its time is missing") from None
    known = [reviewers[name] for name in names if name in reviewers]
    unknown = names[0] if "@" in names[0] else f"Label Studio {names[0]}"
    return {
        "entry_id": entry_id_of(event_id, names[-1], at, label, note),  # the label as in the file, also an earlier one
        "event_id": event_id,
        "verdict": RENAMED.get(label, label),
        "note": note,
        "reviewer": storable(known[0] if known else unknown),
        "at": at,
        "takes_back": None,
    }


# --- writing tasks --------------------------------------------------------------------------------------


def write_label_studio(
    path: str | os.PathLike[str],
    events: pd.DataFrame,
    recipe: WindowRecipe,
    around_s: float = 10.0,
    caution: str | None = None,
    **options: Unpack[ReadOptions],
) -> Path:
    """Write events as tasks that Label Studio imports, and the labelling interface that shows them.

    Each task contains the signals, on the recipe's clock, from ``around_s`` before the event to ``around_s`` after it.
    A current verdict becomes an annotation: the event with a label. Open events have no annotation.

    Parameters
    ----------
    path : path
        A ``.json`` file for the tasks. The interface goes into an ``.xml`` file beside it; paste it into the settings
        of the project.
    events : DataFrame
        As `Queue.events` gives them.
    recipe : WindowRecipe
        The recipe of the model that flagged them.
    around_s : float
    caution : str, optional
        What the model's p-values cannot show (`anomalyvae.calibration.caution_of`), shown below each task.
    **options
        How files are read: see `anomalyvae.options.ReadOptions`.

    Returns
    -------
    Path
        The interface.

    Raises
    ------
    FileNotFoundError, ValueError
        If a recording cannot be read.
    """
    target = Path(path)
    if target.suffix.lower() != ".json":
        raise ValueError(f"Got {target.name!r}, expected a name that ends in .json. Rename it.")
    samples = replace(recipe, length_s=1 / recipe.rate_hz, stride_s=1 / recipe.rate_hz, where=None)  # each one once
    tasks: dict[Any, dict[str, Any]] = {}
    for _, part in events.groupby(["source", "file"], sort=True):
        tasks |= zip(part.index, _tasks(part, samples, around_s, options), strict=True)
    interface = target.with_suffix(".xml")
    write_text(target, json.dumps([tasks[index] for index in events.index], allow_nan=False))
    write_text(interface, labelling_interface(recipe.signals, caution))
    return interface


def labelling_interface(signals: tuple[str, ...], caution: str | None = None) -> str:
    """The labelling interface, in Label Studio's XML, for tasks with these signals; it shows the caution, if any."""
    said = "" if caution is None else f'\n  <Header value={quoteattr(caution)} size="5"/>'
    # Columns have neutral names, since a signal's name may be anything; it is shown in the legend.
    channels = "\n".join(
        f'    <Channel column="{column}" legend={quoteattr(printable(signal))} displayFormat=".3~g" height="120"/>'
        for column, signal in zip(_columns(signals), signals, strict=True)
    )
    labels = "\n".join(f"    <Label value={quoteattr(verdict)}/>" for verdict in VERDICTS)
    return f"""<View>
  <Header value="$title" size="4"/>
  <TimeSeriesLabels name="verdict" toName="signals">
{labels}
  </TimeSeriesLabels>
  <TimeSeries name="signals" value="$signals" valueType="json" timeColumn="time_s"
      timeDisplayFormat=".1f" durationDisplayFormat=".1f" overviewWidth="100%">
{channels}
  </TimeSeries>
  <TextArea name="note" toName="signals" placeholder="Note"/>{said}
</View>
"""


def _tasks(events: pd.DataFrame, recipe: WindowRecipe, around_s: float, options: ReadOptions) -> list[dict[str, Any]]:
    """The tasks of one file's events; only the intervals that they show are kept in memory."""
    spans = events[["start_s", "end_s"]].to_numpy(dtype=float) + np.array([-around_s, around_s])
    times: list[list[NDArray[np.float64]]] = [[] for _ in spans]
    values: list[list[NDArray[np.float64]]] = [[] for _ in spans]
    path = Path(events["source"].iloc[0], events["file"].iloc[0])
    for batch in stream_windows(path, recipe, **options):
        time_s, samples = batch.spans["start_s"].to_numpy(), batch.rows.to_numpy()
        for index, (first, last) in enumerate(spans):
            inside = (time_s >= first) & (time_s <= last)
            times[index].append(time_s[inside])
            values[index].append(samples[inside].T)
    return [
        _task(event, np.concatenate(time_s), np.concatenate(of_signals, axis=1), _columns(recipe.signals))
        for event, time_s, of_signals in zip(events.to_dict("records"), times, values, strict=True)
    ]


def _task(event: dict[Any, Any], time_s: Any, values: Any, columns: list[str]) -> dict[str, Any]:
    share = ", ".join(f"{name} {part:.0%}" for name, part in zip(event["signals"], event["shares"], strict=True))
    span = f"{event['start_s']:.1f} to {event['end_s']:.1f} s"
    data = {name: event[name] for name in ("event_id", "model_id", "recording", "start_s", "end_s", "peak_score")}
    data["title"] = f"{event['recording']}, {span}: {share}"
    data["stood"] = None if event["verdict"] is None else {name: event[name] for name in VERDICT_COLUMNS}
    data["signals"] = {"time_s": time_s.tolist(), **dict(zip(columns, values.tolist(), strict=True))}
    if event["verdict"] is None:
        return {"data": data}
    origin = {"from_name": "verdict", "to_name": "signals", "type": "timeserieslabels", "id": event["event_id"]}
    region = {"start": event["start_s"], "end": event["end_s"], "instant": False}
    result = [{**origin, "value": {**region, "timeserieslabels": [event["verdict"]]}}]
    if event["note"]:
        note = {"from_name": "note", "to_name": "signals", "type": "textarea", "id": f"{event['event_id']}-note"}
        result.append({**note, "value": {"text": [event["note"]]}})
    return {"data": data, "annotations": [{"result": result}]}


def _columns(signals: tuple[str, ...]) -> list[str]:
    return [f"signal_{i}" for i in range(len(signals))]
