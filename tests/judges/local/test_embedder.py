"""Embeddings in NumPy, checked on a tiny random BERT against a second, independent implementation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import log_softmax, ndtr

from mlflow_assay.contracts import UnscoredError
from mlflow_assay.errors import ConfigError
from mlflow_assay.judges.local import LocalJudge, Options, embedder, train_examples
from mlflow_assay.judges.local.embedder import EmbedderRef

pytest.importorskip("tokenizers", reason="the extra `embeddings` is not installed")
pytest.importorskip("safetensors", reason="the extra `embeddings` is not installed")

HIDDEN, HEADS, LAYERS, INNER, POSITIONS = 16, 4, 2, 32, 24
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "my", "bill", "phone", "is", "too", "high", "the", "broken", "please"]
WORDS += ["help", "a", "new", "plan"]


def tokenizer():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def weights(seed=0):
    draw = np.random.default_rng(seed)

    def random(*shape):
        return draw.normal(0, 0.3, shape).astype(np.float32)

    found = {
        "embeddings.word_embeddings.weight": random(len(WORDS), HIDDEN),
        "embeddings.position_embeddings.weight": random(POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": random(2, HIDDEN),
        "embeddings.LayerNorm.weight": 1 + random(HIDDEN),
        "embeddings.LayerNorm.bias": random(HIDDEN),
    }
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}."
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            found |= {f"{at}{name}.weight": random(HIDDEN, HIDDEN), f"{at}{name}.bias": random(HIDDEN)}
        for name, shape in (("intermediate.dense", (INNER, HIDDEN)), ("output.dense", (HIDDEN, INNER))):
            found |= {f"{at}{name}.weight": random(*shape), f"{at}{name}.bias": random(shape[0])}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            found |= {f"{at}{name}.weight": 1 + random(HIDDEN), f"{at}{name}.bias": random(HIDDEN)}
    return found


@pytest.fixture
def folder(tmp_path):
    def make(name="model", seed=0, prefix="", **config):
        from safetensors.numpy import save_file

        path = tmp_path / name
        path.mkdir()
        tokenizer().save(str(path / "tokenizer.json"))
        save_file({prefix + k: v for k, v in weights(seed).items()}, path / "model.safetensors")
        settings = {
            "model_type": "bert",
            "hidden_act": "gelu",
            "hidden_size": HIDDEN,
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "max_position_embeddings": POSITIONS,
            "layer_norm_eps": 1e-12,
        }
        (path / "config.json").write_text(json.dumps(settings | config))
        return path

    return make


def reference(text, w):
    """One text at a time, token by token and head by head, in double precision, without masks or padding."""
    w = {k: v.astype(np.float64) for k, v in w.items()}

    def norm(row, name):
        return (row - row.mean()) / row.std() * w[f"{name}.weight"] + w[f"{name}.bias"]

    def dense(row, name):
        return w[f"{name}.weight"] @ row + w[f"{name}.bias"]

    ids = tokenizer().encode(text).ids
    kind = w["embeddings.token_type_embeddings.weight"][0]
    x = [w["embeddings.word_embeddings.weight"][t] + w["embeddings.position_embeddings.weight"][p] + kind
         for p, t in enumerate(ids)]  # fmt: skip
    x = [norm(row, "embeddings.LayerNorm") for row in x]
    size = HIDDEN // HEADS
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}."
        q, k, v = ([dense(row, f"{at}attention.self.{n}") for row in x] for n in ("query", "key", "value"))
        mixed = []
        for token in range(len(x)):
            heads = []
            for head in range(HEADS):
                part = slice(head * size, (head + 1) * size)
                scores = np.array([q[token][part] @ other[part] / size**0.5 for other in k])
                heads.append(np.exp(log_softmax(scores)) @ np.array([other[part] for other in v]))
            mixed.append(np.concatenate(heads))
        x = [norm(row + dense(m, f"{at}attention.output.dense"), f"{at}attention.output.LayerNorm")
             for row, m in zip(x, mixed, strict=True)]  # fmt: skip
        inner = [dense(row, f"{at}intermediate.dense") for row in x]
        inner = [i * ndtr(i) for i in inner]
        x = [norm(row + dense(i, f"{at}output.dense"), f"{at}output.LayerNorm")
             for row, i in zip(x, inner, strict=True)]  # fmt: skip
    mean = np.mean(x, axis=0)
    return mean / np.linalg.norm(mean)


TEXTS = ["my bill is too high", "the phone is broken please help", "a", "MY BILL is quite unknown", "new plan"]


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_embeddings_equal_those_of_the_second_implementation(folder, prefix):
    found = EmbedderRef.of(folder(prefix=prefix)).load().encode(TEXTS)
    expected = np.array([reference(t, weights()) for t in TEXTS])
    assert found.shape == (len(TEXTS), HIDDEN)
    assert np.abs(found - expected).max() < 1e-5


def test_a_text_has_the_same_embedding_alone_and_in_any_batch(folder):
    model = EmbedderRef.of(folder()).load()
    alone = np.vstack([model.encode([t]) for t in TEXTS])
    assert np.abs(model.encode(TEXTS * 9)[: len(TEXTS)] - alone).max() < 1e-6
    assert (model.encode(TEXTS) == model.encode(TEXTS)).all()
    assert np.linalg.norm(alone, axis=1) == pytest.approx(np.ones(len(TEXTS)))


def test_a_long_text_counts_by_both_ends_and_a_blank_one_is_zero(folder):
    model = EmbedderRef.of(folder()).load()
    middle = "the " * 200
    a, b, c = model.encode([f"my bill {middle} broken", f"my bill {middle} plan", f"phone {middle} broken"])
    assert np.abs(a - b).max() > 1e-3 and np.abs(a - c).max() > 1e-3
    assert not model.encode(["", " \n"]).any()
    assert model.encode([]).shape == (0, HIDDEN)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "roberta"}, "model_type 'roberta'.*Valid: model_type 'bert'"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
    ],
)
def test_a_model_of_another_kind_is_refused(folder, config, told):
    with pytest.raises(ConfigError, match=told):
        EmbedderRef.of(folder(**config)).load()


def test_a_model_that_pools_otherwise_is_refused(folder):
    path = folder()
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    with pytest.raises(ConfigError, match="mean"):
        EmbedderRef.of(path).load()


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"Found: no config.json"):
        EmbedderRef.of(tmp_path)


def test_a_judge_reads_meaning_and_is_bound_to_its_embedding_model(folder, requests, tmp_path):
    """Random weights teach little, so the judge is forced: what counts is that it is stored, found and checked."""
    found, labels = requests(80, seed=1)
    path = folder()
    options = Options(["first_user_message", "tag:agent"], embedder=path, group_by=None, force=True)
    judge = train_examples(found, labels, name="routing", options=options)
    kinds = {(b.block.kind, b.block.by) for b in judge.model.blocks}
    assert {("meaning", None), ("meaning", "tag:agent"), ("words", "tag:agent")} <= kinds
    assert not [k for k, _ in kinds if k == "parts"]
    saved = judge.save(tmp_path / "x.judge.zip")
    loaded = LocalJudge.load(saved)
    assert np.abs(loaded.scores(found) - judge.scores(found)).max() < 1e-9
    moved = path.rename(tmp_path / "moved")
    embedder._load.cache_clear()
    assert LocalJudge.load(saved, moved).digest == judge.digest
    with pytest.raises(ConfigError, match="not an embedding model folder"):
        LocalJudge.load(saved).scores(found)
    with pytest.raises(ConfigError, match="not the one the judge was trained with"):
        LocalJudge.load(saved, folder("other", seed=1)).scores(found)
    try:
        said = LocalJudge.load(saved, moved).predict(found[0])
    except UnscoredError as error:
        assert error.reason.value == "low_confidence"
    else:
        assert 0 < said.confidence < 1
