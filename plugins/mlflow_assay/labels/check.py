"""Everything the labels say about one judge: agreement, what people reach among themselves, slices, conflicts."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mlflow_assay.errors import NotTrustedError
from mlflow_assay.labels.kpi import agreement_of
from mlflow_assay.labels.pairs import Paired, trained_note
from mlflow_assay.labels.people import Labels
from mlflow_assay.trust.agreement import Agreement, agreement, kappa_gain
from mlflow_assay.trust.alt_test import AltTest, alt_test
from mlflow_assay.trust.compare import Comparison, compare, holm_adjust
from mlflow_assay.trust.ratings import Ceiling, Measure, human_ceiling, krippendorff_alpha

__all__ = ["JudgeCheck", "JudgeDuel", "People", "check_judge", "duel", "duels_against_first"]

_MOST_STEPS = 12  # a scale with more distinct values is no set of ordered categories
_FOR_ALT_TEST = 3


@dataclass(frozen=True)
class People:
    """What two or more labellers of the same traces say about one another, and about the judge.

    Attributes:
        n: labellers.
        alpha: Krippendorff's alpha of good and bad among them.
        ceiling: mean pairwise kappa among them, and of the judge with each of them.
        alt: the alternative-annotator test; None with fewer than three labellers or too few shared traces.
        alt_refused: why there is none; None where there is one.
    """

    n: int
    alpha: Measure
    ceiling: Ceiling
    alt: AltTest | None
    alt_refused: str | None


@dataclass(frozen=True)
class JudgeCheck:
    """One judge against its labels.

    Attributes:
        judge, scope: of the judge.
        labels: how the labels came about; None when there is none.
        agreement: pass and fail against good and bad.
        scale: the values on the judge's own scale, weighted by distance where they are ordered; None where it has
            only pass and fail or labels are not on its scale.
        people: None with fewer than two labellers.
        conflicts: unit to what each labeller said, where they differ (True is good).
        slices: agreement within each value of a breakdown, most labels first.
        notes: what the reader must know; plain sentences.
    """

    judge: str
    scope: str
    labels: Labels | None
    agreement: Agreement
    scale: Agreement | None
    people: People | None
    conflicts: Mapping[Hashable, Mapping[Hashable, Any]]
    slices: Mapping[str, Agreement]
    n_trained: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping of everything."""
        people = None
        if self.people is not None:
            people = {
                "n": self.people.n,
                "alpha": asdict(self.people.alpha),
                "ceiling": asdict(self.people.ceiling),
                "alt_test": None if self.people.alt is None else self.people.alt.to_dict(),
                "alt_test_refused": self.people.alt_refused,
            }
        return {
            "judge": self.judge,
            "scope": self.scope,
            "labels": None if self.labels is None else asdict(self.labels),
            "agreement": self.agreement.to_dict(),
            "scale": None if self.scale is None else self.scale.to_dict(),
            "people": people,
            "conflicts": {str(u): {str(w): v for w, v in said.items()} for u, said in self.conflicts.items()},
            "slices": {value: found.to_dict() for value, found in self.slices.items()},
            "n_trained": self.n_trained,
            "notes": list(self.notes),
        }


def check_judge(
    paired: Paired, *, by: str | None = None, confidence: float = 0.95, target: float = 0.2, epsilon: float = 0.2
) -> JudgeCheck:
    """Everything the labels say about one judge.

    Args:
        paired: its verdicts and labels.
        by: a breakdown the rows were read with; None for no slices.
        confidence: level of the intervals, in (0, 1).
        target: half-width of kappa's interval that counts as enough.
        epsilon: how much worse than an expert the judge may be in the alternative-annotator test.
    """
    bare = paired.unlabelled_version()
    told = [trained_note(paired), *paired.sampled.notes]
    if bare is not None:
        told.append(f"{bare[1]} verdicts are of another version of the judge, none of whose traces is labelled.")
    return JudgeCheck(
        judge=paired.judge,
        scope=paired.scope,
        labels=paired.summary,
        agreement=agreement_of(paired, confidence=confidence, target=target),
        scale=_scale(paired, confidence, target),
        people=_people(paired, confidence, epsilon),
        conflicts=paired.labels.ratings.conflicts(),
        slices={} if by is None else _slices(paired, by, confidence, target),
        n_trained=paired.n_trained,
        notes=tuple(note for note in told if note),
    )


def _scale(paired: Paired, confidence: float, target: float) -> Agreement | None:
    both = [(v, w) for v, w in zip(paired.values, paired.label_values, strict=True) if v is not None and w is not None]
    seen = {x for pair in both for x in pair}
    words = {isinstance(x, str) for x in seen}
    if len(seen) < 3 or len(seen) > _MOST_STEPS or len(words) != 1:
        return None
    chances = paired.sampled.probabilities
    truth = [w if chances is None or chances[i] is not None else None for i, w in enumerate(paired.label_values)]
    return agreement(
        paired.values,
        truth,
        name=f"{paired.judge}, own scale",
        categories=sorted({x for x in (*paired.values, *paired.label_values) if x is not None}),
        weighting=None if True in words else "quadratic",
        clusters=paired.clusters,
        label_probabilities=chances,
        confidence=confidence,
        target=target,
    )


def _people(paired: Paired, confidence: float, epsilon: float) -> People | None:
    ratings = paired.labels.ratings
    if len(ratings.raters) < 2:
        return None
    said = dict(zip(paired.units, paired.passed, strict=True))
    judge = [said.get(str(unit)) for unit in ratings.units]
    home = dict(zip(paired.units, paired.clusters, strict=True))
    clusters = [home.get(str(unit)) for unit in ratings.units]
    alt, refused = None, None
    if len(ratings.raters) < _FOR_ALT_TEST:
        refused = f"The alt-test needs {_FOR_ALT_TEST} or more labellers; there are {len(ratings.raters)}."
    else:
        try:
            alt = alt_test(ratings, judge, epsilon=epsilon, clusters=clusters)
        except NotTrustedError as error:
            refused = str(error)
    alpha = krippendorff_alpha(ratings.values, categories=(False, True), clusters=clusters, confidence=confidence)
    ceiling = human_ceiling(ratings, judge, categories=(False, True))
    return People(len(ratings.raters), alpha, ceiling, alt, refused)


def _slices(paired: Paired, by: str, confidence: float, target: float) -> dict[str, Agreement]:
    members: dict[str, list[int]] = {}
    for position, value in enumerate(paired.slices(by)):
        members.setdefault("(none)" if value is None else value, []).append(position)
    found = {
        value: agreement_of(paired.at(at), name=f"{paired.judge}, {value}", confidence=confidence, target=target)
        for value, at in members.items()
    }
    return dict(sorted(found.items(), key=lambda item: -item[1].n))


@dataclass(frozen=True)
class JudgeDuel:
    """Which of two judges is right more often on the same labelled traces.

    Attributes:
        a, b: their names.
        comparison: rightly judged, b against a, paired.
        gain: kappa of b minus kappa of a.
    """

    a: str
    b: str
    comparison: Comparison
    gain: Measure

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return {"a": self.a, "b": self.b, "comparison": self.comparison.to_dict(), "kappa_gain": asdict(self.gain)}


def duel(a: Paired, b: Paired, *, confidence: float = 0.95) -> JudgeDuel:
    """Compare two judges with the same labels: exact McNemar on who is right, and the gain in kappa.

    Units either was trained on, or either left unscored, are out.
    """
    second = dict(zip(b.units, b.passed, strict=True))
    units = [u for u in a.units if u in second]
    first, truth = dict(zip(a.units, a.passed, strict=True)), dict(zip(a.units, a.good, strict=True))
    home = dict(zip(a.units, a.clusters, strict=True))
    clusters = [home[u] for u in units]

    def right(said: Mapping[str, bool | None]) -> list[bool | None]:
        return [None if said[u] is None or truth[u] is None else said[u] == truth[u] for u in units]

    tested = compare(
        right(first),
        right(second),
        kind="share",
        clusters=clusters,
        ids=units,
        name=f"{b.judge} against {a.judge}",
        confidence=confidence,
    )
    gain = kappa_gain(
        _of(first, units), _of(second, units), _of(truth, units), clusters=clusters, confidence=confidence
    )
    return JudgeDuel(a.judge, b.judge, tested, gain)


def _of(values: Mapping[str, bool | None], units: Sequence[str]) -> list[bool | None]:
    return [values[u] for u in units]


def duels_against_first(judges: Sequence[Paired], *, confidence: float = 0.95) -> list[JudgeDuel]:
    """Every further judge against the first, p-values Holm-adjusted where there are several."""
    found = [duel(judges[0], other, confidence=confidence) for other in judges[1:]]
    if len(found) < 2:
        return found
    adjusted = holm_adjust([d.comparison for d in found])
    return [replace(d, comparison=c) for d, c in zip(found, adjusted, strict=True)]
