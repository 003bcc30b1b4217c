"""Recorded agent runs, in no particular file format and for no particular store.

What stands between an importer, which reads a format, and `importing`, which writes traces into MLflow.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mlflow_assay.contracts import Unscored

if TYPE_CHECKING:
    from mlflow.entities import Span

__all__ = [
    "RecordedAssessment",
    "RecordedJudge",
    "RecordedRun",
    "RecordedSpan",
    "digest",
    "span_id",
]


@dataclass(frozen=True)
class RecordedSpan:
    """One step of a run.

    Attributes:
        span_id: 16 hex digits, unique within the run and the same at every reading of the file.
        name: what is shown in the tree, for a tool its name.
        type: MLflow's span type: `AGENT`, `CHAT_MODEL`, `TOOL`, `TASK`, …
        start_ns: nanoseconds since the Unix epoch.
        end_ns: likewise; not before `start_ns`.
        parent_id: the parent's `span_id`; None for the root.
        inputs: any JSON-like value; None when there were none.
        outputs: likewise.
        error: the exception's message; None when the step succeeded.
        model: the model as the recording names it; None when no model was called or it is not recorded.
        input_tokens: tokens of the prompt; None when not recorded.
        output_tokens: tokens of the reply; None when not recorded.
        cost_usd: US dollars the model call cost; None when not recorded, which is not 0.
        attributes: further span attributes.
    """

    span_id: str
    name: str
    type: str
    start_ns: int
    end_ns: int
    parent_id: str | None = None
    inputs: Any = None
    outputs: Any = None
    error: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RecordedJudge:
    """The judge that gave a recorded verdict, as far as the recording tells.

    Attributes:
        name: name of the judge's prompt; its verdicts carry it.
        version: of the prompt.
        model: as recorded, for example `azure/gpt-4o-2024-11-20`.
        model_uri: the same as an MLflow model URI, `azure:/gpt-4o-2024-11-20`.
        parameters: generation parameters.
        system_prompt: the role the judge was given.
        opening: what came before the run's transcript (domain, policy).
        instructions: what came after it.
    """

    name: str
    version: str
    model: str
    model_uri: str
    parameters: Mapping[str, Any]
    system_prompt: str
    opening: str
    instructions: str

    @property
    def digest(self) -> str:
        """16 hex digits over prompt, model and parameters; not over the name."""
        return digest([self.system_prompt, self.opening, self.instructions, self.model, dict(self.parameters)])


@dataclass(frozen=True)
class RecordedAssessment:
    """Ground truth or a verdict that the recording holds about a run.

    Attributes:
        kind: `expectation` (what ought to have happened), `feedback` (a person's or program's finding) or
            `verdict` (a recorded judge's; imported only when asked for).
        id: the same at every reading of the file; two different verdicts never share it.
        name: the assessment's name in MLflow.
        value: what MLflow stores; None when unscored.
        source_type: MLflow's `AssessmentSourceType`: `HUMAN`, `CODE`, `LLM_JUDGE`.
        source_id: who: a person, a program, a model.
        rationale: why; None when not recorded.
        metadata: further facts, strings.
        unscored: the reason when the verdict could not be read, and a sentence for a person; else None.
        raw: what a judge answered, before it was normalised; None for other kinds.
        read_as: in words, how `raw` was read; None for other kinds.
        judge: the judge of a `verdict`.
    """

    kind: Literal["expectation", "feedback", "verdict"]
    id: str
    name: str
    value: Any
    source_type: str
    source_id: str
    rationale: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    unscored: tuple[Unscored, str] | None = None
    raw: str | None = None
    read_as: str | None = None
    judge: RecordedJudge | None = None


@dataclass(frozen=True)
class RecordedRun:
    """One recorded run: it becomes one MLflow trace.

    Attributes:
        format: the importer's name.
        id: the recording's own id of the run, stable across files.
        spans: the steps, root first. A format MLflow reads itself (OTLP) gives MLflow's own spans.
        assessments: ground truth and verdicts.
        tags: for the trace.
        session_id: the conversation the run belongs to; None when there is none.
        trace_id: 32 hex digits where the recording has an OpenTelemetry trace id; None derives one from
            experiment, format and id, so that it is the same at every import.
        partial: spans of the same trace may also stand elsewhere, in other lines, files or imports.
    """

    format: str
    id: str
    spans: Sequence[RecordedSpan | Span]
    assessments: Sequence[RecordedAssessment] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    session_id: str | None = None
    trace_id: str | None = None
    partial: bool = False


def digest(value: Any) -> str:
    """16 hex digits over a JSON-like value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def span_id(run_id: str, index: int) -> str:
    """16 hex digits for the `index`-th span of a run that has no span ids of its own (0 is the root)."""
    return digest(["span", run_id, index])
