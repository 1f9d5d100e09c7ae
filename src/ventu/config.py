"""Settings of a service, from keyword arguments and the environment."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

try:
    from pydantic_settings import BaseSettings, SettingsConfigDict
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'ventu needs pydantic-settings: pip install "headrace[ventu]"', name=error.name
    ) from error


class Config(BaseSettings):
    """What a service is called, and where it listens or connects.

    Keyword arguments count before the environment (`VENTU_PORT`, in any case), and that before
    the defaults.

    Attributes:
        name: Of the service, in its API document.
        version: Of the service, in its API document.
        host: Address of the HTTP service, or of the batching service over TCP.
        port: Port of either.
        socket: The batching service's Unix socket.
        keys_file: A file of API keys, one of which each request for an inference must bring;
            `headrace serve`'s `auth.keys_file`.

    Raises:
        ValueError: A value is wrong, or there is no such setting; pydantic's error names it.
    """

    model_config = SettingsConfigDict(env_prefix="ventu_", case_sensitive=False, extra="forbid")

    name: str = "Deep Learning Service"
    version: str = "latest"
    host: str = "localhost"
    port: Annotated[int, Field(ge=80, le=65535)] = 8000
    socket: str = "batching.socket"
    keys_file: str | None = None
