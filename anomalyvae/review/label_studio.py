"""Events as time-series tasks of Label Studio (https://labelstud.io/tags/timeseries), verdicts as their labels."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalyvae.folders import replacing_file
from anomalyvae.logs import WindowRecipe, stream_windows
from anomalyvae.review.queue import VERDICTS


def write_label_studio(
    path: str | os.PathLike[str], events: pd.DataFrame, recipe: WindowRecipe, around_s: float = 10.0
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
        tasks |= zip(part.index, _tasks(part, shown, around_s), strict=True)
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


def _tasks(events: pd.DataFrame, recipe: WindowRecipe, around_s: float) -> list[dict[str, Any]]:
    """The tasks of a file's events; of the file, only what they show is held."""
    spans = events[["start_s", "end_s"]].to_numpy(dtype=float) + np.array([-around_s, around_s])
    times: list[list[NDArray[np.float64]]] = [[] for _ in spans]
    values: list[list[NDArray[np.float64]]] = [[] for _ in spans]
    for slab in stream_windows(Path(events["source"].iloc[0], events["file"].iloc[0]), recipe):
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
