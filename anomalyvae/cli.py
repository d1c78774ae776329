"""The command line: a table of verbs, each a few lines over the package's functions.

Nothing heavy is imported before a verb needs it, so that ``--help`` answers at once. What a verb makes goes
to files, what it found to stdout, what it is doing and what went wrong to stderr.
"""

import argparse
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from anomalyvae import __version__

if TYPE_CHECKING:
    import pandas as pd

    from anomalyvae.deploy.batch import Progress as BatchProgress
    from anomalyvae.deploy.tracking import TrackedRun
    from anomalyvae.logs import WindowRecipe

DONE, FAILED, SOME_FAILED, REFUSED, INTERRUPTED = 0, 1, 3, 4, 130  # argparse itself exits with 2
_EXPECTED = (ValueError, OSError, ImportError, ArithmeticError, MemoryError)  # anything else is a bug of ours


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    args = _parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: _tell(f"warning: {_one_line(str(message))}")
        try:
            code = args.run(args)
            sys.stdout.flush()
        except KeyboardInterrupt:
            _tell("interrupted")
            return INTERRUPTED
        except BrokenPipeError:  # whoever read our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return DONE
        except Exception as error:
            if args.debug:
                traceback.print_exc()
            else:
                _tell(f"error: {_said_by(error)}")
            return FAILED
    return code


# --- run ------------------------------------------------------------------------------------------------


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB.toml", help="the job file")
    parser.add_argument("--out", metavar="FOLDER", help="write here, whatever the job's [output] says")
    parser.add_argument("--track", action="store_true", help="record the run with MLflow; see [tracking] in job files")
    parser.add_argument("--quiet", action="store_true", help=_QUIET)


def _run(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from anomalyvae.jobs import Output, Tracking, read_job

    began = time.monotonic()
    with _progress(args.quiet) as progress:
        job = read_job(args.job)
        if args.out is not None:
            job = replace(job, output=Output(args.out))
        if args.track and job.tracking is None:
            job = replace(job, tracking=Tracking())
        if job.tracking is not None:
            _hush_mlflow()
        from anomalyvae.runs import run_job

        result = run_job(job, progress)
    if not args.quiet:
        print(_summary(result))
        print(f"\nReport     {Path(job.output.folder) / 'report.html'}")
        print(f"Wall time  {time.monotonic() - began:.0f} s")
    return DONE


def _summary(result: dict[str, Any]) -> str:
    """Lay out ours and the baselines, best average precision first."""
    means = {"anomalyvae": result["mean"]} | {k: entry["mean"] for k, entry in result["baselines"].items()}
    rate = result["evaluation"]["alarms_per_hour"]
    lines = [
        f"Mean over {len(result['folds'])} recordings, each scored by a model that never saw it:\n",
        f"{'':<14}{'AUROC':>7}{'AP':>8}   event recall at {rate:g} false alarms/h",
    ]
    for name in sorted(means, key=lambda name: -(means[name]["average_precision"] or 0)):
        cells = [means[name][key] for key in ("auroc", "average_precision", "event_recall")]
        auroc, precision, recall = ("–" if cell is None else f"{cell:.3f}" for cell in cells)
        lines.append(f"{name:<14}{auroc:>7}{precision:>8}{recall:>8}")
    return "\n".join(lines)


# --- fit and score --------------------------------------------------------------------------------------


def _fit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="CSV or Parquet: tables of rows, or recordings")
    parser.add_argument("--model", required=True, metavar="OUT", help="folder for the fitted model")
    parser.add_argument("--columns", type=_names, metavar="A,B", help="columns of a table (default: all)")
    parser.add_argument(
        "--set", action="append", default=[], type=_setting, metavar="NAME=VALUE", dest="settings",
        help="an argument of the detector, such as beta=0.5; may be repeated",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help=_QUIET)
    windows = parser.add_argument_group(
        "windows",
        "Given any of these, files are recordings and are cut into windows; otherwise, rows are rows.",
    )
    windows.add_argument("--recipe", metavar="JOB.toml", help="take [windows] and [detector] from a job file")
    windows.add_argument("--signals", type=_names, metavar="A,B", help="signals of a window")
    windows.add_argument("--rate-hz", type=float, metavar="HZ", help="samples per second")
    windows.add_argument("--length-s", type=float, metavar="S", help="length of a window")
    windows.add_argument("--stride-s", type=float, metavar="S", help="from one window's start to the next's")
    windows.add_argument("--max-gap-s", type=float, metavar="S", help="longest gap that is interpolated")
    windows.add_argument("--where", metavar="CONDITION", help="keep windows where this holds: 'speed_mps > 2'")
    tracking = parser.add_argument_group("MLflow", "Given any of these, the fit is recorded as a run.")
    tracking.add_argument("--track", action="store_true", help="as MLflow's own settings say")
    _tracking_arguments(tracking)


def _fit(args: argparse.Namespace) -> int:
    from anomalyvae.jobs import detector_arguments, read_job

    options = ("signals", "rate_hz", "length_s", "stride_s", "max_gap_s", "where")
    given = {name: value for name in options if (value := getattr(args, name)) is not None}
    detector: dict[str, Any] = {}
    recipe = None
    if args.recipe is not None or given:
        from anomalyvae.logs import WindowRecipe

        if args.recipe is not None:
            job = read_job(args.recipe)
            given, detector = job.windows.to_dict() | given, dict(job.detector)
        recipe = WindowRecipe.from_dict(given)
    detector |= detector_arguments(dict(args.settings), "--set")
    with _tracking(args) as run:
        return _fit_and_save(args, recipe, detector, run)


def _fit_and_save(
    args: argparse.Namespace, recipe: "WindowRecipe | None", detector: dict[str, Any], run: "TrackedRun | None"
) -> int:
    from anomalyvae.deploy import bundle
    from anomalyvae.deploy.card import read_card

    with _processes() as first:
        rows, where, units = _rows(args.files, recipe, args.columns)

        from anomalyvae.detector import VAEOutlierDetector

        verbose = sys.stderr.isatty() and not args.quiet
        model = VAEOutlierDetector(**{"verbose": verbose, **detector}).fit(rows, groups=where.get("recording"))
    if not first:
        return DONE
    if recipe is None:
        bundle.save(model, args.model)
    else:  # with the intervals of recordings that it learned, so that `retrain` can go on from them
        from anomalyvae.review.manifest import begin_manifest, save_traced

        manifest = begin_manifest(args.files, where)
        save_traced(model, args.model, manifest, recipe=recipe.to_dict(), units=units)
    if not args.quiet:
        what, identity = "rows" if recipe is None else "windows", read_card(args.model)["model_id"]
        categories = f" with the categories {', '.join(model.categories_)}" if model.categories_ else ""
        print(f"Learned {len(rows)} {what}{categories}: model {identity} in {args.model}")
    if run is not None:
        source = os.path.commonpath([os.path.abspath(file) for file in args.files])
        if run.log(args.model, source=source) and not args.quiet:
            print(f"Tracked: {run.url}")
    return DONE


def _tracking_arguments(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    parser.add_argument("--experiment", metavar="NAME", help="of MLflow (default: as MLFLOW_EXPERIMENT_NAME says)")
    parser.add_argument("--run-name", metavar="NAME", help="of the run")
    parser.add_argument("--register", metavar="NAME", help="also register the model under this name")


@contextmanager
def _tracking(args: argparse.Namespace) -> "Iterator[TrackedRun | None]":
    """Open a run of MLflow, if that was asked for."""
    asked = args.track or args.experiment or args.run_name or args.register
    if not asked or ("TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK") != "0"):
        yield None
        return
    _hush_mlflow()
    from anomalyvae.deploy.tracking import tracked_run

    with tracked_run(experiment=args.experiment, run_name=args.run_name, registered_model=args.register) as run:
        yield run


def _hush_mlflow() -> None:
    """Let MLflow tell of what goes wrong only; what it tells would go to stdout, too."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


def _track_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="of a fitted model, or what 'anomalyvae run' wrote")
    parser.add_argument("--uri", metavar="URI", help="tracking server or store (default: as MLFLOW_TRACKING_URI says)")
    parser.add_argument("--source", metavar="WHERE", help="where the rows came from")
    _tracking_arguments(parser)


def _track(args: argparse.Namespace) -> int:
    _hush_mlflow()
    from anomalyvae.deploy.tracking import track

    where = track(
        args.folder, experiment=args.experiment, run_name=args.run_name, uri=args.uri, registered_model=args.register,
        source=args.source,
    )  # fmt: skip
    print(f"Tracked: {where}")
    return DONE


@contextmanager
def _processes() -> Iterator[bool]:
    """Join the processes that torchrun started, if it did; yields whether this one speaks for them."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield True
        return
    import torch
    from torch import distributed

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group()  # NCCL between CUDA devices, gloo between CPUs
    if distributed.get_rank():
        warnings.simplefilter("ignore")
    try:
        yield distributed.get_rank() == 0
    finally:
        distributed.destroy_process_group()


def _score_arguments(parser: argparse.ArgumentParser) -> None:
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
        "--alarms", type=_setting, metavar="PROMISE",
        help="flag under a promise on false alarms in place of the model's threshold: alpha=0.01 (share of normal "
        "rows), per_hour=6 (with windows), fdr=0.1 (share of the flagged; for one table)",
    )  # fmt: skip
    parser.add_argument(
        "--tail", choices=("conformal", "pareto"), default="conformal",
        help="pareto extrapolates p-values below what the calibration rows can show",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help=_QUIET)
    many = parser.add_argument_group("a folder of scores")
    many.add_argument("--engine", choices=("local", "dask"), default="local", help="threads here, or a Dask cluster")
    many.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster that is there already: tcp://host:8786")
    many.add_argument("--workers", type=int, metavar="N", help="threads, or Dask's processes (default: one per core)")
    many.add_argument("--feature-scores", action="store_true", help="for flagged rows, say which column or signal")
    many.add_argument("--strict", action="store_true", help="stop at the first file that fails")
    many.add_argument("--overwrite", action="store_true", help="delete the scores of another model in TARGET")


def _score(args: argparse.Namespace) -> int:
    _hush_mlflow()
    from anomalyvae.deploy.tracking.registry import fetched

    with fetched(args.model) as args.model:
        return _score_table(args) if Path(args.target).suffix in _WRITERS else _score_files(args)


def _score_files(args: argparse.Namespace) -> int:
    from anomalyvae.deploy.batch import score_folder

    with _batch_progress(args.quiet) as progress:
        summary = score_folder(
            args.model, args.source, args.target, engine=args.engine, scheduler=args.scheduler, workers=args.workers,
            alarms=None if args.alarms is None else dict([args.alarms]), tail=args.tail, strict=args.strict,
            feature_scores=args.feature_scores, overwrite=args.overwrite, progress=progress,
        )  # fmt: skip
    for file in summary["files"]:
        if file["error"] is not None:
            _tell(f"failed: {file['file']}: {file['error']}")
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

    from anomalyvae.deploy.batch import score_folder

    write = _writer(args.target)
    with tempfile.TemporaryDirectory() as scratch, _batch_progress(args.quiet) as progress:
        summary = score_folder(args.model, args.source, scratch, workers=args.workers, strict=True, progress=progress)
        tables = [pd.read_parquet(Path(scratch, file["scores"])) for file in summary["files"]]
    if len(tables) > 1 and "row" in tables[0]:
        for file, table in zip(summary["files"], tables, strict=True):
            table.insert(0, "file", file["file"])
    table = pd.concat(tables, ignore_index=True)
    if args.alarms is not None or args.tail != "conformal":
        _keep_promise(table, args)
    write(table)
    if not args.quiet:
        what = "rows" if "row" in table else "windows"
        print(f"Scored {len(table):,} {what}, {table['is_outlier'].sum():,} flagged: {args.target}")
    return DONE


def _keep_promise(table: "pd.DataFrame", args: argparse.Namespace) -> None:
    """Replace p-values and flags by those that were asked for."""
    from anomalyvae.deploy.bundle import read_calibration
    from anomalyvae.deploy.card import read_card

    calibration, windowing = read_calibration(args.model), read_card(args.model)["windowing"]
    score = table["anomaly_score"].to_numpy()
    table["p_value"] = calibration.p_values(score, args.tail)
    if args.alarms is None:
        return
    name, rate = args.alarms
    if name not in ("alpha", "fdr", "per_hour") or not isinstance(rate, int | float):
        raise ValueError(f"Got --alarms {name}={rate}, expected alpha=, fdr= or per_hour= and a number. Correct it.")
    promise: dict[str, Any] = {name: rate}
    if name == "per_hour":
        if windowing is None:
            raise ValueError("Got --alarms per_hour= with a model of plain rows, expected one of windows. Use alpha=.")
        promise["rows_per_hour"] = 3600 / windowing["stride_s"]
    table["is_outlier"] = calibration.alarms(score, tail=args.tail, **promise)


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="BUNDLE", help="folder of a fitted model")
    parser.add_argument("file", metavar="FILE.onnx", help="the file to write")
    parser.add_argument("--inputs", choices=("auto", "matrix", "columns"), default="auto", help="one input, or many")
    parser.add_argument("--feature-scores", action="store_true", help="give the share of each column, too")
    parser.add_argument("--precision", choices=("auto", "double", "single"), default="auto", help="of the network")
    parser.add_argument("--quiet", action="store_true", help=_QUIET)


def _export(args: argparse.Namespace) -> int:
    from anomalyvae.deploy.export import export_onnx

    path = export_onnx(
        args.model, args.file, inputs=args.inputs, feature_scores=args.feature_scores, precision=args.precision
    )
    if not args.quiet:
        from anomalyvae.deploy.scorer import Scorer

        metadata = Scorer(path, providers=["CPUExecutionProvider"]).metadata
        parity = metadata["parity"]
        print(f"Model {metadata['model_id']} in {metadata['precision']} precision: {path}")
        print(f"Scores within {parity['score_difference']:.0e} of the model's, on {parity['rows']} rows")
    return DONE


def _rows(
    files: Sequence[str], recipe: "WindowRecipe | None", columns: Sequence[str] | None
) -> "tuple[pd.DataFrame, pd.DataFrame, dict[str, str]]":
    """Read files into rows for a model; say of each row where it came from, and of signals in which unit they are."""
    import pandas as pd

    if recipe is not None:
        windows = recipe.windows_of(files)
        return windows.rows, windows.spans, windows.units
    tables = {}
    for file in files:
        tables[file] = _table(Path(file), columns)
        columns = columns or list(tables[file].columns)  # the first file says what the others must have
    rows = pd.concat(list(tables.values()), ignore_index=True)
    where = [pd.DataFrame({"file": file, "row": range(len(table))}) for file, table in tables.items()]
    return rows, where[0][["row"]] if len(where) == 1 else pd.concat(where, ignore_index=True), {}


def _table(path: Path, columns: Sequence[str] | None) -> "pd.DataFrame":
    """Read a table."""
    import pandas as pd

    from anomalyvae.logs.log import nearest

    readers: dict[str, Callable[..., Any]] = {".parquet": pd.read_parquet, ".csv": pd.read_csv}
    if path.suffix.lower() not in readers:
        raise ValueError(f"Got {path}, expected a table: {' or '.join(readers)}. Convert it.")
    try:
        table = readers[path.suffix.lower()](path)
    except ValueError as error:  # pandas' and pyarrow's own messages name no file
        raise ValueError(f"Got {path}, which cannot be read as a table: {error}") from error
    if columns is not None:
        missing = [name for name in columns if name not in table.columns]
        if missing:
            hint = nearest(missing[0], map(str, table.columns))
            raise ValueError(f"Got {path} without {', '.join(missing)}, expected these columns. {hint}")
        table = table[list(columns)]
    return table


_WRITERS: "dict[str, Callable[[pd.DataFrame, Path], None]]" = {
    ".parquet": lambda table, path: table.to_parquet(path, index=False),
    ".csv": lambda table, path: table.to_csv(path, index=False),
}


def _writer(out: str) -> "Callable[[pd.DataFrame], None]":
    """Check the name now, so that nothing is computed in vain; what comes back writes a table whole or not at all."""
    path = Path(out)
    if path.suffix not in _WRITERS:
        raise ValueError(f"Got {path}, expected a name that ends in .parquet or .csv. Rename it.")

    def write(table: "pd.DataFrame") -> None:
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            _WRITERS[path.suffix](table, fresh)
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)

    return write


# --- compare --------------------------------------------------------------------------------------------


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="CSV or Parquet: a table of rows")
    parser.add_argument(
        "--label", metavar="COLUMN",
        help="column that is 1 (or true) for outliers, 0 for normal rows; without it, only agreement with ours and "
        "speed can be told",
    )  # fmt: skip
    parser.add_argument("--positive", metavar="VALUE", help="the label's value for outliers, where it is not 0 and 1")
    parser.add_argument(
        "--against", type=_names, metavar="A,B", default=("knn", "iforest", "lunar"),
        help="some of knn, lof, lunar, iforest, ecod, pca, gmm, ocsvm, autoencoder, vae (default: knn,iforest,lunar)",
    )  # fmt: skip
    parser.add_argument("--columns", type=_names, metavar="A,B", help="columns to look at (default: all but the label)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="repetitions; figures are means (default: 3)")
    parser.add_argument(
        "--set", action="append", default=[], type=_setting, metavar="NAME=VALUE", dest="settings",
        help="an argument of our detector, such as beta=0.5; may be repeated",
    )  # fmt: skip
    parser.add_argument("--out", metavar="TABLE", help="write the figures here too: .csv or .parquet")
    parser.add_argument("--quiet", action="store_true", help=_QUIET)


def _compare(args: argparse.Namespace) -> int:
    from anomalyvae.jobs import detector_arguments

    write = None if args.out is None else _writer(args.out)
    settings = detector_arguments(dict(args.settings), "--set")
    columns = args.columns and list(dict.fromkeys([*args.columns, *([args.label] if args.label else [])]))
    rows = _table(Path(args.file), columns)
    with _progress(args.quiet) as progress:
        from anomalyvae.detector import VAEOutlierDetector
        from anomalyvae.peers import compare

        found = compare(
            rows, args.label, args.against, positive=args.positive, detector=VAEOutlierDetector(**settings),
            seeds=args.seeds, progress=progress,
        )  # fmt: skip
    if write is not None:
        write(found.reset_index())
    if not args.quiet:
        print(_figures(found))
        print(f"\n{found.attrs['protocol']}")
    return DONE


def _figures(found: "pd.DataFrame") -> str:
    """Lay out a comparison, a detector per line; one that failed says why."""
    heads = {
        "auroc": "AUROC", "average_precision": "AP", "rank_correlation": "rank correlation",
        "top_shared": "top 5 % shared", "fit_s": "fit s", "score_s": "score s",
    }  # fmt: skip
    shown = {name: f"{head:>{max(8, len(head) + 2)}}" for name, head in heads.items() if name in found}
    lines = [f"{'':<14}{''.join(shown.values())}"]
    for name, figures in found.iterrows():
        cells = [f"{figures[key]:>{len(head)}.3f}" for key, head in shown.items()]
        lines.append(f"{name:<14}{'  ' + figures['failure'] if figures['failure'] else ''.join(cells)}")
    return "\n".join(lines)


# --- flag -----------------------------------------------------------------------------------------------


def _flag_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scores", nargs="?", metavar="SCORES", help="folder that 'anomalyvae score' wrote")
    parser.add_argument("--queue", required=True, metavar="QUEUE", help="file, or URL of a database, for the events")
    parser.add_argument("--model", metavar="BUNDLE", help="folder of the model that gave the scores")
    parser.add_argument("--source", metavar="FOLDER", help="of the recordings, where it is another than was scored")
    parser.add_argument("--budget", type=int, default=50, metavar="N", help="events to pick at most (default: 50)")
    parser.add_argument("--per-recording", type=int, default=5, metavar="N", help="and of a recording (default: 5)")
    parser.add_argument(
        "--alarms", type=_setting, metavar="PROMISE",
        help="pick from what keeps a promise on false alarms, not from the flags in SCORES: fdr=0.1 (share of the "
        "flagged windows), per_hour=6, alpha=0.01 (share of normal windows)",
    )  # fmt: skip
    parser.add_argument("--load", metavar="FILE", help="first, add the events and verdicts that a queue has exported")
    parser.add_argument(
        "--export", metavar="FILE",
        help="last, write the whole queue: .parquet or .csv, or .json for Label Studio (needs --model)",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help=_QUIET)


def _flag(args: argparse.Namespace) -> int:
    from anomalyvae.review.flagging import export, flag_folder, in_words
    from anomalyvae.review.queue import Queue

    if args.scores is None and args.load is None and args.export is None:
        raise ValueError("Got nothing to do, expected SCORES, --load or --export. Pass one.")
    if args.model is None and (args.scores is not None or str(args.export).endswith(".json")):
        raise ValueError("Got no --model, expected the folder of the model that gave the scores. Pass it.")
    with Queue(args.queue, create=args.scores is not None or args.load is not None) as queue:
        if args.load is not None:
            queue.load(args.load)
        if args.scores is not None:
            flagged = flag_folder(
                args.scores, args.model, queue, args.budget, per_recording=args.per_recording, source=args.source,
                alarms=None if args.alarms is None else dict([args.alarms]),
            )  # fmt: skip
            if not args.quiet:
                print(in_words(flagged))
        if args.export is not None:
            export(queue, args.export, args.model, args.source)
    return DONE


# --- review ---------------------------------------------------------------------------------------------


def _review_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--queue", required=True, metavar="QUEUE", help="file, or URL of a database, with the events")
    parser.add_argument("--model", required=True, metavar="BUNDLE", help="folder of the model that flagged them")
    parser.add_argument("--source", metavar="FOLDER", help="of the recordings (default: as the events name it)")
    parser.add_argument("--scores", metavar="FOLDER", help="of the scores, to show them over each recording")
    parser.add_argument("--host", default="127.0.0.1", help="listen here; other machines need the token it prints")
    parser.add_argument("--port", type=int, default=8765, help="0 takes a free one (default: 8765)")
    parser.add_argument("--reviewer", metavar="NAME", help="name to propose on this machine (default: $USER)")


def _review(args: argparse.Namespace) -> int:
    from anomalyvae.review.server import serve

    serve(
        args.queue, args.model, source=args.source, scores=args.scores, host=args.host, port=args.port,
        reviewer=args.reviewer or os.environ.get("USER", ""),
        ready=lambda address: print(f"Review at {address}\nCtrl+C closes it.", flush=True),
    )  # fmt: skip
    return DONE


# --- retrain and promote --------------------------------------------------------------------------------


def _retrain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--queue", required=True, metavar="QUEUE", help="reviewed events: a file, or a database's URL")
    parser.add_argument("--champion", required=True, metavar="BUNDLE", help="the model to go on from; it stays")
    parser.add_argument("--out", required=True, metavar="BUNDLE", help="folder for the challenger")
    parser.add_argument(
        "--learned", nargs="+", metavar="FILE", help="what the champion learned, where it does not say so itself"
    )
    parser.add_argument("--source", metavar="FOLDER", help="where the recordings lie now, if not where they did")
    parser.add_argument("--warm-start", action="store_true", help="go on from the champion's weights, to save time")
    parser.add_argument("--quiet", action="store_true", help=_QUIET)


def _retrain(args: argparse.Namespace) -> int:
    from anomalyvae.review.queue import Queue
    from anomalyvae.review.retraining import retrain

    with Queue(args.queue, create=False) as queue:
        events = queue.events()
    made = retrain(
        events, args.champion, args.out, learned=args.learned, source=args.source, warm_start=args.warm_start
    )
    if not args.quiet:
        print("Verdicts: " + (", ".join(f"{count} {verdict}" for verdict, count in made.verdicts.items()) or "none"))
        against = f", against {made.faults:,} of faults" if made.faults else ""
        print(f"Learned {made.normal:,} windows{against}: model {made.model_id} in {args.out}")
    return DONE


def _promote_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("challenger", nargs="?", metavar="CHALLENGER", help="folder of the model that 'retrain' made")
    parser.add_argument("--champion", required=True, metavar="FOLDER", help="folder of the model that is at work")
    parser.add_argument("--queue", metavar="QUEUE", help="reviewed events: a file, or a database's URL")
    parser.add_argument(
        "--holdout", nargs="+", metavar="FILE",
        help="recordings that neither has learned; once a champion was promoted on them, they are known",
    )  # fmt: skip
    parser.add_argument("--events", metavar="TABLE", help="faults in them: CSV or Parquet with recording and times")
    parser.add_argument("--near-s", type=float, default=0.0, metavar="S", help="so near such a fault, all is strange")
    parser.add_argument("--alarms-per-hour", type=float, default=30.0, metavar="N", help="at which faults are counted")
    parser.add_argument("--tolerance", type=float, default=0.05, metavar="SHARE", help="a loss that is let pass")
    parser.add_argument("--source", metavar="FOLDER", help="where reviewed recordings lie now, if not where they did")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--rollback", action="store_true", help="put the champion before this one back")


def _promote(args: argparse.Namespace) -> int:
    from anomalyvae.review import gate, promotion
    from anomalyvae.review.queue import Queue

    if args.rollback:
        print(f"Rolled back to {promotion.roll_back(args.champion)}: {args.champion}")
        return DONE
    if args.challenger is None or args.queue is None:
        raise ValueError("Got no CHALLENGER or no --queue, expected both. Say what to promote, or pass --rollback.")
    given = None if args.holdout is None else gate.holdout(args.challenger, args.holdout, args.events, args.near_s)
    holdout = promotion.frozen_holdout(args.champion, given)
    with Queue(args.queue, create=False) as queue:
        events = queue.events()
    decision = gate.judge(
        args.challenger, args.champion, events, holdout, alarms_per_hour=args.alarms_per_hour,
        tolerance=args.tolerance, source=args.source,
    )  # fmt: skip
    promotion.promote(args.challenger, args.champion, decision, holdout, dry_run=args.dry_run)
    print(decision)
    return DONE if decision.promoted else REFUSED


# --- data -----------------------------------------------------------------------------------------------


def _data_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    known = _command(actions, "list", "name the data sets, and say where they lie", "anomalyvae data list")
    get = _command(actions, "get", "prepare a data set and print its folder", "anomalyvae data get potholes")
    get.add_argument("name", metavar="NAME", help="a name that 'anomalyvae data list' gives")
    for action in (known, get):
        action.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=_DEBUG)


def _data(args: argparse.Namespace) -> int:
    from anomalyvae.datasets import get_dataset, list_datasets

    if args.action == "get":
        print(get_dataset(args.name))
        return DONE
    for dataset in list_datasets():
        size = f"{dataset.size_mb:g} MB to fetch" if dataset.size_mb else "nothing to fetch"
        state = f"prepared in {dataset.folder}" if dataset.prepared else f"not prepared; {size}"
        print(f"{dataset.name}\n  {dataset.what}\n  licence: {dataset.licence}\n  {state}\n")
    return DONE


# --- the table of verbs ---------------------------------------------------------------------------------

_QUIET, _DEBUG = "print nothing but errors", "show the traceback of an error"


class Verb(NamedTuple):
    """What a verb is, which arguments it takes, what it does, and how it is used."""

    what: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    example: str


VERBS = {
    "fit": Verb(
        "learn what is normal from tables or recordings",
        _fit_arguments,
        _fit,
        "anomalyvae fit normal.csv --model models/pump\n"
        "  anomalyvae fit drives/*.parquet --recipe pipelines/potholes.toml --model models/road",
    ),
    "score": Verb(
        "say how strange each row or window is",
        _score_arguments,
        _score,
        "anomalyvae score drives/ scores/ --model models/road     # again after a kill, or for what is new\n"
        "  anomalyvae score today.csv scores.parquet --model models/pump\n\n"
        "exit codes: 0 all is scored, 3 some files failed (they are named), 1 nothing is scored",
    ),
    "export": Verb(
        "write a fitted model as one ONNX file, checked against it",
        _export_arguments,
        _export,
        "anomalyvae export models/pump pump.onnx",
    ),
    "compare": Verb(
        "compare with PyOD's detectors on your own table",
        _compare_arguments,
        _compare,
        "anomalyvae compare rows.csv --label is_fault --against knn,iforest,lunar\n"
        "  anomalyvae compare rows.csv --label state --positive broken --out figures.csv",
    ),
    "run": Verb(
        "run a job: train, evaluate, flag, report",
        _run_arguments,
        _run,
        "anomalyvae run pipelines/potholes.toml",
    ),
    "track": Verb(
        "record a fitted model, or the result of a job, with MLflow",
        _track_arguments,
        _track,
        "anomalyvae track models/pump --experiment pumps --register pump\n"
        "  anomalyvae track runs/potholes     # also to send what a server that was down has not got",
    ),
    "flag": Verb(
        "pick flagged events that are worth a look",
        _flag_arguments,
        _flag,
        "anomalyvae flag scores/ --model models/road --queue queue.db --budget 50\n"
        "  anomalyvae flag --queue queue.db --export verdicts.csv",
    ),
    "review": Verb(
        "look at flagged events in the browser, and say what they are",
        _review_arguments,
        _review,
        "anomalyvae review --queue queue.db --model models/road --scores scores/",
    ),
    "retrain": Verb(
        "make a challenger from verdicts: learn novel, not faults",
        _retrain_arguments,
        _retrain,
        "anomalyvae retrain --queue queue.db --champion models/road --out models/challenger",
    ),
    "promote": Verb(
        "let a challenger take the champion's place, if it is better",
        _promote_arguments,
        _promote,
        "anomalyvae promote models/challenger --champion models/road --queue queue.db --holdout held-out/*.parquet\n"
        "  anomalyvae promote --rollback --champion models/road\n\n"
        "exit codes: 0 promoted, 4 refused (it says why), 1 an error",
    ),
    "data": Verb(
        "list and prepare public data sets",
        _data_arguments,
        _data,
        "anomalyvae data list\n  anomalyvae data get potholes",
    ),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="anomalyvae",
        description="Notice what is new in tables and recordings, with a variational autoencoder.",
        epilog="example:\n  anomalyvae run pipelines/potholes.toml\n\n'anomalyvae VERB --help' tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"anomalyvae {__version__}")
    commands = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name, verb in VERBS.items():
        command = _command(commands, name, verb.what, verb.example)
        verb.arguments(command)
        command.add_argument("--debug", action="store_true", help=_DEBUG)
        command.set_defaults(run=verb.run)
    return parser


def _command(commands: Any, name: str, what: str, example: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


# --- talking --------------------------------------------------------------------------------------------


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _setting(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE, the value as in a job file; what is no TOML is text."""
    import tomllib

    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected NAME=VALUE")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value.strip()


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    """Show steps as a bar on a terminal, as lines elsewhere, or not at all."""
    if quiet:
        yield lambda done, steps, what: None
    elif not sys.stderr.isatty():
        yield lambda done, steps, what: _tell(f"{done}/{steps} {what}")
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        what = TextColumn("{task.description}", markup=False)
        columns = (MofNCompleteColumn(), BarColumn(bar_width=24), TimeElapsedColumn(), what)
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("loading", total=None)
            yield lambda done, steps, what: bar.update(task, completed=done, total=steps, description=what)


@contextmanager
def _batch_progress(quiet: bool) -> "Iterator[Callable[[BatchProgress], None]]":
    """Show files, rows per second and the time that is left: a bar on a terminal, now and then a line elsewhere."""
    told = time.monotonic()

    def line(p: "BatchProgress") -> None:
        nonlocal told
        if not quiet and time.monotonic() - told > _LINE_S:
            told = time.monotonic()
            _tell(f"{p.files_done:,}/{p.files:,} files, {_pace(p)}")

    if quiet or not sys.stderr.isatty():
        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f} %  {task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading", total=None)
        yield lambda p: bar.update(
            task, completed=p.bytes_done, total=p.bytes, description=f"{p.files_done:,}/{p.files:,} files, {_pace(p)}"
        )


_LINE_S = 5.0


def _pace(p: "BatchProgress") -> str:
    share = (p.bytes_done - p.bytes_kept) / max(p.bytes - p.bytes_kept, 1)
    left = f", {p.seconds * (1 - share) / share:,.0f} s left" if share > 0 else ""
    return f"{p.rows_scored / max(p.seconds, 1e-9):,.0f} rows/s{left}"


def _said_by(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = _one_line(str(error)) or type(error).__name__
    if isinstance(error, _EXPECTED):
        return text
    return f"{type(error).__name__}: {text}. This should not happen; --debug shows where it did."


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _tell(text: str) -> None:
    print(f"anomalyvae: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
