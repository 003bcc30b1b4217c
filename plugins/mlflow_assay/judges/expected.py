"""Whether what the agent said equals what people said it should: the judge where the right answer is known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from mlflow.entities import Feedback
from mlflow.genai.scorers import Scorer

from mlflow_assay.contracts import BooleanValue, JudgeContract, Unscored, UnscoredError

__all__ = ["ExpectedValue"]


class ExpectedValue(Scorer):
    """Compares a value of the outputs with an expectation; code, no model call.

    Args:
        output: path of the value in the outputs, keys and list positions joined by dots; None takes them whole.
        expectation: name of the expectation; None takes the only one, or `expected_response`. Where its value is a
            list, any of its members will do.
        exact: compare texts to the letter; else case and surrounding space make no difference.
    """

    contract: ClassVar[JudgeContract] = JudgeContract(
        name="expected_value",
        purpose="Does the answer equal the one that was expected?",
        value=BooleanValue(),
        needs=("outputs", "expectations"),
        origin="mlflow-assay",
    )
    name: str = "expected_value"
    output: str | None = None
    expectation: str | None = None
    exact: bool = False

    def __call__(self, *, outputs: Any = None, expectations: dict[str, Any] | None = None) -> Feedback:
        """True where they are equal, and in the rationale what was said and what was expected.

        Raises:
            UnscoredError: MISSING_FIELD where nothing says what was expected, or the outputs have nothing at the path.
        """
        wanted = self._wanted(expectations or {})
        said = _at(outputs, self.output)
        allowed = wanted if isinstance(wanted, list) else [wanted]
        equal = any(self._plain(said) == self._plain(value) for value in allowed)
        told = f"expected {_shown(wanted)}, the answer was {_shown(said)}"
        return Feedback(value=equal, rationale=f"{told[0].upper()}{told[1:]}.")

    def _wanted(self, expectations: Mapping[str, Any]) -> Any:
        found = {k: v for k, v in expectations.items() if v is not None}
        name = self.expectation or ("expected_response" if "expected_response" in found else None)
        if name is None and len(found) == 1:
            name = next(iter(found))
        if name is None or name not in found:
            wanted = f"expectations.{name}" if name else "one expectation, or `expectation` set"
            raise UnscoredError(Unscored.MISSING_FIELD, f"needs {wanted} (found: {', '.join(found) or 'none'})")
        return found[name]

    def _plain(self, value: Any) -> Any:
        return value.strip().casefold() if isinstance(value, str) and not self.exact else value


def _at(value: Any, path: str | None) -> Any:
    """The value at a path, which may be None.

    Raises:
        UnscoredError: there is no such path; a mistyped one is no wrong answer.
    """
    walked = "outputs"
    for step in path.split(".") if path else ():
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.lstrip("-").isdigit() and -len(value) <= int(step) < len(value):
            value = value[int(step)]
        else:
            raise UnscoredError(
                Unscored.MISSING_FIELD, f"needs outputs.{path} (found: {walked} with {_parts(value)}, no {step!r})"
            )
        walked += f".{step}"
    return value


def _parts(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"the keys {', '.join(map(str, value))}"[:300] if value else "no keys"
    return f"{len(value)} items" if isinstance(value, list) else _shown(value)


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)[:300]
