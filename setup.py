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
    packages=[*find_packages(include=["narrative_jax", "narrative_jax.*"]), "narrative_jax.configs"],
    package_dir={"narrative_jax.configs": "configs"},
    package_data={
        "narrative_jax": [
            "storybook/weights/*",
            "storybook/weights/encoders/*",
            "storybook/weights/nireward/*",
            "storybook/weights/nireward/backbone/*",
            "templates/*",
        ]
    },
    entry_points={"console_scripts": ["narrative_jax = narrative_jax.__main__:main"]},
    install_requires=[
        "array_record>=0.8",
        "einops>=0.8",
        "flax>=0.12.5",
        "grain>=0.2.18",
        "importlib_resources>=6",  # tensorflow_datasets imports it without saying so
        "jax>=0.9,!=0.11.0,<0.11.1",  # 0.11.1 removed a type that flax up to 0.12.8 subclasses
        "jinja2>=3.1",
        "krippendorff>=0.8",
        "matplotlib>=3.9",
        "ml_collections>=1.1",
        "numpy>=2.0",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.12",
        "pillow>=11",
        "pyarrow>=18",
        "requests>=2.32",
        "safetensors>=0.5",
        "scipy>=1.15",
        "tenacity>=9",
        "tensorboardX>=2.6",
        "tensorflow_datasets>=4.9.10",
        "tokenizers>=0.21",
        "tqdm>=4.66",
    ],
    extras_require={
        "cuda": ["jax[cuda12]"],
        "test": [
            "diffusers>=0.36",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "ipykernel>=6",
            "peft>=0.17",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.8",
            "torch==2.13.0",
            "transformers>=4.57",
        ],
        "tpu": ["jax[tpu]"],
    },
)
