"""One text for one value: what identities and digests of rows are computed over."""

from __future__ import annotations

import hashlib
import json
from typing import Any

__all__ = ["canonical", "plain", "sha256"]

_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def canonical(value: Any) -> str:
    """The value as JSON with sorted keys and no spaces: equal values give equal texts, in any process.

    Values JSON does not know are written as their `str`, as MLflow does for traces; NaN and the infinities as words;
    half a surrogate pair is escaped, so that the text is always valid UTF-8.
    """
    try:
        text = _encode(value)
    except (TypeError, ValueError):
        text = _encode(_known(value))
    return text if text.isascii() or _is_utf8(text) else json.dumps(json.loads(text), sort_keys=True)


def plain(value: Any) -> Any:
    """The value made of dict, list, str, int, float, bool and None alone, as it comes back from a snapshot."""
    return json.loads(canonical(value))


def sha256(text: str) -> str:
    """SHA-256 of a text in UTF-8, 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _known(value: Any) -> Any:
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, dict):
        return {key if isinstance(key, str) else canonical(key).strip('"'): _known(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_known(v) for v in value]
    return _known(value.item()) if getattr(value, "shape", None) == () else str(value)
