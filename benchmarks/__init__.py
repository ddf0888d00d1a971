"""Measurements: ratios within one run. Run one with `python -m benchmarks.NAME`."""

import runtime  # noqa: F401  (before numpy, as on the command line: it says how numpy's threads wait)
