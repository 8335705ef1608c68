"""A small dose of broken input; `fuzz.py --examples=20000` by hand gives the large one."""

import json
import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).with_name("fuzz.py")


def test_broken_input_is_refused_with_a_sentence():
    targets = [f"--target={target}" for target in ("jpeg_file", "dicom_file", "zip")]
    command = [sys.executable, FUZZ, "--examples=70", *targets]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["failures"], done.returncode) == (0, 0), done.stderr
    assert summary["inputs"] > 60  # each share is rounded
    assert summary["slowest_seconds"] < 2
    assert all(target["accepted"] for target in summary["by_target"].values())


def test_a_crash_a_hang_and_an_exception_are_seen(tmp_path):
    """The fuzzer itself: a reader that dies at once is a failure and not a success."""
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "import fuzz\n"
        "fuzz.HANG_SECONDS = 1.0\n"
        "fuzz.ROOT = __import__('pathlib').Path(sys.argv.pop(1))\n"
        "sys.exit(fuzz.main())\n"
    )
    package = tmp_path / "tests" / "fuzz"
    package.mkdir(parents=True)
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    for body, kind in ((crash, "exit code -11"), ("import time; time.sleep(60)", "hang")):
        (package / "child.py").write_text(body)
        command = [sys.executable, "-c", program, str(FUZZ.parent), str(tmp_path)]
        arguments = ["--examples=5", "--target=txt", f"--save={tmp_path / 'saved'}"]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        summary = json.loads(done.stdout.splitlines()[-1])
        assert done.returncode == 1
        (found,) = summary["kinds"]
        assert kind in found
    assert list((tmp_path / "saved").iterdir())
