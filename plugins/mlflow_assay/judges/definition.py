"""Judge definitions: one YAML file is one judge. Data only: loading executes no code.

A definition says one of `instructions` (it becomes an MLflow `make_judge` judge), `uses` (a judge of an installed
library, with parameters), `panel` and `cascade` (other judges, asked together or one after the other). Everything is
checked strictly, and an error names file, line, what was found and what is valid.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mlflow_assay import trace_fields
from mlflow_assay.contracts import (
    BooleanValue,
    CategoricalValue,
    JudgeContract,
    NumericValue,
    Unscored,
    UnscoredError,
    ValueSpec,
)
from mlflow_assay.errors import ConfigError, DefinitionError
from mlflow_assay.judges.composite_spec import CascadeSpec, MemberSpec, PanelSpec

__all__ = ["Case", "CaseSpan", "CaseTurn", "JudgeDefinition", "line_of", "load", "load_folder", "loads", "schema"]

MLFLOW_VARIABLES = ("inputs", "outputs", "expectations", "trace", "conversation")
_VARIABLE = re.compile(r"\{\{\s*([\w.]+)\s*\}\}")
_MAX_BYTES, _MAX_DEPTH = 1_000_000, 50
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where it is there; neither runs code


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Boolean(_Strict):
    type: Literal["boolean"]
    good: bool = Field(True, description="The value that passes.")

    def spec(self) -> ValueSpec:
        return BooleanValue(self.good)


class _Categorical(_Strict):
    type: Literal["categorical"]
    options: list[str] = Field(min_length=2, description="Every word the judge may answer; quote yes and no.")
    good: list[str] = Field(min_length=1, description="The options that pass.")
    undecided: list[str] = Field(
        default_factory=list, description="Options that are no verdict: cannot tell, does not apply."
    )

    @field_validator("options", "good", "undecided", mode="before")
    @classmethod
    def _no_booleans(cls, value: Any) -> Any:
        if isinstance(value, list) and any(isinstance(v, bool) for v in value):
            raise ValueError('YAML reads bare yes, no, on and off as booleans; quote them: ["yes", "no"]')
        return value

    @model_validator(mode="after")
    def _consistent(self) -> _Categorical:
        _as_value_error(self.spec)
        return self

    def spec(self) -> ValueSpec:
        return CategoricalValue(tuple(self.options), tuple(self.good), tuple(self.undecided))


class _Numeric(_Strict):
    type: Literal["numeric"]
    low: float
    high: float
    threshold: float = Field(description="Passes at or beyond this value, on the better side.")
    better: Literal["higher", "lower"] = "higher"
    integer: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> _Numeric:
        _as_value_error(self.spec)
        return self

    def spec(self) -> ValueSpec:
        return NumericValue(self.low, self.high, self.threshold, self.better, self.integer)


class _Variable(_Strict):
    description: str = Field(min_length=1)
    default: str | None = Field(None, description="Without a default the user must give the text.")
    example: str | None = Field(None, description="The text the cases are written for; needed without a default.")


class CaseSpan(_Strict):
    """A span below the root of a case's trace."""

    name: str
    type: Literal["AGENT", "CHAT_MODEL", "TOOL", "RETRIEVER", "CHAIN", "UNKNOWN"] = "TOOL"
    inputs: Any = None
    outputs: Any = None
    error: str | None = Field(None, description="The exception's message; the span then has status ERROR.")
    seconds: float = Field(0.1, ge=0)
    attributes: dict[str, Any] = Field(default_factory=dict)


class CaseTurn(_Strict):
    """One trace of a session, for session-level judges."""

    inputs: Any = None
    outputs: Any = None
    spans: list[CaseSpan] = Field(default_factory=list)


class Case(CaseTurn):
    """A trace with the verdict it must get."""

    name: str = Field(min_length=1)
    kind: Literal["good", "bad", "unscorable"]
    expectations: dict[str, Any] = Field(default_factory=dict)
    tags: dict[str, str] = Field(default_factory=dict)
    turns: list[CaseTurn] = Field(default_factory=list, description="Session-level: the session's traces.")
    expect: bool | int | float | str | None = Field(None, description="The value a good or bad case must get.")
    unscored: Unscored | None = Field(None, description="The reason an unscorable case must give.", strict=False)
    reply: str | None = Field(None, description="The raw model reply the offline fake gives for this case.")

    @model_validator(mode="after")
    def _has_verdict(self) -> Case:
        if self.kind == "unscorable":
            if self.unscored is None or self.expect is not None:
                raise ValueError(
                    f"an unscorable case needs `unscored`, one of {[u.value for u in Unscored]}, and no `expect`"
                )
        elif self.expect is None or self.unscored is not None:
            raise ValueError(f"a {self.kind} case needs `expect`, the value it must get, and no `unscored`")
        return self


class JudgeDefinition(_Strict):
    """A judge as a YAML file says it."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{1,99}$", description="The assessment's name in MLflow.")
    purpose: str = Field(min_length=10, description="One sentence: the question this judge answers.")
    version: str = Field("1", description="Change it whenever old verdicts stop being comparable.")
    scope: Literal["trace", "session"] = "trace"
    value: Annotated[_Boolean | _Categorical | _Numeric, Field(discriminator="type")]
    instructions: str | None = Field(
        None, min_length=20, description="What the model is told; uses {{ inputs }} and so on."
    )
    uses: str | None = Field(None, description="A judge of an installed library: `library/Name`.")
    with_: dict[str, Any] = Field(default_factory=dict, alias="with", description="Parameters of `uses`.")
    panel: PanelSpec | None = Field(None, description="Judges that vote.")
    cascade: CascadeSpec | None = Field(None, description="Judges asked one after the other, cheap ones first.")
    needs: list[str] = Field(default_factory=list, description="Fields without which a trace is unscored.")
    fields: dict[Literal["inputs", "outputs"], dict[str, str]] = Field(
        default_factory=dict, description="Trace fields mapped onto {{ inputs }} and {{ outputs }}."
    )
    variables: dict[str, _Variable] = Field(
        default_factory=dict, description="Texts the user may set, such as a policy."
    )
    model: str | None = Field(None, pattern=r"^[\w.-]+:/.+$", description="Default judge model, as an MLflow URI.")
    parameters: dict[str, Any] = Field(default_factory=dict, description="Generation parameters, such as temperature.")
    rationale_first: bool = Field(True, description="Ask for the reasons before the verdict.")
    notes: str = Field("", description="For the catalogue: sources, limits, the MLflow judge it wraps.")
    learnt_from: list[str] = Field(
        default_factory=list,
        description="Ids of traces whose labels it learnt from; left out of agreement and of corrected numbers.",
    )
    cases: list[Case] = Field(default_factory=list)

    @field_validator("needs")
    @classmethod
    def _known_needs(cls, needs: list[str]) -> list[str]:
        known = ("inputs", "outputs", "expectations", "spans", "tools", "retrieved", "session")
        for need in needs:
            if need not in known and not need.startswith(("expectations.", "inputs.", "outputs.")):
                raise ValueError(
                    f"unknown field {need!r}; valid: {', '.join(known)}, expectations.KEY, inputs.KEY, outputs.KEY"
                )
        return needs

    @field_validator("fields")
    @classmethod
    def _known_fields(cls, mapping: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        for side in mapping.values():
            for field in side.values():
                _as_value_error(lambda field=field: trace_fields.check(field))
        return mapping

    @model_validator(mode="after")
    def _one_kind(self) -> JudgeDefinition:
        kinds = ("instructions", "uses", "panel", "cascade")
        if sum(getattr(self, kind) is not None for kind in kinds) != 1:
            raise ValueError("give exactly one of `instructions`, `uses`, `panel` and `cascade`")
        if self.composite is not None:
            self._check_composite(self.composite.kind)
        if self.with_ and self.uses is None:
            raise ValueError("`with` holds parameters of `uses`; there is no `uses` here")
        if self.instructions is not None:
            self._check_template(self.instructions)
        self._check_cases()
        return self

    def _check_composite(self, kind: str) -> None:
        for key in ("fields", "variables", "model", "parameters"):
            if getattr(self, key):
                raise ValueError(f"`{key}` is for the members of a {kind} to say, each in its own definition")

    def _check_template(self, text: str) -> None:
        used = set(_VARIABLE.findall(text))
        unknown = used - set(MLFLOW_VARIABLES) - set(self.variables)
        if unknown:
            raise ValueError(
                f"instructions use {{{{ {sorted(unknown)[0]} }}}}, which is neither one of MLflow's variables "
                f"({', '.join(MLFLOW_VARIABLES)}) nor declared under `variables`"
            )
        if not used & set(MLFLOW_VARIABLES):
            raise ValueError(f"instructions need at least one of {{{{ {' }}, {{ '.join(MLFLOW_VARIABLES)} }}}}")
        if unused := set(self.variables) - used:
            raise ValueError(f"`variables` declares {sorted(unused)[0]!r}, which the instructions never use")
        if "conversation" in used and used & {"inputs", "outputs", "trace"}:
            raise ValueError("{{ conversation }} goes only with {{ expectations }}, not with inputs, outputs or trace")
        if ("conversation" in used) != (self.scope == "session"):
            raise ValueError("`scope: session` and {{ conversation }} belong together")

    def _check_cases(self) -> None:
        spec = self.value.spec()
        for name, variable in self.variables.items():
            if self.cases and variable.default is None and variable.example is None:
                raise ValueError(f"the variable {name!r} has no default, so the cases need its `example`")
        names = [case.name for case in self.cases]
        for case in self.cases:
            if names.count(case.name) > 1:
                raise ValueError(f"two cases are named {case.name!r}")
            if case.expect is None:
                continue
            try:
                value = spec.read(case.expect)
            except UnscoredError as error:
                raise ValueError(f"case {case.name!r}: expect is off the menu: {error}") from error
            if spec.passes(value) != (case.kind == "good"):  # type: ignore[arg-type]
                raise ValueError(f"case {case.name!r} is {case.kind}, but by the pass rule {case.expect!r} is not")

    @property
    def composite(self) -> PanelSpec | CascadeSpec | None:
        """What it says of other judges it is made of; None for a judge that is not."""
        return self.panel or self.cascade

    @property
    def template_variables(self) -> tuple[str, ...]:
        """MLflow's variables the instructions use, in order of appearance; empty for `uses`."""
        found = _VARIABLE.findall(self.instructions or "")
        return tuple(dict.fromkeys(v for v in found if v in MLFLOW_VARIABLES))

    def required_fields(self) -> tuple[str, ...]:
        """`needs` as written plus what the template variables imply."""
        implied = {
            "inputs": "inputs",
            "outputs": "outputs",
            "expectations": "expectations",
            "trace": "spans",
            "conversation": "session",
        }
        return tuple(dict.fromkeys([*(implied[v] for v in self.template_variables), *self.needs]))

    def field_map(self) -> dict[str, dict[str, str]]:
        """`fields` as plain dictionaries."""
        return {side: dict(mapping) for side, mapping in self.fields.items()}

    def render(self, texts: Mapping[str, str]) -> str:
        """The instructions with the user's texts (or the defaults) put in; MLflow's variables stay.

        Raises:
            ConfigError: a text is neither given nor defaulted, or one is given that is not declared.
        """
        if stray := sorted(set(texts) - set(self.variables)):
            raise ConfigError(f"The judge {self.name!r} has no variable {stray[0]!r}.", valid=self.variables)
        values = {name: texts.get(name, spec.default) for name, spec in self.variables.items()}
        for name, text in values.items():
            if text is None:
                raise ConfigError(
                    f"The judge {self.name!r} needs the text {name!r}: {self.variables[name].description}",
                    fix=f"Give it with --set {self.name}.{name}=TEXT or --set {self.name}.{name}=@FILE.",
                )

        def put(match: re.Match[str]) -> str:
            text = values.get(match.group(1))
            return match.group(0) if text is None else text.strip().replace("{{", "{ {").replace("}}", "} }")

        return _VARIABLE.sub(put, (self.instructions or "").strip())

    def contract(self, origin: str) -> JudgeContract:
        """What the judge declares to the engine; for `uses` the library fills in the rest."""
        library = (self.uses or "").partition("/")[0]
        return JudgeContract(
            name=self.name,
            purpose=self.purpose,
            value=self.value.spec(),
            version=self.version,
            scope=self.scope,
            needs=self.required_fields(),
            kind=self.composite.kind if self.composite else library or "instructions",
            calls_llm=self.uses is None,
            origin=origin,
            notes=self.notes,
            learnt_from=tuple(self.learnt_from),
        )


def _as_value_error(check: Any) -> None:
    try:
        check()
    except ConfigError as error:
        raise ValueError(str(error)) from error


# --- reading files -------------------------------------------------------------------------------------


def load(path: Path) -> JudgeDefinition:
    """Read one definition.

    Raises:
        DefinitionError: `file:line:` what was found and what is valid.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DefinitionError(f"{path}:1: cannot be read: {error}.") from error
    return loads(text, str(path))


def loads(text: str, name: str = "<text>") -> JudgeDefinition:
    """Read one definition from a string; `name` stands for the file in errors."""
    if len(text) > _MAX_BYTES:
        raise DefinitionError(f"{name}:1: a definition is at most {_MAX_BYTES} characters.", found=len(text))
    try:
        node, data = _parse(text, name)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise DefinitionError(f"{name}:{line}: not valid YAML: {getattr(error, 'problem', error)}.") from error
    if not isinstance(data, dict):
        raise DefinitionError(f"{name}:1: a definition is a mapping of keys to values.", found=type(data).__name__)
    try:
        return JudgeDefinition.model_validate(data)
    except ValidationError as error:
        raise DefinitionError("\n".join(_explain(error, node, name, text))) from error


def line_of(path: Path, *keys: str) -> int:
    """The line (from 1) on which the first of these top-level keys that a definition file has stands; else 1."""
    node = yaml.compose(path.read_text(encoding="utf-8"), Loader=_LOADER)
    entries = (
        {key.value: key.start_mark.line + 1 for key, _ in node.value} if isinstance(node, yaml.MappingNode) else {}
    )
    return next((entries[key] for key in keys if key in entries), 1)


def load_folder(folder: Path) -> Iterator[tuple[Path, JudgeDefinition]]:
    """Every `*.yaml` and `*.yml` of a folder, sorted by name.

    Raises:
        DefinitionError: the folder does not exist, or a file in it is not a valid definition.
    """
    if not folder.is_dir():
        raise DefinitionError(f"{folder}: there is no such folder of judge definitions.")
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".yaml", ".yml")):
        yield path, load(path)


def schema() -> dict[str, Any]:
    """JSON Schema of a definition, for editors; checked in as `judges/schema.json`."""
    found = JudgeDefinition.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **json.loads(json.dumps(found))}


def _parse(text: str, name: str) -> tuple[yaml.Node | None, Any]:
    """The document as nodes, which know their lines, and as plain data."""
    _refuse_hostile(text, name)
    loader = _LOADER(text)
    try:
        node = loader.get_single_node()
        _refuse_surprises(node, name)
        return node, loader.construct_document(node) if node is not None else None
    finally:
        loader.dispose()


def _refuse_hostile(text: str, name: str) -> None:
    """Refuse what makes a small file endless work: `*alias`, and absurd nesting."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            raise DefinitionError(
                f"{name}:{line}: YAML aliases are not allowed.", found=f"*{event.anchor}", fix="Write the value out."
            )
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise DefinitionError(f"{name}:{line}: the YAML is nested more than {_MAX_DEPTH} levels deep.")


def _refuse_surprises(node: yaml.Node | None, name: str) -> None:
    """Refuse duplicate keys, which YAML would silently merge, wherever they stand."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise DefinitionError(f"{name}:{key.start_mark.line + 1}: the key {key.value!r} stands twice.")
            seen.add(key.value)
            _refuse_surprises(value, name)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_surprises(value, name)


def _explain(error: ValidationError, node: yaml.Node | None, name: str, text: str) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        path = [p for p in problem["loc"] if p not in ("boolean", "categorical", "numeric")]
        where = ".".join(str(p) for p in path) or "the definition"
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = f"unknown key; valid: {', '.join(_valid_keys(path[:-1]))}"
        elif problem["type"] != "missing" and not isinstance(problem["input"], dict | list):
            message = f"{message}, found {problem['input']!r}"
        line = _line(node, path) if path else _line_meant(message, node, text)
        yield f"{name}:{line}: {where}: {message}."


def _line_meant(message: str, node: yaml.Node | None, text: str) -> int:
    """The line a problem of the whole definition is about: its case, its template variable, or the key it names."""
    if case := re.search(r"^(?:case|two cases are named) ['\"](.+?)['\"](?: is |:|$)", message):
        return _case_line(node, case.group(1))
    if variable := re.search(r"^instructions use \{\{ ([\w.]+) \}\}", message):
        used = re.search(rf"\{{\{{\s*{re.escape(variable.group(1))}\s*\}}\}}", text)
        return text[: used.start()].count("\n") + 1 if used else _line(node, ["instructions"])
    signs = {"`with`": "with", "`uses`": "uses", "variable": "variables", "conversation": "instructions"}
    named = next((key for sign, key in signs.items() if sign in message), "instructions")
    return _line(node, [named])


def _case_line(node: yaml.Node | None, name: str) -> int:
    """The line of the last case of that name, so that of two the second one is shown."""
    lines = [_line(node, ["cases"])]
    entries = node.value if isinstance(node, yaml.MappingNode) else []
    for case in next((value.value for key, value in entries if key.value == "cases"), []):
        if isinstance(case, yaml.MappingNode) and any(k.value == "name" and v.value == name for k, v in case.value):
            lines.append(case.start_mark.line + 1)
    return lines[-1]


def _valid_keys(path: list[Any]) -> list[str]:
    owners: dict[str, type[BaseModel]] = {
        "cases": Case,
        "spans": CaseSpan,
        "turns": CaseTurn,
        "variables": _Variable,
        "panel": PanelSpec,
        "cascade": CascadeSpec,
        "tiers": MemberSpec,
    }
    if path and path[0] == "value":
        return sorted({k for m in (_Boolean, _Categorical, _Numeric) for k in m.model_fields})
    owner = next((owners[p] for p in reversed(path) if p in owners), JudgeDefinition)
    return [f.alias or key for key, f in owner.model_fields.items()]


def _line(node: yaml.Node | None, path: list[Any]) -> int:
    """Line (from 1) of the deepest part of `path` that the file has."""
    line = 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            entry = next(((k, v) for k, v in node.value if k.value == part), None)
            if entry is None:
                return line
            line, node = entry[0].start_mark.line + 1, entry[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line
    return line
