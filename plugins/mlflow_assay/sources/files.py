"""Reading recorded files: plain or gzip, one JSON document or JSON lines, with errors that name the place."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mlflow_assay.errors import InputError

__all__ = ["documents", "keys_of", "read_json"]

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"


def read_json(path: Path) -> Any:
    """The one JSON document in a file, gzip or plain.

    Raises:
        InputError: the file is missing, unreadable, or not JSON; names file and line.
    """
    with _open(path) as stream:
        text = _text(path, stream.read)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _not_json(path, error) from error


def documents(path: Path) -> Iterator[tuple[int, Any]]:
    """The JSON documents of a file with the line each starts on: one a line, or one spread over all lines.

    Only one line is held in memory, unless the first line is not a document by itself.

    Raises:
        InputError: the file is missing, unreadable, empty, or a line is not JSON; names file and line.
    """
    found = False
    with _open(path) as stream:
        number = 0
        while raw := _text(path, stream.readline):
            number += 1
            if not raw.strip():
                continue
            try:
                document = json.loads(raw.strip())
            except (ValueError, RecursionError) as error:
                if found or raw.strip() not in ("{", "["):
                    raise _not_json(path, error, number) from error
                yield number, read_json(path)
                return
            found = True
            yield number, document
    if not found:
        raise InputError(f"{path} is empty.")


def keys_of(document: Any) -> str:
    """What a document of the wrong shape looks like, in a few words for an error."""
    if isinstance(document, dict):
        return f"a JSON object with the keys {', '.join(map(repr, list(document)[:8])) or '(none)'}"
    return f"a JSON {type(document).__name__}"


def _open(path: Path) -> BinaryIO:
    try:
        stream = path.open("rb")
        start = stream.peek(4)[:4]
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder; name the files in it.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    if start.startswith(_ZSTD):
        stream.close()
        raise InputError(f"{path} is compressed with zstd.", valid="plain or gzip", fix="Try: zstd -d FILE")
    return gzip.open(stream) if start.startswith(_GZIP) else stream  # type: ignore[return-value]


def _text(path: Path, read: Any) -> str:
    try:
        return str(read().decode("utf-8"))
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8.", found=f"byte {error.object[error.start]:#04x}") from error


def _not_json(path: Path, error: Exception, line: int | None = None) -> InputError:
    if isinstance(error, json.JSONDecodeError):
        where, what = line or error.lineno, f"{error.msg} at column {error.colno}"
    else:
        where, what = line or 1, str(error)
    return InputError(f"{path}:{where}: not valid JSON: {what}.")
