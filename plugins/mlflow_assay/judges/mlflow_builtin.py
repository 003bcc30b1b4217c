"""MLflow's built-in judges as the library `mlflow`: `mlflow/Safety`, `mlflow/ToolCallCorrectness` and so on.

MLflow decides what they ask; this module says what their answers mean (scale, good end, needed fields), so that
their verdicts stand beside everybody else's. What MLflow leaves open is settled here:

- Some return one feedback per retriever span. They become one verdict: bad if any part is bad, parts in the
  rationale.
- Some would ask MLflow's *default* model which tools the agent had when the trace does not record them. Such a
  trace is unscored instead: nobody chose that model or agreed to pay for it.
- They take no base URL; `mlflow_endpoint` says what is done instead.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mlflow_assay.contracts import JudgeContract, ModelSettings
from mlflow_assay.engine import mlflow_endpoint
from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.mlflow_facts import BUILTINS
from mlflow_assay.judges.problems import problems

if TYPE_CHECKING:
    from mlflow.genai.scorers import Scorer

__all__ = ["MlflowJudges"]

_logger = logging.getLogger(__name__)
_NOT_PARAMETERS = {
    "name", "aggregations", "description", "timeout", "pass_if", "model", "required_columns", "inference_params",
    "extra_headers", "last_turn_scorer",
}  # fmt: skip


class MlflowJudges:
    """The `contracts.JudgeLibrary` over MLflow's built-in scorers."""

    def contracts(self) -> Iterable[JudgeContract]:
        """One contract per built-in scorer, named after its class."""
        for name, about in BUILTINS.items():
            yield JudgeContract(
                name=name,
                purpose=about.purpose,
                value=about.value,
                scope=about.scope,
                needs=about.needs,
                kind="mlflow",
                calls_llm=about.calls_llm,
                origin="mlflow",
                notes=about.notes,
            )

    def build(self, name: str, params: Mapping[str, Any], model: ModelSettings | None) -> Scorer:
        """MLflow's scorer of that class behind one verdict; see `contracts.JudgeLibrary.build`."""
        import mlflow
        from mlflow.exceptions import MlflowException
        from mlflow.genai import scorers

        from mlflow_assay.judges.mlflow_verdict import BuiltinJudge

        if name not in BUILTINS:
            near = difflib.get_close_matches(name, BUILTINS, n=3)
            raise ConfigError(f"MLflow has no built-in judge {name!r}.", valid=near or BUILTINS)
        scorer_class = getattr(scorers, name, None)
        if scorer_class is None:
            raise ConfigError(f"The installed MLflow {mlflow.__version__} has no built-in judge {name!r}.")
        valid = set(scorer_class.model_fields) - _NOT_PARAMETERS
        if stray := sorted(set(params) - valid):
            raise ConfigError(f"MLflow's judge {name!r} has no parameter {stray[0]!r}.", valid=sorted(valid))
        try:
            inner = scorer_class(**params, **_model_arguments(name, model))
        except (ValueError, TypeError, MlflowException) as error:
            raise ConfigError(
                f"MLflow refuses its judge {name!r} with the parameters {dict(params)}: {problems(error)}.",
                fix=f"Set them in a YAML definition: `uses: mlflow/{name}` and `with:`.",
            ) from error
        return BuiltinJudge(inner, BUILTINS[name], model)


def _model_arguments(name: str, model: ModelSettings | None) -> dict[str, Any]:
    about = BUILTINS[name]
    if not about.calls_llm:
        return {}
    if model is None:
        raise ConfigError(f"MLflow's judge {name!r} needs a judge model.", fix="Give one with --model.")
    mlflow_endpoint.check(model)
    arguments: dict[str, Any] = {"model": model.uri}
    if model.headers:
        arguments["extra_headers"] = dict(model.headers)
    if model.params and about.takes_params:
        arguments["inference_params"] = dict(model.params)
    elif model.params:
        _logger.warning("MLflow's judge %s takes no generation parameters: %s unused.", name, sorted(model.params))
    return arguments
