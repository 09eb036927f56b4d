"""A PyTorch `DataLoader` with a worker a core that augments picture by picture; Pillow decodes JPEG files."""

import _pictures
import _task
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

task = _pictures.arguments()
side, channels, shift, batch = _pictures.KINDS[task.kind]


class Pictures(Dataset):
    def __init__(self):
        if task.kind == "grey":
            self.pictures, self.labels = _pictures.mapped(task.folder)
        else:
            self.pictures, self.labels = _pictures.files(task.folder / "jpeg")
        self.random = np.random.default_rng(0)

    def __len__(self):
        return len(self.pictures)

    def read(self, row):
        return self.pictures[row] if task.kind == "grey" else np.asarray(Image.open(self.pictures[row]))

    def __getitem__(self, row):
        picture = _pictures.augmented(self.read(row), shift, self.random)
        return torch.from_numpy(picture.transpose(2, 0, 1).copy()), int(self.labels[row])


pictures = Pictures()
loader = DataLoader(pictures, batch_size=batch, shuffle=True, num_workers=task.threads, persistent_workers=True)
figures = _pictures.speed(lambda: loader, task.passes)
plain = np.stack([pictures.read(row) for row in range(_pictures.COMPARED)])
_task.report(**figures, **_pictures.differences(task.folder, task.kind, plain))
