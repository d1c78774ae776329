"""The verbs that examine a table of rows: compare, audit."""

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalyvae.cli.console import (
    DONE,
    local_model,
    names,
    option,
    read_tables,
    reading_arguments,
    reading_options,
    say,
    steps_shown,
    writer,
)
from anomalyvae.folders import refuse_unwritable, write_text

if TYPE_CHECKING:
    import pandas as pd

    from anomalyvae.audit import Audit

_NAMED = ("group", "split", "label", "recording")  # options of audit that name a column
_TABLE = "a CSV or Parquet file of rows"
_POSITIVE = "the label of outliers, if labels are not 0 and 1"

# --- compare --------------------------------------------------------------------------------------------


def compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help=_TABLE)
    parser.add_argument(
        "--label", metavar="COLUMN",
        help="column that is 1 (or true) for outliers and 0 for normal rows; without it, only speed and the agreement "
        "with our detector are measured",
    )  # fmt: skip
    parser.add_argument("--positive", metavar="VALUE", help=_POSITIVE)
    parser.add_argument(
        "--against", type=names, metavar="A,B", default=("knn", "iforest", "lunar"),
        help="some of knn, lof, lunar, iforest, ecod, pca, gmm, ocsvm, autoencoder, vae (default: knn,iforest,lunar)",
    )  # fmt: skip
    option(parser, "--columns", help="columns to use (default: all but the label)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="repetitions to average over (default: 3)")
    parser.add_argument(
        "--learn", type=int, default=5000, metavar="N", help="rows that each detector learns at most (default: 5000)"
    )
    option(parser, "--set")
    reading_arguments(parser, time=False, buses=False)
    parser.add_argument("--out", metavar="TABLE", help="also write the result to this .csv or .parquet file")
    option(parser, "--quiet")


def compare(args: argparse.Namespace) -> int:
    from anomalyvae.evaluate.job import detector_arguments

    write = writer(args.out)
    settings = detector_arguments(dict(args.settings), "--set")
    rows = read_tables([args.file], args.columns, reading_options(args), [args.label] if args.label else [])
    with steps_shown(args.quiet) as progress:
        from anomalyvae.detector import VAEOutlierDetector
        from anomalyvae.peers import compare

        found = compare(
            rows, args.label, args.against, positive=args.positive, detector=VAEOutlierDetector(**settings),
            seeds=args.seeds, learn=args.learn, progress=progress,
        )  # fmt: skip
    write(found.reset_index())
    if not args.quiet:
        say(_comparison_text(found))
        say(f"\n{found.attrs['protocol']}")
    return DONE


def _comparison_text(found: "pd.DataFrame") -> str:
    """One line per detector. A detector that failed has its error instead of figures."""
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


# --- audit ----------------------------------------------------------------------------------------------


def audit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help=_TABLE)
    parser.add_argument("--group", metavar="COLUMN", help="compare alarm rates between the values of this column")
    parser.add_argument("--label", metavar="COLUMN", help="column with 1 (or true) for outliers, which are not learned")
    parser.add_argument("--positive", metavar="VALUE", help=_POSITIVE)
    parser.add_argument("--split", metavar="COLUMN", help="column with train, test, ...: find copies across splits")
    parser.add_argument("--recording", metavar="COLUMN", help="column with the recording of each row: hold out by it")
    option(parser, "--columns", help="columns to use (default: all but those above)")
    parser.add_argument("--learn-group", action="store_true", help="also use the column of --group")
    parser.add_argument("--reweighted", action="store_true", help="also compare groups after a fit with the weights")
    parser.add_argument("--weights", metavar="TABLE", help="write a sample_weight per row to this .csv or .parquet")
    model = parser.add_mutually_exclusive_group()
    option(model, "--model", required=False, help="examine the latent space of this model instead of fitting one")
    option(model, "--set")
    reading_arguments(parser, time=False, buses=False)
    parser.add_argument("--out", metavar="PATH", help="write a report (.html or .md), or a folder of report and tables")
    option(parser, "--quiet")


def audit(args: argparse.Namespace) -> int:
    write = writer(args.weights)
    out = None if args.out is None else Path(args.out)
    if out is not None and out.suffix not in ("", ".html", ".md"):
        raise ValueError(f"--out {out} is neither a folder nor an .html or .md file. Rename it.")
    if out is not None:
        refuse_unwritable(out if out.suffix else out / "report.md")
    if args.positive is not None and args.label is None:
        raise ValueError("--positive is given without --label. Name the column of labels, too.")
    found = _audit(args)
    write(found.weights.rename_axis("row").reset_index())
    if out is not None:
        _write_audit(found, out, Path(args.file).name)
    if not args.quiet:
        from anomalyvae.audit import as_text

        say(as_text(found, Path(args.file).name))
    return DONE


def _audit(args: argparse.Namespace) -> "Audit":
    from anomalyvae.evaluate.job import detector_arguments

    settings = detector_arguments(dict(args.settings), "--set")
    with nullcontext() if args.model is None else local_model(args.model) as model:
        from anomalyvae.audit import audit
        from anomalyvae.detector import VAEOutlierDetector

        if model is None:
            detector, columns = VAEOutlierDetector(**{"random_state": 0, **settings}), args.columns
        else:
            from anomalyvae.models import load

            detector = load(model)
            columns = args.columns or getattr(detector, "feature_names_in_", None)
        table, roles = _audit_table(args, columns)
        return audit(table, detector, reweighted=args.reweighted, **roles)


def _audit_table(args: argparse.Namespace, columns: Any) -> "tuple[pd.DataFrame, dict[str, Any]]":
    """The rows, and the columns with a role of their own: group, label, split and recording."""
    named = [name for role in _NAMED if (name := getattr(args, role)) is not None]
    table = read_tables([args.file], columns, reading_options(args), named)
    unknown = [name for name in named if name not in table]
    if unknown:
        raise ValueError(f"{args.file} has no column {', '.join(unknown)}. Use one of {', '.join(table.columns)}.")
    roles: dict[str, Any] = {role: getattr(args, role) for role in _NAMED}
    if args.model is not None and args.group in (columns if columns is not None else ()) and not args.learn_group:
        raise ValueError(f"The model has learned the column of --group {args.group}. Pass --learn-group.")
    if args.learn_group and args.group is not None:
        roles["group"] = table[args.group]
    label = roles.pop("label")
    roles["y"] = label
    if args.positive is not None:
        from anomalyvae.detector.categories import read_as

        values = table.pop(label).astype("str")
        known = sorted(set(values))
        positive = read_as({value: value for value in known}).get(args.positive)  # a file may have 1 as 1.0
        if positive is None:
            raise ValueError(
                f"Column {label} has no value {args.positive} (--positive). Use one of {', '.join(known[:9])}."
            )
        roles["y"] = (values == positive).to_numpy()
    return table, roles


def _write_audit(found: "Audit", out: Path, about: str) -> None:
    from anomalyvae.audit import as_html, as_markdown

    if out.suffix:
        out.parent.mkdir(parents=True, exist_ok=True)
        text = as_html(found, about) if out.suffix == ".html" else as_markdown(found, about)
        write_text(out, text, errors="backslashreplace")
        return
    out.mkdir(parents=True, exist_ok=True)
    for name, table in found.tables().items():
        writer(str(out / f"{name}.csv"))(table)
    write_text(out / "report.md", as_markdown(found, about), errors="backslashreplace")
