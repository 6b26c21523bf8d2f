"""nuScenes folders that are not what they should be: tables that contradict themselves, files that are none, links."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from nuscenes_world import START_US, World

import perception
from perception.data import nuscenes_index, nuscenes_json
from perception.data.column_file import read_columns, write_columns
from perception.data.nuscenes_files import DataError
from perception.data.nuscenes_times import to_microseconds


@pytest.fixture
def world():
    return World()


@pytest.fixture
def load(tmp_path, world):
    return lambda **kwargs: perception.NuScenes(world.write(tmp_path / "data"), **kwargs)


ALL_TABLES = "scene sample sensor calibrated_sensor sample_data ego_pose category instance attribute visibility".split()


@pytest.mark.parametrize("table", [*ALL_TABLES, "sample_annotation"])
def test_two_rows_with_one_token_are_refused(load, world, table):
    row = dict(world.tables[table][0])
    if table == "scene":
        row["name"] = "another"
    world.tables[table].append(row)
    with pytest.raises(DataError, match=rf"{table}\.json: token {row['token']}: one row with this token was expected"):
        load()


def test_names_that_are_keys_are_unique(load, world):
    world.tables["scene"].append({"token": "b", "name": "scene-0001"})
    with pytest.raises(DataError, match=r"scene\.json: one scene of the name 'scene-0001' was expected, found several"):
        load()


def test_a_channel_has_one_modality(load, world):
    world.tables["sensor"].append({"token": "x", "channel": "LIDAR_TOP", "modality": "radar"})
    world.tables["calibrated_sensor"].append({**world.row("calibrated_sensor", "LIDAR_TOP"), "token": "x"})
    world.tables["calibrated_sensor"][-1]["sensor_token"] = "x"
    with pytest.raises(DataError, match=r"sensor\.json: channel LIDAR_TOP: one modality was expected, found several"):
        load()


@pytest.mark.parametrize("modality", ["Lidar", " LIDAR ", "lidar"])
@pytest.mark.parametrize("yes, no", [(1, 0), ("true", "false"), ("True", "False"), ("1", "0"), (1.0, 0.0)])
def test_other_spellings(load, world, modality, yes, no):
    world.row("sensor", "LIDAR_TOP")["modality"] = modality
    for row in world.tables["sample_data"]:
        row["is_key_frame"] = yes if row["is_key_frame"] else no
    assert [len(frame.lidar.points) for frame in load().frames()] == [2, 1]


@pytest.mark.parametrize(
    "table, token, key, value, expected",
    [
        ("sensor", "LIDAR_TOP", "modality", "sonar", "one of camera, radar, lidar"),
        ("sensor", "LIDAR_TOP", "channel", "../x", "a name without slashes"),
        ("sample_data", "lidar0", "is_key_frame", "yes", "true or false"),
        ("sample_data", "lidar0", "is_key_frame", 2, "true or false"),
        ("sample_data", "sweep", "prev", "sweep", "an earlier row of the same channel"),
        ("sample_data", "sweep", "prev", "lidar0", "an earlier row of the same channel"),
        ("sample_data", "lidar0", "prev", "lidar1", "an earlier row of the same channel"),
        ("sample_data", "lidar0", "prev", "rsweep", "an earlier row of the same channel"),
        ("sample_data", "sweep", "is_key_frame", True, "one key frame of LIDAR_TOP a sample"),
        ("sample_data", "sweep", "timestamp", 0, "a time in microseconds as most are"),
        ("sample_data", "sweep", "timestamp", START_US - 61_000_000, "a time within 60 s of its sample's"),
        ("sample_data", "sweep", "token", "x" * 300, "text of at most 256 printable characters"),
        ("ego_pose", "lidar0", "translation", [1e300, 0, 0], "3 numbers from -1e+09 up to 1e+09"),
        ("calibrated_sensor", "LIDAR_TOP", "translation", [1e4, 0, 0], "3 numbers from -1000 up to 1000"),
        ("calibrated_sensor", "CAM_FRONT", "camera_intrinsic", [[0, 0, 0]] * 3, "a 3 x 3 matrix with fx, fy > 0"),
        ("calibrated_sensor", "CAM_FRONT", "camera_distortion", [0.1] * 3, "4, 5, 8, 12 or 14 numbers"),
        ("sample_annotation", "car0", "size", [1e300, 4, 1], "3 numbers up to 1000"),
        ("sample_annotation", "car0", "num_lidar_pts", -5, "a number from -1"),
        ("sample_annotation", "car0", "next", "dog0", "an annotation of the same instance"),
    ],
)
def test_a_value_that_contradicts_is_named(load, world, table, token, key, value, expected):
    world.row(table, token)[key] = value
    with pytest.raises(DataError) as error:
        load()
    named = value[:80] if key == "token" else token
    assert f"{table}.json: token {named}: {expected}" in str(error.value) and f"in {key}, found" in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize("unit, factor", [("seconds", 1e-6), ("milliseconds", 1e-3), ("nanoseconds", 1000)])
@pytest.mark.parametrize("tables", [("sample", "sample_data"), ("sample",)])
def test_times_in_other_units(load, world, unit, factor, tables, caplog):
    for table in tables:
        for row in world.tables[table]:
            row["timestamp"] = row["timestamp"] * factor
    frame = load()[0]
    assert frame.timestamp_ns == START_US * 1000
    np.testing.assert_allclose(frame.boxes.velocity, [[10, 0]], atol=1e-4)
    np.testing.assert_allclose(frame.lidar.points[:, 4], [0, 0.05], atol=1e-6)
    for table in tables:
        assert f"the timestamps of {table}.json are taken for {unit}" in caplog.text


def test_times_of_a_clock_that_starts_with_the_drive(load, world):
    for row in world.tables["sample"] + world.tables["sample_data"]:
        row["timestamp"] -= START_US - 1_000_000
    np.testing.assert_allclose(load()[0].boxes.velocity, [[10, 0]], atol=1e-9)
    for row in world.tables["sample"] + world.tables["sample_data"]:
        row["timestamp"] *= 10_000
    with pytest.raises(DataError, match=r"sample\.json: timestamps since 1970, or in microseconds, were expected"):
        load()


@pytest.mark.parametrize("written", [1.5e9 + 0.25, 1_500_000_000_250, 1_500_000_000_250_000, 1_500_000_000_250_000_001])
def test_one_instant_in_every_unit(written):
    times, sound, _ = to_microseconds(np.array([written]))
    assert times.tolist() == [1_500_000_000_250_000] and sound.tolist() == [True]


def test_where_no_sensor_is_sound_every_frame_is_skipped(load, world):
    for row in world.tables["sensor"]:
        row["modality"] = "sonar"
    dataset = load(on_error="skip")
    assert list(dataset.frames()) == [] and list(dataset.skipped) == dataset.tokens


def test_units_are_not_mixed(load, world):
    world.row("sample", "s1")["timestamp"] *= 1000
    with pytest.raises(DataError, match=r"sample\.json: token s0: a time in nanoseconds as most are was expected"):
        load()


DAMAGED_ROWS = [
    ("sample_annotation", "car0", "size", [0, 4, 1], [[], ["car"]]),
    ("sample_annotation", "car0", "num_lidar_pts", -2, [[], ["car"]]),
    ("sample_annotation", "car1", "instance_token", None, [["car"], []]),
    ("sample_annotation", "car0", "next", "nowhere", [["car"], ["car"]]),
    ("instance", "car", "category_token", "nowhere", [[], []]),
    ("ego_pose", "camera0", "translation", [None, 0, 0], [["car"], ["car"]]),
    ("sample_data", "camera0", "sample_token", "nowhere", [["car"], ["car"]]),
]


@pytest.mark.parametrize("table, token, key, value, boxes", DAMAGED_ROWS)
def test_a_damaged_row_is_left_out_and_counted(load, world, table, token, key, value, boxes, caplog):
    world.row(table, token)[key] = value
    for _ in range(2):  # built, and read from the index
        caplog.clear()
        dataset = load(on_error="skip")
        found = [[perception.CLASSES[label] for label in frame.boxes.label] for frame in dataset.frames()]
        assert found == boxes
        what = "link" if key == "next" else "row"
        assert f"{table}: damaged {what}s left out: 1, the first: " in caplog.text and f"token {token}" in caplog.text
        assert dataset.report[table, f"damaged {what}"] == 1
        assert ("camera" in dataset[0].sensors) == (token != "camera0")
    with pytest.raises(DataError, match=rf"{table}\.json: token {token}: .* in {key}"):
        load()


def test_a_damaged_row_takes_along_what_refers_to_it(load, world):
    world.row("sample", "s0")["timestamp"] = "noon"
    dataset = load(on_error="skip")
    assert dataset.tokens == ["s1"] and len(dataset[0].boxes) == 1
    assert dataset.report == {
        ("sample", "damaged row"): 1,
        ("sample_data", "damaged row"): 5,
        ("sample_annotation", "damaged row"): 2,
        ("sample_annotation", "damaged link"): 1,  # from the car of s1 to the one before
    }


def test_nothing_but_damage_is_an_error(load, world):
    for row in world.tables["sample"]:
        row["scene_token"] = "nowhere"
    with pytest.raises(DataError, match=r"sample\.json: token s0: a token that exists was expected in scene_token"):
        load(on_error="skip")


def test_other_categories_and_attributes_are_left_out_and_said(load, world, caplog):
    world.tables["attribute"].append({"token": "odd", "name": "occlusion_state.none"})
    world.tables["category"].append({"token": "ufo", "name": "vehicle.ufo"})
    world.row("instance", "dog")["category_token"] = "ufo"
    world.row("sample_annotation", "car0")["attribute_tokens"] = ["odd", "moving"]
    boxes = load()[0].boxes
    assert boxes.attribute.tolist() == [perception.task.ATTRIBUTES.index("vehicle.moving")] and len(boxes) == 1
    assert "going without boxes of other categories than nuScenes': 1 vehicle.ufo" in caplog.text
    assert "going without other attributes: 1 occlusion_state.none" in caplog.text


def test_a_row_has_a_limit(load, world, monkeypatch):
    monkeypatch.setattr(nuscenes_json, "MAX_ROW_BYTES", 1000)
    monkeypatch.setattr(nuscenes_json, "_BLOCK_BYTES", 100)
    world.row("scene", "scene")["description"] = "x" * 900
    assert len(load()) == 2
    world.row("scene", "scene")["description"] = "x" * 300_000
    with pytest.raises(DataError, match=r"scene\.json: not valid JSON at row 0: an element of at most 1000 characters"):
        load()


# Files


def test_a_home_and_a_folder_too_deep(tmp_path, world, monkeypatch):
    root = world.write(tmp_path / "drive")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(perception.NuScenes("~/drive")) == 2
    with pytest.raises(DataError, match=f"this is a version's folder, and the root is the one above, {root}$"):
        perception.NuScenes(root / "v1.0-sim")


def make_fifo(path):
    path.unlink()
    os.mkfifo(path)


def link_to(target):
    def make(path):
        path.unlink()
        path.symlink_to(target)

    return make


@pytest.mark.parametrize(
    "name", ["samples/LIDAR_TOP/lidar0", "samples/CAM_FRONT/camera0.jpg", "samples/RADAR_FRONT/radar0"]
)
@pytest.mark.parametrize(
    "make, found",
    [
        (make_fifo, "a file was expected, found a FIFO"),
        (link_to("/dev/zero"), "a file below the data root was expected, found a link to /dev/zero"),
        (link_to("/etc/passwd"), "a file below the data root was expected, found a link to /etc/passwd"),
    ],
)
def test_what_is_no_file_of_the_data_set_is_not_read(tmp_path, world, name, make, found):
    root = world.write(tmp_path)
    make(root / name)
    with pytest.raises(DataError, match=f"{name}: .*{found}.*sample s0"):
        perception.NuScenes(root)[0]
    dataset = perception.NuScenes(root, on_error="skip")
    assert dataset[0] is None and dataset[1] is not None


def test_a_link_that_leads_nowhere_is_an_absent_file(tmp_path, world):
    root = world.write(tmp_path)
    link_to("nowhere")(root / "samples/LIDAR_TOP/lidar0")
    dataset = perception.NuScenes(root)
    assert dataset.report == {("LIDAR_TOP", "keyframe file"): 1} and dataset[0].lidar is None


def test_links_within_the_root_and_of_folders_are_followed(tmp_path, world):
    root = world.write(tmp_path / "data")
    (root / "blobs").mkdir()
    (root / "samples/LIDAR_TOP/lidar0").rename(root / "blobs/x")
    (root / "samples/LIDAR_TOP/lidar0").symlink_to("../../blobs/x")
    shutil.move(root / "sweeps", tmp_path / "other disk")
    (root / "sweeps").symlink_to(tmp_path / "other disk")
    (tmp_path / "link").symlink_to(root)
    assert len(perception.NuScenes(tmp_path / "link")[0].lidar.points) == 2


@pytest.mark.parametrize("name", ["sample.json", "sample_data.json", "ego_pose.json", "splits.json", "log.json"])
def test_a_table_that_is_a_fifo_is_not_waited_for(tmp_path, world, name):
    root = world.write(tmp_path)
    (root / "v1.0-sim" / name).unlink(missing_ok=True)
    os.mkfifo(root / "v1.0-sim" / name)
    if name == "log.json":  # which is read for where the drive was, and not needed
        assert not perception.NuScenes(root).simulated
        return
    with pytest.raises(DataError, match=f"{name}.* a file was expected, found a FIFO"):
        perception.NuScenes(root, split="val")


# The index


@pytest.fixture
def index(tmp_path, world, monkeypatch):
    """The file of a built index that counts as old enough to be remembered."""
    monkeypatch.setattr(nuscenes_index, "_SETTLED_NS", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    perception.NuScenes(world.write(tmp_path / "data"))
    return tmp_path / "data" / nuscenes_index.FOLDER / "v1.0-sim" / "tables.safetensors"


def test_any_flipped_bit_is_noticed(index):
    whole, rng = index.read_bytes(), np.random.default_rng(0)
    for place in rng.integers(8, len(whole), 200).tolist():
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        index.write_bytes(damaged)
        found = read_columns(index)
        assert found is None or damaged[place : place + 1].isspace()
    perception.NuScenes(index.parents[2])
    assert index.read_bytes() == whole


@pytest.mark.parametrize(
    "name", ["row.previous", "row.calibration", "link.reference", "link.keyframe", "annotation.label", "file.folder"]
)
@pytest.mark.parametrize(
    "change", [lambda column: column + 2**30, lambda column: column - 5, lambda column: column[:1]]
)
def test_an_index_that_leads_elsewhere_in_itself_is_built_again(index, name, change):
    columns, metadata = read_columns(index)
    write_columns(index, {**columns, name: change(np.array(columns[name]))}, metadata)
    assert [len(frame.boxes) for frame in perception.NuScenes(index.parents[2]).frames()] == [1, 1]
    np.testing.assert_array_equal(read_columns(index)[0][name], columns[name])


@pytest.mark.parametrize("name", [b"../secret", b"/etc/passwd", b"samples/../../secret"])
def test_an_index_of_somebody_else_does_not_lead_out_of_the_root(index, name):
    columns, metadata = read_columns(index)
    filename = columns["row.filename"]
    changed = np.array([name if b"LIDAR" in own else own for own in filename.tolist()], dtype=filename.dtype)
    write_columns(index, {**columns, "row.filename": changed}, metadata)
    (index.parents[3] / "secret").write_bytes(np.zeros((1, 5), "<f4").tobytes())
    dataset = perception.NuScenes(index.parents[2])
    with pytest.raises(DataError, match="a file below the data root was expected"):
        dataset[0]


def test_folders_of_an_index_stay_below_the_root(index):
    columns, metadata = read_columns(index)
    names = json.loads(metadata["names"])
    names["folders"][0] = "../.."
    write_columns(index, columns, {**metadata, "names": json.dumps(names)})
    perception.NuScenes(index.parents[2])
    assert "../.." not in json.loads(read_columns(index)[1]["names"])["folders"]


def test_an_index_folder_that_is_a_link_is_left_alone(tmp_path, world, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = world.write(tmp_path / "data")
    (tmp_path / "elsewhere").mkdir()
    (root / nuscenes_index.FOLDER).symlink_to(tmp_path / "elsewhere")
    assert len(perception.NuScenes(root)) == 2
    assert not list((tmp_path / "elsewhere").iterdir()) and list((tmp_path / "cache").rglob("tables.safetensors"))


@pytest.mark.parametrize(
    "use", ["dataset[0]", "dataset.boxes(0)", "dataset.annotations", "list(messages)", "pickle.dumps(dataset)"]
)
def test_an_index_that_is_cut_while_it_is_mapped_is_an_error(index, use):
    """In a process of its own, which would be killed by SIGBUS. What was read before is whole."""
    code = f"""if True:
        import os, pickle, sys, perception
        from perception.logs.nuscenes_log import NuScenesReader
        dataset, messages = perception.NuScenes(sys.argv[1]), NuScenesReader(sys.argv[1]).messages()
        before = dataset[1], dataset.annotations, [next(messages).data for _ in range(6)]
        os.truncate(sys.argv[2], 100)
        pickle.dumps(before)
        try:
            {use}
        except perception.PerceptionError as error:
            print(error)"""
    command = [sys.executable, "-c", code, str(index.parents[2]), str(index)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode != -signal.SIGBUS and done.returncode == 0, done.stderr
    if "pickle" not in use:
        assert f"{index}: the index as it was opened was expected, found a part of it" in done.stdout
