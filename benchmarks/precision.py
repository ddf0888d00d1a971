"""Two bundles of different precision, crop by crop in turn: `python -m benchmarks.precision FIRST SECOND`."""

import sys

from runtime.bundle import Bundle
from runtime.speed import compare_speed, verdict_on_speed

REPEATS = 40


def main() -> None:
    first, second = (Bundle.open(folder) for folder in sys.argv[1:3])
    print(verdict_on_speed(*compare_speed(first, second, "onnxruntime", REPEATS)))


if __name__ == "__main__":
    main()
