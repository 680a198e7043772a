"""The study's tables are those of its recorded runs, and its settings are valid."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import maxl
from _run_helpers import one_thread as one_thread

ROOT = Path(__file__).parents[2]


@pytest.fixture
def evidence(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "dev"))
    sys.modules.pop("evidence", None)
    import evidence

    return evidence


def test_the_pages_show_the_recorded_runs(evidence: ModuleType) -> None:
    assert evidence.summary() in (ROOT / "docs" / "evidence.md").read_text()
    assert evidence.hypotheses() in (ROOT / "docs" / "guide.md").read_text()
    assert evidence.tables() in (ROOT / "dev" / "evidence" / "README.md").read_text()


@pytest.fixture
def sweep(evidence: ModuleType) -> ModuleType:
    sys.modules.pop("sweep", None)
    import sweep

    return sweep


def test_the_page_of_the_sweep_shows_the_recorded_runs(sweep: ModuleType) -> None:
    assert sweep.page() in (ROOT / "dev" / "evidence" / "when.md").read_text()


def test_a_sweep_trains_each_setting_once_and_what_it_cannot_touch_not_again(
    evidence: ModuleType, sweep: ModuleType
) -> None:
    for name in sweep.AXES:
        tasks = sweep.tasks(name, (0, 1))
        for _, method, changes, seed in tasks:
            assert evidence.config(name, method, **changes, seed=seed).method == method
        assert len({(m, sweep.text(c), s) for _, m, c, s in tasks}) == len(tasks)
        assert not any("psi" in c for _, m, c, _ in tasks if m == "single")
        assert not any("evaluate" in c for _, m, c, _ in tasks if m != "maxl")
    changes = {"augment": "crop", "psi": 2, "entropy_weight": 0.0}
    assert sweep.touching("single", changes) == {"augment": "crop"}
    assert sweep.touching("uniform", changes) == {"augment": "crop", "psi": 2}
    assert sweep.touching("maxl", changes) == changes


def test_a_setting_is_shown_against_the_controls_that_it_shares(
    sweep: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sweep, "HERE", tmp_path)
    monkeypatch.setattr(sweep, "AXES", {"mnist14": {"as tuned": ({},), "classes": ({"psi": 2},)}})
    lines = ["method,settings,seed,test_accuracy"]
    for seed in range(3):
        wobble = 0.001 * seed
        lines += [f"single,,{seed},{0.9 + wobble}", f"uniform,,{seed},{0.9 + wobble}", f"maxl,,{seed},0.9"]
        lines += [f"uniform,psi=2,{seed},{0.92 + 1.1 * wobble}", f"maxl,psi=2,{seed},{0.93 + 1.2 * wobble}"]
    (tmp_path / "mnist14-sweep.csv").write_text("\n".join(lines) + "\n")
    tuned, classes = sweep.table(sweep.rows("mnist14")).splitlines()[2:]
    assert tuned.startswith("| as tuned |  | 3 | 90.1 | +0.00, too few seeds |")
    assert (
        classes == "| classes | psi 2 | 3 | 90.1 | **+2.01 ± 0.04** | **+3.02 ± 0.07** | **+1.01 ± 0.04** |"
    )


def test_the_picture_of_a_sweep_is_drawn(sweep: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: uv sync --group bench")
    sweep.draw(tmp_path / "when.png")
    assert (tmp_path / "when.png").stat().st_size > 10_000


def test_every_setting_is_valid_and_reports_on_other_seeds_than_it_was_tuned_on(evidence: ModuleType) -> None:
    for name in evidence.SETTINGS:
        for method in evidence.METHODS:
            assert evidence.config(name, method, seed=0).method == method
        for variant in evidence.VARIANTS:
            assert evidence.config(name, variant, seed=0).method == "maxl"
        reported = set(evidence.read(evidence.HERE / f"{name}.csv").get("seed", []))
        tuned = set(evidence.read(evidence.HERE / f"{name}-tuning.csv").get("seed", []))
        assert not reported & tuned
        assert tuned <= set(evidence.TUNING_SEEDS)


def test_no_run_is_reported_twice(evidence: ModuleType) -> None:
    for file in evidence.HERE.glob("*.csv"):
        rows = evidence.read(file)
        own = {"advice.csv": ["case"], "demo.csv": ["method", "seed"], "step-vgg16.csv": ["contender"]}
        key = own.get(file.name, list(evidence.KEY))
        assert not rows.duplicated(key).any(), file


def test_differences_are_paired_and_corrected(evidence: ModuleType) -> None:
    single = {seed: 0.9 + 0.01 * seed for seed in range(5)}
    better = {seed: a + 0.02 + 0.0001 * seed for seed, a in single.items()}
    same = dict(reversed(single.items()))  # the seed pairs, not the order
    cells = evidence.differences({"single": single, "uniform": better, "maxl": same}, "single")
    assert cells["single"] == ""
    assert cells["uniform"] == "+2.02 ± 0.02 (p < 0.001)"
    assert cells["maxl"] == "+0.00, too few seeds (p = 1.00)"  # five that agree exclude nothing
    short = evidence.differences({"single": single, "uniform": better}, "single", short=True)
    assert short["uniform"] == "**+2.02 ± 0.02**"


def test_one_run_gives_a_row(evidence: ModuleType) -> None:
    changes = {"epochs": 1, "validation_size": 100, "look_every": 1}
    row = evidence.one("digits", "maxl", changes, 7, None)
    assert {row[k] for k in evidence.KEY} == {"maxl", "epochs=1 look_every=1", 7}
    assert 0 <= row["test_accuracy"] <= 1
    assert 0 <= row["validation_accuracy"] <= 1


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("digits", "sharp"),
        *(
            pytest.param(*of, marks=pytest.mark.slow)
            for of in (("digits", "hard"), ("digits", "averaged"), ("digits-sgd", "several"))
        ),
    ],
)
def test_a_variant_is_another_run_than_the_one_it_varies(
    evidence: ModuleType, name: str, variant: str, tmp_path: Path
) -> None:
    weights = []
    for method in ("lively", variant):
        config = evidence.config(name, method, seed=7, epochs=2)
        trainer = evidence.trainer(config, name, method, str(tmp_path / method))
        weights.append([p.detach().clone() for p in trainer.setup.generator.parameters()])
        trainer.fit()
        weights.append([p.detach().clone() for p in trainer.setup.generator.parameters()])
    start, trained, variant_start, variant_trained = weights
    assert all(map(torch.equal, start, variant_start))
    assert not any(map(torch.equal, trained, variant_trained))


def test_spoiled_labels(evidence: ModuleType) -> None:
    data = evidence.load_data(evidence.config("digits-noisy", "single", seed=0))
    noisy = evidence.SPOILS["noisy"](data, 0)
    wrong = (noisy.train.primary != data.train.primary).float().mean()
    assert 0.3 < float(wrong) < 0.5
    assert noisy.test is data.test
    everything = evidence.load_data(evidence.config("digits-imbalanced", "single", seed=0))
    counts = evidence.SPOILS["imbalanced"](everything, 0).train.primary.bincount().sort().values
    assert counts[0] == round(0.05 * float(counts[-1]))
    assert (counts.diff() > 0).all()


def test_several_steps_give_the_gradient_of_the_loss_after_them(evidence: ModuleType) -> None:
    """Against central differences of the loss after real steps, in float64."""
    from several_steps import SeveralSteps

    def trained(shift: float, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(0)
        hierarchy = maxl.Hierarchy.uniform(3, 2)
        trunks = [torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh()).double() for _ in range(2)]
        network = maxl.MultiTaskNetwork(trunks[0], hierarchy, feature_dim=8).double()
        generator = maxl.LabelGenerator(trunks[1], hierarchy, feature_dim=8).double()
        weight = generator.trunk[0].weight
        generator.requires_grad_(False)
        weight.requires_grad_(True)
        with torch.no_grad():
            weight[1, 2] += shift
        before = weight.detach().clone()
        meta_optimizer = torch.optim.SGD([weight], lr=1.0 if shift == 0 else 0.0)
        learner = maxl.MetaAuxiliaryLearner(
            network,
            generator,
            torch.optim.SGD(network.parameters(), lr=0.5),
            meta_optimizer,
            entropy_weight=0.0,
            lookahead=SeveralSteps(steps),
        )
        for group in meta_optimizer.param_groups:
            rate, group["lr"] = group["lr"], 0.0
        batches = [(torch.randn(5, 4).double(), torch.randint(0, 3, (5,))) for _ in range(steps)]
        for i, (x, y) in enumerate(batches):
            if i == steps - 1:
                meta_optimizer.param_groups[0]["lr"] = rate
            result = learner.step(x, y)
        assert result.outer_loss is not None
        return result.outer_loss, before - weight.detach()

    step = 1e-5
    for steps in (1, 3):
        slope = (trained(step, steps)[0] - trained(-step, steps)[0]) / (2 * step)
        gradient = trained(0.0, steps)[1][1, 2]
        torch.testing.assert_close(gradient, slope, rtol=1e-6, atol=1e-12)


def test_a_comparison_has_one_interval_on_all_pages_and_is_bold_where_it_excludes_zero(
    evidence: ModuleType,
) -> None:
    rows = [line.split(" | ") for line in evidence.summary().splitlines()[2:]]
    for name, *_, last, _ in rows:
        table = evidence.tables().split(f"## {name.removeprefix('| ')}\n")[1]
        in_table = next(line for line in table.splitlines() if line.startswith("| maxl "))
        assert last.strip(" |*") in in_table
    cells = [cell for row in rows for cell in row if "±" in cell]
    assert len(cells) > 50
    for cell in cells:
        mean, half = (float(x) for x in cell.replace("−", "-").strip(" |*").split(" ± "))
        assert (abs(mean) > half) == cell.strip(" |").startswith("**"), cell
