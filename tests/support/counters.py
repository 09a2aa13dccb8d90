"""Beam's counters of what a test calls outside a pipeline."""

import contextlib

from apache_beam.metrics.execution import MetricsContainer
from apache_beam.metrics.metricbase import MetricName
from apache_beam.runners.worker import statesampler
from apache_beam.utils.counters import CounterFactory


@contextlib.contextmanager
def counted():
    """Counts in the block; gives a function of a namespace and a name."""
    sampler = statesampler.StateSampler("test", CounterFactory())
    statesampler.set_current_tracker(sampler)
    container = MetricsContainer("step")
    with sampler.scoped_state("step", "process", metrics_container=container):
        yield lambda namespace, name: container.get_counter(MetricName(namespace, name)).get_cumulative()
