"""The gate: a challenger becomes champion only where it is shown to be better, and no worse in anything that matters.

Both are asked about recordings that neither learned (a frozen hold-out) and about every past verdict. Each is given the
threshold that brings it to the same rate of false alarms on the hold-out, so that sensitivity is not taken for skill.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalyvae import metrics
from anomalyvae.deploy.card import CARD, read_card
from anomalyvae.deploy.scorer import Scorer
from anomalyvae.logs import WindowRecipe
from anomalyvae.review.manifest import (
    MANIFEST,
    Paths,
    manifest_of,
    read_manifest,
    reviewed_manifest,
    windows_by_role,
)

PROMISED = 0.05  # share of normal windows that a model's own threshold lets it flag
_LOST = 0.02  # of the held-out faults, at most: some of what takes faults for novel costs no more than 0.05 of them
_DRAWS = 2000
_LEVEL = 0.9  # of the bootstrap intervals
_FIGURES = {  # name: what is counted, of what, and whether more of it is better
    "recall of held-out faults at the alarm rate": ("held_found", "held_faults", True),
    "recall of held-out faults at its own threshold": ("held_found_at_work", "held_faults", True),
    "recall of past verdicts' faults at the alarm rate": ("verdict_found", "verdict_faults", True),
    "alarms on novel events at the alarm rate": ("novel_flagged", "novel", False),
    "normal held-out windows flagged by its own threshold": ("normal_flagged", "normal", False),
}
_CALIBRATION = list(_FIGURES)[-1]
_EARNING = {name for name, (part, _, _) in _FIGURES.items() if part in ("held_found", "normal_flagged")}


@dataclass(frozen=True)
class Figure:
    """One figure of both models.

    Parameters
    ----------
    name : str
    champion, challenger : float or None
        A share; None where there is nothing to count.
    interval : tuple of float or None
        90 % of the bootstrap's differences, challenger less champion, recordings drawn with replacement.
    count, recordings : int
        How many were counted, in how many recordings.
    passed, better : bool
        Not worse by more than the tolerance; better by more than chance.
    """

    name: str
    champion: float | None
    challenger: float | None
    interval: tuple[float, float] | None
    count: int
    recordings: int
    passed: bool
    better: bool

    def __str__(self) -> str:
        if self.champion is None or self.challenger is None or self.interval is None:
            return f"{self.name}: nothing to tell from"
        low, high = self.interval
        said = "worse" if not self.passed else "better" if self.better else "no worse"
        return (
            f"{self.name}: {said}, {self.champion:.3f} -> {self.challenger:.3f} (difference {low:+.3f} to {high:+.3f}, "
            f"{self.count} in {self.recordings} recordings)"
        )


@dataclass(frozen=True)
class Decision:
    """What the gate says.

    Parameters
    ----------
    promoted : bool
    reasons : tuple of str
        For people, the deciding ones first.
    champion : str or None
        Model id; None if there was none.
    challenger : str
    figures : tuple of Figure
    alarms_per_hour, tolerance : float
    decided_at : str
        UTC.
    doubtful : tuple of str
        Events judged novel that wait for a second reviewer, by id.
    """

    promoted: bool
    reasons: tuple[str, ...]
    champion: str | None
    challenger: str
    figures: tuple[Figure, ...]
    alarms_per_hour: float
    tolerance: float
    decided_at: str
    doubtful: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        head = f"{'Promoted' if self.promoted else 'Refused'}: {self.challenger} against {self.champion or 'nobody'}"
        return "\n".join([head, *(f"  {reason}" for reason in self.reasons)])


# --- the hold-out -------------------------------------------------------------------------------------


def holdout(
    model: Paths, files: Iterable[Paths], events: Paths | None = None, tolerance_s: float = 0.0
) -> pd.DataFrame:
    """Hold recordings out, with the faults that are known in them: a manifest for `judge`.

    Parameters
    ----------
    model : path
        A bundle, whose windowing recipe says how far the recordings reach.
    files : iterable of path
        The recordings, or one JSON file that `write_manifest` wrote.
    events : path, optional
        CSV or Parquet with ``recording`` and ``time_s`` (or ``start_s``, ``end_s``).
    tolerance_s : float, default=0
        By how much each fault is widened to both sides.
    """
    paths = [Path(file) for file in files]
    if len(paths) == 1 and paths[0].suffix == ".json":
        return read_manifest(paths[0])
    table = None
    if events is not None:
        table = pd.read_parquet(events) if Path(events).suffix == ".parquet" else pd.read_csv(events)
        table["recording"] = table["recording"].astype(str)
    return manifest_of(paths, _recipe(model), table, tolerance_s)


# --- judging --------------------------------------------------------------------------------------------


def judge(
    challenger: Paths,
    champion: Paths,
    events: pd.DataFrame,
    holdout: pd.DataFrame,
    *,
    alarms_per_hour: float = 30.0,
    tolerance: float = 0.05,
    source: Paths | None = None,
    confirmed: Collection[str] | None = None,
    seed: int = 0,
) -> Decision:
    """Compare two bundles on held-out recordings and on all past verdicts.

    Parameters
    ----------
    challenger, champion : path
        Bundles. A champion that is not there yields to any challenger.
    events : DataFrame
        All events of a queue with their verdicts (``Queue.events()``).
    holdout : DataFrame
        A manifest of recordings that neither has learned; its ``fault`` intervals are the faults known in them. A
        challenger must say what it learned; a champion that was fitted without a manifest is taken at its word.
    alarms_per_hour : float, default=30
        False alarms on the hold-out at which each model's faults are counted.
    tolerance : float, default=0.05
        By how much a share may be worse and still pass. Of the held-out faults no more than 0.02 may be lost.
    source : path, optional
        Where the recordings lie now, if elsewhere than before.
    confirmed : collection of str, optional
        Events that two reviewers call novel (``Queue.confirmed("novel")``). If it is given, each novel event that the
        challenger has learned and the champion has not must be one of them.
    seed : int, default=0
        Of the bootstrap.

    Returns
    -------
    Decision
        Promoted if no figure is worse by more than the tolerance, and one of the hold-out is better by more than chance
        (its bootstrap interval does not reach zero), and no novel event waits for a second reviewer. A figure of which
        nothing is known decides nothing.

    Raises
    ------
    FileNotFoundError, ValueError
        If a recording is gone or changed, or a bundle has no windowing recipe.

    Notes
    -----
    - *Recall at the alarm rate* is the share of faults that an alarm touches, where both models raise as many false
      alarms.
    - *Recall at its own threshold* is what a model finds at work: one that learned faults as normal may still rank them
      first, but its threshold has risen above them. Where a threshold flags more than the promised 5 % of normal
      held-out windows, it is raised to 5 %: faults found by calling everything a fault do not count.
    - *Alarms on novel events* is the share of events judged normal that would still raise one.
    - *Calibration* is the share of normal held-out windows that the own threshold flags. What counts is by how much it
      exceeds the promised 5 %: fewer is no merit.

    The recall at the own threshold can refuse a challenger but not promote it: it rises with sensitivity, whatever was
    learned. So can past verdicts: to keep silent where it was told to is no evidence, least of all if it was told
    wrong. They favour the champion, too, which chose those faults by flagging them. So the hold-out decides. It should
    hold faults, and what has become normal since: where it lacks that, no challenger can be shown to be better, and it
    is time to begin with another.

    Where some faults among the novel events were taken for novel, no figure may tell: to have learned a few faults does
    not make a model blind to others, and what it loses can be less than chance brings about. ``confirmed`` is what
    helps against such verdicts, since a second person has to give them, too.
    """
    old = read_card(champion)["model_id"] if (Path(champion) / CARD).is_file() else None
    new = read_card(challenger)["model_id"]

    def decided(
        promoted: bool, reasons: Sequence[str], figures: tuple[Figure, ...] = (), doubtful: Sequence[str] = ()
    ) -> Decision:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        return Decision(promoted, tuple(reasons), old, new, figures, alarms_per_hour, tolerance, at, tuple(doubtful))

    if old is None:
        leaks = _leak(challenger, holdout)
        return decided(not leaks, leaks or ["There is no champion yet."])
    traced = [folder for folder in (challenger, champion) if folder == challenger or (Path(folder) / MANIFEST).exists()]
    leaks = [line for folder in traced for line in _leak(folder, holdout)]
    if leaks or old == new:
        return decided(False, leaks or ["It is the champion."])
    reviewed = reviewed_manifest(events, source)
    counts = [_counts(folder, holdout, reviewed, alarms_per_hour, source) for folder in (champion, challenger)]
    figures = tuple(_figure(name, counts, tolerance, seed) for name in _FIGURES)
    promoted, reasons = _decide(figures)
    if confirmed is None:
        return decided(promoted, reasons, figures)
    alone = _alone(challenger, champion, confirmed)
    doubts = [_doubt(alone)] if len(alone) else []
    return decided(promoted and not doubts, [*doubts, *reasons], figures, alone["event_id"].tolist())


def _decide(figures: tuple[Figure, ...]) -> tuple[bool, tuple[str, ...]]:
    worse = [str(figure) for figure in figures if not figure.passed]
    better = [str(figure) for figure in figures if figure.passed and figure.better]
    rest = [str(figure) for figure in figures if figure.passed and not figure.better]
    earned = any(figure.better and figure.passed and figure.name in _EARNING for figure in figures)
    if not worse and not earned:
        worse = ["Nothing is better on the hold-out by more than chance."]
    return not worse, (*worse, *better, *rest)


def _leak(folder: Paths, holdout: pd.DataFrame) -> list[str]:
    """Whether a model learned from a recording of the hold-out, by the file's content."""
    manifest = read_manifest(folder)
    learned = manifest[manifest["role"] != "excluded"]
    names = sorted(learned.loc[learned["sha256"].isin(holdout["sha256"]), "file"].unique())
    return [f"{folder} has learned from the hold-out: {', '.join(names[:5])}."] if names else []


def _counts(
    folder: Paths, holdout: pd.DataFrame, reviewed: pd.DataFrame, per_hour: float, source: Paths | None
) -> pd.DataFrame:
    """What one model found and flagged, a row per recording (named by its file's sha256)."""
    recipe, scorer = _recipe(folder), Scorer(folder)
    held, role = windows_by_role(holdout, recipe)
    faults = _events_in(holdout, "fault")
    chosen = (role == "normal") | metrics.touches(held.spans, faults)
    normal, spans = role[chosen] == "normal", held.spans[chosen].reset_index(drop=True)
    if not normal.any():
        raise ValueError("Got a hold-out without a normal window, expected some to count false alarms on. Add more.")
    found = scorer.score(held.rows[chosen])
    score = found["anomaly_score"]
    threshold = metrics.alarm_threshold(score, spans, faults, per_hour)
    flagged = score >= threshold

    judged, _ = windows_by_role(reviewed, recipe, source)
    loud = judged.spans[scorer.anomaly_score(judged.rows) >= threshold] if len(judged) else judged.spans
    known, novel = (_alarmed(_events_in(reviewed, role), loud) for role in ("fault", "normal"))
    at_work = (found["label"] == -1) & (score > np.quantile(score[normal], 1 - PROMISED))
    faults = _alarmed(faults, spans[flagged]).assign(at_work=metrics.touches(faults, spans[at_work]))
    parts = {
        "held_faults": faults.groupby("recording").size(),
        "held_found": faults.groupby("recording")["hit"].sum(),
        "held_found_at_work": faults.groupby("recording")["at_work"].sum(),
        "verdict_faults": known.groupby("recording").size(),
        "verdict_found": known.groupby("recording")["hit"].sum(),
        "novel": novel.groupby("recording").size(),
        "novel_flagged": novel.groupby("recording")["hit"].sum(),
        "normal": spans[normal].groupby("recording").size(),
        "normal_flagged": spans[normal & (found["label"] == -1)].groupby("recording").size(),
    }
    return pd.DataFrame(parts).fillna(0.0)


def _alone(challenger: Paths, champion: Paths, confirmed: Collection[str]) -> pd.DataFrame:
    """Novel events that the challenger has learned, the champion has not, and one reviewer alone has judged."""
    known = read_manifest(champion)["event_id"].tolist() if (Path(champion) / MANIFEST).exists() else []
    learned = read_manifest(challenger)
    by_verdict = (learned["role"] == "normal") & (learned["event_id"] != "")
    return learned[by_verdict & ~learned["event_id"].isin([*known, *confirmed])]


def _doubt(events: pd.DataFrame) -> str:
    named = [f"{event.recording} at {event.start_s:g} s" for event in events.head(5).itertuples()]
    more = f" and {len(events) - len(named)} more" if len(events) > len(named) else ""
    return f"Judged novel by one reviewer alone: {', '.join(named)}{more}. Have another confirm or correct that."


def _recipe(folder: Paths) -> WindowRecipe:
    windowing = read_card(folder)["windowing"]
    if windowing is None:
        raise ValueError(f"Got {folder}, a model of plain rows, expected one of recordings. Fit it with a recipe.")
    return WindowRecipe.from_dict(windowing)


def _alarmed(events: pd.DataFrame, loud: pd.DataFrame) -> pd.DataFrame:
    """Say of each event whether a window that raised an alarm lies in it."""
    return events.assign(hit=metrics.touches(events, loud))


def _events_in(manifest: pd.DataFrame, role: str) -> pd.DataFrame:
    intervals = manifest[manifest["role"] == role].reset_index(drop=True)
    return intervals.assign(recording=intervals["sha256"])[["recording", "start_s", "end_s"]]


def _figure(name: str, counts: list[pd.DataFrame], tolerance: float, seed: int) -> Figure:
    """Compare one share; both models are counted on the same drawn recordings."""
    part, whole, more_is_better = _FIGURES[name]
    recordings = counts[0].index.union(counts[1].index)
    old, new = (table.reindex(recordings, fill_value=0.0)[[part, whole]].to_numpy() for table in counts)
    there = (old[:, 1] > 0) | (new[:, 1] > 0)
    old, new, n = old[there], new[there], int(there.sum())
    if not n or not old[:, 1].any() or not new[:, 1].any():
        return Figure(name, None, None, None, 0, 0, True, False)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=_DRAWS).astype(np.float64)
    low, high = np.nanquantile(_gain(drawn @ old, drawn @ new), [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    was, now = (float(table[:, 0].sum() / table[:, 1].sum()) for table in (old, new))
    worse_by = was - now if more_is_better else now - was
    better = n > 1 and bool(low > 0 if more_is_better else high < 0)  # one recording shows no chance
    if name == _CALIBRATION:  # a promise is kept or not: to flag less than promised is no merit
        worse_by = max(now - PROMISED, 0.0) - max(was - PROMISED, 0.0)
        better = better and was > PROMISED
    passed = bool(worse_by <= (min(tolerance, _LOST) if whole == "held_faults" else tolerance))
    return Figure(name, was, now, (float(low), float(high)), int(new[:, 1].sum()), n, passed, better)


def _gain(old: NDArray[np.float64], new: NDArray[np.float64]) -> NDArray[np.float64]:
    """Difference of two shares in each draw; NaN where a draw has nothing to count."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(new[:, 0] / new[:, 1] - old[:, 0] / old[:, 1])
