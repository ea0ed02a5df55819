"""`python -m benchmarks novelty`: how well new images are told from known ones, by the service's score and by others.

detectors   the scores: the service's, the log-likelihood, and the detectors of PyOD
comparison  AUROC with bootstrap intervals, and the table of a checkpoint
figure      the checkpoints, their images, and the figure
"""

from benchmarks.novelty.figure import novelty

__all__ = ["novelty"]
