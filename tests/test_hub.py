"""Checkpoints of a Hugging Face hub: what comes, what goes, what does not, and the one line about what is wrong."""

import hashlib
import http.server
import importlib
import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_drive import save_tiny_detector

import perception
from perception import commit
from perception.cli import run
from perception.errors import PerceptionError
from perception.model import hub
from perception.model.checkpoint import find_checkpoint
from perception.model.detector import Detector
from perception.replay import fleet
from perception.replay.job import Job
from perception.train.initialise import TrainingError, initialise

huggingface_hub = pytest.importorskip("huggingface_hub", reason="the hub needs an extra")
constants, errors = (importlib.import_module(f"huggingface_hub.{name}") for name in ("constants", "errors"))

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = save_tiny_detector(tmp_path_factory.mktemp("hub") / "detector")
    data = {"root": "/home/somebody/nuscenes", "version": "v1.0-trainval", "frames": 28130}
    scores = {"epoch": 2, "mAP": 0.25, "NDS": 0.5}
    manifest = {"package": "0.2", "data": data, "step": 30, "total_steps": 40, "scores": scores}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


class Served(http.server.BaseHTTPRequestHandler):
    """As much of a hub as downloads need, on this machine; ``files``: those of owner/name, ``asked``: what was."""

    files: dict[str, bytes]
    asked: list[str]

    def do_HEAD(self):
        path = self.path.partition("?")[0]
        self.asked.append(f"{self.command} {path}")
        answer, headers = None, {"X-Repo-Commit": SHA}
        if path in (
            "/api/models/owner/name",
            f"/api/models/owner/name/revision/{SHA}",
            "/api/models/owner/name/revision/main",
        ):
            siblings = [{"rfilename": name} for name in self.files]
            answer = json.dumps({"id": "owner/name", "sha": SHA, "siblings": siblings, "private": False}).encode()
        elif path in (f"/api/models/owner/name/tree/{SHA}", "/api/models/owner/name/tree/main"):
            rows = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in self.files.items()
            ]
            answer = json.dumps(rows).encode()
        elif path.startswith(f"/owner/name/resolve/{SHA}/"):
            answer = self.files[path.removeprefix(f"/owner/name/resolve/{SHA}/")]
            headers["ETag"] = f'"{hashlib.sha1(answer).hexdigest()}"'
        else:
            headers["X-Error-Code"] = "RevisionNotFound" if "/owner/name/" in path else "RepoNotFound"
        self.send_response(200 if answer is not None else 404)
        for name, value in {**headers, "Content-Length": str(len(answer or b""))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(answer or b"")

    do_GET = do_HEAD

    def log_message(self, *_):
        pass


@pytest.fixture
def served(monkeypatch, tmp_path):
    """The hub's own package, pointed at a server here and at an empty cache."""
    handler = type("Handler", (Served,), {"files": {}, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.download.cache_clear()
    yield handler
    server.shutdown()
    server.server_close()


def test_a_checkpoint_is_downloaded_with_its_own_files_alone(served, checkpoint, tmp_path):
    own = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    others = {
        "pytorch_model.bin": b"\x80",
        "code.py": b"",
        "sub/config.yaml": b"",
        "../config.yaml": b"",
        ".commit/config.yaml": b"",
    }
    served.files |= own | others
    detector = perception.load("hf://owner/name")
    assert isinstance(detector, Detector) and detector.sensors == ("camera", "radar", "lidar")
    folder = find_checkpoint("hf://owner/name")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == own and len(own) == 4
    found = {path.name for path in (tmp_path / "cache").rglob("*")}
    assert not found & {"pytorch_model.bin", "code.py", "sub", ".commit"}
    asked = len(served.asked)
    assert find_checkpoint("hf://owner/name") == folder and len(served.asked) == asked  # a name is looked up once
    assert find_checkpoint(f"hf://owner/name@{SHA}") == folder
    initialise(detector, "hf://owner/name")


def test_all_workers_of_a_fleet_load_the_commit_that_the_parent_found(served, checkpoint, tmp_path, monkeypatch):
    served.files |= {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    named: list[str] = []

    def here(run, jobs, workers):
        named.extend(job.checkpoint for job in jobs)
        return ((i, {"state": "done"}) for i in range(len(jobs)))

    monkeypatch.setitem(fleet._ENGINES, "local", here)
    checkpoints = ("hf://owner/name", "hf://owner/name@main", f"hf://owner/name@{SHA}", str(checkpoint))
    fleet.run_fleet([Job("a.mcap", str(tmp_path / str(i)), name) for i, name in enumerate(checkpoints)], tmp_path)
    assert named == [f"hf://owner/name@{SHA}"] * 3 + [str(checkpoint)]
    assert find_checkpoint(named[0]).name == SHA


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"pytorch_model.bin": b"", "README.md": b""},
            r"found pickle files \(pytorch_model\.bin\), which are never read",
        ),
        ({"README.md": b""}, "model.safetensors and config.yaml of a checkpoint was expected, found none"),
        ({"model.safetensors": b""}, "hf://owner/name: config.yaml of a checkpoint was expected, found none"),
    ],
)
def test_a_repository_without_a_checkpoint(served, files, message):
    served.files |= files
    with pytest.raises(PerceptionError, match=message):
        perception.load("hf://owner/name")


def test_what_is_not_there(served, checkpoint, monkeypatch):
    for name, message in (
        (
            "hf://owner/other",
            "hf://owner/other: no such repository, or no access to it; for a private one: hf auth login",
        ),
        ("hf://owner/name@v9", "hf://owner/name@v9: no such revision of the repository"),
    ):
        with pytest.raises(PerceptionError) as error:
            find_checkpoint(name)
        assert str(error.value) == message
    with pytest.raises(TrainingError, match=r"train\.init: hf://owner/other: no such repository"):
        initialise(perception.load(checkpoint), "hf://owner/other")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    with pytest.raises(PerceptionError, match="hf://owner/name: the hub cannot be reached, and its cache has no such"):
        find_checkpoint("hf://owner/name")


@pytest.mark.parametrize(
    "name",
    [
        "hf://",
        "hf://name",
        "hf://a/b/c",
        "hf://../b",
        "hf://a/b@",
        "hf://a/b@../../c",
        "hf://a/b@refs/..",
        "hf://a/b c",
    ],
)
def test_what_is_no_name_is_not_looked_up(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *given, **named: pytest.fail("looked up"))
    with pytest.raises(PerceptionError, match="hf://owner/name or hf://owner/name@revision was expected"):
        find_checkpoint(name)


@pytest.mark.parametrize(("status", "kind"), [(403, "HfHubHTTPError"), (401, "GatedRepoError")])
def test_no_access_is_one_line(status, kind, monkeypatch):
    response = SimpleNamespace(status_code=status, headers={}, request=SimpleNamespace(url="u"))

    def refuse(*given, **named):
        raise getattr(errors, kind)("refused\nfor a reason", response=response)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    hub.download.cache_clear()
    with pytest.raises(PerceptionError, match=r"hf://owner/name: .*access.*: hf auth login") as error:
        find_checkpoint("hf://owner/name")
    assert "\n" not in str(error.value)


class Api:
    """A stand-in for ``HfApi`` that remembers what it is given."""

    made: list[tuple]
    sent: dict[str, bytes]
    files: tuple[str, ...] = ()
    private = True

    def create_repo(self, repository, private, exist_ok):
        self.made.append((repository, private, exist_ok))

    def repo_info(self, repository):
        return SimpleNamespace(private=self.private)

    def file_exists(self, repository, name):
        return name in self.files

    def create_commit(self, repository, operations, commit_message):
        self.sent.update({operation.path_in_repo: operation.path_or_fileobj for operation in operations})
        return SimpleNamespace(oid=SHA)


@pytest.fixture
def api(monkeypatch):
    kind = type("Api", (Api,), {"made": [], "sent": {}})
    monkeypatch.setattr(huggingface_hub, "HfApi", kind)
    return kind


def test_a_run_is_uploaded_without_what_is_its_own_affair(api, checkpoint, tmp_path, capsys, served):
    for name in ("checkpoint.safetensors", "log.jsonl"):
        (checkpoint / name).write_bytes(b"of the run")
    run(["push", str(checkpoint), "hf://owner/name", "--private"])
    assert capsys.readouterr().out == f"hf://owner/name@{SHA}\n" and api.made == [("owner/name", True, True)]
    assert api.sent.keys() == {"model.safetensors", "config.yaml", "manifest.json", "SHA256SUMS", "README.md"}
    assert api.sent["model.safetensors"] == (checkpoint / "model.safetensors").read_bytes()
    sums = dict(reversed(line.split("  ")) for line in api.sent["SHA256SUMS"].decode().splitlines())
    assert sums == {
        name: hashlib.sha256(api.sent[name]).hexdigest()
        for name in ("config.yaml", "manifest.json", "model.safetensors")
    }
    card = api.sent["README.md"].decode()
    assert 'perception.load("hf://owner/name")' in card and "somebody" not in card
    assert "| data | nuscenes, v1.0-trainval, 28130 frames |" in card and "| steps | 30 of 40 |" in card
    assert "| NDS, while it was trained | 0.5000 |" in card
    served.files |= api.sent
    assert perception.load("hf://owner/name").sensors == ("camera", "radar", "lidar")  # and back


def test_a_card_that_is_there_stays(api, checkpoint, tmp_path):
    folder = tmp_path / "detector"
    shutil.copytree(checkpoint, folder, ignore=lambda *_: ["manifest.json"])
    hub.push(folder, "hf://owner/name")
    assert "was not recorded" in api.sent.pop("README.md").decode() and api.made == [("owner/name", None, True)]
    api.files = ("README.md",)
    hub.push(folder, "hf://owner/name")
    assert "README.md" not in api.sent
    (folder / "README.md").write_text("Ours.")
    hub.push(folder, "hf://owner/name")
    assert api.sent["README.md"] == b"Ours."


def test_what_is_not_uploaded(api, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "detector")
    with pytest.raises(PerceptionError, match="hf://owner/name@v1: hf://owner/name, without a revision, was expected"):
        hub.push(folder, "hf://owner/name@v1")
    api.private = False
    with pytest.raises(PerceptionError, match="a private repository was expected, found one that everybody sees"):
        hub.push(folder, "hf://owner/name", private=True)
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(PerceptionError, match=r"manifest\.json: a JSON object was expected"):
        hub.push(folder, "hf://owner/name")
    (folder / "manifest.json").unlink()
    (tmp_path / "secret").write_text("of this machine")
    (folder / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(PerceptionError, match=r"README\.md: a file was expected, found a link"):
        hub.push(folder, "hf://owner/name")
    assert api.sent == {}


@pytest.mark.parametrize("saves", [1, 9])
def test_what_is_uploaded_is_of_one_save(saves, api, checkpoint, tmp_path, monkeypatch):
    """Training saves after the first file was read: once, and then each time."""
    folder = shutil.copytree(checkpoint, tmp_path / "run")
    names = ("model.safetensors", "config.yaml", "manifest.json")
    steps = iter(range(1, saves + 1))

    def save(step):
        commit.write_files(folder, {name: b'{"step": %d}' % step for name in names})

    def read(path):
        data = commit_read(path)
        if path.name == names[0] and (step := next(steps, None)) is not None:
            save(step)
        return data

    save(0)
    commit_read = commit.read_file
    monkeypatch.setattr(commit, "read_file", read)
    if saves == 1:
        hub.push(folder, "hf://owner/name")
        assert {name: api.sent[name] for name in names} == dict.fromkeys(names, b'{"step": 1}')
    else:
        with pytest.raises(PerceptionError, match="files that belong together were expected, found that"):
            hub.push(folder, "hf://owner/name")
        assert api.sent == {}


def test_a_checkpoint_of_the_hub_is_never_calibrated_in_place(monkeypatch, tmp_path):
    monkeypatch.setattr("perception.model.checkpoint.download", lambda name: tmp_path)
    with pytest.raises(PerceptionError, match="--out: a folder was expected, for 'hf://owner/name' stays as it is"):
        run(["calibrate", "--checkpoint", "hf://owner/name", "--fit", str(tmp_path)])
