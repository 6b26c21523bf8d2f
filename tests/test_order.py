"""The order of messages where clocks disagree, sensors fall silent, or all come late: time is what most sensors say."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_log import START_NS, MemoryLog, cloud, drive, every, transform

from perception.logs.messages import Message
from perception.logs.order import Order

TENTHS = every(0.1, 4)


def log_of(ahead_s=None, poses=True, stamps=TENTHS) -> MemoryLog:
    """Sensors by name, 10 Hz each, and how far ahead their clocks are; poses at 50 Hz, whose clock is right."""
    log = MemoryLog()
    for name, seconds in (ahead_s or {}).items():
        log.add(f"/{name}", cloud(name), [s + seconds for s in stamps], delay_s=-seconds)
    if poses:
        drive(log, "map", "base_link", every(0.02, 4))
    return log.as_recorded()


def ordered(log, window_ns=500_000_000) -> tuple[list[Message], Order]:
    order = Order(window_ns, window_ns and 1_000_000_000)
    messages = [found for message in log.messages() for found in order.push(message, message)]
    return messages + list(order.flush()), order


def seconds(messages, topic) -> list[float]:
    return [round((m.timestamp_ns - START_NS) / 1e9, 6) for m in messages if m.topic == topic]


def times(messages) -> list[int]:
    return [m.timestamp_ns for m in messages]


@pytest.mark.parametrize("ahead_s", [0.7, 1.2, 3.0, 18.0, 37.0, 3600.0])
@pytest.mark.parametrize("wrong", ["a", "b", "c"])
@pytest.mark.parametrize("window_ns", [0, 500_000_000])
def test_one_clock_of_three_that_is_ahead_is_left_out_and_named(ahead_s, wrong, window_ns):
    clocks = {name: ahead_s * (name == wrong) for name in "abc"}
    messages, order = ordered(log_of(clocks), window_ns)
    right, _ = ordered(log_of({name: 0.0 for name in "abc" if name != wrong}), window_ns)
    others = [m for m in messages if m.topic != f"/{wrong}"]
    assert len(others) == len(right) and times(others) == sorted(times(others)) and not order.late
    assert len(messages) == len(others)
    (problem,) = order.problems
    found = re.fullmatch(rf"/{wrong}: 41 messages left out, stamped about ([\d.,e+]+) s ahead of what most.*", problem)
    assert float(found[1].replace(",", "")) == pytest.approx(ahead_s, abs=0.11, rel=0.01)


def test_a_sensor_is_not_ahead_of_those_that_are_late_or_as_a_recorder_with_another_clock_has_it():
    for recorder_s in (0.0, -5.0, 1e9):
        log = MemoryLog()
        for name, delay_s in (("a", 0.0), ("b", 0.9), ("c", 0.9)):
            log.add(f"/{name}", cloud(name), TENTHS, delay_s + recorder_s)
        messages, order = ordered(log.as_recorded())
        assert len(messages) == 3 * 41 and order.problems == []


@pytest.mark.parametrize("wrong", ["a", "b"])
def test_of_two_the_poses_know_which_is_right(wrong):
    messages, order = ordered(log_of({name: 18.0 * (name == wrong) for name in "ab"}))
    (right,) = {"a", "b"} - {wrong}
    assert len(seconds(messages, f"/{right}")) == 41 and not seconds(messages, f"/{wrong}") and not order.late


@pytest.mark.parametrize("wrong", ["a", "b"])
def test_of_two_without_poses_the_recorder_knows(wrong):
    messages, order = ordered(log_of({name: 18.0 * (name == wrong) for name in "ab"}, poses=False))
    assert {m.topic for m in messages} == {"/a", "/b"} - {f"/{wrong}"} and not order.late


def test_of_two_and_nothing_else_the_earlier_is_believed():
    """The recorder has no clock. GPS and TAI are both ahead of UTC."""
    log = log_of({"a": 37.0, "b": 0.0}, poses=False)
    log._messages = [Message(m.topic, m.timestamp_ns, 0, m.sequence, m.data) for m in log.messages()]
    messages, _ = ordered(log)
    assert {m.topic for m in messages} == {"/b"}


def test_most_decide_whatever_the_poses_and_the_recorder_say():
    messages, order = ordered(log_of({"a": 18.0, "b": 18.0, "c": 0.0}))
    assert len(seconds(messages, "/a")) == len(seconds(messages, "/b")) == 41 and not seconds(messages, "/c")
    assert "/c: 41 messages left out, stamped about 18.0 s behind what most sensors agree on" in order.problems[-1]


@pytest.mark.parametrize("behind_s", [2.0, 20.0, 1.7e9])
@pytest.mark.parametrize("wrong", ["a", "b", "c"])
def test_a_clock_that_is_behind_is_left_out_as_well(behind_s, wrong):
    messages, order = ordered(log_of({name: -behind_s * (name == wrong) for name in "abc"}))
    right, _ = ordered(log_of({name: 0.0 for name in "abc" if name != wrong}))
    assert len(messages) == len(right) and times(messages) == sorted(times(messages)) and not order.late
    (problem,) = order.problems
    assert problem.startswith(f"/{wrong}: 41 messages left out") and problem.endswith(", or they come late")


def test_a_clock_that_is_set_ahead_and_right_again():
    log = log_of({"a": 0.0, "b": 0.0})
    log.add("/c", cloud("c"), every(0.1, 1))
    log.add("/c", cloud("c"), [19.1 + s for s in every(0.1, 0.9)], delay_s=-18.0)
    log.add("/c", cloud("c"), [2.1 + s for s in every(0.1, 1.9)])
    messages, order = ordered(log.as_recorded())
    assert seconds(messages, "/c") == pytest.approx([*every(0.1, 1), *(2.1 + s for s in every(0.1, 1.9))])
    assert times(messages) == sorted(times(messages))
    assert "/c: 10 messages left out, stamped about 18.0 s ahead" in order.problems[0]


def test_when_most_clocks_are_set_back_nothing_is_lost_of_those_that_agree():
    log = MemoryLog()
    for name in "abc":
        log.add(f"/{name}", cloud(name), every(0.1, 2))
        log.add(f"/{name}", cloud(name), [s - 7.9 for s in every(0.1, 2)], delay_s=10.0)
    messages, order = ordered(log.as_recorded())
    stamps = [round((t - START_NS) / 1e9, 1) for t in times(messages)]
    assert stamps[:63] == sorted(stamps[:63]) and stamps[63:] == sorted(stamps[63:]) and len(stamps) >= 6 * 21 - 2
    (set_back_ns,) = order.set_back_ns
    assert set_back_ns == pytest.approx(10e9, abs=0.3e9)


def test_topics_one_after_the_other_are_late_and_no_clock_was_set_back():
    """A bag that was merged by topic, with recording times that say nothing."""
    log = MemoryLog()
    for name in "abc":
        log.add(f"/{name}", cloud(name), every(0.1, 1.4))
    log._messages = [Message(m.topic, m.timestamp_ns, i, m.sequence, m.data) for i, m in enumerate(log.messages())]
    messages, order = ordered(log)
    assert len(messages) == 45 and not order.set_back_ns


def test_a_pause_of_all_is_no_clock_that_is_off():
    stamps = [s for s in every(0.1, 9) if not 2.05 < s < 6.95]
    messages, order = ordered(log_of({"a": 0.0, "b": 0.0, "c": 0.0}, stamps=stamps))
    assert sum(m.topic != "/tf" for m in messages) == 3 * len(stamps) and order.problems == []
    assert times(messages) == sorted(times(messages))


def test_those_that_deliver_go_on_when_most_fall_silent():
    """Four of six cameras die at 1 s. Time stands still until they are given up, and nothing is lost by it."""
    log = log_of({"a": 0.0, "b": 0.0})
    for name in "cdef":
        log.add(f"/{name}", cloud(name), every(0.1, 1))
    log = log.as_recorded()
    order = Order(0, 0)
    waits = []  # from when a message comes until it is passed on
    for message in log.messages():
        waits += [message.timestamp_ns - found.timestamp_ns for found in order.push(message, message)]
    assert len(waits) + len(list(order.flush())) == len(list(log.messages()))
    assert "left out" not in str(order.problems) and max(waits) < 2e9


def test_sensors_that_come_late_are_waited_for():
    """One takes 0.9 s to deliver, the poses 0.7 s: no stamp is off, and nothing is out of order."""
    log = MemoryLog()
    for name, delay_s in (("a", 0.0), ("b", 0.05), ("c", 0.9)):
        log.add(f"/{name}", cloud(name), TENTHS, delay_s)
    for stamp_s in every(0.02, 4):
        log.add("/tf", transform("map", "base_link", stamp_s), [stamp_s], 0.7)
    messages, order = ordered(log.as_recorded())
    assert times(messages) == sorted(times(messages)) and order.problems == [] and len(messages) == 3 * 41 + 201


def test_most_sensors_late_do_not_make_the_others_ahead():
    log = MemoryLog()
    for name, delay_s in (("a", 0.0), ("b", 0.8), ("c", 0.8)):
        log.add(f"/{name}", cloud(name), TENTHS, delay_s)
    messages, order = ordered(log.as_recorded())
    assert order.problems == [] and len(messages) == 3 * 41


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9), st.sampled_from("abc"))), st.booleans())
def test_no_message_of_clocks_that_agree_is_lost(measured, live):
    """Each arrives up to 0.9 s after it was measured."""
    log = MemoryLog()
    for tenths, delay, name in measured:
        log.add(f"/{name}", cloud(name), [tenths / 10], delay / 10)
    messages, order = ordered(log.as_recorded(), 0 if live else 500_000_000)
    assert sorted(m.sequence for m in messages) == list(range(len(measured)))
    places = [(m.timestamp_ns, m.topic, m.sequence) for m in messages]
    late = Counter(place[1] for i, place in enumerate(places) if place < max(places[:i], default=place))
    assert order.late == late
