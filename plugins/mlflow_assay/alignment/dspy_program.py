"""A judge as a DSPy program: its own model judges, its verdicts are compared by its pass rule, every call counts."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import dspy
from mlflow.genai.judges.optimizers.dspy_utils import (
    append_input_fields_section,
    create_dspy_signature,
    format_demos_as_examples,
)
from mlflow.metrics.genai.model_utils import convert_mlflow_uri_to_litellm

from mlflow_assay.alignment.aligner import Task
from mlflow_assay.alignment.labelled import Labelled
from mlflow_assay.alignment.nearest import kappa_of
from mlflow_assay.alignment.prepared import value_of
from mlflow_assay.contracts import ModelSettings, Unscored, UnscoredError
from mlflow_assay.engine import mlflow_endpoint
from mlflow_assay.engine.judging import subject_of
from mlflow_assay.errors import AssayError

__all__ = ["CallsRanOutError", "Workshop"]

_SUFFIX = "/chat/completions"


class CallsRanOutError(AssayError):
    """The limit of model calls is reached; raised inside DSPy to end the search."""


class Workshop:
    """The task in DSPy's terms.

    Args:
        task: what there is to learn from.
        reflection: the model that writes instructions.
        threads: calls side by side.
        fresh: ask the judge anew about a trace it has judged with the same instructions before.
    """

    def __init__(self, task: Task, reflection: ModelSettings, threads: int, *, fresh: bool = False) -> None:
        self._task, self._threads, self._fresh = task, threads, fresh
        self._weight = _weights(task.train)
        self.exhausted = False
        self.lm: Any = _counted_lm(reflection, self._take)
        self._by_content: dict[str, Labelled] = {}
        self.train = [self._example(e) for e in task.train]
        self.validation = [self._example(e) for e in task.validation]

    @property
    def instructions(self) -> str:
        """The judge's instructions as they are."""
        scorer: Any = self._task.bound.scorer
        return str(scorer.instructions)

    @property
    def left(self) -> int | None:
        """Calls that may still be made; None without a limit."""
        return self._task.asker.left

    def run(self, work: Callable[[], str]) -> str:
        """Do the work with DSPy set up; what it prints goes to the log at debug level, not to the user's terminal."""
        printed = io.StringIO()
        loggers = [logging.getLogger(name) for name in ("dspy", "gepa")]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            with (
                dspy.context(lm=self.lm, num_threads=self._threads),
                mlflow_endpoint.route(self._task.model),
                contextlib.redirect_stdout(printed),
            ):
                return work()
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            logging.getLogger(__name__).debug("%s", printed.getvalue())

    def program(self) -> Any:
        """The judge as a DSPy program whose instructions may be changed."""
        return _program(self)

    def judge(self, program: Any, shown: dict[str, Any]) -> Any:
        """One verdict of the judge with the program's instructions, as a DSPy prediction; unscored it is empty.

        Raises:
            CallsRanOutError: no call is left.
        """
        example = self._by_content[_content(shown)]
        verdict = self._task.ask(self.text(program), [example], fresh=self._fresh)[example.id]
        if verdict.unscored is Unscored.BUDGET:
            self._ran_out()
        return dspy.Prediction(result=verdict.value, rationale=verdict.rationale or "")

    def text(self, program: Any) -> str:
        """The program's instructions as a judge's: the input fields named, its cases before them."""
        scorer: Any = self._task.bound.scorer
        text = append_input_fields_section(program.signature.instructions, scorer)
        cases = format_demos_as_examples(getattr(program, "demos", []), scorer)
        if not cases:
            return str(text)
        return f"{cases.replace('{{', '{ {').replace('}}', '} }')}\n\n{text}"

    def best_on_validation(self, programs: Sequence[Any]) -> str:
        """The text with the best kappa on the validation part, of as many as the calls allow; the first of equals."""
        texts = list(dict.fromkeys(self.text(p) for p in programs if p is not None))
        scored: list[tuple[float, str]] = []
        for text in texts:
            if self.left is not None and self.left < len(self._task.validation):
                break
            verdicts = self._task.ask(text, self._task.validation)
            scored.append((kappa_of(verdicts, self._task.validation), text))
        return max(scored, key=lambda s: s[0])[1] if scored else texts[0]

    def metric(self, example: Any, prediction: Any, trace: Any = None) -> float:
        """Right or wrong by the judge's pass rule; right on the rarer kind of label counts more.

        The mean over examples rises with balanced accuracy, and so with kappa, and not with guessing.
        """
        return self._weight[example.passed] if self._passed(prediction) == example.passed else 0.0

    def metric_with_reasons(
        self, gold: Any, pred: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None
    ) -> Any:
        """The same for GEPA, with what the experts said."""
        score = self.metric(gold, pred)
        words = "agrees with" if score else "contradicts"
        reason = f" Their reason: {gold.rationale}" if gold.rationale else ""
        feedback = f"The verdict {pred.result!r} {words} the experts, whose verdict is {gold.result!r}.{reason}"
        return dspy.Prediction(score=score, feedback=feedback)

    def guidelines(self) -> list[str]:
        """What MemAlign distils from the training labels and their reasons; a batch that fails is an error."""
        from jinja2 import Template
        from mlflow.genai.judges.optimizers.memalign import prompts, utils

        records = [
            {**{k: str(v) for k, v in e.inputs().items()}, "result": e.result, "rationale": e.rationale}
            for e in self.train
        ]
        numbers = list(range(len(records)))
        uri = self._task.bound.model.uri if self._task.bound.model else ""
        batches = utils._create_batches(records, numbers, self.instructions, [], uri)
        found: dict[str, None] = {}
        for batch in batches:
            prompt = Template(prompts.DISTILLATION_PROMPT_TEMPLATE).render(
                judge_instructions=self.instructions,
                feedback_records=[records[i] for i in batch],
                ids=batch,
                existing_guidelines=list(found),
                zip=zip,
                len=len,
            )
            reply = self.lm(messages=[{"role": "user", "content": prompt}])[0]
            ids = {i: self._task.train[i].id for i in numbers}
            for guideline in utils._parse_batch_response(reply, ids, set(found)):
                text = guideline.guideline_text.replace("{{", "{ {").replace("}}", "} }")
                found.setdefault(text, None)
        return list(found)

    def _take(self, count: int = 1) -> None:
        for _ in range(count):
            if not self._task.asker.take():
                self._ran_out()

    def _ran_out(self) -> NoReturn:
        self.exhausted = True
        raise CallsRanOutError("The limit of model calls is reached.", fix="Raise --max-calls.")

    def _passed(self, prediction: Any) -> bool | None:
        spec = self._task.bound.contract.value
        try:
            return spec.passes(spec.read(prediction.result))  # type: ignore[arg-type]
        except UnscoredError:
            return None

    def _example(self, labelled: Labelled) -> Any:
        scorer: Any = self._task.bound.scorer
        subject = subject_of(self._task.bound, labelled.trace)
        held = {
            "inputs": subject.inputs,
            "outputs": subject.outputs,
            "expectations": dict(subject.expectations) or None,
        }
        shown = {f.name: held[f.name] for f in scorer.get_input_fields()}
        self._by_content.setdefault(_content(shown), labelled)
        value = value_of(self._task.bound, labelled)
        return dspy.Example(
            **shown,
            result=("pass" if labelled.passed else "fail") if value is None else str(value),
            rationale=" / ".join(labelled.label.rationales),
            passed=labelled.passed,
        ).with_inputs(*shown)


def _content(shown: Mapping[str, Any]) -> str:
    return json.dumps(shown, sort_keys=True, default=str)


def _weights(train: Sequence[Labelled]) -> dict[bool, float]:
    """1 for the rarer kind of label, less for the commoner one."""
    good = sum(e.passed for e in train)
    bad = len(train) - good
    if not good or not bad:
        return {True: 1.0, False: 1.0}
    return {True: min(good, bad) / good, False: min(good, bad) / bad}


def _program(workshop: Workshop) -> Any:
    """The DSPy program; the workshop stands in the class, which DSPy does not copy."""

    class JudgeProgram(dspy.Predict):
        def __init__(self) -> None:
            scorer: Any = workshop._task.bound.scorer
            super().__init__(create_dspy_signature(scorer))

        def forward(self, **shown: Any) -> Any:
            record = shown.pop("_trace", True)
            fields = {k: v for k, v in shown.items() if k in self.signature.input_fields}
            prediction = workshop.judge(self, fields)
            if record and dspy.settings.trace is not None:  # GEPA and SIMBA read what was asked and answered
                dspy.settings.trace.append((self, {**shown}, prediction))
            return prediction

    return JudgeProgram()


def _counted_lm(model: ModelSettings, take: Callable[[int], None]) -> Any:
    """DSPy's client for a model, each request counted before it is made."""

    class CountedLM(dspy.LM):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            take(int(kwargs.get("n") or 1))
            return super().__call__(*args, **kwargs)

        async def acall(self, *args: Any, **kwargs: Any) -> Any:
            take(int(kwargs.get("n") or 1))
            return await super().acall(*args, **kwargs)

    options: dict[str, Any] = {"cache": False, "num_retries": 0}
    if model.base_url is not None:
        options |= {"api_base": model.base_url.rstrip("/").removesuffix(_SUFFIX), "api_key": _key()}
    if model.headers:
        options["extra_headers"] = dict(model.headers)
    return CountedLM(convert_mlflow_uri_to_litellm(model.uri), **options)


def _key() -> str:
    import os

    return os.environ.get("OPENAI_API_KEY") or "none"  # an endpoint of one's own may need none
