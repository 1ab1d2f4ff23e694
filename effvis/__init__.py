"""EfficientVIS in plain PyTorch. ``effvis.load(folder)`` is a predictor: frames in, tracklets out."""

from pkgutil import extend_path

# Folders effvis/<method> elsewhere on Python's path are methods, too (effvis/methods.py).
__path__ = extend_path(__path__, __name__)


def __getattr__(name):
    # On demand alone: that keeps single modules light, and the keys of trainings apart from the code that predicts.
    if name == "load":
        from effvis.model_file import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
