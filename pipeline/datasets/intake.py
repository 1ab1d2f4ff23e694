"""Imports a published data set: downloads and unpacks it, and brings its splits into one layout in data/<name>."""

from __future__ import annotations

import hashlib
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from effvis.data.parsing import annotation_file
from effvis.errors import UserError
from effvis.files import replacing_folder
from pipeline.datasets import archives, layouts
from pipeline.datasets.fetch import SCHEMES, download, verify
from pipeline.datasets.holdout import splits_needed
from pipeline.datasets.layouts import SPLITS
from pipeline.settings.sources import SOURCES

if TYPE_CHECKING:
    from pipeline.datasets.layouts import OnFilesDone
    from pipeline.settings.params import ArchiveSettings, Params

# Archives in a folder that are of no use here: published test splits have no ground truth, and nobody annotated all frames.
UNUSED = re.compile(r"(^|[^a-z])test([^a-z]|$)|all_frames", re.IGNORECASE)


def install(params: Params, given: Sequence[ArchiveSettings], progress: OnFilesDone | None) -> bool:
    """Imports the splits that are missing in data/<name>, each whole or not at all; a test split only of one's own data set.

    Args:
        given: the archives to import; if empty, those of the parameters.

    Returns:
        Whether any split was imported.

    Raises:
        UserError: a split is needed and nothing is given (the error says where to get it), or the given files are wrong.
    """
    folder = params.dataset_folder
    source, own = SOURCES.get(params.published_name), params.sources.get(params.published_name)
    lacking = [split for split in (SPLITS if source is None else source.videos) if annotation_file(folder / split) is None]
    if not given and lacking == ["test"]:  # there may be none: only who gives files now is told whether it is in them
        return False
    given = given or (own.archives if own is not None else ())
    if not given and set(lacking) & set(splits_needed(params)):
        raise UserError(params.dataset_name, "dataset", "is not here", _where_to_get_it(params))
    if not given or not lacking:
        return False
    params.data_dir.mkdir(parents=True, exist_ok=True)
    # This folder is beside the data set, so that frames can be linked instead of copied.
    with tempfile.TemporaryDirectory(prefix=f".{params.published_name}.", suffix=".tmp", dir=params.data_dir) as workshop:
        roots = _roots(params, [_local(params, archive, progress) for archive in given], Path(workshop), progress)
        found = {}
        for split in lacking:
            found[split] = layouts.find_split(roots, split)
            if found[split] is None and split == "train":
                raise UserError(", ".join(archive.location for archive in given), "--from", "no annotations of train are in it",
                                f"Give all of {_files(params)}; known layouts are in docs/datasets.md")
        for split, one in found.items():
            if one is not None:
                _bring(one, roots, folder / split, split, progress)
                _compare(params, split, one)
    return any(found.values())


def _where_to_get_it(params: Params) -> str:
    name = params.published_name
    own, source = params.sources.get(name), SOURCES.get(name)
    page = (own and own.page) or (source and source.page)
    if page is None:
        return f"Give its archives with --from, or list them under sources.{name}.archives"
    return (f"It is given to those who register. Open {page}, register, download {_files(params)}, and run "
            f"python -m pipeline.download -S dataset={name} --from FOLDER, the folder being where they are")


def _files(params: Params) -> str:
    source = SOURCES.get(params.published_name)
    return source.files if source is not None else "its archives"


def _local(params: Params, archive: ArchiveSettings, progress: OnFilesDone | None) -> Path:
    """The archive as a file or folder on this machine; an address is downloaded unless that was done before."""
    address = urlsplit(archive.location)
    if address.scheme not in SCHEMES:
        path = params.root / archive.location
        if archive.sha256 is not None or archive.size is not None:
            verify(path, sha256=archive.sha256, size=archive.size)
        return path
    name = re.sub(r"[^\w.-]", "_", Path(address.path).name) or "archive"
    # Two addresses may end in the same name.
    folder = params.data_dir / "archives" / hashlib.sha256(archive.location.encode()).hexdigest()[:8]
    file = folder / name
    download(archive.location, file, sha256=archive.sha256, size=archive.size,
          progress=(lambda done, total: progress(done >> 20, (total or done) >> 20, f"MiB of {name}")) if progress else None)
    if _is_web_page(file):
        file.unlink()
        raise UserError(archive.location, "(download)", "is a web page, not an archive: it may want a login",
                        "Download it in a browser, and give the file with --from FILE")
    return file


def _is_web_page(file: Path) -> bool:
    with file.open("rb") as content:
        return content.read(256).lstrip()[:1] == b"<"


def _roots(params: Params, paths: Sequence[Path], workshop: Path, progress: OnFilesDone | None) -> list[layouts.Root]:
    """The folders to search: those given, and those into which archives that are given, or lie in them, are unpacked."""
    roots, packed = [], []
    for path in paths:
        if path.is_dir():
            roots.append(layouts.Root(path))
            packed += [file for file in sorted(path.iterdir()) if file.name.lower().endswith(archives.SUFFIXES)
                       and not UNUSED.search(file.name) and not (path / archives.stem(file.name)).is_dir()]
        elif archives.is_archive(path):
            packed.append(path)
        elif path.suffix.lower() == ".json":
            roots.append(_alone(path, workshop / f"file-{len(roots)}" / path.parent.name))
        else:
            what = "is a web page" if _is_web_page(path) else "is neither a folder nor a whole zip, tar or JSON file"
            raise UserError(path, "--from", what,
                            "Give what was published, all of it; where a login is needed, download it in a browser")
    archives.check_room(packed, workshop)
    for i, archive in enumerate(packed):
        # The folder has the archive's name: train.zip may hold JPEGImages without naming the split inside.
        folder = workshop / str(i) / archives.stem(archive.name)
        folder.mkdir(parents=True)
        archives.unpack(archive, folder, (lambda done, total, name=archive.name: progress(
            done >> 20, total >> 20, f"MiB of {name}")) if progress else None)
        roots.append(layouts.Root(folder))
    return roots


def _alone(file: Path, folder: Path) -> layouts.Root:
    """A folder with a file that was given alone, without its neighbours; the name of its own folder may name the split."""
    folder.mkdir(parents=True)
    (folder / file.name).symlink_to(file.resolve())
    return layouts.Root(folder)


def _bring(found: layouts.Split, roots: Sequence[layouts.Root], folder: Path, split: str, progress: OnFilesDone | None) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise UserError(folder, "dataset", "there is something else in this folder, which would be replaced",
                        "Move it away, or set data_dir to another folder")
    try:
        with replacing_folder(folder) as new:
            layouts.bring(found, roots, new,
                          (lambda done, total: progress(done, total, f"frames of {split}")) if progress else None)
    except OSError as error:
        raise UserError(error.filename or folder, "(file)", f"cannot be written: {error.strerror or error}",
                        "Make room, or set data_dir to another folder") from None


def _compare(params: Params, split: str, found: layouts.Split) -> None:
    """Warns if a split does not have the size that its authors state: it may be a part, or another version."""
    source = SOURCES.get(params.published_name)
    videos, categories = len(found.content["videos"]), len(found.content.get("categories") or ())
    if source is not None and (videos, categories) != (source.videos[split], source.categories):
        print(f"{split}: {videos} videos and {categories} categories; {source.title} is published with "
              f"{source.videos[split]} and {source.categories}", file=sys.stderr)
