"""Masks personal data and secrets in JSON-like values before they leave: e-mails, phones, cards, IBANs, keys, yours.

    redactor = Redactor()                       # or Redactor.from_yaml("redaction.yaml")
    redactor.redact({"to": "anna@example.com"})  # Redacted(value={"to": "[EMAIL]"}, counts={"email": 1})

Patterns do not know names, postal addresses or dates of birth: for these a model is needed, and this is none.
Microsoft's Presidio (MIT) has one; it brings spaCy and a language model of hundreds of megabytes, which is too much
for the process an agent runs in, so it is not used here.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import UUID

from mlflow_assay.errors import ConfigError
from mlflow_assay.redaction_patterns import BUILT_IN, OFF_BY_DEFAULT, Kind, is_card, mask_of, pattern_kind

__all__ = ["DEFAULT_KEEP", "Pattern", "Redacted", "Redactor"]

# Whole values that are never touched, by key: what they hold is known and is no personal data.
DEFAULT_KEEP = ("gen_ai.usage.*", "mlflow.chat.tokenUsage", "mlflow.traceRequestId", "mlflow.experimentId")
# A value under such a key is a secret whatever it looks like (compared without case and punctuation).
_SECRET_KEY = re.compile(
    "pass(word|wd|phrase)|pwd|secret|(x|dd)?apikey|(access|refresh|auth|bearer|id)token|(proxy)?authorization|"
    "(set)?cookie|clientsecret|(private|secret|account|(aws)?secretaccess)key"
)
_PHONE_KEY = re.compile("(tele|cell)?phone(number)?|mobile(number)?|msisdn|fax(number)?")
_PLAIN = (bool, float, date, time, timedelta, Decimal, UUID)
_DEEPEST = 64


@dataclass(frozen=True)
class Redacted:
    """What came of it.

    Attributes:
        value: a copy with the same shape; the object itself where nothing was masked in it.
        counts: how many of each kind were masked; empty when none was.
    """

    value: Any
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Pattern:
    """A kind of the user's own.

    Attributes:
        kind: its name: letters, digits, `_`; the mask is `[KIND]` in capitals.
        pattern: a Python regular expression. A group named `value` is masked alone, else the whole match. Beware of
            nested repetition: what is slow on a long text slows whatever is being redacted.
        examples: texts in which it must find something; checked at once.
        counterexamples: texts in which it must find nothing.
    """

    kind: str
    pattern: str
    examples: tuple[str, ...] = ()
    counterexamples: tuple[str, ...] = ()

    def compiled(self) -> Kind:
        """The kind, proven on its examples.

        Raises:
            ConfigError: not a regular expression, matches the empty text, or fails an example.
        """
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.kind):
            raise ConfigError(f"The kind {self.kind!r} is no name.", valid="lower-case letters, digits and _")
        try:
            expression = re.compile(self.pattern)
        except re.error as error:
            raise ConfigError(f"The pattern of {self.kind!r} is no regular expression: {error}.") from error
        if expression.search(""):
            raise ConfigError(f"The pattern of {self.kind!r} matches the empty text, so it would mask everywhere.")
        kind = pattern_kind(self.kind, expression)
        for text in self.examples:
            if not kind.replace(text)[1]:
                raise ConfigError(f"The pattern of {self.kind!r} does not find its example {text!r}.")
        for text in self.counterexamples:
            if kind.replace(text)[1]:
                raise ConfigError(f"The pattern of {self.kind!r} masks its counterexample {text!r}.")
        return kind


class Redactor:
    """Masks what it finds with `[KIND]`; safe to use from several threads; masking twice changes nothing more.

    Strings that hold JSON (as span attributes do) are read, masked inside and written again, so that they stay JSON
    and an escape such as `\\u0040` hides nothing. Keys are masked too; two that become equal are both kept, the
    second with ` 2` behind. Numbers are left alone, except whole ones that are a valid card number or stand under a
    key such as `phone`. Objects other than JSON's are masked as what they say of themselves.

    Args:
        kinds: of `email`, `phone`, `card`, `iban`, `secret`, `ip`; None takes all but `ip`.
        patterns: further kinds, applied first.
        keep: keys (`fnmatch` patterns, compared with the key alone) whose values are left as they are.

    Raises:
        ConfigError: an unknown kind, or a pattern that is not valid.
    """

    def __init__(
        self,
        kinds: Iterable[str] | None = None,
        patterns: Sequence[Pattern] = (),
        keep: Iterable[str] = DEFAULT_KEEP,
    ) -> None:
        known = {kind.name: kind for kind in BUILT_IN}
        wanted = set(known) - OFF_BY_DEFAULT if kinds is None else set(kinds)
        if unknown := sorted(wanted - set(known)):
            raise ConfigError(f"There is no kind {', '.join(map(repr, unknown))} to redact.", valid=known)
        own = [pattern.compiled() for pattern in patterns]
        if clash := sorted({kind.name for kind in own} & set(known)):
            raise ConfigError(f"The kind {clash[0]!r} is built in.", fix="Give your pattern another name.")
        self._kinds = (*own, *(kind for kind in BUILT_IN if kind.name in wanted))
        self._names = wanted
        self._keep = tuple(keep)
        self._kept = lru_cache(maxsize=4096)(self._is_kept)
        basis = json.dumps([sorted(wanted), [dataclasses.astuple(p) for p in patterns], sorted(self._keep)])
        self.digest = hashlib.sha256(basis.encode()).hexdigest()[:16]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of what is masked, in the order applied."""
        return tuple(dict.fromkeys(kind.name for kind in self._kinds))

    @classmethod
    def from_yaml(cls, path: str | Path) -> Redactor:
        """A redactor as a file says; see `RedactionFile` in this module for the form.

        Raises:
            ConfigError: the file cannot be read, or something in it is not known or not valid.
        """
        return cls(**_read(Path(path)))

    def redact(self, value: Any) -> Redacted:
        """Mask everything in a value; the value itself is never changed."""
        counts: Counter[str] = Counter()
        return Redacted(self._value(value, "", counts, 0), dict(counts))

    def text(self, text: str) -> str:
        """Mask a text, or a JSON document in a text."""
        return str(self.redact(text).value)

    def _value(self, value: Any, key: str, counts: Counter[str], depth: int) -> Any:
        if value is None or isinstance(value, _PLAIN) or (key and self._kept(key)):
            return value
        if key and (masked := self._by_key(value, key, counts)) is not None:
            return masked
        if isinstance(value, str) and not isinstance(value, Enum):
            return self._string(value, counts, depth)
        if isinstance(value, int):
            return self._integer(value, counts)
        if isinstance(value, bytes):
            return self._plain_text(value.decode("latin-1"), counts).encode("latin-1", "replace")
        if depth < _DEEPEST and (simple := _simple(value)) is not None:
            return self._container(simple, value, key, counts, depth)
        return self._string(str(value), counts, _DEEPEST)

    def _container(self, simple: Any, original: Any, key: str, counts: Counter[str], depth: int) -> Any:
        before = counts.total()
        if isinstance(simple, Mapping):
            fresh: dict[Any, Any] = {}
            for name, item in simple.items():
                shown = self._plain_text(name, counts) if isinstance(name, str) else name
                fresh[_free(shown, fresh)] = self._value(item, name if isinstance(name, str) else "", counts, depth + 1)
        else:
            items = [self._value(item, key, counts, depth + 1) for item in simple]
            fresh = tuple(items) if isinstance(original, tuple) else items  # type: ignore[assignment]
        return fresh if counts.total() > before else original

    def _by_key(self, value: Any, key: str, counts: Counter[str]) -> str | None:
        """The mask of a value whose key says what it is; None where it says nothing."""
        if isinstance(value, (Mapping, list, tuple)) or value == "":
            return None
        word = re.sub(r"\[[A-Z0-9_]+\]|[^A-Za-z0-9]", "", key.rpartition(".")[2]).lower()  # a mask says nothing
        if "secret" in self._names and _SECRET_KEY.fullmatch(word) and value != mask_of("secret"):
            counts["secret"] += 1
            return mask_of("secret")
        if "phone" in self._names and _PHONE_KEY.fullmatch(word) and re.fullmatch(r"[0-9 ()./+-]{7,24}", str(value)):
            counts["phone"] += 1
            return mask_of("phone")
        return None

    def _integer(self, value: int, counts: Counter[str]) -> Any:
        if "card" in self._names and value >= 10**12 and is_card(str(value)):
            counts["card"] += 1
            return mask_of("card")
        return value

    def _string(self, text: str, counts: Counter[str], depth: int) -> str:
        if depth < _DEEPEST and text.lstrip()[:1] in ("{", "[", '"'):
            try:
                held = json.loads(text, object_pairs_hook=_every_pair)
            except (ValueError, RecursionError):
                return self._plain_text(text, counts)
            inside: Counter[str] = Counter()
            masked = self._value(held, "", inside, depth + 1)
            if not inside:
                return text
            counts.update(inside)
            return json.dumps(masked, ensure_ascii=False)
        return self._plain_text(text, counts)

    def _plain_text(self, text: str, counts: Counter[str]) -> str:
        for kind in self._kinds:
            text, found = kind.replace(text)
            if found:
                counts[kind.name] += found
        return text

    def _is_kept(self, key: str) -> bool:
        return any(fnmatch.fnmatchcase(key, pattern) for pattern in self._keep)


def _simple(value: Any) -> Any:
    """A value as mapping or list; None when it is neither and does not say how to become one."""
    if isinstance(value, (Mapping, list, tuple)):
        return value
    if isinstance(value, (set, frozenset)):
        return list(value)
    dump: Callable[[], Any] | None = getattr(value, "model_dump", None)
    if callable(dump):
        return dump()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    listed: Callable[[], Any] | None = getattr(value, "tolist", None)  # NumPy
    if callable(listed):
        made = listed()
        return made if isinstance(made, list) else [made]
    return None


def _free(key: Any, taken: Mapping[Any, Any]) -> Any:
    """The key, or the key with the first number behind that is free."""
    if key not in taken:
        return key
    number = 2
    while f"{key} {number}" in taken:
        number += 1
    return f"{key} {number}"


def _every_pair(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object with every pair of it, where a plain dict would lose all but the last of equal keys."""
    made: dict[str, Any] = {}
    for key, value in pairs:
        made[_free(key, made)] = value
    return made


def _read(path: Path) -> dict[str, Any]:
    """The constructor's arguments from a YAML file.

    kinds: [email, phone, card, iban, secret]     # default: all but ip
    patterns:
      - kind: customer_number
        pattern: '\\bC[0-9]{6}\\b'
        examples: [customer C123456]
        counterexamples: [CVE 123456]
    keep: [order_id]                              # added to what is always kept
    """
    import yaml
    from pydantic import BaseModel, ConfigDict, ValidationError

    class PatternEntry(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)
        kind: str
        pattern: str
        examples: list[str] = []
        counterexamples: list[str] = []

    class RedactionFile(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)
        kinds: list[str] | None = None
        patterns: list[PatternEntry] = []
        keep: list[str] = []

    try:
        said = RedactionFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"The redaction file {str(path)!r} cannot be read: {error}.") from error
    except ValidationError as error:
        places = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{path}: {places}.", valid="kinds, patterns (kind, pattern, examples), keep") from error
    patterns = [Pattern(p.kind, p.pattern, tuple(p.examples), tuple(p.counterexamples)) for p in said.patterns]
    return {"kinds": said.kinds, "patterns": patterns, "keep": (*DEFAULT_KEEP, *said.keep)}
