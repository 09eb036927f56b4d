"""What is amiss with a collection of pictures: each check takes arrays and returns its findings."""

import csv
import functools
import hashlib
import itertools
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.fftpack
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from helpers import artifacts, processor
from helpers.records import Finding
from helpers.sources import Collection

_CHUNK_BYTES = 32 * 2**20  # of pictures, or of pairs of pictures, that are looked at at a time
_CLEAR_MAJORITY = 0.9  # share of pictures above which those that differ are odd
_BLANK = 2.0  # standard deviation of pixels, in grey levels, up to which a picture is blank
_SATURATED = 0.75  # share of white values from which a picture is over-exposed
_HALF = 0.5  # share of a picture of which less is left when it is brought to another shape: a person should look
_NARROW = 64  # brightest value at 8 bits up to which a picture of 16 bits leaves the two highest of them unused
_DISTANCE = 4  # the largest of the perceptual hashes of near-duplicates, in bits
VERDICTS = ("keep", "drop")
_OF_A_CLASS = ("tiny class", "absent class", "alike classes")  # findings whose name is that of a class
SPARED = ("exact duplicate", "near-duplicate", "two labels", "two splits", "blank")  # in a published test set


def inspect(collection: Collection, *, near: float = 0.995) -> tuple[pd.DataFrame, np.ndarray]:
    """Runs every check on a collection.

    A published test set stays whole, so that results can be compared with those of others: what is
    amiss with the content of its pictures is reported for review. Only a picture without a label,
    which cannot be graded, is dropped from it, too.

    Args:
        collection: What `sources.collect` returned.
        near: Correlation of pixels from which two pictures are near-duplicates.

    Returns:
        The findings (columns as in `records.Finding`), and for each picture the number of its content:
        equal for duplicates and near-duplicates. `data.split` takes it as `groups`.
    """
    images, names, labels, splits = collection[:4]
    is_blank = blank_pictures(names, images)
    same = exact_groups(images)
    copies = np.flatnonzero(same != np.arange(len(images)))  # a placeholder may stand there thousands of times
    pairs = near_pairs(images, near=near, ignore=[*is_blank["row"], *copies])
    content = join(same, pairs)
    findings = pd.concat(
        [
            collection.findings,
            missing_labels(names, labels, splits),
            is_blank,
            saturated_pictures(names, images),
            narrow_ranges(names, images, collection.originals),
            odd_sizes(names, collection.originals, collection.images.shape[1:3]),
            odd_modes(names, collection.originals),
            exact_duplicates(names, same, splits, labels),
            near_duplicates(names, same, content),
            contradictions(names, labels, same, content),
            leaks(names, content, np.where(labels == "", "", splits)),  # those without a label go anyway
            tiny_classes(labels, content),
            alike_classes(labels),
        ],
        ignore_index=True,
    )
    in_test = np.append(splits == "test", False)[findings["row"].to_numpy()]  # row -1 is no picture
    spared = in_test & (findings["action"] == "drop") & findings["kind"].isin(SPARED)
    findings.loc[spared, "action"] = "review"
    findings.loc[spared, "detail"] += "; kept, because a published test set stays whole"
    stays = kept(len(images), findings)
    return pd.concat([findings, absent_classes(labels[stays], splits[stays])], ignore_index=True), content


def kept(count: int, findings: pd.DataFrame) -> np.ndarray:
    """Applies the findings: returns the positions, of `count` pictures, that no finding drops.

    Example:

    >>> kept(3, _table([Finding("a.png", "blank", "drop", "is grey", row=1)])).tolist()
    [0, 2]
    """
    dropped = findings.loc[findings["action"] == "drop", "row"].to_numpy()
    return np.setdiff1d(np.arange(count), dropped)


def decide(findings: pd.DataFrame, decisions: dict[str, str]) -> pd.DataFrame:
    """Returns the findings with a reader's verdicts in place of the checks' own.

    Args:
        findings: What `inspect` returned.
        decisions: For names of pictures, `"keep"` or `"drop"`.

    Raises:
        ValueError: If there is no finding about a picture of that name or no such verdict, or if a picture shall stay
            that cannot be read, has no label, or is in the test set as well.
    """
    decided = findings.copy()
    for name, verdict in decisions.items():
        named = findings["name"] == name
        own = named & ~findings["kind"].isin(_OF_A_CLASS)
        if not named.any():
            raise ValueError(f"There is no finding about {name!r}: judge those that are there, or mend its name.")
        if not own.any():
            raise ValueError(
                f"{name!r} is a class, and a verdict is about one picture: mend the class in the source "
                "(bring more pictures of it, give it one name, or take it out)."
            )
        if verdict not in VERDICTS:
            raise ValueError(f"The verdict on {name!r} is {verdict!r}: it must be {' or '.join(VERDICTS)}.")
        if verdict == "keep" and (findings.loc[own, "row"] < 0).any():
            raise ValueError(f"{name!r} cannot be kept: there is no picture to be read. Mend the file.")
        if verdict == "keep" and (findings.loc[own, "kind"] == "missing label").any():
            raise ValueError(f"{name!r} cannot be kept: it has no label. Give it one in the source, or let it go.")
        if verdict == "keep" and (findings.loc[own, "kind"] == "two splits").any():
            raise ValueError(f"{name!r} cannot be kept: its twin is in the test or validation set. Drop that.")
        decided.loc[own, "action"] = "drop" if verdict == "drop" else "review"
        decided.loc[own, "detail"] += "; so you decided"
    return decided


def write_findings(path: str | Path, findings: pd.DataFrame) -> None:
    """Writes findings as a CSV file, one a row (columns as in `records.Finding`), whole or not at all."""
    with artifacts.writing(path) as partial:
        findings.to_csv(partial, index=False)


def decisions_writer(path: str | Path, findings: pd.DataFrame) -> Callable[[dict[str, str]], None]:
    """Returns a function that writes all verdicts given so far on `findings`, each time anew, as a CSV file.

    Its columns are name and verdict. What `decide` refuses is not written: it would end each later run.

    Verdicts of an earlier session that lie there, and are not among the first that it writes, are moved to the next
    free name of the form `decisions-1.csv` beside it.
    """
    path, is_first = Path(path), True

    def write(decisions: dict[str, str]) -> None:
        nonlocal is_first
        decide(findings, decisions)
        if is_first and path.exists() and not _holds_no_others(path, decisions):
            names = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(1))
            os.rename(path, next(name for name in names if not name.exists()))
        is_first = False
        with artifacts.writing(path) as partial:
            pd.DataFrame(decisions.items(), columns=["name", "verdict"]).to_csv(partial, index=False)

    return write


def _holds_no_others(path: Path, decisions: dict[str, str]) -> bool:
    try:
        return read_decisions(path).items() <= decisions.items()
    except ValueError:
        return False


def read_decisions(path: str | Path) -> dict[str, str]:
    """Reads what `decisions_writer`, or a spreadsheet, has written.

    Raises:
        ValueError: If it is no such file.
        FileNotFoundError: If there is none.
    """
    path = artifacts.expanded(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: notebook 01 writes decisions.csv when you judge a finding.")
    try:  # Excel writes semicolons in some countries, and a mark of UTF-8 in front
        table = pd.read_csv(path, sep=None, engine="python", encoding="utf-8-sig", dtype=str, keep_default_na=False)
        return dict(zip(table["name"], table["verdict"], strict=True))
    except (ValueError, KeyError, csv.Error) as error:  # pandas's own errors are ValueErrors
        raise ValueError(f"{path} is no table with the columns name and verdict ({error}).") from None


def missing_labels(names: np.ndarray, labels: np.ndarray, splits: np.ndarray) -> pd.DataFrame:
    """Finds pictures without a label (`""`), and says whether they are in none of the published splits either."""
    rows = np.flatnonzero(labels == "")
    beside = (splits == "") & (splits != "").any()
    why = np.where(beside, "has no label and is in no published split", "has no label")
    return _table(Finding(names[row], "missing label", "drop", str(why[row]), row=row) for row in rows)


def blank_pictures(names: np.ndarray, images: np.ndarray) -> pd.DataFrame:
    """Finds pictures of one colour: the standard deviation of each channel is at most 2 grey levels."""
    spread = np.concatenate([chunk.std(axis=(1, 2)).max(axis=-1) for chunk in _chunks(images, _CHUNK_BYTES // 128)])
    return _table(
        Finding(names[row], "blank", "drop", f"is of one colour (deviation {spread[row]:.1f})", row=row)
        for row in np.flatnonzero(spread <= _BLANK)
    )


def saturated_pictures(names: np.ndarray, images: np.ndarray) -> pd.DataFrame:
    """Finds over-exposed pictures, of whose values at least three quarters are white (250 and above)."""
    white = np.concatenate([(chunk >= 250).mean(axis=(1, 2, 3)) for chunk in _chunks(images)])
    return _table(
        Finding(names[row], "saturated", "review", f"is white in {white[row]:.0%} of its pixels", row=row)
        for row in np.flatnonzero(white >= _SATURATED)
    )


def narrow_ranges(names: np.ndarray, images: np.ndarray, originals: pd.DataFrame) -> pd.DataFrame:
    """Finds pictures of 16 bits that use the lowest 10 to 14 of them, as many cameras write: at 8 bits they are dark.

    Args:
        names: Name of each picture.
        images: The pictures at 8 bits.
        originals: `mode` of each picture as it was.
    """
    rows = np.flatnonzero(originals["mode"].str.startswith("I"))
    brightest = [int(images[row].max()) for row in rows]
    return _table(
        Finding(names[row], "narrow range", "review", f"has 16 bits, and at 8 no value above {value} of 255", row=row)
        for row, value in zip(rows, brightest, strict=True)
        if value < _NARROW
    )


def odd_sizes(names: np.ndarray, originals: pd.DataFrame, size: tuple[int, int]) -> pd.DataFrame:
    """Finds pictures whose size differs from that of nearly all others, that had to be enlarged twofold or lost half.

    Args:
        names: Name of each picture.
        originals: `height` and `width` of each picture as it was.
        size: Height and width to which all were brought.
    """
    height, width = originals["height"].to_numpy(), originals["width"].to_numpy()
    code = height.astype(np.int64) << 32 | width
    values, counts = np.unique(code, return_counts=True)
    is_odd = (code != values[counts.argmax()]) & (counts.max() >= _CLEAR_MAJORITY * len(code))
    is_small = (2 * height < size[0]) | (2 * width < size[1])
    share = height / width * size[1] / size[0]
    share = np.minimum(share, 1 / share)  # of the picture that stays when its ends are cut off
    is_cut = share < _HALF
    brought = f"brought to {size[0]} x {size[1]}"
    lost = [f", which keeps the middle {kept:.0%} of it" if kept < _HALF else "" for kept in share]
    return _table(
        Finding(
            names[row], "wrong size", "review" if is_small[row] or is_cut[row] else "keep",
            f"was {height[row]} high and {width[row]} wide; {brought}{lost[row]}", row=row,
        )  # fmt: skip
        for row in np.flatnonzero(is_odd | is_small | is_cut)
    )


def odd_modes(names: np.ndarray, originals: pd.DataFrame) -> pd.DataFrame:
    """Finds pictures that are stored in another mode (grey, colour, palette, …) than nearly all others."""
    modes = originals["mode"]
    counts = modes.value_counts()
    if counts.iloc[0] < _CLEAR_MAJORITY * len(modes):
        return _table([])
    rows = np.flatnonzero(modes != counts.index[0])
    return _table(
        Finding(names[row], "wrong mode", "keep", f"was {modes.iloc[row]}, not {counts.index[0]}; converted", row=row)
        for row in rows
    )


def tiny_classes(labels: np.ndarray, content: np.ndarray) -> pd.DataFrame:
    """Finds classes with fewer pictures than splits: those that look alike stay together, and count as one."""
    different = pd.DataFrame({"label": labels, "content": content})[labels != ""].drop_duplicates()
    counts = different.groupby("label").size()
    why = "has too few different pictures for every split: "
    return _table(
        Finding(str(value), "tiny class", "review", f"{why}{count}") for value, count in counts.items() if count < 3
    )


def absent_classes(labels: np.ndarray, splits: np.ndarray) -> pd.DataFrame:
    """Finds classes that one of the published splits has no picture of: they are never learned, or never graded.

    Args:
        labels: Class name of each picture, `""` where there is none.
        splits: Published split of each, shape alike; one without any is on the side of training.
    """
    if not (splits != "").any():
        return _table([])
    sides = np.where(splits == "", "train", splits)
    classes = np.unique(labels[labels != ""])
    return _table(
        Finding(str(name), "absent class", "review", f"is left with no picture in {side}")
        for side in ("train", "validation", "test")
        if side == "train" or side in sides
        for name in np.setdiff1d(classes, labels[sides == side])
    )


def alike_classes(labels: np.ndarray) -> pd.DataFrame:
    """Finds classes whose names differ only in case: they may be one class, spelt in two ways."""
    spellings: dict[str, list[str]] = {}
    for name in np.unique(labels[labels != ""]).tolist():
        spellings.setdefault(name.casefold(), []).append(name)
    return _table(
        Finding(first, "alike classes", "review", f"differs only in case from {' and '.join(others)}")
        for first, *others in spellings.values()
        if others
    )


def contents(images: np.ndarray) -> np.ndarray:
    """Returns for each picture the number of its content, as `inspect` does: equal for those that look alike."""
    return join(exact_groups(images), near_pairs(images))


def exact_groups(images: np.ndarray) -> np.ndarray:
    """Returns for each picture a number that is equal for pictures with equal pixels: the position of the first."""
    first: dict[bytes, int] = {}
    digests = (hashlib.blake2b(picture, digest_size=16).digest() for chunk in _chunks(images) for picture in chunk)
    return np.array([first.setdefault(digest, row) for row, digest in enumerate(digests)], np.int64)


def exact_duplicates(names: np.ndarray, groups: np.ndarray, splits: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Finds pictures that have the pixels of another; of each group the one stays that no other check drops.

    That is one with a label, and of these one of the test set if it has any, or else of the validation set.

    Args:
        names: Name of each picture.
        groups: What `exact_groups` returned.
        splits: Published split of each picture, `""` where there is none.
        labels: Class name of each picture, `""` where there is none.
    """
    rank = np.select([splits == "test", splits == "validation"], [0, 1], 2)
    order = np.lexsort((np.arange(len(names)), rank, labels == "", groups))  # by group, the one that stays first
    is_first = np.append(True, groups[order][1:] != groups[order][:-1])
    stays = order[is_first][np.cumsum(is_first) - 1]
    return _table(
        Finding(names[row], "exact duplicate", "drop", f"has the pixels of {names[other]}", groups[row], row)
        for row, other in sorted(zip(order[~is_first], stays[~is_first], strict=True))
    )


def near_duplicates(names: np.ndarray, groups: np.ndarray, content: np.ndarray) -> pd.DataFrame:
    """Finds pictures that look the same without having the same pixels.

    They are kept, for augmentation makes such pictures, too; what matters is that they stay on one side of a split.

    Args:
        names: Name of each picture.
        groups: What `exact_groups` returned.
        content: The same, joined with `near_pairs`.
    """
    return _table(
        Finding(names[row], "near-duplicate", "review", f"looks like {_others(names, group, row)}", content[row], row)
        for group in members(content)
        if len(np.unique(groups[group])) > 1
        for row in group
    )


def contradictions(names: np.ndarray, labels: np.ndarray, groups: np.ndarray, content: np.ndarray) -> pd.DataFrame:
    """Finds pictures that stand under two labels.

    If the pixels are the same, one label must be wrong, and nothing in the data says which: all of
    them are dropped. If they only look the same, both labels may be right, and a person should look.
    """
    known = np.flatnonzero(labels != "")
    found = []
    for numbers, action in ((groups, "drop"), (content, "review")):
        seen = {finding.row for finding in found}
        for group in members(numbers, known):
            under = sorted(set(labels[group]))
            if len(under) > 1:
                why = f"stands under {' and '.join(under)}"
                new = (row for row in group if row not in seen)
                found += [Finding(names[row], "two labels", action, why, content[row], row) for row in new]
    return _table(found)


def leaks(names: np.ndarray, content: np.ndarray, splits: np.ndarray) -> pd.DataFrame:
    """Finds pictures of the training side that stand, or have a look-alike, in the test or validation set.

    The picture of the training side is the one to drop: a model must not train on its own exam.
    """
    rank = np.select([splits == "test", splits == "validation", splits == "train"], [3, 2, 1], 0)
    found = []
    for group in members(content, np.flatnonzero(rank)):
        highest = rank[group].max()
        other = group[rank[group] == highest][0]
        found += [
            Finding(names[row], "two splits", "drop", f"is in {splits[other]} as {names[other]}", content[row], row)
            for row in group[rank[group] < highest]
        ]
    return _table(found)


def phash(images: np.ndarray) -> np.ndarray:
    """Returns the perceptual hash of each picture, bit for bit that of `imagehash.phash`.

    A picture is brought to 32 x 32 greys; the signs of its 64 lowest frequencies against their median
    are its hash. imagehash does this picture by picture; here the cosine transform runs over many.

    Args:
        images: uint8, shape (n, height, width, 1 or 3).

    Returns:
        uint64, shape (n,). `np.bitwise_count(a ^ b)` is the distance of two hashes.

    Reference:
        https://github.com/JohannesBuchner/imagehash
    """
    hashes = _on_all_cores(_phash, _chunks(images, _CHUNK_BYTES // 128))
    return np.concatenate([np.empty(0, np.uint64), *hashes])


def _phash(images: np.ndarray) -> np.ndarray:
    small = _small(images)
    frequencies = scipy.fftpack.dct(scipy.fftpack.dct(small, axis=1)[:, :8], axis=2)[:, :, :8].reshape(-1, 64)
    bits = frequencies > np.median(frequencies, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").astype(np.uint64)[:, 0]


def near_pairs(images: np.ndarray, *, near: float = 0.995, ignore: Iterable[int] = ()) -> np.ndarray:
    """Finds pairs of pictures that look the same, without comparing each with each.

    A candidate (see `candidate_pairs`) counts if its pixels correlate, which leaves brightness and contrast aside.

    Args:
        images: uint8, shape (n, height, width, channels).
        near: Smallest correlation of the pixels.
        ignore: Positions of pictures to leave out, such as blank ones, whose correlation is noise.

    Returns:
        int64, shape (pairs, 2), sorted, the smaller position first.
    """
    rows = np.setdiff1d(np.arange(len(images)), np.asarray(list(ignore), np.int64))
    candidates = rows[candidate_pairs(phash(images)[rows], distance=_DISTANCE)]
    if len(candidates) > len(images):  # many look alike, and few of them this much
        candidates = candidates[_may_correlate(images, candidates, near)]
    return candidates[correlations(images, candidates) >= near]


def candidate_pairs(hashes: np.ndarray, *, distance: int, window: int = 2000) -> np.ndarray:
    """Finds the pairs of 64-bit hashes that differ in at most `distance` bits, without comparing each with each.

    Two hashes within a distance of d bits agree in at least one of d + 1 bands of bits, and in k of d + k narrower
    ones. So sorting by each choice of k bands in turn brings such pairs together. The more hashes there are, the more
    bands have to agree, so that few others come between.

    Args:
        hashes: uint64, shape (n,).
        distance: Largest Hamming distance.
        window: How many neighbours in an order a hash is compared with at most, and `distance + 1` times as many in
            all of them, so that the work stays proportional to n even if all hashes are alike.

    Returns:
        int64, shape (pairs, 2), sorted, the smaller position first.
    """
    count, left = len(hashes), window * (distance + 1) * len(hashes)
    order = np.argsort(hashes, kind="stable")  # so that the closest come together within a band, too
    found = [np.empty(0, np.int64)]
    for agreeing, earlier in _bands(count, distance):
        position = order[np.argsort(hashes[order] & agreeing, kind="stable")]
        ordered = hashes[position]
        band, here = ordered & agreeing, np.arange(count)
        for offset in range(1, window + 1):
            here = here[: np.searchsorted(here, count - offset)]
            here = here[band[here] == band[here + offset]]
            left -= len(here)
            if len(here) == 0 or left < 0:
                break
            differing = ordered[here] ^ ordered[here + offset]
            is_close = np.bitwise_count(differing) <= distance
            close, differing = here[is_close], differing[is_close]
            for other in earlier:  # where this band agrees as well, the pair has been found before
                close, differing = close[differing & other != 0], differing[differing & other != 0]
            one, two = position[close], position[close + offset]
            found.append(np.minimum(one, two) * count + np.maximum(one, two))
    return np.stack(np.divmod(np.sort(np.concatenate(found)), max(count, 1)), axis=1)


def _bands(count: int, distance: int) -> Iterable[tuple[np.uint64, list[np.uint64]]]:
    """Yields, for each choice of bands, their bits, and the bits of each band that is not chosen before its last."""
    agree = 1
    while (
        64 * agree / (distance + agree) < 1.5 * math.log2(max(count, 2))  # bits of a band, and what keeps bands small
        and math.comb(distance + agree + 1, distance) < 100
    ):
        agree += 1
    edges = np.linspace(0, 64, distance + agree + 1).astype(int).tolist()
    bands = [np.uint64((1 << high) - (1 << low)) for low, high in itertools.pairwise(edges)]
    for chosen in itertools.combinations(range(len(bands)), agree):
        earlier = [bands[band] for band in range(chosen[-1]) if band not in chosen]
        yield np.bitwise_or.reduce([bands[band] for band in chosen]), earlier


def _may_correlate(images: np.ndarray, pairs: np.ndarray, near: float) -> np.ndarray:
    """Returns for each pair whether its pictures may correlate by `near`: never false if they do.

    Pictures that are centred and brought to length 1 lie a squared distance of 2 - 2 times their correlation apart,
    and a projection on a few principal components can only bring them closer.
    """
    every = np.linspace(0, len(images) - 1, min(len(images), 64)).astype(int)
    some = _centred(images[np.unique(every)]).astype(np.float64)
    values, vectors = np.linalg.eigh(some @ some.T)  # far smaller than the covariance of the pixels
    largest = np.flatnonzero(values > 1e-6 * values[-1])[-16:]
    axes = (some.T @ vectors[:, largest] / np.sqrt(values[largest])).astype(np.float32)
    place = np.concatenate([_centred(chunk) @ axes for chunk in _chunks(images, _CHUNK_BYTES // 8)])
    result = np.empty(len(pairs), bool)
    for start in range(0, len(pairs), 2**18):
        apart = place[pairs[start : start + 2**18, 0]] - place[pairs[start : start + 2**18, 1]]
        result[start : start + 2**18] = np.einsum("ij,ij->i", apart, apart) <= 2 - 2 * near + 1e-4
    return result


def _centred(images: np.ndarray) -> np.ndarray:
    """Returns pictures as float32 rows with mean 0 and length 1; of one colour, all zeros."""
    rows = images.reshape(len(images), -1).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    length = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)


def correlations(images: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Returns Pearson's correlation of the pixels of each pair of pictures; 0 for a picture of one colour."""
    step = max(1, _CHUNK_BYTES // (64 * int(np.prod(images.shape[1:]))))
    parts = (pairs[start : start + step] for start in range(0, len(pairs), step))

    def work(part: np.ndarray) -> np.ndarray:
        left, right = (images[part[:, side]].reshape(len(part), -1).astype(np.float32) for side in (0, 1))
        left -= left.mean(axis=1, keepdims=True)
        right -= right.mean(axis=1, keepdims=True)
        scale = np.sqrt(np.einsum("ij,ij->i", left, left) * np.einsum("ij,ij->i", right, right))
        products = np.einsum("ij,ij->i", left, right)
        return np.divide(products, scale, out=np.zeros_like(scale), where=scale > 0)

    return np.concatenate([np.zeros(0), *_on_all_cores(work, parts)])


def join(groups: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Joins groups that a pair connects; returns for each picture the smallest position in its group.

    Example:

    >>> join(np.array([0, 1, 1, 3]), np.array([[2, 3]])).tolist()
    [0, 1, 1, 1]
    """
    count = len(groups)
    left = np.concatenate([np.arange(count), pairs[:, 0]])
    right = np.concatenate([groups, pairs[:, 1]])
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(count, count))
    _, number = connected_components(graph, directed=False)
    return np.unique(number, return_index=True)[1][number]


def members(numbers: np.ndarray, rows: np.ndarray | None = None) -> list[np.ndarray]:
    """Returns the positions (of `rows`) that share a number, for each number that at least two share.

    Example:

    >>> [group.tolist() for group in members(np.array([0, 1, 0, 3, 1]))]
    [[0, 2], [1, 4]]
    """
    rows = np.arange(len(numbers)) if rows is None else rows
    order = rows[np.argsort(numbers[rows], kind="stable")]
    is_next = np.diff(numbers[order]) == 0
    order = order[np.append(is_next, False) | np.append(False, is_next)] if len(order) else order
    ends = np.flatnonzero(np.diff(numbers[order])) + 1
    return np.split(order, ends) if len(order) else []


def _small(images: np.ndarray) -> np.ndarray:
    """Brings pictures to 32 x 32 greys, value for value as Pillow does it picture by picture.

    Small square ones are resized together: of large ones, Pillow's whole numbers take less time than our products.
    (Of others Pillow chooses which side it resizes first, and rounds in between.)

    Args:
        images: uint8, shape (n, height, width, 1 or 3).

    Returns:
        float64, shape (n, 32, 32), whole numbers from 0 to 255.
    """
    if images.shape[1] != images.shape[2] or images.shape[1] > 128:
        return np.stack([_pillow_small(picture) for picture in images]).astype(np.float64)
    is_grey = images.shape[-1] == 1
    greys = images[..., 0] if is_grey else (images @ np.array([19595, 38470, 7471], np.uint32) + 2**15) >> 16
    across = _resized(greys.astype(np.float64))
    return np.swapaxes(_resized(np.ascontiguousarray(np.swapaxes(across, 1, 2))), 1, 2)


def _pillow_small(picture: np.ndarray) -> np.ndarray:
    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).convert("L")
    return np.asarray(image.resize((32, 32), Image.Resampling.LANCZOS))


def _resized(rows: np.ndarray) -> np.ndarray:
    """Brings the last side of pictures, values 0 to 255, to 32; Pillow's sums of whole numbers are exact in float64."""
    size = rows.shape[-1]
    if size == 32:
        return rows
    sums = rows @ _lanczos(size)  # one small product a picture: in a large one, threads would wait
    sums += 2**21  # to round, not to cut off
    sums *= 2.0**-22
    return np.clip(np.floor(sums, out=sums), 0, 255, out=sums)


@functools.cache
def _lanczos(size: int) -> np.ndarray:
    """Returns the weights of Pillow's Lanczos filter times 2 to the 22, whole numbers of shape (size, 32)."""
    scale = size / 32
    stretch = max(scale, 1.0)
    weights = np.zeros((size, 32))
    for column in range(32):
        centre = (column + 0.5) * scale
        low, high = max(0, int(centre - 3 * stretch + 0.5)), min(size, int(centre + 3 * stretch + 0.5))
        x = (np.arange(low, high) - centre + 0.5) / stretch
        weight = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
        weights[low:high, column] = np.trunc(weight / weight.sum() * 2**22 + np.copysign(0.5, weight))
    return weights


def _others(names: np.ndarray, group: np.ndarray, row: int) -> str:
    others = [str(names[other]) for other in group if other != row]
    return others[0] if len(others) == 1 else f"{others[0]} and {len(others) - 1} more"


def _table(findings: Iterable[Finding]) -> pd.DataFrame:
    table = pd.DataFrame(list(findings), columns=Finding._fields)
    return table.astype({"group": np.int64, "row": np.int64})


def _on_all_cores(work: Callable[[np.ndarray], np.ndarray], parts: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Applies to each part what NumPy and SciPy do without Python's lock; keeps the order."""
    with ThreadPoolExecutor(processor.cores()) as pool:
        return list(pool.map(work, parts))


def _chunks(images: np.ndarray, size: int = _CHUNK_BYTES) -> Iterable[np.ndarray]:
    step = max(1, size // int(np.prod(images.shape[1:])))
    return (np.asarray(images[start : start + step]) for start in range(0, len(images), step))
