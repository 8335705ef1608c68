"""One browser for all tests of the report."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@pytest.fixture(scope="session")
def driver() -> "Iterator[Chrome]":
    from tests.report.chromium import start  # noqa: PLC0415, is skipped where there is none

    driver = start()
    yield driver
    driver.quit()
