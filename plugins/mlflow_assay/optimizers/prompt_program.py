"""The agent as a DSPy program: a predictor for each prompt, and the user's agent behind all of them."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

import dspy

from mlflow_assay.errors import NotTrustedError
from mlflow_assay.optimizers.examples import answer_of, block, hosts
from mlflow_assay.optimizers.task import Example, Task
from mlflow_assay.optimizers.template import Template
from mlflow_assay.optimizers.writer import Writer

__all__ = ["Workshop"]


class Workshop:
    """The task in DSPy's terms.

    Args:
        task: what there is to do.
        label: the expectation that holds the right answer; None takes the only one, or `expected_response`.
    """

    def __init__(self, task: Task, label: str | None = None) -> None:
        if not task.train:
            raise NotTrustedError("There is no training row to learn from.")
        self._task, self._label, self._hosts = task, label, set(hosts(task))
        self.lm: Any = _lm(task.writer)
        self._by_content: dict[str, Example] = {}
        self.fields = list(dict.fromkeys(k for e in (*task.train, *task.validation) for k in e.inputs))
        self.train = [self._example(e) for e in task.train]
        self.validation = [self._example(e) for e in task.validation]

    def run(self, work: Callable[[Workshop], None]) -> None:
        """Do the work with DSPy set up; what it prints, bars included, goes to the log at debug level.

        A progress display that is to be seen all the while must have been opened before.
        """
        printed = io.StringIO()
        logger = logging.getLogger("dspy")
        level = logger.level
        logger.setLevel(logging.CRITICAL)
        try:
            with (
                dspy.context(lm=self.lm, num_threads=1),
                contextlib.redirect_stdout(printed),
                contextlib.redirect_stderr(printed),
            ):
                work(self)
        finally:
            logger.setLevel(level)
            logging.getLogger(__name__).debug("%s", printed.getvalue())

    def program(self) -> Any:
        """The agent as a program whose instructions and cases may be changed."""
        return _program(self, list(self._task.prompts))

    def score(self, program: Any, note: str) -> float:
        """The program's mean validation score."""
        return self._task.score(self.prompts(program), note)

    def prompts(self, program: Any) -> dict[str, str]:
        """The prompts a program stands for."""
        found = {}
        for name, predictor in zip(self._task.prompts, program.predictors(), strict=True):
            template = self._task.templates[name]
            changed = predictor.signature.instructions.strip()
            text = template.text if changed == template.instructions.strip() else template.with_instructions(changed)
            cases = [c for demo in predictor.demos if (c := self._case(demo)) is not None]
            if cases and name in self._hosts:
                text = Template.read(text).with_block(block(cases))
            found[name] = text
        return found

    def forward(self, program: Any, shown: Mapping[str, Any]) -> Any:
        """The agent's answer with the program's prompts."""
        example = self._by_content[_content(shown)]
        score = self._task.evaluate_one(self.prompts(program), example, "instructions and cases proposed by DSPy")
        answer = answer_of(example, score.outputs if score.value >= 1 else None, self._label)
        said = score.outputs if isinstance(score.outputs, str) else json.dumps(score.outputs, default=str)
        # What is learnt from a solved case is its right answer; of an unsolved one, what was said.
        prediction = dspy.Prediction(answer=(answer if score.value >= 1 else None) or said, score=score.value)
        if dspy.settings.trace is not None:
            for predictor in program.predictors():
                dspy.settings.trace.append((predictor, dict(shown), prediction))
        return prediction

    def metric(self, example: Any, prediction: Any, trace: Any = None) -> Any:
        """The validation score; while cases are collected, whether it was solved."""
        return float(prediction.score) if trace is None else self.solved(example, prediction)

    def solved(self, example: Any, prediction: Any, trace: Any = None) -> bool:
        """Whether the answer was right."""
        return float(prediction.score) >= 1.0

    def _case(self, demo: Any) -> tuple[dict[str, Any], str] | None:
        answer = demo.get("answer")
        return ({k: demo[k] for k in self.fields if k in demo}, str(answer)) if answer else None

    def _example(self, example: Example) -> Any:
        shown = {k: example.inputs.get(k) for k in self.fields}
        self._by_content.setdefault(_content(shown), example)
        right = answer_of(example, None, self._label)
        return dspy.Example(**shown, **({"answer": right} if right else {})).with_inputs(*self.fields)


def _content(shown: Mapping[str, Any]) -> str:
    return json.dumps(dict(shown), sort_keys=True, default=str)


def _program(workshop: Workshop, names: list[str]) -> Any:
    """The program; the workshop stands in the class, which DSPy does not copy."""

    class AgentProgram(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            for number, name in enumerate(names):
                text = workshop._task.templates[name].instructions
                inputs = ", ".join(workshop.fields)
                setattr(self, f"prompt_{number}", dspy.Predict(dspy.Signature(f"{inputs} -> answer", text)))

        def forward(self, **shown: Any) -> Any:
            return workshop.forward(self, {k: shown.get(k) for k in workshop.fields})

    return AgentProgram()


def _lm(writer: Writer | None) -> Any:
    """DSPy's client for the writing model; every call goes through the writer. None where there is none."""
    if writer is None:
        return None
    ask = writer.write

    class WriterLM(dspy.LM):
        def __call__(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            asked = messages or [{"role": "user", "content": str(prompt)}]
            return [ask(asked, **{**self.kwargs, **kwargs}) for _ in range(int(kwargs.get("n") or 1))]

        async def acall(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            return self(prompt, messages, **kwargs)

    return WriterLM(f"openai/{writer.model.uri.partition(':/')[2].lstrip('/')}", cache=False, num_retries=0)
