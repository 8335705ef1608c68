"""What others would use for the same work: MONAI and plain PyTorch. Needs the extra `peers`."""
