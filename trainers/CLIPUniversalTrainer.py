"""Found by nnU-Net's search: the trainer and its variants, re-exported.

nnU-Net forgets every module below a searched folder after the search; a class defined here could not be pickled.
"""

from nnunetv2_clip.training.trainer import CLIPUniversalTrainer  # noqa: F401
from nnunetv2_clip.training.variants import (  # noqa: F401
    CLIPUniversalTrainer_1epoch,
    CLIPUniversalTrainer_5epochs,
    CLIPUniversalTrainer_10epochs,
    CLIPUniversalTrainer_20epochs,
    CLIPUniversalTrainer_50epochs,
    CLIPUniversalTrainer_100epochs,
    CLIPUniversalTrainer_250epochs,
    CLIPUniversalTrainer_2000epochs,
    CLIPUniversalTrainerDemo,
    CLIPUniversalTrainerExclusive,
    CLIPUniversalTrainerOneHot,
    CLIPUniversalTrainerPaper,
    CLIPUniversalTrainerRandomText,
    CLIPUniversalTrainerUnmasked,
)
