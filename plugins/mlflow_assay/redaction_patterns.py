"""What personal data and secrets look like in text: the kinds `redaction.Redactor` knows.

Patterns err on the side of masking, but each number is checked where its kind has a check digit (Luhn for payment
cards, ISO 7064 for IBANs), so that identifiers, token counts and timestamps stay readable. All are linear in the
length of the text. `phonenumbers` was measured and left out: it takes milliseconds a message, and it finds only
numbers that could be assigned, where a number that was mistyped or made up must not leave either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = ["BUILT_IN", "OFF_BY_DEFAULT", "Kind", "is_card"]

Replace = Callable[[str], tuple[str, int]]  # text -> text with the kind masked, how many were


@dataclass(frozen=True)
class Kind:
    """One kind of thing to mask.

    Attributes:
        name: lower case; the mask is `[NAME]`.
        replace: masks it in a text and says how often.
    """

    name: str
    replace: Replace

    @property
    def mask(self) -> str:
        """What stands in its place."""
        return mask_of(self.name)


def mask_of(name: str) -> str:
    """`[NAME]`."""
    return f"[{name.upper()}]"


def pattern_kind(name: str, pattern: re.Pattern[str], near: tuple[str, ...] = (), *, fold: bool = False) -> Kind:
    """A kind from one regular expression; a group named `value` is masked alone, else the whole match.

    Args:
        near: a text without any of these is not searched, which is most of the speed; empty searches every text.
        fold: `near` is in lower case and compared without regard to case.
    """
    group = "value" if "value" in pattern.groupindex else 0

    def masked(match: re.Match[str]) -> str:
        start, end = match.start(group) - match.start(), match.end(group) - match.start()
        whole = match.group()
        return whole[:start] + mask_of(name) + whole[end:]

    def replace(text: str) -> tuple[str, int]:
        if near:
            searched = text.lower() if fold else text
            if not any(part in searched for part in near):
                return text, 0
        return pattern.subn(masked, text)

    return Kind(name, replace)


# --- e-mail and network addresses ---------------------------------------------------------------------------
# The look-behind lets a search start only at the first character of a run, which keeps it linear.
_EMAIL = re.compile(r"(?<![\w.+%'-])[.+%'-]*(?P<value>\w[\w.+%'-]*(?:@|%40)(?:[\w-]+\.)+[^\W\d_]{2,})")
_OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_IP = re.compile(
    rf"(?<![\w.])(?:{_OCTET}\.){{3}}{_OCTET}(?![\w.]*\d)"
    r"|(?<![\w:])(?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}(?![\w:])"
    r"|(?<![\w:])(?:[0-9a-fA-F]{1,4}:){1,6}(?::[0-9a-fA-F]{1,4}){1,6}(?![\w:])"
)

# --- secrets --------------------------------------------------------------------------------------------------
# Each with what a text must hold for it to be searched.
_TOKENS = (
    (
        ("PRIVATE KEY",),
        r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:[^-]|-(?!----))*(?:-----END [A-Z ]{0,40}PRIVATE KEY-----)?",
    ),
    (("eyJ",), r"(?<![\w-])eyJ[\w-]{8,}\.eyJ[\w-]{4,}\.[\w-]*"),  # JSON Web Token
    # OpenAI, Anthropic, Langfuse, Stripe
    (
        ("sk-", "sk_", "pk-", "pk_", "rk-", "rk_"),
        r"(?<![\w-])(?:sk|pk|rk)[-_](?:[a-z]{2,8}[-_])*[A-Za-z0-9_-]{16,}",
    ),
    (
        ("gh", "glpat-", "hf_", "npm_", "pypi-", "dapi", "dop_v1_", "shpat_", "lin_api_", "xai-", "gsk_"),
        r"(?<!\w)(?:gh[pousr]_|github_pat_|glpat-|hf_|npm_|pypi-|dapi|dop_v1_|shpat_|lin_api_|xai-|gsk_)"
        r"[A-Za-z0-9_-]{16,}",
    ),
    (("xox",), r"(?<!\w)xox[abeoprs]-[A-Za-z0-9-]{10,}"),  # Slack
    (("AKIA", "ASIA", "ABIA", "ACCA"), r"(?<!\w)(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?!\w)"),  # AWS access key id
    (("AIza",), r"(?<!\w)AIza[\w-]{35}"),
    (("ya29.",), r"(?<!\w)ya29\.[\w-]{20,}"),
    (("SG.",), r"(?<!\w)SG\.[\w-]{16,}\.[\w-]{16,}"),
    (("hooks.slack.com",), r"(?<!\w)https://hooks\.slack\.com/services/[\w/]+"),
)
_NAMES = (
    r"pass(?:word|wd|phrase)|pwd|secret|(?:dd-|x-)?api[_-]?key|(?:access|auth|refresh|id|bearer)[_-]?token"
    r"|client[_-]?secret"
)
_ASSIGNED = re.compile(
    rf"(?i)(?<![a-z])(?:{_NAMES}|(?:private|secret|account)[_-]?(?:access[_-]?)?key)[\"']?\s?[:=]\s?[\"']?"
    r"(?!(?:none|null|true|false|\[secret\])\b|\[SECRET\])(?P<value>[^\s\"',;&<>{}\[\]]{4,})"
)
_SCHEME = re.compile(r"(?i)(?<![a-z])(?:bearer|basic)\s(?P<value>[A-Za-z0-9._~+/=-]{16,})")
_USERINFO = re.compile(r"://(?P<value>[^\s/@:\[\]]{0,256}:[^\s/@\[\]]{1,256})@")


def _secrets(text: str) -> tuple[str, int]:
    total = 0
    for kind in _SECRET_PARTS:
        text, found = kind.replace(text)
        total += found
    return text, total


_SECRET_PARTS = (
    *(pattern_kind("secret", re.compile(pattern), near) for near, pattern in _TOKENS),
    pattern_kind("secret", _USERINFO, ("://",)),
    pattern_kind("secret", _SCHEME, ("bearer", "basic"), fold=True),
    pattern_kind("secret", _ASSIGNED, ("pass", "pwd", "secret", "key", "token"), fold=True),
)

# --- numbers with check digits ---------------------------------------------------------------------------------
_DIGIT_RUN = re.compile(r"(?<![0-9A-Za-z])(?<![0-9]\.)[0-9]{2,19}(?:[ \u00a0-][0-9]{2,19})*(?![0-9A-Za-z]|\.[0-9])")
_IBAN_RUN = re.compile(r"(?i)(?<![0-9a-z])[a-z]{2}[0-9]{2}(?:[ \u00a0-]?[a-z0-9]){11,40}(?![0-9a-z])")


def is_card(digits: str) -> bool:
    """Whether digits alone are a payment card number: an issuer's prefix and length, and the Luhn check digit."""
    if not (13 <= len(digits) <= 19 and _issued(digits)):
        return False
    doubled = (int(d) * 2 for d in digits[-2::-2])
    total = sum(map(int, digits[::-2])) + sum(d - 9 if d > 9 else d for d in doubled)
    return total % 10 == 0


def _issued(digits: str) -> bool:
    """Visa, Mastercard, Amex, Diners, Discover, JCB, UnionPay, Maestro; none starts as a Unix time in ms, µs or ns."""
    first, two, four, length = digits[0], int(digits[:2]), int(digits[:4]), len(digits)
    if first == "4":
        return length in (13, 16, 18, 19)
    if 51 <= two <= 55 or 2221 <= four <= 2720:
        return length == 16
    if two in (34, 37):
        return length == 15
    if two in (30, 36, 38, 39):
        return 14 <= length <= 19
    return (two == 35 or two == 50 or two >= 56) and two < 70 and length >= (16 if two == 35 else 13)


def _is_iban(text: str) -> bool:
    """Country, check digits, and ISO 7064 MOD 97-10 over the rearranged number."""
    if not 15 <= len(text) <= 34:
        return False
    moved = (text[4:] + text[:4]).upper()
    return int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


def _grouped(
    name: str, run: re.Pattern[str], check: Callable[[str], bool], longest: int, hint: re.Pattern[str]
) -> Kind:
    """A kind whose members are written in groups; a run of groups is searched for the longest that check.

    Args:
        hint: a quick expression that every text with a member in it matches.
    """

    def spans(text: str) -> Iterator[tuple[int, int]]:
        for match in run.finditer(text):
            groups = [(g.start(), g.end()) for g in _GROUP.finditer(text, match.start(), match.end())]
            yield from _checked(text, groups, check, longest)

    def replace(text: str) -> tuple[str, int]:
        if hint.search(text) is None:
            return text, 0
        parts, at, count = [], 0, 0
        for start, end in spans(text):
            parts += [text[at:start], mask_of(name)]
            at, count = end, count + 1
        return ("".join([*parts, text[at:]]), count) if count else (text, 0)

    return Kind(name, replace)


_CARD_HINT = re.compile(r"[2-6][0-9](?:[ \u00a0-]?[0-9]){11}")
_IBAN_HINT = re.compile(r"[0-9]{2}(?:[ \u00a0-]?[A-Za-z0-9]){11}")
_GROUP = re.compile(r"[0-9A-Za-z]+")


def _checked(
    text: str, groups: list[tuple[int, int]], check: Callable[[str], bool], longest: int
) -> Iterator[tuple[int, int]]:
    first = 0
    while first < len(groups):
        found, joined = 0, ""
        for last in range(first, len(groups)):
            joined += text[slice(*groups[last])]
            if len(joined) > longest:
                break
            found = last + 1 if check(joined) else found
        if found:
            yield groups[first][0], groups[found - 1][1]
        first = found or first + 1


# --- phone numbers ------------------------------------------------------------------------------------------
_PHONE = re.compile(
    r"(?<![\w+])\+[1-9](?:[ \u00a0().\-/]{0,2}[0-9]){6,14}(?![\w])"  # +49 (170) 123-4567
    r"|(?<![\w.,:+\-/])00[1-9](?:[ \u00a0().\-/]{0,2}[0-9]){9,13}(?![\w])"  # 0049 170 1234567
    # 555-123-2001, (212) 555-0123
    r"|(?<![\w.\-+])(?:1[ .\-])?(?:\([0-9]{3}\) ?|[0-9]{3}[ .\-])[0-9]{3}[ .\-][0-9]{4}(?!\w|[.\-:][0-9])"
    r"|(?<![\w.,:+\-/])0[1-9][0-9]{8,10}(?!\w|[.\-:][0-9])"  # 01701234567
)
# 0170 1234567, 030 / 1234 567, 06 12 34 56 78
_NATIONAL = re.compile(
    r"(?<![\w.,:+\-/])(?:\(0[1-9][0-9]{0,3}\)|0[1-9][0-9]{0,3})(?: ?[ \-/] ?[0-9]{2,}){1,5}(?!\w|[.\-:][0-9])"
)
_SPOKEN = re.compile(
    r"(?i)(?<![a-z])(?:phone|tel|telephone|mobile|cell|msisdn|fax|whatsapp)(?:[ _-]?(?:number|no\.?|nr\.?))?[\"']?"
    r"\s?(?:is|:|=)?\s?[\"']?(?P<value>[0-9]{7,15})(?!\w|\.[0-9])"
)


# Where digits come often enough for a number; only there are the expressions tried.
_CANDIDATE = re.compile(r"[0-9](?:[ \u00a0().\-/]{0,3}[0-9]){6,}")
_PHONE_WORDS = ("phone", "tel", "mobile", "cell", "msisdn", "fax", "whatsapp")


def _long_enough(match: re.Match[str]) -> bool:
    """Nine digits or more, so that a date is no number that starts with a 0."""
    return 9 <= sum(c.isdigit() for c in match.group()) <= 13


def _within_candidates(pattern: re.Pattern[str], accept: Callable[[re.Match[str]], bool]) -> Kind:
    """A kind of phone number, searched only where digits come often enough."""

    def replace(text: str) -> tuple[str, int]:
        parts, at, count = [], 0, 0
        for place in _CANDIDATE.finditer(text):
            # What may stand before the first digit, and what the look-ahead wants to see behind the last.
            for match in pattern.finditer(text, max(at, place.start() - 2), place.end() + 3):
                if accept(match):
                    parts += [text[at : match.start()], mask_of("phone")]
                    at, count = match.end(), count + 1
        return ("".join([*parts, text[at:]]), count) if count else (text, 0)

    return Kind("phone", replace)


_PHONE_PARTS = (
    _within_candidates(_PHONE, lambda match: True),
    _within_candidates(_NATIONAL, _long_enough),
    pattern_kind("phone", _SPOKEN, _PHONE_WORDS, fold=True),
)


def _phones(text: str) -> tuple[str, int]:
    total = 0
    for kind in _PHONE_PARTS:
        text, found = kind.replace(text)
        total += found
    return text, total


# In the order applied: a secret may hold digits and an @, a card number may hold what looks like a phone number.
BUILT_IN: tuple[Kind, ...] = (
    Kind("secret", _secrets),
    pattern_kind("email", _EMAIL, near=("@", "%40")),
    _grouped("iban", _IBAN_RUN, _is_iban, 34, _IBAN_HINT),
    _grouped("card", _DIGIT_RUN, is_card, 19, _CARD_HINT),
    Kind("phone", _phones),
    pattern_kind("ip", _IP, near=(".", ":")),
)
OFF_BY_DEFAULT = frozenset({"ip"})  # addresses of servers are what a platform engineer looks for
