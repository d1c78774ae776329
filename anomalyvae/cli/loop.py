"""The verbs of the loop that makes a model better: flag, review, retrain, promote."""

import argparse
import os

from anomalyvae.cli.talking import DONE, QUIET, REFUSED, setting


def flag_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scores", nargs="?", metavar="SCORES", help="folder that 'anomalyvae score' wrote")
    parser.add_argument("--queue", required=True, metavar="QUEUE", help="file, or URL of a database, for the events")
    parser.add_argument("--model", metavar="BUNDLE", help="folder of the model that gave the scores")
    parser.add_argument("--source", metavar="FOLDER", help="of the recordings, where it is another than was scored")
    parser.add_argument("--budget", type=int, default=50, metavar="N", help="events to pick at most (default: 50)")
    parser.add_argument("--per-recording", type=int, default=5, metavar="N", help="and of a recording (default: 5)")
    parser.add_argument(
        "--alarms", type=setting, metavar="PROMISE",
        help="pick from what keeps a promise on false alarms, not from the flags in SCORES: fdr=0.1 (share of the "
        "flagged windows), per_hour=6, alpha=0.01 (share of normal windows)",
    )  # fmt: skip
    parser.add_argument("--load", metavar="FILE", help="first, add the events and verdicts that a queue has exported")
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


def review_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--queue", required=True, metavar="QUEUE", help="file, or URL of a database, with the events")
    parser.add_argument("--model", required=True, metavar="BUNDLE", help="folder of the model that flagged them")
    parser.add_argument("--source", metavar="FOLDER", help="of the recordings (default: as the events name it)")
    parser.add_argument("--scores", metavar="FOLDER", help="of the scores, to show them over each recording")
    parser.add_argument("--host", default="127.0.0.1", help="listen here; other machines need the token it prints")
    parser.add_argument("--port", type=int, default=8765, help="0 takes a free one (default: 8765)")
    parser.add_argument("--reviewer", metavar="NAME", help="name to propose on this machine (default: $USER)")


def review(args: argparse.Namespace) -> int:
    from anomalyvae.review.server import serve

    serve(
        args.queue, args.model, source=args.source, scores=args.scores, host=args.host, port=args.port,
        reviewer=args.reviewer or os.environ.get("USER", ""),
        ready=lambda address: print(f"Review at {address}\nCtrl+C closes it.", flush=True),
    )  # fmt: skip
    return DONE


def retrain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--queue", required=True, metavar="QUEUE", help="reviewed events: a file, or a database's URL")
    parser.add_argument("--champion", required=True, metavar="BUNDLE", help="the model to go on from; it stays")
    parser.add_argument("--out", required=True, metavar="BUNDLE", help="folder for the challenger")
    parser.add_argument(
        "--learned", nargs="+", metavar="FILE", help="what the champion learned, where it does not say so itself"
    )
    parser.add_argument("--source", metavar="FOLDER", help="where the recordings lie now, if not where they did")
    parser.add_argument("--warm-start", action="store_true", help="go on from the champion's weights, to save time")
    parser.add_argument("--quiet", action="store_true", help=QUIET)


def retrain(args: argparse.Namespace) -> int:
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


def promote_arguments(parser: argparse.ArgumentParser) -> None:
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


def promote(args: argparse.Namespace) -> int:
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
