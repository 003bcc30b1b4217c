"""`assay optimize`, step by step: rows, split, the prompts as they are, a search, the test, the gate.

The search sees training and validation rows only. The test rows are answered last, by old and new prompts, and decide.
Nothing is registered here: `record.keep` does that with what was accepted.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_assay import registry
from mlflow_assay.contracts import ModelSettings
from mlflow_assay.engine.budget import Spend
from mlflow_assay.errors import AssayError, ConfigError, NotTrustedError
from mlflow_assay.optimizers.agent import Agent, ModelAgent
from mlflow_assay.optimizers.journal import Journal, digest
from mlflow_assay.optimizers.report import OptimizationReport
from mlflow_assay.optimizers.request import PARTS, Request, text_of
from mlflow_assay.optimizers.rollouts import Purse, Rollout, Rollouts, SpentError, spent_before
from mlflow_assay.optimizers.task import Candidate, Example, Score, Task
from mlflow_assay.optimizers.writer import Writer

if TYPE_CHECKING:
    from mlflow_assay.datasets.model import DatasetRow
    from mlflow_assay.engine.cache import VerdictCache
    from mlflow_assay.optimizers.optimizer import PromptOptimizer

__all__ = ["Plan", "Run", "make_optimizer", "plan"]

_SAFETY = 1.25  # the test may cost so much more a row than the validation did


@dataclass(frozen=True)
class Plan:
    """What will be done, before anything is called.

    Attributes:
        optimizer: what searches.
        agent: what is asked.
        writer: the model that writes, or None.
        key: names the run: the same request finds the same journal.
        test_calls: calls the test will need, held back from the search.
        base_calls: calls needed before the search begins.
    """

    optimizer: PromptOptimizer
    agent: Agent
    writer: ModelSettings | None
    key: str
    test_calls: int
    base_calls: int


def make_optimizer(name: str, options: Mapping[str, Any], seed: int) -> PromptOptimizer:
    """An installed optimizer; a plain `BasePromptOptimizer` of MLflow or another package is one, too.

    Raises:
        PluginError: unknown, or it cannot be imported.
        ConfigError: an unknown or wrong option.
    """
    from mlflow.exceptions import MlflowException

    from mlflow_assay.optimizers.adapted import Adapted
    from mlflow_assay.optimizers.optimizer import PromptOptimizer

    made = registry.load("optimizers", name)
    try:
        if isinstance(made, type) and issubclass(made, PromptOptimizer):
            return made(**{"seed": seed, **options})
        return Adapted(made(**options), name, seed=seed)
    except (TypeError, ValueError, MlflowException) as error:
        raise ConfigError(
            f"The optimizer {name!r} refuses the options {dict(options)}: {error}.", valid=_options(made)
        ) from error


def _options(optimizer: Callable[..., Any]) -> list[str] | None:
    """Names of what an optimizer can be given; None where its signature does not say."""
    parameters = inspect.signature(optimizer).parameters.values()
    return [p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name != "seed"] or None


def plan(request: Request) -> Plan:
    """Check everything that can be checked before a call is made.

    Raises:
        ConfigError: something does not fit together, or a limit does not suffice for the test alone.
        NotTrustedError: too few test rows to decide anything.
    """
    from mlflow_assay.engine.chat import check_credentials
    from mlflow_assay.optimizers.template import Template

    optimizer = make_optimizer(request.optimizer, request.options, request.seed)
    for version in request.prompts.values():
        Template.read(text_of(version))
    agent = request.agent or _model_agent(request)
    writer = request.writer or request.model
    if optimizer.needs_writer and writer is None:
        raise ConfigError(
            f"The optimizer {request.optimizer!r} needs a model that writes prompts.",
            fix="Name one with --writer openai:/NAME, or take an optimizer that needs none (categories).",
        )
    for model in (writer if optimizer.needs_writer else None, getattr(agent, "model", None)):
        if model is not None:
            check_credentials(model)
    _check_prices(request, agent, writer if optimizer.needs_writer else None)
    sizes = {name: len(request.rows.part(name)) for name in PARTS}
    if sizes["test"] < request.gate.min_rows:
        raise NotTrustedError(
            f"The test part has {sizes['test']} rows, and {request.gate.min_rows} are the least to decide anything.",
            found=", ".join(f"{n} {part}" for part, n in sizes.items()),
            fix="Take a larger dataset.",
        )
    asked = 1 + sum(j.contract.calls_llm for j in request.judges)
    test_calls = 2 * sizes["test"] * asked
    base_calls = sizes["validation"] * (1 + request.judges[0].contract.calls_llm)
    if request.max_calls is not None and request.max_calls < test_calls + base_calls:
        raise ConfigError(
            f"--max-calls {request.max_calls} does not suffice: validating the prompts as they are takes {base_calls}, "
            f"testing old and new {test_calls}.",
            fix="Raise the limit, or take a smaller dataset.",
        )
    return Plan(optimizer, agent, writer, _key(request, agent, writer), test_calls, base_calls)


def _model_agent(request: Request) -> Agent:
    if len(request.prompts) != 1 or request.model is None:
        raise ConfigError(
            "What uses the prompts?",
            found=f"{len(request.prompts)} prompts, {'a' if request.model else 'no'} model",
            fix="Name your agent with --predict module:function; a single prompt can be tried on --model alone.",
        )
    return ModelAgent(next(iter(request.prompts.values())), request.model)


def _check_prices(request: Request, agent: Agent, writer: ModelSettings | None) -> None:
    """A limit in money needs the price of every model that is known to be called."""
    from mlflow_assay.engine.prices import price_for

    if request.max_usd is None:
        return
    judged = [c.model for j in request.judges for c in j.callees() if c.contract.calls_llm]
    for model in (getattr(agent, "model", None), writer, *judged):
        if model is not None and price_for(model) is None:
            raise ConfigError(
                f"A limit in money needs the price of {model.uri!r}, which MLflow's catalogue does not have.",
                fix="Give it with --price INPUT,OUTPUT, or limit --max-calls instead.",
            )


def _key(request: Request, agent: Agent, writer: ModelSettings | None) -> str:
    return digest(
        {name: text_of(v) for name, v in request.prompts.items()},
        request.rows.digest,
        [(row.id, row.split) for row in request.rows.rows],
        [j.digest for j in request.judges],
        request.optimizer,
        {k: str(v) for k, v in request.options.items()},
        request.seed,
        agent.identity,
        writer.uri if writer else None,
    )


class Run:
    """One optimization, with what is known at any moment.

    Args:
        request: what is asked for.
        state: folder of journals; None keeps nothing for a later attempt.
        cache: judges' verdicts already paid for.
        told: called for each candidate with (number, validation score, what was tried).
        step: called for each answer of the agent.
        stage: told what is being done, one sentence a stage.

    Raises:
        ConfigError, NotTrustedError: as `plan`.
        StoreError: the journal cannot be opened.
    """

    def __init__(
        self,
        request: Request,
        *,
        state: Path | None = None,
        cache: VerdictCache | None = None,
        told: Callable[[Candidate], None] = lambda _: None,
        step: Callable[[int], None] = lambda _: None,
        stage: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.request, self.plan = request, plan(request)
        self._stage, self._started = stage, time.time()
        self.journal = Journal(state / f"{self.plan.key}.jsonl" if state else None)
        said = getattr(self.plan.agent, "usd_per_call", None)
        prices = {} if said is None else {"agent": said}
        self.purse = Purse(request.max_usd, request.max_calls, spent_before(self.journal), prices)
        self._judges = {j.name: j for j in request.judges}
        self.rollouts = Rollouts(
            self.plan.agent,
            self._judges,
            self.purse,
            self.journal,
            cache=cache,
            threads=request.threads,
            told=step,
        )
        writer = Writer(self.plan.writer, self.purse, self.journal) if self.plan.writer else None
        self._rows = {row.id: row for row in request.rows.rows}
        self.task = Task(
            {name: text_of(v) for name, v in request.prompts.items()},
            [_example(row) for row in request.rows.part("train")],
            [_example(row) for row in request.rows.part("validation")],
            self._attempt,
            writer=writer if self.plan.optimizer.needs_writer else None,
            seed=request.seed,
            told=told,
        )

    @property
    def target(self) -> str:
        """The judge that is to improve."""
        return self.request.judges[0].name

    def go(self) -> OptimizationReport:
        """Search, then test; the report says what the gate decided.

        Raises:
            AssayError: the agent cannot be asked at all, or the budget did not last for the prompts as they are.
            KeyboardInterrupt: the user stopped it; `task.best` is the best so far, and the journal has everything.
        """
        self._stage(f"Trying the prompts as they are on {len(self.task.validation)} validation rows.")
        self._baseline()
        if self.request.max_usd is not None and self.purse.unpriced:
            self._stage(
                "What the agent's calls cost is not known, so the limit in money does not count them: say it with "
                "--call-usd, or limit --max-calls."
            )
        self._stage(f"{self.request.optimizer}: searching with {len(self.task.train)} training rows.")
        self.purse.hold(self._test_cost())
        best = self._search()
        self.purse.hold(None)
        if best.number == 0:
            reason = "The old stays. No candidate did better than the prompts as they are on the validation rows."
            return self._report(best, None, None, reason)
        self._stage(f"Testing old and new on {len(self.request.rows.part('test'))} rows no optimizer saw.")
        return self._test(best)

    def an_example(self) -> str:
        """What the judge said of an answer with the prompts as they are; empty where there is none."""
        rows = self.request.rows.part("validation")[:1]
        found = self.rollouts.run(self.task.prompts, rows, [self.target])
        return f" For example: {found[0].reason(self.target)}" if found else ""

    # --- search -----------------------------------------------------------------------------------------

    def _attempt(self, prompts: Mapping[str, str], examples: Sequence[Example]) -> list[Score]:
        found = self.rollouts.run(prompts, [self._rows[e.id] for e in examples], [self.target])
        return [_score(rollout, self.target) for rollout in found]

    def _baseline(self) -> None:
        try:
            self.task.score(self.task.prompts, "as they are")
        except SpentError as error:
            raise AssayError(
                "The budget did not last for the prompts as they are.", found=error, fix="Raise it and run again."
            ) from error
        rows = self.request.rows.part("validation")
        found = self.rollouts.run(self.task.prompts, rows, [self.target])
        if self.rollouts.unused:
            raise ConfigError(
                f"The agent did not read the prompts {sorted(self.rollouts.unused)}: nothing about them can be learnt.",
                fix="It must load them with mlflow.genai.load_prompt and use .template or .format, in this process.",
            )
        failed = [r for r in found if r.error is not None]
        if len(failed) == len(found):
            raise AssayError("The agent failed on every validation row.", found=failed[0].error)
        if all(r.error is None and r.verdicts[self.target].passed is None for r in found):
            raise AssayError(
                f"The judge {self.target!r} scored no answer.",
                found=found[0].reason(self.target),
                fix="Check the judge.",
            )

    def _test_cost(self) -> Spend:
        """What the test will need at most, by what the validation cost."""
        rows = self.request.rows.part("validation")
        found = self.rollouts.run(self.task.prompts, rows, [self.target])
        paid = sum((r.usd or 0.0) + sum(v.usd or 0.0 for v in r.verdicts.values()) for r in found) / max(1, len(found))
        guards = sum(j.contract.calls_llm for j in self.request.judges[1:])
        judged = [r.verdicts[self.target].usd or 0.0 for r in found if self.target in r.verdicts]
        paid += guards * (sum(judged) / len(judged) if judged else 0.0)
        tested = len(self.request.rows.part("test"))
        return Spend(calls=self.plan.test_calls, usd=_SAFETY * 2 * tested * paid)

    def _search(self) -> Candidate:
        try:
            return self.plan.optimizer.run(self.task)
        except NotTrustedError as error:
            self.task.spent = str(error)
            return self.task.best
        except AssayError:
            raise
        except Exception as error:
            # An optimizer is somebody else's library asking somebody else's model: whatever it raises ends here.
            raise AssayError(
                f"The optimizer {self.request.optimizer!r} failed; nothing was changed.",
                found=f"{type(error).__name__}: {error}",
                fix="The same command goes on from here.",
            ) from error

    # --- test -------------------------------------------------------------------------------------------

    def _test(self, best: Candidate) -> OptimizationReport:
        rows, names = self.request.rows.part("test"), list(self._judges)
        try:
            old, new = (self.rollouts.run(p, rows, names) for p in (self.task.prompts, best.prompts))
        except SpentError as error:
            reason = f"The old stays. The budget did not last for the test, so nothing is proven. {error}"
            return self._report(best, None, None, reason)
        unit, costs = _costs(old, new)
        sides = [{name: [r.passed(name) for r in side] for name in names} for side in (old, new)]
        decision = self.request.gate.decide(
            self.target,
            sides[0],
            sides[1],
            clusters=[row.group or row.session or f"row {row.id}" for row in rows],
            ids=[row.id for row in rows],
            old_cost=costs[0],
            new_cost=costs[1],
        )
        return self._report(best, decision, (old, new), decision.reason, unit)

    def _report(
        self,
        best: Candidate,
        decision: Any,
        sides: tuple[list[Rollout], list[Rollout]] | None,
        reason: str,
        unit: str = "",
    ) -> OptimizationReport:
        request, rows = self.request, self.request.rows
        shown = {}
        outside = 0
        if sides is not None:
            for row, a, b in zip(rows.part("test"), *sides, strict=True):
                shown[row.id] = {"old": a.passed(self.target), "new": b.passed(self.target)}
                outside += None in (shown[row.id]["old"], shown[row.id]["new"])
        return OptimizationReport(
            prompts={name: int(v.version) for name, v in request.prompts.items()},
            optimizer=request.optimizer,
            options={
                k: v if isinstance(v, str | int | float | list | None) else str(v) for k, v in request.options.items()
            },
            seed=request.seed,
            dataset={"reference": rows.reference, "digest": rows.digest, "uri": rows.uri},
            split={part: [row.id for row in rows.part(part)] for part in PARTS}
            | {"none": [row.id for row in rows.rows if row.split is None]},
            judges={j.name: j.digest for j in request.judges},
            agent=self.plan.agent.identity,
            writer=self.plan.writer.uri if self.plan.writer and self.plan.optimizer.needs_writer else None,
            candidates=self.task.candidates,
            chosen=best,
            decision=decision,
            reason=reason,
            failed_outside=outside,
            rows=shown,
            calls=dict(self.purse.by),
            spent=self.purse.spent,
            unpriced=self.purse.unpriced,
            cost_unit=unit,
            stopped=self.task.spent,
            notes=tuple(_notes(request, self)),
            seconds=time.time() - self._started,
        )


def _example(row: DatasetRow) -> Example:
    expected = {k: v for k, v in row.expectations.items() if v is not None}
    return Example(row.id, row.inputs, expected, row.outputs, row)


def _score(rollout: Rollout, judge: str) -> Score:
    passed = rollout.passed(judge)
    return Score(1.0 if passed else 0.0, rollout.outputs, rollout.reason(judge))


def _costs(old: Sequence[Rollout], new: Sequence[Rollout]) -> tuple[str, tuple[float | None, float | None]]:
    """Mean cost of an answer on both sides in the best unit both are known in; None where none is."""
    for unit, words in (("usd", "US dollars an answer"), ("tokens", "tokens an answer")):
        pair = [[getattr(r, unit) for r in side if getattr(r, unit) is not None] for side in (old, new)]
        if all(len(found) == len(old) for found in pair):
            return words, (sum(pair[0]) / len(old), sum(pair[1]) / len(new))
    return "not known", (None, None)


def _notes(request: Request, run: Run) -> list[str]:
    notes = []
    if run.task.candidates and run.task.candidates[0].score == 0.0:
        notes.append(
            "The prompts as they are fail every validation row. If the dataset holds failures only, the test cannot "
            f"see what the new prompts break: add rows that are answered rightly today.{run.an_example()}"
        )
    return notes
