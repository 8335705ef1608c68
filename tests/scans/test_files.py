"""Image files for prediction: kinds, views, sizes and what is refused."""

import cv2
import numpy as np
import pytest

from bonescan_jax.errors import InputError
from bonescan_jax.scans import HEIGHT, WIDTH
from bonescan_jax.scans.files import list_image_files, read_image_file
from tests.layout import jpeg
from tests.scans.test_dicom import PIXELS, nm_dataset, save, two_views

IMAGE = np.random.default_rng(0).poisson(20, (HEIGHT, WIDTH))


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_keeps_its_values(tmp_path, dtype):
    image = IMAGE.astype(dtype) * dtype(3)
    (tmp_path / "scan.png").write_bytes(png(image))
    (view,) = read_image_file(tmp_path / "scan.png")
    assert (view.name, view.view, view.kind) == ("scan", None, "png")
    assert view.pixels.dtype == np.float32
    assert (view.pixels == image).all()
    assert view.region == (0, 0, HEIGHT, WIDTH)


def test_jpeg_has_the_view_of_its_folder(tmp_path):
    data = jpeg(np.random.default_rng(0))
    (tmp_path / "wholeBodyPOST").mkdir()
    (tmp_path / "wholeBodyPOST" / "7.jpg").write_bytes(data)
    (view,) = read_image_file(tmp_path / "wholeBodyPOST" / "7.jpg")
    assert (view.name, view.view, view.kind) == ("7-posterior", "posterior", "jpeg")
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert (view.pixels == decoded).all()


def test_dicom_gives_one_view_a_frame_in_the_middle_of_zeros(tmp_path):
    path = save(two_views(("posterior", "anterior")), tmp_path / "patient.dcm")
    views = read_image_file(path)
    assert [(view.name, view.view, view.kind) for view in views] == [
        ("patient-posterior", "posterior", "dicom"),
        ("patient-anterior", "anterior", "dicom"),
    ]
    for view in views:
        assert view.region == (480, 112, 64, 32)
        assert (view.pixels[480:544, 112:144] == PIXELS[view.view]).all()
        assert view.pixels.sum() == PIXELS[view.view].sum()


def test_frames_of_unknown_view_are_numbered(tmp_path):
    path = save(nm_dataset(np.stack(list(PIXELS.values()))), tmp_path / "nm.dcm")
    assert [view.name for view in read_image_file(path)] == ["nm-frame1", "nm-frame2"]


GREY_PNG = png(IMAGE.astype(np.uint8))
REFUSED = {
    "colour PNG": (png(np.zeros((9, 9, 3), np.uint8)), "is a PNG with colours"),
    "transparent PNG": (png(np.zeros((9, 9, 4), np.uint8)), "is a PNG with colours"),
    "cut PNG": (GREY_PNG[:-20], "is truncated or damaged"),
    "PNG header": (GREY_PNG[:20], "is a PNG with"),
    "damaged PNG": (GREY_PNG[:5000] + b"\0\0\0" + GREY_PNG[5003:], "is truncated or damaged"),
    "colour JPEG": (cv2.imencode(".jpg", np.zeros((9, 9, 3), np.uint8))[1].tobytes(), "3 colour"),
    "cut JPEG": (jpeg(np.random.default_rng(0))[:-9], "is truncated or damaged"),
    "large image": (png(np.zeros((1025, 256), np.uint8)), "size is 1025x256, expected 1024x256"),
    "wide image": (png(np.zeros((256, 1024), np.uint8)), "size is 256x1024, expected 1024x256"),
    "text": (b"hello", "is no image file"),
    "nothing": (b"", "is no image file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unusable_files_are_refused_in_one_sentence(tmp_path, case, capfd):
    data, message = REFUSED[case]
    (tmp_path / "scan").write_bytes(data)
    with pytest.raises(InputError, match=message) as error:
        read_image_file(tmp_path / "scan")
    assert str(error.value).startswith(f"{tmp_path / 'scan'}: ")
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_image_file(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match="does not exist"):
        list_image_files(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match="holds no image file"):
        list_image_files(tmp_path)


def test_a_folder_is_searched_for_images(tmp_path):
    for name in ("b.JPG", "a/c.png", "a/notes.txt", "d.jpeg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"-")
    save(nm_dataset(PIXELS["anterior"][None]), tmp_path / "IM0001")
    listed = [str(file.relative_to(tmp_path)) for file in list_image_files(tmp_path)]
    assert listed == ["IM0001", "a/c.png", "b.JPG", "d.jpeg"]
    assert list_image_files(tmp_path / "d.jpeg") == [tmp_path / "d.jpeg"]
