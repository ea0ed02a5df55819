"""Many recipes on one machine, several at a time."""
