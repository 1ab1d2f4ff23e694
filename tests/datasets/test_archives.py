"""Archives that escape, link, lie about their size or are broken: none of them writes anything outside its folder."""

import io
import random
import shutil
import stat
import tarfile
import zipfile
from collections import namedtuple

import pytest

from effvis.errors import UserError
from pipeline.datasets.archives import MAX_RATIO, check_room, is_archive, stays_inside, stem, unpack

NOISE = random.Random(0).randbytes(50_000)


@pytest.fixture
def folder(tmp_path):
    """The folder to unpack into, two folders deep."""
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    return tmp_path / "outer" / "inner"


def zipped(tmp_path, entries, name="a.zip"):
    with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, content in entries:
            archive.writestr(entry, content)
    return tmp_path / name


def tarred(tmp_path, entries, name="a.tar.gz"):
    with tarfile.open(tmp_path / name, "w:gz" if name.endswith("gz") else "w") as archive:
        for entry, content in entries:
            info = entry if isinstance(entry, tarfile.TarInfo) else tarfile.TarInfo(entry)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return tmp_path / name


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("pack, name", [(zipped, "a.zip"), (tarred, "a.tar.gz"), (tarred, "a.tar"), (zipped, "no-suffix")])
def test_what_is_in_it_comes_out(tmp_path, folder, pack, name):
    left_out = [("train/Annotations/1/0.png", b"mask"), ("__MACOSX/train.json", b"fork"), ("train/.DS_Store", b"")]
    archive = pack(tmp_path, [("train/JPEGImages/1/0.jpg", NOISE), ("train.json", b"{}"), *left_out], name)
    seen = []
    assert is_archive(archive)
    unpack(archive, folder, lambda *now: seen.append(now))
    assert files(folder) == {"train/JPEGImages/1/0.jpg": NOISE, "train.json": b"{}"}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen) and seen[-1][0] == len(NOISE) + 2


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("name", ["../escaped", "../../escaped", "/tmp/escaped-effvis", "a/../../escaped", "C:/escaped", ".."])
def test_a_path_that_escapes(tmp_path, folder, pack, name):
    archive = pack(tmp_path, [("fine", b"1"), (name, b"2")])
    with pytest.raises(UserError, match="leads out of the folder") as error:
        unpack(archive, folder)
    assert (error.value.where, error.value.key) == (str(archive), name)
    assert {path.name for path in tmp_path.rglob("*")} == {archive.name, "outer", "inner", "fine"}


def test_backslashes_are_slashes_and_escape_no_better(tmp_path, folder):
    unpack(zipped(tmp_path, [("train\\JPEGImages\\0.jpg", b"1")]), folder)
    assert files(folder) == {"train/JPEGImages/0.jpg": b"1"}
    with pytest.raises(UserError, match="leads out"):
        unpack(zipped(tmp_path, [("..\\escaped", b"2")]), folder)


def test_names_that_stay_inside():
    assert all(map(stays_inside, ["a", "a/b.jpg", "a..b/c", "./a"]))
    assert not any(map(stays_inside, ["", ".", "..", "/a", "a/../..", "..\\a", "\\a", "\\\\host\\a", "C:a", "a\0b"]))


def test_links_and_devices(tmp_path, folder):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    archives = [zipped(tmp_path, [(link, "/etc")])]
    for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)):
        entry = tarfile.TarInfo("link")
        entry.type, entry.linkname = kind, "/etc/passwd"
        archives.append(tarred(tmp_path, [(entry, b"")], f"{number}.tar"))
    for archive in archives:
        with pytest.raises(UserError, match="is a link or a device"):
            unpack(archive, folder)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_bomb(tmp_path, folder, pack):
    archive = pack(tmp_path, [("zeros", bytes(30_000_000))])
    allowed = MAX_RATIO * archive.stat().st_size
    assert allowed < 30_000_000
    with pytest.raises(UserError, match=f"more than {MAX_RATIO} times its size. .*--from"):
        unpack(archive, folder)
    assert (folder / "zeros").stat().st_size <= allowed


def test_a_bomb_in_an_archive_inside(tmp_path, folder):
    inner = zipped(tmp_path, [("zeros", bytes(30_000_000))], "inner.zip")
    outer = zipped(tmp_path, [("inner.zip", inner.read_bytes()), ("again.zip", inner.read_bytes())], "outer.zip")
    with pytest.raises(UserError, match="times its size") as error:
        unpack(outer, folder)
    assert error.value.where == str(outer)


def test_a_size_that_is_a_lie(tmp_path, folder):
    """The directory says 1 byte; the bytes that come out are counted all the same."""
    archive = zipped(tmp_path, [("zeros", bytes(30_000_000))])
    content = archive.read_bytes()
    archive.write_bytes(content.replace((30_000_000).to_bytes(4, "little"), (1).to_bytes(4, "little")))
    with pytest.raises(UserError):
        unpack(archive, folder)
    assert sum(map(len, files(folder).values())) <= MAX_RATIO * archive.stat().st_size


def test_an_archive_inside_is_unpacked_beside_itself(tmp_path, folder):
    inner = zipped(tmp_path, [("JPEGImages/1/0.jpg", NOISE)], "train.zip")
    unpack(zipped(tmp_path, [("data/train.zip", inner.read_bytes())], "outer.zip"), folder)
    assert files(folder) == {"data/train/JPEGImages/1/0.jpg": NOISE}


def test_broken_ones(tmp_path, folder):
    whole = zipped(tmp_path, [("a", NOISE), ("b", NOISE)]).read_bytes()
    flipped = tmp_path / "flipped.zip"
    flipped.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(tarred(tmp_path, [("a", NOISE)]).read_bytes()[:-2000])
    for number, archive in enumerate((flipped, cut)):
        with pytest.raises(UserError, match="cannot be unpacked"):
            unpack(archive, folder / str(number))
    short = tmp_path / "short.zip"
    short.write_bytes(whole[:-30])
    assert not is_archive(short)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        is_archive(tmp_path / "none.zip")


def test_the_same_path_twice(tmp_path, folder):
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = zipped(tmp_path, [("a", b"1"), ("a", b"2")])
    with pytest.raises(UserError, match="is in it twice"):
        unpack(twice, folder)
    with pytest.raises(UserError, match="is in it twice"):
        unpack(zipped(tmp_path, [("b", b"1"), ("b/c", b"2")]), folder)


def test_room_is_looked_for_first(tmp_path, folder, monkeypatch):
    archive = zipped(tmp_path, [("a", NOISE), ("Annotations/a", NOISE)])
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6 - 99_999, 99_999))
    check_room([archive], folder)
    with pytest.raises(UserError, match="unpacking takes 100000 bytes, 99999 are free. .*data_dir"):
        check_room([archive, archive], folder)


def test_stems():
    assert [stem(name) for name in ("train.zip", "a.tar.gz", "b.TGZ", "c.json")] == ["train", "a", "b", "c.json"]
