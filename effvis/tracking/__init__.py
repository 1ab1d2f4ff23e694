"""Knowing objects of single frames again, as MaskTrack R-CNN does (Yang, Fan, Xu: Video Instance Segmentation, ICCV 2019)."""
