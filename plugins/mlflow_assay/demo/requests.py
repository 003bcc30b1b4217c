"""What the demo's customers write: several hundred requests in sessions, with the desk an expert expects.

The formulations were written for this demo (`data/requests.yaml`); greetings, typos and moods vary them.
Customers and expected desks are simulated. All is decided by the seed; times are ages relative to "now".
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mlflow_assay.demo.telecom import Telecom, catalogue, read_data
from mlflow_assay.errors import ConfigError

__all__ = ["LAUNCH", "Request", "generate"]

LAUNCH = 0.6  # the new phone is launched after this share of the period; product questions become more frequent
_SHARES = {"account": 0.23, "billing": 0.28, "technical_support": 0.28, "product": 0.21}
_SHARES_AFTER = {"account": 0.17, "billing": 0.21, "technical_support": 0.20, "product": 0.42}
_SESSIONS = 0.62  # sessions per request
_SHIFT = 0.25  # share of later turns in which the customer changes the subject
_DAY = 86_400.0


@dataclass(frozen=True)
class Request:
    """One message of a customer.

    Attributes:
        id: `r` and a number, in order of time.
        session: the conversation it belongs to.
        turn: 1 for the first message of the session.
        customer: the customer's id.
        text: the message.
        desk: where an expert would send it.
        also: desks that would be acceptable too; mostly empty.
        formulation: which hand-written text it was made from, for example `billing/12`.
        age_s: seconds before "now" at which it arrived.
    """

    id: str
    session: str
    turn: int
    customer: str
    text: str
    desk: str
    also: tuple[str, ...]
    formulation: str
    age_s: float

    @property
    def acceptable(self) -> tuple[str, ...]:
        """Every desk that is right for it, the expected one first."""
        return (self.desk, *self.also)


@dataclass(frozen=True)
class _Text:
    formulation: str
    desk: str
    template: str
    also: tuple[str, ...] = ()


class _Deck:
    """Draws texts without replacement; reshuffles when none is left."""

    def __init__(self, cards: list[_Text], draw: random.Random) -> None:
        self._cards, self._draw, self._left = cards, draw, list[_Text]()

    def next(self) -> _Text:
        if not self._left:
            self._left = self._draw.sample(self._cards, k=len(self._cards))
        return self._left.pop()


def _texts(kind: str) -> dict[str, list[_Text]]:
    found: dict[str, list[_Text]] = {}
    for group, entries in read_data("requests")[kind].items():
        desk = "product" if group == "launch" else group
        for number, entry in enumerate(entries):
            entry = entry if isinstance(entry, dict) else {"text": entry}
            text = _Text(f"{kind}/{group}/{number}", desk, entry["text"], tuple(entry.get("also", ())))
            found.setdefault(group, []).append(text)
    return found


def generate(count: int = 400, *, seed: int = 7, days: float = 14.0) -> list[Request]:
    """The requests of the demo, oldest first.

    Args:
        count: how many, at least 1; about 0.62 sessions a request.
        seed: decides everything: texts, sessions, customers, ages.
        days: length of the period that ends now.

    Raises:
        ConfigError: `count` below 1 or `days` not positive.
    """
    if count < 1 or days <= 0:
        raise ConfigError("The demo needs at least one request and a period.", found=f"{count} in {days} days")
    draw = random.Random(f"requests {seed}")  # noqa: S311 - a demo, not a secret
    sessions = _turns_per_session(count, draw)
    starts = sorted(draw.random() for _ in sessions)
    writer = _Writer(draw)
    customers = Telecom().customers()
    drafts: list[dict[str, Any]] = []
    for number, (turns, at) in enumerate(zip(sessions, starts, strict=True), start=1):
        age = (1.0 - at) * (days * _DAY - 3600.0) + 3600.0
        person = draw.choice(customers)
        for turn, (text, message) in enumerate(writer.session(turns, at), start=1):
            drafts.append(
                {"session": f"s{number:04d}", "turn": turn, "customer": person, "text": message, "source": text}
            )
            drafts[-1]["age_s"] = age
            age -= draw.uniform(40.0, 240.0)
    drafts.sort(key=lambda d: -d["age_s"])
    return [_request(number, **draft) for number, draft in enumerate(drafts, start=1)]


def _request(number: int, source: _Text, age_s: float, **rest: Any) -> Request:
    return Request(
        id=f"r{number:04d}",
        desk=source.desk,
        also=source.also,
        formulation=source.formulation,
        age_s=round(age_s, 3),
        **rest,
    )


def _turns_per_session(count: int, draw: random.Random) -> list[int]:
    turns = [1] * max(1, round(count * _SESSIONS))
    open_sessions = list(range(len(turns)))
    for _ in range(count - len(turns)):
        chosen = draw.choice(open_sessions)
        turns[chosen] += 1
        if turns[chosen] == 5 and len(open_sessions) > 1:
            open_sessions.remove(chosen)
    return turns


class _Writer:
    """Writes sessions: an opener, then follow-ups on the subject or a change of subject."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._openers = {desk: _Deck(cards, draw) for desk, cards in _texts("openers").items()}
        self._followups = {desk: _Deck(cards, draw) for desk, cards in _texts("followups").items()}
        self._surface: dict[str, list[str]] = read_data("requests")["surface"]

    def session(self, turns: int, at: float) -> Iterator[tuple[_Text, str]]:
        """Texts of one session that starts at share `at` of the period."""
        text = self._opener(at)
        yield text, self._say(text.template, first=True)
        for _ in range(turns - 1):
            if self._draw.random() < _SHIFT:
                text = self._opener(at)
                yield text, f"{self._draw.choice(self._surface['shifts'])} {self._say(text.template)}"
            else:
                text = self._followups[text.desk].next()
                yield text, self._say(text.template)

    def _opener(self, at: float) -> _Text:
        shares = _SHARES if at < LAUNCH else _SHARES_AFTER
        desk = self._draw.choices(list(shares), weights=list(shares.values()))[0]
        if desk == "product" and at >= LAUNCH and self._draw.random() < 0.6:
            desk = "launch"
        return self._openers[desk].next()

    def _say(self, template: str, first: bool = False) -> str:
        draw = self._draw
        text = _typo(template, draw) if draw.random() < 0.12 else template
        text = re.sub(r"\{(\w+)\}", lambda m: draw.choice(catalogue()["slots"][m[1]]), text)
        if draw.random() < 0.1:
            text = text.lower().rstrip(".?!")
        if first and draw.random() < 0.3:
            text = f"{draw.choice(self._surface['greetings'])} {text}"
        mood = draw.random()
        if mood < 0.12:
            text = f"{text} {draw.choice(self._surface['thanks'])}"
        elif mood > 0.92:
            text = f"{text} {draw.choice(self._surface['anger'])}"
        return text


def _typo(template: str, draw: random.Random) -> str:
    """One slip of the fingers in a long word outside the slots."""
    words = list(re.finditer(r"(?<![{\w])[A-Za-z]{5,}(?![\w}])", template))
    if not words:
        return template
    word = draw.choice(words)
    at = draw.randrange(word.start() + 1, word.end() - 2)
    slips = (
        template[:at] + template[at + 1] + template[at] + template[at + 2 :],
        template[:at] + template[at + 1 :],
        template[:at] + template[at] + template[at:],
    )
    return draw.choice(slips)
