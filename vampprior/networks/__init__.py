"""Posteriors and decoders: multilayer perceptrons in `mlp`, gated convolutions in `conv`."""
