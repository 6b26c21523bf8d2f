"""Run a detector over recorded scenes: detections, video, still picture and latency into one folder.

python tools/replay.py data/sim --checkpoint sim --out out/replay
python tools/replay.py data/nuscenes --version v1.0-mini --scenes scene-0103 --sensors camera,radar ...
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads stall a busy machine

import perception
from perception.cli import add_device_option, checked_device, names, run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE", help="folder in the nuScenes layout")
    parser.add_argument("--checkpoint", required=True, help="folder, or the name of a shipped checkpoint")
    parser.add_argument("--out", required=True, type=Path, help="folder of the results")
    parser.add_argument("--version", help="such as v1.0-mini; may be left out where the source holds one")
    parser.add_argument("--scenes", type=names, help="such as scene-0103,scene-0916; default: all")
    parser.add_argument("--sensors", type=names, default=perception.SENSORS, help="such as camera,radar; default: all")
    parser.add_argument("--score-threshold", type=float, default=0.3, help="of the boxes drawn; default: 0.3")
    parser.add_argument("--no-video", action="store_true", help="no replay.mp4, which takes most of the drawing")
    parser.add_argument("--skip-damaged", action="store_true", help="leave out frames that cannot be read")
    add_device_option(parser)
    args = parser.parse_args()

    from perception.data.nuscenes import open_source  # imports torch: after --help
    from perception.replay import about_detector, latency_table, replay

    detector = perception.load(args.checkpoint, device=checked_device(args.device))
    policy = "skip" if args.skip_damaged else "raise"
    chosen = {"scenes": args.scenes, "sensors": args.sensors, "on_error": policy}
    source = open_source(args.source, detector.config.data, args.version, **chosen)
    about = about_detector(detector, args.checkpoint) | {"source": args.source, "version": source.version}
    options = {"sensors": args.sensors, "score_threshold": args.score_threshold, "video": not args.no_video}
    summary = replay(detector, source.frames(), args.out, total=len(source), about=about, **options)

    print(latency_table(summary))
    print(f"{summary['frames']} frames, {summary['detections']} detections, sha256 {summary['detections_sha256']}")
    print(f"results, video, still and summary: {args.out}")


if __name__ == "__main__":
    run_main(main)
