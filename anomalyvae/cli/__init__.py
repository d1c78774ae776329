"""The command line: a table of verbs.

Results go to files and stdout, progress and errors to stderr. Heavy packages are imported only when a verb needs them,
so that ``--help`` answers at once.
"""

import argparse
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from anomalyvae import __version__
from anomalyvae.cli import analysis, fleet, models, review, scoring
from anomalyvae.cli.console import DONE, FAILED, INTERRUPTED, add_command, message_of, one_line, option, tell

_INTERRUPTED = "(Training|The fit) was interrupted"  # how the warnings of an interrupted fit begin


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    _open_closed_streams()
    parser = _parser()
    args = parser.parse_args(argv)
    if "run" not in args:
        parser.print_help(sys.stderr)
        parser.exit(2)
    with warnings.catch_warnings():
        if getattr(args, "quiet", False):
            warnings.simplefilter("ignore", UserWarning)
        warnings.filterwarnings("always", message=_INTERRUPTED)
        warnings.showwarning = _tell_warning
        try:
            code = args.run(args)
            sys.stdout.flush()
        except KeyboardInterrupt:
            tell("interrupted")
            return INTERRUPTED
        except BrokenPipeError:  # the reader of our output has stopped, as head does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return DONE
        except Exception as error:
            if args.debug:
                traceback.print_exc()
            else:
                tell(f"error: {message_of(error)}")
            return FAILED
    return code


def _open_closed_streams() -> None:
    """Let a program without stdout or stderr (``>&-``) print to nowhere, and no file take the number of either."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def _tell_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    if re.match(_INTERRUPTED, str(message)):  # in Python a fit keeps what it has learned so far; a verb does not
        raise KeyboardInterrupt
    tell(f"warning: {one_line(str(message))}")


class Verb(NamedTuple):
    """A verb: its one-line description, its arguments, the function that runs it, and an example."""

    what: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    example: str


# fmt: off
VERBS = {
    "fit": Verb(
        "fit a model to normal tables or recordings",
        models.fit_arguments, models.fit,
        "anomalyvae fit normal.csv --model models/pump\n"
        "  anomalyvae fit drives/*.parquet --recipe pipelines/potholes.toml --model models/road\n"
        "  anomalyvae fit bus/*.log --model models/bus     # a vehicle bus without a database\n\n"
        "exit codes: 0 done, 3 some recordings have no windows (they are named), 1 an error",
    ),
    "score": Verb(
        "compute the anomaly score of each row or window",
        scoring.score_arguments, scoring.score,
        "anomalyvae score drives/ scores/ --model models/road     # again to resume, or for new files\n"
        "  anomalyvae score today.csv scores.parquet --model models/pump\n\n"
        "exit codes: 0 all files are scored, 3 some or all failed (they are named), 1 an error",
    ),
    "rank": Verb(
        "order whole recordings, the most unlike first",
        fleet.rank_arguments, fleet.rank,
        "anomalyvae rank scores/ --chart fleet.png\n"
        "  anomalyvae rank scores.parquet --model models/road --out ranking.csv\n\n"
        "exit codes: 0 all recordings are ranked, 3 some have no scores (they are named), 1 an error",
    ),
    "drift": Verb(
        "say whether new recordings call for retraining",
        fleet.drift_arguments, fleet.drift,
        "anomalyvae drift scores/\n\n"
        "exit codes: 0 no drift, 6 the data have left what the model knows (retrain),\n"
        "3 some recordings have no scores (they are named), 1 an error",
    ),
    "health": Verb(
        "list the times at which sensors are bad or suspect, and why",
        scoring.health_arguments, scoring.health,
        "anomalyvae health drives/ --model models/road --out health.csv\n"
        "  anomalyvae health drive.MF4 --dbc car.dbc --model models/road --range 'Altitude=[-100,4000]'\n\n"
        "exit codes: 0 all files are graded, 3 some failed (they are named), 1 an error",
    ),
    "watch": Verb(
        "score a growing CSV file, or lines on stdin, as they arrive",
        scoring.watch_arguments, scoring.watch,
        "anomalyvae watch today.csv --model models/road --alarms per_hour=6\n"
        "  logger | anomalyvae watch - --model models/road --json\n\n"
        "exit codes: 0 stdin ended or Ctrl-C, 5 no new row for --timeout seconds,\n"
        "3 it ended without a window, 1 an error",
    ),
    "export": Verb(
        "export a fitted model as one ONNX file, and check it",
        models.export_arguments, models.export,
        "anomalyvae export models/pump pump.onnx\n"
        "  anomalyvae export models/pipeline p.onnx --sample normal.csv     # a Pipeline: checked on rows of training",
    ),
    "compare": Verb(
        "compare with PyOD's detectors on your own table",
        analysis.compare_arguments, analysis.compare,
        "anomalyvae compare rows.csv --label is_fault --against knn,iforest,lunar\n"
        "  anomalyvae compare rows.csv --label state --positive broken --out figures.csv",
    ),
    "audit": Verb(
        "find bias in a table: sparse regions, copies, uneven groups",
        analysis.audit_arguments, analysis.audit,
        "anomalyvae audit rows.csv --weights weights.csv\n"
        "  anomalyvae audit rows.csv --group region --split split --recording drive --out audit.html",
    ),
    "run": Verb(
        "run a job file: train, evaluate, flag, report",
        models.run_arguments, models.run,
        "anomalyvae run pipelines/potholes.toml\n\n"
        "exit codes: 0 done, 3 some recordings have no windows (they are named), 1 an error",
    ),
    "track": Verb(
        "record a fitted model, or the result of a job, with MLflow",
        models.track_arguments, models.track,
        "anomalyvae track models/pump --experiment pumps --register pump\n"
        "  anomalyvae track runs/potholes     # also to send what failed while the server was down",
    ),
    "flag": Verb(
        "pick the flagged events that are worth a review",
        review.flag_arguments, review.flag,
        "anomalyvae flag scores/ --model models/road --queue queue.db --budget 50\n"
        "  anomalyvae flag --queue queue.db --export verdicts.csv\n"
        "  anomalyvae flag --queue queue.db --load export.json --reviewer 7=ann     # verdicts from Label Studio\n\n"
        "exit codes: 0 done, 3 some recordings have no scores, or --load left some verdicts out (they are named),\n"
        "1 an error",
    ),
    "review": Verb(
        "review flagged events in the browser",
        review.review_arguments, review.review,
        "anomalyvae review --queue queue.db --model models/road --scores scores/\n"
        "  anomalyvae review --queue queue.db --model models/car --dbc car.dbc",
    ),
    "retrain": Verb(
        "train a challenger that has learned from the verdicts",
        review.retrain_arguments, review.retrain,
        "anomalyvae retrain --queue queue.db --champion models/road --out models/challenger",
    ),
    "promote": Verb(
        "replace the champion by a challenger if it is better",
        review.promote_arguments, review.promote,
        "anomalyvae promote models/challenger --champion models/road --queue queue.db --holdout held-out/*.parquet\n"
        "  anomalyvae promote --rollback --champion models/road\n\n"
        "exit codes: 0 promoted, 4 refused (with the reasons), 1 an error",
    ),
    "data": Verb(
        "list and prepare public data sets",
        models.data_arguments, models.data,
        "anomalyvae data list\n  anomalyvae data get potholes",
    ),
}
# fmt: on


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="anomalyvae",
        description="Find anomalies in tables and recordings with a variational autoencoder.",
        epilog="example:\n  anomalyvae run pipelines/potholes.toml\n\n'anomalyvae VERB --help' explains a verb.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"anomalyvae {__version__}")
    commands = parser.add_subparsers(title="verbs", metavar="VERB")
    for name, verb in VERBS.items():
        command = add_command(commands, name, verb.what, verb.example)
        verb.arguments(command)
        option(command, "--debug")
        command.set_defaults(run=verb.run)
    return parser
