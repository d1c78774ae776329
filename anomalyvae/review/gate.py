"""The gate: a challenger becomes champion only if it is significantly better, and not worse in anything that matters.

Both models score recordings that neither learned (a frozen hold-out) and all past verdicts. Each gets the threshold
with the same rate of false alarms on the hold-out, so that a more sensitive model is not taken for a better one.
`anomalyvae.review.comparison` tests what is better than chance.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalyvae import metrics
from anomalyvae.bundle import read_card
from anomalyvae.bundle.card import model_in, refuse_replaced
from anomalyvae.bundle.manifest import MANIFEST, Paths, manifest_of, read_manifest, reviewed_manifest, windows_by_role
from anomalyvae.events import read_events, refuse_negative, touches
from anomalyvae.options import ReadOptions
from anomalyvae.recordings import WindowRecipe, Windows
from anomalyvae.review.comparison import EARNING, FIGURES, PROMISED, Counts, Figure, beyond_refits, compare_share
from anomalyvae.review.doubts import Doubts, doubts_about, flagged_peaks, peaks_in
from anomalyvae.review.reasons import compared_by
from anomalyvae.review.retraining import refits as refits_of
from anomalyvae.review.retraining import refuse_changed
from anomalyvae.scoring import Scorer
from anomalyvae.train import recipe_of
from anomalyvae.untrusted import listed

_AROUND = 2.0 ** np.linspace(-2, 2, 9)  # times the alarm rate; recall at a single rate varies by chance
_FEWEST, _BLOCKS = 5, 9  # recordings for the bootstrap; blocks of fewer recordings

_Score = Callable[[pd.DataFrame], dict[str, NDArray[Any]]]  # gives ``anomaly_score`` and ``is_outlier`` of rows


@dataclass(frozen=True)
class Decision:
    """The decision of the gate: the model ids, the figures, and the reasons in words, the deciding ones first.

    ``champion`` is None without a champion, ``decided_at`` is UTC, and ``doubtful`` are the ids of new normals that
    somebody must look at again.
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
    model: Paths,
    files: Iterable[Paths],
    events: Paths | None = None,
    tolerance_s: float = 0.0,
    **options: Unpack[ReadOptions],
) -> pd.DataFrame:
    """Hold out recordings with their known faults: a manifest for `judge`.

    Parameters
    ----------
    model : path
        A bundle, for its windowing recipe.
    files : iterable of path
        The recordings, or one JSON file that `write_manifest` wrote, with their faults.
    events : path, optional
        CSV or Parquet with ``recording`` and ``time_s`` (or ``start_s``, ``end_s``).
    tolerance_s : float, default=0
        Seconds by which each fault is extended on both sides.
    **options
        How files are read: see `anomalyvae.options.ReadOptions`.
    """
    refuse_negative("tolerance_s", tolerance_s)
    paths = [Path(file) for file in files]
    if len(paths) == 1 and paths[0].suffix == ".json":
        if events is not None or tolerance_s:
            raise ValueError(f"{paths[0]} has its own faults. Leave out events= and tolerance_s= (--events, --near-s).")
        return read_manifest(paths[0])
    table = None if events is None else read_events(events)
    return manifest_of(paths, recipe_of(model, pipelines=True), table, tolerance_s, **options)


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
    two_reviewers: bool | None = None,
    refits: int = 4,
    seed: int = 0,
    **options: Unpack[ReadOptions],
) -> Decision:
    """Compare two bundles on held-out recordings and on all past verdicts.

    Parameters
    ----------
    challenger, champion : path
        Bundles. If the champion does not exist, the challenger is promoted.
    events : DataFrame
        All events of a queue with their verdicts (``Queue.events()``).
    holdout : DataFrame
        A manifest of recordings that neither has learned; its ``fault`` intervals are their known faults. The
        challenger needs a manifest, to check this; a champion without one is not checked.
    alarms_per_hour : float, default=30
        Rate of false alarms on the hold-out at which each model's faults are counted.
    tolerance : float, default=0.05
        How much worse a share may be and still pass. Of the held-out faults, at most 0.02 may be lost.
    source : path, optional
        Folder of the reviewed recordings, if they have moved.
    confirmed : collection of str, optional
        New normals that two reviewers have confirmed (``Queue.confirmed("new_normal")``). They are not doubted.
    two_reviewers : bool, optional
        Whether the challenger may have learned no other new normals than those confirmed and the champion's; by
        default, if ``confirmed`` is given.
    refits : int, default=4
        How often the champion is fitted again with other seeds before it is replaced, to see how much a fit varies by
        chance. It needs the recordings that the champion learned; a champion without a manifest is not fitted again.
        0 leaves it out.
    seed : int, default=0
        Of the bootstrap.

    Returns
    -------
    Decision
        Promoted if no figure is worse by more than the tolerance, one of the hold-out is better by more than chance
        (see `anomalyvae.review.comparison`), the new normals do not look like held-out faults, and none needs a second
        reviewer. Figures without anything to count are ignored.

    Raises
    ------
    FileNotFoundError, ValueError
        If a recording is missing or has changed, a bundle has no windowing recipe, or one was replaced meanwhile.

    Notes
    -----
    - *Recall around the alarm rate* is the share of held-out faults that an alarm touches, with the same number of
      false alarms for both models. It is the mean over nine rates, from a quarter of ``alarms_per_hour`` to four times
      it, because at a single rate it depends on a few windows.
    - *Recall at its own threshold* is what a model finds in use. A model that learned faults as normal may still rank
      them first, but its threshold is above them. A threshold that flags more than 5 % of normal held-out windows is
      raised to 5 %: finding faults by flagging everything does not count.
    - *Alarms on new normals* is the share of reviewed normal events that would still raise an alarm.
    - *Calibration* is the share of normal held-out windows that the model's own threshold flags. Only the excess over
      the target of 5 % counts.

    Recall at the own threshold can refuse a challenger, but not promote it, because it rises with sensitivity. The same
    holds for past verdicts: matching them is not evidence of skill, since the challenger learned them, right or wrong.
    They also favour the champion, which flagged these faults. So the hold-out decides. It should contain faults and
    what has become normal since; otherwise no challenger can be shown to be better, and a new hold-out is needed.

    A challenger that has learned some faults as normal can still have better figures than the champion, because it has
    also learned new normals. So the verdicts are tested, too. The new normals must not look like held-out faults more
    often than those normal events of the hold-out that the champion flags (`anomalyvae.review.doubts`). Events are
    compared by the champion's latent codes and the signals behind its scores, as in the queue.

    A few faults among many new normals can escape this test and all figures: the loss can be less than chance.
    ``two_reviewers`` protects against this, because a second person has to agree.
    """
    if not 0 <= tolerance <= 1:
        raise ValueError(f"Got tolerance={tolerance}, expected a share from 0 to 1, such as 0.05 for 5 %. Pass one.")
    if refits < 0:
        raise ValueError(f"Got refits={refits}, expected 0 or more. Pass how often to refit the champion.")
    old = model_in(champion)
    new = read_card(challenger)["model_id"]

    def decided(
        promoted: bool, reasons: Sequence[str], figures: tuple[Figure, ...] = (), doubtful: Sequence[str] = ()
    ) -> Decision:
        refuse_replaced(challenger, new)
        refuse_replaced(champion, old)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        return Decision(promoted, tuple(reasons), old, new, figures, alarms_per_hour, tolerance, at, tuple(doubtful))

    if old is None:
        leaks = _leak(challenger, holdout)
        return decided(not leaks, leaks or ["There is no champion yet."])
    traced = [folder for folder in (challenger, champion) if folder == challenger or (Path(folder) / MANIFEST).exists()]
    leaks = [line for folder in traced for line in _leak(folder, holdout)]
    if leaks or old == new:
        return decided(False, leaks or ["It is the champion."])
    manifests = [read_manifest(folder) for folder in traced]
    later = events[~events["event_id"].isin(pd.concat(manifests)["event_id"])]  # in no manifest, so without a checksum
    refuse_changed(champion, old, later, source, **options)
    reviewed = reviewed_manifest(events, source, *manifests)
    comparison = _Comparison(holdout, reviewed, alarms_per_hour, source, options)
    figures = comparison.figures(challenger, champion, tolerance, refits if champion in traced else 0, seed)
    promoted, reasons = _decide(figures)
    needs_two = confirmed is not None if two_reviewers is None else two_reviewers
    doubtful, against, tested = comparison.doubtful(
        champion, _learned(challenger, champion, confirmed or ()), needs_two, seed
    )
    return decided(promoted and doubtful.empty, [*against, *reasons, *tested], figures, doubtful["event_id"].tolist())


def _decide(figures: tuple[Figure, ...]) -> tuple[bool, tuple[str, ...]]:
    worse = [str(figure) for figure in figures if not figure.passed]
    better = [str(figure) for figure in figures if figure.passed and figure.better]
    rest = [str(figure) for figure in figures if figure.passed and not figure.better]
    earned = any(figure.better and figure.passed and figure.name in EARNING for figure in figures)
    if not worse and not earned:
        worse = ["Nothing is better on the hold-out by more than chance."]
    return not worse, (*worse, *better, *rest)


def _leak(folder: Paths, holdout: pd.DataFrame) -> list[str]:
    """Whether a model learned a recording of the hold-out, by its checksum."""
    manifest = read_manifest(folder)
    learned = manifest[manifest["role"] != "excluded"]
    names = sorted(learned.loc[learned["sha256"].isin(holdout["sha256"]), "file"].unique())
    return [f"{folder} has learned recordings of the hold-out: {', '.join(names[:5])}."] if names else []


@dataclass(frozen=True)
class _Comparison:
    """The hold-out and the reviewed events, on which both models and the champion's refits are compared."""

    holdout: pd.DataFrame
    reviewed: pd.DataFrame
    alarms_per_hour: float
    source: Paths | None
    options: ReadOptions
    _read: dict[Any, tuple[Windows, NDArray[np.str_]]] = field(default_factory=dict)

    def figures(
        self, challenger: Paths, champion: Paths, tolerance: float, refits: int, seed: int
    ) -> tuple[Figure, ...]:
        """The figures of both models. Before a promotion, the champion is fitted again ``refits`` times."""
        old, new = (
            self.counts(Scorer(folder).score, recipe_of(folder, pipelines=True)) for folder in (champion, challenger)
        )
        figures = tuple(compare_share(name, old, new, tolerance, seed) for name in FIGURES)
        if not refits or not _decide(figures)[0]:
            return figures
        again = [
            self.counts(_scoring(model), recipe_of(champion))
            for model in refits_of(champion, refits, source=self.source, **self.options)
        ]
        return tuple(beyond_refits(figure, again) if figure.name in EARNING else figure for figure in figures)

    def doubtful(
        self, champion: Paths, learned: pd.DataFrame, needs_two: bool, seed: int
    ) -> tuple[pd.DataFrame, list[str], list[str]]:
        """The new normals that somebody must look at again, the reasons, and what a test found that refuses none."""
        doubtful, against = learned.iloc[:0], list[str]()
        tested = ["new normals that look like held-out faults: nothing to compare"]
        doubts, of_events = self.doubts(champion, learned, seed)
        if doubts is not None:
            tested = [str(doubts)]
            if doubts.refused:
                doubtful, tested = of_events.iloc[doubts.doubtful()], []
                against = [_contradicted(doubts, doubtful)]
        if needs_two and len(learned):
            doubtful, against = learned, [_doubt(learned), *against]
        return doubtful, against, tested

    def counts(self, score_of: _Score, recipe: WindowRecipe) -> Counts:
        """Counts of one model, by part of the hold-out and by recording of the reviewed events."""
        held, thresholds, found = self._held_counts(score_of, recipe)
        reviewed = self._reviewed_counts(score_of, recipe, thresholds[len(thresholds) // 2])
        return Counts(pd.DataFrame(held | reviewed).fillna(0.0), found)

    def _held_counts(
        self, score_of: _Score, recipe: WindowRecipe
    ) -> tuple[dict[str, "pd.Series[Any]"], list[float], NDArray[np.float64]]:
        """Counts by part of the hold-out, the threshold for each rate, and how often each fault is found.

        The last is, for each fault, the share of these thresholds at which an alarm touches it.
        """
        held, role = self._windows("holdout", recipe, None)
        faults = _events_in(self.holdout, "fault")
        chosen = (role == "normal") | touches(held.spans, faults)
        normal, spans = role[chosen] == "normal", held.spans[chosen].reset_index(drop=True)
        if not normal.any():
            raise ValueError("The hold-out has no normal windows, so false alarms cannot be counted. Add recordings.")
        found = score_of(held.rows[chosen])
        score = found["anomaly_score"]
        thresholds = [metrics.alarm_threshold(score, spans, faults, rate) for rate in self.alarms_per_hour * _AROUND]
        share = np.mean([touches(faults, spans[score >= threshold]) for threshold in thresholds], axis=0)
        at_work = found["is_outlier"] & (score > np.quantile(score[normal], 1 - PROMISED))
        part_of = self._parts()
        faults = faults.assign(part=part_of(faults), found=share, at_work=touches(faults, spans[at_work]))
        quiet = spans[normal].assign(flagged=found["is_outlier"][normal])
        quiet["part"] = part_of(quiet)
        counts = {
            "held_faults": faults.groupby("part").size(),
            "held_found": faults.groupby("part")["found"].sum(),
            "held_found_at_work": faults.groupby("part")["at_work"].sum(),
            "normal": quiet.groupby("part").size(),
            "normal_flagged": quiet.groupby("part")["flagged"].sum(),
        }
        return counts, thresholds, share

    def _reviewed_counts(self, score_of: _Score, recipe: WindowRecipe, threshold: float) -> dict[str, "pd.Series[Any]"]:
        """Reviewed faults and new normals by recording, and those that an alarm touches at a threshold."""
        judged, _ = self._windows("reviewed", recipe, self.source)
        score = score_of(judged.rows)["anomaly_score"] if len(judged) else np.empty(0)
        alarmed = judged.spans[score >= threshold]
        counts: dict[str, pd.Series[Any]] = {}
        for role, all_name, hit_name in (
            ("fault", "verdict_faults", "verdict_found"),
            ("normal", "new", "new_flagged"),
        ):
            events = _events_in(self.reviewed, role)
            by_recording = events.assign(hit=touches(events, alarmed)).groupby("recording")["hit"]
            counts |= {all_name: by_recording.size(), hit_name: by_recording.sum()}
        return counts

    def doubts(self, champion: Paths, learned: pd.DataFrame, seed: int) -> tuple[Doubts | None, pd.DataFrame]:
        """Whether new normals look like held-out faults, and which events were compared: those that have a window."""
        if learned.empty:
            return None, learned
        scorer, recipe = Scorer(champion), recipe_of(champion, pipelines=True)
        new, _ = windows_by_role(learned, recipe, self.source, **self.options)
        peaks, indices = peaks_in(new.spans, scorer.anomaly_score(new.rows), _events_in(learned, "normal"))
        of_events = learned.iloc[indices]
        held, role = self._windows("holdout", recipe, None)
        found = scorer.score(held.rows)
        faults, quiet = _events_in(self.holdout, "fault"), np.flatnonzero(role == "normal")
        of_faults, _ = peaks_in(held.spans, found["anomaly_score"], faults)
        typical_s = float(np.median(of_events["end_s"] - of_events["start_s"])) if len(of_events) else recipe.length_s
        of_quiet = flagged_peaks(
            held.spans.iloc[quiet].reset_index(drop=True), found["anomaly_score"][quiet], found["is_outlier"][quiet],
            max(typical_s, recipe.length_s),
        )  # fmt: skip
        known = np.concatenate([of_faults, quiet[of_quiet]])
        fault = np.arange(len(known)) < len(of_faults)
        part = self._parts()(held.spans.iloc[known]).to_numpy(dtype=str)
        compared = compared_by(champion, pd.concat([new.rows.iloc[peaks], held.rows.iloc[known]], ignore_index=True))
        return doubts_about(compared[: len(peaks)], compared[len(peaks) :], fault, part, seed), of_events

    def _windows(self, name: str, recipe: WindowRecipe, source: Paths | None) -> tuple[Windows, NDArray[np.str_]]:
        """The windows of a manifest, read once for models with the same recipe."""
        if (name, recipe) not in self._read:
            self._read[name, recipe] = windows_by_role(getattr(self, name), recipe, source, **self.options)
        return self._read[name, recipe]

    def _parts(self) -> Callable[[pd.DataFrame], pd.Series]:
        """A function that gives the part of the hold-out in which windows or faults begin."""
        reach = self.holdout.groupby("sha256").agg(start=("start_s", "min"), end=("end_s", "max"))
        length = reach["end"] - reach["start"]
        cuts = np.ones(len(reach))
        if len(reach) < _FEWEST:
            cuts = np.ceil(_BLOCKS * length / length.sum())
        block = length / cuts

        def part_of(spans: pd.DataFrame) -> pd.Series:
            recording = spans["recording"]
            start, step = (recording.map(by).astype(float) for by in (reach["start"], block))  # of no fault, text
            return recording + "/" + ((spans["start_s"] - start) // step).astype(int).astype(str)

        return part_of


def _scoring(model: Any) -> _Score:
    """Lets a detector score as `Scorer.score` does."""

    def score(rows: pd.DataFrame) -> dict[str, NDArray[Any]]:
        found = model.anomaly_score(rows)
        return {"anomaly_score": found, "is_outlier": -found < model.offset_}

    return score


def _learned(challenger: Paths, champion: Paths, confirmed: Collection[str]) -> pd.DataFrame:
    """New normals that the challenger has learned, the champion has not, and only one reviewer has confirmed."""
    known = read_manifest(champion)["event_id"].tolist() if (Path(champion) / MANIFEST).exists() else []
    learned = read_manifest(challenger)
    by_verdict = (learned["role"] == "normal") & (learned["event_id"] != "")
    return learned[by_verdict & ~learned["event_id"].isin([*known, *confirmed])].reset_index(drop=True)


def _contradicted(doubts: Doubts, events: pd.DataFrame) -> str:
    return (
        f"{str(doubts).capitalize()}: {_in_words(events)}. Look at them again on the review page: correct verdicts "
        "that are wrong and retrain, or let a second reviewer confirm those that are right (2nd look)."
    )


def _doubt(events: pd.DataFrame) -> str:
    return (
        f"Called new normal by only one reviewer: {_in_words(events)}. A second reviewer must confirm it (2nd look, on "
        "the review page)."
    )


def _in_words(events: pd.DataFrame) -> str:
    return listed(f"{event.recording} at {event.start_s:g} s" for event in events.itertuples())


def _events_in(manifest: pd.DataFrame, role: str) -> pd.DataFrame:
    intervals = manifest[manifest["role"] == role].reset_index(drop=True)
    return intervals.assign(recording=intervals["sha256"])[["recording", "start_s", "end_s"]]
