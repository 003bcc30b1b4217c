from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_assay.demo.requests import LAUNCH, generate
from mlflow_assay.demo.telecom import read_data
from mlflow_assay.errors import ConfigError

DAY = 86_400.0


def test_the_traffic_has_the_size_promised(traffic):
    assert len(traffic) == 400
    assert 230 <= len({r.session for r in traffic}) <= 270
    assert len({r.text for r in traffic}) > 330
    assert len({r.formulation for r in traffic}) >= 200


def test_formulations_are_hand_written_and_all_different():
    groups = [*read_data("requests")["openers"].values(), *read_data("requests")["followups"].values()]
    texts = [entry["text"] if isinstance(entry, dict) else entry for group in groups for entry in group]
    shapes = {re.sub(r"\{\w+\}|\W+", " ", text).lower() for text in texts}

    assert len(texts) >= 220
    assert len(shapes) == len(texts)


def test_every_desk_is_asked_and_some_requests_have_two_right_desks(traffic):
    assert {r.desk for r in traffic} == {"account", "product", "billing", "technical_support"}
    assert 8 <= sum(bool(r.also) for r in traffic) <= 60
    assert all(r.desk not in r.also for r in traffic)


def test_product_questions_become_more_frequent_after_the_launch(traffic):
    opening = [r for r in traffic if r.turn == 1]
    limit = (1 - LAUNCH) * 14 * DAY
    early = [r.desk == "product" for r in opening if r.age_s > limit]
    late = [r.desk == "product" for r in opening if r.age_s <= limit]

    assert sum(late) / len(late) > sum(early) / len(early) + 0.1
    assert not any("Nimbus 13" in r.text for r in opening if r.age_s > limit + 3600)


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 60), seed=st.integers(0, 10_000), days=st.floats(0.5, 60))
def test_any_traffic_is_ordered_complete_and_within_its_period(count, seed, days):
    requests = generate(count, seed=seed, days=days)
    ages = [r.age_s for r in requests]

    assert len(requests) == count == len({r.id for r in requests})
    assert ages == sorted(ages, reverse=True)
    assert min(ages) > 0
    assert max(ages) <= days * DAY
    assert not any("{" in r.text for r in requests)
    for session in {r.session for r in requests}:
        turns = [r for r in requests if r.session == session]
        assert [r.turn for r in turns] == list(range(1, len(turns) + 1))
        assert len({r.customer for r in turns}) == 1


def test_the_seed_decides_everything(traffic):
    assert generate(400, seed=7) == traffic
    assert generate(400, seed=8) != traffic


@pytest.mark.parametrize(("count", "days"), [(0, 14), (10, 0), (-1, 3)])
def test_an_empty_demo_is_refused(count, days):
    with pytest.raises(ConfigError, match="at least one request"):
        generate(count, days=days)
