"""A training on single frames may start from ImageNet weights that an installed package holds; no code of the package runs."""

import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from support.builders import tiny_config

from effvis.errors import UserError
from effvis.model.efficientnet import NAMES, EfficientNetLite0
from effvis.model.efficientvis import EfficientVIS
from effvis.vistr.config import VisTRConfig
from effvis.vistr.model import build_vistr
from pipeline.grid import imagenet
from pipeline.grid.rows import headline_spec
from pipeline.settings.loading import load_params
from pipeline.system.files import file_sha256


def published():
    """A file in the package's names: block 4's depthwise convolution is ``_blocks.4._depthwise_conv``."""
    torch.manual_seed(3)
    theirs = {"stem": "_conv_stem", "stem_norm": "_bn0", "expand": "_expand_conv", "expand_norm": "_bn0",
              "depthwise": "_depthwise_conv", "depthwise_norm": "_bn1", "project": "_project_conv", "project_norm": "_bn2"}
    weights = OrderedDict()
    for name, value in EfficientNetLite0().state_dict().items():
        *block, layer, last = name.split(".")
        weights[".".join([*(part.replace("blocks", "_blocks") for part in block), theirs[layer], last])] = \
            torch.rand_like(value)
    return weights | {"_conv_head.weight": torch.rand(1280, 320, 1, 1), "_bn1.num_batches_tracked": torch.tensor(7),
                      "_fc.weight": torch.rand(1000, 1280), "_fc.bias": torch.rand(1000)}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package on Python's path that must not be imported, and its file."""
    folder = tmp_path / "site" / "weights_of_a_test"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    file = folder / "models" / "weights.pth"
    torch.save(published(), file)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setitem(imagenet.PACKAGES, "efficientnet-lite0",
                        imagenet.Package("weights_of_a_test", "models/weights.pth", file_sha256(file), "photo"))
    return file


def config(**changes):
    return tiny_config(1, backbone="efficientnet-lite0", **changes)


def vistr():
    return build_vistr(VisTRConfig(num_classes=3, clip_length=1, queries=4, backbone="efficientnet-lite0", hidden_dim=96,
                                   encoder_layers=1, decoder_layers=1, attention_heads=2, ffn_dim=32, dropout=0.0))


@pytest.mark.parametrize("build, prefix", [(lambda: EfficientVIS(config()), "backbone.body."), (vistr, "body.")])
def test_the_body_gets_the_weights_and_all_else_stays(package, build, prefix):
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stay = imagenet.load(model.config).load_into(model, ["a", "b", "c"])
    after = model.state_dict()
    body = {name for name in after if name.startswith(prefix)}
    assert set(stay) == set(after) - body and all(torch.equal(after[name], before[name]) for name in stay)
    weights = published()
    assert torch.equal(after[f"{prefix}stem.weight"], weights["_conv_stem.weight"])
    assert torch.equal(after[f"{prefix}blocks.4.depthwise.weight"], weights["_blocks.4._depthwise_conv.weight"])
    assert torch.equal(after[f"{prefix}blocks.15.project_norm.running_var"], weights["_blocks.15._bn2.running_var"])
    assert not any(torch.equal(after[name], before[name]) for name in body)
    assert "weights_of_a_test" not in sys.modules and len(NAMES) == 8


def test_another_file_is_refused_and_a_missing_package_has_a_remedy(package, monkeypatch):
    package.write_bytes(package.read_bytes() + b"!")
    with pytest.raises(UserError, match="is not the file of ImageNet weights.*photo"):
        imagenet.load(config())
    monkeypatch.setitem(imagenet.PACKAGES, "efficientnet-lite0", imagenet.Package("no_such_package", "x.pth", "0", "photo"))
    with pytest.raises(UserError, match="no_such_package, with .* is not installed. Run make setup"):
        imagenet.load(config())


def test_no_code_of_the_file_runs(package, tmp_path, monkeypatch):
    class Harmful:
        def __reduce__(self):
            return Path.touch, (tmp_path / "harm",)

    torch.save({"_conv_stem.weight": Harmful()}, package)
    monkeypatch.setitem(imagenet.PACKAGES, "efficientnet-lite0",
                        imagenet.Package("weights_of_a_test", "models/weights.pth", file_sha256(package), "photo"))
    with pytest.raises(Exception, match="[Ww]eights.only"):
        imagenet.load(config())
    assert not (tmp_path / "harm").exists()


def test_the_pretraining_starts_there_and_no_other_key_changes(tiny_project):
    project = tiny_project()

    def pretraining(*settings):
        return headline_spec(load_params(project / "params.yaml", ["pretrain.source=scratch", *settings])).train.parent

    lite = pretraining("model.backbone=efficientnet-lite0")
    begun = pretraining("model.backbone=efficientnet-lite0", "pretrain.start=imagenet")
    assert lite.init is None and begun.key != lite.key
    assert begun.init == "imagenet:efficientnet-lite0@579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    with pytest.raises(UserError, match="no package has weights of a tiny. Set model.backbone to efficientnet-lite0"):
        pretraining("pretrain.start=imagenet")


def test_the_published_file_if_the_extra_is_installed():
    try:
        weights = imagenet.read("efficientnet-lite0")
    except UserError as error:
        pytest.skip(str(error))
    body = EfficientNetLite0()
    body.load_state_dict(imagenet.load(config()).weights)
    assert torch.equal(body.blocks[4].depthwise.weight, weights["_blocks.4._depthwise_conv.weight"])
