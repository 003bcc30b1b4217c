"""Two sides of a comparison: what is paired with what, what counts together, and what is concluded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_assay import semconv
from mlflow_assay.contracts import JudgeContract, NumericValue
from mlflow_assay.errors import ConfigError
from mlflow_assay.labels.sides import Plan, Side, check_pair_by, compare_sides, pair_up
from mlflow_assay.labels.window import LabelChoice
from mlflow_assay.trust.compare import mcnemar_exact


def side(make, title, said, *, start, key=lambda i: f"case {i}", session=lambda i: None, labels=None, **metadata):
    """One trace a verdict; `labels` are ground truth under the name truth."""
    rows, keys = [], {}
    for i, value in enumerate(said):
        marks = [] if value is None else [make.mark(value, metadata=metadata)]
        if labels is not None and labels[i] is not None:
            marks.append(make.label(labels[i], name="truth"))
        row = make.row(start + i, *marks, session=session(i))
        rows.append(row)
        if key(i) is not None:
            keys[row.trace_id] = key(i)
    return Side(title, "1", tuple(rows), keys)


def sides(make, a, b, **options):
    return side(make, "A", a, start=0, **options), side(make, "B", b, start=1000, **options)


def run(make, a, b, plan=None, contracts=None, **options):
    left, right = sides(make, a, b, **options)
    return compare_sides(left, right, pair_up(left, right), contracts or {}, plan or Plan())


def test_cases_are_paired_by_key_and_what_has_no_counterpart_is_counted(make):
    left = side(make, "A", [True] * 3, start=0, key=lambda i: ["x", "y", None][i])
    right = side(make, "B", [True] * 3, start=10, key=lambda i: ["y", "z", "x"][i])
    pairing = pair_up(left, right)
    assert [p[0] for p in pairing.pairs] == ["x", "y"]
    assert (pairing.alone_a, pairing.alone_b, pairing.repeats) == (1, 1, 0)
    assert pairing.pairs[0][1:] == (left.rows[0].trace_id, right.rows[2].trace_id)


def test_trials_of_one_case_are_paired_in_order_and_count_together(make):
    left, right = sides(make, [True] * 6, [True] * 6, key=lambda i: f"case {i // 3}")
    pairing = pair_up(left, right)
    assert (len(pairing.pairs), pairing.repeats) == (6, 2)
    assert len(set(pairing.clusters)) == 2


def test_a_session_on_either_side_ties_its_pairs_together(make):
    """A's sessions tie 0-1 and 2-3, B's tie 1-2: all four pairs hang together."""
    left = side(make, "A", [True] * 5, start=0, session=lambda i: f"s{i // 2}")
    right = side(make, "B", [True] * 5, start=10, session=lambda i: f"t{(i + 1) // 2}" if 0 < i < 3 else None)
    clusters = pair_up(left, right).clusters
    assert len(set(clusters[:4])) == 1
    assert clusters[4] != clusters[0]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.lists(st.integers(0, 4), min_size=1, max_size=30))
def test_pairing_is_symmetric_and_uses_each_trace_at_most_once(a, b):
    left, right = (
        Side(
            name,
            "1",
            tuple(_bare(start + i) for i in range(len(keys))),
            {_bare(start + i).trace_id: str(k) for i, k in enumerate(keys)},
        )
        for name, start, keys in (("A", 0, a), ("B", 1000, b))
    )
    if not set(a) & set(b):
        with pytest.raises(ConfigError, match="nothing in common"):
            pair_up(left, right)
        return
    there, back = pair_up(left, right), pair_up(right, left)
    assert {(x, y) for _, x, y in there.pairs} == {(y, x) for _, x, y in back.pairs}
    assert len({x for _, x, _ in there.pairs}) == len({y for _, _, y in there.pairs}) == len(there.pairs)
    assert len(there.pairs) + there.alone_a == len(a)
    assert len(there.pairs) == sum(min(a.count(k), b.count(k)) for k in set(a))


def _bare(number):
    from mlflow_assay.labels.rows import Row

    return Row(f"tr-{number}", number, True, None, False, None, None, None, None, False, False, {}, ())


def test_sides_without_a_common_case_say_what_each_holds(make):
    left = side(make, "A", [True], start=0, key=lambda i: "x")
    right = side(make, "B", [True], start=1, key=lambda i: None)
    with pytest.raises(ConfigError, match=r"Found: A: 1 keys \('x'\); B: no key.*--pair-by tag:task"):
        pair_up(left, right)


def test_the_test_is_mcnemars_and_the_flips_name_both_traces(make):
    (found,) = run(make, [False] * 9 + [True] * 11, [True] * 8 + [False] * 2 + [True] * 10)
    c = found.comparison
    assert (len(c.wins), len(c.losses), c.ties, c.p_value) == (8, 1, 11, mcnemar_exact(8, 1))
    first = found.flips[0]
    assert (first.key, first.better) == ("case 9", False)
    assert (int(first.trace_a[3:], 16), int(first.trace_b[3:], 16)) == (9, 1009)
    assert [f.better for f in found.flips] == [False] + [True] * 8


def test_repeated_cases_are_tested_by_case_not_by_trial(make):
    """Four trials of three cases, all better: twelve wins, but three independent ones."""
    (found,) = run(make, [False] * 12, [True] * 12, key=lambda i: f"case {i // 4}")
    assert found.comparison.method == "sign-flip-exact"
    assert found.comparison.p_value == pytest.approx(0.25)


def test_unscored_and_missing_verdicts_leave_their_pair_out(make):
    (found,) = run(make, [True, None, True], [False, True, True])
    assert found.comparison.n == 2
    assert any("1 pairs lack a verdict" in note for note in found.notes)


def test_pairs_the_judge_was_trained_on_are_left_out(make):
    left = side(make, "A", [True] * 4, start=0, **{semconv.TRAINED_ON: "true"})
    right = side(make, "B", [False] * 3 + [True], start=10)
    (found,) = compare_sides(left, right, pair_up(left, right), {}, Plan())
    assert (found.comparison.n, found.n_trained) == (0, 4)
    assert any("4 pairs are left out because the judge was trained" in note for note in found.notes)


def test_another_version_of_the_judge_on_one_side_is_said(make):
    left = side(make, "A", [True] * 4, start=0, **{semconv.JUDGE_DIGEST: "a" * 16})
    right = side(make, "B", [True] * 4, start=10, **{semconv.JUDGE_DIGEST: "b" * 16})
    (found,) = compare_sides(left, right, pair_up(left, right), {}, Plan())
    assert any("A was judged by version aaaaaaaaaaaaaaaa, B by bbbbbbbbbbbbbbbb" in n for n in found.notes)


def labelled(make, bias=0):
    """Forty pairs: the judge says B is 20 points better; the labels agree unless the judge is biased."""
    a = [i % 2 == 0 for i in range(40)]
    b = [i % 2 == 0 or i % 5 == 0 for i in range(40)]
    truth_b = a if bias else b
    left = side(make, "A", a, start=0, labels=a)
    right = side(make, "B", b, start=1000, labels=truth_b)
    plan = Plan(judges=("j",), choice=LabelChoice(("truth",)), margin=0.05)
    (found,) = compare_sides(left, right, pair_up(left, right), {}, plan)
    return found


def test_labels_on_both_sides_correct_the_difference(make):
    found = labelled(make)
    assert (found.labelled_a, found.labelled_b) == (40, 40)
    assert found.comparison.corrected.corrected == pytest.approx(0.1, abs=0.03)


def test_an_improvement_only_the_judge_sees_is_not_called_one(make):
    """All four wins are the judge's mistake: the corrected difference says so and the gate holds."""
    found = labelled(make, bias=1)
    assert found.comparison.corrected.low < 0
    assert not found.improved()


def test_not_worse_needs_the_interval_to_exclude_the_margin(make):
    same = [i % 2 == 0 for i in range(400)]
    (surely,) = run(make, same, same, Plan(margin=0.05))
    assert surely.not_worse()
    (few,) = run(make, same[:20], same[:20], Plan(margin=0.05))
    assert not few.not_worse()


def test_scores_are_compared_by_their_mean_in_the_direction_of_the_definition(make):
    cost = JudgeContract("j", "?", NumericValue(0, 10, 5, better="lower"))
    a, b = [5.0 + i % 3 for i in range(20)], [4.0 + i % 2 for i in range(20)]
    (plain,) = run(make, a, b)
    assert (plain.comparison.kind, plain.comparison.outcome) == ("mean", "worse")
    assert any("the judge is in no catalogue" in note for note in plain.notes)
    (known,) = run(make, a, b, contracts={"j": cost})
    assert known.comparison.kind == "share"  # its definition says what passes


def test_pass_k_counts_a_case_only_when_all_its_trials_pass(make):
    a = [True, False] * 10
    b = [True, True] * 10
    (found,) = run(make, a, b, Plan(k=2), key=lambda i: f"case {i // 2}")
    first, second, compared = found.pass_k
    assert (first.raw, second.raw) == (0.0, 1.0)
    assert (compared.n, len(compared.wins)) == (10, 10)


def test_several_judges_are_adjusted_for_their_number(make):
    left, right = [], []
    keys = [{}, {}]
    for i in range(12):
        for n, (rows, start) in enumerate(((left, 0), (right, 100))):
            good = bool(n) or i >= 8
            rows.append(make.row(start + i, make.mark(good, "one"), make.mark(good, "two")))
            keys[n][rows[-1].trace_id] = str(i)
    a, b = (Side(t, "1", tuple(r), k) for t, r, k in (("A", left, keys[0]), ("B", right, keys[1])))
    found = compare_sides(a, b, pair_up(a, b), {}, Plan())
    assert [f.comparison.p_adjusted for f in found] == [pytest.approx(2 * mcnemar_exact(8, 0))] * 2


def test_a_judge_on_one_side_only_is_an_error_that_lists_both(make):
    left = side(make, "A", [True], start=0)
    right = side(make, "B", [None], start=10)
    with pytest.raises(ConfigError, match=r"No judge gave verdicts on both sides\. Found: A: j; B: none"):
        compare_sides(left, right, pair_up(left, right), {}, Plan())
    with pytest.raises(ConfigError, match=r"No verdicts of 'tone' on both sides"):
        compare_sides(left, left, pair_up(left, left), {}, Plan(judges=("tone",)))


@pytest.mark.parametrize("field", ["trace", "session", "inputs", "tag:task", "metadata:x", "expectation:id"])
def test_what_traces_may_be_paired_by(field):
    assert check_pair_by(field) == field


def test_what_they_may_not(make):
    with pytest.raises(ConfigError):
        check_pair_by("nonsense")
