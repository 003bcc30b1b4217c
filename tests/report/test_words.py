"""Numbers and times as the page writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_assay.contracts import Unscored
from mlflow_assay.report import words
from mlflow_assay.trust.estimate import share


def plain(text: str) -> str:
    return text.replace("\N{NARROW NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0 %"), (1.0, "100 %"), (0.624, "62 %"), (0.996, "99.6 %"), (0.9999, ">99.9 %"), (0.004, "0.4 %")],
)
def test_percentages_reach_0_and_100_only_when_they_are(value, text):
    assert plain(words.percent(value)) == text


@given(st.floats(0, 1), st.integers(0, 1))
def test_a_percentage_is_never_off_by_more_than_its_last_digit(value, digits):
    text = plain(words.percent(value, digits)).removesuffix(" %").lstrip("<>")
    assert abs(float(text) - value * 100) <= 0.5 * 10**-digits + 0.1


def test_decimals_come_only_with_the_data_to_back_them():
    assert plain(words.rate(share([True] * 62 + [False] * 38))) == "62 %"
    many = share([True] * 62_000 + [False] * 38_000)
    assert plain(words.rate(many)) == "62.0 %"
    assert plain(words.interval(many)) == "61.7–62.3 %"


def test_an_interval_that_is_not_there_is_said():
    assert words.interval(share([None])) == "no interval"
    assert words.rate(share([None])) == "–"


@pytest.mark.parametrize(
    ("usd", "text"), [(None, "–"), (0, "$0.00"), (0.000421, "$0.00042"), (0.081, "$0.081"), (1234.5, "$1,234.50")]
)
def test_money_shows_two_digits_that_matter(usd, text):
    assert words.money(usd) == text


@pytest.mark.parametrize(
    ("ms", "text"), [(None, "–"), (0.02, "<1 ms"), (800, "800 ms"), (1540, "1.5 s"), (150_000, "2.5 min")]
)
def test_durations_take_the_unit_that_reads_best(ms, text):
    assert plain(words.duration(ms)) == text


def test_a_stretch_of_time_is_as_short_as_it_can_be():
    day, november = 86_400_000, 1_793_520_000_000
    assert words.stretch(november, november + 3_600_000) == "1 Nov 2026"
    assert words.stretch(november, november + 13 * day) == "1–14 Nov 2026"
    assert words.stretch(november, november + 40 * day) == "1 Nov – 11 Dec 2026"
    assert words.stretch(november, november + 70 * day) == "1 Nov 2026 – 10 Jan 2027"


def test_every_reason_a_verdict_can_have_is_put_in_plain_words():
    assert {r.value for r in Unscored} <= set(words.REASONS)
    assert words.reason("SOMETHING_ELSE") == "SOMETHING ELSE"


@pytest.mark.parametrize(
    ("name", "text"), [("routing_accuracy", "Routing accuracy"), ("acme/Tone", "acme/Tone"), ("it's", "it's")]
)
def test_plain_names_read_as_words_and_others_stay(name, text):
    assert words.human(name) == text


@given(st.text(max_size=300), st.integers(5, 100))
def test_clipped_text_is_one_short_line_without_controls(text, length):
    found = words.clip(text, length)
    assert len(found) <= length + 2
    assert not any(ord(c) < 32 or c in "\u202a\u202b\u202d\u202e\u2066\u2067" for c in found)
