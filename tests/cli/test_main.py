"""The command line: exit codes, one JSON line, one sentence, help without waiting."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bonescan_jax.cli.flags import expand_home
from bonescan_jax.cli.main import main
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


def test_home_is_expanded_in_flags(monkeypatch: pytest.MonkeyPatch):
    """A shell does that only where a word begins, and not in --workdir=~/run."""
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_home("--workdir=~/run") == "--workdir=/home/me/run"
    assert expand_home("--config.data.dir=~/data") == "--config.data.dir=/home/me/data"
    for other in ("--workdir=run~", "~/file", "--seed", "--out=/a/~/b"):
        assert expand_home(other) == other
