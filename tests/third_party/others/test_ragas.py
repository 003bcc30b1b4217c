"""Ragas' metrics, each of them, against the real library and a judge model that answers in Ragas' own formats."""

from __future__ import annotations

import importlib.util

import pytest

from mlflow_assay.contracts import Unscored
from mlflow_assay.engine.judging import reason_of
from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.third_party.ragas_metrics import RagasMetrics
from mlflow_assay.judges.third_party.ragas_table import METRICS

LIBRARY = RagasMetrics()
# Looked for, not imported: that takes seconds in each process that collects tests.
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ragas") is None, reason="Ragas is not installed: pip install 'mlflow-assay[ragas]'"
)
ASKING = [name for name, metric in METRICS.items() if metric.calls_llm]
BY_RULE = [name for name, metric in METRICS.items() if not metric.calls_llm]


@pytest.mark.parametrize("name", ASKING)
def test_the_good_end_and_the_calls_are_the_declared_ones(of, name):
    of.check_metric(LIBRARY, name)


@pytest.mark.parametrize("name", METRICS)
def test_without_what_it_reads_nothing_is_asked(of, name):
    of.check_missing(LIBRARY, name)


@pytest.mark.parametrize("name", BY_RULE)
def test_a_metric_by_rule_is_scored_and_asks_nobody(of, name):
    found, requests = of.judged(LIBRARY, name, None)
    assert found.error is None, found.error
    assert requests == [] and found.source.source_type == "CODE"


# --- parameters ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, params, message",
    [
        ("Faithfulness", {"strictness": 2}, "has no parameter 'strictness'"),
        ("NonLLMStringSimilarity", {"distance_measure": "miles"}, "Ragas refuses its metric"),
        ("SemanticSimilarity", {"embeddings": 7}, "`embeddings` is not understood"),
        ("SemanticSimilarity", {"embeddings": "no/such/folder"}, "is not an embedding model folder"),
        ("DiscreteMetric", {"prompt": "Is it good?"}, "does not name what it reads"),
        ("DiscreteMetric", {"prompt": "{trace}"}, "does not name what it reads"),
        ("classic.MultiModalRelevance", {}, "is not supported: .* would read files and addresses"),
        ("Faithfullness", {}, r"has no metric 'Faithfullness'\. Valid: .*Faithfulness"),
    ],
)
def test_what_cannot_be_is_refused_before_a_run(of, name, params, message):
    from mlflow_assay.contracts import ModelSettings

    model = ModelSettings("openai:/fake", base_url="http://127.0.0.1:9/v1/chat/completions")
    with pytest.raises(ConfigError, match=message):
        LIBRARY.build(name, params, model)


def test_embeddings_have_no_silent_default():
    with pytest.raises(ConfigError, match="needs the parameter 'embeddings'"):
        LIBRARY.build("SemanticSimilarity", {}, None)


def test_a_prompt_of_ones_own_needs_the_fields_it_names_and_answers_by_the_definitions_words(of, tmp_path):
    """`value` in the YAML is the menu Ragas is given; a word that is not good fails."""
    from mlflow_assay.judges.catalogue import Catalogue
    from mlflow_assay.testing import FakeJudgeServer

    (tmp_path / "manner.yaml").write_text(
        "name: manner\npurpose: In which manner does the agent answer?\n"
        "value: {type: categorical, options: [kind, curt, rude], good: [kind]}\n"
        'uses: ragas/DiscreteMetric\nwith: {prompt: "Kind, curt or rude? {response} given {retrieved_contexts}"}\n'
    )
    with FakeJudgeServer('{"reason": "short", "value": "curt"}') as server:
        bound = Catalogue([tmp_path]).build("manner", server.model)
        found = of.verdict(bound)
    assert bound.contract.needs == ("outputs", "retrieved")
    assert (found.value, found.rationale, found.metadata["assay.outcome"]) == ("curt", "short", "fail")
    assert '"rude"' in server.requests[0].prompt  # the schema's menu


def test_a_team_sets_its_own_threshold(of, tmp_path):
    from mlflow_assay.judges.catalogue import Catalogue
    from mlflow_assay.testing import FakeJudgeServer

    (tmp_path / "strict.yaml").write_text(
        "name: strict\npurpose: Is the answer faithful to the letter?\n"
        "value: {type: numeric, low: 0, high: 1, threshold: 1}\nuses: ragas/ContextRelevance\n"
    )
    with FakeJudgeServer('{"rating": 1}') as server:
        found = of.verdict(Catalogue([tmp_path]).build("strict", server.model))
        default = of.verdict(of.bind(LIBRARY, "ContextRelevance", server.model))
    assert (found.value, found.metadata["assay.outcome"]) == (0.5, "fail")
    assert (default.value, default.metadata["assay.outcome"]) == (0.5, "pass")


# --- embeddings ----------------------------------------------------------------------------------------------


def test_lexical_embeddings_know_what_is_written_alike_and_need_nothing(of):
    bound = of.bind(LIBRARY, "SemanticSimilarity", None)
    texts = ("It arrives tomorrow.", "It will arrive tomorrow.", "Bananas are yellow")
    same, alike, other = (of.verdict(bound, outputs={"answer": text}).value for text in texts)
    assert same == pytest.approx(1.0) and same > alike > other + 0.3


def a_model_folder(path, seed=0):
    """A sentence-embedding model without layers: each word a random vector."""
    import json

    import numpy as np
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", "it", "arrives", "tomorrow", "bananas", "are", "yellow"]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    path.mkdir(exist_ok=True)
    made.save(str(path / "tokenizer.json"))
    draw, hidden = np.random.default_rng(seed), 16
    weights = {
        "embeddings.word_embeddings.weight": draw.normal(0, 1, (len(words), hidden)).astype(np.float32),
        "embeddings.position_embeddings.weight": np.zeros((8, hidden), np.float32),
        "embeddings.token_type_embeddings.weight": np.zeros((2, hidden), np.float32),
        "embeddings.LayerNorm.weight": np.ones(hidden, np.float32),
        "embeddings.LayerNorm.bias": np.zeros(hidden, np.float32),
    }
    save_file(weights, path / "model.safetensors")
    about = {"model_type": "bert", "hidden_act": "gelu", "hidden_size": hidden, "num_attention_heads": 4,
             "num_hidden_layers": 0, "max_position_embeddings": 8, "layer_norm_eps": 1e-12}  # fmt: skip
    (path / "config.json").write_text(json.dumps(about))
    return str(path)


@pytest.mark.parametrize("name", ["SemanticSimilarity", "classic.SemanticSimilarity"])
def test_a_local_model_embeds_and_is_part_of_what_the_verdict_depends_on(of, tmp_path, name):
    pytest.importorskip("safetensors", reason="pip install 'mlflow-assay[embeddings]'")
    pytest.importorskip("tokenizers", reason="pip install 'mlflow-assay[embeddings]'")
    folder = a_model_folder(tmp_path / "model")
    bound = of.bind(LIBRARY, name, None, {"embeddings": folder})
    wanted = {"expectations": {"expected_response": "it arrives tomorrow"}}
    same, other = (
        of.verdict(bound, outputs={"answer": text}, **wanted).value
        for text in ("tomorrow it arrives", "bananas are yellow")
    )
    assert same == pytest.approx(1.0, abs=1e-5) and other < 0.9
    before = bound.scorer.fingerprint
    again = of.bind(LIBRARY, name, None, {"embeddings": a_model_folder(tmp_path / "model", seed=1)})
    assert again.scorer.fingerprint != before


def test_embeddings_of_a_service_are_asked_by_the_name_given(of):
    """The judge model asks the questions, another service turns them into vectors."""
    from mlflow_assay.testing import FakeJudgeServer

    asked = []

    def vectors(request):
        asked.append(request["model"])
        return {"data": [{"index": n, "object": "embedding", "embedding": [1.0, float(len(text))]}
                         for n, text in enumerate(request["input"])], "model": request["model"], "object": "list",
                "usage": {"prompt_tokens": 1, "total_tokens": 1}}  # fmt: skip

    with serving(vectors) as base, FakeJudgeServer(of.replies(LIBRARY, "AnswerRelevancy", True)) as server:
        given = {"embeddings": {"model": "openai:/embed-small", "base_url": base}}
        found = of.verdict(of.bind(LIBRARY, "AnswerRelevancy", server.model, given))
    assert found.error is None, found.error
    assert found.value == pytest.approx(1.0) and set(asked) == {"embed-small"}


def serving(answer):
    """A service of embeddings on loopback: a context that gives its base URL."""
    import contextlib
    import json
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = json.dumps(answer(body)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_):
            pass

    @contextlib.contextmanager
    def run():
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        server.server_close()

    return run()


def test_nan_is_unscored_never_zero(of):
    """Ratings that cannot be read make Ragas answer NaN after ten calls, all of them on the bill."""
    found, requests = of.judged(LIBRARY, "AnswerAccuracy", '{"rating": 3}')
    assert found.value is None and reason_of(found) is Unscored.EMPTY_REPLY
    assert found.metadata["assay.judge.calls"] == str(len(requests)) == "10"
