"""Weights of VisTR's authors become a model's folder that is scored, without a description written by hand."""

import json

import torch
import yaml
from support.literal_detr import CLASSES, FFN, FRAMES, HEADS, LAYERS, QUERIES, WIDTH, literal_segmenter

import effvis
from pipeline import evaluate, import_weights
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
