"""MLflow: a run in the store that the user's environment names."""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxl.experiments.tracking._folder import id_file, read_id, run_name, scalars, write_id

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BATCH = 100  # parameters that a store takes at a time
_PATIENCE = 120.0  # seconds for other runs to open theirs
_LONGEST = 500  # characters of a parameter, which every version of MLflow takes


class MLflow:
    """Logs to ``MLFLOW_TRACKING_URI`` (MLflow's own default without it), experiment ``MLFLOW_EXPERIMENT_NAME`` or "maxl".

    Settings become parameters, metrics have the epoch as their step, and texts of the summary become tags. The run's id
    is kept in ``RUN/tracking/mlflow.id``: a run that goes on is continued there.

    Args:
        folder: Of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._client: MlflowClient | None = None
        self._run = ""
        self._logged: set[str] = set()
        self._last = 0  # epoch that the store has already

    def start(self, config: Mapping[str, Any]) -> None:
        """Opens a run, or the one that was interrupted.

        Raises:
            ValueError: if that one is not in the store.
            mlflow.exceptions.MlflowException: if the store cannot be reached.
        """
        from filelock import FileLock

        # Runs of a study start side by side, and a new store is made by whoever comes first: one after another.
        name = f"maxl-mlflow-{getpass.getuser()}.lock"
        with FileLock(Path(tempfile.gettempdir()) / name, timeout=_PATIENCE):
            self._open(config)

    def _open(self, config: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        self._client = client = MlflowClient()
        kept = read_id(self.folder, "mlflow")
        if kept is not None:
            try:
                run = client.get_run(kept)
            except MlflowException as error:
                raise ValueError(
                    f"run {kept} cannot be read from MLflow's store: set MLFLOW_TRACKING_URI as it was, or remove "
                    f"{id_file(self.folder, 'mlflow')} for a new one ({_first_line(error)})"
                ) from error
            self._run = kept
            self._logged = set(run.data.metrics)
            self._last = int(run.data.metrics.get("epoch", 0))
            client.update_run(kept, status="RUNNING")
            return
        name, group = run_name(self.folder)
        wanted = os.environ.get("MLFLOW_EXPERIMENT_NAME", "maxl")
        found = client.get_experiment_by_name(wanted)
        experiment = found.experiment_id if found is not None else _create(client, wanted)
        self._run = client.create_run(experiment, run_name=name, tags={"maxl.group": group}).info.run_id
        write_id(self.folder, "mlflow", self._run)
        items = [
            (name, "" if value is None else str(value)[:_LONGEST]) for name, value in config.items() if name
        ]
        for first in range(0, len(items), _BATCH):
            from mlflow.entities import Param

            client.log_batch(self._run, params=[Param(*item) for item in items[first : first + _BATCH]])

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Metrics of an epoch; one that the store has already is left as it is."""
        if step > self._last:
            self._batch({**metrics, "epoch": float(step)}, step)
            self._last = step

    def finish(self, summary: Mapping[str, Any] | None) -> None:
        """Numbers of the summary that no epoch had, texts as tags, and how the run has ended."""
        assert self._client is not None  # start comes first
        if summary is None:
            self._client.set_terminated(self._run, status="KILLED")
            return
        kept = scalars(summary)
        numbers = {n: float(v) for n, v in kept.items() if not isinstance(v, str) and n not in self._logged}
        self._batch(numbers, self._last)
        for name, value in kept.items():
            if isinstance(value, str):
                self._client.set_tag(self._run, name, value)
        self._client.set_terminated(self._run, status="FINISHED")

    def _batch(self, metrics: Mapping[str, float], step: int) -> None:
        import time

        from mlflow.entities import Metric

        assert self._client is not None  # start comes first
        now = int(1000 * time.time())
        entities = [Metric(name, value, now, step) for name, value in metrics.items()]
        self._client.log_batch(self._run, metrics=entities)
        self._logged |= set(metrics)


def _create(client: MlflowClient, name: str) -> str:
    """A new experiment; another run of the same study may have been quicker."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.create_experiment(name))
    except MlflowException:
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
