"""Deferral heads: their values, files, calibration tables and adapters; heads out of checkpoints."""

from .head import ACTIVATIONS, FEATURES, KINDS, MAX_TOP_K, Head

__all__ = ["ACTIVATIONS", "FEATURES", "KINDS", "MAX_TOP_K", "Head"]
