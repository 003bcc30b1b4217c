"""What a local judge reads and how: kinds of fields, cleaning, and the crossing of request and route."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_assay.contracts import Unscored, UnscoredError
from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.local import Example, Field, Options, features, train_examples
from mlflow_assay.judges.local.examples import TEXT_LIMIT, clip, read, resolve, row


def example(**values):
    return Example("tr-1", values)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("final_answer", Field("final_answer")),
        ("tag:agent=category", Field("tag:agent", "category")),
        ("steps=number?", Field("steps", "number", True)),
        ("span:a.b.inputs.q?", Field("span:a.b.inputs.q", None, True)),
    ],
)
def test_a_field_is_written_with_its_kind_and_whether_it_is_optional(text, field):
    assert Field.parse(text) == field
    assert str(field) == text


@pytest.mark.parametrize("text", ["route", "final_answer=words", "tag:", "=text"])
def test_a_field_or_kind_that_does_not_exist_is_refused_with_the_valid_ones(text):
    with pytest.raises(ConfigError, match="Valid:"):
        Field.parse(text)


def test_kinds_are_settled_by_the_values_seen():
    found = [
        Example(
            f"tr-{i}",
            {
                "steps": i,
                "tag:agent": "billing" if i % 2 else "support",
                "tools_called": ["get_bill"] * (i % 3),
                "first_user_message": f"a question of its own, number {i}",
            },
        )
        for i in range(20)
    ]
    kinds = {f.name: f.kind for f in resolve([Field(n) for n in found[0].values], found)}
    assert kinds == {
        "steps": "number",
        "tag:agent": "category",
        "tools_called": "category",
        "first_user_message": "text",
    }


def test_a_field_no_trace_has_is_a_configuration_error():
    with pytest.raises(ConfigError, match="has the field 'tag:agnet'"):
        resolve([Field("tag:agnet")], [example(steps=1)])


@pytest.mark.parametrize("fields", [[], ["steps", "steps"]])
def test_no_field_or_one_named_twice_is_a_configuration_error(fields):
    with pytest.raises(ConfigError, match="each once"):
        resolve([Field(f) for f in fields], [example(steps=1)])


@pytest.mark.parametrize(
    ("value", "kind"),
    [(None, "text"), ("  \n", "text"), (float("nan"), "number"), ("many", "number"), ("", "category")],
)
def test_a_needed_value_that_is_absent_empty_or_no_number_is_a_missing_field(value, kind):
    values = {} if value is None else {"final_answer": value}
    with pytest.raises(UnscoredError) as caught:
        row(example(**values), [Field("final_answer", kind)])
    assert caught.value.reason is Unscored.MISSING_FIELD
    assert "final_answer" in caught.value.detail


def test_an_optional_field_may_be_missing():
    assert row(example(), [Field("final_answer", "text", True)]) == {"final_answer": None}


def test_that_no_tool_was_called_is_something_a_judge_can_read(make_trace):
    trace = make_trace(inputs={"q": "hello"}, outputs="hi", spans=[])
    found = read(trace, [Field("tools_called"), Field("final_answer")])
    assert found.values["tools_called"] == []
    assert row(found, [Field("tools_called", "category")]) == {"tools_called": ()}


def test_a_trace_without_spans_misses_the_fields_that_need_them(make_trace):
    trace = make_trace(inputs={"q": "hello"}, outputs="hi", tags={"agent": "billing"})
    trace.data.spans.clear()
    assert set(read(trace, [Field("tools_called"), Field("final_answer"), Field("tag:agent")]).values) == {"tag:agent"}


def test_identifiers_are_masked():
    text = row(example(q="Mail a.b@example.com, card 4111111111111111, 25 days"), [Field("q", "text")])["q"]
    assert text == "Mail emailaddress, card 000, 25 days"


def test_two_megabytes_are_read_from_both_ends():
    text = "start " + "x" * 2_000_000 + " end"
    kept = clip(text)
    assert len(kept) == TEXT_LIMIT + 1
    assert kept.startswith("start") and kept.endswith("end")
    assert len(str(row(example(q=text), [Field("q", "text")])["q"])) <= TEXT_LIMIT + 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=2, max_size=6))
def test_any_text_can_be_read_and_gives_finite_columns(texts):
    rows = [{"q": t or None} for t in texts]
    for block in features.plan([Field("q", "text", True)], rows, embed=False):
        fitted, counts = features.fit(features.raw(block, rows), np.arange(len(rows)))
        found = fitted.columns(rows)
        assert np.isfinite(found.toarray()).all()
        assert abs(found - fitted.weigh(counts)).max() < 1e-12
        for i, row_ in enumerate(rows):
            at, values = fitted.entries(row_)
            alone = np.zeros(found.shape[1])
            alone[at] = values
            assert np.abs(alone - found[i].toarray()[0]).max() < 1e-12


def test_only_a_category_of_few_values_is_crossed_and_only_with_the_first_text():
    rows = [{"a": f"text {i}", "b": f"other {i}", "few": (str(i % 3),), "many": (str(i),)} for i in range(40)]
    fields = [Field("a", "text"), Field("b", "text"), Field("few", "category"), Field("many", "category")]
    blocks = features.plan(fields, rows, embed=False)
    assert {(b.field, b.by) for b in blocks if b.by} == {("a", "few")}
    assert not [b for b in features.plan(fields, rows, embed=False, cross=False) if b.by]


def test_whether_a_route_is_right_is_learnt_from_request_and_route_together(requests):
    """Neither says anything alone: without crossing a linear model stays at chance."""
    found, labels = requests(300, seed=3)
    kappa = {}
    for cross in (True, False):
        options = Options(["first_user_message", "tag:agent"], cross=cross, group_by=None, force=True)
        kappa[cross] = train_examples(found, labels, name="routing", options=options).report.kappa
    assert kappa[True] > 0.7
    assert kappa[False] < 0.15
