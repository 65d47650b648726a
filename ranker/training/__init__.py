"""Batch training: datasets from served examples or imported history, heads, calibration, report, manifest."""
