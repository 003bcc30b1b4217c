"""Planted personal data and keys in every field that can leave: the export, MLflow's copy, the bridge, the logs."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlflow_assay.bridge.redacting import redacting
from mlflow_assay.contracts import AssessmentRevision, EvaluatedTrace
from mlflow_assay.redaction import Redactor
from mlflow_assay.testing.bridge_conformance import sample_revision

NEEDLES = (
    "anna.everywhere@example.com",
    "+49 170 5550123",
    "4111 1111 1111 1111",
    "4111111111111111",
    "sk-proj-PLANTEDabcdefghijklmnop0123456789",
    "hunter2-planted",
)
TEXT = (
    "write anna.everywhere@example.com, call +49 170 5550123, card 4111 1111 1111 1111, "
    "key sk-proj-PLANTEDabcdefghijklmnop0123456789, password=hunter2-planted"
)

APP = f"""
import json, logging, os, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
logging.getLogger("alembic").setLevel(logging.WARNING)
import mlflow
from mlflow.entities import Link, SpanEvent, SpanType
from mlflow_assay import telemetry

P = {TEXT!r}
VALUE = {{"text": P, "list": [P, (P,)], "n": 4111111111111111, P: P, "password": "hunter2-planted",
         "json": json.dumps([P])}}

class Odd:
    def __str__(self): return P

telemetry.configure(
    os.environ["OTLP_URL"], redact_mlflow=os.environ["EVERYWHERE"] == "yes", judge_sample=1.0,
    headers={{"X-Api-Key": "header-secret-planted", "Authorization": "Bearer bearer-secret-planted"}},
    user_key="user-key-planted-0123", service="support")
mlflow.set_experiment("x")
with mlflow.start_span("first") as first:
    pass
try:
    with mlflow.start_span("agent " + P, span_type=SpanType.AGENT) as root:
        root.set_inputs(VALUE)
        root.set_attribute("value", VALUE)
        root.set_attribute("text", P)
        root.set_attribute(P, "as key")
        root.set_attribute("odd", str(Odd()))
        root.set_attribute("http.request.header.authorization", "Basic hunter2-planted")
        root.add_event(SpanEvent("event " + P, attributes={{"text": P, P: "as key", "n": 4111111111111111}}))
        root.add_link(Link(trace_id=first.trace_id, span_id=first.span_id, attributes={{"text": P}}))
        mlflow.update_current_trace(
            tags={{"text": P}}, metadata={{"text": P, "card": "4111111111111111"}}, session_id="session " + P, user=P,
            client_request_id=P, request_preview=P, response_preview=P)
        with mlflow.start_span("model " + P, span_type=SpanType.CHAT_MODEL) as call:
            call.set_inputs({{"messages": [{{"role": "user", "content": P}}], "model": "gpt-4.1-mini"}})
            call.set_outputs({{"choices": [{{"message": {{"role": "assistant", "content": P}}}}]}})
            call.set_attribute("mlflow.chat.tokenUsage", {{"input_tokens": 41, "output_tokens": 7}})
        with mlflow.start_span("search " + P, span_type=SpanType.RETRIEVER) as found:
            found.set_outputs([{{"page_content": P, "metadata": {{"by": P}}}}])
        mlflow.log_feedback(trace_id=root.trace_id, name="in the run", value=P, rationale=P, metadata={{"by": P}})
        with mlflow.start_span("tool " + P, span_type=SpanType.TOOL) as tool:
            tool.set_inputs(VALUE)
            tool.set_outputs(VALUE)
            anna = P
            raise ValueError(anna)
except ValueError:
    pass
mlflow.flush_trace_async_logging()
print(json.dumps({{"id": root.trace_id}}))
"""

JUDGED = f"""
import json, os, sys
import mlflow
from mlflow.entities import AssessmentError, AssessmentSource, Feedback

P, trace_id = {TEXT!r}, sys.argv[1]
person = AssessmentSource("HUMAN", "anna.everywhere@example.com")
mlflow.log_feedback(trace_id=trace_id, name="tone", value=P, rationale=P, source=person, metadata={{"note": P}})
mlflow.log_feedback(trace_id=trace_id, name="pass", value=True, rationale=P)
mlflow.log_feedback(trace_id=trace_id, name="dict", value={{"said": P, P: 1}})
mlflow.log_feedback(trace_id=trace_id, name="failed", error=AssessmentError(P, P))
mlflow.log_expectation(trace_id=trace_id, name="answer", value={{"text": P}}, source=person)
"""

slow = [pytest.mark.integration, pytest.mark.slow]


def leaks(data: bytes | str) -> list[str]:
    text = data if isinstance(data, str) else data.decode("utf-8", "replace")
    return [needle for needle in NEEDLES if needle in text]


@pytest.fixture(scope="module")
def agent(make_agent):
    """The planted run, masked everywhere."""
    made = make_agent()
    made.trace_id = made.run(APP, EVERYWHERE="yes")["id"]
    return made


@pytest.fixture(scope="module")
def exported_only(make_agent):
    """The planted run, masked on export alone."""
    made = make_agent()
    made.trace_id = made.run(APP, EVERYWHERE="no")["id"]
    return made


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize("which", ["agent", "exported_only"])
def test_nothing_planted_is_in_any_exported_byte(which, request):
    made = request.getfixturevalue(which)
    bodies = [body for _, _, body in made.receiver.requests]
    assert len(made.receiver.spans) == 5
    assert [found for body in bodies for found in leaks(body)] == []
    names = set(made.receiver.spans)
    assert any("[EMAIL]" in name and "[CARD]" in name and "[PHONE]" in name for name in names)


@pytest.mark.integration
@pytest.mark.slow
def test_token_counts_ids_and_times_are_exported_unmasked(agent):
    (model,) = [span for name, span in agent.receiver.spans.items() if name.startswith("chat")]
    assert model["attributes"]["gen_ai.usage.input_tokens"] == 41
    assert model["attributes"]["gen_ai.usage.output_tokens"] == 7
    assert model["trace_id"] == agent.trace_id.removeprefix("tr-")
    assert [span for span in agent.receiver.spans.values() if span["attributes"].get("sampling.keep") is True]


@pytest.mark.integration
@pytest.mark.slow
def test_nothing_planted_is_in_any_file_mlflow_wrote(agent, exported_only):
    assert [(path.name, found) for path in files(agent) for found in leaks(path.read_bytes())] == []
    written = [path for path in files(exported_only) if leaks(path.read_bytes())]
    assert written, "without redact_mlflow MLflow keeps the run as it was, so the check above can fail"


def files(made) -> list[Path]:
    return [path for path in made.folder.rglob("*") if path.is_file()]


@pytest.mark.integration
@pytest.mark.slow
def test_no_key_is_in_any_log_line_at_any_level(agent, exported_only):
    """Headers, the user key: from nobody. What the run itself says may be in others' debug lines, not in ours."""
    for made in (agent, exported_only):
        assert "DEBUG:" in made.stderr
        for planted in ("header-secret-planted", "bearer-secret-planted", "user-key-planted"):
            assert planted not in made.output
        ours = [line for line in made.stderr.splitlines() if "mlflow_assay" in line]
        assert leaks("\n".join(ours)) == []


@pytest.mark.integration
@pytest.mark.slow
def test_nothing_planted_leaves_through_the_bridge_nor_stays_in_its_outbox(exported_only):
    """The whole `assay watch --redact`, with every form of sink, against assessments full of planted data."""
    made, folder = exported_only, exported_only.folder
    subprocess.run(
        [sys.executable, "-c", JUDGED, made.trace_id], env=environment(made), cwd=folder, check=True, timeout=120
    )
    before = len(made.receiver.requests)
    url = made.receiver.url
    sinks = [
        f"datadog,url={url}/datadog,api_key=dd-secret-planted",
        f"langfuse,host={url}/langfuse,public_key=pk-x,secret_key=lf-secret-planted",
        f"phoenix,host={url}/phoenix,api_key=px-secret-planted",
        f"jsonl,path={folder}/verdicts.jsonl",
    ]
    command = ["watch", "-e", "x", "--once", "--timeout-once", "10", "--otlp-endpoint", url, "--redact", "--json"]
    command += [argument for sink in sinks for argument in ("--sink", sink)]
    command += ["--outbox", f"sqlite:///{folder}/outbox.db", "--slice", "text"]
    done = subprocess.run(
        [sys.executable, "-c", "from mlflow_assay.cli import main; main()", *command],
        env=environment(made),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode in (0, 1), done.stderr  # the loopback far end answers nothing Langfuse or Phoenix would
    sent = made.receiver.requests[before:]
    assert {path.split("/")[1] for path, _, _ in sent} >= {"v1", "datadog"}
    assert {"/v1/traces", "/v1/logs"} <= {path for path, _, _ in sent}
    assert [(path, found) for path, _, body in sent for found in leaks(body)] == []
    lines = (folder / "verdicts.jsonl").read_text()
    assert len(lines.splitlines()) >= 5
    assert "[EMAIL]" in lines
    assert leaks(lines) == []
    for path in folder.glob("outbox.db*"):
        assert leaks(path.read_bytes()) == []
    log = done.stdout + done.stderr
    assert leaks(log) == []
    assert [key for key in ("dd-secret-planted", "lf-secret-planted", "px-secret-planted") if key in log] == []


def environment(made) -> dict[str, str]:
    import os

    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "ASSAY_", "DD_"))}
    return {**clean, "MLFLOW_TRACKING_URI": made.store, "XDG_CACHE_HOME": str(made.folder)}


# Text that is not masked in a revision, and why: new fields must be masked or find their place here.
LEFT = {
    "key": "a digest",
    "change": "one of three words",
    "assessment_id": "an id",
    "name": "the judge's name, given by developers",
    "kind": "one of two words",
    "source_type": "one of three words",
    "span_id": "an id",
    "replaces": "a digest",
    "judge_version": "given by developers",
    "judge_digest": "a digest",
    "judge_model": "given by developers",
    "trace.trace_id": "an id",
    "trace.experiment_id": "an id",
    "trace.root_span_id": "an id",
    "trace.status": "one of MLflow's words",
    "trace.prompt_version": "given by developers",
    "trace.service": "given by developers",
    "trace.environment": "given by developers",
}


def texts_of(kind, prefix=""):
    for field in dataclasses.fields(kind):
        said = str(field.type)
        if any(word in said for word in ("str", "Any", "Mapping", "Literal")):
            yield prefix + field.name


def test_every_text_of_a_revision_is_masked_or_named_as_left():
    fields = [*texts_of(AssessmentRevision), *texts_of(EvaluatedTrace, "trace.")]
    planted = {name for name in fields if name not in LEFT}
    assert planted == {
        *("value", "reason", "rationale", "source_id", "metadata"),
        *("trace.agent", "trace.model", "trace.conversation", "trace.slices"),
    }
    trace = dataclasses.replace(
        sample_revision().trace, agent=TEXT, model=TEXT, conversation=TEXT, slices={"t": TEXT, TEXT: "t"}
    )
    revision = dataclasses.replace(
        sample_revision(),
        value=TEXT,
        reason=TEXT,
        rationale=TEXT,
        source_id=TEXT,
        metadata={"m": TEXT, TEXT: "m"},
        trace=trace,
    )
    assert leaks(json.dumps(dataclasses.asdict(revision), default=str, ensure_ascii=False))
    masked = redacting(Redactor())(revision)
    assert leaks(json.dumps(dataclasses.asdict(masked), default=str, ensure_ascii=False)) == []
