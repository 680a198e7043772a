"""The folder of one run: what it holds, written so that an interruption leaves nothing half-done."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.files import (
    YAML_LIMIT,
    parse_json,
    read_bytes,
    read_json,
    read_yaml,
    sha256,
    write_at_once,
)
from maxl.experiments.runs.names import names_code
from maxl.experiments.runs.summary import CHECKSUM, checksum_of, read_summary

_SEAL = b"# Settings of a run; the lines below have the SHA-256 "
_LAST_KEY = "checkpoint_every"  # of a config without a seal: keys are in order, so all are there


class RunFolder:
    """Paths and files of a run.

    | file | what |
    |---|---|
    | config.yaml | everything needed to repeat the run |
    | start.json | of a run that starts from weights of others: which, and what of them was taken |
    | architecture.json | of a trunk of transformers: its architecture |
    | metrics.jsonl | one line an epoch |
    | summary.json | the result; its presence means that the run is finished |
    | diverged.json | why the run ended early; its presence means that going on would not help |
    | checkpoint/state.pt, previous.pt | resumable states, which load with ``weights_only=True`` |
    | checkpoint/refused.pt | a last state that could not be used, damaged or of another run |
    | model.safetensors | trunk and primary head |
    | text.safetensors | of a run on text: how features are made of it |
    | columns.skops | of a run on columns of several kinds: the same |
    | tokenizer.json | of an encoder of texts: the tokenizer |
    | snapshot.npz | features and gallery for the report |
    | .lock | locked by the process that writes here |
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.start = path / "start.json"
        self.architecture = path / "architecture.json"
        self.metrics = path / "metrics.jsonl"
        self.summary = path / "summary.json"
        self.divergence = path / "diverged.json"
        self.checkpoint = path / "checkpoint" / "state.pt"
        self.model = path / "model.safetensors"
        self.text = path / "text.safetensors"
        self.columns = path / "columns.skops"
        self.tokenizer = path / "tokenizer.json"
        self.of_features = (self.text, self.columns, self.tokenizer)  # at most one of them is there
        self.snapshot = path / "snapshot.npz"
        self.tensorboard = path / "tensorboard"

    @property
    def started(self) -> bool:
        """Whether a run has begun to write here."""
        return self.config.exists() or self.metrics.exists() or self.summary.exists()

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return self.summary.exists()

    @property
    def diverged(self) -> bool:
        """Whether the run ended because a loss, a weight or a feature was not finite."""
        return self.divergence.exists()

    def require_free(self) -> None:
        """ValueError if the folder holds a run already or cannot be one."""
        if self.started:
            raise ValueError(
                f"--out needs a folder without a run; {self.path} holds one: "
                f"choose another, or continue it with --resume {self.path}"
            )
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"--out needs a folder; {self.path} is a file")

    def create(
        self,
        config: RunConfig,
        start: Mapping[str, Any] | None = None,
        architecture: Mapping[str, Any] | None = None,
    ) -> None:
        """Makes the folder and writes, last, its config, under a seal that shows whether it is whole.

        Args:
            config: The run's settings.
            start: What its networks start from, for start.json.
            architecture: Of its trunk, for architecture.json.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        for file, values in ((self.start, start), (self.architecture, architecture)):
            if values is not None:
                write_at_once(file, (json.dumps(values, indent=2) + "\n").encode())
        content = config.to_yaml().encode()
        write_at_once(self.config, _SEAL + sha256(content).encode() + b"\n" + content)

    def read_start(self) -> dict[str, Any]:
        """What the run started from; empty for fresh weights. ValueError if the file is damaged."""
        return read_json(self.start) if self.start.is_file() else {}

    def read_architecture(self) -> dict[str, Any] | None:
        """Of the trunk, where the folder has it; ValueError if the file is damaged."""
        return read_json(self.architecture) if self.architecture.is_file() else None

    @property
    def sealed(self) -> bool:
        """Whether the config carries a checksum, as every run has since they were introduced."""
        return read_bytes(self.config, YAML_LIMIT).startswith(_SEAL)

    def read_config(self, *, trust: bool = False) -> RunConfig:
        """The run's settings.

        Args:
            trust: Take a trunk ``module:function``, which runs code, from the folder.

        Raises:
            ValueError: if the config is missing, damaged or cut short, or names code and is not trusted; or if
                it is, and the working folder is the run's own: nothing is imported from there.
        """
        content = self._whole_config()
        config = RunConfig.parse(content, str(self.config), trust=trust)
        self._require_every_key(content)
        if names_code(vars(config)):
            here, own = Path.cwd().resolve(), self.path.resolve()
            if own in (here, *here.parents):
                raise ValueError(
                    f"modules in a run's folder are not imported: call this from outside {self.path}"
                )
        return config

    def read_settings(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """What the config says, of whatever version, for a report; empty where an older run has none.

        Args:
            summary: The run's, which says whether it is older, and whose config it has to be.

        Raises:
            ValueError: if it is missing or damaged, or is another run's.
        """
        if not self.config.exists():
            if CHECKSUM in summary:
                raise ValueError(f"{self.config} is missing: restore it, or train the run again")
            return {}
        content = self._whole_config()
        settings = read_yaml(self.config)
        settings = settings if isinstance(settings, dict) else {}
        if CHECKSUM not in summary:
            return settings
        self._require_every_key(content)
        # In a study the summary's has the settings after it that tell variants apart.
        method = str(summary.get("method")).partition(" ")[0]
        for name, said in (("seed", summary.get("seed")), ("data", summary.get("data")), ("method", method)):
            if settings.get(name) != said:
                raise ValueError(
                    f"{self.config} is another run's, with {name} {settings.get(name)} in place of {said}: restore it"
                )
        return settings

    def _require_every_key(self, content: bytes) -> None:
        """ValueError if a config without a seal, changed by hand or damaged, is cut short."""
        if not content.startswith(_SEAL) and f"\n{_LAST_KEY}:".encode() not in b"\n" + content:
            raise ValueError(f"{self.config} needs every setting of the run; it ends before {_LAST_KEY}")

    def _whole_config(self) -> bytes:
        """The config's bytes; ValueError where they do not have the checksum that they carry."""
        content = read_bytes(self.config, YAML_LIMIT)
        if content.startswith(_SEAL):
            seal, _, rest = content.partition(b"\n")
            if seal.removeprefix(_SEAL).decode("utf-8", "replace") != sha256(rest):
                raise ValueError(
                    f"{self.config} does not have its checksum: it was damaged or changed; restore it, or "
                    "remove its first line if the change is meant"
                )
        return content

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """One line, on the disk before anything refers to it; NaN is written as null, which JSON knows."""
        with self.metrics.open("ab") as file:
            file.write((json.dumps(_plain(row)) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())

    def read_metrics(self) -> list[dict[str, Any]]:
        """All lines so far; one that an interruption cut off in the middle does not count.

        Raises:
            ValueError: if a line is not what a run writes.
        """
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_bytes().splitlines(keepends=True)
        return [
            parse_json(line, f"{self.metrics}, line {i}")
            for i, line in enumerate(lines, start=1)
            if line.endswith(b"\n")
        ]

    def keep_metrics(self, epochs: int) -> None:
        """Drops lines after ``epochs``: what was written after the last checkpoint will be written again.

        Raises:
            ValueError: if the lines are not those of the epochs from 1 on.
        """
        rows = self.read_metrics()
        found = [row.get("epoch") for row in rows[:epochs]]
        if found != list(range(1, epochs + 1)):
            raise ValueError(
                f"{self.metrics} needs a line for each of the {epochs} epochs so far; it was damaged or changed: "
                "restore it, or train the run again"
            )
        lines = self.metrics.read_bytes().splitlines(keepends=True) if rows else []
        write_at_once(self.metrics, b"".join(lines[:epochs]))

    def write_summary(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """The result, at once or not at all; returns what was written, the checksums of the other files included."""
        written = _plain(summary)
        files = (self.start, self.architecture, self.metrics, self.model, *self.of_features, self.snapshot)
        written["checksums"] = {file.name: sha256(file.read_bytes()) for file in files if file.exists()}
        written[CHECKSUM] = checksum_of(written)
        write_at_once(self.summary, (json.dumps(written, indent=2) + "\n").encode())
        return dict(written)

    def read_summary(self) -> dict[str, Any]:
        """The result; errors as for ``summary.read_summary``."""
        return read_summary(self.summary)

    def verify(self, file: Path, summary: Mapping[str, Any]) -> None:
        """ValueError unless a file of the run has the checksum in its summary, where there is one."""
        expected = summary.get("checksums", {}).get(file.name)
        if expected is not None and (not file.is_file() or sha256(file.read_bytes()) != expected):
            raise ValueError(
                f"{file} does not have its checksum in {self.summary.name}: it was damaged or changed; restore it, "
                "or train the run again"
            )

    def write_divergence(self, epoch: int, reason: str) -> None:
        """That the run ended in ``epoch``, from 1, or before the first, 0; and why."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_at_once(self.divergence, (json.dumps({"epoch": epoch, "reason": reason}) + "\n").encode())

    def read_divergence(self) -> str:
        """Why the run ended early, as 'diverged in epoch 3: ...'; of epoch 0 where that was before the first."""
        values = read_json(self.divergence)
        when = f"in epoch {values['epoch']}" if values.get("epoch") else "before its first epoch"
        return f"diverged {when}: {values.get('reason')}"

    def save_model(self, tensors: Mapping[str, Tensor]) -> None:
        """What inference needs and no more; of weights that are tied each has a copy, which loading sets alike."""
        from safetensors.torch import save

        kept, held = dict[str, Tensor](), set[int]()
        for name, tensor in tensors.items():
            own = tensor.detach().cpu().contiguous()
            place = own.untyped_storage().data_ptr()
            kept[name] = own.clone() if place in held else own
            held.add(place)
        write_at_once(self.model, save(kept))


def require_no_run_file(path: Path, flag: str = "--out") -> None:
    """ValueError if writing to a path, which a flag gave, would replace a file that a run consists of."""
    place = path.resolve()
    for folder in (place.parent, place.parent.parent):  # the checkpoint lies one level deeper
        run = RunFolder(folder)
        files = (
            run.config,
            run.start,
            run.architecture,
            run.metrics,
            run.summary,
            run.checkpoint,
            run.model,
            *run.of_features,
            run.snapshot,
        )
        if run.started and any(
            place == file or (place.exists() and file.exists() and place.samefile(file)) for file in files
        ):
            raise ValueError(
                f"{flag} would replace a file of the run {run.path}: {path}; choose another name"
            )


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
