"""Aligning a judge with the experts: labels in, a proposal out, and nothing accepted that is not proven.

`labelled` reads the experts' labels, `split` parts them by group, an aligner (`aligner`, and one file each) proposes a
changed judge from the training part, `procedure` judges the held-out part with old and new and asks the gate, `record`
keeps all of it in an MLflow run. Aligners are MLflow's `AlignmentOptimizer`, so `judge.align(traces, optimizer)` works
with them too.
"""
