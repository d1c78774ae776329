"""Score one file: the scores are written under a temporary name, which is replaced when they are complete.

Reading, scoring and writing overlap: the threads of a pool score some batches of rows while the next are read and
earlier ones are written.
"""

import hashlib
import json
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anomalyvae.bundle import read_calibration
from anomalyvae.fleet import Tally, json_figures
from anomalyvae.folders import in_words, naming, put_file, refuse_irregular
from anomalyvae.options import LIMITS, SUFFIXES
from anomalyvae.scoring.inputs import UNKNOWN, Batch, batches_of
from anomalyvae.scoring.scorer import Floats, Scorer
from anomalyvae.tables.packed import suffix_of

NOTE = b"anomalyvae"  # key in the metadata of a file of scores: what it was made from
UNKNOWN_SIGNAL = "unknown.identifiers"  # of a model that has learned a vehicle bus without a database
TIME = "time"  # the moment at which a window of a recording begins, in UTC
GAPS = "new_gaps"  # a row's missing cells in columns that had none in training, by name; of a window its signals
_MOMENT = pa.timestamp("us", tz="UTC")
_SCORES = {"anomaly_score": pa.float64(), "p_value": pa.float64(), "is_outlier": pa.bool_()}
SCORES = ("file", "row", *_SCORES, GAPS, "model_id")  # columns of scores of rows
_AHEAD = 4  # batches of a file that are read before they are scored
_LONGEST = 255  # bytes of a file's name
_ENDS = 65536  # bytes at either end of an input that identify it

Scored = TypeVar("Scored")


@dataclass(frozen=True)
class Work:
    """What all files of a run share: plain values, so that it can be sent to other machines."""

    model: str  # bundle or ONNX file
    graph: str  # the sha256 of the ONNX file, so that a change of the model is noticed
    source: str = ""  # folders that names of files are relative to; empty where windows come from no folder
    target: str = ""
    staging: str = ""  # this run's folder of incomplete files; a worker that outlives its run writes only there
    rate: float | None = None  # rows with a p-value of at most this are flagged; None: by the model's own threshold
    tail: str = "conformal"
    feature_scores: bool = False
    options: tuple[tuple[str, Any], ...] = ()  # how files are read: items of `anomalyvae.options.ReadOptions`
    databases: tuple[str, ...] = ()  # the sha256 of each file that defines messages of a vehicle bus
    per_tick: str | None = None  # how windows are folded to ticks of the clock; None: they are not
    keep: tuple[str, ...] = ()  # columns of a table that are copied into its scores

    def settings(self) -> dict[str, Any]:
        """What decides the scores of a file, apart from the file."""
        settings = {name: getattr(self, name) for name in ("graph", "rate", "tail", "feature_scores")}
        settings |= {"databases": sorted(self.databases)} if self.databases else {}
        for name, value in self.options:
            if name not in ("databases", *LIMITS):
                settings[name] = list(value) if isinstance(value, tuple) else value  # as JSON gives it back
        settings |= {"keep": list(self.keep)} if self.keep else {}
        return settings | ({"per_tick": self.per_tick} if self.per_tick else {})


@dataclass(frozen=True)
class Outcome:
    """The state of a file in a run, and the figures of its scores."""

    file: str  # relative to the source
    status: str  # "reading", "scored", "failed", or "kept": its scores are those of an earlier run
    rows: int = 0
    flagged: int = 0
    new_gaps: int = 0  # rows with a missing cell in a column that had none in training: they are not calibrated
    error: str | None = None
    sparse: str | None = None  # why the windows cover few of the recording's seconds, if they do


def output_of(name: str) -> str:
    """The name of a file's scores, relative to the target; no two files share it."""
    path = Path(name)
    # "a.csv.parquet" may hold the scores of "a.csv", and must not hold its own.
    plain = path.suffix.lower() == ".parquet" and suffix_of(Path(path.stem)) not in SUFFIXES
    output = name if plain else f"{name}.parquet"
    own = os.fsencode(Path(output).name)
    if len(own) <= _LONGEST:
        return output
    short = own[: _LONGEST - 40].decode("utf-8", "ignore") + f"~{hashlib.sha256(own).hexdigest()[:16]}.parquet"
    return Path(output).with_name(short).as_posix()


def kept(work: Work, name: str) -> Outcome | None:
    """The outcome of an earlier run, if its scores are complete and were made from this very file and model."""
    try:
        note = _note(work, name)
        if note["made_from"] == _made_from(work, name):
            sparse = (note.get("recording") or {}).get("sparse")
            return Outcome(name, "kept", note["rows"], note["flagged"], note.get("new_gaps", 0), sparse=sparse)
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException):
        pass
    return None


def other_source(work: Work, name: str) -> str | None:
    """The folder of the file whose scores have the place of this file's, if it is another one."""
    try:
        source = _note(work, name)["source"]
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException):  # none, damaged or of an earlier version
        return None
    return source if isinstance(source, str) and source != work.source else None


def _note(work: Work, name: str) -> Any:
    return json.loads(pq.read_metadata(Path(work.target, output_of(name))).metadata[NOTE])


def score_file(work: Work, name: str, pool: Executor) -> Iterator[Outcome]:
    """Score a file and yield its progress. The last outcome is ``"scored"`` or ``"failed"``; errors are not raised."""
    fresh = Path(work.staging, uuid4().hex)
    rows = flagged = gaps = 0
    try:
        session = open_session(work)
        made_from = _made_from(work, name)
        batches = batches_of(Path(work.source), name, session.metadata, work.keep, **dict(work.options))
        first = next(batches, None)
        kept = {} if first is None else {column: first.where[column].type for column in work.keep}
        recording = session.recording()
        output = Path(work.target, output_of(name))
        with naming(output), session.writer(fresh, kept) as writer:
            for table, outliers in _tables(work, session, pool, chain(filter(None, [first]), batches), recording):
                writer.write_table(table)
                rows, flagged = rows + len(table), flagged + outliers
                if GAPS in table.column_names:
                    gaps += len(table) - table[GAPS].null_count
                yield Outcome(name, "reading", rows, flagged, gaps)
            if _made_from(work, name) != made_from:
                raise ValueError("It changed while it was read. Score it again when it is complete.")
            counts = {"rows": rows, "flagged": flagged, "new_gaps": gaps}
            note = {"made_from": made_from, "source": work.source, **counts}
            if recording is not None:
                note["recording"] = recording.to_dict()
            writer.add_key_value_metadata({NOTE: json.dumps(note).encode()})
        output.parent.mkdir(parents=True, exist_ok=True)
        put_file(fresh, output)
        sparse = None if recording is None else recording.sparse
        yield Outcome(name, "scored", rows, flagged, gaps, sparse=sparse)
    except Exception as error:  # whatever is wrong with one file, the others go on
        kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
        yield Outcome(name, "failed", error=kind + " ".join(in_words(error).split()))
    finally:
        fresh.unlink(missing_ok=True)


class Recording:
    """What is said of a recording as a whole: when it began, and its figures (`anomalyvae.fleet.Tally`)."""

    def __init__(self, signals: int) -> None:
        self._signals = signals
        self._tally = Tally(signals)
        self._name: str | None = None
        self._start: datetime | None = None
        self.sparse: str | None = None

    def add(self, batch: Batch, scores: Floats) -> None:
        """Take the `Session.scores` of windows."""
        if len(scores):
            self._name, self._start = str(batch.where["recording"].iloc[0]), batch.start
            self.sparse = batch.sparse
            all_and_each = scores[:, [0, *range(3, 3 + self._signals)]]
            self._tally.add(all_and_each, scores[:, 2] > 0, batch.where["start_s"])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "recording": self._name,
            "start": None if self._start is None else self._start.isoformat(),
            **self._tally.to_dict(),
            "figures": json_figures(self._tally.figures),
            "sparse": self.sparse,
        }


def _tables(
    work: Work, session: "Session", pool: Executor, batches: Iterable[Batch], recording: Recording | None
) -> Iterator[tuple[pa.Table, int]]:
    """Tables of scores, each with its number of flagged rows; windows are added to their recording."""
    if work.per_tick is None:
        for batch, (table, flagged, scores) in _in_order(pool, session.score_table, batches):
            if recording is not None:
                recording.add(batch, scores)
            yield table, flagged
        return
    from anomalyvae.recordings import WindowRecipe
    from anomalyvae.recordings.folding import Folding

    folding = Folding(WindowRecipe.from_dict(session.metadata["windowing"]), work.per_tick)
    newest: Batch | None = None
    for newest, scores in _in_order(pool, session.scores, batches):
        if recording is not None:
            recording.add(newest, scores)
        yield session.ticks(newest, *folding.add(newest.where["start_s"], scores))
    if newest is not None:
        yield session.ticks(newest, *folding.add([], scores[:0], last=True))


def _in_order(
    pool: Executor, score: Callable[[Batch], Scored], batches: Iterable[Batch]
) -> Iterator[tuple[Batch, Scored]]:
    """Score batches in a pool, a few at a time, and yield them in their order."""
    waiting: deque[tuple[Batch, Future[Scored]]] = deque()
    try:
        for batch in batches:
            waiting.append((batch, pool.submit(score, batch)))
            if len(waiting) == _AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        for batch, future in waiting:
            yield batch, future.result()
    finally:
        for _, future in waiting:
            future.cancel()


def _made_from(work: Work, name: str) -> dict[str, Any]:
    """What decides the scores of a file: model, settings, and the file's size, time and ends."""
    path = Path(work.source, name)
    stat = refuse_irregular(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(_ENDS))
        file.seek(max(0, stat.st_size - _ENDS))
        digest.update(file.read(_ENDS))
    return {**work.settings(), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "ends": digest.hexdigest()}


def open_session(work: Work) -> "Session":
    """The opened model of a run; a process opens it once."""
    with _opening:
        return _open_session(work)


@lru_cache(maxsize=1)
def _open_session(work: Work) -> "Session":
    return Session(work)


_opening = threading.Lock()


class Session:
    """An opened model, which turns batches of rows into tables of scores."""

    def __init__(self, work: Work) -> None:
        self.scorer = Scorer(work.model, threads=1)
        if self.scorer.sha256 != work.graph:
            raise ValueError(f"{work.model} is not the model that the run began with. Start the run again.")
        self.metadata = self.scorer.metadata
        self._work = work
        self._rate = None if work.rate is None else work.rate * (1 + 1e-9)
        self._outputs = list(_SCORES)
        self._features: list[str] = []  # names of columns or, of windows, of signals
        windowing = self.metadata["windowing"]
        ranked = self.metadata.get("fleet") is not None and "feature_scores" in self.scorer.outputs
        if work.feature_scores or ranked:
            self._outputs.append("feature_scores")
            self._features = list(self.metadata["features"] if windowing is None else windowing["signals"])
        self._written = self._features if work.feature_scores else []
        holed = windowing is None or (windowing.get("missing", 0.0) > 0 and work.per_tick is None)
        self._names_gaps = holed and bool(self.metadata.get("complete"))
        self._names_unknown = UNKNOWN_SIGNAL in (windowing or {}).get("signals", ()) and work.per_tick is None
        extrapolates = work.tail != "conformal"
        self._calibration = read_calibration(work.model, self.metadata["model_id"]) if extrapolates else None

    def recording(self) -> Recording | None:
        """An empty record of a recording; None if rows are not windows."""
        return None if self.metadata["windowing"] is None else Recording(len(self._features))

    def writer(self, path: Path, kept: dict[str, pa.DataType]) -> pq.ParquetWriter:
        """A writer of tables of scores, with the columns that are kept."""
        text = pa.dictionary(pa.int32(), pa.string())  # repeated text is stored once
        if self.metadata["windowing"] is None:
            where = [("row", pa.int64())]
        else:
            unknown = [(UNKNOWN, text)] if self._names_unknown else []
            spans = [("recording", text), ("start_s", pa.float64()), ("end_s", pa.float64())]
            where = [*spans, *unknown, (TIME, _MOMENT)]
        features = [(f"feature_score.{name}", pa.float64()) for name in self._written]
        gaps = [(GAPS, text)] if self._names_gaps else []
        schema = pa.schema([*where, *kept.items(), *_SCORES.items(), *features, *gaps, ("model_id", text)])
        # Without Arrow's own schema, a reader finds plain text. Only that schema tells durations from whole numbers.
        stored = any(pa.types.is_duration(kind) for kind in kept.values())
        return pq.ParquetWriter(path, schema, use_dictionary=["recording", "p_value", "model_id"], store_schema=stored)

    def score_table(self, batch: Batch) -> tuple[pa.Table, int, Floats]:
        """The table of a batch, its number of flagged rows, and its `scores`."""
        found = self.scorer.score(batch.rows, [*self._outputs, GAPS])
        scores = self._scores_of(found)
        return *self._table(batch, scores, found[GAPS]), scores

    def scores(self, batch: Batch) -> Floats:
        """Anomaly score, p-value, 1 if flagged and, where they are of use, a score per feature, of each row."""
        return self._scores_of(self.scorer.score(batch.rows, self._outputs))

    def _scores_of(self, found: dict[str, Any]) -> Floats:
        score, p_value = found["anomaly_score"], found["p_value"]
        if self._calibration is not None:
            p_value = self._calibration.p_values(score, self._work.tail)
        flagged = found["is_outlier"] if self._rate is None else p_value <= self._rate
        columns = [score, p_value, flagged]
        if self._features:
            columns += list(found["feature_scores"].reshape(len(score), len(self._features), -1).sum(axis=2).T)
        return np.column_stack(columns)

    def ticks(self, batch: Batch, time_s: Floats, folded: Floats) -> tuple[pa.Table, int]:
        """The scores of ticks, folded from the `scores` of windows, and how many are flagged.

        Twice the mean of p-values is a p-value, however they depend on each other: V. Vovk and R. Wang, Combining
        p-values via averaging, Biometrika 107 (2020), proposition 3.
        """
        if self._work.per_tick == "offline":
            score, p_value, flagged = folded.T[:3]  # views
            np.minimum(2 * p_value, 1, out=p_value)
            flagged[:] = score > -self.metadata["offset"] if self._rate is None else p_value <= self._rate
        where = {name: values for name, values in batch.where.items() if name != UNKNOWN}
        spans = {"start_s": time_s, "end_s": time_s + 1 / self.metadata["windowing"]["rate_hz"]}
        return self._table(batch._replace(where=where | spans), folded)

    def _table(self, batch: Batch, scores: Floats, gaps: Any = None) -> tuple[pa.Table, int]:
        score, p_value, flag, *features = scores.T
        flagged = flag > 0
        columns: dict[str, Any] = dict(batch.where)
        if "recording" in columns:
            columns["recording"] = _repeated(columns["recording"].iloc[0], len(score))
            columns[TIME] = moments(batch.start, columns["start_s"])
        if UNKNOWN in columns:
            columns[UNKNOWN] = pa.array(columns[UNKNOWN], pa.string()).dictionary_encode()
        columns |= {"anomaly_score": score, "p_value": p_value, "is_outlier": flagged}
        for name, part in zip(self._written, features, strict=False):
            columns[f"feature_score.{name}"] = pa.array(part, mask=~flagged)
        if self._names_gaps:
            gaps = gaps if self.metadata["windowing"] is None else list(map(_signals_in, gaps))
            columns[GAPS] = pa.array(gaps, pa.string()).dictionary_encode()
        columns["model_id"] = _repeated(self.metadata["model_id"], len(score))
        return pa.table(columns), int(flagged.sum())


@lru_cache(maxsize=1024)
def _signals_in(gaps: str | None) -> str | None:
    """The signals among the columns of windows that a text names."""
    return gaps and ", ".join(dict.fromkeys(re.sub(r"[@~]\d+$", "", name) for name in gaps.split(", ")))


def moments(start: datetime | None, after_s: Any) -> pa.Array:
    """The moments (UTC) so many seconds after a recording's start; missing if that is not known."""
    if start is None:
        return pa.nulls(len(after_s), _MOMENT)
    begin = pa.scalar(start, _MOMENT).value
    return pa.array(begin + np.round(1e6 * np.asarray(after_s)).astype(np.int64)).cast(_MOMENT)


def _repeated(text: str, count: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, dtype=np.int32)), [text])
