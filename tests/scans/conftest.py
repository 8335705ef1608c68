"""A small source in BS-80K's layout for every test of the readers."""

import pytest

from tests.layout import write_layout


@pytest.fixture
def layout(tmp_path):
    return write_layout(tmp_path / "source")
