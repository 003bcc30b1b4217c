"""From an experiment's traces and their assessments to a `ReportData`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mlflow_assay.contracts import JudgeContract, TraceSource
from mlflow_assay.errors import ConfigError
from mlflow_assay.labels.people import check_labels
from mlflow_assay.labels.rows import Row, check_by, read_rows
from mlflow_assay.labels.verdicts import collect
from mlflow_assay.report.breakdown import breakdowns
from mlflow_assay.report.judge import human_feedback, judge_report, latency_of
from mlflow_assay.report.links import Links
from mlflow_assay.report.model import AgentFacts, ReportData, Section
from mlflow_assay.report.sessions import worst_sessions

__all__ = ["ReportRequest", "assemble", "build", "parse_label"]


@dataclass(frozen=True)
class ReportRequest:
    """What a report is asked to show.

    Args:
        experiment, experiment_id: of MLflow, for the heading and links.
        title: the page's heading; None takes the experiment's name.
        by: breakdowns (`agent`, `tag:KEY`, `metadata:KEY`, `expectation:KEY`, `span:NAME`,
            `span:NAME.outputs[.path]`); empty lets the report choose a tag.
        labels: (name, judge) pairs: the assessment or expectation `name` holds the labels of `judge`.
        selection: in words, which traces were asked for.
        ui_url: base address of MLflow's UI; None makes no links.
        sections: further sections (dataset, prompt fix, comparison).

    Raises:
        ConfigError: a breakdown is not one.
    """

    experiment: str
    experiment_id: str
    title: str | None = None
    by: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    selection: str = ""
    ui_url: str | None = None
    sections: tuple[Section, ...] = field(default=())

    def __post_init__(self) -> None:
        for by in self.by:
            check_by(by)


def parse_label(text: str) -> tuple[str, str]:
    """`NAME=JUDGE` as a pair.

    Raises:
        ConfigError: it is not of that form.
    """
    name, equals, judge = (part.strip() for part in text.rpartition("="))
    if not (name and equals and judge):
        raise ConfigError(
            f"{text!r} does not say which labels belong to which judge.",
            valid="NAME=JUDGE, for example ground_truth=request_resolved",
        )
    return name, judge


def build(
    source: TraceSource,
    request: ReportRequest,
    contracts: Mapping[str, JudgeContract],
    progress: Callable[[int], None] | None = None,
) -> ReportData:
    """Everything the page shows, from the traces of one experiment.

    Args:
        source: the traces with their assessments.
        request: what to show.
        contracts: judges by assessment name, for pass rules not recorded with the verdicts.
        progress: called with the number of traces read so far.

    Raises:
        ConfigError: a label names nothing that is there.
        StoreError: the traces cannot be read.
    """
    rows = read_rows(source, request.by, progress)
    return assemble(rows, request, contracts)


def assemble(rows: Sequence[Row], request: ReportRequest, contracts: Mapping[str, JudgeContract]) -> ReportData:
    """The report of rows already read, oldest first; see `build`."""
    judges = collect(rows, contracts)
    check_labels(request.labels, rows, [f.name for f in judges])
    truth = {name for name, _ in request.labels} - {judge for _, judge in request.labels}
    found = [f for f in judges if f.name not in truth]
    names = {f.name: [n for n, judge in request.labels if judge == f.name] for f in found}
    links = Links(request.ui_url, request.experiment_id)
    worst, left = worst_sessions(rows, found, links)
    times = [row.time_ms for row in rows if row.timed]
    human = {m.name for row in rows for m in row.marks if m.human and m.valid and not m.expectation}
    return ReportData(
        title=request.title or request.experiment,
        experiment=request.experiment,
        experiment_id=request.experiment_id,
        generated_ms=int(time.time() * 1000),
        selection=request.selection,
        first_ms=min(times, default=None),
        last_ms=max(times, default=None),
        n_traces=len(rows),
        n_sessions=len({row.session for row in rows if row.session}),
        n_without_session=sum(row.session is None for row in rows),
        n_untimed=len(rows) - len(times),
        simulated_traces=sum(row.simulated for row in rows),
        simulated_customers=sum(row.simulated_customer and not row.simulated for row in rows),
        agent=_agent(rows),
        judges=tuple(judge_report(f, rows, names[f.name], contracts.get(f.name)) for f in found),
        human=tuple(human_feedback(rows, name) for name in sorted(human - set(names) - truth)),
        breakdowns=breakdowns(rows, found, request.by),
        sessions=worst,
        sessions_left=left,
        ui_url=request.ui_url,
        sections=request.sections,
    )


def _agent(rows: Sequence[Row]) -> AgentFacts:
    usd = [row.usd for row in rows if row.usd is not None]
    tokens = [row.tokens for row in rows if row.tokens is not None]
    return AgentFacts(
        errors=sum(row.failed for row in rows),
        latency=latency_of([row.duration_ms for row in rows if row.duration_ms is not None]),
        usd=math.fsum(usd) if usd else None,
        usd_known=len(usd),
        tokens=sum(tokens) if tokens else None,
        tokens_known=len(tokens),
    )
