"""A prompt template as an optimizer may change it: its instructions apart from the places its variables take.

A model that rewrites a prompt often loses `{{question}}` on the way, and the agent then answers nothing. So only the
instructions are rewritten: the paragraphs before the first variable (of a chat prompt, those of its first message, or
that whole message). The rest, with every variable in it, stays as it is.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mlflow_assay.errors import ConfigError

__all__ = ["Template", "inert"]

# A variable as MLflow reads it: {{ name }} or {{ name.part }}.
_NAME = r"[a-zA-Z_][a-zA-Z0-9_]*(?:\.[a-zA-Z_][a-zA-Z0-9_]*)*"
_VARIABLE = re.compile(r"\{\{\s*(" + _NAME + r")\s*\}\}")


def inert(text: str) -> str:
    """The text with nothing in it that MLflow would take for a variable or a statement of a template."""
    for brace in ("{{", "}}", "{%", "%}", "{#", "#}"):
        text = text.replace(brace, f"{brace[0]} {brace[1]}")
    return text


@dataclass(frozen=True)
class Template:
    """One prompt's text, taken apart.

    Attributes:
        text: as MLflow hands it to an optimizer: the text, or a chat prompt's messages as JSON.
        messages: a chat prompt's messages; None for a text.
        head: the instructions; empty when a variable stands in the first paragraph.
        frame: what follows them, the variables in it; empty for a chat prompt's message without variables.
    """

    text: str
    messages: tuple[dict[str, Any], ...] | None
    head: str
    frame: str

    @staticmethod
    @lru_cache(maxsize=256)
    def read(text: str) -> Template:
        """Take a template apart.

        Raises:
            ConfigError: it is a Jinja template, whose statements cannot be told from its words.
        """
        if "{%" in text:
            raise ConfigError(
                "A prompt with Jinja statements ({% … %}) cannot be optimized: its variables cannot be kept safe.",
                fix="Write it with {{ variables }} alone.",
            )
        messages = _messages(text)
        content = str(messages[0].get("content") or "") if messages else text
        return Template(text, tuple(messages) if messages else None, *_cut(content))

    @property
    def variables(self) -> frozenset[str]:
        """Names of all variables."""
        return frozenset(_VARIABLE.findall(self.text))

    @property
    def instructions(self) -> str:
        """What may be rewritten: the head, or the whole text where a variable stands in its first paragraph."""
        return self.head or self.frame

    def with_instructions(self, text: str) -> str:
        """The template with other instructions, as text of the same kind (chat stays chat).

        Variables of the template may be used in them; others are made harmless. Where the whole text is rewritten,
        a variable that is lost is put back at the end.
        """
        safe = _only(text.strip(), self.variables)
        if self.head:
            return self._whole(f"{safe}\n\n{self.frame}" if self.frame else safe)
        lost = [name for name in dict.fromkeys(_VARIABLE.findall(self.frame)) if name not in _VARIABLE.findall(safe)]
        return self._whole("\n\n".join([safe, *(f"{name}: {{{{{name}}}}}" for name in lost)]))

    def with_block(self, block: str) -> str:
        """The template with a block of text (such as examples) before the places of its variables."""
        parts = [self.head, inert(block.strip()), self.frame]
        return self._whole("\n\n".join(p for p in parts if p))

    def lacks(self, candidate: str) -> list[str]:
        """Variables of this template that a candidate has lost."""
        return sorted(self.variables - set(_VARIABLE.findall(candidate)))

    def _whole(self, content: str) -> str:
        if self.messages is None:
            return content
        first, *others = self.messages
        return json.dumps([{**first, "content": content}, *others], ensure_ascii=False)


def _messages(text: str) -> list[dict[str, Any]] | None:
    if not text.lstrip().startswith("["):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    chat = isinstance(found, list) and found and all(isinstance(m, dict) and "role" in m for m in found)
    return found if chat else None


def _cut(content: str) -> tuple[str, str]:
    """Instructions and frame: cut at the last blank line before the first variable."""
    first = _VARIABLE.search(content)
    if first is None:
        return content.strip(), ""
    at = content.rfind("\n\n", 0, first.start())
    return ("", content) if at < 0 else (content[:at].rstrip(), content[at:].lstrip("\n"))


def _only(text: str, names: frozenset[str]) -> str:
    """The text with variables of these names alone."""
    kept = [m.group(0) for m in _VARIABLE.finditer(text) if m.group(1) in names]
    parts = _VARIABLE.split(text)  # text, name, text, name, …
    found = iter(kept)
    return "".join(
        inert(p) if i % 2 == 0 else next(found) if p in names else f"{{ {{{p}}} }}" for i, p in enumerate(parts)
    )
