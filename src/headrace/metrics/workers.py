"""The users' metrics of all workers as one exposition, over workers that come and go."""

from __future__ import annotations

import logging
import math
import re
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from ..wire.messages import Family, Sample
from .once import Once
from .snapshot import RESERVED

MAX_SAMPLES = 10_000
"""Samples that are exposed, over all workers."""

MAX_ENDED = 1_000
"""Ended lives that are remembered, so that their late snapshots count nothing twice."""

_log = logging.getLogger(__name__)

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


class _Kind(NamedTuple):
    """A kind of metric.

    Attributes:
        suffixes: What the names of its samples add to its own.
        is_summed: Whether it is summed over workers; if not, each worker has its own.
    """

    suffixes: tuple[str, ...]
    is_summed: bool = False


# Quantiles of a summary cannot be summed, and are not here. Neither are gauge histograms.
_KINDS = {
    "counter": _Kind(("_total",), is_summed=True),
    "histogram": _Kind(("_bucket", "_count", "_sum"), is_summed=True),
    "summary": _Kind(("_count", "_sum"), is_summed=True),
    "gauge": _Kind(("",)),
    "unknown": _Kind(("",)),
    "info": _Kind(("_info",)),
    "stateset": _Kind(("",)),
}


class _Series(NamedTuple):
    """One counter, one histogram, one gauge: a metric with its labels, less the inner one."""

    metric: str
    labels: tuple[tuple[str, str], ...]


class _Part(NamedTuple):
    """One sample of a series.

    Attributes:
        suffix: What its name adds to the metric's.
        inner: The value of the label that tells it apart: a bucket's bound, a stateset's state.
    """

    suffix: str
    inner: str


_Parts = dict[_Part, float]


class _Life:
    """What one worker said last.

    Attributes:
        replica: The replica that it is.
        summed: The highest values seen of what is summed.
        gauges: The latest values of what is not.
    """

    def __init__(self, replica: int | str) -> None:
        self.replica = str(replica)
        self.summed: dict[_Series, _Parts] = {}
        self.gauges: dict[_Series, _Parts] = {}


class WorkerMetrics(Collector):
    """Joins the snapshots of workers into one exposition.

    Counters, histograms and summaries are summed over all workers that ever were; what a worker
    adds is the rise over its own highest value, so an exposed counter never goes back: not when a
    worker ends, nor when a snapshot comes late or the user's code resets a counter. Where workers
    have other buckets in the same histogram, those bounds remain that all of them have.

    Gauges and all other kinds are shown of live workers only, with a label `replica`, or
    `headrace_replica` where the user has a label of that name.

    The first kind of a name stays. What clashes with another name, with headrace's own or with the
    process's own is dropped, as is what has a name outside of Prometheus's classic alphabet or
    comes when there is no more room; each with one warning. All calls come from one thread.

    Args:
        max_samples: Samples that are exposed; new ones beyond are dropped.
    """

    def __init__(self, max_samples: int = MAX_SAMPLES) -> None:
        self._max_samples = max_samples
        self._size = 0
        self._families: dict[str, Family] = {}
        self._owners: dict[str, str] = {}
        self._totals: dict[_Series, _Parts] = {}
        self._lives: dict[Hashable, _Life] = {}
        self._ended: OrderedDict[Hashable, None] = OrderedDict()
        self._once = Once(_log)

    def update(self, replica: int | str, life: Hashable, families: Iterable[Family]) -> None:
        """A worker told of its metrics.

        Args:
            replica: What the label of its gauges says. Of two live workers with the same one, as
                while one replaces the other, the gauges of the later are shown.
            life: Tells this worker from those before and after it. Keep it small, such as a
                number: it is remembered for a while after it ended.
            families: All its metrics.
        """
        if life in self._ended:
            return
        state = self._lives.setdefault(life, _Life(replica))
        self._drop_gauges(state)
        for family in families:
            name = _name(family)
            if not family.samples or not self._admit(name, family):
                continue
            for series, parts in _series(name, family).items():
                if _KINDS[family.kind].is_summed:
                    self._sum(state, series, parts)
                elif self._take_room(series, len(parts) - len(state.gauges.get(series, ()))):
                    state.gauges[series] = parts

    def ended(self, life: Hashable) -> None:
        """A worker is no more: its gauges go, what it counted stays."""
        state = self._lives.pop(life, None)
        if state is not None:
            self._drop_gauges(state)
        self._ended[life] = None
        if len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)

    def collect(self) -> Iterator[Metric]:
        exposed: dict[str, dict[_Series, _Parts]] = {name: {} for name in self._families}
        for series, parts in self._totals.items():
            exposed[series.metric][series] = parts
        for life in self._lives.values():
            for series, parts in life.gauges.items():
                exposed[series.metric][_of_replica(series, life.replica)] = parts
        for name, group in exposed.items():
            if group:
                yield _metric(name, self._families[name], group)

    def _admit(self, name: str, family: Family) -> bool:
        """Whether a metric may be exposed under its name, which then is its own."""
        problem = self._problem(name, family)
        if problem:
            self._once.warning(name, f"a worker's metric {name} is dropped: {problem}")
            return False
        if name not in self._families:
            self._families[name] = Family(
                name=name, kind=family.kind, doc=family.doc, unit=family.unit, samples=()
            )
            self._owners.update(dict.fromkeys(_names(name, family.kind), name))
        return True

    def _problem(self, name: str, family: Family) -> str | None:
        """Why a metric cannot be exposed."""
        if family.kind not in _KINDS:
            return f"expected one of {', '.join(_KINDS)}, got {family.kind}"
        if not _NAME.fullmatch(name):
            return "expected a name of letters, digits, _ and :"
        names = _names(name, family.kind)
        if any(used.startswith(RESERVED) for used in names):
            return f"names with {', '.join(RESERVED)} are not for users"
        known = self._families.get(name)
        if known is not None:
            return None if known.kind == family.kind else f"it is known as a {known.kind} already"
        if any(used in self._owners for used in names):
            return "another metric has one of its names"
        return "there are too many" if len(self._families) >= self._max_samples else None

    def _sum(self, life: _Life, series: _Series, parts: _Parts) -> None:
        """Add what a series has risen by since its worker's highest values."""
        total = self._totals.get(series)
        if total is None:
            if not self._take_room(series, len(parts)):
                return
            total = dict.fromkeys(parts, 0.0)
        before = life.summed.get(series, {})
        # A bound that one worker lacks says nothing of that worker's values: it goes from the sum.
        shared = {part: value for part, value in total.items() if part in parts}
        if len(shared) < max(len(total), len(parts)):
            self._size -= len(total) - len(shared)
            self._once.warning(
                f"{series.metric} bounds",
                f"workers differ in the buckets of {series.metric}: only shared ones are exposed",
            )
        highest = {part: max(before.get(part, 0.0), parts[part]) for part in shared}
        life.summed[series] = highest
        self._totals[series] = {
            part: value + (highest[part] - before.get(part, 0.0)) for part, value in shared.items()
        }

    def _take_room(self, series: _Series, samples: int) -> bool:
        if samples > self._max_samples - self._size:
            self._once.warning(
                "max_samples", f"too many metrics: new ones are dropped, first of {series.metric}"
            )
            return False
        self._size += samples
        return True

    def _drop_gauges(self, life: _Life) -> None:
        self._size -= sum(map(len, life.gauges.values()))
        life.gauges.clear()


def _name(family: Family) -> str:
    """A metric's name as OpenMetrics has it: a counter's without `_total`."""
    return family.name.removesuffix("_total") if family.kind == "counter" else family.name


def _names(name: str, kind: str) -> set[str]:
    """Every name that a metric takes for itself."""
    suffixes = _KINDS[kind].suffixes
    created = ("_created",) if _KINDS[kind].is_summed else ()
    return {name + suffix for suffix in ("", *suffixes, *created)}


def _series(name: str, family: Family) -> Mapping[_Series, _Parts]:
    """The series of a metric, without those that no scraper would take."""
    found: dict[_Series, _Parts] = {}
    for sample in family.samples:
        suffix = sample.name.removeprefix(name)
        label = _inner(name, family.kind, suffix)
        inner = _inner_value(label, sample)
        labels = {key: value for key, value in sample.labels.items() if key != label}
        if inner is not None and _is_valid(name, family.kind, sample, labels):
            series = _Series(name, tuple(sorted(labels.items())))
            found.setdefault(series, {})[_Part(suffix, inner)] = _value(family.kind, sample.value)
    if family.kind != "histogram":
        return found
    ordered = ((series, dict(sorted(parts.items(), key=_order))) for series, parts in found.items())
    return {series: parts for series, parts in ordered if _is_whole(parts)}


def _inner(name: str, kind: str, suffix: str) -> str:
    """The label that tells the samples of one series apart; empty where there is none."""
    if kind == "stateset":
        return name
    return "le" if suffix == "_bucket" else ""


def _inner_value(label: str, sample: Sample) -> str | None:
    """The inner label's value, a bound in its one spelling; None if it is missing or no bound."""
    if not label:
        return ""
    text = sample.labels.get(label)
    if label != "le" or text is None:
        return text
    try:
        bound = float(text)
    except ValueError:
        return None
    spelt: str = floatToGoString(bound)  # type: ignore[no-untyped-call]
    return None if math.isnan(bound) else spelt


def _is_valid(name: str, kind: str, sample: Sample, labels: Mapping[str, str]) -> bool:
    return (
        sample.name.startswith(name)
        and sample.name.removeprefix(name) in _KINDS[kind].suffixes
        and all(map(_LABEL.fullmatch, labels))
    )


def _value(kind: str, value: float) -> float:
    """A value that its kind may have: a sum is never negative, infinite or not a number."""
    if kind == "info":
        return 1.0
    if kind == "stateset":
        return float(bool(value))
    if _KINDS[kind].is_summed:
        return float(value) if value > 0 and math.isfinite(value) else 0.0
    return value


def _order(entry: tuple[_Part, float]) -> tuple[str, float]:
    part, _ = entry
    return part.suffix, float(part.inner or 0)


def _is_whole(parts: _Parts) -> bool:
    """Whether the parts of a histogram, buckets first, make one."""
    bounds = [part.inner for part in parts if part.suffix == "_bucket"]
    values = list(parts.values())
    buckets, rest = values[: len(bounds)], values[len(bounds) :]
    if not bounds or bounds[-1] != "+Inf":
        return False
    if buckets != sorted(buckets) or not all(value.is_integer() for value in buckets):
        return False
    return not rest or (len(rest) == 2 and rest[0] == buckets[-1] and float(bounds[0]) >= 0)


def _of_replica(series: _Series, replica: str) -> _Series:
    """A series with the label that says whose it is."""
    labels = dict(series.labels)
    labels["headrace_replica" if "replica" in labels else "replica"] = replica
    return _Series(series.metric, tuple(labels.items()))


def _metric(name: str, family: Family, group: Mapping[_Series, _Parts]) -> Metric:
    has_unit = name.endswith(f"_{family.unit}") and family.kind not in ("info", "stateset")
    metric = Metric(name, family.doc, family.kind, family.unit if has_unit else "")
    for series, parts in group.items():
        for part, value in parts.items():
            label = _inner(name, family.kind, part.suffix)
            inner = {label: part.inner} if label else {}
            metric.add_sample(name + part.suffix, {**dict(series.labels), **inner}, value)
    return metric
