"""The live detector on Zenoh: subscribes to sensors, publishes what it sees. Payloads are .npy and JSON, never pickles.

python docs/examples/zenoh_node.py --rig rig.yaml   # until SIGTERM; with --check: exit code 0 if one is there, and well

perception/sensor/NAME        in   an array as np.save writes it; attachment: JSON {"timestamp_ns": ...}
perception/transform          in   JSON: parent, child, pose (x, y, z, w, x, y, z), timestamp_ns (null: from now on)
perception/calibration/NAME   in   JSON: intrinsics [3][3], distortion [...], timestamp_ns (null: from now on)
perception/result, health     out  JSON: for every frame; to whoever asks
"""

import argparse
import io
import json
import logging
import os
import signal
import socket
import time
from collections import Counter
from dataclasses import asdict

import numpy as np

import perception
from perception.geometry import SE3
from perception.logs.rig import load_rig


def loopback(**endpoints):
    """A configuration that finds, and is found by, none but those whose endpoints are named: listen=, connect=."""
    import zenoh

    config = {"mode": "peer", "listen": {"endpoints": []}}
    config["scouting"] = {"multicast": {"enabled": False}, "gossip": {"enabled": False}}
    return zenoh.Config.from_json5(json.dumps(config | {name: {"endpoints": [e]} for name, e in endpoints.items()}))


def push(stream, key: str, payload: bytes, attachment: bytes) -> None:
    """What came under a key, to the stream. Raises what numpy, JSON or the stream raise of it."""
    match key.split("/")[1:]:
        case ["sensor", name]:
            data = np.lib.format.read_array(io.BytesIO(payload), allow_pickle=False)
            stream.push(name, data, json.loads(attachment)["timestamp_ns"])
        case ["transform"]:
            said = json.loads(payload)
            stream.push_transform(said["parent"], said["child"], SE3.from_pose(said["pose"]), said["timestamp_ns"])
        case ["calibration", name]:
            said = json.loads(payload)
            stream.push_calibration(name, said["intrinsics"], said["distortion"], timestamp_ns=said["timestamp_ns"])


def result_json(result, classes) -> str:
    boxes = result.tracks.boxes
    said = {name: getattr(result, name) for name in ("token", "scene", "timestamp_ns", "age_s")}
    said["world_SE3_ego"] = result.world_SE3_ego.pose.tolist()
    said["sensors"] = {name: asdict(presence) for name, presence in result.sensors.items()}
    said |= {"ids": result.tracks.ids.tolist(), "classes": [classes[label] for label in boxes.label]}
    said |= {name: getattr(boxes, name).tolist() for name in ("center", "size", "yaw", "velocity")}
    return json.dumps(said, allow_nan=False)


def notify(state: str) -> None:
    """To systemd, where that has started us (sd_notify)."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifying:
            notifying.sendto(state.encode(), address.replace("@", "\0", 1))


def run(detector, rig, endpoint: str) -> None:
    import zenoh

    refused, signals = Counter[str](), list[int]()
    signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))  # no lock, which this thread may hold
    key, classes = "perception/result", detector.task.classes
    stream = perception.Stream(detector, rig, on_result=lambda r: session.put(key, result_json(r, classes)))

    def take(sample) -> None:
        key, attachment = str(sample.key_expr), sample.attachment
        try:
            push(stream, key, bytes(sample.payload), b"null" if attachment is None else bytes(attachment))
        except Exception as error:  # whatever somebody else has sent: it is counted, and named the first time
            key = key if key in refused or len(refused) < 100 else "others"
            refused[key] += 1
            if refused[key] == 1:
                logging.warning("%s: %s: %s", key, type(error).__name__, error)

    def answer(query) -> None:
        query.reply("perception/health", json.dumps({**asdict(stream.health()), "refused": refused}))

    stream.warmup()
    with stream, zenoh.open(loopback(listen=endpoint)) as session:
        session.declare_queryable("perception/health", answer)
        for taken in ("sensor/*", "transform", "calibration/*"):
            session.declare_subscriber(f"perception/{taken}", take)
        notify("READY=1")
        while not signals:
            time.sleep(1.0)
            if stream.health().level != "ERROR":  # which a restart may cure; that no sensor delivers, it cannot
                notify("WATCHDOG=1")


def main() -> int:
    import zenoh

    parser = argparse.ArgumentParser()
    parser.add_argument("--rig", default="rig.yaml")
    parser.add_argument("--checkpoint", default="sim")
    endpoint = os.environ.get("PERCEPTION_ENDPOINT", "tcp/127.0.0.1:7447")  # so that --check asks there, too
    parser.add_argument("--endpoint", default=endpoint, help="default: PERCEPTION_ENDPOINT, else tcp/127.0.0.1:7447")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.check:
        with zenoh.open(loopback(connect=args.endpoint)) as session:
            levels = [json.loads(r.ok.payload.to_string())["level"] for r in session.get("perception/health") if r.ok]
        print(*levels)
        return 0 if levels and "ERROR" not in levels else 1
    run(perception.load(args.checkpoint), load_rig(args.rig), args.endpoint)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
