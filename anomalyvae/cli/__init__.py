"""The command line: a table of verbs, each a few lines over the package's functions.

Nothing heavy is imported before a verb needs it, so that ``--help`` answers at once. What a verb makes goes
to files, what it found to stdout, what it is doing and what went wrong to stderr.
"""

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

from anomalyvae import __version__
from anomalyvae.cli.auditing import audit, audit_arguments
from anomalyvae.cli.comparing import compare, compare_arguments
from anomalyvae.cli.console import DEBUG, DONE, FAILED, INTERRUPTED, command_of, one_line, said_by, tell
from anomalyvae.cli.health import health, health_arguments
from anomalyvae.cli.jobs import data, data_arguments, run, run_arguments
from anomalyvae.cli.loop import (
    flag,
    flag_arguments,
    promote,
    promote_arguments,
    retrain,
    retrain_arguments,
    review,
    review_arguments,
)
from anomalyvae.cli.models import export, export_arguments, fit, fit_arguments, track, track_arguments
from anomalyvae.cli.scoring import score, score_arguments
from anomalyvae.cli.watching import watch, watch_arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    args = _parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: tell(f"warning: {one_line(str(message))}")
        try:
            code = args.run(args)
            sys.stdout.flush()
        except KeyboardInterrupt:
            tell("interrupted")
            return INTERRUPTED
        except BrokenPipeError:  # whoever read our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return DONE
        except Exception as error:
            if args.debug:
                traceback.print_exc()
            else:
                tell(f"error: {said_by(error)}")
            return FAILED
    return code


class Verb(NamedTuple):
    """What a verb is, which arguments it takes, what it does, and how it is used."""

    what: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    example: str


VERBS = {
    "fit": Verb(
        "learn what is normal from tables or recordings",
        fit_arguments,
        fit,
        "anomalyvae fit normal.csv --model models/pump\n"
        "  anomalyvae fit drives/*.parquet --recipe pipelines/potholes.toml --model models/road",
    ),
    "score": Verb(
        "say how strange each row or window is",
        score_arguments,
        score,
        "anomalyvae score drives/ scores/ --model models/road     # again after a kill, or for what is new\n"
        "  anomalyvae score today.csv scores.parquet --model models/pump\n\n"
        "exit codes: 0 all is scored, 3 some files failed (they are named), 1 nothing is scored",
    ),
    "health": Verb(
        "say which sensors of recordings can be trusted, and when",
        health_arguments,
        health,
        "anomalyvae health drives/ --model models/road --out health.csv\n"
        "  anomalyvae health drive.MF4 --dbc car.dbc --model models/road --range 'Altitude=[-100,4000]'",
    ),
    "watch": Verb(
        "score a growing CSV file, or lines on stdin, as they come",
        watch_arguments,
        watch,
        "anomalyvae watch today.csv --model models/road --alarms per_hour=6\n"
        "  logger | anomalyvae watch - --model models/road --json\n\n"
        "exit codes: 0 stdin ended, or Ctrl-C, 5 nothing came for --timeout, 1 an error",
    ),
    "export": Verb(
        "write a fitted model as one ONNX file, checked against it",
        export_arguments,
        export,
        "anomalyvae export models/pump pump.onnx",
    ),
    "compare": Verb(
        "compare with PyOD's detectors on your own table",
        compare_arguments,
        compare,
        "anomalyvae compare rows.csv --label is_fault --against knn,iforest,lunar\n"
        "  anomalyvae compare rows.csv --label state --positive broken --out figures.csv",
    ),
    "audit": Verb(
        "find what is uneven in a table: thin regions, copies, groups",
        audit_arguments,
        audit,
        "anomalyvae audit rows.csv --weights weights.csv\n"
        "  anomalyvae audit rows.csv --group region --split split --recording drive --out audit.html",
    ),
    "run": Verb(
        "run a job: train, evaluate, flag, report",
        run_arguments,
        run,
        "anomalyvae run pipelines/potholes.toml",
    ),
    "track": Verb(
        "record a fitted model, or the result of a job, with MLflow",
        track_arguments,
        track,
        "anomalyvae track models/pump --experiment pumps --register pump\n"
        "  anomalyvae track runs/potholes     # also to send what a server that was down has not got",
    ),
    "flag": Verb(
        "pick flagged events that are worth a look",
        flag_arguments,
        flag,
        "anomalyvae flag scores/ --model models/road --queue queue.db --budget 50\n"
        "  anomalyvae flag --queue queue.db --export verdicts.csv\n"
        "  anomalyvae flag --queue queue.db --load export.json --reviewer 7=ann     # verdicts given in Label Studio",
    ),
    "review": Verb(
        "look at flagged events in the browser, and say what they are",
        review_arguments,
        review,
        "anomalyvae review --queue queue.db --model models/road --scores scores/\n"
        "  anomalyvae review --queue queue.db --model models/car --dbc car.dbc",
    ),
    "retrain": Verb(
        "make a challenger from verdicts: learn new normals, not faults",
        retrain_arguments,
        retrain,
        "anomalyvae retrain --queue queue.db --champion models/road --out models/challenger",
    ),
    "promote": Verb(
        "let a challenger take the champion's place, if it is better",
        promote_arguments,
        promote,
        "anomalyvae promote models/challenger --champion models/road --queue queue.db --holdout held-out/*.parquet\n"
        "  anomalyvae promote --rollback --champion models/road\n\n"
        "exit codes: 0 promoted, 4 refused (it says why), 1 an error",
    ),
    "data": Verb(
        "list and prepare public data sets",
        data_arguments,
        data,
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
        command = command_of(commands, name, verb.what, verb.example)
        verb.arguments(command)
        command.add_argument("--debug", action="store_true", help=DEBUG)
        command.set_defaults(run=verb.run)
    return parser
