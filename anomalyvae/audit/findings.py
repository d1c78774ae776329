"""What an audit found, as text, Markdown or a page of HTML."""

from html import escape
from typing import Any, NamedTuple

import pandas as pd

from anomalyvae.audit.audit import Audit

_SHOWN = 10  # rows of a table
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Bias audit</title><style>
body {{ font: 15px/1.5 "Helvetica Neue", Arial, sans-serif; color: #1f2a35; max-width: 60em; margin: 2em auto }}
table {{ border-collapse: collapse; font-size: 13px }} td, th {{ padding: .25em .8em; text-align: left }}
th, td {{ border-bottom: 1px solid #d5dbe1 }}
</style></head><body><h1>Bias audit</h1>
{body}
</body></html>
"""


class Finding(NamedTuple):
    """A heading, what was found in a sentence or more, and the rows that show it."""

    title: str
    text: str
    table: pd.DataFrame


def findings(found: Audit) -> list[Finding]:
    """What an audit has to say, part by part."""
    parts = [_regions(found), _duplicates(found)]
    if found.leaks is not None:
        parts.append(_leaks(found))
    if found.groups is not None:
        parts.append(_groups("Groups", found.groups))
    if found.reweighted is not None:
        parts.append(_groups("Groups, learned with the weights", found.reweighted))
    return [*parts, _weights(found)]


def as_text(found: Audit) -> str:
    """For a terminal."""
    return "\n\n".join(
        "\n".join([part.title.upper(), part.text, *([_cells(part).to_string(index=False)] if len(part.table) else [])])
        for part in findings(found)
    )


def as_markdown(found: Audit) -> str:
    """For a README or a merge request."""
    blocks = ["# Bias audit"]
    for part in findings(found):
        blocks += [f"## {part.title}", part.text]
        if len(part.table):
            lines = [part.table.columns, ["---"] * part.table.shape[1], *_cells(part).to_numpy()]
            cells = ([str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
            blocks.append("\n".join(f"| {' | '.join(line)} |" for line in cells))
    return "\n\n".join(blocks) + "\n"


def as_html(found: Audit) -> str:
    """For a browser: one page that loads nothing. What stands in cells is escaped."""
    body = []
    for part in findings(found):
        body += [f"<h2>{escape(part.title)}</h2>", f"<p>{escape(part.text)}</p>"]
        if len(part.table):
            body.append(_cells(part).to_html(index=False, border=0))
    return _PAGE.format(body="\n".join(body))


def _regions(found: Audit) -> Finding:
    kinds = found.regions.groupby("kind")["rows"].agg(["size", "sum"])
    said = [f"{size} {kind} ({rows:,} rows)" for kind, (size, rows) in kinds.iterrows() if kind]
    text = f"{len(found.regions)} regions of the latent space: {', '.join(said) or 'none is thin or crowded'}."
    apart = (
        found.columns.assign(
            said=[
                f"{column} {direction} by {abs(difference):.1f}"
                for column, direction, difference in zip(
                    found.columns["column"], found.columns["direction"], found.columns["difference"], strict=True
                )
            ]
        )
        .groupby("region")["said"]
        .agg("; ".join)
    )
    marked = found.regions[found.regions["kind"] != ""]
    table = pd.concat([marked[marked["kind"] != "crowded"], marked[marked["kind"] == "crowded"].iloc[::-1]])[:_SHOWN]
    return Finding("Regions", text, table.assign(set_apart_by=apart.reindex(table.index)).reset_index())


def _duplicates(found: Audit) -> Finding:
    count = found.duplicates["kind"].value_counts()
    text = (
        f"{count.get('exact', 0):,} rows equal an earlier one, {count.get('near', 0):,} are nearly equal to another"
        f"{_sought(found)}."
    )
    return Finding("Duplicates", text, found.duplicates[:_SHOWN])


def _leaks(found: Audit) -> Finding:
    leaks, shared = found.leaks, found.shared_recordings
    assert leaks is not None  # noqa: S101
    sides = ", ".join(f"{rows:,} of {side}" for side, rows in leaks["split"].value_counts(sort=False).items())
    text = f"Rows with a twin on another side of the split: {sides or 'none'}{_sought(found)}."
    if shared is not None:
        text += f" Recordings on several sides: {', '.join(shared['recording'][:_SHOWN]) or 'none'}."
    return Finding("Leaks", text, leaks[:_SHOWN])


def _groups(title: str, figures: pd.DataFrame) -> Finding:
    apart = figures[(figures["difference_low"] > 0) | (figures["difference_high"] < 0)]
    said = [
        f"{row['group']}: {row['figure']} {_figure(row['value'])} ({_figure(row['low'])} to {_figure(row['high'])}), "
        f"{_figure(abs(row['difference']))} {'above' if row['difference'] > 0 else 'below'} all others"
        for _, row in apart.iterrows()
    ]
    text = "; ".join(said) or "No figure of a group differs from that of all other rows by more than chance may"
    return Finding(title, f"{text}. Intervals are of 95 %; rows were judged by what others taught.", figures)


def _weights(found: Audit) -> Finding:
    weights, rows = found.weights, found.effective_rows
    text = (
        f"From {weights.min():.2f} to {weights.max():.2f}, of mean 1. With them, the {len(weights):,} rows tell as "
        f"much as {rows:,.0f} rows of equal weight."
    )
    return Finding("Weights", text, pd.DataFrame())


def _sought(found: Audit) -> str:
    few, all_rows = found.near_sought, len(found.weights)
    return "" if few == all_rows else f" (near ones were sought among {few:,} of {all_rows:,} rows)"


def _cells(part: Finding) -> pd.DataFrame:
    return part.table.map(_figure)


def _figure(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return "" if pd.isna(value) else f"{value:.3f}"
