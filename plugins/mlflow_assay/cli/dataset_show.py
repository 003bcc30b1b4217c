"""`assay dataset list`, `show`, `diff` and `query`: looking at versions."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from mlflow_assay.cli.dataset_options import json_option, open_, pairs, store_option, summary
from mlflow_assay.errors import ConfigError

if TYPE_CHECKING:
    from mlflow_assay.contracts import DatasetStore
    from mlflow_assay.datasets.dataset import Dataset
    from mlflow_assay.datasets.model import DatasetRow, Manifest

__all__ = ["diff", "list_", "query", "show"]

_WIDTH = 96


@click.command("list")
@store_option
@json_option
def list_(store: str | None, as_json: bool) -> None:
    """List the datasets of a store, each with its latest version.

    \b
    assay dataset list
    assay dataset list --store s3://qa-data/datasets --json
    """
    opened = open_(store)
    found = [(opened.find(name), opened.aliases(name)) for name in opened.names()]
    if as_json:
        listed = [{**manifest.to_dict(), "aliases": aliases} for manifest, aliases in found]
        click.echo(json.dumps({"store": opened.url, "datasets": listed}, indent=2))
        return
    if not found:
        click.echo(f"No datasets at {opened.url}. Make one: assay dataset build NAME --experiment E")
        return
    _table(found)


def _table(found: list[tuple[Manifest, dict[str, int]]]) -> None:
    from mlflow_assay.cli.labelled import console, table
    from mlflow_assay.datasets.model import SPLITS

    made = table("dataset", "latest", "rows", "train/val/test", "aliases", "made", "owner", "keep until", numbers=(2,))
    for manifest, aliases in found:
        made.add_row(
            manifest.name,
            f"v{manifest.version}",
            str(manifest.rows),
            "/".join(str(manifest.splits.get(split, 0)) for split in SPLITS) if manifest.splits else "none",
            ", ".join(f"{alias}=v{version}" for alias, version in aliases.items()),
            manifest.created_at[:16].replace("T", " "),
            manifest.about.owner or "",
            _until(manifest),
        )
    console().print(made)


def _until(manifest: Manifest) -> str:
    expires = manifest.expires
    if expires is None:
        return ""
    return f"{expires.date()}{' OVERDUE' if expires < datetime.now(timezone.utc) else ''}"


@click.command()
@click.argument("reference")
@click.option("--rows", "count", type=click.IntRange(min=0), default=3, show_default=True, help="So many rows, too.")
@click.option("--split", help="Rows of one split only.")
@click.option("--verify", is_flag=True, help="Read every file again and compare it with the manifest.")
@store_option
@json_option
def show(reference: str, count: int, split: str | None, verify: bool, store: str | None, as_json: bool) -> None:
    """Show one version: what it holds, who made it, how, and what may be done with it.

    \b
    assay dataset show misrouted
    assay dataset show misrouted@v2 --rows 10 --split test
    assay dataset show misrouted@golden --verify --json
    """
    from mlflow_assay.datasets.store import load_dataset

    found = _load(reference, store, load_dataset)
    manifest, opened = found.manifest, found.store
    if verify:
        _verifier(opened)(manifest)
    aliases = [alias for alias, version in opened.aliases(manifest.name).items() if version == manifest.version]
    tags = opened.tags(manifest.name).get(manifest.version, {})
    rows = [row for _, row in zip(range(count), found.rows(split), strict=False)]
    if as_json:
        facts = {**manifest.to_dict(), "store": opened.url, "aliases": aliases, "version_tags": tags}
        click.echo(json.dumps({**facts, "rows_shown": [row.to_dict() for row in rows]}, indent=2))
        return
    for name, text in _facts(manifest, aliases, tags):
        click.echo(f"{name:12} {text}")
    for row in rows:
        click.echo()
        _print_row(row)
    if verify:
        click.echo("\nAll files are as they were written.")


def _load(reference: str, store: str | None, load: Any) -> Dataset:
    found: Dataset = load(reference) if "/" in reference and store is None else load(reference, open_(store))
    return found


def _verifier(opened: DatasetStore) -> Any:
    verify = getattr(opened, "verify", None)
    if verify is None:
        raise ConfigError(f"The store {opened.url} cannot verify versions.", fix="Leave --verify out.")
    return verify


def _facts(manifest: Manifest, aliases: list[str], tags: dict[str, str]) -> list[tuple[str, str]]:
    about = manifest.about
    size = sum(file.bytes for file in manifest.files)
    listed = [
        ("version", summary(manifest)),
        ("digest", manifest.digest),
        ("aliases", ", ".join(aliases)),
        ("tags", ", ".join(f"{k}={v}" for k, v in tags.items())),
        ("files", f"{len(manifest.files)}, {size / 1e6:.2f} MB"),
        ("parent", f"v{manifest.parent}" if manifest.parent else ""),
        ("made", f"{manifest.created_at} by {manifest.created_by}, {about.how}"),
        ("owner", about.owner or ""),
        ("licence", about.licence or ""),
        ("keep until", _until(manifest)),
        ("personal data", about.pii or ""),
        ("redaction", json.dumps(dict(about.redaction)) if about.redaction else ""),
        ("built by", json.dumps(dict(about.query), ensure_ascii=False) if about.query else ""),
    ]
    return [(name, text) for name, text in listed if text]


def _print_row(row: DatasetRow) -> None:
    for name, value in row.to_dict().items():
        if value not in (None, {}, "") and not (name == "weight" and value == 1.0):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            click.echo(f"  {name:12} {text if len(text) <= _WIDTH else text[: _WIDTH - 1] + '…'}")


@click.command()
@click.argument("old")
@click.argument("new")
@click.option("--rows", "count", type=click.IntRange(min=0), default=5, show_default=True, help="So many rows, too.")
@store_option
@json_option
def diff(old: str, new: str, count: int, store: str | None, as_json: bool) -> None:
    """Show which rows were added, removed and changed from OLD to NEW.

    \b
    assay dataset diff misrouted@v1 misrouted
    assay dataset diff misrouted@golden misrouted@latest --json
    """
    from mlflow_assay.datasets.diff import diff as compare
    from mlflow_assay.datasets.store import load_dataset

    found = compare(_load(old, store, load_dataset), _load(new, store, load_dataset))
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
        return
    click.echo(f"{found.old.reference} ({len(found.old)} rows) to {found.new.reference} ({len(found.new)} rows)")
    for name in ("added", "removed", "changed", "same"):
        click.echo(f"{getattr(found, name):>8} {name}")
    for name, rows in found.changed_fields().items():
        click.echo(f"{rows:>12} in {name}")
    for _, change in zip(range(count), found.changes(), strict=False):
        fields = f" ({', '.join(change.fields)})" if change.fields else ""
        click.echo(f"\n{change.kind} {change.id}{fields}")
        _print_row(change.new or change.old)  # type: ignore[arg-type]


@click.command()
@click.argument("reference")
@click.argument("sql")
@click.option("--with", "others", multiple=True, metavar="TABLE=REFERENCE", help="A further table. Repeatable.")
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a row.")
def query(reference: str, sql: str, others: tuple[str, ...], store: str | None, as_json: bool) -> None:
    """Run SQL (DuckDB's dialect) over the version REFERENCE, whose table is called `dataset`.

    Columns: id, inputs, outputs, expectations, trace_id, session, slice, split, group, tags, weight, redacted, content.
    Those that hold more than a text are JSON: inputs->>'$.request'. Needs the extra `datasets`.

    \b
    assay dataset query misrouted "SELECT split, count(*) FROM dataset GROUP BY 1"
    assay dataset query misrouted "SELECT expectations->>'$.route', count(*) FROM dataset GROUP BY 1 ORDER BY 2 DESC"
    assay dataset query misrouted "SELECT id FROM dataset ANTI JOIN old USING (id)" --with old=misrouted@v1
    """
    from mlflow_assay.datasets.query import query as run
    from mlflow_assay.datasets.store import load_dataset

    tables = {"dataset": reference, **pairs("--with", others)}
    found = run(sql, {name: _load(ref, store, load_dataset) for name, ref in tables.items()})
    if as_json:
        for row in found.to_pylist():
            click.echo(json.dumps(row, default=str))
        return
    from mlflow_assay.cli.labelled import console, table

    made = table(*found.column_names)
    for row in found.to_pylist():
        made.add_row(*("" if value is None else str(value) for value in row.values()))
    console().print(made)
