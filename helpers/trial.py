"""A version tried before it goes live: in a process of its own, since a damaged model can take its process along."""

from pathlib import Path

import numpy as np

from helpers import classifier, inference, registry


def check(path: Path, live: Path | None = None) -> None:
    """Raises unless a registered version answers as its manifest says that it should.

    Its model loads, takes pictures of the shape `facts["input"]`, answers for as many classes as `facts["classes"]`
    has, with finite numbers, and gives its examples the classes that the model gave them from which it was made: on at
    least the share that was stated when it was registered. Its temperature, if it has one, is above 0. Where it has
    the same classes as the live version, they are in the same order: what the classes of its logits are called is
    the one thing that its own examples cannot tell.

    Args:
        path: Folder of the version.
        live: Folder of the version that is live, if there is one.

    Raises:
        ValueError: With what is amiss.
    """
    manifest = registry.manifest(path)
    which = f"Version {path.name} of {manifest['name']} is not promoted"
    if "examples" not in manifest:
        raise ValueError(
            f"{which}: it has no examples to be tried on. Register it again with examples=(pictures, logits)."
        )
    with np.load(path / registry.EXAMPLES, allow_pickle=False) as examples:
        images, reference = examples["images"], examples["logits"]
    facts, file = manifest.get("facts", {}), registry.model_file(path)
    _check_order(which, facts.get("classes"), live)
    try:
        classifier.check_temperature(path, facts.get("temperature", 1.0))
        logits = inference.measure(file, images, repeats=1, warm_up=0, throughput_pictures=1, threads=1).logits
    except ValueError as error:
        raise ValueError(f"{which}: {error}") from error
    if tuple(facts.get("input", images.shape[1:])) != images.shape[1:]:
        raise ValueError(f"{which}: its examples are {images.shape[1:]}, its manifest says {tuple(facts['input'])}.")
    classes = len(facts.get("classes", reference[0]))
    if logits.shape[1] != classes or reference.shape[1] != classes:
        raise ValueError(f"{which}: it answers for {logits.shape[1]} classes, and its manifest names {classes}.")
    if not np.isfinite(logits).all():
        raise ValueError(f"{which}: {np.mean(~np.isfinite(logits)):.0%} of its numbers are not finite.")
    wanted, same = manifest["examples"]["agreement"], inference.parity(logits, reference).agreement
    if same < wanted:
        raise ValueError(
            f"{which}: it gives {same:.1%} of its {len(images)} examples the class that the model gave them from which "
            f"it was made, and at least {wanted:.1%} is asked for."
        )


def _check_order(which: str, names: list[str] | None, live: Path | None) -> None:
    """Raises if a version names the classes of the live one in another order."""
    try:
        before = registry.manifest(live).get("facts", {}).get("classes") if live else None
    except ValueError:  # the live version is damaged: all the more reason for another
        return
    if not names or not before or names == before or sorted(names) != sorted(before):
        return
    number = next(n for n, name in enumerate(names) if name != before[n])
    raise ValueError(
        f"{which}: class {number} is {names[number]!r}, and {before[number]!r} in version {live.name}, which is live "
        "and has the same classes in another order. Name facts['classes'] in the order of the model's logits; if that "
        "is theirs, train with the order of the live version, or register under another name."
    )
