"""From clips to the tracklets of a video: end-to-end (Sec. 3.3) or by hand-crafted linking (table 1d)."""
