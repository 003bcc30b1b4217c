"""What is wrong with a judge's parameters, in one line."""

from __future__ import annotations

__all__ = ["problems"]


def problems(error: Exception) -> str:
    """The error's message; pydantic's as `field: what is wrong`, one after the other."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error).rstrip(".")
    told = []
    for problem in error.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ").rstrip(".")
        told.append(f"{where}: {message}" if where else message)
    return "; ".join(told)
