"""What is kept of a draw of traces for labelling: the frame on the experiment, the draw on each trace chosen.

Both are JSON in MLflow tags, so they survive with the traces, can be read by anyone, and need no store of our own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mlflow_assay import semconv
from mlflow_assay.errors import StoreError

__all__ = ["Draw", "Frame", "draws_of", "frames_of"]


@dataclass(frozen=True)
class Frame:
    """Which traces a queue's sample stands for, and how it is drawn; fixed at the queue's first pick.

    Attributes:
        queue: the queue's name, as given.
        judge: whose verdicts are to be checked.
        filter: MLflow search text, None for all traces.
        since_ms, until_ms: start times of the traces it may hold, epoch milliseconds, both ends included; since_ms
            None takes all from the first on. Later traces belong to another queue's frame.
        by: breakdown used as strata beside the verdict, None for none.
        cut: confidence in [0, 1] up to which a verdict counts as unsure; None where confidence makes no strata.
        seed: with which the draw can be repeated.
        date: day of the first pick, ISO.
    """

    queue: str
    judge: str
    filter: str | None
    since_ms: int | None
    until_ms: int
    by: str | None
    cut: float | None
    seed: int
    date: str

    @property
    def tag(self) -> tuple[str, str]:
        """Key and value of the experiment's tag. A queue's name may hold what a tag's key may not, hence the hash."""
        return _frame_key(self.judge, self.queue), json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)

    def holds(self, time_ms: int) -> bool:
        """Whether a trace of that start time is inside the frame's span of time."""
        return (self.since_ms is None or time_ms >= self.since_ms) and time_ms <= self.until_ms


@dataclass(frozen=True)
class Draw:
    """That a trace was chosen for labelling, and with which probability.

    Attributes:
        probability: of being chosen, in (0, 1]: drawn over size of its stratum.
        queue: the queue it was drawn for, which names the sample.
        stratum: verdict, then unsure/sure and slice where the design has them, joined by ` / `.
        size, drawn: traces in the stratum, and how many of them are drawn so far.
        seed: of the draw.
        date: day it was drawn, ISO.
        queues: the review queues it goes to; several for a trace that several experts shall label.
    """

    probability: float
    queue: str
    stratum: str
    size: int
    drawn: int
    seed: int
    date: str
    queues: tuple[str, ...] = ()

    def tag(self, judge: str) -> tuple[str, str]:
        """Key and value of the trace's tag."""
        return f"{semconv.LABEL_DRAW}.{judge}", json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)


def _frame_key(judge: str, queue: str) -> str:
    named = f"{judge}\x1f{queue.strip().lower()}"
    return f"{semconv.LABEL_FRAME}.{hashlib.sha256(named.encode()).hexdigest()[:16]}"


def _parse(kind: Any, key: str, text: str) -> Any:
    try:
        found = json.loads(text)
        given = {f.name: found[f.name] for f in fields(kind)}
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"The tag {key!r} cannot be read.", found=text[:200], fix="Delete the tag if it was edited by hand."
        ) from error
    if kind is Draw:
        given["queues"] = tuple(given["queues"])
    return kind(**given)


def draws_of(tags: Mapping[str, str]) -> dict[str, Draw]:
    """The draws noted on one trace, by judge.

    Raises:
        StoreError: a tag of ours cannot be read.
    """
    prefix = f"{semconv.LABEL_DRAW}."
    return {k.removeprefix(prefix): _parse(Draw, k, v) for k, v in tags.items() if k.startswith(prefix)}


def frames_of(tags: Mapping[str, str], judge: str | None = None) -> list[Frame]:
    """The frames noted on an experiment, oldest first; of one judge, or of all.

    Raises:
        StoreError: a tag of ours cannot be read.
    """
    found: list[Frame] = [_parse(Frame, k, v) for k, v in tags.items() if k.startswith(f"{semconv.LABEL_FRAME}.")]
    return sorted((f for f in found if judge in (None, f.judge)), key=lambda f: (f.date, f.until_ms, f.queue))
