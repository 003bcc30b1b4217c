"""Workers that kill themselves (SIGKILL) at a random database statement or request, one after the other.

python kill_points.py EXPERIMENT OUTBOX_URL KEY_SERVER_URL SEED KILLS [--ask]

MLflow is imported once and each life is a fork, so that hundreds of deaths take a minute. Before
each life some assessments are changed. Prints one JSON object: how the lives ended.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import mlflow
import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).parent))
import worker_process

import mlflow_assay.bridge.health
import mlflow_assay.engine.run  # noqa: F401 - imported before the forks
from mlflow_assay import pipeline

pipeline._meanings = lambda paths, judges: {}  # the catalogue takes a second, and has no part in this


class DoomedSink(worker_process.KeySink):
    """Counts its requests towards the death, before and after each."""

    tick: Callable[[], None]

    def _post(self, path: str, value: object) -> dict[str, int]:
        self.tick()
        answer = super()._post(path, value)
        self.tick()
        return answer


class DoomedAskableSink(DoomedSink, worker_process.AskableKeySink):
    """The same, askable."""


def in_child(work: Callable[[], None]) -> int:
    """Run in a fork; minus the signal it died of, or its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def write(experiment: str, seed: int, steps: int) -> None:
    """Create, edit, override and delete."""
    from mlflow.entities import AssessmentSource, Feedback

    chance, source = random.Random(seed), AssessmentSource("HUMAN", "anna")  # noqa: S311
    location = mlflow.get_experiment_by_name(experiment).experiment_id
    for _ in range(steps):
        traces = mlflow.search_traces(locations=[location], return_type="list", include_spans=False)
        info = chance.choice(traces).info
        valid = [a for a in info.assessments if a.valid is not False]
        draw = chance.random()
        if draw < 0.5 or not valid:
            mlflow.log_feedback(trace_id=info.trace_id, name="tone", value=chance.random() < 0.5, source=source)
            continue
        one = chance.choice(valid)
        if draw < 0.75:
            mlflow.update_assessment(
                info.trace_id, one.assessment_id, Feedback(name="tone", value=True, rationale=str(draw))
            )
        elif draw < 0.85:
            mlflow.override_feedback(trace_id=info.trace_id, assessment_id=one.assessment_id, value=False)
        else:
            mlflow.delete_assessment(info.trace_id, one.assessment_id)


def live(experiment: str, outbox: str, url: str, ask: bool, die_at: int | None) -> None:
    """One life: everything read and shipped once, or death before."""
    count = 0

    def tick(*_: object) -> None:
        nonlocal count
        count += 1
        if count == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sink = (DoomedAskableSink if ask else DoomedSink)(url)
    sink.tick = tick
    sa.event.listen(sa.engine.Engine, "after_cursor_execute", tick)
    sa.event.listen(sa.engine.Engine, "commit", tick)
    worker = worker_process.make_worker(experiment, outbox, sink, lease_s=30, batch=3, judge=None)
    worker.once(60)


def main() -> None:
    experiment, outbox, url, seed, kills = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
    ask = "--ask" in sys.argv
    chance, ends = random.Random(seed), Counter()  # noqa: S311
    for number in range(kills):
        die_at = chance.randrange(1, 150)

        def life(number: int = number, die_at: int = die_at) -> None:
            write(experiment, seed * 10_000 + number, 3)
            live(experiment, outbox, url, ask, die_at)

        ends[in_child(life)] += 1
    ends[in_child(lambda: live(experiment, outbox, url, ask, None))] += 1
    print(json.dumps(ends))


if __name__ == "__main__":
    main()
