"""What a definition says of a judge made of other judges: `panel` or `cascade`. Data only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["CascadeSpec", "MemberSpec", "PanelSpec"]

_MODEL = r"^[\w.-]+:/.+$"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class MemberSpec(_Strict):
    """One of the judges asked."""

    judge: str = Field(min_length=1, description="A judge of the catalogue, by name.")
    model: str | None = Field(None, pattern=_MODEL, description="Its judge model; without one, the run's.")

    @property
    def label(self) -> str:
        """What it is called among the others."""
        return f"{self.judge} {self.model}" if self.model else self.judge


class PanelSpec(_Strict):
    """Several judges, or one judge with several models, that vote."""

    kind: ClassVar[Literal["panel", "cascade"]] = "panel"
    judge: str | None = Field(None, description="One judge, asked with each of `models`.")
    models: list[str] = Field(default_factory=list, description="Judge models, as MLflow URIs, for `judge`.")
    judges: list[str] = Field(default_factory=list, description="Judges of the catalogue; instead of `judge`.")
    vote: Literal["majority", "mean", "weights", "learned"] = Field(
        "majority", description="`learned` takes weights learnt from labels by `assay judges calibrate`."
    )
    weights: dict[str, float] = Field(default_factory=dict, description="For `vote: weights`, by model or judge.")
    quorum: float = Field(0.5, gt=0, le=1, description="Share of the members that must have reached a verdict.")
    calibration: str | None = Field(None, description="For `vote: learned`: the file with the weights.")

    @model_validator(mode="after")
    def _consistent(self) -> PanelSpec:
        if (self.judge is not None) == bool(self.judges) or (self.judge is None) != (not self.models):
            raise ValueError("a panel has either `judge` with `models`, or `judges`")
        if len(self.names) < 2 or len(set(self.names)) < len(self.names):
            raise ValueError(f"a panel has two members or more, each once; found {', '.join(self.names) or 'none'}")
        if (self.vote == "weights") != bool(self.weights) or (self.weights and set(self.weights) != set(self.names)):
            raise ValueError(f"`weights` goes with `vote: weights` and names each member: {', '.join(self.names)}")
        if any(weight < 0 for weight in self.weights.values()) or (self.weights and not any(self.weights.values())):
            raise ValueError("weights are 0 or more, and not all 0")
        if (self.vote == "learned") != (self.calibration is not None):
            raise ValueError("`calibration` names the file with the weights of `vote: learned`, and goes only with it")
        return self

    @property
    def names(self) -> list[str]:
        """What tells the members apart: the models, or the judges."""
        return self.models if self.judge is not None else self.judges

    @property
    def members(self) -> Sequence[MemberSpec]:
        """The judges asked."""
        if self.judge is not None:
            return [MemberSpec(judge=self.judge, model=model) for model in self.models]
        return [MemberSpec(judge=judge, model=None) for judge in self.judges]


class CascadeSpec(_Strict):
    """Judges asked one after the other, cheap ones first, until one may answer."""

    kind: ClassVar[Literal["panel", "cascade"]] = "cascade"
    tiers: list[MemberSpec] = Field(min_length=1, description="Cheap first.")
    calibration: str = Field(min_length=1, description="The file with the thresholds: `assay judges calibrate`.")
    last: Literal["answers", "calibrated"] = Field(
        "answers", description="Whether the last tier always answers, or only from a calibrated confidence as well."
    )

    @model_validator(mode="after")
    def _consistent(self) -> CascadeSpec:
        labels = [tier.label for tier in self.tiers]
        if len(set(labels)) < len(labels):
            raise ValueError(f"each tier stands once; found {', '.join(labels)}")
        if self.gated < 1:
            raise ValueError("a cascade has two tiers or more; one is enough only with `last: calibrated`")
        return self

    @property
    def gated(self) -> int:
        """How many tiers, from the first, need a calibrated threshold."""
        return len(self.tiers) - (self.last == "answers")

    @property
    def members(self) -> Sequence[MemberSpec]:
        """The judges asked, in order."""
        return self.tiers
