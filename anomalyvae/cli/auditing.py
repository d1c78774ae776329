"""The verb audit."""

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalyvae.cli.console import DONE, QUIET, bundle_at, names, setting
from anomalyvae.cli.tables import read_table, writer

if TYPE_CHECKING:
    import pandas as pd

    from anomalyvae.audit.audit import Audit

_NAMED = ("group", "split", "label", "recording")


def audit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="CSV or Parquet: a table of rows")
    parser.add_argument("--group", metavar="COLUMN", help="compare alarms between its values; it is not learned")
    parser.add_argument(
        "--label", metavar="COLUMN", help="1 (or true) for rows known to be strange; they are not learned"
    )
    parser.add_argument("--positive", metavar="VALUE", help="the label's value for those, where it is not 0 and 1")
    parser.add_argument("--split", metavar="COLUMN", help="train, test, ...: look for rows on several sides")
    parser.add_argument("--recording", metavar="COLUMN", help="the recording of each row, held out as a whole")
    parser.add_argument(
        "--columns", type=names, metavar="A,B", help="columns to look at (default: all but those above)"
    )
    parser.add_argument("--learn-group", action="store_true", help="look at the column of --group, too")
    parser.add_argument("--reweighted", action="store_true", help="also judge groups after learning with the weights")
    parser.add_argument("--weights", metavar="TABLE", help="write a sample_weight per row here: .csv or .parquet")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", metavar="BUNDLE", help="look at the latent space of this model, or of models:/NAME")
    model.add_argument(
        "--set", action="append", default=[], type=setting, metavar="NAME=VALUE", dest="settings",
        help="an argument of the detector that is fitted, such as max_epochs=50; may be repeated",
    )  # fmt: skip
    parser.add_argument("--out", metavar="PATH", help="a report (.html or .md), or a folder for it and every table")
    parser.add_argument("--quiet", action="store_true", help=QUIET)


def audit(args: argparse.Namespace) -> int:
    write = None if args.weights is None else writer(args.weights)
    out = None if args.out is None else Path(args.out)
    if out is not None and out.suffix not in ("", ".html", ".md"):
        raise ValueError(f"Got --out {out}, expected a folder, or a name that ends in .html or .md. Rename it.")
    if args.positive is not None and args.label is None:
        raise ValueError("Got --positive without --label, expected both. Name the label, too.")
    found = _found(args)
    if write is not None:
        write(found.weights.rename_axis("row").reset_index())
    if out is not None:
        _write(found, out)
    if not args.quiet:
        from anomalyvae.audit.findings import as_text

        print(as_text(found))
    return DONE


def _found(args: argparse.Namespace) -> "Audit":
    from anomalyvae.evaluate.job import detector_arguments

    settings = detector_arguments(dict(args.settings), "--set")
    with nullcontext() if args.model is None else bundle_at(args.model) as bundle:
        from anomalyvae.audit.audit import audit
        from anomalyvae.detector import VAEOutlierDetector

        if bundle is None:
            detector, columns = VAEOutlierDetector(**{"random_state": 0, **settings}), args.columns
        else:
            from anomalyvae.models import load

            detector = load(bundle)
            columns = args.columns or getattr(detector, "feature_names_in_", None)
        table, given = _table(args, columns)
        return audit(table, detector, reweighted=args.reweighted, **given)


def _table(args: argparse.Namespace, columns: Any) -> "tuple[pd.DataFrame, dict[str, Any]]":
    """The rows to look at, and the columns that are not among them."""
    named = [name for option in _NAMED if (name := getattr(args, option)) is not None]
    table = read_table(Path(args.file), None if columns is None else [*dict.fromkeys([*columns, *named])])
    unknown = [name for name in named if name not in table]
    if unknown:
        raise ValueError(
            f"Got {args.file} without {', '.join(unknown)}, expected one of its columns: {', '.join(table.columns)}."
        )
    given: dict[str, Any] = {option: getattr(args, option) for option in _NAMED}
    if args.model is not None and args.group in (columns if columns is not None else ()) and not args.learn_group:
        raise ValueError(
            f"Got --group {args.group}, which the model has learned. Pass --learn-group, or another model."
        )
    if args.learn_group and args.group is not None:
        given["group"] = table[args.group]
    label = given.pop("label")
    given["y"] = label
    if args.positive is not None:
        values = table.pop(label).astype("str")
        if args.positive not in set(values):
            raise ValueError(
                f"Got --positive {args.positive}, expected a value of {label}: {', '.join(sorted(set(values))[:9])}."
            )
        given["y"] = (values == args.positive).to_numpy()
    return table, given


def _write(found: "Audit", out: Path) -> None:
    from anomalyvae.audit.findings import as_html, as_markdown

    if out.suffix:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(as_html(found) if out.suffix == ".html" else as_markdown(found), encoding="utf-8")
        return
    out.mkdir(parents=True, exist_ok=True)
    for name, table in found.tables().items():
        writer(str(out / f"{name}.csv"))(table)
    (out / "report.md").write_text(as_markdown(found), encoding="utf-8")
