"""How to train on a few hundred images: settings compared on real sets that need no download."""
