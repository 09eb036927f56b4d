"""The classic Keras recipe: the classic CNN, Adam with its own rate, batches of 32, arrays into `fit`."""

import _race
import _recipe
import _task
import keras
import numpy as np

task = _recipe.arguments()
images, labels, test_images, test_labels = _task.arrays(task.data)
images, test_images = (part.astype("float32") / 255 for part in (images, test_images))

keras.utils.set_random_seed(task.seed)
model = keras.Sequential(
    [
        keras.Input(images.shape[1:]),
        keras.layers.Conv2D(32, 3, activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Conv2D(64, 3, activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Flatten(),
        keras.layers.Dense(128, activation="relu"),
        keras.layers.Dense(10),
    ]
)
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])


def evaluate():
    return np.mean(model.predict(test_images, batch_size=500, verbose=0).argmax(axis=1) == test_labels)


class Ends(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = race.end_epoch(evaluate)


race = _race.Race(task.targets)
model.fit(images, labels, epochs=task.epochs, callbacks=[Ends()], verbose=0)
_task.report(**race.figures())
