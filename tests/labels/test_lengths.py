"""Whether a judge prefers long answers, told apart from long answers being better."""

from __future__ import annotations

import math
import random

import pytest

from mlflow_assay.errors import NotTrustedError
from mlflow_assay.labels.lengths import length_effect


def world(make, n, says, seed=1, better_when_long=0.0):
    """Answers of random length; `says(good, length, draw)` is the judge."""
    rng, rows, lengths = random.Random(seed), [], {}  # noqa: S311
    for i in range(n):
        length = rng.randrange(10, 1000)
        good = rng.random() < 0.5 + better_when_long * (length > 500)
        row = make.row(i, make.mark(says(good, length, rng.random())), make.label(good))
        rows.append(row)
        lengths[row.trace_id] = length
    return make.paired(rows), lengths


def test_a_judge_that_rewards_length_is_found_out(make):
    paired, lengths = world(make, 300, lambda good, length, draw: draw < (0.8 if good else 0.2) + 0.2 * (length > 500))
    found = length_effect(paired, lengths)
    assert found.biased
    assert found.difference.low > 0


def test_a_fair_judge_is_not_blamed_when_long_answers_are_truly_better(make):
    """Long answers pass far more often here, but only because they are good."""
    paired, lengths = world(make, 400, lambda good, length, draw: good != (draw < 0.1), better_when_long=0.4)
    passes = [p for p, u in zip(paired.passed, paired.units, strict=True) if lengths[u] > 500]
    others = [p for p, u in zip(paired.passed, paired.units, strict=True) if lengths[u] <= 500]
    assert sum(passes) / len(passes) - sum(others) / len(others) > 0.2
    assert not length_effect(paired, lengths).biased


def test_with_one_label_only_it_is_the_plain_difference_of_two_rates(make):
    rows, lengths = [], {}
    for i in range(80):
        long = i >= 40
        row = make.row(i, make.mark(i % 4 != 0 if long else i % 2 == 0), make.label(True))
        rows.append(row)
        lengths[row.trace_id] = 100 + 100 * long
    found = length_effect(make.paired(rows), lengths).difference
    error = math.sqrt(0.75 * 0.25 / 40 + 0.5 * 0.5 / 40)
    assert found.value == pytest.approx(0.25)
    assert found.high - found.low == pytest.approx(2 * 1.959964 * error, rel=1e-5)


def test_the_interval_covers_a_fair_judge_as_often_as_it_says(make):
    hits = 0
    for seed in range(200):
        paired, lengths = world(make, 60, lambda good, length, draw: good != (draw < 0.25), seed=seed)
        hits += not length_effect(paired, lengths).biased
    assert 180 <= hits <= 198


def test_too_few_answers_are_refused(make):
    paired, lengths = world(make, 20, lambda good, length, draw: good)
    with pytest.raises(NotTrustedError, match="20 labelled, judged answers"):
        length_effect(paired, lengths)
