"""MaskTrack R-CNN (Yang, Fan, Xu, ICCV 2019), a peer of tables 2 and 3: Mask R-CNN frame by frame, with a tracking head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from effvis.config import Config
from effvis.data.sizes import InputSize
from effvis.masktrack_rcnn.config import MaskTrackConfig, MaskTrackInference, MaskTrackTrainConfig
from effvis.tracking.config import CueWeights
from pipeline.methods.base import Classes, Method, PretrainSettings, Published

if TYPE_CHECKING:
    from effvis.data.dataset import DatasetIndex
    from effvis.inference.predictor import Predictions
    from effvis.masktrack_rcnn.model import MaskTrackRCNN
    from effvis.model.conversion import Conversion

_MASK_RCNN = "open-mmlab/mmdetection, configs/mask_rcnn/metafile.yml"
_MASKTRACK = "open-mmlab/mmtracking, configs/vis/masktrack_rcnn/metafile.yml"


class MaskTrackModelSettings(MaskTrackConfig):
    """``MaskTrackConfig`` without the number of classes, which the dataset decides."""

    num_classes: int = 1

    def resolve(self, num_classes: int, clip_length: int) -> MaskTrackConfig:
        """The network. It looks at single frames, whatever the clip length of a row."""
        return MaskTrackConfig(**{**self.model_dump(), "num_classes": num_classes})


class MaskTrackPretrainSettings(PretrainSettings):
    train: MaskTrackTrainConfig = MaskTrackTrainConfig()


class MaskTrackInferenceSettings(Config):
    """Values of ``inference`` that MaskTrack R-CNN's rows replace, and its own."""

    presence_threshold: float | None = Field(None, ge=0, le=1, description="None: inference.presence_threshold")
    nms_iou: float = Field(0.5, gt=0, le=1)
    detections: int = Field(10, ge=1)
    cues: CueWeights = CueWeights()


class MaskTrackSettings(Config):
    """All settings of MaskTrack R-CNN that it does not share with EfficientVIS."""

    input_size: InputSize | None = Field(None, description="None: as the other methods'")
    inference: MaskTrackInferenceSettings = MaskTrackInferenceSettings()
    model: MaskTrackModelSettings = MaskTrackModelSettings()
    pretrain: MaskTrackPretrainSettings = MaskTrackPretrainSettings()
    train: MaskTrackTrainConfig = MaskTrackTrainConfig()


def train_config(settings: MaskTrackSettings, correspondence: bool) -> MaskTrackTrainConfig:
    return settings.train


def pretrain_config(settings: MaskTrackSettings, correspondence: bool) -> MaskTrackTrainConfig:
    return settings.pretrain.train


def clips_per_video(train: MaskTrackTrainConfig, clip_length: int, longest_video: int) -> int:
    """Two frames: the second shows where the first one's objects were seen before. A still picture has no second one."""
    return 2 if longest_video > 1 else 1


def losses(model: MaskTrackRCNN, train: MaskTrackTrainConfig) -> Callable[..., dict[str, Any]]:
    from effvis.masktrack_rcnn.losses import pair_losses

    return partial(pair_losses, model, train=train)


def predict(
    model: MaskTrackRCNN, index: DatasetIndex, config: MaskTrackInference, input_size: InputSize,
    progress: Callable[[int, int], None] | None,
) -> Predictions:
    from effvis.inference.predictor import predict_tracked
    from effvis.masktrack_rcnn.track import track

    return predict_tracked(model, index, config, track=track, input_size=input_size, progress=progress)


def convert(
    published: Mapping[str, Any], settings: MaskTrackSettings, classes: Classes, clip_length: int | None, where: Path, hint: str
) -> Conversion:
    from effvis.masktrack_rcnn.convert import convert_masktrack, published_form
    from effvis.masktrack_rcnn.model import MaskTrackRCNN

    config = published_form(published, settings.model.resolve(classes.number, 1))
    return convert_masktrack(published, MaskTrackRCNN(config), where=where, hint=hint)


def _published() -> Iterator[tuple[str, Published]]:
    for name, config, stamp, what in (
        ("mask-rcnn-r50-1x", "mask_rcnn_r50_fpn_1x_coco", "20200205-d4b0c5d6", "1x"),
        ("mask-rcnn-r50", "mask_rcnn_r50_fpn_mstrain-poly_3x_coco", "20210524_201154-21b550bb", "3x"),
        ("mask-rcnn-r101-1x", "mask_rcnn_r101_fpn_1x_coco", "20200204-1efe0ed5", "1x"),
        ("mask-rcnn-r101", "mask_rcnn_r101_fpn_mstrain-poly_3x_coco", "20210524_200244-5675c317", "3x"),
    ):
        yield name, Published(
            f"https://download.openmmlab.com/mmdetection/v2.0/mask_rcnn/{config}/{config}_{stamp}.pth",
            "resnet101" if "-r101" in name else "resnet50", f"COCO, Mask R-CNN, {what}", _MASK_RCNN)
    for name, config, stamp in (
        ("masktrack-r50", "masktrack_rcnn_r50_fpn_12e_youtubevis2019", "20211022_194830-6ca6b91e"),
        ("masktrack-r101", "masktrack_rcnn_r101_fpn_12e_youtubevis2019", "20211023_150038-454dc48b"),
        ("masktrack-r50-2021", "masktrack_rcnn_r50_fpn_12e_youtubevis2021", "20211026_044948-10da90d9"),
        ("masktrack-r101-2021", "masktrack_rcnn_r101_fpn_12e_youtubevis2021", "20211026_045509-3c49e4f3"),
    ):
        yield name, Published(
            f"https://download.openmmlab.com/mmtracking/vis/masktrack_rcnn/{config}/{config}_{stamp}.pth",
            "resnet101" if "-r101" in name else "resnet50",
            f"YouTube-VIS {'2021' if name.endswith('2021') else '2019'}, MaskTrack R-CNN", _MASKTRACK)


_PUBLISHED = dict(_published())

METHOD = Method(
    name="masktrack_rcnn", title="MaskTrack R-CNN", section="masktrack_rcnn", settings=MaskTrackSettings,
    derived={"model.clip_length": "MaskTrack R-CNN looks at single frames"},
    train_config=train_config, pretrain_config=pretrain_config, clips_per_video=clips_per_video, losses=losses, predict=predict,
    inference=MaskTrackInference, training_code=("effvis.masktrack_rcnn.losses",),
    evaluation_code=("effvis.masktrack_rcnn.track",),
    reads=("Mask R-CNN", "MaskTrack R-CNN"), published=_PUBLISHED,
    models=tuple(name for name in _PUBLISHED if name.startswith("masktrack")), convert=convert,
    usual_start={"resnet50": "mask-rcnn-r50-1x", "resnet101": "mask-rcnn-r101-1x"})
