"""Cleaning and duplicate search of 10,000 to a million pictures: seconds, memory, and how both grow."""

import math
import sys
import tempfile
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image

from benchmarks import arithmetic, results, side_by_side
from helpers import sources

SIZES = (10_000, 100_000, 1_000_000)
_LARGEST = {"cleanvision": 100_000}  # what a peer manages in minutes
LOOP = "imagehash, a loop on one core"
_NOISE = 12  # grey levels: two variants of one picture correlate by less than a near-duplicate does
_DISTANCE = 4  # bits of the hashes; `cleaning.near_pairs` has the same default


def measure(
    *, repeats: int, peer_python: str | None = None, sizes: list[int] | None = None, **_: object
) -> results.Result:
    """Cleans sets of several sizes in each way; all that was planted must be found, or nothing is reported."""
    sizes = sorted(sizes or SIZES)
    variants = {"ours": (sys.executable, "duplicates.py --ours", {})}
    variants |= {LOOP: (sys.executable, "duplicates.py --imagehash", {})}
    if peer_python:
        variants["cleanvision"] = (peer_python, "cleanvision_peer.py", {})
    else:
        print("  cleanvision is not compared: name a Python that has it with --peer-python.", file=sys.stderr)
    rows, ratios, runs = [], [], {}
    with tempfile.TemporaryDirectory() as name:
        for size in sizes:
            folder = Path(name) / str(size)
            planted = plant(size, folder)
            part = {peer: how for peer, how in variants.items() if size <= _LARGEST.get(peer, size)}
            rounds = repeats if size < SIZES[-1] else 1
            found = side_by_side.run(part, repeats=rounds, arguments=["--data", str(folder)])
            runs[f"{size:,} pictures"] = found
            for peer in part:
                shares = found_shares(np.load(folder / f"{peer.split(',')[0]}.npy"), planted)
                rows += [results.row(f"{size:,} pictures, planted {kind} found", "%", [100 * share], of=peer)
                         for kind, share in shares.items()]  # fmt: skip
                if peer == "ours":
                    require_all(shares, size)
            for key, unit in (("seconds", "s"), ("peak_mb", "MB")):
                what = f"cleaning {size:,} pictures, {'seconds' if unit == 's' else 'peak memory'}"
                values = {peer: [run[key] for run in made] for peer, made in found.items()}
                more = results.compare(what, unit, values, less_is_better=True)
                rows, ratios = rows + more[0], ratios + more[1]
            (folder / "images.npy").unlink()
    medians = {row["what"]: row["median"] for row in reversed(rows)}  # ours comes first of each
    ours = {key: [medians[f"cleaning {size:,} pictures, {key}"] for size in sizes]
            for key in ("seconds", "peak memory")}  # fmt: skip
    return results.Result(
        question="What does it take to clean a heap of pictures and to find its duplicates, and how does that grow?",
        held_equal=[
            "28x28 grey pictures of Fashion-MNIST, shifted and with noise, so that each is another; one file, which "
            "each peer maps into memory, in a fresh process",
            "one in 1,000 is planted as an exact and one in 1,000 as a near-duplicate; ours has to find all of them",
            "exact duplicates, near-duplicates by 64-bit perceptual hashes, blank and over-exposed pictures and odd "
            "sizes in ours and cleanvision; only the duplicates in the loop over imagehash",
            "ours also compares hashes that differ in up to 4 bits, and the pixels of what they bring together; the "
            "others find equal hashes only",
            "ours hashes and compares on all cores, the loop over imagehash on one; of cleanvision's processes the "
            "memory of the first counts",
            f"of {SIZES[-1]:,} pictures there is one round",
        ],
        repeats=repeats,
        machine=results.machine("numpy", "scipy", "pandas", "pillow", "imagehash",
                                others={peer_python: ("cleanvision",)} if peer_python else None),
        rows=rows, ratios=ratios, limits=[_limit(sizes[-1], ours["seconds"][-1])],
        goals=goals(sizes, ours["seconds"], ours["peak memory"]), runs=runs,
    )  # fmt: skip


def goals(sizes: list[int], seconds: list[float], memory: list[float]) -> list[dict]:
    """Returns what the growth and the largest set have to keep to."""
    found = []
    if len(sizes) > 1:
        alike = "the larger the heap, the more look-alikes a picture has: their pairs, all of which are"
        found = [
            _growth(sizes, seconds, what="seconds", why=f"{alike} compared, grow with the square"),
            _growth(sizes, memory, what="memory", why=f"{alike} in memory, grow with the square"),
        ]
    if sizes[-1] >= SIZES[-1]:
        what = f"cleaning {sizes[-1]:,} pictures"
        why = "every picture is resized and hashed, and look-alikes grow with the square of the pictures"
        found += [
            results.goal("in 10 minutes", seconds[-1], at_most=600, unit="s", what=f"{what}, seconds", why=why),
            results.goal("in 8 GB", memory[-1], at_most=8000, unit="MB", what=f"{what}, peak memory",
                         why="names, tables of findings and candidate pairs are in memory"),
        ]  # fmt: skip
    return found


def _growth(sizes: list[int], values: list[float], *, what: str, why: str) -> dict:
    """Returns the goal for the step from one size to the next that comes closest to n log n, or exceeds it most."""
    bounds = results.growth(sizes, [size * math.log(size) for size in sizes])
    steps = zip(results.growth(sizes, values), bounds, strict=True)
    exponent, bound = max(steps, key=lambda step: step[0] - step[1])
    return results.goal("no faster than n log n, from each size to the next", exponent, at_most=bound,
                        unit="as the exponent", what=f"cleaning, growth of the {what}", why=why)  # fmt: skip


def plant(count: int, folder: Path) -> dict[str, np.ndarray]:
    """Writes `images.npy` with that many pictures, some of which are made from others among them.

    Returns:
        For `"exact"` and `"near"` the pairs, shape (pairs, 2): a picture and what was made from it.
    """
    folder.mkdir(parents=True)
    random = np.random.default_rng(count)
    originals = np.asarray(sources.collect("").images)
    pictures = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, *originals.shape[1:]))
    for start in range(0, count, 20_000):
        rows = np.arange(start, min(start + 20_000, count))
        pictures[rows] = _varied(originals[rows % len(originals)], random)
    each = max(1, count // 1000)
    chosen = random.permutation(count)[: 4 * each].reshape(4, each)
    pictures[chosen[1]] = pictures[chosen[0]]
    near = np.stack([_near(pictures[row], random) for row in chosen[2]])
    pictures[chosen[3]] = near
    pictures.flush()
    return {"exact": chosen[:2].T, "near": chosen[2:].T}


def found_shares(content: np.ndarray, planted: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns the share of the planted pairs that have got one number of content.

    >>> found_shares(np.array([0, 0, 2, 3]), {"exact": np.array([[0, 1], [2, 3]])})
    {'exact': 0.5}
    """
    return {kind: float(np.mean(content[pairs[:, 0]] == content[pairs[:, 1]])) for kind, pairs in planted.items()}


def require_all(shares: dict[str, float], size: int) -> None:
    """Raises if a planted duplicate was not found: seconds of a search that misses some mean nothing."""
    for kind, share in shares.items():
        if share < 1:
            raise RuntimeError(f"Of the {kind} duplicates among {size:,} pictures, {1 - share:.2%} were missed.")


def _varied(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Shifts each picture by up to two pixels each way, and adds noise."""
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, images.shape[1:3], axis=(1, 2))
    down, right = random.integers(0, 5, (2, len(images)))
    shifted = np.moveaxis(windows[np.arange(len(images)), down, right], 1, -1)
    noise = random.normal(0, _NOISE, shifted.shape).astype(np.float32)
    return np.clip(shifted + noise, 0, 255).astype(np.uint8)


def _near(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Returns a picture a little darker and with a little noise, by a distance that counts as near."""
    before = imagehash.phash(Image.fromarray(picture[..., 0]))
    for _ in range(100):
        noise = random.integers(-1, 2, picture.shape)
        changed = np.clip(picture * random.uniform(0.9, 0.98) + noise, 0, 255).astype(np.uint8)
        if before - imagehash.phash(Image.fromarray(changed[..., 0])) <= _DISTANCE:
            return changed
    raise RuntimeError("No change of the picture keeps its hash.")


def _limit(size: int, seconds: float) -> dict:
    moved = 784 * size / arithmetic.copy_bandwidth()
    return results.limit(
        f"memory bandwidth: the bytes of {size:,} pictures read once", moved, "s", reached=moved / seconds,
        why="the work is not moving pictures, but a Lanczos resize, a cosine transform and a median for the hash of "
            "each on all cores, and on one a cryptographic digest and the search among the hashes",
    )  # fmt: skip
