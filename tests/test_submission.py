"""Reading a submission: what was written comes back, and what is no submission is one clear error."""

import json
import os

import numpy as np
import pytest

from perception.data.nuscenes_files import DataError
from perception.eval.submission_reader import joined, read_submission
from perception.task import ATTRIBUTES, CLASSES

BOX = {
    "sample_token": "a",
    "translation": [1.0, 2.0, 3.0],
    "size": [2.0, 4.0, 1.5],
    "rotation": [np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5)],
    "velocity": [0.5, -0.5],
    "detection_name": "truck",
    "detection_score": 0.25,
    "attribute_name": "vehicle.parked",
}


def write(path, results):
    path.write_text(json.dumps({"meta": {"use_lidar": True}, "results": results}))
    return path


def test_by_hand(tmp_path):
    boxes = read_submission(write(tmp_path / "r.json", {"b": [], "a": [BOX]}), ["a", "b"])
    assert boxes.sample.tolist() == [0] and boxes.center.tolist() == [[1, 2, 3]]
    assert boxes.size.tolist() == [[4, 2, 1.5]]  # length before width
    assert boxes.yaw[0] == pytest.approx(np.pi / 2) and boxes.velocity.tolist() == [[0.5, -0.5]]
    assert CLASSES[boxes.label[0]] == "truck" and ATTRIBUTES[boxes.attribute[0]] == "vehicle.parked"
    assert boxes.score.tolist() == [0.25]


def test_a_velocity_may_be_unknown(tmp_path):
    """NaN is no JSON, but json writes it and the devkit reads it."""
    unknown = BOX | {"velocity": [float("nan"), float("nan")]}
    boxes = read_submission(write(tmp_path / "r.json", {"a": [unknown]}), ["a"])
    assert np.isnan(boxes.velocity).all()


def test_an_unknown_velocity_is_joined_as_it_is(tmp_path):
    unknown = [BOX | {"velocity": [float("nan"), 1.0], "sample_token": token} for token in "ab"]
    paths = [write(tmp_path / f"{i}.json", {box["sample_token"]: [box]}) for i, box in enumerate(unknown)]
    with joined(paths, 2) as path:
        assert "NaN" in path.read_text()
        np.testing.assert_array_equal(read_submission(path, ["a", "b"]).velocity, [[np.nan, 1.0]] * 2)


def test_scores_above_1_are_read(tmp_path):
    """Only their order counts; the devkit takes them, too."""
    results = {"a": [BOX | {"detection_score": score} for score in (3.5, 0.5, 0.0)]}
    assert read_submission(write(tmp_path / "r.json", results), ["a"]).score.tolist() == [3.5, 0.5, 0.0]


def test_the_word_sample_token_elsewhere_is_no_box(tmp_path):
    box = BOX | {"from": "sample_token"}
    text = json.dumps(
        {"meta": {"sorted_by": "sample_token", "sample_token": [1, {"sample_token": 2}]}, "results": {"a": [box]}}
    )
    (tmp_path / "r.json").write_text(text)
    assert len(read_submission(tmp_path / "r.json", ["a"])) == 1


def test_nothing_found_anywhere(tmp_path):
    assert len(read_submission(write(tmp_path / "r.json", {"a": []}), ["a"])) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"detection_name": "tank"}, "known class.*'tank'"),
        ({"attribute_name": "flying"}, "known class and attribute.*'flying'"),
        ({"sample_token": "b"}, "its own token.*'b'"),
        ({"size": [0.0, 1.0, 1.0]}, "positive sizes"),
        ({"size": [1.0, 1.0]}, "sample a"),
        ({"translation": "here"}, "sample a"),
        ({"detection_score": float("nan")}, "finite numbers"),
        ({"velocity": [float("inf"), 0.0]}, "finite numbers"),
        ({"rotation": [0.0, 0.0, 0.0, 0.0]}, "quaternion of zeros"),
        ({"rotation": [1e-200, 0.0, 0.0, 0.0]}, "quaternion of zeros"),
        ({"rotation": [1e300, 0.0, 0.0, 0.0]}, "finite numbers.*1e\\+300"),
        ({"size": [1e300, 1.0, 1.0]}, "finite numbers.*1e\\+300"),
        ({"translation": [1e300, 1.0, 1.0]}, "finite numbers.*1e\\+300"),
        ({"velocity": [1e300, 1.0]}, "finite numbers.*1e\\+300"),
        ({"detection_score": -0.5}, "detection_score of 0 or more was expected, found -0.5"),
        ({"velocity": None}, "Expected `array`, got `null`"),
    ],
)
def test_what_is_no_box_is_named(tmp_path, change, message):
    path = write(tmp_path / "r.json", {"a": [BOX | change]})
    with pytest.raises(DataError, match=rf"r\.json: sample a: .*{message}|r\.json: {message}"):
        read_submission(path, ["a"])


def test_samples_must_fit(tmp_path):
    path = write(tmp_path / "r.json", {"a": [], "x": []})
    with pytest.raises(DataError, match=r"exactly the 2 samples.*1 missing \(b\), 1 unknown \(x\)"):
        read_submission(path, ["a", "b"])
    with pytest.raises(DataError, match="at most 500"):
        read_submission(write(path, {"a": [BOX] * 501}), ["a"])


def test_a_sample_that_comes_twice(tmp_path):
    one = json.dumps([BOX])
    (tmp_path / "r.json").write_text(f'{{"meta": {{}}, "results": {{"a": {one}, "a": {one}}}}}')
    with pytest.raises(DataError, match="each sample once"):
        read_submission(tmp_path / "r.json", ["a"])


@pytest.mark.parametrize(
    "text", ['{"results": {"a": []}}', "", "[]", "{}", '{"results": []}', '{"meta": {}, "results": {"a": 3}}', '{"meta']
)
def test_what_is_no_submission(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(DataError, match=r"r\.json"):
        read_submission(tmp_path / "r.json", ["a"])


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "text",
    [
        f'{{"meta": {DEEP}, "results": {{"a": []}}}}',
        f'{{"meta": {{"x": {DEEP}}}, "results": {{"a": []}}}}',
        f'{{"meta": {{}}, "results": {{"a": {DEEP}}}}}',
        f'{{"meta": {{}}, "results": {{"a": [{{"x": {DEEP}}}]}}}}',
        f'{{"meta": {{}}, "results": {{"a": [NaN, {DEEP}]}}}}',
        '{"a":' * 100_000,
    ],
)
def test_files_of_many_levels_are_refused(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(DataError, match=r"r\.json"):
        read_submission(tmp_path / "r.json", ["a"])


def test_files_without_an_end_or_larger_than_their_samples_need_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    for path, found in (
        ("/dev/zero", "none"),
        (tmp_path / "pipe", "none"),
        (tmp_path / "large", "one of 1099511627776"),
    ):
        with pytest.raises(
            DataError, match=f"a file of at most 17801216 bytes, for 1 samples, was expected, found {found}"
        ):
            read_submission(path, ["a"])


def test_submissions_of_several_drives_are_joined(tmp_path):
    first, second = (write(tmp_path / f"{token}.json", {token: [BOX | {"sample_token": token}]}) for token in "ab")
    with joined([first, second], 2) as path:
        assert len(read_submission(path, ["a", "b"])) == 2
    assert not path.exists()
    with joined([first], 2) as path:
        assert path == first
    with pytest.raises(DataError, match="sample a was expected in one submission, found it in two"):
        with joined([first, first], 2):
            pass
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(DataError, match="a submission"):
        with joined([first, second], 2):
            pass
