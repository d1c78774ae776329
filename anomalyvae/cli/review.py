"""The verbs of review and retraining: flag, review, retrain, promote."""

import argparse
import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from anomalyvae.cli.console import (
    DONE,
    FAILED,
    REFUSED,
    SOME_FAILED,
    local_model,
    one_line,
    option,
    quiet_mlflow,
    reading_arguments,
    reading_options,
    say,
    setting,
    tell,
    tell_failed,
)
from anomalyvae.untrusted import listed

if TYPE_CHECKING:
    from anomalyvae.review import Queue

_CHAMPION = "folder of the current model, or its name in MLflow's registry, such as models:/NAME@champion"


def flag_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scores", nargs="?", metavar="SCORES", help="folder that 'anomalyvae score' wrote")
    option(parser, "--queue")
    option(parser, "--model", required=False, help="the model that gave the scores: a folder, or models:/NAME@champion")
    option(parser, "--source")
    reading_arguments(parser)
    parser.add_argument("--budget", type=int, default=50, metavar="N", help="most events to pick (default: 50)")
    parser.add_argument("--per-recording", type=int, default=5, metavar="N", help="and per recording (default: 5)")
    parser.add_argument(
        "--drives", type=int, metavar="K", help="pick only from the K recordings most unlike the training recordings"
    )  # fmt: skip
    option(
        parser, "--alarms",
        help="pick by a false-alarm target instead of the flags in SCORES: fdr=0.1 (share of the flagged windows), "
        "alpha=0.01 (share of the normal windows), per_hour=6",
    )  # fmt: skip
    parser.add_argument(
        "--load", metavar="FILE",
        help="first, load events and verdicts: an export of another queue, or a .json export of Label Studio",
    )  # fmt: skip
    parser.add_argument(
        "--reviewer", type=setting, action="append", default=[], metavar="ID=NAME",
        help="name of a Label Studio user, by number or e-mail address; repeat for more",
    )  # fmt: skip
    parser.add_argument(
        "--export", metavar="FILE",
        help="last, write the whole queue: .parquet, .csv, or .json for Label Studio (needs --model)",
    )  # fmt: skip
    option(parser, "--quiet")


def flag(args: argparse.Namespace) -> int:
    from anomalyvae.review import Queue, flag_folder
    from anomalyvae.review.flagging import export, in_words

    if args.scores is None and args.load is None and args.export is None:
        raise ValueError("There is nothing to do. Pass SCORES, --load or --export.")
    if args.model is None and (args.scores is not None or str(args.export).endswith(".json")):
        raise ValueError("The model that gave the scores is missing. Pass --model with its folder.")
    opened = nullcontext() if args.model is None else local_model(args.model)
    brings_events = args.scores is not None or not str(args.load or ".json").endswith(".json")
    failed: dict[str, str] = {}
    with opened as model, Queue(args.queue, create=brings_events) as queue:
        left_out = args.load is not None and _load(queue, args)
        if args.scores is not None and model is not None:
            flagged = flag_folder(
                args.scores, model, queue, args.budget, per_recording=args.per_recording, drives=args.drives,
                source=args.source,
                **reading_options(args), alarms=args.alarms,
            )  # fmt: skip
            failed = flagged.failed
            if not args.quiet:
                say(in_words(flagged))
                if flagged.caution is not None:
                    tell(flagged.caution)
        if args.export is not None:
            export(queue, args.export, model, args.source, **reading_options(args))
            if not args.quiet:
                say(f"Wrote the queue: {args.export}")
    return tell_failed(failed, " has no scores") or (SOME_FAILED if left_out else DONE)


def _load(queue: "Queue", args: argparse.Namespace) -> bool:
    """Load events and verdicts; return whether some were left out."""
    from anomalyvae.review.exports import load_export

    if args.load.endswith(".json"):
        from anomalyvae.review.label_studio import read_label_studio

        loaded = read_label_studio(args.load, queue, {name: str(value) for name, value in args.reviewer})
        what = "Label Studio:"
    elif args.reviewer:
        raise ValueError(
            f"Got --reviewer with {args.load}; it names users of Label Studio, in its .json export. In a table, write "
            "the name into the column reviewer."
        )
    else:
        loaded = load_export(Path(args.load), queue)
        what = f"{args.load}: {loaded.events:,} new events,"
    if not args.quiet:
        renamed = f", {loaded.renamed:,} with another name of their reviewer" if loaded.renamed else ""
        say(one_line(f"{what} {loaded.new:,} new verdicts, {loaded.known:,} already in the queue{renamed}"))
    if loaded.unmatched:
        users = listed(loaded.users) or "none"
        tell(one_line(f"--reviewer {', '.join(loaded.unmatched)} is no user of {args.load}; its users are {users}."))
    for reason, events in loaded.left_out.items():
        tell(one_line(f"left out {len(events):,}: {reason} (on {listed(events)})"))
    return bool(loaded.left_out)


def review_arguments(parser: argparse.ArgumentParser) -> None:
    option(parser, "--queue")
    option(parser, "--model", help="the model that flagged the events: a folder, or models:/NAME@champion")
    option(parser, "--source")
    reading_arguments(parser)
    parser.add_argument("--scores", metavar="FOLDER", help="folder of scores, to show them for each whole recording")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; others need the token it prints")
    parser.add_argument("--port", type=int, default=8765, help="port to listen on; 0 takes a free one (default: 8765)")
    parser.add_argument("--reviewer", metavar="NAME", help="suggested reviewer on this machine (default: $USER)")


def review(args: argparse.Namespace) -> int:
    from anomalyvae.review import serve

    with local_model(args.model) as model:
        serve(
            args.queue, model, source=args.source, scores=args.scores, **reading_options(args), host=args.host,
            port=args.port, reviewer=args.reviewer or os.environ.get("USER", ""),
            ready=lambda address: say(f"Review at {address}\nCtrl+C closes it.", flush=True),
        )  # fmt: skip
    return DONE


def retrain_arguments(parser: argparse.ArgumentParser) -> None:
    option(parser, "--queue")
    parser.add_argument("--champion", required=True, metavar="MODEL", help=_CHAMPION)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder for the challenger")
    parser.add_argument(
        "--learned", nargs="+", metavar="FILE", help="recordings that the champion learned, if it does not list them"
    )
    option(parser, "--source")
    reading_arguments(parser)
    option(parser, "--quiet")


def retrain(args: argparse.Namespace) -> int:
    from anomalyvae.review import Queue, retrain

    with Queue(args.queue, create=False) as queue:
        events = queue.events()
    with local_model(args.champion) as champion:
        made = retrain(events, champion, args.out, learned=args.learned, source=args.source, **reading_options(args))
    if not args.quiet:
        say("Verdicts: " + (", ".join(f"{count} {verdict}" for verdict, count in made.verdicts.items()) or "none"))
        against = f", against {made.faults:,} of faults" if made.faults else ""
        say(f"Learned {made.normal:,} windows{against}: model {made.model_id} in {args.out}")
    return DONE


def promote_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("challenger", nargs="?", metavar="CHALLENGER", help="folder of the model that 'retrain' made")
    parser.add_argument("--champion", required=True, metavar="MODEL", help=_CHAMPION)
    parser.add_argument(
        "--register", metavar="NAME",
        help="also update MLflow's registry: a promotion moves @champion of NAME, a refusal moves @challenger; without "
        "CHALLENGER, register the model in --champion as @champion",
    )  # fmt: skip
    option(parser, "--queue", required=False)
    parser.add_argument(
        "--holdout", nargs="+", metavar="FILE",
        help="recordings that neither model has learned; after a promotion, the champion remembers them",
    )  # fmt: skip
    parser.add_argument("--events", metavar="TABLE", help="CSV or Parquet with their known faults: recording and times")
    parser.add_argument(
        "--near-s", type=float, default=0.0, metavar="S", help="a window so close to a fault counts as one (default: 0)"
    )
    parser.add_argument(
        "--alarms-per-hour", type=float, default=30.0, metavar="N", help="false-alarm rate for recall (default: 30)"
    )
    parser.add_argument("--tolerance", type=float, default=0.05, metavar="SHARE", help="loss to accept (default: 0.05)")
    option(parser, "--source")
    reading_arguments(parser)
    parser.add_argument(
        "--refits", type=int, default=4, metavar="N",
        help="how often to refit the champion, to measure the variation between fits (default: 4; 0 saves time)",
    )  # fmt: skip
    parser.add_argument(
        "--two-reviewers", action="store_true",
        help="refuse a challenger that learned new normals which only one reviewer has confirmed",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print the decision, and change nothing")
    parser.add_argument("--rollback", action="store_true", help="restore the previous champion")


def promote(args: argparse.Namespace) -> int:
    from anomalyvae.tracking.registry import champion_name

    registered = champion_name(args.champion)
    if registered is not None and args.register not in (None, registered):
        raise ValueError(f"--register {args.register} names another model than {args.champion}. Leave --register out.")
    name = registered or args.register
    if name is not None:
        quiet_mlflow()
    if args.rollback:
        _refuse_unused(args, "--rollback restores a model")
        return _roll_back(args.champion, registered, name)
    if args.challenger is None and registered is None and name is not None:
        _refuse_unused(args, "--register without CHALLENGER records a model")
        return _record(args.champion, name)
    if args.challenger is None or args.queue is None:
        raise ValueError("A promotion needs CHALLENGER and --queue. Pass both, or --rollback.")
    if args.holdout is None and (args.events is not None or args.near_s):
        raise ValueError("--events and --near-s are about the recordings of --holdout, which is missing. Pass it, too.")
    return _judge_and_promote(args, registered, name)


def _refuse_unused(args: argparse.Namespace, what: str) -> None:
    """Refuse what only a promotion uses: people would believe that it was taken into account."""
    options = {"--queue": args.queue, "--holdout": args.holdout, "--events": args.events}
    options |= {"--two-reviewers": args.two_reviewers, "--dry-run": args.dry_run, args.challenger: args.challenger}
    unused = [name for name, given in options.items() if given]
    if unused:
        raise ValueError(f"Got {listed(unused)}, but {what} at once, without a decision. Leave it out.")


def _record(champion: str, name: str) -> int:
    from anomalyvae.review.promotion import record_champion

    if not record_champion(champion, name):
        return FAILED
    say(f"The champion of {name} is the model in {champion}.")
    return DONE


def _judge_and_promote(args: argparse.Namespace, registered: str | None, name: str | None) -> int:
    with local_model(args.challenger) as challenger, local_model(args.champion) as champion:
        from anomalyvae.bundle.card import refuse_replaced
        from anomalyvae.review import Queue, gate, promotion

        given = None
        if args.holdout is not None:
            given = gate.holdout(challenger, args.holdout, args.events, args.near_s, **reading_options(args))
        holdout = promotion.frozen_holdout(champion, given)
        with Queue(args.queue, create=False) as queue:
            events, confirmed = queue.events(), queue.confirmed("new_normal")
        decision = gate.judge(
            challenger, champion, events, holdout, alarms_per_hour=args.alarms_per_hour, tolerance=args.tolerance,
            source=args.source, **reading_options(args), confirmed=confirmed,
            two_reviewers=args.two_reviewers, refits=args.refits,
        )  # fmt: skip
        if registered is not None and decision.promoted:
            with local_model(args.champion) as now:
                refuse_replaced(now, decision.champion, decision.challenger, name=args.champion)
        registry_updated = promotion.promote(
            challenger, champion, decision, holdout, dry_run=args.dry_run, register=name,
            again="" if registered is None else "Run the same command again later.",
        )  # fmt: skip
        say(decision)
    if registered is not None and not registry_updated:
        return FAILED  # the champion is in the registry alone
    return DONE if decision.promoted else REFUSED


def _roll_back(champion: str, registered: str | None, name: str | None) -> int:
    if registered is not None:
        from anomalyvae.tracking.registry import roll_back

        say(f"Rolled back to version {roll_back(registered)} of {registered}.")
        return DONE
    from anomalyvae.review import promotion

    say(f"Rolled back to {promotion.roll_back(champion, register=name)}: {champion}")
    return DONE
