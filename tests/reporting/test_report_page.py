"""The report's page: its text on measured, unmeasured and contradicted things, its figures, and its look in a browser."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from support.project import put_evaluation, write_params

from effvis.data.masks import decode
from pipeline.engine.run import evaluate_run, train_run
from pipeline.grid.rows import find_evaluation, load_table
from pipeline.indexing.read import load_index
from pipeline.report import main, report_page
from pipeline.runs.store import RunStore
from pipeline.settings.loading import load_params
from pipeline.system.models import read_model
from pipeline.tables.claims import write_ledger
from pipeline.tables.claims_file import load_ledger
from pipeline.tables.form import TableSummary
from pipeline.tables.write import write_tables

LARGEST_BYTES = 1_500_000
ROWS = {
    "table1d": ("T=18 Fully e2e (ours)", "T=18 VisTR"),
    "table1e": ("w/ CL",),
    "table1g": ("EfficientVIS", "VisTR"),
    "table1h": ("Original FPS", "1.5 FPS"),
}
NUMBERS = ("AP", "AP50", "AP75", "AR1", "AR10")
FIGURES = ("figure-4", "figure-5", "figure-6", "figure-7", "failures")


class Page(HTMLParser):
    """The parts of a page that tests check.

    Attributes:
        rows: for every section with an id, the cells of its table rows as (classes, text).
        words: for every section, its text outside tables.
        images: for every section, the alt texts of its images.
    """

    def __init__(self, text):
        super().__init__()
        self.rows, self.words, self.images = {}, {}, {}
        self._sections, self._cell = [""], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "section":
            self._sections.append(attributes.get("id", self._sections[-1]))
        section = self._sections[-1]
        if tag == "tr":
            self.rows.setdefault(section, []).append([])
        if tag in ("td", "th"):
            self._cell = [set(attributes.get("class", "").split()), ""]
            self.rows[section][-1].append(self._cell)
        if tag == "img":
            self.images.setdefault(section, []).append(attributes["alt"])

    def handle_endtag(self, tag):
        if tag == "section":
            self._sections.pop()
        if tag in ("td", "th"):
            self._cell = None

    def handle_data(self, data):
        if self._cell is not None:
            self._cell[1] = " ".join(f"{self._cell[1]} {data}".split())
        else:
            section = self._sections[-1]
            self.words[section] = " ".join(f"{self.words.get(section, '')} {data}".split())

    def row(self, section, name):
        """Texts of the first row of a section that begins with this name, by kind: published, ours, other."""
        cells = next(cells for cells in self.rows[section] if cells and cells[0][1].startswith(name))
        kinds = {"published": [], "ours": [], "other": []}
        for classes, text in cells[1:]:
            kinds[next(iter(classes & {"published", "ours"}), "other")].append(text)
        return kinds


def made(params, **options):
    tables = [read_model(TableSummary, params.results_dir / f"{name}.json", "") for name in params.tables]
    return report_page(params, tables, **({"minimum_score": 0.0, "as_sketch": False} | options))


@pytest.fixture(scope="module")
def project(_tiny_template, tmp_path_factory):
    """A project with some rows of four tables, really trained and evaluated, and two more tables without any results."""
    folder = tmp_path_factory.mktemp("reported") / "project"
    shutil.copytree(_tiny_template, folder)
    short = {"pretrain": {"source": "none"}, "train": {"epochs": 2}}
    write_params(folder, **short, vistr=short, seeds=1, tables=["table1h", "table1e"], resources={"snapshots": 2},
                 inference={"presence_threshold": 0.0, "handcraft": {"score_threshold": 0.0}})
    params = load_params(folder / "params.yaml")
    tables = {name: load_table(params, name) for name in (*ROWS, "table2")}
    for name, wanted in ROWS.items():
        for row in tables[name].rows:
            for spec in (*row.evaluations, *row.curve) if row.name in wanted else ():
                train_run(params, spec.train)
                evaluate_run(params, spec)
    write_tables(params, tables.values())
    write_ledger(params, load_ledger(params))
    return folder


def test_published_and_measured_numbers_stand_apart(tiny_project):
    params = load_params(tiny_project(seeds=2, tables=["table1e", "table2"]) / "params.yaml")
    tables = [load_table(params, name) for name in params.tables]
    for spec, ap in zip(tables[0].rows[1].evaluations, (0.50, 0.56), strict=True):
        put_evaluation(params, spec, ap)
    write_tables(params, tables)
    page = Page(made(params))
    measured = page.row("table1e", "w/ CL")
    assert measured["published"] == ["35.3", "57.6", "38.5", "37.7", "43.5"]
    assert measured["ours"] == ["53.0 ± 3.0 (seeds)", *["53.0"] * 4, "2"] and measured["other"] == ["+17.7"]
    unmeasured = page.row("table1e", "w/o CL")
    assert unmeasured["published"][0] == "7.4" and unmeasured["ours"] == ["not measured yet"] and unmeasured["other"] == ["–"]
    foreign = page.row("table2", "SipMask")
    assert foreign["ours"] == ["not run"] and foreign["other"] == ["ECCV'20", "none", "R50", "34", "–"]
    assert "Not run (published only): SipMask" in page.words["table2"]
    head = [(text, classes & {"published", "ours"}) for classes, text in page.rows["table1e"][0]]
    assert head[1:3] == [("published, on YouTube-VIS", {"published"}), ("ours, on shapes-vis (laptop profile)", {"ours"})]
    runs = [[text for _, text in cells] for cells in page.rows["table1e"] if len(cells) == 7]
    assert [(name, seed, ap) for name, seed, _, _, ap, *_ in runs[1:]] == [("w/ CL", "0", "50.0"), ("w/ CL", "1", "56.0")]
    assert "There is no ledger yet" in page.words["claims"] and "No table with learning curves" in page.words["curves"]


def test_ap_on_the_same_frames_has_a_column_of_ours_in_every_form_of_its_table(tiny_project):
    """Only where a row measures it; a row that does not has a dash there."""
    params = load_params(tiny_project(seeds=2, tables=["table1h", "table1e"]) / "params.yaml")
    tables = [load_table(params, name) for name in params.tables]
    for spec, ap in zip(tables[0].rows[0].evaluations, (0.50, 0.56), strict=True):
        put_evaluation(params, spec, ap, AP_same_frames=ap + 0.1)
    for table in tables:
        put_evaluation(params, table.rows[1].evaluations[0], 0.25)
    write_tables(params, tables)
    page = Page(made(params))
    assert [text for _, text in page.rows["table1h"][1]] == [*NUMBERS, *NUMBERS, "AP_same_frames", "seeds", "AP"]
    assert page.row("table1h", tables[0].rows[0].name)["ours"] == ["53.0 ± 3.0 (seeds)", *["53.0"] * 4, "63.0", "2"]
    assert page.row("table1h", tables[0].rows[1].name)["ours"] == ["25.0"] * 5 + ["–", "1"]
    assert [text for _, text in page.rows["table1e"][1]] == [*NUMBERS, *NUMBERS, "seeds", "AP"]

    written = {form: (params.results_dir / f"table1h.{form}").read_text() for form in ("md", "csv", "tex")}
    first = tables[0].rows[0].name
    assert [line.split(" | ")[-2:] for line in written["md"].splitlines() if line.startswith((f"| {first}", "|  |"))] == [
        ["AP_same_frames", "seeds |"], ["63.0", "2 |"]]
    assert f"table1h,{first},AP_same_frames,,63.0,4.2426,2" in written["csv"]
    assert r"AP\_same\_frames" in written["tex"] and "63.0" in written["tex"]
    assert "AP_same_frames" not in (params.results_dir / "table1e.md").read_text()


def test_a_contradicted_claim_is_said_as_plainly_as_one_that_holds(tiny_project):
    params = load_params(tiny_project(seeds=2, tables=["table1e", "table1h"]) / "params.yaml")
    tables = {name: load_table(params, name) for name in params.tables}
    aps = {"w/o CL": (0.55, 0.56), "w/ CL": (0.50, 0.51), "Original FPS": (0.50, 0.51), "1.5 FPS": (0.60, 0.62)}
    for table in tables.values():
        for row in table.rows:
            for spec, ap in zip(row.evaluations, aps.get(row.name, ()), strict=False):
                put_evaluation(params, spec, ap)
    write_tables(params, tables.values())
    write_ledger(params, load_ledger(params))
    page = Page(made(params))
    collapse = page.row("claims", "without correspondence learning end-to-end linking collapses")
    assert collapse["other"] == ["✗ contradicted", "table1e", "keeps below 0.5"] and collapse["published"] == ["+27.9"]
    assert collapse["ours"] == ["−5.0 ± 0.0", "−5.0 to −5.0 seeds alone", "2"]
    assert page.row("claims", "1.5 FPS video costs no AP")["other"][0] == "✓ reproduced"
    assert page.row("claims", "FTSA beats joint")["other"][0] == "– not measured a row has no results yet"
    assert ("Our numbers say the opposite of 1 of 14 claims: without correspondence learning end-to-end linking collapses."
            in page.words["claims"])


@pytest.mark.slow
def test_figures_name_their_runs_and_videos(project):
    params = load_params(project / "params.yaml")
    page = Page(made(params))
    main_run = find_evaluation(params, "table1e:w/ CL")
    for name in ("figure-4", "figure-6", "failures"):
        assert f"table1e:w/ CL, seed 0: run {main_run.train.key}, evaluation {main_run.key}" in page.words[name]
    for row in ROWS["table1d"]:
        assert f"table1d:{row}, seed 0: run {find_evaluation(params, f'table1d:{row}').train.key}" in page.words["figure-7"]
    videos = {name: re.findall(r"Video (\d+)", page.words[name]) for name in FIGURES}
    assert videos["figure-4"] == videos["figure-5"] == ["1", "3"], "of three videos the first and the last"
    assert videos["figure-6"] == videos["figure-7"] == ["1", "2", "3"]
    assert page.images["figure-5"][:4] == [
        alt for alt in page.images["figure-5"] if alt.startswith("Video 1,")], "truth, two rates of the table, half the lowest"
    # Eight frames at 6 per second: every fourth is kept at 1.5, one of eight at 0.75.
    assert [re.search(r"(\S+) frames per second, frames ([\d, ]+):", alt).groups() for alt in page.images["figure-5"][1:4]] == [
        ("6", "0, 2, 4, 6"), ("1.5", "0, 4"), ("0.75", "0")]
    assert len(page.images["curves"]) == 1 and "VisTR: from" in page.images["curves"][0]
    points = [[text for _, text in cells] for cells in page.rows["curves"]]
    assert [(name, seen) for name, seen, *_ in points[1:4]] == [("VisTR", "2"), ("VisTR", "6"), ("VisTR", "12")]


@pytest.mark.slow
def test_failures_are_the_videos_of_the_lowest_video_iou(project):
    params = load_params(project / "params.yaml")
    spec, index = find_evaluation(params, "table1e:w/ CL"), load_index(params, "val")
    results = json.loads(
        (RunStore(params.runs_dir).evaluation_folder(spec.train.key, spec.key) / "results.json").read_text())
    expected = {}
    for v, video in enumerate(index.videos):
        own = [result["segmentations"] for result in results if result["video_id"] == video.id]
        best = [max(_video_iou(track.rles, segmentations) for segmentations in own) for track in index.tracks_of(v)]
        expected[str(video.id)] = f"{np.mean(best):.2f}"
    shown = re.findall(r"Video (\d+): mean video IoU ([\d.]+)", Page(made(params)).words["failures"])
    assert dict(shown) == expected and [iou for _, iou in shown] == sorted(iou for _, iou in shown)


def _video_iou(rles, others):
    def pixels(one, shape):
        return np.stack([decode(rle) if rle else np.zeros(shape, bool) for rle in one])

    shape = next(rle["size"] for rle in rles if rle)
    a, b = pixels(rles, shape), pixels(others, shape)
    return (a & b).sum() / (a | b).sum()


@pytest.mark.slow
def test_the_same_runs_give_the_same_bytes_and_without_them_only_pictures_lack(project, tmp_path):
    params = load_params(project / "params.yaml")
    html = made(params)
    assert made(params) == html and len(html.encode()) < LARGEST_BYTES
    assert made(params, as_sketch=True) != html
    folder = tmp_path / "elsewhere"
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns("runs"))
    elsewhere, here = Page(made(load_params(folder / "params.yaml"))), Page(html)
    assert {name: rows for name, rows in elsewhere.rows.items()} == here.rows, "numbers are of cells"
    assert elsewhere.images.keys() == {"curves"} and here.images.keys() == {"curves", *FIGURES}
    for name in FIGURES:
        assert "The run store lacks the weights or the results of table1" in elsewhere.words[name]
    assert 'pipeline.train --row "table1d:T=18 Fully e2e (ours)"' in elsewhere.words["figure-7"]
    shutil.rmtree(folder / "data")
    assert "shapes-vis is not indexed" in Page(made(load_params(folder / "params.yaml"))).words["figure-6"]


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_whole_and_without_a_complaint(project, monkeypatch, width):
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium: apt-get install chromium")
    monkeypatch.chdir(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / 'here.db'}")
    assert main(["--score", "0"]) == 0
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium)
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(120_000)  # a busy machine must not fail the test
        complaints, asked = [], []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url.partition(":")[0]))
        page.goto((project / "results" / "report" / "index.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width, "wide things scroll by themselves"
        images = page.evaluate("[...document.images].map(image => [image.naturalWidth, image.alt])")
        assert len(images) > 20 and all(width > 0 and alt for width, alt in images)
        for link in page.evaluate("[...document.querySelectorAll('nav a')].map(link => link.hash)"):
            assert page.locator(link).count() == 1, link
        assert page.get_by_role("heading", name="Figure 7").is_visible()
        browser.close()
    assert complaints == [] and set(asked) <= {"file", "data"}
