"""``python -m training.model --backbone base --size 512``: what a model costs, part by part."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from emra_deploy.errors import EmraError
from emra_deploy.host.extras import script_imports

with script_imports(__name__, "train"):
    from training.model.config import AGGREGATIONS, BACKBONES, FUSIONS, ZOOMS, EMRAConfig
    from training.model.cost import Cost, count_cost


def parse(argv: Sequence[str] | None) -> tuple[EMRAConfig, bool]:
    """The configuration asked for, and whether to print JSON.

    Raises:
        EmraError: A value is outside its range.
    """
    default = EMRAConfig()
    parser = argparse.ArgumentParser(
        prog="python -m training.model",
        description="Parameters and counted GMAC of each part of an EMRA-proxy.",
    )
    parser.add_argument("--backbone", choices=BACKBONES, default=default.backbone)
    parser.add_argument("--size", nargs="+", type=int, default=[512], metavar=("H", "W"), help="pixels; W = H if alone")
    parser.add_argument("--classes", type=int, default=6, help="C, 2 to 32 (default: 6)")
    parser.add_argument("--hra-block", type=int, default=default.hra_block, help="M, the block that HRA reads")
    parser.add_argument("--mca-blocks", type=int, default=default.mca_blocks, help="P, the blocks that MCA averages")
    parser.add_argument("--fusion", choices=FUSIONS, default=default.fusion)
    parser.add_argument("--aggregation", choices=AGGREGATIONS, default=default.aggregation)
    parser.add_argument("--zoom", type=int, choices=ZOOMS, default=default.zoom, help="enlargement of the picture")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    options = parser.parse_args(argv)
    size = tuple(options.size * 2 if len(options.size) == 1 else options.size)
    config = EMRAConfig(
        backbone=options.backbone,
        num_classes=options.classes,
        image_size=size,
        hra_block=options.hra_block,
        mca_blocks=options.mca_blocks,
        fusion=options.fusion,
        aggregation=options.aggregation,
        zoom=options.zoom,
    )
    return config, options.json


def table(cost: Cost) -> str:
    """Cost as lines for a terminal."""
    config = cost.config
    height, width = config.image_size
    backbone, attention = cost.parts[0].macs / 1e9, cost.attention_macs / 1e9
    lines = [
        f"EMRA-proxy, ViT-{config.backbone}, {height} x {width}, {config.num_classes} classes, "
        f"M = {config.hra_block}, P = {config.mca_blocks}, {config.fusion}, {config.aggregation}, zoom {config.zoom}",
        "",
        f"{'part':<12}{'parameters':>14}{'GMAC':>12}",
    ]
    lines += [f"{part.name:<12}{part.parameters:>14,}{part.macs / 1e9:>12.3f}" for part in cost.parts]
    lines += [
        f"{'whole':<12}{cost.parameters:>14,}{cost.macs / 1e9:>12.3f}",
        "",
        f"1 GMAC is 2 GFLOP by torch's counter: {2 * cost.macs / 1e9:.1f} GFLOP in all.",
        f"Q K^T and A V are {attention:.3f} GMAC of the backbone; without them it is {backbone - attention:.3f}.",
        "For reference: the paper's 70 GFLOPs (ViT-B, 512 x 512) leaves attention out.",
        "Counted: matrix products, convolutions, attention, upsampling, products of HSMF and of the fusion.",
        "Not counted: norms, softmax, GELU, additions.",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table or the JSON; 2 when an option is wrong."""
    try:
        config, as_json = parse(argv)
        cost = count_cost(config)
    except EmraError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(cost.to_dict()) if as_json else table(cost))
    return 0


if __name__ == "__main__":
    sys.exit(main())
