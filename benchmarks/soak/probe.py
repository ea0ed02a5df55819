"""`python -m benchmarks.soak.probe PORT`: health checks on fresh connections, until standard input ends.

It is a process of its own, so that it measures the service and not the load that the soak makes. It prints the
latencies in seconds, and the answers that were not 200, as JSON.
"""

from __future__ import annotations

import http.client
import json
import select
import sys
import time

INTERVAL_SECONDS = 0.05
PATIENCE = 120.0


def main() -> None:
    """Probe until told to stop."""
    port, seconds, failures = int(sys.argv[1]), [], []
    while not select.select([sys.stdin], [], [], INTERVAL_SECONDS)[0]:
        begin = time.perf_counter()
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            connection.request("GET", "/health/live")
            status = connection.getresponse().status
            connection.close()
            seconds.append(time.perf_counter() - begin)
            if status != 200:
                failures.append(f"health check: {status}")
        except OSError as error:
            failures.append(f"health check: {error!r}")
    print(json.dumps({"seconds": seconds, "failures": failures}))


if __name__ == "__main__":
    main()
