"""The tables of a study, from the runs that have ended in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from maxl.experiments.data import files_below
from maxl.experiments.runs.files import write_whole
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.methods import METHODS
from maxl.experiments.runs.summary import CHECKSUM
from maxl.experiments.studies.notes import versions_text
from maxl.experiments.studies.statistics import compare
from maxl.experiments.studies.variants import base_method

if TYPE_CHECKING:
    import pandas as pd


def write_tables(out: Path) -> pd.DataFrame:
    """From the finished runs below ``out``: results.csv and .parquet, a row a run, and comparisons.csv."""
    import pandas as pd

    rows = []
    for path in files_below(out):
        if path.name != "summary.json":
            continue
        summary = RunFolder(path.parent).read_summary()
        if (method := summary["method"].split(" ")[0]) not in METHODS:
            raise ValueError(f"{path} needs a method of {', '.join(METHODS)}; got {method!r}")
        kept = {k: v for k, v in summary.items() if not isinstance(v, (list, dict)) and k != CHECKSUM}
        psi = summary.get("psi")
        psi = [psi] if isinstance(psi, int) else psi
        uniform = psi is not None and len(set(psi)) == 1
        kept["psi"] = None if psi is None else str(psi[0] if uniform else psi)
        kept["versions"] = versions_text(summary["versions"]) if "versions" in summary else None
        rows.append({**kept, "run": str(path.parent.relative_to(out))})
    results = pd.DataFrame(rows)
    order = results["method"].map(lambda m: METHODS.index(base_method(str(m))))
    results = results.iloc[
        order.to_frame("order")
        .assign(seed=results["seed"])
        .sort_values(["order", "seed"], kind="stable")
        .index
    ]
    write_whole(out / "results.csv", lambda file: results.to_csv(file, index=False))
    write_whole(out / "results.parquet", lambda file: results.to_parquet(file, index=False))
    comparisons = compare(results)
    write_whole(out / "comparisons.csv", lambda file: comparisons.to_csv(file, index=False))
    return results


def divergences(out: Path) -> dict[Path, str]:
    """The runs below ``out`` that ended because a loss or weight was not finite, and the reason of each."""
    folders = [file.parent for file in files_below(out) if file.name == "diverged.json"]
    return {folder: RunFolder(folder).read_divergence() for folder in folders}
