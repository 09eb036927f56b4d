"""Facts about labels and words as numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import LabelBinarizer, LabelEncoder

from helpers import vocabulary


@given(st.lists(st.text("abZ0 _\n\0äß鞋\U0001f392"), min_size=1))
def test_labels_come_back_from_their_numbers(labels):
    known = vocabulary.of_labels(labels)
    numbers = known.encode(labels)
    assert numbers.dtype == np.int64
    assert [known.items[number] for number in numbers] == labels
    assert list(known.items) == sorted(set(labels))
    rows = known.one_hot(numbers)
    np.testing.assert_array_equal(rows.sum(axis=1), 1)
    np.testing.assert_array_equal(rows.argmax(axis=1), numbers)


def test_one_hot_by_hand():
    known = vocabulary.of_labels(["bag", "coat", "shirt"])
    assert known.one_hot([2, 0]).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert known.one_hot([[2, 0]]).shape == (1, 2, 3)


@given(st.lists(st.sampled_from("abcdefg"), min_size=3).filter(lambda labels: len(set(labels)) > 2))
def test_numbers_and_one_hot_agree_with_scikit_learn(labels):
    known = vocabulary.of_labels(labels)
    np.testing.assert_array_equal(known.encode(labels), LabelEncoder().fit_transform(labels))
    np.testing.assert_array_equal(known.one_hot(known.encode(labels)), LabelBinarizer().fit_transform(labels))


def test_label_that_was_not_there_is_an_error_and_a_word_is_unknown():
    with pytest.raises(ValueError, match="'cap' is not among the 2 items"):
        vocabulary.of_labels(["bag", "coat"]).encode(["bag", "cap"])
    assert vocabulary.of_texts(["a bag"]).encode(["a", "cap"]).tolist() == [2, 1]


def test_words_are_counted_and_ties_go_by_the_alphabet():
    known = vocabulary.of_texts(["Red shoes, red!", "Blue shoes; don't ÉTÉ"])
    assert known.items == ("", "[unknown]", "red", "shoes", "blue", "don't", "été")
    assert vocabulary.of_texts(["b a"]).items[2:] == ("a", "b")
    assert vocabulary.of_texts(["b a a"], size=3).items == ("", "[unknown]", "a")
