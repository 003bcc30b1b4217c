from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_assay.engine.prices import Price, cost, estimate_tokens, parse_price, price_of
from mlflow_assay.errors import ConfigError


def test_a_known_models_price_is_mlflows():
    from mlflow.utils import providers

    entry = providers._load_bundled_provider("openai")["gpt-4.1-mini"]
    price = price_of("openai:/gpt-4.1-mini")
    assert price is not None
    assert price.input == pytest.approx(entry["input_cost_per_token"] * 1e6)
    assert price.output == pytest.approx(entry["output_cost_per_token"] * 1e6)
    assert 0 < price.input < price.output


@pytest.mark.parametrize("uri", ["openai:/no-such-model", "nobody:/x", "gateway:/my-endpoint", "nonsense", "", ":/"])
def test_an_unknown_model_has_no_price_rather_than_a_price_of_zero(uri):
    assert price_of(uri) is None


def test_the_users_own_price_goes_first():
    assert price_of("openai:/gpt-4.1-mini", Price(1, 2)) == Price(1, 2)


def test_a_catalogue_of_ones_own_is_read_where_it_is_set(tmp_path, monkeypatch):
    both = {"input_per_million_tokens": 7, "output_per_million_tokens": 9}
    models = {"judge-1": {"mode": "chat", "pricing": both}, "judge-2": {"pricing": {"input_per_million_tokens": 7}}}
    (tmp_path / "acme.json").write_text(json.dumps({"schema_version": "1.0", "models": models}))
    monkeypatch.setenv("MLFLOW_MODEL_CATALOG_URI", tmp_path.as_uri())
    found = price_of("acme:/judge-1")
    assert found is not None
    assert (found.input, found.output) == pytest.approx((7, 9))
    assert price_of("acme:/judge-2") is None, "half a price is no price"


@pytest.mark.parametrize(
    ("text", "price"), [("0.15,0.60", Price(0.15, 0.6)), (" 3 , 15 ", Price(3, 15)), ("$0,$0", Price(0, 0))]
)
def test_a_price_is_read_from_text(text, price):
    assert parse_price(text) == price


@pytest.mark.parametrize("text", ["", "0.15", "0,15,0,60", "a,b", "-1,2", "nan,1", "inf,1"])
def test_a_price_that_cannot_be_meant_is_refused(text):
    with pytest.raises(ConfigError, match="price"):
        parse_price(text)


def test_the_cost_is_per_million_tokens():
    assert cost(Price(0.4, 1.6), 1_000_000, 500_000) == pytest.approx(1.2)
    assert cost(Price(0.4, 1.6), 0, 0) == 0


@given(st.text(st.characters(exclude_categories=())), st.text())
def test_an_estimate_grows_with_the_text_and_never_fails(text, more):
    assert estimate_tokens(text + more) >= estimate_tokens(text) >= (1 if text else 0)


def test_the_estimate_is_one_token_per_four_bytes():
    assert [estimate_tokens(t) for t in ("", "a", "abcd", "abcde", "ü" * 4)] == [0, 1, 1, 2, 2]
