"""README and CONTRIBUTING say what is so."""

import re
import shlex

import pytest

from helpers import artifacts

ROOT = artifacts.root()
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAKE_TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
COMMANDS = [line.split("#")[0].strip() for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
            for line in block.splitlines() if line.strip()]


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


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_every_file_that_is_linked_exists(text):
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_readme_lists_every_notebook():
    notebooks = {path.name for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")}
    assert notebooks
    assert set(re.findall(r"\(notebooks/([^)]+\.ipynb)\)", README)) == notebooks


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python -m helpers")])
def test_every_workbook_command_of_the_readme_is_understood(command):
    from helpers import cli

    arguments = shlex.split(command)[3:]
    assert cli._parser().parse_args(arguments).command


def test_readme_has_at_most_two_badges():
    assert README.count("img.shields.io") + README.count("badge.svg") <= 2
