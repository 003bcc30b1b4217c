"""Which labels belong to a random sample with known probabilities, for estimates that must not be biased."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_assay.labels.designs import Draw

__all__ = ["SampledLabels", "sampled_labels"]


@dataclass(frozen=True)
class SampledLabels:
    """Labels as `trust.estimate.corrected_kpi` takes them, aligned with the verdicts; sequences have shape (n,).

    Attributes:
        labels: the label, None where there is none or where it must not be used.
        probabilities: probability in (0, 1] with which the trace came to its label, None where it has no label; the
            whole is None when no trace of the window was drawn by `assay labels pick`, so that labels are taken to
            be random within each verdict.
        left_out: labels not used because nobody knows with which probability their traces were chosen.
        notes: what a reader of the estimate must know; plain sentences.
    """

    labels: tuple[Any, ...]
    probabilities: tuple[float | None, ...] | None
    left_out: int
    notes: tuple[str, ...]


def sampled_labels(labels: Sequence[Any], draws: Sequence[Draw | None]) -> SampledLabels:
    """The labels that may enter a corrected number, with the probability of each.

    A drawn trace that nobody has labelled yet lowers the probability of its stratum: a trace's probability is that
    of being drawn, times the share of its stratum's drawn traces that are labelled. That is right when which of the
    drawn traces still lack a label has nothing to do with their quality, as in a queue worked off from one end.

    Args:
        labels: per judged trace its label, None where there is none, shape (n,).
        draws: per judged trace its draw for this judge (`designs.draws_of`), None where it was not drawn, shape (n,).

    Source: weighting-class adjustment, Little 1986, International Statistical Review 54:139.
    """
    if not any(draws):
        return SampledLabels(tuple(labels), None, 0, ())
    cells = [None if d is None else (d.queue, d.stratum) for d in draws]
    drawn = Counter(cell for cell in cells if cell is not None)
    answered = Counter(c for c, label in zip(cells, labels, strict=True) if c is not None and label is not None)
    used = tuple(label if draw is not None else None for label, draw in zip(labels, draws, strict=True))
    left_out = sum(label is not None and draw is None for label, draw in zip(labels, draws, strict=True))
    chances = tuple(
        None if draw is None or cell is None or label is None else draw.probability * answered[cell] / drawn[cell]
        for label, draw, cell in zip(used, draws, cells, strict=True)
    )
    return SampledLabels(used, chances, left_out, _notes(left_out, drawn, answered))


def _notes(left_out: int, drawn: Counter[tuple[str, str]], answered: Counter[tuple[str, str]]) -> tuple[str, ...]:
    notes = []
    if left_out:
        notes.append(
            f"{left_out} labels are not used: their traces were not drawn by assay labels pick, so nobody knows with "
            "which probability they were chosen."
        )
    waiting = sum(drawn.values()) - sum(answered.values())
    if waiting:
        notes.append(f"{waiting} of {sum(drawn.values())} traces drawn for the experts have no label yet.")
    empty = sorted(cell[1] for cell in drawn if not answered[cell])
    if empty:
        notes.append(f"Nothing drawn from {'; '.join(empty)} is labelled yet: the estimate does not speak for it.")
    return tuple(notes)
