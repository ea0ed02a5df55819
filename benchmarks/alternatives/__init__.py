"""What people would serve the same checkpoint with instead: a file a server, each set up as its documentation says.

Every one answers `POST /sample` with a PNG of one sample and `POST /loglik` with the image's log-likelihood as JSON, by
the same functions of `model.py`. None validates more, logs requests or keeps metrics, as the service does.
"""
