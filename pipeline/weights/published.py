"""Published weights that can be had by name: where they lie, and which document says so.

Each file's name ends in the first 8 hex digits of its SHA-256. torchvision and DETR load theirs with ``check_hash=True``, which
is this convention of torch.hub; mmdetection's tools/model_converters/publish_model.py gives names by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from effvis.errors import UserError
from pipeline.identity.digests import METHODS

_TORCHVISION = "torchvision 0.29.1, torchvision/models/resnet.py"
_SPARSE_RCNN = "open-mmlab/mmdetection, configs/sparse_rcnn/metafile.yml"
_QUERYINST = "open-mmlab/mmdetection, configs/queryinst/metafile.yml"
_DETR = "facebookresearch/detr, README.md and hubconf.py"


@dataclass(frozen=True)
class Published:
    """A published file.

    Attributes:
        methods: the networks that it can be a start for.
        backbone: as in ``model.backbone`` and ``vistr.model.backbone``.
        what: it holds, in a few words.
        document: that gives the address.
        mib: its size as the document rounds it, or None where it says nothing.
    """

    url: str
    methods: tuple[str, ...]
    backbone: str
    what: str
    document: str
    mib: float | None = None

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def sha256(self) -> str:
        """The first 8 hex digits."""
        return self.file.removesuffix(".pth").rpartition("-")[2]


def find(name: str) -> Published:
    """The file of a name.

    Raises:
        UserError: there is none of this name.
    """
    if name not in REGISTRY:
        raise UserError("--published", name, "there is no such file in the list", f"Known names: {', '.join(REGISTRY)}")
    return REGISTRY[name]


def _torchvision() -> Iterator[tuple[str, Published]]:
    for name, file, recipe, mib in (
        ("resnet18", "resnet18-f37072fd", 1, 44.661),
        ("resnet50", "resnet50-0676ba61", 1, 97.781),
        ("resnet50-v2", "resnet50-11ad3fa6", 2, 97.79),
        ("resnet101", "resnet101-63fe2227", 1, 170.511),
        ("resnet101-v2", "resnet101-cd907fc2", 2, 170.53),
    ):
        yield name, Published(f"https://download.pytorch.org/models/{file}.pth", METHODS, name.removesuffix("-v2"),
                              f"ImageNet (IMAGENET1K_V{recipe})", _TORCHVISION, mib)


def _mmdetection() -> Iterator[tuple[str, Published]]:
    for name, config, stamp, what in (
        ("sparse-rcnn-r50-1x", "sparse_rcnn_r50_fpn_1x_coco", "20201222_214453-dc79b137", "100 proposals, 1x"),
        ("sparse-rcnn-r50", "sparse_rcnn_r50_fpn_mstrain_480-800_3x_coco", "20201218_154234-7bc5c054", "100 proposals, 3x"),
        ("sparse-rcnn-r50-300", "sparse_rcnn_r50_fpn_300_proposals_crop_mstrain_480-800_3x_coco",
         "20201223_024605-9fe92701", "300 proposals, 3x"),
        ("sparse-rcnn-r101", "sparse_rcnn_r101_fpn_mstrain_480-800_3x_coco", "20201223_121552-6c46c9d6", "100 proposals, 3x"),
        ("sparse-rcnn-r101-300", "sparse_rcnn_r101_fpn_300_proposals_crop_mstrain_480-800_3x_coco",
         "20201223_023452-c23c3564", "300 proposals, 3x"),
        ("queryinst-r50-1x", "queryinst_r50_fpn_1x_coco", "20210907_084916-5a8f1998", "100 proposals, 1x"),
        ("queryinst-r50", "queryinst_r50_fpn_mstrain_480-800_3x_coco", "20210901_103643-7837af86", "100 proposals, 3x"),
        ("queryinst-r50-300", "queryinst_r50_fpn_300_proposals_crop_mstrain_480-800_3x_coco",
         "20210904_101802-85cffbd8", "300 proposals, 3x"),
        ("queryinst-r101", "queryinst_r101_fpn_mstrain_480-800_3x_coco", "20210904_104048-91f9995b", "100 proposals, 3x"),
        ("queryinst-r101-300", "queryinst_r101_fpn_300_proposals_crop_mstrain_480-800_3x_coco",
         "20210904_153621-76cce59f", "300 proposals, 3x"),
    ):
        masks = name.startswith("queryinst")
        folder = "queryinst" if masks else "sparse_rcnn"
        yield name, Published(
            f"https://download.openmmlab.com/mmdetection/v2.0/{folder}/{config}/{config}_{stamp}.pth", ("efficientvis",),
            "resnet101" if "-r101" in name else "resnet50", f"COCO, {what}{', masks' if masks else ''}",
            _QUERYINST if masks else _SPARSE_RCNN)


def _detr() -> Iterator[tuple[str, Published]]:
    # Without the DC5 files: their last stage was trained dilated, at twice the resolution.
    for file, mib in (("detr-r50-e632da11", 159), ("detr-r101-2c7b67e5", 232), ("detr-r50-panoptic-00ce5173", 165),
                      ("detr-r101-panoptic-40021d53", 237)):
        name = file.rpartition("-")[0]
        yield name, Published(
            f"https://dl.fbaipublicfiles.com/detr/{file}.pth", ("vistr",), "resnet101" if "-r101" in name else "resnet50",
            f"COCO, width 256{', panoptic masks' if 'panoptic' in name else ''}", _DETR, mib)


REGISTRY = dict((*_torchvision(), *_mmdetection(), *_detr()))
