"""Zip files in BS-80K's layout: damaged, hostile, or packed by other programs."""

import tracemalloc
import zipfile

import pytest

from bonescan_jax.scans.bs80k import open_bs80k
from tests.layout import PATIENTS, voc, zip_layout
from tests.scans.bs80k_files import WITHOUT_3, XML, defects_of, good_jpeg


def test_a_damaged_member_of_a_zip_file_is_named(layout, tmp_path):
    path = zip_layout(layout, tmp_path / "damaged.zip", "temp/")
    image = (layout / "wholeBodyANT/1.jpg").read_bytes()
    data = bytearray(path.read_bytes())
    data[data.index(image) + 1000] ^= 0xFF
    path.write_bytes(data)
    damaged, _ = defects_of(path)
    assert damaged.startswith("temp/wholeBodyANT/1.jpg: cannot be read (Bad CRC-32")


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("temp/wholeBodyANT/../../3.jpg", 0o100644, "leads out of the zip file"),
        ("/wholeBodyANT/4.jpg", 0o100644, "is an absolute path"),
        ("C:/wholeBodyANT/4.jpg", 0o100644, "is an absolute path"),
        ("temp\\wholeBodyANT\\4.jpg", 0o100644, "has a backslash"),
        ("temp/wholeBodyANT/4.jpg", 0o120777, "is a symbolic link"),
    ],
)
def test_members_that_would_lead_out_are_left_alone(layout, tmp_path, name, mode, message):
    path = zip_layout(layout, tmp_path / "slip.zip", "temp/")
    before = {file for file in tmp_path.rglob("*")}
    with zipfile.ZipFile(path, "a") as archive:
        member = zipfile.ZipInfo(name)
        member.external_attr = mode << 16
        archive.writestr(member, good_jpeg())
    (sentence, _) = defects_of(path)
    assert message in sentence
    assert open_bs80k(path).patients == PATIENTS
    assert {file for file in tmp_path.rglob("*")} == before


def test_two_members_of_one_name_are_not_chosen_from(layout, tmp_path):
    path = zip_layout(layout, tmp_path / "twice.zip")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(XML, voc(()))
    (sentence, _) = defects_of(path)
    assert sentence == f"{XML}: is in the zip file 2 times, expected once."
    assert open_bs80k(path).patients == WITHOUT_3


def test_a_bomb_is_not_unpacked_whatever_its_header_says(layout, tmp_path):
    path = tmp_path / "bomb.zip"
    (layout / XML).write_bytes(voc().encode() + b" " * (50 << 20))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(layout.rglob("*")):
            archive.write(file, file.relative_to(layout))
    tracemalloc.start()
    (sentence, _) = defects_of(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sentence.startswith(f"{XML}: holds more than 1048576 bytes")
    assert peak < 20 << 20


def test_compression_that_unpacks_without_limits_is_refused(layout, tmp_path):
    path = tmp_path / "bz2.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(layout.rglob("*")):
            name = file.relative_to(layout)
            packed = zipfile.ZIP_BZIP2 if str(name) == XML else zipfile.ZIP_STORED
            archive.write(file, name, packed)
    (sentence, _) = defects_of(path)
    assert sentence.startswith(f"{XML}: has compression method 12, expected 0 (stored) or 8")


def test_sources_that_cannot_be_opened_are_one_sentence(layout, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("no zip")
    encrypted = zip_layout(layout, tmp_path / "encrypted.zip")
    data = encrypted.read_bytes()
    entry = b"PK\1\2" + data[data.rindex(b"PK\1\2") + 4 :][:4]  # signature and two versions
    encrypted.write_bytes(data.replace(entry + b"\0", entry + b"\1"))  # bit 0 of the flags
    (tmp_path / "half" / "wholeBodyANT").mkdir(parents=True)
    (tmp_path / "half" / "wholeBodyANT" / "1.jpg").write_bytes(good_jpeg())
    for name, message in {
        "nowhere": "does not exist",
        "empty": "holds none of them",
        "text.zip": "is not a readable zip file",
        "encrypted.zip": "is encrypted",
        "half": "wholeBodyPOST holds no file",
    }.items():
        (line,) = defects_of(tmp_path / name)
        assert line.startswith(f"{tmp_path / name}: ")
        assert message in line


def test_zip_files_with_backslashes_or_in_parts_are_told_as_such(layout, tmp_path):
    files = [path for path in layout.rglob("*") if path.is_file()]
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as archive:
        for path in files:
            archive.writestr(str(path.relative_to(layout)).replace("/", "\\"), path.read_bytes())
    whole = zip_layout(layout, tmp_path / "whole.zip").read_bytes()
    end = whole.rindex(b"PK\5\6")
    last = whole[:end] + b"PK\5\6\2\0" + whole[end + 6 :]  # the number of this part
    (tmp_path / "last.zip").write_bytes(last[len(last) // 2 :])
    (tmp_path / "first.zip").write_bytes(b"PK\7\x08" + whole[: len(whole) // 2])
    for name, message in {
        "windows.zip": "has backslashes between its folders",
        "last.zip": "is one part of a zip file in several parts",
        "first.zip": "is one part of a zip file in several parts",
    }.items():
        (line,) = defects_of(tmp_path / name)
        assert line.startswith(f"{tmp_path / name}: {message}")
