from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_assay.demo.agent import Agent, Router
from mlflow_assay.demo.prompt import DESKS, FIRST_PROMPT, parse
from mlflow_assay.errors import ConfigError


def _product_only(turns):
    return [t for t in turns if t.request.desk == "product" and not t.request.also]


def _accuracy(turns, desk):
    mine = [t for t in turns if t.request.desk == desk]
    return sum(not t.misrouted for t in mine) / len(mine)


def test_the_shipped_prompt_sends_device_and_plan_questions_to_billing(faulty):
    asked = _product_only(faulty)
    routes = Counter(t.reply.route for t in asked)

    assert len(asked) > 80
    assert all(t.misrouted for t in asked)
    assert routes["billing"] > 0.6 * len(asked)
    assert routes["billing"] > 3 * max(routes["account"], routes["technical_support"])


def test_billing_answers_a_device_question_with_an_escalation(faulty):
    landed = [t for t in _product_only(faulty) if t.reply.route == "billing"]
    escalated = [t for t in landed if t.reply.escalated]

    assert len(escalated) >= 0.8 * len(landed)
    for turn in escalated:
        tickets = [s for s in turn.reply.spans if s.name == "open_ticket" and s.error is None]
        assert tickets[0].outputs["ticket"] in turn.reply.answer


def test_requests_for_the_described_desks_are_routed_well_despite_the_fault(faulty):
    assert all(_accuracy(faulty, desk) > 0.85 for desk in ("account", "billing", "technical_support"))


def test_a_product_category_in_the_prompt_repairs_most_of_it(faulty, repaired):
    before, after = (sum(t.misrouted for t in turns) for turns in (faulty, repaired))

    assert after < 0.4 * before
    assert _accuracy(repaired, "product") > 0.7


def test_the_repair_costs_the_other_desks_next_to_nothing(faulty, repaired):
    for desk in ("account", "billing", "technical_support"):
        assert _accuracy(repaired, desk) >= _accuracy(faulty, desk) - 0.03


def test_repaired_routing_leads_to_fewer_escalations(faulty, repaired):
    before, after = (sum(t.reply.escalated for t in turns) for turns in (faulty, repaired))

    assert after < 0.6 * before


def test_only_the_prompt_text_decides_a_described_desk_taken_out_is_never_chosen(traffic):
    without = "\n- ".join(part for part in FIRST_PROMPT.split("\n- ") if not part.startswith("account:"))
    router = Router(parse(without))

    assert {router.route(r.text)[0] for r in traffic} == {"billing", "technical_support"}


def test_examples_below_a_desk_count():
    question = "Is my identity verified yet? I uploaded my passport on Monday."
    examples = "personal data and consent.\n  Examples: is my identity verified; I uploaded my passport."
    with_examples = FIRST_PROMPT.replace("personal data and consent.", examples)

    assert Router(parse(FIRST_PROMPT)).route(question)[0] != "account"
    assert Router(parse(with_examples)).route(question)[0] == "account"


def test_a_request_like_no_description_goes_to_the_prompts_fallback():
    for desk in ("billing", "account"):
        prompt = parse(FIRST_PROMPT.replace("fits no desk, choose billing", f"fits no desk, choose {desk}"))
        assert Router(prompt).route("qqq zzz")[0] == desk


def test_earlier_messages_decide_a_follow_up_that_says_nothing_itself(fixed_prompt):
    router = Router(parse(fixed_prompt))
    before = {
        "product": "Which phones with a good camera do you have?",
        "billing": "There is an odd charge on my bill, please refund it.",
        "technical_support": "My internet is down, the router light is red.",
        "account": "Please change my surname.",
    }

    assert {desk: router.route("And the other one?", said)[0] for desk, said in before.items()} == {
        d: d for d in before
    }


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=80), st.text(max_size=80))
def test_any_text_gets_a_described_desk_or_the_fallback_and_scores_between_0_and_1(text, previous):
    route, scores = Router(parse(FIRST_PROMPT)).route(text, previous)

    assert route in {*scores, "billing"}
    assert set(scores) == {"account", "billing", "technical_support"}
    assert all(0.0 <= score <= 1.0 for score in scores.values())


def test_predict_answers_one_request_for_evaluation_with_either_prompt(fixed_prompt):
    question = "Which phones do you have with a good camera?"
    before, after = (Agent(parse(text)).predict(request=question) for text in (FIRST_PROMPT, fixed_prompt))

    assert before["route"] != "product"
    assert after["route"] == "product"
    assert before["answer"] and after["answer"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Send it somewhere: {{request}}", "no such line"),
        ("- sales: phones\n{{request}}", "sales"),
        ("- billing: money\n- billing: more money\n{{request}}", "billing"),
        ("- billing: money\nIf it fits no desk, choose reception.\n{{request}}", "reception"),
        ("- billing: money", "no place for the request"),
    ],
)
def test_an_unusable_prompt_is_refused_with_what_was_found(text, found):
    with pytest.raises(ConfigError, match=found):
        parse(text)


def test_descriptions_are_read_whole_and_blank_lines_end_them():
    prompt = parse("Desks:\n- billing: money\n  and invoices\n\nNot this.\n- account: who\n{{ request }}")

    assert prompt.categories == {"billing": "money and invoices", "account": "who"}
    assert prompt.fallback == "billing"
    assert set(prompt.categories) < set(DESKS)
