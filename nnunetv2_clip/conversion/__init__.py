"""The engine of the merge: sources in, one nnU-Net raw dataset with its label-presence manifest out."""
