"""What all trainings share: their arguments, and the learning rate, in no library's own form."""

import argparse

PEAK = {"classic_cnn": 0.004, "better_cnn": 0.01}  # highest rate of the one cycle


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, help=".npz with train_images, train_labels, test_images, test_labels")
    parser.add_argument("--network", choices=PEAK, default="classic_cnn")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="auto", help="of ours: what `devices.setup` takes")
    parser.add_argument("--defaults", action="store_true", help="of Keras: its own batch size and learning rate")
    parser.add_argument("--autocast", action="store_true", help="of PyTorch: bfloat16 where it sees fit")
    parser.add_argument("--width", type=int, default=32, help="of the better CNN, as are the next four")
    parser.add_argument("--blocks", type=int, default=0)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--shift", type=int, default=0)
    parser.add_argument("--erase", type=float, default=0.0)
    parser.add_argument("--to-the-end", action="store_true", help="trains all epochs, whatever is reached")
    parser.add_argument("--targets", type=float, nargs="*", default=[], help="accuracies to train up to")
    return parser.parse_args()


def share_of_peak(step: int, steps: int, *, warm_up: float = 0.25) -> float:
    """Returns the learning rate of `training.OneCycle` as a share of its peak."""
    done = step / steps
    return max(min(done / warm_up, (1 - done) / (1 - warm_up)), 1e-3)
