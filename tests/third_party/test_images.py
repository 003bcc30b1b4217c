"""Images of traces, shown to a judge model by the metrics that judge them: inline, attached, by address."""

from __future__ import annotations

import base64
import importlib.util
import json
from dataclasses import replace

import pytest

from mlflow_assay import registry
from mlflow_assay.contracts import BoundJudge
from mlflow_assay.engine import judging
from mlflow_assay.judges.case_traces import trace_of
from mlflow_assay.judges.definition import Case
from mlflow_assay.testing import FakeJudgeServer, filled

PNG = b"\x89PNG\r\n\x1a\n-a-map"
INLINE = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
WEB = "https://example.org/map.png"


def shown(uri):
    return {"type": "image_url", "image_url": {"url": uri}}


def text(words):
    return {"type": "text", "text": words}


def answered(*parts):
    return {"choices": [{"message": {"role": "assistant", "content": list(parts)}}]}


def asked(*parts):
    return {"messages": [{"role": "user", "content": list(parts)}]}


def bind(name, model, **params):
    library = registry.load("judges", name.partition("/")[0])()
    if importlib.util.find_spec(library.module.partition(".")[0]) is None:
        pytest.skip(f"{library.name} is not installed: pip install 'mlflow-assay[{library.extra}]'")
    metric = library.metrics[name.partition("/")[2]]
    scorer = library.build(metric.name, params, model)
    contract = replace(metric.contract(library.name, library.package), needs=scorer.needs)
    scorer.declare(contract)
    return BoundJudge(contract, scorer, "0" * 16, model)


def a_trace(**said):
    case = {"name": "t", "kind": "good", "expect": "x", "inputs": asked(text("Draw the way.")), **said}
    return trace_of(Case.model_validate(case), "t")


def judged(name, trace, reply=None, **params):
    """The verdict, and the content parts of each request."""
    with FakeJudgeServer(reply) as server:
        bound = bind(name, server.model, **params)
        found = judging.judge(bound, judging.subject_of(bound, trace))
    return found, [request.body["messages"][-1]["content"] for request in server.requests]


def images(content):
    return [part["image_url"]["url"] for part in content if part["type"] == "image_url"]


@pytest.mark.parametrize("uri", [INLINE, WEB])
@pytest.mark.parametrize("name", ["deepeval/ImageHelpfulnessMetric", "openevals/explicit_content"])
def test_the_model_is_shown_the_image_itself(name, uri):
    found, requests = judged(name, a_trace(outputs=answered(text("Turn left."), shown(uri), text("Then stop."))))
    assert found.error is None, found.error
    assert [images(content) for content in requests] == [[uri]]
    told = " ".join(part["text"] for part in requests[0] if part["type"] == "text")
    assert "Turn left." in told and "Then stop." in told


def test_each_image_is_judged_with_the_words_around_it():
    parts = (text("First left."), shown(INLINE), text("Then right."), shown(WEB), text("You are there."))
    found, requests = judged("deepeval/ImageCoherenceMetric", a_trace(outputs=answered(*parts)))
    assert found.error is None, found.error
    assert sorted(map(images, requests)) == sorted([[INLINE], [WEB]])
    words = {images(c)[0]: " ".join(p["text"] for p in c if p["type"] == "text") for c in requests}
    assert "First left." in words[INLINE] and "You are there." not in words[INLINE]
    assert "You are there." in words[WEB] and "First left." not in words[WEB]


def test_an_edited_image_is_judged_beside_the_one_it_was_made_from():
    trace = a_trace(inputs=asked(text("Make it green."), shown(WEB)), outputs={"data": [{"url": None, "b": INLINE}]})
    found, requests = judged("deepeval/ImageEditingMetric", trace)
    assert found.error is None, found.error
    assert list(map(images, requests)) == [[WEB, INLINE], [INLINE]]  # how well it follows, how well it is made


@pytest.mark.parametrize(
    ("name", "said", "needs"),
    [
        ("deepeval/TextToImageMetric", {"outputs": answered(text("No."))}, "needs output_images"),
        ("deepeval/TextToImageMetric", {"outputs": answered(shown(INLINE), shown(WEB))}, "needs output_images: one"),
        ("deepeval/ImageEditingMetric", {"outputs": answered(shown(INLINE))}, "needs input_images"),
        ("deepeval/ImageReferenceMetric", {"outputs": answered(shown(INLINE))}, "needs text beside the images"),
        ("openevals/sensitive_imagery", {"outputs": {"answer": "No."}}, "needs output_images"),
        ("deepeval/TextToImageMetric", {"outputs": answered(shown("mlflow-attachment://a?content_type=image%2Fpng"))},
         "needs the image's bytes"),
    ],
)  # fmt: skip
def test_what_is_missing_is_told_before_anything_is_asked(name, said, needs):
    found, requests = judged(name, a_trace(**said))
    assert judging.reason_of(found).value == "missing_field"
    assert found.error.error_message.startswith(needs)
    assert requests == []


def test_an_image_can_be_read_from_a_span():
    trace = a_trace(
        outputs={"answer": "Here it is."},
        spans=[{"name": "draw", "inputs": {}, "outputs": {"file": {"href": WEB}}}],
    )
    place = {"output_images": "span:draw.outputs.file.href"}
    found, requests = judged("deepeval/ImageHelpfulnessMetric", trace, fields=place)
    assert found.error is None, found.error
    assert images(requests[0]) == [WEB]


@pytest.mark.parametrize("words", ["[DEEPEVAL:IMAGE:{}]", "[DEEPEVAL:PDF:{}]", "{}"])
def test_a_file_named_in_a_trace_is_never_read(tmp_path, words):
    """Both libraries would read it from this machine, and send it to the judge model."""
    (tmp_path / "secret.png").write_bytes(PNG)
    said = words.format(tmp_path / "secret.png")
    outputs = answered(text(said), shown(WEB))
    retriever = {"name": "search", "type": "RETRIEVER", "outputs": [{"page_content": said}]}
    for name in ("deepeval/ImageHelpfulnessMetric", "ragas/MultiModalFaithfulness"):
        _, requests = judged(name, a_trace(outputs=outputs, spans=[retriever]))
        assert requests and base64.b64encode(PNG).decode() not in str(requests)


def test_an_image_among_the_passages_is_shown_as_one():
    found = [{"page_content": "A map of the town."}, {"page_content": INLINE}, {"page_content": WEB}]
    trace = a_trace(outputs={"answer": "Left."}, spans=[{"name": "s", "type": "RETRIEVER", "outputs": found}])
    verdict, requests = judged("ragas/MultiModalFaithfulness", trace, '{"faithful": true}')
    assert (verdict.value, verdict.metadata["assay.outcome"]) == (1.0, "pass"), verdict.error
    assert images(requests[0]) == [INLINE]
    told = " ".join(part["text"] for part in requests[0] if part["type"] == "text")
    assert "A map of the town." in told and f"Passage: {WEB}" in told  # an address in a text is not looked up


def test_a_metric_of_text_is_told_of_an_image_and_not_given_its_bytes():
    parts = (text("What is this?"), shown(INLINE))
    trace = a_trace(inputs=asked(*parts), outputs=answered(text("A map."), shown(INLINE)))
    found, requests = judged("deepeval/AnswerRelevancyMetric", trace)
    assert found.error is None, found.error
    assert "base64" not in str(requests) and "A map.\n(image)" in str(requests[0])


def test_an_image_mlflow_attached_to_a_trace_is_fetched(store):
    """MLflow takes inline images out of spans as they are recorded, and keeps them beside the trace."""
    import mlflow

    mlflow.set_experiment("images")
    with mlflow.start_span("agent") as span:
        span.set_inputs(asked(text("Draw the way.")))
        span.set_outputs(answered(text("Turn left."), shown(INLINE)))
    trace = mlflow.get_trace(span.trace_id)
    assert "mlflow-attachment://" in str(trace.data.spans[0].outputs)
    found, requests = judged("deepeval/ImageHelpfulnessMetric", trace)
    assert found.error is None, found.error
    assert images(requests[0]) == [INLINE]


def test_nothing_is_kept_of_the_images_of_a_run():
    from deepeval.test_case.llm_test_case import _MLLM_IMAGE_REGISTRY

    before = dict(_MLLM_IMAGE_REGISTRY)
    judged("deepeval/ImageHelpfulnessMetric", a_trace(outputs=answered(text("Left."), shown(INLINE))))
    assert before == _MLLM_IMAGE_REGISTRY


def test_the_number_goes_with_the_models_score():
    def reply(request):
        return json.dumps(filled(request.schema, lambda name, _: 7 if name == "score" else None))

    trace = a_trace(outputs=answered(text("Left."), shown(INLINE)))
    found, _ = judged("deepeval/ImageHelpfulnessMetric", trace, reply)
    assert (found.value, found.metadata["assay.outcome"]) == (0.7, "pass")
