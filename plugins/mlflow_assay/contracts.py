"""The seams: what a source, judge, sink and label source must be. MLflow's own types pass between them.

`Trace`, `Feedback`, `Expectation`, `Scorer` and `Judge` are MLflow's; nothing here replaces them. What MLflow
does not say is what a judge's value *means*: `JudgeContract` says it (scale, direction, pass rule, fields
needed), so that verdicts of any library mean one thing, and `Unscored` keeps "cannot tell" apart from "bad".

Heavy imports stay out of this module: importing it does not import MLflow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from mlflow_assay.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow.dataset
    from mlflow.entities import Feedback, Trace
    from mlflow.genai.scorers import Scorer

    from mlflow_assay.datasets.model import About, DatasetRow, Manifest

__all__ = [
    "AnyValue",
    "AssessmentRevision",
    "BooleanValue",
    "BoundJudge",
    "BridgeObserver",
    "BridgeSink",
    "BridgeStatus",
    "CategoricalValue",
    "Composite",
    "CountingSink",
    "DeclaringScorer",
    "Delivery",
    "EvaluatedTrace",
    "InquirableSink",
    "JudgeContract",
    "JudgeLibrary",
    "Label",
    "LabelSource",
    "ModelSettings",
    "NumericValue",
    "Outcome",
    "Sink",
    "SinkStatus",
    "TraceImporter",
    "TraceSource",
    "Unscored",
    "UnscoredError",
    "ValueSpec",
]


class Outcome(str, Enum):
    """What a verdict comes to. Unscored is neither pass nor fail and is never counted as either."""

    PASS = "pass"  # noqa: S105 - not a password
    FAIL = "fail"
    UNSCORED = "unscored"


class Unscored(str, Enum):
    """Why a judge reached no verdict. Stored in the assessment's metadata and as its error code."""

    MISSING_FIELD = "missing_field"  # the trace lacks what the judge needs; nothing was called or paid
    GARBLED_REPLY = "garbled_reply"  # the reply could not be parsed
    EMPTY_REPLY = "empty_reply"
    OFF_MENU = "off_menu"  # parsed, but not a value the judge may give
    REFUSED = "refused"  # the model declined to judge
    TRUNCATED = "truncated"  # the reply stopped at the token limit
    TIMEOUT = "timeout"
    RATE_LIMITED = "rate_limited"  # still 429 after the retries
    UNAUTHORIZED = "unauthorized"  # 401 or 403
    NOT_FOUND = "not_found"  # 404: no such model or endpoint
    BAD_REQUEST = "bad_request"  # 400 or 422, for example a prompt longer than the context window
    PROVIDER_ERROR = "provider_error"  # 5xx after the retries
    UNREACHABLE = "unreachable"  # no connection to the judge model
    LOW_CONFIDENCE = "low_confidence"  # a local judge abstained
    UNDECIDED = "undecided"  # the judge answered that it cannot tell, or that the question does not arise
    BUDGET = "budget"  # the run's budget was spent before this verdict
    JUDGE_ERROR = "judge_error"  # the judge's own code failed
    UNREADABLE_TRACE = "unreadable_trace"  # spans missing or not decodable


# Reasons that judging the same trace again may change; the others are the judge's own, repeatable answer.
TRANSIENT: frozenset[Unscored] = frozenset(Unscored) - {Unscored.UNDECIDED, Unscored.LOW_CONFIDENCE}


# Reasons that are the judge's or the trace's own, not the model's, the network's or the budget's.
INHERENT: frozenset[Unscored] = frozenset(
    {Unscored.MISSING_FIELD, Unscored.UNREADABLE_TRACE, Unscored.LOW_CONFIDENCE, Unscored.UNDECIDED}
)


class UnscoredError(Exception):
    """Raised inside a judge to say "unscored, because"; the engine turns it into an unscored Feedback.

    Args:
        reason: why, from the closed list.
        detail: one sentence for a person, for example "needs expectations.route (found: none)".
        metadata: facts to keep with the verdict (tokens paid for a garbled reply, the raw value).
    """

    def __init__(self, reason: Unscored, detail: str, metadata: Mapping[str, Any] | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.metadata = dict(metadata or {})


# --- what a value means --------------------------------------------------------------------------------


@dataclass(frozen=True)
class BooleanValue:
    """A yes/no verdict; `good` is the value that passes."""

    good: bool = True
    type: ClassVar[str] = "boolean"

    def read(self, value: Any) -> bool:
        """The value as a bool.

        Accepts a bool and the words true/false, yes/no, pass/fail in any case.

        Raises:
            UnscoredError: OFF_MENU for anything else.
        """
        if isinstance(value, bool):
            return value
        word = str(value).strip().lower() if isinstance(value, str) else None
        if word in ("true", "yes", "pass"):
            return True
        if word in ("false", "no", "fail"):
            return False
        raise UnscoredError(Unscored.OFF_MENU, f"the judge answered {value!r}; valid: true, false")

    def passes(self, value: bool) -> bool:
        """Whether the value is the good one."""
        return value is self.good

    def describe(self) -> str:
        """One phrase for tables."""
        return f"true/false, {str(self.good).lower()} passes"


@dataclass(frozen=True)
class CategoricalValue:
    """One of a closed list of words; those in `good` pass, those in `undecided` are no verdict at all."""

    options: tuple[str, ...]
    good: tuple[str, ...]
    undecided: tuple[str, ...] = ()
    type: ClassVar[str] = "categorical"

    def __post_init__(self) -> None:
        scored = set(self.options) - set(self.undecided)
        stray = [word for word in (*self.good, *self.undecided) if word not in self.options]
        if len(scored) < 2 or not self.good or stray or not set(self.good) < scored:
            raise ConfigError(
                "A categorical value needs two or more options that are verdicts, some but not all of them good, "
                "and good and undecided words must be among the options and apart.",
                found=f"options {list(self.options)}, good {list(self.good)}, undecided {list(self.undecided)}",
            )

    def read(self, value: Any) -> str:
        """The option meant, matched without regard to case or surrounding space.

        A bool, as a reviewer's thumb gives, is read as `yes` or `no` where the menu has both.

        Raises:
            UnscoredError: OFF_MENU when it is none of the options, UNDECIDED when it is one of `undecided`.
        """
        if isinstance(value, bool) and {"yes", "no"} <= set(self.options):
            return "yes" if value else "no"
        if isinstance(value, str):
            for option in self.options:
                if value.strip().lower() == option.lower():
                    return self._decided(option)
        raise UnscoredError(Unscored.OFF_MENU, f"the judge answered {value!r}; valid: {', '.join(self.options)}")

    def _decided(self, option: str) -> str:
        if option in self.undecided:
            raise UnscoredError(Unscored.UNDECIDED, f"the judge answered {option!r}")
        return option

    def passes(self, value: str) -> bool:
        """Whether the option is one of the good ones."""
        return value in self.good

    def describe(self) -> str:
        """One phrase for tables."""
        apart = f", {'/'.join(self.undecided)} is unscored" if self.undecided else ""
        return f"{'/'.join(self.options)}, {'/'.join(self.good)} passes{apart}"


@dataclass(frozen=True)
class NumericValue:
    """A number in [low, high]; passes at or beyond `threshold` on the side that is better."""

    low: float
    high: float
    threshold: float
    better: Literal["higher", "lower"] = "higher"
    integer: bool = False
    type: ClassVar[str] = "numeric"

    def __post_init__(self) -> None:
        if not self.low < self.high or not self.low <= self.threshold <= self.high:
            raise ConfigError(
                "A numeric value needs low < high and a threshold between them.",
                found=f"low {self.low}, high {self.high}, threshold {self.threshold}",
            )

    def read(self, value: Any) -> float | int:
        """The value as a number in range.

        Raises:
            UnscoredError: OFF_MENU when it is not a finite number in [low, high] (a bool is not a number),
                or not whole where `integer` is set.
        """
        number = math.nan
        if not isinstance(value, bool):
            try:
                number = float(value)
            except (TypeError, ValueError):
                number = math.nan
        whole = number.is_integer() if math.isfinite(number) else False
        if not (math.isfinite(number) and self.low <= number <= self.high and (whole or not self.integer)):
            kind = "a whole number" if self.integer else "a number"
            raise UnscoredError(
                Unscored.OFF_MENU,
                f"the judge answered {value!r}; valid: {kind} from {self.low:g} to {self.high:g}",
            )
        return int(number) if self.integer else number

    def passes(self, value: float) -> bool:
        """Whether the number reaches the threshold."""
        return value >= self.threshold if self.better == "higher" else value <= self.threshold

    def describe(self) -> str:
        """One phrase for tables."""
        sign = "≥" if self.better == "higher" else "≤"
        return f"{self.low:g} to {self.high:g}, {sign} {self.threshold:g} passes"


@dataclass(frozen=True)
class AnyValue:
    """Whatever an MLflow scorer without a contract gives, as it is.

    Attributes:
        pass_if: the scorer's own pass rule; None takes MLflow's, by which `yes` and true pass, `no` and false fail.
    """

    pass_if: Callable[[Any], bool] | None = None
    type: ClassVar[str] = "any"

    def read(self, value: Any) -> Any:
        """The value itself."""
        return value

    def passes(self, value: Any) -> bool | None:
        """Whether the value passes; None where no rule says so. A rule that raises is a fail, as in MLflow."""
        if self.pass_if is not None:
            try:
                return bool(self.pass_if(value))
            except Exception:
                return False
        word = value.strip().lower() if isinstance(value, str) else None
        if word in ("yes", "no"):
            return word == "yes"
        return bool(value) if type(value).__name__ in ("bool", "bool_") else None

    def describe(self) -> str:
        """One phrase for tables."""
        return "any value" + (", passes by the scorer's own rule" if self.pass_if else "")


ValueSpec = BooleanValue | CategoricalValue | NumericValue


@dataclass(frozen=True)
class JudgeContract:
    """What a judge declares, so that its verdicts mean the same as everybody's.

    Attributes:
        name: the assessment name its verdicts carry; letters, digits, `_`, `-`, `.`, `/`.
        purpose: one sentence: the question it answers.
        value: scale, direction and pass rule.
        version: changes whenever old verdicts stop being comparable.
        scope: one verdict a `trace` or one a `session` (logged on the session's first trace).
        needs: fields without which it is unscored, checked before anything is called: `inputs`, `outputs`,
            `expectations`, `expectations.<key>`, `spans`, `tools`, `tools_available`, `retrieved`, `session`, or a
            field of `trace_fields`; for a session, in at least one of its traces.
        kind: `instructions`, `code`, `local`, `mlflow`, or the library's name.
        calls_llm: whether a verdict costs model calls.
        llm_calls: how many: a number or a sum such as `1 + 2 per exchange`, then what else may be, after a comma;
            empty where it is one, or none.
        embeddings: whether it needs an embedding model.
        origin: where the judge comes from (package or file), for the catalogue.
        notes: for the catalogue, for example which MLflow judge is wrapped.
        learnt_from: ids of traces whose labels the judge learnt from; its verdicts on them say so.
    """

    name: str
    purpose: str
    value: ValueSpec
    version: str = "1"
    scope: Literal["trace", "session"] = "trace"
    needs: tuple[str, ...] = ()
    kind: str = "code"
    calls_llm: bool = False
    origin: str = ""
    notes: str = ""
    learnt_from: tuple[str, ...] = ()
    llm_calls: str = ""
    embeddings: bool = False

    @property
    def least_calls(self) -> int:
        """Model calls a verdict takes at the least, by `llm_calls`: `1 + 2 per exchange` is 3. 0 without a model."""
        if not self.calls_llm:
            return 0
        declared = re.findall(r"\d+", self.llm_calls.partition(",")[0])
        return max(1, sum(int(number) for number in declared))


@dataclass(frozen=True)
class ModelSettings:
    """The one judge-model setting: which model, where, with which parameters.

    Attributes:
        uri: MLflow model URI, for example `openai:/gpt-4.1-mini` or `gateway:/my-endpoint`.
        base_url: full chat-completions URL of an OpenAI-compatible endpoint; None uses the provider's own.
        params: generation parameters (temperature, max_tokens, …), overriding a definition's.
        headers: extra HTTP headers. Values may be secrets: they are never logged or put in a digest.
        timeout_s: seconds one model call may take.
        usd_per_million: price of a million input and output tokens; None takes MLflow's model catalogue.
    """

    uri: str
    base_url: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = 60.0
    usd_per_million: tuple[float, float] | None = None


@runtime_checkable
class JudgeLibrary(Protocol):
    """What an entry point in `mlflow_assay.judges` names: a family of judges under one prefix.

    A judge is addressed as `<entry point>/<contract name>`, or by the entry point alone when the library
    holds one judge of that name. A `Scorer` subclass with a class attribute `contract` may be named
    directly instead: it counts as a library of one whose parameters are the class's fields.
    """

    def contracts(self) -> Iterable[JudgeContract]:
        """All judges of the family. Must not touch the network or import the wrapped library's models."""
        ...

    def build(self, name: str, params: Mapping[str, Any], model: ModelSettings | None) -> Scorer:
        """A new scorer for one judge; a fresh instance per call.

        Raises:
            ConfigError: unknown name, unknown or wrong parameter, or a model is needed and None was given.
        """
        ...


@runtime_checkable
class DeclaringScorer(Protocol):
    """A scorer that knows what it needs with its parameters, maps fields and calls models by its own means.

    A library's `build` may return one; others are plain MLflow scorers.
    """

    @property
    def needs(self) -> tuple[str, ...]:
        """As `JudgeContract.needs`, for the parameters it was built with."""
        ...

    def declare(self, contract: JudgeContract) -> None:
        """Told the contract in force: a definition may set another threshold than the library's."""
        ...


@runtime_checkable
class Composite(Protocol):
    """A judge made of judges: it says whom to ask and what their verdicts come to, and calls nobody itself.

    So the engine asks the members its own way (each with its cache entry, budget, rate limit and check of
    needed fields), and the same rules serve a scorer that asks them one after the other.
    """

    @property
    def members(self) -> tuple[BoundJudge, ...]:
        """The judges it may ask."""
        ...

    def decide(self) -> Generator[tuple[int, ...], Sequence[Feedback], Feedback]:
        """One deliberation: yields positions of members to ask, is sent their verdicts in that order.

        Returns:
            The verdict, with what the members' calls cost in its metadata. Members' verdicts may be unscored.

        Raises:
            UnscoredError: there is no verdict; its metadata holds what the members' calls cost.
        """
        ...


@dataclass(frozen=True)
class BoundJudge:
    """A judge ready to run: its contract, the MLflow scorer that runs it, and what its verdicts depend on.

    Attributes:
        contract: what the value means and which fields are needed.
        scorer: any `mlflow.genai.scorers.Scorer`.
        digest: 16 hex digits over instructions, value, parameters, model and library version: equal digests
            mean comparable verdicts.
        model: the judge model, or None for judges that call none.
        fields: trace fields mapped onto `inputs` and `outputs` (see `trace_fields`); empty means the root
            span's own inputs and outputs.
        composite: for a judge made of other judges, its rules; None for all others.
    """

    contract: JudgeContract
    scorer: Scorer
    digest: str
    model: ModelSettings | None = None
    fields: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    composite: Composite | None = None

    def callees(self) -> tuple[BoundJudge, ...]:
        """The judges that are really called: this one, or all those a composite may ask, however deep."""
        if self.composite is None:
            return (self,)
        return tuple(callee for member in self.composite.members for callee in member.callees())

    @property
    def name(self) -> str:
        """The assessment name of its verdicts."""
        return self.contract.name


# --- sources, importers, sinks, labels ----------------------------------------------------------------


@runtime_checkable
class TraceSource(Protocol):
    """Where traces to be judged come from."""

    def traces(self, *, spans: bool = True) -> Iterator[Trace]:
        """Traces, oldest first, without holding them all in memory. `spans=False` may leave spans out."""
        ...


@runtime_checkable
class TraceImporter(Protocol):
    """Turns recorded runs in files into MLflow traces."""

    format: ClassVar[str]

    def runs(self, path: Path) -> Iterator[Any]:
        """The recorded runs of one file, as `sources.recorded.RecordedRun`.

        Raises:
            InputError: the file is not in this format (names what was found).
        """
        ...


@runtime_checkable
class Sink(Protocol):
    """Where verdicts go. One failing sink never stops the others."""

    name: ClassVar[str]

    def write(self, feedback: Iterable[Feedback]) -> int:
        """Deliver verdicts (each with its `trace_id`) and return how many were delivered.

        Raises:
            SinkError: it could not; the message names the sink and what to do.
        """
        ...


@dataclass(frozen=True)
class Label:
    """A human's (or ground truth's) judgement of one trace.

    Attributes:
        trace_id: `tr-<32 hex>`.
        name: the assessment's name.
        value: as stored; normalise with the judge contract's `value.read`.
        by: who, the assessment's source id.
        rationale: why, or None.
    """

    trace_id: str
    name: str
    value: Any
    by: str
    rationale: str | None = None


@runtime_checkable
class LabelSource(Protocol):
    """Where human labels come from."""

    def labels(self) -> Iterator[Label]:
        """All labels, conflicting ones included."""
        ...


# --- the quality bridge: every assessment, as it changes, to every sink -------------------------------------


@dataclass(frozen=True)
class EvaluatedTrace:
    """What a sink may copy of the run an assessment is about, so that nobody has to join.

    Attributes:
        trace_id: MLflow's `tr-<32 hex>`; the hex part is the OpenTelemetry trace id.
        root_span_id: 16 hex digits; None where the trace has no spans in MLflow.
        experiment_id: MLflow's experiment.
        started_ms, ended_ms: Unix time; `ended_ms` is None for a run that has not ended.
        status: MLflow's trace state, `OK`, `ERROR`, …
        agent, model, conversation, prompt_version, service, environment: None where the trace does not say.
        prompt_version: `<name>/<version>`.
        slices: further bounded labels the user asked to copy (tag name to value).
    """

    trace_id: str
    experiment_id: str
    root_span_id: str | None = None
    started_ms: int = 0
    ended_ms: int | None = None
    status: str = "OK"
    agent: str | None = None
    model: str | None = None
    conversation: str | None = None
    prompt_version: str | None = None
    service: str | None = None
    environment: str | None = None
    slices: Mapping[str, str] = field(default_factory=dict)

    @property
    def otel_trace_id(self) -> str:
        """32 hex digits."""
        return self.trace_id.removeprefix("tr-")


@dataclass(frozen=True)
class AssessmentRevision:
    """One state of one assessment: as created, as edited, or its deletion. The unit every sink is given.

    Attributes:
        key: 32 hex digits over the assessment's id and what it says: equal keys are the same revision, after any
            restart, in any worker.
        change: `created` when it comes to stand (first seen, or restored), `edited` while it stands, `deleted` when
            it stands no longer: gone from MLflow, or overridden by another (valid is false there). A deletion
            carries what was last said. So created less deleted is what stands.
        replaces: key of the revision this one supersedes; None for a creation.
        revision: from 1, counted per assessment.
        assessment_id: MLflow's id.
        trace: the evaluated run.
        span_id: the evaluated span, 16 hex digits; None means the root span.
        name: the assessment's name (judge or label).
        kind: `feedback` or `expectation`.
        source_type: MLflow's `LLM_JUDGE`, `CODE` or `HUMAN`.
        source_id: who.
        value: as stored in MLflow; None where unscored.
        score: the value as a number where it is one (booleans are 1 and 0); None otherwise.
        outcome: pass, fail or unscored; None where nothing says which value is good.
        reason: for an unscored verdict, why (a `contracts.Unscored` value or the writer's own error code).
        rationale: redacted where the user asked for it; None where there is none.
        judge_version, judge_digest, judge_model: None for assessments not written by us.
        input_tokens, output_tokens, cost_usd, latency_ms: of the judge's calls; None where unknown.
        cache_hit: whether no call was made; None where unknown.
        cascade_stage: from 1; None for judges that are no cascade.
        created_ms, changed_ms: Unix time of the assessment and of this revision, by MLflow's clock.
        metadata: the assessment's remaining metadata.
    """

    key: str
    change: Literal["created", "edited", "deleted"]
    assessment_id: str
    trace: EvaluatedTrace
    name: str
    kind: Literal["feedback", "expectation"]
    source_type: str
    source_id: str
    created_ms: int
    changed_ms: int
    value: Any = None
    score: float | None = None
    outcome: Outcome | None = None
    reason: str | None = None
    rationale: str | None = None
    span_id: str | None = None
    revision: int = 1
    replaces: str | None = None
    judge_version: str | None = None
    judge_digest: str | None = None
    judge_model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    latency_ms: float | None = None
    cache_hit: bool | None = None
    cascade_stage: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Delivery:
    """What became of one revision at one sink.

    Attributes:
        state: `delivered`; `skipped` (this sink has no form for it, for good); `retry` (the sink may take it
            later); `rejected` (it never will: to the dead letters).
        detail: for a person; required unless delivered.
        retry_after_s: the sink's own wish; None leaves the wait to the backoff.
    """

    state: Literal["delivered", "skipped", "retry", "rejected"]
    detail: str = ""
    retry_after_s: float | None = None


@runtime_checkable
class BridgeSink(Protocol):
    """Where assessment revisions go when they leave MLflow. Built from its own options by keyword.

    Delivery is at least once: a revision may come again with the same `key` after a crash between the sink's
    acknowledgement and the outbox's note of it. What that means at this far end a sink may say in one sentence, in a
    class attribute `guarantee: str`; `assay watch --help` shows it.
    """

    name: ClassVar[str]

    def deliver(self, revisions: Sequence[AssessmentRevision]) -> Sequence[Delivery]:
        """Send a batch and say what became of each, in the same order; never raises for the far end's faults.

        Returns only when the far end has acknowledged or refused (no buffering past the return).
        """
        ...

    def close(self) -> None:
        """Let go of connections; nothing is pending by then."""
        ...


@runtime_checkable
class InquirableSink(Protocol):
    """A bridge sink whose far end can be asked what it holds; optional beside `BridgeSink`.

    The bridge asks before it sends again what a killed worker may have sent, and `assay bridge reconcile` asks.
    """

    def held(self, revisions: Sequence[AssessmentRevision]) -> Mapping[str, int]:
        """How many copies of each revision the far end holds, by key; 0 or absent means none, 2 a duplicate.

        Raises:
            SinkError: it could not be asked.
        """
        ...


@runtime_checkable
class CountingSink(Protocol):
    """A bridge sink whose far end keeps sums only, such as counters; optional beside `BridgeSink`."""

    def tally(self) -> Mapping[tuple[str, str], int]:
        """Revisions counted there since counting began, by (assessment name, change).

        Raises:
            SinkError: it could not be asked.
        """
        ...


@runtime_checkable
class BridgeObserver(Protocol):
    """Told what the bridge does, to make metrics of it. Called from several threads; what it raises is logged."""

    def delivered(self, sink: str, outcomes: Sequence[tuple[AssessmentRevision, Delivery]], at_ms: int) -> None:
        """A batch came back from a sink at this Unix time, and the outbox has noted it."""
        ...

    def judged(self, experiment_id: str, counts: Mapping[str, int]) -> None:
        """Traces gone through since the last call, by `judged`, `sampled_out`."""
        ...

    def backlog(self, status: BridgeStatus) -> None:
        """How things stand; about every ten seconds."""
        ...


@dataclass(frozen=True)
class SinkStatus:
    """How one sink stands in the outbox.

    Attributes:
        sink: its name in the outbox.
        pending: revisions never tried, retrying: tried and to be tried again, dead: given up, with a reason each.
        delivered, skipped: revisions done.
        lag_s: age of the oldest revision not yet delivered (dead ones apart), seconds; 0 when there is none.
        oldest_error: what the far end said of the oldest one retrying; None when there is none.
    """

    sink: str
    pending: int = 0
    retrying: int = 0
    dead: int = 0
    delivered: int = 0
    skipped: int = 0
    lag_s: float = 0.0
    oldest_error: str | None = None


@dataclass(frozen=True)
class BridgeStatus:
    """How the bridge stands.

    Attributes:
        sinks: by sink name, in order.
        watermark_age_s: by experiment id, seconds since MLflow was last read to its end; None where never.
        standing: by experiment id, assessments known to stand in MLflow.
        budget_spent: share of the judging budget spent, in [0, 1]; None without a budget.
    """

    sinks: tuple[SinkStatus, ...] = ()
    watermark_age_s: Mapping[str, float | None] = field(default_factory=dict)
    standing: Mapping[str, int] = field(default_factory=dict)
    budget_spent: float | None = None


@runtime_checkable
class DatasetStore(Protocol):
    """Where versions of datasets are kept. An entry point in `mlflow_assay.dataset_stores` is named by a URL scheme.

    A version is there whole or not at all, and is never changed. Two writers at once never lose one another's work:
    each gets a version of its own, or the later one an error.
    """

    def __init__(self, url: str) -> None:
        """Opens the store at a URL of its scheme; touches nothing until it is used."""
        ...

    @property
    def url(self) -> str:
        """Where it is."""
        ...

    def names(self) -> list[str]:
        """All datasets that have a version, sorted."""
        ...

    def versions(self, name: str) -> list[Manifest]:
        """Every version of one dataset, oldest first; empty when there is no such dataset."""
        ...

    def find(self, reference: str) -> Manifest:
        """The version meant by `NAME`, `NAME@latest`, `NAME@v3`, `NAME@<alias>` or `NAME@<digest or its start>`.

        Raises:
            StoreError: there is none; what there is, is listed.
        """
        ...

    def rows(self, version: Manifest, *, split: str | None = None) -> Iterator[DatasetRow]:
        """The version's rows, or those of one split, without holding them all in memory."""
        ...

    def arrow(self, version: Manifest) -> pyarrow.dataset.Dataset:
        """The version's rows as an Arrow dataset, read lazily: for SQL, diffs and frames."""
        ...

    def write(self, name: str, rows: Iterable[DatasetRow], about: About, *, expect: int | None = None) -> Manifest:
        """Store the rows as a new version, and return it; rows equal to the latest version's make no new one.

        Args:
            expect: the version this one is made from, 0 for none: if another has come since, nothing is written.
                None takes whatever is the latest as the parent.

        Raises:
            ConflictError: `expect` is no longer the latest version.
            ConfigError: two rows have one id, or the name is not valid.
        """
        ...

    def append(
        self, name: str, rows: Iterable[DatasetRow], about: About, *, replace: bool = False, expect: int | None = None
    ) -> Manifest:
        """Store a new version that holds the latest one's rows and these.

        Rows that are there already, unchanged, are left out. A row with the id of another content is an error, or with
        `replace` takes its place. What `about` leaves open of the rules for the data is as before. `expect` is as in
        `write`.
        """
        ...

    def aliases(self, name: str) -> dict[str, int]:
        """Alias to version number; `latest` is not among them."""
        ...

    def set_alias(self, name: str, alias: str, version: int | None) -> None:
        """Point an alias at a version, or remove it (None); who moved it and when is kept."""
        ...

    def tags(self, name: str) -> dict[int, dict[str, str]]:
        """Tags of each version that has any."""
        ...

    def set_tags(self, name: str, version: int, tags: Mapping[str, str | None]) -> None:
        """Set tags of a version; None removes one."""
        ...
