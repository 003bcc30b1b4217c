"""Where things stand on the drawings."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_assay.report.charts import composition, trend_chart
from mlflow_assay.report.model import Counts, Trend, TrendBin
from mlflow_assay.trust.estimate import proportion

DAY = 86_400_000
bins = st.dictionaries(st.integers(0, 60), st.tuples(st.integers(0, 30), st.integers(1, 30)), min_size=1, max_size=40)


def trend(found):
    made = [
        TrendBin(day * DAY, proportion(min(passed, total), total)) for day, (passed, total) in sorted(found.items())
    ]
    return Trend("day", tuple(made))


@given(bins)
@settings(max_examples=60, deadline=None)
def test_everything_stands_inside_the_drawing(found):
    """One dot a bin, its interval around it, in the order of time, and labels that do not run into each other."""
    chart = trend_chart(trend(found))
    assert len(chart.dots) == len(found)
    xs = [d.x for d in chart.dots]
    assert xs == sorted(xs)
    for dot in chart.dots:
        assert 0 < dot.x < 100
        assert -1e-6 <= dot.top <= dot.y + 1e-6 and dot.y <= dot.bottom + 1e-6 and dot.bottom <= 100 + 1e-6
    places = [t.x for t in chart.ticks]
    assert places[0] == xs[0] and places[-1] == xs[-1]
    assert all(b - a >= 26 for a, b in itertools.pairwise(places[:-1]))


def test_a_gap_in_time_breaks_the_line_and_a_lonely_bin_keeps_its_interval():
    chart = trend_chart(trend({0: (5, 10), 1: (6, 10), 5: (7, 10), 9: (8, 10), 10: (9, 10)}))
    assert len(chart.lines) == len(chart.bands) == 2
    assert [d.alone for d in chart.dots] == [False, False, True, False, False]
    assert chart.lines[0].count(",") == 2
    assert chart.bands[0].count(",") == 4


def test_few_verdicts_are_marked():
    chart = trend_chart(trend({0: (5, 9), 1: (5, 10)}))
    assert [d.few for d in chart.dots] == [True, False]


def test_the_parts_of_a_bar_are_all_units_and_empty_parts_are_left_out():
    parts = composition(Counts(5, 0, (("timeout", 2),), 3))
    assert [(p.kind, p.n, p.width) for p in parts] == [
        ("passed", 5, 50.0),
        ("unscored", 2, 20.0),
        ("not-judged", 3, 30.0),
    ]
