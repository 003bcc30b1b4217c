"""`kill -9` at any database statement and any request, again and again: nothing is lost, order is kept.

A sink that can be asked gets nothing twice; one that cannot gets again only what was on its way when a worker died.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlflow_assay.bridge.database import Database
from mlflow_assay.bridge.deliveries import Deliveries
from mlflow_assay.bridge.mlflow_reads import MlflowReads
from mlflow_assay.bridge.outbox import Outbox
from mlflow_assay.bridge.reconcile import check_source

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("seed", "ask"), [(1, True), (2, True), (3, False)], ids=["askable", "again", "silent"])
def test_killed_at_any_statement(log_trace, store, outbox_url, key_server, seed, ask):
    import mlflow

    kills = int(os.environ.get("ASSAY_TEST_KILLS", "25"))
    for _ in range(5):
        log_trace()
    script = Path(__file__).parent / "kill_points.py"
    command = [sys.executable, str(script), "test", outbox_url, key_server.url, str(seed), str(kills)]
    done = subprocess.run(
        [*command, "--ask"] if ask else command,
        capture_output=True,
        text=True,
        timeout=850,
        env={**os.environ, "MLFLOW_TRACKING_URI": store},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ends = {int(code): n for code, n in json.loads(done.stdout.splitlines()[-1]).items()}
    assert set(ends) <= {0, -9} and ends.get(-9, 0) > kills * 0.4, ends

    location = str(mlflow.get_experiment_by_name("test").experiment_id)
    database = Database(outbox_url)
    sending = Deliveries(database)
    check = check_source(MlflowReads(location), Outbox(database), location)
    (status,) = sending.status(["keys"])
    noted = {r.key for page in sending.everything("keys", "delivered") for r in page}
    database.close()
    assert check.clean and check.in_mlflow > 0
    assert (status.pending, status.retrying, status.dead) == (0, 0, 0)
    assert noted == set(key_server.copies), "what is noted is there, and nothing else"
    firsts = {a: list(dict.fromkeys(numbers)) for a, numbers in key_server.orders().items()}
    assert all(numbers == sorted(numbers) for numbers in firsts.values())
    doubled = sum(n - 1 for n in key_server.copies.values())
    if ask:
        assert doubled == 0
    else:
        assert 0 < doubled <= 3 * ends[-9], "at most the batch on its way at each death, and some of it: kills did hit"
