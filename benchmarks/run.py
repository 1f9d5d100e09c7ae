"""headrace beside its peers: servers started in turn, checked, driven and accounted for.

    python benchmarks/run.py                              # all of it: over an hour
    python benchmarks/run.py --only echo,gpu --rounds 3
    python benchmarks/run.py --only echo --peers mosec,nginx
    python benchmarks/run.py --quick                      # a trial of the whole, in minutes
    python benchmarks/run.py --report                     # tables and plots again, from raw results

Each workload's raw results are a JSON file in `benchmarks/results/`; its README.md has tables of
all that lie there. wrk and nginx come from Debian (`apt-get install wrk nginx-light`); a Python
peer is installed into an environment of its own, in `benchmarks/.peers/`, when it is first wanted.
A peer that cannot be installed, does not start or answers wrong is in the report, with its reason.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import _real
import _results
import _start
import _tables
import _workloads
from _serving import ROOT
from _wrk import program

WORKLOADS: dict[str, Callable[[Path], _workloads.Workload]] = {
    "echo": _workloads.echo,
    "gpu": _workloads.gpu,
    **{f"real-{name}": functools.partial(_real.real, name) for name in _real.MODELS},
    "tensor": _workloads.tensor,
}
START = "start"
ROUNDS, SECONDS = 5, 4


def choose(workload: _workloads.Workload, peers: str | None) -> _workloads.Workload:
    """Ours, and of the others those whose name begins with one of these."""
    if peers is None:
        return workload
    wanted = ("headrace", "bare", *filter(None, peers.lower().split(",")))
    servers = [server for server in workload.servers if server.name.lower().startswith(wanted)]
    return dataclasses.replace(workload, servers=servers)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*WORKLOADS, START]
    parser.add_argument("--only", help=f"of {', '.join(names)}; `real` is all three of them")
    parser.add_argument("--peers", help="the first letters of their names, such as mosec,nginx")
    parser.add_argument("--rounds", type=int, help=f"default {ROUNDS}")
    parser.add_argument("--seconds", type=int, help=f"a load; default {SECONDS}")
    parser.add_argument("--quick", action="store_true", help="one round of one second")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--results", type=Path, help="default benchmarks/results")
    arguments = parser.parse_args()
    default = ".results-quick" if arguments.quick else "results"
    folder = arguments.results or ROOT / "benchmarks" / default
    rounds = arguments.rounds or (1 if arguments.quick else ROUNDS)
    seconds = arguments.seconds or (1 if arguments.quick else SECONDS)
    wanted = arguments.only.split(",") if arguments.only else names
    chosen = [name for name in names if any(name.split("-")[0] == w or name == w for w in wanted)]
    unknown = [w for w in wanted if not any(w in (n, n.split("-")[0]) for n in names)]
    if unknown:
        parser.error(f"--only: expected {', '.join(names)} or real, got {unknown[0]}")
    for name in () if arguments.report else chosen:
        settings = {"rounds": rounds, "seconds": seconds, "peers": arguments.peers}
        _results.save(folder, name, measure(name, arguments.peers, rounds, seconds), settings)
        _tables.write(folder, _results.read(folder))
    _tables.write(folder, _results.read(folder))
    print(f"{folder}/README.md")


def measure(name: str, peers: str | None, rounds: int, seconds: int) -> _workloads.Row:
    """All rounds of a workload."""
    if name == START:
        return _start.measure(rounds)
    for needed in ("wrk", "nginx"):
        program(needed)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        workload = choose(WORKLOADS[name](Path(folder)), peers)
        return _workloads.run(workload, rounds, seconds)


if __name__ == "__main__":
    main()
