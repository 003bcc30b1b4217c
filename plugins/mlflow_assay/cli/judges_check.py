"""`assay judges validate`, `test` and `schema`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_assay.cli.options import json_option, judges_path, model_options, model_settings, read_texts, texts_option
from mlflow_assay.errors import ConfigError, DefinitionError

if TYPE_CHECKING:
    from mlflow_assay.contracts import ModelSettings
    from mlflow_assay.judges.cases import CaseResult
    from mlflow_assay.judges.catalogue import Catalogue, JudgeEntry

__all__ = ["schema", "test", "validate"]


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def validate(files: tuple[Path, ...]) -> None:
    """Check definition FILES, or all definitions of a folder; nothing is called.

    Each problem is printed as `file:line: where: what is wrong`, every problem of every file. Exit code 1 when
    there is any.
    """
    from mlflow_assay.judges.catalogue import Catalogue

    catalogue, problems, checked = Catalogue(), 0, 0
    names: dict[tuple[Path, str], Path] = {}
    for path in _definition_files(files):
        checked += 1
        try:
            entry = catalogue.check(path)
            _unique(names, path, entry.name)
        except DefinitionError as error:
            problems += 1
            click.echo(str(error))
            continue
        for hint in _hints(entry):
            click.echo(f"{path}: hint: {hint}")
    click.echo(f"{checked} definitions, {problems} not valid", err=problems > 0)
    sys.exit(1 if problems else 0)


def _definition_files(files: tuple[Path, ...]) -> Iterator[Path]:
    for path in files:
        if not path.is_dir():
            yield path
            continue
        found = sorted(p for p in path.iterdir() if p.suffix in (".yaml", ".yml"))
        if not found:
            raise ConfigError(f"There are no definitions (*.yaml) in the folder {str(path)!r}.")
        yield from found


def _unique(names: dict[tuple[Path, str], Path], path: Path, name: str) -> None:
    other = names.setdefault((path.parent, name), path)
    if other != path:
        raise DefinitionError(f"{path}:1: name: {other} in the same folder is named {name!r} as well.")


def _hints(entry: JudgeEntry) -> Iterator[str]:
    kinds = {case.kind for case in entry.definition.cases} if entry.definition else set()
    for kind in ("good", "bad", "unscorable"):
        if kind not in kinds:
            yield f"no {kind} case; cases are what tells that a judge does what it should"


@click.command()
@click.argument("names", nargs=-1)
@judges_path
@click.option("--offline", is_flag=True, help="No model: a scripted server answers. Tests the plumbing only.")
@texts_option
@model_options
@json_option
def test(
    names: tuple[str, ...],
    paths: tuple[str, ...],
    offline: bool,
    settings: tuple[str, ...],
    model: str | None,
    base_url: str | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Run the good, bad and unscorable cases beside each definition: all judges, or those NAMES.

    With --model the judge model is asked and the result says how well the judge does on its cases. With --offline a
    scripted server gives the expected verdicts, which tests reading, rendering, HTTP, parsing and the pass rule, but
    nothing about a model's judgement. Exit code 1 when a case fails.
    """
    if offline:
        _stay_offline()
    from mlflow_assay.judges.cases import OFFLINE_NOTE
    from mlflow_assay.judges.catalogue import Catalogue

    catalogue = Catalogue(paths)
    chosen = None if offline else model_settings(model, base_url, timeout_s)
    results = list(_results(catalogue, _with_cases(catalogue, names), chosen, read_texts(settings), offline))
    failed = sum(r.status == "failed" for r in results)
    if as_json:
        click.echo(json.dumps(_summary(results, offline, OFFLINE_NOTE), indent=2, ensure_ascii=False))
    else:
        _print_results(results)
        if offline:
            click.echo(OFFLINE_NOTE)
    sys.exit(1 if failed else 0)


def _stay_offline() -> None:
    """Before MLflow and litellm are imported: no telemetry, no look-up of prices, which wait for a network."""
    for name in ("MLFLOW_DISABLE_TELEMETRY", "LITELLM_LOCAL_MODEL_COST_MAP"):
        os.environ.setdefault(name, "true")


def _with_cases(catalogue: Catalogue, names: tuple[str, ...]) -> list[JudgeEntry]:
    if not names:
        return [e for e in catalogue.entries.values() if e.definition is not None and e.definition.cases]
    entries = [catalogue.get(name) for name in dict.fromkeys(names)]
    for entry in entries:
        if entry.definition is None or not entry.definition.cases:
            raise ConfigError(
                f"The judge {entry.name!r} has no cases.", fix="Cases stand in a YAML definition, under `cases`."
            )
    return entries


def _results(
    catalogue: Catalogue,
    entries: list[JudgeEntry],
    model: ModelSettings | None,
    texts: Mapping[str, Mapping[str, str]],
    offline: bool,
) -> Iterator[CaseResult]:
    from mlflow_assay.engine.chat import check_credentials
    from mlflow_assay.judges.cases import example_texts, run_cases, run_offline

    if not offline:
        for entry in entries:
            _need_model(entry, model)
    for entry in entries:
        assert entry.definition is not None  # noqa: S101 - _with_cases saw to it
        if offline:
            yield from run_offline(catalogue, entry)
            continue
        bound = catalogue.build(entry.name, model, {**example_texts(entry.definition), **texts.get(entry.name, {})})
        for callee in bound.callees():
            if callee.model is not None:
                check_credentials(callee.model)
        yield from run_cases(bound, entry.definition)


def _need_model(entry: JudgeEntry, model: ModelSettings | None) -> None:
    """MLflow's own default model costs money somewhere; it is used only if somebody named it."""
    named = model or os.environ.get("MLFLOW_GENAI_JUDGE_DEFAULT_MODEL")
    if entry.contract.calls_llm and not named and not (entry.definition and entry.definition.model):
        raise ConfigError(
            f"The judge {entry.name!r} asks a model; say which.",
            valid="--model URI, ASSAY_JUDGE_MODEL, MLFLOW_GENAI_JUDGE_DEFAULT_MODEL, or --offline for plumbing only",
        )


def _summary(results: list[CaseResult], offline: bool, note: str) -> dict[str, Any]:
    counts = {status: sum(r.status == status for r in results) for status in ("passed", "failed", "skipped")}
    return {"offline": offline, "note": note if offline else None, **counts, "cases": [asdict(r) for r in results]}


def _print_results(results: list[CaseResult]) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    marks = {"passed": "[green]passed[/green]", "failed": "[red]failed[/red]", "skipped": "[dim]skipped[/dim]"}
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("judge", overflow="fold", max_width=28)
    for heading in ("case", "kind", "verdict"):
        table.add_column(heading, overflow="fold")
    table.add_column("")
    for r in results:
        got = f"{r.expected}, but got {r.got}" if r.status == "failed" else r.expected
        table.add_row(r.judge, escape(r.case), r.kind, escape(got), marks[r.status])
    console = Console()
    console.print(table)
    for r in results:
        if r.status == "failed":
            console.print(f"[red]{r.judge}[/red] / {escape(r.case)}: {escape(r.detail)}", soft_wrap=True)
    counts = {status: sum(r.status == status for r in results) for status in marks}
    click.echo(f"{counts['passed']} cases passed, {counts['failed']} failed, {counts['skipped']} skipped")


@click.command()
@click.option("--check", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Compare with FILE.")
def schema(check: Path | None) -> None:
    """The JSON Schema of a judge definition, for completion and checks in editors.

    \b
    assay judges schema > my-judges/schema.json
    # then, as the first line of a definition:
    # yaml-language-server: $schema=schema.json
    """
    from mlflow_assay.judges.docs import schema_text

    if check is None:
        click.echo(schema_text(), nl=False)
        return
    if not check.is_file() or check.read_text(encoding="utf-8") != schema_text():
        click.echo(f"{check} is not the current schema. Write it with: assay judges schema > {check}", err=True)
        sys.exit(1)
    click.echo(f"{check} is current")
