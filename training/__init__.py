"""Offline training: from a data set to a checkpoint with its card."""
