"""The input pipelines of Keras's documentation: `image_dataset_from_directory`, and a `PyDataset` of one's own."""

from concurrent.futures import ThreadPoolExecutor

import _pictures
import _task
import keras
import numpy as np
import tensorflow as tf
from PIL import Image

task = _pictures.arguments()
side, channels, shift, batch = _pictures.KINDS[task.kind]


class Pictures(keras.utils.PyDataset):
    """Augments picture by picture; JPEG files are decoded by Pillow when they are asked for."""

    def __init__(self, **options):
        super().__init__(**options)
        if task.kind == "grey":
            self.pictures, self.labels = _pictures.mapped(task.folder)
        else:
            self.pictures, labels = _pictures.files(task.folder / "jpeg")
            self.labels = np.array(labels)
        self.random = np.random.default_rng(0)
        self.order = self.random.permutation(len(self.pictures))

    def __len__(self):
        return -(-len(self.pictures) // batch)

    def read(self, row):
        return self.pictures[row] if task.kind == "grey" else np.asarray(Image.open(self.pictures[row]))

    def __getitem__(self, index):
        rows = self.order[index * batch : (index + 1) * batch]
        found = [_pictures.augmented(self.read(row), shift, self.random) for row in rows]
        return np.stack(found), self.labels[rows]


def directory(shuffle):
    return keras.utils.image_dataset_from_directory(
        task.folder / task.kind, color_mode="rgb" if channels == 3 else "grayscale", image_size=(side, side),
        batch_size=batch, shuffle=shuffle, verbose=False,
    )  # fmt: skip


if task.how == "directory":
    augment = keras.Sequential(
        [
            keras.layers.RandomTranslation(shift / side, shift / side, fill_mode="constant"),
            keras.layers.RandomFlip("horizontal"),
        ]
    )
    read = directory(True).map(lambda x, y: (augment(x, training=True), y), num_parallel_calls=tf.data.AUTOTUNE)
    read = read.prefetch(tf.data.AUTOTUNE)
    figures = _pictures.speed(lambda: read, task.passes)
    plain = next(iter(directory(False)))[0]
else:
    pictures = Pictures()
    with ThreadPoolExecutor(task.threads) as pool:  # what `fit` does with so many `workers`
        figures = _pictures.speed(lambda: pool.map(pictures.__getitem__, range(len(pictures))), task.passes)
    plain = np.stack([pictures.read(row) for row in range(_pictures.COMPARED)])
_task.report(**figures, **_pictures.differences(task.folder, task.kind, plain))
