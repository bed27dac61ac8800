"""Weights that are loaded over eight devices beside those on one: `python tests/loading_on_meshes.py OUT.json`."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from narrative_jax.core.mesh import gathered, make_mesh, weight_shardings
from narrative_jax.generators.flow import TRANSFORMER
from narrative_jax.generators.flow_presets import RANDOM, STORYBOOK_FLOW
from narrative_jax.models.lora import fingerprint
from narrative_jax.models.network import below
from narrative_jax.models.shipped import STORYBOOK
from narrative_jax.rewards.new_nireward import NewNIReward
from narrative_jax.rewards.nireward_files import BACKBONE
from narrative_jax.rewards.nireward_sizes import NIREWARD_SIZES

BFLOAT16 = "storybook in bfloat16"


def main(out):
    found, meshes = {"devices": jax.device_count()}, ({"data": 1, "fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2})
    for weights in ("", RANDOM):
        options = STORYBOOK_FLOW.Options(weights=weights)
        generator, alone = STORYBOOK_FLOW.load(options, 3)
        for sizes in meshes:
            mesh = make_mesh(sizes)
            _, spread = STORYBOOK_FLOW.load(options, 3, mesh)
            drawing = below(TRANSFORMER, spread)
            found[f"{weights} {sizes}"] = {
                **compared(drawing, below(TRANSFORMER, alone), generator.network.axes, mesh),
                "encoders": all(
                    len(value.devices()) == 1 for name, value in spread.items() if not name.startswith(TRANSFORMER)
                ),
                "hash": fingerprint(drawing) == fingerprint(below(TRANSFORMER, alone)),
            }
    found["rewards"] = [of_a_reward(make_mesh(sizes), size) for sizes in meshes for size in (STORYBOOK, BFLOAT16)]
    Path(out).write_text(json.dumps(found))


def of_a_reward(mesh, size):
    """What a fresh NIReward reads over a mesh, beside what one reads alone; nothing else is read for it."""
    config, room = NIREWARD_SIZES[STORYBOOK]
    NIREWARD_SIZES[BFLOAT16] = replace(config, compute="bfloat16"), room
    (one, read), (other, _) = (NewNIReward(str(BACKBONE), size).untrained(3) for _ in range(2))
    spread = below("vlm", one.read(mesh))  # as it is read: `laid` would lay it over the mesh in any case
    kinds = sorted({str(value.dtype) for value in spread.values()})
    everything = read(mesh)
    assert "params" not in vars(one), "the whole tree is not read for it"
    assert everything["reward.kernel"].sharding.mesh == mesh
    return {**compared(spread, below("vlm", other.params), below("vlm", one.axes), mesh), "kinds": kinds}


def compared(spread, alone, axes, mesh):
    laid = weight_shardings(axes, {name: weight.shape for name, weight in spread.items()}, mesh)
    return {
        "laid": all(spread[name].sharding == laid[name] for name in spread),
        "shared": sum(not value.is_fully_replicated for value in spread.values()),
        "difference": max(float(np.abs(gathered(spread[name]) - alone[name]).max()) for name in alone),
    }


if __name__ == "__main__":
    main(sys.argv[1])
