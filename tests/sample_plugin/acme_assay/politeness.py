"""A judge in Python: one class with a `contract`. Entry point `acme_politeness`."""

from typing import Any, ClassVar

from mlflow.entities import Feedback
from mlflow.genai.scorers import Scorer

from mlflow_assay.contracts import BooleanValue, JudgeContract


class Politeness(Scorer):
    """Passes when the answer says one of the polite words."""

    contract: ClassVar[JudgeContract] = JudgeContract(
        name="acme_politeness",
        purpose="Does the answer say a polite word?",
        value=BooleanValue(),
        needs=("outputs",),
    )
    words: tuple[str, ...] = ("please", "thank", "sorry")

    def __call__(self, *, outputs: Any = None) -> Feedback:
        said = [word for word in self.words if word in str(outputs).lower()]
        return Feedback(name=self.name, value=bool(said), rationale=f"said {said}" if said else "said none of them")
