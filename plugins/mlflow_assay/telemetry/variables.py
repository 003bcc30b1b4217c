"""The environment variables that point an agent's process at an endpoint, written for a shell, a file or a manifest."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from mlflow_assay.errors import ConfigError
from mlflow_assay.telemetry.settings import Settings, traces_url

__all__ = ["FORMATS", "Variable", "datadog", "header", "render", "variables"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SITE = re.compile(r"[a-z0-9.-]+\.[a-z]{2,}")
# What such a header holds is a secret, so it is referred to and never printed.
_SECRET = re.compile(r"authorization|cookie|key|token|secret|password", re.IGNORECASE)


@dataclass(frozen=True)
class Variable:
    """One variable.

    Attributes:
        name: of it.
        value: with `${NAME}` where it refers to another variable.
        refers_to: the variables it refers to: secrets that must be set where it is used.
    """

    name: str
    value: str
    refers_to: tuple[str, ...] = ()


def header(text: str) -> tuple[str, str]:
    """`NAME=VALUE` or `NAME=$VARIABLE` as a header's name and value.

    Raises:
        ConfigError: another form, or a header that holds a secret is given its value.
    """
    name, equals, value = text.partition("=")
    name, value = name.strip().lower(), value.strip()
    if not (equals and name and value):
        raise ConfigError("A header is written NAME=VALUE.", found=repr(text.partition("=")[0]))
    if value.startswith("$") and not _NAME.fullmatch(value[1:].strip("{}")):
        raise ConfigError(f"The header {name!r} refers to no variable.", valid="NAME=$VARIABLE")
    if not value.startswith("$") and _SECRET.search(name):
        raise ConfigError(
            f"The header {name!r} holds a secret, which would be printed.",
            fix=f"Refer to the variable that holds it: --header '{name}=$MY_KEY'.",
        )
    return name, value


def datadog(site: str) -> tuple[str, dict[str, str]]:
    """Datadog's direct intake of a site: its URL and the headers, the key as a reference to `DD_API_KEY`.

    Raises:
        ConfigError: the site is no host name.
    """
    if not _SITE.fullmatch(site):
        raise ConfigError(f"{site!r} is no Datadog site.", valid="datadoghq.com, datadoghq.eu, us3.datadoghq.com, …")
    return f"https://otlp.{site}", {"dd-api-key": "$DD_API_KEY", "dd-otlp-source": "llmobs"}


def variables(
    endpoint: str | None,
    *,
    headers: Mapping[str, str],
    service: str | None = None,
    environment: str | None = None,
    judge_sample: float | None = None,
    redaction: str | None = None,
    attributes: Mapping[str, str] | None = None,
) -> list[Variable]:
    """What to set for MLflow's dual export, and for `telemetry.configure()` without arguments.

    Args:
        headers: values that start with `$` are references.
        redaction: path of a redaction file.
        attributes: further resource attributes.

    Raises:
        ConfigError: a setting is not valid.
    """
    settings = Settings(traces_url(endpoint), service=service, environment=environment, judge_sample=judge_sample or 0)
    said = settings.mlflow_variables()
    resource = {**settings.resource_attributes(), **(attributes or {})}
    if resource:
        said["OTEL_RESOURCE_ATTRIBUTES"] = ",".join(f"{name}={quote(value)}" for name, value in resource.items())
    made = [Variable(name, value) for name, value in said.items()]
    if headers:
        made.append(_headers(headers))
    if judge_sample is not None:
        made.append(Variable("ASSAY_JUDGE_SAMPLE", f"{judge_sample:g}"))
    if redaction is not None:
        made.append(Variable("ASSAY_REDACTION", redaction))
    return made


def _headers(headers: Mapping[str, str]) -> Variable:
    pairs, referred = [], []
    for name, value in headers.items():
        if value.startswith("$"):
            referred.append(value[1:].strip("{}"))
            pairs.append(f"{name}=${{{referred[-1]}}}")
        else:
            pairs.append(f"{name}={quote(value)}")
    return Variable("OTEL_EXPORTER_OTLP_TRACES_HEADERS", ",".join(pairs), tuple(referred))


# --- forms -------------------------------------------------------------------------------------------------


def _shell(made: Sequence[Variable]) -> str:
    return "\n".join(
        f'export {v.name}="{v.value}"' if v.refers_to else f"export {v.name}={shlex.quote(v.value)}" for v in made
    )


def _dotenv(made: Sequence[Variable]) -> str:
    return "\n".join(f'{v.name}="{v.value}"' if v.refers_to else f"{v.name}={shlex.quote(v.value)}" for v in made)


def _compose(made: Sequence[Variable]) -> str:
    lines = [f"  {v.name}: {json.dumps(_required(v))}" for v in made]
    return "\n".join(["environment:", *lines])


def _required(variable: Variable) -> str:
    """With references that stop Compose when the secret is not set; any other dollar sign is doubled."""
    value = variable.value if variable.refers_to else variable.value.replace("$", "$$")
    for name in variable.refers_to:
        value = value.replace(f"${{{name}}}", f"${{{name}:?set {name}}}")
    return value


def _kubernetes(made: Sequence[Variable]) -> str:
    """Kubernetes expands `$(NAME)` of variables that stand before."""
    lines = ["env:"]
    for name in dict.fromkeys(name for variable in made for name in variable.refers_to):
        key = name.lower().replace("_", "-")
        lines += [f"  - name: {name}", "    valueFrom:", f"      secretKeyRef: {{name: assay, key: {key}}}"]
    for variable in made:
        value = variable.value if variable.refers_to else variable.value.replace("$(", "$$(")
        value = re.sub(r"\$\{([A-Za-z0-9_]+)\}", r"$(\1)", value) if variable.refers_to else value
        lines += [f"  - name: {variable.name}", f"    value: {json.dumps(value)}"]
    return "\n".join(lines)


FORMATS: Mapping[str, Callable[[Sequence[Variable]], str]] = {
    "shell": _shell,
    "dotenv": _dotenv,
    "compose": _compose,
    "kubernetes": _kubernetes,
}


def render(made: Sequence[Variable], form: str) -> str:
    """The variables in one of `FORMATS`."""
    return FORMATS[form](made)
