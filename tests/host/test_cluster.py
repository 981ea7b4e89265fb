"""docs/cluster.md on a real Slurm: a controller and two nodes on this machine, started here.

Needs the programs slurmctld and slurmd (Debian: apt-get install slurmctld slurmd), and nothing of their configuration.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from nnunetv2_clip.manifest import Manifest
from tests.host.conftest import FOLDERS, call

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cluster.md"
PROGRAMS = ("slurmctld", "slurmd", "sbatch")
# What this machine has less of than a cluster, and the small network. Each must be on the page.
HERE = {
    "source /shared/venv/bin/activate ": "",
    "/shared/": "$PWD/",
    "PLANS=nnUNetResEncUNetLPlans_torchres TRAINER=CLIPUniversalTrainer": "PLANS=CLIPSmallPlans "
    "TRAINER=CLIPUniversalTrainerDemo",
    "nnunetv2_clip embed -d 900": "nnunetv2_clip embed -d 900 --encoder minilm",
    "nnUNetv2_plan_and_preprocess -d 900 -pl nnUNetPlannerResEncL_torchres -c 3d_fullres \\\n"
    '  -npfp "$SLURM_CPUS_PER_TASK" -np "$SLURM_CPUS_PER_TASK"': "nnUNetv2_extract_fingerprint -d 900 -np 1\n"
    "nnunetv2_clip plan -d 900 -pl small -gpu_memory_target 0.01\n"
    "nnUNetv2_preprocess -d 900 -plans_name CLIPSmallPlans -c 3d_fullres -np 1",
    "--array=0-19": "--array=0-1",
    "--array=0-7": "--array=0-1",
    "--cpus-per-task=48": "",
    "--cpus-per-task=4 ": "",
    "--cpus-per-task=16 ": "",
    "--mem=24G": "",
    "--mem=128G": "",
    "--mem=16G": "",
    "--mem=0": "",
    "#SBATCH --gpus-per-node=4\n": "",
    "#SBATCH --gpus-per-node=1\n": "",
    '"$SLURM_CPUS_PER_TASK"': "1",
    "export nnUNet_n_proc_DA=12": "export nnUNet_n_proc_DA=1",
    "--nproc_per_node 4": "--nproc_per_node 1",
    '"$FIRST:29500"': '"localhost:29517"',  # node1 is no name that leads anywhere
    "-p $PLANS --c": "-p $PLANS -device cpu --c",
    "-p $PLANS --outputs": "-p $PLANS -device cpu --outputs",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(shutil.which(name) is None for name in PROGRAMS), reason=f"not installed: {', '.join(PROGRAMS)}"
    ),
]


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def configuration(folder):
    """Two nodes, both on this machine."""
    host, (controller, first, second) = socket.gethostname().split(".")[0], free_ports(3)
    lines = {
        "ClusterName": "test",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "AuthType": "auth/none",
        "CredType": "cred/none",
        "SlurmUser": "root",
        "SlurmctldPort": controller,
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "slurmd.%n.pid",
        "SlurmdSpoolDir": folder / "spool.%n",
        "StateSaveLocation": folder / "state",
        "SlurmctldLogFile": folder / "slurmctld.log",
        "SlurmdLogFile": folder / "slurmd.%n.log",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core",
        "JobAcctGatherType": "jobacct_gather/none",
        "AccountingStorageType": "accounting_storage/none",
        "MpiDefault": "none",
        "ReturnToService": 2,
    }
    nodes = {"node1": first, "node2": second}
    text = [f"{key}={value}" for key, value in lines.items()]
    text += [f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port}" for name, port in nodes.items()]
    text.append(f"PartitionName=main Nodes={','.join(nodes)} Default=YES MaxTime=INFINITE State=UP")
    (folder / "slurm.conf").write_text("\n".join(text) + "\n")
    for name in ("state", *(f"spool.{node}" for node in nodes)):
        (folder / name).mkdir()
    return folder / "slurm.conf", list(nodes)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A running Slurm; SLURM_CONF points to it."""
    if os.geteuid() != 0:
        pytest.skip("slurmd starts jobs as root only")
    folder = tmp_path / "slurm"
    folder.mkdir()
    file, nodes = configuration(folder)
    monkeypatch.setenv("SLURM_CONF", str(file))
    commands = [["slurmctld", "-D"], *(["slurmd", "-D", "-N", node] for node in nodes)]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for command in commands]
    try:
        wait_for(lambda: output("sinfo", "-h", "-o", "%D %t").split() == ["2", "idle"], 60, folder)
        yield folder
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait()


def output(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout


def wait_for(condition, seconds, folder):
    end = time.monotonic() + seconds
    while not condition():
        logs = "".join(path.read_text()[-1500:] for path in sorted(folder.rglob("*.log")))
        assert time.monotonic() < end, logs
        time.sleep(1)


def scripts():
    """File name -> text, as the page has them."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return {re.search(r"^# (\S+)", block, re.MULTILINE)[1]: block for block in blocks}


def as_run_here(text):
    for there, here in HERE.items():
        text = text.replace(there, here)
    return text


def test_every_job_of_the_page_runs(slurm, tmp_path, monkeypatch):
    found = scripts()
    whole = "".join(found.values())
    assert [there for there in HERE if there not in whole] == []
    assert list(found) == [
        "env.sh", "convert.sbatch", "finish.sbatch", "preprocess.sbatch", "train.sbatch", "predict.sbatch", "submit.sh"
    ]  # fmt: skip
    for name, text in found.items():
        (tmp_path / name).write_text(as_run_here(text))
    for name in FOLDERS:
        (tmp_path / name).mkdir()
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    monkeypatch.setenv("nnUNet_clip_demo_epochs", "1")
    monkeypatch.setenv("nnUNet_clip_demo_iterations", "2")
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    layouts = {"msd_liver": "Task03_Liver", "msd_spleen": "Task09_Spleen"}
    size = ("--cases", 5, "--test-cases", 1, "--spacing", 10, 10, 12)
    call("nnunetv2_clip", "phantom", "-o", tmp_path / "msd", *size, "--layouts", *layouts)
    sources = [{name: f"msd/{name}/{task}"} for name, task in layouts.items()]
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump(sources))
    (tmp_path / "CTS").mkdir()
    for name, task in layouts.items():
        image = next((tmp_path / "msd" / name / task / "imagesTs").glob("[!.]*.nii.gz"))
        shutil.copy(image, tmp_path / "CTS" / f"{name}_0000.nii.gz")

    done = subprocess.run(["bash", "submit.sh"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ended = ("", "DependencyNeverSatisfied")
    wait_for(lambda: set(output("squeue", "-h", "-o", "%r").split()) <= set(ended), 1200, tmp_path)
    said = "".join(f"--- {path.name}\n{path.read_text()[-1500:]}" for path in sorted(tmp_path.glob("slurm-*.out")))
    assert (tmp_path / "PREDICTIONS" / "msd_spleen.nii.gz").is_file(), said
    assert (tmp_path / "PREDICTIONS" / "msd_liver.nii.gz").is_file(), said
    dataset = tmp_path / "nnUNet_raw" / "Dataset900_Universal"
    assert len(Manifest.load(dataset / "label_presence.json").cases) == 10
    assert "The world size is 2." in (tmp_path / "slurm-4.out").read_text(), "the processes of the two nodes met"
