"""A base URL for MLflow's built-in judges, which take none.

For `openai:/` models MLflow reads the environment variable OPENAI_API_BASE at each call
(MLFLOW_GENAI_JUDGE_BASE_URL, despite its name, is read for SAP AI Core only). So the variable is set while a
call with a base URL runs and put back afterwards, and so is OPENAI_API_KEY where it is unset: MLflow insists on
one, and an endpoint of one's own may need none. Calls to one base URL run side by side; a call to another waits.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow_assay.contracts import ModelSettings
from mlflow_assay.errors import ConfigError

__all__ = ["check", "route"]

BASE, KEY = "OPENAI_API_BASE", "OPENAI_API_KEY"
_SUFFIX = "/chat/completions"


def check(model: ModelSettings) -> None:
    """Refuse a base URL that cannot be honoured.

    Raises:
        ConfigError: it is given with a model that is not `openai:/`, or is no chat-completions URL.
    """
    if model.base_url is None:
        return
    if not model.uri.startswith("openai:/") or not model.base_url.rstrip("/").endswith(_SUFFIX):
        raise ConfigError(
            "MLflow's built-in judges take a base URL only for an OpenAI-compatible endpoint.",
            found=f"{model.uri} at {model.base_url}",
            valid=f"an openai:/ model and a URL that ends in {_SUFFIX}",
            fix="Or put the endpoint behind MLflow's AI Gateway and use gateway:/NAME.",
        )


class _Switch:
    """The environment variables, held at one value by any number of threads."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._base = ""
        self._users = 0
        self._before: dict[str, str | None] = {}

    def take(self, base: str) -> None:
        with self._turn:
            self._turn.wait_for(lambda: self._users == 0 or self._base == base)
            if self._users == 0:
                self._base = base
                self._before = {name: os.environ.get(name) for name in (BASE, KEY)}
                os.environ.update({BASE: base, KEY: self._before[KEY] or "none"})
            self._users += 1

    def release(self) -> None:
        with self._turn:
            self._users -= 1
            if self._users == 0:
                for name, value in self._before.items():
                    if value is None:
                        os.environ.pop(name, None)
                    else:
                        os.environ[name] = value
            self._turn.notify_all()


_switch = _Switch()


@contextmanager
def route(model: ModelSettings | None) -> Iterator[None]:
    """While it is entered, MLflow's OpenAI provider talks to the model's base URL, if there is one.

    Entering it again inside, for the same base URL, is fine.
    """
    if model is None or model.base_url is None or not model.uri.startswith("openai:/"):
        yield
        return
    _switch.take(model.base_url.rstrip("/").removesuffix(_SUFFIX))
    try:
        yield
    finally:
        _switch.release()
