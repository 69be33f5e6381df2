"""Scores, against torchmetrics and by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from emra_deploy.errors import EmraError
from emra_deploy.evaluation.metrics import ConfusionMatrix
from emra_deploy.model_file.classes import ClassSet


def class_set(count: int) -> ClassSet:
    return ClassSet(tuple(f"class {i}" for i in range(count)), tuple((i, i, i) for i in range(count)))


def pictures(count: int, seed: int, absent: tuple[int, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Truth with 255 in it, and a prediction that is right more often than not."""
    random = np.random.default_rng(seed)
    present = [label for label in range(count) if label not in absent]
    truth = random.choice(present, (3, 60, 50)).astype(np.uint8)
    prediction = np.where(random.random(truth.shape) < 0.6, truth, random.choice(present, truth.shape))
    truth[random.random(truth.shape) < 0.1] = 255
    return truth, prediction.astype(np.uint8)


@pytest.mark.parametrize("count", [2, 5, 7])
def test_scores_equal_those_of_torchmetrics(count: int) -> None:
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.classification")
    truth, prediction = pictures(count, seed=count)
    matrix = ConfusionMatrix(count)
    for labels, guess in zip(truth, prediction, strict=True):
        matrix.update(labels, guess)
    scores = matrix.scores(class_set(count))
    settings = {"num_classes": count, "ignore_index": 255}
    tensors = torch.from_numpy(prediction.astype(np.int64)), torch.from_numpy(truth.astype(np.int64))
    for ours, theirs in (
        (scores.iou, classification.MulticlassJaccardIndex(average="none", **settings)),
        (scores.f1, classification.MulticlassF1Score(average="none", **settings)),
        (scores.precision, classification.MulticlassPrecision(average="none", **settings)),
        (scores.recall, classification.MulticlassRecall(average="none", **settings)),
        (scores.miou, classification.MulticlassJaccardIndex(average="macro", **settings)),
        (scores.mf1, classification.MulticlassF1Score(average="macro", **settings)),
        (scores.accuracy, classification.MulticlassAccuracy(average="micro", **settings)),
        (matrix.counts, classification.MulticlassConfusionMatrix(**settings)),
    ):
        np.testing.assert_allclose(ours, theirs(*tensors).numpy(), atol=1e-6)


def test_a_case_worked_by_hand() -> None:
    matrix = ConfusionMatrix(3)
    truth = np.array([[0, 0, 0, 1, 1, 255]], np.uint8)
    guess = np.array([[0, 0, 1, 1, 0, 2]], np.uint8)
    matrix.update(truth, guess)
    scores = matrix.scores(class_set(3))
    assert matrix.counts.tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert scores.iou[:2] == (2 / 4, 1 / 3)
    assert scores.precision[:2] == (2 / 3, 1 / 2)
    assert scores.recall[:2] == (2 / 3, 1 / 2)
    assert scores.f1[:2] == (2 / 3, 1 / 2)
    assert scores.accuracy == 3 / 5
    assert scores.support == (3, 2, 0)


def test_a_class_absent_from_both_is_left_out_of_means() -> None:
    truth, prediction = pictures(5, seed=0, absent=(2,))
    matrix = ConfusionMatrix(5)
    matrix.update(truth, prediction)
    scores = matrix.scores(class_set(5))
    for values in (scores.iou, scores.f1, scores.precision, scores.recall):
        assert math.isnan(values[2])
        assert np.isfinite(np.delete(values, 2)).all()
    assert scores.miou == pytest.approx(np.nanmean(scores.iou))
    assert scores.mf1 == pytest.approx(np.nanmean(scores.f1))


def test_a_class_that_is_never_found_counts_as_zero() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([0, 1], np.uint8), np.array([0, 0], np.uint8))
    scores = matrix.scores(class_set(2))
    assert (scores.iou[1], scores.f1[1], scores.precision[1], scores.recall[1]) == (0, 0, 0, 0)
    assert scores.miou == 0.25


def test_nothing_counted_gives_no_scores() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.full((4, 4), 255, np.uint8), np.zeros((4, 4), np.uint8))
    scores = matrix.scores(class_set(2))
    assert math.isnan(scores.miou)
    assert math.isnan(scores.accuracy)
    assert json.loads(json.dumps(scores.to_dict(), allow_nan=False))["miou"] is None


def test_parts_add_up_to_the_whole() -> None:
    truth, prediction = pictures(5, seed=1)
    whole, parts = ConfusionMatrix(5), ConfusionMatrix(5)
    whole.update(truth, prediction)
    for labels, guess in zip(truth, prediction, strict=True):
        part = ConfusionMatrix(5)
        part.update(labels, guess)
        parts.merge(part)
    np.testing.assert_array_equal(parts.counts, whole.counts)
    with pytest.raises(EmraError):
        whole.merge(ConfusionMatrix(4))


def test_a_map_larger_than_one_piece_is_counted_whole() -> None:
    truth = np.random.default_rng(0).integers(0, 3, (1100, 1000), dtype=np.uint8)
    matrix = ConfusionMatrix(3)
    matrix.update(truth, truth)
    np.testing.assert_array_equal(np.diag(matrix.counts), np.bincount(truth.ravel()))
    assert matrix.counts.sum() == truth.size


@pytest.mark.parametrize(
    ("labels", "prediction", "code"),
    [
        (np.array([5], np.uint8), np.array([0], np.uint8), "class-count"),
        (np.array([0], np.uint8), np.array([5], np.uint8), "class-count"),
        (np.array([0], np.uint8), np.array([255], np.uint8), "class-count"),
        (np.array([254], np.uint8), np.array([0], np.uint8), "class-count"),
        (np.array([0, 1], np.uint8), np.array([0], np.uint8), "label-array"),
        (np.array([0], np.int64), np.array([0], np.uint8), "label-array"),
        (np.array([0], np.uint8), [0], "label-array"),
    ],
)
def test_what_cannot_be_compared_is_refused(labels: np.ndarray, prediction: np.ndarray, code: str) -> None:
    matrix = ConfusionMatrix(5)
    with pytest.raises(EmraError) as caught:
        matrix.update(labels, prediction)
    assert caught.value.code == code
    assert matrix.counts.sum() == 0


def test_predictions_without_truth_do_not_matter() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([255, 255, 1], np.uint8), np.array([9, 255, 1], np.uint8))
    assert matrix.counts.sum() == 1


def test_names_must_fit() -> None:
    with pytest.raises(EmraError):
        ConfusionMatrix(3).scores(class_set(4))
    with pytest.raises(EmraError):
        ConfusionMatrix(0)
