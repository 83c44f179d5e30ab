"""The report in Chromium, on a wide screen and on a phone, light and dark (`make browser-test`).

`SCREENSHOTS=folder` keeps a picture of every page, for people to look at. `CHROMIUM` is the browser's program.
"""

import csv
import io
import os
import shutil
from pathlib import Path

import pytest
from report_study import write_study, write_training
from tokenbounds.report.compression import compression_section
from tokenbounds.report.figures import draw_figures
from tokenbounds.report.page import write_certificate_page, write_report

driver = pytest.importorskip("playwright.sync_api", reason="make browser-test installs the driver of the browser")
rules = pytest.importorskip("axe_playwright_python", reason="make browser-test installs the rules of accessibility")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (Debian: apt-get install chromium)"),
]

AXE = (Path(rules.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
LEGIBLE_PIXELS = 9.0
PAGES = ("report", "certificate")
SCREENS = {"desk": (1300, 900), "phone": (400, 860)}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A report with figures, and the page of one certificate."""
    root = tmp_path_factory.mktemp("study")
    paths = write_study(root)
    training = {"lora": write_training(root / "models" / "lora" / "training.parquet")}
    figures = draw_figures(paths, root / "figures", training=training, methods=True)
    write_report(paths, root / "report.html", figures=figures, sections=compression_section(paths))
    write_certificate_page(paths[0], root / "certificate.html")
    return {"report": root / "report.html", "certificate": root / "certificate.html"}


@pytest.fixture(scope="module")
def chromium():
    with driver.sync_playwright() as playwright:
        # Without Chromium's sandbox, which root cannot have: the page is our own.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(
    params=[(name, screen, scheme) for name in PAGES for screen in SCREENS for scheme in ("light", "dark")],
    ids="-".join,
)
def shown(request, pages, chromium):
    """A page with everything unfolded, and what it asked for and complained about."""
    name, screen, scheme = request.param
    width, height = SCREENS[screen]
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    events = []
    page.on("request", lambda asked: events.append(asked.url))
    page.on("console", lambda message: events.append(message.text))
    page.on("pageerror", lambda error: events.append(str(error)))
    page.goto(pages[name].as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    page.set_default_timeout(120_000)
    yield page, events
    context.close()


def violations(page):
    """What axe finds serious or critical: the rule, and the first element."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [(one["id"], one["nodes"][0]["target"]) for one in found if one["impact"] in ("serious", "critical")]


def overflowing(page):
    """Elements that reach beyond the window and are in no box that scrolls."""
    return page.evaluate(
        """() => [...document.querySelectorAll('body *')].filter(each =>
             each.getBoundingClientRect().right > document.documentElement.clientWidth + 1
             && !each.closest('.wide, .plot, pre')).map(each => each.outerHTML.slice(0, 80))"""
    )


def smallest_text(page):
    """Pixels of the smallest text in any figure, as it is shown."""
    return page.evaluate(
        """() => Math.min(...[...document.querySelectorAll('.plot text')].filter(each => each.textContent.trim())
             .map(each => parseFloat(getComputedStyle(each).fontSize)
                * Math.hypot(each.getScreenCTM().a, each.getScreenCTM().b)))"""
    )


def test_nothing_is_asked_for_and_nothing_complains(shown):
    page, events = shown
    assert events == [page.url]


def test_no_serious_finding_of_accessibility(shown):
    assert violations(shown[0]) == []


def test_nothing_reaches_beyond_the_window(shown):
    page, _ = shown
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert overflowing(page) == []


def test_figures_are_legible(shown):
    page, _ = shown
    if page.locator(".plot text").count():
        assert smallest_text(page) >= LEGIBLE_PIXELS


@pytest.mark.parametrize("shown", [("report", "phone", "light")], indirect=True, ids="-".join)
def test_the_checks_find_what_is_wrong(shown):
    page, events = shown
    page.evaluate(
        """() => { document.querySelectorAll('[tabindex]').forEach(each => each.removeAttribute('tabindex'));
             document.body.style.color = '#999'; document.body.style.background = '#aaa';
             const box = document.querySelector('.wide'); box.className = 'narrow'; box.style.width = '3000px';
             document.querySelectorAll('.plot svg').forEach(each => each.style.minWidth = each.style.width = '200px');
             fetch('http://127.0.0.1:9/x').catch(() => {}); }"""
    )
    assert violations(page)
    assert overflowing(page)
    assert smallest_text(page) < LEGIBLE_PIXELS
    page.wait_for_timeout(100)
    assert len(events) > 1


@pytest.mark.parametrize("shown", [(name, "phone", "dark") for name in PAGES], indirect=True, ids="-".join)
def test_every_table_can_be_downloaded(shown):
    page, _ = shown
    assert page.locator("table").count() == page.locator("a[download]").count()
    link = page.locator("a[download]").first
    with page.expect_download() as started:
        link.click()
    rows = list(csv.reader(io.StringIO(Path(started.value.path()).read_text(encoding="utf-8"))))
    assert started.value.suggested_filename == link.get_attribute("download")
    assert len(rows) == page.locator("table").first.locator("tr").count()


@pytest.mark.parametrize("shown", [("report", screen, "light") for screen in SCREENS], indirect=True, ids="-".join)
def test_values_appear_under_the_pointer(shown):
    page, _ = shown
    marks = page.evaluate(
        """() => [...document.querySelectorAll('#figure-loss_by_position .value')].slice(0, 20).map(each => {
             each.scrollIntoView({block: 'center', inline: 'center', behavior: 'instant'});
             const box = each.getBoundingClientRect();
             const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
             return top?.closest('.value')?.querySelector('title')?.textContent ?? ''; })"""
    )
    assert len(marks) == 20 and sum("positions" in text for text in marks) > 15


@pytest.mark.skipif("SCREENSHOTS" not in os.environ, reason="SCREENSHOTS=folder keeps pictures")
def test_pictures(shown, request):
    path = Path(os.environ["SCREENSHOTS"]) / f"{request.node.callspec.id}.png"
    shown[0].screenshot(path=path, full_page=True)
    assert path.stat().st_size > 10_000
