"""One self-contained HTML page for a run: how good the scores are, when they are high, and why.

The page loads nothing from the network. Charts are SVG inside ``<img>``, where no script can run. The template escapes
everything else, because names of recordings and signals come from files and may hold anything.
"""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pandas as pd

from anomalyvae.evaluate.charts import clock, fleet, timeline, window
from anomalyvae.fleet import FEWEST
from anomalyvae.review.reasons import WindowView
from anomalyvae.untrusted import printable

if TYPE_CHECKING:
    from jinja2 import Template

OURS = "anomalyvae"
HEADLINES = {"auroc": "AUROC", "average_precision": "average precision", "event_recall": "event recall"}
_TIMELINES = 12  # recordings with a chart; the page says if there are more
_FLAG_ROWS = 20
_RANKED = 20


def need_extra() -> None:
    """Raise ImportError if a package for the report is missing."""
    missing = [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"The report needs {' and '.join(missing)}. Install it with: pip install 'anomalyvae[report]'."
        )


def render_report(
    title: str,
    figures: Mapping[str, Any],
    *,
    scores: pd.DataFrame,
    flags: pd.DataFrame,
    events: pd.DataFrame,
    ranking: pd.DataFrame | None = None,
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
        One row per flagged event, highest score first; see `anomalyvae.review.reasons.explained_flags`.
    events : DataFrame
        The known events: ``recording`` and ``time_s``, or ``start_s`` and ``end_s``. May have no rows.
    ranking : DataFrame, optional
        One row per recording, the most unlike the others first; see `anomalyvae.scoring.ranking.rank`.
    views : sequence of WindowView
        Windows whose signals are drawn.

    Returns
    -------
    str
        HTML.

    Raises
    ------
    ImportError
        If the extra ``report`` is not installed.
    """
    need_extra()
    not_good = [item for fold in figures["folds"].values() for item in fold.get("not_good", ())]
    return _template().render(
        title=title,
        ours=OURS,
        zip=zip,
        headlines=HEADLINES,
        figures=figures,
        methods=_methods(figures),
        conclusion=_conclusion(figures),
        caution=next((fold["caution"] for fold in figures["folds"].values() if fold.get("caution")), None),
        recordings_in_all=scores["recording"].nunique(),
        timelines=_timelines(figures, scores, flags, events),
        ranked=[] if ranking is None else ranking.head(_RANKED).to_dict("records"),
        fleet=None if ranking is None or len(ranking) < FEWEST else fleet(ranking),
        drift=figures.get("drift"),
        windows=[{"view": view, "image": window(view)} for view in views],
        flags=flags.head(_FLAG_ROWS).to_dict("records"),
        flags_in_all=len(flags),
        not_good=sorted(not_good, key=lambda item: (item["grade"], item["start_s"] - item["end_s"]))[:_FLAG_ROWS],
        not_good_in_all=len(not_good),
        events_in_all=sum(fold["events"] for fold in figures["folds"].values()),
    )


def _template() -> "Template":
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value, lines=True) if type(value) is str else value,
    )
    environment.filters |= {
        "figure": _figure,
        "clock": clock,
        "moment": lambda start: "–" if pd.isna(start) else f"{start:%Y-%m-%d %H:%M}",
        "percent": lambda share: f"{100 * share:.0f}\N{NO-BREAK SPACE}%",
    }
    return environment.from_string(
        files("anomalyvae.evaluate").joinpath("report.html.jinja").read_text(encoding="utf-8")
    )


def _timelines(
    figures: Mapping[str, Any], scores: pd.DataFrame, flags: pd.DataFrame, events: pd.DataFrame
) -> list[dict[str, Any]]:
    """The charts of all recordings, or of those with the most flags, in their order."""
    names = list(scores["recording"].unique())
    counts = flags["recording"].value_counts()
    chosen = sorted(names, key=lambda name: -counts.get(name, 0))[:_TIMELINES]
    charts = []
    for name in [name for name in names if name in chosen]:
        own_scores, own_flags, own_events = (table[table["recording"] == name] for table in (scores, flags, events))
        fold = figures["folds"][name]
        threshold, tolerance_s = fold["own_threshold"]["threshold"], figures["evaluation"]["tolerance_s"]
        image = timeline(own_scores, own_flags, own_events, threshold, tolerance_s)
        charts.append({"recording": name, "figures": fold, "flags": len(own_flags), "image": image})
    return charts


# --- text and numbers ----------------------------------------------------------------------------------


def _methods(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Table rows, best average precision first. The best value of each column is marked."""
    named = {OURS: figures["mean"]} | {name: entry["mean"] for name, entry in figures["baselines"].items()}
    best = {
        key: max((mean[key] for mean in named.values() if mean[key] is not None), default=None) for key in HEADLINES
    }
    rows = [
        {"name": name, "cells": [(mean[key], mean[key] is not None and mean[key] == best[key]) for key in HEADLINES]}
        for name, mean in named.items()
    ]
    return sorted(rows, key=lambda row: -(named[row["name"]]["average_precision"] or 0.0))


def _conclusion(figures: Mapping[str, Any]) -> str:
    """One sentence on which method is best, also if it is a baseline."""
    if figures["mean"]["auroc"] is None:
        return "Nothing can be measured: no recording has windows near a known event and others far from one."
    better: dict[str, list[str]] = {}
    for key, label in HEADLINES.items():
        own = figures["mean"][key]
        means = {name: entry["mean"][key] for name, entry in figures["baselines"].items()}
        rival = max(means, key=lambda name: means[name])
        if round(means[rival], 3) > round(own, 3):
            better.setdefault(rival, []).append(f"{label} ({means[rival]:.3f} against {own:.3f})")
    if better:
        parts = [f"{rival} in {', '.join(labels)}" for rival, labels in better.items()]
        return f"A baseline beats the detector here: {'; '.join(parts)}."
    return "The detector equals or beats every baseline in all three figures."


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
