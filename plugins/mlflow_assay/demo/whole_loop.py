"""The whole loop from Python, cell by cell: traces, labels, a judge, a KPI, a dataset, a better prompt, the proof.

Open it in an editor that knows `# %%` cells (VS Code, PyCharm, Jupytext), or run it:

    python -m mlflow_assay.demo.whole_loop

It uses whatever MLflow is set to (MLFLOW_TRACKING_URI) and keeps the dataset where
ASSAY_DATASETS says: a folder (the default is ./assay-datasets), or s3://bucket/path, abfs://…, gs://… with the
matching extra.

The agent, its customers and the expert are simulated by code, and no model is called. With an agent of your own,
leave the first cell out and name your experiment, your labels and your function in the others. Each cell says which
command does the same.
"""

# %% Traces: the agent answers requests
from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import mlflow

import mlflow_assay as assay
from mlflow_assay import pipeline
from mlflow_assay.datasets.build import BuildPlan, build
from mlflow_assay.datasets.shaping import Shaping
from mlflow_assay.datasets.store import load_dataset, open_store
from mlflow_assay.demo import expert, predict, runner
from mlflow_assay.demo.improving import RIGHT_DESK
from mlflow_assay.judges.local import Options, of_traces, save_with_definition, train
from mlflow_assay.redaction import Redactor
from mlflow_assay.report.data import ReportRequest
from mlflow_assay.sources.mlflow_store import load_ids

EXPERIMENT = "whole-loop"
REQUESTS = int(os.environ.get("ASSAY_LOOP_REQUESTS", "400"))
JUDGES = Path(os.environ.get("ASSAY_LOOP_JUDGES", "loop-judges"))

traffic = runner.run(EXPERIMENT, requests=REQUESTS, seed=7)
print(f"{len(traffic.turns)} traces in {EXPERIMENT}; the router's prompt is {traffic.prompt_uri}")

# %% Labels: an expert looks at a random sample            (assay labels pick … / MLflow's Review tab)
labels = expert.label(traffic, sample=REQUESTS // 2, seed=7)
print(f"{len(labels)} labels, {sum(not label.value for label in labels)} of them say: wrong desk")

# %% A judge learns from half of the labels               (assay judges train routing_accuracy -e whole-loop …)
said = of_traces(assay.MlflowSource(EXPERIMENT).infos(), "routing_accuracy")
sessions = sorted({turn.session_id for turn in traffic.turns})
half = set(sessions[::2])
learn = {turn.trace_id for turn in traffic.turns if turn.session_id in half} & set(said.passed)
known = replace(said, passed={i: passed for i, passed in said.passed.items() if i in learn})
fields = ("first_user_message", "tag:agent", "tools_called?", "final_answer?")
judge = train(load_ids(sorted(learn)), known, name="routing_accuracy", options=Options(fields))
JUDGES.mkdir(parents=True, exist_ok=True)
save_with_definition(judge, JUDGES)
print(f"kappa with the expert, cross-validated: {judge.report.kappa:.2f}")

# %% Verdicts on every trace, in MLflow                    (assay score -e whole-loop -j routing_accuracy --path …)
scored = assay.score(
    assay.MlflowSource(EXPERIMENT), assay.build_judges(["routing_accuracy"], paths=[JUDGES]), evaluation_run=False
)
print(f"{scored.stored} verdicts stored")

# %% The KPI, corrected for the judge's errors             (assay kpi / assay report -e whole-loop)
experiment_id = str(mlflow.get_experiment_by_name(EXPERIMENT).experiment_id)
request = ReportRequest(experiment=EXPERIMENT, experiment_id=experiment_id, title="Telecom support (simulated)")
shown = pipeline.report(assay.MlflowSource(EXPERIMENT), request, JUDGES / "report.html", paths=[JUDGES])
kpi = next(j.estimate for j in shown.judges if j.name == "routing_accuracy")
assert kpi is not None and kpi.value is not None  # noqa: S101 - a notebook says what it relies on
print(f"right desk: {kpi.value:.0%} [{kpi.low:.0%}, {kpi.high:.0%}], corrected by {kpi.n_labelled} labels")

# %% Failures become a dataset, versioned and split by session    (assay dataset build routing -e whole-loop …)
store = open_store()  # ASSAY_DATASETS
plan = BuildPlan(
    where=("label routing_accuracy any",),  # mis-routed requests, and those that went right beside them
    slice="expectation:expected_route",
    inputs={"request": "span:router.inputs.request", "conversation": "span:router.inputs.conversation"},
    shaping=Shaping(duplicates="exact", fractions=(0.4, 0.2, 0.4)),
)
with build(assay.MlflowSource(EXPERIMENT), plan, redactor=Redactor()) as built:
    version = store.write("routing", built.rows(), built.about(owner="support team", pii="redacted", retention="90d"))
store.set_alias("routing", "golden", version.version)
dataset = load_dataset("routing@golden", store)
print(f"{dataset.uri}: {len(dataset)} rows, {dict(dataset.manifest.splits)}, digest {dataset.manifest.short}")

# %% A better prompt, or none       (assay optimize prompts:/telecom_router@production -d routing@golden -j right_desk
#                                    -o categories --predict mlflow_assay.demo.predict:route --path loop-judges)
(JUDGES / "right_desk.yaml").write_text(RIGHT_DESK, encoding="utf-8")
right_desk = assay.build_judges(["right_desk"], paths=[JUDGES])
wanted = assay.optimization(
    ["prompts:/telecom_router@production"],
    dataset,
    right_desk,
    "categories",  # no model writes; with one: "gepa" or "miprov2", writer=assay.ModelSettings("openai:/gpt-4.1")
    predict=predict.route,
    options={"label": "expected_route", "inputs": ["request"]},
)
found, kept = assay.optimize(
    wanted,
    {"telecom_router": "production"},
    experiment=EXPERIMENT,
    told=lambda c: print(f"  candidate {c.number}: {c.score:.0%} on validation rows, {c.note}"),
)
print(found.reason)
print(f"registered: {dict(kept.registered)}, aliases: {dict(kept.aliases)}, MLflow run {kept.run_id}")
for note in kept.notes:  # run again on the same rows, it finds the version that is there
    print(note)

# %% What is in production now, on the test rows, as an evaluation run of MLflow that names the dataset and its digest
test = dataset.to_pandas("test").drop(columns="outputs")
evaluated = assay.evaluate(test, right_desk, predict_fn=predict.route)
print(evaluated.metrics, "in run", evaluated.run_id)
