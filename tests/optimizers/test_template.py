"""Whatever a model writes, a prompt keeps its variables and gets no others."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities.model_registry import PromptVersion

from mlflow_assay.errors import ConfigError
from mlflow_assay.optimizers.examples import block
from mlflow_assay.optimizers.template import Template, inert

TEMPLATES = [
    "Answer {{question}} briefly.",
    "You answer.\n\nRules:\n- be brief\n\nQ: {{question}}\n\nHistory: {{ history }}",
    json.dumps([{"role": "system", "content": "You answer."}, {"role": "user", "content": "{{question}}"}]),
    json.dumps([{"role": "user", "content": "Be kind.\n\nAnswer {{question}}"}]),
]
WRITTEN = st.text(max_size=200) | st.sampled_from(
    ["{{question}}", "Use {{secret}}.", "{% for x in y %}", "}}{{", "{{ question }} and {{other}}", "{{{question}}}"]
)


def version(text: str) -> PromptVersion:
    messages = Template.read(text).messages
    return PromptVersion("p", 1, list(messages) if messages else text)


@pytest.mark.parametrize("text", TEMPLATES)
@given(written=WRITTEN)
def test_variables_survive_whatever_is_written(text, written):
    template = Template.read(text)
    made = template.with_instructions(written)
    assert template.lacks(made) == []
    assert version(made).variables == version(text).variables
    version(made).format(question="why", history="none")  # and MLflow can fill it in


@pytest.mark.parametrize("text", TEMPLATES)
@given(case=st.text(max_size=100), answer=st.text(max_size=20))
def test_examples_bring_no_variables_and_break_no_chat(text, case, answer):
    made = Template.read(text).with_block(block([({"question": case + "{{evil}}"}, answer + "{% if x %}")]))
    assert version(made).variables == version(text).variables
    version(made).format(question="why", history="none")


@pytest.mark.parametrize("text", TEMPLATES)
def test_the_instructions_are_what_stands_before_the_first_variable(text):
    template = Template.read(text)
    assert template.with_instructions(template.instructions).strip() == text.strip()


def test_a_chat_prompt_stays_one_and_keeps_its_other_messages():
    made = json.loads(Template.read(TEMPLATES[2]).with_instructions("Answer in one word."))
    assert made == [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "{{question}}"},
    ]


def test_examples_stand_before_the_question():
    made = Template.read(TEMPLATES[1]).with_block("EXAMPLES")
    assert made.index("Rules") < made.index("EXAMPLES") < made.index("{{question}}")


def test_statements_are_refused():
    with pytest.raises(ConfigError, match="Jinja"):
        Template.read("{% if x %}{{x}}{% endif %}")


@given(st.text())
def test_inert_text_holds_no_variable(text):
    assert not version(inert(text) or "x").variables
