"""Weights that are loaded over eight devices beside those on one: `python tests/loading_on_meshes.py OUT.json`."""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from narrative_jax.core.mesh import gathered, make_mesh, weight_shardings
from narrative_jax.generators.flow import TRANSFORMER
from narrative_jax.generators.flow_presets import RANDOM, STORYBOOK_FLOW
from narrative_jax.models.lora import fingerprint
from narrative_jax.models.network import below


def main(out):
    found = {"devices": jax.device_count()}
    for weights in ("", RANDOM):
        options = STORYBOOK_FLOW.Options(weights=weights)
        generator, alone = STORYBOOK_FLOW.load(options, 3)
        for sizes in ({"data": 1, "fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}):
            mesh = make_mesh(sizes)
            _, spread = STORYBOOK_FLOW.load(options, 3, mesh)
            drawing = below(TRANSFORMER, spread)
            laid = weight_shardings(generator.network.axes, {name: w.shape for name, w in drawing.items()}, mesh)
            found[f"{weights} {sizes}"] = {
                "laid": all(drawing[name].sharding == laid[name] for name in drawing),
                "shared": sum(not value.is_fully_replicated for value in drawing.values()),
                "encoders": all(
                    len(value.devices()) == 1 for name, value in spread.items() if not name.startswith(TRANSFORMER)
                ),
                "difference": max(float(np.abs(gathered(spread[name]) - alone[name]).max()) for name in alone),
                "hash": fingerprint(drawing) == fingerprint(below(TRANSFORMER, alone)),
            }
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
