"""A worker in a process of its own, shipping to a `KeyServer`, to be killed by the tests.

python worker_process.py EXPERIMENT OUTBOX_URL KEY_SERVER_URL [--judge NAME] [--lease S] [--ask] [--batch N] [--skew S]
"""

from __future__ import annotations

import argparse
import json
import signal
import urllib.error
import urllib.request
from collections.abc import Sequence

from mlflow_assay import pipeline
from mlflow_assay.bridge import deliveries, following, judging, outbox, shipping, worker
from mlflow_assay.bridge.database import Database
from mlflow_assay.bridge.deliveries import Retry
from mlflow_assay.bridge.following import Pace
from mlflow_assay.bridge.judging import Selection
from mlflow_assay.bridge.logs import configure_logging
from mlflow_assay.bridge.owner import make_owner
from mlflow_assay.bridge.worker import Pulse, Worker
from mlflow_assay.contracts import AssessmentRevision, Delivery


class KeySink:
    """Tells a `KeyServer` the keys."""

    name = "keys"

    def __init__(self, url: str) -> None:
        self._url = url

    def deliver(self, revisions: Sequence[AssessmentRevision]) -> Sequence[Delivery]:
        told = [{"key": r.key, "assessment_id": r.assessment_id, "revision": r.revision} for r in revisions]
        try:
            self._post("/deliver", told)
        except urllib.error.HTTPError as error:
            return [Delivery("retry", f"HTTP {error.code}")] * len(revisions)
        except OSError as error:
            return [Delivery("retry", f"{type(error).__name__}")] * len(revisions)
        return [Delivery("delivered")] * len(revisions)

    def close(self) -> None:
        pass

    def _post(self, path: str, value: object) -> dict[str, int]:
        request = urllib.request.Request(self._url + path, json.dumps(value).encode())  # noqa: S310
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            return dict(json.loads(answer.read()))


class AskableKeySink(KeySink):
    """The same, and it can say what the server holds."""

    def held(self, revisions: Sequence[AssessmentRevision]) -> dict[str, int]:
        return self._post("/held", [r.key for r in revisions])


def make_worker(
    experiment: str, outbox: str, sink: KeySink, *, lease_s: float, batch: int, judge: str | None
) -> Worker:
    """A quick worker on the MLflow of the environment."""
    database, owner = Database(outbox), make_owner()
    bridged = pipeline.bridged(
        experiment,
        database,
        owner,
        ("keys",),
        judges=pipeline.build_judges([judge]) if judge else [],
        selection=Selection(settle_s=0, batch=10, sweep_every_s=1, busy_share=0.5),
        pace=Pace(counts_every_s=0.5, sweep_every_s=2, busy_share=0.5, page=20),
    )
    pulse = Pulse(poll_s=0.05, lease_s=lease_s, grace_s=10, faults_s=1)
    retry = Retry(first_s=0.05, most_s=0.5)
    made = Worker(database, [bridged], {"keys": sink}, pulse=pulse, retry=retry, owner=owner)
    for shipper in made.shippers:
        shipper.batch = shipper._size = batch
        shipper.idle_s = 0.05
    return made


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("experiment")
    parser.add_argument("outbox")
    parser.add_argument("server")
    parser.add_argument("--judge")
    parser.add_argument("--lease", type=float, default=2.0)
    parser.add_argument("--batch", type=int, default=7)
    parser.add_argument("--ask", action="store_true")
    parser.add_argument("--skew", type=int, default=0, help="how far this machine's clock is ahead, seconds")
    given = parser.parse_args()
    configure_logging("json")
    real = outbox.now_ms
    for module in (deliveries, following, judging, outbox, shipping, worker):
        module.now_ms = lambda: real() + given.skew * 1000
    sink = (AskableKeySink if given.ask else KeySink)(given.server)
    made = make_worker(given.experiment, given.outbox, sink, lease_s=given.lease, batch=given.batch, judge=given.judge)
    signal.signal(signal.SIGTERM, lambda *_: made.stop())
    print("ready", flush=True)
    made.run()


if __name__ == "__main__":
    main()
