"""Windows that overlap are found by their samples, and hold no promise of a threshold hostage."""

import warnings

import numpy as np
import pytest

from anomalyvae import VAEOutlierDetector
from anomalyvae.calibration import CAUTION
from anomalyvae.detector.overlap import starts_of, stretches_of

SIGNALS, SAMPLES = 2, 20


def slow_noise(ticks: int, seed: int) -> np.ndarray:
    """Signals whose samples are correlated over about as long as a window, ``(ticks, 2)``."""
    rng = np.random.default_rng(seed)
    samples = rng.normal(size=(ticks, SIGNALS))
    for tick in range(1, ticks):
        samples[tick] += 0.9 * samples[tick - 1]
    return samples


def windows(samples: np.ndarray, stride: int = 1) -> np.ndarray:
    starts = range(0, len(samples) - SAMPLES + 1, stride)
    return np.stack([samples[start : start + SAMPLES].T.ravel() for start in starts])


def overlapping(starts: np.ndarray) -> np.ndarray:
    return np.abs(starts[:, None] - starts) < SAMPLES


def test_windows_that_overlap_are_found_in_any_order():
    drives = [slow_noise(ticks, seed) for seed, ticks in enumerate((500, 300))]
    x = np.concatenate([windows(drive, 3) for drive in drives])
    truth = np.concatenate([1000 * i + np.arange(0, len(drive) - SAMPLES + 1, 3) for i, drive in enumerate(drives)])
    some = np.random.default_rng(0).permutation(len(x))[:120]  # most of the windows between are missing
    found = overlapping(starts_of(x[some], (SIGNALS, SAMPLES)))
    assert np.array_equal(found, overlapping(truth[some]))


def test_standing_still_does_not_join_recordings():
    still = np.zeros((100, SIGNALS))
    drives = [np.concatenate([still, slow_noise(200, seed), still]) for seed in range(2)]
    x = np.unique(np.concatenate([windows(drive) for drive in drives]), axis=0)
    moving = (x[:, :5] != 0).all(axis=1)
    starts = starts_of(x, (SIGNALS, SAMPLES))
    first = [np.isin(x[:, 0], drive[:, 0]) & moving for drive in drives]
    assert not overlapping(starts)[np.ix_(*map(np.flatnonzero, first))].any()
    assert overlapping(starts).sum() > 20 * len(x)


@pytest.mark.parametrize("seed", range(3))
def test_few_levels_that_come_again_by_chance_are_one_time(seed):
    x = windows(np.round(slow_noise(3000, seed) / 2) + 0.0)  # no -0.0
    assert len(np.unique(stretches_of(starts_of(x, (SIGNALS, SAMPLES)), SAMPLES))) == 30


def test_a_sample_that_comes_again_does_not_join_recordings():
    drives = [slow_noise(300, seed) for seed in range(2)]
    drives[1][0] = drives[0][150]
    x = [windows(drive) for drive in drives]
    starts = starts_of(np.concatenate(x), (SIGNALS, SAMPLES))
    assert not overlapping(starts)[: len(x[0]), len(x[0]) :].any()


@pytest.mark.parametrize("period", [30, 50])
def test_a_period_is_one_time(period):
    x = windows(np.tile(np.random.default_rng(0).normal(size=(period, SIGNALS)), (5, 1)))
    assert np.ptp(starts_of(x, (SIGNALS, SAMPLES))) == period - 1


@pytest.mark.parametrize("period", [1, 7, 50])
def test_a_period_ends(period):
    cycle = np.random.default_rng(0).normal(size=(period, SIGNALS))
    x = np.unique(windows(np.tile(cycle, (1 + 200 // period, 1))), axis=0)
    starts = starts_of(x, (SIGNALS, SAMPLES))
    assert len(starts) == len(x)
    assert starts.min() >= 0


def test_windows_beside_each_other_have_no_stretches():
    x = windows(slow_noise(3000, 0), SAMPLES)
    assert stretches_of(starts_of(x, (SIGNALS, SAMPLES)), SAMPLES) is None


def test_a_short_time_is_held_out_in_stretches_too():
    shares = []
    for seed in range(3):
        with pytest.warns(UserWarning, match="3 stretches of time can show no p-value below 0.25"):
            detector = VAEOutlierDetector(input_shape=(SIGNALS, SAMPLES), random_state=0).fit(
                windows(slow_noise(99, seed))
            )
        shares.append((detector.predict(windows(slow_noise(3000, 9), 7)) == -1).mean())
    assert np.mean(shares) < 0.3, shares  # it was .6 to .9


def test_stretches_are_of_one_time():
    x = windows(slow_noise(3000, 0))
    stretch = stretches_of(starts_of(x, (SIGNALS, SAMPLES)), SAMPLES)
    begins = np.flatnonzero(np.diff(stretch)) + 1
    assert len(np.unique(stretch)) == len(begins) + 1 == 30


@pytest.mark.parametrize(("ticks", "stride"), [(1000, 1), (3000, 1), (3000, 4), (8000, 1)])
def test_overlapping_windows_keep_the_promise_without_groups(ticks, stride):
    shares = []
    for seed in range(3):
        detector = VAEOutlierDetector(input_shape=(SIGNALS, SAMPLES), random_state=seed)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", CAUTION)
            detector.fit(windows(slow_noise(ticks, seed), stride))
        shares.append((detector.predict(windows(slow_noise(10_000, 100 + seed), 7)) == -1).mean())
    assert np.mean(shares) < 0.1, shares  # 5 % are promised; it was .99 with 1,000, .55 with 3,000


def drives_at_once() -> tuple[np.ndarray, np.ndarray]:
    """Windows of three drives, in steps of signals, and how often each is given."""
    x = np.concatenate([windows(np.round(2 * slow_noise(ticks, ticks)) / 2, 2) + 0.0 for ticks in (300, 250, 200)])
    return x, 1.0 + (np.arange(len(x)) % 3 == 0)


def shuffled(x, count):
    order = np.random.default_rng(0).permutation(len(x))
    return x[order], count[order]


def repeated(x, count):
    return np.repeat(x, count.astype(int), axis=0), None


def with_rows_of_no_weight(x, count):
    more = windows(slow_noise(400, 9))
    return np.concatenate([x, more]), np.append(count, np.zeros(len(more)))


def with_negative_zeros(x, count):
    return np.where((x == 0) & (np.random.default_rng(0).random(x.shape) < 0.5), -0.0, x), count


@pytest.mark.parametrize("given", [shuffled, repeated, with_rows_of_no_weight, with_negative_zeros])
def test_the_same_windows_given_otherwise_are_the_same_model(given):
    def fitted(x, count):
        detector = VAEOutlierDetector(input_shape=(SIGNALS, SAMPLES), random_state=0, max_epochs=1)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", CAUTION)
            return detector.fit(x, sample_weight=count)

    x, count = drives_at_once()
    expected, found = fitted(x, count), fitted(*given(x, count))
    assert found.training_["groups"] == expected.training_["groups"] > 1
    assert found.training_["sha256"] == expected.training_["sha256"]
    assert np.array_equal(found.score_samples(x), expected.score_samples(x))
    assert found.offset_ == expected.offset_


def test_windows_beside_each_other_given_twice_do_not_overlap():
    x = windows(slow_noise(1000, 0), SAMPLES)
    detector = VAEOutlierDetector(input_shape=(SIGNALS, SAMPLES), random_state=0, max_epochs=1)
    assert detector.fit(np.concatenate([x, x])).training_["groups"] == 0


def test_the_caution_speaks_of_stretches():
    with pytest.warns(UserWarning, match="10 stretches of time can show no p-value below 0.091"):
        VAEOutlierDetector(input_shape=(SIGNALS, SAMPLES), random_state=0).fit(windows(slow_noise(1019, 0)))
