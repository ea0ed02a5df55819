"""The engine: queues in the front end, and the processes that compute.

`client` is what routes call; `queue` decides what is computed next; `pool` starts, watches and ends the processes;
`loader` is the process that loads the models and forks `worker`s, which run the computations in `jobs`. They speak the
messages of `protocol`. Only `loader`, `worker` and `jobs` import torch.
"""
