import base64
import hashlib
import html
import io
import json
import os
import re
import shutil

import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from helpers import artifacts, claims, outcomes, rehearsal, report, runner
from helpers.outcomes import FAILED, RAN, SKIPPED, Outcome

ADDRESS = re.compile(r"https?://[^\s\"'<>)]+")

SECTIONS = "## Momentum?\n\nThe ravine.\n\n```\n# no heading\n```\n\n## Don't & do\n\nThe valley."


def picture() -> str:
    return base64.b64encode(rehearsal.encode(np.full((8, 8, 3), (255, 0, 0), np.uint8))).decode()


@pytest.fixture
def content(make):
    figure = make.code("plot()", "figure")
    alt = 'A "red" square <8 x 8>'
    figure.outputs = [
        nbformat.v4.new_output(
            "display_data", {"image/png": picture(), "text/plain": "Figure"}, metadata={"image/png": {"alt": alt}}
        ),
        nbformat.v4.new_output("stream", name="stdout", text="a < b & c\n"),
    ]
    aligned = r"\begin{aligned} a &= b \\ c &= d \end{aligned}"
    text = "\n\n".join(["## Why $x^2$?", r"See [the next](02_train.ipynb#How) & $$\frac{1}{n}$$", aligned])
    return make.tiny("01_data", make.markdown(text, "text"), figure)


def test_page_asks_for_nothing_from_elsewhere(content):
    page = report.page(content, "Title")
    assert set(ADDRESS.findall(page)) == {"http://www.w3.org/1998/Math/MathML"}  # a name, not a place
    assert "<script" not in page
    assert "default-src 'none'" in page


def test_pictures_have_their_alt_text(content):
    page = report.page(content, "Title")
    (tag,) = re.findall(r"<img[^>]*>", page)
    assert 'src="data:image/png;base64,' in tag
    assert "A &quot;red&quot; square &lt;8 x 8&gt;" in tag or "'A \"red\" square &lt;8 x 8&gt;'" in tag


def test_a_widget_shows_its_static_picture(content):
    content.cells[-1].outputs[0].data["application/vnd.jupyter.widget-view+json"] = {"model_id": "0"}
    page = report.page(content, "Title")
    assert len(re.findall(r"<img[^>]*data:image/png", page)) == 1
    assert "<script" not in page


def test_formulas_become_mathml_in_text_and_headings(content):
    page = report.page(content, "Title")
    assert re.search(r'<h2 id="Why-x2\?">Why <math[^>]*>.*<msup>', page)
    assert "<mfrac>" in page
    assert "<mtable" in page
    assert "$" not in page.split("<main>")[1]


def test_a_formula_that_cannot_be_converted_can_still_be_read():
    assert report.mathml(r"\nosuch{a<b}", block=False) == r"<code>\nosuch{a&lt;b}</code>"


def test_arg_max_is_converted():
    assert "<code>" not in report.mathml(r"\arg\max_i p_i", block=True)


def test_an_upright_word_is_one_word_to_a_screen_reader():
    assert "<mi>softmax</mi>" in report.mathml(r"\mathrm{softmax}(x)", block=False)


def test_links_between_notebooks_become_links_between_pages(content):
    assert 'href="../02_train/02_train.html#How"' in report.page(content, "Title")


def test_text_of_outputs_is_text(content):
    assert "a &lt; b &amp; c" in report.page(content, "Title")


def test_a_stream_that_came_in_pieces_is_one(make):
    fit = make.code("fit()", "fit")
    fit.outputs = [nbformat.v4.new_output("stream", name="stderr", text=f"epoch {i}\n") for i in (1, 2)]
    body = report.page(make.tiny("01_data", fit), "Title").split("<main>")[1]
    assert body.count("output_stderr") == 1
    assert "epoch 1\nepoch 2" in body


def test_progress_of_a_run_is_folded_away(make):
    fit = make.code("fit()", "fit")
    fit.outputs = [nbformat.v4.new_output("stream", name=name, text=f"on {name}") for name in ("stderr", "stdout")]
    soup = BeautifulSoup(report.page(make.tiny("01_data", fit), "Title"), "html.parser")
    folded = soup.select_one("details.messages")
    assert not folded.has_attr("open")
    assert folded.get_text(" ", strip=True) == "messages on stderr"
    assert soup.find(string=re.compile("on stdout")).find_parent("details") is None


def test_outputs_do_not_restyle_the_page(make):
    listing = make.code("Code(source)", "listing")
    styled = "<style>.output_html { background: white }</style><style scoped>th { color: red }</style><p>kept</p>"
    listing.outputs = [nbformat.v4.new_output("display_data", {"text/html": styled})]
    body = report.page(make.tiny("01_data", listing), "Title").split("<main>")[1]
    assert "<p>kept</p>" in body
    assert "<style" not in body


def test_title_is_text(content):
    assert "<title>a &lt;b&gt;</title>" in report.page(content, "a <b>")


def test_index_lists_how_each_notebook_went_and_every_claim(monkeypatch):
    artifacts.begin("01_data", {})
    claims.check("More <than> one", 0.5, at_least=1, unit="pictures")
    claims.check("It is so", True)
    went = [
        Outcome("01_data", "1 · Data <b>", RAN, 3, 41.0, 2_000_000_000, 1, 2),
        Outcome("02_train", "2 · Train", FAILED, 3, 5.0, 9_000_000, 0, 0, "cell 2 raised <Error>"),
        Outcome("03_cnn", "3 · CNN", SKIPPED, error="it needs 02_train"),
    ]
    page = report.index(went)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.split("</style>")[1]))
    assert "1 · Data &lt;b&gt; ran, but a claim failed 41 s 2.0 GB 1 of 2" in text
    assert "2 · Train failed: cell 2 raised &lt;Error&gt; 5 s 9 MB –" in text
    assert "3 · CNN skipped: it needs 02_train – – –" in text
    assert "Claims What the notebooks say, as sentences" in text
    assert "✘ More &lt;than&gt; one 0.5 pictures ≥ 1" in text
    assert "✔ It is so true true" in text
    assert "href" not in page  # no page has been rendered


def test_rendering_takes_what_ran_and_the_committed_notebook_where_nothing_did(project, make):
    make.write_notebooks(project, n01_data=make.tiny("01_data"), n02_train=make.tiny("02_train"))
    ran = make.tiny("01_data", make.markdown("as it ran", "ran"))
    folder = artifacts.outputs() / "01_data"
    folder.mkdir(parents=True)
    nbformat.write(ran, folder / "01_data.ipynb")
    index = report.render_all().read_text()
    assert re.findall(r'<td class="(good|bad|)">([^<✔✘]+)', index) == [
        ("good", "ran"), ("", "not run here: the committed notebook")
    ]  # fmt: skip
    first, second = (artifacts.outputs() / stem / f"{stem}.html" for stem in ("01_data", "02_train"))
    assert "as it ran" in first.read_text()
    assert set(re.findall(r'href="([^"#]+)', index)) == {"01_data/01_data.html", "02_train/02_train.html"}
    assert re.findall(r'href="(\.\./[^"]+)"', first.read_text()) == ["../index.html", "../02_train/02_train.html"]
    assert re.findall(r'href="(\.\./[^"]+)"', second.read_text()) == ["../index.html", "../01_data/01_data.html"]


def test_what_a_run_found_in_words_begins_the_index_and_ends_the_run(make, capsys):
    cell = make.code("print(...)", "in-words")
    cell.outputs = [nbformat.v4.new_output("stream", text="9 of 10 are <right>.\nHardest is cat.\n")]
    for stem, content in (("01_data", make.tiny("01_data", cell)), ("02_train", make.tiny("02_train"))):
        (artifacts.outputs() / stem).mkdir(parents=True)
        nbformat.write(content, artifacts.outputs() / stem / f"{stem}.ipynb")
    went = [Outcome("01_data", "1 · Data: which?", RAN), Outcome("02_train", "2 · Train: how?", RAN)]
    page = report.index(went)
    assert '<a href="01_data/01_data.html">1 · Data</a>: 9 of 10 are &lt;right&gt;. Hardest is cat.</li>' in page
    assert page.index("In words") < page.index('<ul class="cards">')
    assert "In words" not in report.index(went[1:])
    runner._print_summary(went, artifacts.outputs() / "index.html")
    said = capsys.readouterr().out
    assert "1 · Data\n9 of 10 are <right>.\nHardest is cat.\n" in said
    assert "Ask it" not in said


def test_a_run_ends_with_how_to_ask_the_model_that_it_made_last(capsys):
    went = [Outcome("01_data", "1 · Data: which?", RAN)]
    served, trained = (artifacts.outputs() / path for path in ("registry/classifier", "03_cnn_training/model.keras"))
    artifacts.write_json(served / "promoted", {"version": 1})
    trained.parent.mkdir()
    trained.touch()
    for hours, model in ((-1, served), (1, trained)):  # by which 03's is older or newer than what 06 has promoted
        at = (served / "promoted").stat().st_mtime + 3600 * hours
        os.utime(trained, (at, at))
        runner._print_summary(went, artifacts.outputs() / "index.html")
        assert f"Ask it: python -m helpers predict --model {model} photo.jpg" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["null", "[{}]", '{"stem": "01_data", "title": 5, "status": "ran"}'])
def test_a_damaged_record_of_a_run_is_none(project, make, text):
    make.write_notebooks(project, n01_data=make.tiny("01_data"))
    folder = artifacts.outputs() / "01_data"
    folder.mkdir(parents=True)
    for name in ("run.json", "claims.json"):
        (folder / name).write_text(text)
    (folder / "01_data.ipynb").write_text(nbformat.writes(make.tiny("01_data")))
    assert outcomes.read("01_data") is None
    assert "1 · Data: does it run?" in report.render_all().read_text()


def test_code_folds_and_in_a_story_it_is_folded(content):
    shown, story = (re.findall(r"<details[^>]*class=\"input\"[^>]*>", report.page(content, "Title", story=story))
                    for story in (False, True))  # fmt: skip
    assert len(shown) == len(story) == 3
    assert all("open" in tag for tag in shown)
    assert not any("open" in tag for tag in story)


def test_the_contents_lead_to_every_section(content):
    page = report.page(content, "Title")
    entries = re.search(r'<details class="contents">.*?</details>', page, re.DOTALL)[0]
    for anchor in re.findall(r'href="#([^"]+)"', entries):
        assert f'id="{anchor}"' in page
    assert re.findall(r"<a [^>]*>(\w+)", entries) == ["Why"]


@pytest.fixture
def rendered(project, make, content):
    """The index of two notebooks, one with a figure."""
    make.write_notebooks(project, n01_data=content, n02_train=make.tiny("02_train", make.markdown(SECTIONS, "m")))
    return report.render_all()


def test_the_index_shows_the_largest_figure_of_each_notebook_with_its_alt_text(rendered):
    (tag,) = re.findall(r"<img[^>]*>", rendered.read_text())
    assert 'alt="A &quot;red&quot; square &lt;8 x 8&gt;"' in tag
    with Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", tag)[1]))) as thumbnail:
        red, green, blue = thumbnail.getpixel((4, 4))
    assert red > 200 > 60 > max(green, blue)


def test_the_search_knows_every_section_and_where_it_is(rendered):
    text = rendered.read_text()
    sections = json.loads(re.search(r'id="sections">(.*?)</script>', text, re.DOTALL)[1])
    where = {section["title"]: section["page"] for section in sections}
    assert where["02 › Momentum?"] == "02_train/02_train.html#Momentum?"
    assert where["02 › Don't & do"] == "02_train/02_train.html#Don't-&-do"
    assert "02 › no heading" not in where
    texts = {section["title"]: section["text"] for section in sections}
    assert "the ravine" in texts["02 › Momentum?"]
    assert "the valley" in texts["02 › Don't & do"]
    assert "see [the next]" in next(section["text"] for section in sections if "Why" in section["title"])
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text  # else a browser would not run it


@pytest.fixture
def page():
    """A page of a browser that complains of nothing: what the content policy refuses is said on its console."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page, said = chromium.new_page(), []
        page.on("console", lambda message: said.append(message.text))
        yield page
        chromium.close()
    assert said == []


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_a_word_that_is_typed_finds_its_section(rendered, page):
    page.goto(rendered.as_uri())
    page.get_by_label("Find in all notebooks").fill("momentum")
    links = page.locator("#found a")
    assert links.all_inner_texts() == ["02 › Momentum?"]
    links.first.click()
    page.wait_for_selector("h2:has-text('Momentum?')")
    assert page.locator("details.input[open]").count() > 0
    page.goto(rendered.as_uri())
    page.get_by_label("Find in all notebooks").fill("valley")
    links.first.click()
    assert page.locator(":target").inner_text() == "Don't & do"


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_the_pages_of_all_notebooks_pass_an_accessibility_check_in_light_and_dark(page):
    from axe_playwright_python.sync_playwright import Axe

    paths = [report.render_all(), *sorted(artifacts.outputs().glob("*/*.html"))]
    assert len(paths) > 5
    for path in paths:
        page.goto(path.as_uri())
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            found = Axe().run(page)
            assert found.violations_count == 0, f"{path.name}, {scheme}: {found.generate_report()}"


@pytest.mark.slow
def test_pages_weigh_less_than_three_megabytes_and_their_links_lead_somewhere():
    index = report.render_all()
    for path in (index, *index.parent.glob("*/*.html")):
        assert path.stat().st_size < 3_000_000
        for link in re.findall(r'href="([^"]+)"', path.read_text(encoding="utf-8")):
            if "://" not in link:
                file, _, anchor = html.unescape(link).partition("#")
                target = (path.parent / file).resolve() if file else path
                assert target.exists(), f"{path.name} links to {link}"
                if anchor:
                    assert f'id="{html.escape(anchor)}"' in target.read_text(encoding="utf-8"), link
