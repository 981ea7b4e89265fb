"""The command line: one meaning per option, help without heavy imports, answers to wrong words, exit codes."""

import json
import os
import pydoc
import re
import signal
import subprocess
import sys
from argparse import SUPPRESS
from collections import defaultdict
from contextlib import suppress

import pytest

from nnunetv2_clip import choices
from nnunetv2_clip.cli import COMMANDS, EXIT_CODES, GROUPS, command_module, command_parser, main, overview, parse
from nnunetv2_clip.commands._arguments import SHARED
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.paths import new_dataset_name
from nnunetv2_clip.runner import CasesFailed

HEAVY = {"torch", "numpy", "nibabel", "nnunetv2", "matplotlib", "yaml", "pydantic", "tqdm"}
# Where a shared option cannot say the same: one fold, not several.
ONE_FOLD = {"extend", "paper features"}


def options_of(name):
    return [action for action in command_parser(name)._actions if action.option_strings and action.dest != "help"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*name.split(), "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: nnunetv2_clip {name} " in out and COMMANDS[name][1:40] in " ".join(out.split())
    assert callable(command_module(name).run)


def test_help_is_for_users_in_the_order_of_work_and_ends_with_the_exit_codes(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.split("\n")[2].startswith("One CT segmentation network for many partly labelled datasets")
    positions = [text.index(f"\n{title}\n") for title in (*GROUPS, "Exit codes")]
    assert positions == sorted(positions)
    assert list(GROUPS) == ["Data", "Text", "Train", "Predict", "Evaluate", "Share"]
    assert re.findall(r"^  (\S+(?: \w+)?)  +\S", text, re.M)[: len(COMMANDS)] == list(COMMANDS)
    assert all(f"  {code}  {words}" in text for code, words in EXIT_CODES.items())
    assert max(map(len, text.splitlines())) <= 127


def test_a_groups_help_lists_its_commands_alone(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["msd", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert re.findall(r"^  (msd \w+)", text, re.M) == ["msd export", "msd verify", "msd rehearse"]
    assert "convert" not in text


def test_help_of_no_command_imports_anything_heavy():
    code = (
        "import sys\n"
        "from nnunetv2_clip import choices\n"
        "from nnunetv2_clip.cli import COMMANDS, command_parser, overview\n"
        "overview()\n"
        "for name in COMMANDS: command_parser(name).format_help()\n"
        f"heavy = {HEAVY!r} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_version_and_no_command_at_all(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out.startswith("nnunetv2_clip 0.")
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2 and "usage:" in capsys.readouterr().out


# One meaning per option


def test_an_option_says_the_same_in_every_command():
    seen = defaultdict(dict)
    for name in COMMANDS:
        for action in options_of(name):
            for option in action.option_strings:
                seen[option][name] = (action.help, action.metavar, action.nargs, action.default)
    for option, by_command in seen.items():
        if option not in SHARED:
            assert len(set(map(str, by_command.values()))) == 1, f"{option} means different things: {by_command}"


@pytest.mark.parametrize("option", [option for option in SHARED if option not in ("-i", "-o")])
def test_a_shared_option_begins_with_the_same_words_everywhere(option):
    meaning = re.split(r" \(|[:,]", SHARED[option]["help"])[0]
    for name in COMMANDS:
        for action in options_of(name):
            if option in action.option_strings and not (option == "-f" and name in ONE_FOLD):
                words = action.help.removeprefix("instead of -m: ")
                words = words.replace("new dataset: id", "dataset id")
                assert words.startswith(meaning), f"{name} {option}: {action.help}"


@pytest.mark.parametrize("name", COMMANDS)
def test_defaults_are_written_in_one_way_and_values_have_a_name(name):
    help_text = " ".join(command_parser(name).format_help().split())
    assert not re.search(r"\(default[^:]", help_text)
    assert "%(" not in help_text
    for action in options_of(name):
        takes_value = action.nargs != 0
        assert not takes_value or action.choices or action.metavar, f"{name} {action.option_strings}"
        assert (
            isinstance(action.metavar, tuple)
            or action.metavar is None
            or "=" in action.metavar
            or (action.metavar.replace("|", "").isupper())
        ), action.metavar
        assert "[" not in action.help, f"{name}: {action.help}"
        shown = action.default not in (None, SUPPRESS, "") and action.default is not False and action.default != []
        assert not shown or "(default: " in help_text


@pytest.mark.parametrize(
    ("words", "expected"),
    [([], None), (["-device", "auto"], None), (["-device", "cuda:1"], "cuda:1"), (["-device", "cpu"], "cpu")],
)
def test_device_is_any_text_and_auto_is_none(words, expected):
    assert parse(["predict", "-i", "x", "-o", "y", *words]).device == expected


def test_models_are_named_by_the_recommended_plans():
    args = parse(["predict", "-i", "x", "-o", "y", "-d", "900"])
    assert (args.tr, args.p) == ("CLIPUniversalTrainer", "nnUNetResEncUNetLPlans_torchres")
    assert parse(["learn-postprocessing", "-d", "900"]).p == args.p
    assert parse(["prepare-weights", "-i", "x", "-o", "y", "-d", "900"]).p == args.p


# Wrong words


def refused(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and ".." not in shown.err.replace("...", "")
    return shown.err


@pytest.mark.parametrize("name", COMMANDS)
def test_a_mistyped_command_gets_the_right_one(name, capsys):
    wrong = name[:-2] + name[-1]
    error = refused(capsys, *wrong.split())
    assert error.startswith(f"Error: unknown command {wrong!r}. Did you mean '{name}'?")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_mistyped_option_gets_the_right_one(name, capsys):
    long = [option for action in options_of(name) for option in action.option_strings if len(option) > 5]
    for option in long:
        error = refused(capsys, *name.split(), option[:-2] + option[-1])
        assert "Error: unknown option" in error and f"Did you mean '{option}'?" in error


def test_a_mistyped_word_is_not_taken_for_a_short_option_with_a_value(capsys):
    assert "Did you mean '-device'?" in refused(capsys, "predict", "-i", "x", "-o", "y", "-devise", "cpu")
    assert "unknown option --conti" in refused(capsys, "predict", "-i", "x", "-o", "y", "--conti")


def test_a_wrong_choice_is_answered_with_all_of_them(capsys):
    error = refused(capsys, "predict", "-i", "x", "-o", "y", "--outputs", "lables")
    assert (
        "'lables' is not one of labels, masks, statistics, preview, msd, ct, dicom_seg. Did you mean 'labels'" in error
    )


def test_a_missing_option_is_named(capsys):
    assert "-o" in refused(capsys, "predict", "-i", "x")


# Exit codes, --quiet, --json


@pytest.fixture
def command(monkeypatch):
    """Replaces what `classes` does."""

    def replaced(run):
        monkeypatch.setattr(command_module("classes"), "run", run)

    return replaced


def fail_cases(args):
    args.result = {"failed": ["a"]}
    print("chatter")
    raise CasesFailed("classes", {"a": UserError("a.nii.gz", "is damaged")}, 2)


def refuse(args):
    raise UserError("-x", "is wrong")


def test_exit_codes_are_those_of_the_table(command, capsys):
    for run, code in ((lambda args: None, 0), (lambda args: 1, 1), (refuse, 2), (fail_cases, 3)):
        command(run)
        assert main(["classes"]) == code and code in EXIT_CODES
    assert "1 of 2 cases failed" in capsys.readouterr().err


def test_json_is_the_result_alone_even_where_cases_failed(command, capsys):
    command(fail_cases)
    assert main(["classes", "--json"]) == 3
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"failed": ["a"]}
    assert shown.err.startswith("Error: classes: 1 of 2 cases failed")
    command(refuse)
    assert main(["classes", "--json"]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", [*COMMANDS, ""])
def test_help_fits_a_terminal_and_says_every_default(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = command_parser(name).format_help() if name else overview()
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert "default: )" not in text


def test_quiet_says_nothing_but_errors(command, capsys):
    command(fail_cases)
    assert main(["classes", "--quiet"]) == 3
    shown = capsys.readouterr()
    assert shown.out == "" and "1 of 2 cases failed" in shown.err
    assert main(["classes", "--quiet", "--json"]) == 3
    assert json.loads(capsys.readouterr().out) == {"failed": ["a"]}


def test_progress_bars_are_drawn_on_a_terminal_only_and_never_with_quiet():
    code = (
        "import sys\n"
        "from nnunetv2_clip import cli, commands\n"
        "def run(args):\n"
        "    from nnunetv2_clip.runner import run_cases\n"
        "    return len(list(run_cases(str, [1, 2], 'cases'))) - 2\n"
        "cli.command_module('classes').run = run\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    terminal = "import sys\nsys.stderr.isatty = lambda: True\n"
    runs = [
        subprocess.run([sys.executable, "-c", *words], capture_output=True, text=True, check=True).stderr
        for words in ([terminal + code, "classes"], [terminal + code, "classes", "--quiet"], [code, "classes"])
    ]
    assert "cases: 100%" in runs[0]
    assert runs[1:] == ["", ""]


def test_lists_are_json(capsys):
    assert main(["classes", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 32


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


@pytest.mark.parametrize("command", ["predict -i x -o y", "learn-postprocessing"])
@pytest.mark.parametrize("model", ["", "-m x -d 900"])
def test_a_model_is_named_in_exactly_one_way(command, model, capsys):
    assert main([*command.split(), *model.split()]) == 2
    assert "needs either -m or -d" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["msd export -i x -o x.zip", "msd rehearse -i x"])
@pytest.mark.parametrize("source", ["", "-m x -pred y"])
def test_a_submission_is_made_of_a_model_or_of_predictions(command, source, capsys):
    assert main([*command.split(), *source.split()]) == 2
    assert "needs either -m or -pred" in capsys.readouterr().err


# Facts that the command line shows are those of the library


def test_choices_are_the_librarys_facts():
    from nnunetv2_clip.evaluation.paper.published import PUBLISHED_TABLES
    from nnunetv2_clip.evaluation.results import METRICS

    assert tuple(PUBLISHED_TABLES) == choices.PAPER_TABLES
    assert set(choices.COMPARED_METRICS) < set(METRICS)


def test_the_recommended_plans_are_those_of_the_first_planner_and_of_the_stock_one():
    from nnunetv2.experiment_planning.experiment_planners.resampling import resample_with_torch

    planners = {name: pydoc.locate(f"nnunetv2_clip.plans.{place}") for name, place in choices.PLANNERS.items()}
    assert all(planners.values())
    assert planners[next(iter(planners))].default_plans_name == choices.PLANS
    assert hasattr(resample_with_torch, choices.STOCK_PLANNER)
    assert pydoc.locate(f"nnunetv2_clip.trainers.{choices.TRAINER}.{choices.TRAINER}")


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


def test_a_forked_worker_simply_ends_on_the_signal(monkeypatch):
    """nnU-Net's pools fork, and end their workers by SIGTERM: a worker that handles it may wait for ever."""
    statuses = []

    def run(args):
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
                signal.raise_signal(signal.SIGTERM)
            os._exit(7)
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        statuses.append(os.waitpid(child, 0)[1])

    monkeypatch.setattr(command_module("classes"), "run", run)
    assert main(["classes"]) == 0
    assert [os.WTERMSIG(status) for status in statuses] == [signal.SIGTERM]


@pytest.mark.parametrize(
    "words",
    [
        "evaluate -ref x -pred y -np 0",
        "check --source msd_liver=x --sample 0",
        "convert -d 900 --source msd_liver=x --compression 10",
        "convert -d 900 --source msd_liver=x -num_parts 0",
        "predict -i x -o y -m z -num_parts 2 -part_id 2",
        "predict -i x -o y -m z -num_parts 2 -part_id -1",
        "paper efficiency -m x -o y --repeats 0",
    ],
)
def test_a_number_that_makes_no_sense_is_refused_before_anything_is_read(words, capsys):
    *_, option, value = words.split()
    assert main(words.split()) == 2
    assert capsys.readouterr().err.startswith(f"Error: {option}: {value}. Expected: ")


@pytest.mark.parametrize("option", ["-d", "-o"])
def test_a_new_dataset_has_an_id_that_nnunet_can_read(option):
    assert new_dataset_name(option, "7", "Small") == "Dataset007_Small"
    assert new_dataset_name(option, "Dataset910_Own", "Small") == "Dataset910_Own"
    for wrong in ("1000", "Dataset1000_Large", "0", "90x", "Dataset910_a/b"):
        with pytest.raises(UserError, match=f"^{option}: '{wrong}'"):
            new_dataset_name(option, wrong, "Large")


FORKS = """
import multiprocessing
from nnunetv2_clip.cli import terminated_in_order
with terminated_in_order():
    for _ in range(100):
        with multiprocessing.get_context("fork").Pool(8) as pool:
            pool.map(abs, range(8))
"""


def test_pools_of_forked_workers_end_in_a_command():
    subprocess.run([sys.executable, "-c", FORKS], check=True, timeout=120)


def test_a_current_folder_that_is_gone_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["check", "--source", "btcv=x"]) == 2
    assert "current folder: does not exist any more" in capsys.readouterr().err


def test_names_that_are_not_text_are_printed(tmp_path):
    path = os.fsencode(tmp_path) + b"/a\xff"
    command = [sys.executable, "-m", "nnunetv2_clip", "check", "--partial", "--source", b"btcv=" + path, "-o"]
    os.mkdir(path)
    done = subprocess.run([*command, path + b".html"], capture_output=True, check=False)
    assert done.returncode == 1 and b"a\\udcff" in done.stdout and b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "--source", "btcv=/no/such"], "/no/such: is no folder"),
        (["datasets", "nix"], "datasets nix: no source is called 'nix'"),
        (["convert", "-d", "900", "--source", "btcv=/no/such"], 'export nnUNet_raw="$HOME/x"'),
    ],
)
def test_places_and_names_that_are_not_there(words, message, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_raw", "~/x")
    monkeypatch.setenv("nnUNet_preprocessed", "/tmp/nowhere")
    assert main(words) == 2
    assert message in capsys.readouterr().err
