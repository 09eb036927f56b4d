"""A network as notebook 03 trains it, without augmentation."""

from itertools import count

import _recipe
import _task
import keras
import numpy as np

from benchmarks import arithmetic
from helpers import devices, models, training

task = _recipe.arguments()
images, labels, test_images, test_labels = _task.arrays(task.data)

machine = devices.setup(precision=task.precision)
keras.utils.set_random_seed(task.seed)
model = getattr(models, task.network)(images.shape[1:], 10)
rate = training.OneCycle(
    _recipe.PEAK[task.network], steps=training.steps(len(images), batch_size=task.batch, epochs=task.epochs)
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"], **machine.compile_options)
epochs = count()  # each has an order of its own, as in one long `fit`


def train_one_epoch():
    training.fit(model, (images, labels), epochs=1, batch_size=task.batch, seed=next(epochs), verbose=False)


speed = _task.timed(train_one_epoch, task.epochs, len(images))
accuracy = np.mean(training.logits(model, test_images).argmax(axis=1) == test_labels)
weights = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
bfloat16 = machine.precision == "mixed_bfloat16"
peak = arithmetic.peak_flops("bfloat16" if bfloat16 else "float32")
_task.report(
    pictures_per_second=speed, accuracy=accuracy, weights=weights, bfloat16=bfloat16,
    flop=arithmetic.training_flop(model), peak=peak,
)  # fmt: skip
