"""Guardrails' validators as judges: `guardrails/Validator` with the parameter `validator`.

Straight to the library, not through MLflow's wrapper (`mlflow.genai.scorers.guardrails`): that reads the answer even
where the request is meant (a jailbreak is attempted in the request), shares one instance between threads, and leaves
Guardrails' telemetry on, which is on by default. A validator is called by its own `validate`, without a guard round it.

Validators are packages of their own, `pip install guardrails-ai-regex-match` and the like, or one's own class. They are
named by class (`RegexMatch`), or `module:Class` for those of one's own. Some bring a model along, or ask a service or a
model of their own choice; nothing of that goes through the judge model, its budget or its bill.
"""

from __future__ import annotations

import importlib
import threading
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlflow_assay.contracts import BooleanValue, ValueSpec
from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.third_party.helpers import check_params
from mlflow_assay.judges.third_party.metric import Measure, Measured, Metric, MetricLibrary
from mlflow_assay.judges.third_party.sample import Sample

if TYPE_CHECKING:
    from mlflow_assay.judges.third_party.client import JudgeClient

__all__ = ["GuardrailsValidators"]

_SIDES = {"output": "output", "input": "input"}


class GuardrailsValidators(MetricLibrary):
    """The `contracts.JudgeLibrary` over Guardrails' validators."""

    name = "guardrails"
    package = "guardrails-ai"
    module = "guardrails.validators"
    extra = "guardrails"
    metrics = {  # noqa: RUF012 - never changed
        "Validator": Metric(
            "Validator",
            "Does the text pass the given validator?",
            ("output",),
            "0",
            BooleanValue(),
            required=("validator",),
            notes="validator: a class such as RegexMatch (pip install guardrails-ai-regex-match), or module:Class. "
            "Parameters: arguments (of the class), metadata, on (output or input).",
        )
    }
    unsupported = {}  # noqa: RUF012

    def exported(self) -> set[str]:
        """The one thing of the library that judges."""
        from guardrails import validators

        return {"Validator"} & set(validators.__all__)

    def imported(self) -> Any:
        """The wrapped library, with its telemetry switched off."""
        found = super().imported()
        from guardrails.settings import settings

        settings.rc.enable_metrics = False
        return found

    def reads(self, metric: Metric, params: Mapping[str, Any]) -> tuple[str, ...]:
        """The side of the run that is validated."""
        side = params.get("on", "output")
        if side not in _SIDES:
            raise ConfigError("A validator reads one side of a run.", found=f"on: {side!r}", valid=_SIDES)
        return (_SIDES[side],)

    def measure(self, metric: Metric, params: Mapping[str, Any]) -> Measure:
        """See `MetricLibrary.measure`."""
        check_params("guardrails/Validator", params, ("validator", "arguments", "metadata", "on"))
        cls, arguments = _class(params["validator"]), dict(params.get("arguments") or {})
        metadata, (side,) = dict(params.get("metadata") or {}), self.reads(metric, params)
        _made(cls, arguments)
        # Validators may load a model when they are made, so each thread keeps one instead of making one a verdict.
        own = threading.local()

        def measured(sample: Sample, client: JudgeClient | None, value: ValueSpec) -> Measured:
            if not hasattr(own, "validator"):
                own.validator = _made(cls, arguments)
            return _read(own.validator.validate(getattr(sample, side), dict(metadata)))

        return measured


def _class(name: Any) -> Any:
    """The validator's class.

    Raises:
        ConfigError: it is not installed, or is no validator.
    """
    from guardrails.validators import Validator

    found: Any = None
    if isinstance(name, str) and ":" in name:
        module, _, attribute = name.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute, None)
        except ImportError as error:
            raise ConfigError(f"The validator {name!r} cannot be imported: {error}.") from error
    elif isinstance(name, str):
        found = _installed(name)
    if not (isinstance(found, type) and issubclass(found, Validator)):
        raise ConfigError(
            f"There is no Guardrails validator {name!r} here.",
            found=type(found).__name__ if found is not None else None,
            valid="the class of an installed validator, or module:Class",
            fix="Validators are packages: pip install guardrails-ai-regex-match, for example.",
        )
    return found


def _installed(name: str) -> Any:
    """A validator by its class's name: of the installed `guardrails_ai` packages, or of the local hub registry."""
    from guardrails import hub

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it finds packages of both the new and the old kind
        return getattr(hub, name, None)


def _made(cls: Any, arguments: Mapping[str, Any]) -> Any:
    from guardrails import OnFailAction

    try:
        return cls(on_fail=OnFailAction.NOOP, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"The Guardrails validator {cls.__name__!r} refuses {dict(arguments)}: {error}",
            fix="Give its arguments under `arguments:`.",
        ) from error


def _read(result: Any) -> Measured:
    """A validator's result; what it would put in the text's place is not kept."""
    passed = str(getattr(result.outcome, "value", result.outcome)) == "pass"
    if passed:
        return Measured(True, passed=True)
    spans = [s.reason for s in (result.error_spans or []) if s.reason]
    told = [result.error_message, *spans]
    return Measured(False, passed=False, reason="\n".join(dict.fromkeys(t for t in told if t)) or None)
