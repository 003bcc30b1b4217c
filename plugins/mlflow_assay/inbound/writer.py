"""Stores what waits in the inbox as assessments; traces MLflow does not know yet are asked for again."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence

from mlflow_assay import sqlstore
from mlflow_assay.inbound.evaluation import Evaluation
from mlflow_assay.inbound.inbox import Inbox
from mlflow_assay.recent import Recent

__all__ = ["Writer"]

_log = logging.getLogger(__name__)
_IDLE_S = 0.2
_LONGEST_WAIT_S = 60.0
_KNOWN_TRACES = 10_000
_FORGET_EVERY_S = 3600.0


class Writer:
    """A thread that empties the inbox into the tracking server MLflow is set to.

    Args:
        inbox: where the evaluations wait.
        experiments: ids of the experiments whose traces may be written to; None allows all.
        keep_s: seconds a trace may stay unknown before its evaluations are given up.
    """

    def __init__(self, inbox: Inbox, experiments: Collection[str] | None = None, keep_s: float = 3600.0) -> None:
        self._inbox, self._keep_s = inbox, keep_s
        self._experiments = None if experiments is None else frozenset(experiments)
        self._known: Recent[str, str] = Recent(_KNOWN_TRACES)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="assay-receive", daemon=True)
        self.counts: Counter[str] = Counter()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the batch at hand; what still waits stays in the inbox."""
        self._stop.set()
        self._thread.join(timeout=60)

    def _run(self) -> None:
        forgot, trouble = time.monotonic(), 0
        while not self._stop.is_set():
            try:
                wait = _IDLE_S if self.step() == 0 else 0.0
                trouble = 0
            except Exception as error:
                # MLflow down, a locked file, a full disk: nothing is lost, so wait and go on.
                trouble += 1
                wait = _wait(trouble)
                _log.warning("Evaluations wait in the inbox, next try in %g s: %s.", wait, type(error).__name__)
            self._stop.wait(wait)
            if time.monotonic() - forgot > _FORGET_EVERY_S:
                self._inbox.forget_old()
                forgot = time.monotonic()

    def step(self) -> int:
        """Try what is due, once; how many were due.

        Raises:
            Exception: MLflow cannot be reached; what was not stored waits.
        """
        batch = self._inbox.due()
        ready = []
        for one, tries, arrived in batch:
            try:
                if self._is_ready(one, tries, arrived):
                    ready.append((one, tries))
            except Exception:
                self._inbox.later(one, _wait(tries))
                raise
        if ready and not self._store_at_once([one for one, _ in ready]):
            self._store_one_by_one(ready)
        return len(batch)

    def _is_ready(self, one: Evaluation, tries: int, arrived: float) -> bool:
        """Whether its trace is known and open; else it waits or is given up."""
        experiment = self._experiment(one)
        if experiment is None:
            if time.time() - arrived > self._keep_s:
                self._give_up(one, "MLflow never came to know the trace")
            else:
                self._inbox.later(one, _wait(tries))
        elif self._experiments is not None and experiment not in self._experiments:
            self._give_up(one, "its trace is in an experiment that is not open to evaluations from outside")
        else:
            return True
        return False

    def _store_at_once(self, batch: Sequence[Evaluation]) -> bool:
        """Whether all were stored in one transaction, as a database URI allows; none was where not."""
        store = sqlstore.open_store()
        if store is None:
            return False
        try:
            before = sqlstore.assessment_ids(store, [one.id for one in batch])
            if sqlstore.add_assessments(store, [one.feedback() for one in batch]):
                return False
        except Exception as error:
            # Whatever keeps a private path from working, the public one still may.
            _log.info("The one-transaction write failed (%s); writing one by one.", type(error).__name__)
            return False
        self.counts["stored"] += len(batch) - len(before)
        self.counts["stored before"] += len(before)
        self._inbox.done(batch)
        return True

    def _store_one_by_one(self, ready: Sequence[tuple[Evaluation, int]]) -> None:
        for one, tries in ready:
            if self._stop.is_set():
                return
            try:
                self._store(one)
            except Exception:
                self._inbox.later(one, _wait(tries))  # behind the others, should it be the cause itself
                raise

    def _experiment(self, one: Evaluation) -> str | None:
        """The experiment of its trace; None while MLflow does not know the trace."""
        from mlflow.exceptions import MlflowException
        from mlflow.tracing.client import TracingClient

        if (known := self._known.get(one.trace_id)) is not None:
            return known
        try:
            info = TracingClient().get_trace_info(f"tr-{one.trace_id}")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        self._known[one.trace_id] = str(info.experiment_id)
        return self._known[one.trace_id]

    def _store(self, one: Evaluation) -> None:
        import mlflow
        from mlflow.exceptions import MlflowException

        try:
            mlflow.log_assessment(f"tr-{one.trace_id}", one.feedback())
            self.counts["stored"] += 1
        except MlflowException as error:
            if self._is_stored(one):
                self.counts["stored before"] += 1
            elif error.error_code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST"):
                self._give_up(one, "MLflow did not take it: INVALID_PARAMETER_VALUE")
                return
            else:
                raise
        self._inbox.done([one])

    def _is_stored(self, one: Evaluation) -> bool:
        import mlflow
        from mlflow.exceptions import MlflowException

        try:
            return mlflow.get_assessment(f"tr-{one.trace_id}", one.id) is not None
        except MlflowException:
            return False

    def _give_up(self, one: Evaluation, reason: str) -> None:
        self.counts["given up"] += 1
        _log.warning("The evaluation %s of trace %s is given up: %s.", one.id, one.trace_id, reason)
        self._inbox.done([one], reason)


def _wait(tries: int) -> float:
    return min(_LONGEST_WAIT_S, 2.0 ** min(tries, 6))
