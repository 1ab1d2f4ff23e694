"""Remembers what was found when a data set was indexed, so that unchanged files are not read again.

These stamps lie beside the index, not in it: they hold times of files, which are not results. A file's size and its two times
in the file system are trusted (``effvis.data.frames.file_stamp``). A frame whose stamp differs is read again, and so is every
frame after a change of the code that checks.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from effvis.data.frames import CheckedFrame, file_stamp
from effvis.data.parsing import IMAGES, annotation_file
from effvis.files import replacing_file

if TYPE_CHECKING:
    from pipeline.settings.params import Params

ROOT = Path(__file__).resolve().parents[2]
# The code that decides whether a data set is right, and what its index contains.
CODE = ("effvis/data/*.py", "pipeline/indexing/*.py")


@dataclass
class SplitStamp:
    """The stamp of a split: its annotations and every frame, each with its own stamp, and the index made of them.

    Attributes:
        digest: the split's digest.
        index_files: size in bytes of each file of its index, by name.
    """

    annotations: Path
    annotations_stamp: tuple[int, int, int]
    frames: dict[str, CheckedFrame]
    digest: str
    index_files: dict[str, int]


def read(params: Params, splits: Sequence[str]) -> dict[str, SplitStamp]:
    """The stamps of the splits; a stamp that is absent, damaged or made by other code is left out."""
    return {split: stamp for split in splits if (stamp := _read_split(_file(params, split))) is not None}


def write(params: Params, stamps: Mapping[str, SplitStamp]) -> None:
    """Writes the stamps, each whole or not at all."""
    for split, stamp in stamps.items():
        frames = stamp.frames.values()
        with replacing_file(_file(params, split)) as file, file.open("wb") as opened:
            np.savez(
                opened, annotations_stamp=np.array(stamp.annotations_stamp, np.int64),
                facts=_as_json({"code": _code_digest(), "annotations": str(stamp.annotations), "digest": stamp.digest,
                                "index_files": stamp.index_files, "frames": list(stamp.frames)}),
                sizes=np.array([frame.size for frame in frames], np.int64).reshape(-1, 2),
                stamps=np.array([frame.stamp for frame in frames], np.int64).reshape(-1, 3),
                digests=np.frombuffer(b"".join(frame.digest for frame in frames), np.uint8).reshape(-1, 32))


def unchanged(stamp: SplitStamp, folder: Path) -> bool:
    """Whether the annotations and all frames of the split in ``folder`` are as they were."""
    images = f"{folder / IMAGES}/"
    try:
        return (annotation_file(folder) == stamp.annotations and file_stamp(stamp.annotations) == stamp.annotations_stamp
                and all(file_stamp(images + name) == frame.stamp for name, frame in stamp.frames.items()))
    except OSError:
        return False


def _file(params: Params, split: str) -> Path:
    below = params.index_folder.relative_to(params.data_dir / "index")
    return params.data_dir / "stamps" / below / f"{split}.npz"


def _read_split(file: Path) -> SplitStamp | None:
    try:
        with np.load(file, allow_pickle=False) as content:
            facts = json.loads(content["facts"].tobytes())
            if facts["code"] != _code_digest():
                return None
            digests, stamps, sizes = content["digests"], content["stamps"].tolist(), content["sizes"].tolist()
            frames = {name: CheckedFrame(tuple(size), tuple(stamp), digest.tobytes())
                      for name, size, stamp, digest in zip(facts["frames"], sizes, stamps, digests, strict=True)}
            return SplitStamp(Path(facts["annotations"]), tuple(content["annotations_stamp"].tolist()), frames,
                              facts["digest"], facts["index_files"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # the file is absent or damaged: everything is read again


def _as_json(content: dict) -> np.ndarray:
    """JSON as an array of bytes; an array of texts would pad each file name to the longest."""
    return np.frombuffer(json.dumps(content).encode(), np.uint8)


def _code_digest() -> str:
    digest = hashlib.sha256()
    for pattern in CODE:
        for file in sorted(ROOT.glob(pattern)):
            digest.update(file.read_bytes())
    return digest.hexdigest()
