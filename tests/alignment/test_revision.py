"""The next version of a definition: valid, readable, and otherwise the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_assay.alignment.aligner import Proposal
from mlflow_assay.alignment.revision import next_version, with_note, write
from mlflow_assay.judges import definition as definitions

TEXT = """
name: policy
purpose: Did the agent follow the policy it was given?
version: "3"
value: {type: categorical, options: ["yes", "no"], good: ["yes"]}
fields: {inputs: {conversation: transcript}}
variables:
  policy: {description: The policy to follow., default: Be kind.}
instructions: |
  Read {{ inputs }} against this policy:
  {{ policy }}
parameters: {temperature: 0}
notes: Ours.
cases:
  - {name: kind, kind: good, inputs: {q: hello there}, expect: "yes"}
"""


@pytest.mark.parametrize(
    ("old", "new"), [("1", "2"), ("9", "10"), ("2.1", "2.2"), ("v3", "v4"), ("1-assay", "1-assay.2"), ("", ".2")]
)
def test_versions_are_counted_up(old, new):
    assert next_version(old) == new


@given(st.text(alphabet="0123456789.-abv", max_size=8))
def test_the_next_version_is_another_one(version):
    assert next_version(version) != version


def test_an_appendix_keeps_everything_else(tmp_path):
    old = definitions.loads(TEXT)
    path = write(old, Proposal("x", appendix="Two cases:\n\n- one: « ü »\n- two"), "Aligned.", tmp_path)
    new = definitions.load(path)
    assert new.instructions.endswith("- one: « ü »\n- two\n")
    assert new.instructions.startswith(old.instructions.strip())
    assert new.notes == "Ours. Aligned."
    changed = {"instructions", "notes", "version"}
    assert new.model_dump(exclude=changed) == old.model_dump(exclude=changed)
    assert "instructions: |" in path.read_text(encoding="utf-8")


def test_rewritten_instructions_hold_the_texts_of_their_variables(tmp_path):
    path = write(definitions.loads(TEXT), Proposal("x", instructions="Read {{ inputs }}. Be kind."), "n", tmp_path)
    new = definitions.load(path)
    assert (new.variables, new.instructions) == ({}, "Read {{ inputs }}. Be kind.\n")


def test_a_note_changes_the_notes_only():
    text = with_note(TEXT, "MLflow run 1.")
    assert definitions.loads(text).notes == "Ours. MLflow run 1."
    same = definitions.loads(TEXT).model_dump(exclude={"notes"})
    assert definitions.loads(text).model_dump(exclude={"notes"}) == same
