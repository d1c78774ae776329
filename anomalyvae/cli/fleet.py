"""The verbs about whole recordings: rank, drift."""

import argparse
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from anomalyvae.cli.console import local_model, option, quiet_mlflow, say, tell, tell_failed, writer
from anomalyvae.folders import replacing_file
from anomalyvae.untrusted import printable

if TYPE_CHECKING:
    import pandas as pd

    from anomalyvae.scoring.ranking import Scores

LEFT = 6  # exit code: the data have left what the model knows
_SCORES = "folder that 'anomalyvae score' wrote, or a table of its scores (.parquet, .csv)"
_MODEL = "the model that gave the scores; only a table of scores needs it"


def rank_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scores", metavar="SCORES", help=_SCORES)
    option(parser, "--model", required=False, help=_MODEL)
    parser.add_argument("--top", type=int, default=20, metavar="N", help="how many recordings to print (default: 20)")
    parser.add_argument("--out", metavar="TABLE", help="also write the whole ranking to this .csv or .parquet file")
    parser.add_argument("--chart", metavar="PICTURE", help="draw all recordings: a .png, .svg or .pdf file")
    option(parser, "--quiet")


def rank(args: argparse.Namespace) -> int:
    from anomalyvae.scoring.ranking import rank

    write, chart = writer(args.out), _chart(args.chart)
    scores = _read_scores(args)
    table = rank(scores)
    if scores.fleet is None:
        tell(f"warning: {scores.no_fleet} Recordings are compared with each other, without p-values.")
    write(table)
    if chart is not None:
        from anomalyvae.evaluate.charts import draw_fleet, figure_of

        draw, height = draw_fleet(table)
        with replacing_file(chart) as fresh:
            figure_of(draw, 11.0, height).savefig(fresh, format=chart.suffix[1:])
    if not args.quiet:
        say(_ranking_text(table, args.top))
    return tell_failed(scores.failed, " has no scores")


def _read_scores(args: argparse.Namespace) -> "Scores":
    from anomalyvae.scoring.ranking import read_scores

    with nullcontext() if args.model is None else local_model(args.model) as model:
        return read_scores(args.scores, model)


def _chart(name: str | None) -> Path | None:
    if name is None:
        return None
    path = Path(name)
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"Got --chart {name}, expected a name that ends in .png, .svg or .pdf. Rename it.")
    return path


def _ranking_text(table: "pd.DataFrame", top: int) -> str:
    """A line per recording, the most unlike first."""
    shown = table.head(max(top, 0))
    wide = max((len(printable(name)) for name in shown["recording"]), default=0)
    lines = [f"{'':>5}  {'recording':<{wide}}  {'nats':>6}  {'p':>6}  {'flagged':>7}  reason"]
    for row in shown.to_dict("records"):
        p = "" if row["p_value"] != row["p_value"] else f"{row['p_value']:.3f}"
        why = row["reason"] if row["reason"] != "a short event" else f"a short event at {row['peak_s']:.0f} s"
        if why != row["reason"] and row["start"] == row["start"]:  # a recording that says when it began
            why += f", {row['start'] + timedelta(seconds=row['peak_s']):%Y-%m-%d %H:%M:%S} UTC"
        signals = f" ({row['signals']})" if row["signals"] else ""
        lines.append(
            f"{row['place']:>5}  {printable(row['recording']):<{wide}}  {row['unlike']:>6.1f}  {p:>6}  "
            f"{row['share_flagged']:>7.1%}  {printable(why + signals)}"
        )
    if len(table) > len(shown):
        lines.append(f"and {len(table) - len(shown):,} more; --top N prints more, --out writes all of them to a table")
    return "\n".join(lines)


def drift_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scores", metavar="SCORES", help=_SCORES)
    option(parser, "--model", required=False, help=_MODEL)
    parser.add_argument("--out", metavar="TABLE", help="also write the evidence after each recording to this table")
    option(parser, "--quiet")
    tracking = parser.add_argument_group("options for MLflow", "With any of these, the evidence is a metric of a run.")
    tracking.add_argument("--track", action="store_true", help="record it with MLflow's own settings")
    option(tracking, "--experiment")
    option(tracking, "--run-name")


def drift(args: argparse.Namespace) -> int:
    from anomalyvae.scoring import drift

    write = writer(args.out)
    scores = _read_scores(args)
    found = drift.drift(scores)
    write(found)
    if not args.quiet:
        lines = [drift.drift_in_words(found), drift.signals_in_words(found)]
        say("\n".join(printable(line) for line in lines if line))
    if args.track or args.experiment or args.run_name:
        quiet_mlflow()
        from anomalyvae.tracking.drift import track_drift

        where = track_drift(
            found, drift.summary_of(found), scores.model_id, experiment=args.experiment, run_name=args.run_name
        )
        if where is not None and not args.quiet:
            say(f"Tracked: {where}")
    code = tell_failed(scores.failed, " has no scores")
    return LEFT if found["alarm"].any() else code
