"""Facts about answers that should stay when a picture changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import behaviour

PICTURES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4, 1) + 1


def brightest_column(images):
    return images.sum(axis=(1, 3)).argmax(axis=1)


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        ("up", [[5, 6, 7, 8], [9, 10, 11, 12], [0, 0, 0, 0]]),
        ("down", [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]]),
        ("left", [[2, 3, 4, 0], [6, 7, 8, 0], [10, 11, 12, 0]]),
        ("right", [[0, 1, 2, 3], [0, 5, 6, 7], [0, 9, 10, 11]]),
    ],
)
def test_a_shift_moves_all_rows_or_columns_and_lets_black_in(direction, expected):
    assert behaviour.shifted(PICTURES, direction)[0, ..., 0].tolist() == expected


@given(st.sampled_from(["up", "down", "left", "right"]), st.integers(0, 6))
def test_a_shift_keeps_every_picture_to_itself(direction, pixels):
    moved = behaviour.shifted(PICTURES, direction, pixels)
    assert moved.shape == PICTURES.shape
    assert moved.dtype == np.uint8
    assert set(moved[0].ravel()) <= {0, *PICTURES[0].ravel()}


def test_other_directions_are_named():
    with pytest.raises(ValueError, match="moved up, down, left, right; received 'north'"):
        behaviour.shifted(PICTURES, "north")


def test_brightness_saturates_and_rounds():
    assert behaviour.brightened(np.array([0, 3, 100, 250], np.uint8), 0.5).tolist() == [0, 2, 50, 125]
    assert behaviour.brightened(np.array([0, 3, 100, 250], np.uint8), 3).tolist() == [0, 9, 255, 255]


def test_noise_has_its_deviation_and_its_seed():
    grey = np.full((50, 28, 28, 1), 128, np.uint8)
    noisy = behaviour.noisy(grey, 10, seed=1)
    assert noisy.astype(float).std() == pytest.approx(10, rel=0.02)
    assert noisy.astype(float).mean() == pytest.approx(128, abs=0.2)
    assert (noisy == behaviour.noisy(grey, 10, seed=1)).all()
    assert (noisy != behaviour.noisy(grey, 10, seed=2)).any()
    assert (behaviour.noisy(grey, 0) == grey).all()


def test_a_mirror_image_mirrored_is_the_picture():
    assert behaviour.mirrored(PICTURES)[0, 0, :, 0].tolist() == [4, 3, 2, 1]
    assert (behaviour.mirrored(behaviour.mirrored(PICTURES)) == PICTURES).all()


def test_steadiness_counts_the_answers_that_stay_and_those_that_are_right():
    images = np.zeros((4, 2, 4, 1), np.uint8)
    images[range(4), :, [0, 1, 2, 3]] = 9
    found = behaviour.steadiness(
        brightest_column,
        images,
        np.array([0, 1, 2, 0]),
        {"nothing": lambda x: x, "right": lambda x: behaviour.shifted(x, "right"), "mirror": behaviour.mirrored},
    )
    assert found["same"].to_dict() == {"nothing": 1.0, "right": 0.0, "mirror": 0.0}
    assert found["accuracy"].to_dict() == {"nothing": 0.75, "right": 0.25, "mirror": 0.25}
    assert found.loc["nothing", ["low", "high"]].tolist() == pytest.approx([0.51, 1.0], abs=0.001)


def test_without_pictures_or_changes_nothing_can_be_said():
    with pytest.raises(ValueError, match="received 0 and 1"):
        behaviour.steadiness(brightest_column, PICTURES[:0], np.array([]), {"x": lambda x: x})
    with pytest.raises(ValueError, match="received 2 and 0"):
        behaviour.steadiness(brightest_column, PICTURES, np.array([0, 0]), {})
