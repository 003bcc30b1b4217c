"""`Estimate`: the one object in which a KPI travels to report, dashboards and gate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_assay.errors import ConfigError
from mlflow_assay.trust._arrays import check_confidence

_SLACK = 1e-9


@dataclass(frozen=True)
class Estimate:
    """A KPI with what is known about its error.

    Attributes:
        name: the KPI's name, usually the judge's.
        raw: what the judge reports: pass share in [0, 1] or mean score in the judge's unit; None when nothing
            was judged.
        corrected: the value after correction for judge error by labels, same unit; None when uncorrected.
        low: lower end of the interval, of `corrected` or, when uncorrected, of `raw`; None when impossible.
        high: upper end, likewise.
        confidence: level of the interval, in (0, 1).
        n_judged: traces with a verdict.
        n_labelled: labelled traces the estimate used, or could have used had there been enough.
        n_unscored: traces the judge could not score; they are in no other count.
        method: short id: `wilson`, `jeffreys`, `t`, `jps`, `ppi++`, `labels-t`, `rogan-gladen`,
            `pass^k`, `jps-paired` (a difference), `none`.
        assumptions: what must be true for the interval to hold, and what was refused and why; plain
            sentences for a stakeholder.

    Raises:
        ConfigError: the interval does not contain the value, or a count is negative.
    """

    name: str
    raw: float | None
    corrected: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float = 0.95
    n_judged: int = 0
    n_labelled: int = 0
    n_unscored: int = 0
    method: str = "none"
    assumptions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_confidence(self.confidence)
        if min(self.n_judged, self.n_labelled, self.n_unscored) < 0:
            raise ConfigError(f"Estimate {self.name!r} has a negative count.", valid="counts of 0 or more")
        if (self.low is None) != (self.high is None):
            raise ConfigError(f"Estimate {self.name!r} has one end of an interval only.")
        if self.low is not None and self.high is not None and not self._contains_value(self.low, self.high):
            raise ConfigError(
                f"Estimate {self.name!r} lies outside its own interval.",
                found=f"value {self.value}, interval {self.low} to {self.high}",
            )

    def _contains_value(self, low: float, high: float) -> bool:
        value = self.value
        finite = value is not None and all(map(math.isfinite, (value, low, high)))
        return finite and value is not None and low - _SLACK <= value <= high + _SLACK

    @property
    def is_corrected(self) -> bool:
        """Whether labels (or external error rates) were used to remove the judge's error."""
        return self.corrected is not None

    @property
    def value(self) -> float | None:
        """The number to show: corrected where there is one, else raw; None when nothing was judged."""
        return self.raw if self.corrected is None else self.corrected

    def with_assumptions(self, *sentences: str) -> Estimate:
        """A copy with more assumptions, duplicates left out."""
        return dataclasses.replace(self, assumptions=tuple(dict.fromkeys(self.assumptions + sentences)))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping: all attributes, plus `value` and `is_corrected` for readers."""
        fields = dataclasses.asdict(self) | {"assumptions": list(self.assumptions)}
        return fields | {"value": self.value, "is_corrected": self.is_corrected}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Estimate:
        """The estimate `to_dict` wrote; derived keys are ignored.

        Raises:
            ConfigError: a key is missing or unknown.
        """
        names = {f.name for f in dataclasses.fields(cls)}
        given = {k: v for k, v in data.items() if k not in ("value", "is_corrected")}
        if set(given) != names:
            raise ConfigError("This is not an estimate.", found=f"keys {sorted(given)}", valid=f"keys {sorted(names)}")
        return cls(**(given | {"assumptions": tuple(given["assumptions"])}))
