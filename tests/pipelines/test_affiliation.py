"""Affiliation: published values, and slow but obvious counterparts on random cases."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from affiliation import affiliation


def intervals(*times, recording="a"):
    return pd.DataFrame(times, columns=["start_s", "end_s"]).assign(recording=recording)


def of_intervals(alarms, events, reach):
    """Affiliation of alarms given as intervals: each is a window, and a window that was not flagged spans it all."""
    spans, wanted = intervals(reach, *alarms), intervals(*events)
    return affiliation([False] + [True] * len(alarms), spans, wanted)


PAPER_EVENTS = [(0, 10), (50, 70), (170, 175)]
PAPER_ALARMS = [(5, 6), (7, 10), (11, 12), (40, 60), (115, 130), (135, 140), (165, 170)]


def test_affiliation_has_the_published_values():
    # the paper's own example, figure 5: the zone of its second event is 30 to 120
    near = of_intervals([(40, 60), (115, 120)], [(50, 70)], (30, 120))
    assert near == pytest.approx((0.672222222, 0.944444444), abs=1e-9)


def brute_affiliation(alarms, events, reach, points=6000):
    """The chances of the definition on a fine grid."""
    grid = np.linspace(*reach, points * 2 + 1)[1::2]
    borders = [reach[0], *[(a[1] + b[0]) / 2 for a, b in itertools.pairwise(events)], reach[1]]
    precisions, recalls = [], []
    for (begin, end), low, high in zip(events, borders[:-1], borders[1:], strict=True):
        zone = grid[(grid > low) & (grid < high)]
        raised = zone[np.any([(zone > a) & (zone < b) for a, b in alarms], axis=0)]
        if not raised.size:
            recalls.append(0.0)
            continue
        d = np.maximum(np.maximum(begin - zone, zone - end), 0)
        own = np.maximum(np.maximum(begin - raised, raised - end), 0)
        precisions.append(np.where(own == 0, 1, (d[None] > own[:, None]).mean(1)).mean())
        event = zone[(zone > begin) & (zone < end)]
        to_alarm = np.abs(event[:, None] - raised[None]).min(1)
        to_alarm[np.isin(event, raised)] = 0
        further = (np.abs(event[:, None] - zone[None]) > to_alarm[:, None]).mean(1)
        recalls.append(np.where(to_alarm == 0, 1, further).mean())
    return np.mean(precisions), np.mean(recalls)


@pytest.mark.parametrize(
    ("alarms", "events", "reach"),
    [
        (PAPER_ALARMS, PAPER_EVENTS, (0, 180)),
        ([(1, 3), (6, 18), (25, 26)], [(1, 8), (16, 17), (25, 28), (29, 31)], (1, 40)),
        ([(0, 40)], [(10, 12), (30, 31)], (0, 40)),
        ([(3, 4)], [(10, 12), (30, 31)], (0, 40)),
    ],
)
def test_affiliation_agrees_with_its_definition(alarms, events, reach):
    assert of_intervals(alarms, events, reach) == pytest.approx(brute_affiliation(alarms, events, reach), abs=5e-3)


def test_affiliation_without_alarms_or_without_events():
    nothing = of_intervals([], PAPER_EVENTS, (0, 180))
    assert math.isnan(nothing.precision)
    assert nothing.recall == 0
    assert np.isnan(affiliation([True], intervals((0, 2)), intervals((1, 1), recording="b"))).all()


def test_affiliation_of_marks_takes_a_tolerance():
    with pytest.raises(ValueError, match="An event of recording 'a' has no length"):
        affiliation([True, False], intervals((0, 2), (2, 9)), intervals((1, 1)))
    assert affiliation([True, False], intervals((0, 2), (2, 9)), intervals((1, 1)), tolerance_s=1.0) == (1.0, 1.0)
