"""The verbs for job files and public data sets: run, data."""

import argparse
import time
from pathlib import Path
from typing import Any

from anomalyvae.cli.console import DONE, add_command, option, quiet_mlflow, steps_shown


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
        print(_summary(result))
        print(f"\nReport     {Path(job.output.folder) / 'report.html'}")
        print(f"Wall time  {time.monotonic() - began:.0f} s")
    return DONE


def _summary(result: dict[str, Any]) -> str:
    """Our detector and the baselines, best average precision first."""
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
        print(get_dataset(args.name))
        return DONE
    for dataset in list_datasets():
        size = f"{dataset.size_mb:g} MB to download" if dataset.size_mb else "nothing to download"
        state = f"prepared in {dataset.folder}" if dataset.prepared else f"not prepared; {size}"
        print(f"{dataset.name}\n  {dataset.what}\n  licence: {dataset.licence}\n  {state}\n")
    return DONE
