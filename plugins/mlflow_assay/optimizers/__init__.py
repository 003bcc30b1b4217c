"""Optimizing an agent's prompts: a dataset in, better prompts out, and nothing accepted that is not proven.

An optimizer (one file each) tries candidates on training and validation rows; `procedure` splits, keeps the budget,
chooses on validation, tries old and new on the test rows no optimizer saw and asks the gate; `record` keeps all of it
in an MLflow run and registers what was accepted. Optimizers are MLflow's `BasePromptOptimizer`, so
`mlflow.genai.optimize_prompts(optimizer=…)` takes them too.
"""
