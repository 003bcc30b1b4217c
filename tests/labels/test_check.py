"""Everything the labels say about a judge: people among themselves, conflicts, scales, slices, duels."""

from __future__ import annotations

import json

import krippendorff
import pytest
from sklearn.metrics import cohen_kappa_score

from mlflow_assay.contracts import JudgeContract, NumericValue
from mlflow_assay.errors import ConfigError
from mlflow_assay.labels.check import check_judge, duel, duels_against_first
from mlflow_assay.labels.window import LabelChoice, parse_labels
from mlflow_assay.trust.compare import holm, mcnemar_exact

PEOPLE = ("ann", "ben", "cleo")


def panel(make, n=60, people=PEOPLE):
    """Three people who slip now and then, each on other traces, and a judge that slips too."""
    rows = []
    for i in range(n):
        truth = i % 3 != 0
        said = [make.label(truth != (i % 11 == k), by=who) for k, who in enumerate(people)]
        rows.append(make.row(i, make.mark(truth != (i % 7 == 0)), *said))
    return rows


def test_people_among_themselves_are_measured_as_the_reference_implementation_does(make):
    check = check_judge(make.paired(panel(make)))
    values = [[int((i % 3 != 0) != (i % 11 == k)) for i in range(60)] for k in range(3)]
    expected = krippendorff.alpha(reliability_data=values, level_of_measurement="nominal")
    assert check.people.alpha.value == pytest.approx(expected)
    assert check.people.n == 3
    pairs = [cohen_kappa_score(values[a], values[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert check.people.ceiling.humans == pytest.approx(sum(pairs) / 3)


def test_three_people_allow_the_alt_test_and_two_do_not(make):
    assert check_judge(make.paired(panel(make))).people.alt is not None
    two = check_judge(make.paired(panel(make, people=PEOPLE[:2]))).people
    assert two.alt is None
    assert two.alt_refused == "The alt-test needs 3 or more labellers; there are 2."


def test_three_people_on_too_few_shared_traces_are_told_why(make):
    found = check_judge(make.paired(panel(make, n=9))).people
    assert found.alt is None
    assert "no expert with 30 traces" in found.alt_refused


def test_one_person_has_no_agreement_with_others(make):
    assert check_judge(make.paired(panel(make, people=("ann",)))).people is None


def test_conflicts_are_kept_with_who_said_what(make):
    rows = [make.row(1, make.mark(True), make.label(True, by="ann"), make.label("fail", by="ben"))]
    check = check_judge(make.paired(rows))
    assert list(check.conflicts.values()) == [{"ann": True, "ben": False}]
    assert (check.labels.conflicts, check.labels.ties, check.agreement.n) == (1, 1, 0)


def test_an_ordered_scale_is_weighted_by_distance(make):
    stars = JudgeContract("j", "?", NumericValue(1, 5, 4, integer=True))
    said, truth = [1 + i % 5 for i in range(50)], [1 + (i + (i % 3 == 0)) % 5 for i in range(50)]
    rows = [make.row(i, make.mark(s), make.label(t)) for i, (s, t) in enumerate(zip(said, truth, strict=True))]
    scale = check_judge(make.paired(rows, contract=stars)).scale
    assert scale.weighting == "quadratic"
    assert scale.kappa.value == pytest.approx(cohen_kappa_score(truth, said, weights="quadratic"))


def test_scores_without_steps_have_no_weighted_kappa(make):
    rows = [make.row(i, make.mark(i / 50), make.label(i / 60)) for i in range(50)]
    assert check_judge(make.paired(rows)).scale is None


def test_slices_come_with_most_labels_first_and_say_how_many_are_missing(make):
    rows = [make.row(i, *r.marks, groups={"tag:a": "big" if i % 4 else "small"}) for i, r in enumerate(panel(make))]
    slices = check_judge(make.paired(rows), by="tag:a").slices
    assert [(value, a.n) for value, a in slices.items()] == [("big", 45), ("small", 15)]
    assert slices["small"].needed > 0


def test_without_any_label_nothing_is_claimed(make):
    check = check_judge(make.paired([make.row(1, make.mark(True))]))
    assert (check.labels, check.agreement.n, check.agreement.kappa.value) == (None, 0, None)


def test_the_whole_is_json(make):
    data = json.loads(json.dumps(check_judge(make.paired(panel(make))).to_dict()))
    assert data["agreement"]["n"] == 60
    assert set(data["people"]) == {"n", "alpha", "ceiling", "alt_test", "alt_test_refused"}


def judges(make, slips, n=80):
    """One label and one verdict of each judge a trace; `slips` says where each judge errs."""
    rows = []
    for i in range(n):
        truth = i % 2 == 0
        marks = [make.mark(truth != slip(i), name) for name, slip in slips.items()]
        rows.append(make.row(i, *marks, make.mark(truth, "truth", kind="CODE")))
    return [make.paired(rows, name, ("truth",)) for name in slips]


def test_the_judge_that_is_right_more_often_is_found_by_mcnemars_test(make):
    bad, good = judges(make, {"bad": lambda i: i % 4 == 0, "good": lambda i: i % 40 == 1})
    found = duel(bad, good)
    assert (len(found.comparison.wins), len(found.comparison.losses)) == (20, 2)
    assert found.comparison.p_value == pytest.approx(mcnemar_exact(20, 2))
    assert found.comparison.outcome == "better"
    assert found.gain.low > 0


def test_several_duels_are_adjusted_for_their_number(make):
    slips = {"a": lambda i: i % 4 == 0, "b": lambda i: i % 8 == 0, "c": lambda i: i % 40 == 1}
    found = duels_against_first(judges(make, slips))
    plain = [d.comparison.p_value for d in found]
    assert [d.comparison.p_adjusted for d in found] == holm(plain)


def test_labels_are_named_for_all_judges_or_for_one():
    choice = parse_labels(["truth", "stars=tone", "a=b=tone"])
    assert choice == LabelChoice(("truth",), {"tone": ("stars", "a=b")})
    assert choice.of("tone") == ("truth", "stars", "a=b")
    assert choice.of("other") == ("truth",)


@pytest.mark.parametrize("text", ["", "=x", "x=", " = "])
def test_a_label_option_of_another_form_is_an_error(text):
    with pytest.raises(ConfigError, match="NAME=JUDGE"):
        parse_labels([text])
