"""What is kept of an optimization, and what becomes of accepted prompts: an MLflow run, new versions, an alias."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_assay.errors import ConfigError, StoreError
from mlflow_assay.optimizers.report import OptimizationReport, change, diff, percent
from mlflow_assay.optimizers.request import text_of

if TYPE_CHECKING:
    from mlflow.entities.model_registry import PromptVersion

    from mlflow_assay.optimizers.procedure import Run

__all__ = ["Outcome", "keep", "open_run", "stopped"]

# Tags of an optimization's run, and of the prompt versions it registers.
WORK, OPTIMIZER, PROMPTS = "assay.optimize.work", "assay.optimize.optimizer", "assay.optimize.prompts"
DATASET, DIGEST, JUDGE = "assay.optimize.dataset", "assay.optimize.dataset_digest", "assay.optimize.judge"
ACCEPTED, REASON, ATTEMPT = "assay.optimize.accepted", "assay.optimize.reason", "assay.optimize.attempt"
TARGET, RUN, FROM = "assay.optimize.target", "assay.optimize.run", "assay.optimize.from_version"
BEFORE, AFTER, CHANGE = "assay.optimize.before", "assay.optimize.after", "assay.optimize.change"
P_VALUE, COST, CALLS = "assay.optimize.p_value", "assay.optimize.cost_usd", "assay.optimize.calls"
_VERSIONS = 100  # asked for at once

REGISTERED = "assay.optimize.registered"  # assay.optimize.registered.<prompt> = version


@dataclass(frozen=True)
class Outcome:
    """What was done with a report.

    Attributes:
        run_id: the MLflow run that keeps it.
        attempt: which optimization by this judge on these very rows it was, from 1.
        registered: new version by prompt name; empty when nothing was accepted.
        standing: version by prompt name that an earlier run of the same work registered, so that none was made now.
        aliases: alias by prompt name, as far as it was set.
        notes: what could not be done, and why.
    """

    run_id: str
    attempt: int
    registered: Mapping[str, int] = field(default_factory=dict)
    standing: Mapping[str, int] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def open_run(run: Run, experiment_id: str) -> str:
    """The id of the run that keeps this optimization: that of an attempt that was cut short, or a new one.

    Raises:
        StoreError: MLflow refuses it.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient()
    try:
        for found in client.search_runs([experiment_id], f"tags.`{WORK}` = '{run.plan.key}'", max_results=50):
            if found.info.status != "FINISHED":
                client.update_run(found.info.run_id, status="RUNNING")
                return str(found.info.run_id)
        name = f"optimize {', '.join(run.request.prompts)} by {run.request.optimizer}"
        made = client.create_run(experiment_id, run_name=name[:250], tags=_opening_tags(run))
        params = {"seed": run.request.seed, "agent": run.plan.agent.identity, **run.request.options}
        for key, value in params.items():
            client.log_param(made.info.run_id, key, str(value)[:500])
    except MlflowException as error:
        raise StoreError(f"MLflow could not open a run: {error.message}") from error
    return str(made.info.run_id)


def stopped(run: Run, run_id: str, why: str) -> None:
    """Keep the best so far of a run that was cut short; nothing is registered.

    Raises:
        StoreError: MLflow refuses it.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient()
    listed = [{"number": c.number, "score": c.score, "note": c.note} for c in run.task.candidates]
    try:
        client.log_text(run_id, _json({"stopped": why, "candidates": listed}), "stopped.json")
        if run.task.candidates:
            for name, text in run.task.best.prompts.items():
                client.log_text(run_id, text, f"best_so_far/{name}.txt")
            client.log_metric(run_id, "validation_best", run.task.best.score)
        client.set_tag(run_id, ACCEPTED, "false")
        client.set_tag(run_id, REASON, f"Stopped: {why}"[:4000])
        client.set_terminated(run_id, "KILLED")
    except MlflowException as error:
        raise StoreError(f"MLflow could not keep the best so far: {error.message}") from error


def keep(
    report: OptimizationReport, prompts: Mapping[str, PromptVersion], run_id: str, aliases: Mapping[str, str]
) -> Outcome:
    """Log the report, and register what was accepted with its evidence.

    The same work done again comes to the same text and the same evidence: the version that has both stands for it, and
    no second one is made.

    An alias is moved only if it is new or still stands where the optimization began: a version somebody else put there
    meanwhile was not what the new one was compared with.

    Args:
        report: what `Run.go` made.
        prompts: the versions it began with.
        run_id: from `open_run`.
        aliases: alias by prompt name.

    Raises:
        StoreError: MLflow refuses it.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient()
    try:
        experiment_id = str(client.get_run(run_id).info.experiment_id)
        attempt = _attempts(client, report, experiment_id, run_id) + 1
        _log(client, report, run_id, attempt)
        done = _register(client, report, prompts, Outcome(run_id, attempt), aliases)
        for name, version in {**done.standing, **done.registered}.items():
            client.set_tag(run_id, f"{REGISTERED}.{name}", str(version))
        client.set_terminated(run_id)
    except MlflowException as error:
        raise StoreError(f"MLflow could not keep the optimization: {error.message}") from error
    return done


def _attempts(client: Any, report: OptimizationReport, experiment_id: str, run_id: str) -> int:
    """Optimizations tested before on these very rows by this judge; one whose answers are told again is no new one."""
    key = client.get_run(run_id).data.tags.get(WORK)
    wanted = f"tags.`{DIGEST}` = '{report.dataset['digest']}' AND tags.`{TARGET}` = '{report.target}'"
    found = client.search_runs([experiment_id], wanted, max_results=1000)
    tested = [r for r in found if r.info.run_id != run_id and "p_value" in r.data.metrics]
    return sum(bool(report.calls) or r.data.tags.get(WORK) != key for r in tested)


def _opening_tags(run: Run) -> dict[str, str]:
    request = run.request
    return {
        WORK: run.plan.key,
        OPTIMIZER: request.optimizer,
        PROMPTS: ", ".join(f"{name}/{v.version}" for name, v in request.prompts.items())[:4000],
        DATASET: request.rows.reference,
        DIGEST: request.rows.digest,
        TARGET: run.target,
        **{f"{JUDGE}.{j.name}": j.digest for j in request.judges},
    }


def _log(client: Any, report: OptimizationReport, run_id: str, attempt: int) -> None:
    for key, value in {ACCEPTED: str(report.accepted).lower(), REASON: report.reason, ATTEMPT: str(attempt)}.items():
        client.set_tag(run_id, key, value[:4000])
    for key, number in _metrics(report).items():
        client.log_metric(run_id, key, number)
    for candidate in report.candidates:
        client.log_metric(run_id, "validation", candidate.score, step=candidate.number)
    with tempfile.TemporaryDirectory(prefix="assay-optimize-") as name:
        folder = Path(name)
        (folder / "report.json").write_text(_json(report.to_dict()), encoding="utf-8")
        (folder / "report.md").write_text(report.markdown(), encoding="utf-8")
        for prompt, text in report.chosen.prompts.items():
            (folder / f"{prompt}.old.txt").write_text(report.old[prompt], encoding="utf-8")
            (folder / f"{prompt}.new.txt").write_text(text, encoding="utf-8")
            (folder / f"{prompt}.diff").write_text("\n".join(diff(report.old[prompt], text)) + "\n", encoding="utf-8")
        client.log_artifacts(run_id, name)


def _metrics(report: OptimizationReport) -> dict[str, float]:
    found: dict[str, float | None] = {
        "validation_before": report.candidates[0].score,
        "validation_after": report.chosen.score,
        "calls": float(report.spent.calls),
        "cost_usd": report.spent.usd,
    }
    for name, c in (report.decision.comparisons if report.decision else {}).items():
        prefix = "test" if name == report.target else f"test_{name}"
        found |= {f"{prefix}_before": c.value_a, f"{prefix}_after": c.value_b, f"{prefix}_change": c.difference}
        found |= {f"{prefix}_change_low": c.low, f"{prefix}_change_high": c.high}
    if report.comparison is not None:
        found["p_value"] = report.comparison.p_value
        found["test_rows"] = float(report.comparison.n)
    return {k: float(v) for k, v in found.items() if v is not None}


def _register(
    client: Any,
    report: OptimizationReport,
    prompts: Mapping[str, PromptVersion],
    done: Outcome,
    aliases: Mapping[str, str],
) -> Outcome:
    registered, standing, set_to, notes = dict[str, int](), dict[str, int](), dict[str, str](), list[str]()
    for name, text in report.changed.items() if report.accepted else ():
        start = prompts[name]
        evidence = _evidence(report, start, done.run_id)
        if (there := _standing(client, start, text, evidence)) is not None:
            version, standing[name] = there, int(there.version)
            notes.append(
                f"Version {there.version} of {name!r} has this very text, registered on this very evidence by run "
                f"{there.tags[RUN]}: no second one was made."
            )
        else:
            version = _made(report, start, text, evidence)
            registered[name] = int(version.version)
        client.link_prompt_version_to_run(run_id=done.run_id, prompt=version)
        alias = aliases.get(name)
        if alias is None:
            continue
        if (taken := _taken(client, start, alias)) not in (None, int(version.version)):
            notes.append(
                f"The alias {alias!r} of {name!r} was moved to version {taken} meanwhile and was left there: "
                f"version {version.version} was compared with version {start.version}."
            )
            continue
        client.set_prompt_alias(name, alias, version.version)
        set_to[name] = alias
    return replace(done, registered=registered, standing=standing, aliases=set_to, notes=tuple(notes))


def _made(report: OptimizationReport, start: PromptVersion, text: str, evidence: Mapping[str, str]) -> PromptVersion:
    import mlflow

    return mlflow.genai.register_prompt(
        name=start.name,
        template=text if start.is_text_prompt else json.loads(text),
        commit_message=f"Optimized from version {start.version} by {report.optimizer}. {report.reason}"[:1000],
        tags=dict(evidence),
        response_format=start.response_format,
        model_config=start.model_config,
    )


def _standing(client: Any, start: PromptVersion, text: str, evidence: Mapping[str, str]) -> PromptVersion | None:
    """The first version with this text, these settings and this evidence; run and price may differ."""
    proof = {key: value for key, value in evidence.items() if key not in (RUN, COST, CALLS)}
    settings = (start.response_format, start.model_config)
    found: list[PromptVersion] = []
    token = None
    while True:
        page = client.search_prompt_versions(start.name, max_results=_VERSIONS, page_token=token)
        found += [v for v in page if proof.items() <= (v.tags or {}).items() and text_of(v) == text]
        token = page.token
        if not token:
            break
    alike = [v for v in found if (v.response_format, v.model_config) == settings]
    return min(alike, key=lambda v: int(v.version), default=None)


def _taken(client: Any, start: PromptVersion, alias: str) -> int | None:
    """The version an alias stands on if that is not where the optimization began."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_prompt_version_by_alias(start.name, alias)
    except MlflowException:  # no such alias yet
        return None
    was_there = alias in (start.aliases or [])
    return int(found.version) if was_there and int(found.version) != int(start.version) else None


def _evidence(report: OptimizationReport, start: PromptVersion, run_id: str) -> dict[str, str]:
    c = report.comparison
    if c is None:
        raise ConfigError("Prompts that were not tested are not registered.")
    return {
        RUN: run_id,
        FROM: str(start.version),
        OPTIMIZER: report.optimizer,
        DATASET: report.dataset["reference"],
        DIGEST: report.dataset["digest"],
        TARGET: report.target,
        **{f"{JUDGE}.{name}": digest for name, digest in report.judges.items()},
        BEFORE: f"{percent(c.value_a)} of {c.n} test rows",
        AFTER: f"{percent(c.value_b)} of {c.n} test rows",
        CHANGE: f"{change(c)} points, {c.confidence:.0%} interval",
        P_VALUE: f"{c.p_value:.3g} (two-sided, paired)",
        COST: report.money,
        CALLS: str(report.spent.calls),
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
