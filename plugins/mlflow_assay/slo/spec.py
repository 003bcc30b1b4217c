"""`slo.yaml`: objectives and alert limits, strictly checked. Data only: loading executes no code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mlflow_assay.errors import ConfigError
from mlflow_assay.semconv import ALL_AGENTS

__all__ = ["AlertLimits", "Cost", "Latency", "Objective", "SloFile", "load"]

# Upper bounds of the collector's duration histogram (compose/collector/core.yaml): a latency objective needs one.
LATENCY_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Latency(_Strict):
    """Runs faster than a bound are good."""

    under_s: float = Field(description="Seconds; one of the collector's histogram bounds.")

    @field_validator("under_s")
    @classmethod
    def _is_a_bound(cls, value: float) -> float:
        if value not in LATENCY_BOUNDS_S:
            raise ValueError(f"valid: {', '.join(f'{bound:g}' for bound in LATENCY_BOUNDS_S)}")
        return value


class Cost(_Strict):
    """Mean cost of a run."""

    at_most_usd: float = Field(gt=0, description="US dollars a run may cost on average.")


class Objective(_Strict):
    """One objective: of a judge's verdicts (corrected by labels), of latency, or of cost."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{1,60}$", description="Lower case, digits and dashes.")
    description: str = Field(min_length=1)
    judge: str | None = Field(None, description="Assessment name whose passes are good.")
    latency: Latency | None = None
    cost: Cost | None = None
    objective: float | None = Field(None, gt=0, lt=1, description="Share that is to be good; not for cost.")
    agent: str = Field(ALL_AGENTS, description="An agent's name, or `all`.")
    experiment: str | None = Field(
        None, description="MLflow experiment id; none takes all together, and then only one may be exported."
    )
    minimum_sample: int = Field(20, ge=1, description="Fewer verdicts than this in a window raise no alert.")
    page: bool = Field(True, description="Whether fast burning wakes somebody; else it only files a ticket.")

    @model_validator(mode="after")
    def _one_kind(self) -> Objective:
        kinds = [kind for kind in ("judge", "latency", "cost") if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"name one of judge, latency and cost; found {', '.join(kinds) or 'none'}")
        if (self.objective is None) != (self.cost is not None):
            raise ValueError("judge and latency objectives need `objective`; a cost objective has none")
        return self

    @property
    def kind(self) -> Literal["quality", "latency", "cost"]:
        """What it is about."""
        return "quality" if self.judge else "latency" if self.latency else "cost"

    @property
    def allowed(self) -> float:
        """Share that may be bad, in (0, 1).

        Raises:
            ConfigError: a cost objective has no such share.
        """
        if self.objective is None:
            raise ConfigError(f"The objective {self.name!r} is about cost and has no share.")
        return 1 - self.objective


class AlertLimits(_Strict):
    """Limits of the alerts that are about the judges and the machinery. None switches an alert off."""

    judge_unscored_at_most: float | None = Field(0.1, gt=0, lt=1, description="Share of verdicts not reached in 6 h.")
    kappa_at_least: float | None = Field(0.6, gt=-1, lt=1, description="Upper end of a judge's agreement with people.")
    gold_drop_at_most: float | None = Field(0.05, gt=0, lt=1, description="Fall of kappa on the gold set.")
    kpi_alarm_alpha: float | None = Field(0.01, gt=0, lt=1, description="Level of the e-process alarm.")
    label_backlog_at_most: int | None = Field(200, ge=1, description="Traces waiting for a label, per judge.")
    label_age_days: float | None = Field(14, gt=0, description="Age of the oldest of them.")
    bridge_lag_minutes: float | None = Field(15, gt=0, description="Age of the oldest verdict not delivered.")
    budget_spent_at_most: float | None = Field(0.9, gt=0, le=1, description="Share of the judging budget.")


class SloFile(_Strict):
    """The whole file."""

    version: Literal[1]
    runbook: str = Field("runbook.md", description="Address of the runbook; alerts add #their-section.")
    objectives: list[Objective] = Field(min_length=1)
    alerts: AlertLimits = AlertLimits.model_validate({})

    @model_validator(mode="after")
    def _names_differ(self) -> SloFile:
        names = [objective.name for objective in self.objectives]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two objectives are named {twice[0]!r}")
        return self


def load(path: Path) -> SloFile:
    """Read and check a file.

    Raises:
        ConfigError: it cannot be read, is no YAML, or breaks a rule; says where, what was found and what is valid.
    """
    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no YAML: {error}.") from error
    try:
        return SloFile.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(
            f"{path}: {where}: {first['msg']}.",
            found=repr(first.get("input"))[:200],
            fix="`assay slo build --help` shows an example.",
        ) from error
