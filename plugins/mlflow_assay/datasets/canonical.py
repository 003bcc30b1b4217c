"""One text for one value: what identities and digests of rows are computed over."""

from __future__ import annotations

import hashlib
import json
from typing import Any

__all__ = ["canonical", "plain", "sha256"]


def canonical(value: Any) -> str:
    """The value as JSON with sorted keys and no spaces: equal values give equal texts, in any process.

    Values JSON does not know are written as their `str`, as MLflow does for traces; NaN and the infinities as words.
    """
    return json.dumps(plain(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def plain(value: Any) -> Any:
    """The value made of dict, list, str, int, float, bool and None alone, as it comes back from a snapshot."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return plain(value.item()) if hasattr(value, "item") and getattr(value, "shape", None) == () else str(value)


def sha256(text: str) -> str:
    """SHA-256 of a text in UTF-8, 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()
