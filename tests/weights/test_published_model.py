"""--model takes the name of a published model: its file is fetched once and converted once, whatever happens on the way."""

import hashlib
import io
import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.models import noise, put_frames
from support.project import CHECKOUT
from support.published_detectors import detector
from support.published_weights import FFN, INNER, MASK_ROI, PROPOSALS, ROI, STAGES, WIDTH
from support.unreliable_server import serving

import effvis
from effvis import model_file
from effvis.errors import UserError
from pipeline import evaluate, export, import_weights, predict
from pipeline.datasets import fetch
from pipeline.indexing.read import load_index
from pipeline.methods.base import Published
from pipeline.settings.loading import load_params
from pipeline.weights import converted, fetched
from pipeline.weights.published import REGISTRY, model_names

SIZES = dict(hidden_dim=WIDTH, dynamic_dim=INNER, ffn_dim=FFN, roi_size=ROI, mask_roi_size=MASK_ROI, iterations=STAGES,
             attention_heads=2, mask_convs=1)
SMALL = [word for name, size in SIZES.items() for word in ("-S", f"queryinst.model.{name}={size}")]
SMALL += ["-S", "queryinst.input_size=[32, 48]", "-S", "queryinst.inference.presence_threshold=0"]


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def content():
    """A small QueryInst of 80 classes as mmdetection saves it."""
    return saved({"state_dict": detector("mmdetection"), "meta": {}})


@pytest.fixture
def site(content):
    with serving(content) as site:
        yield site


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "PAUSE_SECONDS", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "effvis"


@pytest.fixture
def clip(tmp_path):
    return put_frames(tmp_path / "clip", noise(2, 32, 48))


def entry(url, digest, **changes):
    address = url.replace("weights", f"weights-{digest[:8]}")
    return Published(address, "resnet18", "COCO", "this test", methods=("queryinst",), **({"model": "queryinst"} | changes))


@pytest.fixture
def mine(site, monkeypatch):
    """The site's file under the name ``mine``."""
    published = entry(site.url, hashlib.sha256(site.content).hexdigest())
    monkeypatch.setitem(REGISTRY, "mine", published)
    return published


def follow(clip, out, *arguments):
    given = ["--params", str(CHECKOUT / "params.yaml"), *SMALL, "--no-overlay", "--score", "0", *arguments]
    assert predict.main([str(clip), "--model", "mine", "--out", str(out), *given]) == 0
    return json.loads((out / "clip_results.json").read_text())


def folders(cache):
    return [path for path in (cache / "models" / "mine").iterdir()]


def test_a_name_is_fetched_and_converted_once(site, mine, cache, clip, tmp_path, monkeypatch, capsys):
    first = follow(clip, tmp_path / "first")
    assert first and "bicycle" in capsys.readouterr().err
    (folder,) = folders(cache)
    assert (cache / "published" / mine.file).read_bytes() == site.content and len(site.requests) == 1
    loaded = effvis.load(folder)
    assert [category.name for category in loaded.categories][:2] == ["person", "bicycle"] and len(loaded.categories) == 80
    assert loaded.model.config.queries == PROPOSALS and loaded.model.config.backbone == "resnet18"
    published = detector("mmdetection")["roi_head.bbox_head.1.fc_cls.weight"]
    assert torch.equal(load_file(folder / "weights.safetensors")["interactions.1.class_logits.weight"], published)

    site.always = {"status": 503}
    (cache / "published" / mine.file).unlink()
    monkeypatch.setattr(converted, "write", None)  # whoever would write a model again fails
    assert follow(clip, tmp_path / "second") == first and len(site.requests) == 1


def test_its_settings_count_when_it_is_used_not_when_it_is_made(site, mine, cache, clip, tmp_path):
    assert follow(clip, tmp_path / "all")
    assert follow(clip, tmp_path / "none", "-S", "queryinst.inference.presence_threshold=1.0") == []
    (folder,) = folders(cache)
    out = tmp_path / "exported"
    given = ["--params", str(CHECKOUT / "params.yaml"), *SMALL, "-S", "queryinst.input_size=[16, 24]"]
    assert export.main(["--model", "mine", "--out", str(out), *given]) == 0
    written = yaml.safe_load((out / "config.yaml").read_text())
    assert written["input_size"] == [16, 24] and effvis.load(out).input_size == (16, 24)
    assert (out / "weights.safetensors").read_bytes() == (folder / "weights.safetensors").read_bytes()


def test_published_input_size_and_threshold_count_whatever_the_projects_profile(site, mine, cache, tmp_path):
    given = ["--params", str(CHECKOUT / "params.yaml"), *SMALL[: 2 * len(SIZES)]]
    assert export.main([*given, "--model", "mine", "--out", str(tmp_path / "m")]) == 0
    written = yaml.safe_load((tmp_path / "m" / "config.yaml").read_text())
    assert written["input_size"] == {"shorter": 800, "longer": 1333}
    assert written["inference"]["presence_threshold"] == 0.3


def test_it_is_scored_on_a_data_set_of_its_classes(tiny_project, cache, tmp_path, monkeypatch):
    project = tiny_project()
    names = tuple(category.name for category in load_index(load_params(project / "params.yaml"), "val").categories)
    weights = saved({"state_dict": detector("mmdetection", len(names)), "meta": {"CLASSES": names}})
    with serving(weights) as site:
        monkeypatch.setitem(REGISTRY, "mine", entry(site.url, hashlib.sha256(weights).hexdigest()))
        given = ["--params", str(project / "params.yaml"), *SMALL]
        assert evaluate.main([*given, "--model", "mine", "--out", str(tmp_path / "scores")]) == 0
    assert json.loads((tmp_path / "scores" / "results.json").read_text())


def test_an_interrupted_download_goes_on(site, mine, cache, clip, tmp_path):
    site.plans = [{"breaks_after": 100_000}]
    assert follow(clip, tmp_path / "out")
    assert [headers.get("Range") for headers in site.requests] == [None, "bytes=100000-"]


def test_another_file_than_the_published_one_is_refused(site, mine, cache, clip, tmp_path):
    site.content += b"more"
    with pytest.raises(UserError, match=f"{mine.file}.*sha256.*starts with"):
        follow(clip, tmp_path / "out")
    assert not (cache / "published" / mine.file).exists() and folders(cache) == [] and not (tmp_path / "out").exists()


def test_a_file_of_another_size_than_its_publisher_says_is_refused(tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(bytes(3 << 20))
    fetched.check_size(entry("http://here/weights.pth", "0" * 64, mib=3.4), file)
    fetched.check_size(entry("http://here/weights.pth", "0" * 64), file)
    with pytest.raises(UserError, match="3.000 MiB, the published file 5"):
        fetched.check_size(entry("http://here/weights.pth", "0" * 64, mib=5), file)


def test_without_a_network_the_error_says_what_to_get_and_where_to_put_it(content, cache, clip, tmp_path, monkeypatch):
    digest = hashlib.sha256(content).hexdigest()
    published = entry("http://127.0.0.1:9/weights.pth", digest)  # nobody listens at the port "discard"
    monkeypatch.setitem(REGISTRY, "mine", published)
    place = cache / "published" / published.file
    with pytest.raises(UserError) as caught:
        follow(clip, tmp_path / "out")
    said = str(caught.value)
    assert "\n" not in said and published.url in said and f"put it at {place}" in said
    place.write_bytes(content[:-1])
    with pytest.raises(UserError, match=f"{place}: sha256"):
        follow(clip, tmp_path / "out")
    place.write_bytes(content)
    assert follow(clip, tmp_path / "out")


def test_the_place_can_be_set(site, mine, cache, clip, tmp_path):
    follow(clip, tmp_path / "out", "-S", f"cache_dir={tmp_path / 'mine'}")
    assert (tmp_path / "mine" / "published" / mine.file).is_file() and not cache.exists()
    params = load_params(CHECKOUT / "params.yaml", ["cache_dir=there"])
    assert params.cache_folder == CHECKOUT / "there"


@pytest.mark.parametrize("given, folder", [(None, ".cache"), ("", ".cache"), ("relative", ".cache"), ("/elsewhere", None)])
def test_the_cache_is_where_xdg_says(monkeypatch, tmp_path, given, folder):
    """XDG Base Directory Specification: $HOME/.cache if it is not set or empty; relative paths are invalid and ignored."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if given is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", given)
    found = load_params(CHECKOUT / "params.yaml").cache_folder
    assert str(found) == (f"{tmp_path}/.cache/effvis" if folder else "/elsewhere/effvis")


def test_a_conversion_that_is_killed_leaves_no_broken_model(site, mine, cache, clip, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model_file.yaml, "safe_dump", killed)  # the weights are written, their description is not yet
        with pytest.raises(KeyboardInterrupt):
            follow(clip, tmp_path / "out")
    assert folders(cache) == []
    # One that could not even tidy up:
    (cache / "models" / "mine" / ".half.tmp" / "new").mkdir(parents=True)
    assert follow(clip, tmp_path / "out")
    assert len(folders(cache)) == 1 and len(site.requests) == 1


def test_two_at_once_fetch_and_convert_once(site, mine, cache, tmp_path):
    program = f"""
import argparse
from pipeline.methods.base import Published
from pipeline.weights.published import REGISTRY
from pipeline.weights.published_model import model_folder, settings_of
REGISTRY["mine"] = {mine!r}
options = argparse.Namespace(params={str(CHECKOUT / "params.yaml")!r}, set={SMALL[1::2]!r})
print(model_folder("mine", settings_of("mine", options)))
"""
    path = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
    both = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env=os.environ | {"PYTHONPATH": path}) for _ in range(2)]
    ended = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    (folder,) = folders(cache)
    assert {out.strip() for out, _ in ended} == {str(folder)} and len(site.requests) == 1
    assert sum("becomes a model" in said for _, said in ended) == 1
    effvis.load(folder)


@pytest.mark.parametrize("name", ["resnet50", "sparse-rcnn-r50", "detr-r50"])
def test_a_name_that_is_only_a_start_is_refused_with_what_it_is_for(cache, clip, tmp_path, name):
    given = ["--params", str(CHECKOUT / "params.yaml"), "--model", name, "--no-overlay", "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match=f"{name}: is no whole model.*queryinst-r50,.*--published {name}"):
        predict.main([str(clip), *given])
    assert not cache.exists()


def test_what_is_no_name_either_is_told_the_names(cache, clip, tmp_path):
    given = ["--params", str(CHECKOUT / "params.yaml"), "--model", "queryinst", "--no-overlay", "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match="no run's key.*Names of models: .*queryinst-r50"):
        predict.main([str(clip), *given])


def test_a_cache_that_cannot_be_written_is_told(site, mine, cache, clip, tmp_path):
    cache.parent.mkdir()
    cache.write_text("a file is in the way")
    with pytest.raises(UserError, match="cache_dir"):
        follow(clip, tmp_path / "out")


def test_the_list_says_which_names_are_models(capsys):
    assert set(model_names()) == {name for name in REGISTRY if name.startswith(("queryinst", "masktrack"))}
    with pytest.raises(SystemExit):
        import_weights.main(["--list"])
    shown = capsys.readouterr().out
    assert [name for name in REGISTRY if f"--model {name} " in shown] == list(model_names())
