"""CLIPUniversalTrainer: fills nnU-Net's hooks; the arithmetic is in networks/ and losses/."""

# Shapes: B cases, K classes, P annotated (case, class) pairs.

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import compress
from pathlib import Path

import numpy as np
import torch
from nnunetv2.configuration import default_num_processes
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, autocast, nn
from torch import distributed as dist

from nnunetv2_clip.device import compiles_on
from nnunetv2_clip.errors import UserError, exit_on_user_error
from nnunetv2_clip.evaluation.summary import masked_summary
from nnunetv2_clip.files import replacing
from nnunetv2_clip.labels import UNKNOWN, class_names, classes_of_regions
from nnunetv2_clip.losses.masked import Losses, MaskedLoss, deep_supervision_weights, world_size
from nnunetv2_clip.losses.pair_sums import membership_table, pair_sums
from nnunetv2_clip.manifest import FILE_NAME as MANIFEST_FILE
from nnunetv2_clip.manifest import Manifest
from nnunetv2_clip.networks.pairs import Pairs, send
from nnunetv2_clip.networks.universal import bare_network
from nnunetv2_clip.paths import nnunet_folder
from nnunetv2_clip.text.table import TextTable
from nnunetv2_clip.trained_model import PLANS_KEY, RULES_ENTRY, ModelTables
from nnunetv2_clip.training import class_log
from nnunetv2_clip.training.checks import check_batch_feeds_all, check_cases, check_labels_agree, check_same_text
from nnunetv2_clip.training.class_log import ClassCounts
from nnunetv2_clip.training.distributed import device_of_this_process, join_processes, share_of_rank, wrap_network
from nnunetv2_clip.training.extension import Extension, start_file, text_file
from nnunetv2_clip.training.final_validation import FinalValidation
from nnunetv2_clip.training.forced_patches import ClassDraw, ForcedPatches
from nnunetv2_clip.training.known_voxels import KnownVoxels
from nnunetv2_clip.training.laterality_axis import mirror_axes_without_left_right
from nnunetv2_clip.training.sampling import case_probabilities, repeat_by_probability
from nnunetv2_clip.training.spatial_transform import with_fast_labels
from nnunetv2_clip.training.universal_plans import universal_plans


class CLIPUniversalTrainer(nnUNetTrainer):
    """One network for all classes of a partly labelled dataset.

    Needs `label_presence.json` (nnunetv2_clip convert) and `text_embeddings.npz` (nnunetv2_clip embed) in the
    preprocessed folder of the dataset; takes any stock plans.
    """

    # Settings that a variant overrides.
    sampling_balance = 0.5  # 0: cases uniformly, 1: datasets and classes uniformly (training/sampling.py)
    patch_balance = 1.0  # of forced patches; 0: classes of a case uniformly, 1: by weight (training/forced_patches.py)
    max_bad_steps = 25  # this many non-finite losses in a row stop the run

    # What nnU-Net sets to None until `initialize`, or calls something wider.
    network: nn.Module
    loss: MaskedLoss
    optimizer: torch.optim.Optimizer
    output_folder: str
    output_folder_base: str
    preprocessed_dataset_folder: str
    preprocessed_dataset_folder_base: str

    def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict, device=torch.device("cuda")):
        with exit_on_user_error():
            folder = nnunet_folder("nnUNet_preprocessed") / plans["dataset_name"]
            self.classes = class_names(dataset_json["labels"])
            self.manifest = Manifest.load(folder / MANIFEST_FILE)
            check_labels_agree(self.manifest, self.classes, folder)
            self.extension = Extension.of_plans(plans)
            self.text = self._text_table(text_file(folder, plans))
            counts = self.manifest.count_cases()
            plans = universal_plans(plans, configuration, self.text, self.manifest.taxonomy, counts)
            join_processes(device)
            super().__init__(plans, configuration, fold, dataset_json, device)
            check_same_text(Path(self.output_folder_base), self.text)
        self.device = device_of_this_process(device, self.device)
        if self.device.type != "cuda":
            self.grad_scaler = None
        self._bad_steps = 0
        self._known_voxels = KnownVoxels(self.manifest, dataset_json["labels"], dataset_json.get(UNKNOWN))
        self.class_counts = ClassCounts(len(self.classes), self.device)
        self._set_up()

    def _set_up(self) -> None:
        """For variants: what is to be other than in nnU-Net (epochs, learning rate, ...)."""

    def _text_table(self, path: Path) -> TextTable:
        """The text embeddings of the classes."""
        return TextTable.load(path).restricted(self.classes)

    # ---------------------------------------------------------------- building

    def initialize(self):
        # nnU-Net would wrap the network for GPU number `rank`, which on a second node does not exist.
        several, self.is_ddp = self.is_ddp, False
        with exit_on_user_error():
            check_batch_feeds_all(self.configuration_manager.batch_size, world_size())
        if self.extension:
            self.initial_lr *= self.extension.learning_rate_factor
        with exit_on_user_error():  # a backbone whose package is not installed
            super().initialize()
        if self.extension:
            with exit_on_user_error():
                self.extension.begin(bare_network(self.network), self.text, self._start_file)
        self.is_ddp = several
        if several:
            self._set_batch_size_and_oversample()
            self.network = wrap_network(self.network, self.device)
        with exit_on_user_error():
            trained = self._trained_classes()
        self.trained = np.array([name in trained for name in self.classes])
        bare_network(self.network).set_classes(torch.from_numpy(self.text.vectors), torch.from_numpy(self.trained))
        class_log.fill_up(self._log, len(self.classes), 0)

    def _do_i_compile(self):
        return super()._do_i_compile() and compiles_on(self.device)

    def _trained_classes(self) -> set[str]:
        """The classes to which some training case of this fold gives loss, or that the old model knew.

        Raises:
            UserError: there is none.
        """
        names = set().union(*(self.manifest.case(str(case_id)).supervised for case_id in self.do_split()[0]))
        names &= self._learning
        if not names:
            raise UserError(
                f"{self.manifest.where}, fold {self.fold}",
                "no training case of this fold supervises any class" + (" that would learn" if self.extension else ""),
                "an annotated class in at least one training case",
                "train another fold, or look at 'annotated' in the manifest",
            )
        return names.union(self.extension.known if self.extension else ())

    @property
    def _learning(self) -> set[str]:
        """The classes whose loss changes something."""
        is_learning = self.extension.gives_loss(self.classes) if self.extension else np.ones(len(self.classes), bool)
        return set(compress(self.classes, is_learning))

    def on_train_start(self):
        if not self.was_initialized:
            self.initialize()
        if self.extension:  # a checkpoint may have been loaded since
            with exit_on_user_error():
                self.extension.check_frozen(bare_network(self.network), self._start_file)
        # nnU-Net keeps a checkpoint for --c every 50 epochs: of shorter recipes it would never keep one.
        self.save_every = min(self.save_every, max(1, self.num_epochs // 10))
        if self.local_rank == 0:
            self._keep_learned_rules()
        super().on_train_start()

    def _keep_learned_rules(self) -> None:
        """nnU-Net replaces the model's plans.json; the rules of `learn-postprocessing` in it are to stay."""
        with exit_on_user_error():
            rules = ModelTables.beside(Path(self.output_folder_base)).rules
        if rules:
            self.plans_manager.plans[PLANS_KEY][RULES_ENTRY] = rules
            self.print_to_log_file(
                "plans.json keeps the rules of 'nnunetv2_clip learn-postprocessing': learn anew after this training"
            )

    @property
    def _start_file(self) -> Path:
        return start_file(Path(self.preprocessed_dataset_folder_base), self.plans_manager.plans_name)

    def _build_loss(self):
        num_scales = len(self._get_deep_supervision_scales() or [1])
        return MaskedLoss(
            membership_table(self.dataset_json["labels"], self.dataset_json.get(UNKNOWN)),
            self.label_manager.ignore_label,
            deep_supervision_weights(num_scales),
            self.configuration_manager.batch_dice,
        ).to(self.device)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        rotation, dummy_2d, initial_patch_size, mirror_axes = (
            super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        reader = self.plans_manager.image_reader_writer_class.__name__
        mirror_axes = mirror_axes_without_left_right(mirror_axes, self.plans_manager.transpose_forward, reader)
        # Stored in the checkpoint, obeyed at prediction, where nnU-Net takes None for no axis and fails on ().
        self.inference_allowed_mirroring_axes = mirror_axes or None
        self.print_to_log_file(f"mirroring along axes {mirror_axes}: never along left-right")
        return rotation, dummy_2d, initial_patch_size, mirror_axes

    # The workers keep ONE label map per scale: regions are not handed on (see losses/pair_sums.py).

    @staticmethod
    def get_training_transforms(*arguments, regions=None, **options):
        return with_fast_labels(nnUNetTrainer.get_training_transforms(*arguments, **options))

    @staticmethod
    def get_validation_transforms(*arguments, regions=None, **options):
        return nnUNetTrainer.get_validation_transforms(*arguments, **options)

    def get_tr_and_val_datasets(self):
        training, validation = super().get_tr_and_val_datasets()
        with exit_on_user_error():
            return self._balanced(training, is_training=True), self._balanced(validation, is_training=False)

    def _balanced(self, dataset, is_training: bool) -> ForcedPatches:
        """A dataset of nnU-Net whose loader draws cases, and what a patch is placed at, by their weight."""
        check_cases(self.manifest, self.dataset_json["labels"], dataset)
        teaches = {case_id: self._teaches(case_id, is_training) for case_id in dataset.identifiers}
        case_ids = [case_id for case_id, names in teaches.items() if names] or list(teaches)
        if is_training and len(case_ids) < len(teaches):
            self.print_to_log_file(f"{len(teaches) - len(case_ids)} cases teach nothing (yet) and are not drawn")
        probabilities = case_probabilities(case_ids, self.manifest, self.sampling_balance)
        # An array, from which numpy draws without making one at each draw.
        dataset.identifiers = repeat_by_probability(case_ids, probabilities)
        shown = {case_id: teaches[case_id].difference(self.manifest.case(case_id).absent) for case_id in case_ids}
        draw = ClassDraw.of(list(shown.values()), probabilities, self.manifest.taxonomy, self.patch_balance)
        regions = classes_of_regions(self.dataset_json["labels"])
        counts = self.class_counts.forced if is_training else None
        return ForcedPatches(dataset, regions, shown, draw, counts)

    def _teaches(self, case_id: str, is_training: bool) -> frozenset[str]:
        """The classes that give loss in a case, or in validation are measured."""
        case = self.manifest.case(case_id)
        if is_training:
            return case.supervised & self._learning
        return case.known.intersection(compress(self.classes, self.trained))

    # ---------------------------------------------------------------- one step

    def _to_device(self, batch: dict) -> tuple[Tensor, list[Tensor], Pairs]:
        """Image (B, C, *spatial), label maps per scale (B, 1, *spatial), the pairs that give loss."""
        target = batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
        send = lambda tensor: tensor.to(self.device, non_blocking=True)  # noqa: E731
        return send(batch["data"]), [send(scale) for scale in target], self._pairs(batch["keys"])

    def _pairs(self, case_ids: Sequence[str]) -> Pairs:
        """The pairs that give loss, and what is known of them; with weights in training where the dataset has pseudo
        labels.
        """
        presence = torch.from_numpy(self._presence(case_ids))
        if self.extension and self.network.training:
            presence[:, torch.from_numpy(~self.extension.gives_loss(self.classes))] = 0
        pairs = Pairs.of(presence.nonzero(), self.device)
        pairs = replace(pairs, known=self._known_values(case_ids, pairs))
        if not (self.network.training and self.manifest.has_pseudo_labels):
            return pairs  # without weights: the faster way
        weights = torch.from_numpy(self.manifest.weights(case_ids, self.classes))
        # A variant may supervise what nobody has labelled.
        return replace(pairs, weights=pairs.pick(torch.where(weights > 0, weights, 1)))

    def _known_values(self, case_ids: Sequence[str], pairs: Pairs) -> Tensor | None:
        """(P, V) bool, the label values whose voxels are known for each pair; None: all."""
        return self._known_voxels.of(case_ids, pairs)

    def _presence(self, case_ids: Sequence[str]) -> np.ndarray:
        """(B, K) bool: which classes give loss in which case.

        In training incomplete classes and pseudo labels as well; in validation known truth alone, of the classes that
        this fold trains: the others are never predicted, and their constant logit says nothing about the training.
        """
        if self.network.training:
            return self.manifest.weights(case_ids, self.classes) > 0
        return self.manifest.presence(case_ids, self.classes) & self.trained

    def _autocast(self):
        return autocast("cuda") if self.device.type == "cuda" else nullcontext()

    def _logits(self, image: Tensor, pairs: Pairs) -> list[Tensor]:
        logits = self.network(image, pairs)
        return list(logits) if isinstance(logits, list | tuple) else [logits]

    # The processor waits for the device where it reads a value: the loss, the norm of the gradient, the scaler's flag;
    # with several processes what they have agreed on. Everything else is decided in main memory (`Pairs.on_cpu`).

    def train_step(self, batch: dict) -> dict:
        image, label_maps, pairs = self._to_device(batch)
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            losses = self.loss.of_pairs(self._logits(image, pairs), label_maps, pairs)
        loss_value = losses.mean.detach().cpu().numpy()
        something_to_learn, finite = _over_ranks(len(pairs) > 0, bool(np.isfinite(loss_value)), self.device)
        if not finite:
            self._count_bad_step()
        elif something_to_learn and self._update_weights(losses.mean):
            self._bad_steps = 0
            self._count(pairs, losses)
        return {"loss": loss_value if finite and something_to_learn else np.array(np.nan)}

    def _update_weights(self, loss: Tensor) -> bool:
        """One optimizer step with the gradient clipped at 12, as nnU-Net does; False where it was a bad step.

        The gradient, and so the decision, is the same on all ranks. A scaler leaves out such steps by itself and halves
        its factor: from nnU-Net's first factor (2^16) down to less than 1 takes fewer than `max_bad_steps`.
        """
        scaler = self.grad_scaler
        (loss if scaler is None else scaler.scale(loss)).backward()
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        finite = bool(torch.isfinite(nn.utils.clip_grad_norm_(self.network.parameters(), 12)))
        if scaler is not None:
            scaler.step(self.optimizer)
            scaler.update()
        elif finite:
            self.optimizer.step()
        if not finite:
            self._count_bad_step("gradient" if scaler is None else "gradient (mixed precision lowers its factor)")
        return finite

    def _count(self, pairs: Pairs, losses: Losses) -> None:
        """Remember for the log what each class has got in this step."""
        self.class_counts.add(pairs, losses)

    def _count_bad_step(self, what: str = "loss") -> None:
        """The step is skipped: no gradient of a non-finite loss ever reaches the weights."""
        self._bad_steps += 1
        self.print_to_log_file(f"non-finite {what}: step skipped ({self._bad_steps} in a row)")
        if self._bad_steps >= self.max_bad_steps:
            with exit_on_user_error():
                raise UserError(
                    f"epoch {self.current_epoch}",
                    f"loss or gradient was not finite {self._bad_steps} times in a row",
                    "a finite loss and a finite gradient",
                    "look for NaN in the images (nnUNetv2_plan_and_preprocess --verify_dataset_integrity), then "
                    "continue from the last checkpoint with --c; if it happens again, with a trainer of your own that "
                    "has a lower initial_lr",
                )

    def validation_step(self, batch: dict) -> dict:
        image, label_maps, pairs = self._to_device(batch)
        with self._autocast():
            logits = self._logits(image, pairs)
            loss = self.loss(logits, label_maps, pairs)
        counts = _true_false_counts(logits[0], label_maps[0], pairs, self.loss, len(self.classes))
        # No loss without a pair; all ranks know alike (as in training), so that the mean over batches is the same.
        learnt = _over_ranks(len(pairs) > 0, True, self.device)[0]
        return {"loss": loss.detach().cpu().numpy() if learnt else np.array(np.nan), **counts}

    # ---------------------------------------------------------------- one epoch

    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        if self.extension:
            self.extension.keep_still(bare_network(self.network))

    def on_train_epoch_end(self, train_outputs: list[dict]):
        learnt = [output for output in train_outputs if not np.isnan(output["loss"])]
        if not learnt:
            self.print_to_log_file("WARNING: no batch of this epoch had an annotated class and a finite loss")
        super().on_train_epoch_end(learnt or [{"loss": np.array(np.nan)}])
        for key, values in self.class_counts.end_epoch().items():
            self.logger.log(key, values, self.current_epoch)

    @property
    def _log(self) -> dict[str, list]:
        """nnU-Net's own log of the training: key -> a value for each epoch."""
        return self.logger.local_logger.my_fantastic_logging

    def on_validation_epoch_end(self, val_outputs: list[dict]):
        losses = [output["loss"] for output in val_outputs if not np.isnan(output["loss"])]
        for output in val_outputs:  # a batch without annotated class has none and does not count
            output["loss"] = np.mean(losses) if np.isnan(output["loss"]) and losses else output["loss"]
        # A class without voxels in prediction and reference has Dice 0/0: NaN, which the mean leaves out.
        with np.errstate(invalid="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            super().on_validation_epoch_end(val_outputs)
        log = self._log
        for key in ("mean_fg_dice", "ema_fg_dice"):  # nothing measurable: keep the last value, NaN would stay
            if np.isnan(log[key][-1]):
                log[key][-1] = log[key][-2] if len(log[key]) > 1 else 0.0

    def on_epoch_end(self):
        known = self.extension.known if self.extension else ()
        for number, line in enumerate(class_log.lines(self._log, self.classes, self.trained, known)):
            self.print_to_log_file(line, add_timestamp=number == 0)
        super().on_epoch_end()
        if self.local_rank == 0:
            class_log.write(self.output_folder, self._log, self.classes, self.trained, self.current_epoch)

    # ---------------------------------------------------------------- checkpoints

    def save_checkpoint(self, filename: str) -> None:
        """Whole or not there: a run that is killed while it writes keeps the checkpoint before."""
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)  # which then writes nothing
            return
        with replacing(filename) as beside:
            super().save_checkpoint(str(beside))

    def load_checkpoint(self, filename_or_checkpoint):
        super().load_checkpoint(filename_or_checkpoint)
        class_log.fill_up(self._log, len(self.classes), self.current_epoch)

    # ---------------------------------------------------------------- the end of the training

    def perform_actual_validation(self, save_probabilities: bool = False):
        """As nnU-Net's; see training/final_validation.py for the difference."""
        folder = Path(self.output_folder) / "validation"
        self.set_deep_supervision_enabled(False)
        final = FinalValidation(self, bare_network(self.network), folder, save_probabilities)
        self.set_deep_supervision_enabled(True)
        cases = self.do_split()[1]
        assert self.dataset_class is not None  # do_split has set it
        dataset = self.dataset_class(self.preprocessed_dataset_folder, cases)
        for case_id in share_of_rank(cases):
            self.print_to_log_file(f"predicting {case_id}")
            data, _, _, properties = dataset.load_case(case_id)
            final.predict(case_id, data, properties)
        if self.local_rank == 0:
            self._write_masked_summary()
            self.print_to_log_file("Validation complete")

    def _write_masked_summary(self) -> None:
        """summary.json in nnU-Net's format, with each class counted only in the cases that annotate it."""
        validation = Path(self.output_folder) / "validation"
        summary = masked_summary(
            Path(self.preprocessed_dataset_folder_base) / "gt_segmentations",
            validation,
            self.dataset_json,
            self.manifest,
            validation / "summary.json",
            default_num_processes,
        )
        for name, (key, metrics) in zip(self.classes, summary["mean"].items(), strict=True):
            self.logger.log_summary(f"final_val/class_{key}_dice", metrics["Dice"])
            if not np.isnan(metrics["Dice"]):
                self.print_to_log_file(f"  {name:26s} Dice {metrics['Dice']:.4f}", add_timestamp=False)
        mean = summary["foreground_mean"]["Dice"]
        self.logger.log_summary("final_val/foreground_dice", mean)
        self.print_to_log_file(f"Mean Validation Dice over annotated classes: {mean}")


def _over_ranks(any_pairs: bool, finite: bool, device: torch.device) -> tuple[bool, bool]:
    """Does any rank have a pair, and do all ranks have a finite loss: all ranks must take the same decision."""
    if world_size() == 1:
        return any_pairs, finite
    flags = send(torch.tensor([float(any_pairs), float(not finite)]), device)
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    any_pairs, bad = map(bool, flags.tolist())
    return any_pairs, not bad


def _true_false_counts(
    logits: Tensor, label_map: Tensor, pairs: Pairs, loss: MaskedLoss, num_classes: int
) -> dict[str, np.ndarray]:
    """(K,) true positives, false positives and false negatives over the annotated pairs; 0 for all other classes."""
    sure = torch.where(logits > 0, 1e4, -1e4)  # their sigmoid is exactly 1 and 0
    sums = pair_sums(sure, label_map, pairs, loss.membership, loss.ignore, loss.known_values(pairs))
    per_pair = torch.stack((sums.overlap, sums.probability - sums.overlap, sums.target - sums.overlap)).cpu().numpy()
    classes, keys = pairs.on_cpu[:, 1].numpy(), ("tp_hard", "fp_hard", "fn_hard")
    return {key: np.bincount(classes, values, num_classes) for key, values in zip(keys, per_pair, strict=True)}
