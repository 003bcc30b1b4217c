"""Progress on long work: a bar on a terminal, a plain line now and then elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mlflow.entities import Feedback
    from rich.progress import Progress as RichProgress

    from mlflow_assay.engine.plan import Plan

__all__ = ["ScoreProgress", "Steps"]

_LINE_EVERY_S = 10.0


class Steps:
    """Counted progress over `total` steps (None when unknown), usable as a context manager.

    Args:
        label: what is being done.
        quiet: show nothing.
    """

    def __init__(self, label: str, total: int | None = None, *, quiet: bool = False) -> None:
        self._label, self._total, self._count, self._note = label, total, 0, ""
        self._started = self._said = time.monotonic()
        self._quiet, self._told = quiet, 0
        self._bar: RichProgress | None = None if quiet or not sys.stderr.isatty() else _bar()
        self._task: Any = None

    def __enter__(self) -> Steps:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self._label, total=self._total, note="")
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif not self._quiet and self._count != self._told:
            self._say()

    def step(self, count: int = 1, note: str | None = None) -> None:
        """`count` more steps are done; `note` stands beside the count."""
        self._count += count
        self._note = self._note if note is None else note
        if self._bar is not None:
            self._bar.update(self._task, completed=self._count, note=self._note)
        elif not self._quiet and time.monotonic() - self._said > _LINE_EVERY_S:
            self._say()

    def reach(self, done: int, total: int | None = None) -> None:
        """`done` steps are done in all, of `total`."""
        if total is not None and total != self._total:
            self._total = total
            if self._bar is not None:
                self._bar.update(self._task, total=total)
        self.step(done - self._count)

    def _say(self) -> None:
        self._told = self._count
        self._said = time.monotonic()
        elapsed = max(self._said - self._started, 1e-9)
        of = f" of {self._total}" if self._total else ""
        rate = f", {self._count / elapsed:.1f}/s"
        note = f", {self._note}" if self._note else ""
        click.echo(f"{self._label}: {self._count}{of}{rate}{note}, {elapsed:.0f} s", err=True)


def _bar() -> RichProgress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


class ScoreProgress:
    """Verdicts stored, with rate, cost so far and unscored beside them."""

    def __init__(self, plan: Plan, *, quiet: bool = False) -> None:
        self._steps = Steps("Judging", plan.total, quiet=quiet)
        self._steps.__enter__()
        self._unpriced = False
        self._cost, self._unscored, self._count, self._started = 0.0, 0, 0, time.monotonic()

    def advance(self, feedback: Feedback) -> None:
        """One more verdict is stored."""
        from mlflow.tracing.constant import AssessmentMetadataKey as Key

        from mlflow_assay import semconv

        facts = feedback.metadata or {}
        self._count += 1
        self._unscored += facts.get(semconv.OUTCOME) == "unscored"
        self._cost += float(facts.get(Key.JUDGE_COST) or 0)
        self._unpriced |= facts.get(Key.JUDGE_INPUT_TOKENS) is not None and facts.get(Key.JUDGE_COST) is None
        cost = "price unknown" if self._unpriced else f"${self._cost:.4f}"
        rate = self._count / max(time.monotonic() - self._started, 1e-9)
        self._steps.step(note=f"{rate:.0f}/s, {cost}, {self._unscored} unscored")

    def close(self) -> None:
        """End the display."""
        self._steps.__exit__()
