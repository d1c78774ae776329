"""The verbs that make models and run jobs: fit, track, export, run, data."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalyvae.cli.console import (
    DONE,
    SOURCE,
    add_command,
    files_of,
    names,
    option,
    quiet_mlflow,
    read_tables,
    reading_arguments,
    reading_options,
    say,
    steps_shown,
    tell,
    tell_failed,
)

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from anomalyvae.evaluate.job import Health
    from anomalyvae.options import ReadOptions
    from anomalyvae.recordings import WindowRecipe
    from anomalyvae.tracking import TrackedRun


def fit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help=f"tables of rows (CSV or Parquet), or recordings: {SOURCE}"
    )
    parser.add_argument("--model", required=True, metavar="FOLDER", help="folder for the fitted model")
    option(parser, "--columns")
    parser.add_argument(
        "--groups", metavar="COLUMN",
        help="column of a table that says which recording, person or day each row is of; it is not learned",
    )  # fmt: skip
    option(parser, "--set")
    option(parser, "--quiet")
    windows = parser.add_argument_group(
        "options for recordings",
        "Each file is a recording, and is cut into windows, if any of these is given, or if there are\n  two files or "
        "more with a regular clock. What is not given is chosen from the files. Of logs of a\n  vehicle bus without "
        "--dbc, how often identifiers come and how their bytes change is learned.",
    )
    windows.add_argument(
        "--as", choices=("rows", "recordings"), dest="kind", help="what the files are; by default, they decide"
    )
    windows.add_argument("--recipe", metavar="JOB.toml", help="use [windows], [detector] and [health] of a job file")
    windows.add_argument("--signals", type=names, metavar="A,B", help="signals in a window")
    windows.add_argument("--rate-hz", type=float, metavar="HZ", help="samples per second")
    windows.add_argument("--length-s", type=float, metavar="S", help="length of a window")
    windows.add_argument("--stride-s", type=float, metavar="S", help="time from one window's start to the next one's")
    windows.add_argument("--max-gap-s", type=float, metavar="S", help="longest gap between samples to interpolate")
    windows.add_argument("--where", metavar="CONDITION", help="keep only windows in which this holds: 'speed_mps > 2'")
    windows.add_argument(
        "--coefficients", type=int, metavar="K", help="describe each signal of a window by K cosine coefficients"
    )
    reading_arguments(parser)
    tracking = parser.add_argument_group("options for MLflow", "With any of these, MLflow records the fit as a run.")
    tracking.add_argument("--track", action="store_true", help="record the fit with MLflow's own settings")
    _tracking_arguments(tracking)


def fit(args: argparse.Namespace) -> int:
    from anomalyvae.bundle.card import refuse_foreign

    refuse_foreign(Path(args.model))
    files = files_of(args.files, recordings=args.kind != "rows" and args.groups is None)
    recipe, detector, health = _settings(args, files)
    if not (args.track or args.experiment or args.run_name or args.register):
        return _fit_and_save(args, files, recipe, detector, health, None)
    quiet_mlflow()
    from anomalyvae.tracking import tracked_run

    with tracked_run(experiment=args.experiment, run_name=args.run_name, registered_model=args.register) as run:
        return _fit_and_save(args, files, recipe, detector, health, run)


def _settings(
    args: argparse.Namespace, files: list[str]
) -> "tuple[WindowRecipe | None, dict[str, Any], Health | None]":
    """The windows (None for rows of tables), the detector's arguments, and the settings of sensor health."""
    from dataclasses import fields

    from anomalyvae.evaluate import read_job
    from anomalyvae.evaluate.job import detector_arguments
    from anomalyvae.recordings import WindowRecipe

    options = [each.name for each in fields(WindowRecipe)]
    given = {name: value for name in options if (value := getattr(args, name, None)) is not None}
    for_recordings = given or args.recipe is not None
    if args.kind == "rows" and for_recordings:
        raise ValueError("Got --as rows with options for recordings. Leave out one of the two.")
    if args.groups is not None and (for_recordings or args.kind == "recordings"):
        raise ValueError(
            "Got --groups with options for recordings, each of which is a group. Leave out one of the two."
        )
    detector: dict[str, Any] = {}
    windows: dict[str, Any] = {}
    health = None
    if args.recipe is not None:
        job = read_job(args.recipe, skip=("simulation", "faults"))
        windows, detector, health = job.windows.to_dict(), dict(job.detector), job.health
    elif args.kind != "rows" and args.groups is None:
        windows = _chosen(args, files, given)
    # Without the key "antialias", a recipe counts as an old one.
    recipe = WindowRecipe.from_dict({"antialias": True} | windows | given) if windows else None
    return recipe, detector | detector_arguments(dict(args.settings), "--set"), health


def _chosen(args: argparse.Namespace, files: list[str], given: dict[str, Any]) -> dict[str, Any]:
    """The windows of recordings, as far as they are not given; nothing for tables of rows."""
    from anomalyvae.recordings import READERS, bus_recipe, choose_recipe
    from anomalyvae.recordings.choice import are_recordings
    from anomalyvae.recordings.reading import is_bus, is_table, kind_of

    options = reading_options(args)
    if all(is_bus(Path(file)) for file in files) and args.databases is None and args.signals is None:
        recipe = bus_recipe(files, **options)
        if not args.quiet:
            tell(f"no signals are named: watching {len(recipe.signals)} of the bus without a database")
        return recipe.to_dict()
    tables = all(is_table(Path(file)) for file in files)
    undecided = args.kind is None and not given
    unreadable = any(kind_of(Path(file)) not in READERS for file in files)  # refused where tables are read
    if undecided and unreadable:
        return {}
    if undecided and tables and (len(files) == 1 or not are_recordings(files, **options)):
        if not args.quiet and (len(files) > 1 or _has_clock(files, options)):
            tell("each row is learned by itself (--as recordings learns windows)")
        return {}
    if {"signals", "rate_hz", "length_s", "stride_s", "max_gap_s"} <= set(given):
        return given
    recipe, left_out = choose_recipe(
        files, given.get("signals"), given.get("rate_hz"), given.get("length_s"), **options
    )
    chosen = recipe.to_dict()
    if not args.quiet:
        same = " (--as rows learns each row by itself)" if tables and undecided else ""
        now = chosen | given
        every = f" (every {1 / now['rate_hz']:g} s)" if now["rate_hz"] < 1 else ""
        tell(
            f"each file is a recording{same}: {len(now['signals'])} signal(s) at {now['rate_hz']:g} Hz{every}, windows "
            f"of {now['length_s']:g} s, one every {now['stride_s']:g} s, no gap over {now['max_gap_s']:g} s"
        )
        if left_out:
            tell("left out: " + ", ".join(f"{name} ({reason})" for name, reason in left_out.items()))
    return chosen


def _has_clock(files: list[str], options: "ReadOptions") -> bool:
    from anomalyvae.recordings.choice import are_recordings

    try:
        return are_recordings(files, **options)
    except (ValueError, OSError):  # refused where the table is read, or where a recording would be
        return False


def _fit_and_save(
    args: argparse.Namespace,
    files: list[str],
    recipe: "WindowRecipe | None",
    detector: dict[str, Any],
    health: "Health | None",
    run: "TrackedRun | None",
) -> int:
    from anomalyvae.bundle import read_card
    from anomalyvae.detector import VAEOutlierDetector
    from anomalyvae.models import save
    from anomalyvae.train import TrainingSet, train

    unfitted = VAEOutlierDetector(**{"verbose": sys.stderr.isatty() and not args.quiet, **detector})
    if recipe is None:
        rows = read_tables(files, args.columns, reading_options(args), keep=[args.groups] if args.groups else [])
        model = unfitted.fit(rows, groups=None if args.groups is None else _popped(rows, args.groups))
        save(model, args.model)
    else:
        ranges, drift = (None, False) if health is None else (health.range, health.drift)
        data = TrainingSet.of_files(files, recipe, ranges=ranges, **reading_options(args))
        rows, model = data.rows, train(data, recipe, unfitted, args.model, drift=drift)
    if not args.quiet:
        what, identity = "rows" if recipe is None else "windows", read_card(args.model)["model_id"]
        categories = f" with the categories {', '.join(model.categories_)}" if model.categories_ else ""
        say(f"Learned {len(rows)} {what}{categories}: model {identity} in {args.model}")
        described = model.network_.described
        if recipe is not None and described is not None:
            held, coarse = (", ".join(recipe.signals[n] for n in numbers) for numbers in described.unjudged)
            if held:
                tell(f"states and constants, of which values never seen are found: {held}")
            if coarse:
                tell(f"signals of two to ten values with fractions, which are not judged: {coarse}")
    code = DONE if recipe is None else tell_failed(data.samples.without)
    if run is not None:
        source = os.path.commonpath([os.path.abspath(file) for file in args.files])
        if run.log(args.model, source=source) and not args.quiet:
            say(f"Tracked: {run.url}")
    return code


def _popped(table: "pd.DataFrame", name: str) -> "pd.Series[Any]":
    if name not in table:
        raise ValueError(f"Got --groups {name}, expected one of the columns {', '.join(map(str, table))}.")
    return table.pop(name)


def _tracking_arguments(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    option(parser, "--experiment")
    option(parser, "--run-name")
    parser.add_argument("--register", metavar="NAME", help="also register the model under this name")


def track_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="a fitted model, or the result of 'anomalyvae run'")
    parser.add_argument("--uri", metavar="URI", help="tracking server or store (default: MLFLOW_TRACKING_URI)")
    parser.add_argument("--source", metavar="WHERE", help="where the training data came from")
    _tracking_arguments(parser)


def track(args: argparse.Namespace) -> int:
    quiet_mlflow()
    from anomalyvae.tracking import track

    where = track(
        args.folder, experiment=args.experiment, run_name=args.run_name, uri=args.uri, registered_model=args.register,
        source=args.source,
    )  # fmt: skip
    say(f"Tracked: {where}")
    return DONE


def export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="folder of a fitted model")
    parser.add_argument("file", metavar="FILE.onnx", help="the file to write")
    parser.add_argument(
        "--inputs", choices=("auto", "matrix", "columns"), default="auto",
        help="one input with all columns (matrix), or one input per column (columns)",
    )  # fmt: skip
    parser.add_argument("--feature-scores", action="store_true", help="add an output with the score of each column")
    parser.add_argument(
        "--precision", choices=("auto", "double", "single"), default="auto", help="floating-point format of the network"
    )
    parser.add_argument(
        "--sample",
        metavar="TABLE",
        help="check the file on rows of this table, such as those of training; by default, rows are made up",
    )
    option(parser, "--quiet")
    reading_arguments(parser, time=False, buses=False)


def export(args: argparse.Namespace) -> int:
    from anomalyvae.models import export_onnx

    sample = None if args.sample is None else _rows_for(args.model, args.sample, reading_options(args))
    path = export_onnx(
        args.model, args.file, inputs=args.inputs, feature_scores=args.feature_scores, precision=args.precision,
        sample=sample,
    )  # fmt: skip
    if not args.quiet:
        from anomalyvae.scoring import Scorer

        metadata = Scorer(path, providers=["CPUExecutionProvider"]).metadata
        parity = metadata["parity"]
        say(f"Model {metadata['model_id']} in {metadata['precision']} precision: {path}")
        rows = f"{parity['rows']} rows" + (f" from {args.sample}" if sample is not None else "")
        say(f"Scores within {parity['score_difference']:.0e} of the model's, on {rows}")
    return DONE


def _rows_for(model: str, table: str, options: "ReadOptions") -> "pd.DataFrame | NDArray[Any]":
    """The columns of a table that a model takes, text where it has learned text; an array for a model without names."""
    from anomalyvae.options import TABLE_OPTIONS
    from anomalyvae.options import given as options_given
    from anomalyvae.scoring import Scorer
    from anomalyvae.tables.rows import read_rows

    metadata = Scorer(model, providers=["CPUExecutionProvider"]).metadata
    columns, how = metadata["columns"], options_given(options, [name for name in TABLE_OPTIONS if name != "time"])
    text = [name for name, kind in metadata["kinds"].items() if kind == "text"]
    rows = read_rows([Path(table)], columns, text=text, **how)
    return rows if columns is not None else rows.to_numpy()


def run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB.toml", help="the job file")
    parser.add_argument("--out", metavar="FOLDER", help="write the result here instead of the folder of [output]")
    parser.add_argument("--track", action="store_true", help="record the run with MLflow, as [tracking] says")
    option(parser, "--quiet")


def run(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from anomalyvae.evaluate import read_job, run_job
    from anomalyvae.evaluate.job import Output, Tracking

    began = time.monotonic()
    with steps_shown(args.quiet) as progress:
        job = read_job(args.job)
        if args.out is not None:
            job = replace(job, output=Output(args.out))
        if args.track and job.tracking is None:
            job = replace(job, tracking=Tracking())
        if job.tracking is not None:
            quiet_mlflow()
        result = run_job(job, progress)
    if not args.quiet:
        say(_summary(result))
        say(f"\nReport     {Path(job.output.folder) / 'report.html'}")
        say(f"Wall time  {time.monotonic() - began:.0f} s")
    return tell_failed(result["without"])


def _summary(result: dict[str, Any]) -> str:
    """Our detector and the baselines, best average precision first."""
    means = {"anomalyvae": result["mean"]} | {k: entry["mean"] for k, entry in result["baselines"].items()}
    rate = result["evaluation"]["alarms_per_hour"]
    width = max(map(len, means)) + 2
    lines = [
        f"Mean over {len(result['folds'])} recordings, each scored by a model that never saw it:\n",
        f"{'':<{width}}{'AUROC':>7}{'AP':>8}   event recall at {rate:g} false alarms/h",
    ]
    for name in sorted(means, key=lambda name: -(means[name]["average_precision"] or 0)):
        cells = [means[name][key] for key in ("auroc", "average_precision", "event_recall")]
        auroc, precision, recall = ("–" if cell is None else f"{cell:.3f}" for cell in cells)
        lines.append(f"{name:<{width}}{auroc:>7}{precision:>8}{recall:>8}")
    return "\n".join(lines)


def data_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    known = add_command(actions, "list", "list the data sets and their folders", "anomalyvae data list")
    get = add_command(
        actions, "get", "download and prepare a data set, and print its folder", "anomalyvae data get potholes"
    )
    get.add_argument("name", metavar="NAME", help="a data set that 'anomalyvae data list' names")
    for action in (known, get):
        option(action, "--debug", default=argparse.SUPPRESS)


def data(args: argparse.Namespace) -> int:
    from anomalyvae.datasets import get_dataset, list_datasets

    if args.action == "get":
        say(get_dataset(args.name))
        return DONE
    for dataset in list_datasets():
        size = f"{dataset.size_mb:g} MB to download" if dataset.size_mb else "nothing to download"
        state = f"prepared in {dataset.folder}" if dataset.prepared else f"not prepared; {size}"
        say(f"{dataset.name}\n  {dataset.what}\n  licence: {dataset.licence}\n  {state}\n")
    return DONE
