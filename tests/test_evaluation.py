"""Facts about metrics and intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import calibration, metrics

from helpers import evaluation

LABELS = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 2, 2])


def drawn_probabilities(n, classes, seed):
    random = np.random.default_rng(seed)
    return random.integers(0, classes, n), random.dirichlet(np.full(classes, 0.7), n)


def test_accuracy_of_four_in_six():
    assert evaluation.accuracy(LABELS, PREDICTED) == pytest.approx(4 / 6)
    assert evaluation.accuracy(LABELS, np.eye(3)[PREDICTED]) == pytest.approx(4 / 6)


def test_confusion_matrix_by_hand():
    matrix = evaluation.confusion_matrix(LABELS, PREDICTED, classes=4)
    assert matrix.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, bool])
def test_small_whole_numbers_do_not_overflow_in_the_confusion_matrix(dtype):
    classes = 2 if dtype is bool else 20
    labels = np.arange(classes).astype(dtype)
    np.testing.assert_array_equal(evaluation.confusion_matrix(labels, labels, classes=classes), np.eye(classes))


def test_what_is_no_class_has_no_cell_in_the_confusion_matrix():
    with pytest.raises(ValueError, match="3 classes have labels that are .* from 0 to 2; received int64 from 0 to 3"):
        evaluation.confusion_matrix([0, 3], [0, 1], classes=3)
    with pytest.raises(ValueError, match="3 classes have predictions that are .* received int64 from -1 to 1"):
        evaluation.confusion_matrix([0, 1], [-1, 1], classes=3)
    with pytest.raises(ValueError, match="predictions that are whole numbers from 0 to 2; received float64"):
        evaluation.confusion_matrix([0], [0.5], classes=3)


@pytest.mark.parametrize("judge", [evaluation.accuracy, evaluation.fit_temperature, evaluation.reliability_curve])
def test_a_model_that_diverged_is_not_judged(judge):
    with pytest.raises(ValueError, match="1 of 2 pictures have logits or probabilities that are not finite"):
        judge(np.array([0, 0]), np.array([[1.0, 0.0], [np.nan, np.nan]]))
    with pytest.raises(ValueError, match="one entry for each picture, and at least one"):
        judge(np.empty(0, int), np.empty((0, 2)))


def test_recall_by_class_by_hand_and_of_a_class_without_pictures():
    table = evaluation.recall_by_class(LABELS, PREDICTED, ["a", "b", "c", "none"])
    assert table["pictures"].tolist() == [3, 2, 1, 0]
    np.testing.assert_allclose(table["recall"], [2 / 3, 1 / 2, 1, np.nan])
    assert table.loc[3, ["low", "high"]].tolist() == [0, 1]


def test_in_words_names_the_hardest_class_that_has_pictures_and_what_it_is_taken_for():
    said = evaluation.in_words(LABELS, PREDICTED, ["b", "c", "d", "none"]).splitlines()
    assert said[0].startswith("4 of 6 pictures are answered rightly: 0.667, with 95% confidence 0.3")
    assert said[1] == "Hardest is c: 1 of 2 are found, and it is most often taken for d."
    assert "few to judge by" in said[2]


def test_in_words_finds_no_hardest_class_where_all_is_right():
    many = np.tile(LABELS, 1000)
    assert evaluation.in_words(many, many, ["a", "b", "c"]).splitlines() == [
        "6,000 of 6,000 pictures are answered rightly: 1.000, with 95% confidence 0.999 to 1.000."
    ]


def test_wilson_interval_of_a_textbook_example():
    # 8 of 10 at z = 1.96: (0.8 + 0.19208 ∓ 1.96 sqrt(0.016 + 0.009604)) / 1.38416
    assert np.round(evaluation.wilson_interval(8, 10), 4).tolist() == [0.4902, 0.9433]
    assert np.round(evaluation.wilson_interval(0, 20), 4).tolist() == [0, 0.1611]
    assert np.round(evaluation.wilson_interval(20, 20), 4).tolist() == [0.8389, 1]
    assert (evaluation.wilson_interval(0, 100)[0], evaluation.wilson_interval(10, 10)[1]) == (0, 1)  # without rounding


@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_interval_agrees_with_scipy(total, share):
    successes = round(share * total)
    theirs = stats.binomtest(successes, total).proportion_ci(method="wilson")
    np.testing.assert_allclose(evaluation.wilson_interval(successes, total), [theirs.low, theirs.high], atol=1e-9)


@given(st.integers(2, 6), st.integers(1, 80), st.integers(0, 99))
def test_matrix_and_recall_agree_with_scikit_learn(classes, n, seed):
    labels, probabilities = drawn_probabilities(n, classes, seed)
    predicted = probabilities.argmax(axis=1)
    np.testing.assert_array_equal(
        evaluation.confusion_matrix(labels, predicted, classes=classes),
        metrics.confusion_matrix(labels, predicted, labels=range(classes)),
    )
    ours = evaluation.recall_by_class(labels, predicted, [str(c) for c in range(classes)])["recall"]
    theirs = metrics.recall_score(labels, predicted, labels=range(classes), average=None, zero_division=np.nan)
    np.testing.assert_allclose(ours, theirs)


def test_calibration_error_by_hand():
    # Four pictures at confidence 0.9 of which two are right, one at 0.6 which is right: (4 * 0.4 + 1 * 0.4) / 5
    probabilities = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]])
    error = evaluation.expected_calibration_error(np.array([0, 0, 1, 1, 1]), probabilities, bins=10)
    assert error == pytest.approx(0.4)


@given(st.integers(0, 99))
def test_reliability_agrees_with_scikit_learn(seed):
    labels, probabilities = drawn_probabilities(400, 4, seed)
    curve = evaluation.reliability_curve(labels, probabilities, bins=10)
    right = probabilities.argmax(axis=1) == labels
    shares, confidence = calibration.calibration_curve(right, probabilities.max(axis=1), n_bins=10)
    used = curve.count > 0
    np.testing.assert_allclose(curve.accuracy[used], shares)
    np.testing.assert_allclose(curve.confidence[used], confidence)
    assert curve.count.sum() == 400


def test_confidence_on_an_edge_falls_in_the_bin_below():
    curve = evaluation.reliability_curve(np.array([0, 0]), np.array([[0.5, 0.5], [1.0, 0.0]]), bins=2)
    assert curve.count.tolist() == [1, 1]


def test_perfectly_sure_and_right_has_no_calibration_error():
    assert evaluation.expected_calibration_error(LABELS, np.eye(3)[LABELS]) == 0


def test_logits_are_refused_where_probabilities_are_meant():
    with pytest.raises(ValueError, match="softmax"):
        evaluation.reliability_curve(LABELS, 5 * np.eye(3)[PREDICTED])
    with pytest.raises(ValueError, match="softmax"):  # they sum to 1 by chance
        evaluation.reliability_curve(np.array([0]), np.array([[1.5, -0.5]]))


def test_paired_bootstrap_agrees_with_scipy_and_repeats():
    first, second = np.random.default_rng(1).normal(3, 2, (2, 200))
    ours, difference = evaluation.paired_bootstrap(first, second), first - second
    theirs = stats.bootstrap((difference,), np.mean, method="percentile", n_resamples=2000, rng=1).confidence_interval
    np.testing.assert_allclose(ours[1:], theirs, atol=0.03)
    assert ours.estimate == difference.mean()
    assert ours == evaluation.paired_bootstrap(first, second)


def test_a_pair_is_the_bootstrap_of_its_differences():
    first, second = np.random.default_rng(0).random((2, 300))
    alone = evaluation.paired_bootstrap(first - second, np.zeros(300), resamples=90)
    assert evaluation.paired_bootstrap(first, second, resamples=90) == alone


def test_surest_mistakes_come_first_and_no_right_answer_among_them():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.05, 0.95]])
    labels = np.array([1, 0, 1, 0])
    assert evaluation.surest_mistakes(labels, probabilities).tolist() == [3, 0, 1]
    assert evaluation.surest_mistakes(labels, probabilities, count=1).tolist() == [3]
    assert evaluation.surest_mistakes(np.array([0]), np.array([[0.9, 0.1]])).tolist() == []


@pytest.mark.parametrize(("labels", "predictions"), [([0, 1], [0]), ([], []), ([[0]], [0])])
def test_labels_and_predictions_that_do_not_pair_are_refused(labels, predictions):
    with pytest.raises(ValueError, match="one entry for each picture"):
        evaluation.accuracy(np.array(labels), np.array(predictions))
    with pytest.raises(ValueError, match="2 classes have labels that are whole numbers from 0 to 1; received int64"):
        evaluation.fit_temperature(np.array([0, 2]), np.eye(2))


def test_models_on_different_pictures_are_no_pair():
    with pytest.raises(ValueError, match="received 2 and 3"):
        evaluation.paired_bootstrap([1, 0], [1, 0, 1])


def test_a_temperature_is_found_again():
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (20_000, 5))
    likely = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (random.random((20_000, 1)) > likely.cumsum(axis=1)).sum(axis=1)  # drawn as the logits say
    assert evaluation.fit_temperature(labels, logits) == pytest.approx(1, rel=0.03)
    for times in (0.2, 2.5):
        scaled = evaluation.fit_temperature(labels, times * logits)
        assert scaled == pytest.approx(times * evaluation.fit_temperature(labels, logits), rel=1e-3)


def test_a_temperature_stays_near_one_where_the_few_answers_are_all_right_or_wrong():
    for margin in (0.4, 5.0):
        logits = np.eye(4) * margin
        assert 0.6 < evaluation.fit_temperature(np.arange(4), logits) < 1
        assert 1 < evaluation.fit_temperature(np.roll(np.arange(4), 1), logits) < 4
    sure = evaluation.fit_temperature(np.zeros(30, int), np.tile([0.4, 0.0], (30, 1)))
    assert 0.85 < 1 / (1 + np.exp(-0.4 / sure)) < 0.97  # 30 of 30 are right: the next one is not surely so


def test_many_pictures_overrule_what_is_thought_of_a_temperature_before():
    labels, logits = np.array([0] * 9 + [1]), np.tile([8.0, 0.0], (10, 1))  # 9 of 10 right: log(9) apart
    found = [evaluation.fit_temperature(np.tile(labels, n), np.tile(logits, (n, 1))) for n in (1, 10, 100, 1000)]
    assert found == sorted(found)
    assert found[-1] == pytest.approx(8 / np.log(9), rel=0.01)
