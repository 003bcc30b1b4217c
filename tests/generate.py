"""Rewrites what is generated: judges/schema.json and the tables in README.md. `--check` only compares."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from mlflow_assay import registry
from mlflow_assay.contracts import JudgeContract
from mlflow_assay.judges import definition
from mlflow_assay.judges.catalogue import Catalogue
from mlflow_assay.judges.third_party.metric import MetricLibrary

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
    "bridge_sinks": "where the bridge ships every assessment",
    "dataset_stores": "where dataset versions are kept, by the scheme of the URL",
    "dataset_formats": "other forms of a dataset",
    "dashboards": "Grafana boards",
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


def _libraries() -> dict[str, MetricLibrary]:
    """The adapters of other libraries, by entry point."""
    loaded = {name: registry.load("judges", name) for name in registry.available("judges")}
    return {n: p() for n, p in loaded.items() if isinstance(p, type) and issubclass(p, MetricLibrary)}


def third_party_tables() -> str:
    """Other libraries' metrics: what each needs, from the declared contracts, and what is left out."""
    libraries = _libraries()
    parts = []
    for name, library in libraries.items():
        about = " ".join((sys.modules[type(library).__module__].__doc__ or "").split("\n\n")[1].split())
        parts += [f"## {name}\n", f"`pip install 'mlflow-assay[{library.extra}]'`. {about}\n"]
        parts += [_metrics_table(name, library.contracts()), ""]
        if library.unsupported:
            parts += ["Not supported:\n", *_left_out(library.unsupported), ""]
    return "\n".join(parts).rstrip()


def _metrics_table(library: str, contracts: Iterable[JudgeContract]) -> str:
    rows = ["| judge | question | passes | needs | model calls | embeddings | notes |", "|---|---|---|---|---|---|---|"]
    for c in contracts:
        calls = c.llm_calls or ("1" if c.calls_llm else "0")
        needs = ", ".join(c.needs) or "–"
        name = f"`{library}/{c.name}`"
        cells = (name, c.purpose, c.value.describe(), needs, calls, "yes" if c.embeddings else "", c.notes)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _left_out(unsupported: Mapping[str, str]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for name, reason in unsupported.items():
        reasons.setdefault(reason, []).append(f"`{name}`")
    return [f"- {', '.join(names)}: {reason}." for reason, names in reasons.items()]


TABLES: dict[str, Callable[[], str]] = {
    "judges": judges_table,
    "plugins": plugins_table,
    "third-party": third_party_tables,
}


def generated() -> dict[Path, str]:
    """Each generated file's content as it should be."""
    pages = (ROOT / "README.md", ROOT / "judges" / "THIRD_PARTY.md")
    schema = json.dumps(definition.schema(), indent=2, ensure_ascii=False) + "\n"
    return {**{page: _filled(page) for page in pages}, ROOT / "judges" / "schema.json": schema}


def _filled(page: Path) -> str:
    """A page with its generated blocks as they should be."""
    text = page.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        if f"<!-- generated:{name} -->" in text:
            block = f"<!-- generated:{name} -->\n{table()}\n<!-- /generated:{name} -->"
            pattern = rf"<!-- generated:{name} -->.*?<!-- /generated:{name} -->"
            text = re.sub(pattern, lambda _, b=block: b, text, flags=re.S)
    return text


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
