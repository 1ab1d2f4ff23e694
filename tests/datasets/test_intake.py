"""Published data sets in their various layouts, from folders, archives and a real server, are brought into one layout."""

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import yaml
from support import published_layouts as published
from support.unreliable_server import serving

from effvis.data.youtube_vis import read_split
from effvis.errors import UserError
from pipeline.datasets import fetch, place
from pipeline.indexing import build as build_module
from pipeline.indexing import read as read_module
from pipeline.settings.loading import load_params
from pipeline.settings.params import ArchiveSettings
from pipeline.settings.sources import SOURCES

PROFILES = Path(__file__).resolve().parents[2] / "experiments" / "profiles"
LAYOUTS = {"2019": published.of_2019, "2021": published.of_2021, "ovis": published.of_ovis, "vistr": published.of_vistr}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return published.draw(tmp_path_factory.mktemp("drawn") / "shapes")


@pytest.fixture
def project(tmp_path) -> Path:
    folder = tmp_path / "project"
    shutil.copytree(PROFILES, folder / "experiments" / "profiles")
    (folder / "params.yaml").write_text(yaml.safe_dump({"profile": "laptop", "dataset": "youtube-vis-2019",
                                                        "index": {"clip_lengths": [1]}}))
    return folder


def take(project, *locations, overrides=(), progress=None):
    params = load_params(project / "params.yaml", overrides)
    taken = place.put_in_place(params, progress, [ArchiveSettings(location=str(location)) for location in locations])
    return params, taken


def assert_taken_in(params, drawn):
    """The data set equals the drawn one, frame by frame and annotation by annotation; val has no instances."""
    for split in ("train", "val"):
        found = read_split(params.dataset_folder / split, require_annotations=split == "train")
        expected = read_split(drawn / split)
        assert (found.categories, found.videos) == (expected.categories, expected.videos)
        assert [t.rles for t in found.tracks] == ([t.rles for t in expected.tracks] if split == "train" else [])
        for video in expected.videos:
            for name in video.file_names:
                assert (found.images / name).read_bytes() == (expected.images / name).read_bytes()
        if split == "train":
            assert found.digest == expected.digest
        assert sorted(path.name for path in (params.dataset_folder / split).iterdir()) == ["JPEGImages", "instances.json"]
    assert not [path.name for path in params.data_dir.iterdir() if path.name.endswith(".tmp")]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_unpacked_folder(project, drawn, tmp_path, layout):
    folder = LAYOUTS[layout](drawn, tmp_path / "unpacked")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    seen = []
    params, taken = take(project, folder, progress=lambda *now: seen.append(now))
    assert taken and seen[-1] == (6, 6, "frames of val") and (36, 36, "frames of train") in seen
    assert_taken_in(params, drawn)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before, "the user's folder stays as it is"
    frame = next((params.dataset_folder / "train").rglob("*.jpg"))
    assert frame.stat().st_nlink == 2, "no byte is stored twice"
    assert take(project, folder)[1] is False and take(project)[1] is False, "it is there already"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_archive_of_everything(project, drawn, tmp_path, layout):
    LAYOUTS[layout](drawn, tmp_path / "unpacked" / "VIS")
    params, _ = take(project, published.packed(tmp_path / "all.zip", tmp_path / "unpacked", "VIS"))
    assert_taken_in(params, drawn)


def test_the_files_of_2019_one_by_one(project, drawn, tmp_path):
    folder = published.of_2019(drawn, tmp_path / "unpacked")
    files = [published.packed(tmp_path / f"{name}.zip", folder, name) for name in ("train", "valid")]
    params, _ = take(project, *files, folder / "train.json", folder / "valid.json")
    assert_taken_in(params, drawn)


def test_a_folder_of_archives_as_they_were_downloaded(project, drawn, tmp_path):
    """Only the archives' own names tell their splits; useless archives are not opened."""
    folder, downloads = published.of_2021(drawn, tmp_path / "unpacked"), tmp_path / "downloads"
    downloads.mkdir()
    for name in ("train", "valid"):
        published.packed(downloads / f"{name}.zip", folder / name, "JPEGImages", "instances.json")
    for name in ("test.zip", "valid_all_frames.zip"):
        (downloads / name).write_bytes(b"cut off")
    params, _ = take(project, downloads)
    assert_taken_in(params, drawn)


def test_an_archive_of_archives(project, drawn, tmp_path):
    folder = published.of_ovis(drawn, tmp_path / "unpacked")
    for name in ("train", "valid"):
        published.packed(folder / f"{name}.zip", folder, name)
        shutil.rmtree(folder / name)
    params, _ = take(project, published.packed(tmp_path / "bundle.zip", folder, "train.zip", "valid.zip",
                                               "annotations_train.json", "annotations_valid.json"))
    assert_taken_in(params, drawn)


def test_what_is_missing_can_be_added_later(project, drawn, tmp_path):
    folder = published.of_2021(drawn, tmp_path / "unpacked")
    with pytest.raises(UserError, match="no such folder.*holdout does without val"):
        take(project, folder / "train")
    with pytest.raises(UserError, match="is not here.*https"):
        take(project)
    assert take(project, overrides=["holdout.fraction=0.2"])[1] is False, "a holdout needs no val"
    params, taken = take(project, folder / "valid")
    assert taken
    assert_taken_in(params, drawn)


def test_a_data_set_of_ones_own_under_a_name(project, drawn, tmp_path):
    archive = published.packed(tmp_path / "mine.zip", published.of_2021(drawn, tmp_path / "unpacked"), ".")
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    given = f"sources.mine.archives=[{{location: ../mine.zip, sha256: '{sha256}', size: {archive.stat().st_size}}}]"
    params, taken = take(project, overrides=["dataset=mine", given])
    assert taken and params.dataset_folder == project / "data" / "mine"
    assert_taken_in(params, drawn)
    with pytest.raises(UserError, match="sha256: starts with"):
        take(project, overrides=["dataset=other", given.replace("mine.arch", "other.arch").replace(sha256, "0" * 64)])
    with pytest.raises(UserError, match="Give its archives with --from, or list them under sources.third.archives"):
        take(project, overrides=["dataset=third", "sources.third.archives=[]"])


@pytest.mark.parametrize("name", SOURCES)
def test_without_a_file_it_says_where_one_registers(project, name):
    with pytest.raises(UserError) as error:
        take(project, overrides=[f"dataset={name}"])
    text = str(error.value)
    assert SOURCES[name].page in text and SOURCES[name].files in text
    assert f"pipeline.download -S dataset={name} --from FOLDER" in text
    with pytest.raises(UserError, match="Open the new page, register"):
        take(project, overrides=[f"dataset={name}", f"sources.{name}.page=the new page"])


def test_the_index_and_the_paper_profile_know_the_names(project, drawn, tmp_path):
    with pytest.raises(UserError, match="not in place.*pipeline.download -S dataset=youtube-vis-2019"):
        build_module.build(load_params(project / "params.yaml"))
    folder = published.of_2019(drawn, tmp_path / "unpacked")
    paper = ["profile=paper", "dataset=youtube-vis-2019", "index.clip_lengths=[2]"]
    params = load_params(project / "params.yaml", paper)
    assert params.with_dataset("youtube-vis-2021").published_name == "youtube-vis-2021"
    assert params.with_dataset("youtube-vis-2019").published_name == "youtube-vis-2019"
    assert load_params(project / "params.yaml", [*paper, "dataset=data/ovis"]).published_name == "ovis"
    take(project, folder)
    build_module.build(params)
    assert read_module.dataset_facts(params).name == "youtube-vis-2019"


# Tests with a server.

@pytest.fixture
def site(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "PAUSE_SECONDS", 0)
    folder = published.of_2019(drawn, tmp_path / "unpacked")
    with serving(published.packed(tmp_path / "all.zip", folder, ".").read_bytes()) as site:
        yield site


def archives(site, **facts):
    return f"sources.youtube-vis-2019.archives={json.dumps([{'location': site.url, **facts}])}"


@pytest.mark.parametrize("seed", range(3))
def test_a_connection_that_breaks_at_random(project, drawn, site, seed):
    breaks = random.Random(seed).randrange(1, len(site.content))
    site.plans = [{"breaks_after": breaks}]
    facts = {"sha256": hashlib.sha256(site.content).hexdigest(), "size": len(site.content)}
    params, _ = take(project, overrides=[archives(site, **facts)])
    assert [headers.get("Range") for headers in site.requests] == [None, f"bytes={breaks}-"]
    assert_taken_in(params, drawn)
    shutil.rmtree(params.dataset_folder)
    take(project, overrides=[archives(site, **facts)])
    assert len(site.requests) == 2, "the archive is still here"


def test_a_server_without_ranges(project, drawn, site):
    site.ranges = False
    site.plans = [{"breaks_after": 1000}]
    assert_taken_in(take(project, site.url)[0], drawn)
    assert len(site.requests) == 2


def test_a_wrong_archive_is_not_unpacked(project, site):
    for facts, key in (({"sha256": "0" * 8}, "sha256"), ({"size": 7}, "size")):
        with pytest.raises(UserError) as error:
            take(project, overrides=[archives(site, **facts)])
        assert (error.value.where, error.value.key) == (site.url, key)
    assert not (project / "data" / "youtube-vis-2019").exists()


def test_a_page_that_asks_for_a_login(project, drawn, site):
    archive = site.content
    site.content = b"\n<!doctype html><title>Sign in</title>"
    with pytest.raises(UserError, match="is a web page, not an archive.*--from FILE"):
        take(project, site.url)
    site.content = archive
    assert_taken_in(take(project, site.url)[0], drawn)


def test_an_archive_that_escapes(project, drawn, tmp_path, site):
    import zipfile

    escaping = tmp_path / "escaping.zip"
    escaping.write_bytes(site.content)
    with zipfile.ZipFile(escaping, "a") as archive:
        archive.writestr("../../../../escaped", b"2")
    site.content = escaping.read_bytes()
    with pytest.raises(UserError, match="leads out of the folder"):
        take(project, site.url)
    assert sorted(path.name for path in (project / "data").iterdir()) == ["archives"]
    assert not list(tmp_path.rglob("escaped"))


# Tests with things that are not data sets.

def rewrite(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a/../../secret.jpg", "C:\\secret.jpg", "", 7])
def test_annotations_that_lead_out(project, drawn, tmp_path, name):
    folder = published.of_2021(drawn, tmp_path / "unpacked")
    (tmp_path / "unpacked" / "train" / "secret.jpg").write_bytes(b"secret")
    rewrite(folder / "train" / "instances.json", lambda content: content["videos"][1]["file_names"].__setitem__(2, name))
    with pytest.raises(UserError, match="leaves the data set folder|is not a file name") as error:
        take(project, folder)
    assert error.value.where == str(folder / "train" / "instances.json")
    assert error.value.key == "videos[1].file_names[2]"
    assert not (project / "data" / "youtube-vis-2019").exists()


def test_a_frame_that_is_a_link(project, drawn, tmp_path):
    folder, elsewhere = published.of_2021(drawn, tmp_path / "unpacked"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    frame = folder / "train" / "JPEGImages" / "00001" / "00001.jpg"
    frame.rename(elsewhere / "frame.jpg")
    frame.symlink_to(elsewhere / "frame.jpg")
    with pytest.raises(UserError, match=f"is a link to {elsewhere}/frame.jpg. .*another --from: {elsewhere}$"):
        take(project, folder)
    assert_taken_in(take(project, folder, elsewhere)[0], drawn)


def test_frames_that_are_missing(project, drawn, tmp_path):
    folder = published.of_2021(drawn, tmp_path / "unpacked")
    (folder / "train" / "JPEGImages" / "00002" / "00001.jpg").unlink()
    with pytest.raises(UserError, match=r"train/instances.json: videos\[2\].file_names\[1\]: missing frame file"):
        take(project, folder)
    for split in ("train", "valid", "test"):
        shutil.rmtree(folder / split / "JPEGImages")
    with pytest.raises(UserError, match="the frame 00000/00000.jpg is in none of the folders"):
        take(project, folder)
    for name in ("a", "b"):
        (folder / name / "00000").mkdir(parents=True)
        (folder / name / "00000" / "00000.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=f"is in {folder}/a and in {folder}/b. Put .* named train"):
        take(project, folder)


def test_annotations_of_several_names(project, drawn, tmp_path):
    folder = published.of_2021(drawn, tmp_path / "unpacked")
    (folder / "train.json").write_text("train/instances.json is surer")
    assert_taken_in(take(project, folder)[0], drawn)
    shutil.rmtree(project / "data")
    shutil.copytree(folder / "train", folder / "copy" / "train")
    with pytest.raises(UserError, match="may both be the annotations of train"):
        take(project, folder)


@pytest.mark.parametrize("content, problem", [
    ("{", "unreadable JSON"), ("[]", "no list of videos"), ('{"videos": [3]}', "no list of frames"),
    ('{"videos": []}', "lists no frame")])
def test_annotations_that_are_none(project, drawn, tmp_path, content, problem):
    file = published.of_2021(drawn, tmp_path / "unpacked") / "train" / "instances.json"
    file.write_text(content)
    with pytest.raises(UserError, match=problem) as error:
        take(project, file.parents[1])
    assert error.value.where == str(file)
    file.unlink()
    with pytest.raises(UserError, match="no annotations of train.*train.zip, train.json, valid.zip"):
        take(project, file.parents[1])


def test_what_is_no_archive(project, tmp_path):
    for name, content in (("page.zip", "<html>"), ("cut.zip", "PK")):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=rf"{name}: --from: is (a web page|neither a folder nor a whole zip)"):
            take(project, tmp_path / name)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        take(project, tmp_path / "nowhere.zip")
    with pytest.raises(UserError, match="own is no published data set. .*youtube-vis-2019, youtube-vis-2021, ovis"):
        take(project, tmp_path, overrides=["dataset=own"])


def test_what_the_user_has_there_is_not_replaced(project, drawn, tmp_path):
    precious = project / "data" / "youtube-vis-2019" / "train" / "precious"
    precious.parent.mkdir(parents=True)
    precious.write_text("mine")
    with pytest.raises(UserError, match="something else in this folder"):
        take(project, published.of_2021(drawn, tmp_path / "unpacked"))
    assert precious.read_text() == "mine"


def test_frames_of_another_file_system_are_copied(project, drawn, tmp_path, monkeypatch):
    def another_device(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", another_device)
    folder = published.of_2021(drawn, tmp_path / "unpacked")
    params, _ = take(project, folder)
    assert_taken_in(params, drawn)
    assert next(params.dataset_folder.rglob("*.jpg")).stat().st_nlink == 1


@pytest.mark.skipif(not Path("/dev/shm").is_dir() or os.stat("/dev/shm").st_dev == os.stat("/tmp").st_dev,
                    reason="needs a second file system, /dev/shm")
def test_copies_need_room(project, drawn, tmp_path, monkeypatch):
    import tempfile

    usage = namedtuple("usage", "total used free")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        folder = published.of_2021(drawn, Path(other) / "unpacked")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6 - 100, 100))
        with pytest.raises(UserError, match=r"copying the frames of .* takes \d+ bytes, 100 are free"):
            take(project, folder)
        monkeypatch.undo()
        assert_taken_in(take(project, folder)[0], drawn)


def test_the_command(project, drawn, tmp_path):
    def command(*words):
        return subprocess.run([sys.executable, "-m", *words], cwd=project, capture_output=True, text=True)

    missing = command("pipeline.download")
    assert missing.returncode == 2 and missing.stderr.count("\n") == 1 and "youtube-vos.org" in missing.stderr
    published.of_2019(drawn, tmp_path / "unpacked")
    done = command("pipeline.download", "--from", "../unpacked")
    assert done.returncode == 0 and "youtube-vis-2019: taken in" in done.stderr
    assert re.search("train: 12 videos and 6 categories; YouTube-VIS 2019 is published with 2238 and 40", done.stderr)
    assert "already there" in command("pipeline.download").stderr
    indexed = command("pipeline.index")
    assert indexed.returncode == 0 and "val has no instances" in indexed.stderr and "holdout.fraction=0.1" in indexed.stderr
