"""A judge's verdicts beside the labels of the same units, as aligned sequences that the trust functions take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mlflow_assay import semconv
from mlflow_assay.contracts import JudgeContract
from mlflow_assay.labels.people import FoundLabels, Labels, labels_of
from mlflow_assay.labels.rows import Row
from mlflow_assay.labels.sampled import SampledLabels, sampled_labels
from mlflow_assay.labels.verdicts import JudgeVerdicts, Verdict, scale_value

__all__ = ["Paired", "pairs", "trained_note"]

_NOTABLE = 0.05  # a judge version with fewer of the verdicts than this share needs no label of its own


@dataclass(frozen=True)
class Paired:
    """One judge's verdicts and the labels of the same units, aligned by position; all sequences have shape (n,).

    Units on whose labels the judge was trained are in none of them: there it repeats what it was told.

    Attributes:
        judge: the judge's name.
        scope: what a unit is: a trace, or a session.
        verdicts: one a unit.
        good: the label, True for good; None where there is none or people tie.
        values: the verdict on the judge's own scale (a number or a word); None where it has only pass and fail.
        label_values: the label on that scale; None where there is none or people tie.
        labels: who gave labels under which names, with conflicts; trained units included.
        n_trained: units with a verdict left out because the judge learnt from their labels.
        n_trained_labels: of those, units that carry a label.
    """

    judge: str
    scope: Literal["trace", "session"]
    verdicts: tuple[Verdict, ...]
    good: tuple[bool | None, ...]
    values: tuple[float | str | None, ...]
    label_values: tuple[float | str | None, ...]
    labels: FoundLabels
    n_trained: int
    n_trained_labels: int

    @property
    def summary(self) -> Labels | None:
        """How the labels came about; None when there is none."""
        return self.labels.summary

    @property
    def units(self) -> list[str]:
        """Trace ids, or session ids for a judge of sessions."""
        return [v.unit for v in self.verdicts]

    @property
    def passed(self) -> list[bool | None]:
        """The verdict; None for unscored."""
        return [v.reading.passed for v in self.verdicts]

    @property
    def clusters(self) -> list[str]:
        """What repeats together: the session of each unit, or the unit itself."""
        return [v.row.unit for v in self.verdicts]

    @property
    def confidences(self) -> list[float | None]:
        """The probability in [0, 1] the judge gave its verdict; None where it gave none."""
        return [_number(v.mark.metadata.get(semconv.CONFIDENCE)) for v in self.verdicts]

    @property
    def sampled(self) -> SampledLabels:
        """The labels that may enter a number about the whole window, with the probabilities they were drawn with."""
        return sampled_labels(self.good, [v.row.draws.get(self.judge) for v in self.verdicts])

    @property
    def n_labelled(self) -> int:
        """Units with a label and a scored verdict."""
        return sum(
            g is not None and v.reading.passed is not None for v, g in zip(self.verdicts, self.good, strict=True)
        )

    def slices(self, by: str) -> list[str | None]:
        """The value of a breakdown that the rows were read with; None where a trace has none."""
        return [v.row.groups.get(by) for v in self.verdicts]

    def at(self, positions: Sequence[int]) -> Paired:
        """Only these units, in this order."""

        def pick(values: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(values[i] for i in positions)

        return Paired(
            self.judge,
            self.scope,
            pick(self.verdicts),
            pick(self.good),
            pick(self.values),
            pick(self.label_values),
            self.labels,
            self.n_trained,
            self.n_trained_labels,
        )

    def unlabelled_version(self) -> tuple[str | None, int] | None:
        """A version of the judge that gave a notable share of the verdicts and has no label, with its verdicts.

        What labels say about one version of a judge does not hold for another.
        """
        scored = [(v.version, g) for v, g in zip(self.verdicts, self.good, strict=True) if v.reading.passed is not None]
        given = Counter(version for version, _ in scored)
        labelled = {version for version, good in scored if good is not None}
        if not labelled:
            return None
        bare = [(version, n) for version, n in given.most_common() if version not in labelled]
        return bare[0] if bare and bare[0][1] > _NOTABLE * len(scored) else None


def _number(text: str | None) -> float | None:
    try:
        found = float(text or "")
    except ValueError:
        return None
    return found if 0 <= found <= 1 else None


def pairs(found: JudgeVerdicts, rows: Sequence[Row], names: Sequence[str], contract: JudgeContract | None) -> Paired:
    """One judge's verdicts beside the labels.

    Args:
        found: the judge's verdicts, from `verdicts.collect`.
        rows: all traces, read with the breakdowns that will be asked for.
        names: assessments or expectations that hold the labels; empty takes people's feedback under the judge's own
            name.
        contract: the judge's, to read values on its scale; None where it is in no catalogue.
    """
    labels = labels_of(found, rows, names, contract)
    everything = list(found.verdicts.values())
    kept = [v for v in everything if not v.trained_on]
    trained = {v.unit for v in everything if v.trained_on}
    consensus = dict(zip(labels.values.units, labels.values.consensus(), strict=True))
    return Paired(
        judge=found.name,
        scope=found.scope,
        verdicts=tuple(kept),
        good=tuple(labels.agreed.get(v.unit) for v in kept),
        values=tuple(scale_value(v.mark.value, contract) for v in kept),
        label_values=tuple(consensus.get(v.unit) for v in kept),
        labels=labels,
        n_trained=len(trained),
        n_trained_labels=len(trained & set(labels.agreed)),
    )


def trained_note(paired: Paired) -> str | None:
    """The sentence that says how many units were left out because the judge was trained on them; None for none."""
    n = paired.n_trained
    if not n:
        return None
    subject = f"{n} {paired.scope} was" if n == 1 else f"{n} {paired.scope}s were"
    return f"{subject} used to train the judge and {'is' if n == 1 else 'are'} left out."
