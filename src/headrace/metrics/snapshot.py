"""The metrics that a user's code registered in this process, as plain data."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ..wire.messages import Family, Sample
from .once import Once

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric
    from prometheus_client.registry import Collector

MAX_SAMPLES = 10_000
"""Samples of one snapshot."""

RESERVED = ("headrace_", "process_", "python_")
"""Names that begin so are headrace's and the interpreter's own."""

_once = Once(logging.getLogger(__name__))


def snapshot(
    registry: CollectorRegistry | None = None, max_samples: int = MAX_SAMPLES
) -> tuple[Family, ...]:
    """What the user's own metrics say now.

    Never raises for what a user's collector does: one that raises is left out, with a warning the
    first time. Exemplars and timestamps are left out, for they mean nothing in a sum over workers.

    Args:
        registry: Whose metrics; None for the default registry of prometheus_client, if the user's
            code has imported it. It is not imported for this, so that a worker stays light.
        max_samples: Samples beyond these are left out, with a warning the first time.
    """
    if registry is None:
        registry = getattr(sys.modules.get("prometheus_client"), "REGISTRY", None)
    if registry is None:
        return ()
    families = (family for collector in _collectors(registry) for family in _told(collector))
    return tuple(_bounded(families, max_samples))


def _collectors(registry: CollectorRegistry) -> Sequence[Collector]:
    """A registry's collectors, or itself as the only one should it no longer name them.

    Its own `collect` ends at the first collector that raises, hence the look inside.
    """
    return tuple(getattr(registry, "_collector_to_names", (registry,)))


def _told(collector: Collector) -> Sequence[Family]:
    """What a collector tells of the user's metrics; nothing if it raises."""
    try:
        return [
            _family(metric)
            for metric in collector.collect()
            if not metric.name.startswith(RESERVED)
        ]
    except Exception as error:
        kind = type(collector).__qualname__
        _once.warning(kind, f"a collector of metrics raised and is left out: {kind}", error)
        return ()


def _family(metric: Metric) -> Family:
    # Workers come and go, so their sum has no one time of birth: `_created` would mislead.
    created = f"{metric.name}_created"
    return Family(
        name=_text(metric.name),
        kind=_text(metric.type),
        doc=_text(metric.documentation),
        unit=_text(metric.unit),
        samples=tuple(
            Sample(
                name=_text(sample.name),
                labels={_text(name): _text(value) for name, value in sample.labels.items()},
                value=float(sample.value),
            )
            for sample in metric.samples
            if sample.name != created
        ),
    )


def _text(value: object) -> str:
    """A text that can be sent: a lone surrogate cannot."""
    return str(value).encode(errors="replace").decode()


def _bounded(families: Iterable[Family], room: int) -> Iterator[Family]:
    for family in families:
        samples = _first(family.samples, room)
        room -= len(samples)
        if len(samples) == len(family.samples):
            yield family
            continue
        _once.warning(
            "max_samples", f"too many metrics: samples are left out, first of {family.name}"
        )
        yield Family(
            name=family.name, kind=family.kind, doc=family.doc, unit=family.unit, samples=samples
        )


def _first(samples: tuple[Sample, ...], room: int) -> tuple[Sample, ...]:
    """The first samples, cut where no histogram or summary is cut in two."""
    if len(samples) <= room:
        return samples
    split = _group(samples[room])
    while room and _group(samples[room - 1]) == split:
        room -= 1
    return samples[:room]


def _group(sample: Sample) -> dict[str, str]:
    """The labels that the samples of one histogram or summary share."""
    return {name: value for name, value in sample.labels.items() if name not in ("le", "quantile")}
