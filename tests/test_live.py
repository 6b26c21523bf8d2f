"""A vehicle's messages as they arrive give the frames that a log of them gives, whatever fails on the way."""

from dataclasses import replace

import numpy as np
import pytest
from memory_log import START_NS, MemoryLog, drive, every, transform

from perception.logs.beginning import Lasting
from perception.logs.frames import LogFrames
from perception.logs.live import LiveFrames
from perception.logs.log import Log
from perception.logs.measurements import Assembly
from perception.logs.messages import Cloud
from perception.logs.rig import CloudSource, Rig

FIELDS = {
    "lidar": ("x", "y", "z", "intensity"),
    "radar": ("x", "y", "z", "vx_comp", "vy_comp"),
    "rear": ("x", "y", "z", "vx_comp", "vy_comp"),
}
ASSEMBLY = Assembly(lidar_span_s=0.15)
STAMPS = every(0.1, 6)


def rig(**offsets_s) -> Rig:
    sources = {name: CloudSource(cloud=f"/{name}", offset_s=offsets_s.get(name, 0.0)) for name in FIELDS}
    return Rig(
        reference="LIDAR", lidars={"LIDAR": sources["lidar"]}, radars={n.upper(): sources[n] for n in ("radar", "rear")}
    )


def log_of(ahead_s=None, since_s=0.0, **stamps_s) -> MemoryLog:
    """Three sensors at 10 Hz, or when it is said; ahead_s: name -> how far its clock is ahead from ``since_s`` on."""
    log = MemoryLog()
    for name in FIELDS:
        log.add("/tf_static", transform("base_link", name, 1.0, static=True), [0.0])
    for i, (name, fields) in enumerate(FIELDS.items()):
        for number, stamp_s in enumerate(stamps_s.get(name, STAMPS)):
            points = np.full(3, 9 + number, [(field, "<f4") for field in fields])
            ahead = (ahead_s or {}).get(name, 0.0) * (stamp_s >= since_s)
            log.add(f"/{name}", Cloud(name, points), [stamp_s + 0.01 * i + ahead], delay_s=0.02 - ahead)
    drive(log, "map", "base_link", every(0.02, 6.1))
    return log.as_recorded()


def known(log: MemoryLog) -> list:
    lasting = Lasting()
    for message in log.messages():
        lasting.add(message)
    return lasting.messages


def replayed(log: MemoryLog, rig: Rig):
    frames = LogFrames(Log(log, "drive", None, (), {}, 0.0, None, strict=True), rig, ASSEMBLY)
    return list(frames), frames.problems


def driven(log: MemoryLog, rig: Rig):
    live = LiveFrames(rig, ASSEMBLY, "drive", known(log))
    return [frame for message in log.messages() for frame in live.push(message)] + list(live.finish()), live.problems


def content(frames):
    return [
        (f.token, f.timestamp_ns, f.world_SE3_ego.matrix.tobytes(), f.lidar and f.lidar.points.tobytes(),
         f.radar and f.radar.points.tobytes())
        for f in frames
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("log", "lidar", "radar"),
    [
        (log_of(), 61, 61),
        (log_of(lidar=STAMPS[:21]), 22, 61),
        (log_of(lidar=[*STAMPS[:21], *STAMPS[41:]]), 42, 61),
        (log_of(lidar=STAMPS[30:]), 31, 61),
        (log_of(lidar=[], radar=STAMPS[:21]), 0, 61),
        (log_of(radar=STAMPS[:21], rear=STAMPS[:21]), 61, 22),
        (log_of({"lidar": 18.0}), 0, 61),
        (log_of({"lidar": -37.0}), 0, 61),
        (log_of({"radar": 18.0, "rear": 37.0}), 61, 0),
        (log_of({"lidar": 18.0}, 3.0), 31, 61),
        (log_of({"lidar": -18.0}, 3.0), 31, 61),
    ],
    ids=[
        "sound", "reference dies", "and returns", "starts late", "never comes", "others die",
        "clock of the reference", "behind", "clocks of others", "is set ahead", "is set back",
    ],
)  # fmt: skip
def test_live_and_from_a_log_frames_are_the_same(log, lidar, radar):
    (found, problems), (live, live_problems) = replayed(log, rig()), driven(log, rig())
    assert content(live) == content(found) and live_problems == problems
    assert len(found) == 61
    assert sum(f.lidar is not None for f in found) == lidar and sum(f.radar is not None for f in found) == radar


@pytest.mark.parametrize("frames_of", [replayed, driven])
@pytest.mark.parametrize("back_s", [1.5, 5.0, 3600.0])
def test_frames_go_on_when_all_clocks_are_set_back(frames_of, back_s):
    """After 3 s. What follows is a scene of its own, in which nothing of the time before is used."""
    log = log_of(dict.fromkeys(FIELDS, -back_s), 3.0)
    log._messages = [
        replace(m, timestamp_ns=m.timestamp_ns - round(back_s * 1e9))
        if m.topic == "/tf" and m.timestamp_ns >= START_NS + 3_000_000_000
        else m
        for m in log.messages()
    ]
    found, problems = frames_of(log, rig())
    scenes = [f.scene for f in found]
    assert scenes == ["drive"] * 30 + ["drive#1"] * (len(found) - 30) and len(found) in (60, 61)
    assert len({f.token for f in found}) == len(found) and all(f.token.endswith("#1") for f in found[30:])
    times = [(f.timestamp_ns - START_NS) / 1e9 for f in found]
    assert times[:30] == pytest.approx(STAMPS[:30]) and times[-30:] == pytest.approx([t - back_s for t in STAMPS[31:]])
    (said,) = [line.split("by ")[1].split(" s:")[0] for line in problems if "clocks were set back" in line]
    assert float(said.replace(",", "")) == pytest.approx(back_s, abs=0.2)
    for frame in found[30:]:
        assert frame.lidar.points[:, 3].min() >= 39 - 1 and -0.06 <= frame.lidar.points[:, 4].min()


@pytest.mark.parametrize("frames_of", [replayed, driven])
def test_the_rig_corrects_the_clock_of_a_sensor(frames_of):
    sound, _ = frames_of(log_of(), rig())
    for name in FIELDS:
        off = log_of({name: 18.0})
        assert content(frames_of(off, rig(**{name: -18.0}))[0]) == content(sound)
        assert any(f"/{name}: 61 messages left out" in line for line in frames_of(off, rig())[1])


def test_a_part_of_a_drive_whose_reference_dies_is_that_of_the_whole():
    log = log_of(lidar=STAMPS[:28])
    whole, _ = replayed(log, rig())
    part = list(LogFrames(Log(log, "drive", None, (), {}, 2.0, 1.0, strict=True), rig(), ASSEMBLY))
    assert content(part) == content(whole)[20:31]


def test_a_vehicle_is_told_of_its_frames_in_time():
    """Half a second passes until a reference is taken for silent, and then no frame takes longer than its wait."""
    log = log_of(lidar=STAMPS[:21])
    live = LiveFrames(rig(), Assembly(), known=known(log))
    waits = {}
    for message in log.messages():
        for frame in live.push(message):
            waits[frame.timestamp_ns] = (message.log_time_ns - frame.timestamp_ns) / 1e9
    usual = [wait for time_ns, wait in waits.items() if 1.05 < (time_ns - min(waits)) / 1e9 < 2.05]
    ticks = [wait for time_ns, wait in waits.items() if (time_ns - min(waits)) / 1e9 > 2.65]
    assert max(usual) < 0.2 and max(ticks) < 0.2 and max(waits.values()) < 1.2
