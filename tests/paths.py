"""Where tests find data that the repository does not carry. Missing data fails a test, it never skips one."""

from pathlib import Path

SHARED = Path(__file__).parents[1] / ".." / "shared"
DATA = SHARED / "data"
GOLDEN = SHARED / "golden"

VIDEO = DATA / "one-by-one-person-detection.mp4"
YOLOX_NANO = DATA / "yolox_nano.onnx"
