"""The router's prompt, and how the demo agent reads it. Simulated: no model is called.

The prompt lives in MLflow's prompt registry like any other. The agent parses desks, descriptions and the
fallback out of its text at run time, so that a better prompt really changes what the agent does. The first
version has the fault of the demo: it describes no product desk and sends whatever fits nowhere to billing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mlflow_assay.errors import ConfigError

if TYPE_CHECKING:
    from mlflow.entities.model_registry import PromptVersion

__all__ = [
    "ALIAS",
    "DESKS",
    "FIRST_PROMPT",
    "PROMPT_NAME",
    "REPAIRED_PROMPT",
    "RouterPrompt",
    "load",
    "parse",
    "register",
]

DESKS: Final = ("account", "product", "billing", "technical_support")
PROMPT_NAME: Final = "telecom_router"
ALIAS: Final = "production"

FIRST_PROMPT: Final = """\
You are the front desk of a telecom company. Send each customer request to the one desk that can solve it.

Desks:
- account: who the customer is. Change of name, address, e-mail or bank details; login and password of the
  customer portal; PIN, PUK and blocking a lost or stolen SIM; transfer to another person, authorised persons;
  porting or changing the phone number; cancelling, termination and notice period; personal data and consent.
- billing: invoices and payments. Unexpected charges, a bill that is higher than usual, balance, due dates, refunds
  and credits, direct debit, transfers and cards, receipts, late fees and reminders, instalments, discounts, roaming
  charges, prices, offers and what a contract costs.
- technical_support: service that does not work. Internet down or slow, wifi, router lights, no signal or mobile data,
  outages and maintenance, dropped calls, voicemail and text messages, SIM not recognised, settings, technician
  visits, line tests, errors after an update.

If a request fits no desk, choose billing, because billing can see the whole contract.

Conversation so far:
{{conversation}}

Request: {{request}}

Answer with the name of the desk and nothing else.
"""

# What a person wrote after reading the failures: the missing desk, described. (A prompt found by an optimizer will
# take its place; this one was written by hand, and the demo says so.)
REPAIRED_PROMPT: Final = FIRST_PROMPT.replace(
    "- technical_support:",
    """\
- product: phones, watches, tablets and plans on sale. Which phone or device to choose, comparing models, what a
  device supports (camera, battery, storage, colours, eSIM), stock, delivery, pre-order and launch of a new phone,
  upgrade and trade-in, insurance; plans and tariffs: what they include, data allowance, changing plan, family
  bundles, travel pass, home internet, fibre and TV offers.
- technical_support:""",
)

_DESK = re.compile(r"^- (?P<name>[A-Za-z_][\w-]*):[ \t]*(?P<text>.*(?:\n[ \t]+\S.*)*)", re.MULTILINE)
_FALLBACK = re.compile(r"fits no desk, choose (?P<name>[A-Za-z_][\w-]*)", re.IGNORECASE)


@dataclass(frozen=True)
class RouterPrompt:
    """What the router takes from a prompt.

    Attributes:
        text: the whole template, with `{{request}}` and optionally `{{conversation}}`.
        categories: desk -> description (examples on indented lines below a desk belong to it).
        fallback: the desk for a request that resembles no description.
        version: the registered version, None for a text that is not registered.
    """

    text: str
    categories: dict[str, str]
    fallback: str
    version: PromptVersion | None = None


def parse(text: str, version: PromptVersion | None = None) -> RouterPrompt:
    """Read the desks out of a prompt: lines `- desk: description`, continued by indented lines.

    The fallback is the desk named in "fits no desk, choose …"; without that sentence it is the first desk.

    Raises:
        ConfigError: no desk is described, a desk does not exist in the company or comes twice, or the
            template has no `{{request}}`.
    """
    found = [(m["name"], " ".join(m["text"].split())) for m in _DESK.finditer(text)]
    names = [name for name, _ in found]
    fallback = match["name"] if (match := _FALLBACK.search(text)) else next(iter(names), "")
    stray = sorted({name for name in [*names, fallback] if name not in DESKS} | _twice(names))
    if not found or stray:
        raise ConfigError(
            "The router's prompt must describe each desk once on a line '- desk: description'.",
            found=", ".join(stray) or "no such line",
            valid=DESKS,
        )
    if not re.search(r"\{\{\s*request\s*\}\}", text):
        raise ConfigError("The router's prompt has no place for the request.", fix="Put {{request}} into it.")
    return RouterPrompt(text, dict(found), fallback, version)


def _twice(names: list[str]) -> set[str]:
    return {name for name in names if names.count(name) > 1}


def register(text: str = FIRST_PROMPT, name: str = PROMPT_NAME) -> PromptVersion:
    """The registered version of this text; registers one if no version has it.

    The alias `production` is put on a prompt that has none and never moved here.

    Raises:
        ConfigError: the text is not a usable router prompt.
    """
    import mlflow

    parse(text)
    client = mlflow.MlflowClient()
    known = client.search_prompt_versions(name) if client.get_prompt(name) else []
    for version in known:
        if version.template == text:
            return version
    made = mlflow.genai.register_prompt(name=name, template=text, commit_message="Router of the demo agent.")
    if not known:
        client.set_prompt_alias(name, ALIAS, made.version)
    return made


def load(uri: str) -> RouterPrompt:
    """Load a registered prompt, for example `prompts:/telecom_router@production`, and parse it.

    Raises:
        ConfigError: it is not a usable router prompt.
    """
    import mlflow

    version = mlflow.genai.load_prompt(uri, link_to_model=False)
    return parse(str(version.template), version)
