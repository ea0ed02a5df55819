"""The paper's tables and figures, drawn from checkpoints."""
