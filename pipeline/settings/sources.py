"""Data sets that others publish: where one asks for them, and what one then has.

They are given to those who register. No address of an archive is known here: the servers have moved before. Sources:
datasets/README.md of sukjunhwang/VITA and of zhang-tao-whu/DVIS for pages and layouts; Yang et al., ICCV 2019, the data sets'
own pages and Qi et al., IJCV 2022 (OVIS) for the numbers of videos and categories.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """A published data set.

    Attributes:
        page: where one registers, by name, with its address when this was written.
        files: that are needed of it.
        videos: per split.
        categories: their number.
    """

    title: str
    page: str
    files: str
    videos: dict[str, int]
    categories: int


SOURCES = {
    "youtube-vis-2019": Source(
        "YouTube-VIS 2019", "the page of the Video Instance Segmentation data set of YouTube-VOS, version 2019 "
        "(https://youtube-vos.org/dataset/vis), which leads to its competition", "train.zip, train.json, valid.zip, valid.json",
        {"train": 2238, "val": 302}, 40),
    "youtube-vis-2021": Source(
        "YouTube-VIS 2021", "the page of the Video Instance Segmentation data set of YouTube-VOS, version 2021 "
        "(https://youtube-vos.org/dataset/vis), which leads to its competition", "train.zip, valid.zip",
        {"train": 2985, "val": 421}, 40),
    "ovis": Source(
        "OVIS", "the page of Occluded Video Instance Segmentation (http://songbai.site/ovis), which leads to its competition",
        "train.zip, valid.zip, annotations_train.json, annotations_valid.json", {"train": 607, "val": 140}, 25),
}
