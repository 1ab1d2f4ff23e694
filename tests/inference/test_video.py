"""Video files and folders of frames: the frames read are those that were filmed, and errors name what cannot be read."""

import pickle
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from PIL import Image
from support.footage import av, cut, damaged, film, pictures, shifted

from effvis.data.dataset import Video
from effvis.errors import UserError
from effvis.inference.predictor import kept_frames
from effvis.video import BrokenVideo, UntilBroken, open_video, writing_video


@pytest.mark.parametrize("height, width", [(40, 56), (41, 57), (1, 1)])
def test_every_frame_of_a_file_is_read_as_it_was_filmed_at_any_size(tmp_path, height, width):
    frames = pictures(7, height, width)
    footage = open_video(film(tmp_path / "clip.mkv", frames))
    assert (footage.height, footage.width, footage.fps, footage.length) == (height, width, 10.0, 7)
    for _ in range(2):
        np.testing.assert_array_equal(np.stack(list(footage.frames())), frames)


@pytest.mark.parametrize("height, width", [(40, 56), (41, 57)])
def test_a_written_video_shows_its_frames_with_odd_sides_grown_by_a_pixel(tmp_path, height, width):
    frames = pictures(9, height, width)
    with writing_video(tmp_path / "new" / "clip.mp4", height=height, width=width, fps=6.0) as write:
        for frame in frames:
            write(frame)
    footage = open_video(tmp_path / "new" / "clip.mp4")
    assert (footage.height, footage.width, footage.fps) == (40 + 2 * (height % 2), 56 + 2 * (width % 2), 6.0)
    read = np.stack(list(footage.frames())).astype(int)
    assert len(read) == 9
    assert np.abs(read[:, :height, :width] - frames).mean() < 4, "compressed, but the same pictures"


def test_a_video_that_breaks_off_while_it_is_written_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), writing_video(tmp_path / "clip.mp4", height=8, width=8, fps=6.0) as write:
        write(np.zeros((8, 8, 3), np.uint8))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rotation, turns", [(0, 0), (90, 1), (180, 2), (-90, 3)])
def test_a_turned_video_is_read_upright(tmp_path, rotation, turns):
    frames = pictures(3)
    file = film(tmp_path / "clip.mp4", frames, codec="libx264", pixels="yuv420p", rotation=rotation)
    footage = open_video(file)
    upright = np.rot90(frames, turns, axes=(1, 2)).astype(int)
    assert (footage.height, footage.width) == upright.shape[1:3]
    assert np.abs(np.stack(list(footage.frames())) - upright).mean() < 8


@pytest.mark.parametrize("fps", [None, 1.0, 3.0, 4.0, 7.0, 100.0])
def test_a_lower_frame_rate_keeps_the_frames_that_evaluation_keeps(tmp_path, fps):
    frames = pictures(11)
    thinned = open_video(film(tmp_path / "clip.mkv", frames)).thinned(fps)
    kept = kept_frames(Video(1, 40, 56, 10.0, tuple(map(str, range(11)))), fps)
    np.testing.assert_array_equal(np.stack(list(thinned.frames())), frames[kept])
    assert thinned.length == len(kept) and thinned.fps == pytest.approx(10.0 if fps is None else min(10.0, fps))


def test_frames_of_a_folder_come_in_the_order_of_their_numbers(tmp_path):
    frames = pictures(11)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"frame{number}.png")
    (tmp_path / "._frame3.png").write_bytes(b"what a file manager leaves")
    (tmp_path / "notes.txt").write_text("no frame")
    footage = open_video(tmp_path, folder_fps=12.0)
    assert (footage.height, footage.width, footage.fps, footage.length) == (40, 56, 12.0, 11)
    np.testing.assert_array_equal(np.stack(list(footage.frames())), frames)


def _cut(tmp_path):
    file = film(tmp_path / "cut.mp4", pictures(9), codec="libx264", pixels="yuv420p")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return file


def _without_pictures(tmp_path):
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    return tmp_path / "sound.wav"


def _without_frames(tmp_path):
    """The header of a video, and nothing after it."""
    with av.open(str(tmp_path / "none.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.height, stream.width, stream.pix_fmt = 40, 56, "yuv420p"
        container.start_encoding()
    return tmp_path / "none.avi"


def _of_bytes(content):
    def make(tmp_path):
        (tmp_path / "clip.mp4").write_bytes(content)
        return tmp_path / "clip.mp4"
    return make


def _of_sizes(tmp_path):
    for number, side in enumerate((8, 8, 9)):
        Image.new("RGB", (side, 8)).save(tmp_path / f"{number}.png")
    return tmp_path


def _with_a_damaged_frame(tmp_path):
    (tmp_path / "0.jpg").write_bytes(b"\xff\xd8 no picture")
    return tmp_path


@pytest.mark.parametrize("make, problem", [
    (lambda folder: folder / "absent.mp4", "absent.mp4.*no such file"),
    (lambda folder: folder, "there is no frame"),
    (_of_bytes(b""), "clip.mp4.*no video that can be read"),
    (_of_bytes(b"no video" * 1000), "clip.mp4.*no video that can be read"),
    (_cut, "cut.mp4.*no video that can be read"),
    (_without_pictures, "sound.wav.*no video stream"),
    (_without_frames, "none.avi.*(no frame|no video)"),
    (_of_sizes, "2.png.*9x8.*0.png is 8x8"),
    (_with_a_damaged_frame, "0.jpg.*no image"),
])
def test_what_is_no_video_is_named_with_what_is_wrong(tmp_path, make, problem):
    with pytest.raises(UserError, match=problem):
        open_video(make(tmp_path))


def test_a_frame_that_is_cut_off_is_named_when_it_is_read(tmp_path):
    for number in range(2):
        Image.fromarray(pictures(1, 200, 200)[0]).save(tmp_path / f"{number}.jpg")
    whole = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(whole[: len(whole) // 2])
    frames = open_video(tmp_path).frames()
    next(frames)
    with pytest.raises(UserError, match="1.jpg.*damaged image"):
        next(frames)


def test_a_file_that_is_damaged_in_the_middle_gives_whole_frames_and_then_an_error_that_names_the_next(tmp_path):
    frames = pictures(20, 64, 64)
    footage = open_video(damaged(film(tmp_path / "clip.mp4", frames, codec="mpeg4", pixels="yuv420p"), 0.5, 0.75))
    read = []
    with pytest.raises(UserError, match=r"clip.mp4: frame \d+: cannot be decoded") as caught:
        for frame in footage.frames():
            read.append(frame)
    assert 0 < len(read) < 20 and caught.value.key == f"frame {len(read)}"
    assert np.abs(np.stack(read[:3]).astype(int) - frames[:3]).mean() < 8


def _index_first(tmp_path, frames):
    return film(tmp_path / "a.mp4", frames, codec="libx264", pixels="yuv420p", options={"movflags": "faststart"})


def _fragments(tmp_path, frames):
    return film(tmp_path / "b.mp4", frames, codec="libx264", pixels="yuv420p", options={"movflags": "frag_keyframe+empty_moov"})


def _matroska(tmp_path, frames):
    return film(tmp_path / "c.mkv", frames)


def _webm(tmp_path, frames):
    return film(tmp_path / "d.webm", frames, codec="libvpx", pixels="yuv420p")


def _avi(tmp_path, frames):
    return film(tmp_path / "e.avi", frames, codec="mjpeg", pixels="yuvj420p")


MAKERS = (_index_first, _fragments, _matroska, _webm, _avi)


def grainy(count, height=64, width=96):
    noise = np.random.default_rng(0).integers(0, 40, (count, height, width, 3))
    return (pictures(count, height, width) + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("share", [0.5, 0.85])
@pytest.mark.parametrize("make", MAKERS)
def test_of_a_file_that_is_cut_off_the_frames_before_come_and_the_error_says_where(tmp_path, make, share):
    frames = grainy(40)
    file = cut(make(tmp_path, frames), share)
    until = UntilBroken(open_video(file).frames())
    assert until.error is None
    read = np.stack(list(until)).astype(int)
    assert 40 * share - 12 < len(read) < 40
    assert np.abs(read[:-1] - frames[: len(read) - 1]).mean() < 25, "the same pictures, compressed"
    assert until.error.frame == len(read) and until.error.key == f"frame {len(read)}" and str(file) in str(until.error)
    with pytest.raises(BrokenVideo, match=f"frame {len(read)}"):
        list(open_video(file).frames())


@pytest.mark.parametrize("make", MAKERS)
def test_a_whole_file_is_not_taken_for_one_that_is_cut_off(tmp_path, make):
    until = UntilBroken(open_video(make(tmp_path, grainy(40))).frames())
    assert (len(list(until)), until.error) == (40, None)


@pytest.mark.parametrize("seconds, left", [(-1.0, 30), (1.5, 40), (100.0, 40)])
@pytest.mark.parametrize("ending", ["mp4", "mov"])
def test_a_trimmed_file_or_one_that_begins_later_is_whole(tmp_path, ending, seconds, left):
    file = film(tmp_path / "whole.mp4", grainy(40), codec="libx264", pixels="yuv420p")
    until = UntilBroken(open_video(shifted(file, tmp_path / f"shifted.{ending}", seconds)).frames())
    assert (len(list(until)), until.error) == (left, None)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8 no picture", "half"])
def test_a_folder_can_be_read_up_to_a_frame_that_cannot(tmp_path, content):
    frames = pictures(5)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    third = tmp_path / "2.png"
    third.write_bytes(third.read_bytes()[: third.stat().st_size // 2] if content == "half" else content)
    until = UntilBroken(open_video(tmp_path).frames())
    np.testing.assert_array_equal(np.stack(list(until)), frames[:2])
    assert until.error.frame == 2 and until.error.where == str(third)
    assert (again := pickle.loads(pickle.dumps(until.error))).frame == 2 and str(again) == str(until.error)


def test_without_a_frame_before_it_a_break_is_an_error(tmp_path):
    for number, frame in enumerate(pictures(2, 200, 200)):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    (tmp_path / "0.png").write_bytes((tmp_path / "0.png").read_bytes()[:80])
    with pytest.raises(BrokenVideo, match="0.png: frame 0: damaged image"):
        list(UntilBroken(open_video(tmp_path).frames()))


def test_a_playlist_makes_it_fetch_nothing(tmp_path):
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        playlist = tmp_path / "list.m3u8"
        playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n"
                            f"http://127.0.0.1:{server.server_port}/clip.ts\n#EXT-X-ENDLIST\n")
        with pytest.raises(UserError):
            open_video(playlist)
        server.shutdown()
    assert asked == []


def test_without_pyav_a_file_names_the_extra_and_a_folder_works(tmp_path, monkeypatch):
    file = film(tmp_path / "clip.mkv", pictures(2))
    (tmp_path / "frames").mkdir()
    Image.fromarray(pictures(1)[0]).save(tmp_path / "frames" / "0.png")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"\[video\]"):
        open_video(file)
    assert len(list(open_video(tmp_path / "frames").frames())) == 1
