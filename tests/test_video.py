"""Replay as a video: what is decoded again, when each picture is shown, and what is left after an error."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
from frames import FRAMES, make_frame

from perception.errors import PerceptionError
from perception.replay import video
from perception.replay.step import Step
from perception.replay.video import VideoSink
from perception.sample import Boxes3D, Detections
from perception.viz import HEIGHT, WIDTH, draw_frame

SECOND = 1_000_000_000
NOTHING = Detections(Boxes3D.empty(), [])
CODECS = ["h264", "mpeg4"]


@pytest.fixture(params=CODECS)
def codec(request, monkeypatch):
    if request.param == "h264":
        pytest.importorskip("av")
    else:
        monkeypatch.setattr(video, "has_h264", lambda: False)
    return request.param


def grey(level: int) -> np.ndarray:
    return np.full((64, 96, 3), level, np.uint8)


def film(path, times_s, error=None):
    with VideoSink(path) as sink:
        for i, time_s in enumerate(times_s):
            sink.add_picture(grey(20 * i), round(time_s * SECOND))
        if error:
            raise error


def decoded(path) -> list[np.ndarray]:
    capture, pictures = cv2.VideoCapture(str(path)), []
    while (picture := capture.read()[1]) is not None:
        pictures.append(picture[..., ::-1])
    return pictures


def shown(path) -> tuple[list[float], float]:
    """When each picture of an H.264 file appears, and when the last one goes, in seconds."""
    import av

    with av.open(str(path)) as file:
        times = [float(frame.pts * frame.time_base) for frame in file.decode(video=0)]
        return times, file.duration / av.time_base


def test_the_pictures_come_back_in_order(tmp_path, codec):
    film(tmp_path / "v.mp4", [0.1 * i for i in range(12)])
    pictures = decoded(tmp_path / "v.mp4")
    assert [picture.shape for picture in pictures] == 12 * [(64, 96, 3)]
    assert [picture.mean() for picture in pictures] == pytest.approx([20 * i for i in range(12)], abs=4)
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]


def test_colours_are_not_swapped(tmp_path, codec):
    red = np.full((64, 96, 3), (200, 30, 60), np.uint8)
    with VideoSink(tmp_path / "v.mp4") as sink:
        sink.add_picture(red, 0)
    assert decoded(tmp_path / "v.mp4")[0].mean(axis=(0, 1)) == pytest.approx([200, 30, 60], abs=8)


@pytest.mark.parametrize(
    "times_s, expected_s, end_s",
    [
        ([5.0], [0], 1.0),
        ([1e9, 1e9 + 0.5, 1e9 + 0.75], [0, 0.5, 0.75], 1.0),
        ([0.0, 0.1, 1.6, 1.7], [0, 0.1, 1.6, 1.7], 1.8),  # a gap stays one
        ([0.0, 0.5, 1000.0, 1000.5], [0, 0.5, 2.5, 3.0], 3.5),  # the time between two scenes does not
        ([0.0, 0.5, 0.5, -3600.0, -3599.5], [0, 0.5, 31 / 60, 32 / 60, 62 / 60], 92 / 60),  # only forwards
    ],
)
def test_a_picture_is_shown_for_as_long_as_the_recording_took(tmp_path, times_s, expected_s, end_s):
    pytest.importorskip("av")
    film(tmp_path / "v.mp4", times_s)
    times, end = shown(tmp_path / "v.mp4")
    assert times == pytest.approx(expected_s, abs=1e-4) and end == pytest.approx(end_s, abs=2e-3)


@pytest.mark.parametrize("interval_s, rate", [(0.1, 10.0), (0.0, 60.0), (-1.0, 60.0), (100.0, 0.5)])
def test_opencv_takes_the_rate_of_the_first_two(tmp_path, monkeypatch, interval_s, rate):
    monkeypatch.setattr(video, "has_h264", lambda: False)
    film(tmp_path / "v.mp4", [0.0, interval_s, 7.0])
    assert cv2.VideoCapture(str(tmp_path / "v.mp4")).get(cv2.CAP_PROP_FPS) == pytest.approx(rate, rel=0.01)


def test_the_format_is_what_browsers_play(tmp_path):
    av = pytest.importorskip("av")
    film(tmp_path / "v.mp4", [0.0, 0.1])
    with av.open(str(tmp_path / "v.mp4")) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.frames) == ("h264", "yuv420p", 2)


def test_without_pyav_opencv_writes_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    assert not video.has_h264()
    film(tmp_path / "v.mp4", [0.0, 0.1])
    assert len(decoded(tmp_path / "v.mp4")) == 2


def test_the_same_pictures_give_the_same_bytes(tmp_path, codec):
    for name in ("a.mp4", "b.mp4"):
        film(tmp_path / name, [0.0, 0.1, 0.4])
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_error_leaves_what_was_filmed_playable(tmp_path, codec, count):
    (tmp_path / "v.mp4").write_text("of an earlier run")
    (tmp_path / "v.part.mp4").write_text("of an interrupted one")
    with pytest.raises(ZeroDivisionError):
        film(tmp_path / "v.mp4", [0.1 * i for i in range(count)], ZeroDivisionError())
    assert (tmp_path / "v.mp4").read_text() == "of an earlier run"
    assert (tmp_path / "v.part.mp4").exists() == (count > 0)
    assert not count or len(decoded(tmp_path / "v.part.mp4")) == count


def test_without_a_step_there_is_no_file(tmp_path, codec):
    film(tmp_path / "v.mp4", [])
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_leaves_what_was_filmed_until_the_last_second(tmp_path):
    pytest.importorskip("av")
    code = f"""
import os, numpy as np
from perception.replay.video import VideoSink
sink = VideoSink({str(tmp_path / "v.mp4")!r}).__enter__()
for i in range(10):
    sink.add_picture(np.full((64, 96, 3), 20 * i, np.uint8), i * {SECOND // 2})
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert len(decoded(tmp_path / "v.part.mp4")) >= 6


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
@pytest.mark.parametrize("h264", [True, False])
def test_a_full_disk_is_an_error(tmp_path, h264):
    if h264:
        pytest.importorskip("av")
    code = f"""
import resource, signal, numpy as np
from perception.errors import PerceptionError
from perception.replay import video
video.has_h264 = lambda: {h264}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
noise = np.random.default_rng(0)
try:
    with video.VideoSink({str(tmp_path / "v.mp4")!r}) as sink:
        for i in range(20):
            sink.add_picture(noise.integers(0, 255, (64, 96, 3), dtype=np.uint8), i * {SECOND // 10})
except PerceptionError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "v.mp4: cannot be written" in said or "20 frames were expected" in said
    assert not (tmp_path / "v.mp4").exists()


def test_a_place_that_takes_no_file_is_known_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PerceptionError, match="cannot be written"), VideoSink(tmp_path / "file/v.mp4"):
        raise AssertionError("not reached")


def test_steps_are_drawn_with_the_latency_of_the_detector(tmp_path, monkeypatch):
    drawn = []

    def drawing(frame, detections, score_threshold, latency_ms, tracks, layout):
        drawn.append((frame.token, score_threshold, latency_ms))
        return draw_frame(frame, detections, score_threshold, latency_ms, tracks, layout)

    monkeypatch.setattr(video, "draw_frame", drawing)
    latency_ms = {"load": 1000.0, "check": 1.0, "prepare": 2.0, "model": 4.0, "decode": 8.0, "record": 500.0}
    with VideoSink(tmp_path / "v.mp4", score_threshold=0.4) as sink:
        sink.add(Step(0, make_frame(1), NOTHING, None, {}, latency_ms))
        sink.add(Step(1, FRAMES["nothing"], NOTHING, np.zeros(0, int), {"lidar": "missing"}, {}))
    assert drawn == [("frame-1", 0.4, 15.0), ("frame-1", 0.4, 0.0)]
    assert [picture.shape for picture in decoded(tmp_path / "v.mp4")] == 2 * [(HEIGHT, WIDTH, 3)]
