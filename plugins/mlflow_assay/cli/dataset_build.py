"""`assay dataset build` and `append`: from traces to a version."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from mlflow_assay.cli.dataset_options import (
    governance_options,
    json_option,
    open_,
    pairs,
    redactor,
    row_options,
    shaping_options,
    store_option,
    summary,
)
from mlflow_assay.cli.options import judges_path, trace_options
from mlflow_assay.cli.progress import Steps

if TYPE_CHECKING:
    from mlflow_assay.datasets.build import Built
    from mlflow_assay.datasets.model import About, Manifest
    from mlflow_assay.datasets.shaping import Shaping

__all__ = ["append", "build"]


@click.command()
@click.argument("name")
@trace_options
@row_options
@shaping_options
@judges_path
@governance_options
@click.option("--alias", help="Also point this alias at the new version.")
@click.option("--dry-run", is_flag=True, help="Show what would be in it; store nothing.")
@store_option
@json_option
def build(name: str, alias: str | None, dry_run: bool, store: str | None, as_json: bool, **given: Any) -> None:
    """Make a version of the dataset NAME from traces.

    Each trace that meets all conditions becomes a row: its inputs and outputs, what people say should have been
    (expectations, with corrections in place of what they correct), its session and slice. Personal data is replaced
    first. Duplicates are merged, and rows of one session or with nearly the same inputs are never in two splits.

    \b
    assay dataset build misrouted -e support --where 'judge routing_accuracy failed' --slice tag:domain
    assay dataset build disputed -e support --where 'judge tone wrong' --expect tone --store s3://qa-data/datasets
    assay dataset build sample -e support --since 7d --sample 500 --split none --retention 90d --owner qa-team
    """
    from mlflow_assay.datasets import references
    from mlflow_assay.datasets.model import About

    references.check_name(name)
    About(how="build", **_said(given))  # what is wrong with it is said before the traces are read
    opened = None if dry_run else open_(store)
    if opened is not None:
        opened.versions(name)  # so is a store that cannot be reached
    with _built(given, as_json) as built:
        about = built.about(**_said(given))
        if opened is None:
            _print_plan(built, about.redaction, as_json)
            return
        manifest = opened.write(name, built.rows(), about)
    if alias:
        opened.set_alias(name, alias, manifest.version)
    _done(manifest, built.query["shaped"], about, opened.url, as_json)


@click.command()
@click.argument("name")
@trace_options
@row_options
@shaping_options
@judges_path
@governance_options
@click.option("--replace", is_flag=True, help="A trace with the inputs of a row that is there takes its place.")
@store_option
@json_option
def append(name: str, replace: bool, store: str | None, as_json: bool, **given: Any) -> None:
    """Add traces to the dataset NAME; the result is a new version.

    What resembles a row that is there is not added again. Rows of a session (or with nearly the inputs) of rows that
    are there go into the same split; what belongs to two splits goes into none. --split says how other rows are dealt.
    What else the rows are made of (--slice, --expect, --input, --output, --redaction) must be said as for the build.

    \b
    assay dataset append misrouted -e support --since 1d --where 'judge routing_accuracy failed' --slice tag:domain
    """
    from dataclasses import replace as changed

    from mlflow_assay.datasets.extending import extend

    opened = open_(store)
    opened.find(name)
    with _built(given, as_json, split=False) as built:
        about = changed(built.about(**_said(given)), how="append", pii=given["pii"])
        done = extend(opened, name, built.rows(), about, _shaping(given, split=True), replace=replace)
    _done(done.manifest, {**built.query["shaped"], **done.record}, about, opened.url, as_json)


def _shaping(given: dict[str, Any], *, split: bool) -> Shaping:
    from mlflow_assay.datasets.shaping import Shaping
    from mlflow_assay.datasets.splitting import parse_fractions

    fractions = parse_fractions(given["split"])
    return Shaping(given["duplicates"], given["near"], given["sample"], fractions if split else None, given["seed"])


def _built(given: dict[str, Any], quiet: bool, *, split: bool = True) -> Built:
    from mlflow_assay.cli.labelled import contracts
    from mlflow_assay.datasets.build import BuildPlan, build
    from mlflow_assay.sources.mlflow_store import MlflowSource, find_experiment, parse_since

    plan = BuildPlan(
        where=given["where"],
        labels=given["labels"],
        expect=given["expect"],
        slice=given["slice_"],
        inputs=pairs("--input", given["inputs"]),
        outputs=given["output"],
        tags=given["tags"],
        shaping=_shaping(given, split=split),
    )
    masks = redactor(given["redaction"])
    since = parse_since(given["since"]) if given["since"] else None
    found = find_experiment(given["experiment"])
    source = MlflowSource(found.name, given["filter_string"], since, given["max_traces"], given["since"])
    with Steps("Making rows", quiet=quiet) as steps:
        return build(source, plan, contracts(given["paths"]), redactor=masks, progress=steps.reach)


def _said(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in ("licence", "owner", "retention", "pii", "by")}


def _done(manifest: Manifest, record: dict[str, Any], about: About, url: str, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({**manifest.to_dict(), "store": url, "shaped": record}, indent=2))
        return
    click.echo(summary(manifest))
    _print_record({**about.query, **record}, about.redaction)
    click.echo(f"Stored at {url}. Next: assay dataset show {manifest.reference}")


def _print_plan(built: Built, redaction: Any, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"query": built.query, "redaction": redaction}, indent=2))
        return
    click.echo(f"{len(built)} rows of {built.query['traces_selected']} traces ({built.query['traces_read']} read)")
    _print_record({**built.query, **built.query["shaped"]}, redaction)
    click.echo("Nothing was stored.")


def _print_record(record: dict[str, Any], redaction: Any) -> None:
    words = {
        "traces_without_inputs": "traces left out that have no inputs",
        "traces_without_slice": "traces without what --slice names: their rows have no slice",
        "traces_without_expectations": "traces of which nobody said what should have been (--expect, assay labels)",
        "exact_duplicates_merged": "rows merged with one of the same inputs",
        "near_duplicates_merged": "rows merged with one of nearly the same inputs",
        "merged_with_other_expectations": "inputs whose duplicates expect different things; the fullest counts",
        "there_already": "rows there already",
        "near_duplicates_of_rows_there": "rows left out that resemble one there",
        "in_no_split": "rows in no split, because they belong to two",
        "rows_added": "rows added",
    }
    facts = {**record, "in_no_split": record.get("in_no_split") or record.get("split", {}).get("in_no_split", 0)}
    for name, text in words.items():
        if facts.get(name):
            click.echo(f"{facts[name]:>8} {text}")
    if redaction is None:
        click.echo("Personal data was not looked for (--redaction none).")
    elif redaction["replaced"]:
        listed = ", ".join(f"{count} {kind}" for kind, count in sorted(redaction["replaced"].items()))
        click.echo(f"Personal data replaced in {redaction['rows']} rows: {listed}.")
