__version__ = "0.1.0"


def pretrained(name: str):
    "A small trained model that comes with the package, see `experiments.pretrained`, imported when one is wanted."
    from .experiments.pretrained import pretrained
    return pretrained(name)
