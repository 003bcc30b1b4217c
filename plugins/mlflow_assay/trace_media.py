"""Images of a trace: where its values hold them, and their bytes.

A value holds an image as a `data:` URI, as MLflow's attachment (`mlflow-attachment://…`, what MLflow makes of inline
images of any provider when a trace is recorded), or by its web address in an OpenAI content part. Bytes are read from
the trace and its artifacts only; a web address is handed on for the judge model to look up, and files never are.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_assay.contracts import Unscored, UnscoredError

if TYPE_CHECKING:
    from mlflow.entities import Trace

__all__ = ["Image", "Part", "images_at", "images_in", "part_of", "parts_of", "said", "uri_of", "without_images"]

_ATTACHED, _WEB = "mlflow-attachment://", ("https://", "http://")
_PART_TYPES = ("text", "input_text", "output_text")
_IMAGE_TYPES = ("image_url", "input_image")
_MAX_BYTES = 10 * 2**20  # as MLflow's own judges take them: a larger one would be most of a model's context


@dataclass(frozen=True)
class Image:
    """One image: `data:…;base64,…`, `mlflow-attachment://…` or `https://…`."""

    uri: str


Part = str | Image


def images_in(value: Any) -> list[Image] | None:
    """All images of a value, in the order they are recorded; None where it holds none."""
    return list(_images(value)) or None


def images_at(value: Any) -> list[Image]:
    """Images of a value that is said to be one or a list of them: plain web addresses count, too."""
    listed = value if isinstance(value, list | tuple) else [value]
    found = [[Image(v)] if isinstance(v, str) and v.startswith(_WEB) else list(_images(v)) for v in listed]
    return [image for each in found for image in each]


def parts_of(value: Any, text_of: Callable[[Any], str]) -> tuple[Part, ...]:
    """A value's text and images in order: the content parts of its last message, or its text and then its images.

    Args:
        text_of: how the text of a value without content parts is read.
    """
    content = _content(value)
    if content is not None:
        return tuple(part for each in content for part in _part(each))
    images = images_in(value) or []
    text = text_of(without_images(value)) if images else text_of(value)
    return (*([text] if text else []), *images)


def part_of(text: str) -> tuple[Part, ...]:
    """A text as a part: an image where it is one's URI."""
    return (Image(text),) if _is_image(text) else (text,)


def said(content: Any) -> str | None:
    """Content parts of a message as text, an image as `(image)`; None for content that is no list of parts."""
    if not isinstance(content, list) or not content or not all(_is_part(part) for part in content):
        return None
    words = [part for each in content for part in _part(each)]
    return "\n".join("(image)" if isinstance(word, Image) else word for word in words)


def without_images(value: Any) -> Any:
    """A value without its images, so that nobody is shown their bytes as text; messages' content becomes text."""
    if isinstance(value, str):
        return "(image)" if _is_image(value) else value
    if isinstance(value, Mapping):
        return {key: _worded(key, each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_images(each) for each in value]
    return value


def _worded(key: Any, value: Any) -> Any:
    words = said(value) if key == "content" else None
    return without_images(value) if words is None else words


def uri_of(image: Image, trace: Trace | None) -> str:
    """An image as a judge model takes it: a `data:` URI with its bytes, or its web address.

    Raises:
        UnscoredError: MISSING_FIELD, when its bytes are not to be had or are more than 10 MiB.
    """
    if not image.uri.startswith(_ATTACHED):
        return image.uri
    content_type, data = _attachment(image.uri, trace)
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"


def _attachment(uri: str, trace: Trace | None) -> tuple[str, bytes]:
    from mlflow.tracing.attachments import Attachment
    from mlflow.tracing.client import TracingClient

    about = Attachment.parse_ref(uri) or {}
    if trace is None or not about:
        raise UnscoredError(Unscored.MISSING_FIELD, f"needs the image's bytes (found: {uri[:80]})")
    _check_size(about.get("size"))
    try:
        # Semi-public, as of MLflow 3.17; its own judges read attachments this way.
        repository = TracingClient()._get_artifact_repo_for_trace(trace.info)
        data: bytes = repository.download_trace_attachment(about["attachment_id"])
    except Exception as error:
        raise UnscoredError(
            Unscored.MISSING_FIELD, f"needs the image's bytes (found: {uri[:80]}, {type(error).__name__}: {error:.200})"
        ) from error
    _check_size(len(data))
    return str(about["content_type"]), data


def _check_size(size: Any) -> None:
    if isinstance(size, int) and size > _MAX_BYTES:
        raise UnscoredError(Unscored.MISSING_FIELD, f"needs images of at most {_MAX_BYTES} bytes (found: {size})")


# --- where images are --------------------------------------------------------------------------------------


def _is_image(text: str) -> bool:
    if text.startswith(_ATTACHED):
        return "content_type=image%2F" in text or "content_type=image/" in text
    return text.startswith("data:image/")


def _images(value: Any) -> Iterator[Image]:
    if isinstance(value, str):
        if _is_image(value):
            yield Image(value)
    elif isinstance(value, Mapping):
        if _part_type(value) in _IMAGE_TYPES:
            yield from _shown(value)
        else:
            for each in value.values():
                yield from _images(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _images(each)


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) and _part_type(value) is not None


def _part_type(value: Mapping[Any, Any]) -> str | None:
    found = value.get("type")
    return found if isinstance(found, str) else None


def _shown(part: Mapping[Any, Any]) -> Iterator[Image]:
    """The image of an OpenAI content part, of chat completions or responses."""
    about = part.get("image_url")
    uri = about.get("url") if isinstance(about, Mapping) else about
    if isinstance(uri, str) and (_is_image(uri) or uri.startswith(_WEB)):
        yield Image(uri)


def _part(part: Any) -> Iterator[Part]:
    if isinstance(part, Mapping) and _part_type(part) in _PART_TYPES:
        if part.get("text"):
            yield str(part["text"])
    elif isinstance(part, str):
        yield part
    else:
        yield from _images(part)


def _content(value: Any) -> Sequence[Any] | None:
    """The content parts of a chat completion, of the last of some messages, or the parts themselves."""
    if isinstance(value, Mapping):
        for key in ("choices", "messages"):
            if isinstance(value.get(key), list) and value[key]:
                last = value[key][-1]
                return _content(last.get("message", last) if isinstance(last, Mapping) else last)
        return _content(value["content"]) if isinstance(value.get("content"), list) else None
    if isinstance(value, list) and value and isinstance(value[-1], Mapping):
        if "role" in value[-1]:
            return _content(value[-1])
        return value if all(_is_part(part) for part in value) else None
    return None
