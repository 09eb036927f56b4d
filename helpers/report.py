"""Executed notebooks as HTML pages that need neither a network nor scripts, and an index of them with a search."""

import base64
import hashlib
import html
import io
import itertools
import json
import re
import sys
import urllib.parse
from pathlib import Path

from helpers import artifacts, claims, outcomes, stamp
from helpers.artifacts import size
from helpers.outcomes import COMMITTED, RAN, SKIPPED, Outcome
from helpers.progress import duration

# Nothing is fetched, and but for the index's search nothing runs: a page can be mailed, and opened without a network.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_NAVIGATION = re.compile(r'<nav class="pages"[^>]*>.*?</nav>', re.DOTALL)
_SEARCH = """
const sections = JSON.parse(document.getElementById("sections").textContent);
const box = document.getElementById("search"), found = document.getElementById("found");
box.parentElement.hidden = false;
box.addEventListener("input", () => {
  const words = box.value.toLowerCase().split(/\\s+/).filter(Boolean);
  const hits = words.length ? sections.filter(one => words.every(word => one.text.includes(word))) : [];
  found.replaceChildren(...hits.slice(0, 30).map(one => {
    const item = document.createElement("li"), link = document.createElement("a");
    link.href = one.page; link.textContent = one.title; item.append(link); return item;
  }));
  document.getElementById("count").textContent = words.length ? hits.length + " found" : "";
});
"""

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --soft: #f8f9fb; --line: #d8dde3; --link: #0b5cad;
  --good: #1a7f37; --bad: #c1121f; }
@media (prefers-color-scheme: dark) { :root { --ink: #dde3ea; --paper: #15181c; --soft: #1f242a; --line: #39414b;
  --link: #79b8ff; --good: #56d364; --bad: #ff7b72; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; }
a { color: var(--link); overflow-wrap: anywhere; }
h1, h2, h3 { line-height: 1.25; margin: 1.6em 0 0.5em; }
h1 { margin-top: 0.4em; }
pre, code { font: 0.86rem/1.45 ui-monospace, "DejaVu Sans Mono", monospace; }
pre { margin: 0; padding: 0.6rem 0.8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.input_area, .text_cell_render pre { background: var(--soft); border: 1px solid var(--line); border-radius: 6px; }
.text_cell_render :not(pre) > code { background: var(--soft); padding: 0.1em 0.3em; border-radius: 4px; }
.input { margin-top: 0.8rem; }
.output_area { margin: 0.3rem 0 0.3rem 0.8rem; overflow-x: auto; }
.output_error pre { border-left: 4px solid var(--bad); }
.prompt { display: none; }
img { max-width: 100%; height: auto; }
@media (max-width: 40rem) { .output_png img { max-width: none; width: 40rem; } }  /* or their letters are too small */
.output_png img, .output_jpeg img { background: #fff; border-radius: 6px; padding: 4px; }
table { border: 0; border-collapse: collapse; font-size: 0.9rem; margin: 0.6rem 0; display: block; overflow-x: auto; }
tr { text-align: left !important; }
th, td { border: 0; border-bottom: 1px solid var(--line); padding: 0.3rem 0.7rem; text-align: left;
  vertical-align: top; }
td.figure, th.figure { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
@media (max-width: 40rem) { th, td { padding: 0.3rem 0.4rem; } td.figure { white-space: normal; }
  td:first-child:has(a), td:first-child:not(:has(a)) + td:not(.figure) { min-width: min(9rem, 40vw); }
  td a { overflow-wrap: break-word; } }  /* or a sentence gets a column of one word, and words are broken */
math[display="block"] { margin: 0.4rem 0; padding-block: 0.4rem; overflow: auto hidden; }
details.input > summary, details.messages > summary { cursor: pointer; font-size: 0.8rem; opacity: 0.75; }
@media print { table { font-size: 0.7rem; } th, td { padding: 0.2rem 0.25rem; } td { overflow-wrap: anywhere; }
  .output_area td { min-width: 5.2em; }  /* or a number is broken */
  td.figure, th.figure { white-space: normal; } .cards { display: block; } details.messages { display: none; }
  h1, h2, h3, summary { break-after: avoid; } tr, img { break-inside: avoid; } }
details.contents { margin: 0 0 1rem; } details.contents ol { margin: 0.4rem 0; padding-left: 1.4rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; padding: 0; }
.cards li { list-style: none; border: 1px solid var(--line); border-radius: 8px; padding: 0.8rem; }
.cards img { background: #fff; border-radius: 6px; height: 9rem; width: 100%; object-fit: contain; }
.cards p { margin: 0.4rem 0 0; font-size: 0.9rem; }
#search { font: inherit; width: 100%; padding: 0.45rem 0.6rem; border: 1px solid var(--line); border-radius: 6px;
  background: var(--paper); color: var(--ink); }
.good { color: var(--good); } .bad { color: var(--bad); }
nav, footer { font-size: 0.9rem; margin-bottom: 1rem; }
"""


def problem() -> str | None:
    """Returns what keeps pages from being made here, and how to mend it; `None` if nothing does."""
    try:
        import nbformat

        page(nbformat.v4.new_notebook(), "")
    except Exception as error:  # templates that are not where nbconvert looks, a package that is missing
        reason = " ".join(str(error).split()).rstrip(":.") or type(error).__name__
        return (
            f"nbconvert cannot make a page here ({reason}): install it anew into {sys.prefix}, or name the folder "
            "share/jupyter that has its templates in JUPYTER_PATH."
        )
    return None


def page(content: "nbformat.NotebookNode", title: str, *, story: bool = False) -> str:  # noqa: F821
    """Returns a notebook as one HTML page: pictures inside with their alt text, formulas as MathML, code that folds.

    Args:
        content: The executed notebook.
        title: Of the page.
        story: Whether the code is folded when the page opens.
    """
    from bs4 import BeautifulSoup

    body, _ = _exporter().from_notebook_node(content)
    # Links between notebooks become links between their pages.
    body = re.sub(r'href="(?:\./)?(\d\d_\w+)\.ipynb(#[^"]*)?"', r'href="../\1/\1.html\2"', body)
    # pandas brings a style with each table, IPython one with each listing: for a white page alone.
    body = re.sub(r"<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    soup = BeautifulSoup(body, "html.parser")
    for cell in soup.select("div.code_cell > div.input"):
        summary = soup.new_tag("summary")
        summary.string = "code"
        cell.name = "details"
        cell.insert(0, summary)
        if not story:
            cell["open"] = ""
    for messages in soup.select("div.output_stderr"):  # how far it was, and how long that took then
        messages.wrap(soup.new_tag("details", attrs={"class": "messages"}))
        summary = soup.new_tag("summary")
        summary.string = "messages"
        messages.insert_before(summary)
    for wide in soup.select("math[display=block], table"):  # what may be scrolled has to be reached by the keyboard
        wide["tabindex"] = "0"
    for corner in soup.find_all("th"):
        if not corner.get_text(strip=True):
            corner.name = "td"  # it heads nothing
    entries = "".join(
        f'<li><a href="#{html.escape(heading["id"])}">{heading.decode_contents()}</a></li>\n'
        for heading in soup.find_all("h2", id=True)
    )
    checked = html.escape(stamp.sentence(content))
    footer = f"\n<footer><p>{checked}</p></footer>" if checked else ""
    contents = f'<details class="contents"><summary>Contents</summary>\n<ol>\n{entries}</ol></details>\n'
    return document(
        title,
        f"{_navigation(None, None)}\n<main>\n{contents if entries else ''}{soup}\n</main>{footer}",
        _highlight_style(),
    )


def index(went: list[Outcome]) -> str:
    """Returns the page that shows the notebooks of a folder, finds words in them, and lists every claim."""
    cards = "".join(_card(outcome) for outcome in went if outcome.status != SKIPPED)
    rows = "".join(_row(outcome) for outcome in went)
    tables = "".join(_claims(outcome) for outcome in went if outcome.status != SKIPPED)
    sections = [section for outcome in went if _page_of(outcome.stem).exists() for section in _sections(outcome.stem)]
    return document(
        "Workbook",
        f'<main>\n<h1>Workbook</h1>\n{_search(sections) if sections else ""}{_words(went)}'
        f'<ul class="cards">\n{cards}</ul>\n'
        '<h2>How it went</h2>\n<table tabindex="0"><thead><tr><th>notebook</th><th>went</th>'
        '<th class="figure">time</th><th class="figure">memory</th><th class="figure">claims held</th></tr></thead>\n'
        f"<tbody>\n{rows}</tbody></table>\n{_CLAIMS if tables else ''}{tables}</main>\n",
        script=_SEARCH if sections else "",
    )


def write_index(went: list[Outcome]) -> Path:
    """Writes `index.html` into `artifacts.outputs()`, links the pages there with each other, and returns its path."""
    stems = [outcome.stem for outcome in went if _page_of(outcome.stem).exists()]
    titles = {outcome.stem: outcome.title for outcome in went}
    for before, stem, after in zip([None, *stems[:-1]], stems, [*stems[1:], None], strict=True):
        links = (None if one is None else (one, titles[one]) for one in (before, after))
        text = _page_of(stem).read_text(encoding="utf-8")
        linked = _NAVIGATION.sub(lambda _, links=tuple(links): _navigation(*links), text, count=1)
        if linked != text:
            with artifacts.writing(_page_of(stem)) as partial:
                partial.write_text(linked, encoding="utf-8")
    path = artifacts.outputs() / "index.html"
    with artifacts.writing(path) as partial:
        partial.write_text(index(went), encoding="utf-8")
    return path


def render_all(*, story: bool = False) -> Path:
    """Renders what `artifacts.outputs()` holds anew, or the committed notebooks where it holds none.

    Args:
        story: Whether the code is folded when a page opens.

    Returns:
        The path of the index.
    """
    from helpers import lock, notebooks

    went = []
    with lock.held(artifacts.outputs()):
        for notebook in notebooks.find().values():
            folder = artifacts.outputs() / notebook.stem
            content = notebooks.load(_executed(notebook.stem))
            with artifacts.writing(folder / f"{notebook.stem}.html") as partial:
                partial.write_text(page(content, notebook.title, story=story), encoding="utf-8")
            status = RAN if (folder / f"{notebook.stem}.ipynb").exists() else COMMITTED
            went.append(outcomes.read(notebook.stem) or Outcome(notebook.stem, notebook.title, status))
        return write_index(went)


def _page_of(stem: str) -> Path:
    return artifacts.outputs() / stem / f"{stem}.html"


def _executed(stem: str) -> Path:
    """Returns the notebook of the last run, or else the committed one."""
    ran = artifacts.outputs() / stem / f"{stem}.ipynb"
    return ran if ran.exists() else artifacts.root() / "notebooks" / f"{stem}.ipynb"


def _navigation(before: tuple[str, str] | None, after: tuple[str, str] | None) -> str:
    links = ['<a href="../index.html">All notebooks</a>']
    for arrow, other in (("← ", before), ("→ ", after)):
        if other is not None:
            stem, title = other
            links.append(f'{arrow}<a href="../{stem}/{stem}.html">{html.escape(title.split(":")[0])}</a>')
    return f'<nav class="pages" aria-label="Notebooks">{" · ".join(links)}</nav>'


def _card(outcome: Outcome) -> str:
    name, _, question = outcome.title.partition(": ")
    picture = _thumbnail(outcome.stem)
    facts = [html.escape(question[:1].upper() + question[1:])] if question else []
    if outcome.seconds > 0:
        facts.append(duration(outcome.seconds) + (f", {outcome.held} of {outcome.claimed} claims held"
                                                  if outcome.claimed else ""))  # fmt: skip
    heading = f"<p><strong>{_linked(outcome, name)}</strong></p>"
    return f"<li>{picture}{heading}{''.join(f'<p>{fact}</p>' for fact in facts)}</li>\n"


def in_words(stem: str) -> str:
    """Returns what a notebook's last run says in words of its pictures and its model; nothing if it says nothing."""
    outputs = (output for cell in _cells(stem) if cell.get("id") == "in-words" for output in cell.get("outputs", []))
    return "".join("".join(output["text"]) for output in outputs if output.get("name") == "stdout").strip()


def _words(went: list[Outcome]) -> str:
    told = [(outcome, in_words(outcome.stem)) for outcome in went if outcome.status == RAN]
    rows = "".join(
        f'<li><a href="{outcome.stem}/{outcome.stem}.html">{html.escape(outcome.title.split(":")[0])}</a>: '
        f"{html.escape(text).replace(chr(10), ' ')}</li>\n"
        for outcome, text in told
        if text
    )
    return f"<h2>In words</h2>\n<ul>\n{rows}</ul>\n" if rows else ""


def _thumbnail(stem: str) -> str:
    """Returns the largest figure of a notebook as a small picture; nothing if it has none."""
    from PIL import Image

    outputs = (output for cell in _cells(stem) for output in cell.get("outputs", []))
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    if not figures:
        return ""
    largest = max(figures, key=lambda output: len(output["data"]["image/png"]))
    alt = largest.get("metadata", {}).get("image/png", {}).get("alt", "")
    file = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(largest["data"]["image/png"]))) as picture:
        small = picture.convert("RGB")
    small.thumbnail((560, 300))
    small.save(file, "JPEG", quality=80)
    source = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
    return f'<img src="{source}" alt="{html.escape(alt)}">'


def _sections(stem: str) -> list[dict[str, str]]:
    """Returns the sections of a notebook: a title, where it is, and the words of its text in lower case."""
    found: list[dict[str, str]] = []
    for cell in _cells(stem):
        if cell["cell_type"] != "markdown":
            continue
        source = "".join(cell["source"])
        plain = re.sub(r"^```.*?^```", lambda code: " " * len(code[0]), source, flags=re.DOTALL | re.MULTILINE)
        starts = [heading.start() for heading in re.finditer(r"^#{1,3} ", plain, re.MULTILINE)]
        for start, end in itertools.pairwise([0, *starts, len(source)]):
            part = source[start:end]
            heading = re.match(r"#{1,3} (.+)", part) if start in starts else None
            if heading or not found:
                title = re.sub(r"[*`$]", "", heading[1] if heading else stem)
                anchor = re.sub(r"[*`]", "", heading[1]).replace(" ", "-") if heading else ""
                title = title if not found else f"{stem[:2]} › {title}"
                anchor = urllib.parse.quote(anchor, safe="!$&'()*+,;=:@/?")  # what RFC 3986 leaves behind a #
                found.append({"title": title, "page": f"{stem}/{stem}.html#{anchor}", "text": ""})
            found[-1]["text"] += " " + re.sub(r"[*`$#\s]+", " ", part).lower()
    return found


def _cells(stem: str) -> list[dict]:
    try:
        return json.loads(_executed(stem).read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError, TypeError):  # a run that failed before there was one
        return []


def _search(sections: list[dict[str, str]]) -> str:
    data = json.dumps(sections, ensure_ascii=False).replace("</", "<\\/")
    return (
        '<p hidden><label for="search">Find in all notebooks</label> <input id="search" type="search"></p>\n'
        '<p id="count" role="status"></p>\n<ul id="found"></ul>\n'
        f'<script type="application/json" id="sections">{data}</script>\n'
    )


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
    letters = r"(?:<mi mathvariant=\"normal\">\w</mi>){2,}"  # of an upright word, which would be read one by one
    return re.sub(letters, lambda run: f"<mi>{re.sub('<[^>]+>', '', run[0])}</mi>", converted)


def _exporter() -> "nbconvert.HTMLExporter":  # noqa: F821
    import jinja2
    import nbconvert
    import traitlets.config
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def heading(self, text: str, level: int, **attributes) -> str:
            # Named as JupyterLab names them; nbconvert's own way loses a formula in a heading.
            name = html.escape(html.unescape(re.sub(r"<[^>]+>", "", text)).replace(" ", "-"))
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


def document(title: str, body: str, style: str = "", script: str = "") -> str:
    """Returns a whole HTML page in the workbook's style, light and dark, that fetches nothing."""
    policy = _POLICY
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy, body = f"{policy}; script-src 'sha256-{digest}'", f"{body}<script>{script}</script>\n"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _highlight_style() -> str:
    from pygments.formatters import HtmlFormatter

    light = HtmlFormatter(style="default", nobackground=True).get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark", nobackground=True).get_style_defs(".highlight")
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


def _row(outcome: Outcome) -> str:
    good = outcome.status == RAN and outcome.held == outcome.claimed
    colour = "good" if good else "" if outcome.status == COMMITTED else "bad"
    went = outcome.status + (f": {outcome.error}" if outcome.error else "")
    if outcome.status == RAN and not good:
        went += ", but a claim failed"
    claimed = f"{outcome.held} of {outcome.claimed}" if outcome.claimed else "–"
    measured = outcome.seconds > 0
    return (
        f'<tr><td>{_linked(outcome, outcome.title)}</td><td class="{colour}">{html.escape(went)}</td>'
        f'<td class="figure">{duration(outcome.seconds) if measured else "–"}</td>'
        f'<td class="figure">{size(outcome.peak_bytes) if measured else "–"}</td>'
        f'<td class="figure">{claimed}</td></tr>\n'
    )


def _linked(outcome: Outcome, name: str) -> str:
    exists = _page_of(outcome.stem).exists()
    return f'<a href="{outcome.stem}/{outcome.stem}.html">{html.escape(name)}</a>' if exists else html.escape(name)


_COLOURS = {"✔": "good", "✘": "bad", "–": ""}  # of a claim that holds, fails or is not judged


_CLAIMS = (
    "<h2>Claims</h2>\n<p>What the notebooks say, as sentences that were judged when they ran: ✔ where what was "
    "measured keeps to the bound, ✘ where it does not, – where the bound is not meant for such data or settings.</p>\n"
)


def _claims(outcome: Outcome) -> str:
    table = claims.table(outcome.stem)
    if table.empty:
        return ""
    rows = "".join(
        f'<tr><td class="{_COLOURS[row.held]}">{row.held}</td><td>{html.escape(row.claim)}</td>'
        f'<td class="figure">{html.escape(f"{row.measured} {row.unit}".strip())}</td>'
        f'<td class="figure">{html.escape(row.expected)}</td></tr>\n'
        for row in table.itertuples()
    )
    return (
        f'<h3>{_linked(outcome, outcome.title)}</h3>\n<table tabindex="0"><thead><tr><td></td><th>claim</th>'
        f'<th class="figure">measured</th><th class="figure">expected</th></tr></thead>\n'
        f"<tbody>\n{rows}</tbody></table>\n"
    )
