"""`make stack` and `make stack-build`: python -m assay_stack [build | up]."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from assay_stack import build
from assay_stack.build import MissingError
from assay_stack.stack import Stack

HELP = """Starts native servers on loopback: PostgreSQL, Prometheus, Tempo, the collector, MLflow; stops them at ^C.

  build            build the collector and Tempo into the cache (once; some minutes), then end
  up               build what is missing and start everything (default)
  up NAME …        only these: postgres prometheus tempo collector mlflow
"""


def up(names: list[str], folder: Path | None) -> None:
    """Runs the servers until interrupted."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with Stack(fixed=True, folder=folder, settings={"ASSAY_DECISION_WAIT": "5s"}) as stack:
        for name in names or list(stack.services):
            print(f"{name} …", end=" ", flush=True)
            stack.service(name).start()
            print("up")
        print(f"OTLP 4317 (gRPC) and 4318 (HTTP), Tempo {stack._tempo.url}, Prometheus {stack._prometheus.url},")
        print(f"PostgreSQL {stack._postgres.url()}, MLflow {stack._mlflow.url}; data and logs in {stack.folder}")
        print("^C stops them.", flush=True)
        ended.wait()


def main() -> int:
    """Parses and runs."""
    parser = argparse.ArgumentParser("assay_stack", description=HELP, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["build", "up"], default="up")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--folder", type=Path, help="keep data and logs here (default: a temporary folder)")
    options = parser.parse_args()
    try:
        if options.what == "build" or not options.names:
            build.build_all()
        if options.what == "up":
            up(options.names, options.folder)
    except MissingError as missing:
        print(missing, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
