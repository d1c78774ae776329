"""The comparison of methods that ask for few labels."""

import labels
import numpy as np
import pandas as pd
import pytest
from tabular_report import half_of

OUTLIER = np.arange(200) % 5 == 0


def test_a_method_is_asked_for_allowed_rows_only_and_is_told_what_it_asked_for():
    may, seen = labels.askable(OUTLIER, 0), []
    assert (may[OUTLIER].sum(), may[~OUTLIER].sum()) == (20, 80)

    def scores(asked, outlier):
        seen.append((list(asked), list(outlier)))
        return OUTLIER + np.arange(200) / 1000

    figures = labels.asked_for(scores, OUTLIER, may, 0)
    assert list(figures) == [0, *labels.BUDGETS]
    assert [figures[budget]["found"] for budget in labels.BUDGETS] == [1.0, 1.0, 1.0, 1.0]
    assert (figures[0]["auroc"], figures[100]["average_precision"]) == pytest.approx((1.0, 1.0))
    asked, told = seen[-1]
    assert len(set(asked)) == 100
    assert may[asked].all()
    assert told == list(OUTLIER[asked]) == 20 * [True] + 80 * [False]


def test_asking_at_random_finds_the_usual_share():
    may = labels.askable(OUTLIER, 0)
    found = [
        labels.asked_for(lambda asked, outlier: -np.arange(200), OUTLIER, may, seed, True)[25]["found"]
        for seed in range(40)
    ]
    assert np.mean(found) == pytest.approx(25 * 0.2 / 20, abs=0.05)


def test_the_order_of_a_file_tells_nothing_of_rows_with_equal_scores():
    outlier = np.arange(200) < 40
    may = labels.askable(outlier, 0)
    found = [
        labels.asked_for(lambda asked, outlier: np.zeros(200), outlier, may, seed)[10]["found"] for seed in range(40)
    ]
    assert np.mean(found) == pytest.approx(0.2, abs=0.05)
    again = [labels.asked_for(lambda asked, outlier: np.zeros(200), outlier, may, 3)[10]["found"] for _ in range(2)]
    assert again == [found[3], found[3]]


def test_the_bars_are_against_the_rival_that_is_better_on_the_mean():
    rows = [
        {
            "collection": "toys", "table": f"t{table}", "half": half_of("toys", f"t{table}"), "seed": seed,
            "budget": budget, "method": method, "found": found + 0.1 * seed, "average_precision": found / 2,
        }
        for table in range(20) for seed in (0, 1) for budget in (0, 25)
        for method, found in ((labels.OURS, 0.5), ("aad", 0.2 + 0.01 * table), ("pine", 0.2), ("plain", 0.9))
        if method != "plain" or table  # a method beside them that was not run everywhere
    ]  # fmt: skip
    told = labels.bars(pd.DataFrame(rows)).set_index(["half", "figure", "budget"])
    assert len(told) == 4
    assert set(told["better rival"]) == {"aad"}
    for half in ("chosen", "unseen"):
        gaps = [0.3 - 0.01 * table for table in range(20) if half_of("toys", f"t{table}") == half]
        row = told.loc[half, "found", 25]
        assert row["tables"] == len(gaps)
        assert row["difference"] == pytest.approx(np.mean(gaps))
        assert min(gaps) <= row["low"] < np.mean(gaps) < row["high"] <= max(gaps)
        assert told.loc[half, "average_precision", 25]["difference"] == pytest.approx(np.mean(gaps) / 2)


def test_a_verdict_in_a_long_queue_is_timed():
    read, shown = labels.page_seconds(200, 2)
    assert read > 0
    assert shown > 0
