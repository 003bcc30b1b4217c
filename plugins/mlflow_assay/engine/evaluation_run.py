"""The MLflow evaluation run a scoring run shows up as, so that MLflow's evaluation UI and run comparison work on it.

It carries what `mlflow.genai.evaluate` would: the run type, the judged traces linked to it, the assessments'
source run, and one mean a judge; and beside that what MLflow leaves out: how many were scored and unscored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlflow_assay import semconv
from mlflow_assay.engine.report import Tally

if TYPE_CHECKING:
    from mlflow.entities import TraceInfo

    from mlflow_assay.contracts import BoundJudge

__all__ = ["EvaluationRun", "open_run"]

_LINK_BATCH = 100


@dataclass(frozen=True)
class EvaluationRun:
    """An open evaluation run.

    Attributes:
        run_id: MLflow's run id.
        resumed: whether an earlier run of the same work, killed before its end, goes on here.
    """

    run_id: str
    resumed: bool

    def whole(self, infos: Iterable[TraceInfo], judges: Sequence[BoundJudge]) -> tuple[list[Tally], list[str]]:
        """Every verdict this run has left in the store, by judge, and the traces that carry them.

        What a part of the run was paid for counts in full; a verdict that a later part replaced counts no more.

        Args:
            infos: the traces of the run's selection, with their assessments.
        """
        from mlflow.tracing.constant import AssessmentMetadataKey

        tallies = {j.name: Tally(j.name, j.digest) for j in judges}
        trace_ids = []
        for info in infos:
            marked = [a for a in info.assessments or [] if a.name in tallies and a.feedback is not None]
            ours = [a for a in marked if (a.metadata or {}).get(AssessmentMetadataKey.SOURCE_RUN_ID) == self.run_id]
            for verdict in ours:
                tallies[verdict.name].add(verdict, replaced=verdict.valid is False)
            if ours:
                trace_ids.append(str(info.trace_id))
        return list(tallies.values()), trace_ids

    def close(self, tallies: Sequence[Tally], trace_ids: Iterable[str]) -> None:
        """Link the judged traces, log one mean a judge and the counts, and end the run."""
        from mlflow import MlflowClient

        client, ids = MlflowClient(), list(dict.fromkeys(trace_ids))
        for start in range(0, len(ids), _LINK_BATCH):
            client.link_traces_to_run(run_id=self.run_id, trace_ids=ids[start : start + _LINK_BATCH])
        for name, value in _metrics(tallies).items():
            client.log_metric(self.run_id, name, value)
        client.set_terminated(self.run_id, "FINISHED")


def open_run(
    experiment_id: str, judges: Sequence[BoundJudge], selection: str, *, owed: bool = True
) -> EvaluationRun | None:
    """The run for these judges over this selection of traces: the one a killed run left open, or a new one.

    Args:
        selection: what was asked for (filter, since, limit), as any stable text.
        owed: whether there is anything to judge; where there is not, no new run is made and None returned.
    """
    from mlflow import MlflowClient
    from mlflow.genai.evaluation.lineage import log_lineage_tags
    from mlflow.utils.mlflow_tags import MLFLOW_RUN_TYPE, MLFLOW_RUN_TYPE_GENAI_EVALUATE

    client = MlflowClient()
    basis = "\n".join([selection, *sorted(f"{j.name} {j.digest}" for j in judges)])
    work = hashlib.sha256(basis.encode()).hexdigest()[:16]
    filter_string = f"attributes.status = 'RUNNING' and tags.`{semconv.RUN_WORK}` = '{work}'"
    open_ones = client.search_runs([experiment_id], filter_string, max_results=1)
    if open_ones:
        return EvaluationRun(str(open_ones[0].info.run_id), resumed=True)
    if not owed:
        return None
    tags = {
        MLFLOW_RUN_TYPE: MLFLOW_RUN_TYPE_GENAI_EVALUATE,
        semconv.RUN_WORK: work,
        **{f"{semconv.RUN_JUDGE}.{j.name.replace('/', '.')}": j.digest for j in judges},
    }
    run = client.create_run(experiment_id, tags=tags, run_name="assay: " + ", ".join(j.name for j in judges)[:200])
    log_lineage_tags(run.info.run_id, [j.scorer for j in judges], None)
    return EvaluationRun(str(run.info.run_id), resumed=False)


def _metrics(tallies: Sequence[Tally]) -> dict[str, float]:
    """`<judge>/mean` as MLflow's evaluation UI reads it (share passed), and the counts it leaves out."""
    found: dict[str, float] = {}
    for tally in tallies:
        if tally.scored:
            found[f"{tally.judge}/mean"] = tally.passed / tally.scored
        found[f"{tally.judge}/scored"] = tally.scored
        found[f"{tally.judge}/unscored"] = tally.unscored.total()
        if tally.cost_usd is not None:
            found[f"{tally.judge}/cost_usd"] = tally.cost_usd
    return found
