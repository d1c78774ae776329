"""The benchmark of sensor health has a bar for false grades."""

import health
import pandas as pd
import pytest


def graded(part, false, name="simulated"):
    return {"name": name, "part": part, "false": false, "hours": 2.0, "kind": None}


@pytest.mark.parametrize(("false", "missed"), [(2, []), (3, ["simulated"])])
def test_the_bar_is_one_false_grade_an_hour_where_nothing_was_chosen(false, missed):
    drives = [graded("learned", 0), graded("chosen on", 9), graded("other half", false), graded("other half", 0, "b")]
    fault = {"name": "simulated", "part": "other half", "found": 1.0}
    rows = pd.DataFrame([*drives, *(fault | {"kind": kind} for kind in health.FAULTS)])
    assert health.over_the_bar(health.summary(rows)) == missed


@pytest.mark.slow
def test_two_simulated_cars_meet_it():
    figures = pd.concat([health.measured(health.simulated(seed), drift=False) for seed in (16, 17)])
    assert health.over_the_bar(health.summary(figures)) == []
