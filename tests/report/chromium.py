"""Headless Chromium for tests: opens a page of the report, moves its controls, reads it back."""

import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip(
        "needs Debian's packages chromium and chromium-driver, which are not installed",
        allow_module_level=True,
    )

from axe_selenium_python import Axe
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

LAPTOP, PHONE, NARROW = (1366, 768), (390, 844), (320, 640)

needs_axe = pytest.mark.skipif(
    version("axe-selenium-python") < "3", reason="needs axe-selenium-python 3, and Python 3.12"
)


def start() -> webdriver.Chrome:
    """Starts it; the caller quits it."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(DRIVER))


def show(
    driver: webdriver.Chrome, html: Path, fragment: str = "", size: tuple[int, int] = LAPTOP
) -> None:
    """Opens the page, waits for the pictures and forgets what was logged before."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.get("about:blank")
    driver.get_log("browser")
    driver.get_log("performance")
    driver.get(html.as_uri() + fragment)
    wait(driver, lambda: driver.find_elements(By.CSS_SELECTOR, "#pictures canvas"))


def wait(driver: webdriver.Chrome, condition: Callable[[], Any]) -> None:
    WebDriverWait(driver, 10, poll_frequency=0.05).until(lambda _: condition())


def by_id(driver: webdriver.Chrome, name: str) -> Any:
    return driver.find_element(By.ID, name)


def move(driver: webdriver.Chrome, slider: str, value: float) -> None:
    """Moves a slider as dragging it does."""
    driver.execute_script(
        "const [slider, value] = arguments; slider.value = value;"
        "slider.dispatchEvent(new Event('input', {bubbles: true}));"
        "slider.dispatchEvent(new Event('change', {bubbles: true}));",
        by_id(driver, slider),
        value,
    )


def listed(driver: webdriver.Chrome) -> list[list[str]]:
    """The cells of every row of the list."""
    return driver.execute_script(
        "return [...document.querySelectorAll('#list tbody tr')].map("
        "(row) => [...row.children].map((cell) => cell.textContent))"
    )


def check_accessibility(driver: webdriver.Chrome, width: int) -> None:
    """Unfolds everything, asks axe for violations, and looks whether anything sticks out."""
    for summary in driver.find_elements(By.TAG_NAME, "summary"):
        if not summary.find_element(By.XPATH, "..").get_attribute("open"):
            summary.click()
    axe = Axe(driver)
    axe.inject()
    rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = axe.run(options={"runOnly": rules})
    assert {"color-contrast", "label", "target-size"} <= {each["id"] for each in found["passes"]}
    violations = [(each["id"], each["nodes"][0]["html"]) for each in found["violations"]]
    assert violations == []
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
