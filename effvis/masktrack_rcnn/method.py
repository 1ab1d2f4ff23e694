"""MaskTrack R-CNN, as the registry of methods knows it."""

from __future__ import annotations

from effvis.masktrack_rcnn.config import MaskTrackConfig, MaskTrackInference
from effvis.masktrack_rcnn.detect import detect, predict_clip
from effvis.masktrack_rcnn.model import MaskTrackRCNN
from effvis.masktrack_rcnn.track import track
from effvis.methods import Method

METHOD = Method(
    config=MaskTrackConfig, build=MaskTrackRCNN, predict_clip=predict_clip, link=track, inference=MaskTrackInference,
    detect=detect)
