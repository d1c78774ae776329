"""From a folder of scores to the review queue: events picked, explained and added."""

import json
import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from anomalyvae.bundle.card import read_card
from anomalyvae.health.sensors import Sensors, told_of_events, watched
from anomalyvae.metrics import touches
from anomalyvae.recordings import WindowRecipe, read_log
from anomalyvae.recordings.bus.messages import Databases
from anomalyvae.review.picking import NEAR, POOL, alarm_cut, choose, flagged_events
from anomalyvae.review.queue import Queue, event_id_of
from anomalyvae.review.reasons import Reasons

_SPANS = ["recording", "start_s", "end_s"]
_SCORES = ["anomaly_score", "p_value", "is_outlier"]


class Flagged(NamedTuple):
    """What came of flagging.

    Attributes
    ----------
    picked : DataFrame
        The events as `Queue.add` takes them, in the order of picking; and, where the model's card says what healthy
        signals look like, ``cause`` and ``sensors`` (see `anomalyvae.health.sensors.told_of_events`).
    events : int
        How many there were to pick from.
    known : int
        How many of those touch an event of the queue, in time; what is like one is left out after these.
    added : int
        How many of the picked were not in the queue before.
    """

    picked: pd.DataFrame
    events: int
    known: int
    added: int


def flag_folder(
    scores: str | os.PathLike[str],
    model: str | os.PathLike[str],
    queue: Queue,
    budget: int = 50,
    *,
    per_recording: int = 5,
    alarms: dict[str, float] | None = None,
    source: str | os.PathLike[str] | None = None,
    databases: Databases = None,
    near: float = NEAR,
    pool: int = POOL,
) -> Flagged:
    """Pick the novel events of a folder of scores, say why each is strange, and add them to a queue.

    `pick_novel` says how they are picked. Known is what the queue holds, whichever model flagged it; only an event
    that waits for its verdict may be picked again, so that the same call gives the same events. Of the recordings,
    only the files with events that are considered are read, and of these only the strangest window of each is held.

    Parameters
    ----------
    scores : path
        What `score_folder` wrote of recordings.
    model : path
        The bundle that gave those scores.
    queue : Queue
    budget, per_recording, near, pool
        See `pick_novel`.
    alarms : dict, optional
        What is flagged, in place of the flags in ``scores``: ``{"fdr": 0.1}``, ``{"per_hour": 6}`` or ``{"alpha":
        0.01}``.
    source : path, optional
        Folder of the recordings, where it is no longer the one that was scored.
    databases : path or paths, optional
        What the messages of a vehicle bus mean, as for `anomalyvae.read_log`.

    Returns
    -------
    Flagged

    Raises
    ------
    FileNotFoundError
        If there are no scores, no bundle, or a recording is gone.
    ValueError
        If the scores are another model's, or a recording is another than was scored.

    Warns
    -----
    UserWarning
        If known events of another model cannot be encoded by this one, since their recordings are not there.
    """
    reasons = Reasons(model, databases)
    summary = _summary(Path(scores), reasons.model_id)
    root = str(Path(summary["source"] if source is None else source).resolve())
    files = {file["file"]: Path(scores, file["scores"]) for file in summary["files"] if file["error"] is None}
    if not files:
        raise ValueError(f"Got {os.fspath(scores)}, in which no file is scored, expected some. See its summary.json.")
    events = _events(files, alarms, 3600 / reasons.recipe.stride_s)
    events = events.assign(source=root, model_id=reasons.model_id)
    names = zip(events["recording"], events["start_s"], events["end_s"], strict=True)
    events["event_id"] = [event_id_of(reasons.model_id, *name) for name in names]

    held = queue.events()
    held = held[held["verdict"].notna() | ~held["event_id"].isin(events["event_id"])]
    met = touches(events, held[held["source"] == root])
    picked = choose(
        events[~met], budget, reasons.codes_of, _encoded(held, reasons),
        per_recording=per_recording, spread=reasons.spread, near=near, pool=pool,
    )  # fmt: skip
    if len(picked):
        picked = picked.join(reasons.explain(reasons.windows(picked)))
        if read_card(model).get("health") is not None:
            picked = picked.join(_causes(picked, model, databases))
        added = queue.add(picked)
    else:
        added = 0
    return Flagged(picked, len(events), int(met.sum()), added)


def export(
    queue: Queue,
    path: str | os.PathLike[str],
    model: str | os.PathLike[str] | None = None,
    source: str | os.PathLike[str] | None = None,
    databases: Databases = None,
) -> None:
    """Write a whole queue by suffix: Parquet or CSV (`Queue.export`), or tasks for Label Studio (.json).

    The latter show recordings, so they need the bundle ``model`` and, if they were moved, the folder ``source``; and
    ``databases`` for those of a vehicle bus.
    """
    if Path(path).suffix.lower() != ".json":
        queue.export(path)
        return
    if model is None:
        raise ValueError(f"Got {os.fspath(path)} without a model, expected the bundle that flagged. Pass it.")
    from anomalyvae.review.label_studio import write_label_studio

    events = queue.events()
    write_label_studio(
        path,
        events if source is None else events.assign(source=os.fspath(source)),
        WindowRecipe.from_dict(read_card(model)["windowing"]),
        databases=databases,
    )


def in_words(flagged: Flagged) -> str:
    """What came of flagging, in lines for a terminal."""
    picked = flagged.picked
    lines = [
        f"{flagged.events:,} flagged events, {flagged.known:,} of them known; picked {len(picked):,} from "
        f"{picked['recording'].nunique():,} recordings, {flagged.added:,} of them new in the queue"
    ]
    for event in picked.to_dict("records"):
        top = [f"{name} {share:.0%}" for name, share in zip(event["signals"][:3], event["shares"], strict=False)]
        far = [f"{name} {widths:.2g} widths outside" for name, widths in list(event["outside"].items())[:1]]
        bad = [f"bad: {', '.join(event['sensors'])}"] if event.get("sensors") else []
        cause = [event["cause"], *bad] if "cause" in event else []
        like = [] if event["nearest"] is None else [f"{event['nearest_distance']:.1f} from {event['nearest']}"]
        span = f"{event['recording']}  {event['start_s']:.1f} to {event['end_s']:.1f} s"
        lines.append(
            f"{event['event_id']}  {event['peak_score']:8.3g}  {span}  {', '.join([*cause, *top, *far, *like])}"
        )
    # A name of a file or signal must not steer the terminal.
    return "\n".join("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line) for line in lines)


def _summary(folder: Path, model_id: str) -> dict[str, Any]:
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"Got {folder} without a summary.json, expected a folder of scores that is complete. Run 'anomalyvae "
            "score' with a folder as its target, again if it was interrupted."
        ) from None
    if summary["model_id"] != model_id:
        raise ValueError(
            f"Got scores of model {summary['model_id']} with the bundle of model {model_id}, expected one model. Score "
            "the recordings with this bundle, or pass the other."
        )
    return summary


def _events(files: dict[str, Path], alarms: dict[str, float] | None, rows_per_hour: float) -> pd.DataFrame:
    """The flagged events of all files, strangest first; of the scores, only those of flagged windows are held."""
    cut = None
    if alarms is not None:
        p_values = [pd.read_parquet(path, columns=["p_value"]) for path in files.values()]
        cut = alarm_cut(pd.concat(p_values, ignore_index=True), alarms, rows_per_hour)
    flagged: Any = [("is_outlier", "==", True)] if cut is None else [("p_value", "<=", cut)]
    parts = []
    for name, path in files.items():
        windows = pd.read_parquet(path, columns=[*_SPANS, *_SCORES], filters=flagged)
        parts.append(flagged_events(windows, cut).assign(file=name))
    events = pd.concat(parts, ignore_index=True)
    return events.sort_values(
        ["peak_score", "file", "start_s"], ascending=[False, True, True], kind="stable", ignore_index=True
    )


def _causes(picked: pd.DataFrame, model: str | os.PathLike[str], databases: Databases) -> pd.DataFrame:
    """Whether picked events are novel, or a sensor is bad; their recordings are read whole, one at a time."""
    sensors = Sensors.of(model)
    if not sensors.scores:
        return pd.DataFrame(index=picked.index)
    parts = []
    recipe = watched(sensors.recipe)
    for _, events in picked.groupby(["source", "file"], sort=False):
        path = Path(events["source"].iloc[0], events["file"].iloc[0])
        windows = recipe.windows(read_log(path, signals=recipe.needed, databases=databases))
        causes = sensors.causes(windows, sensors.grade(windows))
        parts.append(told_of_events(events, windows.spans, causes))
    return pd.concat(parts)


def _encoded(known: pd.DataFrame, reasons: Reasons) -> pd.DataFrame:
    """Known events with their codes in this model's latent space; without those that cannot be read any more."""
    own = known["model_id"] == reasons.model_id
    parts, lost = [known[own]], 0
    for _, part in known[~own].groupby(["source", "file"]):
        try:
            codes = reasons.codes_of(part)
        except (OSError, ValueError):
            lost += len(part)
        else:
            parts.append(part.assign(latent=codes.tolist()))
    if lost:
        warnings.warn(
            f"Got {lost} known events that other models have flagged, whose recordings cannot be read any more: what "
            "is like them is not left out.",
            stacklevel=3,
        )
    return pd.concat(parts, ignore_index=True)
