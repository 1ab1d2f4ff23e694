"""EfficientVIS in plain PyTorch. ``effvis.load(folder)`` is a predictor: frames in, tracklets out."""

from pkgutil import extend_path

# Folders effvis/<method> elsewhere on Python's path are methods, too (effvis/methods.py).
__path__ = extend_path(__path__, __name__)


def __getattr__(name):
    # Only on demand: this keeps single modules light, and keeps the code that predicts out of the keys of trainings.
    if name == "load":
        from effvis.model_file import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
