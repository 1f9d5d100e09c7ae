"""One connection, an echo: a prediction's median latency against `/livez` of the same server.

    python benchmarks/idle.py

Both are asked in turn, so that whatever else the machine does falls on both.
"""

from __future__ import annotations

import argparse
import statistics
import time

from _serving import Connection, get, post, serving

BODY = b'{"id": 7, "text": "water to the wheel", "values": [0.25, 0.5, 0.75, 1.0]}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--executor", default="thread")
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    predict = post("/models/echo/predict", BODY, "application/json")
    times: dict[bytes, list[float]] = {get("/livez"): [], predict: []}
    with serving("examples/echo.py:Echo", "--executor", arguments.executor) as server:
        connection = Connection(server.port)
        for round_number in range(arguments.rounds):
            for request, seconds in times.items():
                for _ in range(50):
                    begin = time.perf_counter()
                    status, _ = connection.ask(request)
                    took = time.perf_counter() - begin
                    assert status == 200, status
                    if round_number:  # the first warms up
                        seconds.append(took)
        connection.close()
    livez, prediction = (1e6 * statistics.median(seconds) for seconds in times.values())
    print(f"/livez {livez:.0f} us, predict {prediction:.0f} us, ratio {prediction / livez:.2f}")


if __name__ == "__main__":
    main()
