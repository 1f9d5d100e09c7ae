"""What is counted, and its exposition to Prometheus."""

from .counts import Histogram, HttpCounts, ModelCounts

__all__ = ["Histogram", "HttpCounts", "ModelCounts"]
