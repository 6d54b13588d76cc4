"""The report in a real browser: it loads without a complaint, sorts, filters, opens records, copies, and is legible."""

import base64
import dataclasses
import io
import json
import math
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from benchmarks.report import __main__ as report
from benchmarks.report import commands, drawing, pictures, templates
from benchmarks.tables.scored_records import ScoredRecord, ScoredRecords
from tests.benchmarks.report.browser import CHROMIUM, Browser
from tests.benchmarks.report.pages_by_hand import artifacts, hostile, hostile_artifacts, record, saved

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium (Debian: apt-get install chromium)")

ROWS = "[...document.querySelectorAll('#overview tbody tr')].filter(r => !r.hidden)"
NAMES = f"{ROWS}.map(r => r.dataset.filter)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    running = Browser(tmp_path_factory.mktemp("profile"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A page of three models, two tasks and their artifact reports, with pictures."""
    folder = tmp_path_factory.mktemp("report")
    scores = {"deit3-vitn_reg0": 9.5, "deit3-vitn_reg4": 62.1, "deit3-vitn_reg16": 10.25}
    found = [record(model, top1=value) for model, value in scores.items()]
    found += [record("deit3-vitn_reg4", seed=1, top1=63.1), record("deit3-vitn_reg4", "imagenet_linear", top1=70.0)]
    found += [artifacts(), artifacts("deit3-vitn_reg0"), record("random-vitn_reg4", top1=1.0)]
    for cell in saved(folder, *found):
        if cell.record.task == "artifact_report":
            Image.new("RGB", (300, 100), (10, 120, 60)).save(cell.file.with_suffix(".png"))
    return made(folder)


def made(folder):
    report.main(report.ReportOptions("mini", results=str(folder / "results"), runs=str(folder / "runs")), [])
    return (folder / "results" / "mini" / "report.html").as_uri()


@pytest.fixture
def page(browser, url):
    """The page, freshly loaded in a wide and light window; nothing may complain in the whole of a test."""
    browser.complaints.clear()
    browser.view(1280, 900)
    browser.open("about:blank")
    browser.open(url)
    browser.js("localStorage.clear()")
    yield browser
    assert not browser.complaints


def test_it_loads_with_all_its_parts(page):
    parts = page.js("[...document.querySelectorAll('main section[id]')].map(s => s.id)")
    assert parts == ["summary", "results", "leaderboard", "registers", "norms", "pictures", "records"]
    assert page.js("[...document.images].map(i => [i.complete, i.naturalWidth])") == [[True, 300]] * 2
    assert page.js("document.querySelectorAll('#norms svg.chart').length") == 4


def test_numbers_sort_as_numbers_and_what_is_missing_comes_last(page):
    heading = "#overview thead tr:last-child th[data-task=imagenet_knn] button"
    page.click(heading)
    best_first = ["deit3-vitn_reg4", "deit3-vitn_reg16", "deit3-vitn_reg0", "random-vitn_reg4"]
    assert page.js(NAMES) == best_first  # as text, 9.5 would come before 10.25 and 62.6
    page.click(heading)
    assert page.js(NAMES) == best_first[::-1]
    sorts = page.js("[...document.querySelectorAll('#overview th[aria-sort]')].map(th => th.ariaSort)")
    assert sorted(sorts) == ["ascending", "none", "none", "none"]
    linear = "#overview thead tr:last-child th[data-task=imagenet_linear] button"
    for _ in range(2):
        page.click(linear)
        assert page.js(NAMES)[0] == "deit3-vitn_reg4"


def test_names_sort_with_their_numbers(page):
    page.click("#overview th.name button")
    assert page.js(NAMES) == ["deit3-vitn_reg0", "deit3-vitn_reg4", "deit3-vitn_reg16", "random-vitn_reg4"]


def test_the_filter_takes_all_words_in_every_part(page):
    page.write("#filter", "REG4 deit")
    assert page.js(NAMES) == ["deit3-vitn_reg4"]
    assert page.js("document.querySelector('#count').textContent") == "1 of 4 rows"
    assert page.js("[...document.querySelectorAll('#record-list tbody tr')].filter(r => !r.hidden).length") == 4
    assert page.js("[...document.querySelectorAll('article, .pictures figure')].filter(r => !r.hidden).length") == 2
    page.write("#filter", "nothing")
    assert page.js(NAMES) == []
    page.write("#filter", "")
    assert len(page.js(NAMES)) == 4


def visible(selector):
    return f"[...document.querySelectorAll({json.dumps(selector)})].filter(e => e.getClientRects().length)"


def test_charts_follow_the_filter(page):
    page.click("[data-chip=artifact_report]")
    dots = visible("#registers a.dot")
    assert page.js(f"{dots}.length") == 3  # kNN of three numbers of registers
    floors = page.js(f"{visible('#registers .baseline')}.length")
    assert page.js(f"{visible('#registers g path.line')}.length") == 2
    page.write("#filter", "reg4")
    assert page.js(f"{dots}.map(e => e.dataset.filter)") == ["deit3-vitn_reg4"]
    assert page.js(f"{visible('#registers g path.line')}.length") == 0
    assert page.js(f"{visible('#registers .baseline')}.length") == floors > 0
    page.write("#filter", "nothing")
    assert page.js(f"{visible('#registers figure')}.length") == 0
    page.write("#filter", "")
    page.click("[data-chip=imagenet_knn]")
    assert page.js(f"{visible('#registers figure')}.length") == 0
    page.click("[data-chip=imagenet_knn]")
    assert page.js(f"{dots}.length") == 3
    assert page.js(f"{visible('#registers g path.line')}.length") == 2


VIEW = f"""[{NAMES}, document.querySelector('#filter').value,
  [...document.querySelectorAll('[data-chip]')].map(c => c.ariaPressed),
  [...document.querySelectorAll('th[aria-sort$=ending]')].map(th => [th.dataset.key, th.ariaSort]),
  {visible("td")}.length]"""


def test_the_address_gives_the_same_view_again(page, url):
    plain = page.js(VIEW)
    assert page.js("location.search") == ""
    page.write("#filter", "DEIT reg")
    page.click("[data-chip=artifact_report]")
    page.click("#overview thead [data-key='imagenet_knn top1'] button")
    page.click("#overview thead [data-key='imagenet_knn top1'] button")
    page.click("#record-list thead [data-key=seed] button")
    view, address = page.js(VIEW), page.js("location.href")
    assert address.startswith(f"{url}?")
    assert view != plain
    page.open("about:blank")
    page.open(address)
    assert page.js(VIEW) == view
    assert page.js("location.href") == address
    page.click("#overview td a")
    page.press("Escape", 27)
    page.wait("!document.querySelector('#record').open")
    assert page.js("location.href") == address  # a record that was opened leaves nothing behind
    page.write("#filter", "")
    page.click("[data-chip=artifact_report]")
    assert "filter" not in page.js("location.search")
    assert "without" not in page.js("location.search")


def test_an_address_of_nonsense_is_the_whole_page(page, url):
    page.open("about:blank")
    page.open(f"{url}?without=nothing&overview=%3Cb%3E:ascending&record-list=seed:up&filter=&x=%E0%A4%A#results")
    assert len(page.js(NAMES)) == 4
    assert page.js("document.querySelectorAll('th[aria-sort$=ending]').length") == 0


def test_a_task_can_be_put_away(page):
    seen = "[...document.querySelectorAll('[data-task=artifact_report]')].map(e => e.checkVisibility())"
    assert all(page.js(seen))
    page.click("[data-chip=artifact_report]")
    assert not any(page.js(seen))
    assert page.js("document.querySelector('[data-task=imagenet_knn]').checkVisibility()")
    page.click("[data-chip=artifact_report]")
    assert all(page.js(seen))


def test_a_number_opens_its_records_and_escape_closes_them(page):
    page.click("#overview tr[data-filter=deit3-vitn_reg4] td[data-task=imagenet_knn] a")
    assert page.js("document.querySelector('#record').open")
    text = "document.querySelector('#record').innerText"
    shown = page.js(text)
    for part in ("deit3-vitn_reg4 · imagenet_knn · seed 0", "62.1", "c" * 40, "a CPU", "(not here)", "whole", "seed 1"):
        assert part in shown
    page.click("#record .seeds button:last-child")
    assert "63.1" in page.js(text)
    assert page.js("location.hash") == "#record=deit3-vitn_reg4%2Fimagenet_knn%2F1"
    page.press("Escape", 27)
    page.wait("!document.querySelector('#record').open")
    page.wait("location.hash === ''")


def test_a_link_to_a_record_opens_it(page, url):
    page.open("about:blank")
    page.open(f"{url}#record=deit3-vitn_reg16%2Fimagenet_knn%2F0", until="document.querySelector('#record').open")
    assert "10.25" in page.js("document.querySelector('#record').innerText")
    page.open("about:blank")
    page.open(f"{url}#record=%E0%A4%A")  # not even an address
    assert not page.js("document.querySelector('#record').open")


def test_a_point_of_a_curve_opens_its_record(page):
    page.js("document.querySelector('a.dot').focus()")
    page.press("Enter", 13)
    assert page.js("document.querySelector('#record').open")


COPIED = {
    "allowed": "navigator.clipboard.writeText = async (text) => { window.copied = text; }",
    "forbidden": "navigator.clipboard.writeText = async () => { throw new Error('no'); };"
    "document.addEventListener('copy', () => { window.copied = document.activeElement.value; })",
}


@pytest.mark.parametrize("clipboard", COPIED.values(), ids=COPIED)
def test_commands_are_copied(page, clipboard):
    page.js(f"{{ {clipboard} }}")
    page.click("#record-list tr[data-filter*=reg16] .copy")
    page.wait("window.copied")
    assert page.js("copied") == commands.command(record("deit3-vitn_reg16"))
    page.click("#overview tr[data-filter=deit3-vitn_reg4] .copy")
    page.wait("copied.includes('\\n')")
    lines = page.js("copied").splitlines()
    assert len(lines) == 4  # two seeds of one task, two further tasks
    assert all(line.startswith("make eval MODEL=deit3-vitn_reg4 TASK=") for line in lines)
    page.click("#overview tr[data-filter=deit3-vitn_reg0] td a")
    page.click("#record .copy")
    page.wait("!copied.includes('\\n')")
    assert "MODEL=deit3-vitn_reg0" in page.js("copied")
    assert page.js("document.querySelector('#said').textContent") == "copied"


def test_a_picture_opens_in_full(page):
    page.click(".enlarge")
    assert page.js("document.querySelector('#picture').open && document.querySelector('#picture img').src") == page.js(
        "document.querySelector('.enlarge').href"
    )
    page.wait("document.querySelector('#picture img').naturalWidth === 300")
    assert page.complaints == [page.js("document.querySelector('#picture img').src")]  # the file, and no other
    page.complaints.clear()
    assert page.js("document.activeElement.matches('#picture button')")
    page.click("#picture .close")
    assert not page.js("document.querySelector('#picture').open")


def luminance(colour):
    """Of a colour as getComputedStyle writes it (WCAG 2.2)."""
    parts = [float(part) / 255 for part in colour[4:-1].split(",")]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


COLOURS = """(() => {
  const seen = new Map(), solid = (c) => c !== 'rgba(0, 0, 0, 0)' && c !== 'transparent';
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest('script, title') || !element.checkVisibility()) continue;
    let under = element;
    while (under && !solid(getComputedStyle(under).backgroundColor)) under = under.parentElement;
    const style = getComputedStyle(element), text = element.closest('svg') ? style.fill : style.color;
    const pair = [text, getComputedStyle(under ?? document.body).backgroundColor].join(' on ');
    if (!seen.has(pair)) seen.set(pair, `${element.localName}.${element.className.baseVal ?? element.className}`);
  }
  return [...seen];
})()"""  # colour of every visible text and of what lies under it, with an element that has them


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_in_either_theme(page, scheme):
    page.view(1280, 900, scheme)
    page.js("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    behind = page.js("getComputedStyle(document.body).backgroundColor")
    assert (luminance(behind) > 0.5) == (scheme == "light")
    pairs = page.js(COLOURS)
    page.click("#overview td a")
    pairs += page.js(COLOURS)
    assert len({pair for pair, _ in pairs}) > 4
    faint = {f"{pair} ({element})": contrast(*pair.split(" on ")) for pair, element in pairs}
    assert not {pair: ratio for pair, ratio in faint.items() if ratio < 4.5}


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_the_colours_of_the_style_sheet_stand_out_in_either_theme(scheme):
    """By 4.5 on every ground, a row under the mouse too (WCAG 2.2, 1.4.3); lines and marks need 3 (1.4.11)."""
    style = (templates.PARTS / "page.css").read_text(encoding="utf-8")
    pairs = re.findall(r"--(\w+): light-dark\(#(\w{6}), #(\w{6})\)", style)
    colours = {name: f"rgb{tuple(bytes.fromhex(both[scheme]))}" for name, *both in pairs}
    grounds = [colours.pop(name) for name in ("page", "card", "hover")]
    colours.pop("rule")  # lines of tables and grids, which tell nothing
    marks = {f"c{number}" for number in range(drawing.COLOURS)}
    assert {"ink", "soft", "accent", "warn"} | marks == colours.keys()
    for name, colour in colours.items():
        for ground in grounds:
            assert contrast(colour, ground) >= 4.5, (name, colour, ground)


def test_the_theme_can_be_chosen_and_is_remembered(page, url):
    bright = "getComputedStyle(document.body).backgroundColor"
    page.view(1280, 900, "dark")
    assert luminance(page.js(bright)) < 0.1
    page.click("#theme")
    assert page.js("document.querySelector('#theme').textContent") == "theme: light"
    assert luminance(page.js(bright)) > 0.8
    page.open("about:blank")
    page.open(url)
    assert luminance(page.js(bright)) > 0.8
    page.click("#theme")
    page.view(1280, 900, "light")
    assert luminance(page.js(bright)) < 0.1


@pytest.mark.parametrize(("width", "phone"), [(360, True), (768, True), (1920, False)])
def test_no_width_makes_the_page_scroll_sideways(page, width, phone):
    page.view(width, 800, phone=phone)
    assert page.js("document.documentElement.scrollWidth") <= width
    sizes = "[...document.querySelectorAll('main td, main p, main button')].map(e => getComputedStyle(e).fontSize)"
    assert min(float(size.removesuffix("px")) for size in page.js(sizes)) >= 11
    page.click("#overview td a")
    box = page.js("Object.values(document.querySelector('#record').getBoundingClientRect().toJSON())")
    left, across = box[0], box[2]
    assert left >= 0
    assert 0 < left + across <= width


def test_a_screenshot_has_colours_and_marks(page, tmp_path):
    for scheme in ("light", "dark"):
        page.view(1280, 900, scheme)
        image = Image.open(io.BytesIO(page.picture())).convert("RGB")
        image.save(tmp_path / f"{scheme}.png")
        assert image.size == (1280, 900)
        colours = image.getcolors(1 << 20)
        largest = max(count for count, _ in colours)
        assert len(colours) > 50
        assert largest < 0.98 * 1280 * 900


@pytest.mark.parametrize("long", [1, 60])
def test_a_hostile_record_does_nothing(browser, tmp_path, long):
    browser.complaints.clear()
    evil = [hostile(long), hostile_artifacts(), dataclasses.replace(hostile(long), model="deit3-vitn_reg4")]
    cells = [ScoredRecord(one, {}, tmp_path / "x.json") for one in (*evil, record(), record("deit3-vitn_reg0"))]
    cells.sort(key=report.order)
    kept = ScoredRecords("results", cells, [hostile(long).model])
    text, _ = report.page(kept, hostile(long).model, tmp_path)
    (tmp_path / "evil.html").write_text(text, encoding="utf-8")
    browser.view(360, 800, phone=True)
    browser.open("about:blank")
    browser.open((tmp_path / "evil.html").as_uri())
    for place in range(len(cells)):
        browser.js(f"document.querySelector('#record-list [data-cells=\"{place}\"]').click()")
        assert browser.js("document.querySelector('#record-title').textContent") == (
            f"{cells[place].record.model} · {cells[place].record.task} · seed 0"
        )
        browser.js("document.querySelector('#record').close()")
    for button in ("#overview thead [data-sort]", "#record-list thead [data-sort]", "[data-chip]"):
        browser.js(f"document.querySelectorAll('{button}').forEach(b => b.click())")
    browser.write("#filter", json.dumps(hostile().model))
    browser.write("#filter", "")
    assert browser.js("typeof hacked") == "undefined"
    assert browser.js("document.images.length + document.querySelectorAll('iframe, object, link').length") == 0
    assert browser.js("document.documentElement.scrollWidth") <= 360
    assert browser.js("document.querySelector('#overview').offsetHeight") < 4000 * math.sqrt(long)
    assert not browser.complaints


@pytest.fixture
def unscripted(browser, url):
    """The page in a browser that runs no scripts; expressions of the test are still evaluated."""
    browser.complaints.clear()
    browser.view(1280, 900)
    browser.ask("Emulation.setScriptExecutionDisabled", value=True)
    browser.open("about:blank")
    browser.open(url)
    yield browser
    browser.ask("Emulation.setScriptExecutionDisabled", value=False)
    assert not browser.complaints


def test_without_a_script_there_are_plain_tables(unscripted):
    page = unscripted
    assert not page.js("document.documentElement.matches('.scripted')")
    assert page.js(f"{visible('#overview tbody tr')}.length") == 4
    assert page.js(f"{visible('.controls, .copy, #theme, button:not([disabled])')}.length") == 0  # nothing that is dead
    said = page.js("document.querySelector('main').innerText")
    assert "A number opens its record." in said
    assert not any(word in said for word in ("heading sorts", "copies the commands", "address of the page"))
    numbers = page.js("[...document.querySelectorAll('#overview tbody td a')].map(a => a.textContent)")
    assert "62.6" in numbers  # the mean of two seeds
    links = "[...document.querySelectorAll('main a[href^=\"#\"], nav a')]"
    assert page.js(f"{links}.every(a => document.getElementById(a.getAttribute('href').slice(1)))")
    shown = page.js(f"{visible('#record-list code')}.map(e => e.textContent)")
    assert commands.command(record("deit3-vitn_reg16")) in shown
    page.click("#overview tr[data-filter=deit3-vitn_reg16] td a")
    page.wait("location.hash.startsWith('#record-')")
    assert "deit3-vitn_reg16" in page.js("document.querySelector(':target').innerText")
    assert page.js("document.querySelectorAll('dialog[open]').length") == 0


def test_tables_have_captions_and_every_heading_says_of_what(page):
    assert page.js("[...document.querySelectorAll('table')].every(t => t.caption && t.caption.textContent.trim())")
    scopes = page.js("[...document.querySelectorAll('th')].map(th => th.scope)")
    assert set(scopes) == {"col", "colgroup", "row"}
    nameless = """[...document.querySelectorAll('button, a, input, img')].filter(e =>
      !(e.ariaLabel || e.alt || e.textContent.trim() || e.querySelector('[alt]'))).map(e => e.outerHTML)"""
    assert page.js(nameless) == []


def test_the_keyboard_reaches_everything_and_is_seen(page):
    page.js("document.activeElement.blur()")
    reached = []
    for _ in range(12):
        page.press("Tab", 9)
        reached.append(
            page.js("[document.activeElement.localName, getComputedStyle(document.activeElement).outlineStyle]")
        )
    assert {name for name, _ in reached} >= {"a", "button", "input"}
    assert {outline for _, outline in reached} == {"solid"}


def test_the_figure_of_a_look_is_enlarged_and_zoomed(browser, tmp_path):
    saved(tmp_path, record("deit3-vitn_reg4", top1=60.0))
    look = tmp_path / "results" / "mini" / "look" / "a+b"
    look.mkdir(parents=True)
    Image.new("RGB", (3000, 900), (10, 120, 60)).save(look / "figure.png")
    browser.view(1280, 900)
    browser.open(made(tmp_path))
    browser.click(".look .enlarge")
    browser.wait("document.querySelector('#picture img').naturalWidth === 3000")
    width = "document.querySelector('#picture img').getBoundingClientRect().width"
    assert browser.js(width) <= 1280
    browser.click("#picture .zoom")
    assert browser.js(width) == 3000


def test_a_page_without_the_files_beside_it_still_enlarges_its_pictures(page, url, tmp_path):
    alone = tmp_path / "alone.html"
    alone.write_text(pathlib.Path(url.removeprefix("file://")).read_text(encoding="utf-8"), encoding="utf-8")
    page.open(alone.as_uri())
    page.click(".enlarge")
    page.wait("document.querySelector('#picture img').src.startsWith('data:')")
    page.complaints.clear()  # the missing file is reported


def test_a_print_holds_the_pictures_as_they_are(browser, tmp_path):
    """Below 3 MB: of any other format, a browser prints each pixel."""
    models = [f"deit3-vitn_reg{n}" for n in (0, 1, 4, 8)]
    cells = saved(tmp_path, *(record(model, task) for model in models for task in ("lost_voc07", "imagenet_knn")))
    random = np.random.default_rng(0)
    for cell in cells:
        coarse = Image.fromarray(random.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        coarse.resize((1000, 750), Image.Resampling.BICUBIC).save(cell.file.with_suffix(".png"))
    browser.complaints.clear()
    browser.view(1280, 900)
    browser.open(made(tmp_path))
    sources = browser.js("[...document.images].map(i => i.src)")
    packed = sum(len(base64.b64decode(source.partition(",")[2])) for source in sources)
    printed = base64.b64decode(browser.ask("Page.printToPDF")["data"])
    assert len(sources) == 8
    assert packed <= pictures.BUDGET
    assert printed.count(b"/DCTDecode") >= 8
    assert packed < len(printed) < packed + 500_000
    assert pictures.BUDGET + 500_000 < 3_000_000
    assert not browser.complaints
