"""Files behind fsspec, with the one thing every store of versions needs: to create a file only if there is none.

How each store does it, and what makes a file appear whole or not at all:

    local folder   written beside, flushed to disk, then linked to its name: `link` fails where the name is taken
    s3://          PUT with `If-None-Match: *` (AWS, MinIO, versitygw, …); an upload in parts appears when completed
    abfs:// az://  PUT with `If-None-Match: *`; a blob appears when its block list is committed
    gs://          upload with `ifGenerationMatch=0`; an object appears when its upload is finalised
    memory://      one process only, for tests
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_assay.errors import ConfigError, StoreError

if TYPE_CHECKING:
    import pyarrow.fs

__all__ = ["EXTRAS", "Blobs", "scheme_of"]

# Scheme to the extra that brings its file system; None where nothing more is needed.
EXTRAS = {"file": None, "memory": None, "s3": "s3", "abfs": "azure", "abfss": "azure", "az": "azure", "gs": "gcs"}

_PROBE = ".assay"
_FRESH = {"skip_instance_cache": True}
# Their file system closes its connections at the end of the process only, so one is made for each environment.
_LASTING = ("abfs", "abfss", "az")


def scheme_of(url: str) -> str:
    """`s3` of `s3://bucket/folder`; `file` of a plain path."""
    return url.split("://", 1)[0] if "://" in url else "file"


class Blobs:
    """The files under one URL.

    Args:
        url: a local folder, or a URL of one of the schemes above.

    Raises:
        ConfigError: no such scheme, or the package for it is not installed.
    """

    def __init__(self, url: str) -> None:
        self.scheme = scheme_of(url)
        if self.scheme not in EXTRAS:
            raise ConfigError(
                f"Datasets cannot be kept at {url!r}: it is not known how {self.scheme}:// creates a file only once.",
                valid=["a local folder", *(f"{s}://" for s in EXTRAS)],
            )
        if self.scheme == "file":
            if (meant := url.partition(":")[0]) in EXTRAS and not url.startswith("file://"):
                raise ConfigError(f"The store {url!r} is no URL.", valid=f"{meant}://…", fix="Write two slashes.")
            url = str(Path(url.removeprefix("file://")).expanduser().absolute())
        self.url = url.rstrip("/") or "/"
        self._fs, self._root = self._connect()
        self._exclusive = self.scheme == "file"

    def _connect(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        try:
            # fsspec would hand out a file system made earlier in this process, with the address and the credentials
            # there were then.
            fs, root = _lasting(self.url, _now()) if self.scheme in _LASTING else url_to_fs(self.url, **_FRESH)
        except ImportError as error:
            raise ConfigError(
                f"Datasets at {self.url} need a package that is not installed: {error}.",
                fix=f"pip install 'mlflow-assay[{EXTRAS[self.scheme]}]'",
            ) from error
        return fs, str(root).rstrip("/")

    def path(self, path: str) -> str:
        """The full path of a file within its file system."""
        return f"{self._root}/{path}"

    def arrow_filesystem(self) -> pyarrow.fs.FileSystem:
        """The same files for Arrow."""
        from pyarrow import fs

        return fs.LocalFileSystem() if self.scheme == "file" else fs.PyFileSystem(fs.FSSpecHandler(self._fs))

    def names(self, folder: str, *, unfinished: bool = False) -> list[str]:
        """Names of what lies in a folder, sorted; empty where there is no such folder.

        Args:
            unfinished: those a killed writer left half written instead, which are no files of the store.
        """
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(self.path(folder) if folder else self._root, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except Exception as error:
            raise self._unreachable(error) from error
        names = {str(path).rstrip("/").rsplit("/", 1)[-1] for path in found}
        return sorted(n for n in names - {folder.rsplit("/", 1)[-1]} if n.startswith(".") == unfinished)

    def read(self, path: str) -> bytes | None:
        """A file's bytes; None where there is no such file."""
        try:
            return bytes(self._fs.cat_file(self.path(path)))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._unreachable(error) from error

    def size(self, path: str) -> int | None:
        """A file's size in bytes; None where there is no such file."""
        self._fs.invalidate_cache()
        try:
            return int(self._fs.info(self.path(path))["size"])
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._unreachable(error) from error

    def create(self, path: str, data: bytes) -> bool:
        """Create a small file whole, unless there is one; in one step, however many try at once.

        Returns:
            False if the file was there before. One with the very same bytes counts as created: the answer to our
            own attempt may have been lost.
        """
        if self.scheme == "file":
            created = self._link(path, data)
        else:
            created = self._create_remote(path, data)
        return created or self.read(path) == data

    def require_exclusive(self) -> None:
        """See, once, that the store refuses to create a file that is there: some that speak S3 do not look at it.

        A small file `.assay` stays in the store.

        Raises:
            StoreError: it does not refuse; nothing was written but that file.
        """
        if self._exclusive:
            return
        self._create_remote(_PROBE, b"created once")
        if self._create_remote(_PROBE, b"created twice"):
            raise StoreError(
                f"{self.url} lets a file be created twice, so two writers could lose one another's versions.",
                found=f"{self.scheme}:// without a conditional put",
                fix="Use a store that has it (AWS S3, MinIO, Azure Blob, Google Cloud Storage, a local folder).",
            )
        self._exclusive = True

    def put(self, path: str, local: Path) -> None:
        """Put a local file's bytes under a name that stands for exactly these bytes; it appears whole.

        Raises:
            StoreError: it did not arrive whole.
        """
        size = local.stat().st_size
        if self.scheme == "file":
            self._copy(local, Path(self.path(path)))
        else:
            try:
                self._fs.put_file(str(local), self.path(path))
            except Exception as error:
                raise self._unreachable(error) from error
        if (found := self.size(path)) != size:
            raise StoreError(f"{self.url}/{path} did not arrive whole.", found=f"{found} of {size} bytes")

    def fetch(self, path: str, local: Path) -> None:
        """A file's bytes into a local file.

        Raises:
            StoreError: there is no such file.
        """
        try:
            self._fs.get_file(self.path(path), str(local))
        except FileNotFoundError as error:
            raise StoreError(f"{self.url}/{path} is gone.", fix="Restore the store from its backup.") from error
        except Exception as error:
            raise self._unreachable(error) from error

    def remove(self, path: str) -> None:
        """Remove a file."""
        self._fs.rm_file(self.path(path))

    def modified(self, path: str) -> float:
        """When a file was written, epoch seconds."""
        return float(self._fs.modified(self.path(path)).timestamp())

    def _create_remote(self, path: str, data: bytes) -> bool:
        try:
            self._fs.pipe_file(self.path(path), data, mode="create")
        except FileExistsError:
            return False
        except Exception as error:
            # S3 answers 412, or 409 while another writer is at it; what counts is whether the file is there now.
            if self.size(path) is not None:
                return False
            raise self._unreachable(error) from error
        return True

    def _link(self, path: str, data: bytes) -> bool:
        target = Path(self.path(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.parent / f".{target.name}.{uuid.uuid4().hex}"
        try:
            with beside.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.link(beside, target)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise StoreError(
                    f"The file system of {self._root} has no hard links, so no version can be made there safely.",
                    fix="Use another folder, or an object store.",
                ) from error
            raise self._unreachable(error) from error
        finally:
            beside.unlink(missing_ok=True)
        _flush_folder(target.parent)
        return True

    def _copy(self, local: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.parent / f".{target.name}.{uuid.uuid4().hex}"
        try:
            shutil.copyfile(local, beside)
            with beside.open("rb") as file:
                os.fsync(file.fileno())
            beside.replace(target)
        except OSError as error:
            raise self._unreachable(error) from error
        finally:
            beside.unlink(missing_ok=True)
        _flush_folder(target.parent)

    def _unreachable(self, error: Exception) -> StoreError:
        # One line is enough to go on; more of it may show a request with its signature.
        said = str(error).strip().splitlines()[0][:200].rstrip(".") if str(error).strip() else ""
        return StoreError(
            f"The dataset store {self.url} cannot be used: {type(error).__name__}: {said}.",
            fix="Check the address, the credentials in the environment, and that bucket or container exist.",
        )


@lru_cache(maxsize=32)
def _lasting(url: str, environment: frozenset[tuple[str, str]]) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    fs, root = url_to_fs(url, **_FRESH)
    return fs, str(root)


def _now() -> frozenset[tuple[str, str]]:
    """What of the environment the Azure file system and its credentials may read."""
    return frozenset((k, v) for k, v in os.environ.items() if k.startswith(("AZURE_", "FSSPEC_", "IDENTITY_", "MSI_")))


def _flush_folder(folder: Path) -> None:
    """So that a name survives a power cut; not every platform opens folders."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
