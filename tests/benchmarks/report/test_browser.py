"""The report in a real browser: it loads without a complaint, sorts, filters, opens records, copies, and is legible."""

import dataclasses
import io
import json
import math

import pytest
from PIL import Image

from benchmarks.report import __main__ as report
from benchmarks.report import commands
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
    assert parts == ["results", "registers", "norms", "pictures", "records"]
    assert page.js("[...document.images].map(i => [i.complete, i.naturalWidth])") == [[True, 300]] * 2
    assert page.js("document.querySelectorAll('#norms svg').length") == 4


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


def test_a_task_can_be_put_away(page):
    seen = "[...document.querySelectorAll('[data-task=artifact_report]')].map(e => e.checkVisibility())"
    assert all(page.js(seen))
    page.click("[data-chip=artifact_report]")
    assert not any(page.js(seen))
    assert page.js("document.querySelector('[data-task=imagenet_knn]').checkVisibility()")
    page.click("[data-chip=artifact_report]")
    assert all(page.js(seen))


def test_a_number_opens_its_records_and_escape_closes_them(page):
    page.click("#overview tr[data-filter=deit3-vitn_reg4] td[data-task=imagenet_knn] button")
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
    page.js("document.querySelector('circle[data-cells]').focus()")
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
    page.click("#overview tr[data-filter=deit3-vitn_reg0] td button")
    page.click("#record .copy")
    page.wait("!copied.includes('\\n')")
    assert "MODEL=deit3-vitn_reg0" in page.js("copied")
    assert page.js("document.querySelector('#said').textContent") == "copied"


def test_a_picture_opens_in_full(page):
    page.click(".enlarge")
    assert (
        page.js("document.querySelector('#picture').open && document.querySelector('#picture img').naturalWidth") == 300
    )
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_in_either_theme(page, scheme):
    page.view(1280, 900, scheme)
    behind = page.js("getComputedStyle(document.body).backgroundColor")
    assert (luminance(behind) > 0.5) == (scheme == "light")
    for selector in ("body", ".about", ".summary", "nav a", ".number small", ".floor th", ".chart text", "figcaption"):
        name = "fill" if selector == ".chart text" else "color"
        colour = page.js(f"getComputedStyle(document.querySelector('{selector}')).{name}")
        assert contrast(colour, behind) >= 4.5, selector


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
    page.click("#overview td button")
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
