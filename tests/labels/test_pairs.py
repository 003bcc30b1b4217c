"""Verdicts beside labels: who is in, who is out, and what the corrected number says about it."""

from __future__ import annotations

import pytest
from sklearn.metrics import cohen_kappa_score

from mlflow_assay import semconv
from mlflow_assay.contracts import BooleanValue, CategoricalValue, JudgeContract, NumericValue
from mlflow_assay.labels.designs import Draw
from mlflow_assay.labels.kpi import agreement_of, corrected, kpi_of, uncorrected
from mlflow_assay.labels.pairs import trained_note
from mlflow_assay.trust.estimate import ErrorRates, corrected_kpi

TRAINED = {semconv.TRAINED_ON: "true"}


def world(make, n=100, labelled=60, trained=0, digest=lambda i: "d" * 16, session=None):
    """Three of four pass; a fifth of the passes is bad. The first `trained` rows are the judge's training set.

    On a training row the judge repeats its label, as a judge that learnt it by heart does.
    """
    rows = []
    for i in range(n):
        passes = i % 4 != 0
        good = passes and i % 5 != 0
        metadata = {semconv.JUDGE_DIGEST: digest(i), **(TRAINED if i < trained else {})}
        said = make.mark(good if i < trained else passes, metadata=metadata)
        marks = [said, make.label(good)] if i < labelled else [said]
        rows.append(make.row(i, *marks, session=session(i) if session else None))
    return rows


def test_verdicts_and_labels_of_one_trace_stand_side_by_side(make):
    paired = make.paired([make.row(1, make.mark("no"), make.label(True)), make.row(2, make.mark(True))])
    assert (paired.passed, list(paired.good)) == ([False, True], [True, None])
    assert paired.n_labelled == 1


def test_traces_the_judge_was_trained_on_are_in_neither_the_agreement_nor_the_corrected_rate(make):
    """The numbers are exactly those of the window without the training traces."""
    with_them, without = world(make, trained=40), world(make, trained=40)[40:]
    paired, rest = make.paired(with_them), make.paired(without)
    assert agreement_of(paired).confusion == agreement_of(rest).confusion
    estimate = corrected(paired)
    assert (estimate.corrected, estimate.low, estimate.high) == (
        corrected(rest).corrected,
        corrected(rest).low,
        corrected(rest).high,
    )
    assert (estimate.n_judged, estimate.n_labelled) == (60, 20)
    assert uncorrected(paired).n_judged == 60
    assert "40 traces were used to train the judge and are left out." in estimate.assumptions
    assert (paired.n_trained, paired.n_trained_labels) == (40, 40)


def test_a_judge_that_learnt_its_labels_by_heart_would_look_better_than_it_is(make):
    """What leaving out protects from: on its training traces the judge is always right."""
    paired = make.paired(world(make, trained=40))
    honest = agreement_of(paired).kappa.value
    everything = [v.trained_on for v in make.paired(world(make)).verdicts]
    assert not any(everything)
    flattered = agreement_of(make.paired(without_marks(make, world(make, trained=40)))).kappa.value
    assert flattered > honest + 0.1


def without_marks(make, rows):
    """The same rows with the training marks taken off."""
    import dataclasses

    def clean(mark):
        return dataclasses.replace(mark, metadata={k: v for k, v in mark.metadata.items() if k != semconv.TRAINED_ON})

    return [dataclasses.replace(row, marks=tuple(clean(m) for m in row.marks)) for row in rows]


def test_only_the_word_true_marks_a_training_trace(make):
    rows = [make.row(1, make.mark(True, metadata={semconv.TRAINED_ON: "false"}), make.label(True))]
    assert make.paired(rows).n_trained == 0
    assert trained_note(make.paired(rows)) is None


def test_one_training_trace_is_said_in_the_singular(make):
    paired = make.paired(world(make, trained=1))
    assert trained_note(paired) == "1 trace was used to train the judge and is left out."


def test_the_corrected_rate_is_that_of_the_trust_package_on_the_same_rows(make):
    rows = world(make, session=lambda i: f"s{i // 2}")
    passes = [i % 4 != 0 for i in range(100)]
    labels = [i % 4 != 0 and i % 5 != 0 if i < 60 else None for i in range(100)]
    expected = corrected_kpi(passes, labels, kind="share", clusters=[f"s{i // 2}" for i in range(100)], name="j")
    assert corrected(make.paired(rows)) == expected


def test_a_version_of_the_judge_nobody_labelled_leaves_the_rate_uncorrected_with_the_reason(make):
    """Labels on verdicts of the old version say nothing about the new one's."""
    paired = make.paired(world(make, digest=lambda i: "a" * 16 if i < 70 else "b" * 16))
    estimate = corrected(paired)
    assert not estimate.is_corrected
    reason = " ".join(estimate.assumptions)
    assert "30 of the verdicts were given by version bbbbbbbbbbbbbbbb" in reason
    assert "another window or system" in reason


def test_versions_that_are_both_labelled_are_corrected_together(make):
    paired = make.paired(world(make, digest=lambda i: "ab"[i % 2] * 16))
    assert corrected(paired).is_corrected


def test_a_handful_of_verdicts_by_another_version_does_not_spoil_the_rate(make):
    paired = make.paired(world(make, digest=lambda i: "a" * 16 if i < 96 else "b" * 16))
    assert corrected(paired).is_corrected


def test_external_rates_are_used_only_where_labels_do_not_suffice(make):
    rates = ErrorRates(45, 50, 80, 100, "a study")
    assert corrected(make.paired(world(make)), external=rates).method == "jps"
    few = corrected(make.paired(world(make, labelled=5)), external=rates)
    assert few.method == "rogan-gladen"
    assert few.assumptions[0].startswith("Assumes the judge errs here as it did in a study")


def test_drawn_labels_are_weighted_by_their_probabilities_and_stray_ones_left_out(make):
    """Fails were drawn at 80 %, passes at 20 %; five labels came in from elsewhere and must not count."""
    rows = []
    for i in range(200):
        passes, chosen = i % 4 != 0, (i % 20 != 0 if i % 4 == 0 else i % 5 == 0)
        good = passes and i % 7 != 0
        chance = 0.2 if passes else 0.8
        draw = Draw(chance, "q", "pass" if passes else "fail", 150 if passes else 50, 30 if passes else 40, 1, "d")
        marks = [make.mark(passes)] + ([make.label(good)] if chosen or i in (1, 2, 3, 6, 7) else [])
        rows.append(make.row(i, *marks, draws={"j": draw} if chosen else None))
    paired = make.paired(rows)
    estimate = corrected(paired)
    assert estimate.n_labelled == 70
    assert "Labels come from the traces of this window, drawn with the probabilities given." in estimate.assumptions
    assert any(note.startswith("5 labels are not used") for note in estimate.assumptions)
    weights = [1 / 0.2 if p else 1 / 0.8 for p in paired.passed]
    used = [i for i, label in enumerate(paired.sampled.labels) if label is not None]
    same = sum(weights[i] for i in used if paired.passed[i] == paired.good[i])
    expected = same / sum(weights[i] for i in used)
    assert agreement_of(paired).accuracy.value == pytest.approx(expected)


def test_slices_are_corrected_by_their_own_labels_only(make):
    rows = world(make, labelled=50)
    rows = [make.row(i, *r.marks, groups={"tag:agent": "a" if i < 50 else "b"}) for i, r in enumerate(rows)]
    slices = kpi_of(make.paired(rows), 100, by="tag:agent").slices
    assert slices["a"].is_corrected
    assert not slices["b"].is_corrected


def test_values_on_an_ordered_scale_are_kept_and_thumbs_are_not_put_on_it(make):
    stars = JudgeContract("j", "?", NumericValue(1, 5, 4, integer=True))
    rows = [make.row(1, make.mark(3), make.label(5)), make.row(2, make.mark(4), make.label(True))]
    paired = make.paired(rows, contract=stars)
    assert (paired.values, paired.label_values) == ((3, 4), (5, None))
    assert (paired.passed, list(paired.good)) == ([False, True], [True, True])


@pytest.mark.parametrize(
    ("contract", "value", "expected"),
    [
        (None, 0.25, 0.25),
        (None, True, None),
        (None, "good", None),
        (BooleanValue(), True, None),
        (CategoricalValue(("bad", "fair", "good"), ("good",)), "Fair", "fair"),
        (CategoricalValue(("bad", "good"), ("good",)), "good", None),
        (NumericValue(0, 1, 0.5), 2.0, None),
    ],
)
def test_a_value_on_the_scale_of_its_judge(contract, value, expected):
    from mlflow_assay.labels.verdicts import scale_value

    assert scale_value(value, contract and JudgeContract("j", "?", contract)) == expected


def test_confidences_outside_zero_and_one_are_no_confidence(make):
    def said(text):
        return make.mark(True, metadata={semconv.CONFIDENCE: text} if text else {})

    rows = [make.row(i, said(t)) for i, t in enumerate(["0.75", "1.5", "sure", None])]
    assert make.paired(rows).confidences == [0.75, None, None, None]


def test_kappa_is_scikit_learns(make):
    paired = make.paired(world(make))
    both = [(p, g) for p, g in zip(paired.passed, paired.good, strict=True) if g is not None]
    expected = cohen_kappa_score([g for _, g in both], [p for p, _ in both])
    assert agreement_of(paired).kappa.value == pytest.approx(expected)
