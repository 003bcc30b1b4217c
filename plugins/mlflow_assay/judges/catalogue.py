"""The catalogue of judges: shipped and installed packs, installed libraries, and the user's own folders.

Names come from entry points and YAML files. A user's folder (`--path`, `ASSAY_JUDGES_PATH`) may replace an
installed judge of the same name, since that is what copying and editing one means; any other clash is an error.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mlflow_assay import registry
from mlflow_assay.contracts import (
    BooleanValue,
    BoundJudge,
    DeclaringScorer,
    JudgeContract,
    JudgeLibrary,
    ModelSettings,
    NumericValue,
)
from mlflow_assay.errors import ConfigError, DefinitionError, PluginError
from mlflow_assay.judges import definition as definitions
from mlflow_assay.judges.definition import JudgeDefinition
from mlflow_assay.judges.problems import problems

__all__ = ["PATH_VARIABLE", "Catalogue", "JudgeEntry"]

PATH_VARIABLE = "ASSAY_JUDGES_PATH"


@dataclass(frozen=True)
class JudgeEntry:
    """One judge of the catalogue.

    Attributes:
        contract: what it declares; `contract.name` is the assessment name.
        origin: `pack <name>`, `library <name>` or the folder it was read from.
        definition: the YAML definition, or None for a library's own judge.
        path: the YAML file, or None.
        library, member: the entry point and the judge's name in it, for judges of a library.
    """

    contract: JudgeContract
    origin: str
    definition: JudgeDefinition | None = None
    path: Path | None = None
    library: str | None = None
    member: str | None = None

    @property
    def name(self) -> str:
        """What `--judge` takes: the definition's name, or `library/Member`."""
        if self.definition is not None or self.library in (None, self.member):
            return self.contract.name
        return f"{self.library}/{self.member}"


class Catalogue:
    """All judges this environment knows, by name.

    Args:
        paths: the user's folders of YAML definitions, searched after those in `ASSAY_JUDGES_PATH`
            (separated as in PATH); a later one replaces an earlier one's judge of the same name.
    """

    def __init__(self, paths: Sequence[str | Path] = ()) -> None:
        from_environment = [p for p in os.environ.get(PATH_VARIABLE, "").split(os.pathsep) if p]
        self._folders = [Path(p) for p in (*from_environment, *paths)]
        self._entries: dict[str, JudgeEntry] | None = None
        self._libraries: dict[str, JudgeLibrary] = {}

    @property
    def entries(self) -> dict[str, JudgeEntry]:
        """Every judge by name, sorted.

        Raises:
            DefinitionError, PluginError: a definition or plugin is broken, or a name is claimed twice.
        """
        if self._entries is None:
            installed: dict[str, JudgeEntry] = {}
            for entry in self._packs():
                _claim(installed, entry)
            for entry in self._library_judges():
                if not _is_face_of(installed.get(entry.name), entry):
                    _claim(installed, entry)
            for folder in self._folders:
                own: dict[str, JudgeEntry] = {}
                for path, found in definitions.load_folder(folder):
                    _claim(own, self._from_definition(found, path, str(folder)))
                installed.update(own)
            self._entries = dict(sorted(installed.items()))
        return self._entries

    def get(self, name: str) -> JudgeEntry:
        """One judge by name.

        Raises:
            ConfigError: no such judge; near names are suggested.
        """
        if name not in self.entries:
            if (left_out := self._left_out(name)) is not None:
                raise ConfigError(f"{name} is not supported: {left_out}.")
            near = difflib.get_close_matches(name, self.entries, n=3)
            raise ConfigError(
                f"There is no judge {name!r}.",
                valid=near or [entry for entry in self.entries if "/" not in entry],
                fix="`assay judges list` shows all; add your own folder with --path or ASSAY_JUDGES_PATH.",
            )
        return self.entries[name]

    def build(
        self, name: str, model: ModelSettings | None = None, texts: Mapping[str, str] | None = None
    ) -> BoundJudge:
        """A judge ready to run.

        Args:
            name: as in `assay judges list`.
            model: the judge model; None takes the definition's default.
            texts: values for the definition's `variables`.

        Raises:
            ConfigError: unknown judge, a text or a model is missing, or a parameter is wrong.
        """
        return self._build(self.get(name), model, texts or {})

    def check(self, path: Path) -> JudgeEntry:
        """One definition file, checked as far as it can be without calling anything.

        Beyond reading it: the library it uses is installed, has that judge and takes those parameters, and MLflow
        accepts the instructions. A judge that calls a model is built for a model that is never called. The members of
        a panel or cascade may lie in the same folder; a calibration is not asked for.

        Raises:
            DefinitionError: `file:line:` what was found and what is valid.
        """
        entry = self._from_definition(definitions.load(path), path, str(path.parent))
        assert entry.definition is not None  # noqa: S101 - it was made from one
        texts = _any_texts(entry.definition)
        model = ModelSettings(entry.definition.model or "openai:/unasked")
        try:
            if entry.definition.composite is not None:
                Catalogue((*self._folders, path.parent))._members(entry, model, None)
            else:
                self._build(entry, model, texts)
        except ConfigError as error:
            raise DefinitionError(
                f"{path}:{definitions.line_of(path, 'with', 'uses', 'instructions', 'panel', 'cascade')}: {error}"
            ) from error
        return entry

    def members(
        self, name: str, model: ModelSettings | None = None, texts: Mapping[str, str] | None = None
    ) -> tuple[BoundJudge, ...]:
        """The judges a panel or cascade asks, ready to run; empty for any other judge. Needs no calibration.

        Raises:
            ConfigError: as `build`.
        """
        entry = self.get(name)
        composite = entry.definition is not None and entry.definition.composite is not None
        return self._members(entry, model, texts or {}) if composite else ()

    def _build(
        self,
        entry: JudgeEntry,
        model: ModelSettings | None,
        texts: Mapping[str, str],
        within: tuple[str, ...] = (),
    ) -> BoundJudge:
        if entry.definition is not None and entry.definition.composite is not None:
            return _bind_composite(entry, self._members(entry, model, texts, within))
        if entry.definition is not None and entry.definition.instructions is not None:
            return _bind_instructions(entry, entry.definition, model, texts)
        return self._bind_library(entry, model, texts)

    def _members(
        self,
        entry: JudgeEntry,
        model: ModelSettings | None,
        texts: Mapping[str, str] | None,
        within: tuple[str, ...] = (),
    ) -> tuple[BoundJudge, ...]:
        """A composite's judges, built.

        Args:
            entry: a panel or cascade.
            model: the run's model, for members that name none.
            texts: values for the variables of its members; None gives each its example.
            within: the composites it is being built for.
        """
        from mlflow_assay.judges.composing import check_members

        assert entry.definition is not None and entry.definition.composite is not None  # noqa: S101 - by the caller
        found = [self.get(ref.judge) for ref in entry.definition.composite.members]
        if circle := next((m.name for m in found if m.name in (*within, entry.name)), None):
            raise ConfigError(
                f"The judge {circle!r} is made of itself.", found=" → ".join([*within, entry.name, circle])
            )
        known = {name for m in found for name in self._variables(m)}
        if stray := sorted(set(texts or {}) - known):
            raise ConfigError(
                f"No member of the judge {entry.name!r} has a variable {stray[0]!r}.", valid=sorted(known)
            )
        members = []
        for ref, member in zip(entry.definition.composite.members, found, strict=True):
            chosen = _same_endpoint(ref.model, model)
            if texts is None:
                own = _any_texts(member.definition) if member.definition else {}
            else:
                own = {k: v for k, v in texts.items() if k in self._variables(member)}
            members.append(self._build(member, chosen, own, (*within, entry.name)))
        check_members(entry.contract, entry.definition, members)
        return tuple(members)

    def _variables(self, entry: JudgeEntry) -> set[str]:
        """The variables of a judge, or of a composite's members."""
        if entry.definition is None:
            return set()
        refs = entry.definition.composite.members if entry.definition.composite else ()
        return set(entry.definition.variables).union(*(self._variables(self.get(ref.judge)) for ref in refs))

    def _packs(self) -> Iterator[JudgeEntry]:
        for pack in registry.available("judge_packs"):
            folder = Path(registry.load("judge_packs", pack)())
            for path, found in definitions.load_folder(folder):
                yield self._from_definition(found, path, f"pack {pack}")

    def _library_judges(self) -> Iterator[JudgeEntry]:
        for library in registry.available("judges"):
            for contract in self._library(library).contracts():
                yield JudgeEntry(contract, f"library {library}", library=library, member=contract.name)

    def _library(self, name: str) -> JudgeLibrary:
        if name not in self._libraries:
            self._libraries[name] = _as_library(name, registry.load("judges", name))
        return self._libraries[name]

    def _left_out(self, name: str) -> str | None:
        """Why an installed library's judge is left out; None where it is not, or is not known."""
        library, _, member = name.partition("/")
        if not member or library not in registry.available("judges"):
            return None
        reasons: Mapping[str, str] = getattr(self._library(library), "unsupported", {})
        return reasons.get(member)

    def _from_definition(self, found: JudgeDefinition, path: Path, origin: str) -> JudgeEntry:
        contract = found.contract(origin)
        if found.uses is None:
            return JudgeEntry(contract, origin, found, path)
        library, _, member = found.uses.partition("/")
        member = member or library
        try:
            wrapped = {c.name: c for c in self._library(library).contracts()}
        except PluginError as error:
            raise DefinitionError(f"{path}:{definitions.line_of(path, 'uses')}: {error}") from error
        if member not in wrapped:
            line = definitions.line_of(path, "uses")
            if (left_out := self._left_out(f"{library}/{member}")) is not None:
                raise DefinitionError(f"{path}:{line}: {library}/{member} is not supported: {left_out}.")
            near = difflib.get_close_matches(member, wrapped, n=3)
            raise DefinitionError(
                f"{path}:{line}: the library {library!r} has no judge {member!r}.", valid=near or wrapped
            )
        base = wrapped[member]
        contract = replace(contract, needs=(found.needs and contract.needs) or base.needs, calls_llm=base.calls_llm)
        contract = replace(contract, llm_calls=base.llm_calls, embeddings=base.embeddings)
        if found.scope != base.scope:
            line = definitions.line_of(path, "scope", "uses")
            raise DefinitionError(f"{path}:{line}: {found.uses} judges a {base.scope}.", found=f"scope: {found.scope}")
        if (differs := _other_scale(contract, base)) is not None:
            raise DefinitionError(
                f"{path}:{definitions.line_of(path, 'value', 'uses')}: {found.uses} gives another value.",
                found=differs,
                valid=f"{base.value.describe()}; the threshold is yours to set",
            )
        return JudgeEntry(contract, origin, found, path, library, member)

    def _bind_library(self, entry: JudgeEntry, model: ModelSettings | None, texts: Mapping[str, str]) -> BoundJudge:
        assert entry.library is not None and entry.member is not None  # noqa: S101 - by construction
        if texts:
            raise ConfigError(f"The judge {entry.name!r} has no variables to set.", found=sorted(texts))
        definition = entry.definition
        params = dict(definition.with_) if definition else {}
        library = self._library(entry.library)
        asks = getattr(library, "asks_model", None)  # some ask one with certain parameters only
        calls_llm = bool(asks(entry.member, params)) if asks is not None else entry.contract.calls_llm
        chosen = _choose_model(definition, model) if calls_llm else None
        scorer = library.build(entry.member, _beside(params, library, entry.path), chosen)
        scorer.name = entry.contract.name
        facts = {
            "uses": f"{entry.library}/{entry.member}",
            "with": params,
            "library": _version_of(entry.library),
            "fingerprint": getattr(scorer, "fingerprint", None),
        }
        fields = definition.field_map() if definition else {}
        taught = sorted({*entry.contract.learnt_from, *getattr(scorer, "trained_on", ())})
        needs = getattr(scorer, "needs", entry.contract.needs)
        contract = replace(entry.contract, learnt_from=tuple(taught), needs=_together(definition, needs))
        contract = replace(contract, calls_llm=calls_llm)
        if isinstance(scorer, DeclaringScorer):
            if fields:
                raise ConfigError(
                    f"The judge {entry.name!r} reads its fields by names of their own.",
                    found="`fields:`",
                    fix="Put them under `with:`, for example `with: {fields: {output: outputs.answer}}`.",
                )
            scorer.declare(contract)
        return BoundJudge(contract, scorer, _digest(contract, chosen, fields, facts), chosen, fields)


def _other_scale(contract: JudgeContract, base: JudgeContract) -> str | None:
    """How a definition's scale or direction differs from what a library gives; None when it does not.

    Where a library answers true or false, a definition may ask for a number instead, with the same good end.
    """
    theirs, ours = base.value, contract.value
    if isinstance(theirs, BooleanValue) and isinstance(ours, BooleanValue | NumericValue):
        good = ours.good if isinstance(ours, BooleanValue) else ours.better == "higher"
        return None if good == theirs.good else f"{ours.type}, {ours.describe()}"
    if not isinstance(theirs, NumericValue):
        return None
    same = isinstance(ours, NumericValue) and (ours.low, ours.high, ours.better) == (
        theirs.low,
        theirs.high,
        theirs.better,
    )
    return None if same else f"{ours.type}, {ours.describe()}"


def _together(definition: JudgeDefinition | None, needs: tuple[str, ...]) -> tuple[str, ...]:
    """What a definition says is needed besides what the library's judge needs by itself."""
    return tuple(dict.fromkeys([*needs, *(definition.needs if definition else ())]))


def _beside(params: Mapping[str, Any], library: JudgeLibrary, definition: Path | None) -> dict[str, Any]:
    """Parameters with those that are paths (a library's `path_parameters`) read from the definition's own folder."""
    paths = getattr(library, "path_parameters", ())
    if definition is None:
        return dict(params)
    return {k: str(definition.parent / v) if k in paths and isinstance(v, str) else v for k, v in params.items()}


class _SingleJudge:
    """A `Scorer` subclass with a `contract`, seen as a library of one."""

    def __init__(self, scorer_class: Any) -> None:
        self._class = scorer_class

    def contracts(self) -> list[JudgeContract]:
        return [self._class.contract]

    def build(self, name: str, params: Mapping[str, Any], model: ModelSettings | None) -> Any:
        inherited = ("name", "aggregations", "description", "timeout", "pass_if")
        valid = [f for f in self._class.model_fields if f not in inherited]
        if stray := sorted(set(params) - set(valid)):
            raise ConfigError(f"The judge {name!r} has no parameter {stray[0]!r}.", valid=valid)
        extra = {"model": model} if "model" in valid and model is not None else {}
        try:
            return self._class(name=name, **{**extra, **params})
        except ValueError as error:
            raise ConfigError(
                f"The judge {name!r} refuses the parameters {dict(params)}: {problems(error)}."
            ) from error


def _as_library(name: str, plugin: Any) -> JudgeLibrary:
    if inspect.isclass(plugin) and isinstance(getattr(plugin, "contract", None), JudgeContract):
        return _SingleJudge(plugin)
    library = plugin() if inspect.isclass(plugin) else plugin
    if not isinstance(library, JudgeLibrary):
        raise PluginError(
            f"The judges plugin {name!r} is not a judge.",
            found=type(library).__name__,
            valid="a contracts.JudgeLibrary, or a Scorer subclass with a class attribute `contract`",
        )
    return library


def _is_face_of(found: JudgeEntry | None, judge: JudgeEntry) -> bool:
    """Whether `found` is the definition that gives a library's judge, under the same name, its purpose and cases."""
    return found is not None and (found.library, found.member) == (judge.library, judge.member)


def _claim(entries: dict[str, JudgeEntry], entry: JudgeEntry) -> None:
    other = entries.setdefault(entry.name, entry)
    if other is not entry:
        first, second = (str(e.path or e.origin) for e in (other, entry))
        raise DefinitionError(f"Two judges are named {entry.name!r}: {first} and {second}.", fix="Rename one.")


def _choose_model(definition: JudgeDefinition | None, model: ModelSettings | None) -> ModelSettings:
    defaults = dict(definition.parameters) if definition else {}
    if model is None:
        from mlflow.genai.judges.utils import get_default_model

        model = ModelSettings((definition.model if definition else None) or get_default_model())
    return replace(model, params={**defaults, **model.params})


def _any_texts(definition: JudgeDefinition) -> dict[str, str]:
    """Some text for each variable, to build a judge that will not be asked."""
    return {name: v.example or v.default or "" for name, v in definition.variables.items()}


def _same_endpoint(uri: str | None, model: ModelSettings | None) -> ModelSettings | None:
    """The run's model settings for another model: its endpoint where the provider is the same."""
    if uri is None or model is None:
        return ModelSettings(uri) if uri else model
    if uri.partition(":/")[0] != model.uri.partition(":/")[0]:
        return ModelSettings(uri, params=model.params, timeout_s=model.timeout_s)
    return model if uri == model.uri else replace(model, uri=uri, usd_per_million=None)


def _bind_composite(entry: JudgeEntry, members: tuple[BoundJudge, ...]) -> BoundJudge:
    """A panel or cascade over its built members.

    Raises:
        NotTrustedError: it needs a calibration and has none that fits.
    """
    from mlflow_assay.judges.composing import make_composite
    from mlflow_assay.judges.composite import CompositeScorer, common_needs

    definition = entry.definition
    assert definition is not None  # noqa: S101 - composites come from definitions only
    folder = entry.path.parent if entry.path else Path()
    composite, facts = make_composite(entry.contract, definition, members, folder)
    contract = replace(
        entry.contract,
        needs=tuple(dict.fromkeys([*common_needs(members), *entry.contract.needs])),
        calls_llm=any(member.contract.calls_llm for member in members),
    )
    scorer = CompositeScorer(contract.name, contract.purpose, composite, contract.scope == "session")
    return BoundJudge(contract, scorer, _digest(contract, None, {}, facts), composite=composite)


def _bind_instructions(
    entry: JudgeEntry, definition: JudgeDefinition, model: ModelSettings | None, texts: Mapping[str, str]
) -> BoundJudge:
    from mlflow.exceptions import MlflowException
    from mlflow.genai.judges import make_judge

    chosen = _choose_model(definition, model)
    text = definition.render(texts)
    try:
        scorer = make_judge(
            name=definition.name,
            instructions=text,
            model=chosen.uri,
            description=definition.purpose,
            feedback_value_type=_value_type(definition),
            inference_params=dict(chosen.params) or None,
            base_url=chosen.base_url,
            extra_headers=dict(chosen.headers) or None,
            generate_rationale_first=definition.rationale_first,
        )
    except MlflowException as error:
        raise ConfigError(f"MLflow refuses the judge {definition.name!r}: {error.message}") from error
    facts = {"instructions": text, "rationale_first": definition.rationale_first, "mlflow": _mlflow_version()}
    fields = definition.field_map()
    return BoundJudge(entry.contract, scorer, _digest(entry.contract, chosen, fields, facts), chosen, fields)


def _value_type(definition: JudgeDefinition) -> Any:
    """The Python type MLflow asks the model for."""
    from typing import Literal

    value = definition.value
    if value.type == "boolean":
        return bool
    if value.type == "categorical":
        return Literal[tuple(value.options)]
    return int if value.integer else float


def _digest(
    contract: JudgeContract, model: ModelSettings | None, fields: Mapping[str, Any], facts: Mapping[str, Any]
) -> str:
    """16 hex digits over everything a verdict depends on; secrets and endpoints are left out."""
    basis = {
        "value": {"type": contract.value.type, **asdict(contract.value)},
        "version": contract.version,
        "scope": contract.scope,
        "needs": contract.needs,
        "model": [model.uri, dict(model.params)] if model else None,
        "fields": fields,
        **facts,
    }
    canonical = json.dumps(basis, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _version_of(library: str) -> str | None:
    point = registry.available("judges")[library]
    return point.dist.version if point.dist else None


def _mlflow_version() -> str:
    import mlflow

    return str(mlflow.__version__)
