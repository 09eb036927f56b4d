"""The benchmarks: what a result says, that nothing lost is left out, and that peers with other answers are refused."""

import contextlib
import importlib
import inspect
import itertools
import re
import subprocess
import sys
import types

import numpy as np
import pandas as pd
import pytest

from benchmarks import __main__ as command
from benchmarks import batch, duplicates, pipeline, prediction, report, results, seeds, serving, side_by_side, workbook
from helpers import artifacts, cleaning, processor, registry, sources

MACHINE = {"processor": "a <processor>", "cores": 2, "system": "Linux", "versions": {"Python": "3.11.7"}}


def result(**changed) -> results.Result:
    values = {"ours": [2.0, 2.0, 4.0], "fast": [1.0, 2.0, 2.0], "slow": [40.0, 50.0, 60.0]}
    rows, ratios = results.compare("one picture, p50", "ms", values, less_is_better=True)
    missed = results.goal("as fast as fast", 0.5, at_least=1, what="one picture, p50", to="fast", why="Python calls it")
    parts = {
        "question": "How long?", "held_equal": ["the same pictures"], "repeats": 3, "machine": MACHINE, "rows": rows,
        "ratios": ratios, "limits": [results.limit("arithmetic", 0.5, "ms", reached=0.25, why="calls")],
        "goals": [missed], "taken": {"date": "2026-11-27", "seconds": 60, "commit": "abc"},
    }  # fmt: skip
    return results.Result(**{**parts, **changed})


def marked(root, text="before\n{}\nafter\n"):
    (root / "benchmarks").mkdir(exist_ok=True)
    for name in (report.FULL, *report.READMES):
        (root / name).write_text(text.format(f"{report.BEGIN}\nold\n{report.END}"), encoding="utf-8")


# Results --------------------------------------------------------------------------------------


def test_a_ratio_is_above_one_where_ours_is_ahead_and_pairs_the_rounds():
    fewer_seconds = results.ratio("work", "peer", [1.0, 2.0, 4.0], [2.0, 2.0, 2.0], less_is_better=True)
    assert (fewer_seconds["median"], fewer_seconds["low"], fewer_seconds["high"]) == (1.0, 0.5, 2.0)
    more_pictures = results.ratio("work", "peer", [1.0, 2.0, 4.0], [2.0, 2.0, 2.0])
    assert (more_pictures["median"], more_pictures["low"], more_pictures["high"]) == (1.0, 0.5, 2.0)
    assert results.ratio("work", "peer", [3.0], [1.0])["median"] == 3


def test_comparing_gives_a_row_for_each_peer_and_a_ratio_for_each_other():
    rows, ratios = results.compare("work", "s", {"a": [1.0], "ours": [2.0], "b": [8.0]}, less_is_better=True)
    assert [(row["of"], row["median"]) for row in rows] == [("a", 1), ("ours", 2), ("b", 8)]
    assert [(one["to"], one["median"]) for one in ratios] == [("a", 0.5), ("b", 4)]


@pytest.mark.parametrize(
    ("measured", "bound", "held"),
    [(1.5, {"at_least": 1.5}, True), (1.49, {"at_least": 1.5}, False), (0.3, {"at_most": 0.3}, True),
     (0.31, {"at_most": 0.3}, False), (float("nan"), {"at_least": 0}, False)],
)  # fmt: skip
def test_a_goal_is_held_up_to_its_bound(measured, bound, held):
    assert results.goal("fast", measured, why="it is work", **bound)["held"] is held


@pytest.mark.parametrize(
    ("given", "said"),
    [({"why": " ", "at_least": 1}, "no reason"), ({"why": "work"}, "one bound"),
     ({"why": "work", "at_least": 1, "at_most": 2}, "one bound")],
)  # fmt: skip
def test_a_goal_without_a_reason_or_with_no_or_two_bounds_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        results.goal("fast", 1.0, **given)


def test_growth_is_the_exponent_of_each_step():
    assert results.growth([10, 100, 1000], [5, 50, 5000]) == pytest.approx([1, 2])
    assert results.growth([10, 100], [1, 1000]) == pytest.approx([3])


def test_the_machine_names_the_versions_of_what_takes_part():
    found = results.machine("numpy", "no-such-package")
    assert found["versions"]["numpy"] == np.__version__
    assert set(found["versions"]) == {"Python", "numpy"}
    assert found["cores"] >= 1


def test_a_result_is_read_as_it_was_written_and_another_file_is_passed_over():
    path = results.write("one", result())
    assert results.read(path) == result()
    path.write_text('{"question": "of an older form"}')
    assert results.read(path) is None
    assert report.measured(["one", "never measured"]) == {}


# For eyes -------------------------------------------------------------------------------------


def test_lines_say_figures_ratios_limits_and_why_a_goal_is_missed():
    lines = report.text("one", result()).splitlines()
    assert "  one picture, p50, ours: 2.00 ms (2.00 to 4.00)" in lines
    assert "  ours to fast, one picture, p50: 0.500 (0.500 to 1.00) times" in lines
    assert any("limit: arithmetic, 0.500 ms, 25% of it reached: calls" in line for line in lines)
    assert "  goal MISSED: as fast as fast: 0.500 times, at least 1.00. Why: Python calls it" in lines


def test_one_round_has_no_spread():
    rows, ratios = results.compare("work", "s", {"ours": [2.0], "peer": [4.0]}, less_is_better=True)
    once = result(rows=rows, ratios=ratios, goals=[], repeats=1)
    assert "  work, ours: 2.00 s" in report.text("one", once).splitlines()
    assert "| peer 4.00 s | 2.00 | – | – |" in report.markdown({"one": once})
    assert "2.00 to 2.00" not in report.page({"one": once})


def test_the_page_shows_a_missed_goal_with_its_reason_and_needs_nothing_from_elsewhere():
    page = report.page({"one": result()})
    assert "✘ missed" in page
    assert "Python calls it" in page
    assert "0 of 1 goals held" in page
    assert "a &lt;processor&gt;" in page
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []
    [picture] = re.findall(r'<img [^>]*src="data:image/png;base64,[^"]{1000,}" alt="([^"]+)"', page)
    assert "1 medians at 1 or above, 1 below" in picture
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_the_table_has_the_closest_peer_or_that_of_the_goal_and_says_what_was_missed():
    table = report.markdown({"one": result()})
    assert "| one picture, p50 | 2.00 ms | fast 2.00 ms | 0.500 (0.500 to 1.00) | as fast as fast" in table
    assert "| **no** |" in table
    assert "- one picture, p50: missed, because Python calls it." in table
    assert "2 cores of a <processor>, 2026-11-27 at abc (one): Python 3.11.7." in table
    held = results.goal("faster than slow", 20.0, at_least=1, what="one picture, p50", to="slow", why="work")
    assert "| slow 50.0 ms | 20.0 (15.0 to 25.0) | faster than slow | yes |" in report.markdown(
        {"one": result(goals=[held])}
    )
    assert "| fast 2.00 ms | 0.500 (0.500 to 1.00) | – | – |" in report.markdown({"one": result(goals=[])})


def test_the_front_table_has_the_closest_peer_counts_the_goals_and_leaves_no_missed_one_out():
    what = report.FRONT[0]
    rows, ratios = results.compare(what, "pictures/s", {"ours": [4.0], "near": [2.0], "far": [1.0]})
    goals = [results.goal("twice", 2.0, at_least=2, what=what, why="work"),
             results.goal("thrice", 2.0, at_least=3, what=what, why="it is near")]  # fmt: skip
    table = report.front({"other": result(), "one": result(rows=rows, ratios=ratios, goals=goals)})
    assert f"| {what} | 4.00 pictures/s | near 2.00 pictures/s | 2.00 | 1 of 2 |" in table
    assert "| one picture, p50" not in table  # is not quoted, but its missed goal is told
    assert "- one picture, p50: missed, because Python calls it." in table
    assert f"- {what}: missed, because it is near." in table
    assert "Of the 3 goals of all benchmarks 1 are held." in table
    assert "Goals held counts all goals that are set for a line, against this or another peer or a bound." in table
    assert table.count("2 cores of a <processor>") == 1


def test_another_way_of_our_own_is_not_the_closest_peer():
    values = {"ours": [2.0], "ours, alone": [1.0], "peer": [4.0]}
    rows, ratios = results.compare("work", "s", values, less_is_better=True)
    assert "| peer 4.00 s | 2.00 " in report.markdown({"one": result(rows=rows, ratios=ratios, goals=[])})


def test_the_report_has_all_results_that_there_are():
    results.write("one", result())
    results.write("two", result(question="And then?"))
    page = report.write(["two", "one"])
    assert page.read_text().index("And then?") < page.read_text().index("How long?")
    assert {path.name for path in page.parent.glob("report.*")} == {"report.html", "report.json", "report.md"}


# Into the READMEs -----------------------------------------------------------------------------


def test_publishing_keeps_the_rest_of_the_readmes_and_changes_nothing_the_second_time(project):
    marked(project)
    results.write("one", result())
    report.publish(["one"])
    first = (project / "README.md").read_text()
    assert first.startswith(f"before\n{report.BEGIN}\n| what |")
    assert first.endswith(f"{report.END}\nafter\n")
    assert "old" not in first
    assert (project / "README.zh.md").read_text() == first
    full = (project / report.FULL).read_text()
    assert full == f"before\n{report.BEGIN}\n{report.markdown({'one': result()})}{report.END}\nafter\n"
    report.publish(["one"])
    assert ((project / "README.md").read_text(), (project / report.FULL).read_text()) == (first, full)


def test_publishing_keeps_what_was_not_measured_again_and_leaves_raw_figures_out(project):
    marked(project)
    results.write("one", result(runs=[1, 2, 3]))
    report.publish(["one", "two"])
    (results.folder() / "one.json").unlink()
    results.write("two", result(question="And then?"))
    report.publish(["one", "two"])
    assert list(report.published()) == ["one", "two"]
    assert report.published()["one"] == result()


def test_publishing_without_results_or_without_a_place_writes_nothing(project):
    marked(project)
    with pytest.raises(ValueError, match="no results"):
        report.publish(["one"])
    results.write("one", result())
    (project / "README.zh.md").write_text("no marks")
    with pytest.raises(ValueError, match=r"README\.zh\.md has no place"):
        report.publish(["one"])
    assert "old" in (project / "README.md").read_text()
    assert not (project / "benchmarks" / "results.json").exists()


@pytest.mark.parametrize(
    ("name", "table"), [(report.FULL, report.markdown), *((name, report.front) for name in report.READMES)]
)
def test_the_readmes_have_what_publish_makes_of_the_committed_results(name, table):
    page = (artifacts.root() / name).read_text(encoding="utf-8")
    assert report.inserted(page, table(report.published()), name) == page


def test_seeds_that_cost_more_than_a_tenth_above_their_steps_miss_a_goal(monkeypatch):
    monkeypatch.setattr(side_by_side, "fashion_mnist", lambda _: contextlib.nullcontext("pictures.npz"))
    for restarted, held in ((1.05, True), (1.2, False)):
        runs = [{"steps": 1.0, "restarted": restarted, "new": 2.0}] * 3
        monkeypatch.setattr(side_by_side, "run", lambda *_, runs=runs, **__: {"seeds": runs})
        [goal] = seeds.measure(repeats=3).goals
        assert (goal["held"], goal["measured"]) == (held, restarted)


def test_each_round_of_seeds_begins_with_another_way(monkeypatch):
    turns = []

    def run(_, *, repeats, arguments):
        turns.append(arguments[arguments.index("--turn") + 1])
        return {"seeds": [{"steps": 1.0, "restarted": 1.0, "new": 2.0}] * repeats}

    monkeypatch.setattr(side_by_side, "run", run)
    monkeypatch.setattr(side_by_side, "fashion_mnist", lambda _: contextlib.nullcontext("pictures.npz"))
    seeds.measure(repeats=3)
    assert turns == ["0", "1", "2"]


def test_everything_that_the_readmes_are_to_quote_was_measured():
    table = report.front(report.published())
    assert [what for what in report.FRONT if f"| {what} | " not in table] == []


# The command ----------------------------------------------------------------------------------


def test_an_unknown_name_is_answered_with_those_there_are(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["nothing"])
    assert ended.value.code == 2
    assert "no benchmark 'nothing': name one of training, " in capsys.readouterr().err


@pytest.mark.parametrize("name", command.BENCHMARKS)
def test_every_benchmark_takes_the_options_and_help_names_its_minutes(name):
    module, minutes = command.BENCHMARKS[name]
    measure = importlib.import_module(f"benchmarks.{module}").measure
    assert inspect.signature(measure).parameters["_"].kind is inspect.Parameter.VAR_KEYWORD
    says = f"{name} needs a GPU" if name == command.GPU else f"{name} {minutes}"
    assert re.search(rf"\b{says}\b", command._parser().format_help())


def test_the_minutes_of_help_are_about_those_that_were_measured_with_the_default_options():
    found = {name: one for name, one in report.published().items() if name not in ("training", "workbook")}
    assert len(found) >= 9  # those two were measured with fewer pictures and rounds
    for name, one in found.items():
        taken = one.taken["seconds"] / 60
        assert abs(command.BENCHMARKS[name][1] - taken) < max(1.5, 0.4 * taken), name


@pytest.mark.parametrize("option", command._PEERS)
def test_a_python_without_the_peer_that_it_is_named_for_is_a_sentence_before_anything_is_measured(
    option, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(command, "_measure", lambda *_: pytest.fail("something was measured"))
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho Traceback >&2\necho \"No module named 'peer'\" >&2\nexit 1\n")
    python.chmod(0o755)
    named = f"--{option.replace('_', '-')}"
    for path, said in ((python, "(No module named 'peer')"), (tmp_path / "none", "(No such file or directory)")):
        with pytest.raises(SystemExit) as ended:
            command.main(["seeds", named, str(path)])
        assert ended.value.code == 2
        [sentence] = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
        assert f"{named} {path}" in sentence
        assert said in sentence
        assert command._PEERS[option][1] in sentence


def test_a_python_that_has_its_peer_is_used(tmp_path, monkeypatch):
    python, asked = tmp_path / "python", {}
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    monkeypatch.setattr(command, "_measure", lambda _, options: not asked.update(options))
    assert command.main(["duplicates", "--peer-python", str(python)]) == 0
    assert asked["peer_python"] == str(python)


def test_a_benchmark_that_cannot_be_measured_is_a_sentence_and_the_others_go_on(monkeypatch, capsys):
    def missing(**_):
        raise FileNotFoundError("model.keras is not there. Notebook 03 makes it.")

    def broken(**_):
        raise KeyError("a mistake of ours")

    modules = {"a": missing, "b": broken, "c": lambda **_: result()}
    load = {f"benchmarks.{name}": types.SimpleNamespace(measure=measure) for name, measure in modules.items()}
    monkeypatch.setattr(command, "BENCHMARKS", {name: (name, 1) for name in modules})
    monkeypatch.setattr(importlib, "import_module", load.__getitem__)
    assert command.main([]) == 1
    said = capsys.readouterr()
    assert "error: a was not measured: model.keras is not there. Notebook 03 makes it." in said.err
    assert "Not measured: a, b." in said.err
    assert "goal MISSED: as fast as fast" in said.out
    assert results.read(results.folder() / "c.json").taken["date"]
    assert command.main(["c"]) == 0


# What the peers have to agree on --------------------------------------------------------------


def test_all_planted_duplicates_are_found_among_pictures_that_are_different(tmp_path, monkeypatch):
    first = [record.picture for record in itertools.islice(sources.open_source("").records(), 2000)]
    monkeypatch.setattr(sources, "collect", lambda _: types.SimpleNamespace(images=np.stack(first)[..., None]))
    planted = duplicates.plant(2000, tmp_path / "set")
    images = np.load(tmp_path / "set" / "images.npy")
    content = cleaning.join(cleaning.exact_groups(images), cleaning.near_pairs(images))
    assert duplicates.found_shares(content, planted) == {"exact": 1.0, "near": 1.0}
    assert np.sum(content != np.arange(len(images))) == 4
    assert len(np.unique(np.concatenate([pairs.ravel() for pairs in planted.values()]))) == 8


def test_a_planted_duplicate_that_is_missed_ends_the_run():
    shares = duplicates.found_shares(np.arange(4), {"exact": np.array([[0, 1]]), "near": np.array([[2, 3]])})
    with pytest.raises(RuntimeError, match=r"Of the exact duplicates among 4 pictures, 100\.00% were missed"):
        duplicates.require_all(shares, 4)
    duplicates.require_all({"exact": 1.0, "near": 1.0}, 4)


def test_growth_like_n_log_n_is_held_and_like_n_squared_is_missed():
    sizes = [10_000, 100_000, 1_000_000]
    good = duplicates.goals(sizes, [1.0, 12.5, 150.0], [100, 200, 2000])
    assert [one["held"] for one in good] == [True] * 4
    bad = duplicates.goals(sizes, [0.1, 10.0, 1000.0], [100, 1000, 9000])
    assert [one["held"] for one in bad] == [False, True, False, False]
    last_step_alone = duplicates.goals(sizes, [0.23, 1.5, 31.7], [100, 200, 2000])
    assert [one["held"] for one in last_step_alone] == [False, True, True, True]
    assert last_step_alone[0]["measured"] == pytest.approx(np.log10(31.7 / 1.5), abs=1e-5)


def test_predictions_that_differ_beyond_rounding_end_the_run():
    logits = np.array([[1.0, -2.0], [0.5, 3.0]])
    assert prediction.differ({"model.predict": logits, "ours": logits + 1e-6})["ours"] < 1e-6
    for wrong in (logits + 0.1, logits * np.nan):
        with pytest.raises(RuntimeError, match=r"logits of ours and model\.predict differ"):
            prediction.differ({"model.predict": logits, "ours": wrong})


def test_peers_that_were_asked_fewer_times_are_named():
    runs = {"ours": [{"calls": 2000.0}] * 2, "model.predict": [{"calls": 300.0}, {"calls": 280.0}]}
    assert prediction.calls(runs) == "2,000 timed calls; of model.predict, which is slow, 280"
    assert prediction.calls({"ours": runs["ours"]}) == "2,000 timed calls"


@pytest.mark.parametrize("module", [batch, pipeline, prediction])
def test_all_variants_get_the_cores_that_a_quota_leaves(module, monkeypatch, tmp_path):
    def run(_, *, arguments, **__):
        assert arguments[arguments.index("--threads") + 1] == "3"
        raise InterruptedError

    monkeypatch.setattr(processor, "cores", lambda: 3)
    monkeypatch.setattr(side_by_side, "run", run)
    monkeypatch.setattr(side_by_side, "fashion_mnist", lambda _: contextlib.nullcontext("pictures.npz"))
    monkeypatch.setattr(pipeline, "_folders", lambda _: contextlib.nullcontext(tmp_path))
    monkeypatch.setattr(artifacts, "require", lambda *_, **__: tmp_path)
    monkeypatch.setattr(registry, "folder", lambda *_, **__: tmp_path)
    monkeypatch.setattr(registry, "model_file", lambda _: tmp_path)
    with pytest.raises(InterruptedError):
        module.measure(repeats=1, pictures=1000)


def test_answers_in_batch_that_differ_end_the_run():
    answers = np.arange(2000) % 10
    batch.require_equal({"ours": answers, "bare": np.append(answers[:-1], 3)})
    with pytest.raises(RuntimeError, match="answers of bare and ours differ"):
        batch.require_equal({"ours": answers, "bare": (answers + 1) % 10})


def test_answers_of_servers_are_rows_and_a_wrong_one_ends_the_run():
    rows = [{"server": server, "protocol": "V1", "clients": clients, "turn": 0, "requests": 9, "failed": 0, "wrong": 0,
             "per_second": 300.0 / clients if server == "ours" else 100.0, "p50_ms": 2.5, "p99_ms": 3.0}
            for clients in (1, 8) for server in ("ours", "KServe")]  # fmt: skip
    found = serving._result(pd.DataFrame(rows), 0.1, 1, None)
    assert results.read(results.write("serving", found)).goals[0]["measured"] == pytest.approx(2.4)
    assert [one["median"] for one in found.ratios] == [3.0, 0.375]
    assert not found.goals[0]["held"]
    rows[0]["wrong"] = 1
    with pytest.raises(RuntimeError, match="answered wrongly"):
        serving._result(pd.DataFrame(rows), 0.1, 1, None)


def test_the_last_release_is_the_newest_commit_with_notebooks_that_changed_the_version(project):
    def commit(**files):
        for name, content in files.items():
            path = project / name.replace("__", "/").replace("_toml", ".toml")
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
        git = ["git", "-C", str(project), "-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run([*git, "init", "-q"], check=True)
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-qm", "change"], check=True)
        return workbook._git("rev-parse", "--short", "HEAD").strip()

    commit(pyproject_toml='version = "1"\n')
    assert workbook.last_release() is None
    released = commit(pyproject_toml='version = "2"\n', notebooks__a="one")
    commit(pyproject_toml='version = "2"\nother = 1\n', notebooks__a="two")
    assert workbook.last_release() == released
    with workbook.checked_out(released) as tree:
        assert (tree / "notebooks" / "a").read_text() == "one"
    assert not tree.exists()
    with pytest.raises(ValueError, match="git rev-parse failed"):
        workbook._commit("nonsense")
    with pytest.raises(ValueError, match="has no notebooks"):
        workbook._commit("HEAD~2")


@pytest.mark.parametrize(("against", "name"), [("HEAD~3", "commit abc"), (None, "release abc")])
def test_another_tree_is_called_a_release_only_if_no_commit_was_named(against, name, monkeypatch, tmp_path):
    run = {"seconds": 1.0, "cpu_seconds": 1.0, "notebooks": {"01_data": {"seconds": 1.0, "peak_mb": 500.0}}}
    monkeypatch.setattr(workbook, "_commit", lambda _: "abc")
    monkeypatch.setattr(workbook, "last_release", lambda: "abc")
    monkeypatch.setattr(workbook, "checked_out", lambda _: contextlib.nullcontext(tmp_path))
    monkeypatch.setattr(workbook, "_require_own_helpers", lambda *_: None)
    monkeypatch.setattr(workbook, "_run", lambda *_: run)
    monkeypatch.setattr(workbook, "_locks", lambda _: "the same locks")
    found = workbook.measure(repeats=1, against=against)
    assert {row["of"] for row in found.rows} == {"ours", name}
    assert {goal["goal"] for goal in found.goals} == {f"at least 0.9 of the speed of {name}"}
    assert found.question.endswith(f"slower than {name}?")


def test_a_change_that_made_a_notebook_slower_is_a_missed_goal():
    def run(seconds):
        notebooks = {"01_data": {"seconds": seconds, "peak_mb": 500.0}}
        return {"seconds": seconds, "cpu_seconds": seconds, "notebooks": notebooks}

    found = workbook._result({"ours": [run(13.0)] * 3, "release abc": [run(10.0)] * 3}, 3, "quick", None)
    assert [one["held"] for one in found.goals] == [False, False]
    assert "notebook 01, quick: seconds" in report.markdown({"workbook": found})


def test_variants_find_the_packages_of_their_own_python_and_no_settings_of_a_library(tmp_path, monkeypatch):
    script, other = tmp_path / "told.py", tmp_path / "python"
    script.write_text("import json, os; e = os.environ; print(json.dumps({'own': float('/of/mine' in e['PYTHONPATH']), "
                      "'tuned': float('XLA_FLAGS' in e), 'asked': float(e.get('ASKED', 0))}))")  # fmt: skip
    other.symlink_to(sys.executable)
    monkeypatch.setenv("PYTHONPATH", "/of/mine")
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=0")
    variants = {"this": (sys.executable, str(script), {"ASKED": "3"}), "another": (str(other), str(script), {})}
    found = side_by_side.run(variants, repeats=1, arguments=[])
    assert found == {"this": [{"own": 1, "tuned": 0, "asked": 3}], "another": [{"own": 0, "tuned": 0, "asked": 0}]}


@pytest.mark.slow
def test_a_small_heap_is_cleaned_in_both_ways_and_told():
    assert command.main(["duplicates", "--sizes", "1000", "--repeats", "1"]) == 0
    found = results.read(results.folder() / "duplicates.json")
    seconds = {row["of"]: row["median"] for row in found.rows if row["what"] == "cleaning 1,000 pictures, seconds"}
    assert set(seconds) == {"ours", duplicates.LOOP}
    assert min(seconds.values()) > 0
