"""A dataset from traces: those that judges failed, that people corrected, or that any condition selects."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mlflow_assay import trace_fields
from mlflow_assay.contracts import JudgeContract, TraceSource
from mlflow_assay.datasets import expected, where
from mlflow_assay.datasets.model import About, DatasetRow, row_id
from mlflow_assay.datasets.redacting import Redacting
from mlflow_assay.datasets.selecting import Chosen, choose
from mlflow_assay.datasets.shaping import Shaped, Shaping, shape
from mlflow_assay.errors import StoreError
from mlflow_assay.labels.rows import check_by, read_row
from mlflow_assay.labels.window import parse_labels
from mlflow_assay.redaction import Redactor
from mlflow_assay.sources.mlflow_store import MlflowSource, load_ids

if TYPE_CHECKING:
    from mlflow.entities import Trace

__all__ = ["BuildPlan", "Built", "build"]

_CHUNK = 200
_USERINFO = re.compile(r"(?<=://)[^/@]*@")


@dataclass(frozen=True)
class BuildPlan:
    """Which traces become rows, and what of them.

    Attributes:
        where: conditions, all of which a trace must meet; see `datasets.where`. Empty takes every trace.
        labels: where people's labels are, for the conditions `wrong` and `right`; as in `assay agreement --label`.
        expect: names of people's feedback that says what should have been.
        slice: the trace field whose value is the row's slice: `agent`, `tag:KEY`, `metadata:KEY`, `expectation:KEY`,
            `span:NAME`; None for none.
        inputs: trace fields by the name they get in the row's inputs; empty takes the root span's inputs as they are.
        outputs: the trace field that becomes the row's outputs.
        tags: trace tags to keep with the row.
        shaping: duplicates, sample, splits.
    """

    where: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    expect: tuple[str, ...] = ()
    slice: str | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: str = "outputs"
    tags: tuple[str, ...] = ()
    shaping: Shaping = field(default_factory=Shaping)

    def __post_init__(self) -> None:
        where.parse(self.where)
        for name in (*self.inputs.values(), self.outputs):
            trace_fields.check(name)
        if self.slice is not None:
            check_by(self.slice)


@dataclass
class Built:
    """Rows ready to be stored, and what is to be said of them; a context manager.

    Attributes:
        shaped: the rows.
        query: what built them.
        redaction: which redactor ran and what it replaced; None when none ran.
    """

    shaped: Shaped
    query: dict[str, Any]
    redaction: dict[str, Any] | None

    def __enter__(self) -> Built:
        return self

    def __exit__(self, *exc: object) -> None:
        self.shaped.__exit__()

    def __len__(self) -> int:
        return len(self.shaped)

    def rows(self) -> Iterator[DatasetRow]:
        """The rows, in the order of their traces."""
        return self.shaped.rows()

    def about(self, **said: Any) -> About:
        """What the manifest shall say; further fields of `About` by name."""
        pii = said.pop("pii", None) or ("redacted" if self.redaction else None)
        return About(how="build", query=self.query, redaction=self.redaction, pii=pii, **said)


def build(
    source: TraceSource,
    plan: BuildPlan,
    contracts: Mapping[str, JudgeContract] | None = None,
    *,
    redactor: Redactor | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Built:
    """Select traces, make a row of each, replace personal data, merge duplicates, sample and split.

    Args:
        source: where the traces are.
        plan: which of them, and what of them.
        contracts: pass rules by assessment name, for verdicts that record no outcome; None for none.
        redactor: what replaces personal data in inputs, outputs, expectations and tags; None replaces nothing.
        progress: called with traces looked at so far and None, then with rows made so far and in all.

    Raises:
        ConfigError: a condition names a judge or label that is not there.
        StoreError: no trace is selected, or MLflow cannot be read.
        NotTrustedError: too few groups to split.
    """
    conditions, counted = where.parse(plan.where), progress
    chosen = choose(
        source,
        conditions,
        contracts or {},
        parse_labels(plan.labels),
        None if counted is None else lambda done: counted(done, None),
    )
    if not len(chosen):
        raise StoreError(
            "No trace meets all conditions.",
            found=f"{chosen.read} traces; conditions: {'; '.join(plan.where) or 'none'}",
            fix="Loosen --where, or take in more traces (--since, --filter).",
        )
    noted = _Notes(redactor)
    shaped = shape(noted.rows(_load(source, chosen), len(chosen), plan, progress), plan.shaping)
    query = _query(source, plan, chosen) | {
        "traces_read": chosen.read,
        "traces_selected": len(chosen),
        "traces_without_inputs": noted.without_inputs,
        "traces_without_slice": noted.without_slice if plan.slice else 0,
        "traces_without_expectations": noted.without_expectations,
        "shaped": shaped.record,
    }
    return Built(shaped, query, noted.redacting.record())


def _load(source: TraceSource, chosen: Chosen) -> Iterator[Trace]:
    """The chosen traces with their spans, a few at a time."""
    if isinstance(source, MlflowSource):
        for ids in chosen.ids(_CHUNK):
            yield from load_ids(ids)
        return
    wanted = {trace_id for ids in chosen.ids(_CHUNK) for trace_id in ids}
    for trace in source.traces(spans=True):
        if trace.info.trace_id in wanted:
            wanted.remove(trace.info.trace_id)  # one that comes twice is taken once
            yield trace


class _Notes:
    """Makes rows of traces, and counts what happens to them."""

    def __init__(self, redactor: Redactor | None) -> None:
        self.redacting = Redacting(redactor)
        self.without_inputs = self.without_slice = self.without_expectations = 0

    def rows(
        self,
        traces: Iterable[Trace],
        count: int,
        plan: BuildPlan,
        progress: Callable[[int, int | None], None] | None,
    ) -> Iterator[DatasetRow]:
        by = [plan.slice] if plan.slice else []
        for done, trace in enumerate(traces, 1):
            if progress is not None:
                progress(done, count)
            row = read_row(trace, by)
            inputs = (
                trace_fields.extract_all(trace, plan.inputs) if plan.inputs else trace_fields.extract(trace, "inputs")
            )
            if inputs is None or inputs == {}:
                self.without_inputs += 1
                continue
            made = DatasetRow(
                inputs=inputs,
                outputs=trace_fields.extract(trace, plan.outputs),
                expectations=expected.expectations(row, plan.expect),
                trace_id=row.trace_id,
                session=row.session,
                slice=row.groups.get(plan.slice) if plan.slice else None,
                tags={**_kept(trace.info.tags or {}, plan), **expected.labels(row)},
            )
            self.without_slice += made.slice is None
            self.without_expectations += not made.expectations
            yield self._named(self.redacting.row(made), plan)

    def _named(self, row: DatasetRow, plan: BuildPlan) -> DatasetRow:
        return replace(row, id=row_id(row.inputs, row.trace_id)) if plan.shaping.duplicates == "none" else row


def _kept(tags: Mapping[str, str], plan: BuildPlan) -> dict[str, str]:
    return {key: value for key, value in tags.items() if key in plan.tags}


def _query(source: TraceSource, plan: BuildPlan, chosen: Chosen) -> dict[str, Any]:
    facts: dict[str, Any] = {k: v for k, v in asdict(plan).items() if v}
    facts["judges"] = {name: dict(versions) for name, versions in chosen.judges.items()}
    if not isinstance(source, MlflowSource):
        return facts | {"source": type(source).__qualname__}
    import mlflow

    return facts | {
        "source": "mlflow",
        "tracking_uri": _USERINFO.sub("", str(mlflow.get_tracking_uri())),
        "experiment": source.experiment,
        "experiment_id": source.experiment_id,
        "filter": source.filter,
        "since_ms": source.since_ms,
        "max_traces": source.max_traces,
    }
