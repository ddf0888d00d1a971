"""Fits numbers to data: INT8 ranges, acceptance thresholds, keep schedules."""
