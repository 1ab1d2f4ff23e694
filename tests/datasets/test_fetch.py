"""Downloads from a real server on the loopback that breaks, forgets, changes its mind and lies."""

import hashlib
import random
import shutil
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.servers import free_port
from support.unreliable_server import serving

from effvis.errors import UserError
from pipeline.datasets import fetch as fetching
from pipeline.datasets.fetch import RETRIES, download, verify

CONTENT = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(fetching, "PAUSE_SECONDS", 0)
    with serving(CONTENT) as site:
        yield site


@pytest.fixture
def target(tmp_path):
    return tmp_path / "published" / "weights.pth"


def left_over(target):
    return sorted(path.name for path in target.parent.iterdir() if not path.name.endswith(".lock"))


def ranges(site):
    return [headers.get("Range") for headers in site.requests]


def test_a_file_arrives_and_stays(site, target):
    seen = []
    assert download(site.url, target, sha256=sha256(CONTENT), size=len(CONTENT), progress=lambda *now: seen.append(now))
    assert target.read_bytes() == CONTENT and left_over(target) == ["weights.pth"]
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and seen == sorted(seen)
    assert not download(site.url, target, sha256=sha256(CONTENT)[:8])
    assert len(site.requests) == 1


@pytest.mark.parametrize("seed", range(5))
def test_a_broken_connection_goes_on_where_it_ended(site, target, seed):
    draw = random.Random(seed)
    first, second = (draw.randrange(1, len(CONTENT) // 2) for _ in range(2))
    site.plans = [{"breaks_after": first}, {"breaks_after": second}]
    assert download(site.url, target, sha256=sha256(CONTENT))
    assert target.read_bytes() == CONTENT
    assert ranges(site) == [None, f"bytes={first}-", f"bytes={first + second}-"]


@pytest.mark.parametrize("at", [100_000, len(CONTENT)])
def test_another_process_goes_on_after_an_interruption(site, target, at):
    def interrupt(done, _total):
        if done == at:
            raise KeyboardInterrupt

    site.plans = [{"breaks_after": at}]
    with pytest.raises(KeyboardInterrupt):
        download(site.url, target, sha256=sha256(CONTENT), progress=interrupt)
    assert (target.parent / "weights.pth.part").stat().st_size == at and not target.exists()
    assert download(site.url, target, sha256=sha256(CONTENT))
    # After the last byte there is nothing left to ask for.
    assert ranges(site)[1:] == ([] if at == len(CONTENT) else [f"bytes={at}-"])
    assert target.read_bytes() == CONTENT


def test_a_version_may_be_a_date(site, target):
    site.dated = True
    site.plans = [{"breaks_after": 1000}, {"content": CONTENT[:-1], "breaks_after": 1000}]
    download(site.url, target, sha256=sha256(CONTENT[:-1]))
    assert ranges(site) == [None, "bytes=1000-", "bytes=1000-"]


@pytest.mark.parametrize("feature, there, asked", [
    ("ranges", False, "bytes=1000-"),
    ("versioned", False, None),
    ("weak", True, None),  # a weak ETag: the content is only about the same
])
def test_what_cannot_be_gone_on_from_starts_anew(site, target, feature, there, asked):
    setattr(site, feature, there)
    site.plans = [{"breaks_after": 1000}]
    seen = []
    download(site.url, target, sha256=sha256(CONTENT), progress=lambda *now: seen.append(now))
    assert target.read_bytes() == CONTENT and ranges(site) == [None, asked]
    assert max(seen) == (len(CONTENT), len(CONTENT))


@pytest.mark.parametrize("ignores_if_range", [False, True])
@pytest.mark.parametrize("content", [OTHER, OTHER[:500]])
def test_a_file_that_changed_meanwhile_starts_anew(site, target, ignores_if_range, content):
    site.ignores_if_range = ignores_if_range
    site.plans = [{"breaks_after": 1000}, {"content": content}]
    download(site.url, target, sha256=sha256(content))
    assert target.read_bytes() == content and ranges(site)[:2] == [None, "bytes=1000-"]


def test_what_is_left_of_another_address_is_not_gone_on_from(site, target):
    site.plans, site.always = [{"breaks_after": 1000}], {"breaks_after": 0}
    with pytest.raises(UserError):
        download(site.url, target)
    site.requests.clear()
    site.always = {}
    download(site.url + "?version=2", target)
    assert ranges(site) == [None] and target.read_bytes() == CONTENT


def test_a_file_of_unknown_length(site, target):
    site.chunked = True
    site.plans = [{"breaks_after": 1000}]
    seen = []
    download(site.url, target, sha256=sha256(CONTENT), progress=lambda *now: seen.append(now))
    assert target.read_bytes() == CONTENT and seen[-1] == (len(CONTENT), None)


@pytest.mark.parametrize("facts, key", [({"sha256": "0123456789"}, "sha256"), ({"size": len(CONTENT) + 1}, "size")])
def test_a_wrong_file_never_gets_the_name(site, target, facts, key):
    seen = []
    with pytest.raises(UserError) as error:
        download(site.url, target, **facts, progress=lambda *now: seen.append(now))
    assert error.value.key == key and error.value.where == site.url
    # A wrong size shows before anything is loaded.
    assert left_over(target) == [] and bool(seen) == (key == "sha256")


def test_the_wrong_size_shows_where_no_length_was_announced(site, target):
    site.chunked = True
    with pytest.raises(UserError, match="has 300000 bytes, the published file 300001"):
        download(site.url, target, size=len(CONTENT) + 1)
    assert left_over(target) == []


def test_a_wrong_file_that_is_there_is_left_alone(site, target):
    target.parent.mkdir()
    target.write_bytes(b"mine")
    with pytest.raises(UserError, match="starts with") as error:
        download(site.url, target, sha256=sha256(CONTENT))
    assert error.value.where == str(target) and target.read_bytes() == b"mine" and not site.requests


def test_a_refusal_is_final_and_trouble_is_not(site, target):
    site.always = {"status": 404}
    with pytest.raises(UserError, match="the server answers 404 Not Found. .*--from FILE"):
        download(site.url, target)
    assert len(site.requests) == 1 and left_over(target) == []
    site.plans, site.always = [{"status": 503}, {"status": 429}], {}
    assert download(site.url, target) and len(site.requests) == 4


def test_tries_are_bounded_and_what_arrived_is_kept(site, target):
    # The first connection makes progress, the others make none.
    site.plans, site.always = [{"breaks_after": 1000}], {"breaks_after": 0}
    with pytest.raises(UserError, match="ended after 1000 of 300000 bytes. .*--from FILE"):
        download(site.url, target)
    assert len(site.requests) == 1 + RETRIES + 1
    assert left_over(target) == ["weights.pth.part", "weights.pth.part.json"]
    site.always = {}
    assert download(site.url, target) and ranges(site)[-1] == "bytes=1000-"
    assert target.read_bytes() == CONTENT


def test_a_silent_server_is_left(site, target, monkeypatch):
    monkeypatch.setattr(fetching, "TIMEOUT_SECONDS", 0.2)
    site.plans = [{"breaks_after": 1000, "sleeps": True}]
    assert download(site.url, target, sha256=sha256(CONTENT)) and ranges(site) == [None, "bytes=1000-"]
    assert not site.woken  # its first answer is still under way


def test_offline(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "PAUSE_SECONDS", 0)
    with pytest.raises(UserError, match="does not arrive: Connection refused. .*--from FILE"):
        download(f"http://127.0.0.1:{free_port()}/weights.pth", tmp_path / "weights.pth")


def test_room_is_looked_for_first(site, target, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6 - 250_000, 250_000))
    with pytest.raises(UserError, match="300000 bytes are to come, 250000 are free"):
        download(site.url, target)
    assert left_over(target) == []
    # When a download goes on, only the rest needs room.
    monkeypatch.undo()
    monkeypatch.setattr(fetching, "PAUSE_SECONDS", 0)
    site.plans, site.always = [{"breaks_after": 100_000}], {"breaks_after": 0}
    with pytest.raises(UserError):
        download(site.url, target)
    site.always = {}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6 - 250_000, 250_000))
    assert download(site.url, target) and target.read_bytes() == CONTENT


def test_two_at_once_load_one_file(site, target):
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: download(site.url, target, sha256=sha256(CONTENT)), range(2)))
    assert sorted(results) == [False, True] and len(site.requests) == 1


def test_a_file_of_this_machine(tmp_path):
    source = tmp_path / "source.pth"
    source.write_bytes(CONTENT)
    assert download(source.as_uri(), tmp_path / "copy.pth", sha256=sha256(CONTENT), size=len(CONTENT))
    assert (tmp_path / "copy.pth").read_bytes() == CONTENT
    with pytest.raises(UserError, match="No such file"):
        download((tmp_path / "none.pth").as_uri(), tmp_path / "other.pth")


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "weights.pth", "data:,x"])
def test_other_addresses_are_refused(tmp_path, url):
    with pytest.raises(UserError, match="is no http, https or file address"):
        download(url, tmp_path / "x")


def test_a_folder_that_cannot_be_written_to(site, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        download(site.url, tmp_path / "file" / "weights.pth")


def test_a_checksum_is_8_digits_or_more(tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(CONTENT)
    verify(file, sha256=sha256(CONTENT)[:8], size=len(CONTENT))
    for wrong in (sha256(CONTENT)[:7], sha256(CONTENT).upper(), ""):
        with pytest.raises(ValueError, match="hex digits"):
            verify(file, sha256=wrong)
    with pytest.raises(UserError, match="cannot be read"):
        verify(tmp_path / "none.pth")
