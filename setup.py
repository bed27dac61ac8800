from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="narrative_jax",
    version="0.1.0",
    description="Align personalised, multi-character image generators with human preferences, in JAX.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["narrative_jax", "narrative_jax.*"]),
    install_requires=[
        "flax>=0.12.5",
        "jax>=0.9,!=0.11.0,<0.11.1",  # 0.11.1 removed a type that flax up to 0.12.8 subclasses
        "krippendorff>=0.8",
        "matplotlib>=3.9",
        "numpy>=2.0",
        "optax>=0.2.5",
        "scipy>=1.15",
        "tqdm>=4.66",
    ],
    extras_require={
        "cuda": ["jax[cuda12]"],
        "test": ["pillow>=11", "pytest>=8", "ruff>=0.8"],
        "tpu": ["jax[tpu]"],
    },
)
