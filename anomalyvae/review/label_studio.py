"""Events as time-series tasks of Label Studio (https://labelstud.io/tags/timeseries), verdicts as their labels.

What comes back is its export as JSON, as https://labelstud.io/guide/task_format describes it.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import quoteattr

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalyvae.folders import replacing_file
from anomalyvae.recordings import WindowRecipe, stream_windows
from anomalyvae.recordings.bus.messages import Databases
from anomalyvae.review.database import RENAMED, storable
from anomalyvae.review.queue import VERDICTS, Queue

_STOOD = ("verdict", "note", "reviewer", "reviewed_at")


class Loaded(NamedTuple):
    """What came of reading verdicts from Label Studio.

    Attributes
    ----------
    new : int
        Verdicts that were added to the queue.
    known : int
        Verdicts that it had, or that had come from it.
    left_out : dict of str to list of str
        Why annotations are no verdicts, and the events that they are on.
    """

    new: int
    known: int
    left_out: dict[str, list[str]]


def read_label_studio(path: str | os.PathLike[str], queue: Queue, reviewers: Mapping[str, str] | None = None) -> Loaded:
    """Add the verdicts of tasks that `write_label_studio` wrote and people have labelled since.

    Each annotation is one verdict, by who completed it (its author, whoever changed it last) and at the time of its
    last change, so of several on a task all are kept, and of an event the latest stands, wherever it was given. What
    was loaded before is known by event, person, time and content: loading a file again changes nothing. An annotation
    that only repeats the verdict which the task was written with is nobody's second opinion, whoever imported the
    tasks. What was deleted there stays here.

    Parameters
    ----------
    path : path
        Label Studio's export of the project, in the format *JSON*.
    queue : Queue
        That holds the events.
    reviewers : mapping of str to str, optional
        Who is who: the number or e-mail address of a user there, and the name of the reviewer here. Others go by their
        address, or by ``Label Studio 7``.

    Returns
    -------
    Loaded

    Raises
    ------
    ValueError
        If the file is something else.
    """
    spans = {row["event_id"]: (row["start_s"], row["end_s"]) for row in queue.events().to_dict("records")}
    entries: list[dict[str, Any]] = []
    known = 0
    left_out: dict[str, list[str]] = {}
    for data, annotation in _annotations(Path(path)):
        event_id = data.get("event_id")
        where = str(event_id) if str(event_id) in spans else repr(event_id)  # a file's text may steer a terminal
        try:
            if event_id not in spans:
                raise ValueError("no event of this queue")
            said = _said(annotation, spans[event_id])
            if _repeats(annotation, said, data):
                known += 1
            else:
                entries.append(_entry(annotation, str(event_id), *said, reviewers or {}))
        except ValueError as error:
            left_out.setdefault(str(error), []).append(where)
        except (AttributeError, KeyError, TypeError):
            left_out.setdefault("not as Label Studio writes annotations", []).append(where)
    new = queue.append(entries)
    return Loaded(new, known + len(entries) - new, left_out)


def write_label_studio(
    path: str | os.PathLike[str],
    events: pd.DataFrame,
    recipe: WindowRecipe,
    around_s: float = 10.0,
    databases: Databases = None,
) -> Path:
    """Write events as tasks that Label Studio imports, and the labelling interface that shows them.

    Each task holds its own values: the signals, on the recipe's clock, from ``around_s`` before the event to
    ``around_s`` after it. A verdict that stands becomes an annotation, the event labelled with it; an event that is
    open has none, so that nobody's choice is made for him.

    Parameters
    ----------
    path : path
        For the tasks, ending in ``.json``; the interface goes beside it, ending in ``.xml``: paste it into the
        project's settings.
    events : DataFrame
        As `Queue.events` gives them.
    recipe : WindowRecipe
        Of the model that flagged them.
    around_s : float
    databases : path or paths, optional
        What the messages of a vehicle bus mean, as for `anomalyvae.read_log`.

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
        raise ValueError(f"Got {target.name!r}, expected a name that ends in .json. Give it one.")
    shown = replace(recipe, length_s=1 / recipe.rate_hz, stride_s=1 / recipe.rate_hz, where=None)  # every sample once
    tasks: dict[Any, dict[str, Any]] = {}
    for _, part in events.groupby(["source", "file"], sort=True):
        tasks |= zip(part.index, _tasks(part, shown, around_s, databases), strict=True)
    with replacing_file(target) as fresh:
        fresh.write_text(json.dumps([tasks[index] for index in events.index], allow_nan=False), encoding="utf-8")
    interface = target.with_suffix(".xml")
    with replacing_file(interface) as fresh:
        fresh.write_text(labelling_interface(recipe.signals), encoding="utf-8")
    return interface


def labelling_interface(signals: tuple[str, ...]) -> str:
    """The labelling interface, in Label Studio's XML, for tasks with these signals."""
    # Columns have names of our own: whatever a signal is called, it is text in a legend.
    channels = "\n".join(
        f"    <Channel column={quoteattr(column)} legend={quoteattr(signal)}/>"
        for column, signal in zip(_columns(signals), signals, strict=True)
    )
    labels = "\n".join(f"    <Label value={quoteattr(verdict)}/>" for verdict in VERDICTS)
    return f"""<View>
  <Header value="$title"/>
  <TimeSeriesLabels name="verdict" toName="signals">
{labels}
  </TimeSeriesLabels>
  <TimeSeries name="signals" value="$signals" valueType="json" timeColumn="time_s">
{channels}
  </TimeSeries>
  <TextArea name="note" toName="signals" placeholder="Note"/>
</View>
"""


def _tasks(events: pd.DataFrame, recipe: WindowRecipe, around_s: float, databases: Databases) -> list[dict[str, Any]]:
    """The tasks of a file's events; of the file, only what they show is held."""
    spans = events[["start_s", "end_s"]].to_numpy(dtype=float) + np.array([-around_s, around_s])
    times: list[list[NDArray[np.float64]]] = [[] for _ in spans]
    values: list[list[NDArray[np.float64]]] = [[] for _ in spans]
    path = Path(events["source"].iloc[0], events["file"].iloc[0])
    for slab in stream_windows(path, recipe, databases=databases):
        time_s, samples = slab.spans["start_s"].to_numpy(), slab.rows.to_numpy()
        for place, (first, last) in enumerate(spans):
            inside = (time_s >= first) & (time_s <= last)
            times[place].append(time_s[inside])
            values[place].append(samples[inside].T)
    return [
        _task(event, np.concatenate(time_s), np.concatenate(of_signals, axis=1), _columns(recipe.signals))
        for event, time_s, of_signals in zip(events.to_dict("records"), times, values, strict=True)
    ]


def _task(event: dict[Any, Any], time_s: Any, values: Any, columns: list[str]) -> dict[str, Any]:
    share = ", ".join(f"{name} {part:.0%}" for name, part in zip(event["signals"], event["shares"], strict=True))
    span = f"{event['start_s']:.1f} to {event['end_s']:.1f} s"
    data = {name: event[name] for name in ("event_id", "model_id", "recording", "start_s", "end_s", "peak_score")}
    data["title"] = f"{event['recording']}, {span}: {share}"
    data["stood"] = None if event["verdict"] is None else {name: event[name] for name in _STOOD}
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


def _annotations(path: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The annotations of an export, each with its task's data."""
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(task["data"], dict) for task in tasks):
            return [(task["data"], annotation) for task in tasks for annotation in task.get("annotations") or []]
    except (ValueError, AttributeError, KeyError, TypeError):
        pass
    raise ValueError(
        f"Got {path}, expected tasks of Label Studio with their annotations. Export the project there, in the format "
        "JSON (neither JSON-MIN nor CSV)."
    )


def _said(annotation: dict[str, Any], span: tuple[float, float]) -> tuple[str, str]:
    """The verdict of an annotation, and its note; ValueError says why it has none."""
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
        raise ValueError("what is labelled does not touch the event")
    foreign = sorted(labels.difference(VERDICTS, RENAMED))
    if foreign:
        raise ValueError(f"labelled {', '.join(map(repr, foreign))}, which is none of {', '.join(VERDICTS)}")
    if len(labels) > 1:
        raise ValueError(f"labelled {' and '.join(sorted(labels))} at once")
    notes = [region["value"].get("text", "") for region in result if region.get("type") == "textarea"]
    lines = [line for note in notes for line in ([note] if isinstance(note, str) else note)]
    return labels.pop(), storable("\n".join(lines)).strip()


def _repeats(annotation: dict[str, Any], said: tuple[str, str], data: dict[str, Any]) -> bool:
    """Whether this is the annotation that the task was written with, as it was."""
    stood = data.get("stood") or {}
    regions = {region.get("id") for region in annotation["result"] if region.get("type") == "timeserieslabels"}
    said = RENAMED.get(said[0], said[0]), said[1]
    before = str(stood.get("verdict"))
    before_note = str(stood.get("note")).strip()
    return regions == {data["event_id"]} and said == (RENAMED.get(before, before), before_note)


def _entry(
    annotation: dict[str, Any], event_id: str, verdict: str, note: str, reviewers: Mapping[str, str]
) -> dict[str, Any]:
    by = annotation.get("completed_by")
    users = [by.get("email"), by.get("id")] if isinstance(by, dict) else [by]
    names = [str(user) for user in users if user is not None]
    if not names:
        raise ValueError("it does not say by whom it is")
    try:
        at = datetime.fromisoformat(annotation.get("updated_at") or annotation["created_at"])
    except (KeyError, TypeError, ValueError):
        raise ValueError("it does not say when it was made") from None
    when = at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC).isoformat(timespec="microseconds")
    known = [reviewers[name] for name in names if name in reviewers]
    unknown = names[0] if "@" in names[0] else f"Label Studio {names[0]}"
    what = "\n".join((event_id, names[-1], when, verdict, note))
    return {
        "entry_id": hashlib.sha256(what.encode()).hexdigest()[:32],
        "event_id": event_id,
        "verdict": RENAMED.get(verdict, verdict),
        "note": note,
        "reviewer": storable(known[0] if known else unknown),
        "at": when,
        "takes_back": None,
    }
