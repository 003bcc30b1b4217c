"""Registered judges: what MLflow reads back, on SQLite and through a real server, and no poisoned experiment."""

from __future__ import annotations

import pytest
import requests

from mlflow_assay.contracts import ModelSettings
from mlflow_assay.errors import ConfigError, StoreError
from mlflow_assay.judges.cases import example_texts
from mlflow_assay.judges.registering import Schedule, register, why_not

OPENAI, GATEWAY = ModelSettings("openai:/gpt-4.1-mini"), ModelSettings("gateway:/judge")
REGISTRABLE = (
    "answer_relevance", "completeness", "content_safety", "personal_data_leak", "prompt_injection_compliance",
    "request_resolved", "session_resolved", "tone",
)  # fmt: skip


def texts(catalogue, name):
    definition = catalogue.get(name).definition
    return example_texts(definition) if definition else {}


@pytest.fixture
def experiment(store) -> str:
    import mlflow

    return str(mlflow.set_experiment("support").experiment_id)


@pytest.fixture
def gateway(experiment) -> str:
    """The experiment, on a store whose AI Gateway has an endpoint `judge`."""
    _make_gateway()
    return experiment


def _make_gateway() -> None:
    from mlflow.entities import GatewayEndpointModelConfig, GatewayModelLinkageType
    from mlflow.tracking._tracking_service.utils import _get_store

    gateway = _get_store()
    secret = gateway.create_gateway_secret("key", {"api_key": "planted"}, provider="openai")
    model = gateway.create_gateway_model_definition("model", secret.secret_id, "openai", "fake-judge")
    linked = GatewayEndpointModelConfig(model.model_definition_id, GatewayModelLinkageType.PRIMARY)
    gateway.create_gateway_endpoint("judge", [linked], usage_tracking=False)


@pytest.fixture(autouse=True)
def _passphrase(monkeypatch):
    monkeypatch.setenv("MLFLOW_CRYPTO_KEK_PASSPHRASE", "only-for-this-test")


def test_it_is_known_which_shipped_judges_mlflow_can_register(catalogue):
    definitions = [e for e in catalogue.entries.values() if e.origin == "pack shipped"]
    assert {e.name for e in definitions if why_not(e) is None} == set(REGISTRABLE)


@pytest.mark.parametrize("name", REGISTRABLE)
def test_a_registered_judge_reads_back_as_it_was(catalogue, experiment, name):
    """Instructions, value type, model and scope survive; the same judge again adds no version."""
    from mlflow.genai.scorers import get_scorer, list_scorers

    done = register(catalogue, name, experiment, OPENAI)
    found = get_scorer(name=name, experiment_id=experiment)
    bound = catalogue.build(name, OPENAI)
    ours = getattr(bound.scorer, "wrapped", bound.scorer)
    assert (done.version, done.model, done.unchanged) == (1, OPENAI.uri, False)
    assert (found.instructions, found.model, found.feedback_value_type) == (
        ours.instructions, OPENAI.uri, ours.feedback_value_type,
    )  # fmt: skip
    assert found.is_session_level_scorer == (bound.contract.scope == "session")
    assert found.description == bound.contract.purpose
    assert register(catalogue, name, experiment, OPENAI).unchanged
    assert [s.name for s in list_scorers(experiment_id=experiment)] == [name]


def test_a_changed_judge_becomes_a_new_version(catalogue, experiment):
    assert register(catalogue, "tone", experiment, OPENAI).version == 1
    changed = register(catalogue, "tone", experiment, OPENAI, {"formality": "Very formal."})
    assert (changed.version, changed.unchanged) == (2, False)
    assert register(catalogue, "tone", experiment, ModelSettings("openai:/other")).version == 3


def test_what_cannot_be_registered_is_refused_and_harms_nothing(catalogue, experiment):
    """After refusals for every reason, the experiment's scorers can still be listed."""
    from mlflow.genai.scorers import list_scorers

    register(catalogue, "tone", experiment, OPENAI)
    for name, reason in {
        "repeated_steps": "it is code",
        "latency_limit": "it is code",
        "groundedness": "mapped trace fields",
        "routing_accuracy": "mapped trace fields",
        "mlflow/KnowledgeRetention": "cannot serialize",
    }.items():
        with pytest.raises(ConfigError, match=reason):
            register(catalogue, name, experiment, OPENAI, texts(catalogue, name))
    assert [s.name for s in list_scorers(experiment_id=experiment)] == ["tone"]


def test_a_judge_mlflow_cannot_read_back_is_taken_out_again(catalogue, experiment, monkeypatch):
    """A scorer that would make the experiment's list unreadable does not stay there."""
    from mlflow.exceptions import MlflowException
    from mlflow.genai import scorers

    real = scorers.list_scorers

    def unreadable(**where):
        if any(s.name == "tone" for s in real(**where)):
            raise MlflowException("scorer cannot be read")
        return real(**where)

    monkeypatch.setattr(scorers, "list_scorers", unreadable)
    with pytest.raises(StoreError, match="taken out again: scorer cannot be read"):
        register(catalogue, "tone", experiment, OPENAI)
    assert real(experiment_id=experiment) == []


def test_headers_are_not_stored(catalogue, experiment):
    """They may be secrets, and MLflow would keep them in its database."""
    from mlflow.genai.scorers import get_scorer

    secret = ModelSettings(OPENAI.uri, headers={"X-Key": "s3cret"})
    for name in ("tone", "content_safety"):
        register(catalogue, name, experiment, secret)
        assert "s3cret" not in str(get_scorer(name=name, experiment_id=experiment).model_dump())


@pytest.mark.parametrize("name", ["tone", "content_safety", "session_resolved", "prompt_injection_compliance"])
def test_a_gateway_judge_can_be_started_and_its_rate_changed(catalogue, gateway, name):
    from mlflow.genai.scorers import get_scorer

    register(catalogue, name, gateway, GATEWAY, schedule=Schedule(0.1, "tag.domain = 'x'"))
    found = get_scorer(name=name, experiment_id=gateway)
    assert (found.sample_rate, found.filter_string, found.model) == (0.1, "tag.domain = 'x'", "gateway:/judge")
    again = register(catalogue, name, gateway, GATEWAY, schedule=Schedule(0.5))
    assert again.unchanged and get_scorer(name=name, experiment_id=gateway).sample_rate == 0.5


def test_what_the_server_cannot_start_is_refused_before_it_is_registered(catalogue, gateway):
    from mlflow.genai.scorers import list_scorers

    for name, model, reason in (
        ("tone", OPENAI, "starts only judges that ask a model of its AI Gateway"),
        ("tone", None, "Found: MLflow's default model"),
        ("mlflow/PIIDetection", GATEWAY, "Found: gateway:/judge"),
        ("mlflow/Correctness", GATEWAY, "does not start judges that need expectations"),
    ):
        with pytest.raises(ConfigError, match=reason):
            register(catalogue, name, gateway, model, schedule=Schedule(0.1))
    assert list_scorers(experiment_id=gateway) == []


def test_an_endpoint_that_is_not_there_is_told(catalogue, gateway):
    with pytest.raises(StoreError, match=r"refused to register the judge 'tone'.*nowhere"):
        register(catalogue, "tone", gateway, ModelSettings("gateway:/nowhere"))


def test_a_filter_mlflow_cannot_read_is_told(catalogue, gateway):
    with pytest.raises(StoreError, match="did not start it: Invalid"):
        register(catalogue, "tone", gateway, GATEWAY, schedule=Schedule(0.1, "not a filter"))


# --- a real server ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory, mlflow_server):
    """A real `mlflow server` with its own SQLite store."""
    secret = {"MLFLOW_CRYPTO_KEK_PASSPHRASE": "only-for-this-test"}
    with mlflow_server(tmp_path_factory.mktemp("server"), variables=secret) as url:
        yield url


@pytest.mark.slow
@pytest.mark.integration
def test_a_real_server_takes_starts_and_lists_our_judges(catalogue, server):
    """Through HTTP: an instruction, a trace, a session and a built-in judge, started and read back by its REST API."""
    import mlflow
    from mlflow.genai.scorers import list_scorers

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(server)
    try:
        _make_gateway()
        experiment = mlflow.set_experiment("served").experiment_id
        names = ("content_safety", "prompt_injection_compliance", "session_resolved", "tone")
        for name in names:
            register(catalogue, name, experiment, GATEWAY, schedule=Schedule(0.25))
        assert register(catalogue, "tone", experiment, GATEWAY).unchanged
        found = {s.name: (s.model, s.sample_rate) for s in list_scorers(experiment_id=experiment)}
        assert found == dict.fromkeys(names, ("gateway:/judge", 0.25))
        shown = requests.get(f"{server}/ajax-api/3.0/mlflow/scorers/list?experiment_id={experiment}", timeout=30)
        assert {s["scorer_name"] for s in shown.json()["scorers"]} == set(names)
    finally:
        mlflow.set_tracking_uri(before)
