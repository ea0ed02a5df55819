"""`python -m service score`: log-likelihoods and novelty of many images, with a running service or in process.

`run` is a whole run: `sources` finds the images, `scorers` computes, `journal` keeps what is done across a kill, and
`outputs` and `report` write the results. Nothing here imports torch; in process, the engine's own workers compute.
"""
