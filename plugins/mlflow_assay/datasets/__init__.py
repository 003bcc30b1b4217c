"""Versioned evaluation datasets: built from traces, stored as immutable snapshots, read by everything else.

    from mlflow_assay.datasets.store import load_dataset

    dataset = load_dataset("misrouted@golden")
    for row in dataset.rows(split="test"):
        print(row.inputs, row.expectations)

What a dataset is stands in `model`, how it is kept in `store`, how it is made from traces in `build`.
"""
