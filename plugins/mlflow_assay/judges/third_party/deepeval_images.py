"""Images in DeepEval's test cases: it writes a name into the text, and looks the image up by it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any

from mlflow_assay.contracts import Unscored, UnscoredError
from mlflow_assay.judges.third_party.metric import Metric
from mlflow_assay.judges.third_party.sample import Sample
from mlflow_assay.trace_media import Image, Part, uri_of

__all__ = ["pictured", "shown", "words"]

_NAME = re.compile(r"\[DEEPEVAL:IMAGE:(.*?)\]")


def words(text: str | None) -> str | None:
    """Text of a trace, so that DeepEval takes none of it as one of its references to an image file."""
    return None if text is None else text.replace("[DEEPEVAL:", "[DEEPEVAL :")


def shown(prompt: str, images: Mapping[str, str]) -> Any:
    """A prompt as OpenAI's content parts where it names images of this case; else as it is."""
    parts: list[dict[str, Any]] = []
    for text, name in zip_longest(*[iter(_NAME.split(prompt))] * 2):
        parts.append({"type": "text", "text": text})
        if name in images:
            parts.append({"type": "image_url", "image_url": {"url": images[name]}})
        elif name is not None:
            parts[-1]["text"] += f"[DEEPEVAL:IMAGE:{name}]"
    return parts if len(images) and len(parts) > 1 else prompt


@contextmanager
def pictured(metric: Metric, sample: Sample) -> Iterator[tuple[Any, dict[str, str]]]:
    """A case whose texts name images as DeepEval does, and each image by that name, as the judge model takes it.

    Raises:
        UnscoredError: MISSING_FIELD, there are too few or too many images, or no words beside them.
    """
    from deepeval.test_case import LLMTestCase
    from deepeval.test_case.llm_test_case import _MLLM_IMAGE_REGISTRY

    _check_images(metric, sample)
    named: dict[str, str] = {}
    try:
        parts = sample.input_parts if "input_images" in metric.reads else _said(sample.input_parts)
        asked, answered = (_with_names(each, sample, named) for each in (parts, sample.output_parts))
        yield LLMTestCase(input=asked, actual_output=answered), named
    finally:
        for name in named:
            # DeepEval keeps every image of the process there; it reads them while it measures.
            _MLLM_IMAGE_REGISTRY.pop(name, None)


def _check_images(metric: Metric, sample: Sample) -> None:
    one = {"TextToImageMetric": ("output",), "ImageEditingMetric": ("input", "output")}.get(metric.name)
    for side in one or ():
        found = sum(isinstance(part, Image) for part in getattr(sample, f"{side}_parts"))
        if found != 1:
            raise UnscoredError(Unscored.MISSING_FIELD, f"needs {side}_images: one (found: {found})")
    if one is None and not any(word.strip() for word in _said(sample.output_parts)):
        raise UnscoredError(Unscored.MISSING_FIELD, "needs text beside the images (found: none)")


def _said(parts: Sequence[Part]) -> list[str]:
    return [part for part in parts if isinstance(part, str)]


def _with_names(parts: Sequence[Part], sample: Sample, named: dict[str, str]) -> str:
    return "\n".join(_named(part, sample, named) if isinstance(part, Image) else words(part) or "" for part in parts)


def _named(image: Image, sample: Sample, named: dict[str, str]) -> str:
    """DeepEval's name of an image; its own object of it, which it looks up by that name, is made here."""
    from deepeval.test_case import MLLMImage

    uri = uri_of(image, sample.trace)
    kind, _, data = uri.partition(";base64,")
    theirs = MLLMImage(dataBase64=data, mimeType=kind.removeprefix("data:")) if data else MLLMImage(url=uri)
    named[theirs._id] = uri
    return str(theirs)
