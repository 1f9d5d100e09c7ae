"""Plain counts."""

from headrace.metrics import Histogram, HttpCounts


def test_a_value_counts_in_the_first_bucket_that_holds_it() -> None:
    histogram = Histogram((1, 2, 4))
    for value in (0, 1, 1.5, 2, 4, 4.01, 1e9):
        histogram.observe(value)
    assert histogram.buckets == [2, 2, 1, 2]
    assert histogram.count == 7
    assert histogram.total == sum((0, 1, 1.5, 2, 4, 4.01, 1e9))


def test_answers_are_counted_by_route_and_status_and_timed_by_route() -> None:
    counts = HttpCounts()
    for status, duration_s in ((200, 0.25), (200, 0.5), (422, 0.25)):
        counts.route("/predict").answered(status, duration_s)
    assert counts.requests == {("/predict", 200): 2, ("/predict", 422): 1}
    assert (counts.request_s["/predict"].count, counts.request_s["/predict"].total) == (3, 1.0)
