"""The readers of PCD, LiDAR and image files: whole files are read exactly, everything else is a one-line DataError."""

import struct

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nuscenes_world import pcd_bytes

from perception.data.nuscenes_files import DataError, lidar_bin_length, read_image, read_lidar_bin, read_pcd

fast = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SIZE = (16, 32)
HEADER = """# .PCD v0.7 - Point Cloud Data file format
VERSION 0.7
FIELDS x dyn_prop id
SIZE 4 1 2
TYPE F I U
COUNT 1 1 1
WIDTH 2
HEIGHT 1
VIEWPOINT 0 0 0 1 0 0 0
POINTS 2
DATA binary
"""
POINTS = struct.pack("<fbH", 1.5, -3, 60000) + struct.pack("<fbH", float("nan"), 7, 1)


@pytest.fixture
def write(tmp_path):
    def write(data: bytes):
        path = tmp_path / "file"
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize("after", [b"", b"\n", b"\0" * 3726])
def test_pcd_fields_have_the_declared_types(write, after):
    points = read_pcd(write(HEADER.encode() + POINTS + after))
    assert points.dtype.names == ("x", "dyn_prop", "id")
    assert points["x"][0] == 1.5 and np.isnan(points["x"][1])
    assert points["dyn_prop"].tolist() == [-3, 7] and points["id"].tolist() == [60000, 1]


def test_pcd_without_points(write):
    assert len(read_pcd(write(HEADER.replace("WIDTH 2", "WIDTH 0").replace("POINTS 2", "POINTS 0").encode()))) == 0


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("DATA binary\n", "", "DATA line"),
        ("DATA binary", "DATA ascii", "DATA ascii"),
        ("DATA binary", "DATA", "DATA binary"),
        ("FIELDS x dyn_prop id", "FIELDS x x id", "distinct"),
        ("FIELDS x dyn_prop id\n", "", "FIELDS"),
        ("SIZE 4 1 2", "SIZE 4 1", "SIZE"),
        ("SIZE 4 1 2", "SIZE 3 1 2", "SIZE 3"),
        ("TYPE F I U", "TYPE F X U", "TYPE X"),
        ("TYPE F I U", "TYPE F I", "TYPE"),
        ("COUNT 1 1 1", "COUNT 1 1 0", "COUNT 0"),
        ("COUNT 1 1 1", "COUNT 1 1 9999", "COUNT 9999"),
        ("COUNT 1 1 1", "COUNT 1 1 2", "18 bytes of data"),
        ("WIDTH 2", "WIDTH -2", "WIDTH"),
        ("WIDTH 2", "WIDTH 99999999999999", "WIDTH"),
        ("WIDTH 2", "WIDTH 3", "POINTS"),
        ("POINTS 2", "POINTS 1", "POINTS"),
        ("WIDTH 2\nHEIGHT 1", "WIDTH 3\nHEIGHT 1", "POINTS"),
        ("VERSION 0.7", "VERSION 0.7\nVERSION 0.7", "two"),
        ("VERSION 0.7", "VERSION \xe9", "ASCII"),
    ],
)
def test_bad_pcd_header(write, old, new, message):
    path = write(HEADER.replace(old, new, 1).encode() + POINTS)
    with pytest.raises(DataError, match=message) as error:
        read_pcd(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_truncated_pcd_says_how_much_is_there(write):
    with pytest.raises(DataError, match=r"14 bytes of data \(2 points\) were expected, found 13"):
        read_pcd(write(HEADER.encode() + POINTS[:-1]))


DTYPES = st.sampled_from(["<f4", "<f8", "<i1", "<i2", "<i4", "<u1", "<u2", "<u8"])


@fast
@given(dtypes=st.lists(DTYPES, min_size=1, max_size=18), count=st.integers(0, 20), seed=st.integers(0, 99))
def test_pcd_round_trip(write, dtypes, count, seed):
    dtype = np.dtype([(f"field{i}", d) for i, d in enumerate(dtypes)])
    points = np.frombuffer(np.random.default_rng(seed).bytes(count * dtype.itemsize), dtype)
    read = read_pcd(write(pcd_bytes(points)))
    assert read.dtype == points.dtype and read.tobytes() == points.tobytes()


def test_headers_that_differ_anywhere_are_told_apart(write):
    """They are parsed once for all files that share them."""
    other = HEADER.replace("FIELDS x dyn_prop id", "FIELDS y dyn_prop id").replace("TYPE F I U", "TYPE F U I")
    for header, names, kind in ((HEADER, ("x", "dyn_prop", "id"), "i"), (other, ("y", "dyn_prop", "id"), "u")) * 2:
        points = read_pcd(write(header.encode() + POINTS))
        assert points.dtype.names == names and points.dtype["dyn_prop"].kind == kind


def test_a_data_line_that_is_not_the_first_is_data(write):
    header = (
        HEADER.replace("WIDTH 2", "WIDTH 0").replace("POINTS 2", "POINTS 0").replace("DATA binary", " DATA  binary")
    )
    assert len(read_pcd(write(header.encode() + b"\nDATA ascii\nDATA binary\n"))) == 0


def mutations(data: bytes):
    """The bytes with a slice replaced by others, anywhere."""

    def mutate(start, length, new):
        return data[:start] + new + data[start + length :]

    return st.builds(mutate, st.integers(0, len(data)), st.integers(0, 40), st.binary(max_size=40))


@fast
@given(data=mutations(HEADER.encode() + POINTS))
def test_mutated_pcd_is_read_or_refused(write, data):
    try:
        read_pcd(write(data))
    except DataError as error:
        assert "\n" not in str(error)


def lidar_points(path) -> np.ndarray:
    points = np.empty((lidar_bin_length(path), 5), np.float32)
    read_lidar_bin(path, points)
    return points


POINT = st.tuples(*[st.floats(-1e6, 1e6, width=32) | st.just(np.nan)] * 4, st.integers(-1, 65535))


@fast
@given(points=st.lists(POINT, max_size=8), cut=st.integers(0, 19))
def test_lidar_bin_round_trip_or_refusal(write, points, cut):
    data = np.array(points, "<f4").tobytes()
    if cut == 0 or not points:
        assert lidar_points(write(data)).tobytes() == data
    else:
        with pytest.raises(DataError):
            lidar_points(write(data[:-cut]))


XYZI = np.random.default_rng(0).uniform(-25, 25, (400, 4))
ELSE = {
    "four columns": XYZI.astype("<f4").tobytes(),
    "six columns": np.c_[XYZI, np.zeros(400), np.linspace(0, 0.1, 400)][:395].astype("<f4").tobytes(),
    "doubles": np.c_[XYZI, np.zeros(400)].astype("<f8").tobytes(),
    "integers": (1000 * XYZI).astype("<i2").tobytes(),
    "random bytes": np.random.default_rng(0).bytes(20_000),
    "a PCD file": pcd_bytes(np.zeros(40, [(name, "<f4") for name in "xyz"])).ljust(1000, b"\0"),
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:".ljust(140, b"a"),
    "a web page": b"<!DOCTYPE html>\n<html>".ljust(100),
}


@pytest.mark.parametrize("name", ELSE)
def test_a_file_of_another_format_is_no_cloud(write, name):
    assert len(ELSE[name]) % 20 == 0  # so its size tells nothing
    text = name in ("a PCD file", "a Git LFS pointer", "a web page")
    with pytest.raises(DataError, match="found text: '" if text else "another format") as error:
        lidar_points(write(ELSE[name]))
    assert "\n" not in str(error.value)


def test_points_of_four_numbers_are_guessed(write):
    with pytest.raises(DataError, match="found 32: truncated, or points of four numbers"):
        lidar_points(write(bytes(32)))


def test_some_damaged_points_are_no_other_format(write):
    points = np.zeros((100, 5), "<f4")
    points[:10, 3], points[10:15, 4], points[25:50, 0] = 1e30, 0.5, np.nan
    assert len(lidar_points(write(points.tobytes()))) == 100


def test_pcd_fields_of_several_numbers_and_padding(write):
    header = HEADER.replace("FIELDS x dyn_prop id", "FIELDS x _ _ v").replace("SIZE 4 1 2", "SIZE 4 1 1 4")
    header = header.replace("TYPE F I U", "TYPE F U U F").replace("COUNT 1 1 1", "COUNT 1 3 1 2")
    records = read_pcd(write(header.encode() + struct.pack("<f4x2f", 1, 2, 3) + struct.pack("<f4x2f", 4, 5, 6)))
    assert records["x"].tolist() == [1, 4] and records["v"].tolist() == [[2, 3], [5, 6]]


def test_lidar_bin_columns(write):
    assert lidar_points(write(struct.pack("<10f", *range(10)))).tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


@pytest.mark.parametrize("size, message", [(1, "found 1"), (19, "found 19"), (21, "found 21")])
def test_lidar_bin_of_a_wrong_size(write, size, message):
    with pytest.raises(DataError, match=message):
        lidar_bin_length(write(b"\0" * size))


@pytest.mark.parametrize("size", [20, 39, 60])
def test_lidar_bin_that_is_being_written(write, size):
    with pytest.raises(DataError, match="40 bytes were expected"):
        read_lidar_bin(write(b"\0" * size), np.empty((2, 5), np.float32))


def test_missing_file_and_folder_instead_of_file(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        lidar_bin_length(tmp_path / "none")
    with pytest.raises(DataError, match="No such file"):
        read_lidar_bin(tmp_path / "none", np.empty((1, 5), np.float32))
    with pytest.raises(DataError, match="directory"):
        read_pcd(tmp_path)


def picture(suffix: str) -> bytes:
    """A picture 32 wide and 16 high, its left half red and its right half blue."""
    rgb = np.zeros((*SIZE, 3), np.uint8)
    rgb[:, :16, 0] = rgb[:, 16:, 2] = 255
    return cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_image_is_rgb(write, suffix):
    image, reduction = read_image(write(picture(suffix)), SIZE)
    assert reduction == 1 and image.shape == (*SIZE, 3) and image.dtype == np.uint8
    assert np.abs(image[8, 4].astype(int) - [255, 0, 0]).max() < 6
    assert np.abs(image[8, 28].astype(int) - [0, 0, 255]).max() < 6


def test_exif_orientation_is_not_applied(write):
    jpeg = picture(".jpg")
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<HHHIHH", 1, 0x0112, 3, 1, 6, 0) + b"\0\0\0\0"  # rotate by 90 degrees
    exif = b"\xff\xe1" + struct.pack(">H", 8 + len(tiff)) + b"Exif\0\0" + tiff
    assert read_image(write(jpeg[:2] + exif + jpeg[2:]), SIZE)[0].shape == (*SIZE, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_image_of_another_size(write, suffix):
    with pytest.raises(DataError, match=r"height, width \(32, 16\) were expected, found height, width \(16, 32\)"):
        read_image(write(picture(suffix)), (32, 16))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.97])
def test_truncated_image(write, suffix, kept):
    data = picture(suffix)
    with pytest.raises(DataError):
        read_image(write(data[: int(kept * len(data))]), SIZE)


def photo(height: int, width: int) -> np.ndarray:
    """Smooth noise, uint8 [H, W, 3]: the kind of picture that JPEG is made for."""
    noise = np.random.default_rng(height * width).normal(size=(height, width, 3))
    return np.clip(128 + 500 * cv2.GaussianBlur(noise, (0, 0), 5), 0, 255).astype(np.uint8)


def jpeg_bytes(rgb: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


@pytest.mark.parametrize(
    "cover, reduction",
    [(None, 1), ((90, 161), 1), ((90, 160), 1), ((46, 8), 1), ((8, 81), 1), ((45, 80), 2), ((23, 8), 2), ((22, 40), 4)]
    + [((11, 20), 8), ((8, 8), 8)],
)
def test_a_jpeg_is_reduced_as_far_as_it_still_covers(write, cover, reduction):
    image, found = read_image(write(jpeg_bytes(photo(90, 160))), (90, 160), cover)
    assert found == reduction and image.shape == (-(-90 // reduction), -(-160 // reduction), 3)


@fast
@given(height=st.integers(16, 200), width=st.integers(16, 200), reduction=st.sampled_from([1, 2, 4, 8]))
def test_a_reduced_jpeg_shows_the_mean_of_every_square_of_pixels(write, height, width, reduction):
    rgb, cover = photo(height, width), (max(8, height // reduction), max(8, width // reduction))
    image, n = read_image(write(jpeg_bytes(rgb)), (height, width), cover)
    whole = rgb[: height // n * n, : width // n * n].reshape(height // n, n, width // n, n, 3).mean(axis=(1, 3))
    assert np.abs(image[: height // n, : width // n] - whole).mean() < 2  # a shift by one pixel makes 3


def test_a_png_cannot_be_reduced(write):
    image, reduction = read_image(write(cv2.imencode(".png", photo(64, 64))[1].tobytes()), (64, 64), (8, 8))
    assert reduction == 1 and image.shape == (64, 64, 3)


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_jpeg_is_an_error_at_any_scale(write, reduction, kept):
    data = jpeg_bytes(photo(128, 128))
    with pytest.raises(DataError, match="damaged"):
        read_image(write(data[: int(kept * len(data))]), (128, 128), (128 // reduction, 128 // reduction))


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\xff\xd8\xff\xd9", b"\x89PNG\r\n\x1a\n IEND1234"])
def test_what_is_no_image(write, data):
    with pytest.raises(DataError):
        read_image(write(data), SIZE)


@fast
@given(data=st.one_of(mutations(picture(".jpg")), mutations(picture(".png"))))
def test_mutated_image_is_read_or_refused(write, data):
    try:
        assert read_image(write(data), SIZE)[0].shape == (*SIZE, 3)
    except DataError as error:
        assert "\n" not in str(error)
