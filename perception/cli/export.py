"""Export a detector as graphs of standard operators, for runtimes without this package or without torch.

    perception export --checkpoint sim --format onnx --out out/sim
    perception export --checkpoint sim --format onnx-int8 --out out/sim --calibrate data/drives/1000
    perception export --checkpoint sim --out out/sim --verify data/drives/555 --json out/sim.json

Several formats share a folder. onnx-int8 is made of the folder's ONNX files. --verify sets every format in the folder
beside the detector: what they find for each set of sensors, how fast they are on this machine, and the mAP.
docs/export.md describes the graphs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import perception
from perception.errors import PerceptionError, require

FORMATS = ("onnx", "onnx-int8", "torch-export", "aoti")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, help="folder, shipped name, or hf://owner/name[@revision]")
    parser.add_argument("--out", required=True, type=Path, help="folder of the exported model")
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=[], help="what to write")
    parser.add_argument(
        "--calibrate", metavar="ROOT", help="frames that onnx-int8 takes the ranges of activations from"
    )
    parser.add_argument("--verify", nargs="+", metavar="ROOT", default=[], help="annotated frames to compare on")
    parser.add_argument(
        "--frames", type=int, default=4, help="of each ROOT, to calibrate on and to compare; default: 4"
    )
    parser.add_argument("--turns", type=int, default=3, help="over these frames, to time; default: 3")
    parser.add_argument("--json", type=Path, help="file for what --verify found")


def run(args: argparse.Namespace) -> None:
    from perception.files import check_writable, write_json

    require("--frames", args.frames, "1 or more", lambda frames: frames >= 1)
    require("--turns", args.turns, "1 or more", lambda turns: turns >= 1)
    if not args.format and not args.verify:
        raise PerceptionError("export: --format, --verify or both were expected, found neither")
    if "onnx-int8" in args.format and args.calibrate is None:
        raise PerceptionError("--format onnx-int8: --calibrate with a folder of frames was expected, found none")
    if args.json is not None:
        check_writable(args.json)

    from perception.export.verify import as_text
    from perception.export.write import export, export_int8

    detector = perception.load(args.checkpoint)
    for form in args.format:
        if form == "onnx-int8":
            source = _open(args.calibrate, detector)
            frames = (source[i] for i in range(min(args.frames, len(source))))
            paths = export_int8(args.out, [frame for frame in frames if frame is not None])
        else:
            paths = export(detector, args.out, form)
        print(*(f"{path}  {path.stat().st_size / 1e6:.1f} MB" for path in paths), sep="\n")
    if args.verify:
        report = _verify(args, detector)
        print(as_text(report))
        if args.json is not None:
            write_json(args.json, report)


def _open(root: str, detector: Any) -> Any:
    from perception.data.opening import open_source

    return open_source(root, detector.config, image_size=detector.inputs.covering)


def _verify(args: argparse.Namespace, detector: Any) -> dict[str, Any]:
    import torch

    from perception.export.backends import FORMATS as SUFFIXES
    from perception.export.runtime import OBJECTS, load
    from perception.export.verify import verify

    found = [form for form, (suffix, _) in SUFFIXES.items() if (args.out / f"{OBJECTS}{suffix}").is_file()]
    if not found:
        raise PerceptionError(f"{args.out}: an exported model was expected, found none")
    models = {form: load(args.out, form, threads=torch.get_num_threads()) for form in found}
    sources = {Path(root).name: _open(root, detector) for root in args.verify}
    return verify(detector, models, args.out, sources, args.frames, args.turns)
