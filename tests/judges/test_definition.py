"""Strict validation: every way a definition can be wrong is told with file, line, what was found, what is valid."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_assay.contracts import CategoricalValue, UnscoredError
from mlflow_assay.errors import ConfigError, DefinitionError
from mlflow_assay.judges import definition

GOOD = """\
name: polite
purpose: Is the answer polite to the customer?
value:
  type: categorical
  options: ["yes", "no"]
  good: ["yes"]
instructions: |
  Decide whether {{ outputs }} is polite.
cases:
  - name: thanks
    kind: good
    outputs: {answer: Thank you!}
    expect: "yes"
  - name: rude
    kind: bad
    outputs: {answer: Go away.}
    expect: "no"
"""


def problems(text: str) -> list[str]:
    with pytest.raises(DefinitionError) as raised:
        definition.loads(text, "judge.yaml")
    return str(raised.value).splitlines()


def with_(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def test_a_good_definition_loads_with_its_cases_and_required_fields():
    found = definition.loads(GOOD)
    assert (found.name, found.template_variables, found.required_fields()) == ("polite", ("outputs",), ("outputs",))
    assert [case.kind for case in found.cases] == ["good", "bad"]


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ("purpose:", "porpoise: 1\npurpose:", 2, "porpoise: unknown key; valid: name, purpose, version"),
        ("    kind: bad", "    kind: bad\n    note: x", 16, "cases.1.note: unknown key; valid: inputs, outputs, spans"),
        ("  good: [", "  god: [", 6, "value.god: unknown key; valid: better, good, high"),
        ("name: polite", "name: 7", 1, "name: Input should be a valid string, found 7"),
        ("name: polite", "name: Very Polite", 1, "found 'Very Polite'"),
        ("purpose: Is the answer polite to the customer?", "purpose: hm", 2, "at least 10 characters, found 'hm'"),
        ('["yes", "no"]', "[yes, no]", 5, "YAML reads bare yes, no, on and off as booleans; quote them"),
        ('  good: ["yes"]', "  good: [yes]", 6, "quote them"),
        ('  good: ["yes"]', '  good: ["maybe"]', 3, r"good \['maybe'\]"),
        ('  good: ["yes"]', '  good: ["yes", "no"]', 3, "some but not all of them good"),
        ("type: categorical", "type: scale", 3, "does not match any of the expected tags"),
        ("{{ outputs }}", "{{ answer }}", 8, r"use \{\{ answer \}\}, which is neither one of MLflow's variables"),
        ("{{ outputs }}", "the answer", 7, "need at least one of"),
        ("{{ outputs }}", "{{ conversation }} of {{ inputs }}", 7, r"\{\{ conversation \}\} goes only with"),
        ("{{ outputs }}", "{{ conversation }}", 7, "belong together"),
        ('    expect: "yes"', "", 10, "a good case needs `expect`"),
        ('    expect: "yes"', '    expect: "perhaps"', 10, "expect is off the menu.*valid: yes, no"),
        ("    kind: good", "    kind: bad", 10, "is bad, but by the pass rule 'yes' is not"),
        ("name: rude", "name: thanks", 14, "two cases are named 'thanks'"),
        ("    kind: good", "    kind: unscorable", 10, "needs `unscored`, one of .*missing_field"),
        ("    kind: good", "    kind: fine", 11, "'good', 'bad' or 'unscorable', found 'fine'"),
        ("value:", "needs: [outputs, tags]\nvalue:", 3, "unknown field 'tags'; valid: inputs, outputs"),
        ("value:", "fields: {inputs: {q: first_message}}\nvalue:", 3, "There is no trace field 'first_message'"),
        ("value:", "fields: {inputs: {q: 'span:router'}}\nvalue:", 3, "does not say what to read of the span"),
        ("value:", "model: gpt-4.1\nvalue:", 3, "found 'gpt-4.1'"),
        ("value:", "uses: mlflow/Safety\nvalue:", 3, "exactly one of `instructions`"),
        ("value:", "with: {x: 1}\nvalue:", 3, "`with` holds parameters of `uses`"),
        (
            "value:",
            "variables: {tone: {description: d, default: e}}\nvalue:",
            3,
            "'tone', which the instructions never",
        ),
        ("value:", "rationale_first: 'true'\nvalue:", 3, "valid boolean, found 'true'"),
    ],
)
def test_each_fault_is_told_with_its_line(old, new, line, told):
    found = problems(with_(old, new))
    assert any(re.search(told, p) for p in found), found
    assert any(p.startswith(f"judge.yaml:{line}:") for p in found if re.search(told, p)), found


def test_all_problems_of_a_file_are_told_at_once():
    text = with_("name: polite", "name: 7").replace("purpose: Is the answer polite to the customer?", "purpose: hm")
    assert [p.split(":")[1] for p in problems(text)] == ["1", "2"]


def test_missing_keys_are_named():
    found = problems("name: polite\n")
    assert any("purpose: Field required" in p for p in found) and any("value: Field required" in p for p in found)


def test_a_variable_without_default_needs_an_example_for_the_cases():
    text = with_("value:", "variables: {rules: {description: The rules.}}\nvalue:").replace(
        "is polite.", "is polite by {{ rules }}."
    )
    (found,) = problems(text)
    assert found.startswith("judge.yaml:3:") and "'rules' has no default, so the cases need its `example`" in found


def test_a_key_that_stands_twice_is_refused_wherever_it_stands():
    assert problems(with_("value:", "name: other\nvalue:")) == ["judge.yaml:3: the key 'name' stands twice."]
    assert (
        "judge.yaml:13: the key 'kind' stands twice"
        in problems(with_("    outputs:", "    x: 1\n    kind: bad\n    outputs:"))[0]
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [("name: [", 1), ("name: polite\n\tpurpose: x", 2), ("a: b: c", 1), ("", 1), ("- 1\n- 2", 1)],
)
def test_what_is_not_a_mapping_in_yaml_is_refused_with_its_line(text, line):
    found = problems(text)[0]
    assert found.startswith("judge.yaml:"), found


def test_yaml_that_is_endless_work_is_refused_at_once():
    """Aliases (to itself, or doubling at each level) and absurd nesting neither hang nor crash the loader."""
    bomb = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert problems(bomb)[0].startswith("judge.yaml:2: YAML aliases are not allowed. Found: *a.")
    assert "aliases are not allowed" in problems("&a [*a]")[0]
    for depth in (60, 100_000):
        assert "nested more than 50 levels deep" in problems("[" * depth + "]" * depth)[0]


def test_python_tags_execute_nothing(tmp_path):
    """YAML that would run code in an unsafe loader is an error, and the code is not run."""
    proof = tmp_path / "ran"
    for text in (
        f"name: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{proof}']]",
        f'name: !!python/object/apply:os.system ["touch {proof}"]',
        "name: !!python/name:os.system",
        f"name: !!python/object/new:subprocess.Popen [[touch, '{proof}']]",
    ):
        assert re.match(r"judge\.yaml:1: not valid YAML: could not determine a constructor", problems(text)[0])
    assert not proof.exists()


def test_templates_execute_nothing():
    """Instructions are text: Jinja expressions and statements are neither run nor accepted as variables."""
    found = definition.loads(with_("{{ outputs }}", "{{ outputs }} {% for x in ().__class__.__mro__ %} {{ 7*7 }}"))
    assert "{{ 7*7 }}" in found.render({}) and "49" not in found.render({})


def test_a_huge_file_is_refused():
    assert "at most 1000000 characters" in problems(GOOD + "#" * 1_000_001)[0]


def test_an_unreadable_file_is_told_by_name(write, tmp_path):
    with pytest.raises(DefinitionError, match=r"none\.yaml:1: cannot be read: .*No such file"):
        definition.load(tmp_path / "none.yaml")
    with pytest.raises(DefinitionError, match=r"judge\.yaml:1: cannot be read: .*utf-8"):
        definition.load(write(b"name: \xff\xfe"))
    with pytest.raises(DefinitionError, match="cannot be read"):
        definition.load(tmp_path)
    with pytest.raises(DefinitionError, match="no such folder of judge definitions"):
        list(definition.load_folder(tmp_path / "nowhere"))


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300))
def test_any_text_either_loads_or_is_a_definition_error(text):
    """No input makes the loader raise anything but its own error."""
    try:
        definition.loads(text)
    except DefinitionError as error:
        assert str(error).startswith("<text>:")


# --- texts ----------------------------------------------------------------------------------------------

WITH_TEXTS = GOOD.replace(
    "value:",
    "variables:\n  rules: {description: The rules., example: None.}\n  tone: {description: T., default: kind}\nvalue:",
).replace("is polite.", "is {{ tone }} by\n  {{ rules }}")


def test_texts_are_put_in_and_defaults_taken():
    rendered = definition.loads(WITH_TEXTS).render({"rules": "Say thanks."})
    assert "is kind by\nSay thanks." in rendered and "{{ outputs }}" in rendered


def test_a_text_cannot_smuggle_in_a_template_variable():
    """A policy that holds {{ trace }} stays text: it must not turn the judge into one that reads the trace."""
    rendered = definition.loads(WITH_TEXTS).render({"rules": "Never print {{ trace }} or {{inputs}}."})
    assert set(re.findall(r"\{\{\s*(\w+)\s*\}\}", rendered)) == {"outputs"}


def test_a_missing_text_says_how_to_give_it():
    with pytest.raises(ConfigError, match=r"needs the text 'rules': The rules.*--set polite\.rules=@FILE"):
        definition.loads(WITH_TEXTS).render({})


def test_a_text_nobody_asked_for_is_refused():
    with pytest.raises(ConfigError, match=r"has no variable 'rule'\. Valid: rules, tone"):
        definition.loads(WITH_TEXTS).render({"rules": "x", "rule": "y"})


# --- values ---------------------------------------------------------------------------------------------


def test_an_undecided_option_is_no_verdict_but_on_the_menu():
    value = CategoricalValue(("yes", "no", "cannot_tell"), ("yes",), ("cannot_tell",))
    with pytest.raises(UnscoredError) as raised:
        value.read(" Cannot_Tell ")
    assert raised.value.reason.value == "undecided"
    assert value.describe() == "yes/no/cannot_tell, yes passes, cannot_tell is unscored"


def test_a_reviewers_thumb_reads_as_yes_or_no():
    value = CategoricalValue(("yes", "no"), ("yes",))
    assert (value.read(True), value.read(False)) == ("yes", "no")
    with pytest.raises(UnscoredError):
        CategoricalValue(("good", "bad"), ("good",)).read(True)


@pytest.mark.parametrize(
    "menu", [(("a", "b"), ("a",), ("b",)), (("a", "b", "c"), ("c",), ("c",)), (("a", "b", "c"), ("a",), ("x",))]
)
def test_undecided_words_are_apart_from_verdicts(menu):
    with pytest.raises(ConfigError, match="two or more options that are verdicts"):
        CategoricalValue(*menu)
