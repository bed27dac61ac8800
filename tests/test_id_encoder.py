"""IResNet equals a torch network of the same description; its names cover insightface's two sizes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import published_shapes, relative_error, slope, with_random_weights

from narrative_jax.core.errors import InputError
from narrative_jax.models.checkpoints import load_weights
from narrative_jax.models.id_encoder import IRESNET_NAMES, IRESNET_SIZES, IResNet, IResNetConfig
from narrative_jax.models.network import abstract
from narrative_jax.models.shipped import STORYBOOK

CASES = {
    "even": IResNetConfig(48, (8, 16, 16, 32), (1, 2, 1, 1), 64),
    "odd": IResNetConfig(37, (5, 6, 10, 7), (2, 1, 3, 1), 17),
}


def structure(config):
    return abstract(lambda: IResNet(config, rngs=nnx.Rngs(0)))


def reference(config):
    """The network in torch, with the names of insightface's files."""
    nn = pytest.importorskip("torch").nn

    def conv(size_in, size_out, size, stride=1):
        return nn.Conv2d(size_in, size_out, size, stride, size // 2, bias=False)

    class Block(nn.Module):
        def __init__(self, size_in, size_out, stride):
            super().__init__()
            self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(size) for size in (size_in, size_out, size_out))
            self.conv1, self.conv2 = conv(size_in, size_out, 3), conv(size_out, size_out, 3, stride)
            self.prelu = nn.PReLU(size_out)
            self.downsample = nn.Identity()
            if stride > 1:
                self.downsample = nn.Sequential(conv(size_in, size_out, 1, stride), nn.BatchNorm2d(size_out))

        def forward(self, x):
            layers = self.bn1, self.conv1, self.bn2, self.prelu, self.conv2, self.bn3
            return nn.Sequential(*layers)(x) + self.downsample(x)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = (config.widths[0], *config.widths)
            self.conv1, self.bn1, self.prelu = conv(3, sizes[0], 3), nn.BatchNorm2d(sizes[0]), nn.PReLU(sizes[0])
            for stage, count in enumerate(config.blocks):
                first, size = Block(sizes[stage], sizes[stage + 1], 2), sizes[stage + 1]
                stage_blocks = nn.Sequential(first, *(Block(size, size, 1) for _ in range(count - 1)))
                setattr(self, f"layer{stage + 1}", stage_blocks)
            self.bn2 = nn.BatchNorm2d(sizes[-1])
            cells = math.ceil(config.image_size / 16) ** 2
            self.fc, self.features = nn.Linear(sizes[-1] * cells, config.embedding), nn.BatchNorm1d(config.embedding)

        def forward(self, x):
            x = self.prelu(self.bn1(self.conv1(x)))
            x = self.bn2(self.layer4(self.layer3(self.layer2(self.layer1(x)))))
            return self.features(self.fc(x.flatten(1)))

    return Network().eval()


@pytest.fixture(scope="module", params=CASES)
def encoders(request, tmp_path_factory):
    """Sizes, the torch network with random weights and statistics, and ours with the same."""
    save_file = pytest.importorskip("safetensors.torch").save_file
    config = CASES[request.param]
    theirs = with_random_weights(reference(config))
    path = tmp_path_factory.mktemp("iresnet") / "backbone.safetensors"
    save_file(theirs.state_dict(), path)
    network, shapes = structure(config)
    bound = network.bind(load_weights(path, shapes, IRESNET_NAMES))
    return config, theirs, lambda images: bound(images).pooled


def faces(config, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (3, config.image_size, config.image_size, 3)).astype(np.float32)


def test_embedding(encoders):
    import torch

    config, theirs, ours = encoders
    images = faces(config)
    with torch.no_grad():
        expected = theirs(torch.tensor(images).permute(0, 3, 1, 2))
    assert relative_error(jax.jit(lambda images: ours(images))(images), expected) <= 1e-4


def test_gradients_reach_the_picture(encoders):
    import torch

    config, theirs, ours = encoders
    images, step = faces(config, seed=1), faces(config, seed=2)
    towards = np.random.default_rng(3).normal(size=(3, config.embedding)).astype(np.float32)
    expected = slope(theirs, lambda embedding: embedding, images, step)
    gradient = jax.jit(jax.grad(lambda images: (ours(images) * towards).sum()))(images)
    along = (gradient * step).sum((1, 2, 3))  # of each picture: the gradient's part along a random step
    assert relative_error(along, (expected * torch.tensor(towards)).sum(1)) <= 1e-4


WEIGHTS = {"IResNet-50": 43_590_848, "IResNet-100": 65_156_160}  # without the statistics


@pytest.mark.parametrize("size", [size for size in IRESNET_SIZES if size != STORYBOOK])
def test_names_cover_the_published_sizes(size):
    torch = pytest.importorskip("torch")
    config = IRESNET_SIZES[size]
    ours = published_shapes(structure(config)[1], IRESNET_NAMES)
    with torch.device("meta"):
        theirs = reference(config).state_dict()
    theirs = {key: tuple(value.shape) for key, value in theirs.items() if not key.endswith("num_batches_tracked")}
    assert ours == theirs
    weights = [shape for key, shape in ours.items() if "running" not in key]
    assert sum(math.prod(shape) for shape in weights) == WEIGHTS[size]


def test_wrong_pictures():
    with pytest.raises(InputError, match=r"images of shape \[48, 47, 3\]: this face encoder sees \[48, 48, 3\]; align"):
        jax.eval_shape(lambda: IResNet(CASES["even"], rngs=nnx.Rngs(0))(jnp.zeros((1, 48, 47, 3))))
