"""The servers: how each is started, and when it is healthy."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from assay_stack import build
from assay_stack.ports import Ports

COLLECTOR = build.ROOT / "compose" / "collector"
# A process that ends with us, however we end: it kills the server's process group when our end of its input closes.
WATCHDOG = "import os, signal, sys; sys.stdin.read(); os.killpg(int(sys.argv[1]), signal.SIGKILL)"
DEFAULT_CONFIGS = ("base.yaml", "edge.yaml", "core.yaml")


class Service:
    """One server process on fixed ports with a data folder that outlives its kills."""

    name: str
    patience = 60.0  # seconds until healthy, on a machine that does other things too
    stop_signal = signal.SIGTERM

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)

    # --- what a server is ---

    def command(self) -> list[str]:
        """The command line; raises build.MissingError where the binary is not on this machine."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """Variables added to those of this process."""
        return {}

    def healthy(self) -> bool:
        """Whether it answers; asked until it does."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Done before each start."""

    @property
    def user(self) -> str | None:
        """The system user it runs as; None for ours."""
        return None

    # --- life ---

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the process last started."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    def start(self, *, wait: bool = True) -> None:
        """Starts it on its ports and its data; with `wait`, returns when healthy."""
        if not self.running:
            command = self.command()
            self.prepare()
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    command,
                    cwd=self.folder,
                    env={**os.environ, **self.environment()},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # a ^C of the test run is ours to handle; kill() reaches children too
                    user=self.user,
                )
            self._watch()
        if wait:
            self.wait()

    def _watch(self) -> None:
        self._unwatch()
        command = [sys.executable, "-S", "-E", "-c", WATCHDOG, str(self.pid)]
        self._watchdog = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def _unwatch(self) -> None:
        """Before the process id may be another's."""
        if self._watchdog:
            self._watchdog.kill()
            self._watchdog.communicate()
            self._watchdog = None

    def wait(self) -> None:
        """Returns when healthy; raises with the end of the log when it dies or takes too long."""
        deadline = time.monotonic() + self.patience
        while not self.healthy():
            if not self.running or time.monotonic() > deadline:
                how = "did not become healthy" if self.running else f"ended with {self._process.poll()}"  # type: ignore[union-attr]
                raise RuntimeError(f"{self.name} {how}; the end of {self.log}:\n{self.tail()}")
            time.sleep(0.1)

    def tail(self, lines: int = 40) -> str:
        """The end of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def _signal(self, number: int) -> None:
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, to its children too; data and ports stay for `start`."""
        self._unwatch()
        self._signal(signal.SIGKILL)
        if self._process:
            self._process.wait(timeout=30)

    def stop(self, grace: float = 20.0) -> None:
        """Asks it to end, then insists."""
        self._unwatch()
        self.resume()
        self._signal(self.stop_signal)
        if self._process:
            try:
                self._process.wait(timeout=grace)
            except subprocess.TimeoutExpired:
                self.kill()

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freezes it: connections hang, as with an overloaded server."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Goes on after `pause`."""
        self._signal(signal.SIGCONT)


def answers(url: str) -> bool:
    """Whether a GET of the URL is answered with success."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - loopback
            return bool(200 <= response.status < 300)
    except (urllib.error.URLError, OSError):
        return False


class Collector(Service):
    """The collector with the files users run, on ports of its own and with shorter waits."""

    name = "collector"
    stop_signal = signal.SIGTERM

    def __init__(
        self,
        folder: Path,
        ports: Ports,
        *,
        tempo_otlp: str = "127.0.0.1:1",
        prometheus: str = "http://127.0.0.1:1",
        configs: tuple[str, ...] = DEFAULT_CONFIGS,
        settings: Mapping[str, str] | None = None,
        grpc: int | None = None,
        http: int | None = None,
    ) -> None:
        super().__init__(folder)
        self.grpc = f"127.0.0.1:{grpc or ports.next()}"
        self.http = f"127.0.0.1:{http or ports.next()}"
        self.health = f"127.0.0.1:{ports.next()}"
        self.self_port = ports.next()
        self.configs = configs
        self.settings = {
            "ASSAY_OTLP_GRPC": self.grpc,
            "ASSAY_OTLP_HTTP": self.http,
            "ASSAY_HEALTH_ENDPOINT": self.health,
            "ASSAY_SELF_PORT": str(self.self_port),
            "ASSAY_COLLECTOR_DATA": str(folder),
            "ASSAY_TEMPO_OTLP": tempo_otlp,
            "ASSAY_PROMETHEUS_WRITE": f"{prometheus}/api/v1/write",
            "ASSAY_DECISION_WAIT": "1s",
            "ASSAY_DECISION_WAIT_AFTER_ROOT": "1s",
            "ASSAY_METRICS_INTERVAL": "1s",
            **(settings or {}),
        }

    def arguments(self) -> list[str]:
        """The configuration files as command-line arguments."""
        files = (name if "/" in name and Path(name).is_absolute() else str(COLLECTOR / name) for name in self.configs)
        return [argument for file in files for argument in ("--config", file)]

    def command(self) -> list[str]:
        return [str(build.collector()), *self.arguments()]

    def environment(self) -> Mapping[str, str]:
        return self.settings

    def healthy(self) -> bool:
        return answers(f"http://{self.health}")


class Kafka(Service):
    """A Kafka broker in memory that speaks the real protocol; a restart empties it."""

    name = "kafka"

    def __init__(self, folder: Path, ports: Ports) -> None:
        super().__init__(folder)
        self.port = ports.next()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [str(build.kafka()), "-port", str(self.port)]

    def healthy(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Tempo(Service):
    """Tempo in one process, blocks on local disk."""

    name = "tempo"

    def __init__(self, folder: Path, ports: Ports, *, http: int | None = None) -> None:
        super().__init__(folder)
        self.http = http or ports.next()
        self.otlp = ports.next()
        self._grpc, self._gossip = ports.next(), ports.next()

    def command(self) -> list[str]:
        return [str(build.tempo()), f"-config.file={build.TEMPO / 'tempo.yaml'}", "-config.expand-env=true"]

    def environment(self) -> Mapping[str, str]:
        return {
            "TEMPO_DIR": str(self.folder),
            "TEMPO_HTTP": str(self.http),
            "TEMPO_OTLP": str(self.otlp),
            "TEMPO_GRPC": str(self._grpc),
            "TEMPO_GOSSIP": str(self._gossip),
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}"

    def healthy(self) -> bool:
        return answers(f"{self.url}/ready")


class Prometheus(Service):
    """Prometheus that takes remote writes and keeps exemplars; scrapes what the collector, Tempo and itself say."""

    name = "prometheus"

    def __init__(self, folder: Path, ports: Ports, *, http: int | None = None, rules: Path | None = None) -> None:
        super().__init__(folder)
        self.http = http or ports.next()
        self.rules = rules
        self.collector_port: int | None = None
        self.tempo_port: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}"

    def prepare(self) -> None:
        lines = ["global: {scrape_interval: 2s, evaluation_interval: 2s}"]
        lines += ["storage: {exemplars: {max_exemplars: 100000}}"]
        if self.rules:
            lines += [f"rule_files: ['{self.rules}']"]
        lines += ["scrape_configs:"]
        for job, port in {"collector": self.collector_port, "tempo": self.tempo_port, "prometheus": self.http}.items():
            if port:
                lines += [f"  - {{job_name: {job}, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}"]
        (self.folder / "prometheus.yml").write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        return [
            str(build.prometheus()),
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.http}",
            "--web.enable-remote-write-receiver",
            "--enable-feature=exemplar-storage",
            "--log.level=warn",
        ]

    def healthy(self) -> bool:
        return answers(f"{self.url}/-/ready")


class Postgres(Service):
    """PostgreSQL with one role, `assay`, trusted on loopback; fsync off, since tests kill processes, not machines."""

    name = "postgres"
    stop_signal = signal.SIGINT  # "fast": connections are closed

    def __init__(self, folder: Path, ports: Ports, *, port: int | None = None) -> None:
        super().__init__(folder)
        self.port = port or ports.next()
        self.data = folder / "data"

    @property
    def user(self) -> str | None:
        """PostgreSQL refuses to run as root."""
        if os.geteuid() != 0:
            return None
        known = {entry.pw_name for entry in pwd.getpwall()}
        return "postgres" if "postgres" in known else "nobody"

    def prepare(self) -> None:
        if self.user:
            shutil.chown(self.folder, self.user)
        if not (self.data / "PG_VERSION").exists():
            command = [str(build.postgres("initdb")), "-D", str(self.data), "-U", "assay", "-A", "trust", "-E", "UTF8"]
            subprocess.run(
                [*command, "--no-locale", "--no-sync"], check=True, capture_output=True, cwd="/", user=self.user
            )

    def command(self) -> list[str]:
        options = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "fsync": "off"}
        settings = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        return [str(build.postgres()), "-D", str(self.data), *settings]

    def healthy(self) -> bool:
        command = [str(build.postgres("pg_isready")), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg2://assay@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """A new database; its SQLAlchemy URL. One that exists is left as it is."""
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "assay"]
        command = [str(build.postgres("createdb")), *where, database]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode and "already exists" not in done.stderr:
            raise RuntimeError(f"createdb {database}: {done.stderr}")
        return self.url(database)


class Mlflow(Service):
    """An MLflow server on SQLite, or on the database given."""

    name = "mlflow"
    patience = 180.0

    def __init__(
        self,
        folder: Path,
        ports: Ports,
        *,
        port: int | None = None,
        store: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(folder)
        self.port = port or ports.next()
        self.store = store or f"sqlite:///{folder / 'mlflow.db'}"
        self.variables = dict(variables or {})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        stores = ["--backend-store-uri", self.store, "--artifacts-destination", str(self.folder / "artifacts")]
        return [sys.executable, "-m", "mlflow", "server", *where, *stores]

    def environment(self) -> Mapping[str, str]:
        # Our own tracking URI would make it a client of the store of this process.
        light = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_TRACKING_URI": ""}
        return {"MLFLOW_DISABLE_TELEMETRY": "true", **light, **self.variables}

    def healthy(self) -> bool:
        return answers(f"{self.url}/health")
