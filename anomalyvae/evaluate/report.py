"""One self-contained HTML page for a run: how well, when, and why.

The page asks nothing of the network. Charts are SVG inside ``<img>``, where no script can run, and everything
else passes an escaping template: names of recordings and signals are whatever somebody wrote into a file.
"""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import pandas as pd

from anomalyvae.evaluate.charts import clock, timeline, window
from anomalyvae.review.reasons import WindowView

OURS = "anomalyvae"
HEADLINES = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "event_recall": "event recall",
}
_TIMELINES = 12  # recordings drawn over time; the page says so where there are more
_FLAG_ROWS = 20


def need_extra() -> None:
    """Raise ImportError, saying what to install, where the report cannot be made."""
    missing = [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"Got no {' and no '.join(missing)}, expected what the report needs. Run: pip install 'anomalyvae[report]'."
        )


def render_report(
    title: str,
    figures: Mapping[str, Any],
    *,
    scores: pd.DataFrame,
    flags: pd.DataFrame,
    events: pd.DataFrame,
    views: Sequence[WindowView] = (),
) -> str:
    """Render a run as one HTML page.

    Parameters
    ----------
    title : str
    figures : mapping
        What ``metrics.json`` holds.
    scores : DataFrame
        One row per window: ``recording``, ``start_s``, ``end_s``, ``anomaly_score``, ``is_outlier``.
    flags : DataFrame
        One row per event that was flagged, strangest first; see `anomalyvae.review.reasons.explained_flags`.
    events : DataFrame
        What is known: ``recording`` and ``time_s``, or ``start_s`` and ``end_s``. May have no rows.
    views : sequence of WindowView
        Windows to draw signal by signal.

    Returns
    -------
    str
        HTML, without a single request to elsewhere.

    Raises
    ------
    ImportError
        If the extra ``report`` is missing.
    """
    need_extra()
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "figure": _figure,
        "clock": clock,
        "percent": lambda share: f"{100 * share:.0f} %",
    }
    template = environment.from_string(
        files("anomalyvae.evaluate").joinpath("report.html.jinja").read_text(encoding="utf-8")
    )
    tolerance_s = figures["evaluation"]["tolerance_s"]
    shown = _most_flagged(scores, flags)
    not_good = [item for fold in figures["folds"].values() for item in fold.get("not_good", ())]
    return template.render(
        title=title,
        ours=OURS,
        zip=zip,
        headlines=HEADLINES,
        figures=figures,
        methods=_methods(figures),
        verdict=_verdict(figures),
        recordings_in_all=scores["recording"].nunique(),
        timelines=[
            {
                "recording": name,
                "figures": figures["folds"][name],
                "flags": int((flags["recording"] == name).sum()),
                "image": timeline(
                    scores[scores["recording"] == name],
                    flags[flags["recording"] == name],
                    events[events["recording"] == name],
                    figures["folds"][name]["own_threshold"]["threshold"],
                    tolerance_s,
                ),
            }
            for name in shown
        ],
        windows=[{"view": view, "image": window(view)} for view in views],
        flags=flags.head(_FLAG_ROWS).to_dict("records"),
        flags_in_all=len(flags),
        not_good=sorted(not_good, key=lambda item: (item["grade"], item["start_s"] - item["end_s"]))[:_FLAG_ROWS],
        not_good_in_all=len(not_good),
        events_in_all=sum(fold["events"] for fold in figures["folds"].values()),
    )


# --- words and numbers ----------------------------------------------------------------------------------


def _methods(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Table rows, best average precision first; the best of each column is marked."""
    named = {OURS: figures["mean"]} | {name: entry["mean"] for name, entry in figures["baselines"].items()}
    best = {
        key: max((mean[key] for mean in named.values() if mean[key] is not None), default=None) for key in HEADLINES
    }
    rows = [
        {
            "name": name,
            "cells": [(mean[key], mean[key] is not None and mean[key] == best[key]) for key in HEADLINES],
        }
        for name, mean in named.items()
    ]
    return sorted(rows, key=lambda row: -(named[row["name"]]["average_precision"] or 0.0))


def _verdict(figures: Mapping[str, Any]) -> str:
    """Say in a sentence who is ahead, also where it is not us."""
    if figures["mean"]["auroc"] is None:
        return "No recording has windows both near to and far from a known event, so nothing can be measured."
    ahead: dict[str, list[str]] = {}
    for key, label in HEADLINES.items():
        own = figures["mean"][key]
        means = {name: entry["mean"][key] for name, entry in figures["baselines"].items()}
        rival = max(means, key=lambda name: means[name])
        if round(means[rival], 3) > round(own, 3):
            ahead.setdefault(rival, []).append(f"{label} ({means[rival]:.3f} to {own:.3f})")
    if ahead:
        parts = [f"{rival} in {', '.join(labels)}" for rival, labels in ahead.items()]
        return f"A plain method is ahead of the detector here: {'; '.join(parts)}."
    return "The detector is level with or ahead of every plain method in all three figures."


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _most_flagged(scores: pd.DataFrame, flags: pd.DataFrame) -> list[str]:
    """Choose the recordings to draw, in their order: all, or where they are many those with most flags."""
    names = list(scores["recording"].unique())
    counts = flags["recording"].value_counts()
    chosen = sorted(names, key=lambda name: -counts.get(name, 0))[:_TIMELINES]
    return [name for name in names if name in chosen]
