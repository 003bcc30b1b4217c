"""Words that set texts apart: what only chance put there is no clue."""

from __future__ import annotations

import random

from mlflow_assay.optimizers.words import distinctive_terms, representatives

GREETINGS = ["good evening", "good morning", "hello", "hey there", "hi team", "thanks a lot", "have a nice day"]
FILLERS = [f"word{i}" for i in range(120)]


def texts(rng: random.Random, count: int, clue: str | None = None, share: float = 0.4) -> list[str]:
    """Requests with a greeting now and then, some words of no meaning, and in some of them a clue."""
    made = []
    for _ in range(count):
        words = [rng.choice(GREETINGS)] if rng.random() < 0.4 else []
        words += rng.choices(FILLERS, k=6)
        made.append(" ".join([*words, clue] if clue and rng.random() < share else words))
    return made


def test_words_that_chance_put_there_are_hardly_ever_named():
    """Sixty draws of texts all alike: some word stands in one kind more than in the other each time."""
    named = 0
    for seed in range(60):
        rng = random.Random(seed)  # noqa: S311 - test data
        named += len(distinctive_terms(texts(rng, 25), texts(rng, 75), 12))
    assert named <= 12, "a false clue in one draw of ten is what the method allows"


def test_a_word_of_the_kind_is_named_and_greetings_are_not():
    found = []
    for seed in range(20):
        rng = random.Random(seed)  # noqa: S311 - test data
        found.append(distinctive_terms(texts(rng, 25, "invoice"), texts(rng, 75), 12))
    assert sum("invoice" in terms for terms in found) >= 19
    strays = [t for terms in found for t in terms if "invoice" not in t]
    assert len(strays) <= 6


def test_a_word_that_no_other_text_has_needs_more_than_two_texts_of_many():
    others = [f"{a} {b}" for a, b in zip(FILLERS, reversed(FILLERS), strict=True)]
    mine = [f"{w} {FILLERS[i]}" for i, w in enumerate(["nimbus"] * 8 + ["good evening"] * 2 + ["plan"] * 2)]
    assert distinctive_terms(mine, others, 12) == ["nimbus"]


def test_requests_that_share_a_greeting_with_all_kinds_do_not_stand_for_one():
    rng = random.Random(1)  # noqa: S311 - test data
    others = [f"good evening {' '.join(rng.choices(FILLERS, k=3))}" for _ in range(40)]
    greeted = [f"good evening {word}" for word in ("alpha", "beta", "gamma")]
    mine = [*greeted, "which phone camera", "phone camera please"]
    assert representatives(mine, 1)[0] in greeted
    assert "phone" in representatives(mine, 1, others)[0]


def test_of_texts_too_few_to_prove_a_word_the_leading_ones_are_named_when_asked_for():
    mine, others = ["nimbus phone", "nimbus plan"], ["bill phone", "bill plan", "late bill", "pay bill"]
    assert distinctive_terms(mine, others, 12) == []
    assert distinctive_terms(mine, others, 12, unproven=True) == ["nimbus"]
