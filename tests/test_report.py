"""The page of results: what stands on it, and how it behaves in a browser without a network."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from harness import GAUSSIAN, MAF, changed, write_table
from playwright.sync_api import Browser, Page, sync_playwright

from nfbench import record, report, tables
from nfbench.config import load
from nfbench.errors import UsageError
from nfbench.plots import gallery
from nfbench.run import run

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# Nothing of the browser's own reaches for a network; a container's root has no sandbox.
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
         "--disable-component-update", "--no-first-run")  # fmt: skip
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
HOSTILE = "<script>window.hostile = 1</script> & <b>bold</b>"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of three rows, one of them without a run and with a hostile title, and its page."""
    rows = {
        "maf": MAF | {"cells": {"pinwheel": {"reported": {"value": 5.0, "source": "Table 1"}}}},
        "gaussian": GAUSSIAN,
        "absent": changed(GAUSSIAN, flow={"name": "gaussian"}) | {"title": HOSTILE},
    }
    root = write_table(tmp_path_factory.mktemp("report"), **rows)
    for row in ("maf", "gaussian"):
        run(load(f"tiny/{row}", "pinwheel", root=root), root=root, device="cpu")
    second = load("tiny/gaussian", "pinwheel", 1, root=root)
    run(second, root=root, device="cpu")
    gallery("tiny", root)
    report.write(root=root)
    return root


def html(root: Path) -> str:
    return (root / "results" / "report.html").read_text()


def test_the_page_holds_what_the_table_shows(root: Path) -> None:
    text = html(root)
    for entry, line in zip(
        (view := tables.build("tiny", root)).entries, tables.lines(view), strict=True
    ):
        if entry.n_seeds:
            assert f">{line['ours']}</td>" in text
            for each in entry.records:
                assert f"<dd>{each.provenance['command']}</dd>" in text
                assert f"<dd>{each.data['fingerprint']}</dd>" in text
    assert text.count("data:image/png;base64,") == 1  # densities and samples
    assert text.count("data:image/svg+xml;base64,") == 1  # the curve of the one that was trained


def test_the_page_names_nothing_to_fetch(root: Path) -> None:
    sources = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", html(root))
    assert sources
    assert {s.partition(":")[0] for s in sources if not s.startswith("#")} == {"data"}
    assert "default-src &#39;none&#39;" in html(root) or "default-src 'none'" in html(root)


def test_a_title_is_text_and_no_markup(root: Path) -> None:
    assert "<b>bold" not in html(root)
    assert "&lt;b&gt;bold&lt;/b&gt;" in html(root)


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(root, tmp_path / "copy")


def test_a_damaged_record_costs_its_table_the_lines_and_no_other_table(copy: Path) -> None:
    shutil.copytree(copy / "experiments/tiny", copy / "experiments/other")
    kept = record.read(copy / "results/tiny/gaussian/pinwheel/0.json")
    record.write(replace(kept, experiment=kept.experiment | {"table": "other"}), copy)
    path = copy / "results/tiny/maf/pinwheel/0.json"
    path.write_text(path.read_text().replace('"test/n": 10000', '"test/n": 10001'))
    report.write(root=copy)
    whole, spoilt = (html(copy).split(f'<section id="{name}">')[1] for name in ("other", "tiny"))
    fault = 'role="alert">results/tiny/maf/pinwheel/0.json: sha256: its content was changed'
    assert spoilt.count('role="alert"') == spoilt.count(fault) == 1
    assert ">Tiny</h2>" in spoilt and "<tbody" not in spoilt
    ours = f"{kept.metrics['test/log_likelihood']:.2f}"
    assert f">{ours}</td>" in whole.split("</section>")[0]
    assert "1 at fault" in html(copy).split("</nav>")[0]
    report.write(["tiny"], root=copy)
    assert fault in html(copy)


def test_a_table_that_cannot_be_judged_says_why(copy: Path) -> None:
    path = copy / "experiments/tiny/table.yaml"
    path.write_text(path.read_text().replace("test/log_likelihood", "test/log_likelihod"))
    report.write(root=copy)
    assert "tiny/maf/pinwheel/0: its record has no test/log_likelihod; did you mean" in html(copy)


def test_a_record_of_a_row_that_is_gone_is_told(copy: Path) -> None:
    kept = record.read(copy / "results/tiny/maf/pinwheel/0.json")
    record.write(replace(kept, experiment=kept.experiment | {"row": "gone"}), copy)
    report.write(root=copy)
    assert 'role="alert">results/tiny/gone/pinwheel/0.json: row: tiny has no row' in html(copy)


def test_without_records_or_of_an_unknown_table_there_is_no_page(tmp_path: Path) -> None:
    write_table(tmp_path, gaussian=GAUSSIAN)
    with pytest.raises(UsageError, match="expected records in results/, got none"):
        report.write(root=tmp_path)
    with pytest.raises(UsageError, match="unknown table 'tony'; did you mean 'tiny'"):
        report.write(["tony"], root=tmp_path)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(root: Path, browser: Browser) -> Iterator[Page]:
    """The page on a phone; whatever it asks for or complains of fails the test."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: told.append(request.url))
    path = root / "results" / "report.html"
    page.goto(path.as_uri())
    yield page
    assert [each for each in told if not each.startswith("data:")] == [path.as_uri()]
    assert page.evaluate("window.hostile") is None
    page.close()


def names(page: Page) -> list[str]:
    """The first cells of the lines that are seen, from the top."""
    rows = page.locator("#tiny tbody tr:first-child td:first-child")
    return [each.inner_text() for each in rows.all() if each.is_visible()]


@needs_browser
def test_lines_are_sorted_by_any_column_and_what_is_missing_comes_last(
    page: Page, root: Path
) -> None:
    ours = {e.experiment.title: e.ours for e in tables.build("tiny", root).entries if e.n_seeds}
    rising = sorted(ours, key=ours.__getitem__)
    head = page.get_by_role("button", name="ours", exact=True)
    head.click()
    assert names(page) == [*rising, HOSTILE]
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("ours")
    head.click()
    assert names(page) == [*reversed(rising), HOSTILE]
    page.get_by_role("button", name="row", exact=True).click()
    assert names(page) == sorted(["Gaussian", "MAF", HOSTILE], key=str.lower)


@needs_browser
def test_lines_are_found_by_word_and_by_verdict(page: Page) -> None:
    page.get_by_role("searchbox").fill("gauss pin")
    assert names(page) == ["Gaussian"]
    page.get_by_role("searchbox").fill("")
    page.get_by_role("combobox").select_option("short")
    assert names(page) == ["MAF"]
    page.get_by_role("combobox").select_option("all but missing")
    assert names(page) == ["MAF", "Gaussian"]


@needs_browser
def test_a_line_opens_to_where_its_number_is_from(page: Page) -> None:
    button = page.get_by_role("button", name="Gaussian")
    command = page.get_by_text("nfbench run tiny/gaussian pinwheel --seed 1")
    assert not command.is_visible()
    button.click()
    assert command.is_visible()
    assert button.get_attribute("aria-expanded") == "true"
    page.get_by_role("button", name="ours", exact=True).click()  # details move with their line
    assert command.is_visible()
    button.click()
    assert not command.is_visible()


@needs_browser
def test_the_page_fits_a_phone(page: Page) -> None:
    page.get_by_role("button", name="Gaussian").click()
    page.get_by_text("What the numbers mean").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    sizes = page.evaluate(
        "[...document.querySelectorAll('p, td, th, dd, summary, input')]"
        ".map((e) => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 13
    for picture in page.locator("img").all():
        box = picture.bounding_box()
        assert box is not None and box["width"] > 100 and box["x"] + box["width"] <= 390
