"""Runs in the environment of ddtrace: submits the evaluations read from standard input, then waits until sent."""

import json
import sys

from ddtrace.llmobs import LLMObs

LLMObs.enable(ml_app="from-the-client", agentless_enabled=False)
for call in json.load(sys.stdin):
    LLMObs.submit_evaluation(**call)
LLMObs.flush()
LLMObs.disable()
