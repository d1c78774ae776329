"""One way to train a model of recordings: windows, fit, sensor health, manifest, bundle.

Everything that trains on recordings calls `train`: the command line, evaluation, retraining, the refits of the gate,
and the simulations. So a model can be fitted again from its bundle: the same recordings, settings and seed give the
same thresholds and scores, bit for bit.
"""

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalyvae.bundle import read_card
from anomalyvae.bundle.card import inconsistent, refuse_foreign
from anomalyvae.bundle.manifest import (
    MANIFEST,
    Paths,
    begin_manifest,
    is_base,
    read_manifest,
    roles_of,
    windows_by_role,
    write_manifest,
)
from anomalyvae.calibration import CAUTION, STRETCHES, few_recordings
from anomalyvae.fleet import FEWEST, Fleet, Tally
from anomalyvae.folders import replacing
from anomalyvae.health.profile import learn_profile, within
from anomalyvae.health.sensors import rows_of, signal_scores, unlearned_residuals
from anomalyvae.models import load, save
from anomalyvae.options import ReadOptions
from anomalyvae.recordings import WindowRecipe, Windows, read_windows
from anomalyvae.recordings.coverage import sparse_in_words, without_in_words
from anomalyvae.recordings.drives import are_groups, copies_of, drives_of, groups_of, parts_in_words
from anomalyvae.untrusted import listed

if TYPE_CHECKING:
    from anomalyvae.detector import VAEOutlierDetector

_PARTS = 3  # of the recordings, each left out once


def train(
    recordings: "Iterable[Paths] | TrainingSet",
    recipe: WindowRecipe,
    detector: "VAEOutlierDetector",
    out: Paths | None = None,
    *,
    events: pd.DataFrame | None = None,
    tolerance_s: float = 0.0,
    ranges: Mapping[str, Sequence[float]] | None = None,
    drift: bool = False,
    figures: dict[str, Any] | None = None,
    **options: Unpack[ReadOptions],
) -> "VAEOutlierDetector":
    """Cut recordings into windows, fit a detector to the normal ones and, if asked, write the bundle.

    Parameters
    ----------
    recordings : iterable of path or TrainingSet
        Files of recordings; or windows that have been read already, which have their own recipe, events and ranges.
    recipe : WindowRecipe
    detector : VAEOutlierDetector
        Its parameters count. It is not fitted itself.
    out : path, optional
        The bundle to write, with the manifest of what was learned and what healthy signals look like.
    events : DataFrame, optional
        Known anomalies in the files: ``recording`` and ``time_s`` (or ``start_s``, ``end_s``). Windows that touch one
        are not learned.
    tolerance_s : float, default=0
        By how much each event is widened on both sides.
    ranges : mapping of str to (low, high), optional
        Physical ranges of signals. Values outside are missing in training.
    drift : bool, default=False
        Whether the bundle also says how far signals leave their reconstruction. It takes two more fits.
    figures : dict, optional
        Measured figures to keep in the bundle.
    **options
        How files are read: see `anomalyvae.options.ReadOptions`.

    Returns
    -------
    VAEOutlierDetector
        Fitted.

    Raises
    ------
    FileNotFoundError, ValueError
        If a recording is missing or has changed, no normal window is left to learn from, or a signal has no value in
        them.

    Warns
    -----
    UserWarning
        If some files have no window, and if a signal has values in so few recordings that the bundle cannot say how
        unlike each other they are.
    """
    if out is not None:
        refuse_foreign(Path(out))
    if isinstance(recordings, TrainingSet):
        data = recordings
    else:
        data = TrainingSet.of_files(
            recordings, recipe, events=events, tolerance_s=tolerance_s, ranges=ranges, **options
        )
        if data.samples.without:
            warnings.warn(f"Not learned: {without_in_words(data.samples.without)}.", stacklevel=2)
    model = data.fit(detector)
    if out is not None:
        data.save(model, out, drift=drift, figures=figures)
    return model


@dataclass(frozen=True)
class TrainingSet:
    """Windows, and the part each plays in training.

    Parameters
    ----------
    manifest : DataFrame
        The intervals of recordings that are learned, by `anomalyvae.bundle.manifest`.
    recipe : WindowRecipe
    samples : Windows
        All windows that the manifest mentions, as samples; ``recording`` is the sha256 of the file.
    role : ndarray of str, shape (n,)
        ``"normal"`` (learned), ``"fault"`` (pushed away) or ``"excluded"`` (neither).
    ranges : dict of str to (low, high)
        Physical ranges. Values outside are missing where the detector learns.
    """

    manifest: pd.DataFrame
    recipe: WindowRecipe
    samples: Windows
    role: NDArray[np.str_]
    ranges: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @classmethod
    def of_files(
        cls,
        files: Iterable[Paths],
        recipe: WindowRecipe,
        *,
        events: pd.DataFrame | None = None,
        tolerance_s: float = 0.0,
        ranges: Mapping[str, Sequence[float]] | None = None,
        **options: Unpack[ReadOptions],
    ) -> Self:
        """Read recordings; windows that touch a known event are excluded. See `train` for the parameters."""
        paths = sorted(map(Path, files), key=lambda path: path.stem)
        samples = read_windows(paths, replace(recipe, coefficients=None), **options)
        if not len(samples):
            reasons = " ".join(f"{name}: {why}" for name, why in samples.without.items())
            raise ValueError(f"There is no window to learn from. {reasons}")
        if samples.sparse:
            warnings.warn(sparse_in_words(samples.sparse), stacklevel=3)
        manifest = begin_manifest(paths, samples.spans, events, tolerance_s, role="excluded")
        digest = dict(zip(manifest["recording"], manifest["sha256"], strict=True))
        copies = {name for name, key in digest.items() if name != next(n for n, k in digest.items() if k == key)}
        copies |= copies_of(samples, recipe).keys()
        if copies:
            warnings.warn(
                f"The recordings {listed(sorted(copies))} are copies of others. Each recording is learned once.",
                stacklevel=3,
            )
            manifest = manifest[~manifest["recording"].isin(copies)].reset_index(drop=True)
            samples = samples.part(~samples.spans["recording"].isin(copies).to_numpy())
        spans = samples.spans.assign(recording=samples.spans["recording"].map(digest))
        data = cls(manifest, recipe, replace(samples, spans=spans), roles_of(spans, manifest), dict(ranges or {}))
        if data._drives:
            warnings.warn(parts_in_words(data._drives, len(digest) - len(copies)), stacklevel=3)
        return data

    @classmethod
    def of_manifest(
        cls,
        manifest: pd.DataFrame,
        recipe: WindowRecipe,
        *,
        ranges: Mapping[str, Sequence[float]] | None = None,
        source: Paths | None = None,
        **options: Unpack[ReadOptions],
    ) -> Self:
        """Read the windows that a manifest names; ``source`` is where its recordings lie now, if they have moved."""
        ordered = manifest.sort_values(["recording", "sha256"], kind="stable", ignore_index=True)
        samples, role = windows_by_role(ordered, replace(recipe, coefficients=None), source, **options)
        return cls(manifest, recipe, samples, role, dict(ranges or {}))

    @classmethod
    def of_bundle(cls, bundle: Paths, *, source: Paths | None = None, **options: Unpack[ReadOptions]) -> Self:
        """Read what the model of a bundle has learned."""
        return cls.of_manifest(
            read_manifest(bundle), recipe_of(bundle), ranges=ranges_of(bundle), source=source, **options
        )

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The windows as the detector takes them, shape ``(n, d)``."""
        return rows_of(self.recipe, self._within)

    @cached_property
    def _within(self) -> Windows:
        return within(self.samples, self.ranges)

    @cached_property
    def names(self) -> dict[str, str]:
        """The name of each recording by its sha256."""
        return dict(zip(self.manifest["sha256"], self.manifest["recording"], strict=True))

    @cached_property
    def _recording(self) -> "pd.Series[Any]":
        """The name of the recording of each window."""
        return self.samples.spans["recording"].map(self.names)

    @cached_property
    def _drives(self) -> dict[str, str]:
        """Recordings that go on where another one ends, with the name of the first one of that drive."""
        spans = self.samples.spans.assign(recording=self._recording)
        starts = {self.names.get(key, key): moment for key, moment in self.samples.starts.items()}
        return drives_of(replace(self.samples, spans=spans, starts=starts), self.recipe)

    @cached_property
    def named(self) -> Windows:
        """The windows as the detector takes them; ``recording`` is the name of each recording."""
        return replace(self.samples, rows=self.rows, spans=self.samples.spans.assign(recording=self._recording))

    def without(self, *recordings: str) -> Self:
        """The training set without some recordings, by their names."""
        kept = ~self._recording.isin(recordings).to_numpy()
        manifest = self.manifest[~self.manifest["recording"].isin(recordings)].reset_index(drop=True)
        return replace(self, manifest=manifest, samples=self.samples.part(kept), role=self.role[kept])

    @property
    def empty_signals(self) -> list[str]:
        """The signals that cannot be learned: a sample or coefficient of theirs is missing in all normal windows."""
        if not self.ranges and not self.recipe.missing:
            return []
        empty = self.rows[self.role == "normal"].isna().all().to_numpy().reshape(len(self.recipe.signals), -1)
        return [name for name, one in zip(self.recipe.signals, empty.any(axis=1), strict=True) if one]

    def refuse_empty(self) -> None:
        """Raise ValueError for signals that no normal window has."""
        if signals := self.empty_signals:
            recordings = sorted(self._recording[self.role == "normal"].unique())
            raise ValueError(
                f"No normal window of {listed(map(repr, recordings))} has values of {listed(map(repr, signals))}, so a "
                "model of these recordings cannot learn it. Values outside of a signal's range count as missing. Leave "
                "the signal out (signals), correct its range, or add recordings that have it."
            )

    def fit(self, detector: "VAEOutlierDetector") -> "VAEOutlierDetector":
        """Fit a clone of a detector: normal windows are learned, faults are pushed away.

        Windows that a reviewer called normal are the most anomalous of their recordings: they are learned, and the
        others alone set the threshold. See `groups_of` for how windows are held out.
        """
        from sklearn.base import clone

        normal, fault = self.role == "normal", self.role == "fault"
        if not normal.any():
            raise ValueError(
                "No normal window is left to learn from. Add recordings, review more events, or lower tolerance_s."
            )
        self.refuse_empty()
        spans = self.samples.spans[normal]
        base = is_base(spans, self.manifest)
        if not base.any():
            raise ValueError(
                "Only windows that reviewers called normal are left to learn from; a threshold needs recordings that "
                "are normal as a whole. Pass the recordings that the champion learned (--learned)."
            )
        groups = np.full(len(spans), -1)
        named = spans[base].assign(recording=self._recording[normal][base].replace(self._drives))
        groups[base] = groups_of(named)
        outliers = self.rows[fault] if fault.any() else None
        folded = clone(detector)
        if detector.input_shape is None and self.recipe.coefficients is None:
            folded.set_params(input_shape=self.recipe.input_shape)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=CAUTION)  # the detector cannot know what its groups are
            model = folded.fit(self.rows[normal], groups=groups, outliers=outliers, selected=~base)
        model.training_[STRETCHES] = not are_groups(named["recording"].value_counts())
        if (caution := few_recordings(model.calibration_.evidence, model.training_)) is not None:
            warnings.warn(caution, stacklevel=2)
        return model

    def fleet(self, detector: "VAEOutlierDetector") -> Fleet | None:
        """How unlike each other the recordings are, each measured on its normal windows by a fit that left it out.

        Three fits learn two thirds of the recordings each. ``detector`` is the fitted model. None for fewer than three
        recordings, if a fit was interrupted, and with a warning if two thirds of the recordings lack a signal.
        """
        from sklearn.base import clone

        from anomalyvae.detector.fitting import epoch_callback

        normal = self.role == "normal"
        normal[normal] = is_base(self.samples.spans[normal], self.manifest)
        names = sorted(self._recording[normal].unique())
        drives = sorted({self._drives.get(name, name) for name in names})
        if len(drives) < FEWEST:
            return None
        parts = [[name for name in names if self._drives.get(name, name) in drives[n::_PARTS]] for n in range(_PARTS)]
        for left_out in parts:
            if signals := self.without(*left_out).empty_signals:
                warnings.warn(
                    f"Without {listed(map(repr, left_out))}, no normal window has values of "
                    f"{listed(map(repr, signals))}. So the model does not say how unlike each other its recordings "
                    "are: 'rank' gives no p-values, and 'drift' refuses. Leave the signal out, or add recordings that "
                    "have it.",
                    stacklevel=4,
                )
                return None
        tallies = {}
        previous = epoch_callback.set(None)  # a tracked run has the losses of the model alone
        try:
            for left_out in parts:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # the model's own fit has given them
                    # One network: the others only set a threshold.
                    other = self.without(*left_out).fit(clone(detector).set_params(validation_fraction=0.0))
                    if other.stop_reason_ == "interrupted":
                        return None
                    other.network_.judge_residuals_as(detector.network_)  # it held out no window itself
                    for name in left_out:
                        tallies[name] = self._tally(other, self.rows, normal & (self._recording == name).to_numpy())
        finally:
            epoch_callback.reset(previous)
        rows = rows_of(self.recipe, self.samples)  # as they are scored: ranges count in training only
        own = {name: self._tally(detector, rows, normal & (self._recording == name).to_numpy()) for name in names}
        return Fleet.of({name: tallies[name] for name in names}, self.recipe.signals, own)

    def _tally(self, model: "VAEOutlierDetector", rows: pd.DataFrame, chosen: NDArray[np.bool_]) -> Tally:
        rows, tally = rows[chosen], Tally(len(self.recipe.signals))
        scores = np.column_stack([model.anomaly_score(rows), signal_scores(model, rows, self.recipe)])
        tally.add(scores, np.zeros(len(rows)), self.samples.spans["start_s"][chosen])
        return tally

    def health(self, model: "VAEOutlierDetector | None" = None) -> dict[str, Any]:
        """What healthy signals look like: a profile as plain values; with a fitted model, drift as well."""
        normal = self.role == "normal"
        residuals = None if model is None else unlearned_residuals(model, self.recipe, self._within.part(normal))
        states = (*self.recipe.states, *self.recipe.counts)
        samples = self.samples.part(normal)
        return learn_profile(samples, states=states, ranges=self.ranges, residuals=residuals).to_dict()

    def save(
        self,
        model: "VAEOutlierDetector",
        out: Paths,
        *,
        drift: bool = False,
        figures: dict[str, Any] | None = None,
        health: dict[str, Any] | None = None,
        ranks: bool = True,
    ) -> Path:
        """Write the bundle of a model that `fit` gave, with its manifest and its health profile.

        With ``ranks``, it also says how unlike each other the recordings are, which takes three more fits.
        """
        target = Path(out)
        refuse_foreign(target)
        health = health or self.health(model if drift else None)
        fleet = self.fleet(model) if ranks else None
        with replacing(target) as fresh:
            digest = write_manifest(self.manifest, fresh.parent / MANIFEST)
            kept = {"manifest": digest, "ranges": {name: list(pair) for name, pair in self.ranges.items()}}
            model.training_ = {**model.training_, **kept, "drift": drift}
            save(
                model,
                fresh,
                recipe=self.recipe.to_dict(),
                units=self.samples.units,
                figures=figures,
                health=health,
                fleet=None if fleet is None else fleet.to_dict(),
            )
            os.replace(fresh.parent / MANIFEST, fresh / MANIFEST)
        return target


def recipe_of(bundle: Paths, *, pipelines: bool = False) -> WindowRecipe:
    """The windowing recipe of a bundle; ValueError for a model of plain rows or, unless allowed, for a Pipeline."""
    card = read_card(bundle)
    if card["windowing"] is None:
        raise ValueError(
            f"The model {os.fspath(bundle)} scores plain rows, expected windows. Fit it with a window recipe "
            "(--recipe)."
        )
    if not pipelines and card.get("preprocessing") is not None:
        raise ValueError(
            f"The bundle {os.fspath(bundle)} holds a Pipeline, expected a model that 'anomalyvae fit' made from "
            "recordings. Fit one with a window recipe (--recipe)."
        )
    try:
        return WindowRecipe.from_dict(card["windowing"])
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise inconsistent(bundle, f"its window recipe: {error}") from error


def ranges_of(bundle: Paths) -> dict[str, list[float]]:
    """The physical ranges that a bundle's model was trained with."""
    ranges = read_card(bundle)["training"].get("ranges", {})
    try:
        return {str(name): [float(low), float(high)] for name, (low, high) in ranges.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise inconsistent(bundle, f"its ranges: {error}") from error


def unfitted(bundle: Paths) -> "VAEOutlierDetector":
    """A detector with the parameters of a bundle's model, not fitted."""
    from sklearn.base import clone

    return clone(load(bundle))
