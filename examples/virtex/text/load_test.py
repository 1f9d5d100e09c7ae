"""Sends sentences at a fixed rate, however the server does, and prints how they were answered.

    python load_test.py --url http://127.0.0.1:8081 --rate 50 --count 500

Start the server first, as its own first lines say.
"""

import argparse
import itertools

from client import SENTENCES

from virtex import HttpLoadTest, HttpMessage


def main() -> None:
    """Send one sentence in each request."""
    parser = argparse.ArgumentParser(description="Measure the server under a steady load.")
    parser.add_argument("--url", default="http://127.0.0.1:8081")
    parser.add_argument("--rate", type=float, default=50, help="requests a second")
    parser.add_argument("--count", type=int, default=500, help="requests in all")
    options = parser.parse_args()

    sentences = itertools.islice(itertools.cycle(SENTENCES), options.count)
    messages = [HttpMessage(data=[sentence]) for sentence in sentences]
    result = HttpLoadTest().run(options.url, messages, requests_per_second=options.rate)
    found = result.metrics
    print(f"sent      {found.num_requests} at {found.client_requests_per_second:.1f}/s")
    print(f"answered  {found.server_requests_per_second:.1f}/s")
    print(f"p50       {1e3 * found.server_latency_p50_seconds:.1f} ms")
    print(f"p99       {1e3 * found.server_latency_p99_seconds:.1f} ms")
    print(f"errors    {result.num_errors}")


if __name__ == "__main__":
    main()
