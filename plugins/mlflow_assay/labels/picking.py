"""Which traces the experts shall label next, and with which probability each of them was chosen.

Every trace has a permanent random number, made from the seed and its id; a stratum's sample is the traces with the
smallest numbers. So the same seed gives the same sample whatever the order of the traces, a larger sample holds the
smaller one, and a killed pick goes on where it stopped. The probability of a trace is its stratum's drawn over its
size: exact given the allocation, which may follow a pilot.

Source: permanent random numbers, Ohlsson 1995, Coordination of samples using permanent random numbers.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mlflow_assay.errors import ConfigError
from mlflow_assay.labels.designs import Draw, Frame
from mlflow_assay.trust.sampling import neyman_allocation

__all__ = ["Candidate", "Picks", "Share", "StratumState", "assign", "choose", "confidence_cut", "stratum_of"]

UNSCORED = "unscored"
_MOST_STRATA = 40
_UNSURE_PART = 1 / 3  # of the judged traces, those with the least confident verdicts


@dataclass(frozen=True)
class Candidate:
    """A trace that may be drawn.

    Attributes:
        trace_id: of the trace the verdict stands on.
        passed: the verdict, None for unscored.
        good: the label, None where there is none or people tie.
        labellers: who has labelled it, lower case.
        confidence: of the verdict, in [0, 1], None where the judge gave none.
        slice: value of the frame's breakdown, None where the trace has none.
        draw: its draw for this queue, None where it was not drawn.
    """

    trace_id: str
    passed: bool | None
    good: bool | None = None
    labellers: frozenset[str] = frozenset()
    confidence: float | None = None
    slice: str | None = None
    draw: Draw | None = None

    @property
    def labelled(self) -> bool:
        """Whether anyone has labelled it, or its session where the judge judges sessions; agreed upon or not."""
        return bool(self.labellers) or self.good is not None


@dataclass(frozen=True)
class Share:
    """How a sample is to be spread.

    Attributes:
        count: traces to draw for the queue in all, those drawn before included, 0 or more.
        unscored: how many of them among those the judge could not score, 0 or more.
        uncertain: share of the others to take from unsure verdicts, in [0, 1]; None leaves it to the allocation.
        minimum: traces each stratum should reach first, as far as it has any.
        random_labels: whether labels already there were drawn at random within each verdict, so that they are part of
            the sample and count; else they only inform the allocation.
    """

    count: int
    unscored: int = 0
    uncertain: float | None = None
    minimum: int = 2
    random_labels: bool = False

    def __post_init__(self) -> None:
        if min(self.count, self.unscored, self.minimum) < 0 or not 0 <= (self.uncertain or 0) <= 1:
            raise ConfigError(
                "A sample needs counts of 0 or more and a share in [0, 1].",
                found=f"count {self.count}, unscored {self.unscored}, minimum {self.minimum}, "
                f"uncertain {self.uncertain}",
            )


@dataclass(frozen=True)
class StratumState:
    """One stratum: its traces, how many are drawn, and how many of the drawn are labelled."""

    name: str
    size: int
    drawn: int
    labelled: int


@dataclass(frozen=True)
class Picks:
    """The sample of a queue after a pick.

    Attributes:
        new: traces drawn now, in the order of their random numbers.
        draws: every drawn trace of the queue, those of earlier picks with their probability as it is now.
        strata: by name.
        moved: traces drawn earlier whose stratum has changed since, because they were judged again.
    """

    new: tuple[str, ...]
    draws: Mapping[str, Draw]
    strata: tuple[StratumState, ...]
    moved: int


def stratum_of(candidate: Candidate, frame: Frame) -> str:
    """The stratum of one trace: `fail`, `pass / unsure`, `fail / unsure / agent = billing`."""
    if candidate.passed is None:
        return UNSCORED
    parts = ["pass" if candidate.passed else "fail"]
    if frame.cut is not None:
        parts.append("unsure" if candidate.confidence is not None and candidate.confidence <= frame.cut else "sure")
    if frame.by is not None:
        parts.append(f"{frame.by.removeprefix('tag:')} = {candidate.slice or '(none)'}")
    return " / ".join(parts)


def confidence_cut(confidences: Iterable[float | None]) -> float:
    """The confidence up to which a verdict counts as unsure: the third of the verdicts that are the least confident.

    Raises:
        ConfigError: no verdict carries a confidence, or all carry the same.
    """
    known = sorted(c for c in confidences if c is not None)
    if not known or known[0] == known[-1]:
        raise ConfigError(
            "The judge's verdicts cannot be told apart by confidence.",
            found="no confidence on any verdict" if not known else f"{known[0]} on all of them",
            fix="Leave out --uncertain; local judges give a confidence, most model judges do not.",
        )
    cut = float(np.quantile(known, _UNSURE_PART, method="lower"))
    return cut if cut < known[-1] else max(c for c in known if c < known[-1])


def choose(candidates: Sequence[Candidate], frame: Frame, share: Share, *, date: str) -> Picks:
    """Draws traces until the queue's sample has the size asked for.

    Strata are shared out by Neyman's rule from the labels there are; without any, evenly.

    Args:
        candidates: every judged trace of the frame, drawn ones included.
        frame: of the queue.
        share: how many, and how spread.
        date: day of this pick, ISO.

    Returns:
        The whole sample, and what is new in it. Nothing is new when the sample has its size already, or no trace of
        the frame is left.

    Raises:
        ConfigError: the breakdown makes too many strata.
    """
    strata = {c.trace_id: stratum_of(c, frame) for c in candidates}
    sizes = dict(sorted(Counter(strata.values()).items()))  # ties between strata must not depend on the traces' order
    if len(sizes) > _MOST_STRATA:
        raise ConfigError(
            f"{frame.by!r} splits the traces into {len(sizes)} strata.",
            valid=f"a breakdown with up to {_MOST_STRATA}",
            fix="Choose one with fewer values.",
        )
    inside = {c.trace_id for c in candidates if c.draw is not None}
    if share.random_labels:
        inside |= {c.trace_id for c in candidates if c.labelled}
    owed = _owed(candidates, strata, sizes, inside, share, max(0, share.count - len(inside)))
    new = _smallest(candidates, strata, inside, owed, frame)
    inside |= set(new)
    drawn = Counter(strata[i] for i in inside)
    chosen = [c for c in candidates if c.trace_id in inside]
    draws = {c.trace_id: _draw(c, strata[c.trace_id], sizes, drawn, frame, date) for c in chosen}
    done = Counter(strata[c.trace_id] for c in chosen if c.labelled)
    states = tuple(StratumState(h, sizes[h], drawn[h], done[h]) for h in sorted(sizes))
    moved = sum(c.draw is not None and c.draw.stratum != strata[c.trace_id] for c in candidates)
    return Picks(new, draws, states, moved)


def _owed(
    candidates: Sequence[Candidate],
    strata: Mapping[str, str],
    sizes: Mapping[str, int],
    inside: set[str],
    share: Share,
    number: int,
) -> dict[str, int]:
    """How many to draw from each stratum now."""
    drawn = Counter(strata[i] for i in inside)
    left = {h: sizes[h] - drawn[h] for h in sizes}
    blind = min(number, max(0, share.unscored - drawn[UNSCORED]), left.get(UNSCORED, 0))
    scored = {h: n for h, n in sizes.items() if h != UNSCORED}
    labelled = [(strata[c.trace_id], c.good) for c in candidates if c.good is not None and c.passed is not None]
    pilot = {h: (sum(g for s, g in labelled if s == h), sum(s == h for s, _ in labelled)) for h in scored}
    groups = _groups(scored, drawn, left, share, number - blind)
    owed = {UNSCORED: blind} if blind else {}
    for names, part in groups:
        given = neyman_allocation(
            {h: scored[h] for h in names},
            part,
            pilot={h: pilot[h] for h in names} if labelled else None,
            minimum=share.minimum,
            spent={h: drawn[h] for h in names},
        )
        owed |= {h: given[h] for h in names}
    return owed


def _groups(
    scored: Mapping[str, int], drawn: Mapping[str, int], left: Mapping[str, int], share: Share, number: int
) -> list[tuple[list[str], int]]:
    """Strata to be shared out together, with how many to draw of them: unsure and sure apart where that is asked."""
    if share.uncertain is None:
        return [(list(scored), number)]
    unsure = [h for h in scored if h.split(" / ")[1:2] == ["unsure"]]
    sure = [h for h in scored if h not in unsure]
    wanted = round(share.uncertain * max(0, share.count - share.unscored)) - sum(drawn[h] for h in unsure)
    room, rest = sum(left[h] for h in unsure), sum(left[h] for h in sure)
    first = min(room, max(0, wanted, number - rest), number)
    return [(unsure, first), (sure, number - first)]


def _smallest(
    candidates: Sequence[Candidate], strata: Mapping[str, str], inside: set[str], owed: Mapping[str, int], frame: Frame
) -> tuple[str, ...]:
    """Per stratum the traces with the smallest random numbers that are not in the sample yet."""
    rest = sorted((number_of(frame, c.trace_id), c.trace_id) for c in candidates if c.trace_id not in inside)
    taken: Counter[str] = Counter()
    new = []
    for _, trace_id in rest:
        stratum = strata[trace_id]
        if taken[stratum] < owed.get(stratum, 0):
            taken[stratum] += 1
            new.append(trace_id)
    return tuple(new)


def number_of(frame: Frame, trace_id: str, purpose: str = "draw") -> int:
    """The permanent random number of a trace, uniform below 2**64; another purpose gives an independent one."""
    basis = "\x1f".join((purpose, str(frame.seed), frame.judge, frame.queue.strip().lower(), trace_id))
    return int.from_bytes(hashlib.sha256(basis.encode()).digest()[:8], "big")


def _draw(
    c: Candidate, stratum: str, sizes: Mapping[str, int], drawn: Mapping[str, int], frame: Frame, date: str
) -> Draw:
    size, number = sizes[stratum], drawn[stratum]
    base = c.draw or Draw(1.0, frame.queue, stratum, 1, 1, frame.seed, date)
    return replace(base, probability=round(number / size, 10), stratum=stratum, size=size, drawn=number)


def assign(picks: Picks, frame: Frame, queues: Sequence[str], overlap: int = 0) -> Picks:
    """Shares the new traces out over review queues.

    Args:
        picks: what `choose` found.
        frame: of the sample.
        queues: one queue, or one for each expert.
        overlap: traces that shall stand in every queue, those of earlier picks included; chosen at random. Each other
            trace goes to one queue, the emptiest.
    """
    draws = dict(picks.draws)
    shared = sum(len(d.queues) > 1 for d in draws.values())
    load = Counter({q: sum(d.queues == (q,) for d in draws.values()) for q in queues})
    for trace_id in sorted(picks.new, key=lambda i: number_of(frame, i, "share")):
        if shared < overlap and len(queues) > 1:
            draws[trace_id], shared = replace(draws[trace_id], queues=tuple(queues)), shared + 1
        else:
            one = min(queues, key=lambda q: (load[q], queues.index(q)))
            draws[trace_id] = replace(draws[trace_id], queues=(one,))
            load[one] += 1
    return replace(picks, draws=draws)
