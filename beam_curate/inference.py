"""Beam's RunInference and model handlers, without scipy's optimizers, which Beam loads with them.

They are for Beam's manager of several models, which nothing here uses, and take a sixth of the time that loading RunInference
takes, torch included (0.2 s of CPU). All of this project that needs RunInference takes it from here.
"""

from beam_curate.deferred import defer_function

defer_function("scipy.optimize", "nnls")

from apache_beam.ml.inference.base import ModelHandler, RunInference  # noqa: E402

__all__ = ["ModelHandler", "RunInference"]
