"""Every metric of Phoenix, TruLens, OpenEvals, AgentEvals and Autoevals, by the real library and a scripted model."""

from __future__ import annotations

import importlib.util

import pytest

from mlflow_assay.judges.third_party.agentevals_metrics import AgentEvalsMetrics
from mlflow_assay.judges.third_party.autoevals_metrics import AutoevalsMetrics
from mlflow_assay.judges.third_party.openevals_metrics import OpenEvalsMetrics
from mlflow_assay.judges.third_party.phoenix_metrics import PhoenixMetrics
from mlflow_assay.judges.third_party.trulens_metrics import TruLensMetrics

LIBRARIES = (PhoenixMetrics(), TruLensMetrics(), OpenEvalsMetrics(), AgentEvalsMetrics(), AutoevalsMetrics())


def installed(library):
    top, _, rest = library.module.partition(".")
    if importlib.util.find_spec(top) is None:
        return False
    return importlib.util.find_spec(".".join((top, rest.split(".")[0])) if rest else top) is not None


def metrics(asking=None):
    """(library, metric) for all of them; those of a library that is not installed are skipped."""
    found = []
    for library in LIBRARIES:
        reason = f"{library.name} is not installed: pip install 'mlflow-assay[{library.extra}]'"
        marks = () if installed(library) else (pytest.mark.skip(reason=reason),)
        for name, metric in library.metrics.items():
            if asking is None or metric.calls_llm == asking:
                found.append(pytest.param(library, name, id=f"{library.name}/{name}", marks=marks))
    return found


@pytest.mark.parametrize("library, name", metrics(asking=True))
def test_the_good_end_and_the_calls_are_the_declared_ones(of, library, name):
    of.check_metric(library, name)


@pytest.mark.parametrize("library, name", metrics())
def test_without_what_it_reads_nothing_is_asked(of, library, name):
    of.check_missing(library, name)


# What tells good from bad where no model is asked: the answers of two runs.
RULES = {
    "AnswerSimilarity": ("It arrives tomorrow.", "zebra"),
    "EmbeddingSimilarity": ("It arrives tomorrow.", "zebra"),
    "ExactMatch": ("It arrives tomorrow.", "No."),
    "JSONDiff": ('"It"', "[1]"),
    "Levenshtein": ("It arrives tomorrow!", "No."),
    "LevenshteinScorer": ("It arrives tomorrow!", "No."),
    "ListContains": ('["a", "b"]', '["c"]'),
    "MatchesRegex": ("It arrives tomorrow.", "No."),
    "NumericDiff": ("41", "7"),
    "ValidJSON": ("{}", "{"),
    "exact_match": ("It arrives tomorrow.", "No."),
    "json_match": ('{"due": 1}', '{"due": 2}'),
    "levenshtein_distance": ("It arrives tomorrow!", "No."),
}
REFERENCES = {"JSONDiff": '"It"', "ListContains": '["a", "b"]', "NumericDiff": "42", "json_match": '{"due": 1}'}
BY_STEPS = {"trajectory_match", "graph_trajectory_strict_match", "conversation_repetition"}


@pytest.mark.parametrize("library, name", metrics(asking=False))
def test_a_metric_by_rule_tells_good_from_bad_and_asks_nobody(of, library, name):
    bound = of.bind(library, name, None)
    if name == "conversation_repetition":
        assert of.verdict(bound).metadata["assay.outcome"] in ("pass", "fail")
        return
    if name in BY_STEPS:
        good, bad = of.verdict(bound), of.verdict(bound, spans=[{"name": "refund", "inputs": {}}])
    else:
        wanted = {**of.expectations(7), "expected_response": REFERENCES.get(name, "It arrives tomorrow.")}
        good, bad = (of.verdict(bound, outputs={"answer": a}, expectations=wanted) for a in RULES[name])
    assert good.error is None and bad.error is None, (good.error, bad.error)
    assert good.value > bad.value
    assert good.metadata["assay.outcome"] == "pass"
    assert good.source.source_type == "CODE"


def test_each_rule_is_covered():
    by_rule = {n for library in LIBRARIES for n, m in library.metrics.items() if not m.calls_llm}
    assert by_rule == set(RULES) | BY_STEPS
