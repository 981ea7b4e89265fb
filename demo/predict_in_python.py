"""The end of the demo: what its model says about one CT, asked from Python. Arguments: model, CT, output folder."""

import sys

from nnunetv2_clip import load_model

model = load_model(sys.argv[1])
result = model.predict(sys.argv[2], classes=["liver", "spleen"])
for name, mask in result.items():
    print(f"{name}: {mask.sum()} of {' x '.join(map(str, mask.shape))} voxels")
for row in result.statistics():
    print(f"{row['class']}: {row['volume_ml']:.0f} ml at {row['mean_hu'] or 0:.0f} HU")
print("written:", *result.save(sys.argv[3], outputs=["labels", "masks"]))
