"""Labels and words as numbers: a fixed list of items that comes from the training split."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

PAD, UNKNOWN = "", "[unknown]"
_WORD = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True)
class Vocabulary:
    """A fixed list of items, each with its number.

    Attributes:
        items: The items; the number of an item is its position.
        unknown: Number for what is not among the items; if `None`, that is an error.
    """

    items: tuple[str, ...]
    unknown: int | None = None

    def __len__(self) -> int:
        return len(self.items)

    def encode(self, items: Iterable[str]) -> np.ndarray:
        """Returns the number of each item as int64.

        Raises:
            ValueError: If one is not in the vocabulary and there is no number for unknown ones.
        """
        items = list(items)
        numbers = {item: number for number, item in enumerate(self.items)}
        codes = [numbers.get(str(item), self.unknown) for item in items]
        if None in codes:
            raise ValueError(
                f"{str(items[codes.index(None)])!r} is not among the {len(self)} items of the vocabulary: "
                "it was not in the training split, or is misspelt."
            )
        return np.array(codes, dtype=np.int64)

    def one_hot(self, numbers: np.ndarray) -> np.ndarray:
        """Returns numbers of shape (…) as float32 rows of shape (…, len) with a single 1.

        Raises:
            IndexError: If a number is not one of the vocabulary's, from 0.
        """
        numbers = np.asarray(numbers)
        if numbers.size and numbers.min() < 0:
            raise IndexError(f"A number of the vocabulary is from 0 to {len(self) - 1}; received {numbers.min()}.")
        return np.eye(len(self), dtype=np.float32)[numbers]


def of_labels(labels: Iterable[str]) -> Vocabulary:
    """Returns the vocabulary of all distinct labels in alphabetical order; an unknown one is an error.

    Example:

    >>> names = of_labels(["coat", "bag", "coat"])
    >>> names.items, names.encode(["coat", "bag"]).tolist()
    (('bag', 'coat'), [1, 0])
    """
    return Vocabulary(tuple(sorted({str(label) for label in labels})))


def words(text: str) -> list[str]:
    """Returns the words of a text in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def of_texts(texts: Iterable[str], *, size: int | None = None) -> Vocabulary:
    """Returns the words of training texts, the most frequent first; number 0 pads, 1 is unknown.

    Args:
        texts: Training texts.
        size: Largest number of items, the two special ones included; all words if not given.

    Example:

    >>> known = of_texts(["A red coat", "a blue coat"], size=4)
    >>> known.items
    ('', '[unknown]', 'a', 'coat')
    >>> known.encode(words("A red coat!")).tolist()
    [2, 1, 3]
    """
    counts = Counter(word for text in texts for word in words(text))
    frequent = sorted(counts, key=lambda word: (-counts[word], word))
    return Vocabulary((PAD, UNKNOWN, *frequent)[: size if size is None else max(size, 2)], unknown=1)
