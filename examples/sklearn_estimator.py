"""maxl as a scikit-learn estimator: cross-validated on the digits, beside the same network without a second task.

    python examples/sklearn_estimator.py [--digits 500] [--epochs 200]

Needs maxl-torch[sklearn]. Half a minute on a CPU.
"""

from __future__ import annotations

import argparse

from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score

from maxl.integrations.sklearn import MAXLClassifier


def main(count: int, epochs: int) -> None:
    """Prints the mean accuracy of three folds by method."""
    x, y = load_digits(return_X_y=True)
    for method in ("single", "uniform", "maxl"):
        scores = cross_val_score(
            MAXLClassifier(method, max_iter=epochs, random_state=0), x[:count], y[:count], cv=3
        )
        print(f"{method}: accuracy {scores.mean():.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--digits", type=int, default=500, help="how many of the 1,797")
    parser.add_argument("--epochs", type=int, default=200, help="at most; training stops by itself")
    options = parser.parse_args()
    main(options.digits, options.epochs)
