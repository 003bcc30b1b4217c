"""From traces to rows: which are chosen, what is expected of them, what is redacted, merged, drawn and split."""

from __future__ import annotations

import mlflow
import pytest
from mlflow.entities import AssessmentSource

from mlflow_assay.datasets import selecting
from mlflow_assay.datasets.build import BuildPlan, build
from mlflow_assay.datasets.shaping import Shaping
from mlflow_assay.errors import ConfigError, NotTrustedError, StoreError
from mlflow_assay.redaction import Redactor
from mlflow_assay.sources.mlflow_store import MlflowSource

WHOLE = Shaping(fractions=None)
TOPICS = ("fold seven phone", "router light blinks", "invoice for march", "change my address", "roaming in peru", "pin")


def built(*conditions, shaping=WHOLE, source=None, redactor=None, contracts=None, **plan):
    made = build(
        source or MlflowSource("test"),
        BuildPlan(where=conditions, shaping=shaping, **plan),
        contracts,
        redactor=redactor,
    )
    with made:
        return list(made.rows()), made


def requests(found) -> list[str]:
    return sorted(row.inputs["request"] for row in found)


# --- which traces -----------------------------------------------------------------------------------------


def test_the_traces_a_judge_failed_become_rows_with_what_was_asked_and_answered(judged):
    wanted = judged("Where is my parcel?", verdict=False, answer="I do not know.", session="s1")
    judged("How are you?", verdict=True)
    judged("Never judged", verdict=None)
    (row,), made = built("judge request_resolved failed")
    assert row.inputs == {"request": "Where is my parcel?"}
    assert row.outputs == {"answer": "I do not know."}
    assert (row.trace_id, row.session, row.split, row.weight) == (wanted, "s1", None, 1.0)
    assert made.query["traces_read"] == 3
    assert made.query["traces_selected"] == 1
    assert made.query["experiment"] == "test"


def test_conditions_are_joined_and_may_speak_of_tags_labels_and_errors(judged):
    judged("one", verdict=False, tags={"domain": "billing"}, labels={"request_resolved": False})
    judged("two", verdict=False, tags={"domain": "phones"}, labels={"request_resolved": True})
    judged("three", verdict=True, tags={"domain": "billing"})
    assert requests(built("judge request_resolved failed and tag domain = billing")[0]) == ["one"]
    assert requests(built("judge request_resolved failed", "tag domain != billing")[0]) == ["two"]
    assert requests(built("judge request_resolved wrong")[0]) == ["two"]
    assert requests(built("judge request_resolved right")[0]) == ["one"]
    assert requests(built("label request_resolved bad")[0]) == ["one"]
    assert requests(built("label request_resolved any")[0]) == ["one", "two"]
    assert requests(built("trace ok")[0]) == ["one", "three", "two"]
    assert requests(built(source=MlflowSource("test", "tag.domain = 'phones'"))[0]) == ["two"]


def test_an_unscored_verdict_is_neither_failed_nor_passed(judged):
    judged("a", verdict=True)
    trace = judged("b")
    mlflow.log_feedback(trace_id=trace, name="request_resolved", error=ValueError("timeout"), value=None)
    assert requests(built("judge request_resolved unscored")[0]) == ["b"]
    assert requests(built("judge request_resolved passed")[0]) == ["a"]


def test_people_who_disagree_make_a_label_contested(judged):
    trace = judged("unclear", labels={"helpful": True}, by="ann")
    mlflow.log_feedback(trace_id=trace, name="helpful", value=False, source=AssessmentSource("HUMAN", "ben"))
    judged("clear", labels={"helpful": True})
    assert requests(built("label helpful contested")[0]) == ["unclear"]


def test_a_failed_session_brings_all_its_traces(judged):
    first = judged("turn one", session="s1")
    judged("turn two", session="s1")
    judged("other", session="s2", verdict=True, judge="session_resolved")
    mlflow.log_feedback(
        trace_id=first,
        name="session_resolved",
        value=False,
        source=AssessmentSource("CODE", "a-judge"),
        metadata={"mlflow.trace.session": "s1"},
    )
    from mlflow_assay.contracts import BooleanValue, JudgeContract

    contract = JudgeContract("session_resolved", "Was it?", BooleanValue(), scope="session")
    found, _ = built("judge session_resolved failed", contracts={"session_resolved": contract})
    assert requests(found) == ["turn one", "turn two"]


def test_a_condition_that_cannot_be_read_or_met_says_what_there_is(judged):
    judged("one", verdict=True)
    with pytest.raises(ConfigError, match=r"'judge x flopped' cannot be read.*judge NAME failed"):
        BuildPlan(where=("judge x flopped",))
    with pytest.raises(ConfigError, match=r"No judge 'routing' gave verdicts.*request_resolved"):
        built("judge routing failed")
    with pytest.raises(StoreError, match=r"No trace meets all conditions.*1 traces"):
        built("judge request_resolved failed")
    with pytest.raises(ConfigError, match="no trace field 'nonsense'"):
        BuildPlan(outputs="nonsense")


# --- what is expected ---------------------------------------------------------------------------------------


def test_a_persons_expectation_goes_before_recorded_truth_and_a_correction_replaces_what_it_corrects(judged):
    both = judged("both", truth={"route": "billing"}, expectations={"route": "product"})
    corrected = judged("corrected")
    old = mlflow.log_expectation(
        trace_id=corrected, name="route", value="account", source=AssessmentSource("HUMAN", "ann")
    )
    mlflow.update_assessment(
        trace_id=corrected,
        assessment_id=old.assessment_id,
        assessment=mlflow.entities.Expectation(name="route", value="technical_support"),
    )
    judged("truth only", truth={"route": "billing"})
    found = {row.trace_id: row for row in built()[0]}
    assert found[both].expectations == {"route": "product"}
    assert found[corrected].expectations == {"route": "technical_support"}
    assert [r.expectations for r in found.values() if r.trace_id not in (both, corrected)] == [{"route": "billing"}]


def test_labels_and_reasons_stand_beside_the_row_and_may_be_what_is_expected(judged):
    judged("x", labels={"route": "billing"}, rationale="It is about money.")
    (row,), _ = built()
    assert row.expectations == {}
    assert row.tags == {"label.route": '"billing"', "rationale.route": "It is about money."}
    (row,), _ = built(expect=("route",))
    assert row.expectations == {"route": "billing"}


def test_a_person_overriding_a_verdict_makes_it_an_expectation_of_that_name(judged):
    trace = judged("x", verdict=False, judge="route_ok")
    (verdict,) = mlflow.get_trace(trace).info.assessments
    mlflow.override_feedback(
        trace_id=trace,
        assessment_id=verdict.assessment_id,
        value=True,
        rationale="It was right.",
        source=AssessmentSource("HUMAN", "ann"),
    )
    (row,), _ = built(expect=("route_ok",))
    assert row.expectations == {"route_ok": True}
    assert row.tags["rationale.route_ok"] == "It was right."


# --- fields, redaction --------------------------------------------------------------------------------------


def test_inputs_outputs_and_slice_are_taken_from_the_fields_named(judged):
    judged("hello", answer="bye", tags={"domain": "phones", "team": "x"})
    (row,), made = built(
        inputs={"question": "first_user_message"}, outputs="tools_called", slice="tag:domain", tags=("team",)
    )
    assert row.inputs == {"question": "hello"}
    assert row.outputs == ["get_invoice"]
    assert row.slice == "phones"
    assert row.tags == {"team": "x"}
    assert made.query["slice"] == "tag:domain"


def test_a_trace_without_inputs_is_no_test_case_and_is_counted(judged):
    judged(None)
    judged("one")
    found, made = built()
    assert len(found) == 1
    assert made.query["traces_without_inputs"] == 1


def test_personal_data_is_replaced_everywhere_and_that_is_recorded(judged):
    judged(
        "I am anna@example.com",
        answer="Mail sent to anna@example.com",
        session="anna@example.com",
        labels={"ok": False},
        rationale="She wrote from anna@example.com",
    )
    judged("second one", session="anna@example.com")
    found, made = built(redactor=Redactor())
    assert "example.com" not in repr([row.to_dict() for row in found])
    assert found[0].session == found[1].session
    assert found[0].redacted == {"email": 4}
    assert made.redaction["replaced"] == {"email": 5}
    assert made.redaction["rows"] == 2
    about = made.about(owner="me")
    assert (about.pii, about.owner, about.redaction["digest"]) == ("redacted", "me", Redactor().digest)


def test_without_a_redactor_the_manifest_says_that_none_ran(judged):
    judged("I am anna@example.com")
    _, made = built()
    assert made.redaction is None
    assert made.about().pii is None


# --- duplicates, sample -------------------------------------------------------------------------------------


def test_exact_duplicates_are_merged_and_the_row_with_expectations_stands_for_all(judged):
    judged("same")
    labelled = judged("same", expectations={"route": "x"})
    judged("same")
    (row,), made = built(shaping=Shaping(duplicates="exact", fractions=None))
    assert row.trace_id == labelled
    assert row.weight == 3.0
    assert made.query["shaped"]["exact_duplicates_merged"] == 2


def test_duplicates_that_expect_different_things_are_counted(judged):
    judged("same", expectations={"route": "x"})
    judged("same", expectations={"route": "y"})
    _, made = built()
    assert made.query["shaped"]["merged_with_other_expectations"] == 1


def test_near_duplicates_are_merged_and_can_be_kept(judged):
    judged("My invoice for March is far too high, please check it again.")
    judged("My invoice for March is far too high, please check it again!!")
    judged("The router blinks red all the time.")
    assert len(built()[0]) == 2
    assert built()[1].query["shaped"]["near_duplicates_merged"] == 1
    assert len(built(shaping=Shaping(duplicates="exact", fractions=None))[0]) == 3


def test_all_can_be_kept_and_one_input_is_then_told_apart_by_its_trace(judged):
    judged("same")
    judged("same")
    found, _ = built(shaping=Shaping(duplicates="none", fractions=None))
    assert len({row.id for row in found}) == 2


def test_a_sample_is_drawn_from_every_slice_and_weights_add_up_to_the_population(judged):
    for i in range(24):
        judged(f"{TOPICS[i % 6]} {i} {'abcdefgh'[i % 8] * 9}", tags={"domain": "rare" if i < 4 else "common"})
    shaping = Shaping(duplicates="exact", sample=8, fractions=None)
    found, made = built(shaping=shaping, slice="tag:domain")
    assert len(found) == 8
    assert {row.slice for row in found} == {"rare", "common"}
    assert sum(row.weight for row in found) == pytest.approx(24)
    assert made.query["shaped"]["sample"]["of"] == 24
    assert [r.id for r in built(shaping=shaping, slice="tag:domain")[0]] == [r.id for r in found]


# --- splits -------------------------------------------------------------------------------------------------


def test_sessions_and_near_duplicates_never_cross_a_split(judged):
    for i in range(18):
        judged(f"{TOPICS[i % 6]} {i}", session=f"s{i % 6}")
    judged("a question on nothing else at all, really", session="s0")
    judged("A question on nothing else at all: really", session="alone")
    found, made = built(shaping=Shaping(duplicates="exact", fractions=(0.5, 0.25, 0.25)))
    splits: dict[str, set[str | None]] = {}
    for row in found:
        splits.setdefault(row.session, set()).add(row.split)
    assert all(len(s - {None}) <= 1 for s in splits.values())
    twins = {row.split for row in found if "nothing else" in row.inputs["request"]}
    assert len(twins - {None}) <= 1
    assert {row.split for row in found} >= {"train", "validation", "test"}
    groups: dict[str, set[str]] = {}
    for row in found:
        groups.setdefault(row.group, set()).add(row.split)
    assert all(len(s - {None}) <= 1 for s in groups.values())
    assert made.query["shaped"]["split"]["seed"] == 0


def test_too_few_groups_for_a_split_is_said(judged):
    judged("one", session="s")
    judged("two", session="s")
    with pytest.raises(NotTrustedError, match=r"cannot be parted.*--split none"):
        built(shaping=Shaping())


def test_from_python_in_one_call(judged, tmp_path):
    import mlflow_assay as assay

    for i in range(4):
        judged(f"{TOPICS[i]} for ann@example.com", verdict=i > 1, expectations={"route": "x"})
    plan = assay.BuildPlan(where=("judge request_resolved failed",), shaping=WHOLE)
    made = assay.build_dataset(
        "failed", MlflowSource("test"), plan, store=str(tmp_path / "s"), alias="golden", owner="qa", retention="90d"
    )
    assert (len(made), made.manifest.about.owner, made.manifest.about.pii) == (2, "qa", "redacted")
    again = assay.load_dataset("failed@golden", str(tmp_path / "s"))
    assert again.digest == made.digest
    assert {r.inputs["request"] for r in again.rows()} == {f"{t} for [EMAIL]" for t in TOPICS[:2]}


# --- more traces than are held ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "conditions",
    [
        (),
        ("judge request_resolved failed",),
        ("judge request_resolved passed", "tag domain = b"),
        ("judge request_resolved wrong",),
        ("judge request_resolved right",),
        ("judge whole_session failed",),
        ("judge whole_session unscored",),
        ("label request_resolved bad",),
        ("label only_once any",),
    ],
)
def test_what_is_chosen_is_the_same_however_few_traces_are_held(judged, monkeypatch, conditions):
    code = AssessmentSource("CODE", "a-judge")
    for i in range(14):
        session = f"s{i % 4}" if i % 3 else None
        labels = {"request_resolved": i % 5 > 1} if i % 2 else {}
        trace = judged(f"{i}", verdict=i % 3 > 0, tags={"domain": "ab"[i % 2]}, session=session, labels=labels)
        if session:
            metadata = {"mlflow.trace.session": session}
            mlflow.log_feedback(trace_id=trace, name="whole_session", value=i % 7 > 2, source=code, metadata=metadata)
    mlflow.log_feedback(trace_id=trace, name="only_once", value=True, source=AssessmentSource("HUMAN", "ann"))

    def outcome():
        try:
            found, made = built(*conditions)
        except StoreError as error:
            return str(error), None
        return [row.trace_id for row in found], {k: made.query[k] for k in ("traces_read", "judges")}

    at_once = outcome()
    monkeypatch.setattr(selecting, "_HELD", 3)
    monkeypatch.setattr(selecting, "_PARTS", 4)
    assert outcome() == at_once


def test_a_judge_nobody_heard_of_is_said_when_traces_were_parted_too(judged, monkeypatch):
    for i in range(5):
        judged(f"{i}", verdict=True)
    monkeypatch.setattr(selecting, "_HELD", 2)
    with pytest.raises(ConfigError, match=r"No judge 'routing' gave verdicts.*request_resolved"):
        built("judge routing failed")
    with pytest.raises(ConfigError, match="Nobody labelled these traces with 'tone'"):
        built("label tone bad")
