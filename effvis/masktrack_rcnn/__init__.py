"""MaskTrack R-CNN (Yang, Fan, Xu: Video Instance Segmentation, ICCV 2019): Mask R-CNN with a tracking head."""
