"""Where traces come from: MLflow itself (`mlflow_store`), and recorded runs in files.

An importer (`tau2`, `otlp_json`) reads a file and yields `recorded.RecordedRun`s, one by one; it knows nothing
of where they go. `importing` writes recorded runs into MLflow and checks that all of them arrived. To add a
format: one module with a `contracts.TraceImporter` and one line under
`[project.entry-points."mlflow_assay.importers"]`.
"""
