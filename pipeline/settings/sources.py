"""Data sets that others publish: where to request them, and what they contain.

They require registration. This project stores no addresses of archives, because the servers have moved before. Sources:
datasets/README.md of sukjunhwang/VITA and of zhang-tao-whu/DVIS for pages and layouts; Yang et al., ICCV 2019, the data sets'
own pages and Qi et al., IJCV 2022 (OVIS) for the numbers of videos and categories.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """A published data set.

    Attributes:
        page: the name of the page where users register, with its address at the time of writing.
        files: the files that are needed.
        videos: the number of videos per split.
        categories: the number of categories.
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
