"""Grafana boards as code: one file a board, one entry in a list a panel; queries made from `semconv`'s metric table.

`promql` and `traceql` write queries, `queries` the questions panels often ask, `panels` the panels' defaults, `board`
the variables, links and the grid.
Boards register under the entry-point group `mlflow_assay.dashboards`; their JSON is committed and tested against
real servers. Building needs the extra `dashboards` (grafana-foundation-sdk); importing into Grafana does not.
"""
