"""Exported models: their runtime in numpy beside the detector, their files, and onnxruntime where it is installed."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_decoder import DECODER
from test_model import make_frame, small_config
from torch import nn

from perception.cli import run
from perception.errors import PerceptionError
from perception.export import Exported, load
from perception.export.backends import FORMATS
from perception.export.card import KEY, Card, ModelError
from perception.export.graphs import exported
from perception.export.pooling import pool, pool_index
from perception.export.verify import differences
from perception.export.write import export, export_int8
from perception.geometry import SE3
from perception.model.build import build
from perception.model.pillars import PillarEncoder
from perception.ops.bev_pool import bev_pool
from perception.sample import LidarCloud, sensor_sets

SENSORS = ("camera", "radar", "lidar")
ROOT = Path(__file__).parents[1]


def detector_of(*overrides):
    """As it were a trained one."""
    torch.manual_seed(0)
    model = build(small_config(*DECODER, "decoder.layers=1", *overrides)).eval()
    for name, parameter in model.named_parameters():
        if name.startswith(("decoder", "fusion.output", "fusion.registration.edge_head")):
            nn.init.normal_(parameter, std=0.05)
    model.calibration.by_set = {"camera+lidar": (1.5, -0.25)}
    return model


@pytest.fixture(scope="module")
def detector():
    return detector_of("decoder.memory=5")


def in_torch(graph):
    """What a backend makes of a graph, without writing it."""

    def run(inputs):
        with torch.no_grad():
            found = graph.module(*(torch.from_numpy(inputs[name]) for name in graph.inputs))
        return {name: value.numpy() for name, value in found.items()}

    return run


@pytest.fixture(scope="module")
def model(detector):
    card, graphs = exported(detector)
    return Exported(Card.from_json(card.to_json(), "card"), {name: in_torch(graph) for name, graph in graphs.items()})


def later(frame, seconds=0.5):
    return replace(frame, timestamp_ns=int(1e9 * seconds), world_SE3_ego=SE3.from_yaw(0.2, (2.0, 1.0, 0.0)))


def same(expected, found):
    assert len(expected) == len(found) > 0
    score, metres = differences(expected, found)
    assert score.max() < 1e-4 and metres.max() < 1e-3
    np.testing.assert_allclose(np.sort(expected.boxes.yaw), np.sort(found.boxes.yaw), atol=1e-3)


@pytest.mark.parametrize("sensors", sensor_sets(SENSORS))
def test_the_runtime_finds_what_the_detector_finds(detector, model, sensors):
    frame = make_frame().only(sensors)
    same(detector.detect(frame), model.detect(frame))


def test_the_runtime_remembers_as_the_detector_does(detector, model):
    expected, theirs = detector.detect(make_frame("a"), None)
    found, ours = model.detect(make_frame("a"), None)
    same(expected, found)
    for frame in (later(make_frame("b", 1)), later(make_frame("b", 1), 9.0), make_frame("b", 1)):
        same(detector.detect(frame, theirs)[0], model.detect(frame, ours)[0])
    frame = later(make_frame("b", 1))
    assert len(model.detect(frame, ours)[0]) > len(model.detect(frame))  # what is remembered is found again


def test_one_camera_and_few_points_are_filled_up(detector, model):
    frame = make_frame()
    one = {"camera": dict(itertools.islice(frame.cameras.items(), 1))}
    one |= {"radar": type(frame.radar)(frame.radar.points[:3]), "lidar": LidarCloud(frame.lidar.points[:1])}
    same(detector.detect(frame.with_data(one)), model.detect(frame.with_data(one)))


def test_dead_sensors_are_absent(model):
    frame = make_frame()
    dead = replace(frame, lidar=LidarCloud(np.zeros((0, 5))))
    without = frame.only(["camera", "radar"])
    np.testing.assert_array_equal(model.detect(dead).scores, model.detect(without).scores)


@pytest.mark.parametrize("mistake", ["a frame", None, make_frame().only([])])
def test_what_is_no_frame_of_the_model_is_refused(model, mistake):
    with pytest.raises(PerceptionError, match="expected"):
        model.detect(mistake)


def test_images_are_pooled_as_in_torch(detector, model):
    """Turned and tilted cameras, one of them absent."""
    frame, lift = make_frame(), detector.encoders["camera"].view_transform
    turned = {
        name: replace(camera, ego_SE3_camera=camera.ego_SE3_camera @ SE3.from_yaw(0.1 + i))
        for i, (name, camera) in enumerate(frame.cameras.items())
    }
    inputs = model.encoder_inputs("camera", turned)
    for valid in ([True, True], [False, True], [False, False]):
        calibration = [inputs["intrinsics"], inputs["ego_SE3_camera"], np.array([valid])]
        height, width = (side // 8 for side in lift_size(model))
        theirs = lift._index(*map(torch.from_numpy, calibration), height, width)
        ours = pool_index(model.card.sensors["camera"], model.grid, *(value[0] for value in calibration))
        np.testing.assert_array_equal(ours.point, theirs.point)
        np.testing.assert_array_equal(ours.offsets[:-1], theirs.offsets)
        rng = np.random.default_rng(0)
        pixels = 2 * height * width
        context, depth = rng.random((pixels, 16), np.float32), rng.random((pixels, 8), np.float32)
        expected = bev_pool(*map(torch.from_numpy, (context, depth)), theirs)
        found = pool(context, depth, ours, model.grid)
        np.testing.assert_allclose(found[0].reshape(16, -1).T, expected, rtol=1e-5, atol=1e-5)


def lift_size(model):
    return model.card.sensors["camera"].image_size


@pytest.mark.parametrize("points", [0, 1, 400])
def test_pillars_of_scatters_are_pillars(monkeypatch, detector, points):
    """Also with points outside of the grid, in every direction, and on its borders."""
    pillars: PillarEncoder = detector.encoders["lidar"].pillars
    rng = np.random.default_rng(points)
    cloud = np.c_[rng.uniform(-16, 16, (points, 2)), rng.uniform(-7, 5, points), rng.random((points, 2))]
    cloud[: points // 40, 0], cloud[points // 40 : points // 20, 1] = 12.8, -12.8
    batch = detector.prepare([replace(make_frame(), lidar=LidarCloud(cloud))]).inputs["lidar"]
    with torch.no_grad():
        expected = pillars(batch)
        monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
        found = pillars(batch)
    assert (expected != 0).any() == (points == 400)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_card_comes_back(detector):
    card, _ = exported(detector)
    back = Card.from_json(card.to_json(), "card")
    assert (
        back == card
        and back.task.classes == detector.task.classes
        and back.calibration == {"camera+lidar": (1.5, -0.25)}
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda card: card.clear(),
        lambda card: card.update(version=2),
        lambda card: card.update(task={"objects": [], "attributes": []}),
        lambda card: card.update(memory={"objects": 10**9, "width": 4}),
        lambda card: card.update(grid={"x_min_m": "a"}),
        lambda card: card["sensors"]["camera"].update(depth_min_m=-1),
        lambda card: card["inputs"].update({"camera.pooled": "many"}),
    ],
)
def test_a_damaged_card_is_refused_in_one_line(detector, damage):
    values = json.loads(exported(detector)[0].to_json())
    damage(values)
    with pytest.raises(ModelError, match=r"^a\.onnx: .*expected") as found:
        Card.from_json(json.dumps(values), "a.onnx")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000])
def test_what_is_no_card_is_refused(text):
    with pytest.raises(ModelError, match="the card of an exported model was expected"):
        Card.from_json(text, "a.onnx")


def test_what_cannot_be_exported_is_named(tmp_path):
    with pytest.raises(PerceptionError, match=r"decoder\.kind: an object decoder was expected"):
        export(build(small_config()), tmp_path, "onnx")
    voxels = build(small_config(*DECODER, "encoders.lidar.kind=lidar_voxels"))
    with pytest.raises(
        PerceptionError, match=r"encoders\.lidar: an encoder of kind camera, lidar, radar or imported_centerpoint was"
    ):
        export(voxels, tmp_path, "onnx")


def test_folders_without_a_model_are_refused(tmp_path):
    for mistake in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ModelError, match=r"an exported model was expected, a folder with objects\.onnx"):
            load(mistake)
    with pytest.raises(ModelError, match="a folder was expected, found int"):
        load(3)
    with pytest.raises(PerceptionError, match="form: one of onnx"):
        load(tmp_path, "tflite")


@pytest.mark.parametrize("form", FORMATS)
def test_files_of_something_else_are_refused_in_one_line(tmp_path, form):
    if form.startswith("onnx"):
        pytest.importorskip("onnxruntime")
    (tmp_path / f"objects{FORMATS[form][0]}").write_bytes(b"\x08\x07nothing of the kind")
    with pytest.raises(ModelError, match="was expected") as found:
        load(tmp_path, form)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--format, --verify or both"),
        (["--format", "onnx-int8"], "--calibrate with a folder of frames"),
        (["--format", "onnx", "--frames", "0"], "--frames: 1 or more"),
        (["--verify", "data"], "an exported model was expected, found none"),
    ],
)
def test_mistakes_at_the_command(tmp_path, options, message):
    with pytest.raises(PerceptionError, match=message):
        run(["export", "--checkpoint", "sim", "--out", str(tmp_path / "out"), *options])


def test_differences_are_to_the_nearest_of_the_class(model):
    found = model.detect(make_frame())[:3]
    moved = replace(found, boxes=replace(found.boxes, center=found.boxes.center + [0.5, 0, 0]))
    score, metres = differences(found, moved)
    np.testing.assert_allclose(metres, 0.5)
    assert (score == 0).all()
    assert np.isinf(differences(found, found[:0])).all()
    other = replace(found, boxes=replace(found.boxes, label=(found.boxes.label + 1) % 10))
    assert np.isinf(differences(found[:1], other[:1])).all()


@pytest.fixture(scope="module")
def folder(detector, tmp_path_factory):
    pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")
    folder = tmp_path_factory.mktemp("exported")
    export(detector, folder, "onnx")
    return folder


@pytest.mark.slow
def test_onnxruntime_finds_what_the_detector_finds(detector, folder):
    found = load(folder, threads=1)
    for sensors in sensor_sets(SENSORS):
        frame = make_frame("a", 3).only(sensors)
        same(detector.detect(frame), found.detect(frame))
    (_, theirs), (_, ours) = detector.detect(make_frame(), None), found.detect(make_frame(), None)
    frame = later(make_frame("b", 1))
    same(detector.detect(frame, theirs)[0], found.detect(frame, ours)[0])


@pytest.mark.slow
def test_two_threads_compute_the_same_fifty_times(folder):
    frame = make_frame()
    expected, found = load(folder, threads=1).detect(frame), load(folder, threads=2)
    for _ in range(50):
        same(expected, found.detect(frame))


@pytest.mark.slow
def test_files_have_standard_operators_and_the_card(detector, folder):
    import onnx

    text = exported(detector)[0].to_json()
    assert sorted(path.name for path in folder.glob("*.onnx")) == [
        "camera.onnx", "lidar.onnx", "objects.onnx", "radar.onnx",
    ]  # fmt: skip
    for path in folder.glob("*.onnx"):
        graph = onnx.load(path)
        assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"} and not graph.functions
        assert [(opset.domain, opset.version) for opset in graph.opset_import if opset.domain in ("", "ai.onnx")] == [
            ("", 20)
        ]
        assert {prop.key: prop.value for prop in graph.metadata_props}[KEY] == text
        adds = [
            n for n in graph.graph.node if n.op_type == "ScatterND" and any(a.name == "reduction" for a in n.attribute)
        ]
        assert not adds, "onnxruntime computes an accumulating ScatterND wrongly"


@pytest.mark.slow
def test_graphs_of_different_models_are_told_apart(folder, tmp_path):
    import onnx

    for path in folder.glob("*.onnx"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    other = onnx.load(folder / "radar.onnx")
    card = json.loads(other.metadata_props[0].value) | {"weights_sha256": "another"}
    onnx.helper.set_model_props(other, {KEY: json.dumps(card)})
    onnx.save(other, tmp_path / "radar.onnx")
    with pytest.raises(ModelError, match=r"radar\.onnx: a graph of the model of objects\.onnx was expected"):
        load(tmp_path)
    (tmp_path / "radar.onnx").unlink()
    with pytest.raises(ModelError, match=r"radar\.onnx: cannot be read"):
        load(tmp_path)


@pytest.mark.slow
def test_a_changed_file_is_noticed(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "radar.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(PerceptionError, match=r"radar\.onnx: the SHA-256"):
        load(tmp_path)


@pytest.mark.slow
def test_images_in_int8_find_much_the_same(detector, folder):
    frames = [make_frame("a", seed) for seed in range(3)]
    export_int8(folder, frames)
    small = load(folder, "onnx-int8")
    assert small.card == load(folder, "onnx").card
    frame = frames[0].only(["radar", "lidar"])
    same(detector.detect(frame), small.detect(frame))
    expected, found = detector.detect(frames[0]), small.detect(frames[0])
    assert 0 < np.abs(expected.scores[:10] - found.scores[:10]).max() < 0.1
    assert (folder / "camera.int8.onnx").stat().st_size < 0.5 * (folder / "camera.onnx").stat().st_size


_WITHOUT_TORCH = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError("torch is not to be imported")

sys.meta_path.insert(0, Refused())
import numpy as np
from perception.export import load
from perception.sample import Frame, LidarCloud

model = load(sys.argv[1])
cloud = np.load(sys.argv[2])
print(len(model.detect(Frame("a", 0, lidar=LidarCloud(cloud)))), "torch" in sys.modules)
"""


@pytest.mark.slow
def test_the_runtime_needs_no_torch(detector, folder, tmp_path):
    frame = make_frame()
    np.save(tmp_path / "cloud.npy", frame.lidar.points)
    command = [sys.executable, "-c", _WITHOUT_TORCH, str(folder), str(tmp_path / "cloud.npy")]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert printed == [str(len(detector.detect(frame.only(["lidar"])))), "False"]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("form", ["torch-export", "aoti"])
def test_formats_of_torch_find_what_the_detector_finds(tmp_path, form):
    """A detector of one sensor, which is compiled soon."""
    detector = detector_of("encoders.camera=null", "encoders.lidar=null")
    export(detector, tmp_path, form)
    same(detector.detect(make_frame().only(["radar"])), load(tmp_path, form).detect(make_frame()))
    with pytest.raises(ModelError, match=r"objects\.onnx"):
        load(tmp_path, "onnx")


@pytest.mark.slow
def test_the_example_in_cpp_runs(folder, tmp_path):
    """Where ONNXRUNTIME names a folder of its C++ library, with include/ and lib/; the wheel has no headers."""
    library = os.environ.get("ONNXRUNTIME")
    if library is None or shutil.which("g++") is None:
        pytest.skip("ONNXRUNTIME, a folder of the C++ library, and g++ are wanted")
    program, source = tmp_path / "encode_images", ROOT / "docs/examples/encode_images.cpp"
    flags = ["-I", f"{library}/include", "-L", f"{library}/lib", f"-Wl,-rpath,{library}/lib", "-lonnxruntime"]
    subprocess.run(["g++", "-std=c++17", source, *flags, "-o", program], check=True)
    printed = subprocess.run([program, folder / "camera.onnx", "2", "32", "64"], capture_output=True, text=True).stdout
    assert "context: 64 16" in printed
