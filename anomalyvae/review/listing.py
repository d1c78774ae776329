"""The queue as the review page lists it: kept in memory, in the order that the verdicts give, and sent in parts.

A queue may have 100,000 events. They are read once, and again when events were added. A verdict costs a reading of the
log and a new order; the page gets the events around the one that it shows.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalyvae.review.database import VERDICT_COLUMNS, VERDICTS, person_of
from anomalyvae.review.evidence import plain
from anomalyvae.review.queue import Queue
from anomalyvae.review.verdicts import QueueOrder

_TOP, _AROUND = 100, 300  # events that are sent: the first, and those around the one that is shown
_IN_MAP, _IN_RECORDING = 1500, 500  # most events of a chart
_LISTED = ("event_id", "recording", "file", "start_s", "end_s", "peak_score", "p_value", "windows", "signals", "shares",
           *VERDICT_COLUMNS)  # fmt: skip
_MARKED = ("event_id", "recording", "start_s", "end_s", "verdict")
STATUSES = ("all", "open", "reviewed", "second")


@dataclass(frozen=True)
class Filter:
    """Which events are listed; ``status="second"`` are new normals of one reviewer who is not ``reviewer``."""

    status: str = "all"
    text: str = ""
    verdict: str = ""
    recording: str = ""
    reviewer: str = ""


@dataclass(frozen=True)
class _Held:
    """All events in the queue's order: their positions by id, the words that are searched, the order by verdicts."""

    events: pd.DataFrame
    position: Mapping[str, int]
    words: Sequence[str]
    order: NDArray[np.intp]
    counted: int

    def passing(self, wanted: Filter) -> NDArray[np.intp]:
        """The positions of the events that pass a filter, in their order."""
        verdicts, text = self.events["verdict"], wanted.text.strip().lower()
        passes = np.ones(len(self.events), dtype=bool)
        if wanted.status == "second":
            passes = self.second_looks(wanted.reviewer)
        elif wanted.status != "all":
            passes = verdicts.isna().to_numpy() == (wanted.status == "open")
        if wanted.verdict:
            passes = passes & (verdicts == wanted.verdict).to_numpy()
        if wanted.recording:
            passes = passes & (self.events["recording"] == wanted.recording).to_numpy()
        if text:
            found = np.array([text in words for words in self.words], dtype=bool)
            passes = passes & (found | self._said(text))
        return np.asarray(self.order[passes[self.order]])

    def second_looks(self, reviewer: str) -> NDArray[np.bool_]:
        """New normals by one reviewer only, who is somebody else: repeating one's own verdict confirms nothing."""
        found = (self.events["verdict"] == "new_normal").to_numpy(copy=True)
        agreeing = self.events["agreeing"].to_numpy()
        own = person_of(reviewer)
        found[found] = [len(who) == 1 and person_of(who[0]) != own for who in agreeing[found]]
        return found

    def most(self, positions: NDArray[np.intp], most: int, current: str) -> pd.DataFrame:
        """Some of the events at these positions: the current one first, then reviewed ones, then the most anomalous."""
        waiting = self.events["verdict"].isna().to_numpy()[positions]
        others = positions != self.position.get(current, -1)
        return self.events.iloc[np.sort(positions[np.lexsort((positions, waiting, others))[:most]])]

    def _said(self, text: str) -> NDArray[np.bool_]:
        """Which events have a verdict, a note or a reviewer with this text."""
        found = self.events["verdict"].notna().to_numpy(copy=True)
        said = self.events.loc[found, ["verdict", "note", "reviewer"]].itertuples(index=False)
        found[found] = [text in "\n".join([of.replace("_", " "), note, who]).lower() for of, note, who in said]
        return found


class Listing:
    """The events of a queue with their current verdicts, for pages that poll. Threads may share it."""

    def __init__(self, queue: Queue) -> None:
        self._queue, self._lock = queue, threading.Lock()
        self._order_of = QueueOrder()
        self._state: Any = None
        self._held: _Held | None = None

    def prepare(self) -> None:
        """Read the queue, and prepare its order, so that the first verdict is as quick as later ones."""
        held = self._now()
        with self._lock:
            self._order_of.prepare(held.events)

    def part(self, wanted: Filter, current: str = "") -> dict[str, Any]:
        """The first events that pass a filter, and those around a current one, with what the page counts.

        ``events`` are as `row_of` gives them, with ``agreeing``; behind events that are left out, ``gap`` is their
        number. ``matching`` of ``total`` events pass.
        """
        held = self._now()
        passing = held.passing(wanted)
        here = np.flatnonzero(passing == held.position.get(current, -1))
        begin = max(min(int(here[0]) - _AROUND // 2, len(passing) - _AROUND), 0) if len(here) else 0
        sent = np.arange(len(passing)) < _TOP
        sent[begin : begin + _AROUND] = True
        kept = np.flatnonzero(sent)
        rows = [_row(row) for row in held.events.iloc[passing[kept]].to_dict("records")]
        for row, gap in zip(rows, np.diff(kept, prepend=-1) - 1, strict=True):
            row |= {"gap": int(gap)} if gap else {}
        said = held.events["verdict"].value_counts()
        return {
            "events": rows,
            "current": _row(held.events.iloc[held.position[current]].to_dict()) if current in held.position else None,
            "matching": len(passing),
            "total": len(held.events),
            "counts": {verdict: int(said.get(verdict, 0)) for verdict in VERDICTS},
            "second": int(held.second_looks(wanted.reviewer).sum()),
            "ordered_by": held.counted,
        }

    def recordings(self) -> list[str]:
        """The names of all recordings."""
        return sorted(self._now().events["recording"].unique())

    def mark(self, name: str | None) -> dict[str, Any] | None:
        """What a chart says of an event; None if the queue does not have it."""
        held = self._now()
        position = None if name is None else held.position.get(name)
        return None if position is None else _named(held.events.iloc[position].to_dict(), _MARKED)

    def of_map(self, current: str = "") -> pd.DataFrame:
        """The events of the latent map, at most 1,500."""
        held = self._now()
        return held.most(np.arange(len(held.events)), _IN_MAP, current)

    def of_recording(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """The marks of the events of a recording: ``events``, at most 500, and their ``count``."""
        held = self._now()
        same = (held.events[name] == event[name] for name in ("source", "recording"))
        own = np.flatnonzero(np.logical_and(*same))
        return {"events": marks(held.most(own, _IN_RECORDING, event["event_id"])), "count": len(own)}

    def _now(self) -> _Held:
        """The events as they are in the queue now."""
        with self._lock:
            state = self._queue.state()
            held = self._held
            if held is None or state != self._state:
                if held is None or state[0] != self._state[0]:
                    held = _read(self._queue)
                events = _judged(held, self._queue.current())
                order, counted = self._order_of(events)
                held = replace(held, events=events, order=order, counted=counted)
                self._held, self._state = held, state
            return held


def _read(queue: Queue) -> _Held:
    events = queue.events()
    named = zip(events["recording"], events["signals"], strict=True)
    words = ["\n".join([recording, *signals[:3]]).lower() for recording, signals in named]
    position = {name: position for position, name in enumerate(events["event_id"])}
    return _Held(events, position, words, np.arange(len(events)), 0)


def _judged(held: _Held, current: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The events with their current verdicts."""
    columns = {name: np.full(len(held.events), None, dtype=object) for name in (*VERDICT_COLUMNS, "agreeing")}
    for event_id, said in current.items():
        position = held.position.get(event_id)
        if position is not None:  # and not an event that was added in between
            for name, column in columns.items():
                column[position] = said[name]
    return held.events.assign(**columns)


def _row(event: Mapping[Any, Any]) -> dict[str, Any]:
    return row_of(event) | {"agreeing": list(event["agreeing"] or [])}


def marks(events: pd.DataFrame) -> list[dict[str, Any]]:
    """What charts say of events."""
    return [_named(row, _MARKED) for row in events.to_dict("records")]


def row_of(event: Mapping[Any, Any]) -> dict[str, Any]:
    """An event as the page lists it."""
    return _named(event, _LISTED)


def _named(event: Mapping[Any, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return dict(plain({name: event[name] for name in names}))
