"""The judge where the right answer is known: equal or not, and no verdict where nothing says what is right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_assay.contracts import Unscored, UnscoredError
from mlflow_assay.judges.catalogue import Catalogue
from mlflow_assay.judges.expected import ExpectedValue

VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda c: st.lists(c, max_size=3))


@pytest.mark.parametrize(
    ("outputs", "path", "expected", "equal"),
    [
        ({"route": "Billing "}, "route", "billing", True),
        ({"route": "billing"}, "route", ["account", "billing"], True),
        ({"route": "product"}, "route", ["account", "billing"], False),
        ({"a": [{"b": 3}]}, "a.0.b", 3, True),
        ({"a": [1, 2]}, "a.-1", 2, True),
        ({"route": None}, "route", "billing", False),
        ("Paris", None, "paris", True),
        ({"a": 1, "b": 2}, None, {"b": 2, "a": 1}, True),
    ],
)
def test_a_value_of_the_outputs_is_compared_with_what_was_expected(outputs, path, expected, equal):
    found = ExpectedValue(output=path)(outputs=outputs, expectations={"wanted": expected})
    assert found.value is equal
    assert found.rationale.startswith("Expected ")


def test_letters_count_where_asked_for():
    assert ExpectedValue(exact=True)(outputs="Paris", expectations={"x": "paris"}).value is False


@pytest.mark.parametrize(
    ("name", "expectations"), [(None, {}), (None, {"a": 1, "b": 2}), ("c", {"a": 1}), (None, {"a": None})]
)
def test_without_one_expectation_there_is_no_verdict(name, expectations):
    with pytest.raises(UnscoredError, match="needs") as raised:
        ExpectedValue(expectation=name)(outputs=1, expectations=expectations)
    assert raised.value.reason is Unscored.MISSING_FIELD


@pytest.mark.parametrize(
    ("outputs", "path", "told"),
    [
        (
            {"route": "billing", "answer": "…"},
            "rout",
            r"needs outputs.rout \(found: outputs with the keys route, answer",
        ),
        ({"a": [{"b": 3}]}, "a.0.c", r"needs outputs.a.0.c \(found: outputs.a.0 with the keys b, no 'c'\)"),
        ({"a": [1, 2]}, "a.2", r"found: outputs.a with 2 items, no '2'"),
        ({}, "route", "no keys"),
        ("Paris", "route", r'found: outputs with "Paris", no \'route\''),
        (None, "route", "found: outputs with null"),
    ],
)
def test_a_path_the_outputs_do_not_have_is_no_wrong_answer(outputs, path, told):
    with pytest.raises(UnscoredError, match=told) as raised:
        ExpectedValue(output=path)(outputs=outputs, expectations={"wanted": "billing"})
    assert raised.value.reason is Unscored.MISSING_FIELD


def test_mlflows_own_name_goes_before_others():
    found = ExpectedValue()(outputs="a", expectations={"expected_response": "a", "expected_facts": ["b"]})
    assert found.value is True


@given(VALUES.filter(lambda v: v is not None and not isinstance(v, list)))
def test_anything_equals_itself(value):
    assert ExpectedValue(exact=True)(outputs=value, expectations={"x": value}).value is True


def test_it_is_in_the_catalogue_and_calls_no_model():
    bound = Catalogue().build("expected_value")
    assert not bound.contract.calls_llm
    assert set(bound.contract.needs) == {"outputs", "expectations"}
