"""The verb health: which sensors of recordings can be trusted, when, and why not."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from anomalyvae.cli.console import DATABASES, DONE, QUIET, SOME_FAILED, bundle_at, setting, tell
from anomalyvae.cli.tables import writer

if TYPE_CHECKING:
    import pandas as pd

_LINES = 40


def health_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", nargs="+", metavar="SOURCE", help="a folder, files, or a quoted pattern: 'drives/2026-*/*.parquet'"
    )
    parser.add_argument(
        "--out", metavar="TABLE", help="write the stretches there, too: a name that ends in .parquet or .csv"
    )
    parser.add_argument("--model", required=True, metavar="BUNDLE", help="folder of a model that was fitted to windows")
    parser.add_argument(
        "--range", action="append", default=[], type=setting, metavar="SIGNAL=[LOW,HIGH]", dest="ranges",
        help="physical range of a signal, in place of what was learned; may be repeated",
    )  # fmt: skip
    parser.add_argument("--bad", action="store_true", help="leave out what is only suspect")
    parser.add_argument("--dbc", nargs="+", metavar="FILE", help=DATABASES)
    parser.add_argument("--quiet", action="store_true", help=QUIET)


def health(args: argparse.Namespace) -> int:
    import pandas as pd

    from anomalyvae.health.grades import stretches
    from anomalyvae.health.sensors import Sensors, watched
    from anomalyvae.recordings import read_log
    from anomalyvae.scoring.inputs import inputs_of

    write = None if args.out is None else writer(args.out)
    ranges = dict(args.ranges)
    for name, limits in ranges.items():
        if not (isinstance(limits, list) and all(isinstance(limit, int | float) for limit in limits)):
            raise ValueError(f"Got --range {name}={limits}, expected [LOW,HIGH]. Write --range '{name}=[0,90]'.")
    root, names, _ = inputs_of(args.source, True, Path(args.out or os.devnull).resolve())
    parts, failed = [], 0
    with bundle_at(args.model) as bundle:
        sensors = Sensors.of(bundle, ranges)
        recipe = watched(sensors.recipe)
        for name in names:
            try:
                windows = recipe.windows(read_log(root / name, signals=recipe.needed, databases=args.dbc))
            except (OSError, ValueError) as error:
                tell(f"failed: {name}: {error}")
                failed += 1
                continue
            if len(windows):
                parts.append(stretches(sensors.grade(windows)))
    if failed == len(names):
        raise ValueError(f"Got {failed} files, none of which can be graded, expected recordings. See above.")
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["grade"])
    if args.bad:
        table = table[table["grade"] == "bad"].reset_index(drop=True)
    if write is not None:
        write(table)
    if not args.quiet:
        print(in_words(table, len(names) - failed))
    return SOME_FAILED if failed else DONE


def in_words(table: "pd.DataFrame", recordings: int) -> str:
    """Stretches as lines for a terminal, the bad and the long ones first."""
    if not len(table):
        return f"{recordings:,} recordings: every signal is good"
    bad = int((table["grade"] == "bad").sum())
    lines = [f"{recordings:,} recordings: {bad:,} bad and {len(table) - bad:,} suspect stretches of a signal"]
    order = table.assign(shorter=table["start_s"] - table["end_s"]).sort_values(["grade", "shorter"], kind="stable")
    for row in order.head(_LINES).to_dict("records"):
        when = f"{row['start_s']:.1f} to {row['end_s']:.1f} s"
        lines.append(f"{row['grade']:<8} {row['recording']}  {when:<20} {row['signal']}: {row['reason']}")
    if len(table) > _LINES:
        lines.append(f"and {len(table) - _LINES:,} more; --out TABLE has all")
    # A name of a file or signal must not steer the terminal.
    return "\n".join("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line) for line in lines)
