"""EfficientVIS among the methods; its code lies in effvis/model, training and inference."""
