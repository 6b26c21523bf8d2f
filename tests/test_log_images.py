"""Recorded images to pinhole pictures: encodings, sizes, distortion."""

import cv2
import numpy as np
import pytest

from perception.logs.decoding import PIXEL_BYTES, compressed_format, compressed_image, raw_image
from perception.logs.images import rectified_image
from perception.logs.messages import Calibration, Image, LogError

K = np.array([[60.0, 0, 39.5], [0, 60.0, 29.5], [0, 0, 1]])


def calibration(distortion=(), model="plumb_bob", p=K, r=None, size=(60, 80), k=K):
    projection = np.pad(p, ((0, 0), (0, 1)))
    r = np.eye(3) if r is None else r
    return Calibration("cam", size[1], size[0], k, np.array(distortion, float), model, r, projection)


def raw(pixels, encoding, padding=0):
    rows = pixels.reshape(len(pixels), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)))
    return Image("cam", encoding, rows.tobytes(), pixels.shape[1], pixels.shape[0], rows.shape[1])


def decoded(image, **kwargs):
    size = (image.height, image.width)
    return rectified_image(image, calibration(size=size, **kwargs), True, None)[0]


RED_GREEN_BLUE = (200, 100, 50)
COLOURS_SHARED = ("yuv422", "yuv422_yuy2", "nv12", "nv21", "i420")  # by two pixels or four


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "pixel"),
    [
        ("rgb8", (200, 100, 50)),
        ("bgr8", (50, 100, 200)),
        ("rgba8", (200, 100, 50, 7)),
        ("bgra8", (50, 100, 200, 7)),
    ],
)
def test_colours(encoding, pixel, padding):
    pixels = np.zeros((4, 6, len(pixel)), np.uint8)
    pixels[1, 2] = pixel
    image = decoded(raw(pixels, encoding, padding))
    assert image.shape == (4, 6, 3) and tuple(image[1, 2]) == RED_GREEN_BLUE and image.sum() == 350


def test_grey():
    assert decoded(raw(np.arange(24, dtype=np.uint8).reshape(4, 6, 1), "mono8"))[1, 2].tolist() == [8, 8, 8]


def test_of_sixteen_bits_the_upper_eight_are_kept():
    pixels = (np.arange(24).reshape(4, 6, 1) * 256 + 255).astype("<u2").view(np.uint8).reshape(4, 6, 2)
    assert decoded(raw(pixels, "mono16"))[1, 2].tolist() == [8, 8, 8]
    mosaic = np.full((8, 8), 77 << 8, "<u2").view(np.uint8).reshape(8, 8, 2)
    assert (decoded(raw(mosaic, "bayer_rggb16")) == 77).all()


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_are_named_by_their_first_four_pixels(pattern):
    """Of a constant colour each pixel shows the channel that its letter says."""
    value = dict(zip("rgb", RED_GREEN_BLUE))
    mosaic = np.tile(np.array([[value[pattern[0]], value[pattern[1]]], [value[pattern[2]], value[pattern[3]]]]), (4, 4))
    image = decoded(raw(mosaic.astype(np.uint8)[..., None], f"bayer_{pattern}8"))
    assert image.shape == (8, 8, 3) and np.abs(image[2:-2, 2:-2].astype(int) - RED_GREEN_BLUE).max() <= 1


# 16 + 65.5 r + 128.6 g + 25 b, 128 - 37.8 r - 74.2 g + 112 b, 128 + 112 r - 93.8 g - 18.2 b, all by 1 / 255: BT.601.
Y, U, V = 123, 91, 176


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize(
    ("encoding", "rows"),
    [
        ("yuv422", [[U, Y, V, Y] * 3] * 4),
        ("UYVY", [[U, Y, V, Y] * 3] * 4),
        ("yuv422_yuy2", [[Y, U, Y, V] * 3] * 4),
        ("yuyv", [[Y, U, Y, V] * 3] * 4),
        ("nv12", [[Y] * 6] * 4 + [[U, V] * 3] * 2),
        ("nv21", [[Y] * 6] * 4 + [[V, U] * 3] * 2),
        ("i420", [[Y] * 6] * 4 + [[U] * 6, [V] * 6]),
    ],
)
def test_colours_shared_by_neighbours(encoding, rows, padding):
    rows = np.array(rows, np.uint8)
    if encoding == "i420" and padding:  # two rows of colour to a row of the image, each with half of the padding
        colours = np.pad(rows[4:].reshape(4, 3), ((0, 0), (0, padding // 2))).reshape(2, -1)
        rows = np.vstack([np.pad(rows[:4], ((0, 0), (0, padding))), colours])
    else:
        rows = np.pad(rows, ((0, 0), (0, padding)))
    image = decoded(raw_image("cam", encoding, rows.tobytes(), 6, 4, rows.shape[1]))
    assert image.shape == (4, 6, 3) and np.abs(image.astype(int) - RED_GREEN_BLUE).max() <= 2


@pytest.mark.parametrize(
    ("encoding", "pixel", "rgb"),
    [
        ("8UC1", [9], (9, 9, 9)),
        ("8UC3", [50, 100, 200], RED_GREEN_BLUE),
        ("8UC4", [50, 100, 200, 7], RED_GREEN_BLUE),
        ("16UC1", [90 << 8], (90, 90, 90)),
        ("rgb16", [200 << 8, 100 << 8, 50 << 8], RED_GREEN_BLUE),
        ("bgr16", [50 << 8, 100 << 8, 200 << 8], RED_GREEN_BLUE),
        ("RGB8", RED_GREEN_BLUE, RED_GREEN_BLUE),
    ],
)
@pytest.mark.parametrize("big_endian", [False, True])
def test_names_of_opencv_and_sixteen_bits(encoding, pixel, rgb, big_endian):
    dtype = "u1" if max(pixel) < 256 else ">u2" if big_endian else "<u2"
    pixels = np.zeros((4, 6, len(pixel)), dtype)
    pixels[:] = pixel
    rows = pixels.reshape(4, -1).view(np.uint8)
    image = raw_image("cam", encoding, rows.tobytes(), 6, 4, rows.shape[1], big_endian)
    assert (decoded(image) == rgb).all()


def test_twelve_bits_in_sixteen():
    """A camera of 12 bits never exceeds 4095; its brightest is the brightest there is."""
    pixels = np.array([[0, 16 * 100, 4095, 2048]], "<u2")
    image = raw_image("cam", "mono16", pixels.tobytes(), 4, 1, 8)
    assert decoded(image)[0, :, 0].tolist() == [0, 100, 255, 128]


def test_rows_that_contradict_themselves():
    dense = bytes(range(24))
    assert decoded(raw_image("cam", "mono8", dense, 6, 4, 0))[3, 5, 0] == 23  # no step
    assert decoded(raw_image("cam", "mono8", dense + b"more", 6, 4, 6))[3, 5, 0] == 23
    for encoding, size, text in (
        ("mono8", (6, 5), "5 rows of 6"),
        ("yuv422", (3, 4), "even"),
        ("nv12", (4, 3), "even"),
    ):
        with pytest.raises(LogError, match=text):
            raw_image("cam", encoding, dense, *size, size[0] * PIXEL_BYTES[encoding])


@pytest.mark.parametrize(
    "text", ["bayer_rggb8; jpeg compressed mono8", "bayer_rggb8; jpeg compressed ", "bayer_rggb8; png"]
)
def test_a_bayer_pattern_in_a_compressed_file(text):
    mosaic = np.tile(np.array([[200, 100], [100, 50]], np.uint8), (8, 8))
    data = cv2.imencode(".png" if "png" in text else ".jpg", mosaic, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    image = compressed_image("cam", text, data)
    pixels, _ = rectified_image(image, calibration(size=(16, 16)), True, (8, 8))  # not decoded smaller
    assert pixels.shape == (16, 16, 3) and np.abs(pixels[2:-2, 2:-2].astype(int) - RED_GREEN_BLUE).max() <= 4
    again = compressed_image("cam", compressed_format(image), data)
    assert (again.encoding, again.mosaic) == (image.encoding, image.mosaic) == (image.encoding, "bayer_rggb")


def test_what_is_in_colour_is_no_bayer_pattern():
    coloured = cv2.imencode(".png", np.full((16, 16, 3), RED_GREEN_BLUE[::-1], np.uint8))[1].tobytes()
    for text in ("bayer_rggb8; png compressed bgr8", "bayer_rggb8; png compressed"):
        pixels, _ = rectified_image(compressed_image("cam", text, coloured), calibration(size=(16, 16)), True, None)
        assert (pixels == RED_GREEN_BLUE).all()


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (Image("cam", "32FC1", b"", 80, 60, 320), "an encoding of jpeg"),
        (Image("cam", "rgb8", bytes(60 * 240 - 1), 80, 60, 240), "60 rows of 240 bytes"),
        (Image("cam", "rgb8", bytes(60 * 239), 80, 60, 239), "60 rows of 240 bytes"),
        (Image("cam", "nv12", bytes(60 * 80), 80, 60, 80), "90 rows of 80 bytes"),
        (Image("cam", "mono8", b"", 0, 0, 0), r"height, width \(60, 80\) were expected"),
        (Image("cam", "jpeg", b"\xff\xd8 and no more"), "height and width was expected"),
        (Image("cam", "png", b"GIF89a"), "a JPEG or PNG"),
    ],
)
def test_what_is_no_image_of_its_camera(image, text):
    with pytest.raises(LogError, match=text):
        rectified_image(image, calibration(), True, None)


def test_a_jpeg_that_is_much_too_large_is_decoded_smaller_with_its_intrinsics():
    jpeg = cv2.imencode(".jpg", np.full((240, 320, 3), 90, np.uint8))[1].tobytes()
    k = np.array([[100.0, 0, 159.5], [0, 100.0, 119.5], [0, 0, 1]])
    pixels, intrinsics = rectified_image(Image("cam", "jpeg", jpeg), calibration(size=(240, 320), p=k), True, (60, 80))
    assert pixels.shape == (60, 80, 3)
    assert np.allclose(intrinsics, [[25, 0, 39.5], [0, 25, 29.5], [0, 0, 1]])  # the middle stays the middle


def test_the_intrinsics_of_a_rectified_image_are_p_or_else_k():
    image = raw(np.zeros((60, 80, 1), np.uint8), "mono8")
    p = K * [[0.9], [0.9], [1]]
    assert np.array_equal(rectified_image(image, calibration(p=p), True, None)[1], p)
    assert np.array_equal(rectified_image(image, calibration(p=np.zeros((3, 3))), True, None)[1], K)


@pytest.mark.parametrize(
    ("model", "distortion"),
    [
        ("plumb_bob", [-0.3, 0.1, 0.01, -0.005, 0.0]),
        ("rational_polynomial", [0.1, 0.05, 0.0, 0.0, 0.01, 0.2, 0.1, 0.02]),
        ("equidistant", [0.05, 0.01, 0.0, 0.0]),
    ],
)
def test_a_spot_of_a_distorted_image_is_found_where_a_pinhole_would_see_it(model, distortion):
    spot = np.array([58.0, 20.0])  # (u, v) as recorded
    pixels = np.zeros((60, 80, 1), np.uint8)
    pixels[18:23, 56:61] = 255
    r = cv2.Rodrigues(np.array([0.0, 0.02, 0.01]))[0]
    p = np.array([[50.0, 0, 40], [0, 50.0, 30], [0, 0, 1]])
    made = calibration(distortion, model, p=p, r=r)
    image, intrinsics = rectified_image(raw(pixels, "mono8"), made, False, None)
    undistort = cv2.fisheye.undistortPoints if model == "equidistant" else cv2.undistortPoints
    expected = undistort(spot.reshape(1, 1, 2), K, np.array(distortion), R=r, P=p).ravel()
    v, u = np.nonzero(image[..., 0] > 127)
    assert np.array_equal(intrinsics, p) and [u.mean(), v.mean()] == pytest.approx(expected, abs=0.6)
    same, _ = rectified_image(raw(pixels, "mono8"), made, True, None)
    assert np.array_equal(same[..., 0], pixels[..., 0])  # said to be rectified: left alone


@pytest.mark.parametrize("model", ["", "plumb_bob", "equidistant", "of our own"])
@pytest.mark.parametrize("distortion", [[], [0.0] * 5])
def test_a_raw_image_without_distortion_is_still_brought_to_r_and_p(model, distortion):
    """As of a stereo camera: a pixel is where K sees it, and must come to where P does."""
    pixels = np.zeros((60, 80, 1), np.uint8)
    pixels[18:23, 56:61] = 255  # around (u, v) = (58, 20)
    r = cv2.Rodrigues(np.array([0.02, 0.0, 0.05]))[0]
    p = np.array([[50.0, 0, 40], [0, 50.0, 30], [0, 0, 1]])
    image, intrinsics = rectified_image(raw(pixels, "mono8"), calibration(distortion, model, p=p, r=r), False, None)
    expected = p @ r @ np.linalg.inv(K) @ [58, 20, 1]
    v, u = np.nonzero(image[..., 0] > 127)
    assert np.array_equal(intrinsics, p) and [u.mean(), v.mean()] == pytest.approx(expected[:2] / expected[2], abs=0.6)


def test_a_raw_image_of_a_pinhole_camera_is_left_alone():
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 1), np.uint8)
    for r in (np.eye(3), np.zeros((3, 3))):  # not filled in
        for p in (K, np.zeros((3, 3))):
            image, intrinsics = rectified_image(raw(pixels, "mono8"), calibration(p=p, r=r), False, None)
            assert np.array_equal(image[..., :1], pixels) and np.array_equal(intrinsics, K)


def test_a_distorted_jpeg_that_is_decoded_smaller_shows_the_same():
    """Freed of distortion at a quarter of its size, it is what the whole one is when it is scaled afterwards."""
    size, k = (240, 320), np.array([[200.0, 0, 159.5], [0, 200.0, 119.5], [0, 0, 1]])
    v, u = np.mgrid[:240, :320]
    smooth = np.stack([127 + 100 * np.sin(u / 40), 127 + 100 * np.cos(v / 30), 127 + 0 * u], axis=2).astype(np.uint8)
    jpeg = cv2.imencode(".jpg", smooth[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    made = calibration([-0.2, 0.05, 0.0, 0.0, 0.0], p=k, size=size, k=k)
    whole, _ = rectified_image(Image("cam", "jpeg", jpeg), made, False, None)
    small, intrinsics = rectified_image(Image("cam", "jpeg", jpeg), made, False, (60, 80))
    scaled = cv2.resize(whole, (80, 60), interpolation=cv2.INTER_AREA)
    assert small.shape == (60, 80, 3) and intrinsics[0, 0] == 50
    assert np.abs(small.astype(int) - scaled)[3:-3, 3:-3].max() <= 6


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (3, 3)])
@pytest.mark.parametrize("encoding", [name for name in PIXEL_BYTES if name not in COLOURS_SHARED])
def test_the_smallest_images(encoding, size):
    image = Image("cam", encoding, bytes(size[0] * size[1] * 8), size[1], size[0], size[1] * 8)
    assert decoded(image).shape == (*size, 3)


def test_an_image_too_wide_to_be_freed_of_distortion():
    wide = Image("cam", "mono8", bytes(40000), 40000, 1, 40000)
    with pytest.raises(LogError, match="cannot be freed of distortion"):
        rectified_image(wide, calibration([0.1, 0, 0, 0], size=(1, 40000)), False, None)


def test_numbers_of_a_calibration_that_make_no_sense_give_some_picture():
    image = raw(np.zeros((60, 80, 1), np.uint8), "mono8")
    for distortion in ([1e300] * 4, [1e9, -1e9, 0, 0, 0]):
        for k in (K, np.zeros((3, 3)), np.full((3, 3), 1e300)):
            for r in (np.eye(3), np.ones((3, 3))):
                made = calibration(distortion, k=k, r=r)
                assert rectified_image(image, made, False, None)[0].shape == (60, 80, 3)


def test_an_unknown_distortion():
    with pytest.raises(LogError, match="found 'omni' of 3 numbers"):
        rectified_image(raw(np.zeros((60, 80, 1), np.uint8), "mono8"), calibration([1, 2, 3], "omni"), False, None)
