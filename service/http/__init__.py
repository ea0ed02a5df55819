"""The HTTP side: what comes in is checked, what goes out is an answer or a problem."""
