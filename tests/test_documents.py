"""README and CONTRIBUTING say what is so."""

import re

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from helpers import artifacts

ROOT = artifacts.root()
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in (
    "README.md", "README.zh.md", "CONTRIBUTING.md", "notebooks/README.md", "notebooks/glossary.md")}  # fmt: skip
CONTRIBUTING, CHINESE = PAGES["CONTRIBUTING.md"], PAGES["README.zh.md"]
MAKE_TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_plan_lists_every_module_and_no_other():
    table = CONTRIBUTING.split("| module of `helpers`")[1].split("\n\n")[0]
    listed = set(re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in table.splitlines()[2:])))
    there = {path.stem for path in (ROOT / "helpers").glob("[!_]*.py")}
    assert listed == there


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_every_make_command_exists(text):
    named = set(re.findall(r"`?make ([a-z]+)", text)) - {"sure"}
    assert named
    assert named <= MAKE_TARGETS


@pytest.mark.parametrize("name", PAGES)
def test_every_file_that_is_linked_exists(name):
    links = re.findall(r"\]\(([^)#:]+)\)", PAGES[name])
    assert [link for link in links if not (ROOT / name).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("name", ["README.md", "README.zh.md", "notebooks/README.md"])
def test_the_pages_for_readers_list_every_notebook(name):
    notebooks = {path.name for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")}
    assert notebooks
    assert set(re.findall(r"\((?:notebooks/)?(\d[^)]+\.ipynb)\)", PAGES[name])) == notebooks


def test_the_chinese_readme_has_the_figures_of_the_english_one():
    figures = set(re.findall(r"\d\.\d{3}|\d\d,\d{3}", CHINESE))
    assert len(figures) > 10
    assert figures <= set(re.findall(r"\d\.\d{3}|\d\d,\d{3}", README))


def test_the_glossary_names_notebooks_that_there_are():
    numbers = re.findall(r"\| (\d\d) \|$", PAGES["notebooks/glossary.md"], re.MULTILINE)
    assert numbers == sorted(numbers)
    assert {path.name[:2] for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")} == set(numbers)


def test_readme_has_at_most_two_badges():
    assert README.count("img.shields.io") + README.count("badge.svg") <= 2


def _committed_table(stem: str, cell: str) -> pd.DataFrame:
    """Returns the table that a cell of a committed notebook shows, named by its first column."""
    content = nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=4)
    (found,) = (one for one in content.cells if one.id == cell)
    (page,) = (output.data["text/html"] for output in found.outputs if "text/html" in output.get("data", {}))
    lines = BeautifulSoup(page, "html.parser").find_all("tr")
    rows = [[part.get_text() for part in line.find_all(["th", "td"])] for line in lines]
    return pd.DataFrame(rows[1:], columns=rows[0]).set_index(rows[0][0])


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_what_the_readme_says_is_deployed_is_what_notebook_05_has_measured(name):
    sizes, times = (_committed_table("05_compression", cell) for cell in ("sizes", "times"))
    text = (ROOT / name).read_text(encoding="utf-8")
    rows = re.findall(r"^\| .*?\| \**([\d,]+)\**[^|]*\| ([\d.]+) \| ([\d.]+) ms \| ([\d,]+) \|$", text, re.MULTILINE)
    weights = int(float(sizes.loc["big", "bytes"]) * float(sizes.loc["big", "times smaller"]))  # to three digits
    for row, model in zip(rows, ["Keras, predict", "big", "dynamic range", "small", "smallest"], strict=True):
        size, accuracy, latency, rate = (float(figure.replace(",", "")) for figure in row)
        in_keras = model == "Keras, predict"
        assert size == (pytest.approx(weights, rel=0.001) if in_keras else float(sizes.loc[model, "bytes"]))
        assert accuracy == float(sizes.loc["big" if in_keras else model, "accuracy"])
        assert latency == pytest.approx(float(times.loc[model, "latency_ms_p50"]), rel=0.02, abs=0.0005)
        assert rate == pytest.approx(float(times.loc[model, "pictures_per_second"]), rel=0.02)
