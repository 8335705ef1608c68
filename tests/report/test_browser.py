"""The scan browser in a real browser, headless Chromium: what a reader sees, moves and hears."""

import json
import math
from pathlib import Path
from urllib.parse import parse_qs

import numpy as np
import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from bonescan_jax.metrics.rows import ViewRow
from bonescan_jax.report.pictures import encode_picture
from bonescan_jax.scans import ABNORMAL, NORMAL, VIEWS
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
    webdriver,
)
from tests.report.scans import (
    OVERFLOWED,
    THRESHOLDS,
    counts_of,
    image,
    rows_with_further_marks,
    write_run,
)

NUM_PATIENTS = 40
MANY = 600
ROWS = rows_with_further_marks(NUM_PATIENTS)


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        pictures = {view: encode_picture(image(0, view)) for view in VIEWS}
        return write_run(tmp_path_factory.mktemp("run"), patch, ROWS, pictures)


@pytest.fixture
def page(driver: webdriver.Chrome, html: Path) -> webdriver.Chrome:
    show(driver, html)
    return driver


def pixel(driver: webdriver.Chrome, row: int, column: int, number: int = 0) -> int:
    """Grey that a canvas shows at a pixel of the scan."""
    return driver.execute_script(
        "const [row, column, number] = arguments;"
        "const canvas = document.querySelectorAll('#pictures canvas')[number];"
        "const [x, y] = [(column + .5) * canvas.width / 256, (row + .5) * canvas.height / 1024];"
        "return canvas.getContext('2d').getImageData(x, y, 1, 1).data[0];",
        row,
        column,
        number,
    )


def of_patients(rows: list[ViewRow]) -> dict[int, list[ViewRow]]:
    return {each.patient: [r for r in rows if r.patient == each.patient] for each in rows}


def ranked(least: float, label: int = ABNORMAL) -> list[list[str]]:
    """What the list is to hold, worst first."""
    lines = []
    for patient, views in of_patients(ROWS).items():
        _, missed, alarms = counts_of(views, least, label)
        true, extra, absent = np.sum([row.pixels["mean"][label - 1] for row in views], axis=0)
        dice = 2 * true / (2 * true + extra + absent)
        lines.append((-missed, -alarms, round(dice, 4), patient))
    return [
        [str(patient), str(-missed), str(-alarms), f"{math.floor(100 * dice + 0.5) / 100:.2f}"]
        for missed, alarms, dice, patient in sorted(lines)
    ]


def test_the_upper_level_changes_what_the_canvas_shows(page):
    Select(by_id(page, "zoom")).select_by_value("1")
    for box in page.find_elements(By.CSS_SELECTOR, "#outlines input"):
        box.click()  # the lines would lie over pixels
    level = page.execute_script("return data.levels['picture-0-anterior']")
    row, column = OVERFLOWED[0]
    body = np.array([pixel(page, 300, 40 + i) for i in range(40)], float).mean()
    values = image(0, "anterior")[300, 40:80]
    expected = 255 * (1 - np.minimum(values / level, 1))
    assert abs(body - expected.mean()) < 5
    move(page, "level", 200)
    brighter = np.array([pixel(page, 300, 40 + i) for i in range(40)], float).mean()
    assert abs(brighter - 255 * (1 - np.minimum(values / level / 2, 1)).mean()) < 5
    assert brighter > body + 20
    assert pixel(page, row, column) == 0  # 700 is far above the level
    Select(by_id(page, "transfer")).select_by_value("sqrt")
    darker = np.array([pixel(page, 300, 40 + i) for i in range(40)], float).mean()
    expected = 255 * (1 - np.sqrt(np.minimum(values / level / 2, 1)))
    assert abs(darker - expected.mean()) < 5


def test_left_is_left_and_sides_are_marked(page):
    for box in page.find_elements(By.CSS_SELECTOR, "#outlines input"):
        box.click()
    captions = [each.text.split() for each in page.find_elements(By.TAG_NAME, "figcaption")]
    assert captions == [["R", "anterior", "L"], ["L", "posterior", "R"]]
    for number in range(2):
        left = np.mean([pixel(page, 700, 50 + i, number) for i in range(60)])
        right = np.mean([pixel(page, 700, 140 + i, number) for i in range(60)])
        assert left < right - 30  # what is brighter in the image is darker on the page


def test_hot_spots_have_a_picture_of_their_own(page):
    by_id(page, "two").click()
    wait(page, lambda: len(page.find_elements(By.CSS_SELECTOR, "#pictures canvas")) == 4)
    for box in page.find_elements(By.CSS_SELECTOR, "#outlines input"):
        box.click()
    bones, hot = (np.mean([pixel(page, 700, 50 + i, n) for i in range(60)]) for n in (0, 2))
    assert abs((255 - hot) * 4 - (255 - bones)) < 30


def test_the_score_moves_all_counts_to_those_of_the_rows(page):
    for least in (THRESHOLDS["abnormal"], 0.4, 0.3, 0.8, 0.95, 0.0):  # marks score just 0.4
        if least != THRESHOLDS["abnormal"]:  # where the slider stands at first
            move(page, "score", least)
        hits, missed, alarms = counts_of(ROWS, least)
        totals = by_id(page, "totals").text
        assert totals.startswith(f"{hits} of {hits + missed} lesions hit"), least
        assert f", {missed} missed, {alarms} false alarm" in totals
        assert f"({alarms / len(ROWS):.2f} per view)" in totals
        assert listed(page) == ranked(least)
        point = by_id(page, "froc-point")
        up = (118 - float(point.get_attribute("cy"))) / 110
        assert up == pytest.approx(hits / (hits + missed))
    Select(by_id(page, "class")).select_by_visible_text("normal")
    hits, missed, alarms = counts_of(ROWS, THRESHOLDS["normal"], NORMAL)
    assert f"{hits} of {hits + missed} lesions hit" in by_id(page, "totals").text
    assert listed(page) == ranked(THRESHOLDS["normal"], NORMAL)


def test_the_score_moves_the_summary_of_the_scan_and_its_description(page):
    patient = int(by_id(page, "scan-title").text.split()[1])
    views = of_patients(ROWS)[patient]
    for least in (0.1, 0.9):
        move(page, "score", least)
        hits, missed, alarms = counts_of(views, least)
        summary = by_id(page, "scan-summary").text
        word = "lesion" if hits + missed == 1 else "lesions"
        assert f"abnormal: {hits + missed} {word}, {missed} missed, {alarms} false" in summary
        canvas = page.find_element(By.CSS_SELECTOR, "#pictures canvas")
        first_hits, _, first_alarms = counts_of(views[:1], least)
        label = canvas.get_attribute("aria-label")
        assert label.startswith("anterior view; abnormal:")
        assert f"{first_hits} hit, {first_alarms} false" in label.split("; normal")[0]
        results = page.execute_script(
            "return [...document.querySelectorAll('#findings tbody tr')].map("
            "(row) => [row.children[1].textContent, row.children[2].textContent])"
        )
        for result, number in (("hit", hits), ("missed", missed), ("false alarm", alarms)):
            assert results.count(["abnormal", result]) == number


def test_outlines_are_drawn_and_can_be_switched_off(page):
    def coloured() -> int:
        return page.execute_script(
            "return [...document.querySelectorAll('#pictures canvas')].reduce((sum, canvas) => {"
            "const context = canvas.getContext('2d');"
            "const {data} = context.getImageData(0, 0, canvas.width, canvas.height);"
            "for (let i = 0; i < data.length; i += 4) sum += data[i] > data[i + 2] + 40;"
            "return sum}, 0)"
        )

    move(page, "score", 0.2)
    both = coloured()
    by_id(page, "outline-truth").click()
    predicted = coloured()
    by_id(page, "outline-prediction").click()
    assert both > predicted > 0 and coloured() == 0
    by_id(page, "outline-truth").click()
    assert coloured() > 0
    by_id(page, "outline-1").click()  # of the class abnormal, the reddish ones
    assert coloured() == 0


def test_filters_and_search_leave_what_the_rows_say(page):
    page.find_element(By.CSS_SELECTOR, "#filters summary").click()
    least = THRESHOLDS["abnormal"]
    patients = of_patients(ROWS)
    counts = {patient: counts_of(views, least) for patient, views in patients.items()}
    total = {patient: sum(row.counts for row in views) for patient, views in patients.items()}
    overflowed = {p for p, views in patients.items() if any(row.overflow for row in views)}
    expected = {
        "only-missed": {p for p, (_, missed, _) in counts.items() if missed},
        "only-alarm": {p for p, (_, _, alarms) in counts.items() if alarms},
        "only-overflow": overflowed,
    }
    for name, wanted in expected.items():
        by_id(page, name).click()
        assert {int(row[0]) for row in listed(page)} == wanted
        assert by_id(page, "listed").text == f"{len(wanted)} of {NUM_PATIENTS} scans"
        by_id(page, name).click()
    by_id(page, "counts-least").send_keys("2000")
    by_id(page, "counts-most").send_keys("4000")
    assert {int(row[0]) for row in listed(page)} == {p for p in total if 2e6 <= total[p] <= 4e6}
    by_id(page, "counts-least").clear()
    by_id(page, "counts-most").clear()
    by_id(page, "search").send_keys("17")
    assert [row[0] for row in listed(page)] == ["17"]
    by_id(page, "search").clear()
    Select(by_id(page, "order")).select_by_value("counts")
    assert [int(row[0]) for row in listed(page)] == sorted(total, key=total.get)
    by_id(page, "search").send_keys("999")
    assert listed(page) == [] and by_id(page, "listed").text == f"0 of {NUM_PATIENTS} scans"


def test_a_link_shows_the_scan_with_its_window_again(driver, html):
    show(driver, html)
    move(driver, "level", 60)
    move(driver, "score", 0.25)
    Select(by_id(driver, "transfer")).select_by_value("log")
    by_id(driver, "next").click()
    link = by_id(driver, "link").get_attribute("href").split("#")[1]
    values = {name: value for name, (value,) in parse_qs(link).items()}
    assert (values["level"], values["score"], values["transfer"]) == ("60", "0.25", "log")
    title = by_id(driver, "scan-title").text
    show(driver, html, f"#{link}")
    assert by_id(driver, "scan-title").text == title == f"Patient {values['scan']}"
    assert by_id(driver, "level-shown").text == "60 %"
    assert by_id(driver, "score-shown").text == "0.250"
    assert by_id(driver, "transfer").get_attribute("value") == "log"
    show(driver, html, "#scan=<script>&level=1e9&zoom=-1&class=x&score=nan&transfer=toString")
    assert by_id(driver, "level-shown").text == "100 %"


def test_everything_is_reached_and_used_by_keys_alone(page):
    reached = []
    for _ in range(60):
        page.switch_to.active_element.send_keys(Keys.TAB)
        active = page.switch_to.active_element
        name = active.get_attribute("id") or active.text
        if active.tag_name == "body" or name in reached:
            break
        reached.append(name)
        assert page.execute_script(
            "return getComputedStyle(arguments[0]).outlineStyle", active
        ) not in ("none", "")
    controls = "class score search order next link level transfer zoom two outline-truth "
    controls += "outline-prediction outline-1 outline-2 pictures keys"
    assert set(controls.split()) <= set(reached)
    first, second = (row[0] for row in listed(page)[:2])
    assert first in reached and second not in reached  # one stop for the list
    page.find_element(By.CSS_SELECTOR, "#list [tabindex='0']").send_keys(Keys.ARROW_DOWN)
    page.switch_to.active_element.send_keys(Keys.ENTER)
    assert by_id(page, "scan-title").text == f"Patient {second}"
    page.switch_to.active_element.send_keys("p")
    assert by_id(page, "scan-title").text == f"Patient {first}"
    by_id(page, "keys").send_keys(Keys.SPACE)
    by_id(page, "keys").send_keys("n")
    assert by_id(page, "scan-title").text == f"Patient {first}"
    before = by_id(page, "totals").text
    for _ in range(10):
        by_id(page, "score").send_keys(Keys.ARROW_LEFT)
    assert by_id(page, "score-shown").text == "0.550" and by_id(page, "totals").text != before


@needs_axe
@pytest.mark.parametrize("size", [LAPTOP, PHONE, NARROW])
def test_no_violation_of_accessibility_and_nothing_sticks_out(driver, html, size):
    show(driver, html, size=size)
    check_accessibility(driver, size[0])


def test_nothing_is_logged_and_nothing_is_asked_for(driver, html):
    show(driver, html)
    by_id(driver, "next").click()
    move(driver, "level", 50)
    driver.execute_script("window.dispatchEvent(new Event('resize'))")
    assert driver.get_log("browser") == []
    events = [json.loads(line["message"])["message"] for line in driver.get_log("performance")]
    urls = {
        each["params"]["request"]["url"].split(",")[0].split("#")[0]
        for each in events
        if each["method"] == "Network.requestWillBeSent"
    }
    assert urls <= {html.as_uri(), "data:image/webp;base64", "data:", "about:blank"}


def test_the_policy_stops_scripts_and_requests_that_are_not_ours(page):
    page.execute_script(
        "const script = document.createElement('script'); script.textContent = 'window.bad = 1';"
        "document.body.append(script);"
        "const image = new Image(); image.src = 'https://example.invalid/x.png';"
        "document.body.append(image);"
    )
    wait(page, lambda: page.get_log("browser"))
    assert page.execute_script("return window.bad") is None


def test_six_hundred_patients_are_painted_within_a_second(driver, tmp_path, monkeypatch):
    pictures = {view: encode_picture(image(0, view)) for view in VIEWS}
    html = write_run(tmp_path, monkeypatch, rows_with_further_marks(MANY), pictures)
    show(driver, html)
    paints = driver.execute_script(
        "return performance.getEntriesByName('first-contentful-paint').map((e) => e.startTime)"
    )
    assert paints and paints[0] < 1000
    assert len(listed(driver)) == MANY


def test_of_classified_images_the_score_moves_the_counts_of_images(driver, tmp_path, monkeypatch):
    rows = [
        row._replace(pixels={}, candidates=(), lesions=(), score=row.patient / 20 + 0.001)
        for row in rows_with_further_marks(20)
    ]
    pictures = {view: encode_picture(image(0, view)) for view in VIEWS}
    show(driver, write_run(tmp_path, monkeypatch, rows, pictures))
    for least in (0.5, 0.25):
        move(driver, "score", least)
        found = sum(row.abnormal and row.score >= least for row in rows)
        alarms = sum(not row.abnormal and row.score >= least for row in rows)
        totals = by_id(driver, "totals").text
        assert totals.startswith(f"{found} of {sum(row.abnormal for row in rows)} abnormal images")
        assert f", {alarms} false alarms" in totals
    assert not by_id(driver, "froc").is_displayed()
    least = 0.25
    said = driver.execute_script(
        "return [...document.querySelectorAll('#findings tbody tr')].map("
        "(row) => [...row.children].map((cell) => cell.textContent))"
    )
    captions = [each.text for each in driver.find_elements(By.CSS_SELECTOR, "#pictures p")]
    patient = int(by_id(driver, "scan-title").text.split()[1])
    for row, cells, caption in zip(of_patients(rows)[patient], said, captions, strict=True):
        word = "abnormal" if row.abnormal else "normal"
        found = row.score >= least
        result = ("hit" if found else "missed") if row.abnormal else ""
        result = result or ("false alarm" if found else "left out")
        assert cells == [row.view, word, result, f"{row.score:.3f}"]
        assert caption.startswith(f"{word}, score") and caption.endswith(result)
    assert driver.get_log("browser") == []
