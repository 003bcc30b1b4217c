"""The demo's router as a function, for `assay optimize --predict mlflow_assay.demo.predict:route`.

It loads its prompt from MLflow's registry at each call, like the agent in production; that is how a candidate prompt
reaches it. No model is called.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from mlflow_assay.demo.agent import Router
from mlflow_assay.demo.prompt import ALIAS, PROMPT_NAME, parse

__all__ = ["route"]


def route(request: str, conversation: str = "") -> dict[str, Any]:
    """The desk for a request: `{"route": desk}`.

    Args:
        request: the customer's message.
        conversation: what the customer wrote before in the session; empty for nothing.
    """
    import mlflow

    version = mlflow.genai.load_prompt(f"prompts:/{PROMPT_NAME}@{ALIAS}", link_to_model=False)
    return {"route": _router(str(version.template)).route(request, conversation or "")[0]}


@lru_cache(maxsize=4)
def _router(text: str) -> Router:
    return Router(parse(text))
