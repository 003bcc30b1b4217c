"""Rows with marks made by hand: no store and no MLflow, so that these tests are quick."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from mlflow_assay.labels.designs import Draw
from mlflow_assay.labels.pairs import Paired, pairs
from mlflow_assay.labels.rows import Mark, Row
from mlflow_assay.labels.verdicts import collect

_ids = itertools.count(1)


def mark(value: Any, name: str = "j", *, by: str = "model", human: bool = False, at: int = 0, **more: Any) -> Mark:
    """One assessment; keyword arguments replace what stands here."""
    given = {
        "id": f"a-{next(_ids)}",
        "name": name,
        "expectation": False,
        "human": human,
        "kind": "HUMAN" if human else "LLM_JUDGE",
        "source": by,
        "value": value,
        "error": None,
        "rationale": None,
        "metadata": {},
        "time_ms": at,
        "valid": True,
        "overrides": None,
    }
    return Mark(**{**given, **more})


def label(value: Any, *, by: str = "dana", name: str = "j", **more: Any) -> Mark:
    """What a person said."""
    return mark(value, name, by=by, human=True, **more)


def row(
    number: int,
    *marks: Mark,
    session: str | None = None,
    groups: dict[str, str] | None = None,
    draws: dict[str, Draw] | None = None,
) -> Row:
    """The `number`-th trace with these marks."""
    return Row(
        trace_id=f"tr-{number:032x}",
        time_ms=number,
        timed=True,
        session=session,
        failed=False,
        duration_ms=None,
        tokens=None,
        usd=None,
        request=None,
        simulated=False,
        simulated_customer=False,
        groups=groups or {},
        marks=marks,
        draws=draws or {},
    )


@pytest.fixture
def make() -> Any:
    """make.mark, make.label, make.row, make.paired(rows, judge, names, contract)."""

    class Make:
        pass

    def paired(rows: list[Row], judge: str = "j", names: tuple[str, ...] = (), contract: Any = None) -> Paired:
        found = {f.name: f for f in collect(rows, {judge: contract} if contract else {})}
        return pairs(found[judge], rows, names, contract)

    made = Make()
    made.mark, made.label, made.row, made.paired = mark, label, row, paired
    return made
