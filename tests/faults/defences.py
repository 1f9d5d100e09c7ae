"""Defences that a counter-test switches off: without it, the check of its row has to fail.

    serve("Scripted", env=without("a deadline is looked at in the queue"))

starts a server, and workers, whose modules are compiled from a changed source. A defence that is a
setting is switched off by the setting.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).with_name("without")


class Defence(NamedTuple):
    """A change that takes a defence away: in `module`, the old text becomes the new one."""

    module: str
    old: str
    new: str

    def source(self) -> str:
        """The module's own source."""
        spec = importlib.util.find_spec(self.module)
        assert spec is not None and spec.origin is not None, self.module
        return Path(spec.origin).read_text(encoding="utf-8")


DEFENCES: Mapping[str, tuple[Defence, ...]] = {
    "a client that is gone gives up its call": (
        Defence(
            "headrace.http.exchange",
            "        if ticket is not None:\n            ticket.cancel()\n",
            "",
        ),
    ),
    "every version is HTTP": (
        Defence("headrace.http.connection", 'if version not in ("1.0", "1.1"):', "if False:"),
        Defence(
            "headrace.http.parsers",
            "lenient_data_after_close=True",
            "lenient_data_after_close=True, lenient_version=True",
        ),
    ),
    "a body in any coding is one": (
        Defence("headrace.http.predict", '    if coding != "chunked":\n', "    if False:\n"),
    ),
    "the parser lets pass what it can": (
        Defence(
            "headrace.http.parsers",
            "lenient_data_after_close=True",
            "lenient_data_after_close=True, lenient_headers=True,"
            " lenient_spaces_after_chunk_size=True, lenient_optional_cr_before_lf=True,"
            " lenient_optional_crlf_after_chunk=True",
        ),
    ),
    "a head goes on with the next read": (
        Defence(
            "headrace.http.connection",
            "            self._parse(self._rest + data if self._rest else data)\n",
            "            self._parser = parser_of(self)\n            self._parse(data)\n",
        ),
    ),
    "a deadline is not put off": (
        Defence(
            "headrace.http.connection",
            "        if self._is_new_head:\n            if self.oldest is None:\n"
            "                self._since",
            "        self._since = self.clock()\n"
            "        if self._is_new_head:\n            if self.oldest is None:\n"
            "                self._since",
        ),
        Defence(
            "headrace.http.connection",
            "        told, self._body_bytes = self._body_bytes, 0\n",
            "        self._since = self.clock()\n"
            "        told, self._body_bytes = self._body_bytes, 0\n",
        ),
    ),
    "what is kept is parsed before more is read": (
        Defence(
            "headrace.http.connection",
            "                self._let_others()  # what is read before that is parsed would pile up"
            " behind it\n"
            "            else:\n"
            "                self._read()\n",
            "                self._loop.call_soon(self._go_on)\n            self._read()\n",
        ),
    ),
    "TLS has flow control": (
        Defence(
            "headrace.http.connection",
            '        if transport.get_extra_info("sslcontext") is not None:\n',
            "        if False:\n",
        ),
    ),
    "who does not read is asked nothing more": (
        Defence("headrace.http.connection", "        self.hold(CLOGGED)\n", ""),
    ),
    "a remembered head is matched strictly": (
        Defence(
            "headrace.http.memo",
            '    _ID: b"(" + SAFE_ID.encode() + b")",\n',
            '    _ID: rb"([^\\n]*)",\n',
        ),
    ),
    "a client is only so far ahead": (
        Defence(
            "headrace.http.connection",
            "return self._later is not None and len(self._later) >= MAX_AHEAD",
            "return False",
        ),
    ),
    "a length is looked at in the head": (
        Defence(
            "headrace.http.fastpath",
            "        if size > plan.max_body_bytes:\n            return too_large",
            "        if False:\n            return too_large",
        ),
    ),
    "a client that sends no more may read": (
        Defence(
            "headrace.http.connection",
            "        if self.is_ending or not self.transport.can_write_eof():\n"
            "            return False  # over TLS",
            "        if True:\n            return False  # over TLS",
        ),
    ),
    "an id is echoed if it is harmless": (
        Defence(
            "headrace.http.predict",
            "return given if given is not None and _REQUEST_ID.fullmatch(given) else None",
            "return given",
        ),
    ),
    "a body is counted while it is read": (
        Defence(
            "headrace.http.fastpath",
            "        if self.size > self.plan.max_body_bytes:\n",
            "        if False:\n",
        ),
    ),
    "a compressed body is refused": (
        Defence(
            "headrace.http.predict", '    if encoding not in ("", "identity"):\n', "    if False:\n"
        ),
    ),
    "an answer's size is looked at": (
        Defence(
            "headrace.replica",
            "                if len(body) > max_bytes:\n",
            "                if False:\n",
        ),
    ),
    "extensions are refused": (
        Defence(
            "headrace.codecs.msgpack",
            '    raise DecodeError(f"expected no extension type, got {code}")\n',
            "    return code\n",
        ),
    ),
    "what cannot be decoded is malformed": (
        Defence(
            "headrace.codecs.json",
            '            raise malformed("JSON", error, body) from None\n',
            "            return None\n",
        ),
    ),
    "a type that the model does not read is refused": (
        Defence(
            "headrace.codecs.negotiate",
            "    if not any(_matches(media_type, pattern) for pattern in reads):\n",
            "    if False:\n",
        ),
    ),
    "a connection is forgotten": (
        Defence(
            "headrace.http.connection",
            "        self.state.connections.discard(self)\n",
            "        self.__class__.sweeps.setdefault(self.state, self.sweep).__dict__.setdefault("
            "'kept', []).append(bytearray(b'x' * 8192))\n"
            "        self.state.connections.discard(self)\n",
        ),
    ),
    "an answered request is forgotten": (
        Defence(
            "headrace.http.exchange",
            "        self.is_done = True\n        self.ticket = None  # it holds the body",
            "        self.is_done = True\n"
            "        self.predict.__dict__.setdefault('kept', []).append(bytearray(b'x' * 4096))\n"
            "        self.ticket = None  # it holds the body",
        ),
    ),
    "a worker reads who has gone before it runs what is at hand": (
        Defence(
            "headrace.workers.loop",
            "        self._receive(block=is_idle)\n",
            "        if is_idle:\n            self._receive(block=True)\n",
        ),
    ),
    "an item that is given up is passed over alone": (
        Defence(
            "headrace.workers.loop",
            "job_or_none.unwanted.add(message.index)",
            "job_or_none.unwanted.update(range(99))",
        ),
    ),
    "what has expired is answered": (
        Defence(
            "headrace.batching.batcher",
            "        for item in self._deadlines.passed(now):\n",
            "        for item in ():\n",
        ),
    ),
    "a timeout has to be a positive number": (
        Defence("headrace.http.predict", "if not 0 < seconds < math.inf:", "if False:"),
    ),
    "a timeout is cut to the server's maximum": (
        Defence(
            "headrace.http.predict",
            "return min(seconds, limits.max_request_timeout_s)",
            "return seconds",
        ),
    ),
    "the wait for a body ends at the deadline": (
        Defence(
            "headrace.http.fastpath",
            "            turn.await_body()\n",
            "            pass\n",
        ),
    ),
    "answers keep the order of their items": (
        Defence(
            "headrace.replica",
            "zip(prepared.entries, each, strict=True)",
            "zip(prepared.entries, each[::-1], strict=True)",
        ),
    ),
    "a batch holds no more than max_batch_size": (
        Defence(
            "headrace.batching.queue",
            "            return min(self.count, max_count)  # each counts as one\n",
            "            return self.count\n",
        ),
    ),
    "what broke a model is looked for": (
        Defence(
            "headrace.workers.loop",
            "if report.broken is not None and self._may_run_again and",
            "if False and",
        ),
    ),
    "an item that cannot be finished fails alone": (
        Defence(
            "headrace.replica",
            "                outcome = _failure(error, stage)\n            emit((place, outcome))",
            "                raise error\n            emit((place, outcome))",
        ),
    ),
    "a batch whose predict raised is isolated": (
        Defence("headrace.replica", "        if self.card.idempotent:\n", "        if False:\n"),
    ),
    "an isolation leaves every other turn to others": (
        Defence(
            "headrace.workers.loop",
            "        if self._at_hand:\n            self._run(self._at_hand.popleft())\n"
            "        if isolated",
            "        if self._at_hand and isolated is None:\n"
            "            self._run(self._at_hand.popleft())\n"
            "        if isolated",
        ),
    ),
    "outputs are counted": (
        Defence("headrace.replica", "    if not found == size == len(each):\n", "    if False:\n"),
    ),
    "an answer is searched for NaN": (
        Defence(
            "headrace.codecs.json", 'b"null" in body and holds_nan(value)', "holds_nan(value) > 1"
        ),
    ),
    "a mark convicts the item at hand": (
        Defence(
            "headrace.executors.verdict",
            "    if evidence.item is None:\n        return None\n",
            "    return None\n",
        ),
    ),
    "a seat whose workers answer nothing backs off": (
        Defence(
            "headrace.executors.restarts",
            "        if steps <= 0:\n            return 0.0\n",
            "        return 0.0\n",
        ),
    ),
    "a worker's children are ended with it": (
        Defence(
            "headrace.executors.launcher",
            "                os.killpg(self.pid, signal.SIGKILL)\n",
            "                os.kill(self.pid, signal.SIGKILL)\n",
        ),
    ),
    "a deadline ends what runs": (
        Defence(
            "headrace.batching.batcher",
            "            failure = _too_late(item)\n            self._withdraw(item, EXPIRED)\n",
            "            if item.batch is not None:\n                continue\n"
            "            failure = _too_late(item)\n            self._withdraw(item, EXPIRED)\n",
        ),
    ),
    "in back-off nobody waits": (
        Defence(
            "headrace.batching.batcher",
            "        return not self.is_expected or item.deadline < self.back_at\n",
            "        return False\n",
        ),
        Defence(
            "headrace.batching.batcher",
            "        return self._fleet.ready_count > 0 or self.is_expected\n",
            "        return True\n",
        ),
        Defence(
            "headrace.batching.batcher",
            "        return max(self.back_at - now, 0.0)\n",
            "        return 0.0\n",
        ),
    ),
    "who is free gets the next batch": (
        Defence(
            "headrace.batching.fleet",
            "            if not replica.ready or replica is kept",
            "            if replica.given > min(r.given for r in self._replicas.values()):\n"
            "                continue\n"
            "            if not replica.ready or replica is kept",
        ),
        Defence("headrace.batching.fleet", '"suspect", "turn")\n', '"suspect", "turn", "given")\n'),
        Defence(
            "headrace.batching.fleet",
            "        self.ready = True\n        self.slots",
            "        self.given = 0\n        self.ready = True\n        self.slots",
        ),
        Defence(
            "headrace.batching.fleet",
            "        replica.held += 1\n",
            "        replica.held += 1\n        replica.given += 1\n",
        ),
    ),
    "a worker proves the secret": (
        Defence(
            "headrace.wire.handshake",
            "    if not hmac.compare_digest(expected, found):\n",
            "    if False:\n",
        ),
    ),
    "a stranger has a second": (
        Defence("headrace.executors.remote", "HELLO_TIMEOUT_S = 0.9\n", "HELLO_TIMEOUT_S = 90.0\n"),
    ),
    "a socket for workers is its user's own": (
        Defence("headrace.cli.batching", "os.umask(0o177)", "os.umask(0)"),
    ),
    "a frame's lengths are checked": (
        Defence(
            "headrace.wire.frames",
            "                or header_bytes > limits.max_header_bytes\n"
            "                or payload_bytes > limits.max_payload_bytes\n",
            "",
        ),
    ),
    "each answer is booked": (
        Defence(
            "headrace.wire.connection",
            '            self._ledger.book(message, "remote")\n',
            "            if self._side == WORKER:\n"
            '                self._ledger.book(message, "remote")\n',
        ),
    ),
    "what a worker does not read is kept for it": (
        Defence(
            "headrace.executors.socket",
            "        if self._transport is None or not chunks:\n            return\n",
            "        if self._transport is None or not chunks:\n            return\n"
            "        import os, socket\n"
            "        fd = os.dup(self._transport.get_extra_info('socket').fileno())\n"
            "        with socket.socket(fileno=fd) as blocking:\n"
            "            blocking.setblocking(True)\n"
            "            for chunk in chunks:\n"
            "                blocking.sendall(chunk)\n"
            "            blocking.setblocking(False)\n"
            "        return\n",
        ),
    ),
    "who says what nobody asked for is dropped": (
        Defence(
            "headrace.executors.socket",
            "            if self._unasked > MAX_UNASKED:\n",
            "            if False:\n",
        ),
    ),
    "a batch that nobody begins on overruns": (
        Defence(
            "headrace.batching.fleet",
            "            if not is_working:\n",
            "            if False:\n",
        ),
    ),
    "what was shared with a dead worker is given back": (
        Defence(
            "headrace.executors.launcher",
            "        self._process.poll()\n        self._held.close()\n",
            "        self._process.poll()\n",
        ),
    ),
    "what sizes an item may raise": (
        Defence(
            "headrace.engine",
            '    except Exception as error:\n        known = ModelError("the model failed in key',
            "    except ZeroDivisionError as error:\n"
            '        known = ModelError("the model failed in key',
        ),
    ),
    "a drain waits for what was accepted": (
        Defence(
            "headrace.server",
            "        self._http.should_exit = True\n        self.loop.call_later(",
            "        self._http.should_exit = self._http.force_exit = True\n"
            "        self.loop.call_later(",
        ),
    ),
    "answers of the delay end their connections": (
        Defence("headrace.server", "        self._http.finish()\n", ""),
    ),
    "an end looks for what has come": (
        Defence(
            "headrace.http.sockets", "        if has_unread(fd):\n            return False\n", ""
        ),
    ),
    "a second signal hastens the drain": (
        Defence("headrace.server", "            self._hastened.set()\n", ""),
    ),
    "a stop ends the workers that start": (
        Defence(
            "headrace.executors.process",
            '            if life.state == "starting":\n                life.worker.kill()\n'
            "            else:\n                life.worker.hang_up()\n",
            "            life.worker.hang_up()\n",
        ),
        Defence(
            "headrace.executors.process",
            "            life.worker.kill()  # its children, if not itself\n",
            "",
        ),
    ),
    "a worker dies with its server": (
        Defence(
            "headrace.workers.process",
            "    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)\n",
            "",
        ),
    ),
    "a port is bound by one server alone": (
        Defence("headrace.listener", "SO_REUSEADDR, 1", "SO_REUSEPORT, 1"),
    ),
    "a socket is asked whether somebody listens": (
        Defence(
            "headrace.listener",
            "            probe.connect(path)\n        except",
            "            raise ConnectionRefusedError\n        except",
        ),
    ),
    "a stale socket is removed": (
        Defence(
            "headrace.listener",
            "            Path(path).unlink()\n            return\n",
            "            pass\n",
        ),
    ),
    "items are checked": (
        Defence(
            "headrace.bodies",
            "    validate = schema.validate\n",
            "    def validate(value, json=None):\n        return value\n",
        ),
        Defence(
            "headrace.bodies", "schema.direct(max_depth) if codec in _DECODERS else None", "None"
        ),
    ),
    "items of msgpack are checked": (
        Defence(
            "headrace.bodies",
            "        return validate(decode(body))\n",
            "        return decode(body)\n",
        ),
        Defence("headrace.bodies", "if codec in _DECODERS else None", "if codec is JSON else None"),
    ),
    "an unknown name is no model's": (
        Defence(
            "headrace.http.predict",
            "                return Place(route, None)\n",
            "                return next(iter(self._places.values()))\n",
        ),
    ),
    "workers are recycled one at a time": (
        Defence(
            "headrace.executors.process",
            "life.is_worn(self._launch.settings) and not self._is_recycling",
            "life.is_worn(self._launch.settings) and not life.seat.successor",
        ),
    ),
    "who would be late is refused": (
        Defence(
            "headrace.batching.policy",
            "    admission: bool = True\n",
            "    admission: bool = False\n",
        ),
    ),
    "who is refused is told": (
        Defence(
            "headrace.engine",
            "            self._tell(sink, item.place, Failure.of(error))\n",
            "            pass\n",
        ),
    ),
    "what leaves the queue gives its room back": (
        Defence("headrace.batching.queue", "        self.count -= count\n", "        pass\n"),
    ),
    "a queue that was full takes again at once": (
        Defence(
            "headrace.batching.queue",
            "        return self.count + count <= self.max_items and",
            "        import time\n"
            "        if self.count + count > self.max_items:\n"
            "            self.full_until = time.monotonic() + 5.0\n"
            "        if time.monotonic() < getattr(self, 'full_until', 0.0):\n"
            "            return False\n"
            "        return self.count + count <= self.max_items and",
        ),
    ),
    "a replica on the loop runs one batch a turn": (
        Defence(
            "headrace.executors.inline",
            "        if self._at_hand:\n",
            "        while self._at_hand:\n",
        ),
    ),
    "probes are answered beyond the limit of connections": (
        Defence(
            "headrace.http.connection",
            "if self._url not in PROBES or",
            "if True or",
        ),
    ),
    "a server waits until something happens": (
        Defence(
            "headrace.http.connection",
            "        if self.most is not None:\n            self._take_place(*self.most)\n",
            "        self._spin()\n\n"
            "    def _spin(self) -> None:\n"
            "        if len(self.state.connections) > 5:\n"
            "            self._loop.call_soon(self._spin)\n"
            "        sweep = self.sweep\n",
        ),
    ),
    "an error about keys does not repeat them": (
        Defence(
            "headrace.auth",
            'f"{where}: expected a secret of at least {MIN_SECRET_CHARS} visible ASCII characters"',
            'f"{where}: {secret} is too short"',
        ),
    ),
    "workers do not inherit the keys": (
        Defence("headrace.cli.serve", 'os.environ.pop(env_name("auth.keys"), None)', "pass"),
        Defence("headrace.executors.launcher", 'own.pop(env_name("auth.keys"), None)', "pass"),
    ),
    "a worker's orders are not its children's": (
        Defence("headrace.workers.start", "environ.pop(VARIABLE, None)", "environ.get(VARIABLE)"),
    ),
    "a refusal does not repeat the key": (
        Defence(
            "headrace.http.predict",
            '"one that is not known here"',
            'f"{secret}, which is not known here"',
        ),
    ),
    "series are named by routes, not by paths": (
        Defence(
            "headrace.http.predict",
            "                return Place(route, None)\n",
            "                return Place(path, None)\n",
        ),
    ),
    "what a worker counted stays when it ends": (
        Defence(
            "headrace.metrics.workers",
            "            self._drop_gauges(state)\n        self._ended",
            "            self._totals.clear()\n        self._ended",
        ),
    ),
    "a stop waits for a gateway no longer than it may": (
        Defence("virtex.core.push", "\nTIMEOUT_S = 1.0\n", "\nTIMEOUT_S = 5.0\n"),
        Defence("virtex.core.push", "join(STOP_TIMEOUT_S)", "join()"),
    ),
    "a record is one line": (
        Defence(
            "headrace.logs",
            "            return _escaped(msgspec.json.encode(fields, enc_hook=str).decode())\n",
            '            return "\\n".join(f"{n}={v}" for n, v in fields.items())\n',
        ),
    ),
    "a log that nobody reads is not waited for": (
        Defence(
            "headrace.logs",
            "    return OutletHandler(Outlet(fd)) if fd == STDERR else",
            "    return",
        ),
    ),
    "time is that of the monotonic clock": (
        Defence("headrace.clock", "Final[Clock] = time.monotonic\n", "Final[Clock] = time.time\n"),
    ),
    "who was stopped gets its time anew": (
        Defence(
            "headrace.batching.batcher",
            "        self._fleet.resumed(now)\n",
            "        pass\n",
        ),
        Defence(
            "headrace.executors.inline", "                resumed = now\n", "                pass\n"
        ),
    ),
    "what workers share has no name on any disk": (
        Defence(
            "headrace.workers.mark",
            '    return os.memfd_create(f"headrace-{name}", os.MFD_CLOEXEC)\n',
            "    import tempfile\n    with tempfile.TemporaryFile() as file:\n"
            "        return os.dup(file.fileno())\n",
        ),
    ),
}
"""By a name that says what is missing then."""


def without(*names: str) -> Mapping[str, str]:
    """The environment of a server that lacks these defences."""
    return lacking(*(change for name in names for change in DEFENCES[name]))


def lacking(*changes: Defence) -> Mapping[str, str]:
    """The same of defences that are not listed."""
    paths = [str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"FAULT_WITHOUT": json.dumps(changes), "PYTHONPATH": os.pathsep.join(paths)}
