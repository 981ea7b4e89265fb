"""`nnunetv2_clip learn-postprocessing`: anatomical rules that raise Dice on the validation cases."""

import argparse

from nnunetv2_clip.commands._arguments import add_model_or_dataset, trained_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_or_dataset(parser)


def run(args: argparse.Namespace) -> int:
    from nnunetv2_clip.inference.learning import learn, write_rules
    from nnunetv2_clip.inference.postprocessing import NOTHING

    model = trained_model("learn-postprocessing", args, written="rules")
    choices = learn(model, args.f, args.chk, args.device)
    write_rules(model, choices, {"folds": args.f or "all", "checkpoint": args.chk})
    print(f"{'class':28}{'cases':>6}{'Dice':>8}{'with rule':>11}  rule")
    for name, choice in choices.items():
        rule = ", ".join(f"{key} {value}" for key, value in choice.rule.to_json().items()) or "-"
        print(f"{name:28}{choice.num_cases:6}{choice.before:8.3f}{choice.after:11.3f}  {rule}")
    kept = sum(choice.rule != NOTHING for choice in choices.values())
    print(f"Kept {kept} rules in {model.where / 'plans.json'}. They are applied by 'predict --postprocess'.")
    return 0
