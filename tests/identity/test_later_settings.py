"""A setting that was added later is in no key while it has its default, so that earlier trainings still count."""

import pytest

from effvis.config import (
    Config,
    HandcraftConfig,
    InferenceConfig,
    LossWeights,
    ModelConfig,
    OptimisationConfig,
    TrainConfig,
    later,
)
from effvis.vistr.config import VisTRConfig, VisTRLossWeights, VisTRTrainConfig
from pipeline import methods
from pipeline.identity.digests import key

# What was in the keys when the committed cells were made. A field that is added to one of these is made with
# ``effvis.config.later``; this list stays as it is. Two fields are exceptions: ``mask_query`` and ``matching`` came later, but
# their defaults change results, so that earlier trainings must not count.
FIRST = {
    ModelConfig: "num_classes clip_length queries iterations hidden_dim backbone attention_heads ffn_dim dynamic_dim roi_size "
                 "mask_roi_size mask_convs mask_query similarity_temperature attention dynamic_conv neighbour_crop query",
    LossWeights: "focal l1 giou dice bce",
    OptimisationConfig: "epochs batch_size lr backbone_lr lr_drop_epoch warmup_steps weight_decay clip_norm horizontal_flip "
                        "augmentation scales crop_share",
    TrainConfig: "epochs batch_size lr backbone_lr lr_drop_epoch warmup_steps weight_decay clip_norm horizontal_flip "
                 "augmentation scales crop_share correspondence matching loss",
    InferenceConfig: "linking test_fps scored_frames presence_threshold mask_threshold reinit_after max_tracklets handcraft",
    HandcraftConfig: "box_iou box_l1 mask_iou category new_tracklet_below score_threshold",
    VisTRConfig: "num_classes clip_length queries backbone hidden_dim encoder_layers decoder_layers attention_heads ffn_dim "
                 "dropout",
    VisTRLossWeights: "category l1 giou focal dice no_object",
    VisTRTrainConfig: "epochs batch_size lr backbone_lr lr_drop_epoch warmup_steps weight_decay clip_norm horizontal_flip "
                      "augmentation scales crop_share loss",
}
REQUIRED = {"num_classes": 5, "clip_length": 3}


class Before(Config):
    width: int = 3


class After(Before):
    depth: int = later(2, description="came later")


def in_key(config):
    return key({"model": config.model_dump(mode="json")})


def test_at_its_default_it_changes_no_key():
    assert in_key(After()) == in_key(After(depth=2)) == in_key(Before())


def test_at_another_value_it_makes_another_key():
    assert len({in_key(Before()), in_key(After(depth=3)), in_key(After(depth=4))}) == 3
    assert After.model_validate(After(depth=3).model_dump()) == After(depth=3)


@pytest.mark.parametrize("kind", FIRST, ids=lambda kind: kind.__name__)
def test_no_field_was_added_to_keys(kind):
    required = {name: value for name, value in REQUIRED.items() if name in kind.model_fields}
    assert set(kind(**required).model_dump()) == set(FIRST[kind].split()), (
        f"make the new field of {kind.__name__} with effvis.config.later, or the keys of all earlier runs change")


def test_the_list_has_the_configurations_of_all_methods_that_had_runs_then():
    for name in ("efficientvis", "vistr"):
        settings = methods.get(name).settings.model_fields
        assert any(issubclass(settings["model"].annotation, kind) for kind in FIRST)
        assert any(issubclass(settings["train"].annotation, kind) for kind in FIRST)
