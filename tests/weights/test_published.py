"""Published files by name, downloaded and checked; and the command for VisTR."""

import hashlib
import io
import re

import pytest
import torch
from safetensors.torch import load_file
from support.published_weights import Harmful, command_in, published_weights
from support.unreliable_server import serving

from effvis.errors import UserError
from effvis.model.resnet import ARCHITECTURES
from effvis.vistr.config import VisTRConfig
from effvis.vistr.model import build_vistr
from pipeline import import_weights, methods
from pipeline.datasets import fetch
from pipeline.grid.starts import check_form
from pipeline.weights.published import REGISTRY, Published

SMALL = {"backbone": "resnet18", "hidden_dim": 96, "ffn_dim": 24, "encoder_layers": 1, "decoder_layers": 1, "queries": 3}
SETTINGS = [argument for key, value in SMALL.items() for argument in ("-S", f"vistr.model.{key}={value}")]


@pytest.mark.parametrize("name", REGISTRY)
def test_every_published_file_says_where_it_is_and_how_it_is_known(name):
    file = REGISTRY[name]
    assert re.fullmatch(r"https://(download\.(pytorch\.org|openmmlab\.com)|dl\.fbaipublicfiles\.com)/\S+\.pth", file.url)
    assert re.fullmatch(r"[0-9a-f]{8}", file.sha256) and file.file.endswith(f"-{file.sha256}.pth")
    assert file.backbone in ARCHITECTURES and set(file.methods) <= set(methods.names()) and file.document
    # The address names the same backbone.
    assert re.search({"resnet18": "resnet18", "resnet50": "r(esnet)?50", "resnet101": "r(esnet)?101"}[file.backbone], file.file)


def test_no_two_names_are_one_file():
    assert len({file.url for file in REGISTRY.values()}) == len({file.sha256 for file in REGISTRY.values()}) == len(REGISTRY)


def test_the_list_shows_every_address(capsys):
    with pytest.raises(SystemExit) as end:
        import_weights.main(["--list"])
    shown = capsys.readouterr().out
    assert end.value.code == 0
    assert all(file.url in shown and file.document in shown and f"{name}:" in shown for name, file in REGISTRY.items())


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "PAUSE_SECONDS", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return command_in(tmp_path)


@pytest.fixture
def site():
    with serving(saved(published_weights("resnet18"))) as site:
        yield site


def publish(monkeypatch, site, content=None):
    """Lists the site's file as ``mine``; if other content is given, the name has that content's checksum."""
    digest = hashlib.sha256(site.content if content is None else content).hexdigest()
    url = site.url.replace("weights", f"weights-{digest[:8]}")
    file = Published(url, "resnet18", "test", "this test", methods=methods.names())
    monkeypatch.setitem(REGISTRY, "mine", file)
    return file


def test_a_published_file_is_downloaded_once_and_converted(run, site, tmp_path, monkeypatch):
    file = publish(monkeypatch, site)
    site.plans = [{"breaks_after": 1_000_000}]
    for _ in range(2):
        assert run("--published", "mine", "--out", tmp_path / "start.safetensors") == 0
    assert [headers.get("Range") for headers in site.requests] == [None, "bytes=1000000-"]
    assert (tmp_path / "cache" / "effvis" / "published" / file.file).read_bytes() == site.content
    weights = load_file(tmp_path / "start.safetensors")
    assert torch.equal(weights["backbone.body.conv1.weight"], published_weights("resnet18")["conv1.weight"])


def test_another_file_than_the_published_one_is_refused(run, site, tmp_path, monkeypatch):
    file = publish(monkeypatch, site, content=b"what was published")
    with pytest.raises(UserError, match="starts with"):
        run("--published", "mine", "--out", tmp_path / "start.safetensors")
    kept = tmp_path / "cache" / "effvis" / "published" / file.file
    assert not (tmp_path / "start.safetensors").exists() and not kept.exists()


def test_no_code_of_a_downloaded_file_runs(run, site, tmp_path, monkeypatch):
    site.content = saved({"state_dict": published_weights("resnet18"), "meta": Harmful()})
    publish(monkeypatch, site)
    with pytest.raises(UserError, match="holds no plain weights"):
        run("--published", "mine", "--out", tmp_path / "start.safetensors")
    assert len(site.requests) == 1
    assert not (tmp_path / "harm").exists() and not (tmp_path / "start.safetensors").exists()


def test_a_file_downloaded_by_hand_is_checked_and_taken(run, site, tmp_path, monkeypatch):
    publish(monkeypatch, site)
    site.always = {"status": 403}
    with pytest.raises(UserError, match=f"put it at {tmp_path}"):
        run("--published", "mine", "--out", tmp_path / "start.safetensors")
    site.requests.clear()
    (tmp_path / "by_hand.pth").write_bytes(site.content)
    assert run("--published", "mine", "--from", tmp_path / "by_hand.pth", "--out", tmp_path / "start.safetensors") == 0
    (tmp_path / "by_hand.pth").write_bytes(site.content[:-1])
    with pytest.raises(UserError, match="starts with"):
        run("--published", "mine", "--from", tmp_path / "by_hand.pth", "--out", tmp_path / "other.safetensors")
    assert not site.requests and not (tmp_path / "other.safetensors").exists()


@pytest.mark.parametrize("arguments, key, problem", [
    (["--published", "resnet51"], "resnet51", "no such file.* resnet50"),
    (["--published", "detr-r50"], "detr-r50", "no start for efficientvis. Add --method vistr"),
    (["--published", "queryinst-r50", "--method", "vistr"], "queryinst-r50", "no start for vistr. Add --method efficientvis"),
    (["--published", "resnet50"], "resnet50", "has a resnet50, the model a resnet18. Add -S model.backbone=resnet50"),
    (["--published", "resnet18", "--method", "vistr"], "resnet18", "a resnet50. Add -S vistr.model.backbone=resnet18"),
    (["file.pth", "--from", "file.pth"], "file.pth", "Add --published NAME"),
    (["file.pth", "--clip-length", "2"], "2", "no number of frames"),
])
def test_what_does_not_go_together_is_said_before_anything_is_downloaded(run, tmp_path, arguments, key, problem):
    with pytest.raises(UserError, match=problem) as error:
        run(*arguments, "--out", tmp_path / "start.safetensors")
    assert error.value.key == key and not (tmp_path / "cache").exists()


@pytest.mark.parametrize("arguments", [[], ["file.pth", "--published", "resnet50"]])
def test_one_file_has_to_be_given(run, tmp_path, arguments):
    with pytest.raises(SystemExit) as end:
        run(*arguments, "--out", tmp_path / "start.safetensors")
    assert end.value.code == 2


def vistr(**changes):
    return build_vistr(VisTRConfig(**({"num_classes": 40, "clip_length": 1} | SMALL | changes)))


def published_vistr(frames=36):
    """The parts of a VisTR checkpoint that distinguish it from a DETR's, as its authors save it."""
    torch.manual_seed(1)
    body = {f"vistr.backbone.0.body.{name}": value for name, value in published_weights("resnet18").items()
            if not name.startswith("fc.")}
    return body | {"vistr.query_embed.weight": torch.randn(3 * frames, 96), "insmask_head.0.weight": torch.randn(3, 6, 3, 3, 3)}


def in_parts(queries_NTC, parts):
    """The means over as many equal parts of the clip, repeated to its length."""
    return queries_NTC.unflatten(1, (parts, -1)).mean(dim=2).repeat_interleave(queries_NTC.shape[1] // parts, dim=1)


@pytest.mark.parametrize("given, frames", [((), 36), (("--clip-length", 36), 36), (("--clip-length", 18), 18),
                                           (("--clip-length", 1), 1)])
def test_a_start_for_vistr_has_the_files_frames_or_the_wanted_ones(run, tmp_path, capsys, monkeypatch, given, frames):
    monkeypatch.setenv("COLUMNS", "200")
    torch.save({"model": published_vistr()}, tmp_path / "vistr.pth")
    assert run(tmp_path / "vistr.pth", "--method", "vistr", *given, "--classes", 5, *SETTINGS,
               "--out", tmp_path / "start.safetensors") == 0
    shown = capsys.readouterr().out
    assert "vistr.pth: VisTR" in shown and (f"36 frames averaged to {frames}" in shown) == (frames != 36)
    weights = load_file(tmp_path / "start.safetensors")
    assert weights["query_NTC"].shape == (3, frames, 96)
    model = vistr(num_classes=5, clip_length=36, absent_row=True)
    assert model.load_initial(weights) == []
    queries = published_vistr()["vistr.query_embed.weight"].view(36, 3, 96).transpose(0, 1)
    torch.testing.assert_close(model.query_NTC.data, in_parts(queries, frames))


@pytest.mark.parametrize("extra, right", [(1, "true"), (0, "false")])
def test_a_start_for_vistr_says_whether_absence_has_a_row(run, tmp_path, extra, right):
    rows = {f"vistr.class_embed.{part}": torch.randn(6 + extra, *shape) for part, shape in (("weight", (96,)), ("bias", ()))}
    torch.save({"model": published_vistr() | rows}, tmp_path / "vistr.pth")
    run(tmp_path / "vistr.pth", "--method", "vistr", "--classes", 5, *SETTINGS, "--out", tmp_path / "start.safetensors")

    def check(absent_row):
        network = vistr(absent_row=absent_row).config
        check_form(tmp_path / "start.safetensors", network, where="params.yaml", prefix="vistr.model.")

    check(bool(extra))
    with pytest.raises(UserError, match=f"start.safetensors were made with {right}.*Set vistr.model.absent_row: {right}"):
        check(not extra)


def test_what_nothing_was_published_for_is_drawn_the_same_each_time(run, tmp_path):
    torch.save(published_weights("resnet18"), tmp_path / "resnet18.pth")
    for name in "ab":
        run(tmp_path / "resnet18.pth", "--method", "vistr", *SETTINGS, "--out", tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize("method, weights, other", [
    ("efficientvis", lambda: published_vistr(), "vistr"),
    ("vistr", lambda: {"roi_head.bbox_head.0.fc_cls.weight": torch.zeros(1)}, "efficientvis"),
])
def test_weights_for_the_other_method_are_told(run, tmp_path, method, weights, other):
    torch.save({"model": weights()}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=f"no known network.*need --method {other}"):
        run(tmp_path / "other.pth", "--method", method, "--out", tmp_path / "start.safetensors")
