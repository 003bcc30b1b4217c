"""`assay dashboards`: the Grafana boards, listed, built, checked, imported and previewed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mlflow_assay.dashboards.files import BoardFile
    from mlflow_assay.dashboards.grafana import Change

__all__ = ["dashboards"]

_json: Any = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_folder_of_boards: Any = click.option(
    "--boards",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of board JSON. [default: the shipped boards]",
)


@click.group()
def dashboards() -> None:
    """Grafana boards of agent quality: list, build, check, import, preview."""


@dashboards.command("list")
@_folder_of_boards
@_json
def list_boards(boards: Path | None, as_json: bool) -> None:
    """Show each board, who it is for, and its panels."""
    found = _boards(boards)
    if as_json:
        rows = [
            {"uid": b.uid, "title": b.title, "tags": b.model["tags"], "panels": [p["title"] for p in b.panels]}
            for b in found
        ]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for board in found:
        click.echo(f"{board.title}  ({board.uid}, for {board.model['tags'][-1]})")
        click.echo(f"  {board.model['description']}")
        click.echo(f"  {len(board.panels)} panels: {'; '.join(panel['title'] for panel in board.panels)}\n")


@dashboards.command()
@click.option(
    "--out",
    "-o",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("dashboards/generated"),
    show_default=True,
    help="Folder for the JSON, one file a board.",
)
@click.option("--diff", "only_compare", is_flag=True, help="Write nothing; exit 1 where a file is not up to date.")
def build(out: Path, only_compare: bool) -> None:
    """Make the boards' JSON anew from the code of every registered board.

    A board is a function that returns `mlflow_assay.dashboards.board.Board`, registered under the entry-point group
    `mlflow_assay.dashboards`: your own package's boards are built like ours.
    """
    from mlflow_assay.dashboards.files import build as build_all

    made = build_all()
    stale = [name for name, text in made.items() if not (out / name).exists() or (out / name).read_text() != text]
    if not only_compare:
        out.mkdir(parents=True, exist_ok=True)
        for name in stale:
            (out / name).write_text(made[name], encoding="utf-8")
    for name in made:
        state = ("stale" if only_compare else "written") if name in stale else "up to date"
        click.echo(f"{out / name}: {state}")
    if only_compare and stale:
        raise SystemExit(1)


@dashboards.command()
@_folder_of_boards
@_json
def check(boards: Path | None, as_json: bool) -> None:
    """Check boards against the rules: known metrics, units, descriptions, empty states, grid, selectors.

    Exits with 1 where a rule is broken.
    """
    from dataclasses import asdict

    from mlflow_assay.dashboards.lint import check as lint

    found = _boards(boards)
    findings = lint(found)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    else:
        for finding in findings:
            click.echo(str(finding))
        click.echo(f"{len(found)} boards, {sum(len(b.panels) for b in found)} panels: {len(findings)} findings.")
    if findings:
        raise SystemExit(1)


@dashboards.command("import")
@click.option("--url", required=True, envvar="GRAFANA_URL", help="Grafana's address. Also GRAFANA_URL.")
@click.option(
    "--token",
    required=True,
    envvar="GRAFANA_TOKEN",
    help="A service account's token, or user:password. Better in GRAFANA_TOKEN than on the command line.",
)
@_folder_of_boards
@click.option("--folder", default="Agent quality", show_default=True, help="Title of the folder.")
@click.option("--folder-uid", default="mlflow-assay", show_default=True, help="Its uid.")
@click.option("--prometheus-url", help="Create a Prometheus data source with this address where there is none.")
@click.option("--tempo-url", help="Create a Tempo data source with this address where there is none.")
@click.option("--prometheus-uid", help="Which Prometheus data source the alert rules ask, where there are several.")
@click.option(
    "--slo",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="slo.yaml: also import its alerts as Grafana-managed rules. Prometheus needs the recording rules.",
)
@click.option("--mlflow-url", help="Where MLflow's pages are, for the boards' links to traces.")
@click.option(
    "--mark-prompt", "prompts", multiple=True, metavar="NAME", help="Mark each version of this MLflow prompt."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--diff", "show_diff", is_flag=True, help="Show what changes in each board and rule.")
@_json
def import_boards(
    url: str,
    token: str,
    boards: Path | None,
    folder: str,
    folder_uid: str,
    prometheus_url: str | None,
    tempo_url: str | None,
    prometheus_uid: str | None,
    slo: Path | None,
    mlflow_url: str | None,
    prompts: tuple[str, ...],
    dry_run: bool,
    show_diff: bool,
    as_json: bool,
) -> None:
    """Put the boards, and the alerts of an slo.yaml, into a running Grafana.

    Idempotent: what is there and equal stays as it is, nothing is deleted, and a run that failed half-way can be run
    again.

    \b
    export GRAFANA_TOKEN=…
    assay dashboards import --url https://grafana.example.org --slo slo.yaml --dry-run --diff
    assay dashboards import --url https://grafana.example.org --slo slo.yaml --mark-prompt router
    """
    from mlflow_assay.dashboards.grafana import Grafana

    grafana = Grafana(url, token)
    given = {"prometheus": prometheus_url, "tempo": tempo_url}
    plan = grafana.plan(
        [_with_mlflow(board, mlflow_url) for board in _boards(boards)],
        folder=folder,
        folder_uid=folder_uid,
        datasources={kind: address for kind, address in given.items() if address},
        rules=_rules(slo) if slo else None,
        prometheus=prometheus_uid,
        releases=_releases(prompts),
    )
    if not dry_run:
        grafana.apply(plan)
    _print(plan, dry_run, show_diff, as_json)


def _boards(folder: Path | None) -> list[BoardFile]:
    from mlflow_assay.dashboards.files import generated, read_folder

    return generated() if folder is None else read_folder(folder)


def _with_mlflow(board: BoardFile, address: str | None) -> BoardFile:
    """The board with another default for its variable `mlflow`."""
    from dataclasses import replace

    if address is None:
        return board
    model = json.loads(json.dumps(board.model))
    for variable in model["templating"]["list"]:
        if variable["name"] == "mlflow":
            variable["query"] = address.rstrip("/")
    return replace(board, model=model)


def _rules(slo: Path) -> Any:
    from mlflow_assay.slo.grafana_rules import grafana_rules
    from mlflow_assay.slo.spec import load

    spec = load(slo)
    return lambda uid: grafana_rules(spec, uid)


def _releases(prompts: tuple[str, ...]) -> list[Any]:
    """Every version of the prompts, with the time it was registered."""
    if not prompts:
        return []
    import mlflow
    from mlflow.exceptions import MlflowException

    from mlflow_assay.dashboards.grafana import Release
    from mlflow_assay.errors import StoreError

    made = []
    for name in prompts:
        try:
            versions = mlflow.MlflowClient().search_prompt_versions(name)
        except MlflowException as error:
            raise StoreError(f"The prompt {name!r} cannot be read from MLflow: {error.message}") from error
        if not versions:
            raise StoreError(f"MLflow has no prompt {name!r}.", fix="`mlflow.genai.search_prompts()` lists them.")
        for version in versions:
            text = f"Prompt {name} version {version.version}"
            made.append(Release(f"prompt:{name}/{version.version}", text, int(version.creation_timestamp)))
    return made


def _print(plan: list[Change], dry_run: bool, show_diff: bool, as_json: bool) -> None:
    if as_json:
        rows = [
            {"kind": c.kind, "name": c.name, "action": c.action, **({"diff": c.diff} if show_diff else {})}
            for c in plan
        ]
        click.echo(json.dumps({"dry_run": dry_run, "changes": rows}, indent=2, ensure_ascii=False))
        return
    done = (
        {"create": "would create", "update": "would update"} if dry_run else {"create": "created", "update": "updated"}
    )
    for change in plan:
        click.echo(f"{done.get(change.action, 'unchanged'):>12}  {change.kind} {change.name}")
        if show_diff and change.diff:
            click.echo("\n".join(f"              {line}" for line in change.diff.splitlines()))
    changed = sum(change.action != "unchanged" for change in plan)
    click.echo(f"{changed} of {len(plan)} {'to change' if dry_run else 'changed'}.")


@dashboards.command()
@_folder_of_boards
@click.option("--prometheus", "-p", default="http://127.0.0.1:9090", show_default=True, help="Prometheus' address.")
@click.option("--tempo", "-t", default="http://127.0.0.1:3200", show_default=True, help="Tempo's address; '' for none.")
@click.option(
    "--out", "-o", type=click.Path(file_okay=False, path_type=Path), default=Path("preview"), show_default=True
)
@click.option("--since", help="Start of the time range: 7d, 24h, an ISO date. [default: the board's own]")
@click.option("--until", help="Its end. [default: now]")
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="A variable of the boards, such as judge=tone."
)
def preview(
    boards: Path | None,
    prometheus: str,
    tempo: str,
    out: Path,
    since: str | None,
    until: str | None,
    settings: tuple[str, ...],
) -> None:
    """Render each board to a static page, from the same JSON and live query results, without Grafana.

    It shows layout, titles, units and series as they would be there; the look is not Grafana's.

    \b
    assay dashboards preview --prometheus http://127.0.0.1:9090 --tempo http://127.0.0.1:3200 --out preview
    """
    from mlflow_assay.cli.progress import Steps
    from mlflow_assay.dashboards.asking import Asker
    from mlflow_assay.dashboards.preview import preview as render
    from mlflow_assay.errors import ConfigError

    if wrong := [setting for setting in settings if "=" not in setting]:
        raise ConfigError(f"--set {wrong[0]!r} cannot be read.", valid="NAME=VALUE")
    found, asker = _boards(boards), Asker(prometheus.rstrip("/"), tempo.rstrip("/") or None)
    chosen = dict(setting.split("=", 1) for setting in settings)
    out.mkdir(parents=True, exist_ok=True)
    with Steps("Boards", len(found)) as steps:
        for board in found:
            page = render(board, asker, _span(board, since, until), chosen)
            (out / f"{board.uid}.html").write_text(page, encoding="utf-8")
            steps.step(note=board.title)
    for board in found:
        click.echo(str(out / f"{board.uid}.html"))


def _span(board: BoardFile, since: str | None, until: str | None) -> Any:
    import time

    from mlflow_assay.dashboards.asking import Range
    from mlflow_assay.sources.mlflow_store import parse_since

    end = time.time() if until is None else parse_since(until) / 1000
    own = board.model["time"]["from"].removeprefix("now-")
    start = end - (time.time() - parse_since(own) / 1000) if since is None else parse_since(since) / 1000
    return Range(start, end, step=max(15.0, (end - start) / 240))
