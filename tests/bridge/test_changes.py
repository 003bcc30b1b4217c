"""The state machine of one assessment: what is shipped leads from what was known to what is there, whatever happens."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from mlflow_assay.bridge.changes import Known, Observed, revisions
from mlflow_assay.testing.bridge_conformance import sample_revision

# What MLflow has: None is gone, else (content, valid).
states = st.lists(st.none() | st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=12)


def observed(content: str, valid: bool, at: int) -> Observed:
    state = Known("a-1", "tr-1", content * 32, valid, 0, "", at, "tone", content * 16, 5)
    return Observed(state, replace(sample_revision(), key="", rationale=content))


def walk(history):
    """What is shipped over a history of states, and what is known at its end."""
    known, shipped, said = None, [], None
    for at, state in enumerate(history, start=1):
        if state is None and (known is None or not known.standing):
            continue  # nothing to be told of
        seen = observed(*state, at) if state is not None else None
        step = revisions(known, seen, said, now_ms=1000 + at)
        known, said = step.known, (step.made[-1] if step.made else said)
        shipped += step.made
    return known, shipped


@given(states)
def test_created_less_deleted_is_what_stands(history):
    known, shipped = walk(history)
    changes = [r.change for r in shipped]
    standing = known is not None and known.standing
    assert changes.count("created") - changes.count("deleted") == int(standing)
    last = next((state for state in reversed(history)), None)
    assert standing == bool(last and last[1])


@given(states)
def test_changes_alternate_and_numbers_and_keys_chain(history):
    _, shipped = walk(history)
    assert [r.revision for r in shipped] == list(range(1, len(shipped) + 1))
    assert len({r.key for r in shipped}) == len(shipped)
    assert [r.replaces for r in shipped] == [None, *(r.key for r in shipped)][: len(shipped)]
    stands = False
    for revision in shipped:
        assert stands == (revision.change != "created")
        stands = revision.change != "deleted"


@given(states)
def test_the_last_revision_says_what_is_there(history):
    known, shipped = walk(history)
    if known is not None and known.standing:
        assert shipped[-1].rationale == known.content[0]


@given(states)
def test_seeing_the_same_again_ships_nothing(history):
    twice = [state for state in history for _ in (0, 1)]
    assert [r.key for r in walk(twice)[1]] == [r.key for r in walk(history)[1]]


@given(states)
def test_two_workers_with_one_history_give_the_same_keys(history):
    assert [r.key for r in walk(history)[1]] == [r.key for r in walk(history)[1]]
