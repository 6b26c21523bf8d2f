"""Frames in shards: what is read is what was written, from anywhere, in an order that reads little; damage is named."""

import contextlib
import dataclasses
import http.server
import io
import json
import operator
import pickle
import shutil
import socket
import tarfile
import threading
import time
import zlib
from functools import partial, reduce
from pathlib import Path

import fsspec
import msgspec
import numpy as np
import pytest
from astyx_folder import write_astyx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_train import INPUTS, SENSORS, make_config, trainer
from tiny_drive import tiny_world

import perception
from perception.cli import run
from perception.config import load_config
from perception.data import shard_writer, stores
from perception.data.loader import STOPPED_S, Loader
from perception.data.nuscenes_files import DataError
from perception.data.opening import open_source, shard_contents
from perception.data.shard_writer import write_shards
from perception.data.shards import INDEX, Contents, Shards, classes_of
from perception.data.sources import FrameSource
from perception.errors import PerceptionError
from perception.eval.evaluate import evaluate
from perception.files import ResultsError
from perception.geometry import SE3
from perception.sample import Boxes3D, CameraImage, Detections, Frame, LidarCloud, PointCloud, RadarCloud
from perception.task import NUSCENES
from perception.train.batches import Schedule, TrainingData
from perception.train.checkpoint import read_checkpoint, write_checkpoint
from perception.train.source import frames_by_class, training_frames, validation_frames
from perception.train.trainer import Trainer

CONTENTS = Contents(
    "v1.0-own", True, classes_of(NUSCENES), list(NUSCENES.attributes), 10, 6, True, 5e-4, {"half": ["b"]}
)
STEP_M = 5e-4


def make_frame(index: int, scene: str = "a") -> Frame:
    """Every kind of number that a frame has, none of them round."""
    rng = np.random.default_rng(index)
    lidar = np.column_stack([rng.uniform(-9, 9, (50, 3)), rng.integers(0, 256, 50), np.repeat([0.0, 0.05], 25)])
    intrinsics = np.array([[10.1, 0.1, 9.5], [0, 10.3, 4.5], [0, 0, 1]])
    images = rng.integers(0, 256, (2, 10, 20, 3), dtype=np.uint8)
    pose = SE3.from_yaw(rng.uniform(), rng.normal(size=3))
    n = 1 + index % 3
    return Frame(
        token=f"token-{index}",
        timestamp_ns=1_600_000_000_000_000_001 + index,
        world_SE3_ego=SE3.from_yaw(rng.uniform(), rng.normal(size=3)),
        cameras={f"CAM_{i}": CameraImage(image, intrinsics, pose, index + i) for i, image in enumerate(images)},
        radar=RadarCloud(rng.normal(size=(5, 7))),
        lidar=LidarCloud(lidar),
        boxes=Boxes3D(
            rng.normal(size=(n, 3)), rng.uniform(1, 2, (n, 3)), rng.normal(size=n), np.full((n, 2), np.nan),
            np.arange(n), np.arange(n) - 1, np.arange(n), np.arange(n), np.zeros(n),
        ),
        scene=scene,
    )  # fmt: skip


class Frames(list):
    """A source of own making, without image files."""

    @property
    def tokens(self):
        return [f"token-{index}" for index in range(len(self))]


def make_frames(scenes="aaaabbbbcccc") -> Frames:
    return Frames(make_frame(index, scene) for index, scene in enumerate(scenes))


def written(out, frames=None, shard_bytes=12_000, **contents) -> str:
    """Shards of about four frames each."""
    changed = msgspec.structs.replace(CONTENTS, **contents)
    write_shards(make_frames() if frames is None else frames, str(out), changed, shard_bytes)
    return str(out)


def opened(root, **options) -> Shards:
    return Shards(root, task=NUSCENES, **options)


def require_same(found: Frame, expected: Frame, step_m: float = STEP_M) -> None:
    for name in ("token", "scene", "timestamp_ns", "sensors"):
        assert getattr(found, name) == getattr(expected, name)
    assert np.array_equal(found.world_SE3_ego.matrix, expected.world_SE3_ego.matrix)
    assert (found.cameras or {}).keys() == (expected.cameras or {}).keys()
    for name, camera in (expected.cameras or {}).items():
        own = found.cameras[name]
        assert own.timestamp_ns == camera.timestamp_ns and np.array_equal(own.image, camera.image)
        assert np.array_equal(own.intrinsics, camera.intrinsics)
        assert np.array_equal(own.ego_SE3_camera.matrix, camera.ego_SE3_camera.matrix)
    if expected.radar is not None:
        assert np.array_equal(found.radar.points, expected.radar.points)
    if expected.lidar is not None:
        assert np.array_equal(found.lidar.points[:, 3:], expected.lidar.points[:, 3:])
        np.testing.assert_allclose(found.lidar.points, expected.lidar.points, rtol=0, atol=step_m / 2 + 4e-6)
    assert (found.boxes is None) == (expected.boxes is None)
    for field in dataclasses.fields(Boxes3D) if expected.boxes is not None else ():
        assert np.array_equal(getattr(found.boxes, field.name), getattr(expected.boxes, field.name), equal_nan=True)


def test_frames_are_those_of_the_source(tmp_path):
    frames = make_frames()
    source = opened(written(tmp_path / "out"))
    assert (source.tokens, source.scenes, source.version) == (frames.tokens, ["a", "b", "c"], "v1.0-own")
    assert source.simulated and isinstance(source, FrameSource) and len(set(source.shard.tolist())) > 2
    assert len(list(source.frames())) == 12
    for found, expected in zip(source.frames(), frames):
        require_same(found, expected)
    with pytest.raises(IndexError):
        source[12]
    require_same(pickle.loads(pickle.dumps(source))[-1], frames[11])


def test_parts_that_are_absent_or_empty(tmp_path):
    whole = make_frame(0)
    frames = Frames([
        whole.only([]), whole.only(["radar"]), whole.only(["lidar"]), dataclasses.replace(whole, boxes=None),
        whole.with_data({"lidar": LidarCloud(np.zeros((0, 5))), "radar": RadarCloud(np.zeros((0, 7)))}),
        dataclasses.replace(whole, boxes=Boxes3D.empty()),
    ])  # fmt: skip
    frames[:] = [dataclasses.replace(frame, token=f"token-{i}") for i, frame in enumerate(frames)]
    source = opened(written(tmp_path, frames, lidar_step_m=0.0))
    for found, expected in zip(source.frames(), frames):
        require_same(found, expected, step_m=0)


def test_a_shard_is_a_tar_file_in_the_layout_of_webdataset(tmp_path):
    """A frame's members lie together, under its number; what follows the first dot is their kind."""
    root = written(tmp_path)
    names = []
    for path in sorted(tmp_path.glob("*.tar")):
        with tarfile.open(path) as tar:
            names += tar.getnames()
            assert json.load(tar.extractfile(names[-5]))["token"] == f"token-{int(names[-5].split('.')[0])}"
    kinds = ("json", "CAM_0.png", "CAM_1.png", "lidar", "radar")
    assert names == [f"{number:08d}.{kind}" for number in range(12) for kind in kinds]
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob("*.tar"))]
    assert [shard["size"] for shard in json.loads((tmp_path / INDEX).read_bytes())["shards"]] == sizes
    assert root == str(tmp_path)


@pytest.mark.parametrize(
    ("shard_bytes", "shards"), [(1, [1] * 12), (10_000, [2] * 6), (40_000, [4, 4, 4]), (1 << 30, [12])]
)
def test_a_shard_ends_with_a_scene_where_it_can(tmp_path, shard_bytes, shards):
    """A frame takes 7 KB or so: two fill 10 KB, of 40 KB four are more than half."""
    source = opened(written(tmp_path, shard_bytes=shard_bytes))
    assert np.bincount(source.shard).tolist() == shards


def test_scenes_splits_and_parts(tmp_path):
    root = written(tmp_path)
    assert opened(root, scenes=["c", "a"]).tokens == [f"token-{i}" for i in (8, 9, 10, 11, 0, 1, 2, 3)]
    assert opened(root, split="half").scenes == ["b"]
    assert opened(root, part=(0.5, 1)).tokens == [f"token-{i}" for i in (2, 3, 6, 7, 10, 11)]
    assert opened(root, scenes=["b"], part=(0, 0.25))[0].token == "token-4"
    for options, message in (
        ({"scenes": ["d"]}, "unknown scene 'd'"),
        ({"part": (1, 0)}, "part: begin and end"),
        ({"on_error": "x"}, "unknown on_error 'x'"),
        ({"split": "half", "scenes": ["a"]}, "either split or scenes"),
    ):
        with pytest.raises(PerceptionError, match=message):
            opened(root, **options)


def test_images_of_a_drive_are_its_files_and_are_decoded_as_small(tmp_path):
    """Bytes are those of the JPEGs; with an image size both decode at a half, with the same intrinsics."""
    config = load_config(None, [])
    drive = open_source(tiny_world().write(tmp_path / "drive"), config)
    files = sorted((tmp_path / "drive/samples/CAM_FRONT").iterdir())
    write_shards(drive, str(tmp_path / "out"), shard_contents(drive, config, 0.0), 20_000)
    for size in (None, (8, 16)):
        source = open_source(tmp_path / "out", config, "v1.0-sim", image_size=size)
        loose = open_source(tmp_path / "drive", config, image_size=size)
        for i, expected in enumerate(loose.frames()):
            require_same(source[i], expected, step_m=0)
            assert source.image_files(i) == drive.image_files(i) == {"CAM_FRONT": files[i].read_bytes()}
    by_class = [frames.tolist() for frames in frames_by_class(loose, 10)]
    assert [frames.tolist() for frames in frames_by_class(source, 10)] == by_class and by_class[0]
    again = shard_contents(source, config, 0.0)
    write_shards(open_source(tmp_path / "out", config), str(tmp_path / "again"), again, 20_000)
    assert bytes_below(tmp_path / "again") == bytes_below(tmp_path / "out")


def test_rectified_images_are_kept_as_they_are_seen(tmp_path):
    world = tiny_world()
    world.row("calibrated_sensor", "CAM_FRONT")["camera_distortion"] = [0.1, 0.0, 0.0, 0.0, 0.0]
    drive = perception.NuScenes(world.write(tmp_path / "drive"))
    source = opened(written(tmp_path / "out", drive))
    assert np.array_equal(source[1].cameras["CAM_FRONT"].image, drive[1].cameras["CAM_FRONT"].image)
    assert (drive.image_files(1) == {}) == (source.image_files(1)["CAM_FRONT"][:4] == b"\x89PNG")


def test_astyx_too(tmp_path):
    config = load_config("astyx", [])
    loose = open_source(write_astyx(tmp_path / "astyx"), config)
    write_shards(loose, str(tmp_path / "out"), shard_contents(loose, config, 0.0), 1 << 20)
    source = open_source(tmp_path / "out", config, "hires2019", split="score")
    assert source.tokens == ["000278", "000378"]
    for found, token in zip(source.frames(), source.tokens):
        require_same(found, loose[loose.tokens.index(token)], step_m=0)


class Oracle:
    """Sees all objects, a little off."""

    task, sensors = NUSCENES, ("lidar",)

    def detect(self, frame: Frame) -> Detections:
        boxes = dataclasses.replace(frame.boxes, center=frame.boxes.center + 0.3)
        return Detections(boxes, np.full(len(boxes), 0.5))


def test_training_and_evaluation_take_them_by_their_root(tmp_path):
    tiny_world().write(tmp_path / "drive")
    later = ["validation.every_epochs=1", "validation.part=[0.5,1]"]
    config = load_config(None, [f"data.root={tmp_path / 'drive'}", *later])
    loose = training_frames(config, None)
    write_shards(loose, str(tmp_path / "out"), shard_contents(loose, config, 0.0), 20_000)
    config.data.root = f"file://{tmp_path / 'out'}"
    config.data.part = [0.0, 0.5]
    train, validation = training_frames(config, (7, 14)), validation_frames(config, (7, 14))
    assert isinstance(train, Shards) and train.tokens + validation.tokens == loose.tokens
    assert train[0].cameras["CAM_FRONT"].image.shape == (8, 16, 3)
    found, expected = (evaluate(Oracle(), source) for source in (opened(tmp_path / "out"), loose))
    assert [found[name] for name in ("mAP", "NDS", "mATE")] == pytest.approx(
        [expected[n] for n in ("mAP", "NDS", "mATE")]
    )
    assert found["boxes"] == expected["boxes"] > 0


# Where they are.


@pytest.fixture
def memory():
    yield "memory://shards"
    fsspec.filesystem("memory").rm("/", recursive=True)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, with ranges.

    trouble: status codes of the next answers, None for one that is cut.  announced: whether answers say their length.
    """

    trouble: list[int | None] = []  # noqa: RUF012
    ranges = announced = True

    def do_GET(self):
        code = self.trouble.pop() if self.trouble else 206
        if code not in (206, None):
            return self.send_error(code)
        wanted = self.headers["Range"]
        if not (self.ranges and wanted):
            return super().do_GET()
        begin, end = map(int, wanted.removeprefix("bytes=").split("-"))
        with open(self.translate_path(self.path), "rb") as file:
            data = file.read()[begin : end + 1]
        self.send_response(206)
        if self.announced:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data if code else data[:100])

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    """The URL of what is in the folder ``served``."""
    written(tmp_path / "served")
    handler = partial(Handler, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_from_any_url_of_fsspec(memory, tmp_path):
    source = opened(written(memory))
    for found, expected in zip(source.frames(), make_frames()):
        require_same(found, expected)
    assert stored(memory) == bytes_below(written(tmp_path / "out"))


def test_over_http(served, monkeypatch):
    frames, source = make_frames(), opened(served)
    for index in (7, 0, 11):
        require_same(source[index], frames[index])
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(Handler, "trouble", [503, 500])
    require_same(source[3], frames[3])
    monkeypatch.setattr(Handler, "trouble", [503] * 3)
    with pytest.raises(DataError, match=r"shard-000000.tar: cannot be read: HTTP Error 503"):
        source[0]
    monkeypatch.setattr(Handler, "trouble", [404])
    with pytest.raises(DataError, match=r"shard-000000.tar: cannot be read: HTTP Error 404"):
        source[0]
    monkeypatch.setattr(Handler, "ranges", False)
    with pytest.raises(DataError, match=r"a server that serves ranges was expected, found status 200"):
        source[0]
    with pytest.raises(ResultsError, match="cannot be written: over HTTP shards are only read"):
        written(served + "/other")


def test_what_fails_for_a_moment_over_http_is_tried_again(served, monkeypatch):
    source, expected = opened(served), make_frames()[3]
    monkeypatch.setattr(time, "sleep", lambda _: None)
    for announced in (True, False):
        monkeypatch.setattr(Handler, "announced", announced)
        for trouble in ([429, 408], [None, None], [503, None]):
            monkeypatch.setattr(Handler, "trouble", trouble)
            require_same(source[3], expected)
            assert Handler.trouble == []
    monkeypatch.setattr(Handler, "announced", True)
    monkeypatch.setattr(Handler, "trouble", [None] * 4)
    with pytest.raises(DataError, match=r"shard-000001\.tar: cannot be read: IncompleteRead\(100 bytes read, \d+ more"):
        source[3]
    assert len(Handler.trouble) == 1
    whole = stores.read(served, "shard-000000.tar")
    monkeypatch.setattr(Handler, "trouble", [])
    assert stores.read(served, "shard-000000.tar", len(whole) - 10, 20) == whole[-10:]  # ends before, and is whole


def test_a_server_that_stalls_is_named_before_its_worker_is_taken_to_hang(served, monkeypatch):
    tries = 1 + len(stores._PAUSES_S)
    assert tries * 2 * stores._TIMEOUT_S + sum(stores._PAUSES_S) < STOPPED_S - 20
    source, waits = opened(served), []
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setattr(stores, "_TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # which connects, and says nothing
        source.root = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(DataError, match=r"shard-000000\.tar: cannot be read: timed out"):
            source[0]
    assert waits == [1, 5]


def test_what_is_not_there(tmp_path, memory):
    for root in (tmp_path, memory, "nosuch://bucket/a"):
        with pytest.raises(DataError, match=rf"{root}/shards\.json: cannot be read"):
            opened(root)
    with pytest.raises(ResultsError, match=r"nosuch://bucket/a/shard-000000\.tar: cannot be written"):
        stores.write("nosuch://bucket/a", "shard-000000.tar", b"")


# What is wrong with them.


def stored(url: str) -> dict[str, bytes]:
    filesystem, path = fsspec.core.url_to_fs(url)
    return {name.rpartition("/")[2]: filesystem.cat_file(name) for name in filesystem.find(path)}


def bytes_below(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_a_truncated_shard(tmp_path):
    root = written(tmp_path)
    path = tmp_path / "shard-000001.tar"
    source = opened(root)
    frames = np.flatnonzero(source.shard == 1).tolist()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=rf"shard-000001\.tar: frame token-{frames[0]}: .* found 1000: truncated\?"):
        source[frames[0]]
    path.unlink()
    with pytest.raises(DataError, match=r"shard-000001\.tar: cannot be read: No such file"):
        source[frames[0]]
    skipping = opened(root, on_error="skip")
    assert [frame.token for frame in skipping.frames()] == [
        token for i, token in enumerate(source.tokens) if i not in frames
    ]
    assert set(skipping.skipped) == {f"token-{i}" for i in frames}


def test_shards_of_another_index_and_flipped_bits(tmp_path):
    root = written(tmp_path / "one")
    written(tmp_path / "other", Frames(make_frame(i + 100) for i in range(12)))
    path = tmp_path / "one/shard-000000.tar"
    data = path.read_bytes()
    for wrong in ((tmp_path / "other/shard-000000.tar").read_bytes(), data[:3000] + b"\x55" + data[3001:]):
        path.write_bytes(wrong)
        with pytest.raises(DataError, match=r"shard-000000\.tar: frame token-0: other bytes were expected by the CRC"):
            opened(root)[0]


def forged(tmp_path, members: dict[str, bytes], name="00000000.", kind=tarfile.REGTYPE) -> Shards:
    """An index and a shard that agree, of one frame, but whose members are somebody else's."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for ending, data in members.items():
            info = tarfile.TarInfo(name + ending)
            info.size, info.type = len(data), kind
            tar.addfile(info, io.BytesIO(data))
        length = tar.offset
    data = buffer.getvalue()
    place = {
        "token": "t",
        "scene": "s",
        "offset": 0,
        "length": length,
        "crc32": zlib.crc32(data[:length]),
        "labels": [],
    }
    index = {"format": "perception-shards-1", "contents": msgspec.to_builtins(CONTENTS), "complete": True}
    index["shards"] = [{"size": len(data), "frames": [place]}]
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "shard-000000.tar").write_bytes(data)
    (tmp_path / INDEX).write_text(json.dumps(index))
    return opened(tmp_path)


def members_of(frame: Frame) -> dict[str, bytes]:
    return shard_writer._members(frame, {}, STEP_M)


def changed(frame: Frame, **values) -> dict[str, bytes]:
    members = members_of(frame)
    return members | {"json": json.dumps(json.loads(members["json"]) | values).encode()}


def test_names_of_members_and_cameras_lead_nowhere(tmp_path):
    """Members are looked up by the end of their names, in memory; nothing is unpacked."""
    frame = make_frame(0)
    members = members_of(frame)
    for name in ("../../", "/etc/", "a/b"):
        with pytest.raises(DataError, match="frame t: "):
            forged(tmp_path, members, name)[0]
    camera = {"file": "../../secret.png", **json.loads(members["json"])["cameras"]["CAM_0"]}
    hostile = changed(frame, cameras={"../../x": {**camera, "file": "../../secret.png"}})
    (tmp_path / "secret.png").write_bytes(members["CAM_0.png"])
    with pytest.raises(DataError, match=r"frame t: a member '../../secret\.png' was expected, found none"):
        forged(tmp_path / "in", hostile)[0]
    assert list(forged(tmp_path / "in", changed(frame, cameras={"../../x": camera | {"file": "CAM_0.png"}}))[0].cameras)
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["shard-000000.tar", INDEX]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "a member|a frame's members were expected"),
        ({"json": b"{"}, "a frame's members were expected: Input data was truncated"),
        ({"json": b"[" * 100_000}, "a frame's members were expected"),
        ({"json": b"{}"}, "a frame's members were expected: Object missing required field `token`"),
        (changed(make_frame(0), lidar={"points": 1 << 30, "ages": 1}), "17179869192 bytes of LiDAR points"),
        (changed(make_frame(0), radar=6), "168 bytes of radar points were expected, found 140"),
        (changed(make_frame(0), world_SE3_ego=[[2.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "SE3 wants"),
        (members_of(make_frame(0)) | {"CAM_1.png": b"GIF89a"}, "a JPEG or PNG image was expected"),
        ({k: v for k, v in members_of(make_frame(0)).items() if k != "radar"}, "a member 'radar' was expected"),
    ],
)  # fmt: skip
def test_what_a_frame_lacks_is_named_in_one_line(tmp_path, members, message):
    if not members:
        members = {"lidar": b""}
    with pytest.raises(DataError, match=rf"shard-000000\.tar: frame t: .*({message})") as error:
        forged(tmp_path, members)[0]
    assert "\n" not in str(error.value)


_NUMBERS = st.one_of(
    st.integers(-3, 3), st.sampled_from([10**400, -(10**25), 1 << 63, (1 << 63) - 1, 1 << 31, 1e308, -1e-320, 1e39])
)
_VALUES = st.one_of(_NUMBERS, st.none(), st.text(max_size=3), st.just([]), st.just({}), st.lists(_NUMBERS, max_size=4))


def places_in(value, path=()):
    """The path to every value in decoded JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [found for key, own in inner for found in places_in(own, (*path, key))]


def mangled_json(data, text: bytes) -> bytes:
    """One to three of its values replaced, or left out."""
    value = json.loads(text)
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(places_in(value)))
        outer = reduce(operator.getitem, path, value)
        if data.draw(st.booleans()):
            outer[last] = data.draw(_VALUES)
        else:
            del outer[last]
    return json.dumps(value).encode()


def mangled_bytes(data, content: bytes) -> bytes:
    at, flipped = data.draw(st.integers(0, len(content) - 1)), data.draw(st.binary(min_size=1, max_size=8))
    return data.draw(st.sampled_from([content[:at], content[:at] + flipped + content[at + len(flipped) :]]))


@pytest.mark.filterwarnings("error")
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_a_shard_says_only_data_errors_come_of_it(tmp_path, data):
    members = members_of(make_frame(1))
    name = data.draw(st.sampled_from(["json", *members]))  # the JSON twice as often
    if name == "json" and data.draw(st.integers(0, 4)):
        members[name] = mangled_json(data, members[name])
    else:
        members[name] = mangled_bytes(data, members[name])
    source = forged(tmp_path, members)
    for read in (source.__getitem__, source.image_files):
        try:
            read(0)
        except DataError as error:
            assert str(error).startswith(f"{tmp_path}/shard-000000.tar: frame t: ") and "\n" not in str(error)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_an_index_says_only_perception_errors_come_of_it(tmp_path, data):
    forged(tmp_path, members_of(make_frame(1)))
    text = (tmp_path / INDEX).read_bytes()
    (tmp_path / INDEX).write_bytes(data.draw(st.sampled_from([mangled_json, mangled_bytes]))(data, text))
    with contextlib.suppress(PerceptionError):
        source = opened(tmp_path)
        frames_by_class(source, 10)
        list(source.frames())


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("lidar", {"points": 0, "exact": 1, "ages": 0}),  # 16 bytes
        ("lidar", {"first": [0, 10**400, 0]}),
        ("lidar", {"step_m": 1e300}),
        ("boxes", {"label": [10**400]}),
        ("boxes", {"num_radar_points": [10**400]}),
    ],
)
def test_numbers_that_nothing_fits(tmp_path, part, values):
    members = members_of(make_frame(0))
    own = json.loads(members["json"])[part] | values
    hostile = changed(make_frame(0), **{part: own}) | ({"lidar": bytes(16)} if "exact" in values else {})
    with pytest.raises(DataError, match=r"shard-000000\.tar: frame t: "):
        forged(tmp_path, hostile)[0]


def test_a_camera_without_its_file(tmp_path):
    members = members_of(make_frame(0))
    del members["CAM_1.png"]
    with pytest.raises(DataError, match=r"frame t: a member 'CAM_1\.png' was expected, found none"):
        forged(tmp_path, members).image_files(0)


def test_members_that_are_no_files(tmp_path):
    with pytest.raises(DataError, match="frame t: a frame's members were expected: a file of"):
        forged(tmp_path, {"json": b""}, kind=tarfile.SYMTYPE)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"complete": False}, "all frames were expected, found 1; run perception shard again"),
        ({"format": "perception-shards-2"}, "an index of shards was expected: Invalid enum value"),
        ({"shards": [{"size": 1, "frames": [{"token": "t"}]}]}, "an index of shards was expected: .* `scene`"),
    ],
)
def test_an_index_of_something_else(tmp_path, change, message):
    forged(tmp_path, members_of(make_frame(0)))
    index = json.loads((tmp_path / INDEX).read_text())
    (tmp_path / INDEX).write_text(json.dumps(index | change))
    with pytest.raises(DataError, match=rf"shards\.json: {message}"):
        opened(tmp_path)
    place = index["shards"][0]["frames"][0]
    for wrong, expected in (
        ([place, place], "different tokens were expected"),
        ([place | {"offset": -1}], "Expected `int` >= 0"),
        ([place | {"length": 1 << 40}], "Expected `int` <= "),
        ([place | {"labels": [10**400]}], "Expected `int` <"),
    ):
        (tmp_path / INDEX).write_text(json.dumps(index | {"shards": [{"size": 1, "frames": wrong}]}))
        with pytest.raises(DataError, match=expected):
            opened(tmp_path)


def test_shards_of_other_classes_sweeps_or_versions(tmp_path):
    root = written(tmp_path)
    config = load_config(None, [])
    assert len(open_source(root, config, "v1.0-own")) == 12
    for change, message in (
        ("data.lidar_sweeps=1", r"shards with data\.lidar_sweeps 1 were expected, found 10"),
        (
            "task.objects=[{name: car}]",
            "the classes car, of the same sources and attributes, were expected, found car, ",
        ),
    ):
        with pytest.raises(PerceptionError, match=message):
            open_source(root, load_config(None, [change]))
    with pytest.raises(PerceptionError, match=r"shards with data\.version v1 were expected, found v1\.0-own"):
        open_source(root, config, "v1")


# Writing.


def test_an_interrupted_writer_goes_on_and_writes_the_same_bytes(tmp_path):
    expected = bytes_below(written(tmp_path / "whole"))
    out, frames, read = tmp_path / "out", make_frames(), []

    def stop_at(number):
        def progress(done):
            read.append(done)
            if sum(read) >= number:
                raise KeyboardInterrupt

        return progress

    for number in (3, 6, 11):
        read.clear()
        with pytest.raises(KeyboardInterrupt):
            write_shards(frames, str(out), CONTENTS, 12_000, stop_at(number))
        if (out / INDEX).exists():
            with pytest.raises(DataError, match="all frames were expected"):
                opened(out)
    assert read[0] > 0, "what is whole was kept"
    (out / "shard-000001.tar").write_bytes(b"cut")
    written(out)
    assert bytes_below(out) == expected
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    written(out)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.tar")} == times and bytes_below(out) == expected


def test_shards_of_something_else_are_not_continued(tmp_path):
    root = written(tmp_path)
    with pytest.raises(PerceptionError, match=r"shards with lidar_step_m 0\.001 were expected, found 0\.0005; choose"):
        written(root, lidar_step_m=1e-3)
    with pytest.raises(PerceptionError, match="shards that begin as these 2 frames were expected, found frame token-2"):
        written(root, make_frames("aa"))


class Chosen(Frames):
    """Those of other frames with these numbers, under their own tokens."""

    def __init__(self, frames, numbers):
        super().__init__(frames[number] for number in numbers)
        self._tokens = [frames.tokens[number] for number in numbers]

    @property
    def tokens(self):
        return self._tokens


@pytest.mark.parametrize("numbers", [range(3, 6), range(0, 12, 2), [0, 2, 1]])
def test_shards_that_are_not_the_beginning_of_the_frames_are_not_continued(tmp_path, numbers):
    """A wider selection into the same folder would else go without the frames before, or between."""
    frames = make_frames()
    before = bytes_below(written(tmp_path, Chosen(frames, numbers)))
    expected = rf"shards that begin as these 12 frames were expected, found frame token-{3 if 3 in numbers else 2} in"
    with pytest.raises(PerceptionError, match=expected):
        written(tmp_path, frames)
    assert bytes_below(tmp_path) == before


def test_shards_of_the_first_frames_are_continued(tmp_path):
    """Also where the source leaves frames out as damaged, the first one and one in between."""
    frames = make_frames()
    frames[0] = frames[4] = None
    written(tmp_path, Chosen(frames, range(7)))
    assert opened(written(tmp_path, frames)).tokens == [f"token-{i}" for i in range(12) if i not in (0, 4)]


def test_damaged_frames_are_left_out(tmp_path):
    frames = make_frames()
    frames[4] = frames[11] = None
    assert opened(written(tmp_path, frames)).tokens == [f"token-{i}" for i in range(11) if i != 4]
    with pytest.raises(PerceptionError, match="frames to write were expected, found none"):
        written(tmp_path / "none", Frames([None]))


class Thermal(PointCloud):
    pass


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (dataclasses.replace(make_frame(0), others={"thermal": Thermal(np.zeros((1, 3)))}), "a sensor 'thermal'"),
        (dataclasses.replace(make_frame(0), cameras={"../x": make_frame(0).cameras["CAM_0"]}), "found '../x'"),
    ],
)
def test_what_shards_do_not_hold_is_refused(tmp_path, frame, message):
    with pytest.raises(PerceptionError, match=f"frame token-0: .*{message}"):
        written(tmp_path, Frames([frame]))


def test_images_that_were_reduced_do_not_fit_their_files(tmp_path):
    world = tiny_world()
    drive = perception.NuScenes(world.write(tmp_path / "drive"), image_size=(8, 16))
    with pytest.raises(
        PerceptionError, match=r"CAM_FRONT: an image as stored was expected, found \(8, 16\), in its file"
    ):
        written(tmp_path / "out", drive)


def test_the_command(tmp_path, memory, capsys):
    tiny_world().write(tmp_path / "drive")
    run(["shard", str(tmp_path / "drive"), "--out", memory, "--shard-mb", "0.02", "data.radar_sweeps=1"])
    assert capsys.readouterr().out.splitlines()[0].startswith("6 frames in ")
    config = load_config(None, ["data.radar_sweeps=1"])
    source = open_source(memory, config)
    assert source.contents.radar_sweeps == 1 and source.version == "v1.0-sim" and source.contents.lidar_step_m == 5e-4
    assert [frame.token for frame in source.frames()] == open_source(tmp_path / "drive", config).tokens
    for option in ("--shard-mb", "--lidar-step-mm"):
        with pytest.raises(PerceptionError, match=f"{option}: from"):
            run(["shard", str(tmp_path / "drive"), "--out", memory, option, "-1"])


# The order in which training reads them.


def order(shards, epoch=0, rank=0, processes=1, start=0, batches=None, by_class=None, **train) -> list[tuple[int, ...]]:
    train = make_config(**{"batch_size": 1, "shuffle_shards": 2} | train).train
    schedule = Schedule(len(shards), SENSORS, train, rank, processes, by_class, batches, shards)
    schedule.epoch, schedule.start = epoch, start
    return [draw.indices for draw in schedule]


SHARDS = np.repeat([0, 1, 2, 5, 6, 7], 10)  # of scenes that were chosen; none of shards 3 and 4


def test_frames_of_two_shards_at_a_time_are_mixed():
    indices = [i for (i,) in order(SHARDS)]
    assert sorted(indices) == list(range(60))
    pairs = [set(SHARDS[indices[begin : begin + 20]].tolist()) for begin in (0, 20, 40)]
    assert all(len(pair) == 2 for pair in pairs) and set.union(*pairs) == {0, 1, 2, 5, 6, 7}
    first = SHARDS[indices[:20]]
    assert 3 < (np.diff(first) != 0).sum(), "one after the other"
    alone = SHARDS[[i for (i,) in order(SHARDS, shuffle_shards=1)]]
    assert (np.diff(alone) != 0).sum() == 5
    other = [i for (i,) in order(SHARDS, epoch=1)]
    assert other != indices and [set(SHARDS[other[b : b + 20]].tolist()) for b in (0, 20, 40)] != pairs
    assert order(SHARDS) == order(SHARDS) != order(SHARDS, seed=1)


def test_the_order_is_resumed_exactly_and_does_not_depend_on_processes():
    whole = order(SHARDS, batch_size=3, batches=4)
    assert order(SHARDS, batch_size=3, batches=4, start=2) == whole[8:] and len(whole) == 20
    for processes in (2, 4):
        ranks = [order(SHARDS, rank=rank, processes=processes, batch_size=3, batches=4) for rank in range(processes)]
        assert [draw for turn in zip(*ranks) for draw in turn] == whole


def test_a_balanced_epoch_has_the_same_frames_in_the_order_of_shards():
    by_class = [np.arange(60), np.array([3, 42])]
    indices = [i for (i,) in order(SHARDS, by_class=by_class)]
    loose = Schedule(60, SENSORS, make_config(batch_size=1).train, by_class=by_class)
    assert sorted(indices) == sorted(i for draw in loose for i in draw.indices)
    turns = [SHARDS[i] for i in indices]
    last = {shard: len(turns) - turns[::-1].index(shard) for shard in set(turns)}
    for place in range(60):
        open_shards = {shard for shard in last if turns.index(shard) <= place < last[shard]}
        assert len(open_shards) <= 2


def resumed(out, source) -> Trainer:
    run = trainer(out, source)
    run.resume()
    return run


def test_a_run_goes_on_only_in_the_order_that_it_began_with(tmp_path):
    """From a copy of its shards, but neither from loose files nor from shards of another size, nor the reverse."""
    loose, root = make_frames(), written(tmp_path / "shards")
    copy = shutil.copytree(root, tmp_path / "copy")
    larger = written(tmp_path / "larger", shard_bytes=1 << 20)
    path = tmp_path / "run/checkpoint.safetensors"
    (tmp_path / "run").mkdir()
    trainer(tmp_path / "run", opened(root)).save()
    assert resumed(tmp_path / "run", opened(copy)).total_steps == 12
    shards = "shards [0-9a-f]{16}"
    for source, found in ((loose, "loose files"), (opened(larger), shards), (opened(root, scenes=list("bac")), None)):
        message = f"frames from {shards} were expected, found {found}, whose order is another"
        with pytest.raises(PerceptionError, match=f"^{path}: {message if found else 'the frames of this run, in'}"):
            resumed(tmp_path / "run", source)
    tensors, state = read_checkpoint(path)
    del state["order"]  # as in a checkpoint of an earlier version
    write_checkpoint(path, tensors, state)
    resumed(tmp_path / "run", loose).save()
    resumed(tmp_path / "run", make_frames())
    with pytest.raises(PerceptionError, match=f"frames from loose files were expected, found {shards}, whose"):
        resumed(tmp_path / "run", opened(root))


def test_workers_read_the_same_frames_whatever_their_number(tmp_path):
    source = opened(written(tmp_path))
    config = make_config(batch_size=2)
    found = []
    for workers in (0, 2):
        schedule = Schedule(len(source), SENSORS, config.train, shards=source.shard)
        loader = Loader(TrainingData(source, config, INPUTS), workers)
        found.append([(batch.tokens, batch.inputs["lidar"].points) for batch in loader.items(schedule)])
        loader.close()
    assert [tokens for tokens, _ in found[0]] == [tokens for tokens, _ in found[1]] and len(found[0]) == 6
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(*found))
