"""``score_folder``: a folder of files in, a folder of scores out, each file exactly once.

The scores of a file appear under their name when they are whole, with a note inside of what they were made from. So
nothing needs to be remembered between runs: after a kill, the next run reads the notes, and does what is left. Neither
torch nor scikit-learn is imported.
"""

import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from anomalyvae.bundle.card import sha256_of
from anomalyvae.calibration import AlarmTarget
from anomalyvae.folders import replacing_file
from anomalyvae.scoring.engines import ENGINES
from anomalyvae.scoring.inputs import Source, inputs_of
from anomalyvae.scoring.one_file import Outcome, Work, kept, output_of
from anomalyvae.scoring.scorer import Scorer, file_of

RUN, SUMMARY = "run.json", "summary.json"  # written first: what scores here; written last: what came of it
_STAGING = ".staging"


class Progress(NamedTuple):
    """How far a run is: files and bytes of input, and rows scored; what an earlier run did counts as done."""

    files: int
    files_done: int
    bytes: int
    bytes_done: int
    bytes_kept: int
    rows_scored: int
    seconds: float


def score_folder(
    model: str | os.PathLike[str],
    source: Source,
    target: str | os.PathLike[str],
    *,
    engine: str = "local",
    scheduler: str | None = None,
    alarms: Mapping[str, float] | None = None,
    tail: str = "conformal",
    feature_scores: bool = False,
    per_tick: str | None = None,
    strict: bool = False,
    overwrite: bool = False,
    workers: int | None = None,
    databases: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    progress: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, Any]:
    """Score files with a bundle or an ONNX file: recordings by windows, or tables by rows.

    Call it again to go on after an interruption, or when files have come: only what is new or has changed is scored.

    Parameters
    ----------
    model : path
        A bundle, or a file that `export_onnx` wrote. Where the model has a windowing recipe, files are recordings and
        are cut by it; otherwise each row of a table is scored as it stands.
    source : path or sequence of paths
        A folder (with all that lies below it), a file, or a pattern such as ``"drives/2026-*/*.parquet"``. Parquet and
        CSV, and for recordings each format that `read_log` knows; other files are passed over. A model's column that
        a file lacks is taken from its path, where that says ``column=value``.
    target : path
        Folder for the scores: new, empty, or of an earlier run with the same model and settings. Each file gives a
        Parquet file under the same relative path (``drive.csv`` gives ``drive.csv.parquet``) with the columns ``row``
        (or ``recording``, ``start_s``, ``end_s``), ``anomaly_score``, ``p_value``, ``is_outlier`` and ``model_id``.
    engine : {"local", "dask"}, default="local"
        Threads of this process, or a Dask cluster: a local one, or that of ``scheduler``. Files are what is
        distributed; the scores are the same bytes.
    scheduler : str, optional
        Address of a Dask scheduler, as in ``"tcp://10.0.0.1:8786"``; its workers see the same paths.
    alarms : dict, optional
        What ``is_outlier`` means in place of the model's threshold: ``{"alpha": 0.01}`` (share of normal rows) or, for
        windows, ``{"per_hour": 6}``; see `Calibration.alarms`.
    tail : {"conformal", "pareto"}, default="conformal"
        Of p-values; see `Calibration.p_values`. ``"pareto"`` takes a bundle.
    feature_scores : bool, default=False
        For flagged rows, add a column ``feature_score.NAME`` per feature (summed over a window, per signal), in nats.
    per_tick : {"offline", "causal"}, optional
        For recordings, write a row per tick of the clock in place of a row per window: the windows folded back, as
        :mod:`anomalyvae.recordings.folding` has it. ``start_s`` is the tick, ``end_s`` the next. ``"offline"``: the
        mean score of the windows that cover the tick, and twice the mean of their p-values, which is a p-value again.
        ``"causal"``: score and p-value of the window that ended there; missing until the first has ended.
    strict : bool, default=False
        Stop at the first file that fails, with its error, instead of going on with the others.
    overwrite : bool, default=False
        Delete the scores that another model, or the same with other settings, has left in ``target``.
    workers : int, optional
        Threads, or processes of a local Dask cluster; by default one per core.
    databases : path or sequence of paths, optional
        DBC, ARXML, KCD or SYM files that say what the messages of a vehicle bus mean, for MF4 and CAN logs.
    progress : callable, optional
        Told of each `Progress`.

    Returns
    -------
    dict
        What ``summary.json`` holds, which is written when all is done: ``model_id``, ``rows`` and ``flagged`` in all,
        ``rows_per_s``, ``scored``, ``kept`` and ``failed`` (numbers of files), ``passed_over`` (files of other kinds),
        ``orphans`` (scores whose input is no longer there; they stay), and ``files``: an `Outcome` for each.

    Raises
    ------
    FileNotFoundError
        If there is no model, or nothing to score.
    FileExistsError
        If the target holds other things, or scores of another model.
    BlockingIOError
        If another run is writing to the target.
    ValueError
        For a target inside the source, for a promise that cannot be kept, and, if ``strict``, for a file that fails.
    """
    if engine not in ENGINES:
        raise ValueError(f"Got engine={engine!r}, expected one of {', '.join(map(repr, ENGINES))}. Pass one of them.")
    began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    graph = file_of(Path(model))
    metadata = Scorer(graph, providers=["CPUExecutionProvider"]).metadata
    folder = Path(target).resolve()
    root, names, passed_over = inputs_of(source, metadata["windowing"] is not None, folder)
    rate = None if alarms is None else flag_rate(alarms, metadata, tail)
    staging = str(folder / _STAGING / uuid4().hex)
    given = [databases] if isinstance(databases, str | os.PathLike) else databases
    known = tuple((os.path.abspath(database), sha256_of(Path(database))) for database in given)
    if per_tick is not None and metadata["windowing"] is None:
        raise ValueError(
            f"Got per_tick={per_tick!r} with a model of plain rows, expected one of windows. Leave it out: a row is "
            "scored by itself."
        )
    if per_tick not in (None, "offline", "causal"):
        raise ValueError(f"Got per_tick={per_tick!r}, expected 'offline' or 'causal'. Pass one of them.")
    made_with = (rate, tail, feature_scores, known, per_tick)
    work = Work(os.path.abspath(model), sha256_of(graph), str(root), str(folder), staging, *made_with)
    with _locked(folder):
        _begin(folder, work, metadata["model_id"], overwrite)
        found = {name: outcome for name in names if (outcome := kept(work, name)) is not None}
        waiting = [name for name in names if name not in found]
        if waiting:
            (folder / SUMMARY).unlink(missing_ok=True)  # while there is none, the folder is unfinished
        tally = _Tally(root, names, found, began)
        try:
            progress(tally.progress())
            for outcome in ENGINES[engine](work, waiting, workers or os.cpu_count() or 1, scheduler):
                progress(tally.progress(outcome))
                if outcome.status != "reading":
                    found[outcome.file] = outcome
                if strict and outcome.error is not None:
                    raise ValueError(f"{outcome.file}: {outcome.error}")
        finally:
            shutil.rmtree(folder / _STAGING, ignore_errors=True)
        outcomes = [found[name] for name in names]
        seconds = time.monotonic() - began
        summary = {
            "model_id": metadata["model_id"],
            "source": str(root),
            "engine": engine,
            "started": started,
            "seconds": round(seconds, 3),
            "rows_per_s": round(sum(outcome.rows for outcome in outcomes if outcome.status == "scored") / seconds),
            "rows": sum(outcome.rows for outcome in outcomes),
            "flagged": sum(outcome.flagged for outcome in outcomes),
            **{status: sum(o.status == status for o in outcomes) for status in ("scored", "kept", "failed")},
            "passed_over": passed_over,
            "orphans": _orphans(folder, {folder / output_of(name) for name in names}),
            "files": [asdict(outcome) | {"scores": output_of(outcome.file)} for outcome in outcomes],
        }
        with replacing_file(folder / SUMMARY) as fresh:
            fresh.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


class _Tally:
    """Adds up what is told of files, so that a run of many files does not add up all of them each time."""

    def __init__(self, root: Path, names: list[str], found: dict[str, Outcome], began: float) -> None:
        self._sizes = {name: _size(root / name) for name in names}
        self._total = sum(self._sizes.values())
        self._kept = self._done = sum(self._sizes[name] for name in found)
        self._files_done = len(found)
        self._rows = 0
        self._reading: dict[str, Outcome] = {}
        self._began = began

    def progress(self, outcome: Outcome | None = None) -> Progress:
        """How far the run is, after this outcome."""
        if outcome is not None and outcome.status == "reading":
            self._reading[outcome.file] = outcome
        elif outcome is not None:
            self._reading.pop(outcome.file, None)
            self._done += self._sizes[outcome.file]
            self._rows += outcome.rows
            self._files_done += 1
        return Progress(
            files=len(self._sizes),
            files_done=self._files_done,
            bytes=self._total,
            bytes_done=self._done + sum(reading.read for reading in self._reading.values()),
            bytes_kept=self._kept,
            rows_scored=self._rows + sum(reading.rows for reading in self._reading.values()),
            seconds=time.monotonic() - self._began,
        )


def flag_rate(alarms: Mapping[str, float], metadata: dict[str, Any], tail: str) -> float:
    """The p-value up to which each row is flagged, under an alarm target.

    Parameters
    ----------
    alarms, tail
        As for `score_folder`.
    metadata : dict
        Of the scorer.
    """
    windowing = metadata["windowing"]
    target = AlarmTarget.of(alarms)
    rate = target.row_rate(None if windowing is None else 3600 / windowing["stride_s"])
    smallest = 1 / (1 + metadata["calibration"]["evidence"])
    if tail == "conformal" and rate < smallest * (1 - 1e-9):
        warnings.warn(
            f"The alarm target {target} needs p-values of {rate:.2g}, but this model's calibration gives none below "
            f"{smallest:.2g}, so nothing is flagged. Calibrate with more rows or groups, or use the tail 'pareto'.",
            stacklevel=3,
        )
    return rate


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other runs away from a folder; a process that is killed keeps nobody away."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(
                f"Got the target {folder}, in which another run is writing, expected one at a time. Wait for it."
            ) from error
        yield
    finally:
        os.close(handle)


def _begin(folder: Path, work: Work, model_id: str, overwrite: bool) -> None:
    """Say in the folder what its scores are made with; refuse, or clear, a folder that says something else."""
    run = {"model_id": model_id} | work.settings()
    marker = folder / RUN
    shutil.rmtree(folder / _STAGING, ignore_errors=True)  # of a run that was killed: whatever still writes there stops
    if marker.exists():
        try:
            before = json.loads(marker.read_text(encoding="utf-8"))
        except ValueError:
            before = {}
        if before != run:
            if not overwrite:
                what = "other settings" if before.get("graph") == work.graph else f"model {before.get('model_id')}"
                raise FileExistsError(
                    f"Got the target {folder} with scores of {what}, expected those of model {model_id} as it is "
                    "asked for. Choose another folder, or delete them: overwrite=True, or --overwrite."
                )
            (folder / SUMMARY).unlink(missing_ok=True)
            for orphan in _orphans(folder, set()):
                (folder / orphan).unlink()
    elif any(folder.iterdir()):
        raise FileExistsError(
            f"Got the target {folder}, which holds other things than scores, expected a new or empty folder. Choose "
            "another."
        )
    Path(work.staging).mkdir(parents=True)
    with replacing_file(marker) as fresh:
        fresh.write_text(json.dumps(run) + "\n", encoding="utf-8")


def _orphans(folder: Path, outputs: set[Path]) -> list[str]:
    """Scores that no input of this run has given."""
    found = (path for path in folder.rglob("*.parquet") if _STAGING not in path.parts)
    return sorted(path.relative_to(folder).as_posix() for path in found if path not in outputs)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
