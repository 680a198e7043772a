"""How exact the hypergradient is on network families of timm and on a transformer encoder: docs/families.md.

    uv run --group bench python benchmarks/families.py --out docs/families.md

Every family is a small member, randomly initialised, as both networks. The yardstick is float64: reverse
mode where it has all the formulas, forward mode where it has not, and that reference is itself compared with
central differences of the loss after a real step. What an error may be is measured too: ``rounding`` is how
far the float64 hypergradient moves when the weights move so little that the outputs change as they do
between float32 and float64. A family whose error is no larger than a few times that is as exact as float32
allows, whatever the method.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import maxl
from maxl.check import HypergradientReport, check_hypergradient
from maxl.experiments.runs.trunks import MeasuredTrunk

FINE = ("exact", "as float32 allows", "as reverse mode")
GOAL, WORSE = 1e-5, "worse than rounding"
BATCH, RATE = 8, 1e-3

# Family: (a small member, pixels a side, options of timm.create_model). Small inputs and few blocks keep the
# sweep within minutes; the operators are the family's own.
FAMILIES: dict[str, tuple[str, int, dict[str, object]]] = {
    "beit": ("beit_base_patch16_224", 32, {"img_size": 32, "embed_dim": 96, "depth": 2, "num_heads": 3}),
    "cait": ("cait_xxs24_224", 32, {"img_size": 32, "embed_dim": 96, "depth": 2, "num_heads": 4}),
    "coatnet": ("coatnet_nano_rw_224", 64, {"img_size": 64}),
    "convnext": ("convnext_atto", 32, {}),
    "convnextv2": ("convnextv2_atto", 32, {}),
    "davit": ("davit_tiny", 32, {"depths": (1, 1, 1, 1), "embed_dims": (24, 48, 96, 192)}),
    "deit": ("deit_tiny_patch16_224", 32, {"img_size": 32, "depth": 2}),
    "deit3": ("deit3_small_patch16_224", 32, {"img_size": 32, "depth": 2, "embed_dim": 96, "num_heads": 3}),
    "densenet": ("densenet121", 32, {"block_config": (2, 2, 2, 2)}),
    "edgenext": ("edgenext_xx_small", 64, {}),
    "efficientformer": ("efficientformer_l1", 224, {}),
    "efficientnet": ("efficientnet_b0", 64, {}),
    "efficientnetv2": ("efficientnetv2_rw_t", 64, {}),
    "eva": ("eva02_tiny_patch14_224", 28, {"img_size": 28, "depth": 2}),
    "fastvit": ("fastvit_t8", 64, {}),
    "focalnet": ("focalnet_tiny_srf", 32, {}),
    "ghostnet": ("ghostnet_050", 64, {}),
    "gmlp": ("gmlp_ti16_224", 32, {"img_size": 32}),
    "hardcorenas": ("hardcorenas_a", 64, {}),
    "hrnet": ("hrnet_w18_small", 32, {}),
    "inception": ("inception_v3", 96, {}),
    "inception_next": ("inception_next_atto", 32, {}),
    "levit": ("levit_128s", 224, {}),
    "maxvit": ("maxvit_rmlp_pico_rw_256", 64, {"img_size": 64}),
    "mixer": ("mixer_s32_224", 64, {"img_size": 64}),
    "mobilenetv2": ("mobilenetv2_050", 64, {}),
    "mobilenetv3": ("mobilenetv3_small_050", 32, {}),
    "mobilenetv4": ("mobilenetv4_conv_small", 64, {}),
    "mobileone": ("mobileone_s0", 64, {}),
    "mobilevit": ("mobilevit_xxs", 64, {}),
    "mobilevitv2": ("mobilevitv2_050", 64, {}),
    "nfnet": ("eca_nfnet_l0", 32, {}),
    "nf_resnet": ("nf_resnet26", 32, {}),
    "poolformer": ("poolformer_s12", 32, {}),
    "pvt_v2": ("pvt_v2_b0", 32, {}),
    "regnet": ("regnetx_002", 32, {}),
    "regnety": ("regnety_002", 32, {}),
    "repvgg": ("repvgg_a0", 64, {}),
    "res2net": ("res2net50_26w_4s", 32, {"layers": (1, 1, 1, 1)}),
    "resmlp": ("resmlp_12_224", 32, {"img_size": 32}),
    "resnest": ("resnest14d", 32, {}),
    "resnet": ("resnet18", 32, {}),
    "resnext": ("resnext50_32x4d", 32, {"layers": (1, 1, 1, 1)}),
    "rexnet": ("rexnet_100", 64, {}),
    "senet": ("seresnet18", 32, {}),
    "swin": ("swin_tiny_patch4_window7_224", 56, {"img_size": 56, "depths": (1, 1, 1, 1), "embed_dim": 24}),
    "swinv2": ("swinv2_tiny_window8_256", 64, {"img_size": 64, "depths": (1, 1, 1, 1), "embed_dim": 24}),
    "twins": ("twins_pcpvt_small", 32, {"img_size": 32, "depths": (1, 1, 1, 1)}),
    "vgg": ("vgg11_bn", 32, {"mlp_ratio": 0.05}),
    "vit": ("vit_tiny_patch16_224", 32, {"img_size": 32, "depth": 2}),
    "volo": ("volo_d1_224", 64, {"img_size": 64}),
    "wide_resnet": ("wide_resnet50_2", 32, {"layers": (1, 1, 1, 1)}),
    "xcit": ("xcit_nano_12_p16_224", 32, {"img_size": 32, "depth": 2}),
}
# Families whose whole member magnifies float32's rounding: the same blocks without the depth, cut behind this stage
# of ``features_only`` and averaged over pixels. They tell a wrong formula from a chaotic network.
FIRST_STAGES: dict[str, int] = {
    "densenet": 1,
    "efficientnet": 1,
    "efficientnetv2": 1,
    "fastvit": 1,
    "hardcorenas": 1,
    "hrnet": 0,
    "inception": 0,
    "mobilenetv2": 1,
    "mobilenetv3": 1,
    "mobilenetv4": 1,
    "mobileone": 1,
    "mobilevitv2": 1,
    "repvgg": 1,
    "resnest": 1,
    "rexnet": 1,
    "wide_resnet": 1,
}
MODES = ("eval", "train", "eval, first stages", "train, first stages")
QUICK = ("convnext", "deit", "mixer", "mobilenetv3", "regnet", "resnet")


PAGE = """# The hypergradient on network families

Made by `{command}`:
torch {torch}, timm {timm}, transformers {transformers}, {machine} CPU, batch of {batch}, α = {rate}, random
weights with settled batch norm statistics, a small member of each family as both networks. Rows are kept between calls.

In {exact} of {rows} rows forward mode in float32 is exact, with a relative error of at most {goal:.0e} to
float64. {rest}

{families}

**How the settings came about.** A first sweep at batch 4, α = 0.01 and batch norm statistics as initialised gave errors
up to 7, and values that are not finite for inception and mobileone in eval mode. Batch, α and settled statistics were
changed after seeing it, 64 pixels were chosen for nine convolutional families, the verdict *as reverse mode* was added
after fastvit's row, and crossvit, gcvit, tresnet, xception, dpn, cspnet and sknet were left out for time. In that first
sweep resnest, senet, resnext, ghostnet and vgg in eval mode were worse than rounding. *First stages* were added last, for
families whose whole member was not exact in both modes.

- **forward**, **reverse**: relative error of the hypergradient in float32, ‖h − h*‖ / ‖h*‖ over all of the
  generator's weights; h* is by the method under **reference** in float64: reverse mode, or forward mode
  where an operator has no double backward.
- **rounding**: how far h* itself moves, in float64, when the weights move so little that the outputs change
  as much as between float32 and float64; the largest of three random moves. Deep networks with ReLU or
  max pooling are not smooth, and batch norm over few values magnifies: units on the other side of a kink
  change the gradient by a finite amount, the plain training gradient included. There this column,
  not {goal:.0e}, is the yardstick. Where it comes near 1, no gradient of a gradient in float32
  means much at these weights, whatever the method: see what `maxl check` says of your own.
- **differences**: h* against central differences of the primary loss after a real optimizer step, along a
  random direction of the generator's weights; kinks spoil these too.
- **train** has dropout and stochastic depth of 0.1 where the family knows them, and batch statistics;
  **eval** has none of them.
- **first stages**: the same blocks without the depth. A wrong formula would show there as well; a network that
  magnifies rounding from layer to layer does not.
- **verdict**: *exact*; *as float32 allows*, an error within 3 times that of rounding; *as reverse mode*, an
  error like that of differentiating twice as the paper does, which shares all passes but the last; or worse.

| family | member | mode | forward | reverse | rounding | differences | reference | verdict |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{lines}
"""


class LastMap(nn.Module):
    """The last of several feature maps, averaged over pixels."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        return maps[-1].mean((2, 3))


class TextTrunk(nn.Module):
    """A BERT-like encoder of ``transformers`` from a configuration, the mean of its last states."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        self.feature_dim = 32
        self.model = BertModel(
            BertConfig(
                hidden_size=self.feature_dim,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=64,
                vocab_size=100,
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.model(x).last_hidden_state.mean(1)
        return states


@dataclass(frozen=True)
class Row:
    """One family in one mode; ``report`` is None where it could not be built, and ``failure`` says why."""

    family: str
    member: str
    mode: str
    report: HypergradientReport | None = None
    failure: str = ""

    @property
    def verdict(self) -> str:
        """In words, what the figures say."""
        if self.report is None:
            return self.failure
        forward = next(row for row in self.report.rows if row.method == "forward")
        if not forward.works:
            return forward.note
        error, rounding = forward.relative_error, self.report.sensitivity
        if error is None:
            return "; ".join(self.report.notes)
        if error <= GOAL:
            return "exact"
        if rounding is not None and error <= 3 * rounding:
            return "as float32 allows"
        reverse = next(row for row in self.report.rows if row.method == "reverse")
        if reverse.relative_error is not None and error <= 1.5 * reverse.relative_error:
            return "as reverse mode"
        return WORSE


def trunk(family: str, random_depth: bool) -> Callable[[], nn.Module]:
    """Builds a member of the family, with dropout and stochastic depth at 0.1 if asked for."""
    import timm

    name, size, options = FAMILIES[family]

    def build() -> nn.Module:
        extras = ({"drop_rate": 0.1, "drop_path_rate": 0.1}, {"drop_rate": 0.1}, {})
        for extra in extras if random_depth else ({},):
            try:
                model = timm.create_model(name, num_classes=0, **options, **extra)
                break
            except TypeError as error:  # this family knows no stochastic depth, or no dropout
                refused = error
        else:
            raise refused
        return MeasuredTrunk(model, (3, size, size))

    return build


def first_stages(family: str) -> Callable[[], nn.Module]:
    """Builds the first stages of a member of the family."""
    import timm

    name, size, options = FAMILIES[family]

    def build() -> nn.Module:
        model = timm.create_model(name, features_only=True, out_indices=(FIRST_STAGES[family],), **options)
        return MeasuredTrunk(nn.Sequential(model, LastMap()), (3, size, size))

    return build


def settle(module: nn.Module, inputs: Callable[[], Tensor], passes: int = 10) -> None:
    """Gives batch norm running statistics that fit the weights, as training would; eval mode needs them."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.momentum = None  # the mean over all passes
        m.reset_running_stats()
    with torch.no_grad():
        for _ in range(passes if norms else 0):
            module.train()(inputs())
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum


def measure(family: str, mode: str, batch: int = BATCH) -> Row:
    """One family in one of ``MODES``; the whole member has dropout and stochastic depth in training mode."""
    training = mode.startswith("train")
    member = "BertModel" if family == "bert" else FAMILIES[family][0]
    torch.manual_seed(0)
    try:
        build: Callable[[], nn.Module]
        if family == "bert":
            build = TextTrunk
        elif mode.endswith("first stages"):
            build = first_stages(family)
        else:
            build = trunk(family, random_depth=training)
        hierarchy = maxl.Hierarchy.uniform(3, 2)
        network = maxl.MultiTaskNetwork(build(), hierarchy)
        generator = maxl.LabelGenerator(build(), hierarchy)
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        return Row(family, member, mode, failure=f"not built: {str(error).splitlines()[0]}")

    def inputs() -> Tensor:
        if family == "bert":
            return torch.randint(0, 100, (batch, 12))
        size = FAMILIES[family][1]
        return torch.randn(batch, 3, size, size)

    for trunk_ in (network.trunk, generator.trunk):
        settle(trunk_, inputs)
    x, y = inputs(), torch.randint(0, 3, (batch,))
    report = check_hypergradient(
        network.train(training), generator.train(training), x, y, learning_rate=RATE, repeats=1
    )
    return Row(family, member, mode, report)


def line(row: Row) -> str:
    """A line of the table."""
    if row.report is None:
        return f"| {row.family} | {row.member} | {row.mode} | - | - | - | - | - | {row.verdict} |"
    errors = {r.method: r for r in row.report.rows}
    figures = [
        errors["forward"].relative_error,
        errors["reverse"].relative_error,
        row.report.sensitivity,
        row.report.central_difference_error,
    ]
    cells = ["-" if f is None else f"{f:.0e}" for f in figures]
    if not errors["reverse"].works:
        cells[1] = errors["reverse"].note
    reference = (row.report.reference or "-").split()[0]
    return f"| {row.family} | {row.member} | {row.mode} | {' | '.join(cells)} | {reference} | {row.verdict} |"


def kept(page: Path) -> dict[tuple[str, str], str]:
    """The lines of a page's table by family and mode; none where there is no page."""
    lines = page.read_text().splitlines() if page.exists() else []
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    table = [c for c in cells if len(c) == 9 and c[2] in MODES]
    return {(c[0], c[2]): f"| {' | '.join(c)} |" for c in table}


def document(table: dict[tuple[str, str], str], command: str) -> str:
    """The page docs/families.md, of lines by family and mode."""
    rows = sorted(table)
    verdicts = {row: table[row].strip("|").split("|")[-1].strip() for row in rows}
    exact = sum(verdict == "exact" for verdict in verdicts.values())
    inexact = sum(verdict in FINE for verdict in verdicts.values()) - exact
    others = [f"{row[0]} ({row[1]}: {verdicts[row]})" for row in rows if verdicts[row] not in FINE]
    exact_in = {(row[0], row[1].split(",")[0]) for row in rows if verdicts[row] == "exact"}
    names = {row[0] for row in rows}
    never = sorted(f"{name} ({mode})" for name in names for mode in MODES[:2] if (name, mode) not in exact_in)
    families = (
        f"Of {len(names)} families in two modes all have an exact row, the first stages of a member if not all of it: "
        "depth magnifies rounding, no formula is wrong."
        if not never
        else f"Without an exact row: {', '.join(never)}."
    )
    rest = f"In {inexact} more the verdict says what it is judged by: rounding, or reverse mode."
    return PAGE.format(
        command=command,
        torch=torch.__version__,
        timm=_version("timm"),
        transformers=_version("transformers"),
        machine=platform.machine(),
        batch=BATCH,
        rate=RATE,
        exact=exact,
        rows=len(rows),
        goal=GOAL,
        families=families,
        rest=rest + (f" The others: {'; '.join(others)}." if others else ""),
        lines="\n".join(table[row] for row in rows),
    )


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="timm")
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("families", nargs="*", help="some of them; all by default")
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    parser.add_argument("--out", help="write the page here; rows that it holds already are kept")
    args = parser.parse_args()
    families = args.families or (list(QUICK) if args.quick else [*FAMILIES, "bert"])
    command = "uv run --group bench python benchmarks/families.py"  # the page grows to what this gives
    table = kept(Path(args.out)) if args.out else {}
    for family, mode in itertools.product(families, MODES):
        if mode.endswith("first stages") and family not in FIRST_STAGES:
            continue
        if (family, mode) not in table:
            with _quiet():
                table[family, mode] = line(measure(family, mode))
        print(table[family, mode], flush=True)
        if args.out:  # after every row: a sweep that is cut short leaves what it found, and can go on
            Path(args.out).write_text(document(table, f"{command} --out {args.out}"))
    worse = [row for row, text in table.items() if text.endswith(f"| {WORSE} |")]
    if worse:
        names = ", ".join(f"{family} ({mode})" for family, mode in worse)
        raise SystemExit(
            f"forward mode needs to be exact or as exact as float32 allows; it is not on {names}"
        )


if __name__ == "__main__":
    main()
