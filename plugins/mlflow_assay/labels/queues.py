"""MLflow's own review queues and label schemas, filled for the experts, on a database URI or through a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mlflow_assay.contracts import BooleanValue, CategoricalValue, JudgeContract, ValueSpec
from mlflow_assay.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from mlflow.genai.label_schemas import LabelSchema
    from mlflow.genai.review_queues import ReviewQueue, ReviewQueueItem

__all__ = [
    "check_queue",
    "ensure_queue",
    "ensure_schema",
    "fill",
    "find_queues",
    "items_of",
    "refused",
    "schema_input",
    "url_of",
]

_PAGE = 200
_MOST_USERS = 10
_LONGEST_INSTRUCTION = 1000  # MLflow's limits
_MOST_OPTIONS = 10


@contextmanager
def refused(what: str) -> Iterator[None]:
    """Turns MLflow's exception into ours.

    Raises:
        StoreError: MLflow refused what is done inside.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise StoreError(f"MLflow refused {what}: {error.message}") from error


def schema_input(contract: JudgeContract | None) -> Any:
    """The question's widget, so that what an expert answers is read on the judge's own scale.

    Thumbs up and down for a judge whose true is good (and for one in no catalogue: pass or fail); no and yes for one
    whose false is good, since a thumb up for "yes, it is bad" misleads; the judge's own options; a number in range.

    Raises:
        ConfigError: the judge has more options than MLflow's widget.
    """
    from mlflow.genai.label_schemas import InputCategorical, InputNumeric, InputPassFail

    value = contract.value if contract is not None else BooleanValue()
    if isinstance(value, BooleanValue):
        return InputPassFail("Pass", "Fail") if value.good else InputCategorical(["no", "yes"])
    if isinstance(value, CategoricalValue):
        if len(value.options) > _MOST_OPTIONS:
            raise ConfigError(
                f"The judge has {len(value.options)} options.", valid=f"up to {_MOST_OPTIONS} in MLflow's review queues"
            )
        return InputCategorical(list(value.options))
    return InputNumeric(min_value=value.low, max_value=value.high)


def instruction(contract: JudgeContract | None) -> str:
    """What the expert reads under the question."""
    why = "Say why in the rationale: the next version of the judge learns from it."
    if contract is None:
        return f"Pass or fail? {why}"
    purpose = contract.purpose.strip()[: _LONGEST_INSTRUCTION - 400]
    return f"{purpose} {_meaning(contract.value)} {why}"


def _meaning(value: ValueSpec) -> str:
    if isinstance(value, BooleanValue):
        return "Pass is good, Fail is bad." if value.good else "No is good, yes is bad."
    if isinstance(value, CategoricalValue):
        apart = f" {_listed(value.undecided)} if it cannot be judged." if value.undecided else ""
        return f"Good is: {_listed(value.good)}.{apart}"
    better = "or more" if value.better == "higher" else "or less"
    kind = "A whole number" if value.integer else "A number"
    return f"{kind} from {value.low:g} to {value.high:g}; {value.threshold:g} {better} is good."


def _listed(words: Sequence[str]) -> str:
    return " or ".join(words)[:200]


def ensure_schema(experiment_id: str, name: str, contract: JudgeContract | None) -> LabelSchema:
    """The experiment's label schema of that name, made if there is none.

    Answers become human feedback under the schema's name, hence it bears the judge's.

    Raises:
        ConfigError: there is one that asks for something else.
        StoreError: MLflow refuses it.
    """
    from mlflow.genai.label_schemas import create_label_schema

    wanted = schema_input(contract)
    found = find_schema(experiment_id, name)
    if found is None:
        with refused(f"the label schema {name!r}"):
            return create_label_schema(
                name,
                type="feedback",
                input=wanted,
                instruction=instruction(contract),
                enable_comment=True,
                experiment_id=experiment_id,
            )
    if str(found.type) != "feedback" or not _asks_the_same(found.input, wanted):
        raise ConfigError(
            f"The experiment has a label schema {name!r} that asks for something else.",
            found=f"{found.type}, {found.input}",
            valid=f"feedback, {wanted}",
            fix="Rename or delete it in MLflow's Review tab.",
        )
    return found


def _asks_the_same(found: Any, wanted: Any) -> bool:
    """Whether answers mean the same; the words on the thumbs may differ."""
    return type(found) is type(wanted) and (hasattr(wanted, "positive_label") or found == wanted)


def find_schema(experiment_id: str, name: str) -> LabelSchema | None:
    """The experiment's label schema of that name, or None."""
    from mlflow.exceptions import MlflowException
    from mlflow.genai.label_schemas import get_label_schema

    try:
        return get_label_schema(name, experiment_id=experiment_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise StoreError(f"MLflow's label schemas could not be read: {error.message}") from error
        return None


def find_queues(experiment_id: str) -> dict[str, ReviewQueue]:
    """The experiment's review queues by lower-case name.

    Raises:
        StoreError: MLflow has no review queues here, or cannot be read.
    """
    from mlflow.genai.review_queues import list_review_queues

    found: dict[str, ReviewQueue] = {}
    token = None
    while True:
        with refused("to list review queues (they need a database behind MLflow)"):
            page = list_review_queues(experiment_id=experiment_id, max_results=_PAGE, page_token=token)
        found |= {queue.name.lower(): queue for queue in page}
        token = page.token
        if not token:
            return found


def check_queue(queue: ReviewQueue, schema_id: str | None, others: bool) -> None:
    """See that a queue that is there already can take our traces.

    Args:
        queue: found by name.
        schema_id: of the question to be asked, None when it does not exist yet.
        others: whether traces are in it already, which freezes its questions.

    Raises:
        ConfigError: it is one person's work list, or asks another question.
    """
    if str(queue.queue_type) == "user":
        raise ConfigError(f"{queue.name!r} is a reviewer's own work list.", fix="Choose another --queue name.")
    if schema_id not in queue.schema_ids and others:
        raise ConfigError(
            f"The review queue {queue.name!r} asks other questions, and MLflow lets none be added once it holds "
            "traces.",
            fix="Choose another --queue name.",
        )


def ensure_queue(experiment_id: str, name: str, schema_id: str, users: Sequence[str] = ()) -> ReviewQueue:
    """The review queue of that name with that question, made if there is none; `users` are added to it.

    Raises:
        ConfigError: there is one that cannot be used, or it would have more reviewers than MLflow allows.
        StoreError: MLflow refuses it.
    """
    from mlflow.genai.review_queues import create_review_queue, update_review_queue

    found = find_queues(experiment_id).get(name.strip().lower())
    together = list(dict.fromkeys([*(found.users if found else []), *(u.strip().lower() for u in users)]))
    if len(together) > _MOST_USERS:
        raise ConfigError(f"The queue {name!r} would have {len(together)} reviewers.", valid=f"up to {_MOST_USERS}")
    with refused(f"the review queue {name!r}"):
        if found is None:
            return create_review_queue(
                name, queue_type="custom", users=together, schema_ids=[schema_id], experiment_id=experiment_id
            )
        missing = schema_id not in found.schema_ids
        if missing:
            check_queue(found, schema_id, bool(items_of(found.queue_id)))
        if missing or together != list(found.users):
            questions = [*found.schema_ids, schema_id] if missing else None
            return update_review_queue(found.queue_id, users=together, schema_ids=questions)
    return found


def url_of(queue: ReviewQueue) -> str | None:
    """Where the queue is worked off in MLflow's Review tab; None on a database URI, where no server is known."""
    import mlflow

    uri = str(mlflow.get_tracking_uri())
    if not uri.startswith(("http://", "https://")):
        return None
    return f"{uri.rstrip('/')}/#/experiments/{queue.experiment_id}/review-queue?selectedQueueId={queue.queue_id}"


def items_of(queue_id: str) -> list[ReviewQueueItem]:
    """All items of a queue with their status.

    Raises:
        StoreError: MLflow cannot be read.
    """
    from mlflow.genai.review_queues import list_review_queue_items

    items: list[ReviewQueueItem] = []
    token = None
    while True:
        with refused("to list a review queue"):
            page = list_review_queue_items(queue_id, max_results=_PAGE, page_token=token)
        items += page
        token = page.token
        if not token:
            return items


def fill(queue: ReviewQueue, trace_ids: Sequence[str]) -> int:
    """Attach traces to a queue; those in it already keep their status.

    Returns:
        How many were not in it before.

    Raises:
        StoreError: MLflow refuses them.
    """
    from mlflow.genai.review_queues import add_items_to_review_queue

    present = {item.item_id for item in items_of(queue.queue_id)}
    new = [i for i in trace_ids if i not in present]
    for start in range(0, len(new), _PAGE):
        with refused(f"traces for the review queue {queue.name!r}"):
            add_items_to_review_queue(queue.queue_id, item_ids=new[start : start + _PAGE])
    return len(new)
