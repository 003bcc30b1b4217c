"""Labels from a file onto traces in MLflow, and from MLflow into rows for a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlflow_assay.contracts import CategoricalValue, JudgeContract, Label, UnscoredError
from mlflow_assay.errors import InputError
from mlflow_assay.labels.csv_file import COLUMNS, CsvRow, read_csv
from mlflow_assay.labels.designs import Draw, draws_of
from mlflow_assay.labels.queues import refused
from mlflow_assay.labels.rows import Mark, Row, read_row
from mlflow_assay.labels.verdicts import collect
from mlflow_assay.sources.mlflow_store import MlflowSource

if TYPE_CHECKING:
    from mlflow.entities import Assessment, TraceInfo

__all__ = ["EXPORT_COLUMNS", "ImportReport", "MlflowLabels", "exported", "import_csv"]

EXPORT_COLUMNS: Final = (*COLUMNS, "verdict", "judge_value", "judge_rationale", "queue", "stratum", "labelled_at_ms")
IMPORTED: Final = "(imported)"  # queue and stratum of a trace whose probability came with its label
_SHOWN = 20


@dataclass
class ImportReport:
    """What an import came to; counts of lines.

    Attributes:
        written: labels new on their trace.
        replaced: labels that took the place of an older, different one of the same labeller.
        already: labels that were there.
        bad: lines left out, each with its number and why.
        notes: what the reader must know.
    """

    written: int = 0
    replaced: int = 0
    already: int = 0
    bad: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return asdict(self)


@dataclass(frozen=True)
class _Planned:
    line: int
    label: Label
    probability: float | None


def import_csv(
    path: Path,
    experiment: str,
    contracts: Mapping[str, JudgeContract],
    *,
    name: str | None = None,
    by: str | None = None,
    skip_bad: bool = False,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Put the labels of a file on their traces, as human feedback.

    The same file twice changes nothing. A label that differs from the labeller's earlier one replaces it; the earlier
    one stays in MLflow, marked invalid.

    Args:
        path: a CSV file, see `csv_file.COLUMNS`.
        experiment: name or id; every trace must be in it.
        contracts: judges by assessment name; a value under a judge's name must be one that the judge may give.
        name: assessment name of lines that have none.
        by: who labelled, for lines that do not say.
        skip_bad: leave out bad lines, instead of writing nothing.
        dry_run: check everything, write nothing.
        progress: called with (labels done, labels to do).

    Raises:
        InputError: the file cannot be read, or has bad lines, each named.
        StoreError: MLflow cannot be read or refuses a label.
    """
    report, rows = ImportReport(), read_csv(path)
    planned = _check(rows, contracts, name, by, report)
    wanted = {p.label.trace_id for p in planned}
    infos = {i.trace_id: i for i in MlflowSource(experiment).infos() if i.trace_id in wanted}
    unknown = [p for p in planned if p.label.trace_id not in infos]
    report.bad += [f"line {p.line}: no trace {p.label.trace_id!r} in experiment {experiment!r}" for p in unknown]
    if report.bad and not skip_bad:
        raise _refusal(path, report.bad)
    todo = [p for p in planned if p.label.trace_id in infos]
    strangers = sorted({p.label.name for p in todo} - set(contracts))
    report.notes += [f"No judge is named {s!r}: its values were taken as they stand." for s in strangers]
    for number, plan in enumerate(todo, start=1):
        _store(plan, infos[plan.label.trace_id], report, dry_run)
        if progress is not None:
            progress(number, len(todo))
    return report


def _refusal(path: Path, bad: Sequence[str]) -> InputError:
    more = [f"… and {len(bad) - _SHOWN} more"] if len(bad) > _SHOWN else []
    listed = "\n  ".join([*_by_line(bad)[:_SHOWN], *more])
    return InputError(
        f"{len(bad)} lines of {path} cannot be imported, so nothing was:\n  {listed}\n",
        fix="Mend them, or leave them out with --skip-bad.",
    )


def _by_line(bad: Sequence[str]) -> list[str]:
    return sorted(bad, key=lambda text: int(text.split(":", 1)[0].removeprefix("line ")))


def _check(
    rows: Sequence[CsvRow],
    contracts: Mapping[str, JudgeContract],
    name: str | None,
    by: str | None,
    report: ImportReport,
) -> list[_Planned]:
    """The labels of the good lines; bad ones go into the report."""
    planned: dict[tuple[str, str, str], _Planned] = {}
    for row in rows:
        try:
            found = _read(row, contracts, name, by)
        except InputError as error:
            report.bad.append(f"line {row.line}: {error}")
            continue
        key = (found.label.trace_id, found.label.name, found.label.by.lower())
        first = planned.setdefault(key, found)
        if first is not found and first.label != found.label:
            report.bad.append(
                f"line {row.line}: {found.label.by!r} labelled this trace differently in line {first.line}"
            )
    return list(planned.values())


def _read(row: CsvRow, contracts: Mapping[str, JudgeContract], name: str | None, by: str | None) -> _Planned:
    called, who = row.name or name, row.by or by
    lacking = {"trace_id": row.trace_id, "value": row.value, "name (or --name)": called, "by (or --by)": who}
    if empty := [column for column, text in lacking.items() if not text]:
        raise InputError(f"{', '.join(empty)} missing")
    value = _value(str(row.value), contracts.get(str(called)))
    return _Planned(
        row.line, Label(str(row.trace_id), str(called), value, str(who), row.rationale), _chance(row.probability)
    )


def _value(text: str, contract: JudgeContract | None) -> Any:
    if contract is None:
        return _plain(text)
    spec = contract.value
    undecided = spec.undecided if isinstance(spec, CategoricalValue) else ()
    for word in undecided:  # an expert may say that it cannot be told
        if text.lower() == word.lower():
            return word
    try:
        return spec.read(text)
    except UnscoredError as error:
        raise InputError(f"value {text!r} is none of {contract.name}'s ({spec.describe()})") from error


def _plain(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return float(text)
    except ValueError:
        return text


def _chance(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 < found <= 1:
        raise InputError(f"probability {text!r} does not lie in (0, 1]")
    return found


def _store(plan: _Planned, info: TraceInfo, report: ImportReport, dry_run: bool) -> None:
    old = _standing(info, plan.label)
    same = old is not None and _same(old, plan)
    report.already += same
    report.written += old is None
    report.replaced += old is not None and not same
    if dry_run:
        return
    if not same:
        _log(plan, old)
    # After the label: a killed import leaves a label without its probability, and the next one adds it.
    if plan.probability is not None and plan.label.name not in draws_of(info.tags or {}):
        _note_draw(plan, plan.probability)


def _note_draw(plan: _Planned, probability: float) -> None:
    from mlflow import MlflowClient

    today = datetime.now(timezone.utc).date().isoformat()
    draw = Draw(probability, IMPORTED, IMPORTED, 0, 0, 0, today)
    with refused(f"the probability of line {plan.line}"):
        MlflowClient().set_trace_tag(plan.label.trace_id, *draw.tag(plan.label.name))


def _standing(info: TraceInfo, label: Label) -> Assessment | None:
    """This labeller's latest valid label of that name."""
    mine = [
        a
        for a in info.assessments or []
        if a.name == label.name
        and a.valid is not False
        and a.feedback is not None
        and str(a.source.source_type) == "HUMAN"
        and str(a.source.source_id).lower() == label.by.lower()
    ]
    return max(mine, key=lambda a: a.create_time_ms or 0, default=None)


def _same(old: Assessment, plan: _Planned) -> bool:
    said, now = old.feedback.value, plan.label.value
    return (said == now or str(said).lower() == str(now).lower()) and (old.rationale or None) == plan.label.rationale


def _log(plan: _Planned, old: Assessment | None) -> None:
    import mlflow
    from mlflow.entities import AssessmentSource

    common: dict[str, Any] = {
        "trace_id": plan.label.trace_id,
        "value": plan.label.value,
        "rationale": plan.label.rationale,
        "source": AssessmentSource(source_type="HUMAN", source_id=plan.label.by),
    }
    with refused(f"the label of line {plan.line} (import the file again to go on)"):
        if old is None:
            mlflow.log_feedback(name=plan.label.name, **common)
        else:
            mlflow.override_feedback(assessment_id=str(old.assessment_id), **common)


# --- export ---------------------------------------------------------------------------------------------


def exported(
    source: MlflowSource, contracts: Mapping[str, JudgeContract], names: Sequence[str] = ()
) -> Iterator[tuple[Any, ...]]:
    """People's labels as rows of `EXPORT_COLUMNS`, oldest trace first, with the judge's verdict beside.

    Args:
        source: which traces.
        contracts: judges by assessment name, to read verdicts.
        names: assessment names; empty takes all that people gave.

    Raises:
        StoreError: MLflow cannot be read.
    """
    for trace in source.traces(spans=False):
        row = read_row(trace, [])
        whole = {a.assessment_id: a.rationale for a in trace.info.assessments or []}  # a row shortens long texts
        yield from _lines(row, whole, contracts, names)


def _labels(row: Row, names: Sequence[str]) -> list[Mark]:
    """Each labeller's latest valid feedback under each name; expectations are no labels here."""
    latest: dict[tuple[str, str], Mark] = {}
    for mark in sorted(row.marks, key=lambda m: m.time_ms):
        told = mark.human and mark.valid and not mark.expectation and mark.error is None
        if told and (not names or mark.name in names):
            latest[mark.name, mark.source.lower()] = mark
    return list(latest.values())


def _lines(
    row: Row,
    rationales: Mapping[str | None, str | None],
    contracts: Mapping[str, JudgeContract],
    names: Sequence[str],
) -> Iterator[tuple[Any, ...]]:
    marks = _labels(row, names)
    verdicts = {found.name: found for found in collect([row], contracts)} if marks else {}
    for mark in marks:
        judged = next(iter(verdicts[mark.name].verdicts.values())) if mark.name in verdicts else None
        draw = row.draws.get(mark.name)
        yield (
            row.trace_id,
            mark.name,
            mark.value,
            rationales.get(mark.id),
            mark.source,
            draw.probability if draw else None,
            None if judged is None else _word(judged.reading.passed),
            None if judged is None else judged.mark.value,
            None if judged is None else rationales.get(judged.mark.id),
            draw.queue if draw else None,
            draw.stratum if draw else None,
            mark.time_ms,
        )


def _word(passed: bool | None) -> str:
    return "unscored" if passed is None else "pass" if passed else "fail"


class MlflowLabels:
    """People's labels on the traces of an experiment. Entry point `mlflow` of `mlflow_assay.label_sources`.

    Args:
        experiment: name or id.
        names: assessment names; empty takes all that people gave.
        filter: MLflow's search syntax; None takes all traces.
    """

    def __init__(self, experiment: str, names: Sequence[str] = (), filter: str | None = None) -> None:  # noqa: A002
        self._source, self._names = MlflowSource(experiment, filter), tuple(names)

    def labels(self) -> Iterator[Label]:
        """Each labeller's latest valid word, conflicting ones included, oldest trace first.

        Raises:
            StoreError: MLflow cannot be read.
        """
        for trace in self._source.traces(spans=False):
            row = read_row(trace, [])
            for mark in _labels(row, self._names):
                yield Label(row.trace_id, mark.name, mark.value, mark.source, mark.rationale)
