"""The worker: reads, judges and ships, each in threads of its own, until it is told to stop.

Two workers on one outbox share the shipping; only one of them reads, and one judges, an experiment at a time (a lease
in the outbox), the other stands by and takes over. What a thread meets in faults from outside (MLflow away, disk full,
a sink that hangs) it says, waits out and goes on from where it was.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from mlflow_assay.bridge.database import Database
from mlflow_assay.bridge.deliveries import Deliveries, Retry
from mlflow_assay.bridge.following import Following
from mlflow_assay.bridge.judging import Judging
from mlflow_assay.bridge.outbox import LeaseLostError, Outbox, now_ms, reading
from mlflow_assay.bridge.owner import is_gone, make_owner
from mlflow_assay.bridge.shipping import Shipper
from mlflow_assay.contracts import BridgeObserver, BridgeSink, BridgeStatus
from mlflow_assay.errors import AssayError, StoreError

__all__ = ["Experiment", "Health", "Periodic", "Pulse", "Worker"]

_logger = logging.getLogger(__name__)
_OBSERVE_EVERY_S = 10.0
READ_MARK = "read"


@dataclass(frozen=True)
class Experiment:
    """One experiment to be bridged.

    Attributes:
        id: MLflow's.
        following: finds what changes in it.
        judging: judges its new traces; None ships only what others write.
    """

    id: str
    following: Following
    judging: Judging | None = None


@dataclass(frozen=True)
class Periodic:
    """Something done on an interval, such as computing KPIs.

    Attributes:
        name: for the log.
        every_s: seconds from the end of one to the start of the next.
        run: what to do; what it raises is logged.
    """

    name: str
    every_s: float
    run: Callable[[], None]


@dataclass(frozen=True)
class Pulse:
    """The rhythm of a worker, in seconds.

    Attributes:
        poll_s: between two looks at MLflow.
        lease_s: how long others wait for a worker that is not heard of.
        grace_s: what threads get to end what they are at when told to stop.
        faults_s: the longest wait after a fault from outside.
    """

    poll_s: float = 2.0
    lease_s: float = 60.0
    grace_s: float = 20.0
    faults_s: float = 30.0


@dataclass
class Health:
    """What each part of the worker last said; empty text means well."""

    parts: dict[str, str] = field(default_factory=dict)
    beat: dict[str, float] = field(default_factory=dict)

    def well(self, part: str) -> None:
        """The part did its work."""
        if self.parts.get(part):
            _logger.info("part=%s is well again", part)
        self.parts[part], self.beat[part] = "", time.monotonic()

    def ill(self, part: str, why: str) -> None:
        """The part could not do its work."""
        if self.parts.get(part) != why:
            _logger.warning("part=%s %s", part, why)
        self.parts[part], self.beat[part] = why, time.monotonic()

    @property
    def faults(self) -> dict[str, str]:
        """Parts that are not well, and why."""
        return {part: why for part, why in self.parts.items() if why}


class Worker:
    """Bridges experiments to sinks.

    Args:
        database: the outbox.
        experiments: what to read and judge.
        sinks: where to, by their names in the outbox.
        observers: told what happens.
        periodic: done on intervals beside.
        pulse: the rhythm.
        retry: when to try a delivery again.
        owner: this worker's name; None makes one.
        spent: share of the judging budget spent, in [0, 1]; None without a budget.
    """

    def __init__(
        self,
        database: Database,
        experiments: Sequence[Experiment],
        sinks: Mapping[str, BridgeSink],
        *,
        observers: Sequence[BridgeObserver] = (),
        periodic: Sequence[Periodic] = (),
        pulse: Pulse | None = None,
        retry: Retry | None = None,
        owner: str | None = None,
        spent: Callable[[], float] | None = None,
    ) -> None:
        self.owner, self.health = owner or make_owner(), Health()
        self._database, self._experiments, self._sinks = database, experiments, dict(sinks)
        self._spent = spent
        self._observers, self._periodic, self._pulse = observers, periodic, pulse or Pulse()
        self.outbox = Outbox(database, tuple(sinks))
        self.deliveries = Deliveries(database, retry or Retry())
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        for experiment in experiments:
            experiment.following.stop = self._stop
            if experiment.judging is not None:
                experiment.judging.stop = self._stop
        self.shippers = [
            Shipper(name, sink, self.deliveries, self.owner, observers, lease_s=self._pulse.lease_s, stop=self._stop)
            for name, sink in self._sinks.items()
        ]

    @property
    def location(self) -> str:
        """The outbox's address, its password hidden."""
        return self._database.location

    @property
    def failing(self) -> dict[str, str]:
        """Sinks that fail, and what they said last."""
        return {shipper.name: shipper.failure for shipper in self.shippers if shipper.failure}

    def stop(self) -> None:
        """Ask the worker to end; it ends what it is at first. Safe to call from a signal handler."""
        self._stop.set()
        for shipper in self.shippers:
            shipper.wake.set()

    def run(self) -> None:
        """Work until told to stop.

        Raises:
            OutboxError: the outbox cannot be used at the start.
        """
        self._prepare()
        for shipper in self.shippers:
            self._start(f"ship-{shipper.name}", shipper.run)
        for experiment in self._experiments:
            self._start_repeating(f"read-{experiment.id}", partial(self.read, experiment))
            if experiment.judging is not None:
                self._start_repeating(f"judge-{experiment.id}", partial(self.judge, experiment))
        for task in self._periodic:
            self._start_repeating(f"task-{task.name}", task.run, task.every_s)
        self._start_repeating("observe", self._observe, _OBSERVE_EVERY_S)
        self._repeat("leases", self._renew, self._pulse.lease_s / 4)
        self.close()

    def once(self, timeout_s: float = 300.0) -> BridgeStatus:
        """Judge and read everything once, ship until nothing is due, and end.

        Args:
            timeout_s: how long to go on trying what sinks do not take.

        Returns:
            How things stand at the end.

        Raises:
            StoreError: MLflow or the outbox could not be used; what was recorded stays. What only a periodic task
                met is in `health` instead, so that how things stand is still said.
        """
        self._prepare()
        renewing = threading.Thread(
            target=self._repeat, args=("leases", self._renew, self._pulse.lease_s / 4), daemon=True
        )
        renewing.start()
        try:
            for experiment in self._experiments:
                if experiment.judging is not None and self._take(f"judge:{experiment.id}"):
                    experiment.judging.everything()
                if self._take(reading(experiment.id)):
                    experiment.following.everything()
                    self.outbox.put_mark(experiment.id, READ_MARK, str(now_ms()))
                else:
                    _logger.warning("experiment=%s is being read by another worker; left to it", experiment.id)
            self._drain(time.monotonic() + timeout_s)
            for task in self._periodic:
                self._run(task)
            self._observe()
            return self.status()
        finally:
            self.close()
            renewing.join(self._pulse.grace_s)

    def status(self) -> BridgeStatus:
        """How the bridge stands.

        Raises:
            OutboxError: the outbox cannot be read.
        """
        ages: dict[str, float | None] = {}
        for experiment in self._experiments:
            mark = self.outbox.mark(experiment.id, READ_MARK)
            ages[experiment.id] = max(0.0, (now_ms() - int(mark)) / 1000) if mark is not None else None
        standing = {experiment.id: self.outbox.standing(experiment.id) for experiment in self._experiments}
        spent = self._spent() if self._spent is not None else None
        return BridgeStatus(tuple(self.deliveries.status(list(self._sinks))), ages, standing, spent)

    def close(self) -> None:
        """Stop the threads, let go of leases, and close the sinks and the outbox."""
        self.stop()
        deadline = time.monotonic() + self._pulse.grace_s
        for thread in self._threads:
            thread.join(max(0.1, deadline - time.monotonic()))
        if late := [thread.name for thread in self._threads if thread.is_alive()]:
            _logger.warning("left unfinished: %s; it is done again after the next start", ", ".join(late))
        with contextlib.suppress(StoreError):
            self.outbox.release(self.owner)
        for name, sink in self._sinks.items():
            try:
                sink.close()
            except Exception:
                _logger.exception("bridge sink=%s could not be closed", name)
        self._database.close()

    # --- parts ----------------------------------------------------------------------------------------------

    def read(self, experiment: Experiment) -> None:
        """One look at MLflow, unless another worker has the experiment."""
        if not self._take(reading(experiment.id)):
            return
        if experiment.following.poll():
            for shipper in self.shippers:
                shipper.wake.set()
        self.outbox.put_mark(experiment.id, READ_MARK, str(now_ms()))

    def judge(self, experiment: Experiment) -> None:
        """One step of judging, unless another worker has the experiment."""
        if experiment.judging is None or not self._take(f"judge:{experiment.id}"):
            return
        experiment.judging.step()
        if experiment.judging.stopped is not None:
            raise AssayError(f"Judging pauses: {experiment.judging.stopped}.")

    def _take(self, name: str) -> bool:
        return self.outbox.lease(name, self.owner, self._pulse.lease_s, lambda other: not is_gone(other, self.owner))

    def _prepare(self) -> None:
        for sink, owed in self.outbox.add_sinks().items():
            _logger.info("bridge sink=%s is new to the outbox and is owed %d assessments for a start", sink, owed)
        if freed := self.deliveries.release(lambda other: is_gone(other, self.owner)):
            _logger.info("%d deliveries of a worker that was killed are sent again", freed)

    def _renew(self) -> None:
        self.outbox.renew(self.owner, self._pulse.lease_s)
        for shipper in self.shippers:
            shipper.renew()

    def _observe(self) -> None:
        if not self._observers:
            return
        status = self.status()
        for observer in self._observers:
            try:
                observer.backlog(status)
            except Exception:
                # Metrics about the bridge must not stop the bridge.
                _logger.exception("bridge observer %s failed", type(observer).__name__)

    def _run(self, task: Periodic) -> None:
        try:
            task.run()
        except AssayError as error:
            self.health.ill(f"task-{task.name}", str(error))

    def _drain(self, deadline: float) -> None:
        """Ship until nothing is due any more, or the time is over."""
        threads = [threading.Thread(target=self._drain_one, args=(s, deadline), name=s.name) for s in self.shippers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _drain_one(self, shipper: Shipper, deadline: float) -> None:
        while not self._stop.is_set() and time.monotonic() < deadline:
            try:
                if shipper.ship():
                    continue
                due = self.deliveries.next_due_ms([shipper.name])
            except StoreError as error:
                self.health.ill(f"ship-{shipper.name}", str(error))
                due = now_ms() + 1000
            if due is None:
                return
            self._stop.wait(min(1.0, max(0.05, (due - now_ms()) / 1000)))

    # --- threads --------------------------------------------------------------------------------------------

    def _start(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _start_repeating(self, part: str, step: Callable[[], None], every_s: float | None = None) -> None:
        self._start(part, partial(self._repeat, part, step, every_s))

    def _repeat(self, part: str, step: Callable[[], None], every_s: float | None = None) -> None:
        """Do a part's work again and again; after faults, after growing waits."""
        wait = rhythm = self._pulse.poll_s if every_s is None else every_s
        while not self._stop.is_set():
            try:
                step()
                self.health.well(part)
                wait = rhythm
            except LeaseLostError as error:
                _logger.info("part=%s %s", part, error)
            except AssayError as error:
                self.health.ill(part, str(error))
                wait = max(rhythm, min(wait * 2, self._pulse.faults_s))
            except Exception as error:
                # A worker that runs for months must outlive what nobody has foreseen; it is said, with its trace.
                _logger.exception("part=%s failed", part)
                self.health.ill(part, f"{type(error).__name__}: {error}")
                wait = max(rhythm, min(wait * 2, self._pulse.faults_s))
            self._stop.wait(wait)
