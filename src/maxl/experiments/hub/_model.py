"""A run's model with the three verbs of the hub."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Self

from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download

from maxl.experiments.hub._card import model_card
from maxl.experiments.report.runs import data_name
from maxl.experiments.runs.checkpoint import content_checksum
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.files import read_json, write_at_once
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.model import PrimaryModel
from maxl.experiments.runs.names import without_place
from maxl.experiments.runs.summary import CHECKSUM

_LIBRARY = "maxl-torch"
_FILES = (
    "config.json",
    "config.yaml",
    "summary.json",
    "model.safetensors",
    "architecture.json",
    "text.safetensors",
    "columns.skops",
    "tokenizer.json",
    "README.md",
)


class RunModel(PrimaryModel, ModelHubMixin, library_name=_LIBRARY):
    """The model of a finished run: ``PrimaryModel``, which can also be saved, published and loaded again.

    A saved folder holds the run's settings, summary and weights, without checkpoint and metrics, and a model card. It
    is a finished run to ``maxl predict``, ``evaluate`` and ``export``. Of paths in the settings the last part is kept.

    Example:
        >>> model = maxl.experiments.load("run")
        >>> model.save_pretrained("folder")
        >>> model.push_to_hub("owner/name")
        >>> model = RunModel.from_pretrained("owner/name")
    """

    _run: Path
    _weights: str

    @classmethod
    def of_run(cls, run: Path, *, trust: bool = False) -> Self:
        """The model of a run, or of a folder that ``save_pretrained`` has written; errors as for ``load_model``."""
        model = super().of_run(run, trust=trust)
        model._run, model._weights = run.resolve(), content_checksum(model.state_dict())
        return model

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Writes a folder that ``from_pretrained`` takes.

        Args:
            save_directory: A folder that is new, empty or was written by this before; its files are replaced.
            options: Of ``huggingface_hub.ModelHubMixin.save_pretrained``.

        Returns:
            The address of the commit with ``push_to_hub=True``, else None.

        Raises:
            ValueError: if the folder holds or belongs to a run or study, the weights are no longer those of the run, of
                which the model card tells, or the run has been changed or taken away.
        """
        place = Path(save_directory)
        _require_place(place)
        if content_checksum(self.state_dict()) != self._weights:
            raise ValueError(
                f"the weights are no longer those of {self._run}, of which the model card tells: save them by torch"
            )
        url: str | None = super().save_pretrained(place, **options)
        return url

    def _save_pretrained(self, save_directory: Path) -> None:
        source, target = RunFolder(self._run), RunFolder(save_directory)
        if not source.finished:
            raise ValueError(f"a model is saved with what its run tells; {self._run} is not there any more")
        summary, config = source.read_summary(), source.read_config(trust=True)  # to be copied, not run
        source.verify(source.model, summary)
        if summary.get("trunk"):
            summary = {**summary, "trunk": without_place(summary["trunk"])}
        of_features = {}
        for file in (*source.of_features, source.architecture):
            if file.is_file():
                source.verify(file, summary)
                of_features[file.name] = file.read_bytes()
        card, model = str(self.generate_model_card()), source.model.read_bytes()
        target.summary.unlink(missing_ok=True)  # last to be written: with it the folder is whole
        for file in (*target.of_features, target.architecture):
            file.unlink(missing_ok=True)
        write_at_once(target.model, model)
        for name, content in of_features.items():
            write_at_once(save_directory / name, content)
        target.create(_without_places(config))
        write_at_once(save_directory / "README.md", card.encode())
        described = {
            "library_name": _LIBRARY,
            "run": {name: summary.get(name) for name in ("method", "task", "trunk")},
        }
        write_at_once(save_directory / "config.json", (json.dumps(described, indent=2) + "\n").encode())
        kept = {n: value for n, value in summary.items() if n not in (CHECKSUM, "checksums", "start")}
        target.write_summary({**kept, "data": data_name(summary["data"])})

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        trust: bool = False,
        **older: Any,
    ) -> Self:
        """From a folder, or a repository of the hub; ``trust`` as for ``load_model``."""
        if unknown := {*older} - {
            "proxies",
            "resume_download",
        }:  # versions of the hub's package below 1 pass these
            raise TypeError(
                f"from_pretrained takes trust= and what the hub takes; got {', '.join(sorted(unknown))}"
            )
        folder = Path(model_id)
        if not folder.is_dir():
            folder = Path(
                snapshot_download(
                    model_id,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                    allow_patterns=list(_FILES),
                    **older,
                )
            )
        return cls.of_run(folder, trust=trust)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """What the run's folder tells; of a folder that was saved, the card in it."""
        saved = self._run / "README.md"
        if _was_saved(self._run) and saved.is_file():
            return ModelCard(saved.read_text(encoding="utf-8"))
        return ModelCard(model_card(self._run, self))


def _without_places(config: RunConfig) -> RunConfig:
    """Settings without the folders of whoever trained: names of files stay."""
    return dataclasses.replace(
        config,
        data=data_name(config.data),
        human=config.human and _file_name(config.human),
        data_dir=None,
        trunk=without_place(config.trunk),
        generator_trunk=without_place(config.generator_trunk),
        weights=config.weights and Path(config.weights).name,
        from_run=config.from_run and Path(config.from_run).name,
    )


def _file_name(human: str) -> str:
    """Of finer classes: a column as it is called, a file without its folder."""
    return Path(human).name if human.endswith(".csv") else human


def _was_saved(folder: Path) -> bool:
    """Whether ``save_pretrained`` has written a folder."""
    described = folder / "config.json"
    return described.is_file() and read_json(described).get("library_name") == _LIBRARY


def _require_place(place: Path) -> None:
    """ValueError unless a folder is new, empty, or one that was saved before."""
    if place.exists() and not place.is_dir():
        raise ValueError(f"a model is saved into a folder; {place} is a file")
    if place.exists() and any(place.iterdir()) and not _was_saved(place):
        raise ValueError(
            f"a model is saved into a folder that is new or was saved before; {place} holds something else"
        )
    for above in place.resolve().parents:
        if (above / "study.yaml").exists() or RunFolder(above).metrics.exists():
            raise ValueError(
                f"a model is saved outside of runs and studies, which would count it as a run; {place} is in {above}"
            )
