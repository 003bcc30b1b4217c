"""Generated texts about judges: the table for the README, and the JSON Schema file."""

from __future__ import annotations

import json

from mlflow_assay import registry
from mlflow_assay.judges import definition
from mlflow_assay.judges.catalogue import Catalogue, JudgeEntry
from mlflow_assay.judges.registering import why_not

__all__ = ["judges_table", "schema_text"]


def judges_table() -> str:
    """This project's judges as a Markdown table: definitions one by one, a library's other judges in one row.

    Judges of other packages and of anybody's own folders are left out, so the text is the same everywhere.
    """
    entries = [entry for entry in Catalogue().entries.values() if _is_ours(entry)]
    rows = [_row(entry) for entry in entries if entry.definition is not None]
    head = [
        "| judge | question | value and pass rule | of a | LLM | in MLflow's UI |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *rows, *_library_rows([e for e in entries if e.definition is None])]) + "\n"


def _is_ours(entry: JudgeEntry) -> bool:
    if entry.definition is not None:
        return entry.origin == "pack shipped"
    point = registry.available("judges")[str(entry.library)]
    return point.value.startswith("mlflow_assay.")


def _row(entry: JudgeEntry) -> str:
    contract = entry.contract
    wraps = f" (MLflow's {entry.member})" if entry.library == "mlflow" else ""
    cells = (
        f"`{entry.name}`",
        contract.purpose + wraps,
        contract.value.describe(),
        contract.scope,
        "yes" if contract.calls_llm else "no",
        "yes" if why_not(entry) is None else "no",
    )
    return "| " + " | ".join(_cell(c) for c in cells) + " |"


def _library_rows(entries: list[JudgeEntry]) -> list[str]:
    rows = []
    for library in sorted({str(e.library) for e in entries}):
        own = [e for e in entries if e.library == library]
        if len(own) == 1 and own[0].name == library:
            rows.append(_row(own[0]))
            continue
        names = ", ".join(f"`{e.name}`" for e in own)
        rows.append(f"| `{library}/…` | {len(own)} judges of the library `{library}`: {names} | | | | |")
    return rows


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def schema_text() -> str:
    """The JSON Schema of a definition as the text of `judges/schema.json`."""
    return json.dumps(definition.schema(), indent=2, ensure_ascii=False) + "\n"
