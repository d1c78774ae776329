"""The verb score."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalyvae.cli.console import DATABASES, DONE, QUIET, SOME_FAILED, bundle_at, files_shown, setting, tell
from anomalyvae.cli.tables import WRITERS, writer

if TYPE_CHECKING:
    import pandas as pd


def score_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", nargs="+", metavar="SOURCE", help="a folder, files, or a quoted pattern: 'drives/2026-*/*.parquet'"
    )
    parser.add_argument(
        "target", metavar="TARGET",
        help="a folder, which gets a Parquet file of scores per input (run again to go on, or to add what is new); or, "
        "for one table of all, a name that ends in .parquet or .csv",
    )  # fmt: skip
    parser.add_argument(
        "--model", required=True, metavar="BUNDLE",
        help="folder of a fitted model, or its ONNX file, or MLflow's: models:/NAME@champion",
    )  # fmt: skip
    parser.add_argument(
        "--alarms", type=setting, metavar="PROMISE",
        help="flag under a promise on false alarms in place of the model's threshold: alpha=0.01 (share of normal "
        "rows), per_hour=6 (with windows), fdr=0.1 (share of the flagged; for one table)",
    )  # fmt: skip
    parser.add_argument(
        "--tail", choices=("conformal", "pareto"), default="conformal",
        help="pareto extrapolates p-values below what the calibration rows can show",
    )  # fmt: skip
    parser.add_argument(
        "--per-tick", choices=("offline", "causal"),
        help="of recordings, a score per tick of the clock in place of one per window: the mean over the windows that "
        "cover it (offline), or that of the window that ends there and knows only the past (causal)",
    )  # fmt: skip
    parser.add_argument("--dbc", nargs="+", default=[], metavar="FILE", help=DATABASES)
    parser.add_argument("--quiet", action="store_true", help=QUIET)
    many = parser.add_argument_group("a folder of scores")
    many.add_argument("--engine", choices=("local", "dask"), default="local", help="threads here, or a Dask cluster")
    many.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster that is there already: tcp://host:8786")
    many.add_argument("--workers", type=int, metavar="N", help="threads, or Dask's processes (default: one per core)")
    many.add_argument("--feature-scores", action="store_true", help="for flagged rows, say which column or signal")
    many.add_argument("--strict", action="store_true", help="stop at the first file that fails")
    many.add_argument("--overwrite", action="store_true", help="delete the scores of another model in TARGET")


def score(args: argparse.Namespace) -> int:
    with bundle_at(args.model) as args.model:
        return _score_table(args) if Path(args.target).suffix in WRITERS else _score_files(args)


def _score_files(args: argparse.Namespace) -> int:
    from anomalyvae.scoring.batch import score_folder

    with files_shown(args.quiet) as progress:
        summary = score_folder(
            args.model, args.source, args.target, engine=args.engine, scheduler=args.scheduler, workers=args.workers,
            alarms=None if args.alarms is None else dict([args.alarms]), tail=args.tail, strict=args.strict,
            feature_scores=args.feature_scores, overwrite=args.overwrite, databases=args.dbc,
            per_tick=args.per_tick, progress=progress,
        )  # fmt: skip
    for file in summary["files"]:
        if file["error"] is not None:
            tell(f"failed: {file['file']}: {file['error']}")
    if not args.quiet:
        kept = f", {summary['kept']:,} kept from before" if summary["kept"] else ""
        failed = f", {summary['failed']:,} failed" if summary["failed"] else ""
        files = "file" if summary["scored"] == 1 else "files"
        print(
            f"{summary['scored']:,} {files} scored{kept}{failed}, at {summary['rows_per_s']:,} rows/s\n"
            f"{summary['rows']:,} rows, {summary['flagged']:,} flagged by model {summary['model_id']}: {args.target}"
        )
    return SOME_FAILED if summary["failed"] else DONE


def _score_table(args: argparse.Namespace) -> int:
    """Score files into one table, on which promises about the whole batch can be kept."""
    import tempfile

    import pandas as pd

    from anomalyvae.scoring.batch import score_folder

    write = writer(args.target)
    # Before windows are folded, each has its p-value and flag; of rows and windows, the promise is kept on all of them.
    folded: dict[str, Any] = {"per_tick": args.per_tick, "tail": args.tail} if args.per_tick else {}
    if args.per_tick and args.alarms is not None:
        folded["alarms"] = dict([args.alarms])
    with tempfile.TemporaryDirectory() as scratch, files_shown(args.quiet) as progress:
        summary = score_folder(
            args.model, args.source, scratch, workers=args.workers, strict=True, databases=args.dbc, progress=progress,
            **folded,
        )  # fmt: skip
        tables = [pd.read_parquet(Path(scratch, file["scores"])) for file in summary["files"]]
    if len(tables) > 1 and "row" in tables[0]:
        for file, table in zip(summary["files"], tables, strict=True):
            table.insert(0, "file", file["file"])
    table = pd.concat(tables, ignore_index=True)
    if not args.per_tick and (args.alarms is not None or args.tail != "conformal"):
        _flag_all(table, args)
    write(table)
    if not args.quiet:
        what = "rows" if "row" in table else "ticks" if args.per_tick else "windows"
        print(f"Scored {len(table):,} {what}, {table['is_outlier'].sum():,} flagged: {args.target}")
    return DONE


def _flag_all(table: "pd.DataFrame", args: argparse.Namespace) -> None:
    """Replace p-values and flags by those that were asked for."""
    from anomalyvae.bundle.arrays import read_calibration
    from anomalyvae.bundle.card import read_card
    from anomalyvae.calibration import AlarmTarget

    calibration, windowing = read_calibration(args.model), read_card(args.model)["windowing"]
    score = table["anomaly_score"].to_numpy()
    table["p_value"] = calibration.p_values(score, args.tail)
    if args.alarms is None:
        return
    target = AlarmTarget.of(dict([args.alarms]))
    wanted: dict[str, Any] = {target.kind: target.value}
    if target.kind == "per_hour":
        wanted["rows_per_hour"] = rows_per_hour = None if windowing is None else 3600 / windowing["stride_s"]
        target.rate(rows_per_hour)  # refuses plain rows
    table["is_outlier"] = calibration.alarms(score, tail=args.tail, **wanted)
