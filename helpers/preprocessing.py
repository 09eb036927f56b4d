"""Pictures on their way to training: augmentation, and batches that never keep it waiting.

Nothing here is about one backend: NumPy and Keras layers only, so TensorFlow, JAX and PyTorch read
the same batches.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import keras
import numpy as np

# ── augmentation ────────────────────────────────────────────────────────────────────────────────


def augmentation(*, flip: bool = False, shift: float = 0.0, erasing: float = 0.0, seed: int = 0) -> keras.Sequential:
    """Builds augmentation from Keras layers, for pictures with values from 0 to 255.

    The layers act where `training=True` and hand pictures through otherwise. Put them first in a
    model, or pass them to `batches`. A shift has no XLA kernel: a model that holds it cannot be compiled
    with `jit_compile=True` on TensorFlow. `Jitter` avoids that.

    Args:
        flip: Whether to mirror half of the pictures, left to right.
        shift: Largest shift as a share of the height and width; black comes in.
        erasing: Share of the pictures in which a rectangle is filled with grey.
        seed: Seed of all layers.
    """
    layers = []
    if flip:
        layers.append(keras.layers.RandomFlip("horizontal", seed=seed))
    if shift:
        layers.append(keras.layers.RandomTranslation(shift, shift, "constant", seed=seed + 2, fill_value=0.0))
    if erasing:  # a single number would be the upper end of a range of probabilities, half of it on average
        layers.append(
            keras.layers.RandomErasing((erasing, erasing), scale=(0.05, 0.2), fill_value=128, seed=seed + 5)
        )
    return keras.Sequential(layers or [keras.layers.Identity()], name="augmentation")


@dataclass(frozen=True)
class Jitter:
    """Augmentation in NumPy on whole batches of uint8: for `batches`, quicker than layers on a CPU.

    Attributes:
        shift: Largest shift in pixels, up, down, left and right; black comes in.
        flip: Whether to mirror half of the pictures, left to right.
        erase: Share of the pictures in which a rectangle of a twentieth to a fifth of the area is made grey.
    """

    shift: int = 0
    flip: bool = False
    erase: float = 0.0

    def __call__(self, images: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Returns another version of `images` (n, height, width, channels); the dtype stays."""
        images = _shifted(np.asarray(images), self.shift, random) if self.shift else np.array(images, order="C")
        if self.flip:
            mirrored = random.random(len(images)) < 0.5
            pixels = images.view(np.dtype((np.void, images.itemsize * images.shape[3])))  # whole ones move faster
            pixels[mirrored] = pixels[mirrored, :, ::-1]
        if self.erase:
            _erase(images, self.erase, random)
        return images


def add_noise(images: np.ndarray, sigma: float, random: np.random.Generator) -> np.ndarray:
    """Adds Gaussian noise: `x' = clip(x + sigma * e, 0, 255)` with `e` drawn from N(0, 1).

    Args:
        images: Pictures of any shape. Whole numbers come back rounded, in their own dtype.
        sigma: Standard deviation of the noise, in units of the pictures.
        random: Where the noise comes from.
    """
    noisy = np.clip(images + np.float32(sigma) * random.standard_normal(images.shape, np.float32), 0, 255)
    return (np.rint(noisy) if images.dtype.kind in "iu" else noisy).astype(images.dtype)


# A loop over the pictures of a batch is quicker than index arrays over their pixels: 1 us a picture of 28x28.
def _shifted(images: np.ndarray, pixels: int, random: np.random.Generator) -> np.ndarray:
    sides = np.array(images.shape[1:3])
    offset = random.integers(0, 2 * pixels + 1, (len(images), 2)) - pixels
    start, size, goal = offset.clip(0, sides), (sides - abs(offset)).clip(0), (-offset).clip(0, sides)
    shifted = np.zeros(images.shape, images.dtype)
    for i, (row, column, height, width, top, left) in enumerate(np.hstack([start, size, goal]).tolist()):
        shifted[i, top : top + height, left : left + width] = images[i, row : row + height, column : column + width]
    return shifted


def _erase(images: np.ndarray, share: float, random: np.random.Generator) -> None:
    chosen = np.flatnonzero(random.random(len(images)) < share)
    size = np.array(images.shape[1:3])
    area = random.uniform(0.05, 0.2, len(chosen))
    stretch = np.exp(random.uniform(-0.7, 0.7, len(chosen)))  # height to width, up to twice either way
    box = np.rint(np.sqrt([area * stretch, area / stretch]).T * size).astype(int).clip(1, size)
    start = random.integers(0, size - box + 1)
    for i, (top, left), (bottom, right) in zip(chosen, start.tolist(), (start + box).tolist(), strict=True):
        images[i, top:bottom, left:right] = 128


# ── batches ─────────────────────────────────────────────────────────────────────────────────────


class Batches(keras.utils.PyDataset):
    """Batches of pictures and labels as `batches` makes them; each is read when it is asked for."""

    def __init__(self, images, labels, *, batch_size, indices, shuffle, seed, augment, drop_last, workers):
        super().__init__(workers=workers, max_queue_size=16)
        self._images, self._labels, self._indices = images, labels, indices
        self._batch_size, self._shuffle, self._seed = batch_size, shuffle, seed
        self._augment, self._drop_last = augment, drop_last
        self.epoch, self._begun, self._over = 0, False, False
        self._order, self._turning = self._new_order(), threading.Lock()

    def __len__(self) -> int:
        rounded = len(self._indices) if self._drop_last else len(self._indices) + self._batch_size - 1
        return rounded // self._batch_size

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(f"There are {len(self)} batches; received the number {index}.")
        self._turn()
        # Within a batch the order is free, and a disk prefers to be read forwards.
        rows = np.sort(self._order[index * self._batch_size : (index + 1) * self._batch_size])
        images, labels = self._images[rows], self._labels[rows]
        if self._augment is None:
            return images, labels
        if not isinstance(self._augment, keras.Layer):
            return self._augment(images, self._random(index + 1)), labels
        return keras.ops.convert_to_numpy(self._augment(images.astype(np.float32), training=True)), labels

    def start(self, epoch: int) -> None:
        """Goes to an epoch, counted from 0: its order, and its version of every picture."""
        self.epoch = epoch
        self._order = self._new_order()
        self._begun = self._over = False  # last: threads that see it read the new order

    def next_epoch(self) -> None:
        """Moves on to the next epoch: another order, and another version of every picture."""
        self.start(self.epoch + 1)

    def on_epoch_begin(self) -> None:
        """Keras calls this as an epoch begins, and its threads may have asked for batches of it before."""
        self._turn()
        self._begun = True

    def on_epoch_end(self) -> None:
        """Keras calls this as an epoch ends, and more often."""
        self._over = self._begun

    def _turn(self) -> None:
        """Moves on to the next epoch once this one is over: whoever asks first does it, and the others wait."""
        if self._over:
            with self._turning:
                if self._over:
                    self.next_epoch()

    def _new_order(self) -> np.ndarray:
        return self._random(0).permutation(self._indices) if self._shuffle else self._indices

    def _random(self, stream: int) -> np.random.Generator:
        # Made anew from its three numbers, so threads that read ahead cannot change what a batch holds.
        return np.random.default_rng([self._seed, self.epoch, stream])


def batches(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int,
    indices: np.ndarray | None = None,
    shuffle: bool = False,
    seed: int = 0,
    augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | keras.Layer | None = None,
    drop_last: bool = False,
    workers: int = 1,
) -> Batches:
    """Makes the batches that `fit`, `evaluate` and `predict` read, on any backend.

    Only the pictures of a batch are read, all at once, so a memory-mapped array may be larger than
    memory. What a batch holds depends on `seed`, the epoch and its number alone (with Keras layers
    as `augment`: on the order in which they are asked, too).

    Args:
        images: (n, height, width, channels), in memory or memory-mapped.
        labels: Whole numbers, shape (n,).
        batch_size: Pictures in a batch; the last one may be smaller.
        indices: Which pictures: those of one split. All if not given.
        shuffle: Whether each epoch has an order of its own; for training.
        seed: Seed of order and augmentation.
        augment: A function of a batch and a random generator, such as `Jitter`, or a Keras layer,
            such as `augmentation(…)`. Only for training.
        drop_last: Whether to leave a smaller last batch out, as several replicas need it.
        workers: Threads that prepare batches ahead; more than one helps where `augment` is slow.

    Raises:
        ValueError: If labels and pictures do not pair, there is nothing to read, or `augment` mixes labels.
    """
    indices = np.arange(len(images)) if indices is None else np.asarray(indices)
    labels = np.asarray(labels)
    if indices.dtype == bool:
        raise ValueError("indices are positions of pictures; received a mask: pass np.flatnonzero(mask).")
    if len(images) != len(labels):
        raise ValueError(f"Each picture has one label; received {len(images)} pictures and {len(labels)} labels.")
    if len(indices) == 0 or (drop_last and len(indices) < batch_size):
        raise ValueError(f"There is no batch to read: {len(indices)} pictures, {batch_size} in a batch.")
    if batch_size < 1 or indices.min() < 0 or indices.max() >= len(images):
        raise ValueError(
            f"A batch holds at least one picture and indices are 0 to {len(images) - 1}; received batches of "
            f"{batch_size} and indices from {indices.min()} to {indices.max()}."
        )
    if isinstance(augment, (keras.layers.MixUp, keras.layers.CutMix)):
        raise ValueError("MixUp and CutMix mix labels, too, and here only pictures change: pass another layer.")
    return Batches(
        images,
        labels,
        batch_size=batch_size,
        indices=indices,
        shuffle=shuffle,
        seed=seed,
        augment=augment,
        drop_last=drop_last,
        workers=workers,
    )


def pictures_per_second(read: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """Returns how many pictures a second come out of batches when nobody trains on them."""
    started = time.perf_counter()
    count = sum(len(batch[0]) for batch in read)
    return count / (time.perf_counter() - started)
