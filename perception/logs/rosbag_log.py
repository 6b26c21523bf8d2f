"""ROS 2 bags: a folder with metadata.yaml and the files that it names, or one such file.

A recording that crashed has no metadata.yaml: then all files of the folder are read, which
is that of their numbers. The format: https://github.com/ros2/rosbag2.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path, PurePosixPath

import yaml

from perception.errors import PerceptionError, missing_extra
from perception.logs.limits import DEFAULT, Limits
from perception.logs.merged import MergedReader, Part
from perception.logs.messages import LogError
from perception.logs.sqlite_log import SqliteReader
from perception.yaml_text import LARGEST, Loader, check_yaml

_SUFFIXES = (".db3", ".mcap", ".db3.zstd", ".mcap.zstd", ".db3.zst", ".mcap.zst")


class RosbagReader(MergedReader):
    """A :class:`perception.logs.messages.Reader` of a whole bag.

    A file that cannot be opened is left out and named in ``damage``, unless none can.

    Raises:
        LogError: no bag there, or nothing in it that can be opened.
    """

    def __init__(self, path: Path | str, limits: Limits = DEFAULT) -> None:
        parts: list[tuple[str, Part]] = []
        super().__init__(Path(path), parts)
        self._limits = limits
        self._unpacked: tempfile.TemporaryDirectory | None = None
        self._notes: list[str] = []
        try:
            files = self._files()
            failures = []
            for file in files:
                try:
                    parts.append(("" if file == self.path else file.name, self._part(file)))
                except LogError as error:
                    failures.append(error)
            if not parts:
                raise failures[0] if failures else LogError(f"{self.path}: files of a bag were expected, found none")
        except BaseException:
            self.close()
            raise
        self._notes += map(str, failures)

    @property
    def damage(self) -> list[str]:
        return [*self._notes, *super().damage]

    def close(self) -> None:
        super().close()
        if self._unpacked is not None:
            self._unpacked.cleanup()

    def _files(self) -> list[Path]:
        if self.path.is_file():
            if not self.path.name.endswith(_SUFFIXES):
                raise LogError(f"{self.path}: a file {', '.join(_SUFFIXES)} was expected, found '{self.path.name}'")
            return [self.path]
        if not self.path.is_dir():
            raise LogError(f"{self.path}: a ROS 2 bag was expected, found no such file or folder")
        there = sorted((f for f in self.path.iterdir() if f.name.endswith(_SUFFIXES) and _is_file(f)), key=_by_number)
        if not there:
            bags = sorted({file.parent.name for file in self.path.glob("*/*") if file.name.endswith(_SUFFIXES)})
            found = f"folders of bags: {', '.join(bags[:5])}; give them, with --merge as one drive" if bags else "none"
            raise LogError(f"{self.path}: a folder with files {', '.join(_SUFFIXES)} was expected, found {found}")
        metadata = self.path / "metadata.yaml"
        try:
            names = _named_files(metadata)
        except LogError as error:
            self._notes.append(f"{error}; all files of the folder are read")
            return there
        files = []
        for name in names:
            file = next((f for f in (self.path / name, self.path / PurePosixPath(name).name) if _is_file(f)), None)
            if file is None:
                self._notes.append(f"{metadata}: '{name}' was expected beside it, found no such file")
            elif file not in files:
                files.append(file)
        if files:
            self._notes += [
                f"{file}: left out, for {metadata.name} does not name it" for file in there if file not in files
            ]
        return files or there

    def _part(self, file: Path) -> Part:
        if file.suffix in (".zstd", ".zst"):
            file = self._decompressed(file)
        if file.suffix == ".db3":
            return SqliteReader(file, self._limits)
        from perception.logs.mcap_log import McapReader

        return McapReader(file, self._limits)

    def _decompressed(self, file: Path) -> Path:
        """A copy for as long as the bag is open; of a file that was cut, what there is of it."""
        try:
            import zstandard
        except ImportError:
            raise PerceptionError(missing_extra("logs", "compressed bags need an extra")) from None
        self._unpacked = self._unpacked or tempfile.TemporaryDirectory(prefix="rosbag-")
        unpacked = Path(self._unpacked.name) / file.stem
        budget = self._limits.budget(file, "bytes when decompressed", file.stat().st_size)
        free = shutil.disk_usage(self._unpacked.name).free // 2
        try:
            with file.open("rb") as packed, unpacked.open("wb") as out:
                with zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as stream:
                    while block := stream.read(1 << 20):
                        budget.spend(len(block))
                        free -= len(block)
                        if free < 0:
                            raise LogError(f"{file}: half of the space in {unpacked.parent} would not hold it")
                        out.write(block)
        except zstandard.ZstdError as error:
            self._notes.append(f"{file}: a file compressed by zstd was expected, found a damaged one: {error}")
        return unpacked


def _named_files(metadata: Path) -> list[str]:
    """Names relative to the folder of the bag, or before version 4 to the one above.

    Raises:
        LogError: no metadata, or none that name the files of this folder.
    """
    if metadata.exists() and not _is_file(metadata):
        raise LogError(f"{metadata}: a file was expected, found a folder, device or pipe")
    try:
        with metadata.open("rb") as file:
            text = file.read(LARGEST + 1)
        check_yaml(text)
        content = yaml.load(text, Loader)
    except FileNotFoundError:
        raise LogError(f"{metadata}: the contents of the bag were expected, found no such file") from None
    except (OSError, yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise LogError(f"{metadata}: YAML was expected, found damaged text: {reason}") from None
    information = content.get("rosbag2_bagfile_information") if isinstance(content, dict) else None
    names = information.get("relative_file_paths") if isinstance(information, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise LogError(f"{metadata}: relative_file_paths was expected, found {str(names)[:100]}")
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or not name.endswith(_SUFFIXES):
            raise LogError(f"{metadata}: the name of a file in its folder was expected, found '{name[:100]}'")
    return names


def _is_file(path: Path) -> bool:
    """Devices and pipes are none: they might never end, or never begin. Neither is what has an impossible name."""
    try:
        return path.is_file()
    except OSError:
        return False


def _by_number(file: Path) -> list[str | int]:
    """bag_2.db3 before bag_10.db3."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file.name)]
