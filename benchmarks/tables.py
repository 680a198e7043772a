"""The estimators on tables, beside scikit-learn's own: the mean test score over seeds, with its 95 % interval.

    python benchmarks/tables.py [--tables DIR] [--seeds N] [--first SEED] [--only NAME ...]

Five tables come with scikit-learn; DIR adds penguins.csv, titanic.csv and diamonds.parquet. Each seed splits a table anew,
three quarters to train on, and every estimator gets its defaults. Accuracy for classes, R² for numbers.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from maxl.integrations.sklearn import MAXLClassifier, MAXLRegressor

EMBEDDED = {
    "breast cancer": load_breast_cancer,
    "digits": load_digits,
    "wine": load_wine,
    "iris": load_iris,
    "diabetes": load_diabetes,
}
FILES = {"penguins.csv": "species", "titanic.csv": "survived", "diamonds.parquet": "price"}
MOST = 5000  # rows of a table, drawn by the seed
REGRESSION = ("diabetes", "diamonds")
METHODS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "maxl": (MAXLClassifier, MAXLRegressor),
    "uniform": (
        lambda **options: MAXLClassifier("uniform", **options),
        lambda **options: MAXLRegressor("uniform", **options),
    ),
    "single": (
        lambda **options: MAXLClassifier("single", **options),
        lambda **options: MAXLRegressor("single", **options),
    ),
    "MLP": (MLPClassifier, MLPRegressor),
    "gradient boosting": (HistGradientBoostingClassifier, HistGradientBoostingRegressor),
}


def read(folder: Path | None) -> dict[str, tuple[pd.DataFrame, Any]]:
    """Features and targets by table."""
    tables = {}
    for name, load in EMBEDDED.items():
        data = load(as_frame=True)
        tables[name] = (data.data, data.target)
    for file, target in FILES.items() if folder is not None else ():
        path = folder / file
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
        frame = frame.dropna(subset=[target])
        tables[path.stem] = (frame.drop(columns=target), frame[target])
    return tables


def prepared(estimator: Any) -> Any:
    """A pipeline: numbers imputed and standardised, categories imputed and one-hot."""
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    categories = make_pipeline(
        SimpleImputer(strategy="most_frequent"),
        OneHotEncoder(handle_unknown="infrequent_if_exist", sparse_output=False, max_categories=30),
    )
    columns = make_column_transformer(
        (numbers, make_column_selector(dtype_include=np.number)),
        (categories, make_column_selector(dtype_exclude=np.number)),
    )
    return make_pipeline(columns, estimator)


def score(name: str, x: pd.DataFrame, y: Any, method: str, seed: int) -> tuple[float, float]:
    """Test score and seconds of training."""
    if len(x) > MOST:
        rows = np.random.default_rng(seed).permutation(len(x))[:MOST]
        x, y = x.iloc[rows], y.iloc[rows]
    numeric = name in REGRESSION
    x_train, x_test, y_train, y_test = train_test_split(
        x, y, random_state=seed, stratify=None if numeric else y
    )
    model = prepared(METHODS[method][numeric](random_state=seed))
    scale = y_train.std() if numeric else 1.0  # scikit-learn's MLP leaves targets as they are
    start = time.perf_counter()
    model.fit(x_train, y_train / scale if numeric else y_train)
    seconds = time.perf_counter() - start
    return model.score(x_test, y_test / scale if numeric else y_test), seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tables", type=Path, help="folder of penguins.csv, titanic.csv and diamonds.parquet"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--first", type=int, default=100, help="first seed (100; defaults were chosen on 0 to 9)"
    )
    parser.add_argument("--only", nargs="+", default=list(METHODS), choices=METHODS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # scikit-learn's MLP says that it has not converged
    print(f"| table | {' | '.join(options.only)} |\n|---|{'---|' * len(options.only)}", flush=True)
    means = []
    for name, (x, y) in read(options.tables).items():
        cells, row = [], []
        for method in options.only:
            found = [
                score(name, x, y, method, seed)
                for seed in range(options.first, options.first + options.seeds)
            ]
            scores = np.array([s for s, _ in found]) * 100
            half = (
                stats.t.ppf(0.975, len(scores) - 1) * stats.sem(scores) if len(scores) > 1 else float("nan")
            )
            row.append(scores.mean())
            cells.append(f"{scores.mean():.1f} ± {half:.1f} ({np.mean([t for _, t in found]):.1f} s)")
        means.append(row)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print(f"| mean | {' | '.join(f'{m:.1f}' for m in np.mean(means, axis=0))} |")


if __name__ == "__main__":
    main()
