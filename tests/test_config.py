"""Configuration: what is merged over what, and what a typing mistake is answered with."""

import dataclasses

import pytest
import yaml

from perception.config import (
    CameraConfig,
    Config,
    ConfigError,
    EncoderConfig,
    LidarConfig,
    RadarConfig,
    load_config,
    save_config,
    to_yaml,
)
from perception.errors import PerceptionError
from perception.model.build import build
from perception.task import ObjectClass, Task


def test_defaults_then_file_then_overrides(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("train: {epochs: 3, batch_size: 8}\ngrid: {cell_size_m: 0.4}\n")
    config = load_config(file, ["train.epochs=5", "data.scenes=[a,b]", "train.learning_rate=1e-4"])
    assert isinstance(config, Config)
    assert (config.train.epochs, config.train.batch_size, config.grid.cell_size_m) == (5, 8, 0.4)
    assert config.data.scenes == ["a", "b"] and config.train.learning_rate == 1e-4
    assert config.grid.x_min_m == Config().grid.x_min_m


def test_no_file_is_the_defaults():
    assert load_config() == Config()


def test_an_empty_file_is_the_defaults(tmp_path):
    (tmp_path / "a.yaml").write_text("")
    assert load_config(tmp_path / "a.yaml") == Config()


def test_saved_config_loads_as_itself(tmp_path):
    config = load_config(
        overrides=["fusion.kind=concat", "data.version=v1.0-sim", "encoders.camera.image_size=[64,176]"]
    )
    save_config(config, tmp_path / "resolved.yaml")
    assert load_config(tmp_path / "resolved.yaml") == config and config.encoders["camera"].image_size == [64, 176]


@pytest.mark.parametrize(
    ("overrides", "encoders"),
    [
        (["encoders.radar=null"], {"camera": CameraConfig(), "lidar": LidarConfig()}),
        (
            ["encoders.thermal.kind=camera", "encoders.thermal.image_size=[32,48]", "encoders.thermal.depth_from=null"],
            {
                **Config().encoders,
                "thermal": CameraConfig(image_size=[32, 48], depth_from=None),
            },
        ),
        (
            ["encoders.radar=null", "encoders.camera=null", "encoders.sonar.kind=own", "encoders.rear.kind=radar"],
            {"lidar": LidarConfig(), "rear": RadarConfig(), "sonar": EncoderConfig()},  # by name
        ),
        (["encoders.radar.kind=lidar", "encoders.radar.pillar_size_m=0.8"], {
            "camera": CameraConfig(), "radar": LidarConfig(pillar_size_m=0.8), "lidar": LidarConfig()
        }),
    ],
)  # fmt: skip
def test_sensors_are_dropped_added_and_changed_and_that_is_saved(tmp_path, overrides, encoders):
    config = load_config(None, overrides)
    assert config.encoders == encoders and list(config.encoders) == list(encoders)
    save_config(config, tmp_path / "c.yaml")
    again = load_config(tmp_path / "c.yaml")
    assert again == config and list(again.encoders) == list(encoders)
    assert to_yaml(again) == to_yaml(config) == (tmp_path / "c.yaml").read_text()


def test_a_sensor_that_was_dropped_by_a_file_can_be_had_again(tmp_path):
    (tmp_path / "c.yaml").write_text("encoders: {radar: null}")
    assert set(load_config(tmp_path / "c.yaml").encoders) == {"camera", "lidar"}
    config = load_config(tmp_path / "c.yaml", ["encoders.radar.point_channels=7"])
    assert config.encoders["radar"] == RadarConfig(point_channels=7)


OLD_LAYOUT = """
camera: {image_size: [64, 176], weights: none}
lidar: {point_channels: 16}
radar: {point_channels: 8}
augment: {fault_rate: 0.3}
train: {freeze: [camera, view_transform, radar, lidar, head, fusion.registration]}
"""


def test_files_of_version_0_1_load(tmp_path):
    """They had a section for each of three sensors at the top, and other names of parts."""
    (tmp_path / "old.yaml").write_text(OLD_LAYOUT)
    config = load_config(tmp_path / "old.yaml", ["camera.depth_bins=9", "lidar.pillar_size_m=0.8"])
    assert config.encoders == {
        "camera": CameraConfig(image_size=[64, 176], weights="none", depth_bins=9),
        "radar": RadarConfig(point_channels=8),
        "lidar": LidarConfig(point_channels=16, pillar_size_m=0.8),
    }
    assert config.train.freeze == [
        "encoders.camera.image", "encoders.camera.view_transform", "encoders.radar", "encoders.lidar", "heads.boxes",
        "fusion.registration",
    ]  # fmt: skip
    assert config.augment.corruption_rate == 0.3
    assert set(yaml.safe_load(to_yaml(config))) == {field.name for field in dataclasses.fields(Config)}
    with pytest.raises(ConfigError, match=r"unknown key 'encoders\.camera\.size'.*'encoders\.camera\.image_size'"):
        load_config(None, ["camera.size=3"])


THREE_CLASSES = """
task:
  attributes: []
  objects:
    - {name: vehicle, sources: [car, truck]}
    - {name: pedestrian, range_m: 40, suppression_radius_m: 0.3, color: [102, 230, 140]}
    - {name: cycle, sources: [motorcycle, bicycle]}
"""


def test_a_task_of_ones_own_is_a_part_of_the_config(tmp_path):
    (tmp_path / "c.yaml").write_text(THREE_CLASSES)
    config = load_config(tmp_path / "c.yaml")
    assert config.task == Task(
        [
            ObjectClass("vehicle", ["car", "truck"]),
            ObjectClass("pedestrian", range_m=40.0, suppression_radius_m=0.3, color=[102, 230, 140]),
            ObjectClass("cycle", ["motorcycle", "bicycle"]),
        ],
        [],
    )
    save_config(config, tmp_path / "again.yaml")
    assert load_config(tmp_path / "again.yaml") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {epoch: 3}", "unknown key 'train.epoch'.*'train.epochs'"),
        ("trian: {epochs: 3}", "unknown key 'trian'.*'train'"),
        ("train: {epochs: many}", "train.epochs"),
        ("fusion: {kind: magic}", "fusion.kind"),
        ("grid: 3", "'grid'.*found 3"),
        ("train:", "'train'.*found None"),
        ("- 1", "mapping"),
        ("encoders: {thermal: {image_size: [32, 48]}}", "encoders.thermal: a kind of camera, radar, .* found none"),
        ("encoders: {thermal: {kind: ir}}", "encoders.thermal: a kind of .*imported_centerpoint, own .* found ir"),
        ("encoders: {thermal: {kind: camera, size: 3}}", "unknown key 'encoders.thermal.size'"),
        ("encoders: {camera: null, radar: null, lidar: null}", "encoders: at least one sensor"),
        ("encoders: 3", "'encoders' wants keys of its own, found 3"),
        ("task: {objects: []}", "task.objects: at least one class was expected, found none"),
        ("task: {objects: [{name: a}, {name: a}]}", "task: different names were expected, found a more than once"),
        ("task: {objects: [{name: a, heading: up}]}", "task.objects: a: heading: one of direction, axis, none"),
        ("task: {objects: [{nam: a}]}", "nam"),
        ("encoders: {camera: {image_size: [100, 352]}}", "encoders.camera.image_size: two multiples of 16 .*100"),
        ("a: [", "not valid YAML"),
    ],
)
def test_mistakes_in_a_file_name_the_file_and_the_key(tmp_path, text, message):
    file = tmp_path / "mistake.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"mistake.yaml.*{message}"):
        load_config(file)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs", "key=value"),
        ("=3", "key=value"),
        ("train.epocs=3", "unknown key 'train.epocs'.*'train.epochs'"),
        ("train.epochs=x", "train.epochs"),
    ],
)
def test_mistakes_in_an_override_name_it(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(overrides=[override])


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("data.version=2024_01_01", "2024_01_01"),
        ("data.version=1.10", "1.10"),
        ("data.version=on", "on"),
        ("data.version=1e3", "1e3"),
        ("data.version=12:30", "12:30"),
        ("data.version='null'", "null"),
        ("data.version=null", None),
        ("data.version=", None),
        ("data.scenes=[0061, 0103]", ["0061", "0103"]),
        ("data.scenes=['a, b', c]", ["a, b", "c"]),
        ("data.root=/data/drive #2", "/data/drive #2"),
        ("data.root=C: a=b", "C: a=b"),
        ("data.root='quoted #2'", "quoted #2"),
        ("data.root=*", "*"),
        ("data.root=${oc.env:HOME}", "${oc.env:HOME}"),
        ("data.root=a/${oc.decode:${oc.env:HOME}}", "a/${oc.decode:${oc.env:HOME}}"),
        ("data.root=${oc.${data.version}:HOME}", "${oc.${data.version}:HOME}"),
    ],
)
def test_a_text_stays_as_it_is_typed(tmp_path, override, value):
    config = load_config(None, [override])
    key = override.partition("=")[0].removeprefix("data.")
    assert getattr(config.data, key) == value
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config
    assert yaml.safe_load((tmp_path / "saved.yaml").read_text())["data"][key] == value  # for other readers, too


def test_an_override_that_is_no_yaml_is_named():
    with pytest.raises(ConfigError, match=r"override 'data.root=\[raw\] drive': not valid YAML"):
        load_config(None, ["data.root=[raw] drive"])


def test_weights_with_a_config_that_asks_for_the_environment_get_none_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv("A_SECRET", "4711")
    (tmp_path / "c.yaml").write_text(
        "data: {root: '${oc.env:A_SECRET}', scenes: ['x${oc.env:A_SECRET}'], version: '${oc.select:data.root}'}"
    )
    config = load_config(tmp_path / "c.yaml")
    assert config.data.root == "${oc.env:A_SECRET}" and config.data.version == "${oc.select:data.root}"
    assert "4711" not in to_yaml(config) + str(config)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    "override",
    [
        "encoders.camera.image_size=[128]",
        "encoders.lidar.point_channels=0",
        "encoders.radar.point_channels=0",
        "encoders.lidar.pillar_size_m=0",
        "encoders.camera.channels=0",
        "encoders.camera.depth_min_m=0",
        "train.ema_decay=1",
        "train.learning_rate=0",
        "data.part=[0.5]",
        "camera.image_size=[128]",
        "camera.image_size=[0,0]",
        "camera.image_size=[100,352]",
        "camera.depth_bins=0",
        "camera.depth_max_m=0.5",
        "lidar.pillar_size_m=0",
        "fusion.heads=0",
        "fusion.channels=-4",
        "head.trunk_channels=[]",
        "head.max_detections=501",
        "data.workers=-1",
        "data.lidar_sweeps=0",
        "augment.rotate_deg=181",
        "augment.image_rotate_deg=-1",
        "train.layer_decay=0",
        "train.layer_decay=1.1",
        "head.min_radius=0",
        "train.image_weight=-1",
        "train.epochs=0",
        "train.sensor_dropout=1.5",
        "train.clip_norm=nan",
        "train.clip_norm=-1",
        "train.learning_rate=inf",
        "train.weight_decay=nan",
        "train.depth_weight=.nan",
        "head.score_threshold=nan",
        "data.part=[.nan,1]",
        "augment.corruption_rate=2",
        "fusion.channels=1000000000",
        "fusion.neighbourhood=99999",
        "fusion.width=0",
        "head.trunk_channels=[64,100000000]",
        "camera.image_size=[1600000,1600000]",
        "camera.depth_bins=1000000000",
        "train.epochs=${nothing}",
        "train.epochs=???",
    ],
)
def test_values_that_nothing_can_be_built_of_are_named(override):
    with pytest.raises(ConfigError) as error:
        load_config(None, [override])
    assert "\n" not in str(error.value) and len(str(error.value)) > 20


@pytest.mark.parametrize("value", ["nan", "inf", "0", "0.7"])
def test_a_grid_that_is_none_is_named(value):
    with pytest.raises(PerceptionError, match="grid"):
        build(load_config(None, [f"grid.cell_size_m={value}", "encoders.camera.weights=none"]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("init: a", ["a"]), ("init: [a, hf://b/c]", ["a", "hf://b/c"]), ("init:", []), ("epochs: 1", [])],
)
def test_what_a_training_starts_from_is_one_checkpoint_or_several(tmp_path, text, expected):
    (tmp_path / "own.yaml").write_text(f"train:\n  {text}\n")
    assert load_config(tmp_path / "own.yaml").train.init == expected
    assert load_config("sim", [f"train.init={expected[0] if len(expected) == 1 else expected}"]).train.init == expected
