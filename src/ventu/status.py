"""What the health check answers."""

from __future__ import annotations

import enum

from pydantic import BaseModel


class StatusEnum(enum.StrEnum):
    """Well or not."""

    ok = "OK"
    error = "Error"


class ServiceStatus(BaseModel):
    """How a service is.

    Attributes:
        inference: Whether the model answers its example.
        service: Whether the service answers; it does if you read this.
    """

    inference: StatusEnum
    service: StatusEnum = StatusEnum.ok
