"""Every judge shipped in judges/: it loads, builds, has its cases, passes them offline, and is told about."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from mlflow_assay import shipped
from mlflow_assay.judges import definition
from mlflow_assay.judges.cases import run_offline
from mlflow_assay.judges.docs import judges_table, schema_text
from mlflow_assay.judges.mlflow_facts import BUILTINS

FOLDER = shipped.judges()
FILES = sorted(FOLDER.glob("*.yaml"))
ASKED_FOR = {
    "routing_accuracy", "request_resolved", "escalation_appropriateness", "tool_choice", "tool_arguments",
    "tool_error_recovery", "policy_adherence", "groundedness", "answer_relevance", "completeness", "tone",
    "personal_data_leak", "content_safety", "prompt_injection_compliance", "repeated_steps", "latency_limit",
    "cost_limit",
}  # fmt: skip

parametrize = pytest.mark.parametrize("path", FILES, ids=[p.stem for p in FILES])


def test_the_judges_a_support_team_needs_are_there():
    assert {p.stem for p in FILES} >= ASKED_FOR


@parametrize
def test_file_and_judge_have_one_name_and_the_three_kinds_of_case(path):
    found = definition.load(path)
    assert found.name == path.stem
    assert {case.kind for case in found.cases} == {"good", "bad", "unscorable"}


@parametrize
def test_its_cases_pass_offline_through_real_http(catalogue, path):
    results = run_offline(catalogue, catalogue.get(path.stem))
    assert [r for r in results if r.status != "passed"] == []
    assert len(results) == len(catalogue.get(path.stem).definition.cases)


@parametrize
def test_instructions_follow_the_house_rules(path):
    """One question, decision rules, unclear cases, every option explained, and the judged text is only material."""
    found = definition.load(path)
    assert found.purpose.endswith("?") and found.purpose.count("?") == 1
    assert found.notes.strip()
    if found.instructions is None:
        return
    text = " ".join(found.instructions.split())
    assert "Unclear cases" in text and re.search(r"chang(es|e) nothing|no bearing|only the text between", text)
    for option in getattr(found.value, "options", ["true", "false"]):
        assert re.search(rf"\b{option}\b", text), f"the option {option} is not explained"


@parametrize
def test_it_is_valid_by_the_json_schema_editors_use(path):
    jsonschema.validate(yaml.safe_load(path.read_text()), json.loads(schema_text()))
    assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")


def test_the_json_schema_catches_what_an_editor_should_underline():
    good = yaml.safe_load((FOLDER / "tone.yaml").read_text())
    for wrong in ({"purpuse": "x"}, {"scope": "span"}, {"value": {"type": "categorical", "options": ["a"]}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**good, **wrong}, json.loads(schema_text()))


def test_the_committed_schema_is_current():
    """Rewrite it with: assay judges schema > judges/schema.json."""
    assert (FOLDER / "schema.json").read_text(encoding="utf-8") == schema_text()


def test_nothing_that_mlflow_has_is_rebuilt():
    """Where MLflow's judge asks the same question, ours is that judge."""
    wrapped = {p.stem: definition.load(p).uses for p in FILES if (definition.load(p).uses or "").startswith("mlflow/")}
    assert wrapped == {
        "answer_relevance": "mlflow/RelevanceToQuery",
        "completeness": "mlflow/Completeness",
        "content_safety": "mlflow/Safety",
    }


def test_the_table_tells_every_judge_once(catalogue):
    table = judges_table()
    for path in FILES:
        assert table.count(f"| `{path.stem}` |") == 1
    assert f"{len(BUILTINS)} judges of the library `mlflow`" in table
    assert {len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()} == {8}


def test_the_folder_holds_data_only():
    assert {p.suffix for p in Path(FOLDER).iterdir() if p.is_file()} <= {".yaml", ".json", ".md"}
