"""Judges of the catalogue as registered scorers of an MLflow experiment, seen in its UI and run by its server.

MLflow's server runs instruction judges and its own built-in ones. What it would accept and then choke on (a
scorer class of ours makes every scorer of the experiment unreadable) is refused here with the reason, and what
was registered is read back before it is reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_assay.contracts import BoundJudge, ModelSettings
from mlflow_assay.errors import ConfigError, StoreError
from mlflow_assay.judges.catalogue import Catalogue, JudgeEntry

if TYPE_CHECKING:
    from mlflow.genai.scorers import Scorer

__all__ = ["Registration", "Schedule", "check", "register", "why_not"]


@dataclass(frozen=True)
class Schedule:
    """How MLflow's server is to run a judge on new traces.

    Attributes:
        sample_rate: share of the traces judged, above 0 and at most 1.
        filter_string: MLflow's search syntax; None takes all.
    """

    sample_rate: float
    filter_string: str | None = None


@dataclass(frozen=True)
class Registration:
    """What became of one judge.

    Attributes:
        judge: its name, the scorer's name in MLflow.
        version: MLflow's version of the scorer.
        model: the model MLflow will ask; None for a rule without one.
        unchanged: the newest version already said the same, so none was added.
        sample_rate: share of new traces the server judges; None when it was not started.
        note: what differs from running it with `assay score`; empty when nothing does.
    """

    judge: str
    version: int
    model: str | None
    unchanged: bool = False
    sample_rate: float | None = None
    note: str = ""


def why_not(entry: JudgeEntry) -> str | None:
    """Why MLflow cannot register this judge; None when it can."""
    definition = entry.definition
    runs_only = "MLflow's server runs only instruction judges and its own built-in ones"
    if entry.library not in (None, "mlflow"):
        return f"it is code, and {runs_only}"
    if definition is not None and definition.cascade is not None:
        return f"it is a cascade, and {runs_only}, or ensembles of these"
    if definition is not None and definition.panel is not None and definition.panel.vote not in ("majority", "mean"):
        return "it is a panel with weights, which MLflow's ensembles do not know"
    if definition is not None and definition.fields:
        mapped = ", ".join(sorted({f for side in definition.fields.values() for f in side.values()}))
        return f"it reads mapped trace fields ({mapped}), which MLflow's server does not know"
    if entry.member == "KnowledgeRetention":
        return "MLflow cannot serialize its own KnowledgeRetention"
    return None


def check(catalogue: Catalogue, name: str, model: ModelSettings | None, start: bool) -> None:
    """Refuse what cannot be registered, before anything is.

    Raises:
        ConfigError: the judge cannot be registered, or not started, and why.
    """
    entry = catalogue.get(name)
    if reason := why_not(entry):
        raise ConfigError(
            f"MLflow cannot register the judge {name!r}: {reason}.",
            fix=f"Run it with: assay score --judge {name}",
        )
    if not start:
        return
    if entry.definition is not None and entry.definition.panel is not None:
        raise ConfigError(
            f"MLflow's server does not start ensembles, such as the panel {name!r}.",
            fix=f"Run it with: assay score --judge {name}",
        )
    uri = model.uri if model else entry.definition.model if entry.definition else None
    if not entry.contract.calls_llm or not (uri or "").startswith("gateway:/"):
        raise ConfigError(
            f"MLflow's server starts only judges that ask a model of its AI Gateway; {name!r} does not.",
            found=uri or ("MLflow's default model" if entry.contract.calls_llm else "no model"),
            valid="--model gateway:/ENDPOINT with a judge that calls a model",
        )
    if any(need.split(".")[0] == "expectations" for need in entry.contract.needs):
        raise ConfigError(
            f"MLflow's server does not start judges that need expectations, as {name!r} does.",
            fix=f"Run it with: assay score --judge {name}",
        )


def register(
    catalogue: Catalogue,
    name: str,
    experiment_id: str,
    model: ModelSettings | None = None,
    texts: Mapping[str, str] | None = None,
    schedule: Schedule | None = None,
) -> Registration:
    """Register one judge with an experiment and, with a schedule, start it.

    Registering the same judge again adds no version. Headers and base URL of the model are not passed on: MLflow
    does not restore them, and headers may hold secrets.

    Raises:
        ConfigError: see `check`; a text or parameter is missing or wrong.
        StoreError: MLflow refused it, or could not read it back (it is then taken out again).
    """
    check(catalogue, name, model, schedule is not None)
    bound = catalogue.build(name, ModelSettings(model.uri, params=model.params) if model else None, texts)
    scorer = _own_scorer(bound)
    found = _same(scorer, experiment_id)
    version = found if found is not None else _add(scorer, experiment_id)
    if schedule is not None:
        _start(scorer, experiment_id, schedule)
    return Registration(
        judge=bound.name,
        version=version,
        model=bound.model.uri if bound.model else None,
        unchanged=found is not None,
        sample_rate=schedule.sample_rate if schedule else None,
        note=_note(catalogue.get(name)),
    )


def _own_scorer(bound: BoundJudge) -> Scorer:
    """MLflow's own scorer object, under the judge's name."""
    scorer: Any = getattr(bound.scorer, "wrapped", bound.scorer)
    if bound.composite is not None:
        from mlflow_assay.judges.panel import Panel, mlflow_ensemble

        assert isinstance(bound.composite, Panel)  # noqa: S101 - check() let nothing else through
        scorer = mlflow_ensemble(bound.composite)
    scorer.name = bound.name
    scorer.description = bound.contract.purpose
    return scorer


def _same(scorer: Scorer, experiment_id: str) -> int | None:
    """The newest registered version if it says the same, else None."""
    from mlflow.exceptions import MlflowException
    from mlflow.genai.scorers import get_scorer

    try:
        found = get_scorer(name=scorer.name, experiment_id=experiment_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise StoreError(f"MLflow could not read its scorer {scorer.name!r}: {error.message}") from error
    return int(found.scorer_version) if _says(found) == _says(scorer) else None


def _says(scorer: Scorer) -> dict[str, Any]:
    dumped: dict[str, Any] = scorer.model_dump()
    return {key: value for key, value in dumped.items() if key != "mlflow_version"}


def _add(scorer: Scorer, experiment_id: str) -> int:
    """Register and read back; an experiment whose scorers cannot be read any more is repaired at once."""
    from mlflow.exceptions import MlflowException
    from mlflow.genai.scorers import delete_scorer, get_scorer, list_scorers

    try:
        version = int(scorer.register(experiment_id=experiment_id).scorer_version)
    except MlflowException as error:
        raise StoreError(f"MLflow refused to register the judge {scorer.name!r}: {error.message}") from error
    try:
        get_scorer(name=scorer.name, experiment_id=experiment_id)
        list_scorers(experiment_id=experiment_id)
    except MlflowException as error:
        delete_scorer(name=scorer.name, experiment_id=experiment_id, version=version)
        raise StoreError(
            f"MLflow registered the judge {scorer.name!r} but could not read it back; it was taken out again: "
            f"{error.message}"
        ) from error
    return version


def _start(scorer: Scorer, experiment_id: str, schedule: Schedule) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.genai.scorers import ScorerSamplingConfig, get_scorer

    sampling = ScorerSamplingConfig(sample_rate=schedule.sample_rate, filter_string=schedule.filter_string)
    try:
        get_scorer(name=scorer.name, experiment_id=experiment_id).start(sampling_config=sampling)
    except MlflowException as error:
        raise StoreError(
            f"MLflow registered the judge {scorer.name!r} but did not start it: {error.message}"
        ) from error


def _note(entry: JudgeEntry) -> str:
    if entry.definition is not None and entry.definition.panel is not None:
        return (
            "MLflow's ensemble has no quorum, gives a tie to the first value in the alphabet, and fails with a member"
        )
    if entry.member in ("RetrievalGroundedness", "RetrievalRelevance", "RetrievalSufficiency"):
        return "MLflow's server logs one assessment per retriever span, not one verdict"
    if entry.member in ("ToolCallCorrectness", "ToolCallEfficiency"):
        return "for a trace that records no offered tools MLflow's server also asks its default model, for those tools"
    return ""
