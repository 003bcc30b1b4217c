"""The local engine: judges over traces, concurrent, cached, budgeted, resumable, and counted.

One reader loads traces in pages, many workers judge, one writer stores in batches; queues between them are
bounded, so memory does not grow with the number of traces. A reply is in the cache before its verdict goes to
MLflow, and a verdict's id is derived from what it is, so a run killed at any moment and started again neither
loses nor doubles a verdict, nor pays again for a reply it had kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from mlflow_assay import semconv
from mlflow_assay.contracts import INHERENT, BoundJudge, Composite, DeclaringScorer, Sink, Unscored, UnscoredError
from mlflow_assay.engine import judging
from mlflow_assay.engine.allowance import Allowance, allowed
from mlflow_assay.engine.budget import Budget, SharedBudget, Spend
from mlflow_assay.engine.cache import CachedVerdict, VerdictCache, key
from mlflow_assay.engine.chat import ChatJudge, HandOverError, prepare
from mlflow_assay.engine.keeper import Keeper
from mlflow_assay.engine.limits import AdaptiveLimiter, RetryPolicy
from mlflow_assay.engine.plan import Due, Plan
from mlflow_assay.engine.prices import cost, estimate_tokens, price_for
from mlflow_assay.engine.report import Tally
from mlflow_assay.errors import AssayError, StoreError
from mlflow_assay.sinks.mlflow_assessments import MlflowSink, assessment_id

if TYPE_CHECKING:
    import aiohttp
    from mlflow.entities import Feedback, Trace

__all__ = ["Loader", "LocalEngine", "Options", "Progress"]

_logger = logging.getLogger(__name__)
_WRITE_BATCH = 500
_WRITE_WAIT_S = 0.25
_LOOK_AGAIN_S = 0.5
_HELD_FOR_S = 120.0  # longer than a call may take with its retries: whoever reserved that is dead
_WAITING_THREADS = 32
_GUESSED_TOKENS = 300  # a judge's system prompt, schema and reply, before the first call has told

T = TypeVar("T")


class Loader(Protocol):
    """Loads traces by id, spans included, in the order asked for; none is left out."""

    def __call__(self, trace_ids: Sequence[str]) -> list[Trace]:
        """The traces of these ids."""
        ...


class Progress(Protocol):
    """Told of every verdict as it is stored."""

    def advance(self, feedback: Feedback) -> None:
        """One more verdict is stored."""
        ...


@dataclass(frozen=True)
class Options:
    """How to run.

    Attributes:
        concurrency: judge calls in flight per endpoint at most.
        threads: threads for judges that can only be called synchronously; at least as many as calls may be in flight,
            up to 32, where these are metrics of other libraries that ask a model.
        page: traces read at once.
        retry: what to do about 429, 5xx and lost connections.
        cache: verdicts known already; None judges everything anew.
        budget: limits on calls, tokens and money; None is no limit.
        run_id: the MLflow run the verdicts belong to, or None.
    """

    concurrency: int = 64
    threads: int = 8
    page: int = 200
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    cache: VerdictCache | None = None
    budget: Budget | SharedBudget | None = None
    run_id: str | None = None


@dataclass
class _Job:
    """A verdict to be reached, with what it takes."""

    due: Due
    bound: BoundJudge
    subject: judging.Subject
    chat: ChatJudge | None = None
    user: str | None = None
    key: str | None = None
    known: CachedVerdict | None = None
    lack: str | None = None
    members: tuple[_Job, ...] = ()  # a composite's judges on the same trace

    def all(self) -> Iterator[_Job]:
        """This job and its members', however deep."""
        yield self
        for member in self.members:
            yield from member.all()


class LocalEngine:
    """Runs a plan in this process.

    Args:
        plan: the verdicts owed.
        load: loads traces by id.
        sink: the system of record; its failure ends the run.
        others: further sinks; a failing one is noted in `sink_failures` and left out.
    """

    def __init__(
        self,
        plan: Plan,
        load: Loader,
        sink: MlflowSink,
        options: Options | None = None,
        others: Sequence[Sink] = (),
        progress: Progress | None = None,
    ) -> None:
        self._plan, self._load, self._sink, self._progress = plan, load, sink, progress
        self._options = options or Options()
        self._others = {other.name: other for other in others}
        self._chats = {id(judge): prepare(judge) for one in plan.judges for judge in (one, *one.callees())}
        self._limiters: dict[str, AdaptiveLimiter] = {}
        self._in_flight: dict[str, asyncio.Future[Feedback | None]] = {}
        self._typical: dict[str, Spend] = {}  # by judge digest
        self._settled = asyncio.Event()
        self._keeper: Keeper | None = None
        self.tallies = [
            Tally(j.name, j.digest, plan.standing[i], foreign=plan.foreign[i], no_session=plan.no_session[i])
            for i, j in enumerate(plan.judges)
        ]
        self.stored: list[tuple[str, str]] = []  # (trace id, assessment id)
        self.sink_failures: dict[str, str] = {}
        self.stopped: str | None = None

    def run(self) -> None:
        """Judge everything the plan owes; results are in `tallies` and `stored`.

        Raises:
            StoreError, SinkError: MLflow could not be read or written; what was judged is in the cache.
            KeyboardInterrupt: after what had been judged was stored.
        """
        _run_anywhere(self._main())

    async def _main(self) -> None:
        import aiohttp

        workers = max(1, min(self._options.concurrency, max(self._plan.total, 1)))
        self._keeper = Keeper(self._options.cache) if self._options.cache is not None else None
        jobs: asyncio.Queue[_Job | None] = asyncio.Queue(maxsize=2 * workers)
        done: asyncio.Queue[tuple[_Job, Feedback] | None] = asyncio.Queue(maxsize=2 * _WRITE_BATCH)
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300)
        with ThreadPoolExecutor(self._threads(), "assay-judge") as pool:
            async with aiohttp.ClientSession(connector=connector, trust_env=_behind_proxy()) as http:
                writer = asyncio.create_task(self._write(done))
                team = [asyncio.create_task(self._work(jobs, done, http, pool)) for _ in range(workers)]
                reader = asyncio.create_task(self._read(jobs, len(team)))
                try:
                    await _all_or_first_failure([reader, *team, writer], after=lambda: done.put(None), last=writer)
                finally:
                    await _wind_down([reader, *team], done, writer)

    def _threads(self) -> int:
        """Threads for judges called synchronously; more where these mostly wait for a model they ask themselves."""
        called = [callee for judge in self._plan.judges for callee in judge.callees()]
        waiting = any(isinstance(j.scorer, DeclaringScorer) and j.contract.calls_llm for j in called)
        at_most = min(self._options.concurrency, _WAITING_THREADS)
        return max(self._options.threads, at_most) if waiting else self._options.threads

    # --- reading ----------------------------------------------------------------------------------------

    async def _read(self, jobs: asyncio.Queue[_Job | None], workers: int) -> None:
        for page in self._plan.pages(self._options.page):
            for job in await asyncio.to_thread(self._jobs, page):
                await jobs.put(job)
        for _ in range(workers):
            await jobs.put(None)

    def _jobs(self, page: list[Due]) -> list[_Job]:
        """Load a page's traces and make its jobs, with what the cache knows of them."""
        ids = dict.fromkeys(i for due in page for i in (due.session or (due.trace_id,)))
        traces = {t.info.trace_id: t for t in self._load(list(ids))}
        jobs = [self._job(due, traces) for due in page]
        asked = [part for job in jobs for part in job.all()]
        known = self._recall([job.key for job in asked if job.key])
        for job in asked:
            job.known = known.get(job.key or "")
        return jobs

    def _recall(self, keys: list[str]) -> dict[str, CachedVerdict]:
        """What the cache knows; a cache that cannot be read is a warning, not the end of the run."""
        if self._options.cache is None:
            return {}
        try:
            return self._options.cache.get_many(keys)
        except StoreError as error:
            _logger.warning("The verdict cache could not be read: %s", error)
            return {}

    def _job(self, due: Due, traces: dict[str, Trace]) -> _Job:
        return self._job_of(self._plan.judges[due.judge], due, traces)

    def _job_of(self, bound: BoundJudge, due: Due, traces: dict[str, Trace]) -> _Job:
        subject = self._subject(bound, due, traces)
        job = _Job(due, bound, subject, self._chats.get(id(bound)), lack=judging.missing(bound, subject))
        if bound.composite is not None:
            job.members = tuple(self._job_of(member, due, traces) for member in bound.composite.members)
        elif job.lack is None:
            job.user = job.chat.render(subject) if job.chat else None
            cached = self._options.cache is not None and bound.contract.calls_llm
            if cached:
                job.key = key(bound.digest, job.user if job.user is not None else _canonical(bound, subject))
        return job

    def _subject(self, bound: BoundJudge, due: Due, traces: dict[str, Trace]) -> judging.Subject:
        return judging.subject_of(bound, traces[due.trace_id], tuple(traces[i] for i in due.session))

    # --- judging ----------------------------------------------------------------------------------------

    async def _work(
        self,
        jobs: asyncio.Queue[_Job | None],
        done: asyncio.Queue[tuple[_Job, Feedback] | None],
        http: aiohttp.ClientSession,
        pool: ThreadPoolExecutor,
    ) -> None:
        while (job := await jobs.get()) is not None:
            for feedback in await self._verdicts(job, http, pool):
                await done.put((job, feedback))

    async def _verdicts(self, job: _Job, http: aiohttp.ClientSession, pool: ThreadPoolExecutor) -> list[Feedback]:
        return [await self._verdict(job, http, pool)]

    async def _verdict(self, job: _Job, http: aiohttp.ClientSession, pool: ThreadPoolExecutor) -> Feedback:
        if job.lack is not None:
            return judging.unscored(job.bound, job.subject, UnscoredError(Unscored.MISSING_FIELD, job.lack))
        if job.bound.composite is not None:
            return await self._composed(job, job.bound.composite, http, pool)
        if job.key is None:
            return await self._paid(job, http, pool)
        if job.known is not None:
            return _revive(job, job.known)
        if (leader := self._in_flight.get(job.key)) is not None:
            shared = await leader
            if shared is not None:
                return _as_hit(job, shared)
        future: asyncio.Future[Feedback | None] = asyncio.get_running_loop().create_future()
        self._in_flight[job.key] = future
        result = None
        try:
            result = await self._paid(job, http, pool)
            await self._remember(job, result)
            return result
        finally:
            self._in_flight.pop(job.key, None)
            scored = result is not None and judging.reason_of(result) is None
            if not future.done():
                future.set_result(result if scored else None)

    async def _composed(
        self, job: _Job, composite: Composite, http: aiohttp.ClientSession, pool: ThreadPoolExecutor
    ) -> Feedback:
        """Ask a composite's members as it says, each by this engine's own way, and take its verdict."""
        started, steps = time.perf_counter(), composite.decide()
        wanted = judging.step(steps, None)
        while isinstance(wanted, tuple):
            asked = (self._verdict(job.members[member], http, pool) for member in wanted)
            wanted = judging.step(steps, await asyncio.gather(*asked))
        return judging.conclude(job.bound, job.subject, wanted, (time.perf_counter() - started) * 1000)

    async def _paid(self, job: _Job, http: aiohttp.ClientSession, pool: ThreadPoolExecutor) -> Feedback:
        """Judge within the budget."""
        budget = self._options.budget if job.bound.contract.calls_llm else None
        if budget is None:
            return await self._call(job, http, pool)
        estimate = self._estimate(job)
        if (refusal := await self._reserve(budget, estimate)) is not None:
            self.stopped = refusal
            return judging.unscored(job.bound, job.subject, UnscoredError(Unscored.BUDGET, refusal))
        allowance, actual = Allowance(budget, estimate), None
        try:
            feedback = await self._call(job, http, pool, allowance)
            actual = _spent(feedback)
            if judging.reason_of(feedback) is Unscored.BUDGET:  # refused within, after some calls
                self.stopped = str(feedback.error.error_message)
            else:
                self._typical[job.bound.digest] = actual
            return feedback
        finally:
            budget.settle(allowance.reserved, actual if actual is not None else allowance.reserved)
            self._settled.set()

    async def _reserve(self, budget: Budget | SharedBudget, estimate: Spend) -> str | None:
        """Reserve, waiting for what calls in flight have reserved and may not need; why not, when it cannot be."""
        spent, deadline = None, 0.0
        while not budget.reserve(estimate):
            if budget.exhausted is not None:
                return budget.exhausted
            if budget.spent != spent:
                spent, deadline = budget.spent, time.monotonic() + _HELD_FOR_S
            if time.monotonic() > deadline:
                return "the rest of the budget is reserved for calls that did not end"
            self._settled.clear()
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):  # other processes settle unheard
                await asyncio.wait_for(self._settled.wait(), _LOOK_AGAIN_S)
        return None

    def _estimate(self, job: _Job) -> Spend:
        """What a call will cost at most, by the judge's last call and the length of this prompt."""
        prompt = job.user if job.user is not None else _canonical(job.bound, job.subject)
        given = estimate_tokens(prompt) + estimate_tokens(job.chat.system if job.chat else "") + _GUESSED_TOKENS
        last = self._typical.get(job.bound.digest)
        made = max(_GUESSED_TOKENS, last.output_tokens if last else 0)
        calls = 1
        if job.chat is None:  # a library's metric may ask several times
            calls = max(job.bound.contract.least_calls, last.calls if last else 1)
            given = max(calls * given, last.input_tokens if last else 0)
            made = max(calls * _GUESSED_TOKENS, made)
        price = price_for(job.bound.model)
        return Spend(calls, given, made, cost(price, given, made) if price else 0.0)

    async def _call(
        self, job: _Job, http: aiohttp.ClientSession, pool: ThreadPoolExecutor, allowance: Allowance | None = None
    ) -> Feedback:
        if job.chat is None:
            return await _in_pool(pool, _judge_within, allowance, job)
        started = time.perf_counter()
        limiter = self._limiter(job.chat.endpoint.url)
        try:
            reply = await job.chat.call(http, limiter, self._options.retry, job.user or "")
            return judging.verdict(job.bound, job.subject, reply, (time.perf_counter() - started) * 1000)
        except HandOverError:
            return await _in_pool(pool, judging.judge, job.bound, job.subject)
        except Exception as error:
            # A judge's failure is one verdict unscored, never the end of the run.
            elapsed = (time.perf_counter() - started) * 1000
            return judging.unscored(job.bound, job.subject, judging.classify(error), elapsed)

    def _limiter(self, url: str) -> AdaptiveLimiter:
        if url not in self._limiters:
            self._limiters[url] = AdaptiveLimiter(self._options.concurrency)
        return self._limiters[url]

    # --- writing ----------------------------------------------------------------------------------------

    async def _write(self, done: asyncio.Queue[tuple[_Job, Feedback] | None]) -> None:
        open_ended = True
        while open_ended:
            batch: list[tuple[_Job, Feedback]] = []
            deadline = time.monotonic() + _WRITE_WAIT_S
            while open_ended and len(batch) < _WRITE_BATCH:
                left = deadline - time.monotonic()
                try:
                    item = await asyncio.wait_for(done.get(), max(left, 0.001))
                except (TimeoutError, asyncio.TimeoutError):
                    if batch:
                        break
                    deadline = time.monotonic() + _WRITE_WAIT_S
                    continue
                if item is None:
                    open_ended = False
                else:
                    batch.append(item)
            if batch:
                await asyncio.to_thread(self._store, batch)

    def _store(self, batch: list[tuple[_Job, Feedback]]) -> None:
        fresh = []
        for job, feedback in batch:
            tally = self.tallies[job.due.judge]
            reason = judging.reason_of(feedback)
            if reason is not None and (reason.value == job.due.was or (job.due.scored and reason not in INHERENT)):
                tally.unchanged += 1
            else:
                fresh.append(self._stamp(job, feedback))
        if fresh:
            self._sink.write(fresh)
            self.stored.extend((str(f.trace_id), str(f.assessment_id)) for f in fresh)
            self._pass_on(fresh)
        for job, feedback in batch:
            self.tallies[job.due.judge].add(feedback)
            if self._progress is not None:
                self._progress.advance(feedback)

    async def _remember(self, job: _Job, feedback: Feedback) -> None:
        """Put a paid verdict into the cache before anything else can go wrong."""
        if self._keeper is not None and job.key is not None and _worth_keeping(job, feedback):
            await self._keeper.keep(job.key, _keep(job, feedback))

    def _stamp(self, job: _Job, feedback: Feedback) -> Feedback:
        from mlflow.tracing.constant import AssessmentMetadataKey

        feedback.assessment_id = assessment_id(
            job.due.trace_id, job.bound.name, job.bound.digest, job.due.revision, feedback.span_id
        )
        feedback.overrides = job.due.overrides
        if self._options.run_id is not None:
            feedback.metadata = {**(feedback.metadata or {}), AssessmentMetadataKey.SOURCE_RUN_ID: self._options.run_id}
        return feedback

    def _pass_on(self, fresh: list[Feedback]) -> None:
        for name, sink in list(self._others.items()):
            try:
                sink.write(fresh)
            except Exception as error:
                # One failing sink never stops the others, nor the run.
                self.sink_failures[name] = str(error)
                del self._others[name]
                _logger.warning("The sink %r failed and is left out: %s", name, error)


# --- helpers -----------------------------------------------------------------------------------------------


def _behind_proxy() -> bool:
    """Whether the environment names a proxy; only then does aiohttp look one (and a netrc file) up, for every call."""
    return any(os.environ.get(name) for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "NETRC"))


def _canonical(bound: BoundJudge, subject: judging.Subject) -> str:
    """Everything a judge may look at, as one string: equal strings mean an equal question."""
    shown: dict[str, Any] = {"expectations": dict(subject.expectations)}
    if bound.fields or (set(bound.contract.needs) <= {"inputs", "outputs"} and bound.contract.kind == "instructions"):
        shown |= {"inputs": subject.inputs, "outputs": subject.outputs}
    else:
        shown["traces"] = [_content(t) for t in (subject.session or (subject.trace,))]
    return json.dumps(shown, sort_keys=True, default=str, ensure_ascii=False)


def _content(trace: Trace) -> dict[str, Any]:
    spans = hashlib.sha256(trace.data.to_json().encode() if hasattr(trace.data, "to_json") else b"")
    if not hasattr(trace.data, "to_json"):
        spans.update(json.dumps(trace.data.to_dict(), sort_keys=True, default=str).encode())
    return {
        "spans": spans.hexdigest(),
        "duration": trace.info.execution_duration,
        "metadata": dict(trace.info.trace_metadata),
        "tags": dict(trace.info.tags),
    }


def _worth_keeping(job: _Job, feedback: Feedback) -> bool:
    """Scored verdicts of judges that cost something, newly reached."""
    from_cache = (feedback.metadata or {}).get(semconv.CACHE_HIT) == "true"
    return job.bound.contract.calls_llm and not from_cache and judging.reason_of(feedback) is None


def _keep(job: _Job, feedback: Feedback) -> CachedVerdict:
    return CachedVerdict(
        value=feedback.value,
        rationale=feedback.rationale,
        metadata=dict(feedback.metadata or {}),
        judge=job.bound.name,
        digest=job.bound.digest,
        created_ms=int(time.time() * 1000),
    )


def _revive(job: _Job, found: CachedVerdict) -> Feedback:
    """A verdict from the cache for this subject, marked as a hit; it cost nothing, so it carries no cost."""
    from mlflow.entities import Feedback
    from mlflow.tracing.constant import AssessmentMetadataKey as Key

    paid = {
        Key.JUDGE_COST, Key.JUDGE_INPUT_TOKENS, Key.JUDGE_OUTPUT_TOKENS, semconv.JUDGE_CALLS, semconv.LATENCY_MS,
        Key.SOURCE_RUN_ID,
    }  # fmt: skip
    metadata = {k: v for k, v in found.metadata.items() if k not in paid}
    feedback = Feedback(
        name=job.bound.name,
        value=found.value,
        rationale=found.rationale,
        source=judging.source_of(job.bound),
        metadata=metadata,
    )
    verdict = judging.verdict(job.bound, job.subject, feedback)
    verdict.metadata = {**(verdict.metadata or {}), semconv.CACHE_HIT: "true"}
    return verdict


def _as_hit(job: _Job, shared: Feedback) -> Feedback:
    return _revive(job, _keep(job, shared))


def _spent(feedback: Feedback) -> Spend:
    from mlflow.tracing.constant import AssessmentMetadataKey as Key

    facts = feedback.metadata or {}
    number = {k: float(facts.get(k) or 0) for k in (Key.JUDGE_INPUT_TOKENS, Key.JUDGE_OUTPUT_TOKENS, Key.JUDGE_COST)}
    given, made, usd = number.values()
    return Spend(int(facts.get(semconv.JUDGE_CALLS, 1)), int(given), int(made), usd)


def _judge_within(allowance: Allowance | None, job: _Job) -> Feedback:
    with allowed(allowance):
        return judging.judge(job.bound, job.subject)


async def _in_pool(pool: ThreadPoolExecutor, call: Callable[..., T], *args: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(pool, call, *args)


async def _all_or_first_failure(
    tasks: list[asyncio.Task[None]], after: Callable[[], Awaitable[None]], last: asyncio.Task[None]
) -> None:
    """Wait for all tasks but the last, then let the last finish; the first failure of any is raised."""
    waiting = set(tasks)
    while waiting - {last}:
        finished, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in finished:
            task.result()
        if finished and last in finished:
            raise AssayError("The writer ended before the judges did.")
    await after()
    await last


async def _wind_down(tasks: list[asyncio.Task[None]], done: asyncio.Queue[Any], writer: asyncio.Task[None]) -> None:
    """Stop what still runs and store what had been judged."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if not writer.done():
        await done.put(None)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(writer, 60)


def _run_anywhere(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, also from inside a running loop such as a notebook's."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(main)
        return
    failure: list[BaseException] = []

    def target() -> None:
        try:
            asyncio.run(main)
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=target, name="assay-engine")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
