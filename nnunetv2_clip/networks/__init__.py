"""The network: a backbone of nnU-Net, the controller and the text-driven head."""
