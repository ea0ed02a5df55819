"""Online service: checkpoints in, answers over HTTP out."""
