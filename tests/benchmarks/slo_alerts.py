"""Burn-rate alerts on the interval against a plain threshold: false alerts and delay over simulated months.

Simulated, not measured on anybody's traffic: verdicts come as a Poisson process with a daily rhythm, failures by chance
at a base rate and more in planted incidents; the judge errs at fixed rates, and the KPI's correction is known only as
well as 150 labels allow. Both alerts see the same verdicts. The plain one is what people write first: pass rate of the
last hour below the objective, for ten minutes.

    python tests/benchmarks/slo_alerts.py [--months 24]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mlflow_assay.slo.burn import WINDOWS, Z, factor

STEP_MIN = 5
PER_DAY = 24 * 60 // STEP_MIN
MINUTES = {"10m": 10, "1h": 60, "4h": 240, "6h": 360, "12h": 720, "1d": 1440, "3d": 4320}
OBJECTIVE, BASE_BAD = 0.85, 0.07
LEAST = 20


@dataclass(frozen=True)
class Incident:
    """A planted one: true failure share, length in hours, one of each a month."""

    name: str
    bad: float
    hours: float


INCIDENTS = (Incident("outage of a tool: 80 % fail, 3 h", 0.8, 3), Incident("bad prompt: 40 % fail, 24 h", 0.4, 24))


@dataclass(frozen=True)
class Judge:
    """How often it fails a good run and passes a bad one."""

    name: str
    harsh: float
    lenient: float


JUDGES = (Judge("fair judge", 0.02, 0.1), Judge("harsh judge", 0.12, 0.1))


def rolling(x: np.ndarray, minutes: int) -> np.ndarray:
    """Sums over the last minutes, at every step."""
    n, total = minutes // STEP_MIN, np.concatenate([[0.0], np.cumsum(x)])
    at = np.arange(1, len(x) + 1)
    return total[at] - total[np.maximum(0, at - n)]


def held(x: np.ndarray, minutes: int) -> np.ndarray:
    """True where a condition has held that long."""
    n = max(1, minutes // STEP_MIN)
    return rolling(x.astype(float), n * STEP_MIN) >= n


def month(rng: np.random.Generator, per_hour: float, judge: Judge) -> tuple[np.ndarray, np.ndarray, list[tuple]]:
    """Verdicts and fails by step of 30 days, and (incident, first step, last step)."""
    steps = 30 * PER_DAY
    hour = np.arange(steps) * STEP_MIN / 60 % 24
    expected = per_hour * STEP_MIN / 60 * np.where((hour < 7) | (hour > 22), 0.3, 1.35)
    bad, spans = np.full(steps, BASE_BAD), []
    for day, incident in zip((10, 20), INCIDENTS, strict=True):
        first = day * PER_DAY + int(rng.integers(8, 18)) * 60 // STEP_MIN
        last = first + int(incident.hours * 60 / STEP_MIN)
        bad[first:last] = incident.bad
        spans.append((incident, first, last))
    n = rng.poisson(expected)
    fails = rng.binomial(n, bad * (1 - judge.lenient) + (1 - bad) * judge.harsh)
    return n.astype(float), fails.astype(float), spans


def burning(n: np.ndarray, fails: np.ndarray, shift: float, shift_se: float) -> dict[str, np.ndarray]:
    """Our alerts by severity, by the formulas of `slo.burn`."""
    allowed, found = 1 - OBJECTIVE, {"page": np.zeros(len(n), bool), "ticket": np.zeros(len(n), bool)}
    for window in WINDOWS:
        total, bad = rolling(n, MINUTES[window.long]), rolling(fails, MINUTES[window.long])
        short_n, short_bad = rolling(n, MINUTES[window.short]), rolling(fails, MINUTES[window.short])
        m = total + Z**2
        p = (bad + Z**2 / 2) / m
        low = np.maximum(0, p + shift - Z * np.sqrt(p * (1 - p) / m + shift_se**2)) / allowed
        with np.errstate(invalid="ignore", divide="ignore"):
            short = np.where(short_n > 0, np.maximum(0, short_bad / short_n + shift) / allowed, -1)
        at = factor(window, allowed)
        firing = (low >= at) & (short >= at) & (total >= LEAST)
        found[window.severity] |= held(firing, 2 if window.severity == "page" else 15)
    return found


def plain(n: np.ndarray, fails: np.ndarray) -> np.ndarray:
    """Pass rate of the last hour below the objective, for ten minutes."""
    total, bad = rolling(n, 60), rolling(fails, 60)
    with np.errstate(invalid="ignore", divide="ignore"):
        return held(np.where(total > 0, 1 - bad / total, 1.0) < OBJECTIVE, 10)


def alerts_of(firing: np.ndarray) -> list[int]:
    """Steps at which an alert begins; one that comes back within an hour is the same."""
    at = np.flatnonzero(firing)
    if not len(at):
        return []
    return [int(at[0]), *(int(b) for a, b in pairwise(at) if b - a > 60 // STEP_MIN)]


def judged(firing: np.ndarray, spans: list[tuple]) -> tuple[int, list[float | None]]:
    """False alerts, and the delay in minutes for each incident (None: missed). A day after one counts as its own."""
    false = [a for a in alerts_of(firing) if not any(f <= a < last + PER_DAY for _, f, last in spans)]
    delays: list[float | None] = []
    for _, first, last in spans:
        inside = np.flatnonzero(firing[first:last])
        delays.append(float(inside[0] * STEP_MIN) if len(inside) else None)
    return len(false), delays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--months", type=int, default=24)
    months = parser.parse_args().months
    print(f"{months} simulated months each; objective {OBJECTIVE}, {BASE_BAD:.0%} truly fail outside incidents")
    for per_hour in (6, 30, 200):
        for judge in JUDGES:
            rows: dict[str, list] = {"plain threshold": [], "burn, page": [], "burn, page or ticket": []}
            rng = np.random.default_rng(11)
            for _ in range(months):
                n, fails, spans = month(rng, per_hour, judge)
                raw_bad = BASE_BAD * (1 - judge.lenient) + (1 - BASE_BAD) * judge.harsh
                shift_se = (raw_bad * (1 - raw_bad) / 150) ** 0.5
                shift = BASE_BAD - raw_bad + rng.normal(0, shift_se)
                ours = burning(n, fails, shift, shift_se)
                rows["plain threshold"].append(judged(plain(n, fails), spans))
                rows["burn, page"].append(judged(ours["page"], spans))
                rows["burn, page or ticket"].append(judged(ours["page"] | ours["ticket"], spans))
            print(f"\n{per_hour} verdicts an hour, {judge.name}")
            for name, found in rows.items():
                false = sum(f for f, _ in found) / months
                parts = []
                for i, incident in enumerate(INCIDENTS):
                    delays = [d[i] for _, d in found if d[i] is not None]
                    median = f"{np.median(delays):.0f} min" if delays else "–"
                    parts.append(f"{incident.name}: {len(delays)}/{months} found, median {median}")
                print(f"  {name:22} {false:6.1f} false a month | " + " | ".join(parts))


if __name__ == "__main__":
    main()
