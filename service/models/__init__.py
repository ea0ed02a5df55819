"""The models that answer."""
