"""Photographs MLflow's pages for docs/mlflow.md: ``python -m docs.pictures.make_mlflow``.

Needs a project with table 1e trained and evaluated, playwright and a Chromium. The runs are brought first, as the command
``python -m pipeline.ui`` would.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from playwright.sync_api import Page

FOLDER = Path(__file__).parent / "mlflow"
WIDTH, HEIGHT = 1280, 720
NOWHERE = (WIDTH / 2, 20)  # a place of every page where there is nothing
TRAININGS = "tags.table1e LIKE '%' AND tags.kind = 'train'"
GRID = "tags.kind = 'grid' AND tags.table = 'table1e'"


def table(page: Page, runs: str) -> None:
    """The page of the table's own run."""
    page.goto(f"{runs}&searchFilter={quote(GRID)}")
    page.get_by_role("link", name="table1e", exact=True).click()
    page.get_by_text("Show more", exact=True).click()


def rows(page: Page, runs: str) -> None:
    """The trainings of a table, the best first, with the columns that say what they are, and the mean over seeds."""
    open_trainings(page, runs)
    page.get_by_role("button", name="Columns", exact=True).click()
    for name in ("Dataset", "Source", "Models", "AP", "AP50", "loss", "table1e", "seed"):
        page.get_by_placeholder("Search columns").fill(name)
        exactly = re.compile(f"^{name}$")
        columns = page.get_by_test_id("column-selector-tree")
        # Parameters come before tags: of two columns of one name the tag is the last.
        choice = columns.locator(".du-bois-light-tree-treenode", has_text=exactly).last
        page.wait_for_timeout(1500)  # a group that holds a match opens by itself, most of the time
        if not choice.count():
            columns.locator(".du-bois-light-tree-switcher_close").first.click()
        choice.locator(".du-bois-light-tree-checkbox").click()
    page.mouse.click(*NOWHERE)
    page.get_by_role("button", name="Group by").click()
    page.get_by_role("menuitemcheckbox", name="table1e", exact=True).click()
    page.keyboard.press("Escape")


def curves(page: Page, runs: str) -> None:
    """Charts of the same groups: bars where there is one number, lines where there is one at each step."""
    page.goto(f"{page.url}&compareRunsMode=CHART")
    page.get_by_placeholder("Search metric charts").fill("^(AP|AP50|loss)$")
    page.mouse.move(*NOWHERE)


def comparison(page: Page, runs: str) -> None:
    """All trainings of the table beside each other: in which parameters they differ, and what came of it."""
    open_trainings(page, runs)
    page.locator(".ag-header").get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Compare").click()
    for section in ("Visualizations", "Run details"):
        page.get_by_text(section, exact=True).click()
    page.get_by_text("Show diff only").first.click()


def open_trainings(page: Page, runs: str) -> None:
    page.goto(f"{runs}&searchFilter={quote(TRAININGS)}&orderByKey=metrics.%60AP%60&orderByAsc=false")
    page.get_by_text("matching runs").wait_for()


SCENES = (table, rows, curves, comparison)


def photograph(address: str, chromium: str) -> None:
    from PIL import Image
    from playwright.sync_api import sync_playwright

    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        # A pane about language models covers a quarter of the page until it is closed.
        page.add_init_script("localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false')")
        page.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
        for scene in SCENES:
            scene(page, address)
            page.wait_for_timeout(5000)  # charts are drawn in their own time, and nothing says when
            file = FOLDER / f"{scene.__name__}.png"
            page.screenshot(path=file)
            Image.open(file).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
            print(file)
        browser.close()


def main() -> None:
    from pipeline.mlflow_view.server import check_free, runs_page, serving
    from pipeline.mlflow_view.sync import sync, tracking_uri
    from pipeline.settings.loading import load_params
    from pipeline.system.cli import add_params_arguments

    parser = argparse.ArgumentParser(prog="python -m docs.pictures.make_mlflow", description=__doc__.splitlines()[0])
    add_params_arguments(parser)
    parser.add_argument("--port", type=int, default=5000, help="(default: 5000)")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no Chromium: apt-get install chromium")
    params = load_params(options.params, options.set)
    check_free("127.0.0.1", options.port)
    sync(params)
    uri = tracking_uri(params)
    with tempfile.TemporaryDirectory() as folder:
        with serving(uri, "127.0.0.1", options.port, Path(folder) / "log.txt") as (address, _):
            photograph(runs_page(address, uri), chromium)


if __name__ == "__main__":
    main()
