"""Recorded images to pinhole pictures: encodings, sizes, distortion."""

import cv2
import numpy as np
import pytest

from perception.logs.images import ENCODINGS, rectified_image
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


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (Image("cam", "yuv422", b"", 80, 60, 160), "an encoding of jpeg"),
        (Image("cam", "rgb8", bytes(60 * 240 - 1), 80, 60, 240), "60 rows of 80 x 3 bytes"),
        (Image("cam", "rgb8", bytes(60 * 239), 80, 60, 239), "60 rows of 80 x 3 bytes"),
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
@pytest.mark.parametrize("encoding", ENCODINGS[2:])
def test_the_smallest_images(encoding, size):
    image = Image("cam", encoding, bytes(size[0] * size[1] * 4), size[1], size[0], size[1] * 4)
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
