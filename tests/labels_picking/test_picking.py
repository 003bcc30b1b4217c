"""The draw itself: strata, permanent numbers, probabilities. No store."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_assay.errors import ConfigError
from mlflow_assay.labels.designs import Draw, Frame
from mlflow_assay.labels.picking import Candidate, Share, assign, choose, confidence_cut, stratum_of
from mlflow_assay.labels.planned import plan_labels
from mlflow_assay.labels.sampled import sampled_labels
from mlflow_assay.trust import corrected_kpi

FRAME = Frame("week 48", "resolved", None, None, 10**13, None, None, 0, "2026-11-23")


def population(passes=40, fails=20, unscored=0, **facts) -> list[Candidate]:
    said = [True] * passes + [False] * fails + [None] * unscored
    return [Candidate(f"tr-{n:032x}", passed, **facts) for n, passed in enumerate(said)]


def after(candidates, picks) -> list[Candidate]:
    """The same traces once the draw is noted on them."""
    return [replace(c, draw=picks.draws.get(c.trace_id)) for c in candidates]


def draw(candidates, count, frame=FRAME, **share):
    return choose(candidates, frame, Share(count, **share), date="2026-11-23")


# --- probabilities --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 20), st.integers(0, 90), st.integers(0, 15))
def test_probabilities_add_up_to_the_traces_drawn_in_every_stratum(passes, fails, unscored, count, blind):
    """The Horvitz-Thompson weights of a stratum's sample sum to the stratum's size."""
    candidates = population(passes, fails, unscored)
    picks = draw(candidates, count, unscored=blind)
    assert len(picks.draws) == len(picks.new) <= count
    for state in picks.strata:
        drawn = [d for d in picks.draws.values() if d.stratum == state.name]
        assert len(drawn) == state.drawn <= state.size
        if drawn:
            assert sum(1 / d.probability for d in drawn) == pytest.approx(state.size)


def test_every_trace_of_a_stratum_is_drawn_equally_often_and_as_often_as_its_probability_says():
    candidates = population(12, 6)
    seen = dict.fromkeys((c.trace_id for c in candidates), 0)
    runs = 1500
    for seed in range(runs):
        picks = draw(candidates, 8, replace(FRAME, seed=seed))
        for trace_id in picks.new:
            seen[trace_id] += 1
    for c in candidates:
        expected = 4 / (12 if c.passed else 6)
        assert seen[c.trace_id] / runs == pytest.approx(expected, abs=5 * (expected * (1 - expected) / runs) ** 0.5)


def test_the_draw_is_the_same_for_the_same_seed_whatever_the_order():
    candidates = population()
    shuffled = [candidates[i] for i in np.random.default_rng(1).permutation(len(candidates))]
    assert set(draw(candidates, 15).new) == set(draw(shuffled, 15).new)
    assert set(draw(candidates, 15).new) != set(draw(candidates, 15, replace(FRAME, seed=1)).new)
    assert set(draw(candidates, 15).new) != set(draw(candidates, 15, replace(FRAME, queue="week 49")).new)


def test_a_larger_sample_holds_the_smaller_and_raises_every_probability():
    candidates = population()
    small, large = draw(candidates, 10), draw(candidates, 30)
    assert set(small.draws) < set(large.draws)
    grown = draw(after(candidates, small), 30)
    assert grown.draws == large.draws
    assert set(grown.new) == set(large.draws) - set(small.draws)


def test_drawing_again_adds_nothing():
    candidates = population()
    first = draw(candidates, 12)
    again = draw(after(candidates, first), 12)
    assert again.new == () and again.draws == first.draws


def test_a_pick_killed_while_noting_its_draws_is_finished_by_the_next():
    candidates = population()
    first = draw(candidates, 12)
    half = dict(list(first.draws.items())[:5])
    noted = [replace(c, draw=half.get(c.trace_id)) for c in candidates]
    assert draw(noted, 12).draws == first.draws


# --- spreading ------------------------------------------------------------------------------------------


def test_without_labels_verdicts_share_evenly_and_with_labels_the_uncertain_one_gets_more():
    candidates = population(100, 100)
    assert [s.drawn for s in draw(candidates, 20).strata] == [10, 10]
    labelled = [
        replace(c, good=bool(n % 2) if not c.passed else True, labellers=frozenset({"ana"})) if n % 10 < 2 else c
        for n, c in enumerate(candidates)
    ]
    fail, passed = draw(labelled, 40).strata
    assert (fail.name, passed.name) == ("fail", "pass")
    assert fail.drawn > 1.5 * passed.drawn


def test_labels_that_were_there_inform_the_draw_but_are_no_part_of_the_sample():
    candidates = [
        replace(c, good=True, labellers=frozenset({"ana"})) if n < 10 else c for n, c in enumerate(population(40, 0))
    ]
    picks = draw(candidates, 8)
    assert len(picks.draws) == 8
    assert {d.probability for d in picks.draws.values()} == {8 / 40}


def test_labels_declared_random_are_part_of_the_sample():
    candidates = [
        replace(c, good=True, labellers=frozenset({"ana"})) if n < 10 else c for n, c in enumerate(population(40, 0))
    ]
    picks = draw(candidates, 18, random_labels=True)
    assert len(picks.new) == 8 and len(picks.draws) == 18
    assert {d.probability for d in picks.draws.values()} == {18 / 40}
    again = draw(after(candidates, picks), 18, random_labels=True)
    assert again.new == ()


def test_unscored_traces_are_drawn_only_when_asked_for():
    candidates = population(20, 10, unscored=8)
    assert {d.stratum for d in draw(candidates, 12).draws.values()} == {"pass", "fail"}
    picks = draw(candidates, 12, unscored=3)
    blind = [d for d in picks.draws.values() if d.stratum == "unscored"]
    assert len(picks.draws) == 12 and [d.probability for d in blind] == [3 / 8] * 3


def test_rare_slices_get_their_minimum():
    frame = replace(FRAME, by="tag:domain")
    common = [replace(c, slice="bill") for c in population(300, 100)]
    rare = [Candidate(f"tr-{n:032x}", True, slice="roaming") for n in range(1000, 1004)]
    picks = draw([*common, *rare], 30, frame, minimum=3)
    states = {s.name: s for s in picks.strata}
    assert states["pass / domain = roaming"].drawn >= 3
    assert all(d.probability >= 3 / 4 for d in picks.draws.values() if "roaming" in d.stratum)


def test_the_share_asked_for_comes_from_unsure_verdicts():
    candidates = [replace(c, confidence=n / 60) for n, c in enumerate(population())]
    frame = replace(FRAME, cut=confidence_cut(c.confidence for c in candidates))
    picks = draw(candidates, 20, frame, uncertain=0.7)
    unsure = sum("unsure" in d.stratum for d in picks.draws.values())
    assert unsure == 14
    assert sum(c.confidence <= frame.cut for c in candidates) == pytest.approx(20, abs=1)
    everything = draw(candidates, 60, frame, uncertain=0.7)
    assert len(everything.draws) == 60  # where one side runs out, the other fills up


def test_a_verdict_without_confidence_is_not_called_unsure():
    frame = replace(FRAME, cut=0.6)
    assert stratum_of(Candidate("tr-1", True), frame) == "pass / sure"
    assert stratum_of(Candidate("tr-1", True, confidence=0.6), frame) == "pass / unsure"


@pytest.mark.parametrize("confidences", [[None, None], [0.9, 0.9, None], []])
def test_confidences_that_tell_nothing_apart_are_refused(confidences):
    with pytest.raises(ConfigError, match="cannot be told apart by confidence"):
        confidence_cut(confidences)


def test_a_breakdown_with_too_many_values_is_refused():
    frame = replace(FRAME, by="tag:customer")
    with pytest.raises(ConfigError, match="'tag:customer' splits the traces into 50 strata"):
        draw([replace(c, slice=c.trace_id) for c in population(50, 0)], 10, frame)


def test_traces_judged_again_are_counted():
    candidates = population()
    noted = after(candidates, draw(candidates, 20))
    turned = [replace(c, passed=not c.passed) if c.draw else c for c in noted]
    assert draw(turned, 20).moved == 20


@pytest.mark.parametrize("wrong", [{"count": -1}, {"unscored": -1}, {"minimum": -1}, {"uncertain": 1.5}])
def test_impossible_shares_are_refused(wrong):
    with pytest.raises(ConfigError, match="counts of 0 or more and a share"):
        Share(**{"count": 5, **wrong})


# --- experts --------------------------------------------------------------------------------------------


def test_the_overlap_goes_to_every_expert_and_the_rest_to_one_each():
    picks = assign(draw(population(), 20), FRAME, ["q (ana)", "q (ben)"], 6)
    shared = [i for i, d in picks.draws.items() if len(d.queues) == 2]
    alone = [sum(d.queues == (q,) for d in picks.draws.values()) for q in ("q (ana)", "q (ben)")]
    assert len(shared) == 6 and alone == [7, 7]


def test_a_second_pick_fills_up_the_overlap_and_leaves_earlier_assignments():
    candidates, queues = population(), ["a", "b"]
    first = assign(draw(candidates, 10), FRAME, queues, 4)
    second = assign(draw(after(candidates, first), 30), FRAME, queues, 10)
    assert sum(len(d.queues) == 2 for d in second.draws.values()) == 10
    assert all(second.draws[i].queues == d.queues for i, d in first.draws.items())


# --- estimates ------------------------------------------------------------------------------------------


def _world(rng, n=400):
    """Traces whose judge errs, more in a rare slice; the truth per trace id."""
    candidates, truth = [], {}
    for _ in range(n):
        rare = rng.random() < 0.15
        good = bool(rng.random() < (0.4 if rare else 0.85))
        passed = good if rng.random() < (0.6 if rare else 0.9) else not good
        trace_id = f"tr-{rng.integers(2**63):032x}"
        candidates.append(Candidate(trace_id, bool(passed), slice="rare" if rare else "common"))
        truth[trace_id] = good
    return candidates, truth


def _label(candidates, picks, truth):
    return [
        replace(c, draw=picks.draws[c.trace_id], good=truth[c.trace_id], labellers=frozenset({"ana"}))
        if c.trace_id in picks.draws
        else c
        for c in candidates
    ]


def _estimate(candidates, draws):
    sample = sampled_labels([c.good for c in candidates], draws)
    passed = [c.passed for c in candidates]
    return corrected_kpi(passed, sample.labels, kind="share", label_probabilities=sample.probabilities)


def test_rates_from_pilot_and_main_draw_are_unbiased_and_intervals_cover():
    """Strata of verdict and slice, shared out by the pilot's labels: the whole path of `pick`, many times over."""
    rng = np.random.default_rng(5)
    candidates, truth = _world(rng)
    true = sum(truth.values()) / len(truth)
    raw = sum(c.passed for c in candidates) / len(candidates)
    errors, naive, horvitz, covered, runs = [], [], [], 0, 60
    for seed in range(runs):
        frame = replace(FRAME, by="tag:slice", seed=seed)
        labelled = _label(candidates, draw(candidates, 30, frame, minimum=4), truth)
        labelled = _label(labelled, draw(labelled, 90, frame, minimum=4), truth)
        found = _estimate(labelled, [c.draw for c in labelled])
        errors.append(found.value - true)
        covered += found.low <= true <= found.high
        drawn = [c for c in labelled if c.draw]
        naive.append(sum(c.good for c in drawn) / len(drawn) - true)
        horvitz.append(sum(c.good / c.draw.probability for c in drawn) / len(labelled) - true)
    margin = 4 * np.std(errors) / runs**0.5
    assert abs(np.mean(horvitz)) < 4 * np.std(horvitz) / runs**0.5 + 0.004  # the allocation follows the pilot
    assert abs(np.mean(errors)) < margin + 0.01
    assert abs(np.mean(naive)) > 0.03 and abs(raw - true) > 0.01  # what the weights are there for
    assert covered >= 0.86 * runs  # 95 % less three standard errors


def test_labels_of_unknown_origin_would_bias_the_rate_and_are_left_out():
    """Someone labelled what looked bad; only what was drawn counts."""
    rng = np.random.default_rng(6)
    candidates, truth = _world(rng)
    bad = [c.trace_id for c in candidates if not truth[c.trace_id]][:60]
    found = [replace(c, good=False, labellers=frozenset({"ana"})) if c.trace_id in bad else c for c in candidates]
    picks = draw(found, 80)
    labelled = _label(found, picks, truth)
    draws = [picks.draws.get(c.trace_id) for c in labelled]
    sample = sampled_labels([c.good for c in labelled], draws)
    assert sample.left_out == len([i for i in bad if i not in picks.draws])
    assert sum(label is not None for label in sample.labels) == 80
    true = sum(truth.values()) / len(truth)
    everything = corrected_kpi([c.passed for c in labelled], [c.good for c in labelled], kind="share")
    assert everything.high < true
    assert _estimate(labelled, draws).low <= true <= _estimate(labelled, draws).high


def test_half_labelled_strata_keep_the_rate_unbiased():
    """While the rare slice still waits for its labels, those it has stand for the whole of it."""
    rng = np.random.default_rng(7)
    candidates, truth = _world(rng)
    true, errors = sum(truth.values()) / len(truth), []
    for seed in range(80):
        frame = replace(FRAME, by="tag:slice", seed=seed)
        labelled = _label(candidates, draw(candidates, 200, frame), truth)
        waiting = {c.trace_id for n, c in enumerate(labelled) if c.slice == "rare" and n % 3}
        partly = [replace(c, good=None, labellers=frozenset()) if c.trace_id in waiting else c for c in labelled]
        errors.append(_estimate(partly, [c.draw for c in partly]).value - true)
    assert abs(np.mean(errors)) < 0.02


def test_windows_without_any_draw_keep_their_labels_as_they_are():
    sample = sampled_labels([True, None, False], [None, None, None])
    assert sample.labels == (True, None, False) and sample.probabilities is None and sample.left_out == 0


def test_what_waits_and_what_is_silent_is_told():
    picks = draw(population(20, 10), 10)
    draws = [picks.draws.get(c.trace_id) for c in population(20, 10)]
    labels = [True if d is not None and d.stratum == "pass" else None for d in draws]
    notes = " ".join(sampled_labels(labels, draws).notes)
    assert "5 of 10 traces drawn for the experts have no label yet" in notes
    assert "Nothing drawn from fail is labelled yet" in notes


# --- planning -------------------------------------------------------------------------------------------


def test_the_plan_is_the_worst_case_until_twenty_labels_say_more():
    candidates = population(4000, 1000)
    picks = draw(candidates, 10)
    before = plan_labels(
        _label(candidates, picks, dict.fromkeys((c.trace_id for c in candidates), True)), picks.draws, 0.05
    )
    assert (before.needed, before.have, before.lacking, before.measured) == (385, 10, 375, False)
    picks = draw(candidates, 60)
    truth = {c.trace_id: bool(c.passed) for c in candidates}
    plan = plan_labels(_label(candidates, picks, truth), picks.draws, 0.05)
    assert plan.measured and plan.correlation == pytest.approx(1) and plan.rate == pytest.approx(0.8)
    assert plan.needed < 60 and plan.lacking == 0


def test_never_more_labels_are_asked_for_than_there_are_traces():
    candidates = population(30, 10)
    assert plan_labels(candidates, {}, 0.01).needed == 40


# --- tags -----------------------------------------------------------------------------------------------


def test_a_draw_and_a_frame_come_back_from_their_tags_as_they_were():
    from mlflow_assay.labels.designs import draws_of, frames_of

    made = Draw(0.125, "Ännas Woche / 48", "pass / unsure", 80, 10, 3, "2026-11-23", ("a", "b"))
    frame = replace(FRAME, queue="Ännas Woche / 48", filter="tag.x = 'y'", by="agent", cut=0.4)
    assert draws_of(dict([made.tag("resolved"), ("mlflow.user", "x")])) == {"resolved": made}
    assert frames_of(dict([frame.tag, FRAME.tag]), "resolved") == [FRAME, frame] or frames_of(
        dict([frame.tag, FRAME.tag]), "resolved"
    ) == [frame, FRAME]
    assert frames_of(dict([frame.tag]), "other") == []
    assert frame.tag[0].replace(".", "").isalnum()


def test_a_tag_edited_by_hand_is_an_error_that_names_it():
    from mlflow_assay.errors import StoreError
    from mlflow_assay.labels.designs import draws_of

    with pytest.raises(StoreError, match=r"tag 'assay.label.draw.resolved' cannot be read"):
        draws_of({"assay.label.draw.resolved": "{}"})
