"""What training found out about a local judge: the evidence for and against using it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mlflow_assay.errors import ConfigError

__all__ = ["TrainingReport"]


@dataclass(frozen=True)
class TrainingReport:
    """How good a local judge is on traces it was not trained on, and where the figures come from.

    Attributes:
        label: name of the assessments it learnt from.
        label_sources: labels used, by source.
        n: labelled traces it learnt from.
        n_passed: of these, labelled pass.
        n_groups: sessions and sets of near-duplicates among them.
        n_near_duplicates: traces with a near-duplicate among them.
        near_field: the field near-duplicates are found by; None when only sessions group.
        largest_group: traces in the largest group.
        folds: held-out folds.
        kappa, kappa_low, kappa_high: out-of-fold chance-corrected agreement with the labels, folds keeping
            groups apart, with its 95 % interval; None when it cannot be said.
        kappa_random: what a random split would have claimed; None likewise.
        agreement: out-of-fold share of equal verdicts, in [0, 1]; None likewise.
        confusion: out-of-fold counts: `pass_pass`, `pass_fail`, `fail_pass`, `fail_fail`, label first.
        target_agreement: agreement asked of the verdicts it gives.
        min_kappa: least lower bound of kappa with which it may be used.
        threshold: least confidence with which it answers, in [0, 1]; below it abstains.
        coverage: share of traces it answers, in [0, 1].
        answered_agreement: out-of-fold agreement of those; None when it cannot be said.
        answered_low: 90 % lower bound of that.
        target_proven: whether that lower bound reaches the target; otherwise only the observed agreement does.
        reads: the fields, with their kinds.
        crossed: fields read once per value of another, for example `first_user_message by tag:agent`.
        n_conflicting, n_tied: traces whose labels disagreed and were settled by majority, or could not be.
        n_missing: labelled traces left out, by the reason.
        n_unreadable: labels that are neither pass nor fail, by value.
        refusals: why it must not be used; empty when it may.
        forced: whether it may be used all the same, because the user said so.
        notes: what the reader must know; plain sentences.
        first_ms, last_ms: time of the first and last labelled trace, epoch milliseconds.
        seed: of the folds.
        embedder: fingerprint of the embedding model, or None.
    """

    label: str
    label_sources: Mapping[str, int]
    n: int
    n_passed: int
    n_groups: int
    n_near_duplicates: int
    near_field: str | None
    largest_group: int
    folds: int
    kappa: float | None
    kappa_low: float | None
    kappa_high: float | None
    kappa_random: float | None
    agreement: float | None
    confusion: Mapping[str, int]
    target_agreement: float
    min_kappa: float
    threshold: float
    coverage: float
    answered_agreement: float | None
    answered_low: float | None
    target_proven: bool
    reads: tuple[str, ...]
    crossed: tuple[str, ...]
    n_conflicting: int = 0
    n_tied: int = 0
    n_missing: Mapping[str, int] = field(default_factory=dict)
    n_unreadable: Mapping[str, int] = field(default_factory=dict)
    refusals: tuple[str, ...] = ()
    forced: bool = False
    notes: tuple[str, ...] = ()
    first_ms: int | None = None
    last_ms: int | None = None
    seed: int = 0
    embedder: str | None = None

    @property
    def trusted(self) -> bool:
        """Whether nothing speaks against using the judge."""
        return not self.refusals

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping of all attributes, plus `trusted`."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()} | {"trusted": self.trusted}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingReport:
        """The report from `to_dict`.

        Raises:
            ConfigError: an attribute is missing or unknown.
        """
        known = {f.name for f in fields(cls)}
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k != "trusted"}
        if given.keys() != known:
            raise ConfigError("The training report is not complete.", found=sorted(given.keys() ^ known))
        return cls(**given)

    def rows(self) -> Iterator[tuple[str, str]]:
        """The report in plain words, as (what, figure) rows."""
        failed = self.n - self.n_passed
        sources = ", ".join(f"{count} {source}" for source, count in self.label_sources.items()) or "none"
        yield "labels", f"{self.label}: {self.n} traces, {self.n_passed} pass, {failed} fail ({sources})"
        for what, count in self._left_out():
            yield "left out", f"{count} {what}"
        by = f"near-duplicates by {self.near_field}" if self.near_field else "sessions only"
        yield "groups", f"{self.n_groups} kept together ({by}; the largest has {self.largest_group} traces)"
        crossed = f"; together: {', '.join(self.crossed)}" if self.crossed else ""
        yield "reads", ", ".join(self.reads) + crossed
        yield (
            "kappa",
            _interval(self.kappa, self.kappa_low, self.kappa_high) + f" on traces unseen in {self.folds} folds",
        )
        yield "a random split", f"would have claimed kappa {_number(self.kappa_random)}"
        yield "agreement", f"{_share(self.agreement)} of all verdicts equal the label"
        yield "confusion", ", ".join(f"{k.replace('_', ' → ')} {v}" for k, v in self.confusion.items()) or "unknown"
        yield "answers", f"{_share(self.coverage)} of traces, from confidence {self.threshold:.2f} up"
        low = f", at least {_share(self.answered_low)} with 90 % certainty" if self.answered_low is not None else ""
        target = f"(asked: {_share(self.target_agreement)}{'' if self.target_proven else ', not proven'})"
        yield "agreement then", f"{_share(self.answered_agreement)}{low} {target}"

    def _left_out(self) -> Iterator[tuple[str, int]]:
        if self.n_tied:
            yield "traces whose labels tie", self.n_tied
        yield from self.n_missing.items()
        for value, count in self.n_unreadable.items():
            yield f"labels that are neither pass nor fail: {value}", count


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0%}".replace("%", " %")


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    return _number(value) if low is None or high is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"
