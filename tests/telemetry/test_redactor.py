"""The redactor: what it masks, what it must leave alone, and that nothing gets round it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_assay.errors import ConfigError
from mlflow_assay.redaction import Pattern, Redactor
from mlflow_assay.redaction_patterns import is_card

REDACTOR = Redactor()

PLANTED = {
    "email": ["anna.lee+bills@example.co.uk", "o'neill@example.com", "jürgen@müller.de", "anna%40example.com"],
    "phone": [
        "+49 170 1234567",
        "+1 (212) 555-0123",
        "555-123-2001",
        "(212) 555-0123",
        "0049 170 1234567",
        "0170 1234567",
        "030 / 1234 567",
        "06 12 34 56 78",
        "01701234567",
        "+491701234567",
    ],
    "card": [
        "4111111111111111",
        "4111 1111 1111 1111",
        "5500-0000-0000-0004",
        "378282246310005",
        "3782 822463 10005",
        "6011111111111117",
        "2223003122003222",
        "30569309025904",
        "3530111333300000",
    ],
    "iban": ["DE89370400440532013000", "DE89 3704 0044 0532 0130 00", "GB29 NWBK 6016 1331 9268 19"],
    "secret": [
        "sk-proj-abcDEF0123456789abcDEF0123456789",
        "sk-ant-api03-abcdefghijklmnop",
        "sk_live_abcdefghijklmnop1234",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "AKIAIOSFODNN7EXAMPLE",
        "AIzaSyA1234567890abcdefghijklmnopqrstuv",
        "xoxb-123456789012-abcdefghijkl",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-DEF_123",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAK\n-----END RSA PRIVATE KEY-----",
    ],
}
CASES = [(kind, text) for kind, texts in PLANTED.items() for text in texts]


@pytest.mark.parametrize(("kind", "text"), CASES)
@pytest.mark.parametrize("frame", ["{}", "It is {}.", "({}), thanks", "x: {}\nnext 12 lines", "é{} "[1:]])
def test_each_kind_is_masked_wherever_it_stands_in_a_text(kind, text, frame):
    out = REDACTOR.redact(frame.format(text))
    assert out.value == frame.format(f"[{kind.upper()}]")
    assert out.counts == {kind: 1}


@pytest.mark.parametrize(
    "text",
    [
        "1795300000000",  # milliseconds
        "1795300000000000",  # microseconds
        "1795300000000000000",  # nanoseconds
        "1795300000",
        "2026-11-23 02:50:14",
        "2026-11-23T02:50:14.123456Z",
        "01-02-2026 10:30",
        "2026-11-23 02:50:14,123 INFO",
        "tr-0123456789abcdef0123456789012345",
        "123e4567-e89b-12d3-a456-426614174000",
        "input 1234567 tokens, output 12345678",
        "order 12345678, customer C1001, line L1002",
        "3.141592653589793",
        "0.4111111111111111",
        "1,234,567.89",
        "version 3.17.2, port 8080",
        "4111 1111 1111 1112",  # Luhn fails
        "DE00370400440532013000",  # check digits fail
        "192.168.10.254",
        "git clone https://example.com/a/b@v1",
        "gen_ai.usage.input_tokens",
        "max_tokens: 4096, token_count=128",
        "api_key=None",
        "the password is wrong",
    ],
)
def test_identifiers_counts_and_times_stay_readable(text):
    out = REDACTOR.redact(text)
    assert out.value == text
    assert out.counts == {}


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("password=hunter2secret", "password=[SECRET]"),
        ('{"api_key": "abcd1234"}', '{"api_key": "[SECRET]"}'),
        ("Authorization: Bearer abcdef0123456789xyz", "Authorization: Bearer [SECRET]"),
        ("postgresql://user:s3cret@db:5432/mlflow", "postgresql://[SECRET]@db:5432/mlflow"),
        ("dd-api-key: 0123456789abcdef0123456789abcdef", "dd-api-key: [SECRET]"),
        ("phone number: 5551234567", "phone number: [PHONE]"),
    ],
)
def test_a_value_named_as_secret_is_masked_and_its_name_stays(text, masked):
    assert REDACTOR.text(text) == masked


def test_token_counts_and_times_survive_in_attributes():
    attributes = {
        "gen_ai.usage.input_tokens": 4111111111111111,  # a valid card number, were it not a count
        "gen_ai.usage.output_tokens": 120,
        "gen_ai.request.max_tokens": 4096,
        "time_unix_nano": 1795300000000000000,
        "latency_ms": 812.25,
        "cached": True,
        "none": None,
    }
    out = REDACTOR.redact(attributes)
    assert out.value is attributes
    assert out.counts == {}


def test_the_value_given_is_never_changed_and_the_shape_is_kept():
    value = {"a": ["anna@example.com", {"b": ("555-123-2001", 3)}], "password": "x", "n": 1}
    before = json.dumps(value)
    out = REDACTOR.redact(value)
    assert json.dumps(value) == before
    assert out.value == {"a": ["[EMAIL]", {"b": ("[PHONE]", 3)}], "password": "[SECRET]", "n": 1}
    assert out.counts == {"email": 1, "phone": 1, "secret": 1}


def test_keys_are_masked_and_none_is_lost_when_two_become_equal():
    value = {"a@example.com": 1, "b@example.com": 2, "c@example.com": 3, ("tuple",): 4}
    masked = REDACTOR.redact(value).value
    assert masked == {"[EMAIL]": 1, "[EMAIL] 2": 2, "[EMAIL] 3": 3, ("tuple",): 4}


def test_json_held_in_a_string_stays_json_and_its_escapes_hide_nothing():
    text = r'{"to": "anna\u0040example.com", "card": 4111111111111111, "n": 1.10}'
    assert json.loads(REDACTOR.text(text)) == {"to": "[EMAIL]", "card": "[CARD]", "n": 1.1}
    nested = json.dumps([{"content": json.dumps({"mail": "anna@example.com"})}])
    assert json.loads(json.loads(REDACTOR.text(nested))[0]["content"]) == {"mail": "[EMAIL]"}


def test_a_key_given_twice_in_json_hides_nothing():
    assert "anna" not in REDACTOR.text('{"a": "anna@example.com", "a": 1}')


def test_json_without_anything_to_mask_comes_back_byte_for_byte():
    text = '{ "a" : 1.10, "a": 2 , "é": "\\u00e9"}'
    assert REDACTOR.text(text) is text


def test_numbers_are_masked_only_as_cards_or_under_a_telling_key():
    value = {"x": 4111111111111111, "phone": 5551234567, "amount": 5551234567, "phone_calls": 12}
    assert REDACTOR.redact(value).value == {
        "x": "[CARD]",
        "phone": "[PHONE]",
        "amount": 5551234567,
        "phone_calls": 12,
    }


def test_other_objects_are_masked_as_what_they_say():
    @dataclass
    class Customer:
        mail: str
        n: int

    class Odd:
        def __str__(self) -> str:
            return "odd anna@example.com"

    clean = Customer("none", 1)
    out = REDACTOR.redact([Customer("anna@example.com", 1), clean, Odd(), b"to anna@example.com", {"b@example.com"}])
    assert out.value == [{"mail": "[EMAIL]", "n": 1}, clean, "odd [EMAIL]", b"to [EMAIL]", ["[EMAIL]"]]
    assert out.value[1] is clean


def test_what_is_nested_too_deep_is_masked_as_text():
    value: object = "anna@example.com"
    for _ in range(200):
        value = [value]
    assert "anna" not in str(REDACTOR.redact(value).value)
    assert "anna" not in REDACTOR.text("[" * 100_000 + '"anna@example.com"' + "]" * 100_000)


def test_kinds_can_be_chosen_and_ip_is_off_until_asked():
    assert "ip" not in REDACTOR.kinds
    only = Redactor(kinds=["ip"])
    assert only.text("10.0.0.7 and fe80::1 and anna@example.com, v1.2.3.4.5") == (
        "[IP] and [IP] and anna@example.com, v1.2.3.4.5"
    )


# --- patterns of one's own ----------------------------------------------------------------------------------

FILE = r"""
kinds: [email]
patterns:
  - kind: customer_number
    pattern: '\bC(?P<value>[0-9]{6})\b'
    examples: [customer C123456]
    counterexamples: [CVE 123456]
keep: [order]
"""


def test_a_file_adds_patterns_and_chooses_kinds(tmp_path):
    path = tmp_path / "redaction.yaml"
    path.write_text(FILE)
    redactor = Redactor.from_yaml(path)
    assert redactor.kinds == ("customer_number", "email")
    out = redactor.redact({"t": "C123456 anna@example.com 555-123-2001", "order": "C123456"})
    assert out.value == {"t": "C[CUSTOMER_NUMBER] [EMAIL] 555-123-2001", "order": "C123456"}
    assert out.counts == {"customer_number": 1, "email": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kinds: [emails]", r"no kind 'emails'.*email"),
        ("kind: [email]", r"kind: Extra inputs"),
        ("patterns: [{kind: x}]", r"patterns\.0\.pattern: Field required"),
        ("patterns: [{kind: x, pattern: '('}]", "no regular expression"),
        ("patterns: [{kind: x, pattern: 'a*'}]", "empty text"),
        ("patterns: [{kind: X y, pattern: 'a'}]", "is no name"),
        ("patterns: [{kind: email, pattern: 'a'}]", "built in"),
        ("patterns: [{kind: x, pattern: 'a', examples: [b]}]", "does not find its example 'b'"),
        ("patterns: [{kind: x, pattern: 'a', counterexamples: [a]}]", "masks its counterexample 'a'"),
        ("keep: yes", "keep: Input should be a valid list"),
        ("!!python/object:os.system {}", "cannot be read"),
        ("- email", "valid dictionary"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path, text, message):
    path = tmp_path / "redaction.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        Redactor.from_yaml(path)


def test_the_digest_changes_with_what_is_masked():
    digests = {
        Redactor().digest,
        Redactor(kinds=["email"]).digest,
        Redactor(patterns=[Pattern("x", "abc")]).digest,
        Redactor(keep=()).digest,
    }
    assert len(digests) == 4
    assert Redactor().digest == Redactor().digest


# --- properties ---------------------------------------------------------------------------------------------

SCRAPS = st.one_of(st.text(max_size=12), st.sampled_from([text for _, text in CASES]), st.sampled_from('{}[]",: @-+'))
TEXTS = st.lists(SCRAPS, max_size=6).map(" ".join)
LEAVES = st.one_of(TEXTS, st.integers(), st.floats(allow_nan=False), st.booleans(), st.none(), st.binary(max_size=20))
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)


@given(VALUES)
def test_masking_twice_changes_nothing_more(value):
    once = REDACTOR.redact(value)
    twice = REDACTOR.redact(once.value)
    assert twice.value == once.value
    assert twice.counts == {}


@given(VALUES)
def test_the_shape_is_kept_and_nothing_is_lost(value):
    assert shape(REDACTOR.redact(value).value) == shape(value)


def shape(value):
    if isinstance(value, dict):
        return [shape(item) for item in value.values()]
    return [shape(item) for item in value] if isinstance(value, list) else "leaf"


@given(st.sampled_from(CASES), st.lists(st.sampled_from(["a", "b", 0, 1]), max_size=5), st.booleans())
def test_a_planted_value_is_found_at_any_depth_plain_or_as_json(case, path, as_json):
    kind, text = case
    value: object = f"so {text} it is"
    for step in path:
        value = {step: value} if isinstance(step, str) else [value]
        value = json.dumps(value) if as_json else value
    out = REDACTOR.redact(value)
    assert text not in json.dumps(out.value, ensure_ascii=False)
    assert out.counts == {kind: 1}


@given(st.text(alphabet="0123456789", min_size=12, max_size=20))
def test_a_card_number_ends_in_its_luhn_digit(digits):
    """Of the ten last digits at most one makes a card number."""
    assert sum(is_card(digits[:-1] + last) for last in "0123456789") <= 1


@given(st.integers(1_000_000_000_000, 1_999_999_999_999), st.sampled_from([1, 1000, 1_000_000]))
def test_no_unix_time_of_our_age_is_taken_for_a_card(milliseconds, finer):
    assert REDACTOR.redact({"t": milliseconds * finer, "s": str(milliseconds * finer)}).counts == {}


@pytest.mark.parametrize(
    "scrap",
    [
        *("a", "1", "a.", "a@", "a@a.", "+1", "0 1", "11 ", "a1 ", "01 ", "DE12", "://a:", "1:", "{", "[", '"'),
        *("0170 1234567 555-123-2001 ", "0170 1234567 ", "+49 170 1234567 ", "GH token ", "phone "),
        *("password=", "eyJ", "sk-", "sk-a-", "555-", "(555) ", "4111 ", "%40", "Bearer ", ":", "_"),
        "-----BEGIN PRIVATE KEY-----",
    ],
)
def test_no_text_makes_the_search_slow(scrap):
    """Time grows with the length, not with its square: a hostile half megabyte takes seconds at most."""
    text = scrap * (500_000 // len(scrap))
    began = time.process_time()
    REDACTOR.redact(text)
    assert time.process_time() - began < 5
