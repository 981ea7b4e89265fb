#!/usr/bin/env bash
# The whole chain on synthetic CTs: six partly labelled datasets in the Decathlon's layout -> one model -> submission.
# Every command is printed as a user would type it. Size: CASES per dataset, EPOCHS x ITERATIONS of training. DEVICE: cpu,
# cuda.
set -euo pipefail

OUT=$(realpath -m "${1:-demo_output}")
CASES=${CASES:-8} EPOCHS=${EPOCHS:-10} ITERATIONS=${ITERATIONS:-150} DEVICE=${DEVICE:-cpu}

mkdir -p "$OUT"/nnUNet_raw "$OUT"/nnUNet_preprocessed "$OUT"/nnUNet_results
export nnUNet_raw="$OUT/nnUNet_raw" nnUNet_preprocessed="$OUT/nnUNet_preprocessed" nnUNet_results="$OUT/nnUNet_results"
export nnUNet_clip_demo_epochs=$EPOCHS nnUNet_clip_demo_iterations=$ITERATIONS
export nnUNet_def_n_proc=2 nnUNet_n_proc_DA=1 PYTHONWARNINGS=ignore

SECONDS=0
step() { printf '\n\033[1m[%d:%02d] %s\033[0m\n' $((SECONDS / 60)) $((SECONDS % 60)) "$1"; }
run() { printf '\033[36m$ %s\033[0m\n' "$(printf '%s ' "$@" | sed "s|$OUT|demo_output|g")"; "$@"; }

step "1/11 Six partly labelled CT datasets (synthetic), as the Decathlon distributes them"
run nnunetv2_clip phantom -o "$OUT/phantoms" --cases "$CASES" --test-cases 1 --spacing 10 10 12 \
  --layouts msd_liver msd_lung msd_pancreas msd_hepaticvessel msd_spleen msd_colon
mkdir -p "$OUT/msd" "$OUT/truth" "$OUT/test_images"  # one folder with all tasks; the truth of the test patients
for source in "$OUT"/phantoms/msd_*; do
  task=$(basename "$source"/Task*)
  ln -sfn "$source/$task" "$OUT/msd/$task"
  cp "$source/truth/dataset.json" "$OUT/truth/"
  for image in "$source/$task"/imagesTs/[!.]*.nii.gz; do
    name=$(basename "$image" .nii.gz)
    ln -sf "$image" "$OUT/test_images/${name}_0000.nii.gz"  # nnU-Net's naming: channel 0
    cp "$source/truth/$name.nii.gz" "$OUT/truth/"
  done
done

step "2/11 Merge them into one nnU-Net dataset with a label-presence manifest"
run nnunetv2_clip convert -d 900 -np 2 \
  --source msd_liver="$OUT/msd/Task03_Liver" --source msd_lung="$OUT/msd/Task06_Lung" \
  --source msd_pancreas="$OUT/msd/Task07_Pancreas" --source msd_hepaticvessel="$OUT/msd/Task08_HepaticVessel" \
  --source msd_spleen="$OUT/msd/Task09_Spleen" --source msd_colon="$OUT/msd/Task10_Colon"

step "3/11 Text embeddings of the classes (a small sentence encoder that ships with the package; use CLIP for real work)"
run nnunetv2_clip embed -d 900 --encoder minilm

step "4/11 Plan a small network and preprocess"
run nnUNetv2_extract_fingerprint -d 900 -np 2 --verify_dataset_integrity
run nnunetv2_clip plan -d 900 -pl small
run nnUNetv2_preprocess -d 900 -plans_name CLIPSmallPlans -c 3d_fullres -np 2

step "5/11 Train ONE network on all of them ($EPOCHS short epochs on $DEVICE)"
run nnUNetv2_train 900 3d_fullres 0 -tr CLIPUniversalTrainerDemo -p CLIPSmallPlans -device $DEVICE

step "6/11 Predict unseen CTs with nnU-Net's own command"
run nnUNetv2_predict -i "$OUT/test_images" -o "$OUT/predictions" -d 900 -c 3d_fullres -f 0 \
  -tr CLIPUniversalTrainerDemo -p CLIPSmallPlans -device $DEVICE -npp 1 -nps 1

step "7/11 Dice against the full truth of the synthetic patients"
run nnunetv2_clip evaluate -ref "$OUT/truth" -pred "$OUT/predictions"

step "8/11 A Decathlon submission (CT tasks)"
MODEL="$OUT/nnUNet_results/Dataset900_Universal/CLIPUniversalTrainerDemo__CLIPSmallPlans__3d_fullres"
run nnunetv2_clip msd export -i "$OUT/msd" -m "$MODEL" -o "$OUT/submission.zip" --ct-only --overwrite -device $DEVICE

step "9/11 A page to look at"
run nnunetv2_clip report -i "$OUT/test_images" -pred "$OUT/predictions" -ref "$OUT/truth" --log-folder "$MODEL/fold_0" -o "$OUT/report.html"

step "10/11 The same model from Python"
SCRIPT="$(dirname "$0")/predict_in_python.py" CT=$(ls "$OUT"/test_images/*.nii.gz | head -n 1)
sed -n '/^from/,$p' "$SCRIPT"
rm -rf "$OUT/from_python"  # of an earlier training
run python "$SCRIPT" "$MODEL" "$CT" "$OUT/from_python"

step "11/11 A DICOM series in, a DICOM segmentation out"
rm -rf "$OUT/dicom_seg"  # of an earlier training
run nnunetv2_clip phantom -o "$OUT/dicom" --cases 1 --spacing 10 10 12 --layouts chaos
run nnunetv2_clip predict -i "$OUT/dicom/chaos/CHAOS/Train_Sets/CT/1/DICOM_anon" -o "$OUT/dicom_seg" -m "$MODEL" \
  --outputs dicom_seg -device $DEVICE

step "Done."
cat <<EOF
Open      $OUT/report.html
Look at   $OUT/submission.zip
          $MODEL/fold_0/progress.png
          $OUT/from_python
          $OUT/dicom_seg/DICOM_anon_seg.dcm
Next, with your own data:
  nnunetv2_clip convert -d 900 --source msd_liver=/data/Task03_Liver --source custom=my_dataset.yaml
  nnunetv2_clip embed -d 900
  nnUNetv2_plan_and_preprocess -d 900 -pl nnUNetPlannerResEncL_torchres -c 3d_fullres
  nnUNetv2_train 900 3d_fullres 0 -tr CLIPUniversalTrainer -p nnUNetResEncUNetLPlans_torchres
EOF
