"""The model that writes prompts: every call counted, priced, kept in the journal, and answered from there again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_assay.contracts import ModelSettings, Unscored, UnscoredError
from mlflow_assay.optimizers.journal import Journal, digest
from mlflow_assay.optimizers.rollouts import Purse

__all__ = ["Writer"]

_PATIENCE = 2
# What a library may set for a call; anything else it passes is meant for itself.
_PARAMS = ("temperature", "max_tokens", "max_completion_tokens", "top_p", "stop", "seed")


class Writer:
    """Asks one model for texts.

    Args:
        model: which, where.
        purse: the budget its calls count against.
        journal: a question asked before, for the so-and-so-manieth time, gets the answer it got then.
    """

    def __init__(self, model: ModelSettings, purse: Purse, journal: Journal) -> None:
        self.model, self._purse, self._journal = model, purse, journal
        self._asked: Counter[str] = Counter()
        self._failures = 0
        self.broken: str | None = None

    def write(self, messages: Sequence[Mapping[str, Any]], **params: Any) -> str:
        """The model's reply as text.

        Raises:
            SpentError: the budget does not cover the call.
            UnscoredError: there is no reply, with the reason. After two in a row nothing more is asked: `broken` says
                why, since libraries tend to swallow the failure of a call and ask on.
        """
        from mlflow_assay.engine.completing import complete

        wanted = {k: v for k, v in params.items() if k in _PARAMS and v is not None}
        listed = [{"role": str(m["role"]), "content": m["content"]} for m in messages]
        key = digest(self.model.uri, self.model.base_url, dict(self.model.params), wanted, listed)
        number = self._asked[key]
        self._asked[key] += 1
        if (known := self._journal.get("text", key, number)) is not None:
            return str(known["text"])
        if self.broken is not None:
            raise UnscoredError(Unscored.PROVIDER_ERROR, self.broken)
        estimate = self._purse.reserve("writer")
        usd: float | None = None
        tokens: int | None = None
        try:
            reply = complete(self.model, listed, wanted)
            usd = reply.usd
            tokens = None if reply.input_tokens is None else reply.input_tokens + (reply.output_tokens or 0)
            self._failures = 0
        except UnscoredError as error:
            self._failures += 1
            usd = error.metadata.get("usd")
            if self._failures >= _PATIENCE:
                self.broken = f"{error.reason.value}: {error.detail}"
            raise
        finally:
            self._purse.settle("writer", estimate, usd, tokens)
        self._journal.put("text", key, {"text": reply.text, "usd": usd, "tokens": tokens})
        return reply.text

    def __call__(self, prompt: Any) -> str:
        """The reply to a prompt, which is a text or chat messages: the form GEPA asks in."""
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return self.write(messages)

    def __repr__(self) -> str:
        return f"Writer({json.dumps(self.model.uri)})"
