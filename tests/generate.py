"""Rewrites what is generated: judges/schema.json and the tables in README.md. `--check` only compares."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from mlflow_assay import registry
from mlflow_assay.judges import definition
from mlflow_assay.judges.catalogue import Catalogue

ROOT = Path(__file__).parents[1]
PURPOSE = {
    "judge_packs": "folders of YAML judges",
    "judges": "judges in Python, and libraries of them",
    "importers": "recorded runs to traces",
    "label_sources": "where people's labels come from",
    "optimizers": "how an agent's prompts are made better",
    "aligners": "how a judge is brought nearer to the experts",
    "sources": "where traces come from",
    "sinks": "where verdicts go",
}


def judges_table() -> str:
    """All judges that need no library of their own, one a row."""
    rows = ["| judge | question | passes | needs | asks a model |", "|---|---|---|---|---|"]
    for name, entry in Catalogue().entries.items():
        if entry.definition is None:
            continue
        c = entry.contract
        needs = ", ".join(c.needs) or "–"
        cells = (f"`{name}`", c.purpose, c.value.describe(), needs, "yes" if c.calls_llm else "no")
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def plugins_table() -> str:
    """Every registered plugin by kind."""
    rows = ["| kind | what it is | installed |", "|---|---|---|"]
    for kind, purpose in PURPOSE.items():
        rows.append(f"| `mlflow_assay.{kind}` | {purpose} | {', '.join(f'`{n}`' for n in registry.available(kind))} |")
    return "\n".join(rows)


TABLES: dict[str, Callable[[], str]] = {"judges": judges_table, "plugins": plugins_table}


def generated() -> dict[Path, str]:
    """Each generated file's content as it should be."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, table in TABLES.items():
        block = f"<!-- generated:{name} -->\n{table()}\n<!-- /generated:{name} -->"
        readme = re.sub(
            rf"<!-- generated:{name} -->.*?<!-- /generated:{name} -->", lambda _, b=block: b, readme, flags=re.S
        )
    schema = json.dumps(definition.schema(), indent=2, ensure_ascii=False) + "\n"
    return {ROOT / "README.md": readme, ROOT / "judges" / "schema.json": schema}


def main() -> None:
    """Write, or with --check compare and fail."""
    stale = [p for p, text in generated().items() if not p.exists() or p.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        sys.exit(f"stale, run `make generate`: {', '.join(p.name for p in stale)}" if stale else 0)
    for path in stale:
        path.write_text(generated()[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
