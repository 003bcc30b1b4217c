"""The catalogue's rules: where judges come from, who may replace whom, and what is a clash."""

from __future__ import annotations

import os

import pytest

from mlflow_assay.contracts import ModelSettings
from mlflow_assay.errors import ConfigError, DefinitionError
from mlflow_assay.judges.catalogue import Catalogue

MODEL = ModelSettings("openai:/fake")
JUDGE = """\
name: {name}
purpose: {purpose}
value: {{type: boolean}}
instructions: "Decide whether {{{{ outputs }}}} is polite."
"""


def judge(name: str, purpose: str = "Is the answer polite?") -> str:
    return JUDGE.format(name=name, purpose=purpose)


def test_a_users_folder_adds_judges_and_replaces_installed_ones(write, tmp_path):
    write(judge("tone", "Is it my own tone?"), "mine/tone.yaml")
    write(judge("polite"), "mine/polite.yaml")
    found = Catalogue([tmp_path / "mine"]).entries
    assert found["tone"].contract.purpose == "Is it my own tone?"
    assert found["tone"].origin == str(tmp_path / "mine")
    assert found["polite"].path == tmp_path / "mine" / "polite.yaml"
    assert found["completeness"].origin == "pack shipped"


def test_the_environment_names_folders_and_the_option_wins(write, tmp_path, monkeypatch):
    for folder in ("one", "two", "three"):
        write(judge("polite", f"Is it polite, says {folder}?"), f"{folder}/polite.yaml")
    write(judge("only_one"), "one/only.yaml")
    monkeypatch.setenv("ASSAY_JUDGES_PATH", os.pathsep.join([str(tmp_path / "one"), str(tmp_path / "two")]))
    assert "says two" in Catalogue().entries["polite"].contract.purpose
    assert "says three" in Catalogue([tmp_path / "three"]).entries["polite"].contract.purpose
    assert "only_one" in Catalogue([tmp_path / "three"]).entries


def test_two_judges_of_one_name_in_one_folder_clash(write, tmp_path):
    write(judge("polite"), "a.yaml")
    write(judge("polite"), "b.yaml")
    with pytest.raises(DefinitionError, match=r"Two judges are named 'polite': .*a\.yaml and .*b\.yaml\. Rename one"):
        _ = Catalogue([tmp_path]).entries


def test_a_definition_may_give_the_library_judge_it_wraps_its_face(catalogue):
    """latency_limit is code and a shipped definition of the same name: one judge, with purpose and cases."""
    entry = catalogue.get("latency_limit")
    assert (entry.origin, entry.library, entry.contract.calls_llm) == ("pack shipped", "latency_limit", False)


def test_a_definition_that_takes_a_library_judges_name_for_something_else_is_a_clash(write, tmp_path, monkeypatch):
    from importlib.metadata import EntryPoint

    from mlflow_assay import registry

    write(judge("latency_limit"), "pack/latency.yaml")
    installed = registry.entry_points
    pack = EntryPoint("other", "judges_pack_for_test:folder", "mlflow_assay.judge_packs")
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [pack] if group == pack.group else installed(group=group)
    )
    monkeypatch.setitem(__import__("sys").modules, "judges_pack_for_test", _Pack(tmp_path / "pack"))
    with pytest.raises(DefinitionError, match="Two judges are named 'latency_limit'"):
        _ = Catalogue().entries


class _Pack:
    def __init__(self, path):
        self.folder = lambda: path


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(DefinitionError, match="there is no such folder"):
        _ = Catalogue([tmp_path / "nowhere"]).entries


def test_an_unknown_judge_suggests_near_ones(catalogue):
    with pytest.raises(ConfigError, match=r"no judge 'tones'\. Valid: .*tone.*assay judges list"):
        catalogue.get("tones")


@pytest.mark.parametrize(
    ("uses", "told"),
    [
        ("mlflow/Safty", r":5: the library 'mlflow' has no judge 'Safty'\. Valid: .*Safety"),
        ("mlflo/Safety", r":5: No judges plugin 'mlflo' is installed.*Did you mean 'mlflow'"),
        ("mlflow/UserFrustration", r":5: mlflow/UserFrustration judges a session\. Found: scope: trace"),
    ],
)
def test_a_definition_that_uses_what_is_not_there_is_told_with_its_line(write, tmp_path, uses, told):
    write(f'name: mine\npurpose: "Is it any good at all?"\nvalue:\n  type: boolean\nuses: {uses}\n')
    with pytest.raises(DefinitionError, match=told):
        _ = Catalogue([tmp_path]).entries


@pytest.mark.parametrize(
    ("uses", "parameters", "told"),
    [
        ("latency_limit", "{second: 3}", "has no parameter 'second'. Valid: seconds"),
        ("latency_limit", "{seconds: -3}", "seconds: Input should be greater than 0"),
        ("latency_limit", '{seconds: "3"}', "seconds: Input should be a valid number"),
        ("latency_limit", "{pass_if: 3}", "has no parameter 'pass_if'"),
        ("repeated_steps", "{max_repeats: 1.5}", "max_repeats: Input should be a valid integer"),
        ("mlflow/Guidelines", "{guidline: x}", "has no parameter 'guidline'. Valid: guidelines"),
        ("mlflow/Guidelines", "{}", "guidelines: Field required"),
        ("mlflow/RegexMatch", '{pattern: "("}', "invalid regex pattern"),
        ("mlflow/ResponseLength", "{}", "at least one of `min_length` or `max_length`"),
        ("mlflow/PIIDetection", "{pii_types: [shoe_size]}", "pii_types.0: Input should be 'email', 'phone'"),
        ("mlflow/Safety", "{inference_params: {temperature: 0}}", "has no parameter 'inference_params'"),
    ],
)
def test_parameters_are_checked_when_a_definition_is_validated(write, uses, parameters, told):
    value = "{type: categorical, options: [a, b], good: [a]}"
    path = write(f'name: mine\npurpose: "Is it any good at all?"\nvalue: {value}\nuses: {uses}\nwith: {parameters}\n')
    with pytest.raises(DefinitionError) as raised:
        Catalogue().check(path)
    assert told in str(raised.value) and str(raised.value).startswith(f"{path}:5: ")


def test_instructions_mlflow_would_refuse_are_told_when_validated(write):
    """The check builds the judge, so whatever MLflow refuses comes out before a run."""
    path = write(judge("polite").replace("value:", "parameters: {temperature: 0}\nvalue:"))
    assert Catalogue().check(path).name == "polite"


# --- digests --------------------------------------------------------------------------------------------


def test_equal_builds_have_equal_digests_and_every_change_changes_it(write, tmp_path):
    """A verdict's digest tells whether two verdicts may be compared."""

    def digest(text: str, model: ModelSettings = MODEL) -> str:
        write(text, "d/polite.yaml")
        return Catalogue([tmp_path / "d"]).build("polite", model).digest

    base = digest(judge("polite"))
    assert digest(judge("polite")) == base
    assert digest(judge("polite", "Another sentence about it.")) == base, "the purpose is no part of the question"
    changed = {
        digest(judge("polite").replace('polite."', 'very polite."')),
        digest(judge("polite").replace("boolean}", "boolean, good: false}")),
        digest(judge("polite").replace("value:", 'version: "2"\nvalue:')),
        digest(judge("polite").replace("value:", "rationale_first: false\nvalue:")),
        digest(judge("polite").replace("value:", "parameters: {temperature: 0}\nvalue:")),
        digest(judge("polite").replace("value:", "fields: {outputs: {a: final_answer}}\nvalue:")),
        digest(judge("polite"), ModelSettings("openai:/other")),
        digest(judge("polite"), ModelSettings("openai:/fake", params={"seed": 1})),
    }
    assert len(changed) == 8 and base not in changed


def test_endpoint_and_secret_headers_are_no_part_of_the_digest(catalogue):
    """The same model behind another address gives comparable verdicts; a secret must not be derivable."""
    secret = ModelSettings("openai:/fake", "http://127.0.0.1:1/v1/chat/completions", headers={"X-Key": "s3cret"})
    assert catalogue.build("tone", MODEL).digest == catalogue.build("tone", secret).digest
    assert "s3cret" not in repr(catalogue.build("tone", secret))


def test_texts_change_the_digest(catalogue):
    one = catalogue.build("policy_adherence", MODEL, {"policy": "Be kind."})
    two = catalogue.build("policy_adherence", MODEL, {"policy": "Be brief."})
    assert one.digest != two.digest


def test_a_librarys_parameters_change_the_digest(write, tmp_path):
    def digest(seconds: int) -> str:
        value = "{type: categorical, options: [within, exceeded], good: [within]}"
        uses = f"uses: latency_limit\nwith: {{seconds: {seconds}}}\n"
        write(f'name: quick\npurpose: "Is it quick enough?"\nvalue: {value}\n{uses}')
        return Catalogue([tmp_path]).build("quick").digest

    assert digest(1) != digest(2) and digest(1) == digest(1)
