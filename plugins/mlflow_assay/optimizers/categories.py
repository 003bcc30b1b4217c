"""Category descriptions from labelled failures; no model writes anything.

Many prompts list categories (desks, intents, tools), one a line. Where experts have said which category each request
should have had, what is missing can be counted: a category the prompt does not describe is added, one that is often
missed is extended. A description is the words that set the category's requests apart from all others, and a few
requests that stand for the rest.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mlflow_assay.errors import ConfigError, NotTrustedError
from mlflow_assay.optimizers.optimizer import PromptOptimizer
from mlflow_assay.optimizers.task import Candidate, Example, Score, Task
from mlflow_assay.optimizers.template import Template, inert
from mlflow_assay.optimizers.words import distinctive_terms, representatives, text_of

__all__ = ["Categories", "CategoryList"]

_ITEM = re.compile(
    r"^(?P<lead>[ \t]*(?:[-*•]|\d+[.)])[ \t]+)(?P<mark>\*\*|`|\"|)(?P<name>\w[\w.&/ -]{0,48}?)(?P=mark)[ \t]*:"
    r"(?P<text>[^\n]*(?:\n[ \t]+(?![-*•][ \t])\S[^\n]*)*)",
    re.MULTILINE,
)
_EXAMPLES = "Examples:"
_LONGEST, _MOST = 60, 50  # characters of a category's name, and categories


@dataclass(frozen=True)
class CategoryList:
    """The categories a prompt describes, one a line: `- name: description`, continued by indented lines.

    Attributes:
        text: the prompt's instructions.
        found: category to where its line begins and ends, in order.
    """

    text: str
    found: dict[str, tuple[int, int]]

    @classmethod
    def read(cls, text: str) -> CategoryList:
        """The categories in a text; none is no error."""
        return cls(text, {m["name"]: m.span() for m in _ITEM.finditer(text)})

    def extended(self, name: str, addition: str) -> str:
        """The text with more said about a category; one it lacks is added behind the last."""
        if name in self.found:
            end = self.found[name][1]
            return f"{self.text[:end]}\n  {addition}{self.text[end:]}"
        if not self.found:
            return f"{self.text}\n\nCategories:\n- {name}: {addition}".strip()
        last = max(self.found.values(), key=lambda span: span[1])
        start = _ITEM.match(self.text, last[0])
        assert start is not None  # noqa: S101 - the span was found by this pattern
        lead, mark = start["lead"], start["mark"]
        lead = re.sub(r"\d+", lambda m: str(int(m[0]) + 1), lead)
        return f"{self.text[: last[1]]}\n{lead}{mark}{name}{mark}: {addition}{self.text[last[1] :]}"


class Categories(PromptOptimizer):
    """Adds and extends category descriptions by what labelled failures have in common. Asks no writing model.

    Args:
        label: the expectation that names the right category; None takes the one that looks like it.
        inputs: the inputs whose words describe a category; None takes those that are variables of the prompt, else all.
        prompt: the prompt that lists the categories; None takes the one whose lines name most of them.
        terms: numbers of distinctive words tried in a description.
        examples: numbers of requests quoted in a description that are tried; `[0]` quotes none, for requests that are
            confidential.
        least: failures of a category below which nothing is said about it.
        options: as for `PromptOptimizer`.

    Source: distinctive words as in `words.distinctive_terms`; examples by greedy facility location, Nemhauser, Wolsey &
        Fisher 1978, doi:10.1007/BF01588971.
    """

    name: ClassVar[str] = "categories"

    def __init__(
        self,
        *,
        label: str | None = None,
        inputs: Sequence[str] | None = None,
        prompt: str | None = None,
        terms: Sequence[int] = (12, 40),
        examples: Sequence[int] = (0, 4, 12),
        least: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.label, self.prompt, self.least = label, prompt, least
        self.inputs = [inputs] if isinstance(inputs, str) else inputs
        self.terms, self.examples = _numbers("terms", terms), _numbers("examples", examples)

    def search(self, task: Task) -> None:
        """Describe what is missing, all at once in a few sizes; then extend what is missed, most failures first.

        Raises:
            NotTrustedError: no expectation names categories, or the agent makes no such mistake on the training rows.
            ConfigError: the prompt named does not exist.
        """
        label = self.label or _label(task)
        name = self._prompt(task, label)
        scores = task.evaluate(task.prompts, task.train)
        failures = _failures(task.train, scores, label)
        if not failures:
            raise NotTrustedError(
                "The agent fails no training row with a label: there is nothing to learn from.",
                found=f"{len(task.train)} training rows, label {label!r}",
            )
        best = self._describe_missing(task, name, label, failures)
        for category, _ in failures.most_common():
            if failures[category] >= self.least and category in CategoryList.read(best.prompts[name]).found:
                best = self._extend(task, name, label, category, best)

    def _describe_missing(self, task: Task, name: str, label: str, failures: Counter[str]) -> Candidate:
        template = task.templates[name]
        listed = CategoryList.read(template.instructions).found
        missing = [c for c, n in failures.most_common() if c not in listed and n >= self.least]
        if not missing:
            return task.best
        for words in self.terms:
            for quoted in self.examples:
                text = template.instructions
                for category in missing:
                    said = self._description(task, name, label, category, words, quoted)
                    text = CategoryList.read(text).extended(category, said)
                note = f"describes {', '.join(missing)}: {words} words, {quoted} requests"
                task.score(task.changed(name, template.with_instructions(text)), note)
        return task.best

    def _extend(self, task: Task, name: str, label: str, category: str, best: Candidate) -> Candidate:
        """Say more about a category that is still missed by the best candidate so far."""
        scores = task.evaluate(best.prompts, task.train)
        wrong = {e.id for e, s in zip(task.train, scores, strict=True) if s.value < 1 and _value(e, label) == category}
        if len(wrong) < self.least:
            return best
        template = Template.read(best.prompts[name])
        for quoted in self.examples:
            said = self._description(task, name, label, category, min(self.terms), quoted, wrong)
            if not said:
                continue
            more = f"More examples:{said.removeprefix(_EXAMPLES)}" if said.startswith(_EXAMPLES) else f"Also: {said}"
            text = CategoryList.read(template.instructions).extended(category, more)
            note = f"says more about {category}: {min(self.terms)} words, {quoted} requests"
            task.score({**best.prompts, name: template.with_instructions(text)}, note)
        return task.best

    def _description(
        self, task: Task, name: str, label: str, category: str, words: int, quoted: int, wrong: set[str] | None = None
    ) -> str:
        """What sets the category's requests apart, from training rows alone; of the failed ones only, where given.

        Empty where nothing does and no request is quoted.
        """
        read = self.inputs or task.templates[name].variables
        mine = [e for e in task.train if _value(e, label) == category]
        chosen = [text_of(e, read) for e in mine if wrong is None or e.id in wrong]
        others = [text_of(e, read) for e in task.train if _value(e, label) not in (None, category)]
        terms = inert(", ".join(distinctive_terms(chosen, others, words, unproven=True)))
        cases = inert("; ".join(" ".join(case.split())[:300] for case in representatives(chosen, quoted, others)))
        told = (f"{terms}." if terms else "", f"{_EXAMPLES} {cases}" if cases else "")
        return "\n  ".join(part for part in told if part)

    def _prompt(self, task: Task, label: str) -> str:
        if self.prompt is not None:
            if self.prompt not in task.prompts:
                raise ConfigError(f"There is no prompt {self.prompt!r} to optimize.", valid=task.prompts)
            return self.prompt
        values = {_value(e, label) for e in task.train}
        names = {n: len(values & set(CategoryList.read(t.instructions).found)) for n, t in task.templates.items()}
        return max(names, key=lambda n: names[n])


def _numbers(what: str, given: Any) -> tuple[int, ...]:
    values = [given] if isinstance(given, int) else list(given)
    if not values or not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values):
        raise ConfigError(f"The option {what} is a list of whole numbers, 0 or more.", found=given)
    return tuple(sorted(values))


def _value(example: Example, label: str) -> str | None:
    value = example.expectations.get(label)
    return value.strip() if isinstance(value, str) and value.strip() else None


def _label(task: Task) -> str:
    """The expectation whose values look most like the categories of a prompt.

    Raises:
        NotTrustedError: none does.
    """
    listed = {name for t in task.templates.values() for name in CategoryList.read(t.instructions).found}
    fits: dict[str, tuple[int, int]] = {}
    for key in dict.fromkeys(k for e in task.train for k in e.expectations):
        values = [v for e in task.train if (v := _value(e, key)) is not None]
        kinds = set(values)
        if 2 <= len(kinds) <= min(_MOST, max(2, len(values) // 2)) and max(map(len, kinds)) <= _LONGEST:
            fits[key] = (len(kinds & listed), len(values))
    if not fits:
        raise NotTrustedError(
            "No expectation of the training rows names a category.",
            found=", ".join(dict.fromkeys(k for e in task.train for k in e.expectations)) or "no expectations",
            fix="Label what each row should have come to, and name it with --option label=NAME.",
        )
    return max(fits, key=lambda k: fits[k])


def _failures(examples: Sequence[Example], scores: Sequence[Score], label: str) -> Counter[str]:
    """Failed training rows by the category they should have had."""
    pairs = zip(examples, scores, strict=True)
    return Counter(v for e, s in pairs if s.value < 1 and (v := _value(e, label)) is not None)
