"""The made-up telecom company: its customers, devices, plans and the tools that its desks call.

Everything is invented and kept in memory; a call changes nothing. Customers are drawn once from a fixed seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

__all__ = ["TOOLS", "Telecom", "ToolError", "catalogue", "read_data", "tool_schema"]

_DATA = Path(__file__).parent / "data"
_MONTHS = ("January", "March", "April", "June", "August", "September", "November")


class ToolError(Exception):
    """A tool of the demo company failed; the message is what its back end would have answered."""


@cache
def read_data(name: str) -> dict[str, Any]:
    """One of the demo's data files, by name without suffix: `requests`, `customers`, `knowledge`."""
    data: dict[str, Any] = yaml.safe_load((_DATA / f"{name}.yaml").read_text(encoding="utf-8"))
    return data


def catalogue() -> dict[str, Any]:
    """Names, plans, devices and slot values of the company."""
    return read_data("customers")


def _customer(number: int, name: str) -> dict[str, Any]:
    draw = random.Random(f"customer {number}")  # noqa: S311 - a demo, not a secret
    plan = draw.choice(list(catalogue()["plans"]))
    return {
        "customer": f"C-{1001 + number}",
        "name": name,
        "number": f"+00 555 01{number:02d}",
        "plan": plan,
        "price": catalogue()["plans"][plan]["price"],
        "city": draw.choice(catalogue()["slots"]["city"]),
        "contract_end": f"20{draw.randint(27, 28)}-{draw.randint(1, 12):02d}-01",
        "months": draw.sample(_MONTHS, k=5),
    }


class Telecom:
    """The company's back end: one method a tool, each returning a JSON-like dict.

    Every tool takes keyword arguments and raises `ToolError` where a real back end would answer with an error.
    """

    def __init__(self) -> None:
        everyone = [_customer(number, name) for number, name in enumerate(catalogue()["names"])]
        self._customers = {person["customer"]: person for person in everyone}

    def customers(self) -> list[str]:
        """Ids of all customers."""
        return list(self._customers)

    def call(self, tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Run a tool by name.

        Raises:
            ToolError: the tool does not exist or refuses the arguments.
        """
        if tool not in TOOLS:
            raise ToolError(f"no tool named {tool!r}")
        method: Callable[..., dict[str, Any]] = getattr(self, tool)
        return method(**arguments)

    def get_account(self, customer: str) -> dict[str, Any]:
        """Name, plan, number and contract end of a customer."""
        found = self._find(customer)
        return {key: found[key] for key in ("customer", "name", "number", "plan", "city", "contract_end")}

    def get_invoice(self, customer: str, month: str | None = None) -> dict[str, Any]:
        """One month's invoice, or the latest."""
        found = self._find(customer)
        if month is not None and month not in found["months"]:
            raise ToolError(f"404 no invoice for {month}")
        month = month or found["months"][-1]
        draw = random.Random(f"{customer} {month}")  # noqa: S311 - a demo, not a secret
        extra = draw.choice((0.0, 0.0, 4.9, 12.5, 23.0, 38.4))
        items = f"{found['plan']} {found['price']:.2f}" + (f", roaming and services {extra:.2f}" if extra else "")
        return {
            "month": month,
            "total": round(found["price"] + extra, 2),
            "items": items,
            "due": f"the {draw.choice((10, 12, 14, 18, 20, 25, 27))}th",
            "status": draw.choice(("open", "paid", "open")),
        }

    def open_dispute(self, customer: str, month: str | None = None) -> dict[str, Any]:
        """Put an invoice under review."""
        return {"dispute": _reference("D", customer, str(month)), "state": "under review"}

    def list_plans(self) -> dict[str, Any]:
        """All plans on offer, with price and data."""
        plans: dict[str, Any] = catalogue()["plans"]
        lines = [f"{name} ({p['price']:.2f} euros, {p['data_gb']} GB)" for name, p in plans.items()]
        return {"summary": "; ".join(lines), "roaming": sorted({p["roaming"] for p in plans.values()})[-1]}

    def check_device(self, name: str) -> dict[str, Any]:
        """Price, storage, colours and stock of a device."""
        devices: dict[str, Any] = catalogue()["devices"]
        if name not in devices:
            raise ToolError(f"404 no device named {name}")
        return {"name": name, **devices[name], "colours": " and ".join(devices[name]["colours"])}

    def run_line_test(self, customer: str) -> dict[str, Any]:
        """Measure the customer's line."""
        self._find(customer)
        draw = random.Random(f"line {customer}")  # noqa: S311 - a demo, not a secret
        result = draw.choice(("no fault found", "high attenuation near the house", "box not reachable"))
        return {"result": result, "megabits": draw.choice((28, 94, 236))}

    def check_outage(self, city: str) -> dict[str, Any]:
        """Known outages and maintenance in a city."""
        draw = random.Random(f"outage {city}")  # noqa: S311 - a demo, not a secret
        return {"city": city, "state": draw.choice(("no known outage", "planned maintenance until 6 in the morning"))}

    def reset_login(self, customer: str) -> dict[str, Any]:
        """Send a new login link."""
        first = self._find(customer)["name"].split()[0].lower()
        return {"sent_to": f"{first[0]}***@example.org"}

    def block_sim(self, customer: str) -> dict[str, Any]:
        """Block the SIM in use and send a new one."""
        self._find(customer)
        return {"status": "blocked, a new one is on its way"}

    def update_account(self, customer: str, field: str) -> dict[str, Any]:
        """Record a change of the customer's data or contract."""
        return {"confirmation": _reference("U", customer, field), "field": field}

    def open_ticket(self, customer: str, summary: str) -> dict[str, Any]:
        """Hand the case to a person."""
        return {"ticket": _reference("T", customer, summary)}

    def _find(self, customer: str) -> dict[str, Any]:
        if customer not in self._customers:
            raise ToolError(f"404 no customer {customer}")
        return self._customers[customer]


def _reference(prefix: str, *parts: str) -> str:
    return f"{prefix}-{random.Random(' '.join(parts)).randint(10000, 99999)}"  # noqa: S311 - a demo


# tool -> its required arguments; `tool_schema` derives what an agent shows its model
TOOLS: dict[str, tuple[str, ...]] = {
    "get_account": ("customer",),
    "get_invoice": ("customer",),
    "open_dispute": ("customer",),
    "list_plans": (),
    "check_device": ("name",),
    "run_line_test": ("customer",),
    "check_outage": ("city",),
    "reset_login": ("customer",),
    "block_sim": ("customer",),
    "update_account": ("customer", "field"),
    "open_ticket": ("customer", "summary"),
}


def tool_schema(tool: str) -> dict[str, Any]:
    """A tool's definition in the form chat models take."""
    description = (getattr(Telecom, tool).__doc__ or "").strip()
    required = TOOLS[tool]
    parameters = {"type": "object", "properties": {name: {"type": "string"} for name in required}}
    return {
        "type": "function",
        "function": {
            "name": tool,
            "description": description,
            "parameters": {**parameters, "required": list(required)},
        },
    }
