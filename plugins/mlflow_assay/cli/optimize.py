"""`assay optimize`: an agent's prompts made better from a dataset, accepted only when proven on rows never seen."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_assay.cli.options import (
    cache_option,
    json_option,
    judges_path,
    model_options,
    model_settings,
    proof_options,
    read_texts,
    tell_plan,
    texts_option,
)
from mlflow_assay.errors import ConfigError, NotTrustedError

if TYPE_CHECKING:
    from mlflow_assay.optimizers.procedure import Plan
    from mlflow_assay.optimizers.record import Outcome
    from mlflow_assay.optimizers.report import OptimizationReport
    from mlflow_assay.optimizers.request import Request
    from mlflow_assay.optimizers.task import Candidate

__all__ = ["optimize"]


@click.command()
@click.argument("prompts", nargs=-1, required=True, metavar="PROMPT...")
@click.option(
    "--dataset", "-d", required=True, help="NAME, NAME@v3, NAME@golden, or a URL such as s3://bucket/data/NAME."
)
@click.option(
    "--store", help="Where the dataset is: a folder or URL.  [default: ASSAY_DATASETS, else ./assay-datasets]"
)
@click.option(
    "--judge", "-j", "judges", multiple=True, required=True, help="The first is to improve, further ones guard."
)
@click.option("--optimizer", "-o", required=True, help="categories, knn_few_shot, bootstrap_few_shot, gepa, miprov2, …")
@click.option("--option", "options", multiple=True, help="Parameter of the optimizer: KEY=VALUE; repeatable.")
@click.option(
    "--predict", help="Your agent, module:function. It gets a row's inputs as keywords, and loads its prompts."
)
@click.option(
    "--agent-model", help="Without --predict: the model the one prompt is sent to, such as openai:/gpt-4.1-mini."
)
@click.option("--writer", help="Model that writes prompts (gepa, miprov2).  [default: --agent-model, else --model]")
@texts_option
@judges_path
@model_options
@click.option("--price", help="Of models the catalogue has no price of: INPUT,OUTPUT dollars per million tokens.")
@click.option(
    "--budget-usd", type=click.FloatRange(min=0), help="Stop before more is spent, earlier attempts included."
)
@click.option("--max-calls", type=click.IntRange(min=0), help="The same in calls of agent, judges and writer.")
@click.option(
    "--call-usd", type=click.FloatRange(min=0), help="What a call of --predict costs where its trace says nothing."
)
@click.option("--trace/--no-trace", default=None, help="Trace every answer.  [default: where judges or costs need it]")
@click.option("--threads", type=click.IntRange(min=1), default=4, show_default=True, help="Answers side by side.")
@cache_option
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), help="Folder of journals, to go on from.")
@click.option("--alias", help="For accepted versions.  [default: the one in PROMPT, else 'optimized']")
@click.option("--experiment", "-e", default="assay-optimize", show_default=True, help="Where the run is logged.")
@proof_options("How much less often a guarding judge may pass and still count as not worse.")
@click.option("--dry-run", is_flag=True, help="Show rows, parts and calls needed; call and change nothing.")
@json_option
def optimize(prompts: tuple[str, ...], as_json: bool, dry_run: bool, **given: Any) -> None:
    """Improve PROMPT (one or more registered prompts of one agent), and keep the result only if it is proven.

    The dataset's rows are parted by group into training, validation and test. The optimizer learns from the first,
    candidates are chosen on the second. Old and new prompts then answer the test rows, and the new are accepted only
    if the first judge passes more of them and no further judge passes fewer. Accepted prompts become new versions with
    an alias and the evidence; otherwise nothing changes and the exit code is 1. Ctrl-C keeps the best so far without
    promoting it, and the same command goes on.

    `categories` and `knn_few_shot` ask no model to write; `gepa`, `miprov2` and `bootstrap_few_shot` need the extra
    dspy.

    \b
    assay optimize prompts:/router@production -d misrouted -j expected_value -o categories --predict my_agent:route
    assay optimize qa -d faq -j answer_relevance -j tone --agent-model openai:/gpt-4.1-mini -o gepa --budget-usd 5
    assay optimize planner writer -d tasks -j request_resolved --predict agent:run -o miprov2 --dry-run
    """
    from mlflow_assay.optimizers.procedure import plan

    request, aliases = _request(prompts, given)
    try:
        if dry_run:
            _show_plan(request, plan(request), as_json)
            return
        report, outcome = _run(request, aliases, given)
    except NotTrustedError as error:
        click.echo(json.dumps({"accepted": False, "reason": str(error)}) if as_json else f"Nothing changed. {error}")
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(report.to_dict() | _done(outcome), indent=2, default=str))
    else:
        _print(report, outcome)
    if not report.accepted:
        sys.exit(1)


def _request(names: tuple[str, ...], given: dict[str, Any]) -> tuple[Request, dict[str, str]]:
    from mlflow_assay import pipeline
    from mlflow_assay.cli.align import read_options
    from mlflow_assay.datasets.store import load_dataset
    from mlflow_assay.optimizers.running import aliases_of
    from mlflow_assay.sources.mlflow_store import reach

    def model(name: str | None) -> Any:
        return model_settings(name, given["base_url"], given["timeout_s"], given["price"]) if name else None

    if given["agent_model"] and given["predict"]:
        raise ConfigError("--predict and --agent-model are two ways to use the prompts.", fix="Leave one of them out.")
    reach()
    judges = pipeline.build_judges(
        given["judges"], model=model(given["model"]), paths=given["paths"], texts=read_texts(given["settings"])
    )
    request = pipeline.optimization(
        names,
        load_dataset(given["dataset"], given["store"]),
        judges,
        given["optimizer"],
        predict=given["predict"],
        agent_model=model(given["agent_model"]),
        writer=model(given["writer"] or given["agent_model"] or given["model"]),
        options=read_options(given["options"]),
        max_usd=given["budget_usd"],
        max_calls=given["max_calls"],
        call_usd=given["call_usd"],
        trace=given["trace"],
        margin=given["margin"],
        seed=given["seed"],
        threads=given["threads"],
    )
    return request, aliases_of(names, list(request.prompts), given["alias"])


def _run(request: Request, aliases: dict[str, str], given: dict[str, Any]) -> tuple[OptimizationReport, Outcome]:
    from mlflow_assay import pipeline
    from mlflow_assay.cli.progress import Steps
    from mlflow_assay.engine.cache import VerdictCache
    from mlflow_assay.optimizers.running import StoppedError, default_state

    stream = sys.stderr  # some libraries' own output is kept off the terminal while they search; this is not theirs

    def say(text: str) -> None:
        click.echo(text, file=stream)

    def told(candidate: Candidate) -> None:
        say(f"  {candidate.number:3d}  {100 * candidate.score:5.1f} %  {candidate.note}")

    known = VerdictCache() if given["cache"] else None
    try:
        with Steps("Answers") as steps:
            return pipeline.optimize(
                request,
                aliases,
                experiment=given["experiment"],
                state=given["state"] or default_state(),
                cache=known,
                told=told,
                step=steps.step,
                stage=say,
            )
    except StoppedError as error:
        click.echo(f"assay: {error}", err=True)
        sys.exit(130)
    finally:
        if known is not None:
            known.close()


def _done(outcome: Outcome) -> dict[str, Any]:
    return {
        "run_id": outcome.run_id,
        "attempt": outcome.attempt,
        "registered": dict(outcome.registered),
        "standing": dict(outcome.standing),
        "aliases": dict(outcome.aliases),
        "kept_notes": list(outcome.notes),
    }


def _show_plan(request: Request, todo: Plan, as_json: bool) -> None:
    from mlflow_assay.cli.align import detectable
    from mlflow_assay.optimizers.request import PARTS

    sizes = {part: len(request.rows.part(part)) for part in PARTS}
    facts = {
        "prompts": ", ".join(f"{name} version {v.version}" for name, v in request.prompts.items()),
        "dataset": f"{request.rows.reference} (digest {request.rows.digest[:12]})",
        "rows": len(request.rows.rows),
        **sizes,
        "in_no_part": sum(row.split is None for row in request.rows.rows),
        "split": "the dataset's own" if request.rows.own_split else "made here, by session and near-duplicates",
        "optimizer": request.optimizer,
        "agent": todo.agent.identity,
        "calls_before_search": todo.base_calls,
        "calls_of_test": todo.test_calls,
        "smallest_gain_shown": detectable(sizes["test"]),
    }
    tell_plan(
        facts,
        as_json,
        "The smallest gain shown is in the share of rows that pass, with 80 % power, if 30 % of the verdicts change. "
        "Nothing was called or changed. The search's own calls come on top; --budget-usd and --max-calls limit them.",
    )


def _print(report: OptimizationReport, outcome: Outcome) -> None:
    from mlflow_assay.cli.labelled import console, table
    from mlflow_assay.optimizers.report import diff

    if report.decision is not None:
        made = table(
            "on test rows never seen", "before", "after", f"change, {report.decision.comparison.confidence:.0%}"
        )
        for row in report.table():
            made.add_row(*row)
        console().print(made)
    for what, text in report.facts():
        click.echo(f"{what:12} {text}")
    click.echo(f"{'Accepted.' if report.accepted else 'Not accepted; nothing changed.'} {report.reason}")
    if not report.accepted and report.decision is not None and report.decision.n_needed:
        click.echo(f"About {report.decision.n_needed} more test rows would settle it.")
    if outcome.attempt > 1 and report.decision is not None:
        chance = 1 - (1 - report.decision.alpha) ** outcome.attempt
        click.echo(
            f"This is optimization {outcome.attempt} tested on these rows: the chance that one of them passes by luck "
            f"has grown to {chance:.0%}. Fresh rows bring it back to {report.decision.alpha:.0%}."
        )
    if report.accepted:
        for name, text in report.changed.items():
            click.echo("\n".join(["", f"What changed in {name}:", *diff(report.old[name], text)]))
        click.echo()
    versions = {"Registered": outcome.registered, "Already there:": outcome.standing}
    for what, name, version in ((w, n, v) for w, found in versions.items() for n, v in found.items()):
        alias = outcome.aliases.get(name)
        click.echo(f"{what} {name} version {version}" + (f", alias {alias!r}." if alias else "."))
    for note in outcome.notes:
        click.echo(note)
    click.echo(f"Logged to MLflow run {outcome.run_id}.")
