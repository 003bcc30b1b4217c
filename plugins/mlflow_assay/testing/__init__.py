"""Fakes and conformance suites, for this project's tests and for users' and plugin authors' own.

with FakeJudgeServer(reply=answer(True, "because")) as server:
judges = build_judges(["request_resolved"], model=server.model)
score(MlflowSource("support"), judges)

class TestMySink(SinkConformance):
def make(self, tmp_path):
return MySink(tmp_path / "out")

The classes for bridge sinks need pytest: `mlflow_assay.testing.bridge_conformance`.
"""

from mlflow_assay.testing.conformance import (
    ImporterConformance,
    JudgeConformance,
    PromptOptimizerConformance,
    SinkConformance,
    SourceConformance,
    sample_feedback,
    sample_trace,
)
from mlflow_assay.testing.fakes import ListSource, MemorySink
from mlflow_assay.testing.far_end import FarEnd, FarEndRequest
from mlflow_assay.testing.judge_server import FakeJudgeServer, JudgeRequest, Reply, answer, filled

__all__ = [
    "FakeJudgeServer",
    "FarEnd",
    "FarEndRequest",
    "ImporterConformance",
    "JudgeConformance",
    "JudgeRequest",
    "ListSource",
    "MemorySink",
    "PromptOptimizerConformance",
    "Reply",
    "SinkConformance",
    "SourceConformance",
    "answer",
    "filled",
    "sample_feedback",
    "sample_trace",
]
