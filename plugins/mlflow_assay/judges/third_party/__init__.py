"""Metrics of other libraries as judges: what every adapter shares, and the adapters, one file each.

    metric.py    what a library's metric declares (`Metric`), and `MetricLibrary`, the base of an adapter
    sample.py    the fields of a trace or session a metric is shown (`Sample`), and where they are read from
    client.py    the one judge-model setting as something any library can use (`JudgeClient`), with the bill
    scorer.py    one metric as an MLflow scorer: the library's answer to a Feedback, its failure to unscored

An adapter subclasses `MetricLibrary`, declares its metrics in a table, and implements `measure` and `exported`.
Nothing here imports MLflow or a wrapped library until a judge is built.
"""
