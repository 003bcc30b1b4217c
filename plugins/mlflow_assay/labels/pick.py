"""Picking traces for the experts: read the window, draw, note the draw on the traces, fill MLflow's review queues.

Written in this order: the frame, the draws, the queue. So a pick killed anywhere is finished by running it again, and
running it twice adds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from mlflow_assay.contracts import JudgeContract
from mlflow_assay.errors import ConfigError
from mlflow_assay.labels import queues
from mlflow_assay.labels.designs import Draw, Frame, frames_of
from mlflow_assay.labels.pairs import Paired
from mlflow_assay.labels.picking import Candidate, Picks, Share, StratumState, assign, choose, confidence_cut
from mlflow_assay.labels.planned import LabelPlan, plan_labels
from mlflow_assay.labels.rows import Row
from mlflow_assay.labels.window import LabelChoice, Window, read_window
from mlflow_assay.sources.mlflow_store import MlflowSource, find_experiment

if TYPE_CHECKING:
    from mlflow.entities import Experiment
    from mlflow.genai.review_queues import ReviewQueue

__all__ = ["PickRequest", "PickResult", "QueueState", "pick", "sample_state"]


@dataclass(frozen=True)
class PickRequest:
    """What `assay labels pick` is asked for.

    Attributes:
        experiment: name or id.
        judge: whose verdicts are to be checked.
        queue: name of the review queue.
        share: how many traces, and how spread.
        pilot: draw only so many until they are labelled, then the rest; None draws all at once.
        experts: who shall label; with two or more each has a queue of their own, named `QUEUE (expert)`.
        overlap: traces every expert shall label.
        filter, since_ms: which traces, as for `MlflowSource`; fixed at the queue's first pick.
        by: a breakdown to use as strata beside the verdict.
        seed: of the draw; None takes the queue's own, or 0.
        half_width: the precision wanted of the corrected rate, in (0, 1).
    """

    experiment: str
    judge: str
    queue: str
    share: Share
    pilot: int | None = None
    experts: tuple[str, ...] = ()
    overlap: int = 0
    filter: str | None = None
    since_ms: int | None = None
    by: str | None = None
    seed: int | None = None
    half_width: float = 0.05

    def __post_init__(self) -> None:
        experts = tuple(dict.fromkeys(e.strip().lower() for e in self.experts if e.strip()))
        object.__setattr__(self, "experts", experts)
        object.__setattr__(self, "queue", self.queue.strip())
        if not self.queue or self.queue.lower() == "default":
            raise ConfigError("A review queue needs a name.", found=repr(self.queue), valid="any but 'default'")
        if self.overlap and len(experts) < 2:
            raise ConfigError(
                "An overlap needs two or more experts: MLflow's queues take one review an item, so each expert gets "
                "a queue of their own and the shared traces stand in all of them.",
                fix="Name them: --experts ana,ben",
            )

    @property
    def queues(self) -> dict[str, tuple[str, ...]]:
        """The review queues by name, with who is assigned to each."""
        if len(self.experts) < 2:
            return {self.queue: self.experts}
        return {f"{self.queue} ({expert})": (expert,) for expert in self.experts}


@dataclass(frozen=True)
class QueueState:
    """A review queue after the pick: items in it by status, how many were added now, and where to find it.

    `url` is None on a database URI, where no server is known, and in a dry run.
    """

    name: str
    added: int
    pending: int
    complete: int
    declined: int
    url: str | None = None


@dataclass(frozen=True)
class PickResult:
    """What a pick came to.

    Attributes:
        frame: of the sample.
        traces: judged traces in the frame.
        new: traces drawn now.
        drawn: traces of the sample in all.
        answered: of those, labelled by someone.
        strata: by name.
        queues: as they are now; as they would be, in a dry run.
        plan: how many labels are wanted and still lacking.
        notes: what the reader must know; plain sentences.
        dry: whether nothing was written.
    """

    frame: Frame
    traces: int
    new: tuple[str, ...]
    drawn: int
    answered: int
    strata: tuple[StratumState, ...]
    queues: tuple[QueueState, ...]
    plan: LabelPlan
    notes: tuple[str, ...]
    dry: bool = False

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping of everything."""
        return asdict(self) | {"new": list(self.new), "notes": list(self.notes)}


@dataclass(frozen=True)
class _Sample:
    """A queue's frame as it stands: candidates, and what is told about them."""

    frame: Frame
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]
    known: bool


def pick(
    request: PickRequest,
    contracts: Mapping[str, JudgeContract],
    *,
    dry_run: bool = False,
    progress: Callable[[int], None] | None = None,
) -> PickResult:
    """Choose traces for the experts and put them into MLflow's review queues.

    Args:
        request: what is asked for.
        contracts: judges by assessment name, for the question to ask and the pass rule.
        dry_run: draw, but write nothing.
        progress: called with the number of traces read so far.

    Raises:
        ConfigError: the judge gave no verdict, options contradict the queue's first pick, or a queue or label schema
            of that name asks something else.
        StoreError: MLflow cannot be read or refuses something.
    """
    experiment = find_experiment(request.experiment)
    sample = _read(experiment, request, contracts, progress)
    share, notes = _share(request, sample, str(experiment.experiment_id))
    picks = choose(sample.candidates, sample.frame, share, date=_today())
    picks = assign(picks, sample.frame, list(request.queues), request.overlap)
    contents = _contents(request, sample, picks)
    if dry_run:
        states = tuple(QueueState(name, len(ids), len(ids), 0, 0) for name, ids in contents.items())
    else:
        states = _write(experiment, request, sample, picks, contents, contracts.get(request.judge))
    notes = (*sample.notes, *notes, *_notes(request, sample, picks))
    return _result(request, sample, picks, states, notes, dry_run)


def _today() -> str:
    return datetime.now(timezone.utc).date().isoformat()


# --- reading --------------------------------------------------------------------------------------------


def _read(
    experiment: Experiment,
    request: PickRequest,
    contracts: Mapping[str, JudgeContract],
    progress: Callable[[int], None] | None,
) -> _Sample:
    known = _known_frame(experiment, request)
    wanted = known or Frame(
        request.queue, request.judge, request.filter, request.since_ms, 0, request.by, None, request.seed or 0, _today()
    )
    source = MlflowSource(str(experiment.name), wanted.filter, wanted.since_ms)
    by = [wanted.by] if wanted.by else []
    window = read_window(source, contracts, LabelChoice(), by=by, progress=progress)
    paired = window.pair(request.judge)
    taken: set[str] = set()
    if known is None:
        taken = _taken(experiment, request)
        paired = paired.at([i for i, v in enumerate(paired.verdicts) if v.row.trace_id not in taken])
        last = max((row.time_ms for row in window.rows), default=0)
        cut = None if request.share.uncertain is None else confidence_cut(paired.confidences)
        wanted = replace(wanted, until_ms=last, cut=cut)
    inside = paired.at([i for i, v in enumerate(paired.verdicts) if wanted.holds(v.row.time_ms)])
    candidates = _candidates(inside, wanted)
    notes = [*_reading_notes(paired, inside, window, known)]
    if taken:
        notes.append(
            f"{len(taken)} traces are left out because they belong to the sample of an earlier queue; draw more of "
            "them with that queue's name and a larger --count."
        )
    return _Sample(wanted, candidates, tuple(notes), known is not None)


def _known_frame(experiment: Experiment, request: PickRequest) -> Frame | None:
    """The queue's frame from its first pick, None when this is the first.

    Raises:
        ConfigError: an option contradicts it.
    """
    found = [f for f in frames_of(experiment.tags or {}, request.judge) if f.queue.lower() == request.queue.lower()]
    if not found:
        return None
    frame = found[0]
    asked = {
        "--filter": (request.filter, frame.filter),
        "--by": (request.by, frame.by),
        "--seed": (request.seed, frame.seed),
    }
    for option, (now, then) in asked.items():
        if now is not None and now != then:
            raise ConfigError(
                f"The queue {frame.queue!r} was begun on {frame.date} with another {option}.",
                found=repr(now),
                valid=repr(then),
                fix="Choose another --queue name for another sample.",
            )
    if (request.share.uncertain is None) != (frame.cut is None):
        raise ConfigError(
            f"The queue {frame.queue!r} was begun {'without' if frame.cut is None else 'with'} --uncertain.",
            fix="Do as then, or choose another --queue name.",
        )
    return frame


def _taken(experiment: Experiment, request: PickRequest) -> set[str]:
    """Traces that are inside the frame of another queue for this judge."""
    taken: set[str] = set()
    for frame in frames_of(experiment.tags or {}, request.judge):
        for info in MlflowSource(str(experiment.name), frame.filter, frame.since_ms).infos():
            if frame.holds(int(info.request_time or 0)):
                taken.add(info.trace_id)
    return taken


def _candidates(paired: Paired, frame: Frame) -> tuple[Candidate, ...]:
    slices = paired.slices(frame.by) if frame.by else [None] * len(paired.verdicts)
    found = zip(paired.verdicts, paired.good, paired.confidences, slices, strict=True)
    return tuple(
        Candidate(
            v.row.trace_id,
            v.reading.passed,
            good,
            _labellers(v.row, paired.judge),
            confidence,
            value,
            _own(v.row.draws.get(paired.judge), frame),
        )
        for v, good, confidence, value in found
    )


def _labellers(row: Row, judge: str) -> frozenset[str]:
    """Who has answered, "cannot tell" included. A person's override of a verdict is no answer to a question asked."""
    machine = {m.id for m in row.marks if not m.human and m.id}
    said = [m for m in row.marks if m.human and m.valid and m.name == judge and not m.expectation]
    return frozenset(m.source.lower() for m in said if m.overrides not in machine)


def _own(draw: Draw | None, frame: Frame) -> Draw | None:
    return draw if draw is not None and draw.queue.lower() == frame.queue.lower() else None


def _reading_notes(paired: Paired, inside: Paired, window: Window, known: Frame | None) -> tuple[str, ...]:
    notes = []
    outside = len(paired.verdicts) - len(inside.verdicts)
    if outside and known is not None:
        notes.append(f"{outside} judged traces are newer than this queue's frame; begin another queue for them.")
    unjudged = len(window.rows) - len(window.found[paired.judge].verdicts)
    if unjudged > 0 and paired.scope == "trace":
        notes.append(f"{unjudged} traces have no verdict of {paired.judge} and cannot be drawn: judge them first.")
    if paired.n_trained:
        notes.append(f"{paired.n_trained} {paired.scope}s are left out because the judge was trained on their labels.")
    return tuple(notes)


# --- drawing --------------------------------------------------------------------------------------------


def _share(request: PickRequest, sample: _Sample, experiment_id: str) -> tuple[Share, tuple[str, ...]]:
    """How many to draw now: the pilot first, the rest once each of its traces is labelled or declined."""
    if request.pilot is None:
        return request.share, ()
    drawn = [c for c in sample.candidates if c.draw is not None]
    pilot = min(request.pilot, request.share.count)
    if len(drawn) < pilot:
        rest = request.share.count - pilot
        told = f"This is the pilot. Once it is labelled, run the same command again for the other {rest}."
        return replace(request.share, count=pilot), (told,) if rest else ()
    declined = _declined(request, experiment_id) if any(not c.labelled for c in drawn) else set()
    waiting = sum(not c.labelled and c.trace_id not in declined for c in drawn)
    if waiting:
        told = f"{waiting} of the {len(drawn)} traces drawn so far have no label; the rest is drawn once they do."
        return replace(request.share, count=len(drawn)), (f"{told} Leave out --pilot to draw it now.",)
    return request.share, ()


def _declined(request: PickRequest, experiment_id: str) -> set[str]:
    found = queues.find_queues(experiment_id)
    mine = [found[name.lower()] for name in request.queues if name.lower() in found]
    return {i.item_id for q in mine for i in queues.items_of(q.queue_id) if str(i.status) == "declined"}


def _contents(request: PickRequest, sample: _Sample, picks: Picks) -> dict[str, list[str]]:
    """What belongs into each queue: drawn traces that lack the label it is there for."""
    said = {c.trace_id: c.labellers for c in sample.candidates}
    experts = {name: set(users) for name, users in request.queues.items()}
    contents: dict[str, list[str]] = {name: [] for name in request.queues}
    for trace_id, draw in picks.draws.items():
        for name in draw.queues:
            done = said[trace_id] & experts.get(name, set()) if len(draw.queues) > 1 else said[trace_id]
            if not done:
                contents.setdefault(name, []).append(trace_id)
    return contents


def _notes(request: PickRequest, sample: _Sample, picks: Picks) -> list[str]:
    notes = []
    lacking = request.share.count - len(picks.draws)
    if lacking > 0 and request.pilot is None:
        notes.append(f"No judged trace is left to draw: the sample has {len(picks.draws)} of {request.share.count}.")
    unscored = sum(c.passed is None for c in sample.candidates)
    if unscored and not request.share.unscored:
        notes.append(f"{unscored} traces are unscored and not drawn; --unscored N sends some to the experts as well.")
    if picks.moved:
        notes.append(
            f"{picks.moved} traces drawn earlier have changed stratum since, because they were judged again: their "
            "probabilities are as if they had been drawn from where they are now."
        )
    if request.overlap:
        shared = sum(len(d.queues) > 1 for d in picks.draws.values())
        notes.append(
            f"{shared} traces stand in the queues of {' and '.join(request.experts)}: MLflow counts an item as "
            "done after one review, so an overlap needs a queue for each. Without a login MLflow signs every review "
            "alike; to tell experts apart, start it with --app-name basic-auth."
        )
    return notes


# --- writing --------------------------------------------------------------------------------------------


def _write(
    experiment: Experiment,
    request: PickRequest,
    sample: _Sample,
    picks: Picks,
    contents: Mapping[str, Sequence[str]],
    contract: JudgeContract | None,
) -> tuple[QueueState, ...]:
    from mlflow import MlflowClient

    client, experiment_id = MlflowClient(), str(experiment.experiment_id)
    schema = queues.ensure_schema(experiment_id, request.judge, contract)
    made = {
        name: queues.ensure_queue(experiment_id, name, str(schema.schema_id), request.queues.get(name, ()))
        for name in contents
    }
    old = {c.trace_id: c.draw for c in sample.candidates}
    with queues.refused("to note the draw"):
        if not sample.known:
            client.set_experiment_tag(experiment_id, *sample.frame.tag)
        for trace_id, draw in picks.draws.items():
            if draw != old[trace_id]:
                client.set_trace_tag(trace_id, *draw.tag(request.judge))
    added = {name: queues.fill(made[name], ids) for name, ids in contents.items()}
    return tuple(_queue_state(made[name], added[name]) for name in contents)


def _queue_state(queue: ReviewQueue, added: int = 0) -> QueueState:
    status = [str(item.status) for item in queues.items_of(queue.queue_id)]
    pending, complete, declined = (status.count(s) for s in ("pending", "complete", "declined"))
    return QueueState(queue.name, added, pending, complete, declined, queues.url_of(queue))


def _result(
    request: PickRequest,
    sample: _Sample,
    picks: Picks,
    states: tuple[QueueState, ...],
    notes: Sequence[str],
    dry: bool,
) -> PickResult:
    drawn = [c for c in sample.candidates if c.trace_id in picks.draws]
    return PickResult(
        frame=sample.frame,
        traces=len(sample.candidates),
        new=picks.new,
        drawn=len(drawn),
        answered=sum(c.labelled for c in drawn),
        strata=picks.strata,
        queues=states,
        plan=plan_labels(sample.candidates, picks.draws, request.half_width),
        notes=tuple(dict.fromkeys(notes)),
        dry=dry,
    )


def sample_state(
    experiment_name: str,
    frame: Frame,
    contracts: Mapping[str, JudgeContract],
    *,
    half_width: float = 0.05,
    progress: Callable[[int], None] | None = None,
) -> PickResult:
    """How far a queue's sample is labelled; writes nothing.

    Args:
        experiment_name: name or id.
        frame: of the queue, from `frames_of`.
        contracts: judges by assessment name.
        half_width: as for `pick`.
        progress: called with the number of traces read so far.

    Raises:
        ConfigError: the judge's verdicts are gone.
        StoreError: MLflow cannot be read.
    """
    experiment = find_experiment(experiment_name)
    uncertain = None if frame.cut is None else 0.0
    request = PickRequest(
        experiment_name, frame.judge, frame.queue, Share(0, uncertain=uncertain), half_width=half_width
    )
    sample = _read(experiment, request, contracts, progress)
    picks = choose(sample.candidates, sample.frame, request.share, date=_today())
    named = {q.lower() for d in picks.draws.values() for q in d.queues}
    found = queues.find_queues(str(experiment.experiment_id))
    states = tuple(_queue_state(q) for key, q in sorted(found.items()) if key in named)
    return _result(request, sample, picks, states, sample.notes, True)
