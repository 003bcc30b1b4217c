"""What is kept of an alignment, and what becomes of an accepted one: an MLflow run, files, a registered version."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_assay.alignment.report import AlignmentReport
from mlflow_assay.alignment.revision import with_note
from mlflow_assay.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from mlflow_assay.alignment.procedure import Request
    from mlflow_assay.judges.registering import Registration

__all__ = ["FORCED", "attempts", "install", "log", "register"]

# Tags of an alignment's run.
JUDGE, LABEL, OPTIMIZER = "assay.align.judge", "assay.align.label", "assay.align.optimizer"
ACCEPTED, FORCED, REASON = "assay.align.accepted", "assay.align.forced", "assay.align.reason"
DIGEST_OLD, DIGEST_NEW = "assay.align.digest.old", "assay.align.digest.new"
ATTEMPT, REGISTERED = "assay.align.attempt", "assay.align.registered_version"


def attempts(experiment_id: str, judge: str, label: str) -> int:
    """Alignments of this judge against these labels that were tried before in the experiment.

    Raises:
        StoreError: MLflow cannot be read.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    wanted = f"tags.`{JUDGE}` = '{judge}' AND tags.`{LABEL}` = '{label}'"
    try:
        return len(MlflowClient().search_runs([experiment_id], filter_string=wanted, max_results=1000))
    except MlflowException as error:
        raise StoreError(f"MLflow could not search earlier alignments: {error.message}") from error


def log(report: AlignmentReport, experiment_id: str, attempt: int) -> str:
    """Log both versions, the split, the verdicts and the report to a run, and return its id.

    Raises:
        StoreError: MLflow refuses it.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient()
    try:
        name = f"align {report.judge} by {report.optimizer}"
        run = client.create_run(experiment_id, run_name=name, tags=_tags(report, attempt))
        run_id = str(run.info.run_id)
        for key, value in _metrics(report).items():
            client.log_metric(run_id, key, value)
        for key, value in {"seed": report.seed, "model": report.model, **report.options}.items():
            client.log_param(run_id, key, str(value)[:500])
        with tempfile.TemporaryDirectory(prefix="assay-align-") as folder:
            _files(report, Path(folder))
            client.log_artifacts(run_id, folder)
        client.set_terminated(run_id)
    except MlflowException as error:
        raise StoreError(f"MLflow could not log the alignment: {error.message}") from error
    return run_id


def install(report: AlignmentReport, folder: Path, run_id: str) -> Path:
    """Write the accepted version's files into a folder and return the definition's path.

    Raises:
        ConfigError: the gate did not accept and nobody forced it, or the folder cannot be written.
    """
    if not report.accepted:
        raise ConfigError(f"The new version of {report.judge!r} was not accepted, so it is not installed.")
    note = f"MLflow run {run_id}."
    if report.forced:
        note = f"Accepted by --force against the gate: {report.decision.reason} {note}"
    path = folder / f"{report.judge}.yaml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in report.files.items():
            (folder / name).write_bytes(content)
        path.write_text(with_note(report.new.text, note), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"The new version cannot be written to {folder}: {error}.") from error
    return path


def register(request: Request, folder: Path, experiment_id: str, run_id: str) -> Registration:
    """Register the installed version as a new version of the judge in MLflow.

    Raises:
        ConfigError: MLflow cannot register such a judge.
        StoreError: MLflow refused it.
    """
    from mlflow import MlflowClient

    from mlflow_assay.judges import registering
    from mlflow_assay.judges.catalogue import Catalogue

    catalogue = Catalogue([*request.paths, folder])
    definition = catalogue.get(request.judge).definition
    texts = request.texts if definition is not None and definition.variables else {}
    done = registering.register(catalogue, request.judge, experiment_id, request.model, texts)
    MlflowClient().set_tag(run_id, REGISTERED, str(done.version))
    return done


def _tags(report: AlignmentReport, attempt: int) -> dict[str, str]:
    return {
        JUDGE: report.judge,
        LABEL: report.label,
        OPTIMIZER: report.optimizer,
        ACCEPTED: str(report.decision.accepted).lower(),
        FORCED: str(report.forced).lower(),
        REASON: report.decision.reason[:4000],
        DIGEST_OLD: report.old.bound.digest,
        DIGEST_NEW: report.new.bound.digest,
        ATTEMPT: str(attempt),
    }


def _metrics(report: AlignmentReport) -> dict[str, float]:
    decision = report.decision
    found = {
        "kappa_before": decision.kappa_old.value,
        "kappa_after": decision.kappa_new.value,
        "kappa_gain": decision.kappa_gain.value,
        "agreement_before": decision.comparison.value_a,
        "agreement_after": decision.comparison.value_b,
        "p_value": decision.comparison.p_value,
        "held_out_labels": float(decision.n),
        "model_calls": float(sum(report.calls.values())),
    }
    return {k: v for k, v in found.items() if v is not None}


def _files(report: AlignmentReport, folder: Path) -> None:
    data: dict[str, Any] = report.to_dict()
    texts = {
        "report.json": _json(data),
        "report.md": report.markdown(),
        "split.json": _json(data["split"]),
        "old.yaml": report.old.text,
        "new.yaml": report.new.text,
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name, content in report.files.items():
        if not name.endswith(".yaml"):
            (folder / name).write_bytes(content)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


@dataclass(frozen=True)
class Outcome:
    """What was done with a report.

    Attributes:
        run_id: the MLflow run that keeps it.
        attempt: which alignment of this judge against these labels it was, from 1.
        path: the new definition; None when nothing was accepted.
        registration: the registered version; None when none was asked for or accepted.
    """

    run_id: str
    attempt: int
    path: Path | None = None
    registration: Registration | None = None


def keep(report: AlignmentReport, request: Request, experiment_id: str, out: Path, *, registering: bool) -> Outcome:
    """Log the report, and install and register what was accepted.

    Args:
        report: what `procedure.align` made.
        request: what was asked for.
        experiment_id: where the run and the registered judge go.
        out: folder of the new definition.
        registering: whether to register an accepted version.

    Raises:
        ConfigError, StoreError: as `log`, `install` and `register`.
    """
    attempt = attempts(experiment_id, report.judge, report.label) + 1
    run_id = log(report, experiment_id, attempt)
    if not report.accepted:
        return Outcome(run_id, attempt)
    path = install(report, out, run_id)
    done = register(request, out, experiment_id, run_id) if registering else None
    return Outcome(run_id, attempt, path, done)
