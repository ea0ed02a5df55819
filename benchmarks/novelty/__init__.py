"""How well new images are told from known ones, by the service's score and by other detectors."""
