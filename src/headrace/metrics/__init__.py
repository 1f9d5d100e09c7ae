"""What is counted, and its exposition to Prometheus."""

from .counts import Histogram, HttpCounts, ModelCounts, RouteCounts

__all__ = ["Histogram", "HttpCounts", "ModelCounts", "RouteCounts"]
