"""A local classifier distilled from the labels, in the judge's place: no key, no call, no cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mlflow_assay import trace_fields
from mlflow_assay.alignment.aligner import Aligner, Proposal, Task
from mlflow_assay.contracts import BooleanValue
from mlflow_assay.errors import ConfigError

if TYPE_CHECKING:
    from mlflow.entities import Trace

__all__ = ["Local"]

# Read where the labelled traces have them; what is on all of them must be there, the rest may be missing.
READS = ("first_user_message", "final_answer", "agents", "tools_called", "tag:agent")


class Local(Aligner):
    """Trains the local judge of this pack on the training and validation labels.

    Its own out-of-fold evidence decides whether it may be used at all; the gate decides whether it takes the place of
    the judge as it is.

    Args:
        fields: trace fields it reads, as for `assay judges train`; empty takes those of `READS` that are there.
        embedder: folder of an embedding model; None reads words and word parts.
        min_kappa: least lower bound of out-of-fold kappa with which it may be used.
        options: as for `Aligner`.
    """

    name: ClassVar[str] = "local"
    needs_verdicts: ClassVar[bool] = False
    calls_llm: ClassVar[bool] = False

    def __init__(
        self, *, fields: Sequence[str] = (), embedder: str | None = None, min_kappa: float = 0.4, **options: Any
    ) -> None:
        super().__init__(**options)
        self.fields, self.embedder, self.min_kappa = tuple(fields), embedder, min_kappa

    def propose(self, task: Task) -> Proposal:
        """The trained classifier.

        Raises:
            NotTrustedError: the labels do not carry a judge; says what is missing.
            ConfigError: a field does not exist.
        """
        from mlflow_assay.judges.local import LabelSet, Options, train

        rows = (*task.train, *task.validation)
        spec = task.bound.contract.value
        options = Options(
            fields=self.fields or _present([e.trace for e in rows]),
            good=spec.good if isinstance(spec, BooleanValue) else True,
            purpose=task.bound.contract.purpose,
            embedder=self.embedder,
            min_kappa=self.min_kappa,
            seed=self.seed,
        )
        labels = LabelSet(task.label, {e.id: e.passed for e in rows}, sources={"given": len(rows)})
        judge = train([e.trace for e in rows], labels, name=task.bound.name, options=options)
        judge.require_trust()
        report = judge.report
        summary = (
            f"A local classifier, trained on {report.n} labels, answers {report.coverage:.0%} of traces without "
            f"any model call (kappa {report.kappa:.2f} on traces unseen in {report.folds} folds)."
        )
        return Proposal(summary, local=judge, used=tuple(e.id for e in rows), details={"training": report.to_dict()})


def _present(traces: Sequence[Trace]) -> tuple[str, ...]:
    """The usual fields these traces have; optional where some trace has none."""
    found = []
    for name in READS:
        have = sum(trace_fields.extract(t, name) is not None for t in traces)
        if have:
            found.append(name if have == len(traces) else f"{name}?")
    if not found:
        raise ConfigError(
            "The labelled traces have none of the usual fields.", valid=READS, fix="Name others with --set fields=…"
        )
    return tuple(found)
