"""Video instance segmentation data: the YouTube-VIS format, its index, and the embedded data set."""
