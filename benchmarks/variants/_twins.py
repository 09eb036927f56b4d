"""The networks of `helpers.models` in PyTorch, for pictures of 28x28: the same layers in the same order."""

import numpy as np
import torch
from torch import nn


def build(network: str) -> nn.Sequential:
    """Builds `classic_cnn` or `better_cnn`, channels last, with initial weights drawn as Keras draws them."""
    layers = {"classic_cnn": _classic, "better_cnn": _better}[network]()
    for layer in layers:
        if isinstance(layer, nn.Conv2d) and layer.bias is None:
            nn.init.kaiming_normal_(layer.weight)
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def weights(model: nn.Module) -> int:
    """Returns how many weights are trained."""
    return sum(weight.numel() for weight in model.parameters())


def tensor(pictures: np.ndarray) -> torch.Tensor:
    """Returns uint8 pictures as float32 from 0 to 1, channels last in memory."""
    scaled = torch.from_numpy(pictures.astype("float32") / 255).permute(0, 3, 1, 2)
    return scaled.contiguous(memory_format=torch.channels_last)


def accuracy(model: nn.Module, pictures: torch.Tensor, labels: np.ndarray) -> float:
    model.eval()
    with torch.inference_mode():
        found = torch.cat([model(part).argmax(1) for part in pictures.split(500)]).numpy()
    model.train()
    return float(np.mean(found == labels))


def _classic() -> list[nn.Module]:
    return [
        nn.Conv2d(1, 32, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.MaxPool2d(2), nn.ReLU(),
        nn.Flatten(), nn.Linear(1600, 128), nn.ReLU(), nn.Linear(128, 10),
    ]  # fmt: skip


def _better() -> list[nn.Module]:
    layers, before = [], 1
    for width in (32, 64, 128):
        layers.append(nn.Conv2d(before, width, 3, padding="same" if before == 1 else "valid", bias=False))
        layers += [nn.MaxPool2d(2)] if width < 128 else []
        layers += [nn.BatchNorm2d(width, eps=1e-3, momentum=0.1), nn.ReLU()]
        before = width
    return [*layers, nn.Flatten(), nn.Linear(128 * 4 * 4, 10)]
