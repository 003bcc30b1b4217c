"""`assay judges list` and `show`."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from mlflow_assay.cli.options import json_option, judges_path, model_options, model_settings, read_texts, texts_option
from mlflow_assay.errors import ConfigError, NotTrustedError

if TYPE_CHECKING:
    from rich.console import Console

    from mlflow_assay.contracts import JudgeContract, ModelSettings
    from mlflow_assay.judges.catalogue import Catalogue, JudgeEntry

__all__ = ["list_", "show"]


@click.command("list")
@judges_path
@click.option("--library", "--provider", "library", metavar="NAME", help="Only judges of that library, such as mlflow.")
@click.option("--json", "as_json", is_flag=True, help="Print a list, one object a judge.")
def list_(paths: tuple[str, ...], library: str | None, as_json: bool) -> None:
    """All judges this environment knows: the question each asks, what passes, what it needs.

    Definitions that wrap a library's judge count as that library's, too.

    \b
    Examples:
      assay judges list
      assay judges list --provider deepeval
      assay judges list --provider deepeval --json
    """
    from mlflow_assay.judges.catalogue import Catalogue

    entries = _filtered(Catalogue(paths), library)
    if as_json:
        click.echo(json.dumps([_facts(entry) for entry in entries], indent=2, ensure_ascii=False))
    else:
        folded = {} if library else _third_party(entries)
        _print_table([entry for entry in entries if entry.library not in folded or entry.definition is not None])
        for name, count in folded.items():
            click.echo(f"{count} more of the library {name}: assay judges list --provider {name}")
        _print_left_out(library)


def _filtered(catalogue: Catalogue, library: str | None) -> list[JudgeEntry]:
    entries = list(catalogue.entries.values())
    if library is None:
        return entries
    libraries = sorted({e.library for e in entries if e.library})
    if library not in libraries:
        raise ConfigError(f"No library {library!r} provides judges.", valid=libraries)
    return [entry for entry in entries if entry.library == library]


def _facts(entry: JudgeEntry) -> dict[str, Any]:
    """What the catalogue knows of one judge, JSON-like."""
    from mlflow_assay.judges.registering import why_not

    contract, definition = entry.contract, entry.definition
    reason = why_not(entry)
    return {
        "name": entry.name,
        "purpose": contract.purpose,
        "version": contract.version,
        "kind": contract.kind,
        "scope": contract.scope,
        "value": {"type": contract.value.type, **asdict(contract.value)},
        "passes": contract.value.describe(),
        "needs": list(contract.needs),
        "calls_llm": contract.calls_llm,
        "llm_calls": contract.llm_calls or ("1" if contract.calls_llm else "0"),
        "embeddings": contract.embeddings,
        "variables": {name: v.default for name, v in definition.variables.items()} if definition else {},
        "cases": len(definition.cases) if definition else 0,
        "registrable": reason is None,
        "not_registrable_because": reason,
        "library": entry.library,
        "uses": definition.uses if definition else None,
        "origin": entry.origin,
        "path": str(entry.path) if entry.path else None,
        "notes": contract.notes,
    }


def _print_table(entries: list[JudgeEntry]) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_lines=False)
    table.add_column("judge", overflow="fold", max_width=40)
    table.add_column("question, [dim]value · needs · how · origin[/dim]", overflow="fold", ratio=1)
    for e in entries:
        c = e.contract
        needs = f"needs {', '.join(c.needs)}" if c.needs else ""
        about = (c.value.describe(), needs, _how(c), e.origin)
        told = f"{escape(c.purpose)}\n[dim]{escape(' · '.join(part for part in about if part))}[/dim]"
        table.add_row(e.name, told)
    Console().print(table)
    click.echo(f"{len(entries)} judges. `assay judges show NAME` tells all about one.")


def _third_party(entries: list[JudgeEntry]) -> dict[str, int]:
    """Libraries of other people's metrics, with how many of them no definition names."""
    from mlflow_assay.judges.third_party.metric import MetricLibrary
    from mlflow_assay.registry import load

    counts = Counter(e.library for e in entries if e.library is not None and e.definition is None)
    return {name: count for name, count in counts.items() if _is_subclass(load("judges", name), MetricLibrary)}


def _is_subclass(plugin: Any, base: type) -> bool:
    return isinstance(plugin, type) and issubclass(plugin, base)


def _how(contract: JudgeContract) -> str:
    """What a verdict takes, in a few words."""
    calls = f" ({contract.llm_calls} calls)" if contract.llm_calls not in ("", "0", "1") else ""
    embeddings = " and embeddings" if contract.embeddings else ""
    return f"{'LLM' if contract.calls_llm else 'code'}{calls}{embeddings} per {contract.scope}"


def _print_left_out(library: str | None) -> None:
    """What a library has and this project does not support, with the reasons."""
    from mlflow_assay.registry import load

    found = getattr(load("judges", library), "unsupported", {}) if library else {}
    if found:
        click.echo("Not supported:")
    reasons: dict[str, list[str]] = {}
    for name, reason in found.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        click.echo(f"  {', '.join(names)}: {reason}.")


@click.command()
@click.argument("name")
@judges_path
@texts_option
@model_options
@json_option
def show(
    name: str,
    paths: tuple[str, ...],
    settings: tuple[str, ...],
    model: str | None,
    base_url: str | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """One judge in full: question, pass rule, instructions, cases, and the digest its verdicts carry.

    The digest covers instructions, texts, value, parameters, model and library version: equal digests mean
    comparable verdicts. It is shown for --model, or the default model, and the texts given with --set.
    """
    from mlflow_assay.judges.catalogue import Catalogue

    catalogue = Catalogue(paths)
    entry = catalogue.get(name)
    texts = read_texts(settings).get(name, {})
    facts = {**_facts(entry), **_details(catalogue, entry, model_settings(model, base_url, timeout_s), texts)}
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False, default=str))
    else:
        _print_judge(entry, facts)


def _details(
    catalogue: Catalogue, entry: JudgeEntry, model: ModelSettings | None, texts: dict[str, str]
) -> dict[str, Any]:
    definition = entry.definition
    details: dict[str, Any] = {"digest": None, "digest_needs": None, "model": None}
    try:
        bound = catalogue.build(entry.name, model, texts)
        details.update(digest=bound.digest, model=bound.model.uri if bound.model else None)
        details["needs"] = list(bound.contract.needs)
    except (ConfigError, NotTrustedError) as error:
        if texts:
            raise
        details["digest_needs"] = str(error)
    if definition is None:
        return details
    return {
        **details,
        "instructions": definition.instructions,
        "members": [m.label for m in definition.composite.members] if definition.composite else [],
        "with": definition.with_,
        "fields": definition.field_map(),
        "variables": {k: v.model_dump() for k, v in definition.variables.items()},
        "cases": [case.model_dump(mode="json", exclude_defaults=True) for case in definition.cases],
    }


def _print_judge(entry: JudgeEntry, facts: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(f"[bold]{entry.name}[/bold]  {entry.contract.purpose}")
    for heading, value in _rows(entry, facts):
        console.print(f"[dim]{heading:<15}[/dim]{value}", soft_wrap=True)
    if instructions := facts.get("instructions"):
        console.print("\n[bold]Instructions[/bold]")
        console.print(instructions, markup=False, soft_wrap=True)
    _print_cases(entry, console)


def _rows(entry: JudgeEntry, facts: dict[str, Any]) -> list[tuple[str, str]]:
    from rich.markup import escape

    calls = f"yes, {facts['model']}" if facts["model"] else "yes" if facts["calls_llm"] else "no"
    rows = [
        ("value", facts["passes"]),
        ("scope", facts["scope"]),
        ("needs", ", ".join(facts["needs"]) or "nothing"),
        ("calls a model", calls),
        ("model calls", facts["llm_calls"] if facts["llm_calls"] not in ("0", "1") else None),
        ("embeddings", "yes" if facts["embeddings"] else None),
        ("uses", facts["uses"]),
        ("asks", ", ".join(facts.get("members") or [])),
        ("with", json.dumps(facts.get("with")) if facts.get("with") else None),
        ("reads", "; ".join(f"{s}: {', '.join(m.values())}" for s, m in (facts.get("fields") or {}).items())),
        ("version", facts["version"]),
        ("digest", facts["digest"] or f"not yet: {facts['digest_needs']}"),
        ("registrable", "yes" if facts["registrable"] else f"no: {facts['not_registrable_because']}"),
        ("origin", f"{facts['origin']}, {facts['path']}" if facts["path"] else facts["origin"]),
        ("notes", " ".join(facts["notes"].split())),
    ]
    for name, variable in (facts["variables"] if entry.definition else {}).items():
        default = variable["default"] or "no default: must be set"
        rows.append((f"set {name}", f"{variable['description']} ({' '.join(default.split())})"))
    return [(heading, escape(str(value))) for heading, value in rows if value]


def _print_cases(entry: JudgeEntry, console: Console) -> None:
    from rich import box
    from rich.table import Table

    if entry.definition is None or not entry.definition.cases:
        return
    table = Table("case", "kind", "must get", box=box.SIMPLE_HEAD, title="Cases", title_justify="left")
    for case in entry.definition.cases:
        table.add_row(case.name, case.kind, f"unscored: {case.unscored.value}" if case.unscored else str(case.expect))
    console.print(table)
