"""Results for eyes: as lines, as a page, as a table in Markdown, and in the READMEs."""

import base64
import html
import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from benchmarks import results
from benchmarks.results import Result
from helpers import artifacts
from helpers import report as pages

BEGIN = "<!-- benchmarks: `python -m benchmarks publish` writes what stands here -->"
END = "<!-- benchmarks end -->"
FULL = "benchmarks/README.md"
READMES = ("README.md", "README.zh.md")
FRONT = (  # what the READMEs quote of all that FULL has
    "training the classic CNN", "training the better CNN", "to 0.92 test accuracy",
    "28x28 grey, shifted and mirrored batches", "224x224 JPEG, first epoch", "224x224 JPEG, each later epoch",
    "one picture in process, p50", "V2 JSON, 1 client, requests a second", "V2 JSON, 64 clients, requests a second",
    "batch, their work, pictures a second", "cleaning 1,000,000 pictures, seconds", "first step after Run All",
)  # fmt: skip
_HEADINGS = ("what", "ours", "best peer", "ratio (low to high)", "goal", "held")
_FRONT_HEADINGS = ("what", "ours", "best peer", "ratio (low to high)", "goals held")


def text(name: str, found: Result) -> str:
    """Returns what a benchmark found, in lines of the same form for all."""
    lines = [f"{name}: {found.question}"]
    lines += [f"  held equal: {clause}" for clause in found.held_equal]
    lines += [
        f"  {one['what']}, {one['of']}: {figure(one['median'])} {one['unit']}{_between(one)}" for one in found.rows
    ]
    lines += [f"  {one['ours']} to {one['to']}, {one['what']}: {_times(one)} times" for one in found.ratios]
    lines += [
        f"  limit: {one['limit']}, {figure(one['value'])} {one['unit']}, {share(one['reached'])} of it reached: "
        f"{one['why']}"
        for one in found.limits
    ]
    for one in found.goals:
        said = f"{one['goal']}: {figure(one['measured'])} {one['unit']}, {_bound(one)}"
        lines.append(f"  goal held: {said}" if one["held"] else f"  goal MISSED: {said}. Why: {one['why']}")
    return "\n".join(lines)


def markdown(found: dict[str, Result]) -> str:
    """Returns one compact table of all results with what they were measured on.

    Each comparison has one line, with the peer that comes closest to ours, or one for each of its goals.
    """
    lines = _rows(_HEADINGS, [cells for result in found.values() for cells in _lines(result)])
    lines += [*_missed(found), *_measured_on(found), ""]
    lines.append("Ratios are medians of rounds in which all took their turn; above 1, ours is ahead.")
    return "\n".join(lines) + "\n"


def front(found: dict[str, Result]) -> str:
    """Returns a table of the results in `FRONT`, a line each with the closest peer, and every goal that is missed."""
    lines, held = [], [one["held"] for result in found.values() for one in result.goals]
    for result in found.values():
        whats = {one["what"] for one in [*result.rows, *result.goals]}
        for what in filter(whats.__contains__, FRONT):
            goals = [one["held"] for one in result.goals if one["what"] == what]
            lines.append([*_line(result, what, None)[:4], f"{sum(goals)} of {len(goals)}" if goals else "–"])
    lines.sort(key=lambda cells: FRONT.index(cells[0]))
    machines = dict.fromkeys(_where(result) for result in found.values())
    lines = [*_rows(_FRONT_HEADINGS, lines), f"Of the {len(held)} goals of all benchmarks {sum(held)} are held.", "",
             *_missed(found), f"Measured on {', or on '.join(machines)}."]  # fmt: skip
    lines.append("Ratios are medians of rounds in which all took their turn; above 1, ours is ahead. Goals held counts "
                 "all goals that are set for a line, against this or another peer or a bound.")  # fmt: skip
    return "\n".join(lines) + "\n"


def page(found: dict[str, Result]) -> str:
    """Returns the report as one HTML page with everything in it."""
    missed = sum(not one["held"] for result in found.values() for one in result.goals)
    asked = sum(len(result.goals) for result in found.values())
    body = [
        "<main>\n<h1>Benchmarks</h1>",
        f"<p>{len(found)} benchmarks; {asked - missed} of {asked} goals held. A ratio says how many times as good ours "
        "is, round by round: above 1, ours is ahead.</p>",
        _contents(found), _picture(found), *(_section(name, result) for name, result in found.items()), "</main>",
    ]  # fmt: skip
    return pages.document("Benchmarks", "\n".join(part for part in body if part))


def write(names: Iterable[str]) -> Path:
    """Writes report.html, report.json and report.md from all results that there are; returns the page's path."""
    found = measured(names)
    folder = results.folder()
    artifacts.write_json(folder / "report.json", {name: asdict(result) for name, result in found.items()})
    for name, content in (("report.md", markdown(found)), ("report.html", page(found))):
        with artifacts.writing(folder / name) as partial:
            partial.write_text(content, encoding="utf-8")
    return folder / "report.html"


def measured(names: Iterable[str]) -> dict[str, Result]:
    """Returns the results that lie in `outputs/benchmarks`, in the order of the names."""
    found = {name: results.read(results.folder() / f"{name}.json") for name in names}
    return {name: result for name, result in found.items() if result is not None}


def publish(names: Iterable[str]) -> list[Path]:
    """Writes the tables into `FULL` and the READMEs, and what they were made from into `benchmarks/results.json`.

    Benchmarks that were not measured again keep what was published of them.

    Raises:
        ValueError: If nothing was ever measured, or a page has no place for its table; then nothing is written.
    """
    names, root = list(names), artifacts.root()
    together = published() | {name: _short(result) for name, result in measured(names).items()}
    together = {name: together[name] for name in sorted(names) if name in together}  # as JSON keeps them
    if not together:
        raise ValueError(f"There are no results in {results.folder()}: run `make bench` first.")
    tables = {FULL: markdown(together)} | dict.fromkeys(READMES, front(together))
    texts = {root / name: inserted((root / name).read_text(encoding="utf-8"), table, name)
             for name, table in tables.items()}  # fmt: skip
    kept = artifacts.write_json(_kept(), {name: asdict(result) for name, result in together.items()})
    for path, content in texts.items():
        with artifacts.writing(path) as partial:
            partial.write_text(content, encoding="utf-8")
    return [kept, *texts]


def published() -> dict[str, Result]:
    """Returns what `publish` has written into `benchmarks/results.json`; nothing if it never has."""
    if not _kept().exists():
        return {}
    return {name: Result(**one) for name, one in json.loads(_kept().read_text(encoding="utf-8")).items()}


def inserted(page: str, table: str, name: str) -> str:
    """Returns a page with a table between its two marks, and all else as it was.

    Raises:
        ValueError: If the marks are not there once each, in their order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"{name} has no place for the table: put these two lines into it, once each: {BEGIN} {END}")
    return f"{before}{BEGIN}\n{table}{END}{after}"


def figure(value: float) -> str:
    """Returns a number for eyes: three digits that count.

    >>> figure(1234.5), figure(12.345), figure(9.999), figure(0.06123), figure(0)
    ('1,230', '12.3', '10.0', '0.0612', '0')
    """
    rounded = float(f"{value:.3g}")
    if rounded == 0:
        return "0"
    return f"{rounded:,.{max(0, 2 - math.floor(math.log10(abs(rounded))))}f}"


def share(value: float) -> str:
    """Returns a share as a percentage.

    >>> share(1.2), share(0.914), share(0.0042), share(0.0003)
    ('120%', '91%', '0.42%', '0.03%')
    """
    return f"{value:.0%}" if value >= 0.095 else f"{100 * value:.2g}%"


def _kept() -> Path:
    return artifacts.root() / "benchmarks" / "results.json"


def _short(result: Result) -> Result:
    return Result(**{**asdict(result), "runs": None})


def _rows(headings: Iterable[str], lines: list[list[str]]) -> list[str]:
    """Returns a Markdown table, and an empty line after it."""
    cells = [list(headings), *([cell.replace("|", "/") for cell in line] for line in lines)]
    rows = [f"| {' | '.join(line)} |" for line in cells]
    return [rows[0], "|---" * len(cells[0]) + "|", *rows[1:], ""]


def _missed(found: dict[str, Result]) -> list[str]:
    """Returns a line for each goal that is missed, and an empty one after them; nothing if none is."""
    goals = [one for result in found.values() for one in result.goals if not one["held"]]
    lines = [f"- {one['what']}: missed, because {one['why']}." for one in goals]
    return [*lines, ""] if lines else []


def _lines(result: Result) -> list[list[str]]:
    """Returns the cells of a result's lines in the short table: one for each goal, and for each comparison without."""
    whats = dict.fromkeys(one["what"] for one in [*result.ratios, *result.goals] or result.rows)
    lines = []
    for what in whats:
        if result.quoted and what not in result.quoted:
            continue
        goals = [one for one in result.goals if one["what"] == what] or [None]
        lines += [_line(result, what, one) for one in goals]
    return lines


def _line(result: Result, what: str, goal: dict | None) -> list[str]:
    ratios = [one for one in result.ratios if one["what"] == what and (not goal or goal["to"] in ("", one["to"]))]
    others = [one for one in ratios if not one["to"].startswith(results.OURS)]  # no way of our own is a peer
    nearest = min(others or ratios, key=lambda one: one["median"], default=None)
    rows = {one["of"]: f"{figure(one['median'])} {one['unit']}" for one in result.rows if one["what"] == what}
    ours = rows.get(nearest["ours"] if nearest else results.OURS, "")
    if not ours and goal:
        ours = f"{figure(goal['measured'])} {goal['unit']}"
    peer = f"{nearest['to']} {rows.get(nearest['to'], '')}".strip() if nearest else "–"
    said = [goal["goal"], "yes" if goal["held"] else "**no**"] if goal else ["–", "–"]
    return [what, ours or "–", peer, _times(nearest) if nearest else "–", *said]


def _measured_on(found: dict[str, Result]) -> list[str]:
    """Returns a sentence for each machine and date: which benchmarks ran there, with which versions."""
    groups: dict[str, list[str]] = {}
    versions: dict[str, dict] = {}
    for name, result in found.items():
        machine, taken, where = result.machine, result.taken, _where(result)
        when = f", {taken['date']}" + (f" at {taken['commit']}" if taken.get("commit") else "") if taken else ""
        groups.setdefault(where + when, []).append(name)
        versions.setdefault(where + when, {}).update(machine.get("versions", {}))
    return [
        f"Measured on {where} ({', '.join(names)}): "
        + ", ".join(f"{package} {version}" for package, version in versions[where].items()) + "."
        for where, names in groups.items()
    ]  # fmt: skip


def _where(result: Result) -> str:
    machine = result.machine
    memory = f", {machine['memory_gb']} GB" if "memory_gb" in machine else ""
    return f"{machine.get('cores')} cores of {machine.get('processor')}{memory}"


def _contents(found: dict[str, Result]) -> str:
    items = "".join(
        f'<li><a href="#{name}">{html.escape(name)}</a>: {html.escape(result.question)}</li>\n'
        for name, result in found.items()
    )
    return f'<nav aria-label="Benchmarks"><ul>\n{items}</ul></nav>' if items else ""


def _picture(found: dict[str, Result]) -> str:
    """Returns the ratios of the short table with their spread as a picture; nothing if there are none."""
    drawn = {}
    for name, result in found.items():
        for one in result.ratios:
            if not result.quoted or one["what"] in result.quoted:
                drawn[f"{name} · {one['what']} · {one['to']}"] = one
    if not drawn:
        return ""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    from helpers import plotting

    with plt.rc_context():
        plotting.use_style()
        parts = ([one[key] for one in drawn.values()] for key in ("median", "low", "high"))
        label = "times as good as the peer, median and spread of the rounds"
        ax = plotting.intervals(list(drawn), *parts, baseline=1, label=label, most=len(drawn))
        ax.set_yticks(range(len(drawn)), [name.replace("$", r"\$") for name in drawn], fontsize="x-small")
        plotting.log_axis(ax.xaxis)
        ax.figure.set_size_inches(8, ax.figure.get_size_inches()[1])
        picture = base64.b64encode(plotting.png(ax)).decode()
    behind = sum(one["median"] < 1 for one in drawn.values())
    alt = (f"The ratio of ours to each peer with its spread, on a logarithmic axis: {len(drawn) - behind} medians at "
           f"1 or above, {behind} below; the tables have the figures.")  # fmt: skip
    image = f'<img style="min-width: 36rem" src="data:image/png;base64,{picture}" alt="{html.escape(alt)}">'
    return f'<div class="output_png" style="overflow-x: auto" tabindex="0">{image}</div>'


def _section(name: str, result: Result) -> str:
    held = "".join(f"<li>{html.escape(clause)}</li>\n" for clause in result.held_equal)
    parts = [
        f'<h2 id="{name}">{html.escape(name)}: {html.escape(result.question)}</h2>',
        f"<p>{html.escape(_taken(result))} Held equal:</p>\n<ul>\n{held}</ul>",
        _goals(result.goals),
        _table("Ratios", ("what", "to", "times", "low to high"), (
            (one["what"], one["to"], figure(one["median"]), _spread(one)) for one in result.ratios), figures=(2, 3)),
        _table("Limits", ("limit", "at most", "reached", "why"), (
            (one["limit"], f"{figure(one['value'])} {one['unit']}", share(one["reached"]), one["why"])
            for one in result.limits), figures=(1, 2)),
        _table("Figures", ("what", "of", "median", "low to high", "unit"), (
            (one["what"], one["of"], figure(one["median"]), _spread(one), one["unit"]) for one in result.rows),
            figures=(2, 3)),
        f"<p>{html.escape(_measured_on({name: result})[0])}</p>",
    ]  # fmt: skip
    return "\n".join(part for part in parts if part)


def _taken(result: Result) -> str:
    minutes = f", {result.taken['seconds'] / 60:.1f} minutes" if "seconds" in result.taken else ""
    return f"{result.repeats} round{'s' * (result.repeats != 1)}{minutes}."


def _goals(goals: list[dict]) -> str:
    if not goals:
        return ""
    rows = "".join(
        f'<tr><td class="{"good" if one["held"] else "bad"}">{"✔ held" if one["held"] else "✘ missed"}</td>'
        f'<td>{html.escape(one["goal"])}</td>'
        f'<td class="figure">{figure(one["measured"])} {html.escape(one["unit"])}</td>'
        f'<td class="figure">{_bound(one)}</td><td>{"" if one["held"] else html.escape(one["why"])}</td></tr>\n'
        for one in goals
    )
    return (
        '<h3>Goals</h3>\n<table tabindex="0"><thead><tr><td></td><th>goal</th><th class="figure">measured</th>'
        f'<th class="figure">bound</th><th>why it is missed</th></tr></thead>\n<tbody>\n{rows}</tbody></table>'
    )


def _table(title: str, headings: tuple[str, ...], rows: Iterable[tuple], *, figures: tuple[int, ...]) -> str:
    kind = [' class="figure"' if at in figures else "" for at in range(len(headings))]
    body = "".join(
        "<tr>" + "".join(f"<td{kind[at]}>{html.escape(str(cell))}</td>" for at, cell in enumerate(cells)) + "</tr>\n"
        for cells in rows
    )
    head = "".join(f"<th{kind[at]}>{heading}</th>" for at, heading in enumerate(headings))
    return (f'<h3>{title}</h3>\n<table tabindex="0"><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>'
            if body else "")  # fmt: skip


def _times(one: dict) -> str:
    return f"{figure(one['median'])}{_between(one)}"


def _between(one: dict) -> str:
    spread = _spread(one)
    return f" ({spread})" if spread else ""


def _spread(one: dict) -> str:
    """Returns the lowest and the highest figure; nothing of one round, which has no spread."""
    return f"{figure(one['low'])} to {figure(one['high'])}" if one["low"] < one["high"] else ""


def _bound(goal: dict) -> str:
    word, bound = ("at least", goal["at_least"]) if "at_least" in goal else ("at most", goal["at_most"])
    return f"{word} {figure(bound)}"
