"""What to expect of the estimators on tables, beside scikit-learn's own: eight tables, five fresh splits, defaults everywhere.

    python dev/estimators.py run --data-dir DIR [--only digits wine] [--jobs 2]    # what the table of results lacks
    python dev/estimators.py write                                                # the tables of docs/integrations.md

Five tables come with scikit-learn; DIR holds penguins.csv, titanic.csv and diamonds.parquet. Each seed splits a table anew,
three quarters to train on. Accuracy for classes, R² for numbers. Results are kept in dev/evidence/estimators.csv, a row a fit.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from evidence import HERE, Task, of_set, read, replace_table, text, work
from maxl.experiments.studies.intervals import mean_interval, paired_difference
from maxl.integrations.sklearn import MAXLClassifier, MAXLRegressor

FILE = HERE / "estimators.csv"
PAGE = HERE.parent.parent / "docs" / "integrations.md"
SEEDS = range(100, 105)  # defaults were chosen on 0 to 9
MOST = 5000  # rows of a table, drawn by the seed
EMBEDDED = {
    "breast cancer": load_breast_cancer,
    "digits": load_digits,
    "wine": load_wine,
    "iris": load_iris,
    "diabetes": load_diabetes,
}
FILES = {
    "penguins": ("penguins.csv", "species"),
    "titanic": ("titanic.csv", "survived"),
    "diamonds": ("diamonds.parquet", "price"),
}
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
PAIRS = (
    *((method, "MLP") for method in ("maxl", "uniform", "single", "gradient boosting")),
    *(("maxl", "uniform"), ("gradient boosting", "single")),
)


def table(name: str, folder: Path) -> tuple[pd.DataFrame, Any]:
    """Features and targets."""
    if name in EMBEDDED:
        data = EMBEDDED[name](as_frame=True)
        return data.data, data.target
    file, target = FILES[name]
    path = folder / file
    frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    frame = frame.dropna(subset=[target])
    return frame.drop(columns=target), frame[target]


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


def one(name: str, method: str, changes: dict[str, Any], seed: int, data_dir: str | None) -> dict[str, Any]:
    """Test score and seconds of training of an estimator on a table."""
    x, y = table(name, Path(str(data_dir)))
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's MLP says that it has not converged
        model.fit(x_train, y_train / scale if numeric else y_train)
    seconds = time.perf_counter() - start
    # The columns that ``work`` prints.
    return {
        "method": method,
        "settings": text(changes),
        "seed": seed,
        "test_accuracy": model.score(x_test, y_test / scale if numeric else y_test),
        "validation_accuracy": None,
        "seconds": round(seconds, 2),
    }


def run(options: argparse.Namespace) -> None:
    """What the table of results lacks."""
    tasks: list[Task] = [
        (name, method, {"data": name}, seed)
        for name in options.only or (*EMBEDDED, *FILES)
        for seed in SEEDS
        for method in METHODS
    ]
    work(tasks, FILE, options.data_dir, options.jobs, one)


def results() -> dict[str, dict[str, dict[int, float]]]:
    """Test scores in percent by table, method and seed."""
    rows = read(FILE)
    return {
        name: {
            method: {seed: 100 * score for seed, score in found.items()}
            for method, found in of_set(rows, name, list(METHODS)).items()
        }
        for name in (*EMBEDDED, *FILES)
    }


def scores() -> str:
    """Each table's mean scores with their 95 % intervals, and seconds of training."""
    rows, every = read(FILE), results()
    lines = [f"| table | {' | '.join(METHODS)} |", "|---" * (len(METHODS) + 1) + "|"]
    for name, values in every.items():
        cells = []
        for method in METHODS:
            mean = mean_interval(values[method].values())
            fits = rows[(rows.settings == f"data={name}") & (rows.method == method)]
            cells.append(f"{mean.mean:.1f} ± {(mean.high - mean.low) / 2:.1f} ({fits.seconds.mean():.1f} s)")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    means = [np.mean([mean_interval(v[method].values()).mean for v in every.values()]) for method in METHODS]
    return "\n".join([*lines, f"| mean | {' | '.join(f'{m:.1f}' for m in means)} |"])


def difference(values: Mapping[str, Mapping[int, float]], a: str, b: str) -> str:
    """One of a table's differences, whose intervals hold together; bold where zero is outside."""
    d = paired_difference(values[a], values[b], comparisons=len(PAIRS))
    told = f"{d.mean:+.1f} ± {(d.high - d.low) / 2:.1f}".replace("-", "−")
    return f"**{told}**" if d.claimed else told


def differences() -> str:
    """Each table's paired differences."""
    lines = [
        f"| table, differences | {' | '.join(f'{a} − {b}' for a, b in PAIRS)} |",
        "|---" * (len(PAIRS) + 1) + "|",
    ]
    lines += [
        f"| {name} | {' | '.join(difference(values, a, b) for a, b in PAIRS)} |"
        for name, values in results().items()
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "write"))
    parser.add_argument("--data-dir", help="see above")
    parser.add_argument("--only", nargs="+", choices=(*EMBEDDED, *FILES), help="tables")
    parser.add_argument("--jobs", type=int, default=1, help="fits at a time, one thread each")
    options = parser.parse_args()
    if options.what == "run":
        run(options)
    else:
        for made in (scores(), differences()):
            replace_table(PAGE, made)


if __name__ == "__main__":
    main()
