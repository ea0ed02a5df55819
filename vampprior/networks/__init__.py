"""Posteriors and decoders: perceptrons in `mlp`, gated convolutions in `conv`, residual networks in `resnet`."""
