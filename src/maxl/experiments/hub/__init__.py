"""Models of finished runs for the Hugging Face hub: saved with their evidence, loaded without their code.

``maxl.experiments.load`` gives the model of a run.
"""

from maxl.experiments.hub._model import RunModel

__all__ = ["RunModel"]
