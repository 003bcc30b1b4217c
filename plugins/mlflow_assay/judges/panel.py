"""A panel: several judges, or one judge with several models, vote on each trace.

Where MLflow's own ensemble does the job, it is used: `mlflow_ensemble` gives MLflow's scorer for a majority or
mean, which MLflow can register. The rest needs a judge of ours. In MLflow's ensemble one member without a verdict
fails the whole, a tie goes to the first word in the alphabet, the members run one after the other, each
uncached and unbudgeted, and there are no weights; here a quorum decides, a tie is no verdict, and the engine asks
each member its own way.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from mlflow.entities import AssessmentSource, AssessmentSourceType, Feedback

from mlflow_assay import semconv
from mlflow_assay.contracts import BoundJudge, NumericValue, Unscored, UnscoredError, ValueSpec
from mlflow_assay.errors import ConfigError, NotTrustedError
from mlflow_assay.judges import calibration_file
from mlflow_assay.judges.composite import Asked, check_scales, ends, facts, no_verdict, translate
from mlflow_assay.trust.panel_weights import pass_probability

if TYPE_CHECKING:
    from mlflow.genai.scorers import Scorer

    from mlflow_assay.judges.composite_spec import PanelSpec

__all__ = ["Panel", "make_panel", "mlflow_ensemble"]


@dataclass(frozen=True)
class Panel:
    """The rules of a panel.

    Attributes:
        name: the assessment's name.
        value: the scale of its verdicts.
        members: the judges.
        labels: what tells them apart: models, or judges.
        vote: how votes are combined.
        quorum: share of the members, above 0 and at most 1, that must have reached a verdict.
        weights: one a member, for `weights` and `learned`.
        bias: for `learned`.
    """

    name: str
    value: ValueSpec
    members: tuple[BoundJudge, ...]
    labels: tuple[str, ...]
    vote: Literal["majority", "mean", "weights", "learned"] = "majority"
    quorum: float = 0.5
    weights: tuple[float, ...] = ()
    bias: float = 0.0

    def decide(self) -> Generator[tuple[int, ...], Sequence[Feedback], Feedback]:
        """Ask all members at once and combine their verdicts.

        Raises:
            UnscoredError: the budget ended before a member, the quorum is missed, or the vote is tied.
        """
        verdicts = yield tuple(range(len(self.members)))
        asked = [Asked(*each) for each in zip(self.labels, self.members, verdicts, strict=True)]
        silent = [a for a in asked if a.reason]
        metadata = {**facts(asked), semconv.PANEL_UNSCORED: str(len(silent))}
        answered = len(asked) - len(silent)
        if any(a.reason is Unscored.BUDGET for a in silent) or answered < self.quorum * len(asked) - 1e-9:
            raise no_verdict(f"{answered} of {len(asked)} members answered", silent, metadata)
        value, agreement, extra = self._combine(asked, metadata)
        return Feedback(
            name=self.name,
            value=value,
            rationale=self._told(value, asked),
            source=_source(self.name, self.members),
            metadata={**metadata, semconv.PANEL_AGREEMENT: f"{agreement:.4g}", **extra},
        )

    def _combine(self, asked: Sequence[Asked], metadata: dict[str, Any]) -> tuple[Any, float, dict[str, str]]:
        """The value, the share of votes for it, and further metadata."""
        if self.vote == "mean":
            return (*_mean(asked, self.value), {})
        if self.vote == "learned":
            return self._learned(asked, metadata)
        weights = self.weights or (1.0,) * len(asked)
        return (*_most(asked, weights, self.value, metadata), {})

    def _learned(self, asked: Sequence[Asked], metadata: dict[str, Any]) -> tuple[Any, float, dict[str, str]]:
        probability = pass_probability([a.passed for a in asked], self.bias, self.weights)
        if math.isclose(probability, 0.5, abs_tol=1e-9):
            raise UnscoredError(Unscored.UNDECIDED, "the weighed votes are even", metadata)
        passed = probability > 0.5
        both = ends(self.value)
        assert both is not None  # noqa: S101 - make_panel saw to it
        cast = [a.passed for a in asked if a.passed is not None]
        confidence = {semconv.CONFIDENCE: f"{max(probability, 1 - probability):.6g}"}
        return both[0 if passed else 1], cast.count(passed) / len(cast), confidence

    def _told(self, value: Any, asked: Sequence[Asked]) -> str:
        return "\n".join([f"{value} by {self.vote} of {len(asked)} members.", *(a.told for a in asked)])


def _most(
    asked: Sequence[Asked], weights: Sequence[float], spec: ValueSpec, metadata: dict[str, Any]
) -> tuple[Any, float]:
    """The value with the most weight behind it, and its share; no verdict on a tie."""
    votes: Counter[Any] = Counter()
    for a, weight in zip(asked, weights, strict=True):
        if not a.reason:
            votes[translate(a, spec)] += weight  # type: ignore[assignment]
    ranked = votes.most_common()
    if math.isclose(ranked[0][1], ranked[1][1] if len(ranked) > 1 else 0.0, abs_tol=1e-12):
        tied = ", ".join(str(v) for v, n in ranked if math.isclose(n, ranked[0][1], abs_tol=1e-12))
        raise UnscoredError(Unscored.UNDECIDED, f"the votes are tied between {tied}", metadata)
    return ranked[0][0], ranked[0][1] / votes.total()


def _mean(asked: Sequence[Asked], spec: ValueSpec) -> tuple[float, float]:
    """The mean, and the share of votes on its side of the threshold; pass and fail of other scales are 1 and 0."""
    numbers = [_number(a) for a in asked if not a.reason]
    mean = fmean(numbers)
    rule: Any = spec
    return mean, [rule.passes(n) for n in numbers].count(rule.passes(mean)) / len(numbers)


def _number(asked: Asked) -> float:
    if isinstance(asked.judge.contract.value, NumericValue):
        return float(asked.verdict.value)
    return 1.0 if asked.passed else 0.0


def _source(name: str, members: Sequence[BoundJudge]) -> AssessmentSource:
    asks = any(callee.contract.calls_llm for member in members for callee in member.callees())
    return AssessmentSource(AssessmentSourceType.LLM_JUDGE if asks else AssessmentSourceType.CODE, name)


def make_panel(
    name: str, value: ValueSpec, spec: PanelSpec, members: Sequence[BoundJudge], folder: Path
) -> tuple[Panel, Mapping[str, Any]]:
    """A panel and what its verdicts depend on, for its digest.

    Args:
        name, value: of the definition.
        spec: what the definition says.
        members: its judges, built, in the spec's order.
        folder: where the weights of `vote: learned` lie.

    Raises:
        NotTrustedError: `vote: learned` without weights learnt for these very members.
    """
    weights, bias = tuple(spec.weights[n] for n in spec.names) if spec.weights else (), 0.0
    if spec.calibration is not None:
        weights, bias = _learned_weights(name, folder / spec.calibration, members)
    panel = Panel(name, value, tuple(members), tuple(spec.names), spec.vote, spec.quorum, weights, bias)
    digests = [member.digest for member in members]
    return panel, {"panel": [digests, spec.vote, spec.quorum, weights, bias]}


def check_panel(name: str, value: ValueSpec, spec: PanelSpec, members: Sequence[BoundJudge]) -> None:
    """See that the members' scales fit the vote.

    Raises:
        ConfigError: they do not.
    """
    if spec.vote == "mean":
        if not isinstance(value, NumericValue) or value.integer:
            raise ConfigError(
                f"The mean vote of {name!r} needs `value: {{type: numeric}}`, not whole numbers.",
                found=value.describe(),
                fix="Members that say yes or no count as 1 and 0.",
            )
        return
    if spec.vote == "learned" and ends(value) is None:
        raise ConfigError(
            f"The learned vote of {name!r} needs a value with one passing and one failing word.", found=value.describe()
        )
    check_scales(name, members, value)


def _learned_weights(name: str, path: Path, members: Sequence[BoundJudge]) -> tuple[tuple[float, ...], float]:
    found = calibration_file.read(path, name, "panel", [m.digest for m in members])
    result = found["result"]
    if not result["improves"]:
        raise NotTrustedError(f"The panel {name!r} has no learned weights to trust.", found=result["summary"])
    return tuple(float(w) for w in result["weights"]), float(result["bias"])


def mlflow_ensemble(panel: Panel) -> Scorer:
    """MLflow's own scorer for a panel's majority or mean, which MLflow can register and run by itself.

    See the module's text for what differs.

    Raises:
        ConfigError: MLflow's ensembles do not know this vote, or cannot read the members' values.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.genai.scorers import make_scorer_ensemble

    functions = {"majority": "majority_vote", "mean": "mean"}
    mapped = any(member.fields for member in panel.members)
    if panel.vote not in functions or mapped:
        raise ConfigError(
            f"MLflow's ensembles cannot hold the panel {panel.name!r}.",
            found=f"vote: {panel.vote}" if not mapped else "a member that reads mapped trace fields",
            valid="vote: majority or mean, of judges that read inputs and outputs",
        )
    scorers: list[Any] = [getattr(member.scorer, "wrapped", member.scorer) for member in panel.members]
    try:
        return make_scorer_ensemble(name=panel.name, scorers=scorers, ensemble_fn=functions[panel.vote])
    except MlflowException as error:
        raise ConfigError(f"MLflow refuses the ensemble {panel.name!r}: {error.message}") from error
