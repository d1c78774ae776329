"""The verbs of the loop that makes a model better: flag, review, retrain, promote."""

import argparse
import os
from contextlib import nullcontext
from typing import TYPE_CHECKING

from anomalyvae.cli.console import (
    DATABASES,
    DONE,
    FAILED,
    QUIET,
    REFUSED,
    bundle_at,
    hush_mlflow,
    one_line,
    setting,
    tell,
)

if TYPE_CHECKING:
    from anomalyvae.review.queue import Queue

_NAMED = 5  # events, of those that something is said of
_OR_MLFLOW = ", or MLflow's: models:/NAME@champion"


def flag_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scores", nargs="?", metavar="SCORES", help="folder that 'anomalyvae score' wrote")
    parser.add_argument("--queue", required=True, metavar="QUEUE", help="file, or URL of a database, for the events")
    parser.add_argument("--model", metavar="BUNDLE", help="folder of the model that gave the scores" + _OR_MLFLOW)
    parser.add_argument("--source", metavar="FOLDER", help="of the recordings, where it is another than was scored")
    parser.add_argument("--dbc", nargs="+", metavar="FILE", help=DATABASES)
    parser.add_argument("--budget", type=int, default=50, metavar="N", help="events to pick at most (default: 50)")
    parser.add_argument("--per-recording", type=int, default=5, metavar="N", help="and of a recording (default: 5)")
    parser.add_argument(
        "--alarms", type=setting, metavar="PROMISE",
        help="pick from what keeps a promise on false alarms, not from the flags in SCORES: fdr=0.1 (share of the "
        "flagged windows), per_hour=6, alpha=0.01 (share of normal windows)",
    )  # fmt: skip
    parser.add_argument(
        "--load", metavar="FILE",
        help="first, add the events and verdicts that a queue has exported; or, from .json, the verdicts given in "
        "Label Studio on what --export has written",
    )  # fmt: skip
    parser.add_argument(
        "--reviewer", type=setting, action="append", default=[], metavar="ID=NAME",
        help="who a user of Label Studio is here, by number or e-mail address; may be given often",
    )  # fmt: skip
    parser.add_argument(
        "--export", metavar="FILE",
        help="last, write the whole queue: .parquet or .csv, or .json for Label Studio (needs --model)",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help=QUIET)


def flag(args: argparse.Namespace) -> int:
    from anomalyvae.review.flagging import export, flag_folder, in_words
    from anomalyvae.review.queue import Queue

    if args.scores is None and args.load is None and args.export is None:
        raise ValueError("Got nothing to do, expected SCORES, --load or --export. Pass one.")
    if args.model is None and (args.scores is not None or str(args.export).endswith(".json")):
        raise ValueError("Got no --model, expected the folder of the model that gave the scores. Pass it.")
    opened = nullcontext() if args.model is None else bundle_at(args.model)
    brings_events = args.scores is not None or not str(args.load or ".json").endswith(".json")
    with opened as model, Queue(args.queue, create=brings_events) as queue:
        if args.load is not None:
            _load(queue, args)
        if args.scores is not None and model is not None:
            flagged = flag_folder(
                args.scores, model, queue, args.budget, per_recording=args.per_recording, source=args.source,
                databases=args.dbc, alarms=None if args.alarms is None else dict([args.alarms]),
            )  # fmt: skip
            if not args.quiet:
                print(in_words(flagged))
        if args.export is not None:
            export(queue, args.export, model, args.source, args.dbc)
    return DONE


def _load(queue: "Queue", args: argparse.Namespace) -> None:
    if not args.load.endswith(".json"):
        queue.load(args.load)
        return
    from anomalyvae.review.label_studio import read_label_studio

    loaded = read_label_studio(args.load, queue, {name: str(value) for name, value in args.reviewer})
    if not args.quiet:
        print(f"Label Studio: {loaded.new:,} new verdicts, {loaded.known:,} that the queue had")
    for reason, events in loaded.left_out.items():
        some = ", ".join(events[:_NAMED]) + (", …" if len(events) > _NAMED else "")
        tell(one_line(f"left out {len(events):,}: {reason} (on {some})"))


def review_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--queue", required=True, metavar="QUEUE", help="file, or URL of a database, with the events")
    parser.add_argument(
        "--model", required=True, metavar="BUNDLE", help="folder of the model that flagged them" + _OR_MLFLOW
    )
    parser.add_argument("--source", metavar="FOLDER", help="of the recordings (default: as the events name it)")
    parser.add_argument("--dbc", nargs="+", metavar="FILE", help=DATABASES)
    parser.add_argument("--scores", metavar="FOLDER", help="of the scores, to show them over each recording")
    parser.add_argument("--host", default="127.0.0.1", help="listen here; other machines need the token it prints")
    parser.add_argument("--port", type=int, default=8765, help="0 takes a free one (default: 8765)")
    parser.add_argument("--reviewer", metavar="NAME", help="name to propose on this machine (default: $USER)")


def review(args: argparse.Namespace) -> int:
    from anomalyvae.review.server import serve

    with bundle_at(args.model) as model:
        serve(
            args.queue, model, source=args.source, scores=args.scores, databases=args.dbc, host=args.host,
            port=args.port, reviewer=args.reviewer or os.environ.get("USER", ""),
            ready=lambda address: print(f"Review at {address}\nCtrl+C closes it.", flush=True),
        )  # fmt: skip
    return DONE


def retrain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--queue", required=True, metavar="QUEUE", help="reviewed events: a file, or a database's URL")
    parser.add_argument(
        "--champion", required=True, metavar="BUNDLE", help="the model to go on from; it stays" + _OR_MLFLOW
    )
    parser.add_argument("--out", required=True, metavar="BUNDLE", help="folder for the challenger")
    parser.add_argument(
        "--learned", nargs="+", metavar="FILE", help="what the champion learned, where it does not say so itself"
    )
    parser.add_argument("--source", metavar="FOLDER", help="where the recordings lie now, if not where they did")
    parser.add_argument("--dbc", nargs="+", metavar="FILE", help=DATABASES)
    parser.add_argument("--quiet", action="store_true", help=QUIET)


def retrain(args: argparse.Namespace) -> int:
    from anomalyvae.review.queue import Queue
    from anomalyvae.review.retraining import retrain

    with Queue(args.queue, create=False) as queue:
        events = queue.events()
    with bundle_at(args.champion) as champion:
        made = retrain(
            events, champion, args.out, learned=args.learned, source=args.source, databases=args.dbc,
        )  # fmt: skip
    if not args.quiet:
        print("Verdicts: " + (", ".join(f"{count} {verdict}" for verdict, count in made.verdicts.items()) or "none"))
        against = f", against {made.faults:,} of faults" if made.faults else ""
        print(f"Learned {made.normal:,} windows{against}: model {made.model_id} in {args.out}")
    return DONE


def promote_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("challenger", nargs="?", metavar="CHALLENGER", help="folder of the model that 'retrain' made")
    parser.add_argument(
        "--champion", required=True, metavar="FOLDER",
        help="folder of the model that is at work; or models:/NAME@champion, where MLflow's registry alone holds it",
    )  # fmt: skip
    parser.add_argument(
        "--register", metavar="NAME",
        help="also tell MLflow: @champion of NAME moves with a promotion, @challenger to what was refused; without "
        "CHALLENGER, tell it which model the folder holds",
    )  # fmt: skip
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
    parser.add_argument("--dbc", nargs="+", metavar="FILE", help=DATABASES)
    parser.add_argument(
        "--refits", type=int, default=4, metavar="N",
        help="fit the champion so often again, to tell a gain from the luck of a fit (default: 4; 0 saves the time)",
    )  # fmt: skip
    parser.add_argument(
        "--two-reviewers", action="store_true",
        help="refuse a challenger that learned new normals which only one reviewer has confirmed",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--rollback", action="store_true", help="put the champion before this one back")


def promote(args: argparse.Namespace) -> int:
    from anomalyvae.tracking.registry import champion_name

    registered = champion_name(args.champion)
    if registered is not None and args.register not in (None, registered):
        raise ValueError(
            f"Got --register {args.register} and {args.champion}, expected one name. Leave --register out."
        )
    name = registered or args.register
    if name is not None:
        hush_mlflow()
    if args.rollback:
        return _roll_back(args.champion, registered, name)
    if args.challenger is None and registered is None and name is not None:
        return _tell_registry(args.champion, name)
    if args.challenger is None or args.queue is None:
        raise ValueError("Got no CHALLENGER or no --queue, expected both. Say what to promote, or pass --rollback.")
    with bundle_at(args.challenger) as challenger, bundle_at(args.champion) as champion:
        from anomalyvae.review import gate, promotion
        from anomalyvae.review.queue import Queue

        given = None
        if args.holdout is not None:
            given = gate.holdout(challenger, args.holdout, args.events, args.near_s, args.dbc)
        holdout = promotion.frozen_holdout(champion, given)
        with Queue(args.queue, create=False) as queue:
            events, confirmed = queue.events(), queue.confirmed("new_normal") if args.two_reviewers else None
        decision = gate.judge(
            challenger, champion, events, holdout, alarms_per_hour=args.alarms_per_hour, tolerance=args.tolerance,
            source=args.source, databases=args.dbc, confirmed=confirmed, refits=args.refits,
        )  # fmt: skip
        print(decision)
        told = promotion.promote(
            challenger, champion, decision, holdout, dry_run=args.dry_run, register=name,
            again="" if registered is None else "Run the same command again later.",
        )  # fmt: skip
    if registered is not None and not told:
        return FAILED  # the registry is all that there was to change
    return DONE if decision.promoted else REFUSED


def _roll_back(champion: str, registered: str | None, name: str | None) -> int:
    if registered is not None:
        from anomalyvae.tracking.registry import roll_back

        print(f"Rolled back to version {roll_back(registered)} of {registered}.")
        return DONE
    from anomalyvae.review import promotion

    print(f"Rolled back to {promotion.roll_back(champion, register=name)}: {champion}")
    return DONE


def _tell_registry(champion: str, name: str) -> int:
    from anomalyvae.review.promotion import record_champion

    if not record_champion(champion, name):
        return FAILED
    print(f"The champion of {name} is the model in {champion}.")
    return DONE
