"""Several runs in a real browser: the choice of the run, its link, printing, accessibility."""

import re
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from bonescan_jax.metrics.summary import choose_thresholds, summarize
from bonescan_jax.report.page import write_report
from bonescan_jax.report.pictures import encode_picture
from bonescan_jax.scans import ABNORMAL, VIEWS
from tests.report.chromium import (
    LAPTOP,
    NARROW,
    PHONE,
    By,
    by_id,
    check_accessibility,
    listed,
    move,
    needs_axe,
    show,
    wait,
)
from tests.report.scans import (
    counts_of,
    image,
    rows_with_further_marks,
    show_pictures,
    write_evaluation,
    write_training,
)

# By name, with markup in one.
RUNS = {"first": rows_with_further_marks(20), "<b>&2": rows_with_further_marks(20, noise=0.9)}
DETAILS = {name: summarize(rows, "mean", choose_thresholds(rows)) for name, rows in RUNS.items()}


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of both runs."""
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        for seed, (name, rows) in enumerate(RUNS.items()):
            write_training(place / name, {"seed": seed})
            write_evaluation(place / name, rows, DETAILS[name])
        pictures = {view: encode_picture(image(0, view)) for view in VIEWS}
        show_pictures(patch, RUNS["first"], pictures)
        return Path(str(write_report([place / name for name in RUNS])["report"]))


@pytest.fixture
def page(driver, html):
    show(driver, html)
    return driver


def choose(page, name):
    Select(by_id(page, "run")).select_by_visible_text(name)


def threshold(name):
    return DETAILS[name]["thresholds"]["candidates"]["abnormal"]


def test_another_run_has_its_own_counts_and_thresholds_on_the_same_scan(page):
    by_id(page, "next").click()
    title = by_id(page, "scan-title").text
    seen = []
    for name in ("first", "<b>&2", "first"):
        choose(page, name)
        for least in (threshold(name), 0.3):
            if least == 0.3:
                move(page, "score", least)
            hits, missed, alarms = counts_of(RUNS[name], least)
            totals = by_id(page, "totals").text
            assert totals.startswith(f"{hits} of {hits + missed} lesions hit")
            assert f", {missed} missed, {alarms} false alarm" in totals
            up = (118 - float(by_id(page, "froc-point").get_attribute("cy"))) / 110
            assert up == pytest.approx(hits / (hits + missed))
            for patient, missed_here, alarms_here, _ in listed(page):
                views = [row for row in RUNS[name] if str(row.patient) == patient]
                assert counts_of(views, least)[1:] == (int(missed_here), int(alarms_here))
            seen.append((totals, listed(page)))
        assert by_id(page, "scan-title").text == title
        assert page.find_elements(By.CSS_SELECTOR, "#pictures canvas")
    assert seen[0] == seen[4] and seen[1] == seen[5]
    assert seen[0] != seen[2] and seen[1] != seen[3]


def test_a_link_holds_the_run(driver, html):
    show(driver, html)
    choose(driver, "<b>&2")
    move(driver, "score", 0.25)
    link = by_id(driver, "link").get_attribute("href").split("#")[1]
    assert parse_qs(link)["run"] == ["<b>&2"]
    totals = by_id(driver, "totals").text
    show(driver, html, f"#{link}")
    assert by_id(driver, "totals").text == totals
    assert Select(by_id(driver, "run")).first_selected_option.text == "<b>&2"
    show(driver, html, "#run=absent")
    assert Select(by_id(driver, "run")).first_selected_option.text == "first"


def test_the_run_is_chosen_by_keys_and_nothing_is_logged(page):
    before = by_id(page, "totals").text
    by_id(page, "run").send_keys(Keys.ARROW_DOWN)
    wait(page, lambda: by_id(page, "totals").text != before)
    hits, missed, _ = counts_of(RUNS["<b>&2"], threshold("<b>&2"), ABNORMAL)
    assert by_id(page, "totals").text.startswith(f"{hits} of {hits + missed} ")
    assert page.get_log("browser") == []


@needs_axe
@pytest.mark.parametrize("size", [LAPTOP, PHONE, NARROW])
def test_several_runs_are_accessible_and_nothing_sticks_out(driver, html, size):
    show(driver, html, size=size)
    check_accessibility(driver, size[0])


def test_print_has_the_scan_with_its_counts_and_no_controls(driver, html):
    show(driver, html)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        for name in ("score", "list", "filters", "display", "next", "link"):
            assert not by_id(driver, name).is_displayed(), name
        for name in ("totals", "run", "scan-title", "pictures", "findings"):
            assert by_id(driver, name).is_displayed(), name
        (canvas, *_) = driver.find_elements(By.CSS_SELECTOR, "#pictures canvas")
        assert canvas.size["height"] == pytest.approx(4 * canvas.size["width"], rel=0.05)
        assert driver.find_element(By.CSS_SELECTOR, "table").is_displayed()
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_the_policy_is_that_of_the_page_of_one_run(html):
    text = html.read_text()
    assert "default-src 'none'" in text and len(re.findall("<script>", text)) == 1
    assert "<b>&2" not in text
