"""The verb watch."""

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from anomalyvae.cli.console import DONE, QUIET, bundle_at, setting, tell

if TYPE_CHECKING:
    from anomalyvae.scoring.watch import Watcher, WindowScore

SILENT = 5  # exit code: the writer fell silent
_SIGNALS = 3  # that a line of CSV names


def watch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FILE", help="a CSV file that grows, or - for lines on stdin")
    parser.add_argument(
        "--model", required=True, metavar="BUNDLE",
        help="folder of a fitted model, or its ONNX file, or MLflow's: models:/NAME@champion",
    )  # fmt: skip
    parser.add_argument(
        "--alarms", type=setting, metavar="PROMISE",
        help="flag under a promise on false alarms in place of the model's threshold: per_hour=6, or alpha=0.01 (share "
        "of normal windows)",
    )  # fmt: skip
    parser.add_argument(
        "--tail", choices=("conformal", "pareto"), default="conformal",
        help="pareto extrapolates p-values below what the calibration rows can show",
    )  # fmt: skip
    parser.add_argument(
        "--late",
        action="store_true",
        help="wait for rows that come late (a second, or three usual steps), as score does; without, they are left out",
    )
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="end when nothing new has come for so long")
    parser.add_argument("--json", action="store_true", help="a line of JSON per window in place of CSV")
    parser.add_argument("--quiet", action="store_true", help=QUIET)


def watch(args: argparse.Namespace) -> int:
    from anomalyvae.scoring.watch import Watcher

    with bundle_at(args.model) as model:
        watcher = Watcher(
            model, alarms=None if args.alarms is None else dict([args.alarms]), tail=args.tail, late=args.late,
            timeout_s=args.timeout, tell=(lambda text: None) if args.quiet else tell,
        )  # fmt: skip
        with _summary(watcher, args.quiet):
            scores = watcher.pipe(sys.stdin.fileno()) if args.source == "-" else watcher.file(args.source)
            (_print_json if args.json else _print_csv)(scores)
    return SILENT if watcher.timed_out else DONE


def _print_csv(scores: "Iterator[WindowScore]") -> None:
    lines = csv.writer(sys.stdout, lineterminator="\n")
    lines.writerow(["recording", "start_s", "end_s", "anomaly_score", "p_value", "is_outlier", "signals"])
    sys.stdout.flush()
    for score in scores:
        signals = [f"{name} {share:.0%}" for name, share in list(score.signals.items())[:_SIGNALS]]
        lines.writerow([*score[:-1], "; ".join(signals)])
        sys.stdout.flush()


def _print_json(scores: "Iterator[WindowScore]") -> None:
    for score in scores:
        print(json.dumps(score._asdict()), flush=True)


@contextmanager
def _summary(watcher: "Watcher", quiet: bool) -> Iterator[None]:
    """Say at the end what came of it; Ctrl-C is an end like any other."""
    with suppress(KeyboardInterrupt):
        yield
    if not quiet:
        waiting = f", {watcher.waiting:,} not scored yet" if watcher.waiting else ""
        left_out = f", {watcher.left_out:,} rows left out" if watcher.left_out else ""
        silent = ", ended by silence" if watcher.timed_out else ""
        tell(f"{watcher.windows:,} windows scored, {watcher.flagged:,} flagged{waiting}{left_out}{silent}")
