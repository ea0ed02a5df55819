"""The computations: each takes a batch of payloads of one kind, and gives a result for each."""
