"""The command line: exit codes, one JSON line, one sentence, help without waiting."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bonescan_jax.cli.flags import expand_home
from bonescan_jax.cli.main import _keep_compiled, _parse, main
from bonescan_jax.cli.verbs import VERBS
from tests.layout import write_layout

ROOT = Path(__file__).parents[2]
CONFIG = f"--config={ROOT / 'configs' / 'phantom.py'}"
ONE_DEVICE = "--config.mesh.data=1"


def call(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str, str]:
    code = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bonescan", *arguments])
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code
    output = capsys.readouterr()
    return code, output.out, output.err


def test_help_of_every_verb(capsys: pytest.CaptureFixture):
    code, overview, _ = call(capsys, "--help")
    assert code == 0
    for verb in VERBS:
        assert f"bonescan {verb} " in overview
        code, text, _ = call(capsys, verb, "--help")
        assert (code, text.splitlines()[0]) == (0, f"usage: bonescan {VERBS[verb].usage}")
        assert "--" in text.split("flags:")[1]


def test_help_does_not_load_jax():
    code = "import sys, bonescan_jax.cli.main; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["fly"], "there is no such verb, expected one of phantom, prepare"),
        (["train", "--workdir=w"], "--config is missing"),
        (["train", "--config=nowhere.py", "--workdir=w"], "nowhere.py"),
        (["train", CONFIG, "--config.train.learning_rat=1", "--workdir=w"], "learning_rat"),
        (["train", CONFIG, "--config.train.num_steps=many", "--workdir=w"], "many"),
        (["train", CONFIG, ONE_DEVICE, "--config.data.dir=no", "--workdir=w"], "bonescan prepare"),
        (["train", CONFIG, "--wrkdir=w"], "wrkdir"),
        (["train", CONFIG, "--workdir=w", "stray"], "'stray', expected flags only"),
        (["evaluate", "--workdir=nowhere"], "nowhere: holds no config.json"),
        (["evaluate", "--workdir=w", "--split=exam"], "exam"),
        (["predict", "--workdir=nowhere"], "--input is missing"),
        (["export", "--out=a.npz"], "--workdir is missing"),
        (["export", "--workdir=nowhere", "--out=a.npz"], "nowhere: holds no config.json"),
        (["report", "--workdir=nowhere"], "nowhere"),
        (["prepare", CONFIG, "--source=nowhere"], "nowhere"),
        (["prepare", CONFIG.replace("phantom.py", "bs80k.py")], "--source is missing"),
        (["phantom", "--out=o", "--patients=0"], "patients"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    sentence: str,
):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *arguments)
    message = [line for line in err.splitlines() if line.startswith("bonescan ")]
    assert code == 2
    assert out == ""
    assert sentence in "".join(message), err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_a_verb_ends_with_one_line_of_json(capsys: pytest.CaptureFixture, tmp_path: Path):
    source = write_layout(tmp_path / "source", tuple(range(1, 7)))
    code, out, err = call(
        capsys, "prepare", CONFIG, f"--source={source}", f"--data_dir={tmp_path / 'data'}"
    )
    assert code == 0
    assert json.loads(out.splitlines()[-1])["views"] == 12
    assert "prepare views: 12/12" in err


def test_strict_names_all_defects_and_writes_nothing(capsys: pytest.CaptureFixture, tmp_path: Path):
    source = write_layout(tmp_path / "source", tuple(range(1, 7)))
    image = source / "wholeBodyANT" / "1.jpg"
    image.write_bytes(image.read_bytes()[:5000])
    xml = source / "wholeBodyPOST" / "post" / "3.xml"
    xml.write_text(xml.read_text().replace("Abnormal", "Weird"))
    arguments = ["prepare", CONFIG, f"--source={source}", f"--data_dir={tmp_path / 'data'}"]
    code, out, err = call(capsys, *arguments, "--strict")
    assert (code, out) == (2, "")
    assert "wholeBodyANT/1.jpg" in err
    assert "wholeBodyPOST/post/3.xml" in err
    assert not (tmp_path / "data").exists()


def test_a_table_and_the_json_say_what_was_left_out(capsys: pytest.CaptureFixture, tmp_path: Path):
    source = write_layout(tmp_path / "source", tuple(range(1, 7)))
    (source / "wholeBodyANT" / "1.jpg").write_bytes(b"")
    arguments = ["prepare", CONFIG, f"--source={source}", f"--data_dir={tmp_path / 'data'}"]
    code, out, err = call(capsys, *arguments)
    summary = json.loads(out)
    assert (code, summary["patients"], summary["patients_found"]) == (0, 5, 6)
    assert summary["skipped"] == {"image that cannot be decoded": 1}
    (row,) = [line for line in err.splitlines() if "cannot be decoded" in line]
    assert "skipped" in row
    assert "wholeBodyANT/1.jpg: is no JPEG" in row


def test_of_a_tuple_given_twice_the_last_counts(monkeypatch: pytest.MonkeyPatch):
    given = [CONFIG, "--config.model.filters=1,2", "--config.seed=3", "--config.model.filters=3,4"]
    monkeypatch.setattr(sys, "argv", ["bonescan", "train", *given])
    values, _ = _parse("train", VERBS["train"], given)
    assert values.config.model.filters == (3, 4)
    assert values.config.seed == 3


def test_a_setting_may_stand_apart_from_its_value(monkeypatch: pytest.MonkeyPatch):
    given = [CONFIG, "--config.model.filters", "1,2", "--config.model.filters", "3,4"]
    given += ["--config.data.fold", "-1", "--config.model.deep_supervision", "--workdir", "w"]
    monkeypatch.setattr(sys, "argv", ["bonescan", "train", *given])
    values, rest = _parse("train", VERBS["train"], given)
    assert values.config.model.filters == (3, 4)
    assert values.config.data.fold == -1
    assert values.config.model.deep_supervision
    assert values.workdir == "w"
    assert not rest


@pytest.mark.parametrize(
    ("verb", "others"),
    [
        ("train", [CONFIG, "--workdir=w"]),
        ("evaluate", ["--workdir=w"]),  # has its config from the run
        ("sweep", ["--study=configs/sweeps/rates.py", "--out=o"]),
    ],
)
def test_a_misspelt_setting_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture, verb: str, others: list[str]
):
    code, _, err = call(capsys, verb, *others, "--config.train.learning_rat=1")
    assert code == 2
    assert err == (
        f"bonescan {verb}: --config.train.learning_rat: there is no such setting; "
        "did you mean --config.train.learning_rate?\n"
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"seed": true}', "NameError: name 'true' is not defined; expected a Python file"),
        ("def get_config(:\n", "cfg.py, line 1: is no Python: invalid syntax"),
        ("import nowhere\n", "ModuleNotFoundError: No module named 'nowhere'"),
        ("def get_config():\n    return 1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def get_config():\n    return 3\n", "holds no get_config()"),
        ("def get_config():\n    return {'seed': 3}\n", "holds no get_config()"),
    ],
)
def test_a_config_file_that_is_none_is_answered_with_a_sentence(
    capsys: pytest.CaptureFixture, tmp_path: Path, text: str, sentence: str
):
    (tmp_path / "cfg.py").write_text(text)
    code, out, err = call(capsys, "train", f"--config={tmp_path / 'cfg.py'}", "--workdir=w")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("bonescan train: --config: ")
    assert sentence in err


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), 2, "a/b: Not a directory"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), 2, "File name too long"),
        (OSError(errno.ENOSPC, "No space left on device", "w"), 1, "w: No space left on device"),
        (OSError(errno.EMFILE, "Too many open files"), 1, "Too many open files"),
        (OSError("nothing but words"), 1, "nothing but words"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nand more"), 1, "train.accumulate_steps"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nand more"), 1, "model.remat"),
    ],
)
def test_whatever_disk_or_device_says_is_one_sentence(
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: int,
    sentence: str,
):
    def run(*_: object) -> None:
        raise error

    monkeypatch.setitem(VERBS, "report", VERBS["report"]._replace(run=run))
    found, out, err = call(capsys, "report", "--workdir=w")
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert sentence in err


def shell(command: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs a line of shell in which `bonescan` is this program."""
    function = f'bonescan() {{ "{sys.executable}" -m bonescan_jax "$@"; }}\n'
    return subprocess.run(
        ["bash", "-c", function + command],
        cwd=ROOT,
        env={name: value for name, value in (os.environ | environment).items() if value},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_reader_that_leaves_is_not_worth_a_word():
    done = shell("bonescan --help | true; echo ${PIPESTATUS[0]}; bonescan train --help | head -n1")
    assert done.stdout == f"141\nusage: bonescan {VERBS['train'].usage}\n"
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_standard_output_is_one_sentence():
    done = shell("bonescan --help > /dev/full")
    assert done.returncode == 1
    assert done.stderr == "bonescan --help: standard output: No space left on device\n"


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_a_platform_without_device_is_one_sentence(platform: str):
    script = (
        "import sys, jax; from bonescan_jax.cli.verbs import VERBS; from bonescan_jax.cli.main "
        "import main; VERBS['report'] = VERBS['report']._replace(run=lambda *_: jax.devices()); "
        "sys.argv[1:] = ['report', '--workdir=w']; main()"
    )
    environment = os.environ | {"JAX_PLATFORMS": platform}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"bonescan report: JAX finds no device for JAX_PLATFORMS={platform}")
    assert "Traceback" not in done.stderr


def test_a_user_without_home_has_no_cache(monkeypatch: pytest.MonkeyPatch):
    for name in ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)

    def unknown(uid: int) -> None:
        raise KeyError(f"uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    _keep_compiled()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_home_is_expanded_in_flags(monkeypatch: pytest.MonkeyPatch):
    """A shell does that only where a word begins, and not in --workdir=~/run."""
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_home("--workdir=~/run") == "--workdir=/home/me/run"
    assert expand_home("--config.data.dir=~/data") == "--config.data.dir=/home/me/data"
    for other in ("--workdir=run~", "~/file", "--seed", "--out=/a/~/b"):
        assert expand_home(other) == other
