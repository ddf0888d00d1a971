"""Where frames, crops and boxes come from: video files, streams, folders of crops, MOTChallenge box files."""

from runtime.sources.boxes import Boxes, read_mot
from runtime.sources.crops import Crop, CropFolder, open_crops
from runtime.sources.frames import Frame, VideoFrames, open_frames
from runtime.sources.live import LiveFrames
from runtime.sources.opening import is_url, shown
from runtime.sources.pace import on_time

__all__ = [
    "Boxes",
    "Crop",
    "CropFolder",
    "Frame",
    "LiveFrames",
    "VideoFrames",
    "is_url",
    "on_time",
    "open_crops",
    "open_frames",
    "read_mot",
    "shown",
]
