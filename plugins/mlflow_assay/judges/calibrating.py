"""From stored verdicts and labels to a calibration: what `assay judges calibrate` does, without the store."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from mlflow_assay import semconv
from mlflow_assay.contracts import BoundJudge, Outcome
from mlflow_assay.errors import ConfigError, NotTrustedError
from mlflow_assay.judges.composite import confidence_of
from mlflow_assay.judges.composite_spec import CascadeSpec, PanelSpec
from mlflow_assay.trust.panel_weights import learn_weights
from mlflow_assay.trust.selective import calibrate_cascade

__all__ = ["Calibration", "LabelledUnit", "StoredVerdict", "calibrate", "collect", "refuse"]


class _Mark(Protocol):
    @property
    def metadata(self) -> Mapping[str, str]: ...
    @property
    def value(self) -> Any: ...
    @property
    def time_ms(self) -> int: ...


@dataclass(frozen=True)
class StoredVerdict:
    """What a judge said of one trace or session, read back.

    Attributes:
        passed: by its own rule; None when unscored.
        confidence: in [0, 1]; None where it gave none.
        learnt: whether it learnt from this very trace's label, so that its verdict proves nothing.
        time_ms: when, epoch milliseconds.
    """

    passed: bool | None
    confidence: float | None
    learnt: bool
    time_ms: int


@dataclass(frozen=True)
class LabelledUnit:
    """A trace or session with its label.

    Attributes:
        passed: good or bad.
        group: what repeats together, such as the session.
        probability: with which it was chosen for labelling, in (0, 1]; None for a draw at random from all.
    """

    passed: bool
    group: str
    probability: float | None = None


@dataclass(frozen=True)
class Calibration:
    """What labels show about a composite.

    Attributes:
        kind: panel or cascade.
        digests: of the judges it holds for.
        result: `trust.selective.CascadeGate` or `trust.panel_weights.PanelWeights`, JSON-ready.
        trusted: whether the labels support using it.
        summary: one sentence.
        used: labelled units used.
        unjudged: labelled units left out because a judge has no verdict on them.
        learnt: labelled units left out because a judge learnt from their label.
        thinned: labelled units left out, at random, so that all had the same chance of being labelled.
    """

    kind: Literal["panel", "cascade"]
    digests: tuple[str, ...]
    result: Mapping[str, Any]
    trusted: bool
    summary: str
    used: int
    unjudged: int
    learnt: int
    thinned: int


def collect(marks: Iterable[tuple[str, _Mark]], judges: Sequence[BoundJudge]) -> dict[str, dict[str, StoredVerdict]]:
    """The latest verdicts of these very judges, by digest and unit, wherever they are kept.

    A judge's verdict is an assessment of its own, or an entry in a panel's or cascade's.

    Args:
        marks: each unit's assessments.
        judges: whose verdicts are wanted.
    """
    found: dict[str, dict[str, StoredVerdict]] = {judge.digest: {} for judge in judges}
    for unit, mark in marks:
        for digest, said in _in(mark):
            known = found.get(digest)
            if known is not None and (unit not in known or known[unit].time_ms <= said.time_ms):
                known[unit] = said
    return found


def _in(mark: _Mark) -> Iterable[tuple[str, StoredVerdict]]:
    facts = mark.metadata
    if (digest := facts.get(semconv.JUDGE_DIGEST)) and (outcome := facts.get(semconv.OUTCOME)):
        passed = None if outcome == Outcome.UNSCORED.value else outcome == Outcome.PASS.value
        learnt = facts.get(semconv.TRAINED_ON) == "true"
        yield digest, StoredVerdict(passed, confidence_of(mark), learnt, mark.time_ms)
    for entry in json.loads(facts.get(semconv.MEMBERS) or "[]"):
        said = StoredVerdict(entry.get("passed"), entry.get("confidence"), bool(entry.get("trained_on")), mark.time_ms)
        yield str(entry.get("digest")), said


def calibrate(
    name: str,
    spec: PanelSpec | CascadeSpec,
    members: Sequence[BoundJudge],
    said: Mapping[str, Mapping[str, StoredVerdict]],
    labelled: Mapping[str, LabelledUnit],
    *,
    agreement: float = 0.9,
    delta: float = 0.05,
    seed: int = 0,
) -> Calibration:
    """Thresholds for a cascade's tiers, or weights for a panel's members.

    Args:
        name: the composite's.
        spec: what its definition says.
        members: its judges, built.
        said: their verdicts, from `collect`.
        labelled: labels by unit.
        agreement: what a cascade's accepted verdicts must reach.
        delta: error probability of that.
        seed: of draws.

    Raises:
        ConfigError: there are no labels, or a judge has no verdicts on labelled units, or no confidences.
        NotTrustedError: too few labels to learn weights from.
    """
    needed = members[: spec.gated] if isinstance(spec, CascadeSpec) else members
    if not labelled:
        raise ConfigError("None of the traces carries such a label.", fix="See the names with `assay report`.")
    judged = {u: one for u, one in labelled.items() if all(u in said[m.digest] for m in needed)}
    _check_verdicts(name, spec, needed, said, labelled, len(judged))
    fresh = {u: one for u, one in judged.items() if not any(said[m.digest][u].learnt for m in needed)}
    units = _thin(fresh, seed)
    if isinstance(spec, CascadeSpec):
        last = members[-1] if len(members) > spec.gated else None
        result, trusted = _cascade(needed, last, said, units, labelled, agreement, delta, seed)
    else:
        result, trusted = _panel(members, said, units, labelled, seed)
    return Calibration(
        spec.kind,
        tuple(m.digest for m in needed),
        result,
        trusted,
        str(result["summary"]),
        used=len(units),
        unjudged=len(labelled) - len(judged),
        learnt=len(judged) - len(fresh),
        thinned=len(fresh) - len(units),
    )


def _check_verdicts(
    name: str,
    spec: PanelSpec | CascadeSpec,
    needed: Sequence[BoundJudge],
    said: Mapping[str, Mapping[str, StoredVerdict]],
    labelled: Mapping[str, LabelledUnit],
    judged: int,
) -> None:
    for ref, member in zip(spec.members, needed, strict=False):
        verdicts = [v for u, v in said[member.digest].items() if u in labelled]
        model = f" --model {ref.model}" if ref.model else ""
        run = f"Run: assay score --experiment EXPERIMENT --judge {ref.judge}{model}"
        if not verdicts or not judged:
            raise ConfigError(
                f"{ref.label!r} has no verdicts (digest {member.digest}) on the {len(labelled)} labelled traces"
                + (" that the others judged." if verdicts else "."),
                fix=run,
            )
        if isinstance(spec, CascadeSpec) and all(v.confidence is None for v in verdicts if v.passed is not None):
            raise ConfigError(
                f"{ref.label!r} says of none of its {len(verdicts)} verdicts how sure it is, so it cannot be a tier "
                f"of {name!r} that hands on.",
                valid="a local judge, a panel, a judge of OpenAI's Decisions API",
            )


def _thin(units: Mapping[str, LabelledUnit], seed: int) -> list[str]:
    """Units drawn so that all had the same chance of being among them, however they were chosen for labelling."""
    chances = {u: one.probability or 1.0 for u, one in units.items()}
    least, draw = min(chances.values(), default=1.0), random.Random(seed)  # noqa: S311 - statistics
    return [u for u in sorted(units) if draw.random() < least / chances[u]]


def _cascade(
    gated: Sequence[BoundJudge],
    last: BoundJudge | None,
    said: Mapping[str, Mapping[str, StoredVerdict]],
    units: Sequence[str],
    labelled: Mapping[str, LabelledUnit],
    agreement: float,
    delta: float,
    seed: int,
) -> tuple[dict[str, Any], bool]:
    def right(judge: BoundJudge) -> list[bool | None]:
        verdicts = said.get(judge.digest, {})
        passed = [verdicts[u].passed if u in verdicts else None for u in units]
        return [None if p is None else p == labelled[u].passed for u, p in zip(units, passed, strict=True)]

    gate = calibrate_cascade(
        [[said[judge.digest][u].confidence for u in units] for judge in gated],
        [right(judge) for judge in gated],
        agreement=agreement,
        delta=delta,
        last=right(last) if last is not None else None,
        groups=[labelled[u].group for u in units],
        seed=seed,
    )
    return gate.to_dict(), gate.supported


def _panel(
    members: Sequence[BoundJudge],
    said: Mapping[str, Mapping[str, StoredVerdict]],
    units: Sequence[str],
    labelled: Mapping[str, LabelledUnit],
    seed: int,
) -> tuple[dict[str, Any], bool]:
    found = learn_weights(
        [[said[judge.digest][u].passed for u in units] for judge in members],
        [labelled[u].passed for u in units],
        groups=[labelled[u].group for u in units],
        seed=seed,
    )
    return found.to_dict(), found.improves


def refuse(name: str, calibration: Calibration) -> None:
    """Say that the labels do not support it, with the evidence.

    Raises:
        NotTrustedError: they do not.
    """
    if calibration.trusted:
        return
    if calibration.kind == "cascade":
        fix = "Nothing was written. Ask for a lower --agreement, label more traces, or use the last judge alone."
    else:
        fix = "Nothing was written. Use `vote: majority`, or label more traces."
    raise NotTrustedError(f"The labels do not support {name!r}.", found=calibration.summary.rstrip("."), fix=fix)
