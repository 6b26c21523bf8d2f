"""The index is made once, made anew when it must be, and says what the tables say."""

import json
import logging
import multiprocessing
import os
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nuscenes_world import START_US, STILL, World

import perception
from perception.data import nuscenes_index
from perception.data.column_file import read_columns, write_columns
from perception.data.nuscenes_files import DataError

INDEX = nuscenes_index.FOLDER


@pytest.fixture
def world():
    return World()


@pytest.fixture
def root(tmp_path, world, monkeypatch):
    """A dataset that counts as old enough to be remembered, and a user's cache."""
    monkeypatch.setattr(nuscenes_index, "_SETTLED_NS", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return world.write(tmp_path / "data")


def index_files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def forbid(monkeypatch, *functions):
    def called(*_):
        raise AssertionError("nothing has changed")

    for name in functions:
        monkeypatch.setattr(nuscenes_index, name, called)


def test_it_is_built_once(root, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "perception.data")  # other parts may say that they compile their kernels
    first = perception.NuScenes(root)
    assert [record.message for record in caplog.records] == [f"{root}/v1.0-sim: building the index of its tables, once"]
    assert index_files(root / INDEX) == ["files.safetensors", "tables.safetensors"]
    forbid(monkeypatch, "_read_tables", "_list_files")
    second = perception.NuScenes(root)
    assert second.tokens == first.tokens == ["s0", "s1"]
    np.testing.assert_array_equal(second[0].lidar.points, first[0].lidar.points)
    assert len(caplog.records) == 1


def test_versions_have_their_own(root, world):
    perception.NuScenes(root)
    world.row("scene", "scene")["name"] = "other"
    world.write(root, "v1.0-other")
    for _ in range(2):
        assert perception.NuScenes(root, "v1.0-other").scenes == ["other"]
        assert perception.NuScenes(root, "v1.0-sim").scenes == ["scene-0001"]


@pytest.mark.parametrize(
    "table, old, new, found",
    [
        ("scene", "scene-0001", "scene-0002", lambda dataset: dataset.scenes == ["scene-0002"]),
        ("sample", "1500000000000000", "1500000000000001", lambda dataset: dataset[0].boxes.velocity[0, 0] > 10),
        ("sample_annotation", '_pts": 5', '_pts": 6', lambda dataset: dataset[0].boxes.num_lidar_points[0] == 6),
        ("visibility", "v80-100", "unknown", lambda dataset: dataset[0].boxes.visibility[0] == 0),
    ],
)
def test_a_changed_table_is_read_again(root, table, old, new, found, caplog):
    perception.NuScenes(root)
    caplog.set_level(logging.INFO, "perception.data")
    path = root / "v1.0-sim" / f"{table}.json"
    before = path.stat()
    path.write_text(path.read_text().replace(old, new))
    os.utime(
        path, ns=(before.st_atime_ns, before.st_mtime_ns)
    )  # as archivers do: the time of change tells all the same
    assert path.stat().st_size == before.st_size
    assert found(perception.NuScenes(root)) and len(caplog.records) == 1


def test_a_table_that_comes_or_goes_is_noticed(root, world):
    assert perception.NuScenes(root).annotated
    path = root / "v1.0-sim" / "sample_annotation.json"
    path.rename(path.with_suffix(".away"))
    assert not perception.NuScenes(root).annotated
    path.with_suffix(".away").rename(path)
    assert perception.NuScenes(root).annotated


def test_changes_at_once_are_noticed(tmp_path, world, monkeypatch):
    """Within one tick of the clock, sizes the same: fresh tables and folders are not believed to be what they were."""
    monkeypatch.undo()
    for i in range(20):
        world.row("scene", "scene")["name"] = f"scene-{i:04d}"
        world.files.pop("sweeps/LIDAR_TOP/sweep", None)
        if i % 2:
            world.files["sweeps/LIDAR_TOP/sweep"] = np.zeros(5, "<f4").tobytes()
        else:
            (tmp_path / "sweeps/LIDAR_TOP/sweep").unlink(missing_ok=True)
        dataset = perception.NuScenes(world.write(tmp_path))
        assert dataset.scenes == [f"scene-{i:04d}"]
        assert dataset.report == ({} if i % 2 else {("LIDAR_TOP", "sweep file"): 1})


@pytest.mark.parametrize("part", ["tables", "files"])
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"\x80" + data])
def test_a_damaged_index_is_made_anew(root, part, damage):
    perception.NuScenes(root)
    path = root / INDEX / "v1.0-sim" / f"{part}.safetensors"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert len(perception.NuScenes(root)[0].boxes) == 1
    assert path.read_bytes() == whole


@pytest.mark.parametrize("names", [None, "{", "[" * 100_000])
def test_an_index_with_the_right_key_and_nothing_else_is_made_anew(root, names):
    perception.NuScenes(root)
    whole = {path: path.read_bytes() for path in root.rglob("*.safetensors")}
    assert whole
    for path in whole:
        columns, metadata = read_columns(path)
        planted = {name: np.array(columns[name]) for name in columns}
        write_columns(path, planted, {"key": metadata["key"]} | ({} if names is None else {"names": names}))
    perception.NuScenes(root)
    assert {path: path.read_bytes() for path in whole} == whole


def test_an_index_of_another_schema_is_made_anew(root, monkeypatch):
    perception.NuScenes(root)
    monkeypatch.setattr(nuscenes_index, "SCHEMA", -1)
    calls = []
    monkeypatch.setattr(nuscenes_index, "logger", type("Log", (), {"info": lambda *args: calls.append(args)}))
    perception.NuScenes(root)
    assert len(calls) == 1


def test_a_dataset_that_cannot_be_written_is_served_from_the_cache(root, tmp_path, monkeypatch):
    root.chmod(0o555)
    try:
        perception.NuScenes(root)
        assert index_files(tmp_path / "cache") == ["files.safetensors", "tables.safetensors"]
        assert not (root / INDEX).exists()
        forbid(monkeypatch, "_read_tables", "_list_files")
        assert len(perception.NuScenes(root)) == 2
        (tmp_path / "link").symlink_to(root)
        assert len(perception.NuScenes(tmp_path / "link")) == 2
    finally:
        root.chmod(0o755)


def test_no_place_for_the_index(root, tmp_path):
    (tmp_path / "cache").write_text("a file")
    (root / INDEX).write_text("a file")
    with pytest.raises(DataError, match=r"found none that can be written: .*perception-index.*cache.*XDG_CACHE_HOME"):
        perception.NuScenes(root)


def test_nothing_is_left_of_a_build_that_failed(root, world, tmp_path):
    world.row("sample_data", "radar1")["prev"] = "nowhere"
    world.write(root)
    for _ in range(2):
        with pytest.raises(DataError, match=r"sample_data\.json: token radar1: .* in prev, found 'nowhere'"):
            perception.NuScenes(root)
    assert not (root / INDEX).exists() and not (tmp_path / "cache").exists()
    world.row("sample_data", "radar1")["prev"] = ""
    assert len(perception.NuScenes(world.write(root))) == 2


def test_files_that_come_and_go_are_noticed(root, world, monkeypatch):
    sweep = root / "sweeps/LIDAR_TOP/sweep"
    content = sweep.read_bytes()
    assert perception.NuScenes(root).report == {}
    forbid(monkeypatch, "_read_tables")
    sweep.unlink()
    assert perception.NuScenes(root).report == {("LIDAR_TOP", "sweep file"): 1}
    sweep.parent.rmdir()
    assert perception.NuScenes(root).report == {("LIDAR_TOP", "sweep file"): 1}
    sweep.parent.mkdir()
    sweep.write_bytes(content)
    dataset = perception.NuScenes(root)
    assert dataset.report == {} and len(dataset[0].lidar.points) == 2


def test_a_place_that_cannot_be_a_folder_holds_no_file(root):
    for path in (root / "sweeps/LIDAR_TOP").iterdir():
        path.unlink()
    (root / "sweeps/LIDAR_TOP").rmdir()
    (root / "sweeps/LIDAR_TOP").write_text("a file")
    assert perception.NuScenes(root).report == {("LIDAR_TOP", "sweep file"): 1}


def tokens(root):
    return perception.NuScenes(root).tokens


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_several_processes_at_once(root, method):
    with multiprocessing.get_context(method).Pool(3) as pool:
        assert pool.map(tokens, [root] * 6, chunksize=1) == [["s0", "s1"]] * 6
    assert index_files(root / INDEX) == ["files.safetensors", "tables.safetensors"]


def test_pickling_takes_no_column_along(root):
    dataset = perception.NuScenes(root)
    data = pickle.dumps(dataset)
    assert b"samples/LIDAR_TOP" not in data and len(data) - len(pickle.dumps(dataset.task)) < 3000
    copy = pickle.loads(data)
    assert copy.tokens == dataset.tokens and copy.index("s1") == 1 and copy.report == {}
    np.testing.assert_array_equal(copy[0].boxes.center, dataset[0].boxes.center)


def test_a_pickled_dataset_does_not_serve_other_tables(root, world):
    data = pickle.dumps(perception.NuScenes(root))
    world.row("sample", "s0")["timestamp"] += 1_000_000
    world.write(root)
    with pytest.raises(DataError, match="the tables were expected as they were opened"):
        pickle.loads(data)


def test_tokens_are_any_text(root, world):
    text = json.dumps(world.tables)
    for old, new in {"s0": "é" * 40, "s1": "x", "car1": 'a"b\\', "lidar0": "日本"}.items():
        text = text.replace(f'"{old}"', json.dumps(new, ensure_ascii=False))
    world.tables = json.loads(text)
    dataset = perception.NuScenes(world.write(root))
    assert dataset.tokens == ["é" * 40, "x"] and dataset.index("é" * 40) == 0
    np.testing.assert_allclose(dataset[0].boxes.velocity, [[10, 0]], atol=1e-9)
    (root / "samples/LIDAR_TOP/lidar0").write_bytes(b"\0")
    with pytest.raises(DataError, match=r"sample éé.*sample_data 日本"):
        perception.NuScenes(root)[0]


def test_a_version_without_a_row(root, world):
    for name in ("scene", "sample", "sample_data", "ego_pose", "calibrated_sensor", "sample_annotation"):
        world.tables[name] = []
    dataset = perception.NuScenes(world.write(root))
    assert (len(dataset), dataset.scenes, dataset.report, dataset.annotations) == (0, [], {}, None)
    assert dataset.ego_positions.shape == (0, 3) and list(dataset.frames()) == []


def test_annotations_and_positions_of_the_frames(root, world):
    world.tables["category"].append({"token": "rack", "name": "static_object.bicycle_rack"})
    world.tables["instance"].append({"token": "rack", "category_token": "rack"})
    world.tables["sample_annotation"][:0] = [
        {**world.box("rack1", "s1", "rack", [100, 230, 0], "", ""), "rotation": STILL},
        world.box("cat1", "s1", "dog", [1, 1, 1], "", ""),
    ]
    world.remove("sample_data", "lidar0")
    both, last = perception.NuScenes(world.write(root)), perception.NuScenes(root, part=(0.5, 1))
    found = both.annotations
    assert found.box_offsets.tolist() == [0, 1, 2] and found.rack_offsets.tolist() == [0, 0, 1]
    np.testing.assert_allclose(found.center, [[100, 210, 1], [100, 215, 1]])
    np.testing.assert_allclose(found.velocity, [[0, 10, 0]] * 2)
    assert found.label.tolist() == [perception.CLASSES.index("car")] * 2
    np.testing.assert_allclose(found.rack_center, [[100, 230, 0]])
    np.testing.assert_allclose(found.rack_size, [[4, 2, 1.5]])
    np.testing.assert_allclose(found.rack_rotation, [STILL])
    np.testing.assert_allclose(both.ego_positions, [[100, 200, 0], [100, 210, 0]])
    assert both[0].world_SE3_ego.translation.tolist() == [100, 200, 0]  # of the radar, for want of a LiDAR
    found = last.annotations
    assert found.box_offsets.tolist() == [0, 1] and found.center.tolist() == [[100, 215, 1]]
    assert found.rack_offsets.tolist() == [0, 1] and last.ego_positions.tolist() == [[100, 210, 0]]
    world.tables["sample_annotation"] = []
    assert perception.NuScenes(world.write(root)).annotations is None


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_absent_is_what_a_walk_along_the_sweeps_misses(tmp_path, data):
    world, rng = World(), np.random.default_rng(data.draw(st.integers(0, 99)))
    world.tables["scene"].append({"token": "b", "name": "b"})
    world.tables["sample"] += [
        {"token": f"b{i}", "scene_token": "b", "timestamp": START_US + (9 + i) * 500_000} for i in range(3)
    ]
    samples = [row["token"] for row in world.tables["sample"]]
    for channel in ("LIDAR_TOP", "RADAR_FRONT", "CAM_FRONT"):
        last, keys = dict.fromkeys("sb", ""), {"s0", "s1"}  # of either scene; the samples with a key frame
        for i in range(12):
            token, sample = f"{channel}{i}", samples[rng.integers(len(samples))]
            key = bool(rng.integers(2)) and sample not in keys
            world.add(token, sample, channel, 40_000 * i, b"", last[sample[0]], key=key)
            keys |= {sample} if key else set()
            last[sample[0]] = token if rng.integers(5) else ""
    for name in list(world.files):
        if rng.integers(3) == 0:
            del world.files[name]
    root = world.write(tmp_path / str(rng.integers(1 << 40)))
    sweeps = {"LIDAR_TOP": data.draw(st.integers(1, 9)), "RADAR_FRONT": data.draw(st.integers(1, 9)), "CAM_FRONT": 1}
    scenes = data.draw(st.sampled_from([["b"], ["scene-0001"], ["b", "scene-0001"]]))

    tokens_of_scenes = {"scene-0001": "scene", "b": "b"}
    chosen = {
        row["token"] for row in world.tables["sample"] if row["scene_token"] in {tokens_of_scenes[s] for s in scenes}
    }
    rows = {row["token"]: row for row in world.tables["sample_data"]}
    expected = {}
    for channel, number in sweeps.items():
        own = [
            row for row in rows.values() if row["calibrated_sensor_token"] == channel and row["sample_token"] in chosen
        ]
        keyframes = {row["sample_token"]: row["token"] for row in own if row["is_key_frame"]}
        walked = set()
        for token in keyframes.values():
            for _ in range(number):
                walked |= {token} - {""}
                token = rows[token]["prev"] if token else ""
        absent = {token for token in walked if rows[token]["filename"] not in world.files}
        expected[channel, "keyframe row"] = len(chosen) - len(keyframes)
        expected[channel, "keyframe file"] = len(absent & set(keyframes.values()))
        expected[channel, "sweep file"] = len(absent - set(keyframes.values()))
    arguments = {"lidar_sweeps": sweeps["LIDAR_TOP"], "radar_sweeps": sweeps["RADAR_FRONT"]}
    report = perception.NuScenes(root, scenes=scenes, **arguments).report
    assert report == {key: number for key, number in expected.items() if number}
