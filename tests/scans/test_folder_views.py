"""Own scans: sizes of views other than 1024×256."""

import pytest

from bonescan_jax.errors import InputError
from bonescan_jax.scans import ABNORMAL, HEIGHT, WIDTH
from bonescan_jax.scans.folder import open_folder
from tests.own_scans import (
    count_reasons,
    decoded,
    mask,
    write_png,
    write_views,
)


@pytest.mark.parametrize(("height", "width"), [(900, 200), (1100, 400)])
def test_other_sizes_are_padded_or_cropped_with_what_is_annotated(tmp_path, height, width):
    written = write_views(tmp_path, height=height, width=width)
    for patient, view in written:
        write_png(tmp_path / f"{patient}-{view}_mask.png", mask(height, width))
    source = open_folder(tmp_path)
    assert count_reasons(source)["noted"] == {"another size": 6}
    for key, pixels in written.items():
        scan = source.read(*key)
        image = decoded(scan.image)
        assert image.shape == (HEIGHT, WIDTH)
        hot = decoded(scan.mask) == ABNORMAL
        assert image[hot].sum() == pixels[mask(height, width) == ABNORMAL].sum()
        assert image.sum() == pixels.sum()


def test_a_body_that_does_not_fit_is_refused(tmp_path):
    write_views(tmp_path, height=1600, width=600)
    with pytest.raises(InputError, match="scan that cannot be used: 6"):
        open_folder(tmp_path, unannotated="empty")
    with pytest.raises(InputError, match="the body does not fit into 1024x256"):
        open_folder(tmp_path, unannotated="empty", strict=True)
