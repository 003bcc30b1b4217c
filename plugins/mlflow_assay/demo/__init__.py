"""The demo: a small telecom support agent with a fault, and an expert who notices. Both are simulated.

Router, desks, customers and expert are plain code over hand-written texts; **no model is called anywhere**.
What is real is everything around them: MLflow traces, the registered prompt that the router really reads,
and labels. Traces and labels carry `assay.simulated = "true"`.

    from mlflow_assay.demo import expert, runner

    run = runner.run("demo")                 # traces of 400 requests in about 250 sessions over two weeks
    labels = expert.label(run, sample=120)   # thumbs, rationales and expected routes on a random sample

The fault: the first prompt describes no product desk, so most questions about devices and plans end in
billing, which can only escalate. `agent.Agent.predict` with a better prompt (`prompt.load`) does better.
"""

from __future__ import annotations

from typing import Final

EXPERIMENT: Final = "telecom-support-demo"
