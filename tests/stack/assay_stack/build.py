"""Finds the servers' binaries; builds the two that no package brings."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[3]
BUILDER = "go.opentelemetry.io/collector/cmd/builder@v0.161.0"
MANIFEST = ROOT / "compose" / "collector" / "builder.yaml"
TEMPO = Path(__file__).parents[1] / "tempo"
COMPOSE = Path(__file__).parents[1] / "compose_config"
KAFKA = Path(__file__).parents[1] / "kafka"
DEBIAN_POSTGRES = "/usr/lib/postgresql"


class MissingError(Exception):
    """A server's binary is not on this machine; the message says how to get it."""


def cache() -> Path:
    """Where built binaries and build folders are kept, outside the repository."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mlflow-assay"


def _digest(*files: Path) -> str:
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _binary(name: str, *inputs: Path) -> Path:
    """The cached binary of exactly these inputs: a changed pin is another file."""
    return cache() / "bin" / f"{name}-{_digest(*inputs)}"


def _collector_path() -> Path:
    return _binary("otelcol-assay", MANIFEST)


def _tempo_path() -> Path:
    return _binary("tempo", TEMPO / "go.mod", TEMPO / "go.sum")


def _command_path(name: str, folder: Path) -> Path:
    return _binary(name, *(folder / file for file in ("main.go", "go.mod", "go.sum")))


def _compose_path() -> Path:
    return _command_path("compose-config", COMPOSE)


def _kafka_path() -> Path:
    return _command_path("kafka", KAFKA)


def _built(path: Path, what: str) -> Path:
    if not path.exists():
        raise MissingError(
            f"{what} is not built: `make stack-build` does it once (needs Go 1.26 or newer and some minutes)"
        )
    return path


def collector() -> Path:
    """The OpenTelemetry Collector with the components of compose/collector/builder.yaml."""
    return _built(_collector_path(), "the OpenTelemetry Collector")


def tempo() -> Path:
    """Grafana Tempo, of the version in tests/stack/tempo/go.mod."""
    return _built(_tempo_path(), "Grafana Tempo")


def compose() -> Path:
    """What `docker compose config` does, without Docker: tests/stack/compose_config."""
    return _built(_compose_path(), "the reader of compose files")


def kafka() -> Path:
    """A Kafka broker in memory: tests/stack/kafka."""
    return _built(_kafka_path(), "the in-memory Kafka broker")


def prometheus() -> Path:
    """Prometheus from the system's packages."""
    found = shutil.which("prometheus")
    if not found:
        raise MissingError("prometheus is not installed: `apt-get install prometheus`, or put the binary on the PATH")
    return Path(found)


def postgres(tool: str = "postgres") -> Path:
    """A program of PostgreSQL from the system's packages, newest version first."""
    found = sorted(Path(DEBIAN_POSTGRES).glob(f"*/bin/{tool}"), key=lambda p: float(p.parts[-3]))
    if found:
        return found[-1]
    if on_path := shutil.which(tool):
        return Path(on_path)
    raise MissingError("PostgreSQL is not installed: `apt-get install postgresql`")


@contextmanager
def _locked(name: str) -> Iterator[None]:
    """One build at a time on this machine, whoever starts it."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(*command: str, folder: Path, **environment: str) -> None:
    subprocess.run(command, cwd=folder, env={**os.environ, "CGO_ENABLED": "0", **environment}, check=True)


def _build_collector(target: Path) -> None:
    work = cache() / "build" / "collector"
    work.mkdir(parents=True, exist_ok=True)
    _run("go", "install", BUILDER, folder=work, GOBIN=str(cache() / "bin"))
    _run(str(cache() / "bin" / "builder"), "--config", str(MANIFEST), folder=work)
    (work / "_build" / "otelcol-assay").replace(target)


def _go_build(target: Path, folder: Path, package: str) -> None:
    """Builds one command of the module in `folder`; Go checks every dependency against its go.sum."""
    part = target.with_suffix(".part")
    command = ["go", "build", "-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w", "-o", str(part)]
    _run(*command, package, folder=folder)
    part.replace(target)


def _build_tempo(target: Path) -> None:
    _go_build(target, TEMPO, "github.com/grafana/tempo/cmd/tempo")


def _build_compose(target: Path) -> None:
    _go_build(target, COMPOSE, ".")


def _build_kafka(target: Path) -> None:
    _go_build(target, KAFKA, ".")


BUILDS: dict[str, tuple[Callable[[], Path], Callable[[Path], None]]] = {
    "collector": (_collector_path, _build_collector),
    "tempo": (_tempo_path, _build_tempo),
    "compose": (_compose_path, _build_compose),
    "kafka": (_kafka_path, _build_kafka),
}


def build(name: str) -> Path:
    """Builds one of BUILDS unless its binary is in the cache; says how long it took."""
    if not shutil.which("go"):
        raise MissingError("Go is not installed: the collector and Tempo are built with Go 1.26 or newer")
    path, make = BUILDS[name]
    with _locked(name):
        target = path()
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            began = time.monotonic()
            make(target)
            print(f"built {name} in {time.monotonic() - began:.0f} s: {target}", file=sys.stderr)
    return target


def build_all() -> None:
    """Builds what is missing."""
    for name in BUILDS:
        build(name)
