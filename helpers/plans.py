"""Which notebooks a run takes, in which order, and with which parameters."""

from pathlib import Path

from helpers import artifacts, notebooks, outcomes, parameters
from helpers.notebooks import Notebook

_LEFT = ("dataset/manifest.json", "model_card.json", "models.csv")  # what 01, 03 and 05 leave for others, written last


def make(
    found: dict[str, Notebook], numbers: list[str], profile: dict[str, dict], given: dict[str, object]
) -> tuple[list[Notebook], dict[str, dict]]:
    """Returns the notebooks to run in order, and the parameters of each by stem.

    To those that are asked for come the ones they need: when they have not been run yet, and when
    a value in `given` is theirs alone (`run 03 -p IMAGE_SIZE 32` prepares the pictures anew). With `-p SOURCE pictures`
    notebook 03 runs alone: it has that parameter, and prepares pictures itself that 01 has not prepared as they are.

    Raises:
        ValueError: If there is no such notebook or parameter, or a value does not fit.
    """
    chosen = {number_of(text, found) for text in numbers} or set(found)
    reach = needed(found, chosen)
    for name in given:
        if any(name in found[number].defaults for number in chosen):
            continue
        owners = {number for number in reach if name in found[number].defaults}
        if not owners:
            names = sorted({known for number in chosen | reach for known in found[number].defaults})
            raise ValueError(f"No notebook of this run has a parameter {name}: {parameters.hint(name, names)}")
        chosen |= owners | {number for number in reach if needed(found, {number}) & owners}
    chosen |= {number for number in reach - chosen if not _made(found[number])}
    order = [found[number] for number in sorted(chosen)]
    values = {}
    for notebook in order:
        mine = {name: value for name, value in given.items() if name in notebook.defaults}
        values[notebook.stem] = notebooks.with_parameters(notebook, {**profile.get(notebook.stem, {}), **mine})
    return order, values


def read_profile(name: str | None, found: dict[str, Notebook]) -> dict[str, dict]:
    """Returns the parameters that a profile gives to each notebook, by stem.

    A profile is YAML: a section for each notebook, named by its stem, with parameters and values.

    Raises:
        ValueError: If there is no such profile, or it is not of that form.
    """
    if name is None:
        return {}
    import yaml

    folder = artifacts.root() / "notebooks" / "profiles"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        path = artifacts.expanded(name)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise ValueError(f"There is no profile {name!r}: name one of {known}, or a YAML file.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no sections: write `<notebook stem>:` and below it `NAME: value` lines.")
    stems = [notebook.stem for notebook in found.values()]
    for stem, section in content.items():
        if stem not in stems:
            raise ValueError(f"{path} has a section {stem!r}, which is no notebook: it can have {', '.join(stems)}.")
        if not isinstance(section, dict):
            raise ValueError(f"The section {stem} of {path} holds no `NAME: value` lines.")
    return content


def needed(found: dict[str, Notebook], numbers: set[str]) -> set[str]:
    """Returns the numbers of the notebooks that some notebooks need, directly or not."""
    reached: set[str] = set()
    waiting = list(numbers)
    while waiting:
        for need in found[waiting.pop()].needs:
            if need in found and need not in reached:
                reached.add(need)
                waiting.append(need)
    return reached


def _made(notebook: Notebook) -> bool:
    outcome = outcomes.read(notebook.stem)
    if outcome is not None:
        return outcome.status == outcomes.RAN
    # Run in JupyterLab or by plain papermill.
    return any((artifacts.outputs() / notebook.stem / name).exists() for name in _LEFT)


def number_of(text: str, found: dict[str, Notebook]) -> str:
    """Returns the number of the notebook that a reader names by number, stem or path.

    Raises:
        ValueError: If there is none; the message lists those there are.
    """
    stem = Path(text).name.removesuffix(".ipynb")
    number = stem.split("_")[0].zfill(2)
    if number not in found or (not stem.isdigit() and stem != found[number].stem):
        raise ValueError(f"There is no notebook {text!r}: there are {', '.join(n.stem for n in found.values())}.")
    return number
