"""TPU slices by name, what one of their chips can do, and their devices without a TPU."""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import jax
from jax.experimental import topologies

from narrative_jax.core.errors import InputError, check_count, check_name

GIB, GB, TERA = 2**30, 1e9, 1e12


@dataclass(frozen=True)
class Chip:
    """What is assumed of one chip: bfloat16 FLOP/s, bytes/s of its memory, of all its links and of its share of the
    network between slices, bytes of memory.

    All but the last are published; the memory is what the compiler lets a program have.
    """

    flops: float
    memory_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float
    hbm_bytes: int


CHIPS = {
    "v5p": Chip(459 * TERA, 2765 * GB, 600 * GB, 6.25 * GB, int(95.73 * GIB)),
    "v5e": Chip(197 * TERA, 819 * GB, 200 * GB, 3.125 * GB, int(15.75 * GIB)),
    "v6e": Chip(918 * TERA, 1640 * GB, 448 * GB, 12.5 * GB, int(31.24 * GIB)),
}
# Slices that exist. The library that compiles takes any product, also of chips that nobody can have.
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
    *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x4x12", "4x4x16", "4x8x8", "8x8x8", "8x8x16"),
    *("8x16x16", "16x16x16", "16x16x24"),
)
SLICES = {"v5p": _CUBES, "v5e": _FLAT, "v6e": _FLAT}
# Of this process only, before the library is loaded: it then takes this machine for a host of its own and is silent.
_ENVIRONMENT = {
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def split_name(topology: str) -> tuple[str, str]:
    """Kind and slice of a topology, "v5p:4x4x4". Raises InputError for one that does not exist."""
    kind, colon, shape = topology.partition(":")
    if not colon:
        rule = "it is a kind of chip and a slice of them"
        raise InputError(f"topology {topology!r}", rule, "write e.g. v5p:4x4x4")
    check_name("kind of chip", kind, CHIPS)
    check_name(f"slice of {kind}", shape, SLICES[kind])
    return kind, shape


def chip_of(
    topology: str,
    tflops: float | None = None,
    memory_gbs: float | None = None,
    link_gbs: float | None = None,
    network_gbs: float | None = None,
    hbm_gib: float | None = None,
) -> Chip:
    """What is assumed of a chip of a topology, with one's own TFLOP/s, GB/s and GiB where they are given.

    Raises InputError for more memory than the compiler lets a program have.
    """
    usual = CHIPS[split_name(topology)[0]]
    if hbm_gib and hbm_gib * GIB > usual.hbm_bytes:
        most = usual.hbm_bytes / GIB
        rule = f"the compiler refuses a program that needs more than {most:.2f} GiB of such a chip"
        raise InputError(f"--hbm-gib {hbm_gib:g}", rule, "give less, or leave it out")
    return Chip(
        flops=tflops * TERA if tflops else usual.flops,
        memory_bandwidth=memory_gbs * GB if memory_gbs else usual.memory_bandwidth,
        link_bandwidth=link_gbs * GB if link_gbs else usual.link_bandwidth,
        network_bandwidth=network_gbs * GB if network_gbs else usual.network_bandwidth,
        hbm_bytes=int(hbm_gib * GIB) if hbm_gib else usual.hbm_bytes,
    )


def devices_of(topology: str, slices: int = 1) -> list[Any]:
    """The devices of so many slices of a topology, to compile for; nothing can run on them. Raises InputError."""
    split_name(topology)
    check_count("slices", slices, minimum=1)
    if find_spec("libtpu") is None:
        rule = "it compiles for TPUs, and it is not installed"
        raise InputError("libtpu", rule, "pip install 'narrative_jax[tpu]'")
    os.environ.update(_ENVIRONMENT)
    jax.config.update("jax_platforms", "cpu")
    more = {"num_slices": slices} if slices > 1 else {}
    return topologies.get_topology_desc(platform="tpu", topology_name=topology, **more).devices
