"""What a local judge reads of a trace: chosen fields, cleaned, each as text, category or number.

Identifiers do not teach: digits in runs of three or more become `000`, e-mail addresses become `emailaddress`.
Texts longer than `TEXT_LIMIT` characters keep their first and last halves.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from mlflow_assay import trace_fields
from mlflow_assay.contracts import Unscored, UnscoredError
from mlflow_assay.errors import ConfigError

if TYPE_CHECKING:
    from mlflow.entities import Trace

__all__ = ["NONE", "TEXT_LIMIT", "Example", "Field", "Kind", "Row", "Value", "clip", "read", "resolve", "row"]

TEXT_LIMIT = 20_000
NONE = "(none)"
_ITEM_LIMIT, _ITEMS = 200, 200
_FEW = 30
_SESSION = "mlflow.trace.session"

# Absence of these says something ("no tool was called"), as long as the trace has spans.
_EMPTY_WHEN_ABSENT = ("agents", "retrieved", "tool_calls", "tool_errors", "tools_called")

Kind = Literal["text", "category", "number"]
Value = str | tuple[str, ...] | float | None
Row = Mapping[str, Value]


@dataclass(frozen=True)
class Field:
    """One trace field a judge reads.

    Attributes:
        name: as in `trace_fields`, for example `first_user_message` or `tag:agent`.
        kind: `text` is read by words and word parts, `category` as names, `number` on a log scale; None is
            settled by the training traces.
        optional: a trace without it is judged all the same; otherwise it is unscored for a missing field.
    """

    name: str
    kind: Kind | None = None
    optional: bool = False

    @classmethod
    def parse(cls, text: str) -> Field:
        """`NAME`, `NAME=KIND`, each with a `?` behind it when optional.

        Raises:
            ConfigError: no such trace field or kind.
        """
        body = text.removesuffix("?")
        name, found, kind = body.rpartition("=")
        if not found:
            name, kind = body, ""
        if kind and kind not in get_args(Kind):
            raise ConfigError(f"The field {text!r} names no kind of value.", found=kind, valid=get_args(Kind))
        return cls(trace_fields.check(name), cast("Kind | None", kind or None), text.endswith("?"))

    def __str__(self) -> str:
        return self.name + (f"={self.kind}" if self.kind else "") + ("?" if self.optional else "")


@dataclass(frozen=True)
class Example:
    """What was read of one trace.

    Attributes:
        trace_id: `tr-<32 hex>`.
        values: field name -> value as found, texts clipped; absent fields are left out.
        session: MLflow's session id, None for a trace on its own.
        timestamp_ms: when the trace started, epoch milliseconds.
    """

    trace_id: str
    values: Mapping[str, Any]
    session: str | None = None
    timestamp_ms: int | None = None


def read(trace: Trace, fields: Sequence[Field]) -> Example:
    """The chosen fields of one trace."""
    has_spans = bool(trace.data and trace.data.spans)
    found: dict[str, Any] = {}
    for field in fields:
        if trace_fields.needs_spans(field.name) and not has_spans:
            continue
        value = trace_fields.extract(trace, field.name)
        if value is None and field.name in _EMPTY_WHEN_ABSENT:
            value = []
        if value is not None:
            found[field.name] = _bounded(value)
    info = trace.info
    return Example(info.trace_id, found, info.trace_metadata.get(_SESSION), info.timestamp_ms)


def resolve(fields: Sequence[Field], examples: Sequence[Example]) -> tuple[Field, ...]:
    """The fields with their kinds settled by the values seen.

    Raises:
        ConfigError: no field, one named twice, or one no trace has.
    """
    names = [f.name for f in fields]
    if not names or len(set(names)) < len(names):
        raise ConfigError("Name the trace fields the judge reads, each once.", found=names or "none")
    settled = []
    for field in fields:
        values = [e.values[field.name] for e in examples if field.name in e.values]
        if not values:
            raise ConfigError(f"None of the {len(examples)} labelled traces has the field {field.name!r}.")
        settled.append(Field(field.name, field.kind or _kind(values), field.optional))
    return tuple(settled)


def row(example: Example, fields: Sequence[Field]) -> Row:
    """The cleaned values of one example.

    Raises:
        UnscoredError: MISSING_FIELD where a field that is not optional is absent, empty or not a number.
    """
    cleaned = {f.name: _clean(example.values.get(f.name), cast(Kind, f.kind)) for f in fields}
    for field in fields:
        if cleaned[field.name] is None and not field.optional:
            state = "absent" if field.name not in example.values else "empty" if field.kind != "number" else "no number"
            raise UnscoredError(Unscored.MISSING_FIELD, f"the judge reads {field.name}, which is {state} here")
    return cleaned


def clip(text: str, limit: int = TEXT_LIMIT) -> str:
    """The text, or its first and last halves where it is longer than `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit // 2]}\n{text[-(limit // 2) :]}"


def _bounded(value: Any) -> Any:
    """The value with nothing left in it that is too long to keep."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, list) and all(isinstance(v, str | int | float | bool) for v in value):
        return [clip(trace_fields.as_text(v), TEXT_LIMIT // 10) for v in value[:_ITEMS]]
    return clip(trace_fields.as_text(value))


def _kind(values: Sequence[Any]) -> Kind:
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return "number"
    parts = [p for v in values for p in (v if isinstance(v, list) else [v])]
    short = all(len(trace_fields.as_text(p)) <= _ITEM_LIMIT // 2 for p in parts)
    few = len({trace_fields.as_text(p) for p in parts}) <= max(2, min(_FEW, len(values) // 3))
    return "category" if short and few else "text"


def _clean(value: Any, kind: Kind) -> Value:
    if value is None:
        return None
    if kind == "number":
        return _number(value)
    if kind == "category":
        return _names(value)
    text = unicodedata.normalize("NFKC", clip(trace_fields.as_text(value))).strip()
    return _without_identifiers(text) or None


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _names(value: Any) -> tuple[str, ...] | None:
    parts: Iterable[Any] = value if isinstance(value, list) else [value]
    names = tuple(" ".join(trace_fields.as_text(p).split())[:_ITEM_LIMIT] for p in parts)
    kept = tuple(_without_identifiers(n) for n in names if n)
    return kept if kept or isinstance(value, list) else None


def _without_identifiers(text: str) -> str:
    return re.sub(r"\d{3,}", "000", re.sub(r"[\w.+-]+@[\w-]+\.[\w.-]+", "emailaddress", text))
