"""A stranger's bridge sink: what it needs beside this file is one entry-point line."""

from collections.abc import Sequence

from mlflow_assay.contracts import AssessmentRevision, Delivery


class LedgerSink:
    """One line a revision: change, name and outcome."""

    name = "acme_ledger"

    def __init__(self, path: str = "ledger.txt") -> None:
        self._path = path

    def deliver(self, revisions: Sequence[AssessmentRevision]) -> Sequence[Delivery]:
        """Append the lines."""
        with open(self._path, "a", encoding="utf-8") as file:  # noqa: PTH123
            for revision in revisions:
                outcome = revision.outcome.value if revision.outcome else "-"
                file.write(f"{revision.change} {revision.name} {outcome}\n")
        return [Delivery("delivered")] * len(revisions)

    def close(self) -> None:
        """Nothing is kept open."""
