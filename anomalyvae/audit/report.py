"""An audit as text, Markdown or a page of HTML."""

from html import escape
from statistics import NormalDist
from typing import Any, NamedTuple

import pandas as pd

from anomalyvae.audit.auditing import Audit
from anomalyvae.untrusted import printable

_SHOWN = 10  # rows of a table
_DIFFERENCE = ["column", "direction", "difference"]
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
body {{ font: 15px/1.5 "Helvetica Neue", Arial, sans-serif; color: #1f2a35; max-width: 60em; margin: 2em auto;
  padding: 0 1em; overflow-wrap: break-word }}
.scroll {{ overflow-x: auto; overflow-wrap: normal }}
table {{ border-collapse: collapse; font-size: 13px }} td, th {{ padding: .25em .8em; text-align: left }}
th, td {{ border-bottom: 1px solid #d5dbe1 }}
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""


class Finding(NamedTuple):
    """A heading, a summary, and a table."""

    title: str
    text: str
    table: pd.DataFrame


def findings(found: Audit) -> list[Finding]:
    """The parts of the report."""
    parts = [_regions(found)]
    if found.outliers is not None:
        parts.append(_outliers(found.outliers))
    parts.append(_duplicates(found))
    if found.leaks is not None:
        parts.append(_leaks(found, found.leaks))
    if found.groups is not None:
        parts.append(_groups("Groups", found.groups))
    if found.reweighted is not None:
        parts.append(_groups("Groups, with weights", found.reweighted))
    return [*parts, _weights(found)]


def as_text(found: Audit, about: str = "") -> str:
    """For a terminal; ``about`` is the name of the data."""
    blocks = [f"{_title(about)}. {_introduction(found)}"]
    for part in findings(found):
        cells = [_cells(part).to_string(index=False)] if len(part.table) else []
        blocks.append("\n".join([part.title.upper(), part.text, *cells]))
    return "\n\n".join(blocks)


def as_markdown(found: Audit, about: str = "") -> str:
    """For a README or a merge request; ``about`` is the name of the data."""
    blocks = [f"# {_no_markup(_title(about))}", _introduction(found)]
    for part in findings(found):
        blocks += [f"## {part.title}", _no_markup(part.text)]
        if len(part.table):
            lines = [part.table.columns, ["---"] * part.table.shape[1], *_cells(part).to_numpy()]
            cells = ([_no_markup(str(cell)).replace("|", "\\|") for cell in line] for line in lines)
            blocks.append("\n".join(f"| {' | '.join(line)} |" for line in cells))
    return "\n\n".join(blocks) + "\n"


def _title(about: str) -> str:
    return f"Bias audit of {printable(about)}" if about else "Bias audit"


def _introduction(found: Audit) -> str:
    """What the audit is about."""
    asked = ["which kinds of rows are rare or frequent"]
    asked += ["which rows are unlike all others"] if found.outliers is not None else []
    asked += ["which rows are there twice"]
    asked += ["which are in several parts of the split"] if found.leaks is not None else []
    asked += ["whether a detector treats groups alike"] if found.groups is not None else []
    return (
        f"The audit asks of {len(found.weights):,} rows {', '.join(asked[:-1])} and {asked[-1]}. It calls a region "
        "sparse or dense, and a group different, only where an interval excludes that chance explains it."
    )


def _no_markup(text: str) -> str:
    return printable(text.replace("\n", " ")).replace("<", "&lt;")


def as_html(found: Audit, about: str = "") -> str:
    """For a browser: one page without scripts or external files; cells are escaped. ``about`` names the data."""
    body = [f"<p>{_introduction(found)}</p>"]
    for part in findings(found):
        body += [f"<h2>{escape(part.title)}</h2>", f"<p>{escape(printable(part.text))}</p>"]
        if len(part.table):
            body.append(f'<div class="scroll">{_cells(part).to_html(index=False, border=0)}</div>')
    return PAGE.format(title=escape(_title(about)), body="\n".join(body))


def _regions(found: Audit) -> Finding:
    regions, columns = found.regions, found.columns
    kinds = regions.groupby("kind")["rows"].agg(["size", "sum"])
    counts = [f"{size} {kind} ({rows:,} rows)" for kind, (size, rows) in kinds.iterrows() if kind]
    text = f"{len(regions)} regions of the latent space: {', '.join(counts) or 'none is sparse or dense'}."
    differences = pd.Series(
        [
            f"{column} {direction} by {abs(difference):.1f}"
            for column, direction, difference in columns.reindex(columns=_DIFFERENCE).itertuples(index=False)
        ],
        dtype=object,
    )
    differs_in = differences.groupby(columns["region"].to_numpy()).agg("; ".join)
    table = pd.concat([regions[regions["kind"] == "sparse"], regions[regions["kind"] == "dense"].iloc[::-1]])[:_SHOWN]
    return Finding("Regions", text, table.assign(differs_in=differs_in.reindex(table.index)).reset_index())


def _outliers(outliers: pd.DataFrame) -> Finding:
    text = f"Rows that are unlike all others, at an estimated false-discovery rate of 5 %: {len(outliers):,}."
    return Finding("Outliers", text, outliers[:_SHOWN])


def _duplicates(found: Audit) -> Finding:
    count = found.duplicates["kind"].value_counts()
    text = f"Rows that equal an earlier row: {count.get('exact', 0):,}; nearly equal another: {count.get('near', 0):,}"
    return Finding("Duplicates", f"{text}{_searched(found)}.", found.duplicates[:_SHOWN])


def _leaks(found: Audit, leaks: pd.DataFrame) -> Finding:
    parts = ", ".join(f"{rows:,} of {part}" for part, rows in leaks["split"].value_counts(sort=False).items())
    text = f"Rows with a duplicate in another part of the split: {parts or 'none'}{_searched(found)}."
    if found.shared_recordings is not None:
        shared = ", ".join(found.shared_recordings["recording"][:_SHOWN])
        text += f" Recordings in several parts: {shared or 'none'}."
    return Finding("Leaks", text, leaks[:_SHOWN])


def _groups(title: str, figures: pd.DataFrame) -> Finding:
    compared = int(figures["difference_low"].notna().sum())
    different = figures[_excludes_none(figures, compared)]
    lines = [
        f"{row['group']}: {row['figure']} {_figure(row['value'])} ({_figure(row['low'])} to {_figure(row['high'])}), "
        f"{_figure(abs(row['difference']))} {'above' if row['difference'] > 0 else 'below'} all others"
        for _, row in different.iterrows()
    ]
    text = "; ".join(lines) or "No group differs from all other rows by more than chance explains"
    note = "Intervals are 95 % confidence intervals, on held-out rows"
    if compared > 1:
        note += f"; a group differs if its interval for {compared} comparisons at once (Bonferroni) excludes 0"
    return Finding(title, f"{text}. {note}.", figures)


def _excludes_none(figures: pd.DataFrame, comparisons: int) -> "pd.Series[bool]":
    """Whether the interval of each difference, widened for so many comparisons at once, excludes no difference."""
    normal = NormalDist()
    wider = normal.inv_cdf(1 - 0.025 / max(comparisons, 1)) / normal.inv_cdf(0.975)
    difference, low, high = (figures[name] for name in ("difference", "difference_low", "difference_high"))
    return (difference - wider * (difference - low) > 0) | (difference + wider * (high - difference) < 0)


def _weights(found: Audit) -> Finding:
    weights, rows = found.weights, found.effective_rows
    text = (
        f"From {weights.min():.2f} to {weights.max():.2f}, of mean 1. With them, the effective sample size of "
        f"{len(weights):,} rows is {rows:,.0f}."
    )
    return Finding("Weights", text, pd.DataFrame())


def _searched(found: Audit) -> str:
    few, all_rows = found.near_searched, len(found.weights)
    return "" if few == all_rows else f" (searched for near duplicates: {few:,} of {all_rows:,} rows)"


def _cells(part: Finding) -> pd.DataFrame:
    return part.table.map(_figure).rename(columns=printable)


def _figure(value: Any) -> str:
    if not isinstance(value, float):
        return printable(str(value))
    return "" if pd.isna(value) else f"{value:.3f}"
