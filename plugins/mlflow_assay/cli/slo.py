"""`assay slo`: objectives in, recording rules and alerts out."""

from __future__ import annotations

import json
from pathlib import Path

import click

__all__ = ["slo"]

RULES, GRAFANA, RUNBOOK = "assay.rules.yaml", "assay.grafana-alerts.yaml", "runbook.md"


@click.group()
def slo() -> None:
    """Turn objectives (slo.yaml) into recording rules and alerts that know their sample size."""


@slo.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", "-o", type=click.Path(file_okay=False, path_type=Path), default=Path("rules"), show_default=True)
@click.option(
    "--datasource-uid",
    default="prometheus",
    show_default=True,
    help="uid of the Prometheus data source in Grafana, for the Grafana-managed alerts.",
)
@click.option("--folder", default="Agent quality", show_default=True, help="Grafana folder of the alerts.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object that says what was written.")
def build(file: Path, out: Path, datasource_uid: str, folder: str, as_json: bool) -> None:
    """Write the rule files of FILE into --out.

    assay.rules.yaml goes to Prometheus (`rule_files:`); assay.grafana-alerts.yaml holds the same alerts for
    Grafana's file provisioning (use one of the two alert sets, not both); runbook.md is what the alerts link to.

    \b
    assay slo build dashboards/slo.yaml --out rules
    promtool check rules rules/assay.rules.yaml

    An objective names one of judge, latency and cost:

    \b
    version: 1
    objectives:
      - name: requests-resolved
        description: Requests are resolved.
        judge: request_resolved      # an assessment's name; corrected by people's labels
        objective: 0.85              # share that is to pass
        minimum_sample: 20           # fewer verdicts in a window raise no alert
      - name: answers-fast
        description: Runs end within 20 seconds.
        latency: {under_s: 20}
        objective: 0.95
      - name: runs-cheap
        description: A run costs five cents or less.
        cost: {at_most_usd: 0.05}
    """
    import yaml

    from mlflow_assay import shipped
    from mlflow_assay.slo.alerts import alerts
    from mlflow_assay.slo.grafana_rules import provisioning
    from mlflow_assay.slo.prometheus_rules import rule_file, rule_groups
    from mlflow_assay.slo.spec import load

    spec = load(file)
    grafana = yaml.safe_dump(provisioning(spec, datasource_uid, folder), sort_keys=False, allow_unicode=True, width=110)
    texts = {RULES: rule_file(spec), GRAFANA: "# Made by `assay slo build`; change slo.yaml instead.\n" + grafana}
    texts[RUNBOOK] = (shipped.folder("dashboards") / RUNBOOK).read_text(encoding="utf-8")
    _write(out, texts)
    recorded = rule_groups(spec)["groups"][0]["rules"]
    if as_json:
        found = {"files": [str(out / name) for name in texts], "recording_rules": len(recorded)}
        click.echo(json.dumps({**found, "alerts": len(alerts(spec)), "objectives": len(spec.objectives)}, indent=2))
        return
    click.echo(f"{len(spec.objectives)} objectives: {len(recorded)} recording rules, {len(alerts(spec))} alerts.")
    for name in texts:
        click.echo(f"  {out / name}")
    click.echo("Next: add assay.rules.yaml to Prometheus' rule_files, or `assay dashboards import --slo`.")


def _write(out: Path, texts: dict[str, str]) -> None:
    from mlflow_assay.errors import ConfigError

    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (out / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"The rules cannot be written to {out}: {error.strerror}.") from error
