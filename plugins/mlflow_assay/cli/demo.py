"""`assay demo`: the whole loop on a simulated telecom agent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlflow_assay.demo import EXPERIMENT

if TYPE_CHECKING:
    from mlflow_assay.cli.progress import Steps
    from mlflow_assay.demo.loop import LoopResult

_OPENING = """\
This demo plays the main job on a small telecom support agent: traces in, verdicts on the traces, a number with
its interval, a report. The agent, its customers and the expert are SIMULATED by code and no model is called.
What is real: the traces are MLflow's, the judge is trained on the expert's labels, the intervals are computed.
"""


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("assay-demo"),
    show_default=True,
    help="New or empty folder, or an earlier demo's, whose store is replaced.",
)
@click.option("--requests", type=click.IntRange(300, 5000), default=500, show_default=True, help="Requests to play.")
@click.option(
    "--labels", type=click.IntRange(160, 2000), default=240, show_default=True, help="Traces the expert labels."
)
@click.option("--seed", type=int, default=7, show_default=True, help="Decides traffic, faults and labels.")
def demo(out: Path, requests: int, labels: int, seed: int) -> None:
    """Play the whole loop: no API key, no Docker, no account.

    Everything goes into one folder with an MLflow store of its own (SQLite); no other store is touched. What an
    earlier demo left in that folder is replaced.
    """
    from mlflow_assay.demo.loop import play

    click.echo(_OPENING)
    started = time.monotonic()
    display = _Display()
    try:
        result = play(out, display, requests=requests, labels=labels, seed=seed)
    finally:
        display.close()
    _tell(result, time.monotonic() - started)


class _Display:
    def __init__(self) -> None:
        self._steps: Steps | None = None

    def stage(self, text: str) -> None:
        self.close()
        click.secho(text, bold=True)

    def steps(self, label: str) -> Callable[[int, int], None]:
        from mlflow_assay.cli.progress import Steps

        steps = Steps(f"   {label}")
        self._steps = steps.__enter__()

        def show(done: int, of: int) -> None:
            steps.reach(done, of)

        return show

    def close(self) -> None:
        if self._steps is not None:
            self._steps.__exit__()
            self._steps = None


def _tell(result: LoopResult, seconds: float) -> None:
    click.echo()
    click.secho("What was found", bold=True)
    for line in _findings(result):
        click.echo(f"  {line}")
    click.echo(f"  It took {seconds:.0f} s.")
    click.echo()
    click.secho(f"The report: {result.page.resolve()}", bold=True)
    click.echo()
    click.secho("Try next", bold=True)
    click.echo(f"  mlflow ui --backend-store-uri {result.tracking_uri}    # choose the time range All")
    click.echo("  assay judges list")
    click.echo(f"  MLFLOW_TRACKING_URI={result.tracking_uri} assay score -e {EXPERIMENT} -j token_limit")
    click.echo(
        f"  MLFLOW_TRACKING_URI={result.tracking_uri} assay optimize prompts:/telecom_router/1 -d routing "
        f"--store {result.folder}/datasets -j right_desk --path {result.folder}/judges -o knn_few_shot "
        "--predict mlflow_assay.demo.predict:route"
    )


def _findings(result: LoopResult) -> Iterator[str]:
    from mlflow_assay.report.words import percent, plural

    trained, estimate = result.training, result.judged.estimate
    sessions = plural(result.sessions, "session")
    yield f"{plural(result.traces, 'trace')} in {sessions}; the simulated expert labelled {result.labels} of them."
    if trained.kappa is not None and trained.kappa_low is not None:
        kappa = f"kappa {trained.kappa:.2f} [{trained.kappa_low:.2f}, {trained.kappa_high:.2f}]"
        yield f"Cross-validated on the labels it learnt from, it agrees with the expert beyond chance: {kappa}."
    if estimate is None or estimate.value is None or estimate.low is None or estimate.high is None:
        yield "There is no number for the fault: too few verdicts or labels."
    else:
        how = f"corrected with {estimate.n_labelled} labels it never saw" if estimate.is_corrected else "NOT corrected"
        between = f"with 95 % confidence between {percent(1 - estimate.high)} and {percent(1 - estimate.low)}"
        yield f"Requests that reach the wrong desk: {percent(1 - estimate.value)}, {between} ({how})."
        yield f"The judge alone would have said {percent(1 - (estimate.raw or 0.0))}, without saying how sure it is."
    yield from _improved(result)
    yield f"The truth before the fix, known only because this is a simulation: {percent(1 - result.true_pass_rate)}."


def _improved(result: LoopResult) -> Iterator[str]:
    from mlflow_assay.demo.sections import change_in_points
    from mlflow_assay.report.words import percent

    dataset, wrong, fix = result.failures.dataset, result.failures.misrouted, result.fix
    yield f"The dataset {dataset.reference} holds {len(dataset)} labelled requests, {wrong} of them mis-routed."
    tested = result.optimized.comparison
    if tested is not None:
        yield (
            f"The prompt, optimized without a model, on {tested.n} of them it never saw: {percent(tested.value_b)} "
            f"right instead of {percent(tested.value_a)}."
        )
    if fix is None or fix.p_value is None:
        yield f"Nothing was promoted. {result.optimized.reason}"
        return
    shares = f"{percent(fix.value_b)} right instead of {percent(fix.value_a)}"
    yield f"On {fix.n} new requests: {shares}"
    yield f"  ({change_in_points(fix)}, p = {fix.p_value:.1g}; {len(fix.wins)} better, {len(fix.losses)} worse)."
    yield (
        f"Prompt version {result.promoted} is in production."
        if result.promoted
        else "That proves no gain: nothing was promoted."
    )
