"""The page on a study: what it says, and what its controls do in a real browser."""

import csv
import json
import re
from pathlib import Path

import pytest

from bonescan_jax.sweep.page import (
    importances,
    seed_groups,
    t_interval,
    write_study_report,
)
from bonescan_jax.sweep.status import load
from tests.accuracy.many_trials import STUDY, made_up

TRIALS = 300


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of 300 trials with made-up scores, its page written."""
    folder = tmp_path_factory.mktemp("study")
    path = folder / "made_up.py"
    path.write_text(STUDY.format(trials=TRIALS + 4))
    made_up(path, folder, None, TRIALS)
    write_study_report(path, folder, None)
    return path


def test_the_page_names_the_best_with_the_command_that_trains_it(study: Path):
    said = write_study_report(study, study.parent, None)
    best = said["best"][0]
    page = Path(said["report"]).read_text()
    assert f"Trial {best['trial']}: " in page
    rate = best["settings"]["train.learning_rate"]
    assert "bonescan train --config=configs/phantom.py --workdir=DIR " in page
    assert f"--config.train.learning_rate={rate}" in page
    assert "4 waiting" in page
    assert not re.search(r"(src|href)=[\"']?(?!data:)[a-z/]", page)  # nothing is loaded


def test_the_csv_holds_every_trial_with_settings_and_scores(study: Path):
    said = write_study_report(study, study.parent, None)
    rows = list(csv.DictReader(Path(said["csv"]).read_text().splitlines()))
    assert [int(row["trial"]) for row in rows] == list(range(TRIALS))
    best = max(rows, key=lambda row: float(row["validation.score"]))
    assert int(best["trial"]) == said["best"][0]["trial"]
    assert (
        float(best["train.learning_rate"]) == (said["best"][0]["settings"]["train.learning_rate"])
    )


def test_what_mattered_in_the_made_up_scores_is_found(study: Path):
    found = importances(*load(study, study.parent, None))
    assert next(iter(found)) in ("learning_rate", "optimizer")
    assert sum(found.values()) == pytest.approx(1)


def test_seeds_of_the_same_settings_are_one_group_with_students_interval():
    from types import SimpleNamespace as Made  # noqa: PLC0415

    trials = [
        Made(state="done", last=Made(user_attrs={"settings": {"seed": s, "x": x}}, values=[v]))
        for s, x, v in (
            (0, 1, 0.4),
            (1, 1, 0.5),
            (2, 1, 0.6),
            (0, 2, 0.9),
            (1, 2, 0.8),
            (0, 3, 1.0),
        )
    ]
    assert seed_groups(trials) == [({"x": 1}, [0.4, 0.5, 0.6]), ({"x": 2}, [0.9, 0.8])]
    low, high = t_interval([0.4, 0.5, 0.6])
    # 4.3027 of Student's distribution with two degrees of freedom
    assert (high - low) / 2 == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)


def test_filters_sorting_and_choosing_in_a_browser(study: Path):
    chromium = pytest.importorskip("tests.report.chromium")
    driver = chromium.start()
    try:
        driver.get((study.parent / "report.html").as_uri())
        chromium.wait(driver, lambda: driver.find_elements("css selector", "#study tbody tr"))

        def cells(place: int) -> list[str]:
            return [
                row.find_elements("css selector", "th, td")[place].text
                for row in driver.find_elements("css selector", "#study tbody tr")
            ]

        names = [head.text for head in driver.find_elements("css selector", "#study thead th")]
        score = names.index("validation.score")
        scores = list(map(float, cells(score)))
        assert scores == sorted(scores, reverse=True)
        assert driver.find_element("css selector", "#study output").text == "300 of 300 trials"

        driver.find_element("css selector", "[aria-label='learning_rate, from']").send_keys("0.002")
        chromium.wait(driver, lambda: "of 300 trials" in driver.page_source)
        rates = list(map(float, cells(names.index("learning_rate"))))
        assert 0 < len(rates) < TRIALS
        assert min(rates) >= 0.002

        driver.find_elements("css selector", "#study thead button")[0].click()
        numbers = list(map(int, cells(0)))
        assert numbers == sorted(numbers)
        driver.find_element("css selector", "#study tbody button").click()
        chosen = driver.find_element("css selector", "#study tr.selected th").text
        assert chosen == str(numbers[0])
        assert f"Trial {chosen}: train.learning_rate=" in driver.page_source
        wrong = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
        assert wrong == []
        widths = "return [document.documentElement.scrollWidth, window.innerWidth]"
        wide, window = driver.execute_script(widths)
        assert wide <= window
    finally:
        driver.quit()


@pytest.mark.parametrize("width", [1366, 390])
def test_the_page_is_accessible_on_a_laptop_and_a_phone(study: Path, width: int):
    chromium = pytest.importorskip("tests.report.chromium")
    if chromium.needs_axe.args[0]:
        pytest.skip(chromium.needs_axe.kwargs["reason"])
    driver = chromium.start()
    try:
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        driver.get((study.parent / "report.html").as_uri())
        chromium.wait(driver, lambda: driver.find_elements("css selector", "#study tbody tr"))
        chromium.check_accessibility(driver, width)
    finally:
        driver.quit()


def test_the_data_of_the_page_cannot_end_their_element(study: Path):
    page = (study.parent / "report.html").read_text()
    data = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1]
    assert len(json.loads(data)["trials"]) == TRIALS
    assert "<" not in data
