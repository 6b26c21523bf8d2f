"""Foxglove outputs, read back with the mcap library and with a bare WebSocket."""

import base64
import contextlib
import dataclasses
import json
import os
import socket
import struct
import sys
import threading

import cv2
import numpy as np
import pytest

pytest.importorskip("foxglove")
pytest.importorskip("mcap_protobuf")

from frames import CAMERAS, make_frame
from mcap.decoder import DecoderFactory
from mcap.reader import make_reader
from mcap_protobuf.decoder import DecoderFactory as ProtobufDecoders

from perception.errors import PerceptionError
from perception.files import ResultsError
from perception.replay.foxglove_out import FoxgloveSink, LiveSink
from perception.replay.step import Step
from perception.sample import Boxes3D, Detections
from perception.task import NUSCENES

CAR, PEDESTRIAN = 0, 5


def two_boxes(velocity=((3.0, 4.0), (0.0, 0.0))) -> Boxes3D:
    """A car at (10, 0, 1), 4 x 2 x 1.6 m, that looks left and drives at 5 m/s, and a pedestrian who stands."""
    return Boxes3D(
        [[10, 0, 1], [5, -3, 1]], [[4, 2, 1.6], [0.6, 0.6, 1.8]], [np.pi / 2, 0], velocity, [CAR, PEDESTRIAN]
    )


def make_step(index=0, boxes=None, scores=(0.87, 0.5), tracks=None, truth=None, interval_s=0.5, **changes) -> Step:
    boxes = two_boxes() if boxes is None else boxes
    frame = make_frame(1)
    changes = {"timestamp_ns": 10**18 + round(index * interval_s * 1e9), "boxes": truth} | changes
    return Step(
        index=index,
        frame=dataclasses.replace(frame, **changes),
        detections=Detections(boxes, np.array(scores[: len(boxes)])),
        tracks=None if tracks is None else np.array(tracks, dtype=np.int64),
        faults={},
        latency_ms={"check": 1.5, "model": 20.25},
    )


def write(path, steps, **options):
    with FoxgloveSink(path, **options) as sink:
        for step in steps:
            sink.add(step)
    return read(path)


class JSONDecoders(DecoderFactory):
    def decoder_for(self, message_encoding, schema):
        return json.loads if message_encoding == "json" else None


def read(path) -> dict[str, list]:
    """topic -> [(log time, decoded message)], in order."""
    messages = {}
    with path.open("rb") as file:
        reader = make_reader(file, decoder_factories=[ProtobufDecoders(), JSONDecoders()])
        for _, channel, message, decoded in reader.iter_decoded_messages():
            assert message.log_time == message.publish_time
            messages.setdefault(channel.topic, []).append((message.log_time, decoded))
    return messages


def nanoseconds(stamp) -> int:
    return stamp.seconds * 10**9 + stamp.nanos


def rgba(colour) -> list[float]:
    return [colour.r, colour.g, colour.b, colour.a]


def only(messages: dict[str, list], topic: str):
    [(_, message)] = messages[topic]
    return message


def test_every_topic_has_a_message_a_frame_at_the_time_of_the_frame(tmp_path):
    messages = write(tmp_path / "a.mcap", [make_step(i, truth=two_boxes()) for i in range(3)])
    counts = {topic: len(found) for topic, found in messages.items()}
    one_a_frame = {"/detections", "/ground_truth", "/lidar", "/radar", "/latency", "/summary"}
    cameras = {f"/{name.lower()}/{what}" for name in CAMERAS for what in ("image", "calibration")}
    assert counts == dict.fromkeys(one_a_frame | cameras, 3) | {"/tf": 3 * (1 + len(CAMERAS))}
    for topic, found in messages.items():
        times = sorted({time for time, _ in found})
        assert times == [10**18, 10**18 + 5 * 10**8, 10**18 + 10**9], topic
        if topic not in ("/latency", "/summary", "/detections", "/ground_truth"):
            assert all(nanoseconds(message.timestamp) == time for time, message in found), topic
        if topic in ("/detections", "/ground_truth"):
            stamps = [(nanoseconds(entity.timestamp), time) for time, update in found for entity in update.entities]
            assert len(stamps) == 6 and all(stamp == time for stamp, time in stamps)


def test_a_detection_is_a_box_a_label_and_an_arrow(tmp_path):
    update = only(write(tmp_path / "a.mcap", [make_step(tracks=[12, -1])]), "/detections")
    car, pedestrian = update.entities
    assert (car.id, car.frame_id, car.frame_locked) == ("#12", "base_link", False)
    assert {pair.key: pair.value for pair in car.metadata} == {"class": "car", "score": "0.870", "track": "12"}
    assert car.texts[0].text == "car #12 0.87"
    [cube] = car.cubes
    assert (cube.size.x, cube.size.y, cube.size.z) == (4, 2, 1.6)
    assert (cube.pose.position.x, cube.pose.position.y, cube.pose.position.z) == (10, 0, 1)
    assert [cube.pose.orientation.z, cube.pose.orientation.w] == pytest.approx([np.sqrt(0.5), np.sqrt(0.5)])
    colour = [value / 255 for value in NUSCENES.objects[0].color]
    assert rgba(cube.color) == pytest.approx([*colour, 0.6 * 0.87]) and rgba(car.texts[0].color) == [*colour, 1.0]
    [arrow] = car.arrows
    assert arrow.shaft_length + arrow.head_length == pytest.approx(5.0), "where it is in a second"
    assert 2 * np.arctan2(arrow.pose.orientation.z, arrow.pose.orientation.w) == pytest.approx(np.arctan2(4, 3))

    assert (pedestrian.id, pedestrian.texts[0].text) == ("1", "pedestrian 0.50")
    assert not pedestrian.arrows and "track" not in {pair.key for pair in pedestrian.metadata}


def test_only_boxes_of_the_score_asked_for_are_shown_by_their_place_among_all(tmp_path):
    messages = write(tmp_path / "a.mcap", [make_step(scores=(0.5, 0.2))], score_threshold=0.5)
    [entity] = only(messages, "/detections").entities
    assert entity.id == "0" and entity.texts[0].text == "car 0.50"
    assert only(messages, "/summary") == {
        "frame": 0, "detections": 2, "shown": 1, "cameras": 4, "radar_points": 40, "lidar_points": 40, "faults": 0,
    }  # fmt: skip


def test_boxes_live_one_and_a_half_frames_and_go_when_the_next_come(tmp_path):
    steps = [make_step(i, interval_s=0.1) for i in range(4)]
    gap = make_step(timestamp_ns=10**18 + 5 * 10**9)
    back = make_step(timestamp_ns=10**18)
    updates = [update for _, update in write(tmp_path / "a.mcap", [*steps, gap, back])["/detections"]]
    lifetimes = [nanoseconds(update.entities[0].lifetime) / 1e9 for update in updates]
    assert lifetimes == pytest.approx([0.75, 0.15, 0.15, 0.15, 0.15, 0.15]), "a gap or a loop is no new rate"
    assert all([deletion.type for deletion in update.deletions] == [1] for update in updates), "1: ALL"


def test_an_unknown_velocity_has_no_arrow(tmp_path):
    step = make_step(boxes=two_boxes(velocity=[(np.nan, np.nan), (0, 0)]))
    assert [len(entity.arrows) for entity in only(write(tmp_path / "a.mcap", [step]), "/detections").entities] == [0, 0]


def test_ground_truth_is_white_edges_of_what_could_be_seen(tmp_path):
    truth = dataclasses.replace(two_boxes(), num_lidar_points=[3, 0], num_radar_points=[0, 0])
    [entity] = only(write(tmp_path / "a.mcap", [make_step(truth=truth)]), "/ground_truth").entities
    assert not entity.cubes and entity.metadata[0].value == "car"
    [edges] = entity.lines
    assert rgba(edges.color) == [1, 1, 1, 1] and len(edges.indices) == 24
    corners = np.array([[point.x, point.y, point.z] for point in edges.points])
    np.testing.assert_allclose(corners.min(axis=0), [9, -2, 0.2], err_msg="it looks left: 4 m along y")
    np.testing.assert_allclose(corners.max(axis=0), [11, 2, 1.8])
    lengths = np.linalg.norm(np.diff(corners[edges.indices].reshape(12, 2, 3), axis=1), axis=-1)
    np.testing.assert_allclose(np.sort(lengths.ravel()), [1.6] * 4 + [2.0] * 4 + [4.0] * 4)


def test_points_come_back_bit_by_bit(tmp_path):
    step = make_step()
    messages = write(tmp_path / "a.mcap", [step])
    for topic, points in (("/lidar", step.frame.lidar.points), ("/radar", step.frame.radar.points)):
        cloud = only(messages, topic)
        assert cloud.frame_id == "base_link" and cloud.point_stride == 4 * points.shape[1]
        assert [field.offset for field in cloud.fields] == list(range(0, cloud.point_stride, 4))
        assert {field.type for field in cloud.fields} == {7}, "float32 by Foxglove's numbers"
        np.testing.assert_array_equal(np.frombuffer(cloud.data, "<f4").reshape(points.shape), points)
    names = [field.name for field in only(messages, "/radar").fields]
    assert names == ["x", "y", "z", "rcs_dbsm", "vx", "vy", "age_s"]


def test_images_calibration_and_transforms_fit_together(tmp_path):
    step = make_step()
    smooth = np.zeros((32, 64, 3), np.uint8)
    smooth[..., 0], smooth[..., 2] = 200, 40  # a JPEG keeps an even colour
    camera = dataclasses.replace(step.frame.cameras["CAM_FRONT_LEFT"], image=smooth)
    step = dataclasses.replace(step, frame=dataclasses.replace(step.frame, cameras={"CAM_FRONT_LEFT": camera}))
    messages = write(tmp_path / "a.mcap", [step])
    image, calibration = (only(messages, f"/cam_front_left/{what}") for what in ("image", "calibration"))
    assert image.frame_id == calibration.frame_id == "CAM_FRONT_LEFT" and image.format == "jpeg"
    decoded = cv2.imdecode(np.frombuffer(image.data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_allclose(decoded, smooth, atol=4, err_msg="red stays red")
    assert (calibration.width, calibration.height) == (64, 32)
    np.testing.assert_array_equal(np.reshape(calibration.K, (3, 3)), camera.intrinsics)
    np.testing.assert_array_equal(np.reshape(calibration.P, (3, 4))[:, :3], camera.intrinsics)
    ego, mounted = (message for _, message in messages["/tf"])
    assert (ego.parent_frame_id, ego.child_frame_id) == ("map", "base_link")
    assert (ego.translation.x, 2 * np.arctan2(ego.rotation.z, ego.rotation.w)) == pytest.approx((1.0, 0.1))
    assert (mounted.parent_frame_id, mounted.child_frame_id) == ("base_link", "CAM_FRONT_LEFT")
    assert 2 * np.arctan2(mounted.rotation.z, mounted.rotation.w) == pytest.approx(1.0)


def test_faults_are_logged_and_numbers_have_a_schema_to_plot_by(tmp_path):
    step = dataclasses.replace(make_step(tracks=[7, 7]), faults={"CAM_BACK": "frozen", "lidar": "no points"})
    messages = write(tmp_path / "a.mcap", [step])
    logged = [(message.name, message.message, message.level) for _, message in messages["/faults"]]
    assert logged == [("CAM_BACK", "frozen", 3), ("lidar", "no points", 3)], "3: WARNING"
    assert only(messages, "/latency") == {"check": 1.5, "model": 20.25}
    assert only(messages, "/summary")["tracks"] == 1 and only(messages, "/summary")["faults"] == 2
    with (tmp_path / "a.mcap").open("rb") as file:
        schemas = {schema.name: schema for schema in make_reader(file).get_summary().schemas.values()}
    assert list(json.loads(schemas["perception.Latency"].data)["properties"]) == ["check", "model"]


def test_without_sensors_only_the_answers_are_kept(tmp_path):
    messages = write(tmp_path / "a.mcap", [make_step(truth=two_boxes())], sensors=False)
    assert set(messages) == {"/tf", "/detections", "/ground_truth", "/latency", "/summary"}
    assert len(messages["/tf"]) == 1


def test_a_frame_of_nothing_says_so(tmp_path):
    step = make_step(boxes=Boxes3D.empty(), cameras=None, lidar=None, radar=None, truth=Boxes3D.empty(), tracks=[])
    messages = write(tmp_path / "a.mcap", [dataclasses.replace(step, latency_ms={})])
    assert set(messages) == {"/tf", "/detections", "/ground_truth", "/summary"}
    assert not only(messages, "/detections").entities and len(only(messages, "/detections").deletions) == 1
    assert only(messages, "/summary") == {
        "frame": 0, "detections": 0, "shown": 0, "tracks": 0, "ground_truth": 0, "faults": 0,
    }  # fmt: skip


def test_empty_clouds_are_messages_without_points(tmp_path):
    frame = make_frame(1, points=0)
    messages = write(tmp_path / "a.mcap", [make_step(lidar=frame.lidar, radar=frame.radar)])
    assert only(messages, "/lidar").data == b"" and only(messages, "/summary")["lidar_points"] == 0


def test_no_steps_at_all_make_an_empty_file(tmp_path):
    assert write(tmp_path / "a.mcap", []) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["a.mcap"]


def test_the_same_steps_make_the_same_bytes_beside_another_sink(tmp_path):
    with FoxgloveSink(tmp_path / "a.mcap") as one, FoxgloveSink(tmp_path / "deep/b.mcap") as other:
        for i in range(3):
            one.add(make_step(i, truth=two_boxes()))
            other.add(make_step(i, truth=two_boxes()))
    assert (tmp_path / "a.mcap").read_bytes() == (tmp_path / "deep/b.mcap").read_bytes()


def test_an_error_leaves_the_earlier_file_and_a_readable_part(tmp_path):
    write(tmp_path / "a.mcap", [make_step(tracks=[1, 2])])
    before = (tmp_path / "a.mcap").read_bytes()
    with pytest.raises(KeyError), FoxgloveSink(tmp_path / "a.mcap") as sink:
        sink.add(make_step(0))
        sink.add(make_step(1))
        raise KeyError
    assert (tmp_path / "a.mcap").read_bytes() == before
    assert len(read(tmp_path / "a.part.mcap")["/detections"]) == 2
    assert len(write(tmp_path / "a.mcap", [make_step()])["/detections"]) == 1
    assert not (tmp_path / "a.part.mcap").exists()


def noise_camera(seed: int, height=600, width=600) -> dict:
    """A camera whose JPEG hardly gets smaller."""
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return {"CAM_FRONT": dataclasses.replace(make_frame(1).cameras["CAM_FRONT"], image=noise)}


def test_chunks_are_on_disk_while_the_replay_runs(tmp_path):
    with FoxgloveSink(tmp_path / "a.mcap") as sink:
        for i in range(12):
            sink.add(make_step(i, cameras=noise_camera(i)))
        written = (tmp_path / "a.part.mcap").stat().st_size
    assert written > 0.6 * (tmp_path / "a.mcap").stat().st_size > 10**6


def test_what_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match=r"file/a\.mcap"), FoxgloveSink(tmp_path / "file/a.mcap"):
        pass
    with pytest.raises(ResultsError, match="1970 to 2106 was expected, found -1 ns"):
        write(tmp_path / "a.mcap", [make_step(timestamp_ns=-1)])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_is_told_once_and_at_the_next_step(tmp_path, capfd):
    sink, added = FoxgloveSink(tmp_path / "a.mcap"), 0
    with pytest.raises(ResultsError, match=r"a\.mcap: cannot be written: No space"), sink:
        sink._file._file = open("/dev/full", "wb")
        while added < 50:
            sink.add(make_step(added, cameras=noise_camera(added)))
            added += 1
    assert added < 10, "a chunk is a megabyte"
    assert not (tmp_path / "a.mcap").exists() and "rror" not in capfd.readouterr().err


def test_a_missing_library_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "foxglove", None)
    for sink in (FoxgloveSink(tmp_path / "a.mcap"), LiveSink(port=0)):
        with pytest.raises(PerceptionError, match=r'pip install -e "\.\[logs\]"'), sink:
            pass


class Client:
    """As much of a WebSocket client as the server needs."""

    def __init__(self, port: int, origin: str = "file://"):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        key = base64.b64encode(bytes(16)).decode()
        self._socket.sendall(
            "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Origin: {origin}\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: foxglove.sdk.v1\r\n\r\n".encode()
        )
        self._file = self._socket.makefile("rb")
        self.head = b"".join(iter(self._file.readline, b"\r\n")).decode()

    def receive(self) -> dict | bytes:
        """The next message: decoded JSON, or bytes."""
        kind, length = self._file.read(2)
        if length >= 126:
            length = int.from_bytes(self._file.read(2 if length == 126 else 8), "big")
        data = self._file.read(length)
        return json.loads(data) if kind & 0x0F == 1 else data

    def send(self, message: dict) -> None:
        """Masked with zeros, which leaves the text as it is."""
        data = json.dumps(message).encode()
        self._socket.sendall(bytes([0x81, 0xFE]) + struct.pack(">H", len(data)) + bytes(4) + data)

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@contextlib.contextmanager
def shown_again_and_again(sink, step):
    """The step, ten times a second, until the block ends."""
    ended = threading.Event()

    def show():
        sink.add(step)
        while not ended.wait(0.1):
            sink.add(step)

    thread = threading.Thread(target=show)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_a_live_view_gets_the_boxes_and_the_time_of_the_recording():
    from mcap.records import Schema

    with LiveSink(port=0) as sink:
        client = Client(int(sink.url.rpartition(":")[2]))
        assert "101 Switching Protocols" in client.head and "foxglove.sdk.v1" in client.head
        assert client.receive()["capabilities"] == ["time"]
        channels, times = {}, set()
        with shown_again_and_again(sink, make_step(0)):  # a client is greeted before it is told of what comes
            while "/summary" not in channels or not times:  # the last of a step, and the server has a queue for each
                message = client.receive()
                if isinstance(message, dict):
                    channels |= {channel["topic"]: channel for channel in message["channels"]}
                else:
                    times.add((message[0], int.from_bytes(message[1:9], "little")))
        assert times == {(2, 10**18)}, "2: time"
        channel = channels["/detections"]
        client.send({"op": "subscribe", "subscriptions": [{"id": 5, "channelId": channel["id"]}]})
        message = b""
        for i in range(1, 1000):  # the server subscribes when it gets to it
            sink.add(make_step(i))
            message = client.receive()
            if message[0] == 1:
                break
        kind, subscription, log_time = struct.unpack_from("<BIQ", message)
        schema = Schema(1, base64.b64decode(channel["schema"]), "protobuf", channel["schemaName"])
        update = ProtobufDecoders().decoder_for("protobuf", schema)(message[13:])
        assert (kind, subscription) == (1, 5) and nanoseconds(update.entities[0].timestamp) == log_time
        assert [entity.texts[0].text for entity in update.entities] == ["car 0.87", "pedestrian 0.50"]
        client.close()


def test_a_live_view_ends_although_clients_are_idle_and_refuses_web_pages():
    with LiveSink(port=0) as sink:
        port = int(sink.url.rpartition(":")[2])
        silent = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(3)]
        connected = [Client(port) for _ in range(3)]
        assert Client(port, "https://evil.example").head.startswith("HTTP/1.1 403 ")
        sink.add(make_step(0))
    for client in [*silent, *connected]:
        client.close()


def test_a_live_view_is_for_this_machine_only_and_frees_its_port():
    with LiveSink(port=0) as sink:
        port = int(sink.url.rpartition(":")[2])
        assert sink.url == f"ws://127.0.0.1:{port}"
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.2", port), timeout=2)  # a server of all interfaces would answer
        with pytest.raises(ResultsError, match=f"ws://127.0.0.1:{port}: cannot be served: .*in use"), LiveSink(port):
            pass
        sink.add(make_step(0))
        with pytest.raises(ResultsError, match="1970"):
            sink.add(make_step(0, timestamp_ns=-1))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=2)
    with LiveSink(port) as sink:
        sink.add(make_step(0))


@pytest.mark.slow
def test_memory_stays_flat_over_hundreds_of_frames(tmp_path):
    psutil = pytest.importorskip("psutil")
    process = psutil.Process()
    noise = np.random.default_rng(0).integers(0, 255, (450, 800, 3), dtype=np.uint8)
    frame = make_frame(1, points=100_000)
    cameras = {name: dataclasses.replace(camera, image=noise) for name, camera in frame.cameras.items()}
    step = make_step(cameras=cameras, lidar=frame.lidar)
    with FoxgloveSink(tmp_path / "a.mcap") as sink:
        for i in range(300):
            time_ns = 10**18 + i * 10**8
            sink.add(dataclasses.replace(step, frame=dataclasses.replace(step.frame, timestamp_ns=time_ns)))
            if i == 50:
                before = process.memory_info().rss
        rise_mb = (process.memory_info().rss - before) / 2**20
    assert rise_mb < 20, f"{rise_mb:.0f} MB, of {(tmp_path / 'a.mcap').stat().st_size / 2**20:.0f} MB written"
