"""Configuration: what is merged over what, and what a typing mistake is answered with."""

import pytest

from perception.config import Config, ConfigError, load_config, save_config
from perception.errors import PerceptionError
from perception.model.detector import build


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
    config = load_config(overrides=["fusion.kind=concat", "data.version=v1.0-sim", "camera.image_size=[64,176]"])
    save_config(config, tmp_path / "resolved.yaml")
    assert load_config(tmp_path / "resolved.yaml") == config


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


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    "override",
    [
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
        "train.epochs=0",
        "train.sensor_dropout=1.5",
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
        build(load_config(None, [f"grid.cell_size_m={value}", "camera.weights=none"]))
