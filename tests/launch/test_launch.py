"""Launch files: valid, requeued exactly when they should be, and in agreement with themselves."""

import os
import re
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_valid(script: Path):
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)


def fake(folder: Path, **programs: str) -> dict[str, str]:
    """An environment in which these programs are shell scripts of ours."""
    folder.mkdir()
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(stat.S_IRWXU)
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}


def test_setup_takes_the_newest_python_that_runs(tmp_path: Path):
    """Here one of pyenv's: its own name on the PATH does not run."""
    venv = 'mkdir -p .venv/bin; echo "#!" > .venv/bin/python; chmod +x .venv/bin/python'
    runs = f'if [ "$1" = -m ]; then {venv}; echo "$0" > chosen; fi'
    environment = fake(tmp_path / "bin", **{"python3.13": "exit 127", "python3.12": runs})
    (tmp_path / "versions").mkdir()
    for version in ("3.13.9", "3.13.10", "3.11.2"):
        (tmp_path / "versions" / version).mkdir()
        fake(tmp_path / "versions" / version / "bin", **{f"python{version[:4]}": runs})
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    (tmp_path / "launch").mkdir()
    setup = shutil.copy(LAUNCH / "setup.sh", tmp_path / "launch")
    environment |= {"PYENV_ROOT": str(tmp_path), "PYTHON": ""}
    subprocess.run(["bash", setup], env=environment, check=True)
    chosen = (tmp_path / "chosen").read_text()
    assert chosen == f"{tmp_path}/versions/3.13.10/bin/python3.13\n"


def pins(name: str) -> dict[str, set[str]]:
    """Lines of a file of constraints by package."""
    lines = (LAUNCH.parent / name).read_text().splitlines()
    assert all("==" in line for line in lines)  # no header, no address of a registry
    found: dict[str, set[str]] = {}
    for line in lines:
        found.setdefault(line.split("==")[0], set()).add(line.split(" ;")[0])
    return found


def test_every_package_is_pinned():
    project = tomllib.loads((LAUNCH.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for extra, wanted in {"base": project["dependencies"], **extras}.items():
        pinned = pins("constraints-peers.txt" if extra == "peers" else "constraints.txt")
        names = {re.match(r"[\w-]+", each)[0].lower() for each in wanted}
        assert names - {project["name"]} <= set(pinned), extra  # an extra may name another


def test_peers_have_the_pins_of_the_rest_but_cuda_libraries_of_their_own():
    """Those that PyTorch names exactly are others than JAX takes: no environment holds both."""
    rest, peers = pins("constraints.txt"), pins("constraints-peers.txt")
    assert not any(name.startswith(("jax-cuda", "libtpu")) for name in peers)
    shared = {name for name in rest.keys() & peers.keys() if not name.startswith("nvidia-")}
    assert {name: peers[name] for name in shared} == {name: rest[name] for name in shared}
    assert peers["nvidia-cudnn-cu13"] != rest["nvidia-cudnn-cu13"]


@pytest.mark.parametrize(
    ("extras", "code", "made"),
    [("peers", 0, ".venv-peers"), ("test", 0, ".venv"), ("cuda13,peers", 2, None)],
)
def test_peers_get_an_environment_of_their_own(
    tmp_path: Path, extras: str, code: int, made: str | None
):
    python = 'if [ "$1" = -m ]; then mkdir -p $3/bin; cp "$0" $3/bin/python; echo "$@" >> said; fi'
    environment = fake(tmp_path / "bin", mine=python)
    for name in ("pyproject.toml", "constraints.txt", "constraints-peers.txt"):
        (tmp_path / name).touch()
    (tmp_path / "launch").mkdir()
    setup = shutil.copy(LAUNCH / "setup.sh", tmp_path / "launch")
    environment["PYTHON"] = str(tmp_path / "bin/mine")
    ended = subprocess.run(["bash", setup, extras], env=environment, check=False)
    assert ended.returncode == code
    assert [path.name for path in tmp_path.glob(".venv*")] == ([made] if made else [])
    if made:
        pinned = "constraints-peers.txt" if extras == "peers" else "constraints.txt"
        assert f"--constraint {pinned} --editable .[{extras}]" in (tmp_path / "said").read_text()


@pytest.mark.parametrize(
    ("code", "state", "requeued"),
    [
        (75, "RUNNING", True),
        (75, "COMPLETING", False),
        (0, "RUNNING", False),
        (1, "RUNNING", False),
    ],
)
def test_a_slurm_job_goes_back_into_the_queue_only_if_told_to_stop(
    tmp_path: Path, code: int, state: str, requeued: bool
):
    environment = fake(
        tmp_path / "bin",
        srun=f'echo "$@" > {tmp_path}/started; exit {code}',
        squeue=f"echo {state}",
        scontrol=f'echo "$@" > {tmp_path}/requeued',
    )
    arguments = ["--config=a config.py", "--workdir=runs/first"]
    ended = subprocess.run(
        ["bash", LAUNCH / "slurm.sbatch", *arguments],
        env=environment | {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "2"},
        check=False,
    )
    assert ended.returncode == code
    assert (tmp_path / "started").read_text().endswith("bonescan train --config=a config.py "
                                                       "--workdir=runs/first\n")  # fmt: skip
    assert (tmp_path / "requeued").exists() == requeued
    if requeued:
        assert (tmp_path / "requeued").read_text() == "requeue 7\n"


def tpu_vm(*arguments: str, **environment: str) -> str:
    return subprocess.run(
        ["bash", LAUNCH / "tpu_vm.sh", *arguments],
        env=os.environ | environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_a_dry_run_prints_commands_and_runs_none(tmp_path: Path):
    environment = fake(tmp_path / "bin", gcloud=f"touch {tmp_path}/called", git="exit 1")
    for verb in ("create", "install", "run", "fetch", "delete"):
        printed = tpu_vm("--dry-run", verb, "mine", PATH=environment["PATH"])
        assert "gcloud compute tpus tpu-vm" in printed
        assert "mine" in printed
    assert not (tmp_path / "called").exists()


def test_flags_reach_the_training_as_they_were_given(tmp_path: Path):
    """Through two shells: this one and that of the worker."""
    command = 'for last; do :; done; cd "$HOME"; eval "${last#--command=}"'
    environment = fake(tmp_path / "bin", gcloud=command)
    worker = tmp_path / "bonescan/.venv/bin"
    worker.mkdir(parents=True)
    (worker / "bonescan").write_text('#!/bin/bash\nprintf "%s|" "$@"\n')
    (worker / "bonescan").chmod(stat.S_IRWXU)
    flags = ("--workdir=share/runs/a b", "--config.model.filters=(4, 8)")
    said = tpu_vm("run", "mine", *flags, PATH=environment["PATH"], HOME=str(tmp_path))
    assert said == "|".join(["train", "--coordinator=auto", *flags, ""])


def test_queued_machines_each_start_a_worker_as_they_come():
    flags = ("--study=configs/sweeps/rates.py", "--out=/share/a b")
    printed = tpu_vm("--dry-run", "queue", "many", "8", *flags, SHARE="10.0.0.2:/vol")
    assert "mount 10.0.0.2:/vol /share" in printed
    worker = ".venv/bin/bonescan sweep --study=configs/sweeps/rates.py --out=/share/a\\ b"
    assert f"exec {worker}\n" in printed
    assert "queued-resources create many" in printed
    assert "--node-count=8 --node-prefix=many" in printed


@pytest.mark.parametrize(
    ("flags", "kind", "code"),
    [
        (("--workdir=runs/first",), "v5litepod-16", 2),
        (("--workdir", "runs/first"), "v5litepod-16", 2),
        (("--workdir=runs/first",), "v5litepod-8", 0),  # a single machine
        (("--workdir=share/runs/first",), "v5litepod-16", 0),
        (("--workdir=/mnt/runs/first",), "v5litepod-16", 0),
    ],
)
def test_a_workdir_that_machines_do_not_share_is_refused(
    flags: tuple[str, ...], kind: str, code: int
):
    ended = subprocess.run(
        ["bash", LAUNCH / "tpu_vm.sh", "--dry-run", "run", "mine", *flags],
        env=os.environ | {"TYPE": kind},
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == code
    assert ("expected one below share/" in ended.stderr) == (code == 2)


def test_the_kubernetes_job_agrees_with_itself():
    service, job = yaml.safe_load_all((LAUNCH / "gke.yaml").read_text())
    spec, name = job["spec"], job["metadata"]["name"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert environment["JAX_NUM_PROCESSES"] == str(spec["completions"]) == str(spec["parallelism"])
    host = f"{name}-0.{pod['subdomain']}"
    assert environment["JAX_COORDINATOR_ADDRESS"].split(":")[0] == host
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": name}
    again = [rule["action"] for rule in spec["podFailurePolicy"]["rules"]
             if 75 in rule.get("onExitCodes", {}).get("values", ())]  # fmt: skip
    assert again == ["Ignore"]


def test_skypilot_starts_again_when_told_to_stop_and_can_append_to_logs():
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert {mount["mode"] for mount in task["file_mounts"].values()} == {"MOUNT_CACHED"}
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    subprocess.run(["bash", "-n"], input=task["run"], text=True, check=True)


@pytest.mark.parametrize(
    ("code", "state", "requeued"),
    [(75, "RUNNING", True), (75, "COMPLETING", False), (0, "RUNNING", False)],
)
def test_a_worker_of_an_array_puts_itself_back_and_no_other(
    tmp_path: Path, code: int, state: str, requeued: bool
):
    """One task of an array has the number of the whole as its own, so the plain number would do."""
    environment = fake(
        tmp_path / "bin",
        srun=f'echo "$@" > {tmp_path}/started; exit {code}',
        squeue=f"echo {state}",
        scontrol=f'echo "$@" > {tmp_path}/requeued',
    )
    array = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    ended = subprocess.run(
        ["bash", LAUNCH / "sweep.sbatch", "--study=a study.py", "--out=DIR"],
        env=environment | array,
        check=False,
    )
    assert ended.returncode == code
    started = "--kill-on-bad-exit=0 .venv/bin/bonescan sweep --study=a study.py --out=DIR\n"
    assert (tmp_path / "started").read_text() == started
    assert (tmp_path / "requeued").exists() == requeued
    if requeued:
        assert (tmp_path / "requeued").read_text() == "requeue 7_3\n"


def test_a_dry_run_of_an_array_prints_what_a_task_runs():
    ended = subprocess.run(
        ["bash", LAUNCH / "sweep.sbatch", "--dry-run", "--study=FILE", "--out=DIR"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert ended.stdout == (
        "srun --kill-on-bad-exit=0 .venv/bin/bonescan sweep --study=FILE --out=DIR\n"
    )


def test_the_workers_on_kubernetes_agree_with_what_a_worker_says():
    job = yaml.safe_load((LAUNCH / "sweep_gke.yaml").read_text())
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert "completions" not in spec  # a work queue
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    actions = {
        code: rule["action"]
        for rule in spec["podFailurePolicy"]["rules"]
        for code in rule.get("onExitCodes", {}).get("values", ())
    }
    assert actions == {75: "Ignore", 2: "FailJob"}
    assert {rule.get("onExitCodes", {}).get("containerName", container["name"])
            for rule in spec["podFailurePolicy"]["rules"]} == {container["name"]}  # fmt: skip
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in spec["template"]["spec"]["volumes"]}


@pytest.mark.parametrize("name", ["gke.yaml", "sweep_gke.yaml"])
def test_kubernetes_would_take_the_files(name: str):
    for resource in yaml.safe_load_all((LAUNCH / name).read_text()):
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)


def test_a_dry_run_of_a_database_makes_nothing(tmp_path: Path):
    if not shutil.which("initdb") and not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        pytest.skip("needs PostgreSQL's server, as of Debian's package postgresql")
    ended = subprocess.run(
        ["bash", LAUNCH / "postgres.sh", "start", tmp_path / "db", "--dry-run", "--port=5999"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "initdb" in ended.stdout
    assert f"export PGPASSFILE={tmp_path}/db/pgpass" in ended.stdout
    assert "postgresql+psycopg://bonescan@127.0.0.1:5999/bonescan" in ended.stdout
    assert not (tmp_path / "db").exists()


def test_workers_in_a_skypilot_pool_have_what_the_pool_mounts():
    pool, job = (
        yaml.safe_load((LAUNCH / f"sweep_sky_{name}.yaml").read_text()) for name in ("pool", "job")
    )
    assert "run" not in pool  # as SkyPilot asks of a pool, and the others of its jobs
    assert not job.keys() & {"setup", "workdir", "file_mounts", "volumes"}
    assert job["resources"]["accelerators"] == pool["resources"]["accelerators"]
    assert job["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    assert all(f"={mount}/" in job["run"] for mount in pool["volumes"])
    subprocess.run(["bash", "-n"], input=job["run"], text=True, check=True)
