"""Turn a published checkpoint of CenterPoint on pillars into one of this package, that every command takes.

    perception import-weights centerpoint.pth --from mmdet3d-centerpoint-pillar --out out/centerpoint
    perception evaluate --checkpoint out/centerpoint --root data/nuscenes --split mini_val

Only tensors are read of the file. Where published files are, their licence, and how to check what was imported:
docs/weights.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

SOURCES = ("mmdet3d-centerpoint-pillar", "openpcdet-centerpoint-pillar")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help=".pth as it was downloaded")
    parser.add_argument("--from", dest="source", required=True, choices=SOURCES, help="whose model it is of")
    parser.add_argument("--out", required=True, type=Path, help="folder of the checkpoint")


def run(args: argparse.Namespace) -> None:
    from perception.files import check_writable
    from perception.model.import_weights import import_weights

    check_writable(args.out / "model.safetensors")
    manifest = import_weights(args.file, args.source, args.out)
    print(f"{args.out}: {args.source}, of {manifest['file']} with SHA-256 {manifest['sha256']}")
    print(manifest["licence"])
