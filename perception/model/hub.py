"""Checkpoint folders of a Hugging Face hub: ``hf://owner/name``, or ``hf://owner/name@v1`` for one of its revisions.

Files of a checkpoint's names come and go, and no others: weights as safetensors, and text. Pickle files that a
repository may have are not downloaded.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perception.commit import SUMS, current, digests, read_files, sums_file
from perception.errors import PerceptionError, missing_extra

PREFIX = "hf://"
NEEDED = ("model.safetensors", "config.yaml")
_LISTED = (*NEEDED, "manifest.json")
FILES = (*_LISTED, SUMS)
_CARD = "README.md"
_PICKLES = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}
_PART = r"(?!\.)[A-Za-z0-9._-]+"  # never "..", for revisions are paths in the cache
_NAME = re.compile(rf"{PREFIX}(?P<repository>{_PART}/{_PART})(?:@(?P<revision>{_PART}(?:/{_PART})*))?")


class HubError(PerceptionError):
    """A repository of a hub that cannot be read or written."""


def is_on_hub(name: object) -> bool:
    return isinstance(name, str) and name.startswith(PREFIX)


@functools.cache  # a name means one revision for as long as a process lives
def download(name: str) -> Path:
    """The folder of a checkpoint in the hub's own cache, to which it is downloaded unless it is there.

    Raises:
        HubError: no such repository or revision, no access, the hub cannot be reached, or no checkpoint is in it.
    """
    hub, (repository, revision) = _hub(), _parsed(name)
    with _one_line(name):
        folder = Path(hub.snapshot_download(repository, revision=revision, allow_patterns=list(FILES)))
    absent = [file for file in NEEDED if not (folder / file).is_file()]
    if absent:
        with _one_line(name):
            listed = hub.HfApi().list_repo_files(repository, revision=revision)
        pickles = sorted(file for file in listed if Path(file).suffix in _PICKLES)
        found = f"found pickle files ({', '.join(pickles)}), which are never read" if pickles else "found none"
        raise HubError(f"{name}: {' and '.join(absent)} of a checkpoint was expected, {found}")
    return folder


def pinned(name: str) -> str:
    """The checkpoint by the commit that its name means by now, which is the same one for other processes and machines.

    Names that are no hub's stay as they are. Raises HubError as :func:`download`.
    """
    return f"{PREFIX}{_parsed(name)[0]}@{download(name).name}" if is_on_hub(name) else name


def push(folder: Path, name: str, private: bool = False) -> str:
    """Upload a checkpoint, as one commit, to a repository that is made if there is none.

    A model card is made of the manifest if neither the folder nor the repository has one.

    Returns:
        The name that loads what was uploaded, with its revision.

    Raises:
        HubError: no access, the hub cannot be reached, a file is a link, or ``private`` and the repository is not.
        DamagedFileError: a file is not what was written, or all are being replaced.
    """
    hub, (repository, revision) = _hub(), _parsed(name)
    if revision is not None:
        raise HubError(f"{name}: {PREFIX}owner/name, without a revision, was expected")
    files = _read(folder)
    # Those of a run list its training state, too, which stays where it is; a card may be edited on the hub.
    files[SUMS] = sums_file(digests({file: data for file, data in files.items() if file != _CARD}))
    card = _card(name, _manifest(folder, files.get("manifest.json")))
    api = hub.HfApi()
    with _one_line(name):
        api.create_repo(repository, private=private or None, exist_ok=True)
        if private and not api.repo_info(repository).private:
            raise HubError(f"{name}: a private repository was expected, found one that everybody sees")
        if _CARD not in files and not api.file_exists(repository, _CARD):
            files[_CARD] = card.encode()
        operations = [hub.CommitOperationAdd(file, data) for file, data in files.items()]
        done = api.create_commit(repository, operations, commit_message="perception push")
    return f"{name}@{done.oid}"


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise HubError(missing_extra("hub", "checkpoints of a hub need an extra")) from None
    return huggingface_hub


def _parsed(name: str) -> tuple[str, str | None]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise HubError(f"checkpoint '{name}': {PREFIX}owner/name or {PREFIX}owner/name@revision was expected")
    return match["repository"], match["revision"]


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Turns what the hub's package raises into one line."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise HubError(f"{name}: access was expected; ask its owner for it on the hub, then: hf auth login") from None
    except errors.RepositoryNotFoundError:
        raise HubError(f"{name}: no such repository, or no access to it; for a private one: hf auth login") from None
    except errors.RevisionNotFoundError:
        raise HubError(f"{name}: no such revision of the repository") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise HubError(f"{name}: the hub cannot be reached, and its cache has no such checkpoint") from None
    except (errors.HTTPError, errors.HFValidationError, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        why = "no access; to log in: hf auth login: " if status in (401, 403) else ""
        raise HubError(f"{name}: {why}{' '.join(str(error).split())[:300]}") from None


def _read(folder: Path) -> dict[str, bytes]:
    """What is uploaded. A link, in a folder of somebody else, could lead to what is not to be."""
    names = (*_LISTED, _CARD)
    for name in names:
        if current(folder / name).is_symlink():
            raise HubError(f"{folder / name}: a file was expected, found a link")
    try:
        return read_files(folder, names)
    except OSError as error:
        raise HubError(f"{error.filename}: cannot be read: {error.strerror}") from None


def _manifest(folder: Path, data: bytes | None) -> dict[str, Any]:
    try:
        manifest = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict):
        raise HubError(f"{folder / 'manifest.json'}: a JSON object was expected")
    return manifest


def _training(manifest: dict[str, Any], data: dict[str, Any]) -> dict[str, str]:
    return {
        "data": f"{Path(str(data.get('root'))).name}, {data.get('version')}, {data.get('frames')} frames",
        "steps": f"{manifest.get('step')} of {manifest.get('total_steps')}",
    }


def _card(name: str, manifest: dict[str, Any]) -> str:
    data, scores = (found if isinstance(found := manifest.get(key), dict) else {} for key in ("data", "scores"))
    rows = {
        "package": f"perception-bev {manifest.get('package')}",
        "commit": manifest.get("commit"),
        "torch": manifest.get("torch"),
        "imported from": manifest.get("imported_from"),
        "licence": manifest.get("licence"),
        **({} if "imported_from" in manifest else _training(manifest, data)),
        **{f"{key}, while it was trained": f"{scores[key]:.4f}" for key in ("mAP", "NDS") if key in scores},
    }
    table = "".join(f"| {key} | {value} |\n" for key, value in rows.items() if value is not None)
    return f"""---
library_name: perception-bev
pipeline_tag: object-detection
---

# {name.removeprefix(PREFIX)}

3D objects from camera, radar and LiDAR, as far as they are in `config.yaml`.

```python
import perception

detector = perception.load("{name}")
```

{f"| | |{chr(10)}|---|---|{chr(10)}{table}" if manifest else "What it was trained on was not recorded."}
The licence of the data that weights were trained on can extend to the weights.
"""
