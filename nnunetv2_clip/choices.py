"""Facts that the command line shows and the library takes from here; no imports, so that --help is fast."""

# What is named in default of -tr, -p, -c and -chk.
TRAINER = "CLIPUniversalTrainer"
PLANS = "nnUNetResEncUNetLPlans_torchres"
STOCK_PLANNER = "nnUNetPlannerResEncL_torchres"  # nnU-Net's own, whose plans have this name as well
CONFIGURATION = "3d_fullres"
CHECKPOINT = "checkpoint_final.pth"

# What `plan -pl` offers -> the planner's place below plans/.
PLANNERS = {
    "resenc_l": "planners.ResEncLPlanner",
    "resenc_m": "planners.ResEncMPlanner",
    "resenc_xl": "planners.ResEncXLPlanner",
    "unet": "planners.TorchPlanner",
    "small": "planners.SmallPlanner",
    "paper": "paper.PaperPlanner",
    "paper_swin": "paper.PaperSwinPlanner",
    "published_unet": "paper.PublishedUNetPlanner",
    "published_swin": "paper.PublishedSwinPlanner",
}

# How a training starts from a trained model (training/extension.py).
MODES = FROZEN, FINE_TUNE, TRANSFER = ("frozen", "fine-tune", "transfer")

# What a prediction writes (inference/outputs.py).
OUTPUTS = ("labels", "masks", "statistics", "preview", "msd", "ct", "dicom_seg")

# Structures of TotalSegmentator for which `totalsegmentator-group` writes tables.
TOTALSEGMENTATOR_GROUPS = ("organs", "vertebrae", "cardiac", "muscles")

# When a lesion is found (evaluation/lesions.py), and when a patient is suspected (evaluation/detection.py).
OVERLAP_RULES = FRACTION, IOU = ("fraction", "iou")
PATIENT_RULES = ANY, OVERLAP = ("any", "overlap")

# What two models are compared by (evaluation/comparison.py), and the paper's tables (evaluation/paper/published.py).
COMPARED_METRICS = ("Dice", "NSD", "HD95")
PAPER_TABLES = ("btcv", "msd", "ircadb", "jhh", "totalsegmentator")
FIRST, UNKNOWN = CONTRADICTIONS = ("first", "unknown")  # where two sources of a scan contradict each other
