"""Recorded episodes of robots: frame by frame what a policy saw and was told, and what was done."""

from models.recordings.folder import EPISODE_FILE, read_folder
from models.recordings.lerobot import INFO_FILE, read_lerobot
from models.recordings.opening import open_recording
from models.recordings.types import Box, Frame, Recording

__all__ = [
    "EPISODE_FILE",
    "INFO_FILE",
    "Box",
    "Frame",
    "Recording",
    "open_recording",
    "read_folder",
    "read_lerobot",
]
