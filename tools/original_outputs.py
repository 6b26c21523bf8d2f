"""Run the published code of a model on seeded weights, where that code is installed, for comparison with ours.

    python tools/original_outputs.py mmdet3d mmdetection3d --out out/original
    python tools/original_outputs.py openpcdet OpenPCDet --points out/real.npy --reach 51.2 --out out/original_real
    python tools/original_outputs.py mmdet3d mmdetection3d --golden tests/golden/imported_mmdet3d.json --out out/small

Needs neither this package nor a GPU, but an environment with what the code imports (docs/weights.md); compiled
operators are stood in for (tools/originals/stubs.py). Writes weights.pth, as a checkpoint of the original has them, and
outputs.npz with what every stage makes of the cloud; --golden, samples of that which are small enough to be kept.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
from pathlib import Path

import numpy as np
import torch

from originals.sampled import sampled
from originals.seeded import seeded_cloud, seeded_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("original", choices=("mmdet3d", "openpcdet"))
    parser.add_argument("repository", type=Path, help="checkout of mmdetection3d (v1.4.0) or OpenPCDet")
    parser.add_argument("--points", type=Path, help=".npy, float32 [N, 5] in the LiDAR frame; default: seeded ones")
    parser.add_argument("--reach", type=float, default=12.8, help="metres each way; published: 51.2; default: 12.8")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--golden", type=Path)
    args = parser.parse_args()
    out, golden = args.out.resolve(), args.golden and args.golden.resolve()
    points = seeded_cloud(6000, args.reach, args.seed) if args.points is None else np.load(args.points)
    original = importlib.import_module(f"originals.{args.original}")
    model = original.build(args.repository.resolve(), args.reach)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    state = {name: torch.from_numpy(value) for name, value in seeded_weights(shapes, args.seed).items()}
    model.load_state_dict(state, strict=True)
    found = original.outputs(model, points)
    out.mkdir(parents=True, exist_ok=True)
    torch.save({original.STATE: state}, out / "weights.pth")
    np.savez(out / "outputs.npz", points=points, reach_m=args.reach, **found)
    for name, value in found.items():
        print(f"{name:<9} {value.shape!s:<20} largest {np.abs(value).max(initial=0):.3g}")
    if golden is not None:
        text = "".join(f"{name} {list(shape)}\n" for name, shape in sorted(shapes.items()))
        kept = {"reach_m": args.reach, "seed": args.seed, "keys": len(shapes)}
        kept |= {"keys_sha256": hashlib.sha256(text.encode()).hexdigest(), **sampled(found)}
        golden.write_text(json.dumps(kept) + "\n")


if __name__ == "__main__":
    main()
