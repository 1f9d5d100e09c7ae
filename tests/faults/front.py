"""A program: serves models, asks them, and prints which modules its process has imported then."""

from __future__ import annotations

import json
import sys
import threading
import urllib.request

from headrace import Server, ServerSettings


def main() -> None:
    server = Server(sys.argv[1:], ServerSettings(port=0), on_ready=ask_soon)
    code = server.run()
    sys.stdout.write(json.dumps(sorted(sys.modules)) + "\n")
    sys.exit(code)


def ask_soon(server: Server) -> None:
    threading.Thread(target=ask, args=(server,)).start()


def ask(server: Server) -> None:
    try:
        for path in ("/predict", "/v1/models/served:predict", "/openapi.json", "/metrics", "/"):
            value = {"instances": [{"n": 4}]} if path.startswith("/v1") else {"n": 4}
            data = json.dumps(value).encode() if "predict" in path else None
            request = urllib.request.Request(server.address + path, data)
            request.add_header("content-type", "application/json")
            with urllib.request.urlopen(request, timeout=20) as answer:
                assert answer.status == 200
    finally:
        server.stop()


if __name__ == "__main__":
    main()
