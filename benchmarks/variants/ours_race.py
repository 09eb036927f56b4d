"""The better CNN as notebook 03 trains it, its one cycle laid out for as many epochs as the target needs."""

import _busy
import _race
import _recipe
import _task
import keras
import numpy as np

from benchmarks import arithmetic
from helpers import devices, models, preprocessing, training

task = _recipe.arguments()
images, labels, test_images, test_labels = _task.arrays(task.data)

machine = devices.setup(precision=task.precision)
keras.utils.set_random_seed(task.seed)
model = models.better_cnn(images.shape[1:], 10, width=task.width, blocks=task.blocks, dropout=task.dropout)
steps = training.steps(len(images), batch_size=task.batch, epochs=task.epochs)
optimizer = keras.optimizers.AdamW(training.OneCycle(0.01, steps=steps), weight_decay=0.03, beta_2=0.99)
optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
soft = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
model.compile(optimizer, soft, metrics=["accuracy"], **machine.compile_options)


def accuracy(pictures, truth):
    return np.mean(training.logits(model, pictures).argmax(axis=1) == truth)


class Ends(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        reached = race.end_epoch(lambda: accuracy(test_images, test_labels))
        self.model.stop_training = reached and not task.to_the_end


race = _race.Race(task.targets)
one_hot = np.eye(10, dtype=np.float32)[labels]
with _busy.Gpu() as gpu:
    training.fit(
        model, (images, one_hot), epochs=task.epochs, batch_size=task.batch, seed=task.seed, callbacks=[Ends()],
        augment=preprocessing.Jitter(shift=task.shift, flip=True, erase=task.erase), verbose=False,
    )  # fmt: skip
with np.load(task.data) as archive:
    judged = accuracy(archive["validation_images"], archive["validation_labels"])
peak = arithmetic.peak_flops("bfloat16" if machine.precision == "mixed_bfloat16" else "float32")
_task.report(
    **race.figures(), **gpu.figures(), validation=judged, pictures=len(images), peak=peak,
    flop=arithmetic.training_flop(model),
)  # fmt: skip
