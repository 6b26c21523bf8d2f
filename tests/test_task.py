"""A task: its labels, attributes and facts, and what contradicts itself."""

import dataclasses

import numpy as np
import pytest

from perception.task import ATTRIBUTES, CLASSES, NUSCENES, ObjectClass, Task, TaskError

VEHICLE = ObjectClass(
    "vehicle",
    ["car", "truck"],
    attributes=["moving", "parked"],
    usual_attributes=["moving", "parked"],
    color=[1, 2, 3],
    range_m=30.0,
)
PERSON = ObjectClass("person", attributes=["moving", "sitting"], usual_attributes=[], heading="axis")
CONE = ObjectClass("cone", heading="none")
THREE = Task([VEHICLE, PERSON, CONE], ["moving", "sitting", "parked"])


def test_the_default_is_that_of_nuscenes():
    assert Task() == NUSCENES and CLASSES == NUSCENES.classes and ATTRIBUTES == tuple(NUSCENES.attributes)
    assert len(CLASSES) == 10 and len(ATTRIBUTES) == 8 and len(set(map(tuple, NUSCENES.colors.tolist()))) == 10
    assert CLASSES[0] == "car" and CLASSES[5] == "pedestrian" and CLASSES[-1] == "barrier"
    assert NUSCENES.labels_of(CLASSES).tolist() == list(range(10))
    assert [CLASSES[k] for k, facts in enumerate(NUSCENES.objects) if not facts.attributes] == [
        "traffic_cone",
        "barrier",
    ]


def test_facts_by_class():
    assert THREE.classes == ("vehicle", "person", "cone") and THREE.headings == ("direction", "axis", "none")
    assert THREE.column("range_m").tolist() == [30.0, 50.0, 50.0]
    assert THREE.colors.dtype == np.uint8 and THREE.colors[0].tolist() == [1, 2, 3] and THREE.colors.shape == (3, 3)


def test_labels_are_those_of_the_sources():
    """A class with sources is not one of its own name in the data."""
    assert THREE.labels_of(["truck", "person", "bus", "car", "vehicle", "cone"]).tolist() == [0, 1, -1, 0, -1, 2]
    assert THREE.labels_of([]).tolist() == [] and THREE.labels_of([]).dtype == np.int64


def test_attributes_by_name():
    assert THREE.attributes_of(["parked", "flying", "moving"]).tolist() == [2, -1, 0]
    assert THREE.attributes_of([]).dtype == np.int64


@pytest.mark.parametrize(
    ("label", "attribute", "moving", "name"),
    [
        (0, 2, True, "parked"),  # as it was detected
        (0, 1, True, "moving"),  # a vehicle does not sit: what one that moves usually carries
        (0, 1, False, "parked"),
        (0, -1, True, "moving"),
        (0, -1, False, "parked"),
        (1, 1, True, "sitting"),
        (1, 2, True, ""),  # nothing is usual of a person here
        (1, -1, False, ""),
        (2, 0, True, ""),
        (2, -1, True, ""),
    ],
)
def test_the_name_of_an_attribute(label, attribute, moving, name):
    assert THREE.attribute_name(label, attribute, moving) == name


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([], r"task\.objects: at least one class was expected, found none"),
        ([VEHICLE, VEHICLE], "different names were expected, found vehicle more than once"),
        ([VEHICLE, ObjectClass("car")], "different sources were expected, found car more than once"),
        ([ObjectClass("a", ["x", "y", "x"])], "different sources were expected, found x more than once"),
        ([ObjectClass("a", attributes=["flying"])], "a: attributes: some of task.attributes.*flying"),
        ([ObjectClass("a", attributes=["moving"], usual_attributes=["moving"])], "a: usual_attributes: two of its"),
        (
            [ObjectClass("a", attributes=["moving"], usual_attributes=["moving", "parked"])],
            "a: usual_attributes: two of its attributes, or none",
        ),
        ([ObjectClass("a", heading="up")], "a: heading: one of direction, axis, none was expected, found .up."),
        ([ObjectClass("a", color=[1, 2])], "a: color: three numbers"),
        ([ObjectClass("a", color=[1, 2, 256])], "a: color: three numbers of 0 to 255"),
        ([ObjectClass("a", suppression_radius_m=-0.1)], "a: suppression_radius_m: 0 or more"),
        (
            [ObjectClass("a", suppression_radius_m=float("nan"))],
            "a: suppression_radius_m: 0 or more was expected, found nan",
        ),
        ([ObjectClass("a", color=["x", "y", "z"])], "a: color: three numbers"),
        ([ObjectClass("a", range_m="far")], "a: range_m: more than 0 was expected, found 'far'"),
        ([ObjectClass(None)], "name: a name was expected, found None"),
        ("abc", "an ObjectClass was expected, found str"),
        ([ObjectClass(f"c{i}") for i in range(1001)], "objects: at most 1000 were expected, found 1001"),
        *[
            ([ObjectClass("a", **{fact: 0.0})], "more than 0")
            for fact in ("range_m", "match_radius_m", "position_sigma_m", "velocity_sigma_mps", "prior_speed_mps")
        ],
    ],
)
def test_what_contradicts_itself_is_named(objects, message):
    with pytest.raises(TaskError, match=message):
        Task(objects, ["moving", "sitting", "parked"])


def test_attributes_differ():
    with pytest.raises(TaskError, match="different attributes were expected, found moving more than once"):
        Task([CONE], ["moving", "moving"])


def test_tasks_share_no_lists():
    first = Task()
    first.objects[0].color[0] = 0
    first.attributes.append("vehicle.flying")
    assert Task() == NUSCENES != first
    assert dataclasses.replace(CONE, name="post").color == CONE.color


def test_classes_do_not_share_their_lists():
    own = Task()
    own.objects[0].attributes.append("anything")
    assert "anything" not in own.objects[1].attributes and "anything" not in NUSCENES.objects[0].attributes
    assert Task(tuple(own.objects[1:]), attributes=tuple(own.attributes)).objects == own.objects[1:]


@pytest.mark.parametrize(
    "fact", ["range_m", "match_radius_m", "position_sigma_m", "prior_speed_mps", "acceleration_density"]
)
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_fact_that_makes_no_sense_is_named(fact, value):
    with pytest.raises(TaskError, match=f"car: {fact}: more than 0 was expected, found"):
        Task([ObjectClass("car", **{fact: value})])
    with pytest.raises(TaskError, match="name: a name was expected"):
        Task([ObjectClass("")])
