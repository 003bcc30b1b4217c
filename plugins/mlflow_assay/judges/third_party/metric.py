"""What one metric of a library declares, and the base class of an adapter."""

from __future__ import annotations

import difflib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mlflow_assay.contracts import JudgeContract, ModelSettings, NumericValue, ValueSpec
from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.third_party.sample import Sample, SampleFields

if TYPE_CHECKING:
    from mlflow.genai.scorers import Scorer

    from mlflow_assay.judges.third_party.client import JudgeClient

__all__ = ["Measure", "Measured", "Metric", "MetricLibrary"]

ONE = NumericValue(low=0.0, high=1.0, threshold=0.5)


@dataclass(frozen=True)
class Measured:
    """What a library's metric answered.

    Attributes:
        score: its value, on the scale the metric declares; None or NaN is unscored.
        passed: the library's own verdict, None where it gives none. Kept in the verdict's metadata; what counts
            is the declared pass rule, so that the threshold a team sets in YAML means the same everywhere.
        reason: the library's explanation, or None.
        error: the library's own error message; makes the verdict unscored.
        metadata: further facts to keep with the verdict.
    """

    score: float | bool | str | None
    passed: bool | None = None
    reason: str | None = None
    error: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


# One measurement with a fresh instance of the library's metric: the sample, the judge model's client (None for a
# metric that calls none), and the scale and threshold in force. Whatever it raises becomes an unscored verdict.
Measure = Callable[["Sample", "JudgeClient | None", ValueSpec], Measured]


@dataclass(frozen=True)
class Metric:
    """The declared contract of one metric.

    Attributes:
        name: the library's class or function; the judge is `<library>/<name>`.
        purpose: the question it answers.
        reads: fields of the sample without which it is unscored before anything is called (`SampleFields`); in a
            session, `retrieved` and `tools_called` ask for them in at least one of its traces.
        calls: how many model calls a verdict takes: a number, or a sum such as `1 + 2 per exchange`; "0" for none.
        value: scale, direction and default threshold.
        scope: one verdict a trace or a session.
        embeddings: whether an embedding model is needed.
        required: parameters that must be given.
        notes: for the catalogue.
        path: where the library keeps it, when not under its own name; for the adapter.
    """

    name: str
    purpose: str
    reads: tuple[str, ...]
    calls: str = "1"
    value: ValueSpec = ONE
    scope: Literal["trace", "session"] = "trace"
    embeddings: bool = False
    required: tuple[str, ...] = ()
    notes: str = ""
    path: str = ""

    @property
    def calls_llm(self) -> bool:
        """Whether it calls a model."""
        return not self.calls.startswith("0")

    def contract(self, library: str, origin: str) -> JudgeContract:
        """The judge contract this metric comes to."""
        given = f"Parameters needed: {', '.join(self.required)}." if self.required else ""
        return JudgeContract(
            name=self.name,
            purpose=self.purpose,
            value=self.value,
            scope=self.scope,
            needs=SampleFields().needs(self.reads),
            kind=library,
            calls_llm=self.calls_llm,
            llm_calls=self.calls,
            embeddings=self.embeddings,
            origin=origin,
            notes=" ".join(part for part in (given, self.notes) if part),
        )


class MetricLibrary(ABC):
    """Base of an adapter: a `contracts.JudgeLibrary` over a table of metrics.

    Attributes:
        name: the entry point's name, and the kind of its judges.
        package: the distribution that is wrapped; its version is part of each verdict's digest.
        module: the module whose import shows that the library is installed.
        extra: the extra of this project that installs it.
        metrics: the declared contracts by name.
        unsupported: metrics the library exports that are left out, with the reason.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    module: ClassVar[str]
    extra: ClassVar[str]
    metrics: ClassVar[Mapping[str, Metric]]
    unsupported: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def measure(self, metric: Metric, params: Mapping[str, Any]) -> Measure:
        """How to measure one metric with these parameters; called once when the judge is built.

        Raises:
            ConfigError: the library refuses the parameters.
        """

    @abstractmethod
    def exported(self) -> set[str]:
        """Names of all metrics the installed library exports, supported here or not."""

    def prepare(self) -> None:  # noqa: B027 - most libraries need nothing
        """What must be done before the library is imported, such as switching its telemetry off."""

    def reads(self, metric: Metric, params: Mapping[str, Any]) -> tuple[str, ...]:
        """The fields a metric reads with these parameters; most read the same with any."""
        return metric.reads

    def asks_model(self, name: str, params: Mapping[str, Any]) -> bool:
        """Whether a metric asks a model with these parameters."""
        return self._metric(name).calls_llm

    def contracts(self) -> Iterable[JudgeContract]:
        """One contract a metric, from the table: the library itself is not imported."""
        for metric in self.metrics.values():
            yield metric.contract(self.name, self.package)

    def version(self) -> str:
        """The installed version of the wrapped library."""
        return metadata.version(self.package)

    def depends_on(self, metric: Metric, params: Mapping[str, Any]) -> str:
        """What a verdict depends on that neither parameters nor version tell, such as what a named file holds."""
        return ""

    def build(self, name: str, params: Mapping[str, Any], model: ModelSettings | None) -> Scorer:
        """A scorer for one metric; see `contracts.JudgeLibrary.build`.

        Args:
            params: the metric's own, and `fields`: where fields of the sample are read from.
        """
        metric = self._metric(name)
        given = dict(params)
        fields = SampleFields(given.pop("fields", None) or {})
        if lacking := [key for key in metric.required if key not in given]:
            raise ConfigError(
                f"The judge {self.name}/{name} needs the parameter {lacking[0]!r}.",
                fix=f"Set it in a YAML definition: `uses: {self.name}/{name}` and `with:`.",
            )
        asks = self.asks_model(name, given)
        if asks and model is None:
            raise ConfigError(f"The judge {self.name}/{name} needs a judge model.", fix="Give one with --model.")
        self.imported()
        if asks and model is not None:
            from mlflow_assay.judges.third_party.client import check_provider

            check_provider(model)
        from mlflow_assay.judges.third_party.scorer import LibraryJudge

        needs = fields.needs(self.reads(metric, given))
        measure = self.measure(metric, given)
        depends = self.depends_on(metric, given)
        return LibraryJudge(self, metric, measure, fields, needs, model if asks else None, depends)

    def imported(self) -> Any:
        """The wrapped library.

        Raises:
            ConfigError: it is not installed, or cannot be imported; says which extra installs it.
        """
        self.prepare()
        try:
            return importlib.import_module(self.module)
        except ImportError as error:
            raise ConfigError(
                f"Judges of {self.name!r} need the package {self.package!r}, which cannot be imported: {error}.",
                fix=f"Try: pip install 'mlflow-assay[{self.extra}]'",
            ) from error

    def _metric(self, name: str) -> Metric:
        if name in self.metrics:
            return self.metrics[name]
        if name in self.unsupported:
            raise ConfigError(f"{self.name}/{name} is not supported: {self.unsupported[name]}.")
        near = difflib.get_close_matches(name, self.metrics, n=3)
        raise ConfigError(f"The library {self.name!r} has no metric {name!r}.", valid=near or self.metrics)
