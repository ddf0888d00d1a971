"""Finding people in frames: an ONNX detector of the YOLOX or YOLOv8 family."""

from runtime.detection.detections import NO_TRACK, Detections
from runtime.detection.detector import Detector

__all__ = ["NO_TRACK", "Detections", "Detector"]
