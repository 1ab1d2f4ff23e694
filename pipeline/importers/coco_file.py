"""Reads a COCO JSON file whose annotations have track ids."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from effvis.data import masks
from effvis.data.frame_files import natural
from effvis.data.json_reader import JsonReader
from effvis.data.problems import Problems
from effvis.data.variants import has_extent, is_nothing, shows_nothing
from effvis.errors import UserError
from pipeline.importers.writing import ImportedTrack, ImportedVideo

if TYPE_CHECKING:
    from effvis.data.masks import RLE

FRAME_NUMBERS = ("frame_id", "frame_index")
TRACK_IDS = ("track_id", "instance_id")


@dataclass(frozen=True)
class Image:
    """An entry of ``images``; ``place`` is its place in the file, and ``number`` its own frame number, if it has one."""

    place: str
    id: int
    file_name: str
    height: int
    width: int
    video: str
    number: int | None


@dataclass
class Track:
    """The annotations with one track id in one video: masks by image id."""

    place: str
    category: str
    iscrowd: bool
    rles: dict[int, RLE]


class CocoFile(JsonReader):
    """Reads the file; it does not look at the frames."""

    def __init__(self, file: Path):
        if not file.is_file():
            raise UserError(file, "ANNOTATIONS", "no such file", "Give the JSON file with images and annotations")
        super().__init__(file, Problems(), format="COCO")

    def read(self, folder: Path) -> tuple[list[str], list[ImportedVideo]]:
        """The names of the categories, and the videos."""
        categories = self.categories()
        by_video: dict[str, list[Image]] = defaultdict(list)
        images = self.images(folder)
        for image in images.values():
            by_video[image.video].append(image)
        tracks = self.tracks(images, categories)
        videos = []
        for name, members in by_video.items():
            frames = self.in_order(members)
            self.check_equal_sizes(frames)
            files = [(folder / image.file_name, f"{i:05d}{Path(image.file_name).suffix}") for i, image in enumerate(frames)]
            videos.append(ImportedVideo(name, files, (frames[0].width, frames[0].height), [
                ImportedTrack(track.category, [track.rles.get(image.id) for image in frames], track.iscrowd)
                for track in tracks[name].values()]))
        return list(categories.values()), videos

    def categories(self) -> dict[int, str]:
        names: dict[int, str] = {}
        ids: dict[int, str] = {}
        for i, entry in self.entries(self.content, "categories"):
            place = f"categories[{i}]"
            number, name = self.new_id(entry, place, ids), self.get(entry, "name", str, place)
            if name in names.values():
                raise self.error(f"{place}.name", f"there is a category {name!r} already", "Give each its own name")
            names[number] = name
        if not names:
            raise self.error("categories", "no category", "List the categories with id and name")
        return names

    def images(self, folder: Path) -> dict[int, Image]:
        """The images by id; ``folder`` is what their names are relative to."""
        video_names = self.video_names()
        images, ids = {}, {}
        for i, entry in self.entries(self.content, "images"):
            place = f"images[{i}]"
            number = self.new_id(entry, place, ids)
            file_name = self.file_below(folder, self.get(entry, "file_name", str, place), f"{place}.file_name")
            if video_names:
                video_id = self.get(entry, "video_id", int, place)
                if video_id not in video_names:
                    raise self.error(f"{place}.video_id", f"video id {video_id} is not listed in videos", "List the video")
                video = video_names[video_id]
            else:
                video = PurePosixPath(file_name).parent.as_posix()
            key = next((key for key in FRAME_NUMBERS if key in entry), None)
            images[number] = Image(
                place, number, file_name, self.size(entry, "height", place), self.size(entry, "width", place),
                self.file.stem if video == "." else video, key and self.get(entry, key, int, place))
        if not images:
            raise self.error("images", "no image", "List the frames with id, file_name, height and width")
        return images

    def video_names(self) -> dict[int, str]:
        """Names of the videos by id; empty if the file lists none."""
        names, ids = {}, {}
        for i, entry in [] if is_nothing(self.content.get("videos")) else self.entries(self.content, "videos"):
            place = f"videos[{i}]"
            number = self.new_id(entry, place, ids)
            name = self.get(entry, "name", str, place, str(number))
            self.check_file_name(name, f"{place}.name")
            if name in names.values():
                raise self.error(f"{place}.name", f"there is a video {name!r} already", "Give each its own name")
            names[number] = name
        return names

    def tracks(self, images: dict[int, Image], categories: dict[int, str]) -> dict[str, dict[int, Track]]:
        """The tracks of each video, by track id."""
        tracks: dict[str, dict[int, Track]] = defaultdict(dict)
        for i, entry in self.entries(self.content, "annotations"):
            place = f"annotations[{i}]"
            image = images.get(self.get(entry, "image_id", int, place))
            if image is None:
                raise self.error(f"{place}.image_id", f"image id {entry['image_id']} is not listed in images",
                                 "List the image, or remove the annotation")
            category = categories.get(self.get(entry, "category_id", int, place))
            if category is None:
                raise self.error(f"{place}.category_id", f"category id {entry['category_id']} is not listed in categories",
                                 "List the category, or correct the id")
            crowd = self.crowd(entry, place) if "iscrowd" in entry else False
            number = self.track_id(entry, place)
            mask = self.segmentation(entry, place, image)
            if mask is None:
                continue
            track = tracks[image.video].setdefault(number, Track(place, category, crowd, {}))
            if track.category != category:
                raise self.error(f"{place}.category_id", f"track {number} is a {category} here and a {track.category} in "
                                 f"{track.place}", "Give an object one category, or two track ids")
            if image.id in track.rles:
                self.bend(place, "a track has several annotations in one image, taken as parts of its mask",
                          "Write the parts of an object as polygons of one annotation")
                mask = masks.encode(masks.decode(track.rles[image.id]) | masks.decode(mask))
            track.rles[image.id] = mask
        return tracks

    def segmentation(self, entry: dict, place: str, image: Image) -> masks.RLE | None:
        """The mask of an annotation; None where it says that the object is absent."""
        given, key = entry.get("segmentation"), f"{place}.segmentation"
        if not shows_nothing(given):
            return self.mask(given, key, image.height, image.width)
        box, area = entry.get("bbox"), entry.get("area")
        if has_extent(box, area) or not ("bbox" in entry or "area" in entry):
            raise self.error(key, "no mask", "Annotate polygons or masks; boxes alone do not do")
        self.bend(key, "an annotation without a mask, taken as absent", "Leave it out")
        return None

    def track_id(self, entry: dict, place: str) -> int:
        for key in TRACK_IDS:
            if key in entry:
                return self.get(entry, key, int, place)
        attributes = entry.get("attributes")
        if isinstance(attributes, dict) and "track_id" in attributes:
            return self.get(attributes, "track_id", int, f"{place}.attributes")
        raise self.error(place, "no track_id, instance_id or attributes.track_id",
                         "Give each annotation the number of its object; in CVAT, annotate tracks, not shapes")

    def in_order(self, images: list[Image]) -> list[Image]:
        numbers: dict[int, Image] = {}
        for image in images:
            if image.number is None:
                return sorted(images, key=lambda image: natural(image.file_name))
            if image.number in numbers:
                raise self.error(image.place, f"frame {image.number} of video {image.video} is also "
                                 f"{numbers[image.number].place}", "Number the frames of a video")
            numbers[image.number] = image
        return [numbers[number] for number in sorted(numbers)]

    def check_equal_sizes(self, images: list[Image]) -> None:
        first = images[0]
        for image in images:
            if (image.height, image.width) != (first.height, first.width):
                raise self.error(image.place, f"{image.width}x{image.height}, but {first.place} of the same video is "
                                 f"{first.width}x{first.height}", "Make all frames of a video equal in size")
