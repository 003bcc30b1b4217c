"""Guardrails' validators: one from the package index, one of one's own."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.third_party.guardrails_validators import GuardrailsValidators

LIBRARY = GuardrailsValidators()
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("guardrails") is None,
    reason="Guardrails is not installed: pip install 'mlflow-assay[guardrails]'",
)
OWN = """
from guardrails.validators import FailResult, PassResult, Validator, register_validator

MADE = []

@register_validator(name="acme/no_word", data_type="string")
class NoWord(Validator):
    def __init__(self, word, on_fail=None):
        super().__init__(on_fail=on_fail, word=word)
        self.word = word
        MADE.append(self)

    def _validate(self, value, metadata):
        self.seen = value
        if metadata.get("loud"):
            raise RuntimeError("too loud")
        failed = self.word in self.seen
        return FailResult(error_message=f"it says {self.word}", fix_value="") if failed else PassResult()
"""


@pytest.fixture
def own(tmp_path, monkeypatch, of):
    """Binds a validator of one's own."""
    name = f"acme_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)

    def bind(**more):
        given = {"validator": f"{name}:NoWord", "arguments": {"word": "tomorrow"}, **more}
        return of.bind(LIBRARY, "Validator", None, given)

    return bind


def test_a_validator_of_ones_own_passes_fails_and_says_why(of, own):
    failed, passed = of.verdict(own()), of.verdict(own(), outputs={"answer": "Today."})
    assert (failed.value, failed.rationale, failed.metadata["assay.outcome"]) == (False, "it says tomorrow", "fail")
    assert (passed.value, passed.metadata["assay.outcome"]) == (True, "pass")
    assert failed.source.source_type == "CODE"


def test_the_request_can_be_validated_and_is_then_what_is_needed(of, own):
    bound = own(on="input", arguments={"word": "Where"})
    assert bound.contract.needs == ("inputs",)
    assert of.verdict(bound).value is False


def test_an_exception_in_a_validator_is_unscored(of, own):
    found = of.verdict(own(metadata={"loud": True}))
    assert found.error.error_code == "judge_error" and "too loud" in found.error.error_message


def test_threads_do_not_share_an_instance(of, own):
    bound = own()
    numbers = range(40)
    says = {n: "tomorrow" if n % 2 else "today" for n in numbers}
    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(lambda n: of.verdict(bound, n, outputs={"answer": says[n]}).value, numbers))
    assert found == [says[n] == "today" for n in numbers]


@pytest.mark.parametrize(
    "given, message",
    [
        ({"validator": "DetectNonsense"}, r"no Guardrails validator 'DetectNonsense'.*pip install guardrails-ai-"),
        ({"validator": "json:dumps"}, "no Guardrails validator 'json:dumps'"),
        ({"validator": "no_such_module_here:X"}, "cannot be imported"),
        ({"arguments": {"regexp": "x"}}, "refuses"),
        ({"on": "side"}, r"on: 'side'.*output, input"),
    ],
)
def test_what_cannot_be_is_refused_before_a_run(of, own, given, message):
    with pytest.raises(ConfigError, match=message):
        own(**given)


def test_telemetry_is_off(own):
    from guardrails.settings import settings

    own()
    assert settings.rc.enable_metrics is False
