"""How a recorded τ²-bench judge verdict is read: one table, nothing by similarity.

The prompts asked for `pass` or `fail`; the chain-of-thought prompt, which did not repeat the words, was answered
in nine spellings. Only the spellings below are read. Anything else is unscored (`off_menu`) with what the judge
said kept beside it: a word nobody has looked at is no evidence either way.
"""

from __future__ import annotations

from typing import Any

from mlflow_assay.contracts import Unscored, UnscoredError

__all__ = ["READINGS", "read", "spelling"]

# spelling -> (whether it means pass, how it was read)
READINGS: dict[str, tuple[bool, str]] = {
    "pass": (True, "pass"),
    "satisfied": (True, "pass"),
    "satisfactory": (True, "pass"),
    "compliant": (True, "pass"),
    "success": (True, "pass"),
    "fail": (False, "fail"),
    "failure": (False, "fail"),
    "unsatisfied": (False, "fail"),
    "unsatisfactory": (False, "fail"),
    "partially satisfied": (False, "fail: a request met in part is not resolved, and the menu had no middle"),
}


def spelling(verdict: Any) -> str:
    """The verdict as looked up: lower case, single spaces, underscores as spaces."""
    return " ".join(str(verdict).replace("_", " ").lower().split())


def read(verdict: Any) -> tuple[bool, str]:
    """Whether a recorded verdict means pass, and how it was read.

    Raises:
        UnscoredError: `off_menu`, for any spelling that is not in `READINGS`; `empty_reply` for none.
    """
    if verdict is None or (isinstance(verdict, str) and not verdict.strip()):
        raise UnscoredError(Unscored.EMPTY_REPLY, "the recording holds no verdict")
    if not isinstance(verdict, str) or spelling(verdict) not in READINGS:
        raise UnscoredError(Unscored.OFF_MENU, f"the judge answered {verdict!r}; valid: {', '.join(READINGS)}")
    return READINGS[spelling(verdict)]
