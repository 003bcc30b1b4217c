"""A worker that runs for months: whatever it remembers beside its outbox is bounded by number, not only by time."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_assay.bridge import following, judging, subject
from mlflow_assay.bridge.following import Following, Pace
from mlflow_assay.bridge.ingest import Ingest
from mlflow_assay.bridge.judging import Judged, Judging
from mlflow_assay.bridge.mlflow_reads import Touched
from mlflow_assay.bridge.outbox import Outbox
from mlflow_assay.bridge.owner import Tenure
from mlflow_assay.recent import Recent


@given(st.integers(1, 5), st.lists(st.integers(0, 9)))
def test_recent_keeps_the_last_so_many_keys_with_their_last_values(limit, keys):
    kept: Recent[int, int] = Recent(limit)
    expected: dict[int, int] = {}
    for number, key in enumerate(keys):
        kept[key] = number
        expected[key] = number
        while len(expected) > limit:
            del expected[next(iter(expected))]
        assert len(kept) <= limit
    assert dict(kept) == expected


@dataclass
class ManyChanges:
    """An MLflow that lists so many changes, a second apart or all at once; its traces are gone since."""

    count: int
    apart_ms: int
    lists_changes = True
    sizes: tuple[int, ...] = ()

    def touched(self, since_ms, limit):
        now = int(time.time() * 1000)
        rows = [
            Touched(now - (self.count - n) * self.apart_ms, f"a-{n}", f"tr-{n % 50}", True) for n in range(self.count)
        ]
        rows = [row for row in rows if row.at_ms >= since_ms]
        for start in range(0, len(rows), limit):
            self.sizes += (len(self.following._seen),)
            yield rows[start : start + limit]

    def infos(self, trace_ids):
        return []


@pytest.mark.parametrize(
    ("count", "apart_ms", "most"),
    [(60_000, 1000, 121 + 500), (120_000, 0, following._SEEN)],
    ids=["over a day", "within one moment"],
)
def test_a_first_reading_of_many_changes_remembers_no_more_than_the_overlap_and_never_more_than_the_limit(
    make_bridge, count, apart_ms, most
):
    outbox: Outbox = make_bridge().outbox
    reads = ManyChanges(count, apart_ms)
    reads.following = Following(reads, outbox, Ingest(outbox, "1"), Pace(overlap_s=120))
    reads.following.last_changes()
    assert max(*reads.sizes, len(reads.following._seen)) <= most
    assert len(reads.following._seen) >= min(most, 100), "it does remember"


def test_buckets_runs_and_traces_gone_through_have_limits(make_bridge):
    bridge = make_bridge()
    made = Judging("1", bridge.following.reads, bridge.outbox, lambda infos, scope: Judged())
    held = (bridge.following._stuck, bridge.following.ingest.subjects._facts, made._seen)
    for memory, limit in zip(held, (following._STUCK, subject._REMEMBERED, judging._SEEN), strict=True):
        for number in range(limit + 1000):
            memory[number] = None
        assert len(memory) == limit
        assert 999 not in memory and limit + 999 in memory


def test_of_claims_of_others_only_those_there_are_remembered():
    tenure: Tenure[tuple[str, int]] = Tenure()
    for stamp in range(1000):
        assert tenure.unrenewed([("other", stamp), ("third", 1)], 3600) == []
        assert len(tenure._since) == 2
