"""Tensor names of the Oobleck VAE in stable-audio-tools, diffusers and MLX folders."""

from __future__ import annotations

from musiclora.convert.models.name_mapping import Rule

PRETRANSFORM_PREFIX = "pretransform.model."  # in a checkpoint of Stable Audio, next to the diffusion model
EXPORTS = ("hf", "mlx", "diffusers")

_CONV, _TRANSPOSED, _SNAKE = "conv", "transposed", "snake"
# Orders of a kernel's axes from MLX's to torch's: [out, k, in] -> [out, in, k], and to [in, out, k].
_FROM_MLX = {_CONV: (0, 2, 1), _TRANSPOSED: (2, 0, 1)}


def oobleck_rules(layout: str, stages: int) -> tuple[Rule, ...]:
    """Write the table that maps a container's names to stable-audio-tools', for a number of stages."""
    lines: list[Rule] = []
    for name, other, kind in _list_layers(stages):
        source = {"diffusers": other, "pretransform": PRETRANSFORM_PREFIX + name}.get(layout, name)
        if kind == _SNAKE:
            expanded = layout == "diffusers"
            lines += [Rule(f"{source}.{leaf}", f"{name}.{leaf}", expanded=expanded) for leaf in ("alpha", "beta")]
            continue
        axes = _FROM_MLX[kind] if layout == "mlx" else ()
        lines += [Rule(f"{source}.weight", f"{name}.weight", axes=axes), Rule(f"{source}.bias", f"{name}.bias")]
        lines += [Rule(f"{source}.{leaf}", f"{name}.{leaf}") for leaf in ("weight_g", "weight_v")]
    return tuple(lines)


def _list_layers(stages: int) -> list[tuple[str, str, str]]:
    """List (stable-audio-tools' path, diffusers' path, kind) of every layer."""
    last = stages + 1
    layers: list[tuple[str, str, str]] = []
    for side in ("encoder", "decoder"):
        layers.append((f"{side}.layers.0", f"{side}.conv1", _CONV))
        for i in range(1, last):
            stage, block = f"{side}.layers.{i}.layers", f"{side}.block.{i - 1}"
            first, change = (
                (0, [("3", "snake1", _SNAKE), ("4", "conv1", _CONV)])
                if side == "encoder"
                else (2, [("0", "snake1", _SNAKE), ("1", "conv_t1", _TRANSPOSED)])
            )
            layers += [(f"{stage}.{theirs}", f"{block}.{ours}", kind) for theirs, ours, kind in change]
            for k in range(3):
                unit, other = f"{stage}.{first + k}.layers", f"{block}.res_unit{k + 1}"
                layers += [
                    (f"{unit}.0", f"{other}.snake1", _SNAKE),
                    (f"{unit}.1", f"{other}.conv1", _CONV),
                    (f"{unit}.2", f"{other}.snake2", _SNAKE),
                    (f"{unit}.3", f"{other}.conv2", _CONV),
                ]
        layers.append((f"{side}.layers.{last}", f"{side}.snake1", _SNAKE))
        layers.append((f"{side}.layers.{last + 1}", f"{side}.conv2", _CONV))
    return layers
