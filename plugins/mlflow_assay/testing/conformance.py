"""What every plugin must do, as test classes: derive one, say how to make yours, and pytest runs the rest.

Built-ins pass the same classes (tests/conformance/). Nothing here needs a network, a key or a server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mlflow_assay import semconv
from mlflow_assay.contracts import BoundJudge, Outcome, Sink, TraceImporter, TraceSource
from mlflow_assay.errors import InputError

if TYPE_CHECKING:
    from mlflow.entities import Feedback, Trace

__all__ = [
    "ImporterConformance",
    "JudgeConformance",
    "SinkConformance",
    "SourceConformance",
    "sample_feedback",
    "sample_span",
    "sample_trace",
]


def sample_trace(inputs: Any = None, outputs: Any = None, *, number: int = 1, spans: bool = True) -> Trace:
    """A finished trace in memory, with a root span and one tool span; no store is needed.

    Args:
        inputs, outputs: of the root span.
        number: makes its ids differ from other numbers'.
        spans: False leaves all spans out, as for a trace that cannot be read.
    """
    from mlflow.entities import (
        Trace,
        TraceData,
        TraceInfo,
        TraceLocation,
        TraceLocationType,
        TraceState,
    )
    from mlflow.entities.trace_location import MlflowExperimentLocation

    trace_id = f"tr-{number:032x}"
    place = TraceLocation(TraceLocationType.MLFLOW_EXPERIMENT, MlflowExperimentLocation("0"))
    info = TraceInfo(trace_id, place, 1_700_000_000_000, TraceState.OK, execution_duration=120)
    made = [sample_span(number, 1, "agent", "AGENT", inputs, outputs)] if spans else []
    if spans:
        made.append(sample_span(number, 2, "lookup", "TOOL", {"key": "k"}, {"found": True}, parent=1))
    return Trace(info, TraceData(spans=made))


def sample_span(
    number: int, index: int, name: str, kind: str, inputs: Any, outputs: Any, parent: int | None = None
) -> Any:
    """A finished span of the sample trace `number`; `index` and `parent` tell its spans apart."""
    from mlflow.entities import Span
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

    def context(span: int) -> SpanContext:
        return SpanContext(number, (number << 8) + span, is_remote=False, trace_flags=TraceFlags(1))

    start = 1_700_000_000_000_000_000 + index
    attributes = {
        "mlflow.traceRequestId": json.dumps(f"tr-{number:032x}"),
        "mlflow.spanType": json.dumps(kind),
        "mlflow.spanInputs": json.dumps(inputs),
        "mlflow.spanOutputs": json.dumps(outputs),
    }
    return Span(
        ReadableSpan(
            name,
            context(index),
            context(parent) if parent else None,
            attributes=attributes,
            start_time=start,
            end_time=start + 100_000_000,
            status=Status(StatusCode.OK),
        )
    )


def sample_feedback(trace_id: str = f"tr-{1:032x}", *, value: Any = True, revision: int = 0) -> Feedback:
    """A verdict as the engine writes it; `value=None` makes it unscored."""
    from mlflow.entities import AssessmentSource, Feedback
    from mlflow.entities.assessment_error import AssessmentError

    outcome = Outcome.UNSCORED if value is None else Outcome.PASS if value else Outcome.FAIL
    metadata = {semconv.JUDGE_NAME: "sample", semconv.JUDGE_DIGEST: "0" * 16, semconv.OUTCOME: outcome.value}
    if value is None:
        metadata[semconv.UNSCORED_REASON] = "timeout"
    made = Feedback(
        name="sample",
        value=value,
        error=AssessmentError("timeout", "no answer within 60 s") if value is None else None,
        rationale=None if value is None else "because \u2603",
        source=AssessmentSource("CODE", "sample"),
        metadata=metadata,
        trace_id=trace_id,
    )
    made.assessment_id = f"a-{revision:032x}"
    return made


class SinkConformance:
    """Every sink: takes nothing, many, unscored and odd text; says how many it delivered; has a name."""

    def make(self, tmp_path: Path) -> Sink:
        """A sink writing somewhere below `tmp_path`."""
        raise NotImplementedError

    def trace_ids(self) -> Sequence[str]:
        """Ids of three traces the sink can take verdicts for."""
        return [f"tr-{i:032x}" for i in (1, 2, 3)]

    def test_it_has_a_name(self, tmp_path: Path) -> None:
        """The name is how a failure of this sink is reported."""
        assert self.make(tmp_path).name

    def test_nothing_is_nothing(self, tmp_path: Path) -> None:
        """An empty batch is no error and delivers nothing."""
        assert self.make(tmp_path).write([]) == 0

    def test_it_says_how_many_it_delivered(self, tmp_path: Path) -> None:
        """Scored and unscored verdicts are delivered alike, also from an iterator."""
        values = (True, False, None)
        batch = [
            sample_feedback(i, value=v, revision=n)
            for n, (i, v) in enumerate(zip(self.trace_ids(), values, strict=True))
        ]
        assert self.make(tmp_path).write(iter(batch)) == len(batch)

    def test_it_does_not_change_what_it_is_given(self, tmp_path: Path) -> None:
        """Other sinks get the same objects."""
        feedback = sample_feedback(self.trace_ids()[0])
        before = feedback.to_dictionary()
        self.make(tmp_path).write([feedback])
        assert feedback.to_dictionary() == before


class SourceConformance:
    """Every source: the same traces each time it is asked, one by one, with unique ids."""

    def make(self, tmp_path: Path) -> TraceSource:
        """A source with at least one trace."""
        raise NotImplementedError

    def test_the_traces_are_the_same_each_time(self, tmp_path: Path) -> None:
        """A source can be read again, and ids do not repeat within it."""
        source = self.make(tmp_path)
        first, second = ([t.info.trace_id for t in source.traces()] for _ in range(2))
        assert first == second
        assert len(set(first)) == len(first) > 0

    def test_spans_can_be_left_out(self, tmp_path: Path) -> None:
        """Asking without spans gives the same traces."""
        source = self.make(tmp_path)
        assert [t.info.trace_id for t in source.traces(spans=False)] == [t.info.trace_id for t in source.traces()]


class ImporterConformance:
    """Every importer: refuses what is not its format with an `InputError` that names the file."""

    def make(self) -> TraceImporter:
        """The importer."""
        raise NotImplementedError

    def test_it_names_its_format(self) -> None:
        """The format is what `--format` takes."""
        assert self.make().format

    def test_what_is_not_its_format_is_refused_by_name(self, tmp_path: Path) -> None:
        """Not JSON, another shape, an empty file, no file: an InputError each, naming the file."""
        for name, content in {
            "text.json": "hello",
            "list.json": "[1, 2]",
            "empty.json": "",
            "absent.json": None,
        }.items():
            path = tmp_path / name
            if content is not None:
                path.write_text(content)
            try:
                list(self.make().runs(path))
            except InputError as error:
                assert name in str(error)
            else:
                raise AssertionError(f"{name} was accepted")


class JudgeConformance:
    """Every judge: its verdict carries name, source, outcome and digest; what it cannot judge is unscored."""

    def make(self) -> BoundJudge:
        """The judge, bound to a model that answers if it needs one."""
        raise NotImplementedError

    def trace(self) -> Trace:
        """A trace the judge can reach a verdict on."""
        return sample_trace({"request": "Where is my parcel?"}, {"answer": "It arrives tomorrow."})

    def test_a_verdict_says_what_it_is_and_where_it_is_from(self) -> None:
        """Name, source, outcome and digest are set, and the value is on the declared menu."""
        bound = self.make()
        found = self._judge(bound, self.trace())
        assert found.error is None, found.error
        facts = found.metadata or {}
        assert (found.name, facts[semconv.JUDGE_DIGEST]) == (bound.name, bound.digest)
        assert found.source.source_id not in (None, "", "default")
        passed = bound.contract.value.passes(bound.contract.value.read(found.value))  # type: ignore[arg-type]
        assert facts[semconv.OUTCOME] == (Outcome.PASS if passed else Outcome.FAIL).value

    def test_the_same_trace_gets_the_same_verdict(self) -> None:
        """Judging twice gives the same value and outcome."""
        bound, trace = self.make(), self.trace()
        first, second = self._judge(bound, trace), self._judge(bound, trace)
        assert (first.value, first.metadata[semconv.OUTCOME]) == (second.value, second.metadata[semconv.OUTCOME])

    def test_a_trace_without_spans_is_unscored_and_never_a_fail(self) -> None:
        """Nothing to look at is no evidence; a judge that needs none of it may still score."""
        found = self._judge(self.make(), sample_trace(spans=False))
        if self.make().contract.needs:
            assert found.metadata[semconv.OUTCOME] == Outcome.UNSCORED.value
            assert found.value is None

    def test_the_digest_is_stable(self) -> None:
        """Building the judge again gives the same digest, or no verdict would ever be reused."""
        assert self.make().digest == self.make().digest

    @staticmethod
    def _judge(bound: BoundJudge, trace: Trace) -> Any:
        from mlflow_assay.engine import judging

        return judging.judge(bound, judging.subject_of(bound, trace, (trace,)))


class PromptOptimizerConformance:
    """Every prompt optimizer: keeps names and variables, repeats itself, and says what it scored."""

    prompts: ClassVar[dict[str, str]] = {
        "router": "Sort each request.\n\nDesks:\n- billing: invoice\n- support: outage\n\nRequest: {{request}}\n"
    }

    def make(self) -> Any:
        """A new optimizer, set to ask for little."""
        raise NotImplementedError

    def rows(self) -> list[dict[str, Any]]:
        """Rows in MLflow's form, each unlike the others."""
        words = {"billing": "invoice", "support": "outage", "product": "handset"}
        pairs = [
            (desk, f"{desk[::-1]}{i} {word} {i * 7919}x{i * 104729}") for i in range(8) for desk, word in words.items()
        ]
        return [{"inputs": {"request": text}, "expectations": {"desk": desk}} for desk, text in pairs]

    def test_it_is_an_optimizer_of_mlflow(self) -> None:
        """`mlflow.genai.optimize_prompts` takes it."""
        from mlflow.genai.optimize.optimizers import BasePromptOptimizer

        assert isinstance(self.make(), BasePromptOptimizer)

    def test_names_and_variables_stay(self) -> None:
        """The same prompts come back, each with its variables and no others."""
        found = self._optimized()
        assert set(found.optimized_prompts) == set(self.prompts)
        for name, text in found.optimized_prompts.items():
            assert re.findall(r"{{\s*(\w+)\s*}}", text) == re.findall(r"{{\s*(\w+)\s*}}", self.prompts[name])

    def test_the_best_is_no_worse_than_what_there_was(self) -> None:
        """The prompts as they are take part in the choice."""
        found = self._optimized()
        assert found.initial_eval_score is not None
        assert found.final_eval_score >= found.initial_eval_score

    def test_it_repeats_itself(self) -> None:
        """The same rows and answers give the same prompts."""
        assert self._optimized().optimized_prompts == self._optimized().optimized_prompts

    def _optimized(self) -> Any:
        from mlflow.genai.optimize.types import EvaluationResultRecord

        def record(prompts: dict[str, str], row: dict[str, Any]) -> EvaluationResultRecord:
            said, right = "product" if "product" in prompts["router"] else "billing", row["expectations"]["desk"]
            return EvaluationResultRecord(
                inputs=row["inputs"],
                outputs=said,
                expectations=row["expectations"],
                score=float(said == right),
                trace=None,
                rationales={"desk": f"expected {right}"},
            )

        def evaluate(prompts: dict[str, str], dataset: list[dict[str, Any]]) -> list[EvaluationResultRecord]:
            return [record(prompts, row) for row in dataset]

        return self.make().optimize(evaluate, self.rows(), dict(self.prompts), enable_tracking=False)
