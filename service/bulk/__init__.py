"""`python -m service score`: log-likelihoods and novelty of many images, with a running service or in process.

`sources` finds the images, `scorers` computes, `journal` keeps what is done across a kill, `outputs` and `report` write
the result. Nothing here imports torch; in process, the engine's own workers compute.
"""
