"""`assay labels pick` and `status` on a real MLflow store: tags, label schema, review queues."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from mlflow_assay import semconv
from mlflow_assay.contracts import BooleanValue, CategoricalValue, JudgeContract, NumericValue
from mlflow_assay.errors import ConfigError
from mlflow_assay.labels import queues
from mlflow_assay.labels.designs import draws_of
from mlflow_assay.labels.pick import PickRequest, pick
from mlflow_assay.labels.picking import Share
from mlflow_assay.sources.mlflow_store import MlflowSource

JUDGE = "resolved"


def ask(count=6, queue="week 48", **more) -> PickRequest:
    share = {k: more.pop(k) for k in ("unscored", "uncertain", "minimum", "random_labels") if k in more}
    return PickRequest("test", JUDGE, queue, Share(count, **share), **more)


def experiment_id() -> str:
    import mlflow

    return str(mlflow.get_experiment_by_name("test").experiment_id)


def in_queue(name="week 48") -> set[str]:
    found = queues.find_queues(experiment_id())[name.lower()]
    return {item.item_id for item in queues.items_of(found.queue_id)}


def everything() -> object:
    """All that a pick writes."""
    import mlflow

    experiment = mlflow.get_experiment_by_name("test")
    tags = {i.trace_id: i.tags for i in MlflowSource("test").infos()}
    held = {name: in_queue(name) for name in queues.find_queues(experiment_id())}
    return experiment.tags, tags, held


def test_the_queue_holds_the_drawn_traces_and_each_carries_its_probability(judged, contracts, tags_of):
    ids = judged(passes=8, fails=4)
    result = pick(ask(), contracts)
    assert in_queue() == set(result.new) and len(result.new) == 6
    for trace_id in ids:
        draw = draws_of(tags_of(trace_id)).get(JUDGE)
        assert (draw is not None) == (trace_id in result.new)
        if draw is not None:
            size = 8 if trace_id in ids[:8] else 4
            assert (draw.probability, draw.queue, draw.size, draw.seed) == (3 / size, "week 48", size, 0)
            assert draw.queues == ("week 48",) and len(draw.date) == 10


def test_the_question_bears_the_judges_name_and_its_options(judged, contracts):
    judged(passes=2, fails=2)
    pick(ask(2), contracts)
    schema = queues.find_schema(experiment_id(), JUDGE)
    assert schema.input.options == ["yes", "no", "cannot_tell"] and schema.enable_comment
    assert str(schema.type) == "feedback"
    assert schema.instruction.startswith("Was the request resolved? Good is: yes. cannot_tell if it cannot be judged.")
    assert queues.find_queues(experiment_id())["week 48"].schema_ids == [schema.schema_id]


def test_picking_twice_writes_nothing_the_second_time(judged, contracts):
    judged(passes=8, fails=4)
    pick(ask(), contracts)
    before = everything()
    again = pick(ask(), contracts)
    assert everything() == before
    assert again.new == () and [q.added for q in again.queues] == [0] and again.drawn == 6


def test_a_larger_count_adds_the_difference_and_refreshes_probabilities(judged, contracts, tags_of):
    judged(passes=8, fails=4)
    first = pick(ask(4), contracts)
    second = pick(ask(8), contracts)
    assert len(second.new) == 4 and in_queue() == {*first.new, *second.new}
    assert {draws_of(tags_of(i))[JUDGE].probability for i in in_queue()} <= {1.0, 0.5}


def test_a_dry_run_says_the_same_and_writes_nothing(judged, contracts):
    judged(passes=8, fails=4)
    before = everything()
    told = pick(ask(), contracts, dry_run=True)
    assert everything() == before
    assert told.dry and told.new == pick(ask(), contracts).new


def test_a_pick_killed_before_the_queue_was_filled_is_finished_by_the_next(judged, contracts, tags_of):
    from mlflow.genai.review_queues import delete_review_queue

    judged(passes=8, fails=4)
    first = pick(ask(), contracts)
    delete_review_queue(queues.find_queues(experiment_id())["week 48"].queue_id)
    again = pick(ask(), contracts)
    assert again.new == () and in_queue() == set(first.new)


def test_the_pilot_comes_first_and_the_rest_once_it_is_answered(judged, contracts, label):
    from mlflow.genai.review_queues import set_review_queue_item_status

    judged(passes=8, fails=8)
    first = pick(ask(10, pilot=4), contracts)
    assert len(first.new) == 4 and any("This is the pilot" in n for n in first.notes)
    waiting = pick(ask(10, pilot=4), contracts)
    assert waiting.new == () and any("4 of the 4 traces drawn so far have no label" in n for n in waiting.notes)
    *answered, declined = first.new
    for trace_id, value in zip(answered, ("yes", "no", "cannot_tell"), strict=True):
        label(trace_id, value)
    queue = queues.find_queues(experiment_id())["week 48"]
    set_review_queue_item_status(queue.queue_id, item_id=declined, status="declined", completed_by="ana")
    rest = pick(ask(10, pilot=4), contracts)
    assert len(rest.new) == 6 and in_queue() == {*first.new, *rest.new}


def test_labels_there_already_are_not_asked_for_again(judged, contracts, label):
    ids = judged(passes=3, fails=3)
    label(ids[0], "yes")
    result = pick(ask(6), contracts)
    assert set(result.new) == set(ids) and in_queue() == set(ids[1:])
    assert (result.drawn, result.answered) == (6, 1)


def test_a_persons_override_of_a_verdict_is_not_taken_for_a_label(judged, contracts):
    import mlflow
    from mlflow.entities import AssessmentSource
    from mlflow.tracing.client import TracingClient

    ids = judged(passes=2, fails=2)
    (given,) = TracingClient().get_trace_info(ids[3]).assessments
    mlflow.override_feedback(
        trace_id=ids[3], assessment_id=given.assessment_id, value="yes", source=AssessmentSource("HUMAN", "ana")
    )
    result = pick(ask(4), contracts)
    assert ids[3] in in_queue() and result.answered == 0
    assert {s.name: s.size for s in result.strata} == {"pass": 2, "fail": 2}


def test_traces_the_judge_learnt_from_are_not_drawn(judged, contracts):
    judged(passes=2, fails=2)
    (learnt,) = judged(passes=1, **{semconv.TRAINED_ON: "true"})
    result = pick(ask(10), contracts)
    assert learnt not in in_queue() and result.drawn == 4
    assert any("trained on their labels" in n for n in result.notes)


def test_traces_without_a_verdict_are_told(judged, log_trace, contracts):
    judged(passes=2, fails=2)
    log_trace()
    assert any("1 traces have no verdict of resolved" in n for n in pick(ask(2), contracts).notes)


def test_unscored_traces_are_told_and_drawn_on_request(judged, contracts):
    ids = judged(passes=3, fails=3, unscored=4)
    told = pick(ask(4), contracts, dry_run=True)
    assert any("4 traces are unscored and not drawn" in n for n in told.notes)
    pick(ask(4, unscored=2), contracts)
    assert len(in_queue() & set(ids[6:])) == 2


def test_each_expert_gets_a_queue_and_the_overlap_stands_in_all(judged, contracts):
    judged(passes=8, fails=8)
    result = pick(ask(10, experts=("Ana", "ben"), overlap=4), contracts)
    ana, ben = in_queue("week 48 (ana)"), in_queue("week 48 (ben)")
    assert (len(ana), len(ben), len(ana & ben)) == (7, 7, 4)
    found = queues.find_queues(experiment_id())
    assert found["week 48 (ana)"].users == ["ana"] and found["week 48 (ben)"].users == ["ben"]
    assert any("done after one review" in n and "basic-auth" in n for n in result.notes)


def test_an_overlap_item_stays_open_for_the_expert_who_has_not_labelled_it(judged, contracts, label):
    ids = judged(passes=2, fails=2)
    for trace_id in ids:
        label(trace_id, "yes", by="ana")
    pick(ask(4, experts=("ana", "ben"), overlap=4), contracts)
    assert in_queue("week 48 (ana)") == set() and in_queue("week 48 (ben)") == set(ids)


def test_newer_traces_stay_out_of_a_queue_once_begun_and_another_queue_takes_them(judged, contracts):
    first = judged(passes=4, fails=2)
    pick(ask(3), contracts)
    newer = judged(passes=2, fails=2)
    grown = pick(ask(20), contracts)
    assert in_queue() == set(first) and any("4 judged traces are newer" in n for n in grown.notes)
    other = pick(ask(20, queue="week 49"), contracts)
    assert in_queue("week 49") == set(newer)
    assert any("6 traces are left out because they belong to the sample of an earlier queue" in n for n in other.notes)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 5}, r"begun on .* with another --seed. Found: 5. Valid: 0"),
        ({"by": "tag:x"}, "another --by"),
        ({"filter": "tag.x = 'y'"}, "another --filter"),
        ({"uncertain": 0.5}, "begun without --uncertain"),
    ],
)
def test_a_queues_design_cannot_change_later(judged, contracts, changed, message):
    judged(passes=4, fails=2)
    pick(ask(2), contracts)
    with pytest.raises(ConfigError, match=message):
        pick(ask(4, **changed), contracts)


def test_slices_and_confidence_become_strata(judged, contracts, tags_of):
    judged(passes=10, fails=5)
    judged(passes=3, confidence=0.99, tags={"domain": "roaming"})
    result = pick(ask(9, by="tag:domain", uncertain=0.5, minimum=1), contracts)
    names = {s.name for s in result.strata}
    assert "pass / sure / domain = roaming" in names and "pass / unsure / domain = (none)" in names
    assert result.frame.cut is not None
    stored = [draws_of(tags_of(i))[JUDGE].stratum for i in in_queue()]
    assert "pass / sure / domain = roaming" in stored


@pytest.mark.parametrize(
    ("value", "kind", "fields"),
    [
        (BooleanValue(), "InputPassFail", {"positive_label": "Pass", "negative_label": "Fail"}),
        (BooleanValue(good=False), "InputCategorical", {"options": ["no", "yes"]}),
        (NumericValue(1, 5, 4), "InputNumeric", {"min_value": 1, "max_value": 5}),
    ],
)
def test_the_answer_is_on_the_judges_own_scale(store, value, kind, fields):
    found = queues.schema_input(JudgeContract(JUDGE, "?", value))
    assert type(found).__name__ == kind
    assert {k: getattr(found, k) for k in fields} == fields


def test_a_judge_in_no_catalogue_is_asked_as_pass_or_fail(judged, store):
    judged(passes=2, fails=2)
    pick(ask(2), {})
    assert type(queues.find_schema(experiment_id(), JUDGE).input).__name__ == "InputPassFail"


def test_a_schema_that_asks_something_else_is_refused_before_anything_is_written(judged, contracts):
    from mlflow.genai.label_schemas import InputText, create_label_schema

    judged(passes=2, fails=2)
    create_label_schema(JUDGE, type="feedback", input=InputText(), experiment_id=experiment_id())
    before = everything()
    with pytest.raises(ConfigError, match="label schema 'resolved' that asks for something else"):
        pick(ask(2), contracts)
    assert everything() == before


def test_a_queue_that_asks_other_questions_is_refused(judged, contracts):
    from mlflow.genai.review_queues import add_items_to_review_queue, create_review_queue, get_or_create_user_queue

    ids = judged(passes=2, fails=2)
    other = create_review_queue("week 48", queue_type="custom", experiment_id=experiment_id())
    add_items_to_review_queue(other.queue_id, item_ids=ids[:1])
    with pytest.raises(ConfigError, match="'week 48' asks other questions"):
        pick(ask(2), contracts)
    get_or_create_user_queue("ana", experiment_id=experiment_id())
    with pytest.raises(ConfigError, match="'ana' is a reviewer's own work list"):
        pick(ask(2, queue="ana"), contracts)


@pytest.mark.parametrize("queue", ["", "  ", "Default"])
def test_queue_names_mlflow_reserves_are_refused(queue):
    with pytest.raises(ConfigError, match="A review queue needs a name"):
        ask(queue=queue)


def test_an_overlap_needs_experts():
    with pytest.raises(ConfigError, match=r"An overlap needs two or more experts.*--experts ana,ben"):
        ask(overlap=3, experts=("ana",))


def test_too_many_options_for_mlflows_widget_are_refused():
    value = CategoricalValue(tuple(f"o{n}" for n in range(11)), ("o1",))
    with pytest.raises(ConfigError, match="11 options"):
        queues.schema_input(JudgeContract(JUDGE, "?", value))


# --- the command ----------------------------------------------------------------------------------------


def run(*arguments: str):
    from mlflow_assay.cli import assay

    return CliRunner().invoke(assay, arguments, catch_exceptions=False)


def test_the_command_says_what_was_drawn_and_what_is_still_needed(judged):
    judged(passes=8, fails=4)
    told = run("labels", "pick", "-e", "test", "-j", JUDGE, "-n", "6", "-q", "week 48").output
    assert "6 traces drawn for resolved, queue 'week 48' (seed 0," in told
    assert "queue 'week 48': 6 added; 6 pending, 0 complete, 0 declined" in told
    assert "12 more labels are needed for ± 5 points (0 of 12), in the worst case" in told
    state = run("labels", "status", "-e", "test").output
    assert "week 48: 0 of 6 traces labelled, for resolved." in state and "6 pending" in state


def test_json_output_is_one_object_with_everything(judged, label):
    ids = judged(passes=8, fails=4)
    out = run("labels", "pick", "-e", "test", "-j", JUDGE, "-n", "6", "-q", "week 48", "--json").stdout
    found = json.loads(out)
    assert len(found["new"]) == found["drawn"] == 6 and found["frame"]["judge"] == JUDGE
    assert {s["name"]: s["size"] for s in found["strata"]} == {"pass": 8, "fail": 4}
    assert set(found["new"]) <= set(ids)
    label(found["new"][0], True)
    (state,) = json.loads(run("labels", "status", "-e", "test", "--json").stdout)
    assert (state["answered"], state["plan"]["have"], state["drawn"]) == (1, 1, 6)


def test_a_judge_without_verdicts_is_named(judged):
    judged(passes=1, fails=1)
    with pytest.raises(ConfigError, match=r"No judge 'tone' gave verdicts.*Valid: resolved.*assay score"):
        run("labels", "pick", "-e", "test", "-j", "tone", "-n", "6", "-q", "x")


def test_status_without_any_sample_says_how_to_begin(judged):
    judged(passes=1)
    assert "assay labels pick" in run("labels", "status", "-e", "test").output


def test_a_rate_corrected_with_these_labels_uses_their_probabilities(judged, label, contracts):
    """From the draw to `assay kpi`: labels of drawn traces count with their weights, others not at all."""
    ids = judged(passes=40, fails=20)
    drawn = pick(ask(30), contracts).new
    for trace_id in drawn:
        label(trace_id, trace_id in ids[:40])
    stray = next(i for i in ids if i not in drawn)
    label(stray, False)
    (found,) = json.loads(run("labels", "status", "-e", "test", "--json").stdout)
    assert found["plan"]["have"] == 30 and found["plan"]["measured"]
    (kpi,) = json.loads(run("kpi", "-e", "test", "--judge", JUDGE, "--json").stdout)["kpis"]
    told = json.dumps(kpi)
    assert "drawn with the probabilities given" in told and "1 labels are not used" in told
    estimate = kpi["estimate"]
    assert estimate["n_labelled"] == 30
    assert estimate["low"] <= 40 / 60 <= estimate["high"]


def test_a_judge_of_sessions_has_its_sessions_drawn_by_the_trace_the_verdict_stands_on(judged, label):
    from mlflow_assay.contracts import JudgeContract

    contract = JudgeContract(JUDGE, "?", BooleanValue(), scope="session")
    firsts = [judged(passes=1, session=f"s{n}")[0] for n in range(4)]
    result = pick(ask(4), {JUDGE: contract})
    assert set(result.new) == set(firsts) and result.traces == 4
    label(firsts[0], True)
    assert pick(ask(4), {JUDGE: contract}).answered == 1
