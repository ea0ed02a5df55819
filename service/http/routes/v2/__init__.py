"""The Open Inference Protocol (KServe V2) over the computations of the other routes.

https://github.com/kserve/open-inference-protocol
"""
