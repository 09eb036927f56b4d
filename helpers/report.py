"""Executed notebooks as HTML pages that need neither a network nor scripts, and an index of them."""

import html
import re
from pathlib import Path

from helpers import artifacts, claims, outcomes
from helpers.artifacts import size
from helpers.outcomes import RAN, SKIPPED, Outcome
from helpers.progress import duration

# Nothing is fetched and nothing runs: a page can be mailed, and opened on a machine without a network.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --soft: #f5f6f8; --line: #d8dde3; --link: #0b5cad;
  --good: #1a7f37; --bad: #c1121f; }
@media (prefers-color-scheme: dark) { :root { --ink: #dde3ea; --paper: #15181c; --soft: #1f242a; --line: #39414b;
  --link: #79b8ff; --good: #56d364; --bad: #ff7b72; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; }
a { color: var(--link); }
h1, h2, h3 { line-height: 1.25; margin: 1.6em 0 0.5em; }
h1 { margin-top: 0.4em; }
pre, code { font: 0.86rem/1.45 ui-monospace, "DejaVu Sans Mono", monospace; }
pre { margin: 0; padding: 0.6rem 0.8rem; overflow-x: auto; }
.input_area, .text_cell_render pre { background: var(--soft); border: 1px solid var(--line); border-radius: 6px; }
.text_cell_render :not(pre) > code { background: var(--soft); padding: 0.1em 0.3em; border-radius: 4px; }
.input { margin-top: 0.8rem; }
.output_area { margin: 0.3rem 0 0.3rem 0.8rem; overflow-x: auto; }
.output_stderr pre { opacity: 0.7; }
.output_error pre { border-left: 4px solid var(--bad); }
.prompt { display: none; }
img { max-width: 100%; height: auto; }
.output_png img, .output_jpeg img { background: #fff; border-radius: 6px; padding: 4px; }
table { border: 0; border-collapse: collapse; font-size: 0.9rem; margin: 0.6rem 0; display: block; overflow-x: auto; }
tr { text-align: left !important; }
th, td { border: 0; border-bottom: 1px solid var(--line); padding: 0.3rem 0.7rem; text-align: left;
  vertical-align: top; }
td.figure, th.figure { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
math[display="block"] { margin: 0.8rem 0; overflow-x: auto; }
.good { color: var(--good); } .bad { color: var(--bad); }
nav, footer { font-size: 0.9rem; margin-bottom: 1rem; }
"""


def page(content: "nbformat.NotebookNode", title: str) -> str:  # noqa: F821
    """Returns a notebook as one HTML page: pictures inside with their alt text, formulas as MathML."""
    body, _ = _exporter().from_notebook_node(content)
    # Links between notebooks become links between their pages.
    body = re.sub(r'href="(?:\./)?(\d\d_\w+)\.ipynb(#[^"]*)?"', r'href="../\1/\1.html\2"', body)
    # pandas brings a style with each table, IPython one with each listing: for a white page alone.
    body = re.sub(r"<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    return _document(
        title, f'<nav><a href="../index.html">All notebooks</a></nav>\n<main>\n{body}\n</main>', _highlight_style()
    )


def index(went: list[Outcome]) -> str:
    """Returns the page that lists the notebooks of a folder and every claim with its figure."""
    rows = "".join(_row(outcome) for outcome in went)
    tables = "".join(_claims(outcome.stem, outcome.title) for outcome in went if outcome.status != SKIPPED)
    return _document(
        "Workbook",
        '<h1>Workbook</h1>\n<table><thead><tr><th>notebook</th><th>went</th><th class="figure">time</th>'
        '<th class="figure">memory</th><th class="figure">claims held</th></tr></thead>\n'
        f"<tbody>\n{rows}</tbody></table>\n{tables}",
    )


def write_index(went: list[Outcome]) -> Path:
    """Writes `index.html` into `artifacts.outputs()` and returns its path."""
    path = artifacts.outputs() / "index.html"
    with artifacts.writing(path) as partial:
        partial.write_text(index(went), encoding="utf-8")
    return path


def render_all() -> Path:
    """Renders what `artifacts.outputs()` holds anew, or the committed notebooks where it holds none.

    Returns the path of the index.
    """
    import nbformat

    from helpers import lock, notebooks

    went = []
    with lock.held(artifacts.outputs()):
        for notebook in notebooks.find().values():
            folder = artifacts.outputs() / notebook.stem
            executed = folder / f"{notebook.stem}.ipynb"
            content = nbformat.read(executed if executed.exists() else notebook.path, as_version=4)
            with artifacts.writing(folder / f"{notebook.stem}.html") as partial:
                partial.write_text(page(content, notebook.title), encoding="utf-8")
            went.append(outcomes.read(notebook.stem) or Outcome(notebook.stem, notebook.title, RAN))
        return write_index(went)


def mathml(formula: str, *, block: bool) -> str:
    """Returns a LaTeX formula as MathML, which browsers draw by themselves, or else as code."""
    latex = formula.strip()
    for known, same in {"{aligned}": "{align*}", r"\arg": r"\operatorname{arg}"}.items():
        latex = latex.replace(known, same)
    try:
        from latex2mathml.converter import convert

        converted = convert(latex, display="block" if block else "inline")
    except Exception:  # it raises many kinds for a formula that is not one
        converted = ""
    if not converted or re.search(r"<m[io]>\\", converted):  # a command that the converter left as it was
        return f"<code>{html.escape(formula.strip())}</code>"
    return converted


def _exporter() -> "nbconvert.HTMLExporter":  # noqa: F821
    import jinja2
    import nbconvert
    import traitlets.config
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def heading(self, text: str, level: int, **attributes) -> str:
            # Named as JupyterLab names them; nbconvert's own way loses a formula in a heading.
            name = html.escape(re.sub(r"<[^>]+>", "", text).replace(" ", "-"))
            return f'<h{level} id="{name}">{text}</h{level}>\n'

        def block_math(self, body: str) -> str:
            return mathml(body, block=True)

        def inline_math(self, body: str) -> str:
            return mathml(body, block=False)

        def latex_environment(self, name: str, body: str) -> str:
            return mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", block=True)

    class Exporter(nbconvert.HTMLExporter):
        @jinja2.pass_context
        def markdown2html(self, context, source):
            attachments = context.get("cell", {}).get("attachments", {})
            return MarkdownWithMath(renderer=Renderer(escape=False, attachments=attachments)).render(source)

    # Widgets need scripts: they show their static picture. A stream comes in as many pieces as timing makes.
    kinds = ["text/html", "text/markdown", "image/png", "image/jpeg", "text/latex", "text/plain"]
    return Exporter(
        template_name="basic",
        preprocessors=["nbconvert.preprocessors.CoalesceStreamsPreprocessor"],
        config=traitlets.config.Config({"NbConvertBase": {"display_data_priority": kinds}}),
    )


def _document(title: str, body: str, style: str = "") -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _highlight_style() -> str:
    from pygments.formatters import HtmlFormatter

    light = HtmlFormatter(style="default", nobackground=True).get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark", nobackground=True).get_style_defs(".highlight")
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


def _row(outcome: Outcome) -> str:
    name = html.escape(outcome.title)
    if (artifacts.outputs() / outcome.stem / f"{outcome.stem}.html").exists():
        name = f'<a href="{outcome.stem}/{outcome.stem}.html">{name}</a>'
    good = outcome.status == RAN and outcome.held == outcome.claimed
    went = outcome.status + (f": {outcome.error}" if outcome.error else "")
    if outcome.status == RAN and not good:
        went += ", but a claim failed"
    claimed = f"{outcome.held} of {outcome.claimed}" if outcome.claimed else "–"
    measured = outcome.seconds > 0
    return (
        f'<tr><td>{name}</td><td class="{"good" if good else "bad"}">{html.escape(went)}</td>'
        f'<td class="figure">{duration(outcome.seconds) if measured else "–"}</td>'
        f'<td class="figure">{size(outcome.peak_bytes) if measured else "–"}</td>'
        f'<td class="figure">{claimed}</td></tr>\n'
    )


def _claims(stem: str, title: str) -> str:
    table = claims.table(stem)
    if table.empty:
        return ""
    rows = "".join(
        f'<tr><td class="{"good" if row.held == "✔" else "bad"}">{row.held}</td><td>{html.escape(row.claim)}</td>'
        f'<td class="figure">{html.escape(f"{row.measured} {row.unit}".strip())}</td>'
        f'<td class="figure">{html.escape(row.expected)}</td></tr>\n'
        for row in table.itertuples()
    )
    return (
        f"<h2>{html.escape(title)}</h2>\n<table><thead><tr><th></th><th>claim</th>"
        f'<th class="figure">measured</th><th class="figure">expected</th></tr></thead>\n'
        f"<tbody>\n{rows}</tbody></table>\n"
    )
