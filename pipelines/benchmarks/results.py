"""Results of a benchmark: stored one by one, so that an interrupted run resumes, and printed as Markdown."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).parents[2]


def kept_results(store: Path) -> list[dict[str, Any]]:
    """The results of earlier runs. A line that a kill cut short is ignored."""
    results = []
    for line in store.read_text(encoding="utf-8").splitlines() if store.exists() else []:
        try:
            results.append(json.loads(line))
        except ValueError:
            continue
    return results


def keep(store: Path, results: list[dict[str, Any]]) -> None:
    """Add results to a store, after the end of a line that a kill cut short."""
    with store.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            file.write(b"" if file.read() == b"\n" else b"\n")
        file.write("".join(json.dumps(result) + "\n" for result in results).encode())


def made_at() -> str:
    """The commit of the code, for a report."""
    describe = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
    return f"commit {commit or 'unknown'}"


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown, with three decimals."""
    lines = [[str(table.index.name or ""), *map(str, table.columns)], ["---"] * (table.shape[1] + 1)]
    for name, row in zip(table.index, table.astype(object).to_numpy(), strict=True):
        lines.append([str(name), *("" if pd.isna(v) else f"{v:.3f}" if isinstance(v, float) else str(v) for v in row)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
