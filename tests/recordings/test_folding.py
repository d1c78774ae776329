"""Scores of windows become scores of ticks: each tick depends on its own windows only."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyvae.events import merge_alarms
from anomalyvae.recordings import WindowRecipe, log_from_frame
from anomalyvae.recordings.folding import MODES, Folding, fold, fold_windows


def recipe_of(samples, stride, rate_hz=10.0, **options):
    return WindowRecipe(("x",), rate_hz, samples / rate_hz, stride / rate_hz, max_gap_s=0.15, **options)


def by_hand(scores, starts, samples, ticks, mode, stride):
    """What the definition says, tick by tick."""
    folded = np.full(ticks, np.nan)
    for tick in range(ticks):
        covering = [w for w, start in enumerate(starts) if start <= tick < start + samples]
        ended = [w for w, start in enumerate(starts) if start + samples - 1 <= tick < start + samples - 1 + stride]
        if covering and mode == "offline":
            folded[tick] = np.mean([scores[w] for w in covering])
        elif covering and ended:
            folded[tick] = scores[ended[-1]]
    return folded


@given(
    samples=st.integers(1, 7),
    stride=st.sampled_from([1, 2, 2.5, 9]),
    kept=st.lists(st.booleans(), max_size=40),
    tail=st.integers(0, 5),
    seed=st.integers(0, 2**32 - 1),
)
@pytest.mark.parametrize("mode", MODES)
def test_a_tick_has_what_its_windows_say(mode, samples, stride, kept, tail, seed):
    starts = np.array([int(np.floor(k * stride + 1e-6)) for k, keep in enumerate(kept) if keep], dtype=int)
    ticks = (int(starts[-1]) + samples if len(starts) else 0) + tail
    scores = np.random.default_rng(seed).normal(size=len(starts))
    got = fold(scores, starts, samples, ticks, mode=mode, stride=stride)
    np.testing.assert_allclose(got, by_hand(scores, starts, samples, ticks, mode, stride), rtol=1e-12, atol=1e-14)
    two = fold(np.column_stack((scores, -scores)), starts, samples, ticks, mode=mode, stride=stride)
    np.testing.assert_allclose(two, np.column_stack((got, -got)), rtol=1e-12, atol=1e-14)


@given(
    samples=st.integers(1, 7),
    stride=st.sampled_from([1, 2, 2.5, 9]),
    steps=st.lists(st.sampled_from([1] * 8 + [2, 5, 30, 10_000_000]), min_size=1, max_size=30),
    cuts=st.lists(st.integers(0, 30), max_size=6),
    seed=st.integers(0, 2**32 - 1),
)
@pytest.mark.parametrize("mode", MODES)
def test_pieces_of_any_size_give_the_bits_of_the_whole(mode, samples, stride, steps, cuts, seed):
    recipe = recipe_of(samples, stride)
    start_s = 3.2 + np.floor(np.cumsum([0, *steps]) * stride + 1e-6) / 10
    scores = np.random.default_rng(seed).normal(size=(len(start_s), 2)) * 10.0 ** np.arange(2)
    whole = Folding(recipe, mode).add(start_s, scores, last=True)
    folding = Folding(recipe, mode)
    pieces = [
        folding.add(a, b) for a, b in zip(np.split(start_s, sorted(cuts)), np.split(scores, sorted(cuts)), strict=True)
    ]
    pieces.append(folding.add([], scores[:0], last=True))
    for parts, expected in zip(zip(*pieces, strict=True), whole, strict=True):
        assert np.concatenate(parts).tobytes() == expected.tobytes()
    assert (np.diff(whole[0]) > 0.09).all()


def test_what_is_remembered_does_not_grow_with_the_recording():
    folding = Folding(recipe_of(20, 1))
    held = []
    for piece in range(50):
        folding.add((np.arange(100) + 100 * piece) / 10, np.ones(100))
        held.append(len(folding._starts))
    assert max(held) <= 22


def test_one_huge_score_does_not_blur_the_rest():
    scores = np.full(10_000, 0.1)
    scores[50] = 1e12
    folded = fold(scores, np.arange(10_000), 20, 10_019)
    assert np.abs(folded[70:] - 0.1).max() < 1e-15


def test_windows_of_a_recording_with_gaps_and_a_condition():
    seconds = np.concatenate((np.arange(0, 8), np.arange(20, 31)))
    frame = pd.DataFrame({"time_s": seconds * 1.0, "x": np.arange(19.0), "speed": np.where(seconds == 25, 0.0, 9.0)})
    recipe = WindowRecipe(("x",), 1, length_s=3, stride_s=2, max_gap_s=1, where="speed > 1")
    spans = recipe.windows(log_from_frame(frame, "drive")).spans
    assert spans["start_s"].tolist() == [0, 2, 4, 20, 22, 26, 28]
    scores = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
    offline, causal = (fold_windows(spans, scores, recipe, mode=mode) for mode in MODES)
    ticks = [*range(7), *range(20, 25), *range(26, 31)]
    assert offline["start_s"].tolist() == causal["start_s"].tolist() == ticks
    assert offline["end_s"].tolist() == [tick + 1 for tick in ticks]
    assert offline["anomaly_score"].tolist() == [1, 1, 1.5, 2, 3, 4, 4, 8, 8, 12, 16, 16, 32, 32, 48, 64, 64]
    n = np.nan
    np.testing.assert_array_equal(causal["anomaly_score"], [n, n, 1, 1, 2, 2, 4, n, n, 8, 8, 16, n, n, 32, 32, 64])


def test_recordings_do_not_mix_and_may_be_absent():
    recipe = WindowRecipe(("x",), 1, 2, 1, 1)
    spans = pd.DataFrame({"recording": ["a", "b", "b"], "start_s": [0.0, 0.0, 1.0]})
    table = fold_windows(spans, [1.0, 5.0, 7.0], recipe)
    assert table["recording"].tolist() == ["a", "a", "b", "b", "b"]
    assert table["anomaly_score"].tolist() == [1, 1, 5, 6, 7]
    assert fold_windows(spans[:0], [], recipe).shape == (0, 4)


def test_an_event_has_its_start_and_end():
    """Flagged windows of two seconds span four around an event of one; flagged ticks lie where it is."""
    recipe = WindowRecipe(("x",), 10, length_s=2, stride_s=0.1, max_gap_s=1)
    spans = pd.DataFrame({"recording": "drive", "start_s": np.arange(380) / 10})
    spans["end_s"] = spans["start_s"] + 2
    inside = np.minimum(spans["end_s"], 21) - np.maximum(spans["start_s"], 20)  # seconds of the event in the window
    scores = inside.clip(lower=0)
    windows, offline, causal = (
        merge_alarms(table, table_scores > 0.5)[["start_s", "end_s"]].to_numpy()
        for table, table_scores in [(spans, scores)]
        + [(ticks, ticks["anomaly_score"]) for ticks in (fold_windows(spans, scores, recipe, mode=m) for m in MODES)]
    )
    assert len(windows) == len(offline) == len(causal) == 1
    assert np.ptp(windows) > 3.7
    assert np.ptp(offline) < 2.2
    assert offline.mean() == pytest.approx(20.5, abs=0.06)
    assert causal.mean() == pytest.approx(21.5, abs=0.06)  # half a window late, as whoever knows the past alone must be


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match=r"mode='both' must be 'offline' or 'causal'\."):
        Folding(recipe_of(2, 1), "both")
    with pytest.raises(ValueError, match=r"There are 2 scores for 1 windows"):
        fold([1.0, 2.0], [0], 1, 2)
    with pytest.raises(ValueError, match=r"Windows of 2 ticks begin from 0 to 3"):
        fold([1.0, 2.0], [0, 3], 2, 4)
    spans = pd.DataFrame({"recording": ["a"], "start_s": [0.0]})
    with pytest.raises(ValueError, match=r"There are 2 scores for 1 windows"):
        fold_windows(spans, [1.0, 2.0], recipe_of(2, 1))
