"""A local judge as one file: a zip of `judge.json` and NumPy arrays. No pickle; reading executes no code.

    judge.json      format, version, digest; fields, blocks, thresholds, training report, library versions
    traces.json     ids of the traces it was trained on
    terms/N.json    column names of block N          arrays/NAME.npy   coefficients, idf, means, scales

The digest covers all of it but the path of the embedding model (whose own digest it covers), so that a file that
was changed since it was written is refused. It shows accidents and careless edits; it is no signature against
someone who computes a new one.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlflow_assay.errors import AssayError, ConfigError
from mlflow_assay.judges.local import features
from mlflow_assay.judges.local.confidence import Confidence
from mlflow_assay.judges.local.crossval import Linear
from mlflow_assay.judges.local.embedder import EmbedderRef
from mlflow_assay.judges.local.examples import Field
from mlflow_assay.judges.local.report import TrainingReport
from mlflow_assay.judges.local.trained import Trained

__all__ = ["FORMAT", "SUFFIX", "VERSION", "digest", "load", "save"]

FORMAT = "mlflow-assay local judge"
VERSION = 1
SUFFIX = ".judge.zip"
_MOST_BYTES = 1_000_000_000
_EPOCH = (1980, 1, 1, 0, 0, 0)

Floats = npt.NDArray[np.float64]
_ARRAYS = ("idf", "mean", "scale")


def save(judge: Trained, path: Path) -> Path:
    """Write the judge; equal judges give equal bytes.

    Raises:
        ConfigError: the file cannot be written.
    """
    members = _members(judge)
    manifest = json.loads(members["judge.json"]) | {"digest": _digest(members)}
    manifest |= {"embedder_path": judge.embedder.path if judge.embedder else None}
    members["judge.json"] = _json(manifest, indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in members.items():
                file.writestr(zipfile.ZipInfo(name, _EPOCH), content, zipfile.ZIP_DEFLATED)
    except OSError as error:
        raise ConfigError(f"The local judge could not be written to {str(path)!r}: {error}") from error
    return path


def digest(judge: Trained) -> str:
    """SHA-256 over the content of the judge's file, 64 hex digits."""
    return _digest(_members(judge))


def load(path: Path, embedder: Path | None = None) -> Trained:
    """Read what was written; see `LocalJudge.load`."""
    members = _read(path)
    manifest = _manifest(members, path)
    try:
        return _judge(manifest, members, embedder)
    except (KeyError, TypeError, ValueError, AssayError) as error:
        raise ConfigError(f"The local judge {str(path)!r} is not complete: {error}") from error


def _members(judge: Trained) -> dict[str, bytes]:
    """The file's content by name, all but the digest."""
    manifest = {
        "format": FORMAT,
        "format_version": VERSION,
        "name": judge.name,
        "purpose": judge.purpose,
        "good": judge.good,
        "fields": [asdict(f) for f in judge.fields],
        "blocks": [asdict(b.block) for b in judge.model.blocks],
        "seen": {k: list(v) for k, v in judge.seen.items()},
        "confidence": asdict(judge.confidence),
        "threshold": judge.threshold,
        "intercept": judge.model.intercept,
        "embedder": judge.embedder.digest if judge.embedder else None,
        "versions": dict(judge.versions),
        "report": judge.report.to_dict(),
    }
    members = {"judge.json": _json(manifest), "traces.json": _json(sorted(judge.trained_on))}
    members["arrays/coef.npy"] = _npy(judge.model.coef)
    for number, block in enumerate(judge.model.blocks):
        members[f"terms/{number}.json"] = _json(list(block.terms))
        for key in _ARRAYS:
            members[f"arrays/{key}{number}.npy"] = _npy(getattr(block, key))
    return members


def _digest(members: Mapping[str, bytes]) -> str:
    found = hashlib.sha256()
    for name in sorted(members):
        found.update(f"{name}\0".encode() + hashlib.sha256(members[name]).digest())
    return found.hexdigest()


def _read(path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(path) as file:
            if sum(i.file_size for i in file.infolist()) > _MOST_BYTES:
                raise ConfigError(f"{str(path)!r} unpacks to more than {_MOST_BYTES} bytes; it is not read.")
            return {name: file.read(name) for name in file.namelist()}
    except FileNotFoundError as error:
        raise ConfigError(
            f"There is no local judge at {str(path)!r}.", fix="Train one: assay judges train --help"
        ) from error
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ConfigError(f"{str(path)!r} cannot be read as a local judge: {error}") from error


def _manifest(members: Mapping[str, bytes], path: Path) -> dict[str, Any]:
    """The manifest, once format, version and digest are right."""
    try:
        manifest = json.loads(members["judge.json"])
        found = manifest.get("format"), manifest.get("format_version"), manifest.pop("digest", None)
        where = manifest.pop("embedder_path", None)
    except (KeyError, ValueError, AttributeError) as error:
        raise ConfigError(f"{str(path)!r} holds no local judge.", found=f"no readable judge.json: {error}") from error
    if found[0] != FORMAT or found[1] != VERSION:
        raise ConfigError(
            f"{str(path)!r} is of a format this version cannot read.",
            found=f"{found[0]}, version {found[1]}",
            valid=f"{FORMAT}, version {VERSION}",
        )
    if _digest({**members, "judge.json": _json(manifest)}) != found[2]:
        raise ConfigError(f"{str(path)!r} was changed since it was written: its digest does not fit its content.")
    return {**manifest, "embedder_path": where}


def _judge(manifest: Mapping[str, Any], members: Mapping[str, bytes], embedder: Path | None) -> Trained:
    blocks = tuple(_block(number, spec, members) for number, spec in enumerate(manifest["blocks"]))
    coef = _array(members["arrays/coef.npy"])
    if coef.size != sum(b.width for b in blocks):
        raise ValueError(f"{coef.size} coefficients for {sum(b.width for b in blocks)} columns")
    where = str(embedder or manifest["embedder_path"])
    reference = EmbedderRef(where, manifest["embedder"]) if manifest["embedder"] else None
    return Trained(
        name=manifest["name"],
        purpose=manifest["purpose"],
        good=manifest["good"],
        fields=tuple(Field(**f) for f in manifest["fields"]),
        model=Linear(blocks, coef, float(manifest["intercept"])),
        seen={k: tuple(v) for k, v in manifest["seen"].items()},
        confidence=Confidence(**manifest["confidence"]),
        threshold=float(manifest["threshold"]),
        report=TrainingReport.from_dict(manifest["report"]),
        trained_on=frozenset(json.loads(members["traces.json"])),
        versions=dict(manifest["versions"]),
        embedder=reference,
    )


def _block(number: int, spec: Mapping[str, Any], members: Mapping[str, bytes]) -> features.FittedBlock:
    arrays = {key: _array(members[f"arrays/{key}{number}.npy"]) for key in _ARRAYS}
    return features.with_state(spec, json.loads(members[f"terms/{number}.json"]), arrays)


def _json(value: Any, indent: int | None = None) -> bytes:
    return json.dumps(value, sort_keys=True, indent=indent, allow_nan=False).encode("ascii")


def _npy(array: Floats) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array, dtype="<f8"), allow_pickle=False)
    return buffer.getvalue()


def _array(content: bytes) -> Floats:
    return np.asarray(np.lib.format.read_array(io.BytesIO(content), allow_pickle=False), dtype=np.float64)
