"""Data sets: their public source formats, how they are kept, and how they are split."""
