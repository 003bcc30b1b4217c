"""Drift: an alarm that may be watched, and whose change it is."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_assay.errors import ConfigError
from mlflow_assay.trust import PassRateAlarm, check_gold, confidence_sequence, diagnose


def expected_evidence(steps, rate, **options):
    """The mean e-value over every stream of a given length, exactly."""
    total = 0.0
    for code in range(2**steps):
        stream = [(code >> i) & 1 for i in range(steps)]
        alarm = PassRateAlarm(0.7, **options)
        alarm.extend(stream)
        total += alarm.e_value * rate ** sum(stream) * (1 - rate) ** (steps - sum(stream))
    return total


@pytest.mark.parametrize("direction", ["drop", "rise", "change"])
@pytest.mark.parametrize("restart_every", [None, 3])
def test_evidence_is_fair_at_the_baseline(direction, restart_every):
    """The defining property, checked by enumeration: expected evidence is 1 when nothing changed."""
    found = expected_evidence(8, 0.7, direction=direction, restart_every=restart_every)
    assert found == pytest.approx(1.0)


@pytest.mark.parametrize(("direction", "rate"), [("drop", 0.85), ("rise", 0.5)])
def test_evidence_is_no_better_than_fair_on_the_good_side(direction, rate):
    assert expected_evidence(8, rate, direction=direction, restart_every=3) < 1.0


def test_few_false_alarms_although_looked_at_after_every_trace():
    alarms = 0
    for seed in range(40):
        stream = np.random.default_rng(seed).random(400) < 0.9
        alarms += PassRateAlarm(0.9).extend(stream.tolist())
    assert alarms <= 5  # 5 % promised; 5 of 40 has probability 0.05 even at the limit


def test_a_drop_is_found_and_a_late_one_sooner_with_restarts():
    rng = np.random.default_rng(0)
    early = PassRateAlarm(0.9)
    assert early.extend((rng.random(400) < 0.75).tolist())
    assert early.alarm_at < 200
    stream = [*(rng.random(600) < 0.9).tolist(), *(rng.random(600) < 0.75).tolist()]
    with_restarts, without = PassRateAlarm(0.9), PassRateAlarm(0.9, restart_every=None)
    assert with_restarts.extend(stream) and without.extend(stream)
    assert 600 < with_restarts.alarm_at < without.alarm_at


def test_directions_look_where_they_say():
    rng = np.random.default_rng(1)
    up, down = (rng.random(300) < 0.9).tolist(), (rng.random(300) < 0.3).tolist()
    found = {d: [PassRateAlarm(0.6, direction=d).extend(s) for s in (up, down)] for d in ("drop", "rise", "change")}
    assert found == {"drop": [False, True], "rise": [True, False], "change": [True, True]}


def test_an_alarm_stays_raised_and_its_p_value_only_falls():
    alarm = PassRateAlarm(0.9)
    alarm.extend([False] * 10)
    at, p = alarm.alarm_at, alarm.p_value
    alarm.extend([True] * 500)
    assert alarm.alarm and alarm.alarm_at == at and alarm.p_value == p < 0.05


@settings(deadline=None, max_examples=20)
@given(st.lists(st.one_of(st.booleans(), st.none()), max_size=60), st.integers(0, 60))
def test_an_alarm_continues_from_its_saved_state(stream, cut):
    whole, part = PassRateAlarm(0.8, restart_every=7), PassRateAlarm(0.8, restart_every=7)
    whole.extend(stream)
    part.extend(stream[:cut])
    resumed = PassRateAlarm.from_dict(json.loads(json.dumps(part.to_dict())))
    resumed.extend(stream[cut:])
    assert resumed.to_dict() == whole.to_dict()
    assert whole.unscored == stream.count(None) and whole.seen == len(stream) - stream.count(None)


@pytest.mark.parametrize(
    "options", [{"baseline": 1.0}, {"baseline": 0.9, "alpha": 0}, {"baseline": 0.9, "direction": "x"}]
)
def test_an_impossible_alarm_is_refused(options):
    with pytest.raises(ConfigError):
        PassRateAlarm(**options)


def test_a_state_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="no key"):
        PassRateAlarm.from_dict({"baseline": 0.9})
    with pytest.raises(ConfigError, match="not a number"):
        PassRateAlarm(0.9).update("fail")


# --- confidence sequence --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_sequence_contains_the_rate_and_mirrors(case):
    passed, total = case
    low, high = confidence_sequence(passed, total)
    assert 0 <= low <= passed / total <= high <= 1
    assert confidence_sequence(total - passed, total) == pytest.approx((1 - high, 1 - low), abs=1e-6)


def test_the_sequence_holds_at_all_times_at_once():
    broken, looks = 0, range(0, 300, 7)
    for seed in range(60):
        counts = np.cumsum(np.random.default_rng(seed).random(300) < 0.8)
        broken += any(
            not low <= 0.8 <= high for low, high in (confidence_sequence(int(counts[i]), i + 1) for i in looks)
        )
    assert broken <= 6
    assert confidence_sequence(0, 0) == (0.0, 1.0)
    with pytest.raises(ConfigError):
        confidence_sequence(3, 2)


# --- gold set -------------------------------------------------------------------------------------------

GOLD = [True] * 80 + [False] * 40


def test_the_same_verdicts_are_no_change():
    found = check_gold(GOLD, GOLD, GOLD)
    assert not found.changed and found.flips.raw == 0.0 and found.now.kappa.value == 1.0


def test_a_harsher_judge_is_found_by_its_pass_rate():
    found = check_gold(GOLD, [False] * 12 + GOLD[12:])
    assert found.changed and found.comparison.outcome == "worse"


def test_flips_in_both_directions_are_found_although_the_rate_stands_still():
    now = [False] * 12 + [True] * 68 + [True] * 12 + [False] * 28
    found = check_gold(GOLD, now)
    assert found.comparison.difference == 0 and found.changed
    assert not check_gold(GOLD, now, tolerated_flips=0.3).changed


def test_worse_agreement_with_the_gold_labels_is_found():
    now = [False] * 10 + [True] * 70 + [True] * 10 + [False] * 30
    found = check_gold(GOLD, now, GOLD, tolerated_flips=0.5)
    assert found.gain.value < 0 and found.changed


def test_the_change_is_told_apart():
    same, harsher = check_gold(GOLD, GOLD), check_gold(GOLD, [False] * 12 + GOLD[12:])
    assert diagnose(-0.15, same).cause == "agent" and "got worse" in diagnose(-0.15, same).text
    assert diagnose(0.15, same).cause == "agent" and "got better" in diagnose(0.15, same).text
    assert diagnose(-0.15, harsher).cause == "judge"
    assert diagnose(None, harsher).cause == "judge"
    assert diagnose(None, same).cause == "none"


def test_a_gold_set_too_small_to_exclude_the_judge_is_said_to_be():
    small = check_gold([True, False] * 8, [True, False] * 8)
    assert diagnose(-0.05, small).cause == "unclear"
    assert diagnose(-0.05, check_gold([], [])).cause == "unclear"


def test_a_gold_check_is_json_ready_with_and_without_labels():
    for labels in (None, GOLD):
        assert json.loads(json.dumps(check_gold(GOLD, GOLD, labels).to_dict()))["changed"] is False
    with pytest.raises(ConfigError):
        check_gold(GOLD, GOLD, tolerated_flips=1)
