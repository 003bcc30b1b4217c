"""What a judge said over time: repeats, then and now, and a watched stream."""

from __future__ import annotations

import krippendorff
import pytest

from mlflow_assay import semconv
from mlflow_assay.labels.history import history, repeats_of, stored_repeats, then_and_now, watch
from mlflow_assay.labels.verdicts import collect


def test_replaced_verdicts_are_kept_oldest_first_and_cached_ones_left_out(make):
    cached = make.mark(True, at=9, metadata={semconv.CACHE_HIT: "true"})
    row = make.row(1, make.mark(False, at=5, valid=False), make.mark(True, at=1, valid=False), cached, make.label(True))
    (said,) = history([row], "j", None).values()
    assert [v.reading.passed for v in said] == [True, False]


def test_then_is_the_first_and_now_the_latest_verdict(make):
    rows = [make.row(1, *(make.mark(v, at=i) for i, v in enumerate([True, True, False]))), make.row(2, make.mark(True))]
    assert then_and_now(history(rows, "j", None)) == ([rows[0].trace_id], [True], [False])


def test_repeats_are_of_one_version_only(make):
    def by(version, at, value=True):
        return make.mark(value, at=at, metadata={semconv.JUDGE_DIGEST: version})

    row = make.row(1, by("a", 1), by("b", 2, False), by("a", 3))
    assert list(stored_repeats(history([row], "j", None)).values()) == [[True, True]]


def test_repeats_are_measured_as_raters_are():
    said = {f"t{i}": [i % 2 == 0, (i % 2 == 0) != (i % 10 == 0), i % 2 == 0] for i in range(40)}
    found = repeats_of("j", said)
    values = [[int(said[t][k]) for t in said] for k in range(3)]
    expected = krippendorff.alpha(reliability_data=values, level_of_measurement="nominal")
    assert found.alpha.value == pytest.approx(expected)
    assert (found.n, found.flips.raw, found.changing.raw) == (40, 0.1, 0.1)
    assert found.unstable == {f"t{i}": (2, 1) for i in range(0, 40, 10)}


def test_an_unscored_repeat_is_counted_and_is_no_contradiction():
    found = repeats_of("j", {"a": [True, None, True], "b": [None, True]})
    assert (found.n, found.unscored, found.changing.raw) == (1, 2, 0.0)


def watched(make, outcomes, session=lambda i: None):
    rows = [make.row(i, make.mark(v), session=session(i)) for i, v in enumerate(outcomes)]
    (found,) = collect(rows, {})
    return watch(list(found.verdicts.values()), 0.9)


def test_a_drop_raises_the_alarm_and_a_steady_stream_does_not(make):
    steady = watched(make, [i % 10 != 0 for i in range(300)])
    assert not steady.alarm.alarm
    assert steady.change is None
    dropped = watched(make, [i % 10 != 0 if i < 200 else i % 2 == 0 for i in range(300)])
    assert dropped.alarm.alarm_at > 200
    assert dropped.change == pytest.approx(0.5 - 0.9)


def test_of_each_session_only_the_first_verdict_is_watched(make):
    """Forty failures of one customer are one failure."""
    found = watched(make, [True] * 10 + [False] * 40, session=lambda i: f"s{i}" if i < 10 else "angry")
    assert (found.alarm.seen, found.alarm.alarm) == (11, False)
