"""Image files for prediction: kinds, views, sizes and what is refused."""

import dataclasses

import cv2
import numpy as np
import pytest

from bonescan_jax.errors import InputError
from bonescan_jax.phantom.patient import PhantomView, simulate_patient, to_grey
from bonescan_jax.scans import HEIGHT, WIDTH
from bonescan_jax.scans.files import read_image_file
from bonescan_jax.scans.listing import list_image_files
from tests.exif import with_orientation
from tests.layout import jpeg
from tests.scans.dicom_files import PIXELS, nm_dataset, save, two_views

IMAGE = np.random.default_rng(0).poisson(20, (HEIGHT, WIDTH))


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def test_a_16_bit_png_keeps_its_values(tmp_path):
    image = IMAGE.astype(np.uint16) * 300
    (tmp_path / "scan.png").write_bytes(png(image))
    (view,) = read_image_file(tmp_path / "scan.png")
    assert (view.name, view.view, view.kind) == ("scan", None, "png")
    assert view.pixels.dtype == np.float32
    assert (view.pixels == image).all()
    assert view.region == (0, 0, HEIGHT, WIDTH)
    assert (view.gain, view.overflowed, view.frame) == (1, 0, None)


def with_full_bladder(view: PhantomView, gain: float = 2.5) -> PhantomView:
    """The view with a blurred spot of 360 counts a pixel, at which the counts wrap."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    spot = 360 * np.exp(-((rows - 430) ** 2 + (columns - 128) ** 2) / (2 * 6**2))
    counts = view.counts + np.random.default_rng(0).poisson(spot).astype(np.uint16)
    return dataclasses.replace(view, counts=counts, gain=gain, grey=to_grey(counts, gain))


@pytest.fixture(scope="module")
def phantom() -> PhantomView:
    return with_full_bladder(simulate_patient(5, 1).views[0])


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_hot_spots_of_8_bit_images_get_their_turns_back(tmp_path, phantom, kind):
    """Against the simulator's counts; where grey values were clipped, only about."""
    if kind == "png":
        data = png(phantom.grey)
    else:
        quality = [cv2.IMWRITE_JPEG_QUALITY, 100]
        data = cv2.imencode(".jpg", phantom.grey, quality)[1].tobytes()
    (tmp_path / "scan").write_bytes(data)
    (view,) = read_image_file(tmp_path / "scan")
    truth = np.rint(phantom.gain * phantom.counts)
    wrong = np.abs(view.pixels - truth) > np.where(phantom.grey < 254, 20, 200)
    assert wrong.sum() < 0.1 * (phantom.counts > 255).sum()
    assert view.overflowed == pytest.approx(int((phantom.counts > 255).sum()), rel=0.1, abs=3)
    assert view.gain == pytest.approx(phantom.gain, rel=0.05)


def test_images_have_the_view_of_their_folder(tmp_path):
    data = jpeg(np.random.default_rng(0))
    for folder, name, view in (
        ("wholeBodyPOST", "7-posterior", "posterior"),
        ("wholeBodyANT", "7-anterior", "anterior"),
        ("kneeLPOST", "7-posterior", "posterior"),
        ("vertbraANT", "7-anterior", "anterior"),
        ("elsewhere", "7", None),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "7.jpg").write_bytes(data)
        (read,) = read_image_file(tmp_path / folder / "7.jpg")
        assert (read.name, read.view, read.kind) == (name, view, "jpeg")
    # Nothing in it reaches 256: the values are what another decoder finds.
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert (read.pixels == decoded).all()


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
        assert (view.gain, view.overflowed) == (1, 0)
        assert view.frame.pixel_spacing == (2.26, 2.4)


def test_dicom_without_preamble_is_told_from_other_files(tmp_path):
    dataset = nm_dataset(PIXELS["anterior"][None])
    dataset.preamble = None
    dataset.save_as(tmp_path / "scan", enforce_file_format=False)
    (view,) = read_image_file(tmp_path / "scan")
    assert view.pixels.sum() == PIXELS["anterior"].sum()


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
    "large JPEG": (jpeg(np.random.default_rng(0), 1032), "size is 1032x256, expected 1024x256"),
    "PNG bomb": (GREY_PNG[:16] + b"\x7f\xff\xff\xff" * 2 + GREY_PNG[24:], "expected 1024x256"),
    "text": (b"hello", "is not an image file"),
    "nothing": (b"", "is not an image file"),
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
    listed = [file.name for file in list_image_files(tmp_path).files]
    assert listed == ["IM0001", "a/c.png", "b.JPG", "d.jpeg"]
    (file,) = list_image_files(tmp_path / "d.jpeg").files
    assert (file.path, file.name) == (tmp_path / "d.jpeg", "d.jpeg")


def test_black_on_white_is_refused_in_every_kind_of_file(tmp_path, phantom):
    grey = 255 - np.minimum(phantom.counts, 255).astype(np.uint8)
    (tmp_path / "scan.png").write_bytes(png(grey))
    (tmp_path / "scan.jpg").write_bytes(cv2.imencode(".jpg", grey)[1].tobytes())
    save(nm_dataset(grey[None].astype(np.uint16)), tmp_path / "scan.dcm")
    for path in tmp_path.iterdir():
        with pytest.raises(InputError, match="is black on white"):
            read_image_file(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_an_image_is_turned_as_its_exif_header_says_and_noted(tmp_path, suffix):
    path = tmp_path / f"scan{suffix}"
    upright = IMAGE.astype(np.uint8)
    upright[:300] += 50
    for orientation, stored in ((3, upright[::-1, ::-1]), (6, np.rot90(upright))):
        quality = [cv2.IMWRITE_JPEG_QUALITY, 100] if suffix == ".jpg" else []
        data = cv2.imencode(suffix, np.ascontiguousarray(stored), quality)[1].tobytes()
        path.write_bytes(with_orientation(data, orientation))
        (view,) = read_image_file(path)
        assert np.abs(view.pixels - upright).max() <= 4  # JPEG's
        assert f"Exif orientation, {orientation}, says" in view.notes[0]
    path.write_bytes(with_orientation(cv2.imencode(suffix, upright)[1].tobytes(), 6))
    with pytest.raises(InputError, match="size is 256x1024, expected 1024x256"):
        read_image_file(path)
