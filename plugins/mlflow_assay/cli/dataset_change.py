"""`assay dataset tag` and `sweep`: what may change about a version, and tidying up."""

from __future__ import annotations

import json
from typing import Any

import click

from mlflow_assay.cli.dataset_options import json_option, open_, store_option
from mlflow_assay.errors import ConfigError

__all__ = ["sweep", "tag"]

_DAY = 86_400.0


@click.command()
@click.argument("reference")
@click.argument("tags", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--alias", "aliases", multiple=True, metavar="NAME", help="Point this alias at the version. Repeatable.")
@click.option("--drop-alias", "dropped", multiple=True, metavar="NAME", help="Remove this alias. Repeatable.")
@click.option("--history", is_flag=True, help="Also show who moved and tagged what, and when.")
@store_option
@json_option
def tag(
    reference: str,
    tags: tuple[str, ...],
    aliases: tuple[str, ...],
    dropped: tuple[str, ...],
    history: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Set tags of the version REFERENCE, and point aliases at it.

    An empty value removes a tag. Every change is kept, with who made it and when.

    \b
    assay dataset tag misrouted@v3 reviewed=ann --alias golden
    assay dataset tag misrouted@v3 reviewed= --drop-alias golden --history
    """
    opened = open_(store)
    manifest = opened.find(reference)
    wanted: dict[str, str | None] = {}
    for text in tags:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise ConfigError(f"The tag {text!r} cannot be read.", valid="KEY=VALUE; KEY= removes it")
        wanted[key] = value or None
    if wanted:
        opened.set_tags(manifest.name, manifest.version, wanted)
    for alias in aliases:
        opened.set_alias(manifest.name, alias, manifest.version)
    for alias in dropped:
        opened.set_alias(manifest.name, alias, None)
    facts: dict[str, Any] = {
        "reference": manifest.reference,
        "tags": opened.tags(manifest.name).get(manifest.version, {}),
        "aliases": opened.aliases(manifest.name),
        "history": getattr(opened, "history", lambda _: [])(manifest.name) if history else [],
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(f"{manifest.reference}: {', '.join(f'{k}={v}' for k, v in facts['tags'].items()) or 'no tags'}")
    for alias, version in facts["aliases"].items():
        click.echo(f"@{alias} is v{version}")
    for event in facts["history"]:
        what = f"@{event['alias']}" if event["kind"] == "alias" else json.dumps(event["tags"])
        target = f"v{event['version']}" if event["version"] else "nothing"
        click.echo(f"{event['at']} {event['by']}: {what} on {target}")


@click.command()
@click.argument("name")
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="DAYS",
    help="Spare younger files.",
)
@store_option
@json_option
def sweep(name: str, older_than: float, store: str | None, as_json: bool) -> None:
    """Remove files of the dataset NAME that no version holds: what writers left that were killed.

    Young files stay, for their writer may be at work.

    \b
    assay dataset sweep misrouted
    """
    opened = open_(store)
    clean = getattr(opened, "sweep", None)
    if clean is None:
        raise ConfigError(f"The store {opened.url} cannot be swept.")
    opened.find(name)
    removed = clean(name, older_than_s=older_than * _DAY)
    click.echo(json.dumps({"removed": removed}) if as_json else f"{len(removed)} files removed.")
