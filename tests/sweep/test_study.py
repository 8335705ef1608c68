"""A study's file is checked whole before anything starts."""

from pathlib import Path

import pytest

from bonescan_jax.errors import InputError
from bonescan_jax.sweep.study import read_study

ROOT = Path(__file__).parents[2]
HEAD = f'CONFIG = "{ROOT}/configs/phantom.py"\n'
LIST = (
    "def sweep(add):\n    for rate in (1e-3, 3e-3):\n        add(**{'train.learning_rate': rate})\n"
)
SEARCH = (
    "TRIALS = 5\ndef search(trial):\n"
    "    return {'train.learning_rate': trial.suggest_float('rate', 1e-4, 1e-2, log=True)}\n"
)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "sweeps").glob("*.py")), ids=str)
def test_the_studies_that_come_with_the_program_can_be_run(path: Path):
    study = read_study(path)
    assert study.trials > 1
    assert study.name == path.stem


def test_a_list_gives_each_point_all_settings_that_any_has(tmp_path: Path):
    text = HEAD + "def sweep(add):\n    add(seed=1)\n    add(**{'train.optimizer': 'adamw'})\n"
    study = read_study(write(tmp_path, text))
    assert study.points == [
        {"seed": 1, "train.optimizer": "muon"},
        {"seed": 0, "train.optimizer": "adamw"},
    ]
    config = study.config_of(study.points[1], "")
    assert (config.seed, config.train.optimizer) == (0, "adamw")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LIST, "CONFIG is missing"),
        (HEAD, "expected one function: sweep(add), which lists trials, or search(trial)"),
        (HEAD + LIST + SEARCH, "expected one function"),
        (HEAD + SEARCH.replace("TRIALS = 5\n", ""), "TRIALS is missing"),
        (HEAD + SEARCH.replace("5", "-5", 1), "TRIALS is -5"),
        (HEAD + "TRIALS = 3\n" + LIST, "TRIALS is given, expected only with search()"),
        (HEAD + "OBJECTIVE = {}\n" + LIST, "sets OBJECTIVE, expected OBJECTIVES"),
        (HEAD + LIST.replace("learning", "lerning"), "did you mean train.learning_rate?"),
        (HEAD + SEARCH.replace("learning", "lerning"), "did you mean train.learning_rate?"),
        (HEAD + LIST.replace("3e-3", "-1"), "trial 1: train.learning_rate is -1"),
        (HEAD + LIST.replace("3e-3", "'fast'"), "train.learning_rate is 'fast'"),
        (HEAD + LIST.replace("3e-3", "1e-3"), "trial 1 has the settings of trial 0"),
        (HEAD + "SETTINGS = {'train.batch': 4}\n" + LIST, "sets train.batch: there is no such"),
        (HEAD + "OBJECTIVES = {'loss': 'minimize'}\n" + LIST, "judges by loss, expected"),
        (HEAD + "OBJECTIVES = {'seconds': 'least'}\n" + LIST, "seconds is 'least', expected max"),
        (HEAD + "CONSTRAINTS = {'memory_gib': 'x'}\n" + LIST, "memory_gib is 'x', expected a numb"),
        (HEAD + "SAMPLER = 'grid'\n" + SEARCH, "SAMPLER is 'grid', expected one of random"),
        (HEAD + "PRUNER = 'median'\n" + SEARCH, "train.eval_every_steps 0, expected validations"),
        (HEAD + "PRUNER = 'wilcoxon'\n" + SEARCH, "wilcoxon compares folds"),
        (
            HEAD + "PRUNER = 'median'\n"
            "OBJECTIVES = {'validation.score': 'maximize', 'seconds': 'minimize'}\n" + SEARCH,
            "expected none with several objectives",
        ),
        (HEAD + "def sweep(add)\n", "line 2: is no Python"),
        (HEAD + "1 / 0\n", "cannot be loaded: ZeroDivisionError"),
        (HEAD + "TRIALS = 2\ndef search(trial):\n    return 1 / 0\n", "search() fails: Zero"),
        (HEAD + "TRIALS = 2\ndef search(trial):\n    return 3\n", "search() returned 3, expected"),
        ("CONFIG = 'nowhere.py'\n" + LIST, "nowhere.py: there is no such file"),
    ],
)  # fmt: skip
def test_a_study_that_cannot_be_is_refused_in_a_sentence(tmp_path: Path, text: str, said: str):
    with pytest.raises(InputError) as error:
        read_study(write(tmp_path, text))
    assert said in str(error.value)
    assert "mine.py" in str(error.value) or "nowhere.py" in str(error.value)
