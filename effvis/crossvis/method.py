"""CrossVIS, as the registry of methods knows it."""

from __future__ import annotations

from effvis.crossvis.config import CrossVISConfig, CrossVISInference
from effvis.crossvis.detect import detect
from effvis.crossvis.model import CrossVIS
from effvis.crossvis.track import predict_clip, track
from effvis.methods import Method

METHOD = Method(
    config=CrossVISConfig, build=CrossVIS, predict_clip=predict_clip, link=track, inference=CrossVISInference, detect=detect)
