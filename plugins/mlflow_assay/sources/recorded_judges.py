"""Recorded judges as judge definitions: the recorded prompts become judges that can be run again.

The wording stays the recorded one, with two changes that MLflow makes necessary: the transcript becomes
`{{ inputs }}` and `{{ outputs }}`, and the line that asked for a JSON object with `verdict` is replaced by the
question MLflow's answer format asks (true for pass). Verdicts of the two are therefore kept apart: the definition's
version is the recorded one with `-assay` added.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from mlflow_assay.errors import ConfigError
from mlflow_assay.sources.recorded import RecordedJudge

__all__ = ["definition", "to_yaml"]

_POLICY = re.compile(r"(?ms)^Domain policy[^\n]*:\n(.*)\Z")
_ANSWER_FORMAT = re.compile(r"(?m)^(- )?Return (?:a )?JSON[^\n]*?\.(?: +|\n|\Z)")
_ANSWER = "Answer true when by these instructions the run passes, and false when it fails."


def definition(judge: RecordedJudge) -> dict[str, Any]:
    """The judge as the keys of a definition file.

    Raises:
        ConfigError: its name cannot be a judge's name.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{1,99}", judge.name):
        raise ConfigError(
            f"The recorded judge {judge.name!r} cannot be written as a definition under that name.",
            valid="small letters, digits and underscores",
        )
    policy = _POLICY.search(judge.opening)
    opening = _POLICY.sub("Domain policy:\n{{ policy }}", judge.opening)
    made: dict[str, Any] = {
        "name": judge.name,
        "purpose": f"The recorded judge {judge.name} of tau2-bench: did the agent's run pass?",
        "version": f"{judge.version}-assay",
        "value": {"type": "boolean", "good": True},
        "instructions": _instructions(judge, opening),
        "model": judge.model_uri,
        "parameters": dict(judge.parameters),
        "fields": {"outputs": {"conversation": "outputs.messages"}},
        "notes": (
            f"Written from the recorded prompt with digest {judge.digest} (tau2-bench, Sierra Research, MIT). "
            "Its recorded verdicts were given in another answer format; compare before mixing the two."
        ),
    }
    if policy:
        text = policy[1].strip()
        made["variables"] = {"policy": {"description": "The policy the agent has to follow.", "default": text}}
    return made


def _instructions(judge: RecordedJudge, opening: str) -> str:
    asked = _ANSWER_FORMAT.sub(r"\1", judge.instructions).strip("- \n")
    asked = f"- {asked}" if judge.instructions.startswith("- ") else asked
    parts = [
        judge.system_prompt.strip(),
        opening.strip(),
        "The customer's first request:\n{{ inputs }}",
        "Conversation, in order, with the agent's tool calls and their results:\n{{ outputs }}",
        f"Judging instructions:\n{asked}",
        _ANSWER,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def to_yaml(judge: RecordedJudge) -> str:
    """The definition file's text.

    Raises:
        ConfigError: as `definition`.
    """
    return yaml.dump(definition(judge), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, the way a person would write them."""


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    clean = "\n".join(line.rstrip() for line in text.split("\n")) if style else text
    return dumper.represent_scalar("tag:yaml.org,2002:str", clean, style=style)


_Dumper.add_representer(str, _block)
