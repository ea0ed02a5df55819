"""`python -m benchmarks soak`: ordinary requests, hostile ones and hang-ups at once, under a memory limit.

The service must answer every request as it promises, its processes must stay alive, and it must return its memory.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import statistics
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from benchmarks.contestants import SERVICE
from benchmarks.machine import DIGIT, ROOT, Options
from benchmarks.measure import AtMost, Claim, Series
from benchmarks.processes import processes
from benchmarks.results import Result
from benchmarks.servers import Running, running
from benchmarks.soak.attacks import ATTACKS, Attack
from benchmarks.soak.client import Answer, connect, post

__all__ = ["Report", "soak", "storm"]

REQUESTS = 50_000
CLIENTS, ATTACKERS = 16, 8
WARM_UP_REQUESTS = 3_000
MEMORY_LIMIT = 1 << 30  # of each process
MEMORY_SECONDS = 0.5
PATIENCE = 120.0
SETTINGS = {"VAMP_HEADER_SECONDS": "5", "VAMP_SEND_SECONDS": "1", "VAMP_MAX_CONNECTIONS": "200"}


@dataclass
class Report:
    """What a storm of requests met.

    ordinary:      answers to ordinary requests by status
    attacks:       answers to hostile ones by name and status; 0 for none
    unexpected:    what was answered against the promise, at most a hundred of them
    probe_seconds: latencies of health checks on fresh connections, in seconds
    memory_mb:     memory of all processes, sampled during the storm, in 10^6 bytes
    """

    ordinary: Counter[int] = field(default_factory=Counter)
    attacks: Counter[tuple[str, int]] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    probe_seconds: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)

    def fail(self, text: str) -> None:
        """Note an answer that breaks a promise."""
        if len(self.unexpected) < 100:
            self.unexpected.append(text)


def soak(options: Options) -> Result:
    """Run the storm against a service with a limited memory."""
    server = replace(SERVICE, environment={**SERVICE.environment, **SETTINGS}, memory_limit=MEMORY_LIMIT)
    with running(server, options) as service:
        asyncio.run(storm(service, requests=WARM_UP_REQUESTS, attacks=ATTACKS, attackers=2))
        before, started = service.memory_mb(), [*processes(service.process.pid)]
        report = asyncio.run(storm(service, requests=REQUESTS, attacks=ATTACKS, attackers=ATTACKERS))
        living = {process.pid for process in processes(service.process.pid)}
        after = service.memory_mb()
    for line in report.unexpected:
        print(f"unexpected: {line}")
    probes = sorted(report.probe_seconds)
    answered = Series("ordinary requests answered 200", "requests", [float(report.ordinary[200])])
    return Result(
        [
            answered,
            Series("ordinary requests refused with 503", "requests", [float(report.ordinary[503])]),
            Series("hostile requests", "requests", [float(report.attacks.total())]),
            Series("health check, p50", "ms", [1e3 * statistics.median(probes)]),
            Series("memory before, at most, after", "MB", [before, max(report.memory_mb), after]),
        ],
        [
            Claim(Series("unexpected answers", "answers", [float(len(report.unexpected))]), AtMost(0)),
            Claim(
                Series("processes that ended", "processes", [float(sum(p.pid not in living for p in started))]),
                AtMost(0),
            ),
            Claim(Series("health check, p99", "ms", [1e3 * probes[int(0.99 * len(probes))]]), AtMost(100)),
            Claim(Series("memory at most", "MB", [max(report.memory_mb)]), AtMost(1024)),
            Claim(Series("memory after against before", "times", [after / before]), AtMost(1.1)),
        ],
        {
            "requests": REQUESTS,
            "clients": CLIENTS,
            "attackers": ATTACKERS,
            "kinds_of_attack": len(ATTACKS),
            "memory_limit": MEMORY_LIMIT,
        },
    )


async def storm(service: Running, *, requests: int, attacks: Sequence[Attack], attackers: int) -> Report:
    """Send ordinary requests from `CLIENTS` connections, and hostile ones until those are answered."""
    report, port = Report(), int(service.url.rpartition(":")[2])
    left = iter(range(requests))
    background = [
        asyncio.create_task(_watch_memory(service, report)),
        *(asyncio.create_task(_attack(port, attacks, report, seed)) for seed in range(attackers)),
    ]
    probe = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.soak.probe", str(port), cwd=ROOT, stdin=PIPE, stdout=PIPE
    )
    try:
        await asyncio.gather(*(_ask(port, left, report, seed) for seed in range(CLIENTS)))
    finally:
        printed, _ = await probe.communicate(b"")  # which closes its standard input
        probed = json.loads(printed)
        report.probe_seconds = probed["seconds"]
        for failure in probed["failures"]:
            report.fail(failure)
        for task in background:
            task.cancel()
        for outcome in await asyncio.gather(*background, return_exceptions=True):
            if isinstance(outcome, Exception):
                report.fail(f"the soak itself failed: {outcome!r}")
    return report


def _ordinary(rng: random.Random) -> bytes:
    """A request such as clients make."""
    png, seed = DIGIT.read_bytes(), rng.randrange(10**9)
    return rng.choice(
        [
            post(f"/sample?pseudo_input={rng.randrange(500)}&seed={seed}"),
            post(f"/sample?n=4&mode=draw&seed={seed}&format=json"),
            post(f"/reconstruct?mode=draw&seed={seed}", png, "image/png"),
            post(f"/encode?top={rng.randrange(1, 20)}", png, "image/png"),
            post(f"/loglik?num_samples=32&seed={seed}", png, "image/png"),
            post("/reconstruct", b'{"images":["' + base64.b64encode(png) + b'"]}', "application/json"),
            post(f"/pseudo-inputs/{rng.randrange(500)}", method="GET"),
            post("/models", method="GET"),
        ]
    )


async def _ask(port: int, left: object, report: Report, seed: int) -> None:
    """Take requests from `left`, one after another, on one connection as long as the service keeps it."""
    rng = random.Random(seed)
    while next(left, None) is not None:  # type: ignore[call-overload]
        try:
            async with connect(port) as connection:
                for _ in range(rng.randrange(1, 200)):
                    async with asyncio.timeout(PATIENCE):
                        answer = await connection.ask(_ordinary(rng))
                    _check_ordinary(answer, report)
                    if answer.headers.get("connection") == "close" or next(left, None) is None:
                        break
        except ConnectionRefusedError:
            report.fail("ordinary request: the service does not listen any more")
            return
        except (OSError, EOFError) as error:
            report.fail(f"ordinary request: {error!r}")


def _check_ordinary(answer: Answer, report: Report) -> None:
    report.ordinary[answer.status] += 1
    if answer.status == 503 and "retry-after" in answer.headers:
        return
    if answer.status != 200:
        report.fail(f"ordinary request: {answer.status} {answer.body[:300]!r}")


async def _attack(port: int, attacks: Sequence[Attack], report: Report, seed: int) -> None:
    rng = random.Random(seed)
    while True:
        attack = rng.choice(attacks)
        try:
            async with asyncio.timeout(PATIENCE), connect(port) as connection:
                status = await attack.run(connection)
        except TimeoutError:
            report.fail(f"{attack.name}: no answer")
            continue
        except (OSError, EOFError):  # the service closed the connection
            status = 0
        report.attacks[attack.name, status] += 1
        if status not in attack.expected:
            report.fail(f"{attack.name}: {status}")


async def _watch_memory(service: Running, report: Report) -> None:
    while service.process.poll() is None:
        report.memory_mb.append(service.memory_mb())
        await asyncio.sleep(MEMORY_SECONDS)
