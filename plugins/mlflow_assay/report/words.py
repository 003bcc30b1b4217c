"""Numbers, times and reasons as a reader who is no statistician should see them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from datetime import datetime, timezone
from types import MappingProxyType

from mlflow_assay.labels.verdicts import NO_RULE
from mlflow_assay.trust.estimate import Estimate

__all__ = [
    "REASONS",
    "clip",
    "count",
    "day",
    "duration",
    "human",
    "interval",
    "moment",
    "money",
    "percent",
    "plural",
    "rate",
    "reason",
    "stretch",
]

_THIN = "\N{NARROW NO-BREAK SPACE}"
_DASH = "\N{EN DASH}"

REASONS: Mapping[str, str] = MappingProxyType(
    {
        "missing_field": "the trace lacks something the judge needs",
        "garbled_reply": "the judge's reply could not be read",
        "empty_reply": "the judge gave no answer",
        "off_menu": "the judge answered something it may not answer",
        "refused": "the model declined to judge",
        "truncated": "the reply was cut off",
        "timeout": "no reply in time",
        "rate_limited": "the model's provider was too busy",
        "unauthorized": "the model's provider refused the key",
        "not_found": "there is no such model",
        "bad_request": "the provider refused the request, often because it was too long",
        "provider_error": "the model's provider failed",
        "unreachable": "the model could not be reached",
        "low_confidence": "the judge was not sure enough to say",
        "undecided": "the judge answered that it cannot tell, or that the question does not arise",
        "budget": "the budget was spent",
        "judge_error": "the judge itself failed",
        "unreadable_trace": "the trace could not be read",
        NO_RULE: "nobody has said which values pass",
    }
)


def reason(code: str) -> str:
    """Why something is unscored, in plain words; another library's error code stands as it is."""
    return REASONS.get(code, code.replace("_", " "))


def _digits(estimate: Estimate) -> int:
    """Decimals of a percentage: one only where the interval is narrow enough to mean it."""
    if estimate.low is None or estimate.high is None:
        return 0
    return 1 if estimate.high - estimate.low < 0.03 and estimate.n_judged >= 1000 else 0


def percent(share: float | None, digits: int = 0, sign: bool = True) -> str:
    """A share in [0, 1] as a percentage; never rounded to 0 or 100 unless it is exactly that."""
    if share is None:
        return _DASH
    number, unit = share * 100, f"{_THIN}%" if sign else ""
    text = f"{number:.{digits}f}"
    if float(text) in (0.0, 100.0) and abs(number - float(text)) > 1e-9:
        finer = f"{number:.{digits + 1}f}"
        outside = "<0.1" if number < 50 else ">99.9"
        text = outside if float(finer) in (0.0, 100.0) else finer
    return f"{text}{unit}"


def rate(estimate: Estimate) -> str:
    """The number to show, as a percentage."""
    return percent(estimate.value, _digits(estimate))


def interval(estimate: Estimate) -> str:
    """Both ends as `54–70 %`; `no interval` where there is none."""
    if estimate.low is None or estimate.high is None:
        return "no interval"
    digits = _digits(estimate)
    return f"{percent(estimate.low, digits, sign=False)}{_DASH}{percent(estimate.high, digits)}"


def count(number: float | None) -> str:
    """A whole number with thin spaces between thousands."""
    return _DASH if number is None else f"{round(number):,}".replace(",", _THIN)


def plural(number: int, one: str, many: str | None = None) -> str:
    """`1 trace`, `2 traces`."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def money(usd: float | None) -> str:
    """US dollars: cents from a dollar up, two significant digits below."""
    if usd is None:
        return _DASH
    if usd == 0 or usd >= 0.995:
        return f"${usd:,.2f}"
    return f"${usd:.{max(2, 1 - math.floor(math.log10(usd)))}f}"


def duration(milliseconds: float | None) -> str:
    """Milliseconds in the unit that reads best."""
    if milliseconds is None:
        return _DASH
    if milliseconds < 1:
        return f"<1{_THIN}ms"
    if milliseconds < 999.5:
        return f"{milliseconds:.0f}{_THIN}ms"
    if milliseconds < 99_950:
        return f"{milliseconds / 1000:.1f}{_THIN}s"
    return f"{milliseconds / 60_000:.1f}{_THIN}min"


def _at(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, timezone.utc)


def day(time_ms: int, year: bool = True) -> str:
    """`8 Nov 2026` in UTC."""
    at = _at(time_ms)
    return f"{at.day} {at:%b %Y}" if year else f"{at.day} {at:%b}"


def moment(time_ms: int) -> str:
    """`8 Nov 2026, 14:05` in UTC."""
    return f"{day(time_ms)}, {_at(time_ms):%H:%M}"


def stretch(first_ms: int, last_ms: int) -> str:
    """`8–21 Nov 2026`, as short as it can be without ambiguity."""
    first, last = _at(first_ms), _at(last_ms)
    if first.date() == last.date():
        return day(last_ms)
    if (first.year, first.month) == (last.year, last.month):
        return f"{first.day}{_DASH}{day(last_ms)}"
    return f"{day(first_ms, year=first.year != last.year)} {_DASH} {day(last_ms)}"


_KEPT = "\u200c\u200d"  # joiners that scripts and emoji need


def clip(text: str | None, length: int) -> str:
    """Text on one line, without control or direction-changing characters, cut near a word with an ellipsis."""
    if not text:
        return ""
    unwanted = ("Cc", "Cf", "Cs", "Co")
    kept = "".join(c if c in _KEPT or unicodedata.category(c) not in unwanted else " " for c in text)
    line = " ".join(kept.split())
    if len(line) <= length:
        return line
    cut = line[:length]
    word = cut.rfind(" ", length - 24)
    return (cut[:word] if word > 0 else cut).rstrip(" ,.;:") + " …"


def human(name: str) -> str:
    """`routing_accuracy` as `Routing accuracy`; names that are not plain snake case stay as they are."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        return clip(name, 80)
    return clip(name.replace("_", " ").capitalize(), 80)
