"""Published weights become a model's folder that is scored, without a description written by hand."""

import json

import torch
import yaml
from safetensors.torch import load_file
from support.literal_detr import CLASSES, FFN, FRAMES, HEADS, LAYERS, QUERIES, WIDTH, literal_segmenter
from support.published_detectors import detector
from support.published_weights import command_in

import effvis
from pipeline import evaluate, import_weights
from pipeline.grid import starts
from pipeline.indexing.read import load_index
from pipeline.settings.loading import load_params

SIZES = {"backbone": "resnet18", "hidden_dim": WIDTH, "queries": QUERIES, "encoder_layers": LAYERS, "decoder_layers": LAYERS,
         "attention_heads": HEADS, "ffn_dim": FFN}


def test_a_vistr_is_converted_with_the_names_of_the_data_set_and_scored(tiny_project, tmp_path):
    project = tiny_project(inference={"presence_threshold": 0.0})
    index = load_index(load_params(project / "params.yaml"), "val")
    published = literal_segmenter("vistr").state_dict()
    torch.save({"model": published}, tmp_path / "vistr.pth")
    sizes = [word for name, value in SIZES.items() for word in ("-S", f"vistr.model.{name}={value}")]
    of_project = ["--params", str(project / "params.yaml")]
    folder = tmp_path / "model"
    assert import_weights.main([*of_project, str(tmp_path / "vistr.pth"), "--method", "vistr", "--profile", "laptop",
                                "--out", str(folder), *sizes]) == 0
    loaded = effvis.load(folder)
    assert list(loaded.categories) == list(index.categories) and len(index.categories) == CLASSES
    assert loaded.model.config.clip_length == FRAMES and loaded.inference.linking == "hand-craft"
    assert loaded.input_size == (32, 48)
    assert torch.equal(loaded.model.state_dict()["class_logits.weight"], published["vistr.class_embed.weight"])
    written = yaml.safe_load((folder / "config.yaml").read_text())
    assert written["provenance"]["converted"] == "VisTR" and written["provenance"]["file"] == "vistr.pth"

    assert evaluate.main([*of_project, "--model", str(folder), "--out", str(tmp_path / "scores")]) == 0
    assert json.loads((tmp_path / "scores" / "metrics.json").read_text())["weights_sha256"] == written["sha256"]


def test_a_detector_is_converted_with_its_own_names_and_scored_and_can_be_a_start(tiny_project, tmp_path):
    project = tiny_project()
    names = tuple(category.name for category in load_index(load_params(project / "params.yaml"), "val").categories)
    published, folder = detector("mmdetection", len(names)), tmp_path / "model"
    torch.save({"state_dict": published, "meta": {"CLASSES": names}}, tmp_path / "published.pth")
    settings = ["-S", "input_size=[32, 48]", "-S", "inference.presence_threshold=0"]
    (tmp_path / "paper").mkdir()
    assert command_in(tmp_path / "paper")(tmp_path / "published.pth", "--out", folder, *settings) == 0
    written = yaml.safe_load((folder / "config.yaml").read_text())
    assert [label["name"] for label in written["labels"]] == list(names)
    assert all(".attention.temporal." in name for name in written["provenance"]["left_at_init"])

    given = ["--params", str(project / "params.yaml"), "--model", str(folder), "--out", str(tmp_path / "scores")]
    assert evaluate.main(given) == 0
    assert json.loads((tmp_path / "scores" / "results.json").read_text())

    file = folder / "weights.safetensors"
    start = starts.load_file_start(file, starts.file_start(file))
    model = effvis.load(folder).model
    assert start.classes == names and start.load_into(model, names[::-1]) == []
    name = "interactions.1.class_logits.weight"
    assert torch.equal(model.state_dict()[name], load_file(file)[name].flip(0))
