"""Results as Markdown tables and plots."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from _bars import NGINX, WINDOW, bars
from _plots import PERCENTS, plots
from _results import figure, median, ratio, rounds, running, share
from _workloads import CONNECTIONS, Row

MISSING = "–"  # noqa: RUF001  (a dash, in a cell of a table)


def write(folder: Path, results: Mapping[str, Row]) -> None:
    """README.md, and the plots that it shows, from the raw results."""
    drawn = dict(plots(results))
    for name, svg in drawn.items():
        (folder / name).write_text(svg)
    real = {name: found for name, found in results.items() if name.startswith("real-")}
    sections = [_head(results), _bars(results)]
    sections += [TABLES[name](results[name]) for name in TABLES if name in results]
    sections += [_real(real) if real else "", _absent(results)]
    text = "\n\n".join(section for section in sections if section)
    for name in drawn:
        text = text.replace(f"[[{name}]]", f"![{name}]({name})")
    (folder / "README.md").write_text(text + "\n")


def _head(results: Mapping[str, Row]) -> str:
    lines = [
        "# Results of benchmarks/run.py",
        "Written by `python benchmarks/run.py`; the raw results are the JSON files beside this one."
        " In each round every server is started anew, in turn; figures are medians of the rounds,"
        " and each ratio is the median of the rounds' own ratios. CPU is user and system time of"
        " all of a server's processes, a request; the load generator (wrk, on the same machine) is"
        " not in it. Memory is the sum of the processes' proportional set sizes (PSS).",
    ]
    rows = [
        [
            name,
            found["date"],
            _machine(found["machine"]),
            _settings(found),
            _commit(found),
            _others(found),
        ]
        for name, found in results.items()
    ]
    head = ["workload", "date", "machine", "rounds", "commit", "cores that others took"]
    return "\n\n".join([*lines, table(head, rows)])


def _machine(machine: Row) -> str:
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB,"
        f" Linux {machine['kernel']}, Python {machine['python']}"
    )


def _settings(found: Row) -> str:
    return f"{found['settings']['rounds']} of {found['settings']['seconds']} s a load"


def _commit(found: Row) -> str:
    return f"{found['commit']}{' and changes' if found['is_changed'] else ''}"


def _others(found: Row) -> str:
    """What ran beside the server and its load while they were measured."""
    loads = [
        load
        for server in found.get("servers", {}).values()
        for row in server["rounds"]
        for load in row.values()
        if isinstance(load, dict)
    ]
    measured = [*loads, *(row for row in found.get("alone", []) if "per_second" in row)]
    shares = sorted(load["others_cores"] for load in measured if "others_cores" in load)
    if not shares:
        return MISSING
    return f"{statistics.median(shares):.2f} (at most {shares[-1]:.2f})"


def _bars(results: Mapping[str, Row]) -> str:
    rows = [
        [
            bar.what,
            f"at {'least' if bar.is_least else 'most'} {bar.wanted:.3g} {bar.unit}".strip(),
            number(bar.measured),
            bar.verdict,
        ]
        for bar in bars(results)
    ]
    return "## Bars\n\n" + table(["bar", "wanted", "measured", "verdict"], rows)


def _echo(found: Row) -> str:
    rows = []
    for name in _sorted(found, "64"):
        version = found["servers"][name].get("version", "")
        rows.append(
            [
                name,
                version,
                _spread(found, name, "64", "per_second"),
                number(ratio(found, name, WINDOW, "64")),
                _spread(found, name, "64", "cpu_us"),
                number(ratio(found, name, WINDOW, "64", "cpu_us")),
                number(ratio(found, name, NGINX, "64", "cpu_us")),
                *(_ms(median(found, name, "64", what)) for what in ("p50_us", "p99_us")),
                *(_ms(median(found, name, "1", what)) for what in ("p50_us", "p99_us")),
                _memory(found, name),
            ]
        )
    head = [
        "server",
        "version",
        "requests/s (least to most)",
        "of mosec's",
        "CPU µs a request",
        "of mosec's",
    ]
    head += ["of nginx's", "p50 ms", "p99 ms", "1 conn.: p50 ms", "p99 ms", "PSS MB (processes)"]
    return (
        "## Echo: what a server costs\n\n"
        "A JSON body of 73 bytes in and out, 64 connections, then one; batches of at most 32."
        " Each server reads and writes JSON by its own default; MLServer and PyTriton get it as a"
        " text in a tensor of the Open Inference Protocol. nginx answers one fixed text from one"
        " process.\n\n" + table(head, rows) + "\n\n[[echo.svg]]"
    )


def _gpu(found: Row) -> str:
    names = _sorted(found, "64")
    loads = [str(connections) for connections in CONNECTIONS]
    closed = [
        [name]
        + [
            f"{number(share(found, name, load))} {_batch(found, name, load)},"
            f" {_ms(median(found, name, load, 'p99_us'))}"
            for load in loads
        ]
        for name in names
    ]
    opened = [
        [name]
        + [
            f"{_ms(median(found, name, load, 'p50_us'))} /"
            f" {_ms(median(found, name, load, 'p99_us'))}"
            f" {_batch(found, name, load)}{_failures(found, name, load)}"
            for load in PERCENTS
        ]
        for name in names
    ]
    alone = statistics.median(row["per_second"] for row in found["alone"])
    batch_ms = statistics.median(row["batch_us"] for row in found["alone"]) / 1000
    head = ["server", *(f"{connections} conn.: share (batch), p99 ms" for connections in loads)]
    open_head = ["server", *(f"{load} load: p50 / p99 ms (batch)" for load in PERCENTS)]
    return (
        "## A stand-in for a GPU: how well batches are filled\n\n"
        "`predict` sleeps 5 ms and 0.1 ms an item; batches of at most 32. Called back to back with"
        f" full batches it took {batch_ms:.2f} ms a batch here, so {alone:,.0f} items/s: the shares"
        " are of that, in the same round. Closed loop, with the mean batch in brackets:\n\n"
        + table(head, closed)
        + "\n\n[[gpu-closed.svg]]\n\nOpen loop: requests at random instants (Poisson), with that"
        " share of the rate above; latencies count from the planned instants.\n\n"
        + table(open_head, opened)
        + "\n\n[[gpu-open.svg]]"
    )


def _batch(found: Row, server: str, load: str) -> str:
    return f"({number(median(found, server, load, 'mean_batch'))})"


def _failures(found: Row, server: str, load: str) -> str:
    rows = [row[load] for row in rounds(found, server) if load in row]
    failed = sum(row["failed"] for row in rows)
    asked = failed + sum(row["answers"] for row in rows)
    return f", {failed / asked:.0%} not answered" if failed else ""


def _real(results: Mapping[str, Row]) -> str:
    rows = []
    for name, found in results.items():
        offline = statistics.median(row["per_second"] for row in found["alone"])
        rows += [
            [
                name.removeprefix("real-"),
                server,
                _spread(found, server, "64", "per_second"),
                number(share(found, server, "64")),
                number(share(found, server, "128")),
                *(_ms(median(found, server, "64", what)) for what in ("p50_us", "p99_us")),
                _memory(found, server),
            ]
            for server in _sorted(found, "64")
        ]
        rows.append([name.removeprefix("real-"), "offline, full batches", f"{offline:,.0f}"])
    head = ["model", "server", "requests/s (least to most)", "of offline's"]
    head += ["128 conn.: of offline's", "p50 ms", "p99 ms", "PSS MB (processes)"]
    return (
        "## Real models\n\n"
        "The three of examples/, each server with the same class; 64 connections, then 128. Offline"
        " is the whole pipeline in one process with full batches back to back and nothing else to"
        " do. LitServe reads JSON only, so files come to it in base64.\n\n" + table(head, rows)
    )


def _tensor(found: Row) -> str:
    rows = [
        [
            name,
            _spread(found, name, "8", "per_second"),
            number(ratio(found, name, "bare asyncio echo", "8")),
            _spread(found, name, "8", "cpu_us"),
            *(_ms(median(found, name, "8", what)) for what in ("p50_us", "p99_us")),
            _ms(median(found, name, "1", "p50_us")),
            number(ratio(found, name, "bare asyncio echo", "1")),
            _memory(found, name),
        ]
        for name in _sorted(found, "8")
    ]
    head = ["server", "requests/s (least to most)", "of bare", "CPU µs a request", "p50 ms"]
    head += ["p99 ms", "1 conn.: p50 ms", "of bare's requests/s", "PSS MB (processes)"]
    return (
        "## A tensor of 602,112 bytes, in and out\n\n"
        "As `application/octet-stream`, 8 connections, then one, against a bare asyncio protocol on"
        " uvloop that gives the same bytes back.\n\n" + table(head, rows)
    )


def _start(found: Row) -> str:
    units = {"_s": (1000, "ms"), "_bytes": (1 / 1000, "KB")}
    rows = []
    for name in found["rounds"][0]:
        if name.startswith("front_has"):
            continue  # a bar
        values = [row[name] for row in found["rounds"]]
        factor, unit = next((u for end, u in units.items() if name.endswith(end)), (1, ""))
        least, middle, most = min(values), statistics.median(values), max(values)
        what = name.removesuffix("_s").removesuffix("_bytes").replace("_", " ")
        rows.append([what, *(f"{factor * v:,.1f} {unit}".strip() for v in (middle, least, most))])
    return "## Start and memory\n\n" + table(["", "median", "least", "most"], rows)


def _absent(results: Mapping[str, Row]) -> str:
    rows = [
        [server, workload, found["failed"].replace("|", "\\|").replace("\n", " ")]
        for workload, result in results.items()
        for server, found in result.get("servers", {}).items()
        if found["failed"] is not None
    ]
    head = ["server", "workload", "reason"]
    return "## Not measured to the end\n\n" + table(head, rows) if rows else ""


TABLES = {"echo": _echo, "gpu": _gpu, "tensor": _tensor, "start": _start}


def _sorted(found: Row, load: str) -> list[str]:
    """The same, the fastest first."""
    return sorted(running(found), key=lambda name: -figure(found, name, load, "per_second"))


def _spread(found: Row, server: str, load: str, what: str) -> str:
    values = [row[load][what] for row in rounds(found, server)]
    digits = 0 if statistics.median(values) >= 100 else 1
    middle = f"{statistics.median(values):,.{digits}f}"
    return f"{middle} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def _memory(found: Row, server: str) -> str:
    rows = rounds(found, server)
    pss = statistics.median(row["pss_bytes"] for row in rows)
    return f"{pss / 1e6:.0f} ({statistics.median(row['processes'] for row in rows):.0f})"


def _ms(microseconds: float | None) -> str:
    return MISSING if microseconds is None else number(microseconds / 1000)


def number(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown; short rows end empty."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
