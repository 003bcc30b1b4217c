"""`assay align`, step by step: labels, split, the old judge's verdicts, a proposal, the new one's verdicts, the gate.

Nothing is written to the traces, and nothing is changed unless the gate accepts (or the user forces it).
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_assay import registry
from mlflow_assay.alignment import shown
from mlflow_assay.alignment.aligner import Aligner, Proposal, Task
from mlflow_assay.alignment.labelled import Labelled, LabelSet, Source, attach, read_labels
from mlflow_assay.alignment.report import AlignmentReport, Side
from mlflow_assay.alignment.revision import write
from mlflow_assay.alignment.split import FRACTIONS, Split, split
from mlflow_assay.alignment.verdicts import Asker, Verdict, read_again, standing
from mlflow_assay.contracts import BoundJudge, ModelSettings
from mlflow_assay.errors import AssayError, ConfigError, NotTrustedError
from mlflow_assay.judges.catalogue import Catalogue, JudgeEntry
from mlflow_assay.trust.agreement import agreement
from mlflow_assay.trust.gate import Gate, GateDecision

if TYPE_CHECKING:
    from mlflow_assay.engine.cache import VerdictCache
    from mlflow_assay.sources.mlflow_store import MlflowSource

__all__ = ["Plan", "Request", "align", "make_aligner", "plan"]


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        judge: as in `assay judges list`; it has a YAML definition.
        optimizer: an aligner's name.
        label: name of the labels; None takes the judge's own name.
        label_source: `human`, `code` (such as recorded ground truth) or `any`.
        options: parameters of the aligner.
        model: the one judge model; None takes the definition's default.
        texts: values for the definition's variables.
        paths: the user's folders of definitions.
        max_calls: model calls that may be made in all; None is no limit.
        seed: of split and aligner.
        fractions: of labelled traces for training, validation and test.
        gate: the rule of acceptance.
        force: accept all the same; recorded.
        register: whether an accepted version will be registered in MLflow; refused early where it cannot be.
    """

    judge: str
    optimizer: str
    label: str | None = None
    label_source: Source = "human"
    options: Mapping[str, Any] = field(default_factory=dict)
    model: ModelSettings | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    paths: Sequence[str | Path] = ()
    max_calls: int | None = None
    seed: int = 0
    fractions: tuple[float, float, float] = FRACTIONS
    gate: Gate = field(default_factory=Gate)
    force: bool = False
    register: bool = False


@dataclass(frozen=True)
class Plan:
    """What will be done, before anything is called.

    Attributes:
        entry, bound: the judge as it is.
        aligner: what proposes the change.
        labels: what was found, and what was left out.
        examples: labelled traces, spans included.
        parts: how they are parted.
        known: verdicts of the judge as it is that stand already.
        to_ask: labelled traces the judge as it is has yet to judge.
        calls: model calls known to be needed: those, and the test part once more for the new judge. What the aligner
            calls beyond that it decides itself, within the limit.
    """

    entry: JudgeEntry
    bound: BoundJudge
    aligner: Aligner
    labels: LabelSet
    examples: tuple[Labelled, ...]
    parts: Split
    known: Mapping[str, Verdict]
    to_ask: tuple[Labelled, ...]
    calls: int

    def part(self, name: str) -> tuple[Labelled, ...]:
        """The labelled traces of `train`, `validation` or `test`."""
        return tuple(self.examples[i] for i in getattr(self.parts, name))


def make_aligner(name: str, options: Mapping[str, Any], seed: int) -> Aligner:
    """An installed aligner; a plain `AlignmentOptimizer` of MLflow or another package is one, too.

    Raises:
        PluginError: unknown, or it cannot be imported.
        ConfigError: an unknown or wrong option, or its extra is not installed.
    """
    from mlflow.exceptions import MlflowException

    from mlflow_assay.alignment.adapted import Adapted

    made = registry.load("aligners", name)
    try:
        if isinstance(made, type) and issubclass(made, Aligner):
            return made(**{"seed": seed, **options})
        return Adapted(made(**options), name, seed=seed)
    except (TypeError, ValueError, MlflowException) as error:
        raise ConfigError(f"The optimizer {name!r} refuses the options {dict(options)}: {error}.") from error


def plan(source: MlflowSource, request: Request) -> Plan:
    """Read labels, part them, and see which verdicts stand; calls no model and writes nothing.

    Raises:
        ConfigError: the judge has no definition, cannot be aligned this way, or the limit of calls does not suffice.
        NotTrustedError: there are no labels, or too few groups of them.
        StoreError: MLflow cannot be read.
    """
    from mlflow_assay.engine.chat import check_credentials
    from mlflow_assay.sources.mlflow_store import load_ids

    entry, bound = _judge(request)
    aligner = make_aligner(request.optimizer, request.options, request.seed)
    if reason := _refusal(entry, bound, aligner):
        raise ConfigError(
            f"The judge {request.judge!r} cannot be aligned by {request.optimizer!r}: {reason}.",
            fix="`assay align --help` lists the optimizers.",
        )
    _check_registering(request, entry, aligner)
    name = request.label or bound.name
    labels = read_labels(source.infos(), name, bound.contract, request.label_source)
    if not labels.labels:
        raise NotTrustedError(
            f"No trace carries a usable {request.label_source} label named {name!r}.",
            found=f"labels {', '.join(labels.seen) or 'none'}; {labels.ties} ties, unreadable {labels.unreadable}",
            fix="Name the labels with --label, and --label-source code for recorded ground truth.",
        )
    examples = tuple(attach(load_ids([label.trace_id for label in labels.labels]), labels.labels))
    parts = split(
        [e.passed for e in examples],
        [e.session for e in examples],
        [shown.text(bound, e.trace) for e in examples],
        requests=[shown.request(e.trace) for e in examples],
        fractions=request.fractions,
        seed=request.seed,
        only_train=[e.label.correction for e in examples],
    )
    known = standing([e.trace for e in examples], bound)
    wanted = (*parts.train, *parts.validation, *parts.test) if aligner.needs_verdicts else parts.test
    to_ask = tuple(examples[i] for i in wanted if examples[i].id not in known)
    calls = (len(to_ask) if bound.contract.calls_llm else 0) + (len(parts.test) if aligner.calls_llm else 0)
    if calls and bound.model is not None:
        check_credentials(bound.model)
    if request.max_calls is not None and request.max_calls < calls:
        raise ConfigError(
            f"--max-calls {request.max_calls} does not suffice: {calls} are needed to judge with old and new alone.",
            fix="Score the old judge first (assay score), raise the limit, or take fewer labelled traces.",
        )
    return Plan(entry, bound, aligner, labels, examples, parts, known, to_ask, calls)


def align(
    source: MlflowSource,
    request: Request,
    *,
    cache: VerdictCache | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> AlignmentReport:
    """Align, and let the gate decide. Writes nothing: keeping and installing the result is the caller's.

    Args:
        source: where the traces and labels are.
        request: what is asked for.
        cache: verdicts already paid for.
        progress: told what is being done, one sentence a step.

    Raises:
        ConfigError, NotTrustedError, StoreError: as `plan`; or the aligner found nothing to propose.
        AssayError: the aligner failed; nothing was changed.
    """
    started = time.time()
    todo = plan(source, request)
    _require_labels(request, todo)
    if todo.bound.contract.calls_llm and todo.to_ask:
        progress(f"Asking the judge as it is about {len(todo.to_ask)} labelled traces.")
    first = Asker(request.max_calls, cache)
    old = {**todo.known, **first.ask(todo.bound, todo.to_ask)}
    progress(f"{request.optimizer}: learning from {len(todo.parts.train)} labelled traces.")
    reserve = len(todo.parts.test) if todo.aligner.calls_llm else 0
    between = Asker(None if first.left is None else max(0, first.left - reserve), cache)
    proposal = _propose(todo, old, between)
    with tempfile.TemporaryDirectory(prefix="assay-align-") as name:
        folder = Path(name)
        path = write(_definition(todo.entry), proposal, _note(request, todo, proposal), folder)
        new_bound = _rebuilt(request, proposal, folder)
        progress(f"Asking the new judge about {len(todo.parts.test)} held-out traces.")
        last = Asker(None if between.left is None else between.left + reserve, cache)
        new = _new_verdicts(todo, proposal, old, new_bound, last)
        files = {p.name: p.read_bytes() for p in folder.iterdir()}
        calls = {"old judge": first.calls, "optimizer": between.calls, "new judge": last.calls}
        sides = Side(todo.bound, _old_text(todo.entry)), Side(new_bound, path.read_text(encoding="utf-8"))
        return _report(request, todo, proposal, old, new, calls, files, sides, time.time() - started)


def _judge(request: Request) -> tuple[JudgeEntry, BoundJudge]:
    catalogue = Catalogue(request.paths)
    entry = catalogue.get(request.judge)
    if entry.definition is None:
        raise ConfigError(
            f"The judge {request.judge!r} has no YAML definition whose next version could be written.",
            fix=f"Write one that says `uses: {request.judge}` and align that.",
        )
    return entry, catalogue.build(request.judge, request.model, request.texts)


def _refusal(entry: JudgeEntry, bound: BoundJudge, aligner: Aligner) -> str | None:
    if bound.composite is not None and aligner.name != "local":
        return "it is made of other judges; align those, or calibrate it"
    return aligner.refusal(bound)


def _check_registering(request: Request, entry: JudgeEntry, aligner: Aligner) -> None:
    from mlflow_assay.judges.registering import why_not

    reason = "a local classifier runs in this pack only" if aligner.name == "local" else why_not(entry)
    if request.register and reason:
        raise ConfigError(
            f"The new version of {request.judge!r} could not be registered in MLflow: {reason}.",
            fix="Leave out --register; `assay score --path FOLDER` runs it.",
        )


def _require_labels(request: Request, todo: Plan) -> None:
    """Refuse what the gate could not decide, before anything is paid for."""
    good = sum(e.passed for e in todo.part("test"))
    lacking = request.gate.lacking(good, len(todo.parts.test) - good)
    if lacking and not request.force:
        share = len(todo.parts.test) / len(todo.examples)
        raise NotTrustedError(
            lacking[0],
            found=f"{len(todo.examples)} labelled traces, {share:.0%} of them held out",
            fix=f"Label about {math.ceil(lacking[1] / share)} more traces.",
        )


def _propose(todo: Plan, old: Mapping[str, Verdict], asker: Asker) -> Proposal:
    """What the aligner proposes; it is handed nothing of the test part."""
    learning = (*todo.part("train"), *todo.part("validation"))
    seen = {e.id for e in learning}
    task = Task(
        bound=todo.bound,
        train=todo.part("train"),
        validation=todo.part("validation"),
        groups={e.id: g for e, g in zip(todo.examples, todo.parts.groups, strict=True) if e.id in seen},
        verdicts={i: v for i, v in old.items() if i in seen},
        asker=asker,
        label=todo.labels.name,
    )
    try:
        proposal = todo.aligner.propose(task)
    except AssayError:
        raise
    except Exception as error:
        # An optimizer is somebody else's library asking somebody else's model: whatever it raises ends here.
        raise AssayError(
            f"The optimizer {todo.aligner.name!r} failed; nothing was changed.",
            found=f"{type(error).__name__}: {error}",
        ) from error
    if strays := set(proposal.used) - seen:
        raise AssayError(f"The optimizer {todo.aligner.name!r} used traces it was not given.", found=sorted(strays)[:3])
    return proposal


def _rebuilt(request: Request, proposal: Proposal, folder: Path) -> BoundJudge:
    """The new judge, built from the very file that would be installed."""
    whole = proposal.instructions is not None or proposal.local is not None
    return Catalogue([*request.paths, folder]).build(request.judge, request.model, {} if whole else request.texts)


def _new_verdicts(
    todo: Plan, proposal: Proposal, old: Mapping[str, Verdict], bound: BoundJudge, asker: Asker
) -> dict[str, Verdict]:
    test = todo.part("test")
    if proposal.threshold is not None:
        return read_again({e.id: old[e.id] for e in test if e.id in old}, bound.contract.value)
    return asker.ask(bound, test)


def _decide(
    request: Request, todo: Plan, old: Mapping[str, Verdict], new: Mapping[str, Verdict], bound: BoundJudge
) -> tuple[GateDecision, str, int]:
    """The gate's decision, the unit of its costs, and how many rows failed for reasons outside the judges."""
    test = todo.part("test")
    failed = {e.id for e in test if old[e.id].outside or new[e.id].outside}
    unit, costs = _costs([old[e.id] for e in test], [new[e.id] for e in test], todo.bound, bound)
    decision = request.gate.decide(
        [old[e.id].passed for e in test],
        [new[e.id].passed for e in test],
        [None if e.id in failed else e.passed for e in test],
        clusters=[todo.parts.groups[i] for i in todo.parts.test],
        old_cost=costs[0],
        new_cost=costs[1],
        ids=[e.id for e in test],
        name=todo.bound.name,
    )
    return decision, unit, len(failed)


def _costs(
    old: Sequence[Verdict], new: Sequence[Verdict], old_bound: BoundJudge, new_bound: BoundJudge
) -> tuple[str, tuple[float | None, float | None]]:
    """Mean cost of a verdict on both sides in the best unit both are known in: dollars, tokens, calls."""

    def mean(found: Sequence[Verdict], bound: BoundJudge, unit: str) -> float | None:
        if not bound.contract.calls_llm:
            return 0.0
        known = [getattr(v, unit) for v in found if getattr(v, unit) is not None]
        return sum(known) / len(known) if known else None

    for unit, words in (("usd", "US dollars a verdict"), ("tokens", "tokens a verdict")):
        pair = mean(old, old_bound, unit), mean(new, new_bound, unit)
        if None not in pair:
            return words, pair
    return "calls a verdict", (float(old_bound.contract.calls_llm), float(new_bound.contract.calls_llm))


def _report(
    request: Request,
    todo: Plan,
    proposal: Proposal,
    old: Mapping[str, Verdict],
    new: Mapping[str, Verdict],
    calls: Mapping[str, int],
    files: Mapping[str, bytes],
    sides: tuple[Side, Side],
    seconds: float,
) -> AlignmentReport:
    decision, unit, failed = _decide(request, todo, old, new, sides[1].bound)
    test = todo.part("test")
    clusters = [todo.parts.groups[i] for i in todo.parts.test]
    human = [e.passed for e in test]

    def measured(found: Mapping[str, Verdict], name: str) -> Any:
        judged = [None if found[e.id].outside else found[e.id].passed for e in test]
        return agreement(judged, human, name=name, clusters=clusters, categories=(False, True))

    return AlignmentReport(
        judge=todo.bound.name,
        optimizer=request.optimizer,
        options=dict(request.options),
        seed=request.seed,
        label=todo.labels.name,
        label_source=request.label_source,
        model=todo.bound.model.uri if todo.bound.model else None,
        labels=todo.labels,
        split=todo.parts.to_dict([e.id for e in todo.examples]),
        good={name: sum(e.passed for e in todo.part(name)) for name in ("train", "validation", "test")},
        old=sides[0],
        new=sides[1],
        before=measured(old, "before"),
        after=measured(new, "after"),
        decision=decision,
        cost_unit=unit,
        failed_outside=failed,
        forced=request.force and not decision.accepted,
        summary=proposal.summary,
        details=dict(proposal.details),
        used=proposal.used,
        verdicts={e.id: {"human": e.passed, "old": old[e.id].to_dict(), "new": new[e.id].to_dict()} for e in test},
        calls=dict(calls),
        reused=len(todo.known),
        files=dict(files),
        seconds=seconds,
    )


def _note(request: Request, todo: Plan, proposal: Proposal) -> str:
    version = todo.bound.contract.version
    return (
        f"Aligned from version {version} by {request.optimizer} with {len(proposal.used)} labels "
        f"{todo.labels.name!r} (seed {request.seed}): {proposal.summary} Labels it learnt from are no evidence of its "
        "quality; they are listed in the alignment's MLflow run."
    )


def _definition(entry: JudgeEntry) -> Any:
    assert entry.definition is not None  # noqa: S101 - checked when the judge was built
    return entry.definition


def _old_text(entry: JudgeEntry) -> str:
    assert entry.path is not None  # noqa: S101 - a definition comes from a file
    return entry.path.read_text(encoding="utf-8")
