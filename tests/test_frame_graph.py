"""The way between two frames, where transforms are a tree and where they are not."""

from perception.logs.frame_graph import FrameGraph
from perception.logs.transforms import two_ways


def graph(text: str) -> FrameGraph:
    """Of "map>odom odom>base", parent first."""
    return FrameGraph(tuple(edge.split(">")) for edge in text.split())


def way(frames: FrameGraph, target: str, source: str) -> str | None:
    found = frames.way(target, source)
    return None if found is None else " ".join(map(">".join, found))


def test_the_way_in_a_tree_does_not_pass_what_is_above_both():
    frames = graph("map>base base>mast mast>lidar base>cam")
    assert way(frames, "cam", "lidar") == "mast>lidar base>mast base>cam"
    assert way(frames, "cam", "cam") == "" and way(frames, "elsewhere", "elsewhere") == ""
    assert not frames.connected("cam", "other") and frames.up("lidar") == ["lidar", "mast", "base", "map"]
    assert frames.names == ["base", "cam", "lidar", "map", "mast"]


def test_of_two_parents_the_one_on_the_way_counts():
    frames = graph("map>odom odom>base gps_map>base base>lidar")
    assert way(frames, "map", "lidar") == "base>lidar odom>base map>odom"
    assert way(frames, "gps_map", "lidar") == "base>lidar gps_map>base"
    assert frames.other_way("map", "base") is None and two_ways(frames, "map", "base") == ""
    assert frames.parents("base") == ["gps_map", "odom"]


def test_where_there_are_two_ways_the_shortest_is_taken_and_the_other_named():
    frames = graph("map>odom odom>base map>base")
    assert way(frames, "map", "base") == "map>base"
    assert two_ways(frames, "map", "base") == (
        "two ways from base to map: map -> base is taken, odom -> base, map -> odom is not;"
        " exclude the transform that is wrong"
    )
    assert two_ways(frames, "map", "odom") == ""
    assert way(graph("map>b map>a b>base a>base"), "map", "base") == "a>base map>a"  # the first by name


def test_a_tag_that_the_map_and_a_camera_have_is_no_short_cut():
    frames = graph("map>slam slam>odom odom>base base>cam cam>tag map>tag")
    assert way(frames, "map", "base") == "odom>base slam>odom map>slam"
    assert way(frames, "map", "cam") == "base>cam odom>base slam>odom map>slam"


def test_without_a_way_over_the_top_one_through_a_frame_below_is_taken():
    """Visual odometry locates the camera, whose mount hangs below the vehicle."""
    frames = graph("odom>camera base>camera base>lidar")
    assert way(frames, "odom", "lidar") == "base>lidar base>camera odom>camera"
    assert two_ways(frames, "odom", "lidar") == ""


def test_circles_end():
    frames = graph("a>b b>c c>a d>d")
    assert set(frames.up("a")) == {"a", "b", "c"} and frames.up("d") == ["d"]
    assert way(frames, "a", "c") == "c>a" and two_ways(frames, "a", "c") != ""
    assert way(frames, "a", "d") is None


def test_a_new_transform_opens_a_way():
    frames = graph("map>odom base>lidar")
    assert way(frames, "map", "lidar") is None
    frames.add(("odom", "base"))
    assert way(frames, "map", "lidar") == "base>lidar odom>base map>odom"
