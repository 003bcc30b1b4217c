"""Options several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from mlflow_assay.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])

__all__ = [
    "cache_option",
    "json_option",
    "judges_path",
    "max_calls_option",
    "model_options",
    "model_settings",
    "proof_options",
    "read_texts",
    "tell_plan",
    "texts_option",
    "trace_options",
]


def json_option(command: F) -> F:
    """`--json`, for scripts."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(command)


def texts_option(command: F) -> F:
    """`--set`, texts for the variables of judges; `read_texts` reads them."""
    told = "Text for a judge: JUDGE.VARIABLE=TEXT or =@FILE; repeatable."
    return click.option("--set", "settings", multiple=True, help=told)(command)


def max_calls_option(command: F) -> F:
    """`--max-calls` of a command that asks a judge anew."""
    return click.option("--max-calls", type=click.IntRange(min=1), help="At most so many model calls.")(command)


def cache_option(command: F) -> F:
    """`--cache/--no-cache`."""
    told = "Reuse verdicts already paid for."
    return click.option("--cache/--no-cache", default=True, show_default=True, help=told)(command)


def proof_options(margin: str) -> Callable[[F], F]:
    """`--seed` and `--margin` of a command that proves a change on held-out rows; `margin` is the latter's help."""

    def add(command: F) -> F:
        share = click.FloatRange(0, 1, min_open=True, max_open=True)
        command = click.option("--margin", type=share, default=0.05, show_default=True, help=margin)(command)
        told = "Of the split and the optimizer."
        return click.option("--seed", type=int, default=0, show_default=True, help=told)(command)

    return add


def judges_path(command: F) -> F:
    """`--path`, the user's own folders of judge definitions."""
    option = click.option(
        "--path",
        "paths",
        multiple=True,
        type=click.Path(file_okay=False),
        help="Folder of your own judge definitions (YAML); repeatable. Also ASSAY_JUDGES_PATH.",
    )
    return option(command)


def model_options(command: F) -> F:
    """The one judge-model setting."""
    for option in (
        click.option(
            "--timeout", "timeout_s", type=float, default=60.0, show_default=True, help="Seconds a call may take."
        ),
        click.option(
            "--base-url",
            help="Full chat-completions URL of an OpenAI-compatible endpoint. Also ASSAY_JUDGE_BASE_URL.",
            envvar="ASSAY_JUDGE_BASE_URL",
        ),
        click.option(
            "--model",
            help="Judge model, an MLflow URI: openai:/gpt-4.1-mini, gateway:/my-endpoint. Also ASSAY_JUDGE_MODEL.",
            envvar="ASSAY_JUDGE_MODEL",
        ),
    ):
        command = option(command)
    return command


def model_settings(model: str | None, base_url: str | None, timeout_s: float, price: str | None = None) -> Any:
    """`ModelSettings` from the options; None when no model was named.

    Raises:
        ConfigError: a base URL without a model, or a model that is no URI.
    """
    from mlflow_assay.contracts import ModelSettings

    if model is None:
        if base_url is not None or price is not None:
            raise ConfigError("--base-url and --price need --model, to say of which model.", valid="openai:/NAME")
        return None
    provider, found, name = model.partition(":/")
    if not (provider and found and name):
        raise ConfigError(
            f"--model {model!r} is not an MLflow model URI.", valid="provider:/name, such as openai:/gpt-4.1-mini"
        )
    if price is not None:
        from mlflow_assay.engine.prices import parse_price

        given = parse_price(price)
        return ModelSettings(model, base_url, timeout_s=timeout_s, usd_per_million=(given.input, given.output))
    return ModelSettings(model, base_url, timeout_s=timeout_s)


def trace_options(command: F) -> F:
    """Which traces."""
    for option in (
        click.option("--max-traces", type=click.IntRange(min=1), help="At most so many, oldest first."),
        click.option("--since", help="Only traces since then: 7d, 24h, 2026-11-01, 2026-11-01T08:00+01:00."),
        click.option("--filter", "filter_string", help="MLflow's search syntax, such as \"tag.agent = 'billing'\"."),
        click.option("--experiment", "-e", required=True, help="Name or id of the MLflow experiment."),
    ):
        command = option(command)
    return command


def tell_plan(facts: dict[str, Any], as_json: bool, note: str) -> None:
    """What `--dry-run` found out: as JSON, or a line a fact and what to make of them."""
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        click.echo(f"{name.replace('_', ' '):20} {value}")
    click.echo(note)


def read_texts(settings: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """`JUDGE.VARIABLE=TEXT` or `=@FILE` settings, by judge and variable.

    Raises:
        ConfigError: another form, or the file cannot be read.
    """
    texts: dict[str, dict[str, str]] = {}
    for setting in settings:
        target, found, text = setting.partition("=")
        judge, dot, variable = target.rpartition(".")
        if not (found and dot and judge and variable):
            raise ConfigError(f"--set {setting!r} cannot be read.", valid="JUDGE.VARIABLE=TEXT, JUDGE.VARIABLE=@FILE")
        if text.startswith("@"):
            try:
                text = Path(text[1:]).read_text(encoding="utf-8")
            except OSError as error:
                raise ConfigError(f"--set {target}: {text[1:]!r} cannot be read: {error}.") from error
        texts.setdefault(judge, {})[variable] = text
    return texts
