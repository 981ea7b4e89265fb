"""The command line: help without heavy imports, messages without traceback, exit code 2."""

import pytest

from nnunetv2_clip.cli import COMMANDS, command_module, main


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert "usage:" in capsys.readouterr().out
    assert callable(command_module(name).run)


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
