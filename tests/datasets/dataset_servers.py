"""Real object stores on this machine, started for a test module and stopped after it.

They are looked for on the PATH and where `.ci/stores` puts them.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

TOOLS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlflow-assay"
# Azurite's own, published in its documentation.
ACCOUNT, KEY = (
    "devstoreaccount1",
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
)


def tool(name: str, *places: str) -> str:
    found = shutil.which(name) or next((str(p) for p in map(TOOLS.joinpath, places) if p.exists()), None)
    if found is None:
        pytest.skip(f"{name} is not installed; .ci/stores installs it")
    return found


def needs(package: str, extra: str) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install 'mlflow-assay[{extra}]'")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], port: int, log: Path, **environment: str) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **environment}, cwd=log.parent
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < deadline, f"{command[0]} does not listen: {log.read_text(errors='replace')}"
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)


@contextmanager
def s3(folder: Path) -> Iterator[dict[str, str]]:
    """versitygw over a folder, with a bucket `tests`; yields the environment a client needs."""
    needs("s3fs", "s3")
    command, port = tool("versitygw", "bin/versitygw"), free_port()
    (folder / "s3" / "tests").mkdir(parents=True)
    arguments = [command, "--quiet", "--port", f"127.0.0.1:{port}", "posix", str(folder / "s3")]
    keys = {"ROOT_ACCESS_KEY": "tester", "ROOT_SECRET_KEY": "tester-secret"}
    with running(arguments, port, folder / "s3.log", **keys):
        yield {
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": "tester-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        }


@contextmanager
def azure(folder: Path) -> Iterator[dict[str, str]]:
    """Azurite over a folder, with a container `tests`."""
    needs("adlfs", "azure")
    command, port = tool("azurite-blob", "azurite/node_modules/.bin/azurite-blob"), free_port()
    node = tool("node")
    (folder / "azure").mkdir()
    options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder / "azure")]
    quiet = ["--silent", "--disableTelemetry", "--skipApiVersionCheck"]
    connection = (
        f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
        f"BlobEndpoint=http://127.0.0.1:{port}/{ACCOUNT};"
    )
    with running([node, command, *options, *quiet], port, folder / "azure.log"):
        from azure.storage.blob import BlobServiceClient

        with BlobServiceClient.from_connection_string(connection) as client:
            client.create_container("tests")
        yield {"AZURE_STORAGE_CONNECTION_STRING": connection}


@contextmanager
def gcs(folder: Path) -> Iterator[dict[str, str]]:
    """fake-gcs-server, with a bucket `tests`."""
    needs("gcsfs", "gcs")
    command, port = tool("fake-gcs-server", "bin/fake-gcs-server"), free_port()
    (folder / "gcs" / "tests").mkdir(parents=True)
    url = f"http://127.0.0.1:{port}"
    options = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    arguments = [command, *options, "-data", str(folder / "gcs"), "-external-url", url]
    with running(arguments, port, folder / "gcs.log"):
        # Without the second, gcsfs looks for credentials at every turn.
        yield {"STORAGE_EMULATOR_HOST": url, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}


SERVERS = {"s3": s3, "abfs": azure, "gs": gcs}
