"""What redaction and the inbound receiver cost: masked spans a second against exporting as it is, evaluations a second.

python tests/benchmarks/telemetry.py
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from mlflow_assay.redaction import Redactor

CLEAN = "The customer asked why the bill of line L1002 rose to 42.50 in 2026-11; I looked at invoice 20261101. " * 20
DIRTY = CLEAN + "Write to anna@example.com or call +49 170 1234567, card 4111 1111 1111 1111."


def spans(text: str, count: int) -> list:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext, TraceFlags

    message = json.dumps([{"role": "user", "parts": [{"type": "text", "content": text}]}])
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.usage.input_tokens": 500,
        "gen_ai.input.messages": message,
        "gen_ai.output.messages": message,
        **{f"assay.slice.tag{n}": "value" for n in range(8)},
    }
    return [
        ReadableSpan(
            "chat", SpanContext(n + 1, n + 1, False, TraceFlags(1)), attributes=attributes, start_time=1, end_time=2
        )
        for n in range(count)
    ]


def masking(count: int = 1000) -> None:
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    from mlflow_assay.telemetry.spans import masked

    redactor = Redactor()
    print(f"| spans with two messages of {len(CLEAN)} characters | spans/s | ms CPU a span | × encoding alone |")
    print("|---|---|---|---|")
    alone = None
    for name, text, how in (
        ("encoded as they are", CLEAN, None),
        ("masked, nothing to mask", CLEAN, redactor),
        ("masked, three finds each", DIRTY, redactor),
    ):
        made = spans(text, count)
        began = time.process_time()
        encode_spans(made if how is None else [masked(span, how) for span in made]).SerializeToString()
        spent = time.process_time() - began
        alone = alone or spent
        print(f"| {name} | {count / spent:,.0f} | {1000 * spent / count:.2f} | {spent / alone:.1f} |")


def receiving(count: int = 1000) -> None:
    import mlflow
    import requests

    from mlflow_assay.inbound.inbox import Inbox
    from mlflow_assay.inbound.receiver import Receiver, ReceiverSettings
    from mlflow_assay.inbound.writer import Writer

    with tempfile.TemporaryDirectory() as folder:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        mlflow.set_experiment("x")
        with mlflow.start_span("agent") as span:
            pass
        mlflow.flush_trace_async_logging()
        inbox = Inbox(Path(folder) / "inbox.db", capacity=count)
        receiver = Receiver(ReceiverSettings(port=0), inbox, Writer(inbox)).start()
        session, began = requests.Session(), time.perf_counter()
        for start in range(0, count, 50):
            records = [record(span.trace_id, n) for n in range(start, start + 50)]
            body = {"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}
            session.post(f"{receiver.url}/v1/logs", json=body, timeout=60).raise_for_status()
        taken = time.perf_counter() - began
        while inbox.waiting():
            time.sleep(0.05)
        stored = time.perf_counter() - began
        receiver.stop()
        inbox.close()
    print(f"\n{count} evaluations in requests of 50: {count / taken:,.0f}/s acknowledged (on disk), ", end="")
    print(f"{count / stored:,.0f}/s stored in MLflow (SQLite)")


def record(trace_id: str, number: int) -> dict:
    attributes = [
        {"key": "gen_ai.evaluation.name", "value": {"stringValue": f"e{number}"}},
        {"key": "gen_ai.evaluation.score.value", "value": {"doubleValue": 0.5}},
    ]
    return {"eventName": "gen_ai.evaluation.result", "traceId": trace_id[3:], "attributes": attributes}


if __name__ == "__main__":
    masking()
    receiving()
