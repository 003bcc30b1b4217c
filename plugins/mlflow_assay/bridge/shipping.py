"""Shipping to one sink: claim, deliver, settle, in a thread of its own, so that no sink waits for another."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from mlflow_assay.bridge.deliveries import Claimed, Deliveries
from mlflow_assay.bridge.outbox import now_ms
from mlflow_assay.contracts import AssessmentRevision, BridgeObserver, BridgeSink, Delivery, InquirableSink
from mlflow_assay.errors import StoreError

__all__ = ["Shipper"]

_logger = logging.getLogger(__name__)
_BATCH = 200


@dataclass
class Shipper:
    """Ships what one sink is owed.

    Args:
        name: the sink's name in the outbox.
        sink: where to.
        deliveries: the outbox.
        owner: who this worker is.
        observers: told of each batch.
        batch: revisions sent at once at most; halved while the sink refuses all of a batch, so that what it chokes
            on is found.
        lease_s: how long a claim holds without news from this worker.
        idle_s: seconds between looks when nothing is due.
    """

    name: str
    sink: BridgeSink
    deliveries: Deliveries
    owner: str
    observers: Sequence[BridgeObserver] = ()
    batch: int = _BATCH
    lease_s: float = 60.0
    idle_s: float = 1.0
    stop: threading.Event = field(default_factory=threading.Event)
    wake: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._size, self._failures = self.batch, 0
        self._held: tuple[int, ...] = ()
        self._paused_until = 0.0
        self.failure: str | None = None

    def run(self) -> None:
        """Ship until told to stop. Faults of the outbox are waited out; nothing is lost by them."""
        while not self.stop.is_set():
            try:
                shipped = self.ship()
            except StoreError as error:
                self._say(str(error))
                shipped = 0
                self.stop.wait(min(30.0, self.idle_s * 5))
            except Exception as error:
                # A thread that ships for months must outlive what nobody has foreseen; it is said, with its trace.
                _logger.exception("bridge sink=%s", self.name)
                self._say(f"{type(error).__name__}: {error}")
                shipped = 0
                self.stop.wait(min(30.0, self.idle_s * 5))
            if shipped == 0:
                self.wake.wait(self._pause())
                self.wake.clear()

    def ship(self) -> int:
        """One batch: how many deliveries were tried.

        Raises:
            OutboxError: the outbox cannot be used. What the sink had acknowledged is noted as soon as it can be.
        """
        if time.monotonic() < self._paused_until:
            return 0
        claimed = self.deliveries.claim(self.name, self.owner, self._size, self.lease_s)
        if not claimed:
            return 0
        self._held = tuple(one.id for one in claimed)
        try:
            outcomes = self._outcomes(claimed)
            self._settle(outcomes)
        finally:
            self._held = ()
        self._adapt([delivery for _, delivery in outcomes])
        self._tell([(one.revision, delivery) for one, delivery in outcomes])
        return len(claimed)

    def renew(self) -> None:
        """Hold on to what is being sent; called by the worker now and then while a sink is slow."""
        if held := self._held:
            self.deliveries.renew(self.owner, held, self.lease_s)

    # --- sending --------------------------------------------------------------------------------------------

    def _outcomes(self, claimed: Sequence[Claimed]) -> list[tuple[Claimed, Delivery]]:
        """What became of each; what the sink holds already from a worker that died is not sent again."""
        there = self._held_already([one for one in claimed if one.uncertain])
        found = [
            (one, Delivery("delivered", "the sink held it already")) for one in claimed if one.revision.key in there
        ]
        owed = [one for one in claimed if one.revision.key not in there]
        return found + list(zip(owed, self._deliver([one.revision for one in owed]), strict=True))

    def _held_already(self, uncertain: Sequence[Claimed]) -> set[str]:
        if not uncertain or not isinstance(self.sink, InquirableSink):
            return set()
        try:
            held = self.sink.held([one.revision for one in uncertain])
        except Exception as error:
            # At least once: a sink that cannot say is sent it again.
            _logger.warning("bridge sink=%s cannot be asked what it holds: %s", self.name, error)
            return set()
        return {key for key, copies in held.items() if copies > 0}

    def _deliver(self, revisions: Sequence[AssessmentRevision]) -> list[Delivery]:
        if not revisions:
            return []
        try:
            answers = list(self.sink.deliver(revisions))
        except Exception as error:
            # A sink is somebody else's code: whatever it raises, the revisions are kept and tried again.
            answers = [Delivery("retry", f"{type(error).__name__}: {error}")] * len(revisions)
        if len(answers) != len(revisions):
            said = f"the sink answered {len(answers)} times for {len(revisions)} revisions"
            answers = [Delivery("retry", said)] * len(revisions)
        return answers

    def _settle(self, outcomes: Sequence[tuple[Claimed, Delivery]]) -> None:
        """Note the outcomes, however long the outbox refuses: forgetting them would send everything twice."""
        wait = 0.2
        while True:
            try:
                self.deliveries.settle(self.name, self.owner, outcomes)
                return
            except StoreError as error:
                self._say(f"{error} {len(outcomes)} outcomes are kept in memory until then.")
                if self.stop.wait(wait):
                    raise
                wait = min(wait * 2, 10.0)

    def _adapt(self, answers: Sequence[Delivery]) -> None:
        failed = [answer for answer in answers if answer.state == "retry"]
        if not failed:
            self._size, self._failures, self._paused_until = min(self.batch, self._size * 2), 0, 0.0
            self.failure = None
            return
        if len(failed) < len(answers):
            return
        self._failures += 1
        self._size = max(1, self._size // 2)
        asked = max((answer.retry_after_s or 0.0 for answer in failed), default=0.0)
        wait = max(self.deliveries.retry.wait_s(self._failures), asked)
        self._paused_until = time.monotonic() + min(wait, max(asked, 30.0))
        self._say(f"{failed[0].detail} (next try in {wait:.1f} s)")

    # --- telling --------------------------------------------------------------------------------------------

    def _pause(self) -> float:
        return max(0.01, min(self.idle_s, self._paused_until - time.monotonic()) if self._paused_until else self.idle_s)

    def _say(self, text: str) -> None:
        if text != self.failure:
            _logger.warning("bridge sink=%s %s", self.name, text)
        self.failure = text

    def _tell(self, outcomes: Sequence[tuple[AssessmentRevision, Delivery]]) -> None:
        for observer in self.observers:
            try:
                observer.delivered(self.name, outcomes, now_ms())
            except Exception:
                # Metrics about the bridge must not stop the bridge.
                _logger.exception("bridge observer %s failed", type(observer).__name__)
