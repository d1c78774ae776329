"""From a folder of scores to the review queue: picks events, explains them and adds them."""

import math
import os
import warnings
from pathlib import Path
from typing import NamedTuple, Unpack

import pandas as pd
import pyarrow.compute as pc

from anomalyvae.bundle import read_card
from anomalyvae.bundle.card import refuse_replaced
from anomalyvae.calibration import caution_of
from anomalyvae.events import touches
from anomalyvae.folders import confined
from anomalyvae.health import Sensors
from anomalyvae.health.sensors import event_causes
from anomalyvae.options import ReadOptions
from anomalyvae.recordings import WindowRecipe, read_log
from anomalyvae.review.picking import NEAR, POOL, alarm_cut, flagged_events, judged, pick_events
from anomalyvae.review.queue import Queue, event_id_of
from anomalyvae.review.reasons import Reasons
from anomalyvae.scoring.one_file import TIME
from anomalyvae.scoring.ranking import rank, read_scores
from anomalyvae.scoring.summary import SUMMARY, failed_in, read_scores_of, read_summary, refuse_ticks
from anomalyvae.untrusted import printable

_SPANS = ["recording", "start_s", "end_s"]
_SCORES = ["anomaly_score", "p_value", "is_outlier"]


class Flagged(NamedTuple):
    """The picked events, and how many events were flagged, touch one of the queue in time, and are new in the queue.

    ``picked`` is as `Queue.add` takes it, in the order of picking. If the model's card has a health profile, it also
    has ``cause`` and ``sensors`` (see `anomalyvae.health.sensors.event_causes`). ``time`` is the moment (UTC) at which
    an event begins, missing if its recording does not say it; a queue does not keep it.
    """

    picked: pd.DataFrame
    events: int
    known: int
    added: int
    failed: dict[str, str]  # files without scores, and why
    caution: str | None = None  # what the p-values cannot show: `anomalyvae.calibration.few_calibrate`
    verdicts: int = 0  # on known events, that took part in the choice


def flag_folder(
    scores: str | os.PathLike[str],
    model: str | os.PathLike[str],
    queue: Queue,
    budget: int = 50,
    *,
    per_recording: int = 5,
    drives: int | None = None,
    alarms: dict[str, float] | None = None,
    source: str | os.PathLike[str] | None = None,
    near: float = NEAR,
    pool: int = POOL,
    **options: Unpack[ReadOptions],
) -> Flagged:
    """Pick events from a folder of scores, explain why each is anomalous, and add them to a queue.

    `pick_events` describes how they are picked. The events of the queue are known, whichever model flagged them.
    Verdicts on them change which events are picked, but no score, p-value or flag. Open events can be picked again, so
    the same call gives the same events. Only files with candidates are read.

    Parameters
    ----------
    scores : path
        A folder that `score_folder` wrote.
    model : path
        The bundle that gave the scores.
    queue : Queue
    budget, per_recording, near, pool
        See `pick_events`.
    drives : int, optional
        Pick only from so many recordings: the most unlike the training recordings (`anomalyvae.scoring.ranking.rank`)
        of those with events that are not known.
    alarms : dict, optional
        An alarm target in place of the flags in ``scores``: ``{"fdr": 0.1}``, ``{"per_hour": 6}`` or ``{"alpha":
        0.01}``.
    source : path, optional
        Folder of the recordings, if they have moved since they were scored.
    **options
        How files are read: see `anomalyvae.options.ReadOptions`.

    Returns
    -------
    Flagged

    Raises
    ------
    FileNotFoundError
        If the scores, the bundle or a recording are missing.
    ValueError
        If the scores are of another model or per tick, or a recording has changed since.

    Warns
    -----
    UserWarning
        If recordings of known events of another model are missing, so that similar events cannot be left out.
    """
    if drives is not None and drives < 1:
        raise ValueError(f"Got drives={drives}, expected at least 1. Pass how many recordings to pick from (--drives).")
    reasons = Reasons(model, **options)
    summary = read_summary(scores, reasons.model_id)
    refuse_ticks(scores)
    root = str(Path(summary["source"] if source is None else source).resolve())
    home = Path(scores).resolve()
    files = {file["file"]: confined(home, file["scores"]) for file in summary["files"] if file["error"] is None}
    if not files:
        raise ValueError(
            f"No file in {os.fspath(scores)} has scores. See the errors in its {SUMMARY}, and score again."
        )
    events = _events(files, alarms, 3600 / reasons.recipe.stride_s)
    events = events.assign(source=root, model_id=reasons.model_id)
    queued = queue.events()
    events["event_id"] = _ids_of(events, queued)
    # An open event that is flagged now is no known one: it can be picked again.
    settled = queued[queued["verdict"].notna() | ~queued["event_id"].isin(events["event_id"])]
    in_queue = events["event_id"].isin(settled["event_id"]).to_numpy()
    is_known = in_queue | touches(events, settled[settled["source"] == root])
    new = events[~is_known]
    if drives is not None:
        order = rank(read_scores(scores, model))["file"]
        new = new[new["file"].isin(order[order.isin(new["file"])][:drives])]
    known = _encoded(settled, reasons)
    picked = pick_events(
        new, reasons.codes_of, budget, known=known, per_recording=per_recording,
        spread=reasons.spread, near=near, pool=pool,
    )  # fmt: skip
    card = read_card(model)
    if len(picked):
        picked = picked.join(reasons.explain(reasons.windows(picked)))
        if card.get("health") is not None:
            picked = picked.join(_causes(picked, model, options))
        refuse_replaced(model, reasons.model_id)
    added = queue.add(picked) if len(picked) else 0
    if (
        added < (~picked["event_id"].isin(queued["event_id"])).sum()
    ):  # another process has added events of these ids meanwhile
        picked = picked.assign(event_id=_ids_of(picked, queue.events()))
        added += queue.add(picked)
    caution, verdicts = caution_of(card), len(judged(known))
    return Flagged(picked, len(events), int(is_known.sum()), added, failed_in(summary), caution, verdicts)


def export(
    queue: Queue,
    path: str | os.PathLike[str],
    model: str | os.PathLike[str] | None = None,
    source: str | os.PathLike[str] | None = None,
    **options: Unpack[ReadOptions],
) -> None:
    """Write a queue as Parquet or CSV (`Queue.export`), or as tasks for Label Studio (``.json``), by suffix.

    Tasks contain recordings. They need the bundle ``model``; also ``source``, the folder of recordings that have moved,
    and ``options`` as the recordings were read.
    """
    if Path(path).suffix.lower() != ".json":
        queue.export(path)
        return
    if model is None:
        raise ValueError(f"Tasks for Label Studio ({os.fspath(path)}) need the model that flagged the events. Pass it.")
    from anomalyvae.review.label_studio import write_label_studio

    events, card = queue.events(), read_card(model)
    write_label_studio(
        path,
        events if source is None else events.assign(source=os.fspath(source)),
        WindowRecipe.from_dict(card["windowing"]),
        caution=caution_of(card),
        **options,
    )


def in_words(flagged: Flagged) -> str:
    """The result of `flag_folder` as lines for a terminal."""
    picked = flagged.picked
    lines = [
        f"{flagged.events:,} flagged events, {flagged.known:,} of them known; picked {len(picked):,} from "
        f"{picked['recording'].nunique():,} recordings, {flagged.added:,} of them new in the queue"
    ]
    if flagged.verdicts:
        said = f"{flagged.verdicts:,} verdicts" if flagged.verdicts > 1 else "1 verdict"
        lines.append(f"{said} took part in the choice: events like faults come before events like normal ones")
    for event in picked.to_dict("records"):
        top = [f"{name} {share:.0%}" for name, share in zip(event["signals"][:3], event["shares"], strict=False)]
        far = [f"{name} {widths:.2g} range widths outside" for name, widths in list(event["outside"].items())[:1]]
        bad = [f"bad: {', '.join(event['sensors'])}"] if event.get("sensors") else []
        cause = [event["cause"], *bad] if "cause" in event else []
        like = [] if event["nearest"] is None else [f"{event['nearest_distance']:.1f} from {event['nearest']}"]
        when = "" if pd.isna(event["time"]) else f" ({event['time']:%Y-%m-%d %H:%M:%S} UTC)"
        span = f"{event['recording']}  {event['start_s']:.1f} to {event['end_s']:.1f} s{when}"
        lines.append(
            f"{event['event_id']}  {event['peak_score']:8.3g}  {span}  {', '.join([*cause, *top, *far, *like])}"
        )
    return "\n".join(map(printable, lines))


def _events(files: dict[str, Path], alarms: dict[str, float] | None, rows_per_hour: float) -> pd.DataFrame:
    """The flagged events of all files, the most anomalous first; only flagged windows are kept in memory."""
    cut = None
    if alarms is not None:
        p_values = [read_scores_of(path, ["p_value"])["p_value"] for path in files.values()]
        cut = alarm_cut(pd.concat(p_values).to_numpy(dtype=float), alarms, rows_per_hour)
    flagged = pc.field("is_outlier") if cut is None else pc.field("p_value") <= cut
    parts = []
    for name, path in files.items():
        windows = read_scores_of(path, [*_SPANS, TIME, *_SCORES], flagged, optional=TIME)
        if windows[_SCORES].isna().any(axis=None):
            raise ValueError(f"{path} has flagged windows without a score. Score its recording again.")
        if TIME not in windows:  # scores of an earlier version
            windows[TIME] = pd.Series(dtype="datetime64[us, UTC]")
        moments = windows.set_index("start_s")[TIME]
        found = flagged_events(windows, cut)
        parts.append(found.assign(file=name, time=moments.reindex(found["start_s"]).array))
    events = pd.concat(parts, ignore_index=True)
    return events.sort_values(
        ["peak_score", "file", "start_s"], ascending=[False, True, True], kind="stable", ignore_index=True
    )


def _ids_of(events: pd.DataFrame, queued: pd.DataFrame) -> list[str]:
    """The ids of events; in a recording that has the name of another one in the queue, those of its place as well.

    Loggers give the same names in each folder. A recording that has moved keeps its scores, and so do its events.
    """
    peaks, ids = dict(zip(queued["event_id"], queued["peak_score"], strict=True)), []
    for row in events.to_dict("records"):
        span = row["start_s"], row["end_s"]
        event_id = event_id_of(row["model_id"], row["recording"], *span)
        if not math.isclose(peaks.get(event_id, row["peak_score"]), row["peak_score"], rel_tol=1e-6):
            event_id = event_id_of(row["model_id"], f"{row['source']}/{row['recording']}", *span)
        ids.append(event_id)
    return ids


def _causes(picked: pd.DataFrame, model: str | os.PathLike[str], options: ReadOptions) -> pd.DataFrame:
    """Whether picked events are novel, or a bad sensor explains them; reads their recordings one at a time."""
    sensors = Sensors.of(model)
    if not sensors.scores:
        return pd.DataFrame(index=picked.index)
    parts = []
    for _, events in picked.groupby(["source", "file"], sort=False):
        path, name = Path(events["source"].iloc[0], events["file"].iloc[0]), events["recording"].iloc[0]
        windows = sensors.windows(read_log(path, signals=sensors.recipe.needed, recording=name, **options))
        causes = sensors.causes(windows, sensors.grade(windows))
        parts.append(event_causes(events, windows.spans, causes))
    return pd.concat(parts)


def _encoded(known: pd.DataFrame, reasons: Reasons) -> pd.DataFrame:
    """Known events with their codes in this model's latent space, without those whose recordings are missing."""
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
            f"The recordings of {lost} known events of other models cannot be read, so events similar to these are not "
            "left out. Put the recordings back where they were to leave them out.",
            stacklevel=3,
        )
    return pd.concat(parts, ignore_index=True)
