"""Many texts that wait on the local disk: eight bytes each are held in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import overload

import numpy as np
import numpy.typing as npt

__all__ = ["Texts"]


class _Read(Sequence[str], ABC):
    """Texts read one at a time."""

    @abstractmethod
    def _one(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._one(i) for i in range(*index.indices(len(self)))]
        return self._one(index)


class Texts(_Read):
    """Texts in one file, read one at a time; a context manager.

    Args:
        path: of the file, which must not exist.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self._reader = path.open("rb")
        self._ends = array("q", [0])

    def __enter__(self) -> Texts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._reader.close()

    def append(self, text: str) -> None:
        """One more."""
        self._ends.append(self._ends[-1] + self._file.write(text.encode("utf-8", "surrogatepass")))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def _one(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        self._file.flush()
        self._reader.seek(self._ends[index])
        return self._reader.read(self._ends[index + 1] - self._ends[index]).decode("utf-8", "surrogatepass")

    def at(self, places: npt.NDArray[np.int64]) -> Sequence[str]:
        """Those at these places, in their order."""
        return _Some(self, places)


class _Some(_Read):
    def __init__(self, texts: Texts, places: npt.NDArray[np.int64]) -> None:
        self._texts, self._places = texts, places

    def __len__(self) -> int:
        return len(self._places)

    def _one(self, index: int) -> str:
        return self._texts[int(self._places[index])]
