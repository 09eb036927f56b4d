"""The numbered notebooks as files: which there are, what they need and take, how they are committed."""

import ast
import re
import sys
from pathlib import Path
from typing import NamedTuple

from helpers import artifacts, parameters, stamp

_KERNELSPEC = {"display_name": "Workbook", "language": "python", "name": "workbook"}
_LANGUAGE = ("codemirror_mode", "file_extension", "mimetype", "name", "nbconvert_exporter", "pygments_lexer")
_OF_DEFAULT_DATA = "> *What follows was read off the default data, Fashion-MNIST. Yours are in the outputs above.*"
_WIDGET = "application/vnd.jupyter.widget-view+json"
_TYPES = {"int": int, "float": float, "str": str, "bool": bool, "list": list}


class Notebook(NamedTuple):
    """One numbered notebook: its file, first heading, and what its parameters cell says."""

    path: Path
    title: str  # "3 · CNN training: …", without the leading #
    needs: tuple[str, ...]  # numbers of earlier notebooks, such as ("01",)
    defaults: dict  # parameter -> default value
    rules: dict | None  # keyword arguments of the notebook's `parameters.check`, None if there is none to be read

    @property
    def stem(self) -> str:
        return self.path.stem

    @property
    def number(self) -> str:
        return self.stem.split("_")[0]


def find(folder: Path | None = None) -> dict[str, Notebook]:
    """Returns the numbered notebooks of a folder (`notebooks/` if not given) by number, in order.

    Raises:
        ValueError: If two notebooks have one number, or one cannot be read.
        FileNotFoundError: If there is none.
    """
    folder = folder or artifacts.root() / "notebooks"
    found: dict[str, Notebook] = {}
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        notebook = read(path)
        if notebook.number in found:
            raise ValueError(f"Two notebooks have the number {notebook.number} in {folder}: rename one.")
        found[notebook.number] = notebook
    if not found:
        raise FileNotFoundError(f"There is no notebook named like 01_title.ipynb in {folder}.")
    return found


def load(path: Path) -> "nbformat.NotebookNode":  # noqa: F821
    """Returns the content of a notebook's file; `"tags": null` is no tags."""
    import nbformat

    content = nbformat.read(path, as_version=4)
    for cell in content.cells:
        if cell.metadata.get("tags", ()) is None:
            del cell.metadata["tags"]
    return content


def read(path: Path) -> Notebook:
    """Returns what a notebook's file says about it, without running anything."""
    try:
        content = load(path)
    except ModuleNotFoundError as error:  # which is no fault of the file
        raise ValueError(
            f"This Python ({sys.executable}) lacks {error.name}: run `.venv/bin/python`, or `make setup` first."
        ) from error
    except Exception as error:  # nbformat raises many kinds for a file that is not a notebook
        raise ValueError(f"{path} cannot be read as a notebook: {error}") from error
    intro = next((cell.source for cell in content.cells if cell.cell_type == "markdown"), "")
    title = next((line.lstrip("# ").strip() for line in intro.splitlines() if line.startswith("# ")), path.stem)
    needs = re.search(r"\*\*Needs\*\*(.*?)(\*\*|$)", intro, re.DOTALL)
    numbers = re.findall(r"(?<!\d)\d\d(?!\d)", needs[1]) if needs else []
    earlier = sorted(
        {number for number in numbers if number < path.stem[:2] and any(path.parent.glob(f"{number}_*.ipynb"))}
    )
    return Notebook(path, title, tuple(earlier), _defaults(path, content), _rules(content))


def with_parameters(notebook: Notebook, given: dict[str, object]) -> dict:
    """Returns `given` as values of the right types for one notebook, checked against its rules.

    Texts, as the command line gives them, become what the parameter's default is; other values, as
    YAML gives them, must be of its type.

    Raises:
        ValueError: One sentence for an unknown name, a wrong type, or a value out of range.
    """
    for name in given:
        if name not in notebook.defaults:
            raise ValueError(f"{notebook.stem} has no parameter {name}: {parameters.hint(name, notebook.defaults)}")
    values = {name: parse(name, value, notebook.defaults[name]) for name, value in given.items()}
    if notebook.rules is not None:
        try:
            parameters.check({**notebook.defaults, **values}, **notebook.rules)
        except ValueError as error:
            raise ValueError(f"{notebook.stem}: {error}") from None
    return values


def parse(name: str, value: object, default: object) -> object:
    """Returns `value` in the type of `default`.

    Example:

    >>> parse("EPOCHS", "2", 10), parse("RATE", "1e-3", 0.1), parse("NAME", "007", ""), parse("FAST", "yes", False)
    (2, 0.001, '007', True)
    >>> parse("RATES", "0.1, 1", [3.0]), parse("RULES", "['sgd']", ["adam"])
    ([0.1, 1.0], ['sgd'])
    """
    if isinstance(value, str) and not isinstance(default, str):
        return _from_text(name, value, default)
    if default is None or type(value) is type(default):
        return value
    if isinstance(default, float) and type(value) is int:
        return float(value)
    raise _wrong(name, value, default)


def normalise(content: "nbformat.NotebookNode") -> "nbformat.NotebookNode":  # noqa: F821
    """Returns an executed notebook as it is committed: the same bytes for the same outputs.

    Gone are what papermill noted, timings, what was written to stderr, widgets (but for their static
    pictures), and the version of the language. Cell ids stay, executed cells are counted from 1, and
    one output stream stays one.

    Raises:
        ValueError: If a cell has not run, has failed, or shows a path of this machine.
    """
    import nbformat

    content = nbformat.from_dict(content)
    content = nbformat.v4.upgrade(content) if (content.nbformat, content.nbformat_minor) < (4, 5) else content
    language = content.metadata.get("language_info", {"name": "python"})
    kept = {name: language[name] for name in _LANGUAGE if name in language}
    stamped = {stamp.KEY: content.metadata[stamp.KEY]} if stamp.KEY in content.metadata else {}
    content.metadata = nbformat.from_dict({"kernelspec": _KERNELSPEC, "language_info": kept, **stamped})
    content.cells = [cell for cell in content.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    count = 0
    for cell in content.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type != "code":
            continue
        if cell.execution_count is None and cell.source.strip():
            raise ValueError(f"The cell {cell.id!r} has not run.")
        if cell.execution_count is not None:
            count += 1
            cell.execution_count = count
        cell.outputs = _outputs(cell, cell.execution_count)
    nbformat.validate(content)
    return content


def mark_default_data(content: "nbformat.NotebookNode") -> None:  # noqa: F821
    """Puts a line before each text about the default data (tag `default-data`), for a run on other pictures."""
    for cell in content.cells:
        if "default-data" in cell.metadata.get("tags", []):
            heading, text = re.match(r"((?:#+ [^\n]+\n+)?)(.*)", cell.source, re.DOTALL).groups()
            cell.source = f"{heading}{_OF_DEFAULT_DATA}\n\n{text}"


def write(content: "nbformat.NotebookNode", path: Path) -> None:  # noqa: F821
    """Writes a notebook, whole or not at all."""
    import nbformat

    with artifacts.writing(path) as partial:
        partial.write_text(nbformat.writes(content).rstrip("\n") + "\n", encoding="utf-8")


def _defaults(path: Path, content: "nbformat.NotebookNode") -> dict:  # noqa: F821
    cells = [cell for cell in content.cells if "parameters" in cell.metadata.get("tags", [])]
    defaults = {}
    for statement in _statements(cells[0].source) if cells else []:
        if isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets = [statement.target]
        elif isinstance(statement, ast.Assign):
            targets = statement.targets
        else:
            continue
        try:
            value = ast.literal_eval(statement.value)
        except ValueError:
            raise ValueError(f"A parameter of {path.name} is not a literal: {ast.unparse(statement)}") from None
        defaults.update({target.id: value for target in targets if isinstance(target, ast.Name)})
    return defaults


def _rules(content: "nbformat.NotebookNode") -> dict | None:  # noqa: F821
    for cell in content.cells:
        if cell.cell_type != "code" or "parameters.check" not in cell.source:
            continue
        for node in (inner for statement in _statements(cell.source) for inner in ast.walk(statement)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "parameters.check":
                try:  # the notebook's own code, which is about to be run; names other than the types' are not
                    return {
                        word.arg: eval(ast.unparse(word.value), {"__builtins__": {}}, _TYPES)
                        for word in node.keywords
                        if word.arg
                    }
                except Exception:  # written in another way: the notebook itself checks
                    return None
    return None


def _statements(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except SyntaxError:  # magics
        return []


def _from_text(name: str, text: str, default: object) -> object:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    try:
        if isinstance(default, bool):
            return words[text.strip().lower()]
        if isinstance(default, int | float):
            return type(default)(text)
        if isinstance(default, list) and default and not text.lstrip().startswith("["):
            return [parse(name, part.strip(), default[0]) for part in text.split(",")]
        value = ast.literal_eval(text)
    except (KeyError, ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # literal_eval's list
        if default is None:
            return text
        raise _wrong(name, text, default) from None
    if default is not None and type(value) is not type(default):
        raise _wrong(name, text, default)
    return value


def _wrong(name: str, value: object, default: object) -> ValueError:
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    kind = kinds.get(type(default), f"written as in Python, of type {type(default).__name__}")
    return ValueError(f"{name} is {value!r}: it must be {kind}, such as {default!r}.")


def _outputs(cell: "nbformat.NotebookNode", count: int | None) -> list:  # noqa: F821
    kept: list = []
    for output in cell.outputs:
        if output.output_type == "error":
            raise ValueError(f"The cell {cell.id!r} has failed: {output.ename}: {output.evalue}")
        if output.output_type == "stream":
            if output.name == "stderr":
                continue
            if kept and kept[-1].output_type == "stream":  # where a stream is cut depends on timing
                kept[-1].text += output.text
                continue
        elif _WIDGET in output.data and "image/png" not in output.data:
            continue
        else:
            output.data.pop(_WIDGET, None)  # what is left is the widget's static picture
        if output.output_type == "execute_result":
            output.execution_count = count
        kept.append(output)
    _refuse_host_paths(cell.id, kept)
    return kept


def _refuse_host_paths(cell_id: str, outputs: list) -> None:
    texts = [output.text for output in outputs if output.output_type == "stream"]
    texts += [
        str(value) for o in outputs if o.output_type != "stream" for kind, value in o.data.items() if "text" in kind
    ]
    places = [str(artifacts.root()), str(artifacts.outputs()), str(Path.home())]
    for place in (place for place in places if len(place) > 1):
        if any(re.search(re.escape(place) + r"(/|\b)", text) for text in texts):
            raise ValueError(f"The cell {cell_id!r} shows {place}, a path of this machine: print a relative path.")
