"""Figures for a ranking of windows or points, and for the alarms that follow from it.

Three questions are kept apart.

- *Ranking* (`auroc`, `average_precision`) looks at windows or points one by one; `vus` at points in time, where an
  event has no sharp edge.
- *Alarming* (`event_recall`, `event_precision`, `event_delays`, `false_alarms_per_hour`) looks at what a person would
  meet: a run of flagged windows is one alarm, an event is found or it is not, and patience is counted per hour.
- *Closeness* (`affiliation`) looks at how near in time alarms and events are to each other.

Point adjustment, by which one flagged point counts a whole event as flagged, is not offered: random scores do well
by it (Kim et al. 2022, Towards a Rigorous Evaluation of Time-Series Anomaly Detection, AAAI).
"""

from anomalyvae.metrics.affiliation import Affiliation, affiliation
from anomalyvae.metrics.alarms import (
    alarm_threshold,
    covered_hours,
    event_delays,
    event_precision,
    event_recall,
    event_spans,
    false_alarms_per_hour,
    found_share,
    merge_alarms,
    touches,
)
from anomalyvae.metrics.ranking import auroc, average_precision
from anomalyvae.metrics.volume import Volume, evaluation_window, vus

__all__ = [
    "Affiliation",
    "Volume",
    "affiliation",
    "alarm_threshold",
    "auroc",
    "average_precision",
    "covered_hours",
    "evaluation_window",
    "event_delays",
    "event_precision",
    "event_recall",
    "event_spans",
    "false_alarms_per_hour",
    "found_share",
    "merge_alarms",
    "touches",
    "vus",
]
