"""Class layers are carried over by name, from published weights to a data set's categories and from those to another's."""

import json

import pytest
import torch
from safetensors.torch import load_file
from support.published_detectors import detector
from support.published_weights import command_in, network
from support.youtube_vis import NAMES_2019, NAMES_2021

from effvis.errors import UserError
from effvis.model.categories import COCO, partners
from effvis.model.convert import convert
from effvis.model.efficientvis import EfficientVIS
from pipeline.datasets import place
from pipeline.grid import starts
from pipeline.indexing.read import FACTS
from pipeline.settings.loading import load_params
from pipeline.weights.convert import read

CLASSES, MASKS = "interactions.0.class_logits.weight", "mask_heads.0.logits.weight"
THEIRS = "roi_head.bbox_head.0.fc_cls.weight"


def pairs(ours, theirs):
    return {name: theirs[partner] for name, partner in zip(ours, partners(ours, theirs), strict=True) if partner is not None}


def test_the_real_data_sets_share_about_twenty_classes_with_coco():
    assert len(NAMES_2019) == len(NAMES_2021) == 40 and len(COCO) == len(set(COCO)) == 80
    first, second = (pairs(names, COCO) for names in (NAMES_2019, NAMES_2021))
    assert len(first) == 19 and len(second) == 21
    assert {name: theirs for name, theirs in {**first, **second}.items() if name.replace("_", " ") != theirs} == {
        "sedan": "car", "motorbike": "motorcycle", "flying_disc": "frisbee"}
    assert "mouse" not in {*first, *second}  # an animal there, a computer's in COCO


def test_a_mouse_is_one_among_animals_and_among_computers():
    shared = pairs(NAMES_2021, NAMES_2019)
    assert len(shared) == 36 and shared["car"] == "sedan" and shared["mouse"] == "mouse"
    assert set(NAMES_2021) - set(shared) == {"bird", "flying_disc", "squirrel", "whale"}
    assert pairs(COCO, COCO) == dict(zip(COCO, COCO, strict=True))
    assert pairs(COCO[::-1], COCO)["mouse"] == "mouse"


def test_the_names_in_the_file_count_and_cocos_only_where_there_are_none():
    published = detector("mmdetection")
    model = network(num_classes=40)
    mirrored = convert(published, model, where="test", categories=NAMES_2019, published_categories=COCO[::-1])
    by_place = convert(published, model, where="test", categories=NAMES_2019)
    person = NAMES_2019.index("person")
    assert torch.equal(mirrored.weights[CLASSES][person], published[THEIRS][-1])
    assert torch.equal(by_place.weights[CLASSES][person], published[THEIRS][0])
    with pytest.raises(UserError, match="names 3 classes, but class layers have 80 rows"):
        convert(published, model, where="start.pth", categories=NAMES_2019, published_categories=("a", "b", "c"))


def test_a_detector_of_the_data_set_itself_keeps_every_class_in_whatever_order():
    published, model = detector("mmdetection", classes=40), network(num_classes=40, mask_classes="specific")
    conversion = convert(published, model, where="test", categories=NAMES_2019, published_categories=NAMES_2019[::-1])
    assert torch.equal(conversion.weights[CLASSES], published[THEIRS].flip(0))
    assert torch.equal(conversion.weights[MASKS], published["roi_head.mask_head.0.conv_logits.weight"].flip(0))
    assert all(conversion.by_name.values())


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    run = command_in(tmp_path)

    def convert_detector(*more, meta=None, classes=80):
        torch.save({"state_dict": detector("mmdetection", classes), "meta": meta or {"epoch": 36}}, tmp_path / "published.pth")
        assert run(tmp_path / "published.pth", "--out", tmp_path / "start.safetensors", *more) == 0
        return load_file(tmp_path / "start.safetensors")

    return convert_detector


def write_index(folder, names):
    """The facts of an index of the parameters' data set."""
    params = load_params(folder / "params.yaml", ["profile=paper"])
    facts = {"name": params.dataset_name, "source": place.describe(params), "digest": "0", "splits": {},
             "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)]}
    params.index_folder.mkdir(parents=True)
    (params.index_folder / FACTS).write_text(json.dumps(facts))


def categories_file(folder, names):
    file = folder / "categories.json"
    file.write_text(json.dumps({"categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)]}))
    return file


@pytest.mark.parametrize("indexed", [True, False])
def test_the_command_carries_classes_over_to_the_data_sets_categories(command, tmp_path, capsys, indexed):
    if indexed:
        write_index(tmp_path, NAMES_2019)
    weights = command(*([] if indexed else ["--categories", categories_file(tmp_path, NAMES_2019)]))
    shown = capsys.readouterr().out.splitlines()
    carried, left = next((number, line) for number, line in enumerate(shown) if "carried over by name" in line)
    assert left.startswith("19 of 40 classes carried over by name: person, skateboard, sedan (car), dog, cat,")
    assert shown[carried + 1].startswith("21 left at init: giant_panda, lizard,") and "mouse" in shown[carried + 1]
    for ours, theirs in pairs(NAMES_2019, COCO).items():
        assert torch.equal(weights[CLASSES][NAMES_2019.index(ours)], detector("mmdetection")[THEIRS][COCO.index(theirs)]), ours
    fresh = [number for number, name in enumerate(NAMES_2019) if name not in pairs(NAMES_2019, COCO)]
    assert torch.equal(weights[CLASSES][fresh], network(num_classes=40).state_dict()[CLASSES][fresh])


@pytest.mark.parametrize("meta", [{"CLASSES": COCO[::-1]}, {"dataset_meta": {"classes": list(COCO[::-1])}},
                                  {"dataset_meta": {"CLASSES": COCO[::-1], "palette": [(1, 2, 3)]}}])
def test_the_command_takes_the_names_of_the_checkpoints_meta(command, tmp_path, meta):
    weights = command("--categories", categories_file(tmp_path, NAMES_2021), meta=meta)
    row = NAMES_2021.index("zebra")
    assert torch.equal(weights[CLASSES][row], detector("mmdetection")[THEIRS][79 - COCO.index("zebra")])


@pytest.mark.parametrize("meta", [{"CLASSES": []}, {"CLASSES": None}, {"CLASSES": (1, 2)}, {"dataset_meta": "coco"}, ["epoch"]])
def test_a_meta_without_names_says_nothing(tmp_path, meta):
    torch.save({"state_dict": detector("mmdetection"), "meta": meta}, tmp_path / "published.pth")
    assert read(tmp_path / "published.pth").classes == ()


def test_a_number_of_classes_alone_has_no_names(command, tmp_path, capsys):
    write_index(tmp_path, NAMES_2019)
    weights = command("--classes", "80")
    shown = capsys.readouterr().out
    assert "by name" not in shown and torch.equal(weights[CLASSES], detector("mmdetection")[THEIRS])
    with pytest.raises(SystemExit):
        command("--classes", "40", "--categories", "youtube-vis-2019")


def test_a_data_set_of_no_name_is_an_error(command):
    with pytest.raises(UserError, match="youtube-vis-2019: there are no annotations of train"):
        command("--categories", "youtube-vis-2019")


@pytest.mark.parametrize("masks", ["agnostic", "specific"])
def test_a_start_for_one_data_set_gives_another_its_classes_by_name(command, tmp_path, masks):
    """Both have 40 categories: by place, a bird would start as a lizard."""
    weights = command("--categories", categories_file(tmp_path, NAMES_2019), "-S", f"model.mask_classes={masks}")
    file = tmp_path / "start.safetensors"
    initial = starts.load_file_start(file, starts.file_start(file))
    config = network(num_classes=40, mask_classes=masks).config.model_copy(update={"clip_length": 3})
    same, other = EfficientVIS(config), EfficientVIS(config)
    fresh = {name: value.clone() for name, value in other.state_dict().items()}
    assert initial.load_into(same, NAMES_2019) == [] and initial.load_into(other, NAMES_2021) == []
    for name, value in same.state_dict().items():
        assert torch.equal(value, weights[name].expand_as(value)), name
    found = pairs(NAMES_2021, NAMES_2019)
    for number, name in enumerate(NAMES_2021):
        row = other.state_dict()[CLASSES][number]
        expected = weights[CLASSES][NAMES_2019.index(found[name])] if name in found else fresh[CLASSES][number]
        assert torch.equal(row, expected), name
    if masks == "specific":
        mask_rows, car = other.state_dict()[MASKS], NAMES_2021.index("car")
        assert torch.equal(mask_rows[car], weights[MASKS][NAMES_2019.index("sedan")])
        torch.testing.assert_close(mask_rows[NAMES_2021.index("whale")], weights[MASKS].mean(dim=0))
    else:
        assert torch.equal(other.state_dict()[MASKS], weights[MASKS])
    three = EfficientVIS(config.model_copy(update={"num_classes": 3}))
    assert initial.load_into(three, ("dog", "whale", "car")) == []
    assert torch.equal(three.state_dict()[CLASSES][0], weights[CLASSES][NAMES_2019.index("dog")])
