"""One window of traces read for the trust commands: its rows, the judges found on them, and their contracts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mlflow_assay.contracts import JudgeContract, TraceSource
from mlflow_assay.errors import ConfigError
from mlflow_assay.labels.pairs import Paired, pairs
from mlflow_assay.labels.people import check_labels, label_names
from mlflow_assay.labels.rows import Row, check_by, read_rows
from mlflow_assay.labels.verdicts import JudgeVerdicts, collect

__all__ = ["LabelChoice", "Window", "parse_labels", "read_window"]


@dataclass(frozen=True)
class LabelChoice:
    """Where the labels of judges are read from.

    Attributes:
        shared: names that hold the labels of every judge.
        own: further names of single judges.
    """

    shared: tuple[str, ...] = ()
    own: Mapping[str, tuple[str, ...]] | None = None

    @property
    def names(self) -> set[str]:
        """All names."""
        return {*self.shared, *(name for names in (self.own or {}).values() for name in names)}

    def of(self, judge: str) -> tuple[str, ...]:
        """The names that hold this judge's labels; empty means people's feedback under its own name."""
        return self.shared + (self.own or {}).get(judge, ())


def parse_labels(texts: Sequence[str]) -> LabelChoice:
    """`NAME` for every judge, `NAME=JUDGE` for one.

    Raises:
        ConfigError: a text is of neither form.
    """
    shared: list[str] = []
    own: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, equals, judge = (part.strip() for part in text.rpartition("="))
        if not equals and judge:
            shared.append(judge)
        elif name and judge:
            own[judge] = (*own.get(judge, ()), name)
        else:
            raise ConfigError(f"--label {text!r} names no labels.", valid="NAME, or NAME=JUDGE for one judge only")
    return LabelChoice(tuple(shared), own)


@dataclass(frozen=True)
class Window:
    """Traces of one experiment and what was said about them.

    Attributes:
        rows: oldest first.
        found: the judges' verdicts by name; names that are labels are in here too.
        contracts: pass rules by assessment name.
        choice: where labels are read from.
    """

    rows: tuple[Row, ...]
    found: Mapping[str, JudgeVerdicts]
    contracts: Mapping[str, JudgeContract]
    choice: LabelChoice

    @property
    def judges(self) -> list[str]:
        """Names of the judges found, without those that serve as labels."""
        return [name for name in self.found if name not in self.choice.names - set(self.choice.own or {})]

    def pair(self, judge: str) -> Paired:
        """The verdicts of one judge beside its labels.

        Raises:
            ConfigError: it gave no verdict on these traces, or a label is not there.
        """
        if judge not in self.found:
            listed = [name for name in self.found if name not in self.choice.names]
            raise ConfigError(
                f"No judge {judge!r} gave verdicts on these traces.",
                found=f"{len(self.rows)} traces",
                valid=listed or "(none)",
                fix="Judge them first (assay score), or look at other traces (--since, --filter).",
            )
        names = self.choice.of(judge)
        check_labels([(name, judge) for name in names], self.rows, list(self.found))
        return pairs(self.found[judge], self.rows, names, self.contracts.get(judge))

    def could_be_labels(self, judge: str) -> list[str]:
        """Names on these traces that might hold the judge's labels, where it has none under its own."""
        return [name for name in label_names(self.rows) if name != judge]


def read_window(
    source: TraceSource,
    contracts: Mapping[str, JudgeContract],
    choice: LabelChoice,
    *,
    by: Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
) -> Window:
    """Read the traces' marks; spans only where a breakdown needs them.

    Raises:
        ConfigError: a breakdown is not one.
        StoreError: the traces cannot be read.
    """
    rows = read_rows(source, [check_by(b) for b in by], progress)
    return Window(tuple(rows), {f.name: f for f in collect(rows, contracts)}, contracts, choice)
