"""The verb compare."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from anomalyvae.cli.console import DONE, QUIET, names, setting, steps_shown
from anomalyvae.cli.tables import read_table, writer

if TYPE_CHECKING:
    import pandas as pd


def compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="CSV or Parquet: a table of rows")
    parser.add_argument(
        "--label", metavar="COLUMN",
        help="column that is 1 (or true) for outliers, 0 for normal rows; without it, only agreement with ours and "
        "speed can be told",
    )  # fmt: skip
    parser.add_argument("--positive", metavar="VALUE", help="the label's value for outliers, where it is not 0 and 1")
    parser.add_argument(
        "--against", type=names, metavar="A,B", default=("knn", "iforest", "lunar"),
        help="some of knn, lof, lunar, iforest, ecod, pca, gmm, ocsvm, autoencoder, vae (default: knn,iforest,lunar)",
    )  # fmt: skip
    parser.add_argument("--columns", type=names, metavar="A,B", help="columns to look at (default: all but the label)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="repetitions; figures are means (default: 3)")
    parser.add_argument(
        "--set", action="append", default=[], type=setting, metavar="NAME=VALUE", dest="settings",
        help="an argument of our detector, such as beta=0.5; may be repeated",
    )  # fmt: skip
    parser.add_argument("--out", metavar="TABLE", help="write the figures here too: .csv or .parquet")
    parser.add_argument("--quiet", action="store_true", help=QUIET)


def compare(args: argparse.Namespace) -> int:
    from anomalyvae.evaluate.job import detector_arguments

    write = None if args.out is None else writer(args.out)
    settings = detector_arguments(dict(args.settings), "--set")
    columns = args.columns and list(dict.fromkeys([*args.columns, *([args.label] if args.label else [])]))
    rows = read_table(Path(args.file), columns)
    with steps_shown(args.quiet) as progress:
        from anomalyvae.detector import VAEOutlierDetector
        from anomalyvae.pyod_adapter import compare

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
