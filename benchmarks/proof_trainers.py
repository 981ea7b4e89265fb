"""The trainers of the experiments: ours, ours without the mask, and nnU-Net's, with everything else equal."""

from __future__ import annotations

import torch


def trainers() -> dict[str, type]:
    """The trainers of the arms; all with AdamW, the same schedule and no augmentation: new patients cost nothing."""
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
    from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA import nnUNetTrainerNoDA

    from nnunetv2_clip.losses.masked import SMOOTH, MaskedLoss
    from nnunetv2_clip.training.trainer import CLIPUniversalTrainer
    from nnunetv2_clip.training.variants import CLIPUniversalTrainerUnmasked

    class AdamW:
        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
            return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    class NoAugmentation(AdamW):
        """What nnUNetTrainerNoDA does, for our trainers."""

        def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
            rotation, do_dummy_2d, *_ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
            self.inference_allowed_mirroring_axes = None
            return rotation, do_dummy_2d, self.configuration_manager.patch_size, None

        def get_training_transforms(self, patch_size, rotation, deep_supervision_scales, *arguments, **options):
            return self.get_validation_transforms(deep_supervision_scales)

    class OverCase:
        """Dice over each case, whatever was planned."""

        batch_dice = False

        def _build_loss(self):
            self.configuration_manager.configuration["batch_dice"] = self.batch_dice
            return super()._build_loss()

    class Masked(NoAugmentation, OverCase, CLIPUniversalTrainer):
        pass

    class Unmasked(NoAugmentation, OverCase, CLIPUniversalTrainerUnmasked):
        pass

    class OverBatch:
        """Dice over the batch, as nnU-Net plans it for 2d, and for 3d_fullres where there is a 3d_lowres as well."""

        batch_dice = True

    class MaskedOverBatch(OverBatch, Masked):
        pass

    class UnmaskedOverBatch(OverBatch, Unmasked):
        pass

    class DiceEverywhere(MaskedLoss):
        """Dice against empty references too, as nnU-Net's loss has it."""

        def _pair_losses(self, sums, dice_sums, pairs):
            overlap, probability, target = dice_sums
            dice = (2 * overlap + SMOOTH) / (probability + target + SMOOTH)
            return (sums.entropy / sums.num_voxels.clamp_min(1) + 1 - dice) * (sums.num_voxels > 0)

    class Everywhere(Masked):
        def _build_loss(self):
            own = super()._build_loss()
            return DiceEverywhere(own.membership, own.ignore, own.weights, own.batch_dice)

    class EverywhereOverBatch(OverBatch, Everywhere):
        pass

    class Specific(AdamW, nnUNetTrainerNoDA):
        """nnU-Net as it is, on the cases of one dataset."""

        source = ""

        def do_split(self):
            own = [case for case in super().do_split()[0] if case.startswith(f"{self.source}_")]
            return own, own

    return {
        "masked": Masked,
        "unmasked": Unmasked,
        "masked_batch": MaskedOverBatch,
        "unmasked_batch": UnmaskedOverBatch,
        "everywhere": Everywhere,
        "everywhere_batch": EverywhereOverBatch,
        "specific": Specific,
    }
