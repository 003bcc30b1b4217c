"""How a version is named: `NAME`, `NAME@latest`, `NAME@v3`, `NAME@golden`, `NAME@4f0c…`, or all that behind a URL."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mlflow_assay.errors import ConfigError

__all__ = ["LATEST", "Reference", "check_alias", "check_name", "parse", "split_url"]

LATEST = "latest"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_VERSION = re.compile(r"v?([1-9][0-9]{0,8})")
_DIGEST = re.compile(r"[0-9a-f]{6,64}")


@dataclass(frozen=True)
class Reference:
    """One reference, taken apart.

    Attributes:
        name: of the dataset.
        at: what stands behind the `@`; `latest` where nothing does.
        version: the version's number where `at` is one.
    """

    name: str
    at: str
    version: int | None

    @property
    def may_be_digest(self) -> bool:
        """Whether `at` could be the start of a digest."""
        return bool(_DIGEST.fullmatch(self.at))


def check_name(name: str) -> str:
    """The name if a dataset may be called so.

    Raises:
        ConfigError: it may not.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"A dataset cannot be called {name!r}.",
            valid="letters, digits, '.', '_', '-', at most 100, a letter or digit first",
        )
    return name


def check_alias(alias: str) -> str:
    """The alias if it can be told from a version number, a digest and `latest`.

    Raises:
        ConfigError: it cannot.
    """
    alias = alias.removeprefix("@")
    taken = alias == LATEST or _VERSION.fullmatch(alias) or _DIGEST.fullmatch(alias)
    if taken or not _NAME.fullmatch(alias):
        raise ConfigError(
            f"An alias cannot be called {alias!r}.",
            valid="a word such as golden; not latest, a version number, or six or more digits of a digest",
        )
    return alias


def parse(reference: str) -> Reference:
    """Take a reference apart.

    Raises:
        ConfigError: the name in it is not valid.
    """
    name, _, at = reference.partition("@")
    at = at or LATEST
    number = _VERSION.fullmatch(at)
    return Reference(check_name(name), at, int(number[1]) if number else None)


def split_url(reference: str) -> tuple[str | None, str]:
    """Store URL and reference of `s3://bucket/datasets/misrouted@v3`; None as the URL of a bare reference."""
    if "/" not in reference:
        return None, reference
    url, _, rest = reference.rpartition("/")
    return url or "/", rest
