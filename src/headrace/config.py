"""Settings: small, frozen, checked when they are made.

A setting is declared once, here: its type, range, default and meaning. The command line, the
environment, `headrace.toml` and the documentation's table all read this declaration.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import itertools
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta

from .auth import EXPECTED, digested
from .errors import ConfigError

ENV_PREFIX = "HEADRACE_"
MIB = 1024 * 1024

PositiveInt = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0, description="an integer, at least 1; or 0, for no bound")]
MAX_S = 1e9
"""The longest time that can be set, thirty years: no timer of the system takes an endless one."""
Seconds = Annotated[float, Meta(ge=0, le=MAX_S, description="seconds, from 0 to 1e9")]
Timeout = Annotated[float, Meta(gt=0, le=MAX_S, description="seconds, more than 0 and at most 1e9")]
Rate = Annotated[float, Meta(ge=0, le=1e9, description="a number, from 0 to 1e9")]
Bounds = Annotated[
    tuple[PositiveInt, ...], Meta(description="ascending integers of at least 1, as in '1000,8000'")
]

ApiKeys = Annotated[tuple[str, ...], Meta(description=f"{EXPECTED}; several between spaces")]


def setting(doc: str, default: Any) -> Any:
    """A dataclass field with its meaning, for the documentation and `headrace config`."""
    return dataclasses.field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The base of all settings: checks each value against its annotation.

    Raises:
        ConfigError: A value is of the wrong type or outside its range.
    """

    def __post_init__(self) -> None:
        known = declarations(type(self))  # type: ignore[arg-type]  # mypy: a class has no hash
        for name, declared in known.items():
            declared.check(getattr(self, name), where=f"{type(self).__name__}.{name}")


@dataclass(frozen=True, kw_only=True)
class Batching(Settings):
    """How items are put together. A model declares it; an operator may override it."""

    max_batch_size: Annotated[int, Meta(ge=1, le=65536)] = setting(
        "the most items that one call of `predict` gets", 32
    )
    max_batch_delay_s: Annotated[float, Meta(ge=0, le=60)] = setting(
        "how long an underfull batch may wait for company while a replica is idle;"
        " 0 sends what is there at once",
        0.0,
    )
    max_batch_cost: Annotated[float, Meta(gt=0)] = setting(
        "the most cost (`Model.cost` where it is defined, else `batching.cost`) that one batch"
        " holds",
        math.inf,
    )
    cost: Literal["items", "bytes"] = setting(
        "what a body adds to a batch's cost: its items, or its bytes", "items"
    )
    bucket_bytes: Bounds = setting(
        "bounds of a body's size: bodies share a batch only if they lie between the same two",
        (),
    )
    priority_step_s: Seconds = setting(
        "how many seconds earlier an item counts as arrived for each step of priority", 0.1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        # A list is as good, but cannot be hashed as a frozen value should.
        object.__setattr__(self, "bucket_bytes", tuple(self.bucket_bytes))


@dataclass(frozen=True, kw_only=True)
class Limits(Settings):
    """What one request, and all requests together, may take."""

    max_head_bytes: PositiveInt = setting("names and values of a request's headers", 32 * 1024)
    max_headers: PositiveInt = setting("headers of a request", 100)
    max_body_bytes: PositiveInt = setting("a request's body", 64 * MIB)
    max_json_bytes: PositiveInt = setting("a request's body, where it is JSON or msgpack", 16 * MIB)
    max_depth: Annotated[int, Meta(ge=1, le=512)] = setting(
        "how deep lists and objects may nest in a request", 64
    )
    max_response_bytes: PositiveInt = setting("one item's answer", 256 * MIB)
    max_queue_items: PositiveInt = setting("items that wait for one model", 1024)
    max_queue_bytes: PositiveInt = setting("bodies that wait for one model", 256 * MIB)
    max_inflight_bytes: PositiveInt = setting(
        "bodies of more than 16 KiB that are read, wait or run at once, of all models together;"
        " beyond, a 503",
        512 * MIB,
    )
    head_timeout_s: Timeout = setting(
        "the wait for a request's headers, from its first byte or from the connection's start",
        10.0,
    )
    body_timeout_s: Timeout = setting("the wait for a request's body", 30.0)
    request_timeout_s: Timeout = setting(
        "from a request's arrival to its answer, unless its X-Request-Timeout says otherwise", 30.0
    )
    max_request_timeout_s: Timeout = setting(
        "the longest that X-Request-Timeout may ask for; more is cut to this", 300.0
    )
    predict_timeout_s: Timeout = setting(
        "one batch on a replica; past it the replica counts as hung", 60.0
    )
    max_connections: Count = setting(
        "connections that are open at once; beyond them probes are answered, and all else refused",
        0,
    )
    max_connections_per_client: Count = setting(
        "connections of one address, or of one /64 network of IPv6, likewise", 0
    )
    max_client_rate: Rate = setting(
        "predictions a second of one client in the long run: of an API key, or of an address"
        " without one; 0 sets no bound",
        0.0,
    )
    max_client_burst: PositiveInt = setting(
        "predictions that a client who has been quiet may ask for at once, with max_client_rate", 20
    )
    keep_alive_s: Timeout = setting("an idle connection is kept open", 65.0)
    write_timeout_s: Timeout = setting(
        "how long a client may take to read each further half of the answers that wait for it",
        30.0,
    )


_HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,64}")
_UNLIKE = ("content-length", "traceparent", "x-request-id")
"""Headers that differ from request to request, and say nothing of who sends them."""


@dataclass(frozen=True, kw_only=True)
class Fairness(Settings):
    """Whose turn it is while more is asked than can be answered."""

    client_header: str | None = setting(
        "a header whose value says which client a request is from: clients take turns in a model's"
        " queue; it should be set by a proxy, as who sets it himself may have many names; the same"
        " value under another API key is another client",
        None,
    )
    peer_address: bool = setting(
        "whether a request that nothing else says the client of is its peer address's, or, of IPv6,"
        " its network's (/64); behind a proxy all requests have one",
        False,
    )
    lowest_priority: Annotated[int, Meta(ge=-100, le=0)] = setting(
        "the lowest priority that X-Request-Priority may ask for; less is raised to this", 0
    )
    highest_priority: Annotated[int, Meta(ge=0, le=100)] = setting(
        "the highest, each step of which counts as `batching.priority_step_s` of earlier arrival;"
        " more is cut to this, and with both at 0 the header is not looked at",
        0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.client_header is None:
            return
        name = self.client_header.lower()
        if not _HEADER_NAME.fullmatch(name) or name in _UNLIKE:
            raise ConfigError(
                "Fairness.client_header: expected the name of a header that says who sends a"
                f" request, got {self.client_header!r}"
            )
        object.__setattr__(self, "client_header", name)


@dataclass(frozen=True, kw_only=True)
class Workers(Settings):
    """The worker processes, and what each may take of the machine."""

    threads: Annotated[int, Meta(ge=0, le=4096)] = setting(
        "threads of a worker's numeric libraries; 0 divides the cores among the replicas", 0
    )
    pin_cpus: bool = setting(
        "whether each of several replicas keeps to cores of its own, where there are enough", True
    )
    devices: str = setting(
        "CUDA devices: `0,1` gives each replica one in turn, `0+1,2+3` each two;"
        " empty leaves it to the model",
        "",
    )
    niceness: Annotated[int, Meta(ge=0, le=19)] = setting(
        "how much a worker gives way to other processes", 0
    )
    recycle_after_items: Annotated[int, Meta(ge=0)] = setting(
        "after how many items a worker is replaced, for models that leak; 0 is never", 0
    )
    recycle_memory_bytes: Annotated[int, Meta(ge=0)] = setting(
        "with how much resident memory a worker is replaced; 0 is never", 0
    )
    shared_memory_bytes: Annotated[int, Meta(ge=0, le=1024 * 1024 * MIB)] = setting(
        "memory that the server shares with each of its workers for bodies of more than 64 KiB,"
        " for requests and for answers as much each, taken as it is needed; bodies that find no"
        " room in it go over the socket; 0 is none",
        64 * MIB,
    )
    stop_timeout_s: Timeout = setting(
        "how long a worker that was told to stop may take, before it is killed", 5.0
    )
    listen: str | None = setting(
        "host:port where workers of other hosts connect, with executor remote", None
    )
    secret_file: str | None = setting(
        "a file with the secret that those workers share with the server", None
    )
    tls_cert: str | None = setting("a file with the certificate shown to those workers", None)
    tls_key: str | None = setting("a file with the certificate's key", None)
    insecure: bool = setting("whether those connections may be without TLS", False)


@dataclass(frozen=True, kw_only=True)
class Auth(Settings):
    """Who may ask: with any key given, requests must bring one."""

    keys_file: str | None = setting(
        "a file of API keys, `name:secret` or `name:sha256:` and hex digits, one a line; read again"
        " on SIGHUP",
        None,
    )
    keys: ApiKeys = setting(
        "further API keys, best given by the environment; they are kept as digests", ()
    )

    def __post_init__(self) -> None:
        where = f"{type(self).__name__}.keys"
        object.__setattr__(self, "keys", _api_keys(self.keys, where=where, strict=True))
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class ServerSettings(Settings):
    """What `headrace serve` can be told, by flag, environment, file, or in this order."""

    host: str = setting("the address to listen on", "127.0.0.1")
    port: Annotated[int, Meta(ge=0, le=65535)] = setting(
        "the port to listen on; 0 takes a free one", 8000
    )
    uds: str | None = setting("a Unix socket's path to listen on, in place of host and port", None)
    admin_port: Annotated[int, Meta(ge=0, le=65535)] | None = setting(
        "a second port, for operators: the status page and the metrics are there alone, and no API"
        " key is asked for; 0 takes a free one",
        None,
    )
    admin_host: str = setting("the address to listen on with admin_port", "127.0.0.1")
    admin_uds: str | None = setting("a Unix socket's path for operators, in place of that", None)
    tls_cert: str | None = setting("a file with the certificate to serve HTTPS with", None)
    tls_key: str | None = setting("a file with the certificate's key", None)
    tls_key_password_file: str | None = setting("a file with that key's password", None)
    tls_min_version: Literal["1.2", "1.3"] = setting("the oldest TLS that is spoken", "1.2")
    tls_ciphers: str | None = setting(
        "the ciphers of TLS 1.2, as OpenSSL writes them; by default its own choice", None
    )
    tls_client_ca: str | None = setting(
        "a file with certificates of authorities: each client must show a certificate by one of"
        " them",
        None,
    )
    fast_path: bool = setting(
        "whether predict requests go from the parser to the engine directly; false sends them"
        " through the ASGI application, as all others",
        True,
    )
    executor: Literal["process", "thread", "inline", "remote"] = setting(
        "where batches run: in a worker process for each replica, on a thread for each, on the"
        " event loop's own, or in workers of other hosts that connect",
        "process",
    )
    replicas: Annotated[int, Meta(ge=1, le=256)] = setting("copies of each model", 1)
    start_timeout_s: Timeout = setting(
        "from start to all models ready; past it the server exits with code 4", 600.0
    )
    drain_delay_s: Seconds = setting(
        "after SIGTERM, how long new connections are still accepted while /readyz says no", 0.0
    )
    drain_timeout_s: Timeout = setting(
        "after that, how long accepted requests may take to be answered", 30.0
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "the least severe record that is written", "info"
    )
    log_format: Literal["auto", "json", "text"] = setting(
        "how records are written; auto is text on a terminal and JSON elsewhere", "auto"
    )
    auth: Auth = dataclasses.field(default_factory=Auth)
    limits: Limits = dataclasses.field(default_factory=Limits)
    fairness: Fairness = dataclasses.field(default_factory=Fairness)
    workers: Workers = dataclasses.field(default_factory=Workers)
    batching: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of `Batching` that override every model's own."""


class Declared(NamedTuple):
    """One setting as declared: its annotation, default and meaning."""

    annotation: Any
    default: Any
    doc: str

    @property
    def is_secret(self) -> bool:
        """Whether its value is never shown."""
        return bool(self.annotation == ApiKeys)

    def check(self, value: Any, *, where: str) -> None:
        """Raise unless the value fits the annotation."""
        self.parse(value, where=where, strict=True)

    def parse(self, value: Any, *, where: str, strict: bool) -> Any:
        """The value in the setting's type.

        Args:
            value: As found; text where `strict` is false.
            where: What the error calls the setting.
            strict: False for text from a flag or the environment.

        Raises:
            ConfigError: It is no such value, or outside its range.
        """
        if self.is_secret:
            return _api_keys(value, where=where, strict=strict)
        found = value
        if self.annotation == Bounds and isinstance(value, str) and not strict:
            found = [part.strip() for part in value.split(",")] if value.strip() else ()
        try:
            converted = msgspec.convert(found, self.annotation, strict=strict)
        except msgspec.ValidationError:
            converted = math.nan
        if not _is_sound(converted):
            raise ConfigError(f"{where}: expected {describe(self.annotation)}, got {value!r}")
        return converted


def _api_keys(value: Any, *, where: str, strict: bool) -> tuple[str, ...]:
    """API keys with their digests in place of their secrets.

    Raises:
        ConfigError: One is no key; the error does not repeat it.
    """
    entries = value.split() if isinstance(value, str) and not strict else value
    if not isinstance(entries, list | tuple) or not all(isinstance(e, str) for e in entries):
        raise ConfigError(f"{where}: expected a list of keys, each {EXPECTED}")
    return tuple(
        digested(entry, where=f"{where}, key {number}") for number, entry in enumerate(entries, 1)
    )


def _is_sound(value: Any) -> bool:
    """What a type alone cannot say: numbers are numbers, and bounds ascend."""
    if isinstance(value, tuple):
        return all(low < high for low, high in itertools.pairwise(value))
    return not (isinstance(value, float) and math.isnan(value))


@functools.cache
def declarations(cls: type[Settings]) -> Mapping[str, Declared]:
    """The settings of a class by name, leaving out its nested sections."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        field.name: Declared(hints[field.name], field.default, field.metadata["doc"])
        for field in dataclasses.fields(cls)
        if "doc" in field.metadata
    }


def describe(annotation: Any) -> str:
    """What an annotation allows, in words: `1 to 65535`, `'inline' or 'thread'`."""
    origin = get_origin(annotation)
    if origin is Literal:
        return " or ".join(repr(value) for value in get_args(annotation))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(part) for part in get_args(annotation))
    if origin is not Annotated:
        words = {
            bool: "true or false",
            int: "an integer",
            float: "a number",
            str: "text",
            type(None): "nothing",
        }
        return words[annotation]
    base, meta = get_args(annotation)
    if meta.description is not None:
        return str(meta.description)
    if meta.le is not None:
        return f"{meta.ge:g} to {meta.le:g}"
    bound = f"at least {meta.ge:g}" if meta.ge is not None else f"more than {meta.gt:g}"
    return f"{describe(base)}, {bound}"


SECTIONS: Mapping[str, type[Settings]] = {
    "": ServerSettings,
    "auth": Auth,
    "limits": Limits,
    "fairness": Fairness,
    "workers": Workers,
    "batching": Batching,
}


@functools.cache
def known_settings() -> Mapping[str, Declared]:
    """All settings by their dotted key, such as `port` and `limits.max_depth`."""
    return {
        f"{section}.{name}" if section else name: declared
        for section, cls in SECTIONS.items()
        for name, declared in declarations(cls).items()  # type: ignore[arg-type]  # as above
    }


def env_name(key: str) -> str:
    """The environment variable of a setting: `limits.max_depth` is HEADRACE_LIMITS_MAX_DEPTH."""
    return ENV_PREFIX + key.upper().replace(".", "_")


class Source(NamedTuple):
    """Where a value was found: the name to call it by, and whether it is mere text."""

    name: str
    is_text: bool


class Found(NamedTuple):
    """One value of one layer, before it is checked."""

    key: str
    value: Any
    source: Source


class Resolved(NamedTuple):
    """The settings in force, and where each that is no default came from, by dotted key."""

    settings: ServerSettings
    values: Mapping[str, Any]
    origins: Mapping[str, str]


def from_environment(environ: Mapping[str, str], *, ignore: Iterable[str] = ()) -> list[Found]:
    """The settings among the environment's variables.

    Raises:
        ConfigError: A variable begins with HEADRACE_ and names no setting.
    """
    by_name = {env_name(key): key for key in known_settings()}
    found = []
    for name, text in environ.items():
        if not name.startswith(ENV_PREFIX) or name in ignore:
            continue
        if name not in by_name:
            raise ConfigError(f"{name}: no such setting{nearest(name, by_name)}")
        found.append(Found(by_name[name], text, Source(name, is_text=True)))
    return found


def from_table(table: Mapping[str, Any], *, file: str) -> list[Found]:
    """The settings in a parsed TOML file: top-level keys and the sections' tables.

    Raises:
        ConfigError: A key names no setting, or a section is no table.
    """
    known = known_settings()
    found = []
    for name, value in table.items():
        in_section = name in SECTIONS and name != ""
        if in_section and not isinstance(value, Mapping):
            raise ConfigError(f"{file}: {name}: expected a table, got {value!r}")
        entries = value.items() if in_section else [(None, value)]
        for inner, setting_value in entries:
            key = f"{name}.{inner}" if in_section else name
            if key not in known:
                raise ConfigError(f"{file}: {key}: no such setting{nearest(key, known)}")
            found.append(Found(key, setting_value, Source(f"{file}: {key}", is_text=False)))
    return found


def from_flags(flags: Mapping[str, Any], assignments: Iterable[str] = ()) -> list[Found]:
    """The settings given on the command line.

    Args:
        flags: By dotted key; None where a flag was not given.
        assignments: `key=value` texts of `--set`.

    Raises:
        ConfigError: An assignment has no `=` or names no setting.
    """
    found = [
        Found(key, value, Source("--" + key.rpartition(".")[2].replace("_", "-"), True))
        for key, value in flags.items()
        if value is not None
    ]
    known = known_settings()
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set: expected KEY=VALUE, got {text!r}")
        if key not in known:
            raise ConfigError(f"--set {key}: no such setting{nearest(key, known)}")
        if known[key].is_secret:
            raise ConfigError(
                f"--set {key}: everybody on this machine could read it; set {env_name(key)}"
            )
        found.append(Found(key, value, Source(f"--set {key}", is_text=True)))
    return found


def resolve(layers: Iterable[Iterable[Found]]) -> Resolved:
    """The settings in force.

    Args:
        layers: From the weakest to the strongest; a later one overrides an earlier one.

    Raises:
        ConfigError: A value is of the wrong type or outside its range.
    """
    known = known_settings()
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        for key, value, source in layer:
            strict = not source.is_text
            values[key] = known[key].parse(value, where=source.name, strict=strict)
            origins[key] = source.name
    sections: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        sections[section][name] = value
    settings = ServerSettings(
        **sections[""],
        auth=Auth(**sections["auth"]),
        limits=Limits(**sections["limits"]),
        fairness=Fairness(**sections["fairness"]),
        workers=Workers(**sections["workers"]),
        batching=sections["batching"],
    )
    return Resolved(settings, values, origins)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the known name closest to this one, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


S = TypeVar("S", bound=Settings)


def override(settings: S, values: Mapping[str, Any]) -> S:
    """The settings with some values replaced, checked again.

    Raises:
        ConfigError: A name is none of theirs, or a value is of the wrong type or out of range.
    """
    if not values:
        return settings
    known = [field.name for field in dataclasses.fields(settings)]
    for name in values:
        if name not in known:
            where = f"{type(settings).__name__}.{name}"
            raise ConfigError(f"{where}: no such setting{nearest(name, known)}")
    return dataclasses.replace(settings, **values)
