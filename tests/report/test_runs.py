"""Pages of several runs, of cross-validations, and of evaluations that are not in a workdir."""

import html
import json
import re
from pathlib import Path

import pytest

from bonescan_jax.errors import InputError
from bonescan_jax.metrics.rows import write_rows
from bonescan_jax.metrics.summary import choose_thresholds, summarize
from bonescan_jax.report.page import write_report
from tests.metrics.random_rows import random_rows
from tests.report.scans import show_pictures, write_evaluation, write_training

EVIL = "<script>alert('x')<&script>"  # a name of a folder cannot hold a slash
GOOD, POOR = random_rows(20), random_rows(20, noise=2.0)


def details(rows):
    return summarize(rows, "mean", choose_thresholds(rows))


FIGURES = {"good": details(GOOD), EVIL: details(POOR)}


def read(workdirs, **options):
    return Path(str(write_report(workdirs, **options)["report"])).read_text()


def table(text, name):
    """The rows of a table by their heading, without markup; and the same with it."""
    found = text.split(f'<caption class="hidden">{html.escape(name)}</caption>')[1]
    rows, marked = {}, {}
    for line in re.findall("<tr>(.*?)</tr>", found.split("</table>")[0])[1:]:
        head, *cells = re.findall(r"<t[hd].*?>(.*?)</t[hd]>", line)
        marked[html.unescape(head)] = cells
        rows[html.unescape(head)] = [re.sub("<.*?>", "", html.unescape(cell)) for cell in cells]
    return rows, marked


def data(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text)[1])


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs on the same views."""
    show_pictures(monkeypatch, GOOD)
    for place, (name, rows) in enumerate({"good": GOOD, EVIL: POOR}.items()):
        settings = {"seed": place, "data": {"name": "phantom", "dir": EVIL}, "model": {"levels": 3}}
        write_training(tmp_path / name, settings)
        write_evaluation(tmp_path / name, rows, FIGURES[name], {"step": 1200 + place})
    return [tmp_path / name for name in ("good", EVIL)]


def test_runs_stand_beside_each_other_with_the_highest_marked(runs):
    text = read(runs)
    rows, marked = table(text, "Headline figures")
    assert list(rows) == ["good", EVIL]
    for name, figures in FIGURES.items():
        lesions = figures["lesions"]["abnormal"]["centre"]
        expected = [
            lesions["per_view"]["1.0"],
            lesions["average_precision"],
            figures["patients"]["auc"],
        ]
        for cell, each in zip((rows[name][i] for i in (0, 1, 4)), expected, strict=True):
            assert cell.startswith(f"{each['value']:.3f}")
            if each["low"] is not None:
                assert f"{each['low']:.3f} to {each['high']:.3f}" in cell
    precisions = [
        each["lesions"]["abnormal"]["centre"]["average_precision"]["value"]
        for each in FIGURES.values()
    ]
    assert precisions[0] > precisions[1]
    assert "<strong>" in marked["good"][1] and "<strong>" not in marked[EVIL][1]
    assert "step 1,201" in rows[EVIL][-1]


def test_curves_name_the_runs_and_have_their_numbers(runs):
    text = read(runs)
    for title in (
        *("FROC curve of abnormal lesions, by centres", "ROC curve of patients", "Training loss"),
        *("Precision-recall curve of patients", "Reliability of normal candidates"),
    ):
        rows, _ = table(text, f"{title}, in numbers")
        assert {"good", EVIL} <= set(rows), title
    svg = re.search(r'aria-label="FROC curve of abnormal.*?</svg>', text)[0]
    assert svg.count('class="line"') == 4  # of each run the line, and its sample with the name
    assert svg.count('class="bar"') > 0 and "stroke-dasharray" in svg
    last = table(text, "Training loss, in numbers")[0]["good"]
    assert last == ["8", "0.125"]


def test_the_line_of_one_run_among_several_is_named(runs, tmp_path):
    write_training(tmp_path / "not yet")
    text = read([runs[0], tmp_path / "not yet"])
    assert "ROC curve of patients, good" in text
    assert {"good", "not yet"} <= set(table(text, "Training loss, in numbers")[0])
    assert list(table(text, "Headline figures")[0]) == ["good"]


def test_only_settings_that_differ_are_beside_each_other(runs):
    rows, _ = table(read(runs), "Settings that differ")
    assert rows == {"seed": ["0", "1"]}


def test_no_name_can_run(runs):
    text = read(runs)
    assert EVIL not in text and "<script>alert" not in text
    assert html.escape(EVIL) in text
    assert data(text)["runs"][1]["name"] == EVIL


def test_the_page_lies_beside_the_first_or_where_one_says(runs, tmp_path):
    assert write_report(runs)["report"] == str(tmp_path / f"good+{EVIL}.html")
    out = tmp_path / "new" / "page.html"
    assert write_report(runs, out=out)["report"] == str(out) and out.is_file()
    assert write_report(runs[:1])["report"] == str(runs[0] / "report.html")
    with pytest.raises(InputError, match="twice"):
        write_report([runs[0], runs[0]])
    with pytest.raises(InputError, match="--out is missing"):
        long = [tmp_path / (letter * 150) for letter in "ab"]
        for each in long:
            write_training(each)
        write_report(long)


def test_runs_of_one_name_are_told_apart(runs, tmp_path):
    write_training(tmp_path / "other" / "good")
    write_evaluation(tmp_path / "other" / "good", POOR)
    rows, _ = table(read([runs[0], tmp_path / "other" / "good"]), "Headline figures")
    assert list(rows) == [f"{tmp_path.name}/good", "other/good"]


def test_each_run_says_what_it_found_of_the_same_lesions(runs):
    page = data(read(runs))
    assert [each["name"] for each in page["runs"]] == ["good", EVIL]
    for found, name, rows in zip(page["runs"], ("good", EVIL), (GOOD, POOR), strict=True):
        chosen = FIGURES[name]["thresholds"]["candidates"]
        assert found["thresholds"] == {each: chosen[each] for each in ("abnormal", "normal")}
        candidates = [len(view["candidates"]) for scan in found["scans"] for view in scan["views"]]
        assert candidates == [len(row.candidates) for row in rows]


def test_rows_in_another_order_are_matched_and_other_views_are_named(runs, tmp_path):
    write_training(tmp_path / "turned")
    write_evaluation(tmp_path / "turned", POOR[::-1], FIGURES[EVIL])
    write_training(tmp_path / "elsewhere")
    write_evaluation(tmp_path / "elsewhere", random_rows(20, seed=1))
    text = read([*runs, tmp_path / "turned", tmp_path / "elsewhere"])
    page = data(text)
    assert [each["name"] for each in page["runs"]] == ["good", EVIL, "turned"]
    assert page["runs"][1]["scans"] == page["runs"][2]["scans"]
    assert "not to be chosen here: elsewhere." in text


def test_what_was_measured_on_whom_is_one_sentence(runs):
    text = read(runs[:1])
    lesions = [FIGURES["good"]["lesions"][name]["num_lesions"] for name in ("abnormal", "normal")]
    assert f"40 views of 20 patients, with {lesions[0]} abnormal and {lesions[1]} normal" in text
    assert "These scans are simulated" in text and "Not for diagnosis." in text
    path = runs[0] / "evaluation" / "test.json"
    other = {"data": "bs80k", "same_data": False}
    path.write_text(json.dumps(json.loads(path.read_text()) | other))
    text = read(runs[:1])
    assert "The test scans of bs80k" in text and "These scans are simulated" not in text
    assert "it may hold patients of the training" in text


def test_of_a_cross_validation_all_folds_stand_beside_each_other(tmp_path, monkeypatch):
    show_pictures(monkeypatch, GOOD)
    folds = [GOOD[:20], GOOD[20:]]
    for number, rows in enumerate(folds):
        place = tmp_path / f"fold_{number}"
        write_training(place, {"data": {"fold": number}})
        write_evaluation(place, rows, details(rows))
    summary = {"dice_abnormal": 0.25, "pooled_dice_abnormal": 0.75, "folds": 2, "images": 40}
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "crossvalidation.json").write_text(json.dumps(summary))
    rows = [row._replace(pixels={"selected": row.pixels["mean"]}) for row in GOOD]
    about = {"split": "crossvalidation", "selected": "selected"}
    write_rows(tmp_path / "evaluation" / "crossvalidation.rows.jsonl", about, rows)
    result = write_report([tmp_path])
    assert result["report"] == str(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    name = tmp_path.name
    figures, _ = table(text, "Headline figures")
    assert list(figures) == [name, f"{name}, pooled", f"{name}, fold 0", f"{name}, fold 1"]
    assert (figures[name][2], figures[f"{name}, pooled"][2]) == ("0.250", "0.750")
    assert table(text, "Settings that differ")[0] == {"data.fold": ["0", "1"]}
    page = data(text)
    assert len(page["runs"]) == 1 and len(page["scans"]) == 20
    assert page["scans"][0]["patient"] == 0 and page["runs"][0]["scans"][0]["dice"][0] is not None
    chosen = [details(each)["thresholds"]["candidates"]["abnormal"] for each in folds]
    assert page["runs"][0]["thresholds"]["abnormal"] == pytest.approx(sum(chosen) / 2)


def test_an_ensemble_has_a_page_with_the_settings_of_its_first_run(runs, tmp_path):
    members = [
        {"workdir": f"moved/from/{name}", "step": 7 + place, "predictor": "mean"}
        for place, name in enumerate(("good", "absent"))
    ]
    write_evaluation(
        tmp_path / "good+absent", GOOD, FIGURES["good"], {"members": members, "step": None}
    )
    text = read([tmp_path / "good+absent"])
    rows, _ = table(text, "Headline figures")
    assert rows["good+absent"][-1] == "2 runs as one, steps 7, 8"
    assert "Several runs predict as one; settings are those of the first" in text
    assert "model.levels" in text and len(data(text)["scans"]) == 20


def test_a_run_names_its_figures_on_other_data(runs):
    write_evaluation(
        runs[0] / "on_hospital_bs80k",
        POOR,
        FIGURES[EVIL],
        {"split": "all", "data": "bs80k", "data_dir": "/hospital"},
    )
    rows, _ = table(read(runs[:1]), "The same networks on other data")
    (cells,) = rows.values()
    auc = FIGURES[EVIL]["patients"]["auc"]["value"]
    assert cells[4].startswith(f"{auc:.3f}")
    assert "All scans of bs80k in /hospital: 40 views of 20 patients" in read(runs[:1])
    assert "Headline figures" in read([runs[0] / "on_hospital_bs80k"])
