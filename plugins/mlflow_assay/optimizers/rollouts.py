"""Answers of the agent to rows, with candidates in place of its prompts, and what judges say of them.

Every call of agent, judge or writing model is counted against one budget before it is made. An answer or verdict that
is in the journal is not asked for again, and what it cost counts all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from threading import Lock
from typing import TYPE_CHECKING, Any

from mlflow_assay.alignment.verdicts import OUTSIDE, Asked, Asker, Verdict
from mlflow_assay.contracts import BoundJudge, Unscored, UnscoredError
from mlflow_assay.engine.budget import Budget, Spend
from mlflow_assay.errors import AssayError
from mlflow_assay.optimizers.agent import Agent, trying
from mlflow_assay.optimizers.journal import Journal, digest

if TYPE_CHECKING:
    from mlflow.entities import Trace

    from mlflow_assay.datasets.model import DatasetRow
    from mlflow_assay.engine.cache import VerdictCache

__all__ = ["Purse", "Rollout", "Rollouts", "SpentError", "spent_before"]


class SpentError(AssayError):
    """The budget does not cover the next call; raised inside a search to end it."""


@dataclass(frozen=True)
class Rollout:
    """The agent's answer to one row, and the verdicts on it.

    Attributes:
        outputs: what it returned; None where it failed.
        error: how it failed; None where it did not.
        outside: whether it failed for a reason outside agent and prompts, such as a model that is down.
        usd, tokens: what the answer cost; None where not known.
        verdicts: by judge.
        trace: of the call; None where none was kept, or the answer comes from the journal.
    """

    outputs: Any = None
    error: str | None = None
    outside: bool = False
    usd: float | None = None
    tokens: int | None = None
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    trace: Trace | None = field(default=None, repr=False, compare=False)

    def passed(self, judge: str) -> bool | None:
        """Whether a judge passes it. None where that is not known for reasons outside agent, prompts and judge.

        An agent that failed, and an answer the judge could not score, have not passed.
        """
        verdict = self.verdicts.get(judge)
        if self.outside or (verdict is not None and verdict.outside):
            return None
        return self.error is None and verdict is not None and verdict.passed is True

    def reason(self, judge: str) -> str:
        """Why it passed or failed, for a reader or a writing model."""
        if self.error is not None:
            return f"The agent failed: {self.error}"
        verdict = self.verdicts.get(judge)
        if verdict is None:
            return "not judged"
        if verdict.unscored is not None:
            why = f"{verdict.unscored.value}: {verdict.rationale}" if verdict.rationale else verdict.unscored.value
            return f"The judge could not score the answer: {why}"
        return verdict.rationale or f"the verdict is {verdict.value!r}"


class Purse:
    """One budget for everything, part of which can be held back for later.

    Args:
        max_usd, max_calls: limits; None is none.
        spent: what earlier attempts of the same run have spent.
        prices: US dollars a call of a kind costs, where that is known before the first.
    """

    def __init__(
        self,
        max_usd: float | None = None,
        max_calls: int | None = None,
        spent: Spend | None = None,
        prices: Mapping[str, float] | None = None,
    ) -> None:
        self.max_usd, self.max_calls = max_usd, max_calls
        self._calls = max_calls
        self.budget = Budget(max_usd, None, max_calls, spent=spent)
        self.by: dict[str, int] = {}
        self.unpriced = 0
        self._dearest = {who: Spend(calls=1, usd=usd) for who, usd in (prices or {}).items()}
        self._lock = Lock()

    @property
    def spent(self) -> Spend:
        """Everything settled so far."""
        return self.budget.spent

    @property
    def left(self) -> int | None:
        """Calls that may still be made; None without a limit on calls."""
        return None if self._calls is None else max(0, self._calls - self.spent.calls)

    def hold(self, held: Spend | None) -> None:
        """From now on refuse what would leave less than this; None holds nothing back."""
        spent, held = self.spent, held or Spend()
        usd = None if self.max_usd is None else max(0.0, self.max_usd - held.usd)
        calls = None if self.max_calls is None else max(0, self.max_calls - held.calls)
        self._calls = calls
        self.budget = Budget(usd, None, calls, spent=spent)

    def reserve(self, who: str) -> Spend:
        """Set a call's likely cost aside: as much as the dearest one of the kind so far.

        Raises:
            SpentError: it is not covered.
        """
        estimate = self._dearest.get(who, Spend(calls=1))
        if not self.budget.reserve(estimate):
            raise SpentError(f"The budget is spent: {self.budget.exhausted or 'nothing is left for another call'}.")
        return estimate

    def settle(self, who: str, estimate: Spend, usd: float | None, tokens: int | None = None) -> None:
        """Replace what was set aside by what a call has cost; an unknown cost counts as none and is counted."""
        actual = Spend(1, tokens or 0, 0, usd or 0.0)
        self.budget.settle(estimate, actual)
        with self._lock:
            self.by[who] = self.by.get(who, 0) + 1
            self.unpriced += usd is None
            if actual.usd >= self._dearest.get(who, Spend()).usd:
                self._dearest[who] = Spend(calls=1, usd=actual.usd)


class Rollouts:
    """Tries prompts on rows.

    Args:
        agent: whose prompts they are.
        judges: by name.
        purse: the budget.
        journal: what is known already.
        cache: judges' verdicts already paid for.
        threads: calls of the agent side by side.
        told: called for each answer, for a progress display.
    """

    def __init__(
        self,
        agent: Agent,
        judges: Mapping[str, BoundJudge],
        purse: Purse,
        journal: Journal,
        *,
        cache: VerdictCache | None = None,
        threads: int = 4,
        told: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.agent, self.judges, self.purse, self.journal = agent, dict(judges), purse, journal
        self._cache, self._threads, self._told = cache, threads, told
        self._known: dict[tuple[str, str], Rollout] = {}
        self.unused: set[str] = set()

    def run(self, prompts: Mapping[str, str], rows: Sequence[DatasetRow], judges: Sequence[str]) -> list[Rollout]:
        """Answers and verdicts, in the order of the rows.

        Raises:
            SpentError: the budget does not cover all of it; what was reached is kept.
        """
        candidate = digest(dict(prompts))
        self._answer(candidate, prompts, rows)
        for judge in judges:
            self._judge(candidate, judge, rows)
        return [self._known[(candidate, row.id)] for row in rows]

    def knows(self, prompts: Mapping[str, str], rows: Sequence[DatasetRow], judge: str) -> bool:
        """Whether all of it has been answered and judged."""
        candidate = digest(dict(prompts))
        found = [self._known.get((candidate, row.id)) for row in rows]
        return all(r is not None and (r.error is not None or judge in r.verdicts) for r in found)

    # --- answers ----------------------------------------------------------------------------------------

    def _answer(self, candidate: str, prompts: Mapping[str, str], rows: Sequence[DatasetRow]) -> None:
        due = []
        for row in rows:
            if (candidate, row.id) not in self._known and not self._recall(candidate, row):
                due.append(row)
        if not due:
            return
        with trying(prompts) as used, ThreadPoolExecutor(self._threads, thread_name_prefix="assay-agent") as pool:
            futures = [pool.submit(self._ask, candidate, row) for row in due]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                for future in futures:
                    future.cancel()
        for future in done:
            if not future.cancelled():
                future.result()
        self.unused = set(prompts) - used

    def _ask(self, candidate: str, row: DatasetRow) -> None:
        estimate = self.purse.reserve("agent")
        usd: float | None = None
        tokens: int | None = None
        try:
            try:
                answer = self.agent.ask(row.inputs)
                usd, tokens = answer.usd, answer.tokens
                found = Rollout(answer.outputs, usd=usd, tokens=tokens, trace=answer.trace)
            except UnscoredError as error:
                usd = error.metadata.get("usd")
                found = Rollout(error=f"{error.reason.value}: {error.detail}", outside=error.reason in OUTSIDE, usd=usd)
            except Exception as error:
                # The agent is somebody else's code: whatever it raises is one answer that failed.
                found = Rollout(error=f"{type(error).__name__}: {error}"[:1000])
        finally:
            self.purse.settle("agent", estimate, usd, tokens)
        self._known[(candidate, row.id)] = found
        entry = {"outputs": found.outputs, "error": found.error, "outside": found.outside, "usd": usd, "tokens": tokens}
        if not found.outside:  # what failed from outside is asked again next time
            self.journal.put("answer", self._key(candidate, row), entry)
        self._told(1)

    def _recall(self, candidate: str, row: DatasetRow) -> bool:
        entry = self.journal.get("answer", self._key(candidate, row))
        if entry is None:
            return False
        self._known[(candidate, row.id)] = Rollout(**entry)
        return True

    def _key(self, candidate: str, row: DatasetRow) -> str:
        return digest(self.agent.identity, candidate, row.content)

    # --- verdicts ---------------------------------------------------------------------------------------

    def _judge(self, candidate: str, name: str, rows: Sequence[DatasetRow]) -> None:
        bound, due = self.judges[name], list[tuple["DatasetRow", str]]()
        for row in rows:
            rollout = self._known[(candidate, row.id)]
            key = digest(bound.digest, self._key(candidate, row))
            if rollout.error is not None or name in rollout.verdicts:
                continue
            if (entry := self.journal.get("verdict", key)) is not None:
                self._add(candidate, row, name, _verdict(entry))
            else:
                due.append((row, key))
        if not due:
            return
        found = self._ask_judge(bound, candidate, [row for row, _ in due])
        for row, key in due:
            verdict = found[row.id]
            if verdict.unscored is Unscored.BUDGET:
                raise SpentError(f"The budget is spent before {name!r} had judged every answer.")
            self._add(candidate, row, name, verdict)
            if not verdict.outside:
                self.journal.put("verdict", key, _entry(verdict))

    def _ask_judge(self, bound: BoundJudge, candidate: str, rows: Sequence[DatasetRow]) -> dict[str, Verdict]:
        cases = {row.id: Asked(_trace(self._known[(candidate, row.id)], row, candidate)) for row in rows}
        asker = Asker(cache=self._cache, budget=self.purse.budget)
        before = asker.calls
        verdicts = asker.ask(bound, list(cases.values()))
        made = asker.calls - before
        if made:
            self.purse.by[f"judge {bound.name}"] = self.purse.by.get(f"judge {bound.name}", 0) + made
        return {row_id: verdicts[case.id] for row_id, case in cases.items()}

    def _add(self, candidate: str, row: DatasetRow, name: str, verdict: Verdict) -> None:
        rollout = self._known[(candidate, row.id)]
        self._known[(candidate, row.id)] = replace(rollout, verdicts={**rollout.verdicts, name: verdict})


def spent_before(journal: Journal) -> Spend:
    """What the answers, verdicts and texts in a journal have cost."""
    total = Spend()
    for entry in (*journal.all("answer"), *journal.all("text")):
        total += Spend(1, int(entry.get("tokens") or 0), 0, float(entry.get("usd") or 0.0))
    for entry in journal.all("verdict"):
        paid = entry.get("tokens") is not None or entry.get("usd") is not None
        total += Spend(int(paid), int(entry.get("tokens") or 0), 0, float(entry.get("usd") or 0.0))
    return total


def _trace(rollout: Rollout, row: DatasetRow, candidate: str) -> Trace:
    """What a judge looks at: the call's own trace with the row's expectations, or one made of inputs and outputs."""
    from mlflow_assay.judges.case_traces import expectation, plain_trace

    expected = {k: v for k, v in row.expectations.items() if v is not None}
    if rollout.trace is None:
        return plain_trace(f"{candidate}/{row.id}", row.inputs, rollout.outputs, expected)
    trace = rollout.trace
    given = [expectation(name, value, str(trace.info.trace_id)) for name, value in expected.items()]
    trace.info.assessments = [*(trace.info.assessments or []), *given]
    return trace


def _entry(verdict: Verdict) -> dict[str, Any]:
    facts = asdict(verdict) | {"unscored": verdict.unscored.value if verdict.unscored else None}
    return {k: v for k, v in facts.items() if k != "reused"}


def _verdict(entry: Mapping[str, Any]) -> Verdict:
    facts = dict(entry)
    reason = facts.pop("unscored")
    return Verdict(**facts, unscored=Unscored(reason) if reason else None)
