"""`assay env`: the environment variables that send an agent's traces to an endpoint, and whether it takes them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping

import click

from mlflow_assay.cli.options import json_option
from mlflow_assay.errors import ConfigError

__all__ = ["env"]

_FORMS = ("shell", "dotenv", "compose", "kubernetes")


@click.command()
@click.option("--endpoint", metavar="URL", help="OTLP over HTTP, such as http://127.0.0.1:4318. [default: OTEL_*]")
@click.option("--datadog", is_flag=True, help="Straight to Datadog's intake; the key stays in DD_API_KEY.")
@click.option("--site", default="datadoghq.com", show_default=True, envvar="DD_SITE", help="Datadog's. Also DD_SITE.")
@click.option("--service", help="Name of the agent's service; in Datadog the ML app.")
@click.option("--environment", help="For example production.")
@click.option("--header", "headers", multiple=True, metavar="NAME=$VARIABLE", help="Repeatable; secrets by reference.")
@click.option(
    "--sample", type=click.FloatRange(0, 1), help="Share of runs that assay watch --sample judges: marked to be kept."
)
@click.option("--redaction", metavar="FILE", help="YAML with redaction patterns of your own.")
@click.option(
    "--format", "form", type=click.Choice(_FORMS), default="shell", show_default=True, help="What it is written for."
)
@click.option("--check", "wanted", is_flag=True, help="Send one test span now and say whether it was taken.")
@json_option
def env(
    endpoint: str | None,
    datadog: bool,
    site: str,
    service: str | None,
    environment: str | None,
    headers: tuple[str, ...],
    sample: float | None,
    redaction: str | None,
    form: str,
    wanted: bool,
    as_json: bool,
) -> None:
    """Print the variables that make MLflow send traces to an OpenTelemetry endpoint and keep its own copy.

    They set MLflow's export alone. Session, tags, cost and redaction are added by one line in the agent, which reads
    these variables: `from mlflow_assay import telemetry; telemetry.configure()`.

    With --check the exit code is 1 when the far end did not take the span. The span is marked `assay.check` and counts
    as no agent's in rates, boards and searches.

    \b
    eval "$(assay env --endpoint http://127.0.0.1:4318 --service support-agent --sample 0.1)"
    assay env --datadog --site datadoghq.eu --service support-agent --format kubernetes
    assay env --endpoint https://otlp.example.com --header 'authorization=$OTLP_TOKEN' --check
    """
    from mlflow_assay.telemetry import variables as v

    if datadog and endpoint:
        raise ConfigError("--datadog has an endpoint of its own.", fix="Leave out --endpoint.")
    if redaction is not None:
        from mlflow_assay.redaction import Redactor

        Redactor.from_yaml(redaction)
    said = dict(map(v.header, headers))
    attributes = {}
    if datadog:
        endpoint, theirs = v.datadog(site)
        said, attributes = {**theirs, **said}, {"dd_llmobs_enabled": "true"}
    made = v.variables(
        endpoint,
        headers=said,
        service=service,
        environment=environment,
        judge_sample=sample,
        redaction=redaction,
        attributes=attributes,
    )
    if wanted:
        sys.exit(_check(made[0].value, said, service, as_json, shown=not datadog))
    if as_json:
        click.echo(json.dumps({"variables": {one.name: one.value for one in made}}, indent=2))
    else:
        click.echo(v.render(made, form))


def _check(url: str, headers: Mapping[str, str], service: str | None, as_json: bool, *, shown: bool) -> int:
    """The exit code; `shown` says whether the far end shows a span that is no agent's."""
    from mlflow_assay.telemetry.check import check
    from mlflow_assay.telemetry.settings import environment_headers

    sent = {**environment_headers(), **{name: _held(value) for name, value in headers.items()}}
    found = check(url, sent, service=service or "assay-check")
    if as_json:
        answer = {"endpoint": url, "taken": found.taken, "status": found.status, "detail": found.detail}
        click.echo(json.dumps({**answer, "trace_id": found.trace_id}))
    elif found.taken:
        there = (
            f"Look there for trace {found.trace_id}." if shown else "Datadog shows agents' spans only, so not this one."
        )
        click.echo(f"{url} took a span ({found.detail}). {there}")
    else:
        click.echo(f"{url} did not take a span: {found.detail}.", err=True)
    return 0 if found.taken else 1


def _held(value: str) -> str:
    """What the variable a header refers to holds."""
    if not value.startswith("$"):
        return value
    name = value[1:].strip("{}")
    if not os.environ.get(name):
        raise ConfigError(f"The variable {name} is not set, so the endpoint cannot be asked.", fix=f"export {name}=…")
    return os.environ[name]
