"""Pace: when frames are handed out, what is dropped in real time, and the keys of a terminal."""

import os
import pty
import queue
import signal
import subprocess
import sys
import termios
import threading
import time
from contextlib import closing, suppress
from itertools import islice
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.data.nuscenes_files import DataError
from perception.replay import playback
from perception.replay.playback import Playback, keyboard, looped
from perception.sample import Frame

SECOND = 1_000_000_000


def frames(*times_s, scene="drive"):
    return [Frame(f"f{i}", round(t * SECOND), lidar=None, scene=scene) for i, t in enumerate(times_s)]


class Clock:
    """In place of the module ``time``: sleeping takes no time, and things can be made to happen meanwhile."""

    def __init__(self):
        self.now, self.events = 1000.0, []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        assert 0 < seconds <= playback._TICK_S, "keys are to be noticed"
        self.now += seconds
        while self.events and self.events[0][0] <= self.now - 1000:
            self.events.pop(0)[1]()

    def at(self, second, action):
        self.events.append((second, action))


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(playback, "time", clock)
    return clock


def times(playing, clock, work_s=0.0):
    """When each frame came, in seconds since the beginning."""
    found = []
    for _ in playing:
        found.append(round(clock.now - 1000, 2))
        clock.now += work_s
    return found


def near(*expected):
    return pytest.approx(expected, abs=1.5 * playback._TICK_S)


def test_at_once_is_at_once(clock):
    assert times(Playback().play(frames(0, 5, 100)), clock) == [0, 0, 0]
    assert list(Playback().play([])) == []


@pytest.mark.parametrize(("rate", "due"), [(1.0, (0, 0.5, 3)), (2.0, (0, 0.25, 1.5)), (0.5, (0, 1, 6))])
def test_no_frame_comes_before_its_time(clock, rate, due):
    assert times(Playback(rate).play(frames(7, 7.5, 10)), clock) == near(*due)


def test_a_slow_consumer_gets_every_frame_and_catches_up(clock):
    playing = Playback(1.0).play(frames(0, 0.5, 1, 1.5, 5))
    assert times(playing, clock, work_s=0.8) == near(0, 0.8, 1.6, 2.4, 5)


def test_the_clock_begins_anew_with_another_scene_and_where_time_goes_back(clock):
    drives = [*frames(0, 1), *frames(100, 101, scene="next"), *frames(3, 4, scene="next")]
    assert times(Playback(1.0).play(drives), clock) == near(0, 1, 1, 2, 2, 3)


def test_a_pause_stops_the_clock(clock):
    playing = Playback(1.0)
    clock.at(0.5, lambda: playing.press("pause"))
    clock.at(5.0, lambda: playing.press("pause"))
    assert times(playing.play(frames(0, 1, 2)), clock) == near(0, 5.5, 6.5)


def test_steps_are_single_frames_while_paused(clock):
    playing = Playback(paused=True)
    clock.at(1.0, lambda: playing.press("step"))
    clock.at(2.0, lambda: [playing.press("step"), playing.press("step")])
    clock.at(3.0, lambda: playing.press("pause"))
    assert times(playing.play(frames(0, 1, 2, 3, 4)), clock) == near(1, 2, 2, 3, 3)


def test_after_steps_the_clock_goes_on_from_there(clock):
    playing = Playback(1.0, paused=True)
    clock.at(1.0, lambda: [playing.press("step"), playing.press("step")])
    clock.at(5.0, lambda: playing.press("pause"))
    assert times(playing.play(frames(0, 10, 11)), clock) == near(1, 1, 6)


def test_the_rate_changes_by_a_tenth(clock):
    playing = Playback(1.0)
    playing.press("faster")
    assert playing.rate == pytest.approx(1.1)
    playing.press("slower")
    assert playing.rate == pytest.approx(0.99)
    playing = Playback(10.0)
    clock.at(0.5, lambda: playing.press("slower"))
    assert times(playing.play(frames(0, 10, 19)), clock) == near(0, 0.5 + 5 / 9, 0.5 + 14 / 9)
    playing = Playback()
    playing.press("slower")
    assert times(playing.play(frames(0, 9)), clock) and playing.rate == 0.9


@pytest.mark.parametrize("rate", [None, 1.0])
@pytest.mark.parametrize("paused", [False, True])
def test_q_ends_a_replay_as_ctrl_c_does(clock, rate, paused):
    playing = Playback(rate)
    played = playing.play(frames(0, 1, 2))
    assert next(played).token == "f0"
    playing.paused = paused
    if rate is None and not paused:
        playing.press("quit")
    else:
        clock.at(0.5, lambda: playing.press("quit"))
    with pytest.raises(KeyboardInterrupt):
        next(played)
    assert playing.quit


def test_a_key_that_means_nothing_does_nothing():
    playing = Playback()
    playing.press("nonsense")
    assert (playing.rate, playing.paused, playing.quit) == (None, False, False)


class Live:
    """A source in real time whose frames are due when :meth:`deliver` says so."""

    def __init__(self):
        self.room: queue.Queue = queue.Queue()
        self.taken = threading.Semaphore(0)

    def __iter__(self):
        while (item := self.room.get(timeout=10)) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
            self.taken.release()  # it is in the room for one frame, and the one before it is taken or dropped

    def deliver(self, *items):
        for item in items:
            self.room.put(item)

    def wait(self, number):
        for _ in range(number):
            assert self.taken.acquire(timeout=10)


def live(times_s):
    """Frames that are all due at once."""
    return [Frame(f"f{i}", 0, scene=f"scene {i}") for i, _ in enumerate(times_s)]


def test_in_real_time_the_oldest_is_dropped():
    source, playing = Live(), Playback(realtime=True)
    assert playing.rate == 1.0
    drive = live(range(6))
    with closing(playing.play(source)) as played:
        source.deliver(*drive[:1])
        assert next(played).token == "f0"
        source.deliver(*drive[1:], None)
        source.wait(6)
        assert [frame.token for frame in played] == ["f5"]
    assert playing.dropped == ["f1", "f2", "f3", "f4"]


@given(st.lists(st.integers(0, 1), min_size=1, max_size=30))
def test_in_real_time_nothing_is_reordered_or_lost_without_being_said(pattern):
    """Whenever it is taken: every frame is either taken, in order, or dropped, and the last one is taken."""
    playing, taken = Playback(realtime=True), []
    for frame, slow in zip(playing.play(live(pattern)), pattern):
        taken.append(frame.token)
        time.sleep(0.0005 * slow)
    expected = [frame.token for frame in live(pattern)]
    assert sorted([*taken, *playing.dropped]) == sorted(expected)
    assert taken == sorted(taken, key=expected.index) and taken[-1] == expected[-1]
    assert playing.dropped == sorted(playing.dropped, key=expected.index)


def test_in_real_time_an_error_of_the_source_comes_after_the_frames_before_it():
    source, playing = Live(), Playback(realtime=True)
    source.deliver(*live(range(1)), DataError("a.bin: broken"))
    played = playing.play(source)
    assert next(played).token == "f0"
    with pytest.raises(DataError, match="broken"):
        next(played)
    assert not threads()


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "replay in real time"]


@pytest.mark.parametrize("paused", [False, True])
def test_in_real_time_nothing_goes_on_behind_a_consumer_that_stops(paused):
    """Neither for a frame that is due in an hour, nor for one that waits for a key."""
    playing = Playback(realtime=True)
    played = playing.play(frames(0, 3600, 7200))
    assert next(played).token == "f0" and threads()
    playing.paused = paused
    played.close()
    assert not threads() and playing.dropped == [] and not playing.quit


def test_in_real_time_q_ends_it_too():
    playing = Playback(realtime=True)
    played = playing.play(frames(0, 3600))
    next(played)
    playing.press("quit")
    with pytest.raises(KeyboardInterrupt):
        next(played)
    assert not threads()


def test_in_real_time_nothing_is_nothing():
    assert list(Playback(realtime=True).play([])) == [] and not threads()


def test_a_loop_says_which_pass_a_frame_is_of():
    found = [(frame.token, frame.scene) for frame in islice(looped(frames(0, 1)), 5)]
    assert found == [("f0", "drive"), ("f1", "drive"), ("f0#1", "drive#1"), ("f1#1", "drive#1"), ("f0#2", "drive#2")]


def test_the_clock_of_a_loop_begins_anew(clock):
    assert times(islice(Playback(1.0).play(looped(frames(0, 1))), 5), clock) == near(0, 1, 1, 2, 2)


@pytest.mark.parametrize("stdin", [subprocess.DEVNULL, subprocess.PIPE])
def test_without_a_terminal_there_is_no_keyboard(stdin):
    code = "from perception.replay.playback import keyboard\nwith keyboard(print) as there: print(there)"
    done = subprocess.run([sys.executable, "-c", code], stdin=stdin, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("stdin", [None, SimpleNamespace(), SimpleNamespace(fileno=lambda: 9999)])
def test_whatever_stands_in_for_a_terminal(monkeypatch, stdin):
    monkeypatch.setattr(sys, "stdin", stdin)
    with keyboard(print) as there:
        assert not there


def test_without_termios_there_is_no_keyboard(monkeypatch):
    """As on Windows."""
    monkeypatch.setitem(sys.modules, "termios", None)
    with keyboard(print) as there:
        assert not there


TYPIST = """
import time
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.default_int_handler)  # may be ignored, as under nohup, and would then do nothing
signal.alarm(60)
from perception.replay.playback import keyboard

try:
    with keyboard(lambda key: print(key, flush=True)) as there:
        print(there, flush=True)
        time.sleep(600)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.fixture
def terminal():
    """A child whose terminal we are: its process, our end, and what the settings were."""
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    code = "import fcntl, os, signal, termios\nos.setsid()\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n" + TYPIST
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    yield child, ours, theirs, before
    child.kill()
    child.communicate()
    with suppress(OSError):
        os.close(ours)
        os.close(theirs)


def test_keys_of_a_terminal_and_its_settings_afterwards(terminal):
    child, ours, theirs, before = terminal
    assert child.stdout.readline() == "True\n"
    assert termios.tcgetattr(theirs)[3] & (termios.ICANON | termios.ECHO) == 0
    os.write(ours, b" x\x1b[C\x1b[A\x1b[B\x1b[D \x1bq")
    expected = ["pause", "step", "faster", "slower", "pause", "quit"]
    assert [child.stdout.readline().strip() for _ in expected] == expected
    os.write(ours, b"\x03")
    assert child.stdout.readline() == "interrupted\n" and child.wait(timeout=10) == 0
    assert termios.tcgetattr(theirs) == before


def test_a_terminal_that_goes_away_is_no_error(terminal):
    child, ours, theirs, _ = terminal
    assert child.stdout.readline() == "True\n"
    os.close(theirs)
    os.close(ours)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=10)
    assert out == "interrupted\n" and err == ""
