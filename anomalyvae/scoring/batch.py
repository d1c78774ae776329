"""``score_folder``: score a folder of files into a folder of scores, each file exactly once.

A file of scores appears only when it is complete, and its metadata say what it was made from. So a run needs no other
state: after a kill, the next run reads the metadata and scores the rest. Neither torch nor scikit-learn is imported.
"""

import json
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Unpack
from uuid import uuid4

from anomalyvae.alarms import AlarmTarget
from anomalyvae.bundle.card import sha256_of
from anomalyvae.folders import is_scratch, locked, write_text
from anomalyvae.options import ReadOptions, given
from anomalyvae.scoring.engines import ENGINES
from anomalyvae.scoring.inputs import Source, find_inputs, of_one_name
from anomalyvae.scoring.one_file import SCORES, Outcome, Work, kept, other_source, output_of
from anomalyvae.scoring.scorer import Scorer
from anomalyvae.scoring.summary import RUN, SUMMARY, settings_of, side_file

_STAGING = ".staging"
_EVERY_S = 5.0


class Progress(NamedTuple):
    """The progress of a run; ``files_kept`` of the ``files_done`` were done by earlier runs."""

    files: int
    files_done: int
    files_kept: int
    rows_scored: int
    seconds: float


class _ProgressPrinter:
    """Prints progress to stderr, at most a line every five seconds, and one at the end."""

    def __init__(self) -> None:
        self._next_s = _EVERY_S

    def __call__(self, now: Progress) -> None:
        if now.seconds >= self._next_s or now.files_done == now.files:
            self._next_s = now.seconds + _EVERY_S
            pace = now.rows_scored / max(now.seconds, 1e-9)
            print(f"{now.files_done:,}/{now.files:,} files, {pace:,.0f} rows/s", file=sys.stderr)


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
    keep: Sequence[str] = (),
    strict: bool = False,
    overwrite: bool = False,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    verbose: bool = False,
    **options: Unpack[ReadOptions],
) -> dict[str, Any]:
    """Score files with a bundle or an ONNX file: the windows of recordings, or the rows of tables.

    Call it again after an interruption, or when there are new files: only new and changed files are scored.

    Parameters
    ----------
    model : path
        A bundle, or a file that `export_onnx` wrote. If the model has a windowing recipe, files are recordings, which
        are cut into windows; otherwise each row of a table is scored.
    source : path or sequence of paths
        A folder (with its subfolders), a file, or a pattern such as ``"drives/2026-*/*.parquet"``. Formats are Parquet
        and CSV, and for recordings those of `read_log`; other files are passed over. A path may define a column that
        the file lacks, as in ``vehicle=7/part.parquet``.
    target : path
        Folder for the scores: new, empty, or of an earlier run with the same model and settings. The scores of a file
        are a Parquet file under the same relative path (``drive.csv.parquet`` for ``drive.csv``), with the columns
        ``row`` (or ``recording``, ``start_s``, ``end_s`` and ``time``, the moment of ``start_s`` in UTC, missing if the
        recording does not say it), ``anomaly_score``, ``p_value``, ``is_outlier`` and ``model_id``.
    engine : {"local", "dask"}, default="local"
        Threads of this process, or a Dask cluster, local or at ``scheduler``, which distributes whole files. Both write
        the same bytes.
    scheduler : str, optional
        Address of a Dask scheduler, such as ``"tcp://10.0.0.1:8786"``. Its workers must see the same paths.
    alarms : dict, optional
        Flag rows by a false-alarm target instead of the model's threshold: ``{"alpha": 0.01}`` (share of normal rows)
        or, for windows, ``{"per_hour": 6}``; see `Calibration.alarms`.
    tail : {"conformal", "pareto"}, default="conformal"
        Of p-values; see `Calibration.p_values`. ``"pareto"`` needs a bundle.
    feature_scores : bool, default=False
        Add a column ``feature_score.NAME`` per column (of windows, per signal), in nats; empty for rows not flagged.
    per_tick : {"offline", "causal"}, optional
        For recordings, write a row per tick of the clock instead of a row per window
        (:mod:`anomalyvae.recordings.folding`); ``start_s`` is the tick, ``end_s`` the next. ``"offline"``: the mean
        score of the windows that cover the tick, and twice the mean of their p-values, which is a p-value again.
        ``"causal"``: score and p-value of the window that ends there; missing before the first end.
    keep : sequence of str, optional
        Columns of tables, such as an identifier, that are copied into the scores beside ``row``. The model need not
        know them. From a CSV file they are text, as it is written there.
    strict : bool, default=False
        Stop with the error of the first file that fails, instead of going on with the others.
    overwrite : bool, default=False
        Delete scores of another model, or of other settings, from ``target``, and replace those of files with the same
        names in another folder.
    workers : int, optional
        Threads, or processes of a local Dask cluster; one per core by default.
    progress : callable, optional
        Called with a `Progress` after every batch of rows.
    verbose : bool, default=False
        Print the progress to stderr, a line every five seconds and at the end.
    **options
        How files are read: see `anomalyvae.options.ReadOptions`.

    Returns
    -------
    dict
        The content of ``_summary.json``, which is written at the end: ``model_id``, total ``rows`` and ``flagged``,
        ``new_gaps`` (rows with a missing cell in a column that had none in training; their column ``new_gaps`` names
        it), ``sparse`` (recordings whose windows cover few of their seconds), ``smallest_p_value`` that the calibration
        can show, ``caution`` (`Scorer.caution`), ``fleet`` (the training recordings, with which
        `anomalyvae.scoring.ranking.rank` compares; None if the model does not have them),
        ``rows_per_s``, ``scored``, ``kept`` and ``failed`` (numbers of files), ``passed_over`` (files of other
        formats), ``orphans`` (scores whose input is gone; they stay), and ``files``, with an `Outcome` each;
        and ``drift`` (`anomalyvae.scoring.drift.drift_of`).

    Raises
    ------
    FileNotFoundError
        If there is no model, or nothing to score.
    FileExistsError
        If the target has other files, scores of another model, or of files with these names in another folder.
    BlockingIOError
        If another run is writing to the target.
    ValueError
        For a target inside the source, an invalid alarm target, and, with ``strict``, a file that fails.
    """
    if engine not in ENGINES:
        raise ValueError(f"Got engine={engine!r}, expected one of {', '.join(map(repr, ENGINES))}. Pass one of them.")
    if per_tick not in (None, "offline", "causal"):
        raise ValueError(f"Got per_tick={per_tick!r}, expected 'offline' or 'causal'. Pass one of them.")
    progress = progress or (_ProgressPrinter() if verbose else lambda progress: None)
    began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    scorer = Scorer(model, providers=["CPUExecutionProvider"])
    metadata, recordings = scorer.metadata, scorer.metadata["windowing"] is not None
    if per_tick is not None and not recordings:
        raise ValueError(
            f"Got per_tick={per_tick!r} with a model of plain rows, expected one of windows. Leave it out: a row is "
            "scored by itself."
        )
    keep = _kept_columns(keep, metadata)
    folder = Path(target).resolve()
    root, names, passed_over, unread = find_inputs(source, recordings, folder)
    if recordings:
        unread |= of_one_name(names)
        names = [name for name in names if name not in unread]
    work = Work(
        model=os.path.abspath(model),
        graph=scorer.sha256,
        source=str(root),
        target=str(folder),
        staging=str(folder / _STAGING / uuid4().hex),
        rate=None if alarms is None else flag_rate(alarms, metadata, tail),
        tail=tail,
        feature_scores=feature_scores,
        options=tuple(given(options).items()),
        databases=_databases(options),
        per_tick=per_tick,
        keep=keep,
    )
    if strict and unread:
        raise ValueError("; ".join(f"{name}: {why}" for name, why in sorted(unread.items())))
    with locked(folder, busy=f"Another run is writing to the target {folder}. Wait until it ends."):
        _claim(folder, work, metadata["model_id"], overwrite)
        score = partial(ENGINES[engine], work, workers=workers or os.cpu_count() or 1, scheduler=scheduler)
        outcomes = _score_files(work, names, score, strict, progress, began, overwrite)
        outcomes += [Outcome(name, "failed", error=why) for name, why in sorted(unread.items())]
        run = {"model_id": metadata["model_id"], "source": str(root), "engine": engine, "started": started}
        summary = run | _figures(work, scorer, outcomes, time.monotonic() - began)
        summary |= {
            "passed_over": passed_over,
            "orphans": _orphans(folder, {folder / output_of(name) for name in names}),
            "files": [asdict(outcome) | {"scores": output_of(outcome.file)} for outcome in outcomes],
            "drift": None,
        }
        if summary["fleet"] is not None:
            from anomalyvae.scoring.drift import drift_of  # it needs pandas

            summary["drift"] = drift_of(folder, summary)
        write_text(folder / SUMMARY, json.dumps(summary, indent=1) + "\n")
    return summary


def _databases(options: ReadOptions) -> tuple[str, ...]:
    """The checksum of each file that defines messages, after its bus; an error if one of them cannot be read."""
    databases = given(options).get("databases", ())
    if databases:
        from anomalyvae.recordings.reading import check_databases

        check_databases(options)
    return tuple((bus and f"{bus}=") + sha256_of(Path(file)) for bus, file in databases)


def _score_files(
    work: Work,
    names: list[str],
    score: Callable[[list[str]], Iterator[Outcome]],
    strict: bool,
    progress: Callable[[Progress], None],
    began: float,
    overwrite: bool,
) -> list[Outcome]:
    """Score the files that have no scores yet; returns the outcome of each file, in order."""
    found = {name: outcome for name in names if (outcome := kept(work, name)) is not None}
    waiting = [name for name in names if name not in found]
    others = {} if overwrite else {name: source for name in waiting if (source := other_source(work, name)) is not None}
    if others:
        name, source = next(iter(others.items()))
        raise FileExistsError(
            f"The target {work.target} has the scores of {len(others):,} other files with the names of new ones, such "
            f"as {Path(source, name)} and {Path(work.source, name)}. Choose another folder, pass both sources, or "
            "replace the old scores by overwrite=True (--overwrite)."
        )
    if waiting:
        Path(work.target, SUMMARY).unlink(missing_ok=True)  # a folder without a summary is unfinished
    files_kept, rows = len(found), 0
    reading: dict[str, int] = {}  # of ``rows``, those of files that are being read

    def show() -> None:
        progress(Progress(len(names), len(found), files_kept, rows, time.monotonic() - began))

    try:
        show()
        for outcome in score(waiting):
            rows += outcome.rows - reading.pop(outcome.file, 0)
            if outcome.status == "reading":
                reading[outcome.file] = outcome.rows
            else:
                found[outcome.file] = outcome
            show()
            if strict and outcome.error is not None:
                raise ValueError(f"{outcome.file}: {outcome.error}")
    finally:
        shutil.rmtree(Path(work.target, _STAGING), ignore_errors=True)
    return [found[name] for name in names]


def _figures(work: Work, scorer: Scorer, outcomes: list[Outcome], seconds: float) -> dict[str, Any]:
    """The sums over the files of a run, and what its model says of the scores."""
    return {
        "seconds": round(seconds, 3),
        "rows_per_s": round(sum(outcome.rows for outcome in outcomes if outcome.status == "scored") / seconds),
        **{name: sum(getattr(outcome, name) for outcome in outcomes) for name in ("rows", "flagged", "new_gaps")},
        "sparse": sum(outcome.sparse is not None for outcome in outcomes),
        "smallest_p_value": _smallest(scorer.metadata, work.tail, work.per_tick),
        "caution": scorer.caution,
        "fleet": scorer.metadata.get("fleet"),
        **{status: sum(o.status == status for o in outcomes) for status in ("scored", "kept", "failed")},
    }


def _kept_columns(keep: Sequence[str], metadata: dict[str, Any]) -> tuple[str, ...]:
    """The columns to keep; an error if they are no columns of a table, or are named like a score."""
    names = (keep,) if isinstance(keep, str) else tuple(dict.fromkeys(keep))
    if names and metadata["windowing"] is not None:
        raise ValueError(
            f"Got columns to keep, {', '.join(map(repr, names))}, with a model of windows, whose scores have the "
            "recording and its time instead. Leave out keep= (--keep)."
        )
    for name in names:
        if name in SCORES or name.startswith("feature_score."):
            raise ValueError(
                f"Got the column {name!r} to keep, but the scores have a column of that name. Rename it in the table, "
                "or leave it out of keep= (--keep)."
            )
    return names


def _smallest(metadata: dict[str, Any], tail: str, per_tick: str | None = None) -> float | None:
    """The smallest p-value that the calibration can show; None if it is extrapolated. A tick's is twice a mean."""
    if tail == "pareto":
        return None
    return min((2.0 if per_tick == "offline" else 1.0) / (1 + float(metadata["calibration"]["evidence"])), 1.0)


def windows_per_hour(metadata: dict[str, Any]) -> float | None:
    """How many windows begin in an hour of recording; None for a model of plain rows."""
    windowing = metadata["windowing"]
    return None if windowing is None else 3600 / windowing["stride_s"]


def flag_rate(alarms: Mapping[str, float], metadata: dict[str, Any], tail: str) -> float:
    """The p-value up to which each row is flagged, under an alarm target; ``metadata`` is that of the scorer."""
    target = AlarmTarget.of(alarms)
    rate = target.row_rate(windows_per_hour(metadata))
    smallest = _smallest(metadata, tail)
    if smallest is not None and rate < smallest * (1 - 1e-9):
        warnings.warn(
            f"The alarm target {target} needs p-values of {rate:.2g}, but this model's calibration gives none below "
            f"{smallest:.2g}, so nothing is flagged. Calibrate with more rows or groups, or use the tail 'pareto'.",
            stacklevel=3,
        )
    return rate


def _claim(folder: Path, work: Work, model_id: str, overwrite: bool) -> None:
    """Write the settings of the scores into their folder; refuse, or clear, a folder with other settings."""
    run = {"model_id": model_id} | work.settings()
    shutil.rmtree(folder / _STAGING, ignore_errors=True)  # stops what a killed run left at work
    if side_file(folder, RUN).exists():
        before = settings_of(folder)
        if before != run:
            if not overwrite:
                what = "other settings" if before.get("graph") == work.graph else f"model {before.get('model_id')}"
                raise FileExistsError(
                    f"The target {folder} has scores of {what}; this run is of model {model_id}. Choose another folder "
                    "or delete the old scores by overwrite=True (--overwrite)."
                )
            side_file(folder, SUMMARY).unlink(missing_ok=True)
            for orphan in _orphans(folder, set()):
                (folder / orphan).unlink()
    elif not all(map(is_scratch, folder.iterdir())):  # of a run that was killed at once
        raise FileExistsError(f"The target {folder} has other files than scores. Choose a new or empty folder.")
    for name in (RUN, SUMMARY):
        if (earlier := side_file(folder, name)).exists():
            earlier.replace(folder / name)
    Path(work.staging).mkdir(parents=True)
    write_text(folder / RUN, json.dumps(run) + "\n")


def _orphans(folder: Path, outputs: set[Path]) -> list[str]:
    """Files of scores that are not of this run's inputs."""
    found = (path for path in folder.rglob("*.parquet") if _STAGING not in path.parts)
    return sorted(path.relative_to(folder).as_posix() for path in found if path not in outputs)
