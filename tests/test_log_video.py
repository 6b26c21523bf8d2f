"""Topics of video: pictures in any order that a replay asks for, and what damage costs."""

from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

import numpy as np
import pytest
from memory_log import MemoryLog, calibration, transform

from perception.logs.convert import convert
from perception.logs.corruptions import parse_corruptions
from perception.logs.default_rig import rig_of
from perception.logs.doctor import diagnose
from perception.logs.frames import LogFrames
from perception.logs.images import rectified_image
from perception.logs.inspect import inspect
from perception.logs.log import open_log
from perception.logs.mcap_writer import McapLogWriter
from perception.logs.measurements import Assembly
from perception.logs.messages import Image, LogError, Message, pinhole
from perception.logs.rehearsal import rehearse
from perception.logs.rosbag_writer import RosbagWriter
from perception.logs.video import NoPicture, Video, VideoImage, Videos, begins, first_size, picture

av = pytest.importorskip("av")
WIDTH, HEIGHT, GROUP = 64, 48, 8  # a key frame in so many
K = np.array([[60.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1]])


def brightness(number: int) -> int:
    return 40 + 8 * number  # of all pixels of a picture, so that a decoder's errors do not matter


@lru_cache
def packets(codec: str = "h264", count: int = 20, b_frames: int = 0, group: int = GROUP) -> tuple[bytes, ...]:
    name = {"h264": "libx264", "h265": "libx265"}[codec]
    encoder = av.CodecContext.create(name, "w")
    encoder.width, encoder.height, encoder.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    encoder.time_base, encoder.framerate, encoder.gop_size, encoder.thread_count = Fraction(1, 10), 10, group, 1
    encoder.options = {"preset": "veryfast", "bf": str(b_frames), "sc_threshold": "0"}
    if codec == "h265":
        encoder.options = {"x265-params": f"bframes=0:keyint={group}:min-keyint={group}:log-level=none:pools=1"}
    found = []
    for i in range(count):
        noise = np.random.default_rng(i).integers(-20, 20, (HEIGHT, WIDTH, 1))
        pixels = np.clip(brightness(i) + np.repeat(noise, 3, axis=2), 0, 255).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts = i
        found += encoder.encode(frame)
    return tuple(bytes(packet) for packet in [*found, *encoder.encode(None)])


def joined(data, codec: str = "h264") -> list[VideoImage]:
    videos = Videos()
    return [videos.joined(Message("/camera", i, i, i, Image("cam", codec, part))).data for i, part in enumerate(data)]


def shows(image: VideoImage) -> int:
    """The number of the picture, by its brightness."""
    return round((picture(image).mean() - brightness(0)) / 8)


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_every_picture_is_that_of_its_packet(codec):
    images = joined(packets(codec), codec)
    assert [shows(image) for image in images] == list(range(20))
    assert picture(images[-1]).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_pictures_that_nobody_asks_for_change_nothing(codec):
    every = [picture(image) for image in joined(packets(codec), codec)]
    some = joined(packets(codec), codec)
    assert all(np.array_equal(picture(some[i]), every[i]) for i in (3, 3, 4, 11, 19))


def test_a_picture_may_be_asked_for_again_a_little_later():
    images = joined(packets())
    assert [shows(images[i]) for i in (5, 7, 6, 5)] == [5, 7, 6, 5]
    shows(images[19])
    with pytest.raises(NoPicture):
        picture(images[0])


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_a_log_that_begins_within_a_group_has_pictures_from_its_next_key_frame(codec):
    images = joined(packets(codec)[3:], codec)
    for image in images[: GROUP - 3]:
        with pytest.raises(NoPicture, match="before its first key frame"):
            picture(image)
    assert [shows(image) for image in images[GROUP - 3 :]] == list(range(GROUP, 20))


DAMAGE = {"missing": lambda data: None, "cut": lambda data: data[: len(data) // 3], "empty": lambda data: b""}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_a_damaged_packet_costs_the_pictures_up_to_the_next_key_frame(codec, how):
    if (codec, how) == ("h265", "cut"):
        pytest.skip("FFmpeg does not see that a picture of one block ends early")
    data: list = list(packets(codec))
    data[3] = DAMAGE[how](data[3])
    numbers = [i for i, part in enumerate(data) if part is not None]
    images = dict(zip(numbers, joined([data[i] for i in numbers], codec)))
    found = []
    for number, image in images.items():
        try:
            assert shows(image) == number
            found.append(number)
        except NoPicture as error:
            assert "damaged or missing packet" in str(error)
    assert found == [0, 1, 2, *range(GROUP, 20)]


def test_flipped_bytes_give_no_exception_but_ours():
    rng = np.random.default_rng(0)
    for _ in range(30):
        data = [bytearray(part) for part in packets()[:10]]
        part = data[rng.integers(10)]
        for at in rng.integers(0, len(part), 5):
            part[at] ^= 1 << rng.integers(8)
        for image in joined(map(bytes, data)):
            try:
                assert picture(image).dtype == np.uint8
            except NoPicture:
                pass


def test_pictures_of_b_frames_are_in_the_order_of_display():
    images = joined(packets(b_frames=2))
    order = []
    for image in images:
        try:
            order.append(shows(image))
        except NoPicture as error:  # the last ones wait for packets that never come
            assert "B-frames" in str(error)
    assert len(order) >= 15 and len(set(order)) == len(order)


def test_memory_is_bounded_and_what_is_skipped_is_not_decoded(monkeypatch):
    monkeypatch.setattr("perception.logs.video._MOST_PENDING", (12, 1 << 20))
    video, last = Video("h264"), None
    for part in packets():
        last = video.add(Image("cam", "h264", part))
        assert len(video._pending) <= 12
    assert video._decoder is None  # it went on at key frames
    assert shows(last) == 19
    video = Video("h264")
    for part in packets(group=250):  # one key frame only: what overflows is decoded
        last = video.add(Image("cam", "h264", part))
        assert len(video._pending) <= 12
    assert shows(last) == 19


def test_where_a_video_can_begin():
    for codec in ("h264", "h265"):
        assert [begins(codec, part) for part in packets(codec)] == [i % GROUP == 0 for i in range(20)]
    assert not begins("vp9", packets()[0]) and not begins("h264", b"") and not begins("h264", b"\0\0\1")


def test_sizes():
    assert first_size("h264", iter(packets()[3:])) == (HEIGHT, WIDTH)
    assert first_size("h264", iter([b"", b"\0\0\0\1\x67" + bytes(50)])) is None
    images = joined(packets()[:3])
    assert images[2].video.size() == (HEIGHT, WIDTH)
    picture(images[0])
    assert images[2].video.size() == (HEIGHT, WIDTH)


def test_a_picture_must_have_the_size_of_its_calibration():
    image = joined(packets()[:1])[0]
    pixels, _ = rectified_image(image, pinhole("cam", WIDTH, HEIGHT, K), True, None)
    assert np.array_equal(pixels, picture(image))
    with pytest.raises(LogError, match=r"height, width \(24, 64\) were expected, found \(48, 64\)"):
        rectified_image(image, pinhole("cam", WIDTH, 24, K), True, None)


def test_a_packet_alone_is_no_picture():
    with pytest.raises(LogError, match="in the order of its video"):
        picture(Image("cam", "h264", packets()[0]))


def test_videos_of_two_cameras_do_not_mix():
    videos, parts = Videos(), packets()
    found = {"/left": [], "/right": []}
    for i in range(8):
        for topic, data in (("/left", parts[i]), ("/right", parts[i + GROUP])):
            message = Message(topic, i, i, i, Image("cam", "h264", data))
            found[topic].append(videos.joined(message).data)
    assert [shows(image) for image in found["/left"]] == list(range(8))
    assert [shows(image) for image in found["/right"]] == list(range(8, 16))
    other = replace(message, data=Image("cam", "jpeg", b""))
    assert videos.joined(other) is other


def video_log(count: int = 20, start: int = 0) -> MemoryLog:
    """A vehicle that stands still, with a camera whose pictures are packets, ten a second."""
    log = MemoryLog()
    log.add("/tf_static", transform("base_link", "cam", static=True), [0.0])
    log.add("/cam/camera_info", calibration("cam", WIDTH, HEIGHT), [0.0])
    for i, part in enumerate(packets(count=count)[start:]):
        log.add("/cam/image_rect/video", Image("cam", "h264", part), [i / 10])
    return log


def replayed(path, faults=()) -> tuple[list[int | None], list[str]]:
    """The numbers of the pictures in the frames of a log, and its problems."""
    with open_log(path) as log:
        rig = rig_of(log, None)
        frames = LogFrames(log, rig, Assembly(), parse_corruptions(faults, rig))
        pictures = [frame.cameras["CAM"].image if frame.cameras else None for frame in frames]
    brightest = [None if p is None else round((p.mean() - brightness(0)) / 8) for p in pictures]
    return brightest, frames.problems


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("video")
    with McapLogWriter(folder / "foxglove.mcap") as writer:
        convert(video_log(), writer)
    with RosbagWriter(folder / "ros") as writer:
        convert(video_log(), writer)
    with McapLogWriter(folder / "begun.mcap") as writer:
        convert(video_log(start=5), writer)
    return folder


@pytest.mark.parametrize("name", ["foxglove.mcap", "ros"])
def test_frames_of_a_recorded_video(recorded, name):
    pictures, problems = replayed(recorded / name)
    assert pictures == list(range(20)) and problems == []


def test_frames_of_a_video_that_began_before_its_recording(recorded):
    pictures, problems = replayed(recorded / "begun.mcap")
    assert [p for p in pictures if p is not None] == list(range(GROUP, 20))
    assert any("/cam/image_rect/video: pictures of a video before its first key frame: 3" in p for p in problems)


def test_faults_are_put_into_pictures_not_into_packets(recorded):
    """A message that is dropped does not damage the pictures after it."""
    pictures, _ = replayed(recorded / "foxglove.mcap", ["drop:CAM:0.5"])
    assert 4 < len(pictures) < 16 and pictures == sorted(set(pictures))
    pictures, _ = replayed(recorded / "foxglove.mcap", ["freeze:CAM@0.5-0.9"])
    assert pictures == [*range(5), *[4] * 5, *range(10, 20)]
    pictures, _ = replayed(recorded / "foxglove.mcap", ["blank:CAM@0.5-0.9"])
    assert pictures == [*range(5), *[-5] * 5, *range(10, 20)]  # black


def test_what_is_said_about_a_video(recorded):
    with open_log(recorded / "begun.mcap") as log:
        info = inspect(log)
        found = diagnose(info, rehearse(log, None, info.duration_s))
    topic = info.topics["/cam/image_rect/video"]
    assert (topic.encoding, topic.width, topic.height) == ("h264", WIDTH, HEIGHT)
    assert not [finding for finding in found if finding.severity == "error"]
    assert any("before its first key frame" in finding.text for finding in found)


def test_a_video_without_its_decoder(recorded, monkeypatch):
    for module in ("ros_messages", "foxglove_messages"):
        monkeypatch.setattr(f"perception.logs.{module}.why_not", lambda: "a video needs an extra")
    for name in ("foxglove.mcap", "ros"):
        with open_log(recorded / name) as log, pytest.raises(LogError, match=r"/cam/image_rect/video.*needs an extra"):
            rig_of(log, None)
