"""The verbs that use a fitted model: score, watch, health."""

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalyvae.cli.console import (
    DONE,
    SOME_FAILED,
    SOURCE,
    WRITERS,
    files_shown,
    local_model,
    message_of,
    names,
    option,
    reading_arguments,
    reading_options,
    say,
    setting,
    table_options,
    tell,
    tell_failed,
    writer,
)
from anomalyvae.untrusted import printable, spreadsheet_text

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from anomalyvae.health import Sensors
    from anomalyvae.options import ReadOptions
    from anomalyvae.recordings import Windows
    from anomalyvae.scoring.watch import WindowScore

SILENT = 5  # exit code: no new rows for --timeout seconds
_SIGNALS = 3  # named in a line of CSV
_LINES = 40  # of sensor health, printed
_OTHER_TABLES = {".xlsx", ".xls", ".ods", ".tsv", ".txt", ".json", ".jsonl", ".feather", ".arrow", ".gz", ".zip"}

# --- score ----------------------------------------------------------------------------------------------


def score_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="+", metavar="SOURCE", help=SOURCE)
    parser.add_argument(
        "target", metavar="TARGET",
        help="a folder, which gets one Parquet file of scores per input file (run the command again to resume, or to "
        "score new files); or a name that ends in .parquet or .csv, for one table",
    )  # fmt: skip
    option(parser, "--model")
    parser.add_argument(
        "--per-tick", choices=("offline", "causal"),
        help="write one score per time step of a recording instead of one per window: the mean of all windows that "
        "cover the step (offline), or the score of the window that ends there (causal)",
    )  # fmt: skip
    option(
        parser, "--alarms",
        help="flag by a false-alarm target instead of the model's threshold: alpha=0.01 (share of the normal rows), "
        "per_hour=6 (only for windows), fdr=0.1 (share of the flagged rows, only for one table)",
    )  # fmt: skip
    option(parser, "--tail")
    parser.add_argument(
        "--keep", type=names, default=(), metavar="A,B",
        help="columns of a table, such as an identifier, that are copied into its scores",
    )  # fmt: skip
    reading_arguments(parser)
    option(parser, "--quiet")
    folder = parser.add_argument_group("options for a folder of scores")
    folder.add_argument("--engine", choices=("local", "dask"), default="local", help="threads, or a Dask cluster")
    folder.add_argument("--scheduler", metavar="ADDRESS", help="of a running Dask cluster, such as tcp://host:8786")
    folder.add_argument("--workers", type=int, metavar="N", help="threads, or Dask processes (default: one per core)")
    folder.add_argument("--feature-scores", action="store_true", help="for flagged rows, score each column or signal")
    folder.add_argument("--strict", action="store_true", help="stop at the first file that fails")
    folder.add_argument(
        "--overwrite", action="store_true", help="delete scores of other models, settings or folders in TARGET"
    )


def score(args: argparse.Namespace) -> int:
    with local_model(args.model) as args.model:
        return _score_table(args) if _names_a_table(Path(args.target)) else _score_files(args)


def _names_a_table(target: Path) -> bool:
    """Whether the target is one table and not a folder. A table in a format that is not written is refused later."""
    return target.suffix.lower() in WRITERS or (target.suffix.lower() in _OTHER_TABLES and not target.is_dir())


def _score_files(args: argparse.Namespace) -> int:
    from anomalyvae.scoring import score_folder
    from anomalyvae.scoring.summary import failed_in

    with files_shown(args.quiet) as progress:
        summary = score_folder(
            args.model, args.source, args.target, engine=args.engine, scheduler=args.scheduler, workers=args.workers,
            alarms=args.alarms, tail=args.tail, strict=args.strict, feature_scores=args.feature_scores,
            overwrite=args.overwrite, per_tick=args.per_tick, keep=args.keep, progress=progress,
            **reading_options(args),
        )  # fmt: skip
    code = tell_failed(failed_in(summary))
    if not args.quiet:
        kept = f", {summary['kept']:,} kept from before" if summary["kept"] else ""
        failed = f", {summary['failed']:,} failed" if summary["failed"] else ""
        files = "file" if summary["scored"] == 1 else "files"
        say(
            f"{summary['scored']:,} {files} scored{kept}{failed}, at {summary['rows_per_s']:,} rows/s\n"
            f"{summary['rows']:,} rows, {summary['flagged']:,} flagged by model {summary['model_id']}: {args.target}"
        )
        _say_cautions(summary)
        if summary["orphans"]:
            tell(
                f"{len(summary['orphans']):,} files of scores in {args.target} are of other inputs. They stay, but "
                "rank, drift and flag leave them out."
            )
    return code


def _say_cautions(summary: dict[str, Any]) -> None:
    """What the p-values cannot show, which rows they do not hold for, and whether to retrain."""
    if summary["drift"] is not None and summary["drift"]["alarm"]:
        tell(printable(summary["drift"]["said"]))
    if summary["caution"] is not None:
        tell(summary["caution"])
    sparse = {file["file"]: file["sparse"] for file in summary["files"] if file["sparse"] is not None}
    if sparse:
        from anomalyvae.recordings.coverage import sparse_in_words

        tell(f"warning: {sparse_in_words(sparse)}")
    if summary["new_gaps"]:
        tell(
            f"{summary['new_gaps']:,} rows or windows have missing cells in columns that had none in training: their "
            "p-values and flags are not calibrated. The column new_gaps names what they lack."
        )


def _score_table(args: argparse.Namespace) -> int:
    """Score files into one table. Only a whole table can meet a target on the false discovery rate.

    A worker that has numpy, onnxruntime and pyarrow alone can do this for rows of tables.
    """
    import tempfile

    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from anomalyvae.scoring import score_folder
    from anomalyvae.scoring.summary import failed_in

    write = writer(args.target)
    # Folding to time steps needs the flags of windows; otherwise rows are flagged when all are there.
    folded: dict[str, Any] = {"per_tick": args.per_tick, "tail": args.tail} if args.per_tick else {}
    if args.per_tick and args.alarms is not None:
        folded["alarms"] = args.alarms
    with tempfile.TemporaryDirectory() as scratch, files_shown(args.quiet) as progress:
        summary = score_folder(
            args.model, args.source, scratch, workers=args.workers, strict=args.strict, keep=args.keep,
            progress=progress, **folded, **reading_options(args),
        )  # fmt: skip
        files = [file for file in summary["files"] if file["error"] is None]
        failed = failed_in(summary)
        if not files:
            first = ": ".join(next(iter(failed.items())))
            raise ValueError(first if len(failed) == 1 else f"None of {len(failed)} files has scores. {first}")
        tables = [pq.read_table(Path(scratch, file["scores"]), partitioning=None) for file in files]
    code = tell_failed(failed)
    if len(tables) > 1 and "row" in tables[0].column_names:
        names = [pa.array([file["file"]] * len(table)) for file, table in zip(files, tables, strict=True)]
        tables = [table.add_column(0, "file", name) for name, table in zip(names, tables, strict=True)]
    for name in args.keep:
        _refuse_other_kinds(name, [file["file"] for file in files], [table[name].type for table in tables])
    table = pa.concat_tables(tables)
    if not args.per_tick and (args.alarms is not None or args.tail != "conformal"):
        table = _flag_all(table, args)
    write(table)
    if not args.quiet:
        what = "rows" if "row" in table.column_names else "ticks" if args.per_tick else "windows"
        flagged = int(np.count_nonzero(table["is_outlier"]))
        say(f"Scored {len(table):,} {what}, {flagged:,} flagged: {args.target}")
        _say_cautions(summary)
    return code


def _refuse_other_kinds(name: str, files: list[str], kinds: "list[pa.DataType]") -> None:
    """Refuse a kept column that is of another kind in another file: one table has one kind."""
    for file, kind in zip(files, kinds, strict=True):
        if kind != kinds[0]:
            raise ValueError(
                f"Column {name!r} is {kind} in {file}, but {kinds[0]} in {files[0]}. Convert one of them, or score "
                "into a folder."
            )


def _flag_all(table: "pa.Table", args: argparse.Namespace) -> "pa.Table":
    """Replace p-values and flags by those of --tail and --alarms."""
    import numpy as np
    import pyarrow as pa

    from anomalyvae.alarms import AlarmTarget, flags
    from anomalyvae.bundle import read_calibration
    from anomalyvae.scoring import Scorer
    from anomalyvae.scoring.batch import windows_per_hour

    def replaced(name: str, cells: Any) -> "pa.Table":
        return table.set_column(table.column_names.index(name), name, pa.array(cells))

    metadata = Scorer(args.model, providers=["CPUExecutionProvider"]).metadata
    evidence = float(metadata["calibration"]["evidence"])
    p, smallest = table["p_value"].to_numpy(), 1 / (1 + evidence)
    if args.tail != "conformal":
        calibration = read_calibration(args.model, metadata["model_id"])
        p = calibration.p_values(table["anomaly_score"].to_numpy(), args.tail)
        smallest = float(calibration.p_values(np.inf, args.tail))
        table = replaced("p_value", p)
    if args.alarms is None:
        return table
    target, per_hour = AlarmTarget.of(args.alarms), windows_per_hour(metadata)
    return replaced("is_outlier", flags(p, target, evidence, smallest, per_hour, tail=args.tail))


# --- watch ----------------------------------------------------------------------------------------------


def watch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="FILE",
        help="a growing CSV file, or - for lines on stdin; for a model of a vehicle bus without a database a candump, "
        "ASC or TRC log, or what candump prints",
    )  # fmt: skip
    option(parser, "--model")
    option(parser, "--alarms")
    option(parser, "--tail")
    parser.add_argument(
        "--late", action="store_true",
        help="wait for late rows (one second, or three usual steps), as score does; otherwise they are ignored",
    )  # fmt: skip
    parser.add_argument(
        "--newest-first", action="store_true",
        help="of a long file, score the newest window first, and earlier ones when there is time; otherwise windows "
        "are printed in the order of time",
    )  # fmt: skip
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="stop after so long without a new row")
    parser.add_argument("--json", action="store_true", help="print a line of JSON per window instead of CSV")
    parser.add_argument(
        "--drift", metavar="FILE",
        help="keep in this file what is known of drift, so that a restart goes on from it; otherwise drift is watched "
        "from now on",
    )  # fmt: skip
    parser.add_argument(
        "--resume", metavar="FILE",
        help="keep in this file which windows were printed, so that a restart goes on after them; otherwise it prints "
        "all windows again",
    )  # fmt: skip
    reading_arguments(parser, buses=False)
    option(parser, "--quiet")


def watch(args: argparse.Namespace) -> int:
    from anomalyvae.scoring import Watcher

    with local_model(args.model) as model:
        watcher = Watcher(
            model, alarms=args.alarms, tail=args.tail, late=args.late, timeout_s=args.timeout,
            newest_first=args.newest_first, drift=args.drift,
            resume=args.resume, notify=(lambda text: None) if args.quiet else tell, **table_options(args),
        )  # fmt: skip
        if watcher.caution is not None and not args.quiet:
            tell(watcher.caution)
        with suppress(KeyboardInterrupt):  # a normal end
            scores = watcher.pipe(sys.stdin.fileno()) if args.source == "-" else watcher.file(args.source)
            if args.json:
                for score in scores:
                    say(json.dumps(score._asdict(), default=datetime.isoformat), flush=True)
            else:
                _print_csv(scores, header=not watcher.goes_on)
    if not args.quiet:
        waiting = f", {watcher.waiting:,} not scored yet" if watcher.waiting else ""
        left_out = f", {watcher.left_out:,} rows ignored" if watcher.left_out else ""
        silent = ", stopped by --timeout" if watcher.timed_out else ""
        tell(f"{watcher.windows:,} windows scored, {watcher.flagged:,} flagged{waiting}{left_out}{silent}")
        if watcher.drift is not None and watcher.drift.said:
            tell(watcher.drift.said)
    if watcher.without:
        tell(f"failed: {watcher.without}")
    return SILENT if watcher.timed_out else SOME_FAILED if watcher.without else DONE


def _print_csv(scores: "Iterator[WindowScore]", header: bool) -> None:
    lines = csv.writer(sys.stdout, lineterminator="\n")
    for score in scores:
        if header:
            lines.writerow([*score._fields])
            header = False
        signals = [f"{name} {share:.0%}" for name, share in list(score.signals.items())[:_SIGNALS]]
        cells = (*score[:-1], "; ".join(signals))
        lines.writerow([spreadsheet_text(printable(cell) if isinstance(cell, str) else cell) for cell in cells])
        sys.stdout.flush()


# --- health ---------------------------------------------------------------------------------------------


def health_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="+", metavar="SOURCE", help=SOURCE)
    option(parser, "--model", help="folder of a model of recordings")
    parser.add_argument("--out", metavar="TABLE", help="also write the result to this .parquet or .csv file")
    parser.add_argument(
        "--range", action="append", default=[], type=setting, metavar="SIGNAL=[LOW,HIGH]", dest="ranges",
        help="physical range of a signal, instead of the learned one; repeat for more",
    )  # fmt: skip
    parser.add_argument("--bad", action="store_true", help="show only what is bad, not what is suspect")
    reading_arguments(parser)
    option(parser, "--quiet")


def health(args: argparse.Namespace) -> int:
    import pandas as pd

    from anomalyvae.bundle import read_card
    from anomalyvae.evaluate.whole_recordings import with_moments
    from anomalyvae.health import Sensors
    from anomalyvae.health.grades import stretches
    from anomalyvae.scoring.inputs import find_inputs, of_one_name

    write = writer(args.out)
    ranges = dict(args.ranges)
    for name, limits in ranges.items():
        if not (isinstance(limits, list) and [type(limit) in (int, float) for limit in limits] == [True, True]):
            raise ValueError(f"--range {name}={limits} has no two limits. Write --range '{name}=[0,90]'.")
    root, files, _, unread = find_inputs(args.source, True, Path(args.out or os.devnull).resolve())
    failed = dict(sorted((unread | of_one_name(files)).items()))
    parts = []
    starts: dict[str, pd.Timestamp] = {}
    with local_model(args.model) as model:
        sensors, card = Sensors.of(model, ranges), read_card(model)
        for file in (file for file in files if file not in failed):
            try:
                windows = _windows_of(sensors, card, root, file, reading_options(args))
            except (OSError, ValueError) as error:
                failed[file] = message_of(error)
            else:
                parts.append(stretches(sensors.grade(windows)))
                starts |= windows.starts
    code = tell_failed(failed)
    if not parts:
        raise ValueError(f"None of the {len(failed)} files can be graded. See the reasons above.")
    table = with_moments(pd.concat(parts, ignore_index=True), starts)
    if args.bad:
        table = table[table["grade"] == "bad"].reset_index(drop=True)
    write(table)
    if not args.quiet:
        say(_health_text(table, len(parts)))
    return code


def _windows_of(sensors: "Sensors", card: dict[str, Any], root: Path, file: str, options: "ReadOptions") -> "Windows":
    """The windows of a recording, at least one, with signals in the units of training."""
    from anomalyvae.recordings import read_log
    from anomalyvae.scoring.inputs import recording_of, refuse_units

    log = read_log(root / file, signals=sensors.recipe.needed, recording=recording_of(file), **options)
    windows = sensors.windows(log)
    refuse_units(windows.units, card)
    if windows.without:
        raise ValueError(next(iter(windows.without.values())))
    return windows


def _health_text(table: "pd.DataFrame", recordings: int) -> str:
    """One line per stretch of a signal that is not good, by file and time; of many, the bad and the longest ones."""
    files = f"{recordings:,} recording" + ("" if recordings == 1 else "s")
    if not len(table):
        return f"{files}: every signal is good"
    bad = int((table["grade"] == "bad").sum())
    lines = [f"{files}: {bad:,} bad and {len(table) - bad:,} suspect stretches of a signal"]
    import pandas as pd

    order = table.assign(shorter=table["start_s"] - table["end_s"]).sort_values(["grade", "shorter"], kind="stable")
    for row in order.head(_LINES).sort_index().to_dict("records"):
        moment = "" if pd.isna(row["time"]) else f" ({row['time']:%Y-%m-%d %H:%M:%S} UTC)"
        when = f"{row['start_s']:.1f} to {row['end_s']:.1f} s{moment}"
        lines.append(f"{row['grade']:<8} {row['recording']}  {when:<20} {row['signal']}: {row['reason']}")
    if len(table) > _LINES:
        lines.append(f"and {len(table) - _LINES:,} more, less severe or shorter; --out writes all of them to a table")
    return "\n".join(map(printable, lines))
