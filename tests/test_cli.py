"""The command line: help without heavy imports, messages without traceback, exit code 2."""

import signal
import subprocess
import sys

import pytest

from nnunetv2_clip.cli import COMMANDS, command_module, main


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert "usage:" in capsys.readouterr().out
    assert callable(command_module(name).run)


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['nnunetv2_clip', '--help']\n"
        "from nnunetv2_clip.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'nibabel', 'nnunetv2', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_a_users_mistake_gives_a_message_and_exit_code_2(monkeypatch, capsys):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    monkeypatch.delenv("nnUNet_results", raising=False)
    assert main(["plan", "-d", "900"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("Error: nnUNet_raw")
    assert "Remedy: export nnUNet_raw=" in message
    assert "Traceback" not in message


def test_a_place_that_cannot_be_written_gives_a_message(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["embed", "--encoder", "onehot", "-o", str(tmp_path / "file" / "x.npz")]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"Error: {tmp_path / 'file'}")
    assert "Remedy" in message


@pytest.mark.parametrize(
    ("how", "code", "says"), [("SIGTERM", 143, "Ended by SIGTERM"), ("SIGINT", 130, "Interrupted")]
)
def test_a_signal_is_an_orderly_end(monkeypatch, capsys, how, code, says):
    cleaned = []

    def run(args):
        try:
            signal.raise_signal(getattr(signal, how))
        finally:
            cleaned.append(args.command)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(command_module("classes"), "run", run)
    assert main(["classes"]) == code
    assert cleaned == ["classes"]
    assert f"{says}; run the same command again to go on." in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
