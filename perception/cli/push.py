"""Upload a checkpoint to a Hugging Face hub, from where its name loads it anywhere.

    perception push runs/nuscenes/best hf://owner/name --private
    perception evaluate --checkpoint hf://owner/name --root data/nuscenes --split val

Weights, config and manifest are uploaded, and a README.md with what the manifest says if there is none. They name the
data folder as the config does.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="RUN", help="folder, such as that of a run, or best/ in it")
    parser.add_argument("repository", metavar="hf://owner/name", help="made if there is none")
    parser.add_argument("--private", action="store_true", help="only a repository that is not for everybody")


def run(args: argparse.Namespace) -> None:
    from perception.model.checkpoint import find_checkpoint
    from perception.model.hub import push

    print(push(find_checkpoint(args.checkpoint), args.repository, args.private))
